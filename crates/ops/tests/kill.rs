//! A real process on real files is killed with SIGKILL before and after every change of the disk and every call, then resumed.

#![allow(clippy::disallowed_methods, reason = "these tests work on real processes and a real disk")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use weir_ops::{Env, Listing, State, Step, View};

const ENTRIES: usize = 40;

/// The program, which cargo builds beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/crash_run")
}

fn run(dir: &Path, point: u64) -> Output {
    Command::new(program()).arg(dir).arg(point.to_string()).output().unwrap()
}

fn effects(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(dir.join("effects")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// R1: what took effect was announced.
fn check_intents(dir: &Path, point: u64) {
    let effects = effects(dir);
    if effects.is_empty() {
        return;
    }
    let view = View::open(Env::system(), &dir.join("operations")).unwrap();
    let (listed, _) = view.list(&Listing::default()).unwrap();
    let (operation, _) = view.show(&listed[0].id.to_string()).unwrap();
    let attempts: BTreeMap<&str, u32> =
        operation.entries.iter().zip(&operation.progress).map(|(e, p)| (e.key.as_str(), p.attempts)).collect();
    for key in &effects {
        assert!(attempts[key.as_str()] > 0, "point {point}: {key} took effect without an intent");
    }
}

#[test]
fn r1_r2_killed_at_every_point_a_run_is_resumed_to_its_planned_state() {
    let whole = tempfile::tempdir().unwrap();
    let output = run(whole.path(), u64::MAX);
    assert!(output.status.success(), "{output:?}");
    let points: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    assert!(points > 2 * (3 * ENTRIES as u64), "{points}");
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(point) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|point| *point < points) {
                    check_point(point);
                }
            });
        }
    });
}

fn check_point(point: u64) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(!run(dir, point).status.success(), "it was killed at point {point}");
    check_intents(dir, point);
    let output = run(dir, u64::MAX);
    assert!(output.status.success(), "point {point}: {output:?}");
    let mut effects = effects(dir);
    assert_eq!(effects.len(), ENTRIES, "point {point}: each once");
    effects.sort();
    effects.dedup();
    assert_eq!(effects.len(), ENTRIES, "point {point}: nothing twice");
    let view = View::open(Env::system(), &dir.join("operations")).unwrap();
    let (listed, _) = view.list(&Listing::default()).unwrap();
    assert_eq!((listed.len(), listed[0].state, listed[0].verified), (1, State::Done, true), "point {point}");
    let (operation, _) = view.show(&listed[0].id.to_string()).unwrap();
    assert_eq!(operation.count(Step::Done) as usize, ENTRIES, "point {point}");
}
