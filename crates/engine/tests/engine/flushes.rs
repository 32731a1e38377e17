//! A store that refuses for a long time: the buffer stays within its limit, keeps its order, and is flushed once at the end.

use std::path::PathBuf;

use weir_base::Retry;

use super::*;

const FAILURES: u64 = 1_000;
const BUFFER_BYTES_MAX: u64 = 1 << 20;

/// A table's folder that is swapped for a file, so that nothing can be put into it.
struct Blocked {
    folder: PathBuf,
    aside: PathBuf,
}

#[allow(clippy::disallowed_methods, reason = "the store is a real folder")]
impl Blocked {
    fn new(folder: PathBuf) -> Self {
        let aside = folder.with_extension("aside");
        std::fs::rename(&folder, &aside).unwrap();
        std::fs::write(&folder, b"in the way").unwrap();
        Self { folder, aside }
    }

    fn heal(self) {
        std::fs::remove_file(&self.folder).unwrap();
        std::fs::rename(&self.aside, &self.folder).unwrap();
    }
}

/// The names of the commits of a table.
#[allow(clippy::disallowed_methods, reason = "the store is a real folder")]
fn commits(folder: &std::path::Path) -> Vec<String> {
    let listed = std::fs::read_dir(folder.join("_delta_log")).unwrap().map(|entry| entry.unwrap().path());
    let commits = listed.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let mut names: Vec<_> = commits.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The `round`th lines: one row that each round overwrites, and rows that only this round writes.
fn lines(round: u64) -> String {
    let own = (0..200).map(|row| format!("m,h=own v={round}i {}\n", 1 + round * 200 + row));
    std::iter::once(format!("m,h=all v={round}i 0\n")).chain(own).collect()
}

/// S1, E4, E3: accounting is the same after each of 1,000 failed flushes.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_failed_flushes_leave_memory_flat_and_then_flush_once_s1() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Config {
        background: true,
        buffer_bytes_max: ByteSize::new(BUFFER_BYTES_MAX),
        flush_bytes: ByteSize::new(16 << 10),
        flush_backoff: Duration::from_millis(1),
        flush_backoff_max: Duration::from_millis(1),
        ..config(dir.path())
    };
    let (engine, _) = open(settings).await;
    write(&engine, &lines(0)).await;
    engine.flush(None).await.unwrap();
    let blocked = Blocked::new(dir.path().join("tables/db/m"));
    let mut rounds = 1;
    let refusal = loop {
        match try_write(&engine, "db", &lines(rounds)).await {
            Ok(_) => rounds += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal.kind(), Kind::Limit);
    assert!(matches!(refusal.retry(), Retry::After(_)), "{refusal:?}");
    let before = engine.stats();
    let mut seen = before.flushes_failed + 20;
    let mut flat = None;
    while seen < before.flushes_failed + FAILURES {
        let stats = engine.stats();
        if stats.flushes_failed < seen {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        seen = stats.flushes_failed + 1;
        // The first failures may have sorted what was frozen; from then on nothing is added.
        let full = *flat.get_or_insert(stats.buffer_bytes);
        assert_eq!(stats.buffer_bytes, full, "after {} failures", stats.flushes_failed);
        assert!(stats.buffer_bytes_peak <= BUFFER_BYTES_MAX, "{}", stats.buffer_bytes_peak);
        assert_eq!(stats.rows_buffered, before.rows_buffered);
    }
    assert!(engine.stats().flushes_failed_in_a_row >= FAILURES);
    assert_eq!(try_write(&engine, "db", &lines(rounds)).await.unwrap_err().kind(), Kind::Limit, "still refused");
    blocked.heal();
    while engine.stats().rows_buffered > 0 {
        engine.flush(None).await.unwrap();
    }
    let stats = engine.stats();
    assert!(stats.buffer_bytes < BUFFER_BYTES_MAX / 10, "{} bytes stay taken", stats.buffer_bytes);
    // One commit before, one for the rows whose flush had failed, one for those behind them; none for any failure.
    assert_eq!((stats.flushes, stats.compactions), (3, 0));
    assert_eq!(engine.snapshot("db", "m").await.unwrap().unwrap().version, 2);
    assert_eq!(
        commits(&dir.path().join("tables/db/m")),
        ["00000000000000000000", "00000000000000000001", "00000000000000000002"]
    );
    // Of the row that each round wrote, each flush has one.
    let flushed = stats.rows_flushed - rounds * 200;
    assert!(flushed <= stats.flushes, "{flushed} versions of one row in {} flushes", stats.flushes);
    let newest = rounds - 1;
    let found = rows(&engine, "m").await;
    assert_eq!(found.len() as u64, 1 + rounds * 200);
    assert_eq!(found[0], format!("0 h=all v={newest}"), "the last write wins");
    engine.close(Duration::from_secs(30)).await.unwrap();
    drop(engine);
    let (engine, opened) = open_when_free(config(dir.path())).await;
    assert_eq!(opened.rows_recovered, 0);
    assert_eq!(rows(&engine, "m").await, found);
}

/// S1, E4: a log that is full refuses before it acknowledges, and takes writes again once it is trimmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_until_it_is_trimmed_s1() {
    let dir = tempfile::tempdir().unwrap();
    let max = ByteSize::new(64 << 10);
    let (engine, _) = open(Config { wal_bytes_max: max, ..config(dir.path()) }).await;
    let mut rounds = 0;
    let refusal = loop {
        match try_write(&engine, "db", &lines(rounds)).await {
            Ok(_) => rounds += 1,
            Err(error) => break error,
        }
        assert!(rounds < 10_000, "never refused");
    };
    assert_eq!(refusal.kind(), Kind::Limit);
    assert!(matches!(refusal.retry(), Retry::After(_)) && refusal.to_string().contains("wal_bytes_max"), "{refusal:?}");
    assert_eq!(rows(&engine, "m").await.len() as u64, 1 + rounds * 200, "exactly what was acknowledged");
    engine.flush(None).await.unwrap();
    write(&engine, &lines(rounds)).await;
    assert_eq!(rows(&engine, "m").await.len() as u64, 1 + (rounds + 1) * 200);
}

