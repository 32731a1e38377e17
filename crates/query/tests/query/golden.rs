//! SQL with golden results side by side: `tests/sql/NAME.sql` and `NAME.out`.
//!
//! To take over new results, run with `WEIR_GOLDEN=write` and read the difference before it is committed.

use std::fmt::Write;
use std::path::Path;

use crate::world::{Rows, World, rows, schema};

/// Minutes around 1970: `a` has gaps, NULLs and the largest numbers, `b` one row in the middle, `c` only NULLs.
const GAPS: &str = "
a | 1,10,18446744073709551615 | -1800000000000
a | 3,-,- | -300000000000
a | -,20,18446744073709551614 | 600000000000
a | 9,-5,0 | 1800000000000
b | 100,-9223372036854775808,1 | 300000000000
c | -,-,- | 0
";

/// Seconds: `a` is a counter with a reset, some of whose rows come late; `d` has the times of `a` and smaller values; `b`
/// has the largest numbers before 1970; `n` and `i` hold NaN and infinity, `o` one row, `z` only NULLs.
const COUNTERS: &str = "
a | 10,18446744073709551614,0,x | 0
a | 3,-,2,y | 20
a | 13,5,4,x | 40
b | -9223372036854775808,1,-1.5,b | -20
b | -,-,-,- | -10
d | 1,-,-,- | 0
d | 1,-,-,- | 20
d | 1,-,-,- | 40
i | -,-,1,- | 0
i | -,-,inf,- | 10
i | -,-,2,- | 20
n | -,-,1,- | 0
n | -,-,NaN,- | 10
n | -,-,3,- | 20
o | 7,7,7.5,seven | -1
z | -,-,-,- | 5
--
a | 15,18446744073709551615,1,y | 10
a | 3,1,3,x | 30
b | 9223372036854775807,2,2.5,a | 0
d | 1,-,-,- | 10
d | 1,-,-,- | 30
";

/// Buckets of histograms: `whole`, `open` without an upper end, `none` without observations, `torn` whose counts fall,
/// `low` that starts below zero, `single`.
const LATENCY: &str = "
0.1,whole | 10 | 0
0.5,whole | 50 | 0
1,whole | 90 | 0
+Inf,whole | 100 | 0
0.1,open | 1 | 0
0.5,open | 2 | 0
1,none | 0 | 0
+Inf,none | 0 | 0
1,torn | 5 | 0
2,torn | 3 | 0
4,torn | 10 | 0
inf,torn | 10 | 0
-1,low | 4 | 0
1,low | 6 | 0
+Inf,low | 8 | 0
+Inf,single | 8 | 0
1,null | - | 0
";

/// Seconds on both sides of 1970: `a` with rows between, at and around its quotes, `b` before all of its quotes, `c` without
/// any, and one trade of nobody.
const TRADES: &str = "
a | 1 | -20
a | 2 | -10
a | 3 | 0
a | 4 | 5
a | 5 | 10
a | 6 | 99
b | 7 | -5
b | 8 | 6
c | 9 | 0
- | 10 | 0
";

const QUOTES: &str = "
a | 1.1,x | -10
a | 1.2,y | 0
a | -,z | 7
a | 1.4,x | 10
b | 2.1,x | 5
b | 2.2,y | 50
d | 3.1,x | 0
- | 4.1,x | 0
";

/// Rows whose times are in seconds.
fn seconds(text: &str) -> Rows {
    rows(text).into_iter().map(|((tags, time), fields)| ((tags, time * 1_000_000_000), fields)).collect()
}

fn world() -> World {
    let world = World::new();
    let cpu = schema("host:tag; usage:float; count:integer; up:boolean; note:string; bytes:unsigned");
    world.create("db", "cpu", &cpu);
    let hour = 3_600_000_000_000i64;
    let line = |host: &str, fields: &str, time: i64| format!("{host} | {fields} | {time}\n");
    let day = 24 * hour;
    let old: String =
        (0..6).map(|step| line("a", &format!("{step}.5,{step},true,ok,{step}"), -day + step * hour)).collect();
    let new: String = (0..6).map(|step| line("b", &format!("{}.25,-,false,-,9", step * 2), step * hour / 2)).collect();
    world.file("db", "cpu", &rows(&old), 6);
    world.file("db", "cpu", &rows(&new), 6);
    world.file("db", "cpu", &rows(&line("b", "-,77,-,late,-", hour)), 6);
    world.run("db", "cpu", &rows(&line("b", "100,-,-,-,-", 0)));
    world.create("db", "names", &schema("A:tag; a:float; my field:integer; é:string; 100%:float; x=y:integer"));
    world.run("db", "names", &rows("T | 1,2,text,3,4 | 5000000000"));
    world.create("db", "empty", &schema("host:tag; v:float"));
    world.create("db", "gaps", &schema("host:tag; v:float; n:integer; u:unsigned"));
    world.file("db", "gaps", &rows(GAPS), 4);
    world.create("db", "counters", &schema("host:tag; c:integer; u:unsigned; g:float; s:string"));
    for (number, part) in COUNTERS.split("--").enumerate() {
        match number {
            0 => world.file("db", "counters", &seconds(part), 5),
            _ => world.run("db", "counters", &seconds(part)),
        }
    }
    world.create("db", "latency", &schema("le:tag; job:tag; count:float"));
    world.file("db", "latency", &seconds(LATENCY), 3);
    world.create("db", "trades", &schema("sym:tag; price:float"));
    world.file("db", "trades", &seconds(TRADES), 2);
    world.create("db", "quotes", &schema("sym:tag; bid:float; venue:string"));
    world.file("db", "quotes", &seconds(QUOTES), 3);
    world.create("other db", "t", &schema("v:float"));
    world.run("other db", "t", &rows(" | 1.5 | 0"));
    world
}

#[allow(clippy::disallowed_methods, reason = "golden files lie beside the test")]
fn check(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let sql = std::fs::read_to_string(folder.join(format!("{name}.sql"))).unwrap();
    let world = world();
    let mut out = String::new();
    for statement in sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        let answer = world.ask("db", statement).unwrap_or_else(|error| format!("error: {error}\n"));
        writeln!(out, "{statement};\n{answer}").unwrap();
    }
    let file = folder.join(format!("{name}.out"));
    if std::env::var("WEIR_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::write(&file, &out).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(out, expected, "{name}: run with WEIR_GOLDEN=write and read the difference");
}

#[test]
fn plain_sql() {
    check("plain");
}

#[test]
fn names_keep_their_case() {
    check("names");
}

#[test]
fn show_and_describe() {
    check("show");
}

#[test]
fn time_functions() {
    check("time");
}

#[test]
fn gap_filling() {
    check("gapfill");
}

#[test]
fn rates_and_selectors() {
    check("rates");
}

#[test]
fn percentiles_modes_and_histograms() {
    check("percentiles");
}

#[test]
fn windows() {
    check("windows");
}

#[test]
fn asof_joins() {
    check("asof");
}
