//! The commit rule under races: exactly once, nothing lost, nothing doubled.

use std::collections::HashMap;
use std::time::Duration;

use weir_base::Kind;

use super::*;
use crate::store::file::DataFile;
use crate::store::{Change, Committed, Vacuumed};

everywhere! {
    racing_flushes_and_compactions_lose_and_double_nothing_e3,
    commits_are_seen_by_others_and_survive_reopening,
    a_txn_is_committed_once_e1,
    a_compaction_of_files_around_another_is_refused_e3,
    two_removals_of_one_file_do_not_both_commit,
    columns_are_merged_and_a_disagreement_is_a_conflict_e3,
    checkpoints_keep_everything,
    vacuum_deletes_what_no_version_of_the_retention_needs,
    the_log_keeps_the_retention_and_can_be_read_from_there,
}

/// The newest value of each (host, time), as a merge in write order gives it.
async fn merged(table: &Table, snapshot: &Snapshot) -> HashMap<(String, i64), i64> {
    read_simple(table, snapshot).await.into_iter().map(|(host, time, value)| ((host, time), value)).collect()
}

async fn commits_are_seen_by_others_and_survive_reopening(place: Place) {
    let (one, two) = (open(&place).await, open(&place).await);
    let table = one.create_table("db", "cpu").await.unwrap();
    assert_eq!(table.snapshot().version, -1);
    let file = simple_file(&table, &[("a", 1, 10), ("b", 2_000, 20)]).await;
    let done = table.commit(Change::flush(vec![file], Some(("w".into(), 7)))).await.unwrap();
    assert_eq!((done.version, done.already), (0, false));
    assert!(two.table("db", "cpu").await.unwrap().is_none());
    two.refresh().await.unwrap();
    let other = two.table("db", "cpu").await.unwrap().unwrap();
    let seen = other.snapshot();
    assert_eq!(seen.transactions, HashMap::from([("w".to_owned(), 7)]));
    assert_eq!(seen.schema.columns(), simple_schema().columns());
    assert_eq!(read_simple(&other, &seen).await, [("a".to_owned(), 1, 10), ("b".to_owned(), 2_000, 20)]);
    let file = &seen.files[0];
    assert_eq!((file.rows, file.time_min, file.time_max, file.order), (2, 1, 2_000, (0, 0)));
    assert_eq!((file.tags[0].min.as_deref(), file.tags[0].max.as_deref()), (Some("a"), Some("b")));
    assert_eq!((file.tags[0].nulls, file.sub_micro()), (Some(0), Some(true)));
}

async fn a_txn_is_committed_once_e1(place: Place) {
    let store = open(&place).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    let mut first = true;
    for number in [5, 5, 4] {
        let file = simple_file(&table, &[("a", 1, number)]).await;
        let done = table.commit(Change::flush(vec![file], Some(("w".into(), number)))).await.unwrap();
        assert_eq!(done, Committed { version: 0, already: !first });
        first = false;
    }
    assert_eq!(table.snapshot().version, 0);
    assert_eq!(read_simple(&table, &table.snapshot()).await, [("a".to_owned(), 1, 5)]);
    assert_eq!(open(&place).await.table("db", "cpu").await.unwrap().unwrap().snapshot().version, 0);
}

async fn racing_flushes_and_compactions_lose_and_double_nothing_e3(place: Place) {
    const ROUNDS: i64 = 25;
    open(&place).await.create_table("db", "cpu").await.unwrap();
    let mut tasks = Vec::new();
    for writer in 0..3i64 {
        let place = place.clone();
        tasks.push(tokio::spawn(async move {
            let store = open(&place).await;
            let table = store.create_table("db", "cpu").await.unwrap();
            let mut last = HashMap::new();
            for round in 0..ROUNDS {
                // One key of its own that it overwrites each time, and one that no other round writes.
                let (mine, fresh) = (format!("w{writer}"), format!("w{writer}-{round:03}"));
                let rows = [(mine.as_str(), 1_000, round), (fresh.as_str(), 1_000, writer)];
                let file = simple_file(&table, &rows).await;
                let change = Change::flush(vec![file], Some((mine.clone(), round)));
                let done = table.commit(change).await.unwrap();
                assert!(!done.already);
                last.insert((mine, 1_000), round);
                last.insert((fresh, 1_000), writer);
            }
            last
        }));
    }
    let compactors: Vec<_> = (0..2).map(|_| tokio::spawn(compact_until_done(place.clone(), 3 * ROUNDS))).collect();
    let mut expected = HashMap::new();
    for task in tasks {
        expected.extend(task.await.unwrap());
    }
    let mut compactions = 0;
    for compactor in compactors {
        compactions += compactor.await.unwrap();
    }
    let table = open(&place).await.table("db", "cpu").await.unwrap().unwrap();
    let snapshot = table.snapshot();
    assert_eq!(snapshot.version, 3 * ROUNDS + compactions - 1);
    assert!(compactions > 0 && (snapshot.files.len() as i64) < 3 * ROUNDS);
    assert_eq!(merged(&table, &snapshot).await, expected);
}

