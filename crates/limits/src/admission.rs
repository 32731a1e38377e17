//! Admission: how many calls run at once and how many may wait, with priority; a permit returns itself on every path.
//!
//! The caller bounds the wait with its own deadline by dropping the future [`Admission::admit`] gives: a waiter that goes
//! away gives up its place, or hands on the permit that it was just given. The lock is held for a few instructions, never
//! across a wake-up. `tests/loom.rs` tries every order of these steps.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[cfg(loom)]
use loom::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Arc, Mutex, MutexGuard};

/// Who goes first when a permit comes back; within a priority the longest waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Before all others: an operator's question.
    High,
    /// What users ask.
    #[default]
    Normal,
    /// What can wait: background work.
    Low,
}

const PRIORITIES: usize = 3;

/// A bound on calls that run and calls that wait. Cheap to clone; clones share the bound.
#[derive(Debug, Clone)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    running_max: usize,
    waiting_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    next_ticket: u64,
    waiting: [VecDeque<Waiter>; PRIORITIES],
    /// Waiters that were given a permit and have not taken it yet.
    granted: Vec<u64>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    waker: Waker,
}

/// The right to run; dropping it gives it back.
#[derive(Debug)]
#[must_use = "the call is admitted only as long as the permit lives"]
pub struct Permit {
    shared: Arc<Shared>,
}

/// As many calls wait as may; this one was refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many may wait.
    pub waiting_max: usize,
}

/// Waits for a permit; dropping it gives up the place.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Admit {
    shared: Arc<Shared>,
    priority: Priority,
    ticket: Option<u64>,
}

