//! The cache of decoded columns changes no answer: not when it is empty, not when it holds all, a part, or nothing (C1).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use weir_base::ByteSize;

use crate::world::{Fields, Rows, World, schema};

const SCHEMA: &str = "host:tag; v:integer; f:float; u:unsigned; ok:boolean; s:string; rack:tag";

/// Questions about keys alone, about fields, by buckets of many kinds, of the first groups only.
const QUERIES: [&str; 24] = [
    "SELECT host, rack, time, v, f, u, ok, s FROM m ORDER BY host NULLS FIRST, rack NULLS FIRST, time",
    "SELECT count(*) AS n, count(v) AS v, count(s) AS s, count(host) AS h, min(time) AS a, max(time) AS b FROM m",
    "SELECT sum(v) AS s, min(f) AS a, max(u) AS b, avg(v) AS m FROM m WHERE host = 'b'",
    "SELECT sum(v) AS s, min(f) AS a, max(u) AS b, count(*) AS n FROM m WHERE host = 'none such'",
    "SELECT host, rack, count(*) AS n, sum(u) AS s FROM m GROUP BY host, rack ORDER BY host NULLS FIRST, rack NULLS FIRST",
    "SELECT host, rack, last(v, time) AS v, first(f, time) AS f, last(s, time) AS s, max(time) AS t FROM m GROUP BY host, rack \
     ORDER BY host NULLS FIRST, rack NULLS FIRST",
    "SELECT date_trunc('second', time) AS t, max(v) AS v FROM m GROUP BY 1 ORDER BY 1",
    "SELECT date_trunc('week', time) AS t, host, count(*) AS n FROM m GROUP BY 1, 2 ORDER BY 1, 2 NULLS FIRST",
    "SELECT date_trunc('month', time) AS t, count(*) AS n FROM m GROUP BY 1 ORDER BY 1",
    "SELECT date_bin(INTERVAL '7 seconds', time) AS t, sum(v) AS v FROM m GROUP BY 1 ORDER BY 1",
    "SELECT time_bucket('3 seconds', time) AS t, upper(host) AS h, min(f) AS f FROM m GROUP BY 1, 2 ORDER BY 1, 2 NULLS FIRST",
    "SELECT time_bucket('1 month', time, TIMESTAMP '2000-01-15') AS t, count(v) AS n FROM m GROUP BY 1 ORDER BY 1",
    "SELECT date_trunc('second', time) AS t, max(v) AS v FROM m GROUP BY 1 ORDER BY 1 DESC LIMIT 2",
    "SELECT date_trunc('second', time) AS t, host, max(v) AS v FROM m GROUP BY 1, 2 ORDER BY 1 DESC, 2 NULLS FIRST LIMIT 3",
    "SELECT date_trunc('minute', time) AS t, max(v) AS v FROM m WHERE host = 'a' GROUP BY 1 ORDER BY 1 LIMIT 2",
    "SELECT date_trunc('second', time) AS t, count(*) AS n FROM m GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 DESC LIMIT 2",
    "SELECT time, host, v FROM m ORDER BY time DESC, host NULLS FIRST, rack NULLS FIRST LIMIT 4",
    "SELECT time, host, v FROM m WHERE v > 3 ORDER BY time, host NULLS FIRST, rack NULLS FIRST LIMIT 4",
    "SELECT count(*) AS n FROM m WHERE v > 3 AND host IN ('a', 'c') AND time >= to_timestamp_nanos(-2000000000)",
    "SELECT count(*) AS n FROM m WHERE host IS NULL OR rack = 'r'",
    "SELECT count(*) AS n FROM m WHERE time = to_timestamp_nanos(1000000000) OR time < to_timestamp_nanos(-1)",
    "SELECT host, sum(v) AS v FROM m WHERE ok AND s <> 'x' GROUP BY host ORDER BY host NULLS FIRST",
    "SELECT host, avg(f) AS f FROM m WHERE time > to_timestamp_nanos(500) AND rack IS NULL GROUP BY host ORDER BY host NULLS FIRST",
    "SELECT sum(n) AS n FROM (SELECT date_trunc('second', time) AS t, count(*) AS n FROM m GROUP BY 1 ORDER BY 1 LIMIT 3)",
];

fn world(cached: bool) -> &'static World {
    static CACHED: OnceLock<World> = OnceLock::new();
    static PLAIN: OnceLock<World> = OnceLock::new();
    match cached {
        true => CACHED.get_or_init(World::new),
        false => PLAIN.get_or_init(|| limited(0)),
    }
}

