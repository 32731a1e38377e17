//! Change points of a history: when it became slower or faster, and by how much.
//!
//! E-divisive (Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate data",
//! JASA 2014), as Hunter and Apache Otava took up: the split of a series with the largest energy distance between its
//! sides is a change point when fewer than one in 200 random orders of the same values give a larger one; then each side is
//! split again. Three things differ. Values are replaced by their ranks within the piece that is split, so that outliers of
//! any size count as one position each; and the statistic is computed with a binary indexed tree in O(n log n), so that
//! 10,000 points are no matter; and a piece without a split is searched once more in windows, for short rises and falls. The random orders come from a fixed seed: the same history, the same answer.

use serde::Serialize;

use crate::compare::{self, Rule};
use crate::random::Seeded;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Fewest points between two changes. Default 5.
    pub segment_min: usize,
    /// Random orders that a split is held against. Default 999.
    pub orders: usize,
    /// Largest part of them that may give a larger split. Default 0.005.
    pub significance: f64,
    /// Changes of medians smaller than this fraction do not matter. Default 0.01.
    pub change_min: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_min: 5, orders: 999, significance: 0.005, change_min: 0.01 }
    }
}

/// Longest piece that is searched in windows too: the time grows with the square of the length.
const WINDOWED_MAX: usize = 1000;

/// A piece is searched as a whole and in windows; both share the significance.
const SEARCHES: usize = 2;

/// Windows hold at least this many shortest segments.
const WINDOW_SEGMENTS: usize = 4;

/// Most points that are searched: of a longer history the newest.
pub const POINTS_MAX: usize = 10_000;

/// A change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// First point that is different.
    pub index: usize,
    /// Part of random orders that split as well, times the places that were tried: smaller is surer.
    pub p: f64,
    /// Median of the points before it, back to the change before.
    pub before: f64,
    /// Median of the points from it on, up to the next change.
    pub after: f64,
    /// By what factor the median changed.
    pub ratio: f64,
    /// 99.8 % interval of that factor (less sure with few points); none where a value is not above zero.
    pub interval: Option<(f64, f64)>,
}

/// Finds the changes of `values`, which are in time's order. What is not finite is an error of the caller's and never a change.
pub fn find(values: &[f64], settings: Settings) -> Vec<Change> {
    let skipped = values.len().saturating_sub(POINTS_MAX);
    let values = &values[skipped..];
    let mut splits: Vec<(usize, f64)> = Vec::new();
    let random = Seeded::new(0x5eed);
    let mut open = vec![(0, values.len())];
    while let Some((start, end)) = open.pop() {
        let piece = &values[start..end];
        let found = split(piece, settings, SEARCHES, &random).or_else(|| split_in_windows(piece, settings, &random));
        if let Some((at, p)) = found {
            splits.push((start + at, p));
            open.push((start, start + at));
            open.push((start + at, end));
        }
    }
    splits.sort_by_key(|split| split.0);
    settle(values, &mut splits, settings);
    let ends = |at: usize| splits.get(at).map_or(values.len(), |split| split.0);
    let described = splits.iter().enumerate().map(|(at, (index, p))| {
        let before = &values[if at == 0 { 0 } else { splits[at - 1].0 }..*index];
        describe(before, &values[*index..ends(at + 1)], *index + skipped, *p)
    });
    described.collect()
}

/// Moves each change to the best place between its neighbours, now that they are known, and drops the weakest that does
/// not matter, until all do.
fn settle(values: &[f64], splits: &mut Vec<(usize, f64)>, settings: Settings) {
    loop {
        let bounds = |splits: &[(usize, f64)], at: usize| {
            let start = if at == 0 { 0 } else { splits[at - 1].0 };
            (start, splits.get(at + 1).map_or(values.len(), |split| split.0))
        };
        for at in 0..splits.len() {
            let (start, end) = bounds(splits, at);
            if let Some((best, _)) = best_split(&ranks(&values[start..end]), settings.segment_min) {
                splits[at].0 = start + best;
            }
        }
        let size = |at: usize| {
            let ((start, end), index) = (bounds(splits, at), splits[at].0);
            let (before, after) = (compare::median(&values[start..index]), compare::median(&values[index..end]));
            if before == after { 0.0 } else { (after - before).abs() / before.abs().max(f64::MIN_POSITIVE) }
        };
        let weakest = (0..splits.len()).map(|at| (size(at), at)).min_by(|one, other| one.0.total_cmp(&other.0));
        match weakest {
            Some((size, at)) if size < settings.change_min => drop(splits.remove(at)),
            _ => return,
        }
    }
}