/// What waits for its flush becomes files of about `compact_rows` rows each, every one a commit of its own: whichever were committed when
/// the server died, no row is lost or there twice (E1).
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_flushed_in_parts_each_exactly_once_e1_e3() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || Config { compact_rows: 10, ..config(dir.path()) };
    let mut committed = Vec::new();
    for round in 0..4 {
        let (engine, _) = open_when_free(settings()).await;
        for request in 0..60_u64 {
            // Each request overwrites a row of the one before, which may be in another part.
            let line = |row: u64| format!("m,h=h{} v={}i {}\n", row % 3, round * 1000 + request, request * 3 + row);
            write(&engine, &(0..4).map(line).collect::<String>()).await;
        }
        let expected = rows(&engine, "m").await;
        assert_eq!(expected.len(), 60 * 3 + 1);
        let before = engine.snapshot("db", "m").await.unwrap().unwrap().version;
        let flush = tokio::spawn({
            let engine = engine.clone();
            async move { engine.flush(None).await }
        });
        while round < 3 && engine.snapshot("db", "m").await.unwrap().unwrap().version < before + 3 + round as i64 {
            tokio::task::yield_now().await;
        }
        if round < 3 {
            flush.abort();
            let _ = flush.await;
        } else {
            flush.await.unwrap().unwrap();
        }
        assert_eq!(rows(&engine, "m").await, expected, "round {round}, with a part in files");
        drop(engine);
        let (engine, opened) = open_when_free(settings()).await;
        committed.push(opened.records_skipped);
        assert_eq!(rows(&engine, "m").await, expected, "round {round}, after the restart");
        engine.flush(None).await.unwrap();
        assert_eq!(rows(&engine, "m").await, expected, "round {round}, all in files");
        assert!(engine.stats().rows_buffered == 0);
        let files = engine.snapshot("db", "m").await.unwrap().unwrap().files;
        let merged = |file: &weir_engine::store::file::DataFile| file.order.0 < file.order.1;
        assert!(files.iter().all(|file| merged(file) || file.rows <= 12 + 4), "{files:?}");
        engine.compact("db", None).await.unwrap();
        assert_eq!(rows(&engine, "m").await, expected, "round {round}, merged");
    }
    assert!(committed.iter().any(|skipped| *skipped > 0), "no restart found a part of its log in files");
}

