//! Simulations of what `compare` promises: seldom a false alarm, seldom a miss, on noise with heavy tails.

use super::*;
use crate::random::Seeded;
use crate::simulate::{Noise, regressions, regressions_at_best, sides};

#[test]
fn false_alarms_are_at_most_a_quarter_of_a_percent_of_2000_pairs() {
    for (seed, noise) in (1..).zip(Noise::ALL) {
        let alarms = regressions(seed, noise, 2000, 1.0);
        assert!(alarms <= 5, "{noise:?}: {alarms} of 2000");
    }
}

#[test]
fn a_slowdown_of_five_percent_is_found_in_95_of_100_cases_at_noise_of_five_percent() {
    for (seed, noise) in [(11, Noise::Student), (12, Noise::Outliers)] {
        let found = regressions(seed, noise, 2000, 1.05);
        assert!(found >= 1900, "{noise:?}: {found} of 2000");
    }
}

/// More noise than the promise speaks of. These bounds hold what is reached (94, 94 and 86 of 100), no promise.
#[test]
fn at_more_noise_a_slowdown_of_five_percent_is_found_nearly_as_often() {
    for (seed, noise, least) in
        [(13, Noise::Drift, 1840), (14, Noise::RobustStudent, 1840), (15, Noise::ScaleStudent, 1680)]
    {
        let found = regressions(seed, noise, 2000, 1.05);
        assert!(found >= least, "{noise:?}: {found} of 2000");
    }
}

#[test]
fn no_test_keeps_the_promise_where_five_percent_is_the_scale_of_student_noise() {
    let found = regressions_at_best(16, 0.05, 20_000, 1.05);
    assert!((18_000..19_000).contains(&found), "{found} of 20,000");
}

#[test]
fn the_interval_holds_the_true_ratio_as_often_as_it_says() {
    let random = Seeded::new(8);
    for runs in [5, 12, 40, 90] {
        let mut missed = 0;
        for _ in 0..1000 {
            let (baseline, candidate) = sides(&random, Noise::Student, runs, 1.2);
            let found = compare(&baseline, &candidate, false, Rule::default()).unwrap();
            missed += usize::from(!(found.ratio_low..=found.ratio_high).contains(&1.2));
        }
        let promised = compare(&vec![1.0; runs], &vec![1.1; runs], false, Rule::default()).unwrap().confidence;
        let expected = 1000.0 * (1.0 - promised);
        assert!((missed as f64) <= expected + 4.0 * expected.sqrt() + 1.0, "{runs} runs: {missed} for {expected}");
    }
}

#[test]
fn the_stated_power_is_what_simulation_finds() {
    let random = Seeded::new(9);
    for runs in [10, 20, 40] {
        let mut found = 0;
        for _ in 0..1000 {
            let side = |ratio: f64| (0..runs).map(|_| (0.05 * random.normal()).exp() * ratio).collect::<Vec<_>>();
            let compared = compare(&side(1.0), &side(1.05), false, Rule::default()).unwrap();
            found += usize::from(compared.verdict == Verdict::Regression);
        }
        let told = power(runs as f64, 0.05, 0.05);
        assert!((found as f64 / 1000.0 - told).abs() < 0.08, "{runs} runs: {found} of 1000, told {told}");
    }
    assert!((40..=80).contains(&runs_needed(0.05, 0.05).unwrap()));
}

#[test]
fn too_few_runs_are_judged_only_when_the_sides_are_far_apart_and_it_says_so() {
    let rule = Rule::default();
    let found = compare(&[100.0, 101.0, 99.0], &[150.0, 151.0, 149.0], false, rule).unwrap();
    assert_eq!(found.verdict, Verdict::Regression);
    assert!((found.confidence - 0.9).abs() < 1e-9, "{}", found.confidence);
    let found = compare(&[100.0, 110.0, 90.0], &[105.0, 115.0, 95.0], false, rule).unwrap();
    assert_eq!(found.verdict, Verdict::Unsure);
    let sentence = found.sentence("build");
    assert!(sentence.contains("could not show one") && sentence.contains("runs a side find it in 95"), "{sentence}");
    for bad in [&[1.0, 2.0][..], &[1.0, 2.0, 0.0], &[1.0, 2.0, f64::NAN]] {
        assert!(compare(&[1.0, 2.0, 3.0], bad, false, rule).is_err());
    }
}

#[test]
fn equal_durations_are_equal() {
    let found = compare(&[5.0; 30], &[5.0; 30], true, Rule::default()).unwrap();
    assert_eq!((found.verdict, found.ratio, found.ratio_low, found.ratio_high), (Verdict::Same, 1.0, 1.0, 1.0));
    let faster = compare(&[10.0; 30], &[5.0; 30], false, Rule::default()).unwrap();
    assert_eq!(faster.verdict, Verdict::Improvement);
    assert!(faster.sentence("x").contains("50.0 % faster"), "{}", faster.sentence("x"));
}

#[test]
fn exact_counts_match_the_tables() {
    // Two-sided 5 % critical value of Mann-Whitney for 8 and 8 is 13: chance of at most 13 is 0.0249.
    let chances = rank_sum_counts(8, 8);
    assert!((chances[..=13].iter().sum::<f64>() - 0.0249).abs() < 1e-4);
    assert!((normal_quantile(0.975) - 1.959_964).abs() < 1e-5);
}
