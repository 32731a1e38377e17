//! Rollups: whatever is written, late or twice, deleted, brought back, flushed, compacted or dropped, a query that may use a
//! rollup answers as one that may not.

use std::sync::Arc;

use proptest::prelude::*;
use weir_base::clock::SystemClock;
use weir_base::{Kind, OsRandom};
use weir_engine::Engine;
use weir_engine::config::Config;
use weir_engine::engine::Env;
use weir_engine::ingest::WriteOptions;
use weir_engine::rollup::Definition;
use weir_query::encode::{Encoding, encode};
use weir_query::{Request, Settings, SqlEngine};

use futures::StreamExt;

const HOUR: i64 = 3_600_000_000_000;

/// An engine asked with and without rollups.
struct Both {
    engine: Engine,
    with: SqlEngine,
    without: SqlEngine,
    _folder: tempfile::TempDir,
}

impl Both {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { background: false, ..Config::new(folder.path()) };
        let (engine, _) = Engine::open(config, Env::default()).await.unwrap();
        let sql = |query_rollups: bool| {
            let settings = Settings { query_rollups, ..Settings::new(1 << 30, 2) };
            let clock = Arc::new(SystemClock::default());
            SqlEngine::new(Arc::new(engine.clone()), settings, clock, Arc::new(OsRandom)).unwrap()
        };
        let (with, without) = (sql(true), sql(false));
        Self { with, without, engine, _folder: folder }
    }

    async fn write(&self, lines: &str) {
        let mut write = self.engine.begin_write("db", WriteOptions::default()).unwrap();
        let lines = lines.as_bytes().to_vec();
        let fed = tokio::task::spawn_blocking(move || write.feed(&lines).map(|()| write)).await.unwrap();
        let written = fed.unwrap().commit().await.unwrap();
        assert!(written.rejected.is_empty(), "{:?}", written.rejected);
    }

    async fn create(&self, name: &str, sql: &str) -> weir_query::Result<Definition> {
        let request = Request { database: "db".into(), sql: sql.into(), ..Request::default() };
        let definition = self.without.define_rollup(&request, name, None).await?;
        self.engine.create_rollup("db", &definition).await.unwrap();
        Ok(definition)
    }

    /// Whether there was anything to do.
    async fn refresh(&self, name: &str) -> bool {
        self.without.refresh_rollup(&self.engine, "db", name).await.unwrap().is_some()
    }

    async fn ask(&self, engine: &SqlEngine, sql: &str) -> String {
        let request = Request { database: "db".into(), sql: sql.into(), ..Request::default() };
        let answer = match engine.query(request).await {
            Ok(answer) => answer,
            Err(error) => return format!("{:?}", error.kind()),
        };
        let mut pieces = encode(answer, Encoding::Csv);
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.unwrap_or_else(|error| panic!("{sql}: {error}")));
        }
        String::from_utf8(bytes).unwrap()
    }

    /// The answer, the same both ways.
    async fn same(&self, sql: &str) -> String {
        let (with, without) = (self.ask(&self.with, sql).await, self.ask(&self.without, sql).await);
        assert_eq!(with, without, "{sql}\n{}", self.ask(&self.with, &format!("EXPLAIN {sql}")).await);
        with
    }

    /// Whether a rollup has a part in the answer.
    async fn uses(&self, sql: &str) -> bool {
        self.ask(&self.with, &format!("EXPLAIN {sql}")).await.contains(": rollup ")
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

const HOURLY: &str = "SELECT host, region, time_bucket('1 hour', time) AS time, count(*), count(v), sum(v), avg(v), min(v), max(v), \
    sum(n), avg(n), min(n), max(u), sum(u), first(v, time), last(v, time), last(s, time), first(n, time), max(s), min(b) \
    FROM m GROUP BY host, region, time_bucket('1 hour', time)";
const DAILY: &str = "SELECT region, date_bin(INTERVAL '1 day', time), count(v), sum(v), max(n) FROM m GROUP BY 1, 2";

/// Questions that rollups answer, wholly or in part.
const QUESTIONS: [&str; 9] = [
    "SELECT host, time_bucket('1 hour', time) AS t, count(*), count(v), sum(v), avg(v), min(v), max(v), first(v, time), last(v, time) \
     FROM m GROUP BY host, t ORDER BY host, t",
    "SELECT date_bin(INTERVAL '1 day', time) AS t, region, sum(n), avg(n), sum(u), max(u), last(s, time), first(n, time), max(s), min(b) \
     FROM m GROUP BY t, region ORDER BY t, region",
    "SELECT count(*), sum(v), avg(n), min(n), max(s), last(v, time) FROM m",
    "SELECT c.host, time_bucket('6 hours', c.time) AS t, avg(c.v) AS v, count(*) AS n FROM m AS c \
     WHERE c.host = 'a' AND c.time >= '1969-12-31T10:17:00' AND c.time < '1970-01-02T03:00:00.5' GROUP BY c.host, t ORDER BY t",
    "SELECT time_bucket('1 month', time) AS t, sum(v) AS v, count(n) FROM m WHERE region IS NULL OR region <> 'x' GROUP BY t \
     HAVING count(*) > 2 ORDER BY t",
    "SELECT count(*) FROM m WHERE time BETWEEN '1970-01-01' AND '1970-01-01T23:59:59.999999999' AND host IN ('a', 'b')",
    "SELECT region, max(v) - min(v) AS spread FROM (SELECT region, max(v) AS v FROM m GROUP BY region) GROUP BY region ORDER BY region",
    "SELECT h.t, h.n, d.n FROM (SELECT time_bucket('1 hour', time) AS t, count(*) AS n FROM m GROUP BY t) h \
     JOIN (SELECT date_bin(INTERVAL '1 day', time) AS t, count(v) AS n FROM m GROUP BY t) d ON date_bin(INTERVAL '1 day', h.t) = d.t ORDER BY h.t",
    "SELECT DISTINCT host FROM m WHERE time >= '1970-01-01' ORDER BY host",
];

#[derive(Debug, Clone)]
enum Step {
    /// Rows: host, region, minute from the start, what fields.
    Write(Vec<(u8, u8, i64, u8)>),
    Flush,
    Compact,
    /// Hours from the start: everything from the first to the second.
    Delete(i64, i64),
    /// The last delete, or its undo.
    Undo,
    Refresh,
    DropAndBack,
    /// Drops the table for good: what is written next makes another.
    Drop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0..4u8, 0..3u8, -1500..3000i64, 0..=255u8);
    let step = prop_oneof![
        5 => prop::collection::vec(row, 1..12).prop_map(Step::Write),
        4 => Just(Step::Flush),
        1 => Just(Step::Compact),
        2 => (-25..50i64, 1..30i64).prop_map(|(from, hours)| Step::Delete(from, from + hours)),
        2 => Just(Step::Undo),
        4 => Just(Step::Refresh),
        1 => Just(Step::DropAndBack),
        1 => Just(Step::Drop),
    ];
    prop::collection::vec(step, 4..14)
}

