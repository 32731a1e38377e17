//! Durations counted in logarithmic buckets: quantiles within 1 %, in at most 6 KiB, merged without loss.
//!
//! The mapping is that of DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with
//! relative-error guarantees", VLDB 2019): bucket `i` holds the values in `(g^(i-1), g^i]` with `g = (1+e)/(1-e)`, and
//! answers `2 g^i / (g+1)`, which is at most `e` away from each of them.

use std::collections::BTreeMap;

/// Largest relative error of a quantile.
pub const RELATIVE_ERROR: f64 = 0.01;

/// Buckets of a sketch: 6 KiB of 32-bit counters.
pub const BUCKETS: usize = 1536;

/// Durations up to this many nanoseconds share the first bucket; no clock tells them apart.
const LOWEST_NS: f64 = 8.0;

/// `1 / ln(g)`.
const SCALE: f64 = 49.998_333_27;

/// The bucket of a duration in nanoseconds. The last one (from 46 hours on) also takes everything longer.
#[inline]
pub fn bucket_of(nanoseconds: u64) -> usize {
    let value = nanoseconds as f64;
    if value <= LOWEST_NS {
        return 0;
    }
    (((value * (1.0 / LOWEST_NS)).ln() * SCALE).ceil() as usize).min(BUCKETS - 1)
}

/// The value that stands for a bucket, in nanoseconds.
pub fn value_of(bucket: usize) -> f64 {
    let upper = LOWEST_NS * (bucket as f64 / SCALE).exp();
    upper * (1.0 - RELATIVE_ERROR)
}

/// Counted durations: what readers merge, ask and store. Only buckets that hold something take memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sketch {
    counts: BTreeMap<u16, u64>,
    count: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
}

impl Sketch {
    /// Counts one duration.
    pub fn record(&mut self, nanoseconds: u64) {
        *self.counts.entry(bucket_of(nanoseconds) as u16).or_default() += 1;
        self.widen(nanoseconds, nanoseconds);
        self.count += 1;
        self.sum_ns += u128::from(nanoseconds);
    }

    /// Adds what was counted elsewhere: `counts` by bucket, and the sum and extremes of the same durations.
    pub fn add(&mut self, counts: impl IntoIterator<Item = (usize, u64)>, sum_ns: u128, min_ns: u64, max_ns: u64) {
        let before = self.count;
        let mut added = 0;
        for (bucket, count) in counts {
            *self.counts.entry(bucket.min(BUCKETS - 1) as u16).or_default() += count;
            added += count;
        }
        if added > 0 {
            self.count = before;
            self.widen(min_ns, max_ns);
            self.count = before + added;
            self.sum_ns += sum_ns;
        }
    }

    /// Adds another sketch.
    pub fn merge(&mut self, other: &Self) {
        self.add(other.buckets(), other.sum_ns, other.min_ns, other.max_ns);
    }