impl Admission {
    /// At most `running_max` calls run (at least 1) and at most `waiting_max` wait.
    pub fn new(running_max: usize, waiting_max: usize) -> Self {
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { running_max: running_max.max(1), waiting_max, state }) }
    }

    /// A permit at once, unless all are out or others wait.
    pub fn try_admit(&self) -> Option<Permit> {
        let mut state = self.shared.lock();
        let free = state.running < self.shared.running_max && state.waiting() == 0;
        free.then(|| {
            state.running += 1;
            Permit { shared: Arc::clone(&self.shared) }
        })
    }

    /// A permit as soon as there is one. The future resolves to [`Full`] at its first poll when too many wait already.
    pub fn admit(&self, priority: Priority) -> Admit {
        Admit { shared: Arc::clone(&self.shared), priority, ticket: None }
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.shared.lock().running
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting()
    }

    /// How many may run.
    pub fn running_max(&self) -> usize {
        self.shared.running_max
    }

    /// How many may wait.
    pub fn waiting_max(&self) -> usize {
        self.shared.waiting_max
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Takes a permit back and hands it to the next waiter.
    fn release(&self) {
        let next = {
            let mut state = self.lock();
            match state.waiting.iter_mut().find_map(VecDeque::pop_front) {
                Some(next) => {
                    state.granted.push(next.ticket);
                    Some(next.waker)
                }
                None => {
                    state.running -= 1;
                    None
                }
            }
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Takes the grant of `ticket`, if it has one.
    fn take_grant(&mut self, ticket: u64) -> bool {
        let found = self.granted.iter().position(|&granted| granted == ticket);
        found.map(|index| self.granted.swap_remove(index)).is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl Future for Admit {
    type Output = Result<Permit, Full>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if let Some(ticket) = self.ticket {
            if state.take_grant(ticket) {
                self.ticket = None;
                return Poll::Ready(Ok(Permit { shared: Arc::clone(&shared) }));
            }
            let waiter = state.waiting[self.priority as usize].iter_mut().find(|waiter| waiter.ticket == ticket);
            if let Some(waiter) = waiter {
                waiter.waker.clone_from(context.waker());
            }
            return Poll::Pending;
        }
        if state.running < shared.running_max && state.waiting() == 0 {
            state.running += 1;
            return Poll::Ready(Ok(Permit { shared: Arc::clone(&shared) }));
        }
        if state.waiting() >= shared.waiting_max {
            return Poll::Ready(Err(Full { waiting_max: shared.waiting_max }));
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting[self.priority as usize].push_back(Waiter { ticket, waker: context.waker().clone() });
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl Drop for Admit {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let granted = {
            let mut state = self.shared.lock();
            state.waiting[self.priority as usize].retain(|waiter| waiter.ticket != ticket);
            state.take_grant(ticket)
        };
        if granted {
            self.shared.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(admit: &mut Admit) -> Poll<Result<Permit, Full>> {
        let waker = Waker::from(Arc::new(Count::default()));
        Pin::new(admit).poll(&mut Context::from_waker(&waker))
    }

    fn take(admit: &mut Admit) -> Permit {
        match poll(admit) {
            Poll::Ready(Ok(permit)) => permit,
            other => panic!("no permit: {other:?}"),
        }
    }

    #[test]
    fn past_the_limits_calls_wait_and_then_are_refused() {
        let admission = Admission::new(1, 2);
        let first = take(&mut admission.admit(Priority::Normal));
        let (mut second, mut third) = (admission.admit(Priority::Normal), admission.admit(Priority::Normal));
        assert!(poll(&mut second).is_pending());
        assert!(poll(&mut third).is_pending());
        assert!(matches!(poll(&mut admission.admit(Priority::High)), Poll::Ready(Err(Full { waiting_max: 2 }))));
        assert!(admission.try_admit().is_none());
        assert_eq!((admission.running(), admission.waiting()), (1, 2));
        drop(first);
        let second = take(&mut second);
        assert!(poll(&mut third).is_pending());
        assert_eq!((admission.running(), admission.waiting()), (1, 1));
        drop(second);
        drop(take(&mut third));
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
        assert!(admission.try_admit().is_some());
    }

    #[test]
    fn the_more_urgent_waiter_goes_first() {
        let admission = Admission::new(1, 10);
        let first = admission.try_admit().unwrap();
        let mut waiters: Vec<_> = [Priority::Low, Priority::Normal, Priority::High, Priority::Normal]
            .into_iter()
            .map(|priority| admission.admit(priority))
            .collect();
        assert!(waiters.iter_mut().all(|waiter| poll(waiter).is_pending()));
        drop(first);
        for next in [2, 1, 3, 0] {
            let ready: Vec<_> = (0..4).filter(|&index| waiters[index].ticket.is_some() && index != next).collect();
            assert!(ready.into_iter().all(|index| poll(&mut waiters[index]).is_pending()));
            drop(take(&mut waiters[next]));
        }
    }

    /// Q1: a place or a permit comes back on every path, also when a waiter leaves just after it was given one.
    #[test]
    fn a_waiter_that_leaves_loses_nothing() {
        let admission = Admission::new(1, 10);
        let first = admission.try_admit().unwrap();
        let (mut leaver, mut stayer) = (admission.admit(Priority::Normal), admission.admit(Priority::Normal));
        assert!(poll(&mut leaver).is_pending());
        assert!(poll(&mut stayer).is_pending());
        drop(first);
        drop(leaver);
        let permit = take(&mut stayer);
        let mut gone = admission.admit(Priority::Normal);
        assert!(poll(&mut gone).is_pending());
        drop(gone);
        drop(permit);
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
    }

    /// Q1: after any storm of callers that finish, panic or give up, all permits are back.
    #[test]
    fn a_storm_returns_every_permit() {
        let admission = Admission::new(3, 5);
        let highest = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (admission, highest) = (admission.clone(), &highest);
                scope.spawn(move || {
                    let mut seed = thread + 1;
                    for _ in 0..2000 {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let mut admit = admission.admit(Priority::Normal);
                        let tries = (seed >> 60) as usize;
                        for _ in 0..=tries {
                            match poll(&mut admit) {
                                Poll::Pending => std::thread::yield_now(),
                                Poll::Ready(Err(_)) => break,
                                Poll::Ready(Ok(permit)) => {
                                    highest.fetch_max(admission.running(), Ordering::SeqCst);
                                    drop(permit);
                                    break;
                                }
                            }
                        }
                    }
                });
            }
        });
        assert!(highest.into_inner() <= 3);
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
        assert!(admission.shared.lock().granted.is_empty());
    }
}