/// No two series have a time in common: which of two equal times is the first is not said.
fn lines(rows: &[(u8, u8, i64, u8)], number: usize) -> String {
    let line = |&(host, region, minute, fields): &(u8, u8, i64, u8)| {
        let tags = [(host, "host", ["", "a", "b", "c"]), (region, "region", ["", "x", "y", ""])];
        let tags: String = tags
            .iter()
            .filter(|(which, _, names)| !names[usize::from(*which)].is_empty())
            .map(|(which, name, names)| format!(",{name}={}", names[usize::from(*which)]))
            .collect();
        let value = i64::from(fields) * 7 % 100 - 50 + number as i64;
        let all = [
            format!("v={}", value as f64 / 4.0),
            format!("n={value}i"),
            format!("u={}u", value.unsigned_abs()),
            format!("s=\"t{}\"", value % 5),
            format!("b={}", value % 2 == 0),
        ];
        let chosen: Vec<String> =
            all.into_iter().enumerate().filter(|(bit, _)| fields & (1 << bit) != 0).map(|(_, field)| field).collect();
        let chosen = if chosen.is_empty() { "n=1i".to_owned() } else { chosen.join(",") };
        let time = minute * 60_000_000_000 + i64::from(host) * 4 + i64::from(region);
        format!("m{tags} {chosen} {time}\n")
    };
    rows.iter().map(line).collect()
}

