//! Made-up durations with known truth: what tests and benchmarks judge the statistics by. Not used to measure anything.
//!
//! The noise is that of machines that others use too: heavy tails, single runs far off, a speed that drifts.

use crate::random::Seeded;

/// How the noise of a machine looks. It is 5 % in all, but not by the same yardstick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noise {
    /// Student's t with 3 degrees of freedom, standard deviation 5 %.
    Student,
    /// Normal with a standard deviation of 5 %, and one run in ten up to three times as slow on top.
    Outliers,
    /// As `Outliers`, and both sides of a round share a drift with a standard deviation of another 5 %.
    Drift,
    /// Student's t with 3 degrees of freedom whose middle spreads like normal noise of 5 %: standard deviation 7.6 %.
    RobustStudent,
    /// Student's t with 3 degrees of freedom and a scale parameter of 5 %: standard deviation 8.7 %.
    ScaleStudent,
}

impl Noise {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Student, Self::Outliers, Self::Drift, Self::RobustStudent, Self::ScaleStudent];

    /// For a table.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Student => "Student's t (3), standard deviation 5 %",
            Self::Outliers => "normal 5 %, one run in ten up to three times as slow",
            Self::Drift => "the same, and a shared drift of another 5 %",
            Self::RobustStudent => "Student's t (3), robust standard deviation 5 % (standard deviation 7.6 %)",
            Self::ScaleStudent => "Student's t (3), scale parameter 5 % (standard deviation 8.7 %)",
        }
    }

    fn shock(self, random: &Seeded) -> f64 {
        match self {
            Self::Student => 0.05 / 3f64.sqrt() * random.student3(),
            // The robust spread of this distribution is 1.134 times its scale.
            Self::RobustStudent => 0.05 / 1.134 * random.student3(),
            Self::ScaleStudent => 0.05 * random.student3(),
            Self::Outliers | Self::Drift => {
                let outlier = if random.uniform() < 0.1 { (1.0 + 2.0 * random.uniform()).ln() } else { 0.0 };
                0.05 * random.normal() + outlier
            }
        }
    }
}

/// Two sides of `runs` interleaved runs, in milliseconds; the second takes `ratio` times as long.
pub fn sides(random: &Seeded, noise: Noise, runs: usize, ratio: f64) -> (Vec<f64>, Vec<f64>) {
    let level = 20.0 + 200.0 * random.uniform();
    let (mut drift, mut both) = (0.0, (Vec::new(), Vec::new()));
    for _ in 0..runs {
        if noise == Noise::Drift {
            drift = 0.9 * drift + 0.022 * random.normal();
        }
        both.0.push(level * (noise.shock(random) + drift).exp());
        both.1.push(level * (noise.shock(random) + drift).exp() * ratio);
    }
    both
}

/// A history with steps of so many points at such a level, and where its changes are: noise of 3 % with heavy tails (Student's t
/// with 3 degrees of freedom), and three points in a hundred up to four times as long.
pub fn history(random: &Seeded, steps: &[(usize, f64)]) -> (Vec<f64>, Vec<usize>) {
    let level = 20.0 + 100.0 * random.uniform();
    let (mut values, mut changes) = (Vec::new(), Vec::new());
    for (count, factor) in steps {
        changes.push(values.len());
        values.extend((0..*count).map(|_| {
            let outlier = if random.uniform() < 0.03 { 1.0 + 3.0 * random.uniform() } else { 1.0 };
            level * factor * (0.03 * random.student3()).exp() * outlier
        }));
    }
    (values, changes.split_off(1))
}

/// Shapes of histories: changes of 10 % to 50 %, and none.
pub const SHAPES: [&[(usize, f64)]; 5] = [
    &[(60, 1.0), (60, 1.1)],
    &[(40, 1.0), (50, 1.2), (60, 1.0)],
    &[(80, 1.0), (30, 0.85), (40, 1.05), (60, 1.3)],
    &[(150, 1.0)],
    &[(30, 1.0), (20, 1.5), (100, 1.0)],
];

/// How many pairs of simulated sides [`compare`](crate::compare::compare) calls a regression.
pub fn regressions(seed: u64, noise: Noise, pairs: usize, ratio: f64) -> usize {
    let random = Seeded::new(seed);
    let found = |_: &usize| {
        let (baseline, candidate) = sides(&random, noise, 60, ratio);
        let compared = crate::compare::compare(&baseline, &candidate, true, crate::compare::Rule::default());
        compared.is_ok_and(|found| found.verdict == crate::compare::Verdict::Regression)
    };
    (0..pairs).filter(found).count()
}

/// How many pairs with Student noise of this scale the best of all tests would call a regression of `ratio`, with false alarms
/// in one of 400: the one that knows the noise and the level (the likelihood ratio: Neyman and Pearson, 1933).
pub fn regressions_at_best(seed: u64, scale: f64, pairs: usize, ratio: f64) -> usize {
    let random = Seeded::new(seed);
    let shift = ratio.ln() / 2.0;
    let log_density = |value: f64| -2.0 * (1.0 + (value / scale).powi(2) / 3.0).ln();
    let evidence = |true_shift: f64| -> f64 {
        let run = |sign: f64| {
            let value = sign * true_shift + scale * random.student3();
            log_density(value - sign * shift) - log_density(value + sign * shift)
        };
        (0..60).map(|_| run(1.0) + run(-1.0)).sum()
    };
    let mut by_chance: Vec<f64> = (0..pairs).map(|_| evidence(0.0)).collect();
    by_chance.sort_unstable_by(|one, other| other.total_cmp(one));
    let bar = by_chance[pairs / 400];
    (0..pairs).filter(|_| evidence(shift) > bar).count()
}
