//! Making it happen: applying a plan, resuming what was interrupted, settling what is in flight.
//!
//! Walk: [`apply`] checks that the plan still holds, journals the beginning, and lets `Runner` go through the stages with bounded
//! parallelism (each entry in `step`); then a fresh read is compared with what was intended, and the operation is sealed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weir_base::id::Uuid;
use weir_limits::{Deadline, Retry};

use crate::event::{Event, Outcome};
use crate::history::begin_of;
use crate::operation::{Operation, State, Step};
use crate::plan::{self, Plan, Policy};
use crate::target::Target;
use crate::{Error, History, Result};

/// Told after each entry that came to an end: its number and where it stands.
pub type OnStep<'a> = &'a (dyn Fn(u32, Step) + Sync);

/// Bounds of a run.
#[derive(Clone)]
pub struct RunOptions<'a> {
    /// Entries that are worked on at once; the target may allow fewer. Default 8.
    pub concurrency: usize,
    /// How long the whole run may take; what is not begun then stays planned. Default 4 h.
    pub deadline: Duration,
    /// How long one call may take. Default 30 s.
    pub call_deadline: Duration,
    /// How often and how far apart to try again. Default 6 tries, 200 ms to 20 s.
    pub retry: Retry,
    /// How long to wait for others who are at the same thing. Default 5 min.
    pub wait_max: Duration,
    /// The run that the operation belongs to. Default: one of its own.
    pub run: Option<Uuid>,
    /// What to do, when resuming, where the world moved.
    pub policy: Policy,
    /// Told of progress.
    pub on_step: Option<OnStep<'a>>,
}

impl Default for RunOptions<'_> {
    fn default() -> Self {
        Self {
            concurrency: 8,
            deadline: Duration::from_secs(4 * 3600),
            call_deadline: Duration::from_secs(30),
            retry: Retry { tries_max: 6, pause_first: Duration::from_millis(200), pause_max: Duration::from_secs(20) },
            wait_max: Duration::from_secs(300),
            run: None,
            policy: Policy::Refuse,
            on_step: None,
        }
    }
}

/// Carries a plan out as a new operation. That some entries failed is told by its state, not by an error.
///
/// # Errors
/// `Conflict` when the plan is stale; `Unavailable` when the history cannot be written: the operation can be resumed then.
pub fn apply(history: &History, target: &dyn Target, plan: &Plan, options: &RunOptions<'_>) -> Result<Operation> {
    plan.check_fresh(history, target)?;
    let id = history.new_id();
    let time = history.env().clock().now();
    let mut operation = Operation {
        id,
        run: options.run.unwrap_or(id),
        time,
        kind: plan.kind.clone(),
        target: plan.target.clone(),
        actor: plan.actor.clone(),
        undoes: plan.undoes.clone(),
        plan: plan.digest.clone(),
        origin: None,
        state: State::Running,
        verified: false,
        wrong: Vec::new(),
        ended: None,
        entries: plan.entries.clone(),
        progress: Vec::new(),
    };
    operation.progress = vec![crate::Progress::default(); operation.entries.len()];
    history.append(id, &[(time, begin_of(&operation))])?;
    Runner::new(history, target, options, operation, false).run()
}

/// Goes on with an operation that was interrupted or is partial: what is in flight is asked about, what failed is tried again.
///
/// # Errors
/// `Conflict` when it was undone or, by the policy, when the world moved; else as [`apply`].
pub fn resume(history: &History, target: &dyn Target, id: Uuid, options: &RunOptions<'_>) -> Result<Operation> {
    let mut operation = load(history, target, id)?;
    if !operation.is_resumable() {
        return Ok(operation);
    }
    let listing = crate::Listing { run: Some(operation.run), ..crate::Listing::default() };
    let (summaries, _) = history.view()?.list(&listing)?;
    if let Some(by) = summaries.iter().find(|summary| summary.id == id).and_then(|summary| summary.undone_by) {
        return Err(Error::conflict(format!("operation {id} was undone by {by}")));
    }
    let open: Vec<u32> = (0..operation.entries.len() as u32)
        .filter(|number| matches!(operation.progress[*number as usize].step, Step::Planned | Step::Failed))
        .collect();
    let keys: Vec<&str> = open.iter().map(|number| operation.entries[*number as usize].key.as_str()).collect();
    let states = plan::read(history.env(), target, &keys)?;
    let mut skipped = Vec::new();
    for (number, live) in open.into_iter().zip(states) {
        let entry = &operation.entries[number as usize];
        let planned = operation.progress[number as usize].step == Step::Planned;
        if live == entry.before || target.is_between(entry, &entry.before, &entry.after, &live) {
            continue;
        }
        if live == entry.after {
            if planned {
                skipped.push((number, "is so already".to_owned()));
            }
            continue;
        }
        match options.policy {
            Policy::Refuse => {
                let key = &entry.key;
                return Err(Error::conflict(format!("the plan is stale: '{key}' changed since the operation began")));
            }
            Policy::Skip => skipped.push((number, "changed since the operation began".to_owned())),
            Policy::Force => {}
        }
    }
    let time = history.env().clock().now();
    for (entry, reason) in skipped {
        let attempts = operation.progress[entry as usize].attempts;
        let event = Event::Outcome { entry, attempts, result: Outcome::Skipped, request: None, reason: Some(reason) };
        history.append(id, &[(time, event.clone())])?;
        operation.fold(time, event);
    }
    Runner::new(history, target, options, operation, false).run()
}