async fn play(steps: &[Step]) {
    let both = Both::open().await;
    // All columns that the questions name.
    both.write("m,host=a,region=x v=1.5,n=2i,u=3u,s=\"t\",b=true 0\n").await;
    both.create("hourly", HOURLY).await.unwrap();
    both.create("daily", DAILY).await.unwrap();
    let mut dropped: Vec<String> = Vec::new();
    // An operation and its next step.
    let mut last: Option<(String, u32)> = None;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Write(rows) => both.write(&lines(rows, number)).await,
            Step::Flush => drop(both.engine.flush(None).await.unwrap()),
            Step::Compact => drop(both.engine.compact("db", None).await),
            Step::Delete(from, to) => {
                let (from, to) = (from * HOUR, to * HOUR);
                let filter = weir_engine::rewrite::RowFilter::new(move |batch| {
                    use arrow::array::AsArray;
                    let times = batch.column(0).as_primitive::<arrow::datatypes::TimestampNanosecondType>();
                    Ok(times.iter().map(|time| time.map(|time| (from..to).contains(&time))).collect())
                });
                let operation = format!("delete-{number}");
                match both.engine.delete_rows("db", "m", &filter, &operation).await {
                    Ok(_) => last = Some((operation, 2)),
                    Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
                }
            }
            Step::Undo => {
                if let Some((operation, next)) = &mut last
                    && both.engine.undo_step("db", "m", operation, *next).await.is_ok()
                {
                    *next += 1;
                }
            }
            Step::Refresh => {
                for name in ["hourly", "daily"] {
                    match both.without.refresh_rollup(&both.engine, "db", name).await {
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
                    }
                }
            }
            Step::DropAndBack => {
                // The table of now, or one that was dropped before.
                if let Ok(entry) = both.engine.drop_table("db", "m", "drop").await {
                    let back = dropped.pop().unwrap_or_else(|| entry.folder.clone());
                    both.engine.undrop_folder(&back, "undrop").await.unwrap();
                    if back != entry.folder {
                        dropped.push(entry.folder);
                    }
                }
            }
            Step::Drop => {
                dropped.extend(both.engine.drop_table("db", "m", "drop").await.ok().map(|entry| entry.folder));
            }
        }
        for question in QUESTIONS {
            both.same(question).await;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// E3, Q1.
    #[test]
    fn a_rollup_never_changes_an_answer(steps in steps()) {
        run(play(&steps));
    }
}

/// Three days of a row a minute on two hosts, flushed.
async fn three_days() -> Both {
    let both = Both::open().await;
    let lines: String = (-1440..2880)
        .flat_map(|minute: i64| {
            ["a", "b"].map(|host| {
                format!(
                    "m,host={host},region=x v={},n={minute}i,u=1u,s=\"t\",b=true {}\n",
                    minute % 60,
                    minute * 60_000_000_000
                )
            })
        })
        .collect();
    both.write(&lines).await;
    both.engine.flush(None).await.unwrap();
    both.create("hourly", HOURLY).await.unwrap();
    assert!(both.refresh("hourly").await && !both.refresh("hourly").await);
    both
}

