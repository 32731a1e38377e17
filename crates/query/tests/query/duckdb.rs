//! The functions that DuckDB has with the same meaning, against DuckDB on the same rows.
//!
//! `WEIR_TEST_PYTHON` names a Python with `duckdb`; `cargo xtask test` makes one.

use std::fmt::Write;
use std::process::Command;

use crate::world::{World, rows, schema};

/// Answers each line that is a statement, over the tables `m` and `n`, one row a line.
const SCRIPT: &str = "
import sys, duckdb
connection = duckdb.connect()
for statement in open(sys.argv[1]).read().split(';'):
    if statement.strip():
        found = connection.execute(statement)
        if statement.strip().upper().startswith('SELECT'):
            for row in found.fetchall():
                print(','.join('' if cell is None else str(cell) for cell in row))
            print('--')
";

/// What Weir is asked, and what DuckDB.
const QUESTIONS: [(&str, &str); 7] = [
    (
        "SELECT host, percentile(v, 0.5) AS a, percentile(v, 0.95) AS b, percentile(v, 0) AS c, percentile(v, 1) AS d FROM m GROUP BY host ORDER BY host",
        "SELECT host, quantile_cont(v, 0.5), quantile_cont(v, 0.95), quantile_cont(v, 0), quantile_cont(v, 1) FROM m GROUP BY host ORDER BY host",
    ),
    (
        "SELECT percentile(k, 0.123) AS a, percentile(k, 0.777) AS b FROM m",
        "SELECT quantile_cont(k, 0.123), quantile_cont(k, 0.777) FROM m",
    ),
    (
        // Between equally frequent values DuckDB takes any; so both are asked how often theirs is.
        "SELECT g.host, count(*) AS n FROM m JOIN (SELECT host, mode(k) AS k FROM m GROUP BY host) g ON m.host = g.host AND m.k = g.k GROUP BY g.host ORDER BY g.host",
        "SELECT g.host, count(*) FROM m JOIN (SELECT host, mode(k) AS k FROM m GROUP BY host) g ON m.host = g.host AND m.k = g.k GROUP BY g.host ORDER BY g.host",
    ),
    (
        "SELECT m.host, CAST(m.time AS BIGINT) AS t, CAST(n.time AS BIGINT) AS u, n.w FROM m ASOF JOIN n MATCH_CONDITION (m.time >= n.time) ON m.host = n.host ORDER BY m.host, t",
        "SELECT m.host, m.t, n.t, n.w FROM m ASOF LEFT JOIN n ON m.host = n.host AND m.t >= n.t ORDER BY m.host, m.t",
    ),
    (
        "SELECT m.host, CAST(m.time AS BIGINT) AS t, CAST(n.time AS BIGINT) AS u, n.w FROM m ASOF JOIN n MATCH_CONDITION (m.time < n.time) ON m.host = n.host ORDER BY m.host, t",
        "SELECT m.host, m.t, n.t, n.w FROM m ASOF LEFT JOIN n ON m.host = n.host AND m.t < n.t ORDER BY m.host, m.t",
    ),
    (
        "SELECT host, selector_min(v, time)['time'] AS a, selector_max(k, time)['value'] AS b, last(v, time) AS c FROM (SELECT host, v, k, CAST(time AS BIGINT) AS t, time FROM m) GROUP BY host ORDER BY host",
        "SELECT host, strftime(make_timestamp_ns(arg_min(t, v)), '%Y-%m-%dT%H:%M:%S.%n'), max(k), arg_max(v, t) FROM m GROUP BY host ORDER BY host",
    ),
    (
        "SELECT host, t, derivative(v, time) OVER w AS d FROM (SELECT host, v, time, CAST(time AS BIGINT) AS t FROM m WHERE v IS NOT NULL) WINDOW w AS (PARTITION BY host ORDER BY time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) ORDER BY host, t",
        "SELECT host, t, (v - lag(v) OVER w) / ((t - lag(t) OVER w) / 1e9) FROM m WHERE v IS NOT NULL WINDOW w AS (PARTITION BY host ORDER BY t) ORDER BY host, t",
    ),
];

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Rows of `m` and `n`, as Weir's tests write them and as SQL.
fn made_up() -> (String, String, String) {
    let mut numbers = Numbers(7);
    let (mut of_m, mut of_n) = (String::new(), String::new());
    let mut sql = "CREATE TABLE m (host VARCHAR, v DOUBLE, k BIGINT, t BIGINT); CREATE TABLE n (host VARCHAR, w DOUBLE, t BIGINT);\n".to_owned();
    for row in 0..600 {
        let host = ["a", "b", "c", "d"][numbers.below(4) as usize];
        // One row a second at most, on both sides of 1970, with odd nanoseconds.
        let time = (row - 300) * 1_000_000_000 + numbers.below(1_000_000_000) as i64;
        let value = numbers.below(100_000) as f64 / 16.0 - 3000.0;
        if numbers.below(3) == 0 {
            writeln!(of_n, "{host} | {value} | {time}").unwrap();
            writeln!(sql, "INSERT INTO n VALUES ('{host}', {value}, {time});").unwrap();
            continue;
        }
        let value = if numbers.below(8) == 0 { None } else { Some(value) };
        let whole = numbers.below(12);
        let text = value.map_or("-".to_owned(), |value| value.to_string());
        writeln!(of_m, "{host} | {text},{whole} | {time}").unwrap();
        let text = value.map_or("NULL".to_owned(), |value| value.to_string());
        writeln!(sql, "INSERT INTO m VALUES ('{host}', {text}, {whole}, {time});").unwrap();
    }
    (of_m, of_n, sql)
}

