//! Is one side slower than the other? An interval for the ratio of medians that holds on noisy, shared machines.
//!
//! Durations are compared on the logarithmic scale, where "5 % slower" is a shift; if one side is the other stretched by a
//! factor, that factor is the ratio of medians. Nothing is assumed about the shape of the noise but that both sides share it.
//!
//! From [`RUNS_ROBUST`] runs a side on the shift is that of Tukey's bisquare M-estimates (Beaton and Tukey, "The fitting
//! of power series, meaning polynomials, illustrated on band-spectroscopic data", 1974; tuning constant 4.685), which
//! gives far-off runs no weight at all and keeps 95 % of the mean's precision on the rest; the interval is Student's, from
//! the estimate's own standard error (Huber and Ronchetti, "Robust statistics", 2nd ed., 6.2 and 6.5). Runs taken in
//! turns are compared with a drift that both sides share (`interleaved`), or pair by pair where the drift is too fast
//! for that, so that what slows both down cancels.
//!
//! Fewer runs are compared by ranks alone: the median of all differences between the sides (Hodges and Lehmann, "Estimates
//! of location based on rank tests", 1963) with the interval that inverts the test of Mann and Whitney (1947; Hollander,
//! Wolfe and Chicken, "Nonparametric statistical methods", 3rd ed., 4.3), exact for any noise.

use serde::Serialize;

use crate::{Error, Result, interleaved};

/// Chance that an interval's lower end lies above the true ratio: one in a thousand.
const ALPHA: f64 = 0.001;

/// Fewest runs a side that are compared at all.
pub const RUNS_MIN: usize = 3;

/// Fewest runs a side for the M-estimate.
pub const RUNS_ROBUST: usize = 20;

/// Tuning constant of the bisquare weights: 95 % of the mean's precision on normal noise.
pub(crate) const TUNING: f64 = 4.685;

/// Rounds are compared as such when the standard error is below this part of that of the sides taken apart.
const ROUNDS_WIN: f64 = 0.9;

/// Most runs a side; of more, evenly spaced ones are taken, in time's order.
pub const RUNS_MAX: usize = 20_000;

/// What to call a regression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The slowdown that matters, as a fraction: 0.05 for 5 %.
    pub threshold: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Self { threshold: 0.05 }
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Slower, and by enough to matter.
    Regression,
    /// Faster, and by enough to matter.
    Improvement,
    /// No difference that matters, and a slowdown of the threshold would most likely have been found.
    Same,
    /// No difference found, but a slowdown of the threshold might have gone unnoticed: see the power.
    Unsure,
}

/// How the sides were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Hodges-Lehmann shift of the logarithms with the interval of the Mann-Whitney test.
    RankSum,
    /// Difference of the sides' bisquare M-estimates of the logarithms, Student's interval.
    Bisquare,
    /// The same with a drift that the runs of a round share.
    Interleaved,
    /// Bisquare M-estimate of the log ratios of pairs taken in turns, Student's interval.
    PairedBisquare,
}

impl Method {
    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::RankSum => "Hodges-Lehmann shift of the logarithms, interval from the Mann-Whitney test",
            Self::Bisquare => "difference of Tukey's bisquare M-estimates of the logarithms, Student's interval",
            Self::Interleaved => {
                "Tukey's bisquare M-estimate of the shift of the logarithms with a drift that both sides share, Student's interval"
            }
            Self::PairedBisquare => "Tukey's bisquare M-estimate of the log ratios of pairs, Student's interval",
        }
    }
}

/// A comparison of two sides.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What was found.
    pub verdict: Verdict,
    /// Estimated ratio of the medians, candidate over baseline.
    pub ratio: f64,
    /// Lower end of its interval.
    pub ratio_low: f64,
    /// Upper end of its interval.
    pub ratio_high: f64,
    /// How often such an interval holds the true ratio, as a fraction. 0.998 unless the runs are too few for it.
    pub confidence: f64,
    /// How the sides were compared.
    pub method: Method,
    /// Median of the baseline, in milliseconds.
    pub baseline_ms: f64,
    /// Median of the candidate, in milliseconds.
    pub candidate_ms: f64,
    /// Runs of the baseline.
    pub baseline_runs: usize,
    /// Runs of the candidate.
    pub candidate_runs: usize,
    /// Spread of one side's runs: robust standard deviation of the logarithms, so 0.05 is noise of 5 %.
    pub noise: f64,
    /// The slowdown that matters.
    pub threshold: f64,
    /// The chance that a slowdown of the threshold would be found with as many runs and as much noise.
    pub power: f64,
    /// Runs a side that would find it in 95 of 100 cases; none if more than 100,000.
    pub runs_needed: Option<usize>,
}

