//! Deletes and drops as operations in a history: planned, applied, undone, resumed after a crash at any step of the disk.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Runtime;
use weir_engine::operations::TablesTarget;
use weir_engine::past::At;
use weir_engine::rewrite::RowFilter;
use weir_ops::plan::NoteKind;
use weir_ops::{History, Listing, Operation, Plan, Policy, RunOptions, State, UndoOptions};
use weir_sim::{Disk, Fault};

use super::undo::where_int;
use super::*;

/// A disk and a clock on which engines and histories come and go. Only kernel locks are of the machine.
#[derive(Clone)]
pub(super) struct World {
    pub(super) runtime: Arc<Runtime>,
    locks: Arc<tempfile::TempDir>,
    pub(super) disk: Disk,
    clock: Arc<weir_sim::Clock>,
    random: Arc<weir_sim::Seeded>,
}

/// One process.
pub(super) struct Process {
    pub(super) engine: Engine,
    history: History,
    target: TablesTarget,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let random = Arc::new(weir_sim::Seeded::new(seed + 77));
        let locks = Arc::new(tempfile::tempdir().unwrap());
        Self { runtime: Arc::new(runtime), locks, disk: Disk::new(seed), clock: Arc::default(), random }
    }

    /// The same world with a copy of its disk that goes its own way.
    fn fork(&self, seed: u64) -> Self {
        // Far from the seeds of the worlds, which must not draw the same names.
        let random = Arc::new(weir_sim::Seeded::new(seed + 1_000_000));
        Self { disk: self.disk.fork(seed), random, ..self.clone() }
    }

    pub(super) fn try_open(&self) -> Result<Process, Box<dyn std::error::Error>> {
        let (fs, clock) = (Arc::new(self.disk.clone()), Arc::clone(&self.clock));
        let env = Env { fs: fs.clone(), clock: clock.clone(), random: self.random.clone() };
        let config = Config { undo_window: HOUR * 24, compact_rows: 40, ..config(self.locks.path()) };
        let (engine, _) = self.runtime.block_on(Engine::open(config, env))?;
        let env = weir_ops::Env { journal: weir_journal::Env { fs, clock }, random: self.random.clone() };
        let dir = self.locks.path().join("operations");
        let (history, _) = History::open(env, &dir, "test", weir_ops::Options::default())?;
        let target = TablesTarget::new(engine.clone(), self.runtime.handle().clone(), Arc::new(|_, text| filter(text)));
        Ok(Process { engine, history, target })
    }

    pub(super) fn open(&self) -> Process {
        self.try_open().unwrap()
    }

    fn write(&self, process: &Process, text: &str) {
        self.runtime.block_on(write(&process.engine, text));
    }

    fn rows(&self, process: &Process, table: &str) -> Vec<String> {
        self.runtime.block_on(rows(&process.engine, table))
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// `a<N`, the only language here.
fn filter(text: &str) -> weir_engine::Result<RowFilter> {
    let bound = text.strip_prefix("a<").and_then(|bound| bound.parse::<i64>().ok());
    let bound = bound.ok_or_else(|| weir_engine::Error::new(Kind::Invalid, format!("'{text}' is no predicate")))?;
    Ok(where_int("a", move |value| value < bound))
}

fn options() -> RunOptions<'static> {
    let retry = weir_limits::Retry { tries_max: 2, ..RunOptions::default().retry };
    RunOptions { retry, ..RunOptions::default() }
}

impl Process {
    fn delete(&self, predicate: &str) -> weir_ops::Result<Operation> {
        let entry = self.target.delete_entry(self.history.new_id(), "db", "m", predicate);
        let entry = entry.map_err(|error| weir_ops::Error::new(error.kind(), error.to_string()))?;
        let plan = Plan::make(&self.history, &self.target, "tester", "delete", vec![entry])?;
        weir_ops::apply(&self.history, &self.target, &plan, &options())
    }

