//! Slots, deadlines, memory, cancel: each limit is reached, named, and everything comes back.

use std::time::Duration;

use futures::StreamExt;
use weir_base::{ByteSize, Kind};
use weir_query::encode::Encoding;
use weir_query::{Request, ScalarValue};

use crate::world::{World, rows, schema};

/// Never ends by itself in the time of a test.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 4000000000) a, generate_series(1, 4000000000) b WHERE a.value + b.value < 0";

fn request(sql: &str) -> Request {
    Request { database: "db".to_owned(), sql: sql.to_owned(), ..Request::default() }
}

fn idle(world: &World) {
    world.block_on(async {
        while world.engine.admission().running() + world.engine.admission().waiting() > 0
            || !world.engine.running().is_empty()
            || world.engine.memory_bytes() > 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// Q1: a query that runs past its deadline stops, and its slot comes back. S1: the message names the setting.
#[test]
fn a_query_past_its_deadline_is_stopped() {
    let world = World::new();
    let asked = Request { deadline: Some(Duration::from_millis(200)), ..request(ENDLESS) };
    let error = world.request(asked, Encoding::Json).unwrap_err();
    assert_eq!(error.kind(), Kind::Limit);
    assert!(error.to_string().contains("query_deadline"), "{error}");
    idle(&world);
}

/// Q1: cancelled by id.
#[test]
fn a_query_is_cancelled_by_its_id() {
    let world = World::new();
    let error = world.block_on(async {
        let (asked, cancelled) = tokio::join!(world.engine.collect(request(ENDLESS)), async {
            loop {
                if let Some(query) = world.engine.running().into_iter().find(|query| query.admitted) {
                    assert_eq!((query.database.as_str(), query.sql.as_str()), ("db", ENDLESS));
                    break world.engine.cancel(query.id);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(cancelled);
        asked.unwrap_err()
    });
    assert!(error.to_string().contains("cancelled"), "{error}");
    idle(&world);
    assert!(!world.engine.cancel(weir_base::id::Uuid::nil()));
}

/// Q1: whoever goes away takes the query along, before its columns are known and after.
#[test]
fn a_query_whose_reader_left_is_stopped() {
    let world = World::new();
    world.block_on(async {
        let gone = tokio::time::timeout(Duration::from_millis(100), world.engine.collect(request(ENDLESS))).await;
        assert!(gone.is_err());
        let mut answer = world.engine.query(request("SELECT * FROM generate_series(1, 4000000000)")).await.unwrap();
        assert!(answer.next().await.unwrap().unwrap().num_rows() > 0);
        assert_eq!(world.engine.running().iter().filter(|query| query.id == answer.id()).count(), 1);
        drop(answer);
    });
    idle(&world);
}

/// S1: slots, waiting places and the wait are limited; what is refused may be tried again.
#[test]
fn past_the_slots_queries_wait_and_are_refused() {
    let world = World::with(|settings| {
        settings.query_running_max = 1;
        settings.query_waiting_max = 1;
        settings.query_wait = Duration::from_millis(300);
    });
    world.block_on(async {
        let first = world.engine.query(request("SELECT * FROM generate_series(1, 4000000000)")).await.unwrap();
        let second = world.engine.collect(request("SELECT 1"));
        let third = async {
            while world.engine.admission().waiting() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            world.engine.collect(request("SELECT 2")).await
        };
        let (second, third) = tokio::join!(second, third);
        for (error, setting) in [(second.unwrap_err(), "query_wait"), (third.unwrap_err(), "query_waiting_max")] {
            assert_eq!(error.kind(), Kind::Unavailable);
            assert!(error.to_string().contains(setting), "{error}");
            assert!(matches!(error.retry(), weir_base::Retry::After(_)));
        }
        drop(first);
        let mut last = world.engine.collect(request("SELECT 3")).await;
        for _ in 0..20 {
            if last.is_ok() {
                break;
            }
            last = world.engine.collect(request("SELECT 3")).await;
        }
        assert_eq!(last.unwrap().1[0].num_rows(), 1);
    });
    idle(&world);
}

/// S1: past its memory a query spills where it may, else it ends with an error that names the limit.
#[test]
fn past_its_memory_a_query_spills_or_ends() {
    let sort = "SELECT count(*) FROM (SELECT value, repeat('x', 100) || value AS t FROM generate_series(1, 200000) ORDER BY t)";
    let tight = |settings: &mut weir_query::Settings| settings.query_each_memory_bytes_max = ByteSize::mib(8);
    let sorted = "SELECT value FROM (SELECT value, repeat('x', 100) || value AS t FROM generate_series(1, 200000)) ORDER BY t DESC";
    let world = World::with(tight);
    let error = world.ask("db", sorted).unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error}");
    assert!(error.to_string().contains("query_each_memory_bytes_max"), "{error}");
    idle(&world);
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(|settings| {
        tight(settings);
        settings.query_spill_dir = Some(folder.path().to_owned());
    });
    let answer = world.ask("db", sorted).unwrap();
    let mut values: Vec<String> = answer.lines().skip(1).map(str::to_owned).collect();
    assert_eq!(values.len(), 200_000);
    assert!(values.is_sorted_by(|one, next| one > next), "out of order");
    values.dedup();
    assert_eq!(values.len(), 200_000);
    assert_eq!(world.ask("db", sort).unwrap(), "count(*)\n200000\n");
    let grouped = "SELECT count(*), sum(n) FROM (SELECT repeat('x', 100) || value AS t, count(*) AS n FROM generate_series(1, 200000) GROUP BY t)";
    assert_eq!(world.ask("db", grouped).unwrap(), "count(*),sum(n)\n200000,200000\n");
    idle(&world);
    assert_eq!(world.engine.spilled_bytes(), 0);
    let world = World::with(|settings| {
        tight(settings);
        settings.query_spill_dir = Some(folder.path().join("other"));
        settings.query_spill_bytes_max = ByteSize::new(256 << 10);
    });
    let error = world.ask("db", sorted).unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error}");
    assert!(error.to_string().contains("query_spill_bytes_max"), "{error}");
    idle(&world);
    assert_eq!(world.engine.spilled_bytes(), 0, "what was spilled goes with its query");
}

/// S1: what aggregates hold for each row counts as memory of their query.
#[test]
fn past_its_memory_an_aggregate_spills_or_ends() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(|settings| {
        settings.query_each_memory_bytes_max = ByteSize::mib(8);
        settings.query_spill_dir = Some(folder.path().to_owned());
    });
    let rows = |count: usize| {
        format!(
            "(SELECT value, value % 2000 AS k, to_timestamp_nanos(value * 1000000000) AS time FROM generate_series(1, {count}))"
        )
    };
    for held in ["rate(value, time)", "integral(value, time)", "percentile(value, 0.5)", "mode(value)"] {
        let error = world.ask("db", &format!("SELECT {held} FROM {}", rows(2_000_000))).unwrap_err();
        assert_eq!(error.kind(), Kind::Limit, "{held}: {error}");
        assert!(error.to_string().contains("query_each_memory_bytes_max"), "{held}: {error}");
    }
    let small = format!("SELECT delta(value, time) AS d, irate(value, time) AS r FROM {}", rows(2_000_000));
    assert_eq!(world.ask("db", &small).unwrap(), "d,r\n1999999.0,1.0\n");
    let grouped = format!(
        "SELECT count(*) AS n, min(i) AS low, max(i) AS high, sum(p) AS p FROM (SELECT k, increase(value, time) AS i, percentile(value, 0.5) AS p FROM {} GROUP BY k)",
        rows(400_000)
    );
    assert_eq!(world.ask("db", &grouped).unwrap(), "n,low,high,p\n2000,398000.0,398000.0,400001000.0\n");
    idle(&world);
    assert_eq!(world.engine.spilled_bytes(), 0);
}

/// S1: footers are kept up to their limit, and read again past it; the answer is the same.
#[test]
fn past_their_memory_footers_are_read_again() {
    const FILES: u64 = 16;
    let ask = |limit: Option<u64>| {
        let world = World::with(|settings| {
            settings.query_footer_bytes_max = limit.map_or(settings.query_footer_bytes_max, ByteSize::new);
        });
        world.create("db", "m", &schema("host:tag; v:integer"));
        for file in 0..FILES {
            world.file("db", "m", &rows(&format!("a | {file} | {}", 1000 * file)), 2);
        }
        for _ in 0..2 {
            let answer =
                world.ask("db", "SELECT sum(v) AS s, count(DISTINCT host) AS hosts FROM m WHERE v >= 0").unwrap();
            assert_eq!(answer, format!("s,hosts\n{},1\n", FILES * (FILES - 1) / 2));
        }
        world.engine.footers()
    };
    let (kept, bytes) = ask(None);
    assert_eq!(kept, FILES);
    let limit = bytes / 4;
    let (kept, bytes) = ask(Some(limit));
    assert!(0 < kept && kept < FILES / 2, "{kept} footers");
    assert!(bytes <= limit, "{bytes} of {limit} bytes");
}

/// S1: rows that a query fills in are limited, before it starts where the range alone is too long.
#[test]
fn past_the_rows_to_fill_a_query_ends() {
    let world = World::with(|settings| settings.query_gapfill_rows_max = 1000);
    world.create("db", "m", &schema("host:tag; v:integer"));
    world.run("db", "m", &rows("a | 1 | 1000\nb | 2 | 2000"));
    let filled = |minutes: usize| {
        let end = format!("1970-01-01T{:02}:{:02}:00", minutes / 60, minutes % 60);
        world.ask("db", &format!(
            "SELECT count(*) AS n FROM (SELECT date_bin_gapfill('1 minute', time) AS t, host FROM m WHERE time >= '1970-01-01' AND time < '{end}' GROUP BY t, host)"
        ))
    };
    assert_eq!(filled(501).unwrap(), "n\n1002\n");
    for minutes in [502, 1001] {
        let error = filled(minutes).unwrap_err();
        assert_eq!(error.kind(), Kind::Limit);
        assert!(error.to_string().contains("query_gapfill_rows_max"), "{error}");
    }
    idle(&world);
}

/// Q1: a filling that nobody could wait for is stopped like any other query.
#[test]
fn a_filling_is_stopped_at_its_deadline() {
    let world = World::new();
    world.create("db", "m", &schema("host:tag; v:integer"));
    world.run("db", "m", &rows("a | 1 | 1000\nb | 2 | 2000"));
    let sql = "SELECT count(*), sum(x) FROM (SELECT date_bin_gapfill('1 second', time) AS t, host, interpolate(avg(v)) AS x FROM m WHERE time >= '1970-01-01' AND time < '1971-01-01' GROUP BY t, host)";
    let asked = Request { deadline: Some(Duration::from_millis(500)), ..request(sql) };
    let error = world.request(asked, Encoding::Json).unwrap_err();
    assert!(error.to_string().contains("query_deadline"), "{error}");
    idle(&world);
}

#[test]
fn parameters_are_values_never_text() {
    let world = World::new();
    world.create("db", "m", &schema("host:tag; v:integer"));
    world.run("db", "m", &rows("a | 1 | 1000\nb' OR 'x'='x | 2 | 2000"));
    let ask = |sql: &str, params: Vec<(&str, ScalarValue)>| {
        let params = params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        world.request(Request { params, ..request(sql) }, Encoding::Csv)
    };
    let host = ScalarValue::Utf8(Some("b' OR 'x'='x".to_owned()));
    assert_eq!(ask("SELECT v FROM m WHERE host = $host", vec![("host", host.clone())]).unwrap(), "v\n2\n");
    let both = vec![("2", host), ("1", ScalarValue::Int64(Some(1)))];
    assert_eq!(ask("SELECT v FROM m WHERE v > $1 AND host = $2", both).unwrap(), "v\n2\n");
    assert!(ask("SELECT v FROM m WHERE host = $host", vec![]).is_err());
    let time = |nanos| ScalarValue::TimestampNanosecond(Some(nanos), None);
    let width = ScalarValue::Utf8(Some("1 second".to_owned()));
    let filled = "SELECT date_bin_gapfill($width, time) AS t, count(*) AS n FROM m WHERE time >= $from AND time < $to GROUP BY t ORDER BY t";
    let range = vec![("width", width), ("from", time(0)), ("to", time(2_000_000_000))];
    assert_eq!(ask(filled, range).unwrap(), "t,n\n1970-01-01T00:00:00,2\n1970-01-01T00:00:01,0\n");
}

#[test]
fn errors_have_a_kind() {
    let world = World::new();
    world.create("db", "m", &schema("host:tag; v:integer"));
    for (sql, kind, text) in [
        ("SELECT * FROM missing", Kind::NotFound, "table 'missing' does not exist in database 'db'"),
        ("SELECT nope FROM m", Kind::Invalid, "nope"),
        ("SELEC 1", Kind::Invalid, "SELEC"),
        ("SELECT 1 / 0 FROM generate_series(1, 2)", Kind::Invalid, "divide by zero"),
        ("SELECT * INTO other FROM m", Kind::Invalid, "not supported"),
        ("SELECT cast('x' AS int)", Kind::Invalid, "x"),
    ] {
        let error = world.ask("db", sql).unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error}");
        assert!(error.to_string().to_lowercase().contains(&text.to_lowercase()), "{sql}: {error}");
    }
}
