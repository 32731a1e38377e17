//! Tables as they were, and the predicates of deletes.

use arrow::array::{Array, BooleanArray};
use weir_engine::rewrite::RowFilter;

use crate::world::{World, batch, rows, schema};

fn world() -> World {
    let world = World::new();
    world.create("db", "m", &schema("host:tag; v:integer"));
    world.file("db", "m", &rows("a | 1 | 1000"), 2);
    world.file("db", "m", &rows("b | 2 | 2000"), 2);
    world.file("db", "m", &rows("a | 9 | 1000"), 2);
    world.run("db", "m", &rows("c | 3 | 3000"));
    world
}

#[test]
fn q1_one_statement_reads_a_table_now_and_as_it_was() {
    let world = world();
    let ask = |sql: &str| world.ask("db", sql).unwrap();
    assert_eq!(ask("SELECT host, v FROM m ORDER BY host"), "host,v\na,9\nb,2\nc,3\n");
    assert_eq!(ask("SELECT host, v FROM m AS OF VERSION 2 ORDER BY host"), "host,v\na,9\nb,2\n");
    assert_eq!(ask("SELECT m.host, m.v FROM m AS OF VERSION 1 ORDER BY host"), "host,v\na,1\nb,2\n");
    assert_eq!(ask("SELECT v FROM db.m AS OF TIMESTAMP '1970-01-01T00:00:00'"), "v\n1\n");
    let joined =
        "SELECT n.host, o.v AS old FROM m AS n LEFT JOIN m AS OF VERSION 0 AS o ON n.host = o.host ORDER BY n.host";
    assert_eq!(ask(joined), "host,old\na,1\nb,\nc,\n");
    let within = "SELECT (SELECT count(*) FROM m AS OF VERSION 1) AS then, count(*) AS now FROM m";
    assert_eq!(ask(within), "then,now\n2,3\n");
    let gone = world.ask("db", "SELECT * FROM nosuch AS OF VERSION 1").unwrap_err();
    assert_eq!(gone.kind(), weir_base::Kind::NotFound, "{gone}");
}

#[test]
fn what_is_vacuumed_gives_the_nearest_version_before_it_and_says_so() {
    let world = world();
    world.tables.kept.lock().unwrap().get_mut(&("db".to_owned(), "m".to_owned())).unwrap().remove(&1);
    let explained = world.ask("db", "EXPLAIN SELECT * FROM m AS OF VERSION 1").unwrap();
    let wanted = "m: as of version 0, committed 1970-01-01T00:00:00Z, the nearest that is kept before version 1";
    assert!(explained.contains(wanted), "{explained}");
    assert_eq!(world.ask("db", "SELECT v FROM m AS OF VERSION 1").unwrap(), "v\n1\n");
}

fn filter(predicate: &str) -> weir_engine::Result<RowFilter> {
    let world = World::new();
    world.engine.filters()(&schema("host:tag; v:integer; my field:float; ok:boolean; s:string"), predicate)
}

/// Which of the rows 1 to 4 a predicate means: t, f, or - for NULL.
fn check(predicate: &str, wanted: &str) {
    let columns = schema("host:tag; v:integer; my field:float; ok:boolean; s:string");
    let filled = rows("a | 1,0.5,true,x | 1000\nb | 2,-,false,- | 2000\nc | -,1.5,-,y | 3000\n- | 4,2.5,true,z | 4000");
    let filled = batch(&columns, &filled);
    let answers: BooleanArray = (filter(predicate).expect(predicate).predicate)(&filled).expect(predicate);
    let letter = |row| match answers.is_null(row) {
        true => '-',
        false if answers.value(row) => 't',
        false => 'f',
    };
    // NULL sorts first among tags, so the row without a host is the first of the batch.
    let found: String = [1, 2, 3, 0].into_iter().map(letter).collect();
    assert_eq!(found, wanted, "{predicate}");
}

#[test]
fn predicates_of_deletes_have_three_values() {
    check("host = 'a'", "tff-");
    check("host <> 'a'", "ftt-");
    check("host IS NULL OR v > 1", "ft-t");
    check("\"my field\" > 1", "f-tt");
    check("NOT ok", "ft-f");
    check("ok", "tf-t");
    check("v IN (1, NULL)", "t---");
    check("time < TIMESTAMP '1970-01-01T00:00:00.000002500'", "ttff");
    check("time <= to_timestamp_nanos(1000) OR s LIKE 'z%'", "t-ft");
    check("NULL", "----");
    check("true", "tttt");
    check("v * 2 = 4 AND upper(host) = 'B'", "ftff");
}

#[test]
fn predicates_that_compare_time_say_which_files_need_not_be_read() {
    let times = |predicate: &str| filter(predicate).expect(predicate).times;
    assert_eq!(times("time < to_timestamp_nanos(10)"), Some(i64::MIN..=9));
    assert_eq!(times("host = 'a' AND time >= to_timestamp_nanos(5) AND to_timestamp_nanos(10) >= time"), Some(5..=10));
    assert_eq!(times("time = '1970-01-01T00:00:01'"), Some(1_000_000_000..=1_000_000_000));
    assert_eq!(times("time BETWEEN to_timestamp_nanos(1) AND to_timestamp_nanos(3)"), Some(1..=3));
    assert_eq!(times("time < to_timestamp_nanos(10) OR v = 1"), None);
    assert_eq!(times("v = 1"), None);
}

#[test]
fn predicates_that_are_none_are_refused() {
    for (predicate, wanted) in [
        ("nosuch = 1", "nosuch"),
        ("v", "neither true nor false"),
        ("random() > 0.5", "same answer"),
        ("sum(v) > 1", "aggregates"),
        ("v = ", "expected"),
    ] {
        let error = filter(predicate).expect_err(predicate).to_string();
        assert!(error.to_lowercase().contains(wanted), "{predicate}: {error}");
    }
}