    fn drop_table(&self, table: &str) -> Operation {
        let entry = self.target.drop_entry("db", table).unwrap();
        let plan = Plan::make(&self.history, &self.target, "tester", "drop", vec![entry]).unwrap();
        weir_ops::apply(&self.history, &self.target, &plan, &options()).unwrap()
    }

    fn undo_plan(&self, operation: &Operation, policy: Policy) -> weir_ops::Result<Plan> {
        let options = UndoOptions { policy, ..UndoOptions::default() };
        Plan::undo(&self.history, &self.target, "tester", &[operation.id], &options)
    }

    fn undo(&self, operation: &Operation) -> weir_ops::Result<Operation> {
        let plan = self.undo_plan(operation, Policy::Refuse)?;
        weir_ops::apply(&self.history, &self.target, &plan, &options())
    }
}

fn is_done(operation: &Operation) -> bool {
    operation.state == State::Done && operation.verified
}

#[test]
fn a_delete_is_an_operation_and_so_is_its_undo_r1_r4() {
    let world = World::new(1);
    let process = world.open();
    world.write(&process, "m a=1i 1\nm a=2i 2\nm a=3i 3\nm b=1i 4");
    let full = world.rows(&process, "m");
    let deleted = process.delete("a<3").unwrap();
    assert!(is_done(&deleted), "{deleted:?}");
    let (entry, progress) = (&deleted.entries[0], &deleted.progress[0]);
    assert_eq!((entry.labels["rows"].as_str(), entry.labels["predicate"].as_str()), ("2", "a<3"));
    assert!(progress.request.as_ref().is_some_and(|request| request.starts_with("version ")), "{progress:?}");
    assert_eq!(world.rows(&process, "m"), ["3 a=3", "4 b=1"]);
    let later = process.delete("a<4").unwrap();
    assert_eq!(world.rows(&process, "m"), ["4 b=1"]);
    world.write(&process, "m a=9i 1");
    let undone = process.undo(&deleted).unwrap();
    assert!(is_done(&undone), "{undone:?}");
    assert_eq!(world.rows(&process, "m"), ["1 a=9", "2 a=2", "4 b=1"], "the later delete holds, the newer value stays");
    let again = process.undo_plan(&deleted, Policy::Refuse).unwrap();
    assert!(again.is_empty(), "{again:?}");
    drop(process);
    let process = world.open();
    assert!(is_done(&process.undo(&undone).unwrap()));
    assert_eq!(world.rows(&process, "m"), ["1 a=9", "4 b=1"], "the undo of the undo deletes again what nobody wrote");
    assert!(is_done(&process.undo(&later).unwrap()));
    assert_eq!(world.rows(&process, "m"), ["1 a=9", "3 a=3", "4 b=1"]);
    assert_eq!(full.len(), 4);
    let wrong = process.target.delete_entry(process.history.new_id(), "db", "m", "nonsense").unwrap_err();
    assert_eq!(wrong.kind(), Kind::Invalid);
}

#[test]
fn a_change_that_takes_longer_than_a_call_goes_on_and_is_asked_about() {
    let world = World::new(2);
    let Process { engine, history, .. } = world.open();
    world.runtime.block_on(write(&engine, "m a=1i 1\nm a=5i 2"));
    // The predicate waits while this is held.
    let held = Arc::new(std::sync::Mutex::new(()));
    let slow = Arc::clone(&held);
    let filter_of = move |_: &weir_engine::schema::TableSchema, text: &str| {
        let (inner, slow) = (filter(text)?, Arc::clone(&slow));
        Ok(RowFilter::new(move |batch| {
            let _turn = slow.lock();
            (inner.predicate)(batch)
        }))
    };
    let target = TablesTarget::new(engine.clone(), world.runtime.handle().clone(), Arc::new(filter_of));
    let entry = target.delete_entry(history.new_id(), "db", "m", "a<3").unwrap();
    let plan = Plan::make(&history, &target, "tester", "delete", vec![entry]).unwrap();
    let guard = held.lock().unwrap();
    let operation = std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let options = RunOptions { call_deadline: Duration::from_millis(20), ..options() };
            weir_ops::apply(&history, &target, &plan, &options).unwrap()
        });
        let is_accepted = || {
            let view = history.view().unwrap();
            let Some(summary) = view.list(&Listing::default()).unwrap().0.pop() else { return false };
            view.show(&summary.id.to_string()).unwrap().0.progress[0].step == weir_ops::Step::Accepted
        };
        while !is_accepted() {
            std::thread::yield_now();
        }
        assert_eq!(world.runtime.block_on(rows(&engine, "m")).len(), 2, "it has not happened yet");
        drop(guard);
        running.join().unwrap()
    });
    assert!(is_done(&operation), "{operation:?}");
    assert_eq!(world.runtime.block_on(rows(&engine, "m")), ["2 a=5"]);
}