/// Compares `candidate` with `baseline`, durations in milliseconds; `paired` when run `i` of both was taken in one round.
///
/// # Errors
/// `invalid` when a side has fewer than [`RUNS_MIN`] runs, a duration is not above zero, or pairs do not match.
pub fn compare(baseline: &[f64], candidate: &[f64], paired: bool, rule: Rule) -> Result<Comparison> {
    check(baseline, candidate, paired, rule)?;
    let logs = |side: &[f64]| -> Vec<f64> { thinned(side).map(f64::ln).collect() };
    let (base, cand) = (logs(baseline), logs(candidate));
    let pairs: Vec<f64> = if paired { base.iter().zip(&cand).map(|(b, c)| c - b).collect() } else { Vec::new() };
    let (method, shift, interval) = shift_of(&base, &cand, &pairs);
    let noise = match method {
        Method::PairedBisquare | Method::Interleaved => spread(&pairs) / std::f64::consts::SQRT_2,
        _ => ((spread(&base).powi(2) + spread(&cand).powi(2)) / 2.0).sqrt(),
    };
    let runs = 2.0 / (1.0 / base.len() as f64 + 1.0 / cand.len() as f64);
    let mut found = Comparison {
        verdict: Verdict::Same,
        ratio: shift.exp(),
        ratio_low: interval.low.exp(),
        ratio_high: interval.high.exp(),
        confidence: interval.confidence,
        method,
        baseline_ms: median(baseline),
        candidate_ms: median(candidate),
        baseline_runs: baseline.len(),
        candidate_runs: candidate.len(),
        noise,
        threshold: rule.threshold,
        power: power(runs, noise, rule.threshold),
        runs_needed: runs_needed(noise, rule.threshold),
    };
    found.verdict = judge(&found, interval.confidence);
    Ok(found)
}

fn check(baseline: &[f64], candidate: &[f64], paired: bool, rule: Rule) -> Result<()> {
    if !(rule.threshold > 0.0 && rule.threshold.is_finite()) {
        return Err(Error::invalid("the threshold must be above zero"));
    }
    for (name, side) in [("baseline", baseline), ("candidate", candidate)] {
        if side.len() < RUNS_MIN {
            return Err(Error::invalid(format!(
                "the {name} has {} runs; {RUNS_MIN} are the fewest, 10 the fewest that make sense",
                side.len()
            )));
        }
        if let Some(bad) = side.iter().find(|value| !(**value > 0.0 && value.is_finite())) {
            return Err(Error::invalid(format!("the {name} holds a duration of {bad} ms")));
        }
    }
    if paired && baseline.len() != candidate.len() {
        return Err(Error::invalid("pairs need as many runs on each side"));
    }
    Ok(())
}

/// A regression must be sure (the whole interval above 1) and matter: the estimate lies past half of the threshold, so
/// that a slowdown of just the threshold is missed as rarely as one of nothing is called. With so few runs that ranks
/// cannot give the usual confidence, the estimate must reach the whole threshold.
fn judge(found: &Comparison, confidence: f64) -> Verdict {
    let full = confidence >= 1.0 - 2.0 * ALPHA - 1e-12;
    let matters = (1.0 + found.threshold).ln() * if full { 0.5 } else { 1.0 };
    if found.ratio_low > 1.0 && found.ratio.ln() >= matters {
        Verdict::Regression
    } else if found.ratio_high < 1.0 && found.ratio.ln() <= -matters {
        Verdict::Improvement
    } else if found.power >= 0.8 && full {
        Verdict::Same
    } else {
        Verdict::Unsure
    }
}

/// The middle value; of an even number the mean of the two in the middle. NaN without any.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Standard deviation as the median absolute deviation tells it (times 1.4826, right for normal noise).
pub fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    1.4826 * median(&values.iter().map(|value| (value - middle).abs()).collect::<Vec<_>>())
}

fn thinned(side: &[f64]) -> impl Iterator<Item = f64> + '_ {
    let taken = side.len().min(RUNS_MAX);
    (0..taken).map(move |at| side[at * side.len() / taken])
}

struct Interval {
    low: f64,
    high: f64,
    confidence: f64,
}

fn shift_of(base: &[f64], cand: &[f64], pairs: &[f64]) -> (Method, f64, Interval) {
    let robust = |values: &[f64]| (values.len() >= RUNS_ROBUST).then(|| bisquare(values)).flatten();
    let apart = robust(base).zip(robust(cand)).map(|(base, cand)| cand.minus(&base));
    let mut best = apart.map(|apart| (Method::Bisquare, apart));
    if pairs.len() >= RUNS_ROBUST {
        // What a round shares costs precision to tell; it is told where that wins clearly.
        for (method, other) in
            [(Method::Interleaved, interleaved::shift(base, cand)), (Method::PairedBisquare, robust(pairs))]
        {
            let Some(other) = other else { continue };
            if best.as_ref().is_none_or(|(_, best)| other.error < ROUNDS_WIN * best.error) {
                best = Some((method, other));
            }
        }
    }
    if let Some((method, estimate)) = best {
        return (method, estimate.middle, estimate.interval());
    }
    let (shift, interval) = rank_sum(base, cand);
    (Method::RankSum, shift, interval)
}