fn limited(bytes: u64) -> World {
    World::with(|settings| settings.query_column_bytes_max = ByteSize::new(bytes))
}

/// Its cache takes any row group and no table of some size.
fn tight() -> &'static World {
    static TIGHT: OnceLock<World> = OnceLock::new();
    TIGHT.get_or_init(|| limited(1500))
}

fn fields() -> impl Strategy<Value = Fields> {
    let number = || proptest::option::weighted(0.8, (0i64..10).prop_map(|number| number.to_string()));
    let text = proptest::option::of("[xy]|a text that is longer than a view");
    let truth = proptest::option::of(any::<bool>().prop_map(|truth| truth.to_string()));
    (number(), number(), number(), truth, text).prop_map(|(v, f, u, ok, s)| vec![v, f, u, ok, s])
}

/// Steps of a second and less, on both sides of 1970, so that buckets hold several rows, one or none.
fn rows() -> impl Strategy<Value = Rows> {
    let tag = |letters: &'static str| proptest::option::weighted(0.8, letters);
    let time = prop_oneof![(-20i64..40).prop_map(|step| step * 250_000_000), -3i64..3, Just(86_400_000_000_000 * 40)];
    let key = (tag("[abc]"), tag("[r]|a name that is longer than a view"), time);
    let key = key.prop_map(|(host, rack, time)| (vec![host, rack], time));
    proptest::collection::btree_map(key, fields(), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_the_same_with_and_without_it_c1(rows in rows()) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let database = format!("columns{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        for world in [world(true), world(false), tight()] {
            world.create(&database, "m", &schema(SCHEMA));
            // A second file, apart, lacks the last tag and knows a part of the fields.
            world.file(&database, "m", &rows, 7);
            let late = rows.iter().map(|((tags, time), fields)| ((vec![tags[0].clone()], time + (1 << 52)), fields.clone()));
            world.file(&database, "m", &late.collect(), 3);
        }
        for sql in QUERIES {
            let expected = world(false).ask(&database, sql).unwrap();
            for temperature in ["cold", "warm"] {
                let found = world(true).ask(&database, sql).unwrap();
                let plan = || world(true).ask(&database, &format!("EXPLAIN {sql}")).unwrap();
                prop_assert_eq!(&found, &expected, "{}: {}\n{}", temperature, sql, plan());
                let found = tight().ask(&database, sql).unwrap();
                let plan = || tight().ask(&database, &format!("EXPLAIN {sql}")).unwrap();
                prop_assert_eq!(&found, &expected, "tight, {}: {}\n{}", temperature, sql, plan());
            }
        }
    }
}

#[test]
fn plans_read_columns_where_they_fit_and_parquet_where_they_do_not_s1() {
    let plans = |cached: bool, sql: &str| {
        let world = world(cached);
        world.create("plans", "m", &schema(SCHEMA));
        world.file("plans", "m", &crate::world::rows("a,r | 1,1,1,true,x | 1000\nb,r | 2,2,2,true,x | 1000"), 7);
        world.ask("plans", &format!("EXPLAIN {sql}")).unwrap()
    };
    let groups = "SELECT date_trunc('minute', time) AS t, max(v) AS v FROM m WHERE host = 'a' GROUP BY 1 ORDER BY 1 DESC LIMIT 5";
    let plan = plans(true, groups);
    for part in ["RunsExec: from columns, first=5", "hot columns, row_groups=1"] {
        assert!(plan.contains(part), "{part} is not in {plan}");
    }
    assert!(!plan.contains("FilterExec"), "{plan}");
    let plan = plans(false, groups);
    assert!(!plan.contains("hot columns") && plan.contains("file_type=parquet"), "{plan}");
    let rows = plans(true, "SELECT * FROM m WHERE v > 1 ORDER BY time DESC LIMIT 10");
    assert!(rows.contains("hot columns") && rows.contains("v@2 > 1") && !rows.contains("FilterExec"), "{rows}");
    let world = world(true);
    world.ask("plans", groups).unwrap();
    let (bytes, hits, misses) = world.engine.columns();
    assert!(bytes > 0 && misses > 0);
    world.ask("plans", groups).unwrap();
    let again = world.engine.columns();
    assert!(again.0 == bytes && again.1 > hits && again.2 == misses, "{again:?} after {:?}", (bytes, hits, misses));
}