#[test]
fn a_dropped_table_comes_back_with_its_rows_unless_its_name_is_taken_r4() {
    let world = World::new(3);
    let process = world.open();
    world.write(&process, "m,h=x a=1i 1");
    let dropped = process.drop_table("m");
    assert!(is_done(&dropped), "{dropped:?}");
    let tables = |process: &Process| world.runtime.block_on(process.engine.tables("db")).unwrap();
    assert!(world.rows(&process, "m").is_empty() && tables(&process).is_empty());
    let undone = process.undo(&dropped).unwrap();
    assert!(is_done(&undone));
    assert_eq!(world.rows(&process, "m"), ["1 h=x a=1"]);
    world.write(&process, "m,h=x a=2i 2");
    assert!(is_done(&process.undo(&undone).unwrap()));
    // What is in the log and went with the table does not come back by a replay.
    drop(process);
    let process = world.open();
    assert!(world.rows(&process, "m").is_empty());
    // A column may have another type in the new table.
    world.write(&process, "m,h=y a=\"text\" 5");
    assert_eq!(world.rows(&process, "m"), ["5 h=y a=text"]);
    let plan = process.undo_plan(&dropped, Policy::Force).unwrap();
    assert!(plan.is_empty(), "not even by force: {plan:?}");
    let error = process.undo(&dropped).unwrap_err();
    assert!(error.kind() == Kind::Conflict && error.to_string().contains("in use again"), "{error}");
    drop(process);
    let process = world.open();
    assert_eq!(world.rows(&process, "m"), ["5 h=y a=text"], "unflushed rows of the new table are replayed");
    process.drop_table("m");
    assert!(is_done(&process.undo(&dropped).unwrap()));
    assert_eq!(world.rows(&process, "m"), ["1 h=x a=1", "2 h=x a=2"]);
}

#[test]
fn a_dropped_database_has_an_entry_per_table() {
    let world = World::new(4);
    let process = world.open();
    world.write(&process, "one a=1i 1\ntwo a=1i 1\nthree a=1i 1");
    let entries = process.target.drop_database_entries("db").unwrap();
    let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["db/one", "db/three", "db/two"]);
    let plan = Plan::make(&process.history, &process.target, "tester", "drop", entries).unwrap();
    let dropped = weir_ops::apply(&process.history, &process.target, &plan, &options()).unwrap();
    assert!(is_done(&dropped) && dropped.entries[0].before == Some(json!("live")));
    assert!(world.runtime.block_on(process.engine.databases()).unwrap().is_empty());
    assert!(is_done(&process.undo(&dropped).unwrap()));
    assert_eq!(world.runtime.block_on(process.engine.tables("db")).unwrap(), ["one", "three", "two"]);
    let none = process.target.drop_database_entries("other").unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
}

