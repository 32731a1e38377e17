//! A report as one page: tables and charts as inline SVG, no script, no network, light and dark as the reader prefers.

use std::fmt::Write as _;

use crate::compare::{millis, signed_percent};
use crate::report::{Group, moment};
use crate::sketch::value_of;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 72.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 10.0;
/// Dots of a chart; of more, evenly spaced ones.
const DOTS_MAX: usize = 800;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6b7b; --line: #d5dde5; --page: #ffffff; --card: #f6f8fa;
  --dot: #2f6fb2; --median: #c2410c; --bad: #b3261e; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4eaf0; --soft: #9aabbb; --line: #33414e; --page: #12181f;
  --card: #1a222b; --dot: #79b3ec; --median: #fb923c; --bad: #ff8a80; --good: #5fd07f; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto; max-width: 62rem;
  padding: 0 1rem; }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin: 0 0 .2rem; overflow-wrap: anywhere }
p { color: var(--soft); margin: .2rem 0 .6rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere } th { color: var(--soft); font-weight: 600 }
svg { width: 100%; height: auto; display: block; margin-top: .5rem }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif } .grid { stroke: var(--line) } .dot { fill: var(--dot); fill-opacity: .55 }
.median { stroke: var(--median); stroke-width: 2; fill: none } .bar { fill: var(--dot) } .mark { stroke: var(--bad); stroke-dasharray: 4 3 }
.bad { color: var(--bad) } .good { color: var(--good) }
";

/// Text as it may stand in HTML and XML, also inside quotes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters have no place in XML 1.0 at all.
            letter if letter < ' ' && !matches!(letter, '\n' | '\t' | '\r') => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

fn title(group: &Group) -> String {
    let key: String = group.key.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    escaped(&(group.name.clone() + &key))
}

/// The whole page.
pub fn page(groups: &[&Group]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Operations</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\n<body><h1>Operations</h1>\n"
    );
    if groups.is_empty() {
        out.push_str("<p>Nothing was recorded for that time.</p>\n");
    } else {
        summary(&mut out, groups);
    }
    for group in groups {
        let _ = write!(out, "<section><h2>{}</h2>\n<p>{}</p>\n", title(group), sentence(group));
        over_time(&mut out, group);
        spread(&mut out, group);
        out.push_str("</section>\n");
    }
    out + "</body></html>\n"
}

fn summary(out: &mut String, groups: &[&Group]) {
    out.push_str("<section class=\"wide\"><table><thead><tr>");
    for head in ["operation", "count", "failures", "min", "mean", "p50", "p95", "p99", "max", "trend"] {
        let _ = write!(out, "<th>{head}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    for group in groups {
        let told = |ns: Option<f64>| ns.map_or("-".to_owned(), |ns| millis(ns / 1e6));
        let exact = |ns: Option<u64>| told(ns.map(|ns| ns as f64));
        let quantile = |q| told(group.sketch.quantile(q));
        let failures = if group.failures > 0 { "bad" } else { "" };
        let (class, trend) = match group.trend() {
            Some(ratio) => (if ratio > 1.0 { "bad" } else { "good" }, signed_percent(ratio)),
            None => ("", "steady".to_owned()),
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"{failures}\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td class=\"{class}\">{trend}</td></tr>",
            title(group),
            group.sketch.count(),
            group.failures,
            exact(group.sketch.min_ns()),
            told(group.sketch.mean_ns()),
            quantile(0.5),
            quantile(0.95),
            quantile(0.99),
            exact(group.sketch.max_ns()),
        );
    }
    out.push_str("</tbody></table></section>\n");
}

fn sentence(group: &Group) -> String {
    let mut text = format!("{} operations, {:.1} % worked", group.sketch.count(), group.success_ratio() * 100.0);
    if let Some(rate) = group.per_second(group.items) {
        let _ = write!(text, ", {rate:.1} items per second of work");
    }
    if let Some(rate) = group.per_second(group.bytes) {
        let _ = write!(text, ", {} per second of work", weir_base::ByteSize::new(rate as u64));
    }
    text
}

/// Labels of the y axis and their lines.
fn grid(out: &mut String, low: f64, high: f64) {
    for step in 0..=3 {
        let part = f64::from(step) / 3.0;
        let y = TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - part);
        let label = millis(low + (high - low) * part);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.0}\" y=\"{:.1}\" \
             text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
}