/// What is asked for once of few rows is not kept: only those rows are decoded. The second time, all are.
#[test]
fn few_rows_are_decoded_alone_until_they_are_asked_for_again() {
    let world = World::new();
    world.create("few", "m", &schema("host:tag; v:integer; s:string"));
    let row = |number: i64| format!("h{:02} | {number},text {number} | {}", number / 2, number * 1_000);
    let rows: Vec<String> = (0..40).map(row).collect();
    world.file("few", "m", &crate::world::rows(&rows.join("\n")), 3);
    let sql = "SELECT host, sum(v) AS v, min(s) AS s, max(time) AS t, count(*) AS n FROM m WHERE host IN ('h03', 'h11') \
               AND time >= to_timestamp_nanos(7000) GROUP BY host ORDER BY host";
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = world.ask("few", sql).unwrap();
        for row in ["h03,7,text 7,", "h11,45,text 22,"] {
            assert!(answer.contains(row), "{row} is not in {answer}");
        }
        seen.push(world.engine.columns().0);
    }
    assert!(seen[0] < seen[1] && seen[1] == seen[2], "bytes kept: {seen:?}");
}

/// What time and history cost: an hour is a file, and the cache takes one of them but not all.
#[test]
fn older_row_groups_are_left_out_where_the_newest_rows_tell_all() {
    const HOURS: i64 = 60;
    let world = limited(1500);
    world.create("history", "m", &schema("host:tag; v:integer; w:integer"));
    for hour in 0..HOURS {
        let time = |row: i64| (hour * 3_600_000_000 + row) * 1_000;
        let last = if hour == HOURS - 1 { "-" } else { "8" };
        let mut rows = format!("a | {hour},1 | {}\nb | {hour},1 | {}\nhalf | {last},9 | {}", time(0), time(1), time(2));
        if hour == 10 {
            rows += &format!("\ngone | 7,7 | {}", time(3));
        }
        world.file("history", "m", &crate::world::rows(&rows), 3);
    }
    let read = |sql: &str| {
        let plan = world.ask("history", &format!("EXPLAIN ANALYZE {sql}")).unwrap();
        let number = |name: &str| {
            let digits =
                plan.split(name).skip(1).last().map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap());
            digits.and_then(|digits| digits.parse::<i64>().ok()).unwrap_or_else(|| panic!("no {name} in {plan}"))
        };
        (number(" row_groups="), number("row_groups_skipped="))
    };
    let newest = HOURS - 1;
    let last =
        "SELECT host, last(v, time) AS v, max(time) AS t FROM m WHERE host IN ('a', 'b') GROUP BY host ORDER BY host";
    assert_eq!(read(last), (1, newest));
    // One that was last seen long ago, and one whose newest row has no value, are looked for as far back as they are.
    let all = "SELECT host, last(v, time) AS v, last(w, time) AS w FROM m GROUP BY host ORDER BY host";
    assert_eq!(read(all), (3, HOURS - 3));
    let answer = world.ask("history", all).unwrap();
    for row in ["a,59,1", "b,59,1", "gone,7,7", "half,8,9"] {
        assert!(answer.contains(row), "{row} is not in {answer}");
    }
    // Once it is known which series a file has, those of files without others are not looked at again.
    let plan = world.ask("history", &format!("EXPLAIN ANALYZE {all}")).unwrap();
    let count = |name: &str| {
        let digits = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<i64>().unwrap();
        plan.split(name).skip(1).map(digits).sum::<i64>()
    };
    let looks = count("columns_cached=") + count("columns_decoded=");
    assert!(looks < HOURS / 2, "{looks} columns in {plan}");
    // Rows of any age may have changed a maximum.
    let most = "SELECT host, max(v) AS v FROM m GROUP BY host ORDER BY host";
    assert!(world.ask("history", &format!("EXPLAIN {most}")).unwrap().contains("file_type=parquet"));
    let buckets = "SELECT date_trunc('hour', time) AS t, sum(v) AS v FROM m GROUP BY 1 ORDER BY 1 DESC LIMIT 2";
    assert_eq!(read(buckets), (2, HOURS - 2));
    let oldest = "SELECT date_trunc('hour', time) AS t, sum(v) AS v FROM m GROUP BY 1 ORDER BY 1 LIMIT 2";
    assert_eq!(read(oldest), (2, HOURS - 2));
    assert_eq!(read("SELECT * FROM m ORDER BY time DESC LIMIT 3"), (1, newest));
    assert_eq!(read("SELECT * FROM m ORDER BY time LIMIT 4"), (2, HOURS - 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// Hosts come, go and come back; values lack. What was found out about files by one question is there for the next.
    #[test]
    fn newest_rows_are_the_same_whatever_is_known_of_files_c1(
        hours in proptest::collection::vec(proptest::collection::btree_map("[a-d]", proptest::option::of(0..9_i64), 1..5), 2..12),
    ) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let database = format!("newest{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        for world in [world(true), world(false)] {
            world.create(&database, "m", &schema("host:tag; v:integer"));
            for (hour, hosts) in hours.iter().enumerate() {
                let row = |(host, value): (&String, &Option<i64>)| {
                    let value = value.map_or_else(|| "-".to_owned(), |value| value.to_string());
                    format!("{host} | {value} | {}", hour as u64 * 3_600_000_000_000)
                };
                let rows: Vec<String> = hosts.iter().map(row).collect();
                world.file(&database, "m", &crate::world::rows(&rows.join("\n")), 2);
            }
        }
        let until = hours.len() as u64 / 2 * 3_600_000_000_000;
        for sql in [
            "SELECT host, last(v, time) AS v FROM m GROUP BY host ORDER BY host".to_owned(),
            "SELECT host, max(time) AS t FROM m GROUP BY host ORDER BY host".to_owned(),
            "SELECT upper(host) AS h, last(v, time) AS v, max(time) AS t FROM m GROUP BY 1 ORDER BY 1".to_owned(),
            format!("SELECT host, last(v, time) AS v FROM m WHERE time < to_timestamp_nanos({until}) GROUP BY host ORDER BY host"),
            "SELECT host, last(v, time) AS v FROM m WHERE host < 'c' GROUP BY host ORDER BY host".to_owned(),
        ] {
            let expected = world(false).ask(&database, &sql).unwrap();
            for again in 0..3 {
                prop_assert_eq!(world(true).ask(&database, &sql).unwrap(), expected.clone(), "{}, {}", sql, again);
            }
        }
    }
}