#[test]
fn retention_is_an_operation_too() {
    let world = World::new(10);
    let process = world.open();
    world.write(&process, "m a=1i 100\nm a=2i 200\nm a=3i 300");
    let entry = process.target.retention_entry(process.history.new_id(), "db", "m", 250).unwrap();
    assert_eq!((entry.labels["older_than_ns"].as_str(), entry.labels["rows"].as_str()), ("250", "2"));
    let plan = Plan::make(&process.history, &process.target, "tester", "retention", vec![entry]).unwrap();
    let done = weir_ops::apply(&process.history, &process.target, &plan, &options()).unwrap();
    assert!(is_done(&done));
    assert_eq!(world.rows(&process, "m"), ["300 a=3"]);
    // A table of the same name that came later is another one.
    process.drop_table("m");
    world.write(&process, "m a=9i 100");
    let error = process.undo(&done).unwrap_err();
    assert!(error.kind() == Kind::Conflict && error.to_string().contains("was dropped"), "{error}");
    let dropped = process.drop_table("m");
    assert_eq!(dropped.entries[0].key, "db/m.2");
}

/// S1 of the past: what is older than the window is vacuumed, and both its undo and its reading say so.
#[test]
fn past_the_undo_window_an_undo_is_refused_and_the_past_is_gone() {
    let world = World::new(5);
    let process = world.open();
    let at = |version| world.runtime.block_on(process.engine.snapshot_at("db", "m", At::Version(version)));
    let vacuum = || world.runtime.block_on(process.engine.vacuum()).unwrap();
    world.write(&process, "m a=1i 1\nm a=5i 2");
    let deleted = process.delete("a<3").unwrap();
    world.write(&process, "gone a=1i 1");
    let dropped = process.drop_table("gone");
    // Versions 2 to 21, twenty minutes apart, of which compaction leaves nothing.
    for round in 0..20 {
        world.clock.advance(HOUR / 3);
        world.write(&process, &format!("m a={round}i 9"));
        world.runtime.block_on(process.engine.flush(None)).unwrap();
    }
    world.runtime.block_on(process.engine.compact("db", Some("m"))).unwrap();
    world.clock.advance(HOUR * 2);
    assert!(vacuum().files > 0, "what lies between two full hours is not kept");
    let kept: Vec<i64> = (0..20).map(|version| at(version).unwrap().snapshot.version).collect();
    assert_eq!(kept[..2], [0, 1], "before and after the operation");
    assert!((2..20).any(|version| kept[version as usize] != version), "{kept:?}");
    assert!(kept.windows(2).all(|pair| pair[0] <= pair[1]), "{kept:?}");
    assert!((0..20).all(|version| kept[version as usize] > version - 4), "one an hour: {kept:?}");
    assert_eq!(vacuum().files, 0);
    assert!(!process.undo_plan(&deleted, Policy::Refuse).unwrap().is_empty());
    world.clock.advance(HOUR * 24);
    for operation in [&deleted, &dropped] {
        let plan = process.undo_plan(operation, Policy::Refuse).unwrap();
        assert!(plan.is_empty() && plan.notes_of(NoteKind::Conflict).count() == 1, "{plan:?}");
        let error = process.undo(operation).unwrap_err();
        assert!(error.kind() == Kind::Conflict && error.to_string().contains("undo_window"), "{error}");
    }
    world.clock.advance(HOUR * 2);
    assert!(vacuum().files > 0);
    let error = at(0).unwrap_err();
    assert!(error.kind() == Kind::NotFound && error.to_string().contains("undo_window"), "{error}");
    let newest = world.runtime.block_on(process.engine.snapshot("db", "m")).unwrap().unwrap();
    assert_eq!(at(newest.version).unwrap().snapshot.files, newest.files);
    assert_eq!(world.rows(&process, "m"), ["2 a=5", "9 a=19"]);
}

#[test]
fn the_past_is_found_by_time() {
    let world = World::new(6);
    let process = world.open();
    let clock = |world: &World| weir_base::Clock::now(&*world.clock);
    let start = clock(&world);
    let mut times = Vec::new();
    for round in 0..5 {
        world.write(&process, &format!("m a={round}i {round}"));
        world.runtime.block_on(process.engine.flush(None)).unwrap();
        times.push(clock(&world));
        world.clock.advance(Duration::from_secs(10));
    }
    for (round, time) in times.iter().enumerate() {
        // Commits may be a few milliseconds ahead of a clock that stands still.
        let at = At::Time(time + 5_000_000_000);
        let past = world.runtime.block_on(process.engine.snapshot_at("db", "m", at)).unwrap();
        assert_eq!((past.wanted, past.snapshot.version), (round as i64, round as i64));
        assert_eq!(past.snapshot.files.len(), round + 1);
        assert!((past.committed_ms - time / 1_000_000).abs() < 1000);
    }
    for at in [At::Time(start - 1_000_000_000), At::Version(99), At::Version(-1)] {
        let error = world.runtime.block_on(process.engine.snapshot_at("db", "m", at)).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{at:?}");
    }
}

