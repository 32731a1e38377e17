//! What `weir export` writes, `weir write` takes back, and every answer is the same.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::path::Path;
use std::process::Output;

use harness::{folder, run, run_well, weir};

/// All types with their ends, NULLs, names and values that need escapes, times before 1970 and below a microsecond.
const LINES: &str = "m\\,\\ x,a\\=b=v\\ 1\\,2\\=3,plain=C:\\dir i=-9223372036854775808i,u=18446744073709551615u,f=1e300,b=true,s=\"say \\\"hi\\\"\\\\ \n two\" -1\n\
    m\\,\\ x,plain=é i=9223372036854775807i,u=0u,f=-0.1,b=false,s=\"\" 1500000000123456789\n\
    m\\,\\ x f=5 0\n\
    m\\,\\ x,a\\=b=only i=1i 1\n\
    m\\,\\ x,a\\=b=only my\\ field=2.5 999\n";
const TABLE: &str = "m, x";
/// Columns by name: they come in the order in which rows brought them.
const ALL: &str = "SELECT time, \"a=b\", plain, i, u, f, b, s, \"my field\" FROM \"m, x\" ORDER BY time, \"a=b\"";

fn write(data: &Path, database: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = weir();
    command.args(["write", "--db", database, "--data"]).arg(data).args(arguments);
    run(&mut command, input)
}

fn written(data: &Path, database: &str, arguments: &[&str], input: &[u8]) {
    let output = write(data, database, arguments, input);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn export(data: &Path, arguments: &[&str]) -> Output {
    let mut command = weir();
    command.args(["export", "--db", "d", "--data"]).arg(data).args(arguments);
    run(&mut command, b"")
}

fn exported(data: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = export(data, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn answer(data: &Path, database: &str, sql: &str) -> String {
    let mut command = weir();
    command.args(["sql", "--db", database, "--format", "jsonl", sql, "--data"]).arg(data);
    run_well(&mut command, b"")
}

#[test]
fn line_protocol_and_parquet_come_back_as_they_were() {
    let folder = folder();
    let data = folder.path().join("data");
    written(&data, "d", &["-"], LINES.as_bytes());
    let before = answer(&data, "d", ALL);
    assert_eq!(before.lines().count(), 5, "{before}");
    assert!(before.contains("18446744073709551615") && before.contains("1969-12-31T23:59:59.999999999"), "{before}");
    let lines = exported(&data, &["--table", TABLE]);
    written(&data, "again", &["-"], &lines);
    assert_eq!(answer(&data, "again", ALL), before);
    // Types and roles too, not only values.
    let columns = |database: &str| {
        answer(&data, database, "DESCRIBE \"m, x\"")
            .lines()
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(columns("again"), columns("d"));
    let file = folder.path().join("rows.parquet");
    let file = file.to_str().unwrap();
    assert!(exported(&data, &["--table", TABLE, "--format", "parquet", "--output", file]).is_empty());
    written(&data, "parquet", &["--format", "parquet", "--table", TABLE, "--tags", "a=b,plain", file], b"");
    assert_eq!(answer(&data, "parquet", ALL), before);
    assert_eq!(columns("parquet"), columns("d"));
}

#[test]
fn csv_and_json_lines_come_back_with_the_types_that_text_has() {
    let folder = folder();
    let data = folder.path().join("data");
    let lines = "t,host=a\\ b v=1.5,n=3i,ok=true,note=\"x, \\\"y\\\"\" -1\nt,host=c v=-2.25,note=\"\" 1500000000123456789\nt v=0.5,n=-7i 5\n";
    written(&data, "d", &["-"], lines.as_bytes());
    let ask = "SELECT host, v, n, ok, time FROM t ORDER BY time";
    let before = answer(&data, "d", ask);
    for format in ["csv", "jsonl"] {
        let text = exported(&data, &["--table", "t", "--format", format]);
        written(&data, format, &["--format", format, "--table", "t", "--tags", "host", "-"], &text);
        assert_eq!(answer(&data, format, ask), before, "{format}");
    }
}

#[test]
fn a_condition_chooses_and_what_cannot_be_spelled_is_counted() {
    let folder = folder();
    let data = folder.path().join("data");
    written(&data, "d", &["-"], b"t,host=a v=1 1\nt,host=b v=2 2\nt,host=c v=3 3\n");
    let lines = exported(&data, &["--table", "t", "--where", "host = 'a' OR v > 2.5"]);
    let mut lines: Vec<&str> = std::str::from_utf8(&lines).unwrap().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["t,host=a v=1 1", "t,host=c v=3 3"]);
    for (arguments, code, told) in [
        (vec!["--table", "none"], 3, "none"),
        (vec!["--table", "t", "--where", "nonsense ="], 2, ""),
        (vec!["--table", "t", "--where", "v > 'x'"], 2, ""),
    ] {
        let output = export(&data, &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
    // No half file is left behind.
    let file = folder.path().join("half.lp");
    let output = export(&data, &["--table", "t", "--where", "v / (n - n) = 1", "--output", file.to_str().unwrap()]);
    assert_ne!(output.status.code(), Some(0));
    assert!(!file.exists());
}