    fn widen(&mut self, min_ns: u64, max_ns: u64) {
        self.min_ns = if self.count == 0 { min_ns } else { self.min_ns.min(min_ns) };
        self.max_ns = self.max_ns.max(max_ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their exact sum, in nanoseconds.
    pub fn sum_ns(&self) -> u128 {
        self.sum_ns
    }

    /// Their exact mean, in nanoseconds; none without any.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ns as f64 / self.count as f64)
    }

    /// The exact shortest, in nanoseconds; none without any.
    pub fn min_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min_ns)
    }

    /// The exact longest, in nanoseconds; none without any.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }

    /// The `q`-quantile (0 to 1) in nanoseconds, within 1 % of the value of rank `ceil(q n)`; none without any.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        if rank == self.count {
            return Some(self.max_ns as f64);
        }
        let mut seen = 0;
        for (bucket, count) in &self.counts {
            seen += count;
            if seen >= rank {
                return Some(value_of(usize::from(*bucket)).clamp(self.min_ns as f64, self.max_ns as f64));
            }
        }
        Some(self.max_ns as f64)
    }

    /// Buckets that hold something, in order, with their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counts.iter().map(|(bucket, count)| (usize::from(*bucket), *count))
    }

    /// The counts as text, `bucket:count` with commas between; sum and extremes are kept beside it.
    pub fn encode(&self) -> String {
        let parts: Vec<String> = self.buckets().map(|(bucket, count)| format!("{bucket}:{count}")).collect();
        parts.join(",")
    }

    /// Reads what [`Sketch::encode`] wrote; none when it is anything else.
    pub fn decode(text: &str, sum_ns: u128, min_ns: u64, max_ns: u64) -> Option<Self> {
        let mut sketch = Self::default();
        let mut counts = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (bucket, count) = part.split_once(':')?;
            let bucket: usize = bucket.parse().ok().filter(|bucket| *bucket < BUCKETS)?;
            counts.push((bucket, count.parse().ok()?));
        }
        sketch.add(counts, sum_ns, min_ns, max_ns);
        Some(sketch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seeded;

    #[test]
    fn a_bucket_answers_for_its_values_within_one_percent() {
        for exponent in 0..4000 {
            let value = (8.0 * (f64::from(exponent) * 0.0075).exp()) as u64 + 1;
            let answer = value_of(bucket_of(value));
            assert!((answer / value as f64 - 1.0).abs() <= RELATIVE_ERROR * 1.000_1, "{value}: {answer}");
        }
        assert!(value_of(BUCKETS - 2) > 46.0 * 3600.0 * 1e9, "the range ends at {}", value_of(BUCKETS - 2));
        assert_eq!(std::mem::size_of::<[u32; BUCKETS]>(), 6 << 10);
        assert_eq!((bucket_of(0), bucket_of(8), bucket_of(u64::MAX)), (0, 0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_of_any_shape_are_within_one_percent_and_counts_are_exact() {
        let random = Seeded::new(7);
        for shape in 0..4 {
            let mut values: Vec<u64> = (0..20_000)
                .map(|_| match shape {
                    0 => random.uniform() * 1e9,
                    1 => (random.normal() * 2.0 + 12.0).exp(),
                    2 => 1e6 / random.uniform().max(1e-9),
                    _ => [1e3, 5e8][usize::from(random.uniform() < 0.5)] * (1.0 + random.uniform()),
                } as u64)
                .collect();
            let mut sketch = Sketch::default();
            let (mut left, mut right) = (Sketch::default(), Sketch::default());
            for (at, value) in values.iter().enumerate() {
                sketch.record(*value);
                if at % 3 == 0 { left.record(*value) } else { right.record(*value) }
            }
            left.merge(&right);
            assert_eq!(left, sketch);
            values.sort_unstable();
            for q in [0.0, 0.01, 0.25, 0.5, 0.95, 0.99, 0.999, 1.0] {
                let rank = ((q * values.len() as f64).ceil() as usize).max(1);
                let (exact, told) = (values[rank - 1].max(1) as f64, sketch.quantile(q).unwrap());
                let bound = if exact <= 8.0 { 1.0 } else { 0.0101 };
                assert!((told / exact - 1.0).abs() <= bound, "shape {shape} q {q}: {told} for {exact}");
            }
            assert_eq!(sketch.count(), values.len() as u64);
            assert_eq!(sketch.sum_ns(), values.iter().map(|value| u128::from(*value)).sum::<u128>());
            let (min, max) = (sketch.min_ns().unwrap(), sketch.max_ns().unwrap());
            assert_eq!(Sketch::decode(&sketch.encode(), sketch.sum_ns(), min, max), Some(sketch));
        }
    }

    #[test]
    fn m1_nothing_counted_is_no_answer_and_not_zero() {
        let empty = Sketch::default();
        assert_eq!((empty.quantile(0.5), empty.mean_ns(), empty.min_ns(), empty.max_ns()), (None, None, None, None));
        for bad in ["x", "1:", "1536:1", ":3", "1:2:3"] {
            assert_eq!(Sketch::decode(bad, 0, 0, 0), None, "{bad}");
        }
    }
}