fn describe(before: &[f64], after: &[f64], index: usize, p: f64) -> Change {
    let compared = compare::compare(before, after, false, Rule::default()).ok();
    let (median_before, median_after) = (compare::median(before), compare::median(after));
    Change {
        index,
        p,
        before: median_before,
        after: median_after,
        ratio: median_after / median_before,
        interval: compared.map(|found| (found.ratio_low, found.ratio_high)),
    }
}

/// The best split within windows of a half, a quarter and so on of a piece that as a whole has none: a short rise and fall is
/// nothing in the mean of both sides of a long piece (seeded intervals: Kovács et al., "Seeded binary segmentation", Biometrika
/// 2023). The windows share one half of the significance (Bonferroni), the whole piece has the other.
fn split_in_windows(values: &[f64], settings: Settings, random: &Seeded) -> Option<(usize, f64)> {
    let mut windows = Vec::new();
    let mut length = if values.len() <= WINDOWED_MAX { values.len() / 2 } else { 0 };
    while length >= WINDOW_SEGMENTS * settings.segment_min {
        windows.extend((0..=values.len() - length).step_by(length / 2).map(|start| (start, length)));
        length /= 2;
    }
    // As few orders as can show the significance: then none of them may split as well.
    let tries = SEARCHES * windows.len();
    let in_window = Settings { orders: (1.0 / settings.significance).ceil() as usize - 1, ..settings };
    windows.iter().find_map(|(start, length)| {
        let (at, p) = split(&values[*start..start + length], in_window, tries, random)?;
        Some((start + at, p))
    })
}

/// The best split of a piece, if chance does not make as good ones. It is one of `tries` that share the significance.
fn split(values: &[f64], settings: Settings, tries: usize, random: &Seeded) -> Option<(usize, f64)> {
    let mut ranks = ranks(values);
    let (at, strength) = best_split(&ranks, settings.segment_min)?;
    let orders = (settings.orders + 1) * tries - 1;
    let allowed = (settings.significance / tries as f64 * (orders + 1) as f64) as usize;
    let mut larger = 1;
    for _ in 0..orders {
        random.shuffle(&mut ranks);
        if best_split(&ranks, settings.segment_min).is_some_and(|(_, other)| other >= strength) {
            larger += 1;
            // It cannot become significant any more: most pieces end here, after few orders.
            if larger > allowed {
                return None;
            }
        }
    }
    Some((at, (larger * tries) as f64 / (orders + 1) as f64))
}

/// Ranks from 0; equal values share the middle of theirs, doubled to stay whole.
fn ranks(values: &[f64]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|one, other| values[*one].total_cmp(&values[*other]));
    let mut ranks = vec![0; values.len()];
    let mut at = 0;
    while at < order.len() {
        let same = order[at..].iter().take_while(|other| values[**other] == values[order[at]]).count().max(1);
        for index in &order[at..at + same] {
            ranks[*index] = (2 * at + same - 1) as u32;
        }
        at += same;
    }
    ranks
}

/// Counts and sums of ranks below a rank.
struct Tree(Vec<(f64, f64)>);

impl Tree {
    fn add(&mut self, rank: u32) {
        let mut at = rank as usize + 1;
        while at < self.0.len() {
            self.0[at].0 += 1.0;
            self.0[at].1 += f64::from(rank);
            at += at & at.wrapping_neg();
        }
    }

    fn up_to(&self, rank: u32) -> (f64, f64) {
        let (mut at, mut count, mut sum) = (rank as usize + 1, 0.0, 0.0);
        while at > 0 {
            count += self.0[at].0;
            sum += self.0[at].1;
            at &= at - 1;
        }
        (count, sum)
    }
}

/// Where the scaled energy distance between what is before and what is from there on is largest, and how large.
fn best_split(ranks: &[u32], segment_min: usize) -> Option<(usize, f64)> {
    let n = ranks.len();
    if n < 2 * segment_min.max(2) {
        return None;
    }
    let to_all = distances_to_all(ranks);
    let total: f64 = to_all.iter().sum::<f64>() / 2.0;
    let mut tree = Tree(vec![(0.0, 0.0); 2 * n + 2]);
    let (mut left, mut right, mut sum) = (0.0, total, 0.0);
    let mut best: Option<(usize, f64)> = None;
    for (at, rank) in ranks.iter().enumerate() {
        let (count, below) = tree.up_to(*rank);
        let own = f64::from(*rank);
        let to_left = own * count - below + (sum - below) - own * (at as f64 - count);
        left += to_left;
        right -= to_all[at] - to_left;
        tree.add(*rank);
        sum += own;
        let (before, after) = (at + 1, n - at - 1);
        if before < segment_min.max(2) || after < segment_min.max(2) {
            continue;
        }
        let (m, k) = (before as f64, after as f64);
        let across = total - left - right;
        let energy = 2.0 * across / (m * k) - 2.0 * left / (m * (m - 1.0)) - 2.0 * right / (k * (k - 1.0));
        let strength = m * k / (m + k) * energy;
        if best.is_none_or(|(_, most)| strength > most) {
            best = Some((before, strength));
        }
    }
    best
}

