//! The process dies after every step of the disk and every call of a run of 40 entries, and is resumed.

use std::collections::BTreeMap;

use serde_json::json;
use weir_ops::{History, Listing, Plan, RunOptions, State, Step, UndoOptions, apply, resume, settle};
use weir_sim::Fault;

use crate::scripted::{Scripted, Trick, World, twice, wishes};

const ENTRIES: usize = 40;

fn options() -> RunOptions<'static> {
    RunOptions { concurrency: 1, ..RunOptions::default() }
}

/// Every third call is only accepted at first.
fn target(world: &World) -> Scripted {
    let target = Scripted::new(Some(world.disk.clone()));
    (0..ENTRIES as u64).step_by(3).for_each(|call| target.trick(call, Trick::Slow(1)));
    target
}

fn plan_and_apply(history: &History, target: &Scripted) -> weir_ops::Result<()> {
    let plan = Plan::make(history, target, "tester", "assign", wishes(ENTRIES, "new"))?;
    apply(history, target, &plan, &options()).map(drop)
}

/// What the first process got done before it died.
fn first_process(world: &World, target: &Scripted) {
    if let Ok(history) = world.open() {
        let _ = plan_and_apply(&history, target);
    }
}

/// R1: whatever took effect was announced, by what a reader finds after the crash.
fn check_intents(history: &History, target: &Scripted) {
    let (summaries, lost) = history.view().unwrap().list(&Listing::default()).unwrap();
    assert!(lost.is_empty());
    let mut attempts: BTreeMap<String, u32> = BTreeMap::new();
    for summary in summaries {
        let (operation, _) = history.view().unwrap().show(&summary.id.to_string()).unwrap();
        for (entry, progress) in operation.entries.iter().zip(&operation.progress) {
            *attempts.entry(entry.key.clone()).or_default() += progress.attempts;
        }
    }
    for (key, _) in target.effects() {
        assert!(attempts.get(&key).is_some_and(|attempts| *attempts > 0), "{key} took effect without an intent");
    }
}

/// The second process: resumes what is there, begins what is not.
fn second_process(world: &World, target: &Scripted, what: &str) {
    world.disk.power_cycle();
    let history = world.open().unwrap();
    check_intents(&history, target);
    let (summaries, _) = history.view().unwrap().list(&Listing::default()).unwrap();
    assert!(summaries.len() <= 1, "{what}");
    match summaries.first() {
        Some(summary) => drop(resume(&history, target, summary.id, &options()).unwrap()),
        None => plan_and_apply(&history, target).unwrap(),
    }
    let (summaries, _) = history.view().unwrap().list(&Listing::default()).unwrap();
    assert_eq!((summaries.len(), summaries[0].state, summaries[0].verified), (1, State::Done, true), "{what}");
    assert_eq!(target.states().len(), ENTRIES, "{what}");
    assert!(target.states().values().all(|state| *state == json!("new")), "{what}");
    assert!(twice(&target.effects()).is_empty(), "{what}: R2 asks before it repeats");
    check_intents(&history, target);
    let (operation, _) = history.view().unwrap().show(&summaries[0].id.to_string()).unwrap();
    assert_eq!(operation.count(Step::Done) as usize, ENTRIES, "{what}");
}

#[test]
fn r1_r2_after_a_crash_at_every_step_of_the_disk_a_resume_ends_in_the_planned_state() {
    let world = World::new(0);
    first_process(&world, &target(&world));
    let steps = world.disk.steps();
    assert!(steps > 2 * ENTRIES as u64);
    for step in 0..steps {
        let world = World::new(step);
        let target = target(&world);
        world.disk.inject(step, Fault::PowerOff);
        first_process(&world, &target);
        second_process(&world, &target, &format!("power off at step {step}"));
    }
}

#[test]
fn r1_r2_after_a_crash_at_every_call_a_resume_ends_in_the_planned_state() {
    for call in 0..ENTRIES as u64 {
        for after in [false, true] {
            let world = World::new(call);
            let target = target(&world);
            target.trick(call, Trick::Crash { after });
            first_process(&world, &target);
            assert!(world.disk.is_off());
            second_process(&world, &target, &format!("crash at call {call}, after its effect: {after}"));
        }
    }
}

#[test]
fn an_interrupted_operation_is_settled_and_undone_as_far_as_it_went() {
    for call in (0..ENTRIES as u64).step_by(5) {
        for after in [false, true] {
            let world = World::new(call);
            let target = target(&world);
            target.set("k20", Some(json!("before")));
            let before = target.states();
            target.trick(call, Trick::Crash { after });
            first_process(&world, &target);
            world.disk.power_cycle();
            let history = world.open().unwrap();
            let view = history.view().unwrap();
            let id = view.list(&Listing::default()).unwrap().0[0].id;
            let calls = target.effects().len();
            let undo = |history| Plan::undo(history, &target, "tester", &[id], &UndoOptions::default());
            assert!(undo(&history).is_err(), "it is still running");
            let settled = settle(&history, &target, id, &options()).unwrap();
            assert_ne!(settled.state, State::Running);
            assert!(target.effects().len() <= calls + 1, "settling begins nothing");
            let plan = undo(&history).unwrap();
            assert_eq!(plan.is_empty(), call == 0 && !after);
            apply(&history, &target, &plan, &options()).unwrap();
            assert_eq!(target.states(), before, "call {call}, after {after}");
            assert!(
                plan.is_empty() || resume(&history, &target, id, &options()).is_err(),
                "what was undone is not resumed"
            );
        }
    }
}
