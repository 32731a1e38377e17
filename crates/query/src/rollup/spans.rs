//! Sets of times as sorted, disjoint, half-open spans of nanoseconds since 1970.

/// Before and after every time that there is.
pub(super) const START: i128 = i128::MIN / 4;
pub(super) const END: i128 = i128::MAX / 4;
/// Spans in a filter; those with the smallest gaps between them become one.
const SPANS_MAX: usize = 64;

/// A set of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spans(Vec<(i128, i128)>);

impl Spans {
    /// One span, or none where it is empty.
    pub(super) fn one(from: i128, to: i128) -> Self {
        Self(if from < to { vec![(from, to)] } else { Vec::new() })
    }

    /// Those that hold these times, both ends included, in whole buckets of a width; few enough for a filter.
    pub(super) fn around(times: &[(i64, i64)], width: i64) -> Self {
        let width = i128::from(width);
        let floor = |time: i128| time.div_euclid(width) * width;
        let whole = |&(first, last): &(i64, i64)| {
            let from = if first == i64::MIN { START } else { floor(i128::from(first)) };
            let to = if last == i64::MAX { END } else { floor(i128::from(last)) + width };
            (from, to)
        };
        let mut spans: Vec<(i128, i128)> = times.iter().map(whole).collect();
        spans.sort_unstable();
        let mut joined: Vec<(i128, i128)> = Vec::new();
        for (from, to) in spans {
            match joined.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => joined.push((from, to)),
            }
        }
        while joined.len() > SPANS_MAX {
            let gap = |index: &usize| joined[*index + 1].0 - joined[*index].1;
            let Some(narrow) = (0..joined.len() - 1).min_by_key(gap) else { break };
            joined[narrow].1 = joined[narrow + 1].1;
            joined.remove(narrow + 1);
        }
        Self(joined)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i128, i128)> {
        self.0.iter().copied()
    }

    /// The times of `self` that are not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(mut from, to) in &self.0 {
            for &(start, end) in &other.0 {
                if end <= from || start >= to {
                    continue;
                }
                if from < start {
                    left.push((from, start));
                }
                from = end;
            }
            if from < to {
                left.push((from, to));
            }
        }
        Self(left)
    }

    /// The spans in which any of these times lie, both ends included.
    pub(super) fn touching(&self, times: &[(i64, i64)]) -> Self {
        let touched = |&&(from, to): &&(i128, i128)| {
            times.iter().any(|&(first, last)| from <= i128::from(last) && i128::from(first) < to)
        };
        Self(self.0.iter().filter(touched).copied().collect())
    }

    /// What of them lies from one time to another, which is not included.
    pub(super) fn within(&self, from: i128, to: i128) -> Self {
        let cut = self.0.iter().map(|span| (span.0.max(from), span.1.min(to)));
        Self(cut.filter(|(from, to)| from < to).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_whole_and_joined_also_before_1970() {
        assert_eq!(Spans::around(&[(-1, -1), (0, 9), (25, 30)], 10), Spans(vec![(-10, 10), (20, 40)]));
        assert_eq!(Spans::around(&[(i64::MIN, 5), (100, i64::MAX)], 10), Spans(vec![(START, 10), (100, END)]));
    }

    #[test]
    fn what_is_taken_out_is_out_and_nothing_else() {
        let all = Spans::one(START, END);
        let rest = all.without(&Spans(vec![(0, 10), (20, 30)]));
        assert_eq!(rest, Spans(vec![(START, 0), (10, 20), (30, END)]));
        assert_eq!(rest.within(5, 25), Spans(vec![(10, 20)]));
        assert_eq!(rest.touching(&[(9, 9), (20, 35)]), Spans(vec![(30, END)]));
        assert_eq!(Spans::one(0, 10).without(&Spans::one(0, 10)), Spans(vec![]));
        assert_eq!(Spans::one(0, 10).without(&Spans::one(3, 4)), Spans(vec![(0, 3), (4, 10)]));
    }

    #[test]
    fn many_spans_become_few_that_hold_them_all() {
        let times: Vec<(i64, i64)> = (0..500).map(|step| (step * 1000, step * 1000 + 1)).collect();
        let spans = Spans::around(&times, 10);
        assert_eq!(spans.0.len(), SPANS_MAX);
        let holds = |time: i128| spans.iter().any(|(from, to)| (from..to).contains(&time));
        assert!(times.iter().all(|(first, last)| holds(i128::from(*first)) && holds(i128::from(*last))));
    }
}