/// A scan of more files than footers are read of for it (`HOT_FILES_MAX`) reads Parquet as it comes, and answers the same.
#[test]
fn s1_a_scan_of_very_many_files_reads_parquet() {
    const FILES: usize = 512;
    let world = World::new();
    world.create("many", "m", &schema("host:tag; v:integer"));
    let sql = "SELECT host, sum(v) AS v, count(*) AS n FROM m GROUP BY host ORDER BY host";
    let plan = || world.ask("many", &format!("EXPLAIN {sql}")).unwrap();
    let file = |number: usize| {
        let rows = format!("a | {number} | {}\nb | 1 | {}", number * 10, number * 10 + 5);
        // Apart in time for each host, so that nothing is merged.
        world.file("many", "m", &crate::world::rows(&rows), 2);
    };
    (0..FILES).for_each(file);
    let sum = |files: usize| files * (files - 1) / 2;
    let expected = |files: usize| format!("host,v,n\na,{},{files}\nb,{files},{files}\n", sum(files));
    assert!(plan().contains("hot columns"), "{}", plan());
    assert_eq!(world.ask("many", sql).unwrap(), expected(FILES));
    file(FILES);
    assert!(!plan().contains("hot columns") && plan().contains("file_type=parquet"), "{}", plan());
    assert_eq!(world.ask("many", sql).unwrap(), expected(FILES + 1));
}

/// A row group whose texts are more than the query's memory is not decoded whole: Parquet is read as it comes.
#[test]
fn s1_a_row_group_of_long_texts_is_not_decoded_whole() {
    let text = |bytes: usize| -> String {
        let long = "x".repeat(bytes);
        (0..8).map(|row| format!("a | {long}{row} | {row}\n")).collect()
    };
    let world = World::with(|settings| settings.query_each_memory_bytes_max = ByteSize::mib(1));
    let sql = "SELECT count(*) AS n FROM m WHERE s > 'x'";
    for (database, bytes, hot) in [("short", 1_000, true), ("long", 40_000, false)] {
        world.create(database, "m", &schema("host:tag; s:string"));
        world.file(database, "m", &crate::world::rows(&text(bytes)), 2);
        let plan = world.ask(database, &format!("EXPLAIN {sql}")).unwrap();
        assert_eq!(plan.contains("hot columns"), hot, "{plan}");
        let held = world.engine.columns().0;
        assert_eq!(world.ask(database, sql).unwrap(), "n\n8\n");
        assert_eq!(world.engine.columns().0 > held, hot);
        assert_eq!(world.engine.memory_bytes(), 0);
    }
    // The texts are in nobody's way who does not ask for them.
    let plan = world.ask("long", "EXPLAIN SELECT count(*) AS n FROM m WHERE time > to_timestamp_nanos(3)").unwrap();
    assert!(plan.contains("hot columns"), "{plan}");
}

