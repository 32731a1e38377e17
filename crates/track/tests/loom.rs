//! The lock-free part in all orders of its steps with few preemptions: recorders that add while a reader takes.
//!
//! Runs with `RUSTFLAGS="--cfg loom" cargo test -p weir-track --test loom --release`; without that flag the same
//! scenes run on real threads, many times.

use weir_track::cells::{Counter, Sums};

#[cfg(loom)]
use loom::{sync::Arc, thread};
#[cfg(not(loom))]
use std::{sync::Arc, thread};

#[cfg(loom)]
fn explore(scene: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    // All orders in which threads are stopped against their will at most twice: most races need one or two stops
    // (Musuvathi and Qadeer, "Iterative context bounding", PLDI 2007), and all orders would take hours.
    model.preemption_bound = Some(2);
    model.check(scene);
}

#[cfg(not(loom))]
fn explore(scene: impl Fn() + Send + Sync + 'static) {
    (0..500).for_each(|_| scene());
}

#[test]
fn counts_and_carries_are_taken_once_each() {
    explore(|| {
        let cells = Arc::new((Counter::default(), Counter::default()));
        let recorders: Vec<_> = (0..2)
            .map(|_| {
                let cells = Arc::clone(&cells);
                thread::spawn(move || {
                    for _ in 0..2 {
                        if cells.0.add() {
                            let _ = cells.1.add();
                        }
                    }
                })
            })
            .collect();
        let taken =
            |cells: &(Counter, Counter)| u64::from(cells.1.take()) * Counter::carry() + u64::from(cells.0.take());
        let early = taken(&cells);
        for recorder in recorders {
            recorder.join().unwrap();
        }
        assert_eq!(early + taken(&cells), 4);
    });
}

#[test]
fn sums_and_extremes_are_taken_once_each() {
    explore(|| {
        let sums = Arc::new(Sums::default());
        let recorders: Vec<_> = [3, 5]
            .into_iter()
            .map(|duration| {
                let sums = Arc::clone(&sums);
                thread::spawn(move || sums.add(duration, duration == 3, 1, 0))
            })
            .collect();
        let early = sums.take();
        for recorder in recorders {
            recorder.join().unwrap();
        }
        let late = sums.take();
        assert_eq!(early.sum_ns + late.sum_ns, 8);
        assert_eq!((early.failures + late.failures, early.items + late.items), (1, 2));
        assert_eq!((early.min_ns.min(late.min_ns), early.max_ns.max(late.max_ns)), (3, 5));
    });
}
