//! Admission in all orders of its steps with few preemptions: callers that run, wait, give up and come back at once.
//!
//! Runs with `RUSTFLAGS="--cfg loom" cargo test -p weir-limits --test loom --release`; without that flag the same scenes run on
//! real threads, many times. A waiter that is never woken is a deadlock, which the model reports.

use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

use weir_limits::admission::{Admit, Full};
use weir_limits::{Admission, Permit, Priority};

#[cfg(loom)]
use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Condvar, Mutex},
    thread,
};
#[cfg(not(loom))]
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Condvar, Mutex},
    thread,
};

#[cfg(loom)]
fn explore(scene: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    // As in the model of the tracker: all orders in which threads are stopped against their will at most twice.
    model.preemption_bound = Some(2);
    model.check(scene);
}

#[cfg(not(loom))]
fn explore(scene: impl Fn() + Send + Sync + 'static) {
    (0..500).for_each(|_| scene());
}

/// Wakes a thread that waits for a future.
struct Signal {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Signal {
    fn wake(self: std::sync::Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

fn signal() -> std::sync::Arc<Signal> {
    std::sync::Arc::new(Signal { woken: Mutex::new(false), changed: Condvar::new() })
}

fn poll(admit: &mut Admit, signal: &std::sync::Arc<Signal>) -> Poll<Result<Permit, Full>> {
    let waker = Waker::from(std::sync::Arc::clone(signal));
    Pin::new(admit).poll(&mut Context::from_waker(&waker))
}

/// Waits as a caller without a deadline does.
fn wait(mut admit: Admit) -> Result<Permit, Full> {
    let signal = signal();
    loop {
        if let Poll::Ready(outcome) = poll(&mut admit, &signal) {
            return outcome;
        }
        let mut woken = signal.woken.lock().unwrap();
        while !*woken {
            woken = signal.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// Asks once and goes away, with or without a permit: a caller whose deadline passes, or who is cancelled.
fn ask_once(mut admit: Admit) {
    drop(poll(&mut admit, &signal()));
}

/// Q1: nothing runs, nobody waits, and every permit can be had.
fn check_idle(admission: &Admission) {
    assert_eq!((admission.running(), admission.waiting()), (0, 0));
    let permits: Vec<_> = (0..admission.running_max()).map(|_| admission.try_admit()).collect();
    assert!(permits.iter().all(Option::is_some), "a permit is lost");
    assert!(admission.try_admit().is_none(), "there is a permit too many");
}

/// Runs while nobody else does.
fn run_alone(running: &AtomicUsize, permit: Permit) {
    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two run where one may");
    running.fetch_sub(1, Ordering::SeqCst);
    drop(permit);
}

#[test]
fn no_more_run_than_may_and_every_waiter_runs() {
    explore(|| {
        let (admission, running) = (Admission::new(1, 2), Arc::new(AtomicUsize::new(0)));
        let others: Vec<_> = [Priority::Low, Priority::High]
            .into_iter()
            .map(|priority| {
                let (admission, running) = (admission.clone(), Arc::clone(&running));
                thread::spawn(move || run_alone(&running, wait(admission.admit(priority)).expect("a place for each")))
            })
            .collect();
        run_alone(&running, wait(admission.admit(Priority::Normal)).expect("a place for each"));
        others.into_iter().for_each(|other| other.join().unwrap());
        check_idle(&admission);
    });
}

#[test]
fn a_waiter_that_leaves_while_a_permit_comes_back_hands_it_on() {
    explore(|| {
        let admission = Admission::new(1, 2);
        let permit = admission.try_admit().expect("nobody runs");
        let leaving = {
            let admission = admission.clone();
            thread::spawn(move || ask_once(admission.admit(Priority::High)))
        };
        let staying = {
            let admission = admission.clone();
            thread::spawn(move || drop(wait(admission.admit(Priority::Normal)).expect("a place for each")))
        };
        drop(permit);
        leaving.join().unwrap();
        staying.join().unwrap();
        check_idle(&admission);
    });
}

#[test]
fn one_waits_and_one_is_refused_where_one_may_wait() {
    explore(|| {
        let admission = Admission::new(1, 1);
        let permit = admission.try_admit().expect("nobody runs");
        let ask = |admission: Admission| {
            let mut admit = admission.admit(Priority::Normal);
            let outcome = poll(&mut admit, &signal());
            let refused = matches!(outcome, Poll::Ready(Err(Full { waiting_max: 1 })));
            assert!(refused || outcome.is_pending(), "it runs besides the one that may");
            (admit, refused)
        };
        let other = {
            let admission = admission.clone();
            thread::spawn(move || ask(admission))
        };
        let (mine, other) = (ask(admission.clone()), other.join().unwrap());
        assert!(mine.1 != other.1, "one of two is refused");
        assert_eq!((admission.running(), admission.waiting()), (1, 1));
        drop((mine, other));
        assert_eq!((admission.running(), admission.waiting()), (1, 0));
        drop(permit);
        check_idle(&admission);
    });
}

#[test]
fn who_asks_without_waiting_neither_runs_besides_nor_loses_a_permit() {
    explore(|| {
        let (admission, running) = (Admission::new(1, 1), Arc::new(AtomicUsize::new(0)));
        let permit = admission.try_admit().expect("nobody runs");
        let waiting = {
            let (admission, running) = (admission.clone(), Arc::clone(&running));
            thread::spawn(move || run_alone(&running, wait(admission.admit(Priority::Normal)).expect("a place")))
        };
        let trying = {
            let (admission, running) = (admission.clone(), Arc::clone(&running));
            thread::spawn(move || {
                if let Some(permit) = admission.try_admit() {
                    run_alone(&running, permit);
                }
            })
        };
        run_alone(&running, permit);
        waiting.join().unwrap();
        trying.join().unwrap();
        check_idle(&admission);
    });
}