/// S1, E3: no more files of a chain of overlaps are open at once than memory is allowed for; the answer is that of one merge.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_too_long_to_be_open_at_once_is_merged_in_steps_s1_e3() {
    let mut merges = Vec::new();
    for compact_bytes_max in [ByteSize::new(1), ByteSize::new(100 << 10), ByteSize::mib(64)] {
        let dir = tempfile::tempdir().unwrap();
        let (engine, _) = open(Config { compact_bytes_max, compact_rows: 100, ..config(dir.path()) }).await;
        for flush in 0..24_u64 {
            // Half of the rows are written again by the flush after; some come late.
            let late = if flush % 5 == 4 { 25 } else { 0 };
            let line = |row: u64| {
                let (host, time) = (row % 4, (300 + flush * 10 + row / 2 - late) * 1_000_000_000);
                let field = if (flush + row).is_multiple_of(3) { "a" } else { "b" };
                format!("m,h=h{host} {field}={flush}i {time}\n")
            };
            write(&engine, &(0..60).map(line).collect::<String>()).await;
            engine.flush(None).await.unwrap();
        }
        let expected = rows(&engine, "m").await;
        let chain = engine.snapshot("db", "m").await.unwrap().unwrap().files.len();
        let done = engine.compact("db", Some("m")).await.unwrap();
        assert!(done.files_before >= chain, "{done:?}");
        assert_eq!(rows(&engine, "m").await, expected, "{compact_bytes_max}");
        let mut files = engine.snapshot("db", "m").await.unwrap().unwrap().files;
        files.sort_by_key(|file| file.time_min);
        assert!(files.windows(2).all(|pair| pair[0].time_max < pair[1].time_min), "{files:?}");
        assert_eq!(engine.compact("db", None).await.unwrap().files_before, 0);
        merges.push(engine.stats().compactions);
        engine.close(Duration::from_secs(30)).await.unwrap();
    }
    let [pairs, some, one] = merges[..] else { unreachable!() };
    assert!(pairs > some && some > one && one == 1, "{merges:?}");
}

/// S1: the pace of a merge that nobody asked for is bounded; who asks for one does not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_in_the_background_keeps_its_pace_until_somebody_waits_for_it_s1() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Config {
        background: true,
        flush_bytes: ByteSize::new(1),
        compact_files: 4,
        compact_bytes_per_s: ByteSize::new(1),
        ..config(dir.path())
    };
    let (engine, _) = open(settings).await;
    let files = async || engine.snapshot("db", "m").await.unwrap().unwrap().files.len();
    for round in 0..5_u64 {
        // More than one batch, since the first is let through.
        let line = |row: u64| format!("m,h=h{} v={round}i {}\n", row % 3, row);
        write(&engine, &(0..20_000).map(line).collect::<String>()).await;
        while engine.stats().rows_buffered > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let expected = rows(&engine, "m").await;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        assert_eq!(engine.stats().compactions, 0, "a merge at a byte a second has ended");
    }
    assert!(files().await >= 5);
    let merging = engine.compact("db", Some("m"));
    tokio::time::timeout(Duration::from_secs(60), merging).await.expect("who waits is not held back").unwrap();
    assert_eq!((files().await, rows(&engine, "m").await), (1, expected));
    engine.close(Duration::from_secs(30)).await.unwrap();
}

/// The folder is free when the last task of the server before has seen its end.
async fn open_when_free(config: Config) -> (Engine, Opened) {
    loop {
        match Engine::open(config.clone(), Env::default()).await {
            Err(error) if error.kind() == Kind::Conflict => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => break opened.unwrap(),
        }
    }
}