/// The sum of distances from each rank to all others.
fn distances_to_all(ranks: &[u32]) -> Vec<f64> {
    let mut sorted: Vec<u32> = ranks.to_vec();
    sorted.sort_unstable();
    let mut sums = Vec::with_capacity(sorted.len() + 1);
    sums.push(0.0);
    for rank in &sorted {
        sums.push(sums[sums.len() - 1] + f64::from(*rank));
    }
    let (n, all) = (sorted.len() as f64, sums[sorted.len()]);
    let to_all = |rank: &u32| {
        let below = sorted.partition_point(|other| other < rank);
        let (count, own) = (below as f64, f64::from(*rank));
        own * count - sums[below] + (all - sums[below]) - own * (n - count)
    };
    ranks.iter().map(to_all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{SHAPES, history};

    /// True changes, found changes, and how many of them are within three points of each other.
    fn matched(truth: &[usize], found: &[Change]) -> usize {
        truth.iter().filter(|at| found.iter().any(|change| change.index.abs_diff(**at) <= 3)).count()
    }

    #[test]
    fn known_shifts_are_found_where_they_are_and_hardly_any_others() {
        let random = Seeded::new(31);
        let (mut truths, mut founds, mut hits) = (0, 0, 0);
        for steps in SHAPES.iter().cycle().take(200) {
            let (values, truth) = history(&random, steps);
            let found = find(&values, Settings::default());
            (truths, founds, hits) = (truths + truth.len(), founds + found.len(), hits + matched(&truth, &found));
        }
        let (precision, recall) = (hits as f64 / founds as f64, hits as f64 / truths as f64);
        assert!(precision >= 0.95 && recall >= 0.95, "precision {precision:.3}, recall {recall:.3}");
    }

    #[test]
    fn a_short_fall_between_long_pieces_is_found_at_both_ends() {
        let random = Seeded::new(35);
        let found = (0..50).filter(|_| {
            let (values, truth) = history(&random, &[(80, 1.0), (12, 0.6), (80, 1.0)]);
            let found = find(&values, Settings::default());
            matched(&truth, &found) == 2
        });
        let found = found.count();
        // Reached: 90 of 100, both ends within three points. The bound holds that, it is no promise.
        assert!(found >= 42, "{found} of 50");
    }

    #[test]
    fn noise_alone_is_seldom_a_change() {
        let random = Seeded::new(32);
        let alarms =
            (0..200).filter(|_| !find(&history(&random, &[(100, 1.0)]).0, Settings::default()).is_empty()).count();
        assert!(alarms <= 4, "{alarms} of 200");
    }

    #[test]
    fn a_change_says_by_how_much_with_an_interval() {
        let random = Seeded::new(33);
        let found = find(&history(&random, &[(80, 1.0), (80, 1.25)]).0, Settings::default());
        let [change] = &found[..] else { panic!("{found:?}") };
        let (low, high) = change.interval.unwrap();
        assert!((1.2..1.3).contains(&change.ratio) && low > 1.15 && high < 1.35 && change.p <= 0.005, "{change:?}");
        assert_eq!(
            found,
            find(&history(&Seeded::new(33), &[(80, 1.0), (80, 1.25)]).0, Settings::default()),
            "same answer again"
        );
    }

    #[test]
    fn too_short_or_constant_series_have_no_changes_and_the_fast_sums_are_right() {
        for values in [&[][..], &[1.0], &[1.0; 9], &[3.0; 200]] {
            assert!(find(values, Settings::default()).is_empty());
        }
        let random = Seeded::new(34);
        let values: Vec<f64> = (0..40).map(|_| (random.uniform() * 12.0).floor()).collect();
        let ranks = ranks(&values);
        let distance = |one: &[u32], other: &[u32]| -> f64 {
            one.iter().flat_map(|a| other.iter().map(|b| f64::from(a.abs_diff(*b)))).sum()
        };
        let slow = (5..=35).map(|at| {
            let (a, b) = ranks.split_at(at);
            let (m, k) = (a.len() as f64, b.len() as f64);
            let energy =
                2.0 * distance(a, b) / (m * k) - distance(a, a) / (m * (m - 1.0)) - distance(b, b) / (k * (k - 1.0));
            (at, m * k / (m + k) * energy)
        });
        let best = slow.fold((0, f64::MIN), |best, one| if one.1 > best.1 { one } else { best });
        let fast = best_split(&ranks, 5).unwrap();
        assert!(fast.0 == best.0 && (fast.1 - best.1).abs() < 1e-9, "{fast:?} {best:?}");
    }
}