/// Where the rows of a row group are known to be too many for the query's memory, Parquet is read as it comes.
#[test]
fn a_row_group_of_too_many_rows_for_the_query_is_read_from_parquet() {
    let plan_with = |memory: u64| {
        let world = World::with(|settings| settings.query_each_memory_bytes_max = ByteSize::new(memory));
        world.create("few", "m", &schema("host:tag; v:integer"));
        world.file("few", "m", &crate::world::rows("a | 1 | 1\na | 2 | 2\na | 3 | 3\na | 4 | 4"), 2);
        world.ask("few", "EXPLAIN SELECT v FROM m WHERE v > 1").unwrap()
    };
    // Four rows of two numbers are 64 bytes, which may be a quarter of the memory.
    assert!(plan_with(256).contains("hot columns"), "{}", plan_with(256));
    assert!(plan_with(255).contains("file_type=parquet"), "{}", plan_with(255));
}

/// What one turn of a recursive query has found tells the next one nothing.
#[test]
fn every_turn_of_a_recursive_query_reads_its_rows_again() {
    let world = World::new();
    world.create("turns", "m", &schema("host:tag; v:integer"));
    for hour in 0..6_i64 {
        let time = |row: i64| hour * 3_600_000_000_000 + row;
        world.file("turns", "m", &crate::world::rows(&format!("a | {hour} | {}\nb | 1 | {}", time(0), time(1))), 2);
    }
    let turns = |found: &str| {
        let sql = format!(
            "WITH RECURSIVE r AS (SELECT 0 AS n, CAST(0 AS BIGINT) AS v UNION ALL \
             SELECT r.n + 1, found.v FROM r CROSS JOIN ({found}) AS found WHERE r.n < 3) SELECT n, v FROM r ORDER BY n, v"
        );
        world.ask("turns", &sql).unwrap()
    };
    let last = "SELECT CAST(sum(l) AS BIGINT) AS v FROM (SELECT last(v, time) AS l FROM m GROUP BY host)";
    assert_eq!(turns(last), "n,v\n0,0\n1,6\n2,6\n3,6\n");
    let first = "SELECT CAST(sum(s) AS BIGINT) AS v FROM (SELECT date_trunc('hour', time) AS t, sum(v) AS s FROM m GROUP BY 1 ORDER BY 1 DESC LIMIT 2)";
    assert_eq!(turns(first), "n,v\n0,0\n1,11\n2,11\n3,11\n");
}

/// A table that is too large for the cache, of which some files are read whole and others only at times where nothing overlaps them.
#[test]
fn a_limit_is_one_limit_where_parquet_is_read_in_parts() {
    let world = limited(1500);
    world.create("limits", "m", &schema("host:tag; v:integer; w:integer"));
    let file = |from: i64, to: i64| {
        let rows: Vec<String> = (from..to).map(|row| format!("a | {row},1 | {}", row * 1_000_000_000)).collect();
        world.file("limits", "m", &crate::world::rows(&rows.join("\n")), 3);
    };
    (0..40).for_each(|number| file(number * 10, number * 10 + 10));
    // It overlaps half of the last.
    file(395, 405);
    for (before, rows) in [("", 405), ("WHERE time < to_timestamp_nanos(395000000000)", 395)] {
        let plan = world.ask("limits", &format!("EXPLAIN SELECT v, w FROM m {before} LIMIT 7")).unwrap();
        assert!(plan.contains("file_type=parquet") && !plan.contains("hot columns"), "{plan}");
        for limit in [1, 7, 300, 1000] {
            let sql = format!("SELECT v, w FROM m {before} LIMIT {limit}");
            assert_eq!(world.ask("limits", &sql).unwrap().lines().count(), limit.min(rows) + 1, "{sql}");
            let counted = world.ask("limits", &format!("SELECT count(*) AS n FROM ({sql})")).unwrap();
            assert_eq!(counted, format!("n\n{}\n", limit.min(rows)), "{sql}");
        }
    }
}