/// What is not in the rollup yet, and what of a bucket is not asked for, comes from the table.
#[test]
fn what_changed_comes_from_the_table_until_it_is_summed_up_again() {
    run(async {
        let both = three_days().await;
        let days = "SELECT date_bin(INTERVAL '1 day', time) AS t, sum(v), count(*) FROM m GROUP BY t ORDER BY t";
        let whole = [
            "1969-12-31T00:00:00,84960.0,2880",
            "1970-01-01T00:00:00,84960.0,2880",
            "1970-01-02T00:00:00,84960.0,2880",
        ];
        // Minutes before 1970 count down from 0 to -59.
        let first = "1969-12-31T00:00:00,-84960.0,2880";
        assert_eq!(both.same(days).await.lines().skip(1).collect::<Vec<_>>(), [first, whole[1], whole[2]]);
        let scan = both.ask(&both.with, &format!("EXPLAIN {days}")).await;
        assert!(scan.contains("db.m: rollup hourly answers 1 spans of time, the table 0"), "{scan}");
        // A late row, in the buffer and then in a file: its hour comes from the table, the rest does not.
        both.write("m,host=c,region=x v=1000 1\n").await;
        for flushed in [false, true] {
            if flushed {
                both.engine.flush(None).await.unwrap();
            }
            assert!(both.same(days).await.contains("1970-01-01T00:00:00,85960.0,2881"));
            let scan = both.ask(&both.with, &format!("EXPLAIN {days}")).await;
            assert!(scan.contains("answers 2 spans of time, the table 1"), "{scan}");
        }
        assert!(both.refresh("hourly").await);
        let scan = both.ask(&both.with, &format!("EXPLAIN {days}")).await;
        assert!(scan.contains("answers 1 spans of time, the table 0"), "{scan}");
        assert!(both.same(days).await.contains("1970-01-01T00:00:00,85960.0,2881"));
        // Ends that lie within a bucket.
        let cut = "SELECT count(*) FROM m WHERE time >= '1970-01-01T00:30:00' AND time < '1970-01-01T05:30:00'";
        assert_eq!(both.same(cut).await.lines().last(), Some("600"));
        let scan = both.ask(&both.with, &format!("EXPLAIN {cut}")).await;
        assert!(scan.contains("answers 1 spans of time, the table 2"), "{scan}");
    });
}

/// Deletes and their undo reach the rollup, and until they do nothing is taken from it.
#[test]
fn deletes_and_their_undo_are_followed() {
    run(async {
        let both = three_days().await;
        let count = "SELECT host, count(*) FROM m GROUP BY host ORDER BY host";
        let filter = || weir_engine::rewrite::RowFilter::older_than(0);
        both.engine.delete_rows("db", "m", &filter(), "op").await.unwrap();
        assert_eq!(both.same(count).await, "host,count(*)\na,2880\nb,2880\n");
        assert!(!both.uses(count).await);
        assert!(both.refresh("hourly").await);
        assert!(both.uses(count).await);
        assert_eq!(both.same(count).await, "host,count(*)\na,2880\nb,2880\n");
        both.engine.undo_step("db", "m", "op", 2).await.unwrap();
        assert!(!both.uses(count).await);
        assert!(both.refresh("hourly").await && both.uses(count).await);
        assert_eq!(both.same(count).await, "host,count(*)\na,4320\nb,4320\n");
        // A delete of everything leaves no group.
        let all = weir_engine::rewrite::RowFilter::older_than(i64::MAX);
        both.engine.delete_rows("db", "m", &all, "all").await.unwrap();
        assert!(both.refresh("hourly").await);
        assert_eq!(both.same(count).await, "host,count(*)\n");
        assert_eq!(both.same("SELECT count(*), sum(v) FROM m").await, "count(*),sum(m.v)\n0,\n");
    });
}