/// Finds out about what is in flight, begins nothing, and seals: afterwards the operation can be undone.
///
/// # Errors
/// As [`apply`].
pub fn settle(history: &History, target: &dyn Target, id: Uuid, options: &RunOptions<'_>) -> Result<Operation> {
    let operation = load(history, target, id)?;
    if operation.state != State::Running && operation.progress.iter().all(|progress| !progress.step.is_in_flight()) {
        return Ok(operation);
    }
    Runner::new(history, target, options, operation, true).run()
}

fn load(history: &History, target: &dyn Target, id: Uuid) -> Result<Operation> {
    let (operation, _) = history.view()?.show(&id.to_string())?;
    if operation.target != target.name() {
        let theirs = &operation.target;
        return Err(Error::conflict(format!("operation {id} changes {theirs}, not {}", target.name())));
    }
    Ok(operation)
}

/// One operation on its way.
pub(crate) struct Runner<'a> {
    pub(crate) history: &'a History,
    pub(crate) target: &'a dyn Target,
    pub(crate) options: &'a RunOptions<'a>,
    pub(crate) deadline: Deadline,
    /// Only ask about what is in flight.
    pub(crate) settle_only: bool,
    id: Uuid,
    state: Mutex<Run>,
}

struct Run {
    operation: Operation,
    /// Why nothing is begun any more.
    stopped: Option<String>,
    /// Why the history cannot be written any more.
    broken: Option<Error>,
}

impl<'a> Runner<'a> {
    fn new(
        history: &'a History,
        target: &'a dyn Target,
        options: &'a RunOptions<'a>,
        operation: Operation,
        settle_only: bool,
    ) -> Self {
        let deadline = Deadline::after(history.env().clock(), options.deadline);
        let id = operation.id;
        let state = Mutex::new(Run { operation, stopped: None, broken: None });
        Self { history, target, options, deadline, settle_only, id, state }
    }

    fn run(self) -> Result<Operation> {
        for (_, numbers) in self.stages() {
            self.go_through(&numbers);
            let whole = {
                let run = self.lock();
                numbers
                    .iter()
                    .all(|number| matches!(run.operation.progress[*number as usize].step, Step::Done | Step::Skipped))
            };
            if !whole && !self.settle_only {
                break;
            }
        }
        self.finish()
    }

    /// The numbers of what is not done, by stage.
    fn stages(&self) -> std::collections::BTreeMap<u32, Vec<u32>> {
        let run = self.lock();
        let mut stages: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
        for (number, (entry, progress)) in run.operation.entries.iter().zip(&run.operation.progress).enumerate() {
            let open = !matches!(progress.step, Step::Done | Step::Skipped);
            if open && (!self.settle_only || progress.step.is_in_flight()) {
                stages.entry(entry.stage).or_default().push(number as u32);
            }
        }
        stages
    }

    fn go_through(&self, numbers: &[u32]) {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.is_stopped() {
                    return;
                }
                if let Err(error) = self.step(*number) {
                    self.lock().broken.get_or_insert(error);
                    return;
                }
                if let Some(on_step) = self.options.on_step {
                    let step = self.lock().operation.progress[*number as usize].step;
                    on_step(*number, step);
                }
            }
        };
        let threads = self.options.concurrency.min(self.target.outstanding_max()).min(numbers.len()).max(1);
        if threads == 1 {
            return work();
        }
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }

    /// Verifies against a fresh read, and seals.
    fn finish(self) -> Result<Operation> {
        if let Some(error) = self.lock().broken.take() {
            return Err(error);
        }
        let operation = self.lock().operation.clone();
        let done: Vec<u32> = (0..operation.entries.len() as u32)
            .filter(|number| operation.progress[*number as usize].step == Step::Done)
            .collect();
        let keys: Vec<&str> = done.iter().map(|number| operation.entries[*number as usize].key.as_str()).collect();
        // A read that fails leaves it unverified, which shows; it does not undo what was done.
        if let Ok(states) = plan::read(self.history.env(), self.target, &keys) {
            let wrong = done
                .iter()
                .zip(states)
                .filter(|(number, state)| operation.entries[**number as usize].after != *state)
                .map(|(number, _)| *number)
                .collect();
            self.journal(Event::Verified { read: keys.len() as u32, wrong })?;
        }
        let state = self.lock().operation.sealed_state();
        self.journal(Event::Seal { state })?;
        let run = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.history.publish(&run.operation);
        Ok(run.operation)
    }

    /// Writes an event to the history, then folds it in.
    pub(crate) fn journal(&self, event: Event) -> Result<()> {
        let time = self.history.env().clock().now();
        let events = [(time, event)];
        self.history.append(self.id, &events)?;
        let [(time, event)] = events;
        self.lock().operation.fold(time, event);
        Ok(())
    }

    /// Nothing is to be begun any more.
    pub(crate) fn stop(&self, why: &str) {
        self.lock().stopped.get_or_insert_with(|| why.to_owned());
    }

    pub(crate) fn is_stopped(&self) -> bool {
        let run = self.lock();
        run.stopped.is_some() || run.broken.is_some() || self.deadline.has_passed(self.history.env().clock())
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry and how far it has come.
    pub(crate) fn entry(&self, number: u32) -> (crate::Entry, crate::Progress) {
        let run = self.lock();
        (run.operation.entries[number as usize].clone(), run.operation.progress[number as usize].clone())
    }
}