/// Merges the two oldest neighbours again and again until all flushes are in; returns how many merges were committed.
async fn compact_until_done(place: Place, flushes: i64) -> i64 {
    let store = open(&place).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    let mut committed = 0;
    loop {
        let snapshot = table.refresh().await.unwrap();
        let newest: i64 = snapshot.transactions.values().map(|round| round + 1).sum();
        if newest == flushes {
            return committed;
        }
        if snapshot.files.len() < 2 {
            tokio::task::yield_now().await;
            continue;
        }
        let inputs = snapshot.files[..2].to_vec();
        let view = Snapshot { files: inputs.clone(), ..snapshot.as_ref().clone() };
        let mut rows: Vec<_> = merged(&table, &view).await.into_iter().collect();
        rows.sort();
        let rows: Vec<_> = rows.iter().map(|((host, time), value)| (host.as_str(), *time, *value)).collect();
        let output = simple_file(&table, &rows).await;
        match table.commit(Change::compaction(inputs, vec![output])).await {
            Ok(_) => committed += 1,
            Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error:?}"),
        }
    }
}

async fn a_compaction_of_files_around_another_is_refused_e3(place: Place) {
    let table = open(&place).await.create_table("db", "cpu").await.unwrap();
    for value in 0..3 {
        let file = simple_file(&table, &[("a", 1_000, value)]).await;
        table.commit(Change::flush(vec![file], None)).await.unwrap();
    }
    let files = table.snapshot().files.clone();
    let around: Vec<Arc<DataFile>> = vec![Arc::clone(&files[0]), Arc::clone(&files[2])];
    let output = simple_file(&table, &[("a", 1_000, 2)]).await;
    let error = table.commit(Change::compaction(around.clone(), vec![output.clone()])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    // A file between them that cannot share a key is no obstacle.
    let apart = simple_file(&table, &[("z", 9_000_000, 7)]).await;
    let change = Change { remove: vec![Arc::clone(&files[1])], ..Change::flush(vec![apart], None) };
    table.commit(change).await.unwrap();
    table.commit(Change::compaction(around, vec![output])).await.unwrap();
    let snapshot = table.snapshot();
    let orders: Vec<_> = snapshot.files.iter().map(|file| file.order).collect();
    assert_eq!(orders, [(0, 2), (3, 3)]);
}

async fn two_removals_of_one_file_do_not_both_commit(place: Place) {
    let (one, two) = (open(&place).await, open(&place).await);
    let table = one.create_table("db", "cpu").await.unwrap();
    let file = simple_file(&table, &[("a", 1_000, 1)]).await;
    table.commit(Change::flush(vec![file], None)).await.unwrap();
    let other = two.create_table("db", "cpu").await.unwrap();
    let inputs = other.snapshot().files.clone();
    let output = simple_file(&table, &[("a", 1_000, 1)]).await;
    table.commit(Change::compaction(inputs.clone(), vec![output])).await.unwrap();
    let again = simple_file(&other, &[("a", 1_000, 1)]).await;
    let error = other.commit(Change::compaction(inputs, vec![again])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(other.refresh().await.unwrap().files.len(), 1);
}

async fn columns_are_merged_and_a_disagreement_is_a_conflict_e3(place: Place) {
    let (one, two) = (open(&place).await, open(&place).await);
    let table = one.create_table("db", "cpu").await.unwrap();
    table.commit(Change::columns(simple_schema())).await.unwrap();
    let other = two.create_table("db", "cpu").await.unwrap();
    let with = |name: &str, kind| {
        let mut schema = simple_schema().as_ref().clone();
        schema.add(name, Role::Field(kind)).unwrap();
        Arc::new(schema)
    };
    table.commit(Change::columns(with("x", FieldType::F64))).await.unwrap();
    // Still knows only the first version: loses the race, merges, wins the next.
    other.commit(Change::columns(with("y", FieldType::Bool))).await.unwrap();
    let names: Vec<_> = other.snapshot().schema.columns().iter().map(|column| column.name.clone()).collect();
    assert_eq!(names, ["host", "v", "x", "y"]);
    let error = table.commit(Change::columns(with("y", FieldType::I64))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    // `X` takes the plain stored name in this writer's view, where `x` is not known; in the table it is taken.
    let error = table.commit(Change::columns(with("X", FieldType::F64))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let mut schema = table.refresh().await.unwrap().schema.as_ref().clone();
    schema.add("X", Role::Field(FieldType::F64)).unwrap();
    table.commit(Change::columns(Arc::new(schema))).await.unwrap();
    // Columns that are all there need no commit.
    assert!(table.commit(Change::columns(simple_schema())).await.unwrap().already);
}

async fn checkpoints_keep_everything(place: Place) {
    let table = open(&place).await.create_table("db", "cpu").await.unwrap();
    for value in 0..120i64 {
        let file = simple_file(&table, &[("a", 1_000 * value, value), ("b", 7, value)]).await;
        table.commit(Change::flush(vec![file], Some(("w".into(), value)))).await.unwrap();
    }
    let inputs = table.snapshot().files[10..12].to_vec();
    let output = simple_file(&table, &[("a", 10_000, 10), ("a", 11_000, 11), ("b", 7, 11)]).await;
    table.commit(Change::compaction(inputs, vec![output])).await.unwrap();
    table.checkpoint().await.unwrap();
    let (store, log) = (open(&place).await, "db/cpu/_delta_log");
    let names = listed(&store, log).await;
    assert!([100, 120].iter().all(|version| names.contains(&format!("{version:020}.checkpoint.parquet"))), "{names:?}");
    // Without the older commits only the checkpoint can tell.
    for version in 0..=120 {
        store.objects().delete(&Path::from(format!("{log}/{version:020}.json"))).await.unwrap();
    }
    let mine = table.snapshot();
    let again = open(&place).await.table("db", "cpu").await.unwrap().unwrap();
    let theirs = again.snapshot();
    assert_eq!(theirs.version, 120);
    assert_eq!(theirs.files, mine.files);
    assert_eq!(theirs.transactions, mine.transactions);
    assert_eq!(theirs.schema.columns(), mine.schema.columns());
    let file = simple_file(&again, &[("c", 1, 1)]).await;
    assert_eq!(again.commit(Change::flush(vec![file], None)).await.unwrap().version, 121);
    // The first one follows.
    assert_eq!(table.refresh().await.unwrap().version, 121);
}

/// A store that keeps an hour, two hours from now.
async fn open_forgetful(place: &Place) -> Store {
    open_ahead(place, Duration::from_secs(2 * 3600)).await
}

/// As [`open_forgetful`], at another time: the store's own clock gives files their times, so it is Weir that is shown a later one.
async fn open_ahead(place: &Place, ahead: Duration) -> Store {
    let options = StoreOptions { retention: Duration::from_secs(3600), ..place.options() };
    let env = StoreEnv { clock: Arc::new(Ahead { clock: SystemClock::default(), ahead }), ..env() };
    Store::open(place.location(), &options, env).await.unwrap()
}

#[derive(Debug)]
struct Ahead {
    clock: SystemClock,
    ahead: Duration,
}

impl weir_base::Clock for Ahead {
    fn now(&self) -> weir_base::Timestamp {
        self.clock.now() + self.ahead.as_nanos() as i64
    }
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
    fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration);
    }
}

async fn vacuum_deletes_what_no_version_of_the_retention_needs(place: Place) {
    let store = open(&place).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    for value in 0..3 {
        let file = simple_file(&table, &[("a", 1_000, value)]).await;
        table.commit(Change::flush(vec![file], None)).await.unwrap();
    }
    let output = simple_file(&table, &[("a", 1_000, 2)]).await;
    let inputs = table.snapshot().files.clone();
    table.commit(Change::compaction(inputs, vec![output])).await.unwrap();
    let stray = simple_file(&table, &[("a", 1, 1)]).await;
    // Removed files are younger than the retention.
    assert_eq!(table.vacuum().await.unwrap(), Vacuumed::default());
    let forgetful = open_forgetful(&place).await.table("db", "cpu").await.unwrap().unwrap();
    let vacuumed = forgetful.vacuum().await.unwrap();
    assert_eq!((vacuumed.files, vacuumed.bytes > 0), (3, true));
    // A file that is not committed may be about to be.
    assert!(forgetful.data_files().await.unwrap().contains(&stray.file.path));
    assert_eq!(read_simple(&forgetful, &forgetful.snapshot()).await, [("a".to_owned(), 1_000, 2)]);
    assert_eq!(forgetful.vacuum().await.unwrap(), Vacuumed::default());
    let store = open_ahead(&place, Duration::from_secs(50 * 3600)).await;
    let forgetful = store.table("db", "cpu").await.unwrap().unwrap();
    assert_eq!(forgetful.vacuum().await.unwrap().files, 1);
}

async fn the_log_keeps_the_retention_and_can_be_read_from_there(place: Place) {
    let store = open_forgetful(&place).await;
    let table = store.create_table("db", "cpu").await.unwrap();
    for value in 0..150i64 {
        let file = simple_file(&table, &[("a", 1_000, value)]).await;
        table.commit(Change::flush(vec![file], Some(("w".into(), value)))).await.unwrap();
    }
    table.checkpoint().await.unwrap();
    let names = listed(&store, "db/cpu/_delta_log").await;
    let commits = names.iter().filter(|name| name.ends_with(".json"));
    // The checkpoint at 100 is past the retention, so what is before it has gone and what is after it stays.
    assert_eq!(commits.count(), 50);
    let again = open(&place).await.table("db", "cpu").await.unwrap().unwrap();
    assert_eq!(again.snapshot().files, table.snapshot().files);
    assert_eq!(again.snapshot_at(120).await.unwrap().files.len(), 121);
    assert_eq!(again.snapshot_at(99).await.unwrap_err().kind(), Kind::NotFound);
}