/// A rollup survives a restart, a dropped table takes its rollup out of use, and another table of the name starts it anew.
#[test]
fn another_table_of_the_name_starts_anew() {
    run(async {
        let both = three_days().await;
        let count = "SELECT count(*) FROM m";
        assert!(both.uses(count).await);
        let entry = both.engine.drop_table("db", "m", "drop").await.unwrap();
        assert_eq!(both.same(count).await, "NotFound");
        both.engine.undrop_folder(&entry.folder, "back").await.unwrap();
        assert!(both.uses(count).await);
        assert_eq!(both.same(count).await.lines().last(), Some("8640"));
        let first = both.engine.drop_table("db", "m", "drop again").await.unwrap();
        both.write("m,host=a,region=x v=1,n=1i,u=1u,s=\"t\",b=true 0\n").await;
        both.engine.flush(None).await.unwrap();
        assert!(!both.uses(count).await);
        assert_eq!(both.same(count).await.lines().last(), Some("1"));
        assert!(both.refresh("hourly").await && both.uses(count).await);
        assert_eq!(both.same(count).await.lines().last(), Some("1"));
        // From now on only what changes is summed up again.
        both.write("m,host=a,region=x v=1 1\n").await;
        both.engine.flush(None).await.unwrap();
        let hourly = both.engine.rollups("db").await.unwrap().pop().unwrap();
        assert_eq!(both.engine.rollup_work("db", &hourly).await.unwrap().unwrap().times, [(1, 1)]);
        // The first table is back: the rollup holds rows of the second.
        both.engine.drop_table("db", "m", "drop the second").await.unwrap();
        both.engine.undrop_folder(&first.folder, "back again").await.unwrap();
        assert!(!both.uses(count).await);
        assert_eq!(both.same(count).await.lines().last(), Some("8640"));
        assert!(both.refresh("hourly").await && both.uses(count).await);
        assert_eq!(both.same(count).await.lines().last(), Some("8640"));
    });
}

/// Of two refreshes at once the one that was decided on what is not so any more is refused, and the answer stays right.
#[test]
fn a_refresh_that_another_overtook_is_refused() {
    run(async {
        let both = Both::open().await;
        both.write("m,host=a,region=x v=1,n=1i,u=1u,s=\"t\",b=true 0\n").await;
        both.engine.flush(None).await.unwrap();
        let definition = both.create("hourly", HOURLY).await.unwrap();
        let first = both.engine.rollup_work("db", &definition).await.unwrap().unwrap();
        both.write("m,host=a,region=x v=2 1\n").await;
        both.engine.flush(None).await.unwrap();
        let second = both.engine.rollup_work("db", &definition).await.unwrap().unwrap();
        assert_eq!((first.from, first.to, second.from, second.to), (-1, 0, -1, 1));
        let writer = || both.engine.rollup_writer("db", &definition);
        let (one, other) = (writer().await.unwrap(), writer().await.unwrap());
        one.commit(&first).await.unwrap();
        let error = other.commit(&second).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        // What is committed already is not repeated.
        writer().await.unwrap().commit(&first).await.unwrap();
        assert!(both.refresh("hourly").await);
        let times = both.engine.rollup_work("db", &definition).await.unwrap();
        assert_eq!(times, None);
    });
}

/// What a rollup does not keep is not asked of it.
#[test]
fn what_is_not_kept_comes_from_the_table() {
    run(async {
        let both = three_days().await;
        for used in QUESTIONS.iter().take(7) {
            both.same(used).await;
            assert!(both.uses(used).await, "{used}");
        }
        for not in [
            "SELECT time_bucket('90 minutes', time) AS t, count(*) FROM m GROUP BY t ORDER BY t",
            "SELECT time_bucket('1 hour', time, TIMESTAMP '1970-01-01T00:30:00') AS t, count(*) FROM m GROUP BY t ORDER BY t",
            "SELECT count(DISTINCT n) FROM m",
            "SELECT sum(v) FILTER (WHERE host = 'a') FROM m",
            "SELECT sum(v + 1) FROM m",
            "SELECT stddev(v) FROM m",
            "SELECT count(*) FROM m WHERE v > 5",
            "SELECT count(*) FROM m WHERE host = 'a' OR time > '1970-01-01'",
            "SELECT max(u), min(u) FROM m",
            "SELECT host, count(*) FROM m GROUP BY ROLLUP (host) ORDER BY host",
            "SELECT s, count(*) FROM m GROUP BY s",
            // It rounds towards 1970, so that before 1970 no bucket lies in one of its own.
            "SELECT date_trunc('day', time) AS t, count(*) FROM m GROUP BY t ORDER BY t",
            "SELECT * FROM m ORDER BY time, host LIMIT 3",
        ] {
            both.same(not).await;
            assert!(!both.uses(not).await, "{not}");
        }
        // Nothing reads the past or part of a bucket out of a rollup.
        assert!(!both.uses("SELECT count(*) FROM m AS OF VERSION 0").await);
        assert!(
            !both
                .uses("SELECT count(*) FROM m WHERE time >= '1970-01-01T00:10:00' AND time < '1970-01-01T00:50:00'")
                .await
        );
    });
}

