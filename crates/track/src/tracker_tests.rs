//! Nothing is lost, nothing grows, whoever records and whoever reads.

use std::sync::atomic::AtomicBool;
use std::thread;

use weir_base::SystemClock;

use super::*;

fn tracker(limits: Limits) -> Tracker {
    Tracker::new(Arc::new(SystemClock::default()), "p", limits)
}

fn finished(tracker: &Tracker) -> Vec<Finished> {
    let mut rows = Vec::new();
    tracker.drain(|row| match row {
        Row::Finished(row) => rows.push(row),
        Row::Started(_) | Row::Sampled(_) => {}
    });
    rows
}

#[test]
fn dropped_is_failed_and_finished_is_not() {
    let tracker = tracker(Limits::default());
    tracker.start("a", &[("k", "v")]).finish();
    drop(tracker.start("a", &[("k", "v")]));
    tracker.start("a", &[("k", "v")]).fail();
    tracker.start("b", &[]).finish_as(&Ok::<(), ()>(()));
    let panicked = thread::spawn({
        let tracker = tracker.clone();
        move || {
            let _running = tracker.start("c", &[]);
            panic!("as wanted");
        }
    });
    assert!(panicked.join().is_err());
    let rows = finished(&tracker);
    let found: Vec<_> = rows.iter().map(|row| (&*row.name, row.count, row.failures)).collect();
    for expected in [("a", 3, 2), ("b", 1, 0), ("c", 1, 1)] {
        assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
    }
    assert_eq!(rows.iter().find(|row| row.name == "a").unwrap().labels["k"], "v");
    assert!(finished(&tracker).is_empty(), "taken once");
}

#[test]
fn long_ones_are_single_rows_with_their_measures_and_parents() {
    let tracker = tracker(Limits::default());
    let mut whole = tracker.start("import", &[]);
    whole.announce();
    whole.items(3);
    whole.bytes(1000);
    whole.measure("hit_ratio", 0.5);
    whole.measure("unknown", f64::NAN);
    whole.child("parse", &[]).finish();
    let mut started = Vec::new();
    tracker.drain(|row| started.push(row));
    let Row::Started(began) = &started[0] else { panic!("{started:?}") };
    thread::sleep(Duration::from_millis(2));
    whole.finish();
    let rows = finished(&tracker);
    let row = &rows[0];
    assert_eq!((row.items, row.bytes, row.measures["hit_ratio"]), (Some(3), Some(1000), 0.5));
    assert_eq!(row.id.as_deref(), Some(&*began.id));
    assert!(row.duration_ns >= 2_000_000 && !row.measures.contains_key("unknown"));
    let Row::Finished(part) = &started[1] else { panic!("{started:?}") };
    assert_eq!((&*part.name, part.parent.as_deref()), ("parse", Some("import")));
}

#[test]
fn s1_label_sets_past_the_limit_share_one_bucket_that_is_counted() {
    let tracker = tracker(Limits { label_sets_max: 10, ..Limits::default() });
    for value in 0..1000 {
        tracker.record("op", &[("n", &value.to_string())], Duration::from_micros(3), true);
    }
    let rows = finished(&tracker);
    assert_eq!(rows.len(), 11);
    assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 1000);
    assert_eq!(rows.iter().find(|row| row.name == OVERFLOW).unwrap().count, 990);
    assert_eq!(tracker.pressure().overflowed, 990);
}

#[test]
fn s1_a_full_queue_sums_what_would_be_single_rows() {
    let tracker = tracker(Limits { queue_max: 5, ..Limits::default() });
    for _ in 0..20 {
        tracker.record("op", &[], Duration::from_millis(7), true);
    }
    let rows = finished(&tracker);
    assert_eq!(rows.len(), 6);
    assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 20);
    assert_eq!(rows.iter().map(|row| row.duration_ns).sum::<u64>(), 140_000_000);
    assert_eq!(tracker.pressure().summed, 15);
}

#[test]
fn sixteen_threads_lose_nothing_while_a_reader_drains() {
    const EACH: u64 = 20_000;
    let tracker = tracker(Limits { label_sets_max: 40, ..Limits::default() });
    let done = AtomicBool::new(false);
    let (mut count, mut failures, mut sum, mut items) = (0, 0, 0u64, 0);
    let mut absorb = |rows: Vec<Finished>| {
        for row in rows {
            let mut sketch = Sketch::default();
            assert!(row.add_to(&mut sketch), "{row:?}");
            assert_eq!(sketch.count(), row.count);
            count += row.count;
            failures += row.failures;
            sum += row.duration_ns;
            items += row.items.unwrap_or(0);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..16u64)
            .map(|worker| {
                let tracker = &tracker;
                scope.spawn(move || {
                    let kind = tracker.kind("kind", &[]);
                    for at in 0..EACH {
                        let label = ((worker * 7 + at) % 50).to_string();
                        tracker.record("op", &[("n", &label)], Duration::from_nanos(1000 + at), at % 10 != 0);
                        kind.record(Duration::from_nanos(500), true);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            absorb(finished(&tracker));
        }
    });
    absorb(finished(&tracker));
    assert_eq!(count, 16 * EACH * 2);
    assert_eq!(failures, 16 * EACH / 10);
    assert_eq!(sum, 16 * (EACH * 1000 + EACH * (EACH - 1) / 2 + EACH * 500));
    assert!(tracker.pressure().overflowed > 0);
}
