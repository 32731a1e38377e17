//! Random operations, drifts, faults, crashes and undos: after an undo everything is as before, but for what others changed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use weir_base::Random;
use weir_ops::{
    Class, Entry, History, Listing, Plan, Policy, RunOptions, State, Summary, UndoOptions, Value, apply, resume,
};
use weir_sim::{Fault, Seeded};

use crate::scripted::{Scripted, Trick, World};

const KEYS: u64 = 12;

struct Story {
    world: World,
    target: Scripted,
    random: Seeded,
    history: Option<History>,
    /// Steps taken, for messages.
    told: Vec<String>,
}

type States = BTreeMap<String, serde_json::Value>;

impl Story {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let target = Scripted::new(Some(world.disk.clone()));
        Self { world, target, random: Seeded::new(seed.wrapping_mul(31)), history: None, told: Vec::new() }
    }

    fn state(&self) -> Value {
        let value = self.random.below(4);
        (value > 0).then(|| json!(value))
    }

    fn entries(&self) -> Vec<Entry> {
        let keys: BTreeSet<u64> = (0..1 + self.random.below(6)).map(|_| self.random.below(KEYS)).collect();
        keys.into_iter().map(|key| Entry::new(format!("k{key:02}"), None, self.state())).collect()
    }

    fn options(&self) -> RunOptions<'static> {
        RunOptions { concurrency: 1, policy: Policy::Force, ..RunOptions::default() }
    }

    /// Lets a call or two of what comes next go wrong, and sometimes the machine.
    fn trouble(&mut self) {
        let from = self.target.calls.load(std::sync::atomic::Ordering::Relaxed);
        if self.random.once_in(2) {
            let trick = match self.random.below(8) {
                0 => Trick::Fails(Class::Retry),
                1 => Trick::Fails(Class::Wait),
                2 => Trick::Fails(Class::Skip),
                3 => Trick::LosesAnswer,
                4 => Trick::FailsLater,
                5 => Trick::Crash { after: true },
                6 => Trick::Crash { after: false },
                _ => Trick::Slow(self.random.below(3) as u32),
            };
            self.target.trick(from + self.random.below(4), trick);
        }
        if self.random.once_in(4) {
            self.world.disk.inject(self.world.disk.steps() + self.random.below(30), Fault::PowerOff);
        }
    }

    /// Goes on until nothing is running, however often the power goes.
    fn settle_down(&mut self) -> Vec<Summary> {
        for _ in 0..20 {
            if self.world.disk.is_off() {
                self.history = None;
                self.world.disk.power_cycle();
                self.target.finish_pending();
            }
            if self.history.is_none() {
                self.history = self.world.open().ok();
            }
            let Some(history) = &self.history else { continue };
            let Ok((listed, _)) = history.view().and_then(|view| view.list(&Listing::default())) else {
                self.history = None;
                continue;
            };
            let Some(running) = listed.iter().find(|summary| summary.state == State::Running) else { return listed };
            self.told.push(format!("resume {}", running.id));
            if resume(history, &self.target, running.id, &self.options()).is_err() {
                // The history may be unusable after the disk failed.
                self.history = None;
            }
        }
        panic!("it does not come to rest: {:?}", self.told);
    }

    fn operate(&mut self) {
        self.settle_down();
        let entries = self.entries();
        self.trouble();
        self.told.push(format!("operate {entries:?}"));
        let history = self.history.as_ref().unwrap();
        if let Ok(plan) = Plan::make(history, &self.target, "random", "assign", entries) {
            if !plan.is_empty() {
                let _ = apply(history, &self.target, &plan, &self.options());
            }
        }
    }

    fn drift(&mut self) -> String {
        let key = format!("k{:02}", self.random.below(KEYS));
        let state = self.state();
        self.told.push(format!("drift {key} {state:?}"));
        self.target.set(&key, state);
        key
    }

    /// Does something, maybe lets others change something, undoes it, and compares.
    fn do_and_undo(&mut self) {
        let listed = self.settle_down();
        let newest = listed.first().map(|summary| summary.id);
        let before = self.target.states();
        self.operate();
        let listed = self.settle_down();
        let Some(done) = listed.first().filter(|summary| Some(summary.id) != newest) else { return };
        let id = done.id;
        let left = self.target.states();
        let mut others = BTreeSet::new();
        while self.random.once_in(3) {
            others.insert(self.drift());
        }
        self.told.push(format!("undo {id}"));
        self.undo(id, Policy::Skip);
        let now = self.target.states();
        for key in (0..KEYS).map(|key| format!("k{key:02}")) {
            let (before, left, now) = (before.get(&key), left.get(&key), now.get(&key));
            let moved = others.contains(&key) && now != before;
            assert!(moved || now == before, "{key}: {before:?} {left:?} {now:?} {:#?}", self.told);
        }
        if self.random.once_in(2) {
            self.redo(&left, &others);
        }
    }

    /// R4: undoes the undo, and compares with what was there before it.
    fn redo(&mut self, left: &States, others: &BTreeSet<String>) {
        let listed = self.settle_down();
        let Some(undo) = listed.first().filter(|summary| !summary.undoes.is_empty()) else { return };
        self.told.push(format!("redo {}", undo.id));
        self.undo(undo.id, Policy::Refuse);
        let now = self.target.states();
        for key in (0..KEYS).map(|key| format!("k{key:02}")).filter(|key| !others.contains(key)) {
            assert_eq!(left.get(&key), now.get(&key), "{key} {:#?}", self.told);
        }
    }

    /// Undoes until it is undone: a crash or a failure in it is resumed.
    fn undo(&mut self, id: weir_base::id::Uuid, policy: Policy) {
        for _ in 0..20 {
            let listed = self.settle_down();
            let history = self.history.as_ref().unwrap();
            let open = listed.iter().find(|summary| summary.undoes.contains(&id) && summary.state != State::Done);
            if let Some(open) = open {
                let _ = resume(history, &self.target, open.id, &self.options());
                if self.settle_down().iter().any(|summary| summary.id == open.id && summary.state == State::Done) {
                    return;
                }
                continue;
            }
            let options = UndoOptions { policy, ..UndoOptions::default() };
            let plan = match Plan::undo(history, &self.target, "random", &[id], &options) {
                Ok(plan) => plan,
                Err(error) => {
                    assert!(self.world.disk.is_off(), "{error:?}");
                    continue;
                }
            };
            if plan.is_empty() {
                return;
            }
            self.trouble();
            let history = self.history.as_ref().unwrap();
            let _ = apply(history, &self.target, &plan, &self.options());
        }
        panic!("the undo does not come to rest: {:#?}", self.told);
    }
}

#[test]
fn r2_r4_random_operations_drifts_crashes_and_undos() {
    for seed in 0..300 {
        let mut story = Story::new(seed);
        for _ in 0..6 {
            match story.random.below(4) {
                0 => story.operate(),
                1 => drop(story.drift()),
                _ => story.do_and_undo(),
            }
        }
        story.settle_down();
    }
}