#[test]
fn what_cannot_be_a_rollup_is_told() {
    run(async {
        let both = three_days().await;
        for (sql, told) in [
            ("SELECT host, count(*) FROM m GROUP BY host", "one bucket of time"),
            ("SELECT time_bucket('7 minutes', time), count(*) FROM m GROUP BY 1", "divide a day"),
            ("SELECT time_bucket('2 days', time), count(*) FROM m GROUP BY 1", "divide a day"),
            ("SELECT time_bucket('1 hour', time), count(*) FROM m WHERE host = 'a' GROUP BY 1", "WHERE"),
            ("SELECT time_bucket('1 hour', time), stddev(v) FROM m GROUP BY 1", "cannot be kept"),
            ("SELECT time_bucket('1 hour', time), sum(v) * 2 FROM m GROUP BY 1", "more than keys and aggregates"),
            ("SELECT * FROM m", "no plain GROUP BY"),
            ("SELECT time_bucket('1 hour', time), count(*) FROM none GROUP BY 1", "does not exist"),
        ] {
            let error = both.create("wrong", sql).await.expect_err(sql);
            assert!(error.to_string().contains(told), "{sql}: {error}");
        }
        let request = Request { database: "db".into(), sql: DAILY.into(), ..Request::default() };
        let again = both.without.define_rollup(&request, "hourly", None).await.unwrap();
        let error = both.engine.create_rollup("db", &again).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        // Its table belongs to nobody else, and is no table that anybody made.
        let mut write = both.engine.begin_write("db", WriteOptions::default()).unwrap();
        let fed = tokio::task::spawn_blocking(move || write.feed(b"weir_rollup-hourly v=1 0\n").map(|()| write));
        let written = fed.await.unwrap().unwrap().commit().await.unwrap();
        assert_eq!((written.rows, written.rejected.len()), (0, 1));
        assert_eq!(both.ask(&both.with, "SHOW TABLES").await, "table\nm\n");
    });
}

