//! SQL with golden results side by side: `tests/sql/NAME.sql` and `NAME.out`.
//!
//! To take over new results, run with `WEIR_GOLDEN=write` and read the difference before it is committed.

use std::fmt::Write;
use std::path::Path;

use crate::world::{World, rows, schema};

/// Minutes around 1970: `a` has gaps, NULLs and the largest numbers, `b` one row in the middle, `c` only NULLs.
const GAPS: &str = "
a | 1,10,18446744073709551615 | -1800000000000
a | 3,-,- | -300000000000
a | -,20,18446744073709551614 | 600000000000
a | 9,-5,0 | 1800000000000
b | 100,-9223372036854775808,1 | 300000000000
c | -,-,- | 0
";

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
