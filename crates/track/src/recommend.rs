//! Rules that say what to change, each with its evidence. No rule speaks without enough data.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{self, Rule, Verdict, millis, signed_percent};
use crate::row::Finished;

/// Operations that a rule wants of each thing it compares.
const ENOUGH: usize = 20;

/// One recommendation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// Which rule speaks.
    pub rule: &'static str,
    /// About which operation.
    pub name: String,
    /// What to do.
    pub advice: String,
    /// Why: what was measured.
    pub evidence: String,
}

/// What the rules say about `rows`, which are in time's order.
pub fn recommend(rows: &[Finished]) -> Vec<Advice> {
    let mut by_name: BTreeMap<&str, Vec<&Finished>> = BTreeMap::new();
    for row in rows {
        by_name.entry(&row.name).or_default().push(row);
    }
    let mut all = Vec::new();
    for (name, own) in &by_name {
        better_label(name, own, &mut all);
        errors_rise(name, own, &mut all);
        slower_than_before(name, own, &mut all);
        low_hit_ratio(name, own, &mut all);
        memory_near_limit(name, own, &mut all);
        one_child(name, own, rows, &mut all);
    }
    all
}

fn say(all: &mut Vec<Advice>, rule: &'static str, name: &str, advice: String, evidence: String) {
    all.push(Advice { rule, name: name.to_owned(), advice, evidence });
}

/// What one item took, or the whole where nobody counted items; only of single operations that worked.
fn cost(row: &Finished) -> Option<f64> {
    let ms = row.duration_ms() / row.items.filter(|items| *items > 0).unwrap_or(1) as f64;
    (row.count == 1 && row.failures == 0 && ms > 0.0).then_some(ms)
}

/// Another value of a numeric label (batch size, concurrency) did clearly better than the one in use.
fn better_label(name: &str, rows: &[&Finished], all: &mut Vec<Advice>) {
    let mut labels: BTreeMap<&str, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows {
        for (label, value) in row.labels.iter().filter(|(_, value)| value.parse::<f64>().is_ok()) {
            if let Some(cost) = cost(row) {
                labels.entry(label).or_default().entry(value).or_default().push(cost);
                last.insert(label, value);
            }
        }
    }
    for (label, values) in labels {
        let used = last[label];
        let Some(own) = values.get(used).filter(|own| own.len() >= ENOUGH) else { continue };
        let tried = values.iter().filter(|(value, costs)| **value != used && costs.len() >= ENOUGH);
        let compared = tried.filter_map(|(value, costs)| {
            let found = compare::compare(own, costs, false, Rule::default()).ok()?;
            (found.verdict == Verdict::Improvement).then_some((value, found))
        });
        let Some((value, found)) = compared.min_by(|one, other| one.1.ratio.total_cmp(&other.1.ratio)) else {
            continue;
        };
        let per = if rows.iter().any(|row| row.items.is_some()) { " per item" } else { "" };
        let evidence = format!(
            "{}{per} instead of {} ({}, {:.1} % interval {} to {}, {} and {} operations)",
            millis(found.candidate_ms),
            millis(found.baseline_ms),
            signed_percent(found.ratio),
            found.confidence * 100.0,
            signed_percent(found.ratio_low),
            signed_percent(found.ratio_high),
            found.candidate_runs,
            found.baseline_runs
        );
        say(all, "better_label", name, format!("set {label} to {value} instead of {used}"), evidence);
    }
}

/// Failures become more likely as operations get larger (Cochran-Armitage trend test; Armitage, 1955).
fn errors_rise(name: &str, rows: &[&Finished], all: &mut Vec<Advice>) {
    let sized: Vec<(f64, bool)> = rows
        .iter()
        .filter(|row| row.count == 1)
        .filter_map(|row| Some((row.items? as f64, row.failures > 0)))
        .collect();
    let (n, failed) = (sized.len() as f64, sized.iter().filter(|one| one.1).count() as f64);
    if sized.len() < 3 * ENOUGH || failed < 5.0 || failed > n - 5.0 {
        return;
    }
    let (mean, ratio) = (sized.iter().map(|one| one.0).sum::<f64>() / n, failed / n);
    let score: f64 = sized.iter().filter(|one| one.1).map(|one| one.0 - mean).sum();
    let spread: f64 = sized.iter().map(|one| (one.0 - mean).powi(2)).sum();
    let z = score / (ratio * (1.0 - ratio) * spread).sqrt();
    if z.is_nan() || z < 3.3 {
        return;
    }
    let middle = compare::median(&sized.iter().map(|one| one.0).collect::<Vec<_>>());
    let part = |large: bool| {
        let of: Vec<&(f64, bool)> = sized.iter().filter(|one| (one.0 > middle) == large).collect();
        of.iter().filter(|one| one.1).count() as f64 / of.len().max(1) as f64 * 100.0
    };
    let evidence = format!(
        "{:.1} % of operations with more than {middle:.0} items fail and {:.1} % of the smaller ones ({n} operations, z = {z:.1})",
        part(true),
        part(false)
    );
    say(all, "errors_rise", name, "make the batches smaller".into(), evidence);
}

/// The newest third is clearly slower than the fastest third before it.
fn slower_than_before(name: &str, rows: &[&Finished], all: &mut Vec<Advice>) {
    let costs: Vec<f64> = rows.iter().filter_map(|row| cost(row)).collect();
    let third = costs.len() / 3;
    if third < ENOUGH {
        return;
    }
    let now = &costs[costs.len() - third..];
    let earlier = [&costs[..third], &costs[third..2 * third]];
    let best = earlier.into_iter().min_by(|one, other| compare::median(one).total_cmp(&compare::median(other)));
    let found = best.and_then(|best| compare::compare(best, now, false, Rule::default()).ok());
    if let Some(found) = found.filter(|found| found.verdict == Verdict::Regression) {
        let advice = "find what changed: earlier runs did better (`weir track changes` says when)".to_owned();
        say(all, "slower_than_before", name, advice, found.sentence(name));
    }
}

