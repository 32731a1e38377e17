//! Plans, outcomes, undo, drift: one case each.

use std::sync::atomic::Ordering;

use serde_json::json;
use weir_base::Kind;
use weir_limits::Deadline;
use weir_ops::plan::NoteKind;
use weir_ops::{
    Class, Entry, Failure, History, Listing, Operation, Plan, Policy, RunOptions, Started, State, Step, Target,
    UndoOptions, Value, apply, resume,
};

use crate::scripted::{Scripted, Trick, World, twice, wishes};

fn run(history: &History, target: &dyn Target, entries: Vec<Entry>) -> Operation {
    let plan = Plan::make(history, target, "tester", "assign", entries).unwrap();
    apply(history, target, &plan, &RunOptions::default()).unwrap()
}

fn undo(history: &History, target: &dyn Target, operation: &Operation, policy: Policy) -> weir_ops::Result<Operation> {
    let options = UndoOptions { policy, ..UndoOptions::default() };
    let plan = Plan::undo(history, target, "tester", &[operation.id], &options)?;
    apply(history, target, &plan, &RunOptions::default())
}

fn setup() -> (World, History, Scripted) {
    let world = World::new(1);
    let history = world.open().unwrap();
    let target = Scripted::new(Some(world.disk.clone()));
    (world, history, target)
}

#[test]
fn r4_an_undo_is_an_operation_and_can_be_undone() {
    let (_world, history, target) = setup();
    target.set("k01", Some(json!("mine already")));
    target.set("k02", Some(json!("new")));
    let before = target.states();
    let plan = Plan::make(&history, &target, "tester", "assign", wishes(5, "new")).unwrap();
    assert_eq!(plan.entries.iter().map(Entry::action).collect::<Vec<_>>(), ["add", "change", "add", "add"]);
    assert_eq!(plan.notes_of(NoteKind::Skip).count(), 1, "k02 is so already");
    let first = apply(&history, &target, &plan, &RunOptions::default()).unwrap();
    assert_eq!((first.state, first.verified, first.count(Step::Done)), (State::Done, true, 4));
    let after = target.states();
    let second = undo(&history, &target, &first, Policy::Refuse).unwrap();
    assert_eq!(target.states(), before);
    assert_eq!(second.undoes, [first.id]);
    let keys: Vec<&str> = second.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["k04", "k03", "k01", "k00"], "in reverse order");
    let third = undo(&history, &target, &second, Policy::Refuse).unwrap();
    assert_eq!(target.states(), after);
    let listed = history.view().unwrap().list(&Listing::default()).unwrap().0;
    let undone: Vec<_> = listed.iter().map(|summary| (summary.id, summary.undone_by)).collect();
    assert_eq!(undone, [(third.id, None), (second.id, Some(third.id)), (first.id, None)]);
    undo(&history, &target, &first, Policy::Refuse).unwrap();
    assert_eq!(target.states(), before, "what was restored can be undone again");
}