/// What a table loses for its age stays in a rollup that has a retention of its own, and in no other; what a user deletes leaves both.
#[test]
fn a_rollup_with_a_retention_of_its_own_outlives_the_rows_of_its_table() {
    const DAY: i64 = 24 * HOUR;
    run(async {
        let both = Both::open().await;
        let lines = |host: &str, hours: std::ops::Range<i64>| -> String {
            hours.map(|hour| format!("m,host={host} v={hour} {}\n", hour * HOUR)).collect()
        };
        both.write(&(lines("a", 0..72) + &lines("b", 0..72))).await;
        both.engine.flush(None).await.unwrap();
        let sql = "SELECT host, time_bucket('1 hour', time), count(*), sum(v), last(v, time) FROM m GROUP BY 1, 2";
        let request = Request { database: "db".into(), sql: sql.into(), ..Request::default() };
        let plain = both.without.define_rollup(&request, "plain", None).await.unwrap();
        let kept = both.without.define_rollup(&request, "kept", None).await.unwrap().with_retention(Some(i64::MAX));
        both.engine.create_rollup("db", &kept).await.unwrap();
        assert!(both.refresh("kept").await);
        let by_day = "SELECT time_bucket('1 day', time) AS t, host, count(*) AS n, sum(v) AS v FROM m GROUP BY t, host ORDER BY t, host";
        let before = both.same(by_day).await;
        // Days 0 and 1 go for their age.
        both.engine.apply_retention("db", "m", 2 * DAY, "age-1").await.unwrap();
        assert_eq!(both.ask(&both.with, "SELECT count(*) AS n FROM m WHERE v >= 0").await, "n\n48\n");
        assert_eq!(both.ask(&both.with, by_day).await, before, "the rollup keeps them");
        assert_eq!(both.ask(&both.without, by_day).await.lines().count(), 3);
        // Refreshes, late rows of a day that is gone, and new rows take nothing away from it.
        both.write(&(lines("a", 0..1) + &lines("a", 72..73))).await;
        let with_new = before.clone() + "1970-01-04T00:00:00,a,1,72.0\n";
        assert_eq!(both.ask(&both.with, by_day).await, with_new);
        both.engine.flush(None).await.unwrap();
        assert_eq!(both.ask(&both.with, by_day).await, with_new);
        assert!(both.refresh("kept").await);
        assert_eq!(both.ask(&both.with, by_day).await, with_new);
        // A user's delete of rows that the table has is a delete there too, before and after the refresh.
        let filter = weir_engine::rewrite::RowFilter::new(|batch: &arrow::array::RecordBatch| {
            use arrow::array::AsArray;
            let hosts = batch.column_by_name("host").expect("a tag").as_string_view();
            Ok(hosts.iter().map(|host| Some(host == Some("b"))).collect())
        });
        both.engine.delete_rows("db", "m", &filter, "delete-1").await.unwrap();
        let left: String = with_new
            .lines()
            .filter(|line| !line.starts_with("1970-01-03T00:00:00,b"))
            .map(|line| format!("{line}\n"))
            .collect();
        // Until then all is answered from the table, which says nothing of the days that went.
        assert_eq!(both.same(by_day).await.lines().count(), 4);
        assert!(both.refresh("kept").await);
        assert_eq!(both.ask(&both.with, by_day).await, left);
        // The rows come back: the table is asked again for what it has.
        both.engine.undo_step("db", "m", "age-1", 2).await.unwrap();
        assert!(both.refresh("kept").await);
        assert_eq!(
            both.same(
                "SELECT time_bucket('1 day', time) AS t, count(*) AS n FROM m WHERE host = 'a' GROUP BY t ORDER BY t"
            )
            .await
            .lines()
            .count(),
            5
        );
        // One without a retention of its own follows its table.
        both.engine.create_rollup("db", &plain).await.unwrap();
        both.engine.drop_table("db", "weir_rollup-kept", "drop").await.unwrap();
        assert!(both.refresh("plain").await);
        both.engine.apply_retention("db", "m", 2 * DAY, "age-2").await.unwrap();
        both.same(by_day).await;
        assert!(both.refresh("plain").await);
        assert_eq!(both.same(by_day).await.lines().count(), 3);
    });
}

/// Rows of a rollup go for their own age; where the table still has them, it is asked.
#[test]
fn what_a_rollup_lets_go_of_comes_from_the_table() {
    run(async {
        let both = Both::open().await;
        let lines: String = (0..72).map(|hour| format!("m,host=a v={hour} {}\n", hour * HOUR)).collect();
        both.write(&lines).await;
        both.engine.flush(None).await.unwrap();
        let sql = "SELECT host, time_bucket('1 hour', time), count(*), sum(v) FROM m GROUP BY 1, 2";
        let request = Request { database: "db".into(), sql: sql.into(), ..Request::default() };
        let kept = both.without.define_rollup(&request, "kept", None).await.unwrap().with_retention(Some(24 * HOUR));
        both.engine.create_rollup("db", &kept).await.unwrap();
        assert!(both.refresh("kept").await);
        both.engine.apply_retention("db", "weir_rollup-kept", 48 * HOUR, "age").await.unwrap();
        let by_day = "SELECT time_bucket('1 day', time) AS t, count(*) AS n, sum(v) AS v FROM m GROUP BY t ORDER BY t";
        assert_eq!(both.same(by_day).await.lines().count(), 4);
        assert!(both.uses(by_day).await);
        // What is written late there is not summed up again.
        both.write("m,host=a v=1000 1\nm,host=a v=1 259200000000000\n").await;
        both.engine.flush(None).await.unwrap();
        both.same(by_day).await;
        assert!(both.refresh("kept").await);
        both.same(by_day).await;
        assert_eq!(
            both.ask(&both.with, "SELECT min(time) AS t FROM \"weir_rollup-kept\"").await,
            "t\n1970-01-03T00:00:00\n"
        );
    });
}