#[allow(clippy::disallowed_methods, reason = "the test script says by the environment where its Python is")]
fn ask_duckdb(setup: &str) -> Vec<Vec<String>> {
    let python = std::env::var("WEIR_TEST_PYTHON")
        .expect("WEIR_TEST_PYTHON must name a Python with duckdb; `cargo xtask test` makes one");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("questions.sql");
    let questions: Vec<&str> = QUESTIONS.iter().map(|question| question.1).collect();
    std::fs::write(&file, format!("{setup}{}", questions.join(";\n"))).unwrap();
    let output = Command::new(python).arg("-c").arg(SCRIPT).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = text.split("--\n").filter(|answer| !answer.is_empty()).collect();
    answers.iter().map(|answer| answer.lines().map(str::to_owned).collect()).collect()
}

/// Equal, or numbers that differ in their last digits only.
fn same(one: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<f64>();
    match (number(one), number(other)) {
        (Ok(one), Ok(other)) => (one - other).abs() <= 1e-12 * one.abs().max(other.abs()),
        _ => one == other,
    }
}

#[test]
fn duckdb_gives_the_same_answers() {
    let (of_m, of_n, sql) = made_up();
    let world = World::new();
    world.create("db", "m", &schema("host:tag; v:float; k:integer"));
    world.create("db", "n", &schema("host:tag; w:float"));
    let half = of_m.lines().count() / 2;
    let part = |keep: &dyn Fn(usize) -> bool| -> String {
        of_m.lines().enumerate().filter(|line| keep(line.0)).map(|line| format!("{}\n", line.1)).collect()
    };
    // Odd lines of the first half come late, in a buffered run that lies across the file.
    world.file("db", "m", &rows(&part(&|line| line > half || line % 2 == 0)), 3);
    world.run("db", "m", &rows(&part(&|line| line <= half && line % 2 == 1)));
    world.file("db", "n", &rows(&of_n), 2);
    let theirs = ask_duckdb(&sql);
    assert_eq!(theirs.len(), QUESTIONS.len());
    for ((question, _), theirs) in QUESTIONS.iter().zip(theirs) {
        let answer = world.ask("db", question).unwrap();
        let ours: Vec<&str> = answer.lines().skip(1).collect();
        assert_eq!(ours.len(), theirs.len(), "{question}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let equal = ours.split(',').zip(theirs.split(',')).all(|(one, other)| same(one, other));
            assert!(
                equal && ours.matches(',').count() == theirs.matches(',').count(),
                "{question}: {ours}, not {theirs}"
            );
        }
    }
}