fn measured(rows: &[&Finished], name: &str) -> Vec<f64> {
    rows.iter().filter_map(|row| row.measures.get(name).copied()).collect()
}

fn low_hit_ratio(name: &str, rows: &[&Finished], all: &mut Vec<Advice>) {
    let ratios = measured(rows, "hit_ratio");
    let middle = compare::median(&ratios);
    if ratios.len() >= ENOUGH && middle < 0.5 {
        let evidence =
            format!("the cache answers {:.0} % in the median of {} operations", middle * 100.0, ratios.len());
        say(all, "low_hit_ratio", name, "make the cache larger, or look at its keys".into(), evidence);
    }
}

fn memory_near_limit(name: &str, rows: &[&Finished], all: &mut Vec<Advice>) {
    let near = |row: &&&Finished| {
        let (peak, limit) = (row.measures.get("peak_memory_bytes"), row.measures.get("memory_limit_bytes"));
        peak.zip(limit).map(|(peak, limit)| peak / limit)
    };
    let parts: Vec<f64> = rows.iter().filter_map(|row| near(&row)).collect();
    let close = parts.iter().filter(|part| **part >= 0.9).count();
    if parts.len() >= ENOUGH && close * 10 >= parts.len() {
        let evidence = format!("{close} of {} operations came within a tenth of the limit", parts.len());
        say(all, "memory_near_limit", name, "raise the memory limit, or do less at once".into(), evidence);
    }
}

/// One part takes most of an operation's time.
fn one_child(name: &str, own: &[&Finished], rows: &[Finished], all: &mut Vec<Advice>) {
    let count: u64 = own.iter().map(|row| row.count).sum();
    let total: u64 = own.iter().map(|row| row.duration_ns).sum();
    let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.parent.as_deref() == Some(name)) {
        *parts.entry(&row.name).or_default() += row.duration_ns;
    }
    let Some((part, spent)) = parts.into_iter().max_by_key(|part| part.1) else { return };
    let share = spent as f64 / total.max(1) as f64;
    // Past the whole, parts ran side by side, and a share of the time means nothing.
    if count >= ENOUGH as u64 && (0.6..=1.0).contains(&share) {
        let evidence = format!("{:.0} % of the time of {count} operations is spent in {part}", share * 100.0);
        say(all, "one_child", name, format!("look at {part} first: nothing else can matter as much"), evidence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seeded;
    use crate::row::Labels;

    fn rules(rows: &[Finished]) -> Vec<&'static str> {
        recommend(rows).iter().map(|advice| advice.rule).collect()
    }

    fn row(ms: f64) -> Finished {
        Finished { name: "op".into(), duration_ns: (ms * 1e6) as u64, count: 1, ..Finished::default() }
    }

    /// The rule speaks of `count` rows and not of a few of them.
    fn check(rule: &str, count: usize, make: impl Fn(&Seeded, usize) -> Finished) {
        let random = Seeded::new(41);
        let rows: Vec<Finished> = (0..count).map(|at| make(&random, at)).collect();
        let found = recommend(&rows);
        assert!(found.iter().any(|advice| advice.rule == rule), "{found:?}");
        let few: Vec<Finished> = rows.iter().step_by(count / 12).cloned().collect();
        assert_eq!(rules(&few), Vec::<&str>::new(), "{} rows are not enough", few.len());
    }

    #[test]
    fn each_rule_speaks_with_enough_data_and_only_then() {
        let noisy = |random: &Seeded, ms: f64| row(ms * (0.05 * random.normal()).exp());
        check("better_label", 120, |random, at| {
            let batch = ["100", "500"][at % 2];
            let labels = Labels::from([("batch_size".to_owned(), batch.to_owned())]);
            Finished { labels, items: Some(100), ..noisy(random, if batch == "100" { 5.0 } else { 8.0 }) }
        });
        check("errors_rise", 240, |random, at| {
            let items = 10 + (at % 10) as u64 * 10;
            Finished {
                items: Some(items),
                failures: u64::from(random.uniform() < items as f64 / 300.0),
                ..noisy(random, items as f64)
            }
        });
        check("slower_than_before", 120, |random, at| noisy(random, if at < 80 { 10.0 } else { 12.0 }));
        check("low_hit_ratio", 60, |random, _| Finished {
            measures: [("hit_ratio".to_owned(), 0.2)].into(),
            ..noisy(random, 1.0)
        });
        check("memory_near_limit", 60, |random, _| Finished {
            measures: [("peak_memory_bytes".to_owned(), 95.0), ("memory_limit_bytes".to_owned(), 100.0)].into(),
            ..noisy(random, 1.0)
        });
        check("one_child", 120, |_, at| {
            let child = Finished { name: "parse".into(), parent: Some("op".into()), ..row(8.0) };
            if at % 2 == 0 { row(10.0) } else { child }
        });
    }

    #[test]
    fn steady_operations_get_no_advice() {
        let random = Seeded::new(42);
        let rows: Vec<Finished> = (0..300)
            .map(|at| {
                let labels = Labels::from([("batch_size".to_owned(), (100 + at % 3).to_string())]);
                Finished { labels, items: Some(5), ..row(10.0 * (0.05 * random.student3()).exp()) }
            })
            .collect();
        assert_eq!(rules(&rows), Vec::<&str>::new());
    }
}
