//! Deletes and their undo, against a model in memory, across compaction, restart and other servers.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use futures::TryStreamExt;
use weir_base::{ByteSize, Random};
use weir_engine::past::At;
use weir_engine::read::ReadSnapshot;
use weir_engine::rewrite::{Rewritten, RowFilter};

use super::operations::World;
use super::*;

/// Rows whose integer field `column` gives true; NULL stays NULL.
pub(super) fn where_int(column: &'static str, is_meant: impl Fn(i64) -> bool + Send + Sync + 'static) -> RowFilter {
    RowFilter::new(move |batch: &RecordBatch| {
        let Some(column) = batch.column_by_name(column) else { return Ok(BooleanArray::new_null(batch.num_rows())) };
        Ok(column.as_primitive::<Int64Type>().iter().map(|value| value.map(&is_meant)).collect())
    })
}

type Key = (String, i64);
type Fields = [Option<i64>; 2];
type Rows = BTreeMap<Key, Fields>;

/// The rows of a table with a tag `h` and the integers `a` and `b`.
async fn read(engine: &Engine, snapshot: &ReadSnapshot) -> Rows {
    let mut rows = Rows::new();
    for batch in merged(engine, snapshot).await {
        let times = batch.column(0).as_primitive::<TimestampNanosecondType>();
        let hosts = batch.column_by_name("h").unwrap().as_string_view();
        let field = |name: &str, row: usize| {
            let column = batch.column_by_name(name)?.as_primitive::<Int64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        for row in 0..batch.num_rows() {
            let key = (hosts.value(row).to_owned(), times.value(row));
            assert!(rows.insert(key, [field("a", row), field("b", row)]).is_none(), "a key comes twice");
        }
    }
    rows
}

async fn now(engine: &Engine) -> Rows {
    match engine.snapshot("db", "m").await.unwrap() {
        Some(snapshot) => read(engine, &snapshot).await,
        None => Rows::new(),
    }
}

async fn at(engine: &Engine, version: i64) -> Rows {
    let past = engine.snapshot_at("db", "m", At::Version(version)).await.unwrap();
    assert_eq!((past.wanted, past.snapshot.version), (version, version));
    read(engine, &past.snapshot).await
}

fn line((host, time): &Key, fields: Fields) -> String {
    let fields: Vec<String> =
        ["a", "b"].iter().zip(fields).filter_map(|(name, value)| Some(format!("{name}={}i", value?))).collect();
    format!("m,h={host} {} {time}\n", fields.join(","))
}

fn put(rows: &mut Rows, key: Key, fields: Fields) {
    let row = rows.entry(key).or_default();
    row.iter_mut().zip(fields).for_each(|(old, new)| *old = new.or(*old));
}

/// What an undo must give: fields that are as the commit left them become what they were, the others stay.
fn take_back(ours: &Rows, after: &Rows, before: &Rows) -> Rows {
    let keys = ours.keys().chain(before.keys());
    let mut result = Rows::new();
    for key in keys {
        let [o, a, b] = [ours, after, before].map(|rows| rows.get(key));
        let mut lives = if o.is_some() == a.is_some() { b.is_some() } else { o.is_some() };
        let value = |row: Option<&Fields>, field: usize| row.and_then(|row| row[field]);
        let fields = std::array::from_fn(|field| {
            if value(o, field) == value(a, field) {
                value(b, field)
            } else {
                lives |= value(o, field).is_some();
                value(o, field)
            }
        });
        if lives {
            result.insert(key.clone(), fields);
        }
    }
    result
}

/// One step of an operation as the model saw it.
struct Done {
    operation: String,
    step: u32,
    before: Rows,
    after: Rows,
}

struct Model {
    random: weir_sim::Seeded,
    rows: Rows,
    done: Vec<Done>,
    /// Copies kept aside, by version.
    copies: BTreeMap<i64, Rows>,
}

/// What is done to the engine. All of it can be done twice.
enum Act {
    Write(String),
    Flush,
    Compact,
    Vacuum,
    Reopen,
    Delete { filter: RowFilter, operation: String },
    Undo { operation: String, step: u32 },
}

impl Model {
    /// Draws something to do and does it to the rows of the model.
    fn draw(&mut self) -> Act {
        match self.random.below(12) {
            0..=3 => self.write(),
            4 => Act::Flush,
            5 => Act::Compact,
            6 if self.random.once_in(3) => Act::Vacuum,
            6 | 7 => Act::Reopen,
            8 | 9 => self.delete(),
            _ if self.done.is_empty() => self.delete(),
            _ => self.undo(),
        }
    }

    fn write(&mut self) -> Act {
        let mut text = String::new();
        // Mostly far from what others wrote, so that some files overlap and others do not.
        let base = self.random.below(6) as i64 * 1000;
        for _ in 0..=self.random.below(12) {
            let value = |random: &weir_sim::Seeded| (!random.once_in(3)).then(|| random.below(9) as i64);
            let mut fields = [value(&self.random), value(&self.random)];
            if fields == [None, None] {
                fields[0] = Some(1);
            }
            let key = (format!("h{}", self.random.below(4)), base + self.random.below(15) as i64);
            text.push_str(&line(&key, fields));
            put(&mut self.rows, key, fields);
        }
        Act::Write(text)
    }

    fn delete(&mut self) -> Act {
        let (column, part) = (self.random.below(2) as usize, self.random.below(3) as i64);
        let filter = where_int(["a", "b"][column], move |value| value % 3 == part);
        let operation = format!("op{}", self.done.len());
        let before = self.rows.clone();
        self.rows.retain(|_, fields| fields[column].is_none_or(|value| value % 3 != part));
        self.done.push(Done { operation: operation.clone(), step: 1, before, after: self.rows.clone() });
        Act::Delete { filter, operation }
    }

    /// Undoes the last step of any operation, be it its effect or an earlier undo.
    fn undo(&mut self) -> Act {
        let chosen = self.random.below(self.done.len() as u64) as usize;
        let operation = self.done[chosen].operation.clone();
        let steps = self.done.iter().filter(|done| done.operation == operation);
        let last = steps.max_by_key(|done| done.step).expect("the chosen one is there");
        let step = last.step + 1;
        let before = std::mem::take(&mut self.rows);
        self.rows = take_back(&before, &last.after, &last.before);
        self.done.push(Done { operation: operation.clone(), step, before, after: self.rows.clone() });
        Act::Undo { operation, step }
    }
}

/// What the rewrite did, where it is one.
async fn perform(engine: &Engine, act: &Act) -> weir_engine::Result<Option<Rewritten>> {
    match act {
        Act::Write(text) => drop(try_write(engine, "db", text).await?),
        Act::Flush => drop(engine.flush(None).await?),
        Act::Compact => drop(engine.compact("db", None).await?),
        Act::Vacuum => drop(engine.vacuum().await?),
        Act::Reopen => {}
        Act::Delete { filter, operation } => {
            let preview = engine.preview_delete("db", "m", filter).await?;
            let deleted = engine.delete_rows("db", "m", filter, operation).await?;
            assert_eq!(preview.rows, deleted.rows);
            return Ok(Some(deleted));
        }
        Act::Undo { operation, step } => {
            let undone = engine.undo_step("db", "m", operation, *step).await?;
            assert_eq!(engine.last_step("db", "m", operation).await?, *step);
            let again = engine.undo_step("db", "m", operation, *step).await?;
            assert!(again.already && again.version == undone.version, "{undone:?} {again:?}");
            return Ok(Some(undone));
        }
    }
    Ok(None)
}

/// The next process on a disk whose power may be off, or may fail while it opens.
fn open_again(world: &World) -> super::operations::Process {
    loop {
        if world.disk.is_off() {
            world.disk.power_cycle();
        }
        match world.try_open() {
            Ok(process) => return process,
            Err(error) => assert!(world.disk.is_off(), "{error}"),
        }
    }
}

/// Whatever comes in between, the rows are those of the model, and the past is as the copies kept aside. With `power_fails`,
/// the power fails in the middle now and then, and what was being done is done again.
fn agrees_with_a_model(seed: u64, power_fails: bool) {
    let world = World::new(seed);
    let mut process = world.open();
    let mut model = Model {
        random: weir_sim::Seeded::new(seed + 1000),
        rows: Rows::new(),
        done: Vec::new(),
        copies: BTreeMap::new(),
    };
    let mut first = Some(model.write());
    let mut failures = 0;
    for step in 0..80 {
        let act = first.take().unwrap_or_else(|| model.draw());
        if matches!(act, Act::Reopen) {
            drop(process);
            process = open_again(&world);
        }
        if power_fails && model.random.once_in(2) {
            world.disk.inject(world.disk.steps() + model.random.below(16), weir_sim::Fault::PowerOff);
        }
        let mut outcome = world.runtime.block_on(perform(&process.engine, &act));
        world.disk.calm();
        while world.disk.is_off() {
            failures += 1;
            drop(process);
            process = open_again(&world);
            outcome = world.runtime.block_on(perform(&process.engine, &act));
        }
        let rewritten = outcome.unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error:?}"));
        if let Some(rewritten) = rewritten {
            model.copies.insert(rewritten.version, model.rows.clone());
        }
        assert_eq!(world.runtime.block_on(now(&process.engine)), model.rows, "seed {seed}, step {step}");
    }
    assert!(!power_fails || failures > 3, "{failures}");
    for (version, copy) in &model.copies {
        let then = world.runtime.block_on(at(&process.engine, *version));
        assert_eq!(then, *copy, "seed {seed}, version {version}");
    }
}

