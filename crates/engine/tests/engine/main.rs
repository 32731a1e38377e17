//! The engine from the outside: what is acknowledged is there, once, whatever happens in between.

mod flushes;
mod operations;
mod undo;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampNanosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::{StreamExt, TryStreamExt};
use weir_base::{ByteSize, Kind};
use weir_engine::config::Config;
use weir_engine::engine::{Engine, Env, Opened};
use weir_engine::ingest::{WriteOptions, Written};
use weir_engine::read::logical_schema;

fn config(dir: &Path) -> Config {
    Config { background: false, owner: "test".into(), ..Config::new(dir) }
}

async fn open(config: Config) -> (Engine, Opened) {
    Engine::open(config, Env::default()).await.unwrap()
}

async fn try_write(engine: &Engine, database: &str, text: &str) -> weir_engine::Result<Written> {
    let mut write = engine.begin_write(database, WriteOptions::default())?;
    let text = text.as_bytes().to_vec();
    let write = tokio::task::spawn_blocking(move || write.feed(&text).map(|()| write)).await.unwrap()?;
    write.commit().await
}

async fn write(engine: &Engine, text: &str) -> usize {
    let written = try_write(engine, "db", text).await.unwrap();
    assert!(written.rejected.is_empty(), "{:?}", written.rejected);
    written.rows
}

/// Every row that a query sees, as `column=value` texts without NULLs, in key order.
async fn rows(engine: &Engine, table: &str) -> Vec<String> {
    let Some(snapshot) = engine.snapshot("db", table).await.unwrap() else { return Vec::new() };
    let schema = logical_schema(&snapshot.schema);
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let mut inputs = Vec::new();
    if let Some(stored) = engine.store().table("db", table).await.unwrap() {
        for file in &snapshot.files {
            inputs.push(stored.read_file(file, &snapshot.schema).await.unwrap().boxed());
        }
    }
    for run in &snapshot.runs {
        let run = run.sorted().unwrap();
        let batch = run.batch(0..run.rows(), &all, &schema).unwrap();
        inputs.push(futures::stream::iter([Ok(batch)]).boxed());
    }
    let merged = weir_engine::read::merged(&snapshot.schema, inputs).unwrap();
    let batches: Vec<RecordBatch> = merged.try_collect().await.unwrap();
    batches.iter().flat_map(texts).collect()
}