#[test]
fn r3_a_plan_is_refused_when_the_world_moved_or_it_was_edited() {
    let (world, history, target) = setup();
    let plan = Plan::make(&history, &target, "tester", "assign", wishes(3, "new")).unwrap();
    let bytes = plan.to_bytes().unwrap();
    assert_eq!(Plan::parse(&bytes).unwrap(), plan);
    let edited = String::from_utf8(bytes.clone()).unwrap().replace("\"k02\"", "\"k09\"");
    assert_eq!(Plan::parse(edited.as_bytes()).unwrap_err().kind(), Kind::Conflict);
    let options = RunOptions::default();
    target.set("k01", Some(json!("somebody else's")));
    assert_eq!(apply(&history, &target, &plan, &options).unwrap_err().kind(), Kind::Conflict);
    target.set("k01", None);
    // An operation on one of its keys, though the state is the same again.
    let other = run(&history, &target, wishes(1, "other"));
    undo(&history, &target, &other, Policy::Refuse).unwrap();
    let error = apply(&history, &target, &plan, &options).unwrap_err();
    assert!(error.kind() == Kind::Conflict && error.to_string().contains("stale"), "{error}");
    assert!(target.states().is_empty(), "a refused plan touches nothing");
    // One on other keys does not matter.
    let plan = Plan::make(&history, &target, "tester", "assign", wishes(1, "new")).unwrap();
    run(&history, &target, wishes(3, "x").split_off(1));
    apply(&history, &target, &plan, &options).unwrap();
    let elsewhere = World::new(world.seed + 1);
    let strange = elsewhere.open().unwrap();
    assert_eq!(apply(&strange, &target, &plan, &options).unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn failures_are_classified_and_none_counts_as_success() {
    let (_world, history, target) = setup();
    target.trick(0, Trick::Fails(Class::Skip));
    target.trick(1, Trick::Fails(Class::Retry));
    target.trick(2, Trick::Fails(Class::Wait));
    target.trick(4, Trick::Slow(3));
    target.trick(5, Trick::FailsLater);
    target.trick(6, Trick::LosesAnswer);
    let options = RunOptions { concurrency: 1, ..RunOptions::default() };
    let plan = Plan::make(&history, &target, "tester", "assign", wishes(6, "new")).unwrap();
    let operation = apply(&history, &target, &plan, &options).unwrap();
    assert_eq!(operation.state, State::Partial);
    let steps: Vec<Step> = operation.progress.iter().map(|progress| progress.step).collect();
    assert_eq!(steps, [Step::Failed, Step::Done, Step::Done, Step::Failed, Step::Done, Step::Done]);
    assert_eq!(operation.progress[1].attempts, 3, "a retry, a wait, and the one that worked");
    assert_eq!(operation.progress[0].reason.as_deref(), Some("told to fail as Skip"));
    assert_eq!(operation.progress[3].reason.as_deref(), Some("the target gave up"));
    assert!(twice(&target.effects()).is_empty(), "a lost answer is asked about, not repeated");
    let again = resume(&history, &target, operation.id, &options).unwrap();
    assert_eq!((again.state, again.verified), (State::Done, true));
    assert_eq!(target.states().len(), 6);
    let calls = target.calls.load(Ordering::Relaxed);
    assert_eq!(resume(&history, &target, operation.id, &options).unwrap(), again);
    assert_eq!(target.calls.load(Ordering::Relaxed), calls, "there is nothing left to do");
}

#[test]
fn access_denied_stops_at_once() {
    let (_world, history, target) = setup();
    target.trick(2, Trick::Fails(Class::Stop));
    let options = RunOptions { concurrency: 1, ..RunOptions::default() };
    let plan = Plan::make(&history, &target, "tester", "assign", wishes(9, "new")).unwrap();
    let operation = apply(&history, &target, &plan, &options).unwrap();
    let counts = (operation.count(Step::Done), operation.count(Step::Failed), operation.count(Step::Planned));
    assert_eq!((operation.state, counts), (State::Partial, (2, 1, 6)));
    assert_eq!(target.calls.load(Ordering::Relaxed), 3);
}

#[test]
fn the_deadline_stops_a_target_that_never_ends() {
    let (_world, history, target) = setup();
    target.trick(0, Trick::Slow(u32::MAX));
    let deadline = std::time::Duration::from_secs(20);
    let options = RunOptions { concurrency: 1, deadline, ..RunOptions::default() };
    let plan = Plan::make(&history, &target, "tester", "assign", wishes(2, "new")).unwrap();
    let operation = apply(&history, &target, &plan, &options).unwrap();
    let steps: Vec<Step> = operation.progress.iter().map(|progress| progress.step).collect();
    assert_eq!((operation.state, steps), (State::Failed, vec![Step::Accepted, Step::Planned]), "S2");
}

#[test]
fn drift_and_later_operations_are_shown_and_decided_by_the_policy() {
    for policy in [Policy::Refuse, Policy::Skip, Policy::Force] {
        let (_world, history, target) = setup();
        let first = run(&history, &target, wishes(4, "new"));
        run(&history, &target, wishes(1, "later"));
        target.set("k01", Some(json!("drifted")));
        target.set("k02", None);
        let options = UndoOptions { policy, ..UndoOptions::default() };
        let plan = Plan::undo(&history, &target, "tester", &[first.id], &options).unwrap();
        let kinds: Vec<(&str, NoteKind)> = plan.notes.iter().map(|note| (note.key.as_str(), note.kind)).collect();
        assert_eq!(kinds, [("k02", NoteKind::Skip), ("k01", NoteKind::Drift), ("k00", NoteKind::Conflict)]);
        let outcome = apply(&history, &target, &plan, &RunOptions::default());
        let left: Vec<String> = target.states().into_keys().collect();
        match policy {
            Policy::Refuse => {
                assert_eq!(outcome.unwrap_err().kind(), Kind::Conflict);
                assert_eq!(left, ["k00", "k01", "k03"]);
            }
            Policy::Skip => assert_eq!((outcome.unwrap().state, left), (State::Done, vec!["k00".into(), "k01".into()])),
            Policy::Force => assert_eq!((outcome.unwrap().state, left), (State::Done, vec![])),
        }
    }
}

#[test]
fn several_operations_are_undone_as_one_and_a_filter_chooses() {
    let (_world, history, target) = setup();
    target.set("k03", Some(json!("old")));
    let before = target.states();
    let first = run(&history, &target, wishes(8, "one"));
    let second = run(&history, &target, wishes(4, "two"));
    let only = "account=a1".parse().unwrap();
    let options = UndoOptions { only, ..UndoOptions::default() };
    let plan = Plan::undo(&history, &target, "tester", &[second.id], &options).unwrap();
    assert_eq!(plan.entries.len(), 1, "k01");
    let plan = Plan::undo(&history, &target, "tester", &[first.id, second.id], &UndoOptions::default()).unwrap();
    assert_eq!(plan.undoes, [second.id, first.id], "the newest first");
    apply(&history, &target, &plan, &RunOptions::default()).unwrap();
    assert_eq!(target.states(), before);
}

#[test]
fn stages_are_done_one_after_the_other_and_undone_the_other_way() {
    let (_world, history, target) = setup();
    let mut entries = wishes(6, "new");
    entries.iter_mut().enumerate().for_each(|(n, entry)| entry.stage = (5 - n as u32) / 2);
    let operation = run(&history, &target, entries.clone());
    undo(&history, &target, &operation, Policy::Refuse).unwrap();
    let order: Vec<String> = target.effects().into_iter().map(|(key, _)| key).collect();
    let stage = |key: &str| entries.iter().find(|entry| entry.key == key).unwrap().stage;
    let stages: Vec<u32> = order.iter().map(|key| stage(key)).collect();
    assert_eq!(stages, [0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0]);
    target.trick(12, Trick::Fails(Class::Skip));
    let partial = run(&history, &target, entries);
    let counts = (partial.count(Step::Done), partial.count(Step::Failed), partial.count(Step::Planned));
    assert_eq!(counts, (1, 1, 4), "a stage waits for the one before");
}

/// A target on which some changes cannot be taken back.
struct Stuck<'a> {
    inner: &'a Scripted,
    key: &'static str,
}

impl Target for Stuck<'_> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read(&self, keys: &[&str], deadline: Deadline) -> Result<Vec<Value>, Failure> {
        self.inner.read(keys, deadline)
    }

    fn start(&self, entry: &Entry, to: &Value, deadline: Deadline) -> Result<Started, Failure> {
        self.inner.start(entry, to, deadline)
    }

    fn obstacle(&self, entry: &Entry, _deadline: Deadline) -> Result<Option<String>, Failure> {
        Ok((entry.key == self.key).then(|| "has gone for good".to_owned()))
    }
}

#[test]
fn r3_what_cannot_be_taken_back_is_a_conflict_under_every_policy() {
    let (_world, history, target) = setup();
    let first = run(&history, &target, wishes(3, "new"));
    let stuck = Stuck { inner: &target, key: "k01" };
    for policy in [Policy::Skip, Policy::Force] {
        let options = UndoOptions { policy, ..UndoOptions::default() };
        let plan = Plan::undo(&history, &stuck, "tester", &[first.id], &options).unwrap();
        assert_eq!((plan.entries.len(), plan.notes_of(NoteKind::Conflict).count()), (2, 1), "{policy:?}");
    }
    let error = undo(&history, &stuck, &first, Policy::Refuse).unwrap_err();
    assert!(error.kind() == Kind::Conflict && error.to_string().contains("'k01' has gone for good"), "{error}");
    assert_eq!(target.states().len(), 3, "nothing was touched");
    undo(&history, &stuck, &first, Policy::Skip).unwrap();
    assert_eq!(target.states().into_keys().collect::<Vec<_>>(), ["k01"]);
}