/// Lets the power fail at every step of the disk that `act` takes; after a restart the operation is resumed, or begun when the history
/// does not know it, and the rows must be `expected`, by an operation that is done and verified, once.
fn crash_at_every_step(
    setup: &World,
    known: usize,
    act: impl Fn(&Process) -> weir_ops::Result<Operation>,
    expected: &[&str],
) {
    for step in 0.. {
        let world = setup.fork(step);
        let process = world.open();
        world.disk.inject(world.disk.steps() + step, Fault::PowerOff);
        let outcome = act(&process);
        drop(process);
        if !world.disk.is_off() {
            assert!(is_done(&outcome.unwrap()) && step > 20, "{step} steps are too few");
            return;
        }
        world.disk.power_cycle();
        let what = format!("power off at step {step}");
        let process = world.open();
        let list = || process.history.view().unwrap().list(&Listing::default()).unwrap().0;
        let begun = list().into_iter().find(|summary| summary.state != State::Done);
        let operation = match begun {
            Some(summary) => weir_ops::resume(&process.history, &process.target, summary.id, &options()).unwrap(),
            None if list().len() > known => process.history.view().unwrap().show(&list()[0].id.to_string()).unwrap().0,
            None => act(&process).unwrap(),
        };
        assert!(is_done(&operation), "{what}: {operation:?}");
        assert_eq!(list().len(), known + 1, "{what}");
        assert_eq!(world.rows(&process, "m"), expected, "{what}");
        drop(process);
        assert_eq!(world.rows(&world.open(), "m"), expected, "{what}, opened once more");
    }
}

#[test]
fn after_a_crash_at_every_step_of_a_delete_a_resume_deletes_once_e1_r1_r2() {
    let world = World::new(7);
    let process = world.open();
    world.write(&process, "m a=1i 1\nm a=5i 2");
    world.runtime.block_on(process.engine.flush(None)).unwrap();
    world.write(&process, "m a=2i,b=1i 3\nm b=7i 1");
    drop(process);
    crash_at_every_step(&world, 0, |process| process.delete("a<3"), &["2 a=5"]);
}

#[test]
fn after_a_crash_at_every_step_of_an_undo_a_resume_undoes_once_e1_r1_r2() {
    let world = World::new(8);
    let process = world.open();
    world.write(&process, "m a=1i 1\nm a=5i 2\nm a=2i 3");
    let deleted = process.delete("a<3").unwrap();
    world.write(&process, "m a=9i 3");
    drop(process);
    crash_at_every_step(&world, 1, |process| process.undo(&deleted), &["1 a=1", "2 a=5", "3 a=9"]);
}

#[test]
fn after_a_crash_at_every_step_of_a_drop_a_resume_drops_once_r1_r2() {
    let world = World::new(9);
    let process = world.open();
    world.write(&process, "m a=1i 1");
    world.runtime.block_on(process.engine.flush(None)).unwrap();
    world.write(&process, "m a=1i 2\nother a=1i 1");
    drop(process);
    let drop_table = |process: &Process| {
        let entry = process.target.drop_entry("db", "m");
        let entry = entry.map_err(|error| weir_ops::Error::new(error.kind(), error.to_string()))?;
        let plan = Plan::make(&process.history, &process.target, "tester", "drop", vec![entry])?;
        weir_ops::apply(&process.history, &process.target, &plan, &options())
    };
    crash_at_every_step(&world, 0, drop_table, &[]);
}
