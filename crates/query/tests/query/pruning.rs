//! Only files that can match are read, and what a file lacks is NULL.

use crate::world::{World, rows, schema};

fn scan_note(world: &World, sql: &str) -> String {
    let explained = world.ask("db", &format!("EXPLAIN {sql}")).unwrap();
    let note = explained.split("\nscan,").nth(1).expect("EXPLAIN says what the scan left out");
    note.trim().trim_matches('"').to_owned()
}

fn world() -> World {
    let world = World::new();
    world.create("db", "m", &schema("host:tag; v:integer; my field:float; u:unsigned; rack:tag"));
    world.file("db", "m", &rows("a | 1 | 1000\nb | 2 | 2000"), 2);
    world.file("db", "m", &rows("c | 3,0.5 | 3000\nd | 4,- | 4000"), 3);
    world.file("db", "m", &rows("e,r1 | 5,1.5,18446744073709551615 | 5001\nf,- | 6,-,7 | 6000"), 5);
    world.run("db", "m", &rows("g,r2 | 7,-,8 | 7000"));
    world
}

#[test]
fn files_that_cannot_match_are_not_read() {
    let world = world();
    let note = |sql: &str| scan_note(&world, sql);
    assert!(note("SELECT * FROM m").contains("3 of 3 files, 1 of 1 buffered runs, 4 plain parts, 0 merged groups"));
    let time = "SELECT * FROM m WHERE time >= to_timestamp_nanos(3500) AND time < to_timestamp_nanos(5000)";
    assert!(note(time).contains("1 of 3 files, 0 of 1 buffered runs"), "{}", note(time));
    assert!(note("SELECT * FROM m WHERE host = 'b'").contains("1 of 3 files, 1 of 1"));
    assert!(
        note("SELECT * FROM m WHERE host IN ('a', 'f') AND time > to_timestamp_nanos(2500)").contains("1 of 3 files")
    );
    assert_eq!(world.ask("db", "SELECT v FROM m WHERE host = 'b'").unwrap(), "v\n2\n");
    let none = "SELECT v FROM m WHERE time > '2100-01-01'";
    assert!(note(none).contains("0 of 3 files, 0 of 1"));
    assert_eq!(world.ask("db", none).unwrap(), "v\n");
}

#[test]
fn what_a_file_lacks_is_null() {
    let world = world();
    let ask = |sql: &str| world.ask("db", sql).unwrap();
    assert_eq!(ask("SELECT host FROM m WHERE \"my field\" > 0.7"), "host\ne\n");
    assert_eq!(ask("SELECT host FROM m WHERE \"my field\" IS NULL ORDER BY host"), "host\na\nb\nd\nf\ng\n");
    assert_eq!(ask("SELECT host FROM m WHERE rack = 'r1' OR rack = 'r2' ORDER BY host"), "host\ne\ng\n");
    assert_eq!(ask("SELECT count(rack), count(*) FROM m"), "count(m.rack),count(*)\n2,7\n");
    assert_eq!(ask("SELECT host, u FROM m WHERE u > 7 ORDER BY u"), "host,u\ng,8\ne,18446744073709551615\n");
    assert_eq!(ask("SELECT host FROM m WHERE coalesce(rack, 'none') = 'none' AND v > 3 ORDER BY host"), "host\nd\nf\n");
    assert_eq!(ask("SELECT sum(u) IS NULL FROM m WHERE host < 'e'"), "sum(m.u) IS NULL\ntrue\n");
}

#[test]
fn nanoseconds_below_a_microsecond_are_kept() {
    let world = World::new();
    world.create("db", "m", &schema("host:tag; v:integer"));
    world.file("db", "m", &rows("a | 1 | 1000\na | 2 | 1001\na | 3 | 1999\na | 4 | 2000\na | 5 | -1"), 2);
    world.file("db", "m", &rows("a | 6 | 5000\na | 7 | 6000"), 2);
    let found = |condition: &str| {
        let answer = world.ask("db", &format!("SELECT v FROM m WHERE {condition} ORDER BY time")).unwrap();
        answer.lines().skip(1).collect::<Vec<_>>().join(" ")
    };
    let at = |nanos: i64| format!("to_timestamp_nanos({nanos})");
    assert_eq!(found("true"), "5 1 2 3 4 6 7");
    assert_eq!(found(&format!("time = {}", at(1001))), "2");
    assert_eq!(found(&format!("time <> {}", at(1001))), "5 1 3 4 6 7");
    assert_eq!(found(&format!("time > {}", at(1001))), "3 4 6 7");
    assert_eq!(found(&format!("time >= {} AND time < {}", at(1001), at(5000))), "2 3 4");
    assert_eq!(found(&format!("time <= {}", at(5500))), "5 1 2 3 4 6");
    assert_eq!(found(&format!("time > {}", at(5999))), "7");
    assert_eq!(found(&format!("time >= {}", at(5001))), "7");
    assert_eq!(found(&format!("time = {}", at(5001))), "");
    assert_eq!(found(&format!("time < {}", at(-1))), "");
    assert_eq!(found(&format!("{} > time", at(1))), "5");
    assert_eq!(
        world.ask("db", "SELECT time FROM m ORDER BY time LIMIT 1").unwrap(),
        "time\n1969-12-31T23:59:59.999999999\n"
    );
}

#[test]
fn an_explained_analysis_shows_what_was_read() {
    let answer = world().ask("db", "EXPLAIN ANALYZE SELECT sum(v) FROM m WHERE host = 'c'").unwrap();
    for word in ["bytes_scanned", "output_rows", "1 of 3 files"] {
        assert!(answer.contains(word), "{word} is missing in {answer}");
    }
}

/// What is asked of one side of an ASOF join, or of the series that are filled, is asked before anything is read.
#[test]
fn filters_sink_below_asof_joins_and_fillings() {
    let world = World::new();
    for table in ["m", "n"] {
        world.create("db", table, &schema("host:tag; v:float; other:float"));
        world.file("db", table, &rows("a | 1,1 | 0\nb | 2,2 | 3600000000000"), 3);
    }
    let joined = "SELECT m.v FROM m ASOF JOIN n MATCH_CONDITION (m.time >= n.time) ON m.host = n.host WHERE m.host = 'a' AND m.time >= '1970-01-01' AND n.v > 1";
    let filled = "SELECT t, v FROM (SELECT date_bin_gapfill('1 hour', time) AS t, host, locf(avg(v)) AS v FROM m WHERE time >= '1970-01-01' AND time < '1970-01-02' GROUP BY t, host) WHERE host = 'a' AND v > 1";
    for (sql, lines) in [
        (
            joined,
            [
                "AsofJoin: m.time >= n.time, m.host = n.host",
                "TableScan: m projection=[time, host, v], partial_filters=[m.host = Utf8View(\"\"a\"\"), m.time >=",
                "TableScan: n projection=[time, host, v], partial_filters=[n.host = Utf8View(\"\"a\"\")]",
            ],
        ),
        (
            filled,
            [
                "GapFill: bucket=date_bin_gapfill(Utf8(\"\"1 hour\"\"),m.time), buckets=24",
                "Filter: locf(avg(m.v)) > Float64(1)",
                "m.host = Utf8View(\"\"a\"\")]",
            ],
        ),
    ] {
        let plan = world.ask("db", &format!("EXPLAIN {sql}")).unwrap();
        for line in lines {
            assert!(plan.contains(line), "{line}\n{plan}");
        }
    }
}