/// Every operation as a dot, medians of slices as a line.
fn over_time(out: &mut String, group: &Group) {
    let points = group.timeline.points();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    let mut sorted: Vec<f64> = points.iter().map(|point| point.1).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    // One huge outlier must not press all others to the ground; what is higher sits on the upper edge.
    let high = (sorted[(sorted.len() - 1) * 99 / 100] * 1.15).max(1e-6);
    let low = if sorted[0] > high * 0.5 { sorted[0] * 0.95 } else { 0.0 };
    let span = (last.0 - first.0).max(1) as f64;
    let x = |time: i64| LEFT + 6.0 + (WIDTH - LEFT - 14.0) * ((time - first.0) as f64 / span);
    let y = |ms: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - ((ms - low) / (high - low)).clamp(0.0, 1.0));
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"durations over time\">");
    grid(out, low, high);
    let stride = points.len().div_ceil(DOTS_MAX);
    for (time, ms) in points.iter().step_by(stride) {
        let _ = write!(out, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.4\"/>", x(*time), y(*ms));
    }
    let slices = group.spark();
    let line: Vec<String> = slices
        .iter()
        .enumerate()
        .filter_map(|(at, ms)| {
            let time = first.0 + (span * (at as f64 + 0.5) / slices.len() as f64) as i64;
            ms.map(|ms| format!("{:.1},{:.1}", x(time), y(ms)))
        })
        .collect();
    let _ = write!(
        out,
        "<polyline class=\"median\" points=\"{}\"/><text x=\"{LEFT}\" y=\"{}\">{}</text><text x=\"{WIDTH}\" y=\"{}\" \
         text-anchor=\"end\">{}</text></svg>",
        line.join(" "),
        HEIGHT - 6.0,
        moment(first.0),
        HEIGHT - 6.0,
        moment(last.0)
    );
    out.push('\n');
}

/// How durations spread, on a logarithmic scale.
fn spread(out: &mut String, group: &Group) {
    let buckets: Vec<(usize, u64)> = group.sketch.buckets().collect();
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else { return };
    let bars = (last.0 - first.0 + 1).min(60);
    let each = (last.0 - first.0 + 1).div_ceil(bars);
    let mut held = vec![0u64; bars];
    for (bucket, count) in &buckets {
        held[(bucket - first.0) / each] += count;
    }
    let most = held.iter().max().copied().unwrap_or(1).max(1) as f64;
    let width = (WIDTH - LEFT - 8.0) / bars as f64;
    let floor = 100.0 - BOTTOM;
    let _ = write!(out, "<svg viewBox=\"0 0 {WIDTH} 100\" role=\"img\" aria-label=\"how durations spread\">");
    for (at, count) in held.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (floor - TOP) * *count as f64 / most;
        let (from, to) = (value_of(first.0 + at * each), value_of(first.0 + (at + 1) * each - 1));
        let _ = write!(
            out,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{count} from {} to {}</title></rect>",
            LEFT + 4.0 + width * at as f64,
            floor - height,
            (width - 1.0).max(0.5),
            height,
            millis(from / 1e6),
            millis(to / 1e6)
        );
    }
    let _ = write!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most}</text><text x=\"{LEFT}\" y=\"94\">{}</text><text x=\"{WIDTH}\" y=\"94\" \
         text-anchor=\"end\">{}</text></svg>",
        LEFT - 6.0,
        TOP + 8.0,
        millis(value_of(first.0) / 1e6),
        millis(value_of(last.0) / 1e6)
    );
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Query, Report};
    use crate::row::Finished;

    #[test]
    fn a_page_holds_every_group_and_no_address_and_escapes_names() {
        let mut report = Report::default();
        for at in 0..50u64 {
            let name = "<script>alert(1)</script> & \"co\"".to_owned();
            let end_ns = 1_767_225_600_000_000_000 + i64::try_from(at).unwrap() * 1_000_000_000;
            report.add(
                &Query::default(),
                &Finished { name, end_ns, duration_ns: 1_000_000 + at * 1000, count: 1, ..Finished::default() },
            );
        }
        let groups: Vec<_> = report.groups().collect();
        let page = page(&groups);
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;co&quot;") && !page.contains("<script")
        );
        assert!(!page.contains("http") && !page.contains("url(") && page.matches("<circle").count() == 50);
        assert!(super::page(&[]).contains("Nothing was recorded"));
        for tag in ["svg", "section", "table", "tr", "td", "h2"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
