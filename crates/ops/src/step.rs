//! One entry, from its intent to its outcome.
//!
//! Walk: what may have had an effect is asked about before it is called for again; a call is announced before it is made (R1); what
//! it answers is classified, and only a confirmed change is `done`.

use std::time::Duration;

use weir_limits::Deadline;

use crate::Result;
use crate::event::{Event, Outcome};
use crate::operation::{Entry, Step};
use crate::plan::Policy;
use crate::run::Runner;
use crate::target::{Asked, Class, Failure, Started};

/// An entry on its way.
struct Way<'a> {
    number: u32,
    entry: &'a Entry,
    attempts: u32,
    request: Option<String>,
    /// A call was made whose end is not known.
    must_ask: bool,
    /// Tries of this run.
    tries: u32,
    /// How often, and how long in all, others were waited for.
    waits: u32,
    waited: Duration,
}

enum Next {
    /// Around once more.
    Again,
    /// It came to an end, or stays as it is for a later resume.
    Over,
}

impl Runner<'_> {
    /// Works on an entry until it comes to an end, or the run is stopped.
    pub(crate) fn step(&self, number: u32) -> Result<()> {
        let (entry, progress) = self.entry(number);
        let mut way = Way {
            number,
            entry: &entry,
            attempts: progress.attempts,
            request: progress.request.filter(|_| progress.step == Step::Accepted),
            must_ask: progress.step.is_in_flight() || progress.attempts > 0,
            tries: 0,
            waits: 0,
            waited: Duration::ZERO,
        };
        while !self.is_stopped() {
            let next = if way.must_ask { self.ask(&mut way)? } else { self.call(&mut way)? };
            if matches!(next, Next::Over) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Announces the call, makes it, and writes what came of it.
    fn call(&self, way: &mut Way<'_>) -> Result<Next> {
        if self.settle_only {
            self.outcome(way, Outcome::Failed, Some("was interrupted before it took effect".to_owned()))?;
            return Ok(Next::Over);
        }
        way.attempts += 1;
        self.journal(Event::Intent { entry: way.number, attempt: way.attempts })?;
        way.request = None;
        match self.target.start(way.entry, &way.entry.after, self.call_deadline()) {
            Ok(Started::Done { request }) => {
                way.request = request;
                self.outcome(way, Outcome::Done, None)?;
                Ok(Next::Over)
            }
            Ok(Started::Accepted { request }) => {
                way.request = Some(request);
                way.must_ask = true;
                self.outcome(way, Outcome::Accepted, None)?;
                Ok(Next::Again)
            }
            Err(failure) => {
                // Only these two may have had an effect: a timeout, or access lost between the parts of a change.
                way.must_ask = matches!(failure.class, Class::Retry);
                self.failed(way, failure)
            }
        }
    }

    /// Asks what came of the last call.
    fn ask(&self, way: &mut Way<'_>) -> Result<Next> {
        let entry = way.entry;
        let asked = self.target.ask(entry, &entry.after, way.request.as_deref(), self.call_deadline());
        match asked {
            Ok(Asked::Done) => {
                self.outcome(way, Outcome::Done, None)?;
                Ok(Next::Over)
            }
            Ok(Asked::Accepted { request }) => {
                if way.request.as_ref() != Some(&request) {
                    way.request = Some(request);
                    self.outcome(way, Outcome::Accepted, None)?;
                }
                Ok(self.pause(self.target.ask_pause()))
            }
            Ok(Asked::Failed(failure)) => {
                (way.request, way.must_ask) = (None, false);
                self.failed(way, failure)
            }
            Ok(Asked::State(state)) => {
                (way.request, way.must_ask) = (None, false);
                let ours = state == entry.before
                    || self.options.policy == Policy::Force
                    || self.target.is_between(entry, &entry.before, &entry.after, &state);
                if state == entry.after {
                    self.outcome(way, Outcome::Done, None)?;
                    return Ok(Next::Over);
                }
                if ours {
                    return Ok(Next::Again);
                }
                let result = if self.options.policy == Policy::Skip { Outcome::Skipped } else { Outcome::Failed };
                self.outcome(way, result, Some("changed since the operation began".to_owned()))?;
                Ok(Next::Over)
            }
            Err(failure) => self.failed(way, failure),
        }
    }

    /// Decides by the class of a failure. None of them counts as success.
    fn failed(&self, way: &mut Way<'_>, failure: Failure) -> Result<Next> {
        let pause = self.options.retry.pause(way.tries + way.waits + 1, &*self.history.env().random);
        let pause = pause.max(failure.after.unwrap_or(Duration::ZERO));
        if failure.request.is_some() && !way.must_ask {
            way.request.clone_from(&failure.request);
        }
        match failure.class {
            Class::Retry if way.tries + 1 < self.options.retry.tries_max => {
                way.tries += 1;
                Ok(self.pause(pause))
            }
            Class::Wait if way.waited < self.options.wait_max => {
                let pause = pause.max(self.target.ask_pause());
                way.waited += pause;
                way.waits += 1;
                Ok(self.pause(pause))
            }
            class => {
                let result = if way.must_ask { Outcome::Unknown } else { Outcome::Failed };
                // An accepted request stays accepted: it can be asked about when the operation is resumed.
                if way.must_ask && way.request.is_some() {
                    self.outcome(way, Outcome::Accepted, Some(failure.reason.clone()))?;
                } else {
                    self.outcome(way, result, Some(failure.reason.clone()))?;
                }
                if class == Class::Stop {
                    self.stop(&failure.reason);
                }
                Ok(Next::Over)
            }
        }
    }

    /// Sleeps, unless the run would be over by then.
    fn pause(&self, pause: Duration) -> Next {
        let clock = self.history.env().clock();
        if pause >= self.deadline.remaining(clock) {
            self.stop("the deadline of the run has come");
            return Next::Over;
        }
        clock.sleep(pause);
        Next::Again
    }

    fn call_deadline(&self) -> Deadline {
        self.deadline.at_most(self.history.env().clock(), self.options.call_deadline)
    }

    fn outcome(&self, way: &Way<'_>, result: Outcome, reason: Option<String>) -> Result<()> {
        let (entry, attempts, request) = (way.number, way.attempts, way.request.clone());
        self.journal(Event::Outcome { entry, attempts, result, request, reason })
    }
}
