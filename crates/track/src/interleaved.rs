//! Two sides whose runs were taken in turns, on a machine whose speed drifts.
//!
//! Each round has one run of either side and a drift that both share, which moves from round to round like a random walk
//! (the local level model: Harvey, "Forecasting, structural time series models and the Kalman filter", 1989, 4.1).
//! The shift between the sides and all drifts are estimated at once by iterated weighted least squares with Tukey's
//! bisquare weights. So a drift cancels as it does in pairs; but where one run of a round is far off, the other is
//! held against the drift of its neighbours and not lost. The standard error sums each round's influence on the
//! shift before squaring it (a cluster-robust "sandwich": Liang and Zeger, Biometrika 1986), so that it is right however
//! much of the noise a round's runs share.

use crate::compare::{Estimate, TUNING, median, spread};

/// How stiff the drift is: the variance of a run's own noise over that of a step of the drift. With two runs a round the
/// drift is told from about two rounds to either side; a stiller machine loses nothing by it.
const STIFFNESS: f64 = 10.0;

/// Rounds to either side whose median the search for the drift begins with.
const NEIGHBOURS: usize = 3;

/// The scale of the noise is taken anew from the residuals of this many steps.
const SCALE_STEPS: usize = 5;

/// A run that is too far off keeps this little weight, so that a round of two such runs has a drift too.
const WEIGHT_MIN: f64 = 1e-9;

/// The shift of `cand` against `base`, round by round; none where the rounds do not differ, so that there is no scale.
pub(crate) fn shift(base: &[f64], cand: &[f64]) -> Option<Estimate> {
    let pairs: Vec<f64> = base.iter().zip(cand).map(|(base, cand)| cand - base).collect();
    let mut shift = median(&pairs);
    let mut drift: Vec<f64> = (0..base.len()).map(|at| level_around(base, cand, shift, at)).collect();
    let (mut fit, mut reach) = (Fit::default(), 0.0);
    for step in 0..50 {
        if step < SCALE_STEPS {
            let residuals = base.iter().zip(&drift).map(|(value, drift)| value - drift);
            let residuals = residuals.chain(cand.iter().zip(&drift).map(|(value, drift)| value - shift - drift));
            reach = TUNING * spread(&residuals.collect::<Vec<_>>());
            if reach.is_nan() || reach < 1e-9 {
                return None;
            }
        }
        fit = Fit::new(base, cand, shift, &drift, reach);
        let moved = (fit.shift - shift).abs();
        (shift, drift) = (fit.shift, fit.drift.clone());
        if step >= SCALE_STEPS && moved < 1e-9 * reach {
            break;
        }
    }
    fit.error(base, cand, reach).map(|error| Estimate { middle: shift, error, freedom: base.len() as f64 - 1.0 })
}

/// The median of both sides' runs in the rounds around `at`.
fn level_around(base: &[f64], cand: &[f64], shift: f64, at: usize) -> f64 {
    let rounds = at.saturating_sub(NEIGHBOURS)..base.len().min(at + NEIGHBOURS + 1);
    let mut around = base[rounds.clone()].to_vec();
    around.extend(cand[rounds].iter().map(|value| value - shift));
    median(&around)
}

fn weight(residual: f64, reach: f64) -> f64 {
    (1.0 - (residual / reach).powi(2)).max(0.0).powi(2).max(WEIGHT_MIN)
}

/// One step: least squares with the weights that the step before gave.
#[derive(Default)]
struct Fit {
    shift: f64,
    drift: Vec<f64>,
    /// Weights of a round's two runs.
    weights: Vec<(f64, f64)>,
    /// By how much a round's drift follows the shift.
    follows: Vec<f64>,
    information: f64,
}

impl Fit {
    fn new(base: &[f64], cand: &[f64], shift: f64, drift: &[f64], reach: f64) -> Self {
        let rounds = base.iter().zip(cand).zip(drift);
        let weights: Vec<(f64, f64)> = rounds
            .map(|((base, cand), drift)| (weight(base - drift, reach), weight(cand - shift - drift, reach)))
            .collect();
        let sums: Vec<f64> = weights.iter().map(|(base, cand)| base + cand).collect();
        let values = weights.iter().zip(base.iter().zip(cand));
        let level = smoothed(&sums, values.map(|(weight, value)| weight.0 * value.0 + weight.1 * value.1).collect());
        let follows = smoothed(&sums, weights.iter().map(|weight| weight.1).collect());
        let (mut score, mut information) = (0.0, 0.0);
        for (at, (_, weight)) in weights.iter().enumerate() {
            score += weight * (cand[at] - level[at]);
            information += weight * (1.0 - follows[at]);
        }
        let shift = score / information;
        let drift = level.iter().zip(&follows).map(|(level, follows)| level - shift * follows).collect();
        Self { shift, drift, weights, follows, information }
    }

    fn error(&self, base: &[f64], cand: &[f64], reach: f64) -> Option<f64> {
        let slope = |residual: f64| {
            let square = (residual / reach).powi(2);
            if square < 1.0 { (1.0 - square) * (1.0 - 5.0 * square) } else { 0.0 }
        };
        let (mut slopes, mut weights, mut squares) = (0.0, 0.0, 0.0);
        for (at, weight) in self.weights.iter().enumerate() {
            let (one, two) = (base[at] - self.drift[at], cand[at] - self.shift - self.drift[at]);
            slopes += slope(one) + slope(two);
            weights += weight.0 + weight.1;
            let influence = (1.0 - self.follows[at]) * weight.1 * two - self.follows[at] * weight.0 * one;
            squares += influence * influence;
        }
        let n = base.len() as f64;
        let error = (squares * n / (n - 1.0)).sqrt() / (self.information * slopes / weights);
        (error.is_finite() && error > 0.0).then_some(error)
    }
}

/// Solves the drift's equations: each round's own weight, and [`STIFFNESS`] between neighbours. They are tridiagonal and
/// positive definite, so elimination needs no pivots.
fn smoothed(weights: &[f64], mut right: Vec<f64>) -> Vec<f64> {
    let n = weights.len();
    let mut diagonal = Vec::with_capacity(n);
    for (at, weight) in weights.iter().enumerate() {
        let neighbours = usize::from(at > 0) + usize::from(at + 1 < n);
        diagonal.push(weight + STIFFNESS * neighbours as f64);
    }
    for at in 1..n {
        let factor = STIFFNESS / diagonal[at - 1];
        diagonal[at] -= factor * STIFFNESS;
        right[at] += factor * right[at - 1];
    }
    for at in (0..n).rev() {
        let next = if at + 1 < n { STIFFNESS * right[at + 1] } else { 0.0 };
        right[at] = (right[at] + next) / diagonal[at];
    }
    right
}