#[test]
fn random_writes_deletes_undos_and_restarts_agree_with_a_model_e3_r2_r4() {
    (0..5).for_each(|seed| agrees_with_a_model(seed, false));
}

#[test]
fn random_power_failures_between_them_change_nothing_e1_e3_r2() {
    (100..105).for_each(|seed| agrees_with_a_model(seed, true));
}

/// The case of the issue: what was written anew keeps its values, the rest comes back, also after compaction and restart.
async fn deleted_rows_come_back(rows: i64) {
    let dir = tempfile::tempdir().unwrap();
    let roomy = || Config { flush_bytes: ByteSize::mib(64), ..config(dir.path()) };
    let (engine, _) = open(roomy()).await;
    let key = |row: i64| (format!("h{}", row % 100), row / 100);
    let mut model = Rows::new();
    for start in (0..rows).step_by(50_000) {
        let mut text = String::new();
        for row in start..(start + 50_000).min(rows) {
            text.push_str(&line(&key(row), [Some(row), Some(row % 10)]));
            model.insert(key(row), [Some(row), Some(row % 10)]);
        }
        write(&engine, &text).await;
        engine.flush(None).await.unwrap();
    }
    let full = model.clone();
    let tenth = where_int("b", |value| value == 3);
    let deleted = engine.delete_rows("db", "m", &tenth, "op").await.unwrap();
    assert_eq!(deleted.rows as i64, rows / 10);
    model.retain(|_, fields| fields[1] != Some(3));
    assert_eq!(now(&engine).await, model);
    let mut text = String::new();
    for row in (0..rows / 100).map(|row| row * 10 + 3) {
        text.push_str(&line(&key(row), [Some(-row), Some(-1)]));
        model.insert(key(row), [Some(-row), Some(-1)]);
    }
    write(&engine, &text).await;
    engine.flush(None).await.unwrap();
    engine.compact("db", None).await.unwrap();
    assert_eq!(now(&engine).await, model);
    drop(engine);
    let (engine, _) = open(roomy()).await;
    let undone = engine.undo_step("db", "m", "op", 2).await.unwrap();
    assert_eq!(undone.rows as i64, rows / 10 - rows / 100);
    for (key, fields) in &full {
        model.entry(key.clone()).or_insert(*fields);
    }
    assert_eq!(now(&engine).await, model);
    assert_eq!(at(&engine, deleted.version - 1).await, full);
    engine.undo_step("db", "m", "op", 3).await.unwrap();
    model.retain(|_, fields| fields[1] != Some(3));
    assert_eq!(now(&engine).await, model);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_come_back_and_newer_values_stay_r4() {
    deleted_rows_come_back(100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_predicate_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(config(dir.path())).await;
    write(&engine, "m,h=x a=1i 1\nm,h=x b=2i 2\nm,h=x a=5i,b=5i 3").await;
    // The newer v=5 decides, not the older that the first file holds.
    engine.flush(None).await.unwrap();
    write(&engine, "m,h=x a=9i 1").await;
    let small = || where_int("a", |value| value < 6);
    assert_eq!(engine.preview_delete("db", "m", &small()).await.unwrap().rows, 1);
    assert_eq!(rows(&engine, "m").await.len(), 3, "a preview changes nothing");
    let deleted = engine.delete_rows("db", "m", &small(), "op").await.unwrap();
    assert_eq!(deleted.rows, 1);
    assert_eq!(rows(&engine, "m").await, ["1 h=x a=9", "2 h=x b=2"]);
    let again = engine.delete_rows("db", "m", &small(), "op").await.unwrap();
    assert!(again.already && again.version == deleted.version, "{again:?}");
    let none = engine.delete_rows("db", "m", &where_int("absent", |_| true), "other").await.unwrap();
    assert_eq!((none.rows, none.files_before), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_leaves_files_alone_that_are_young_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(config(dir.path())).await;
    for start in [0, 1000, 2000] {
        let text: String = (start..start + 10).map(|time| format!("m a={time}i {time}\n")).collect();
        write(&engine, &text).await;
        engine.flush(None).await.unwrap();
    }
    let done = engine.apply_retention("db", "m", 1005, "retention").await.unwrap();
    assert_eq!((done.rows, done.files_before, done.files_after), (15, 2, 1));
    assert_eq!(rows(&engine, "m").await.len(), 15);
    engine.undo_step("db", "m", "retention", 2).await.unwrap();
    assert_eq!(rows(&engine, "m").await.len(), 30);
}

/// Two servers on one store: each deletes, undoes and compacts what the other writes.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_delete_and_undo_on_one_store_e3() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store").to_string_lossy().into_owned();
    let mut engines = Vec::new();
    for name in ["one", "two"] {
        let shared = Config { store: Some(store.clone()), ..config(&dir.path().join(name)) };
        engines.push(open(shared).await.0);
    }
    let text: String = (0..200).map(|row| format!("m,h=old a={row}i,b=1i {row}\n")).collect();
    write(&engines[0], &text).await;
    engines[0].flush(None).await.unwrap();
    let work = engines.iter().cloned().enumerate().map(|(server, engine)| {
        tokio::spawn(async move {
            for round in 0..4i64 {
                let operation = format!("op-{server}-{round}");
                let part = server as i64 * 4 + round;
                let filter = where_int("a", move |value| value % 8 == part);
                engine.delete_rows("db", "m", &filter, &operation).await.unwrap();
                let text: String =
                    (0..5).map(|row| format!("m,h=new{server} b={round}i {}\n", round * 5 + row)).collect();
                write(&engine, &text).await;
                engine.flush(None).await.unwrap();
                while let Err(error) = engine.compact("db", Some("m")).await {
                    assert_eq!(error.kind(), Kind::Conflict);
                }
                if round % 2 == 0 {
                    engine.undo_step("db", "m", &operation, 2).await.unwrap();
                }
            }
        })
    });
    futures::future::join_all(work).await.into_iter().for_each(|outcome| outcome.unwrap());
    let mut expected = Rows::new();
    for row in (0..200).filter(|row| [0, 2, 4, 6].contains(&(row % 8))) {
        expected.insert(("old".to_owned(), row), [Some(row), Some(1)]);
    }
    for (server, time) in (0..2).flat_map(|server| (0..20).map(move |time| (server, time))) {
        expected.insert((format!("new{server}"), time), [None, Some(time / 5)]);
    }
    assert_eq!(now(&engines[0]).await, expected);
    assert_eq!(now(&engines[1]).await, expected);
}

/// Between servers the order is that of commits: what one had not flushed when the other dropped the table comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_drop_reaches_the_other_server_of_a_store_e2_e3() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store").to_string_lossy().into_owned();
    let shared = |name: &str| Config { store: Some(store.clone()), ..config(&dir.path().join(name)) };
    let (one, _) = open(shared("one")).await;
    let (two, _) = open(shared("two")).await;
    write(&one, "m,h=x a=1i 1").await;
    one.flush(None).await.unwrap();
    write(&two, "m,h=x a=2i 2").await;
    two.flush(None).await.unwrap();
    assert_eq!(rows(&one, "m").await.len(), 2);
    write(&two, "m,h=x a=3i 3").await;
    let dropped = one.drop_table("db", "m", "op").await.unwrap();
    assert!(rows(&one, "m").await.is_empty() && one.tables("db").await.unwrap().is_empty());
    write(&two, "m,h=x a=4i 4").await;
    two.flush(None).await.unwrap();
    for engine in [&one, &two] {
        assert_eq!(rows(engine, "m").await, ["3 h=x a=3", "4 h=x a=4"]);
    }
    let taken = two.undrop_folder(&dropped.folder, "undo").await.unwrap_err();
    assert!(taken.kind() == Kind::Conflict && taken.to_string().contains("in use again"), "{taken}");
    two.drop_table("db", "m", "op2").await.unwrap();
    two.undrop_folder(&dropped.folder, "undo").await.unwrap();
    for engine in [&one, &two] {
        assert_eq!(rows(engine, "m").await, ["1 h=x a=1", "2 h=x a=2"]);
    }
    drop(two);
    let (two, _) = open(shared("two")).await;
    assert_eq!(rows(&two, "m").await, ["1 h=x a=1", "2 h=x a=2"], "what went with the second table is not replayed");
}

/// E1, E4: a drop cuts between acknowledged rows; each is in the table that was dropped or in the next one, once, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn drops_between_concurrent_writes_lose_and_double_nothing_e1_e4() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(config(dir.path())).await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for row in 0..60 {
                    // A column of its own now and then: new columns go with the table, too.
                    write(&engine, &format!("m,w=w{writer} a=1i,f{}=1 {row}", row / 20)).await;
                }
            })
        })
        .collect();
    let mut drops = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        match engine.drop_table("db", "m", "op").await {
            Ok(_) => drops += 1,
            Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
        }
        tokio::task::yield_now().await;
    }
    futures::future::join_all(writers).await.into_iter().for_each(|outcome| outcome.unwrap());
    drop(engine);
    let (engine, _) = open(config(dir.path())).await;
    engine.flush(None).await.unwrap();
    let mut keys = Vec::new();
    for entry in engine.store().tables_with_dropped() {
        let table = engine.store().table_in(&entry.folder).await.unwrap();
        let snapshot = table.snapshot();
        for file in &snapshot.files {
            let batches: Vec<RecordBatch> =
                table.read_file(file, &snapshot.schema).await.unwrap().try_collect().await.unwrap();
            for batch in &batches {
                let times = batch.column(0).as_primitive::<TimestampNanosecondType>();
                let writers = batch.column_by_name("w").unwrap().as_string_view();
                let rows = 0..batch.num_rows();
                keys.extend(rows.map(|row| (writers.value(row).to_owned(), times.value(row))));
            }
        }
    }
    let rows = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!((rows, keys.len()), (240, 240));
    assert!(drops > 2, "{drops} drops");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_version_needs_is_deleted_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let tidy = Config {
        background: true,
        vacuum_every: Duration::from_millis(20),
        undo_window: Duration::ZERO,
        ..config(dir.path())
    };
    let (engine, _) = open(tidy).await;
    write(&engine, "m a=1i 1\nm a=9i 2").await;
    engine.delete_rows("db", "m", &where_int("a", |value| value < 5), "op").await.unwrap();
    let table = engine.store().table("db", "m").await.unwrap().unwrap();
    let vacuumed = async {
        while table.data_files().await.unwrap().len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), vacuumed).await.expect("vacuumed by itself");
    assert_eq!(rows(&engine, "m").await, ["2 a=9"]);
    engine.close(Duration::from_secs(30)).await.unwrap();
}

/// All rows of a snapshot, merged.
async fn merged(engine: &Engine, snapshot: &ReadSnapshot) -> Vec<RecordBatch> {
    let schema = logical_schema(&snapshot.schema);
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let stored = engine.store().table(&snapshot.database, &snapshot.table).await.unwrap();
    let mut inputs = Vec::new();
    for file in &snapshot.files {
        inputs.push(stored.as_ref().unwrap().read_file(file, &snapshot.schema).await.unwrap().boxed());
    }
    for run in &snapshot.runs {
        let run = run.sorted().unwrap();
        let batch = run.batch(0..run.rows(), &all, &schema).unwrap();
        inputs.push(futures::stream::iter([Ok(batch)]).boxed());
    }
    weir_engine::read::merged(&snapshot.schema, inputs).unwrap().try_collect().await.unwrap()
}