fn texts(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default();
    let mut out = vec![String::new(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let formatter = ArrayFormatter::try_new(column, &options).unwrap();
        for (row, text) in out.iter_mut().enumerate().filter(|(row, _)| column.is_valid(*row)) {
            let separator = if text.is_empty() { "" } else { " " };
            match field.data_type() {
                DataType::Timestamp(_, _) => {
                    text.push_str(&column.as_primitive::<TimestampNanosecondType>().value(row).to_string());
                }
                _ => text.push_str(&format!("{separator}{}={}", field.name(), formatter.value(row))),
            }
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_write_wins_across_requests_flushes_files_and_restarts_e3() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(config(dir.path())).await;
    write(&engine, "m,h=a x=1,y=1i 10\nm,h=a x=2 10\nm,h=b y=7i 5\n").await;
    let expected = ["10 h=a x=2.0 y=1", "5 h=b y=7"];
    assert_eq!(rows(&engine, "m").await, expected);
    engine.flush(None).await.unwrap();
    assert_eq!(rows(&engine, "m").await, expected);
    write(&engine, "m,h=a y=9i 10\nm,h=b,z=1 s=\"new tag\" 5").await;
    let expected = ["10 h=a x=2.0 y=9", "5 h=b y=7", "5 h=b z=1 s=new tag"];
    assert_eq!(rows(&engine, "m").await, expected);
    engine.close(Duration::from_secs(30)).await.unwrap();
    drop(engine);
    let (engine, opened) = open(config(dir.path())).await;
    assert_eq!(opened.rows_recovered, 0, "an orderly stop leaves nothing to replay");
    assert_eq!(rows(&engine, "m").await, expected);
    write(&engine, "m,h=a x=3 10").await;
    engine.flush(None).await.unwrap();
    let compacted = engine.compact("db", None).await.unwrap();
    assert!(compacted.files_before >= 3 && compacted.files_after == 1, "{compacted:?}");
    let expected = ["10 h=a x=3.0 y=9", "5 h=b y=7", "5 h=b z=1 s=new tag"];
    assert_eq!(rows(&engine, "m").await, expected);
    engine.close(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_too_many_for_one_merged_file_become_files_that_follow_each_other_e3() {
    const ROWS: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(Config { compact_rows: ROWS, ..config(dir.path()) }).await;
    // Two files over the same times; no range of a tag tells parts of them apart.
    for parity in 0..2 {
        let line = |number: usize| {
            let (host, step) = (number % 20, number / 20 * 2 + parity);
            format!("m,host=h{host},rack=r{} v={number}i {}\n", host % 3, step as u64 * 60_000_000_001)
        };
        write(&engine, &(0..2000).map(line).collect::<String>()).await;
        engine.flush(None).await.unwrap();
    }
    let expected = rows(&engine, "m").await;
    let merging = engine.compact("db", None);
    let done = tokio::time::timeout(Duration::from_secs(120), merging).await.expect("a compaction ends").unwrap();
    assert_eq!((done.files_before, done.rows), (2, 4000));
    let mut files = engine.snapshot("db", "m").await.unwrap().unwrap().files;
    files.sort_by_key(|file| file.time_min);
    assert!((35..=40).contains(&files.len()), "{}", files.len());
    assert!(files.windows(2).all(|pair| pair[0].time_max < pair[1].time_min), "{files:?}");
    assert!(files.iter().all(|file| file.rows <= 2 * ROWS as u64), "{files:?}");
    assert_eq!(rows(&engine, "m").await, expected);
    assert_eq!(engine.compact("db", None).await.unwrap().files_before, 0);
    engine.close(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_crash_once_e1() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    for round in 0..6i64 {
        let (engine, opened) = open(config(dir.path())).await;
        assert_eq!(rows(&engine, "m").await, expected.values().cloned().collect::<Vec<_>>(), "round {round}");
        if round > 0 {
            assert!(opened.rows_recovered > 0, "round {round}: {opened:?}");
        }
        for step in 0..5 {
            let time = round * 3 + step;
            write(&engine, &format!("m v={round}i {time}")).await;
            expected.insert(time, format!("{time} v={round}"));
            if step == 2 {
                engine.flush(None).await.unwrap();
            }
        }
        // A crash: nothing is closed, the lock is let go as the kernel would.
        drop(engine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_another_type_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(config(dir.path())).await;
    write(&engine, "m v=1i 1").await;
    let written = try_write(&engine, "db", "m v=2i 2\nm v=2.5 3\nm,v=tag x=1 4\nm v=4i,w=true 5\nbad\n").await.unwrap();
    assert_eq!((written.rows, written.rejected_total), (2, 3));
    assert_eq!(written.rejected.iter().map(|line| line.line_number).collect::<Vec<_>>(), [2, 3, 5]);
    assert_eq!(rows(&engine, "m").await, ["1 v=1", "2 v=2", "5 v=4 w=true"]);
    let all_or_nothing = WriteOptions { accept_partial: false, ..WriteOptions::default() };
    let mut strict = engine.begin_write("db", all_or_nothing).unwrap();
    let strict = tokio::task::spawn_blocking(move || strict.feed(b"m v=9i 9\nbad").map(|()| strict)).await.unwrap();
    let written = strict.unwrap().commit().await.unwrap();
    assert_eq!((written.rows, written.rejected_total), (0, 1));
    assert_eq!(rows(&engine, "m").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_lose_and_double_nothing_e1_e2() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = open(config(dir.path())).await;
    let writers = (0..8).map(|writer| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for step in 0..50 {
                write(&engine, &format!("m,w=w{writer} v={step}i {step}\nnew{writer} f{step}=1 1")).await;
                if step % 16 == writer {
                    engine.flush(Some("db")).await.unwrap();
                }
            }
        })
    });
    futures::future::join_all(writers).await.into_iter().for_each(|outcome| outcome.unwrap());
    assert_eq!(rows(&engine, "m").await.len(), 400);
    assert_eq!(engine.tables("db").await.unwrap().len(), 9);
    assert_eq!(engine.snapshot("db", "new3").await.unwrap().unwrap().schema.columns().len(), 50);
    engine.flush(None).await.unwrap();
    engine.compact("db", Some("m")).await.unwrap();
    assert_eq!(rows(&engine, "m").await.len(), 400);
    assert_eq!(engine.stats().rows_buffered, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_engine_on_a_folder_is_told_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, _) = open(config(dir.path())).await;
    let error = Engine::open(config(dir.path()), Env::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("in use by test (pid"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_refuses_before_it_acknowledges_e4_s1() {
    let dir = tempfile::tempdir().unwrap();
    let small = Config { buffer_bytes_max: ByteSize::new(200_000), ..config(dir.path()) };
    let (engine, _) = open(small).await;
    let mut accepted = 0;
    let error = loop {
        let text: String = (0..100).map(|row| format!("m v={row}i {}\n", accepted + row)).collect();
        match try_write(&engine, "db", &text).await {
            Ok(written) => accepted += written.rows as i64,
            Err(error) => break error,
        }
    };
    assert!(error.kind() == Kind::Limit && error.to_string().contains("buffer_bytes_max"), "{error}");
    assert!(accepted > 500 && engine.stats().buffer_bytes_peak <= 200_000, "{accepted}");
    assert_eq!(rows(&engine, "m").await.len() as i64, accepted);
    engine.flush(None).await.unwrap();
    write(&engine, "m v=1i 999999").await;
    assert_eq!(rows(&engine, "m").await.len() as i64, accepted + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_tables_columns_and_series_s1() {
    let dir = tempfile::tempdir().unwrap();
    let small = Config { tables_max: 2, columns_max: 3, series_max: 4, ..config(dir.path()) };
    let (engine, _) = open(small).await;
    write(&engine, "a,h=1 x=1 1\nb,h=1 x=1 1").await;
    for (text, setting) in [("c x=1 1", "tables_max"), ("a,h=1 x=1,y=1,z=1 1", "columns_max")] {
        let outcome = try_write(&engine, "db", text).await;
        let reason = match outcome {
            Ok(written) => written.rejected.iter().map(|line| line.reason.clone()).collect::<String>(),
            Err(error) => error.to_string(),
        };
        assert!(reason.contains(setting), "{text}: {reason}");
    }
    let error = try_write(&engine, "db", "a,h=2 x=1 1\na,h=3 x=1 1\na,h=4 x=1 1").await.unwrap_err();
    assert!(error.kind() == Kind::Limit && error.to_string().contains("series_max"), "{error}");
    assert_eq!(rows(&engine, "a").await, ["1 h=1 x=1.0"]);
    let reserved = try_write(&engine, "db", "a,weir_x=1 x=1 1\na time=1 1").await.unwrap();
    assert_eq!((reserved.rows, reserved.rejected_total), (0, 2));
    assert!(engine.begin_write("../x", WriteOptions::default()).is_err_and(|error| error.kind() == Kind::Invalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn background_flushes_by_age_and_wal_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let eager = Config { background: true, flush_age_max: Duration::from_millis(1), ..config(dir.path()) };
    let (engine, _) = open(eager).await;
    write(&engine, "m v=1i 1").await;
    let flushed = async {
        while engine.stats().rows_buffered > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), flushed).await.expect("flushed by itself");
    assert_eq!(rows(&engine, "m").await, ["1 v=1"]);
    engine.close(Duration::from_secs(30)).await.unwrap();
    let error = try_write(&engine, "db", "m v=1i 1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_store_lose_and_double_nothing_e1_e3() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store").to_string_lossy().into_owned();
    let mut engines = Vec::new();
    for name in ["one", "two"] {
        let shared = Config { store: Some(store.clone()), ..config(&dir.path().join(name)) };
        engines.push(open(shared).await.0);
    }
    let work = engines.iter().enumerate().map(|(server, engine)| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for step in 0..12 {
                let text = format!("m,h=h{step} own{server}={step}i,both={server}i {step}");
                while let Err(error) = try_write(&engine, "db", &text).await {
                    assert!(error.retry() != weir_base::Retry::Never, "{error}");
                }
                engine.flush(None).await.unwrap();
                if step % 4 == server as i64 {
                    let outcome = engine.compact("db", Some("m")).await;
                    assert!(outcome.as_ref().is_ok() || outcome.is_err_and(|error| error.kind() == Kind::Conflict));
                }
            }
        })
    });
    futures::future::join_all(work).await.into_iter().for_each(|outcome| outcome.unwrap());
    let one = rows(&engines[0], "m").await;
    assert_eq!(one.len(), 12);
    assert!(one.iter().all(|row| row.contains("own0=") && row.contains("own1=")), "{one:?}");
    let keyed = |rows: Vec<String>| {
        rows.iter().map(|row| row.split(' ').collect::<std::collections::BTreeSet<_>>().len()).sum::<usize>()
    };
    assert_eq!(keyed(rows(&engines[1], "m").await), keyed(one));
}

/// Of the tags of a first write the one that tells most series apart is sorted by first, also after the log was replayed; what comes later
/// is added behind. Two servers that begin with other orders agree on one.
#[tokio::test(flavor = "multi_thread")]
async fn the_tag_with_most_values_is_sorted_by_first() {
    let tags = |snapshot: &weir_engine::read::ReadSnapshot| {
        snapshot.schema.tags().map(|(_, column)| column.name.clone()).collect::<Vec<_>>()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store").to_string_lossy().into_owned();
    let lines = |tag: &str| {
        (0..9).map(|row| format!("m,arch=x{},{tag}=n{row},region=r v=1i {row}\n", row % 2)).collect::<String>()
    };
    let (engine, _) = open(config(&dir.path().join("own"))).await;
    write(&engine, &lines("host")).await;
    write(&engine, "m,arch=x0,a_new_one=1,host=n1,region=r v=2i 1").await;
    let expected = ["host", "arch", "region", "a_new_one"];
    assert_eq!(tags(&engine.snapshot("db", "m").await.unwrap().unwrap()), expected);
    let found = rows(&engine, "m").await;
    drop(engine);
    let (engine, opened) = open(config(&dir.path().join("own"))).await;
    assert_eq!((opened.rows_recovered, rows(&engine, "m").await), (10, found.clone()));
    assert_eq!(tags(&engine.snapshot("db", "m").await.unwrap().unwrap()), expected);
    engine.flush(None).await.unwrap();
    assert_eq!(rows(&engine, "m").await, found);
    engine.close(Duration::from_secs(30)).await.unwrap();
    let shared = |name: &str| Config { store: Some(store.clone()), ..config(&dir.path().join(name)) };
    let (one, two) = (open(shared("one")).await.0, open(shared("two")).await.0);
    let other = (0..9).map(|row| format!("m,arch=n{row},host=x,region=r v=1i {}\n", 100 + row)).collect::<String>();
    let first = lines("host");
    let (mine, theirs) = tokio::join!(try_write(&one, "db", &first), try_write(&two, "db", &other));
    assert_eq!((mine.unwrap().rows, theirs.unwrap().rows), (9, 9));
    one.flush(None).await.unwrap();
    two.flush(None).await.unwrap();
    let seen = tags(&one.snapshot("db", "m").await.unwrap().unwrap());
    assert_eq!(tags(&two.snapshot("db", "m").await.unwrap().unwrap()), seen);
    assert_eq!(rows(&one, "m").await.len(), 18);
    assert_eq!(rows(&one, "m").await, rows(&two, "m").await);
    one.compact("db", None).await.unwrap();
    assert_eq!(rows(&two, "m").await.len(), 18);
}