/// An M-estimate with its standard error.
pub(crate) struct Estimate {
    pub(crate) middle: f64,
    pub(crate) error: f64,
    /// Degrees of freedom of the error.
    pub(crate) freedom: f64,
}

impl Estimate {
    fn interval(&self) -> Interval {
        let reach = self.error * student_quantile(normal_quantile(1.0 - ALPHA), self.freedom);
        Interval { low: self.middle - reach, high: self.middle + reach, confidence: 1.0 - 2.0 * ALPHA }
    }

    /// The difference of two, with the degrees of freedom of Welch and Satterthwaite.
    fn minus(&self, other: &Self) -> Self {
        let (one, two) = (self.error.powi(2), other.error.powi(2));
        let freedom = (one + two).powi(2) / (one * one / self.freedom + two * two / other.freedom);
        Self { middle: self.middle - other.middle, error: (one + two).sqrt(), freedom }
    }
}

/// Tukey's bisquare; none where half of the values are the same, so that there is no scale.
fn bisquare(values: &[f64]) -> Option<Estimate> {
    let reach = TUNING * spread(values);
    if reach.is_nan() || reach < 1e-9 {
        return None;
    }
    let mut middle = median(values);
    for _ in 0..50 {
        let (mut sum, mut weights) = (0.0, 0.0);
        for value in values {
            let weight = (1.0 - ((value - middle) / reach).powi(2)).max(0.0).powi(2);
            sum += weight * value;
            weights += weight;
        }
        let next = sum / weights;
        let moved = (next - middle).abs();
        middle = next;
        if moved < 1e-10 * reach {
            break;
        }
    }
    let (mut square, mut slope, mut inside) = (0.0, 0.0f64, 0.0f64);
    for value in values {
        let u = ((value - middle) / reach).powi(2);
        if u < 1.0 {
            square += ((value - middle) * (1.0 - u).powi(2)).powi(2);
            slope += (1.0 - u) * (1.0 - 5.0 * u);
            inside += 1.0;
        }
    }
    let error = square.sqrt() / slope.abs() * (inside / (inside - 1.0)).sqrt();
    (error.is_finite() && inside > 2.0).then_some(Estimate { middle, error, freedom: inside - 1.0 })
}

fn rank_sum(base: &[f64], cand: &[f64]) -> (f64, Interval) {
    let (mut base, mut cand) = (base.to_vec(), cand.to_vec());
    base.sort_unstable_by(f64::total_cmp);
    cand.sort_unstable_by(f64::total_cmp);
    let (m, n) = (base.len() as u64, cand.len() as u64);
    let (skip, confidence) = rank_sum_skip(m, n);
    let at = |k: u64| kth_difference(&base, &cand, k);
    let middle = (at((m * n - 1) / 2) + at(m * n / 2)) / 2.0;
    (middle, Interval { low: at(skip), high: at(m * n - 1 - skip), confidence })
}

/// How many of the smallest differences lie below the interval, and the confidence that gives.
fn rank_sum_skip(m: u64, n: u64) -> (u64, f64) {
    if m + n <= 60 {
        return exact_skip(&rank_sum_counts(m as usize, n as usize));
    }
    let (m, n) = (m as f64, n as f64);
    let deviation = (m * n * (m + n + 1.0) / 12.0).sqrt();
    ((m * n / 2.0 - normal_quantile(1.0 - ALPHA) * deviation).floor().max(0.0) as u64, 1.0 - 2.0 * ALPHA)
}

/// The number of ways for each value of the Mann-Whitney count when the sides do not differ, as fractions of all.
fn rank_sum_counts(m: usize, n: usize) -> Vec<f64> {
    // Product of (1 - q^(n+i)) / (1 - q^i): the Gaussian binomial coefficient.
    let mut ways = vec![0.0; m * n + 1];
    ways[0] = 1.0;
    for i in 1..=m {
        for at in (n + i..ways.len()).rev() {
            ways[at] -= ways[at - n - i];
        }
        for at in i..ways.len() {
            ways[at] += ways[at - i];
        }
    }
    let all: f64 = ways.iter().sum();
    ways.iter().map(|way| way / all).collect()
}

/// The most that may be cut off each end with a chance of at most [`ALPHA`]; nothing if even that is too much.
fn exact_skip(chances: &[f64]) -> (u64, f64) {
    let (mut below, mut skip) = (chances[0], 0);
    if below > ALPHA {
        return (0, 1.0 - 2.0 * below);
    }
    while below + chances[skip + 1] <= ALPHA {
        skip += 1;
        below += chances[skip];
    }
    (skip as u64, 1.0 - 2.0 * ALPHA.max(below))
}

/// The `k`-th smallest (from 0) of all `c - b`, both sides sorted: bisection on the value, counting by two pointers.
fn kth_difference(base: &[f64], cand: &[f64], k: u64) -> f64 {
    let count = |bound: f64| -> u64 {
        let mut first = 0;
        let mut total = 0;
        for c in cand {
            while first < base.len() && c - base[first] > bound {
                first += 1;
            }
            total += (base.len() - first) as u64;
        }
        total
    };
    let (mut low, mut high) = (cand[0] - base[base.len() - 1], cand[cand.len() - 1] - base[0]);
    if count(low) > k {
        return low;
    }
    for _ in 0..200 {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if count(middle) > k { high = middle } else { low = middle }
    }
    high
}

/// Standard error of the shift between two sides of `runs` each, for normal noise; both methods keep 95 % of the runs' worth.
fn shift_error(runs: f64, noise: f64) -> f64 {
    noise * 1.025 * (2.0 / runs).sqrt()
}

/// The chance to find a slowdown of `threshold` with `runs` a side and this noise.
pub fn power(runs: f64, noise: f64, threshold: f64) -> f64 {
    let effect = (1.0 + threshold).ln();
    let error = shift_error(runs, noise);
    if runs < 7.0 {
        // Without full confidence both sides must be apart altogether; that is seldom sure.
        return if noise * 6.0 < effect { 0.9 } else { 0.0 };
    }
    if error <= 0.0 {
        return 1.0;
    }
    let ends = student_quantile(normal_quantile(1.0 - ALPHA), 2.0 * runs - 2.0);
    normal_below((effect / 2.0 / error).min(effect / error - ends))
}

/// Student's t quantile from the normal one (Abramowitz and Stegun 26.7.5): few runs do not know their own spread.
fn student_quantile(z: f64, freedom: f64) -> f64 {
    z + (z.powi(3) + z) / (4.0 * freedom) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * freedom * freedom)
}

/// Runs a side that find a slowdown of `threshold` in 95 of 100 cases; none past 100,000.
pub fn runs_needed(noise: f64, threshold: f64) -> Option<usize> {
    let mut runs = 7;
    while runs <= 100_000 {
        if power(runs as f64, noise, threshold) >= 0.95 {
            return Some(runs);
        }
        runs += 1 + runs / 50;
    }
    None
}

/// Distribution function of the standard normal (Abramowitz and Stegun 26.2.17, error below 7.5e-8).
pub fn normal_below(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let tail: f64 = series.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    let above = tail * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if z >= 0.0 { 1.0 - above } else { above }
}

/// The inverse of [`normal_below`], by bisection.
pub fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if normal_below(middle) < p { low = middle } else { high = middle }
    }
    low
}

impl Comparison {
    /// One sentence for people.
    pub fn sentence(&self, name: &str) -> String {
        let percent = |ratio: f64| format!("{:.1} %", (ratio - 1.0).abs() * 100.0);
        let (low, high) = (signed_percent(self.ratio_low), signed_percent(self.ratio_high));
        let interval = format!("{:.1} % interval {low} to {high}", self.confidence * 100.0);
        let medians = format!("median {} -> {}", millis(self.baseline_ms), millis(self.candidate_ms));
        let runs = format!("{} and {} runs", self.baseline_runs, self.candidate_runs);
        match self.verdict {
            Verdict::Regression => {
                format!("{name} is {} slower ({medians}, {interval}, {runs})", percent(self.ratio))
            }
            Verdict::Improvement => {
                format!("{name} is {} faster ({medians}, {interval}, {runs})", percent(self.ratio))
            }
            Verdict::Same => format!("{name} has not become slower ({medians}, {interval}, {runs})"),
            Verdict::Unsure => {
                let needed = self.runs_needed.map_or("more than 100,000".to_owned(), |runs| runs.to_string());
                format!(
                    "{name}: no slowdown shown, but these runs could not show one ({medians}, {interval}, {runs}); at noise of \
                     {:.1} % a slowdown of {:.0} % is found in {:.0} of 100 cases, {needed} runs a side find it in 95",
                    self.noise * 100.0,
                    self.threshold * 100.0,
                    self.power * 100.0
                )
            }
        }
    }
}

/// `+5.1 %`.
pub fn signed_percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

/// A duration in a unit that suits it.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 60_000.0 => format!("{:.1} min", ms / 60_000.0),
        ms if ms >= 1000.0 => format!("{:.2} s", ms / 1000.0),
        ms if ms >= 1.0 => format!("{ms:.1} ms"),
        ms if ms >= 1e-3 => format!("{:.1} µs", ms * 1e3),
        ms => format!("{:.0} ns", ms * 1e6),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
