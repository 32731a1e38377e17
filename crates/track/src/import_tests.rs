//! A small file of each tool, in the form that the tool writes.

use super::*;

const NOW: Timestamp = 1_767_225_600_000_000_000;

fn check(text: &str, format: Format, expected: &[(&str, f64, u64)]) -> Vec<Finished> {
    assert_eq!(Format::guess(text), Some(format), "{text}");
    let imported = read(text.as_bytes(), None, NOW).unwrap();
    assert_eq!(imported.refused, Vec::<String>::new());
    let found: Vec<_> =
        imported.rows.iter().map(|row| (&*row.name, row.duration_ns as f64 / 1e6, row.failures)).collect();
    assert_eq!(found, expected);
    assert_eq!(read(text.as_bytes(), None, NOW).unwrap(), imported, "the same file is the same rows");
    imported.rows
}

#[test]
fn hyperfine() {
    let text = r#"{"results":[{"command":"sleep 0.1","mean":0.102,"times":[0.101,0.103],"memory_usage_byte":[1000,2000],
        "exit_codes":[0,1],"parameters":{"threads":"4"}},{"command":"true","mean":0.001}]}"#;
    let rows = check(text, Format::Hyperfine, &[("sleep 0.1", 101.0, 0), ("sleep 0.1", 103.0, 1), ("true", 1.0, 0)]);
    assert_eq!((&*rows[0].labels["threads"], rows[1].measures["peak_memory_bytes"]), ("4", 2000.0));
    assert_eq!(rows[2].labels["measured"], "mean");
}

#[test]
fn pytest_benchmark() {
    let text = r#"{"machine_info":{},"commit_info":{"id":"abc"},"datetime":"2026-01-02T03:04:05.5+00:00","version":"4.0.0",
        "benchmarks":[{"group":"g","name":"test_a","fullname":"t.py::test_a[1]","params":{"n":1},
        "stats":{"mean":0.002,"data":[0.001,0.003]}},{"name":"test_b","group":null,"params":null,"stats":{"mean":0.5}}]}"#;
    let rows = check(
        text,
        Format::PytestBenchmark,
        &[("t.py::test_a[1]", 1.0, 0), ("t.py::test_a[1]", 3.0, 0), ("test_b", 500.0, 0)],
    );
    assert_eq!(rows[0].end_ns, 1_767_323_045_500_000_000);
    assert_eq!((&*rows[0].labels["n"], &*rows[0].labels["ref"], &*rows[0].labels["group"]), ("1", "abc", "g"));
}

#[test]
fn google_benchmark() {
    let text = r#"{"context":{"date":"2026-01-02T03:04:05+01:00"},"benchmarks":[
        {"name":"BM_A/8","run_name":"BM_A/8","run_type":"iteration","real_time":2.5,"time_unit":"us","bytes_per_second":1e6},
        {"name":"BM_A/8_mean","run_name":"BM_A/8","run_type":"aggregate","real_time":2.5,"time_unit":"us"}]}"#;
    let rows = check(text, Format::GoogleBenchmark, &[("BM_A/8", 0.0025, 0)]);
    assert_eq!((rows[0].end_ns, rows[0].measures["bytes_per_s"]), (1_767_319_445_000_000_000, 1e6));
}

#[test]
fn criterion() {
    let sample = r#"{"sampling_mode":"Linear","iters":[1.0,2.0],"times":[1000000.0,3000000.0]}"#;
    check(sample, Format::Criterion, &[("criterion", 1.0, 0), ("criterion", 1.5, 0)]);
    let lines = "{\"reason\":\"benchmark-complete\",\"id\":\"a/b\",\"iteration_count\":[2],\"measured_values\":[5.0],\"unit\":\"ms\"}\n\
        {\"reason\":\"group-complete\",\"group_name\":\"a\"}\n";
    check(lines, Format::Criterion, &[("a/b", 2.5, 0)]);
}

#[test]
fn junit() {
    let text = r#"<?xml version="1.0"?><testsuites><testsuite name="s" timestamp="2026-01-02T03:04:05">
        <testcase classname="a.B" name="x &lt; y" time="0.25"/><testcase name="bad" time="1,000.5"><failure>no</failure></testcase>
        <testcase name="not run" time="0"><skipped/></testcase></testsuite></testsuites>"#;
    let rows = check(text, Format::Junit, &[("x < y", 250.0, 0), ("bad", 1_000_500.0, 1)]);
    assert_eq!((rows[0].end_ns, &*rows[0].labels["classname"]), (1_767_323_045_000_000_000, "a.B"));
    assert!(read(b"<html/>", None, NOW).is_err() && read(b"<testsuite><a", None, NOW).is_err());
}

#[test]
fn go_benchmarks() {
    let text = "goos: linux\npkg: example.com/x\nBenchmarkFib/n=10-8   \t 5000\t 2500000 ns/op\t 16 B/op\t 2 allocs/op\nPASS\n";
    let rows = check(text, Format::Go, &[("BenchmarkFib/n=10", 2.5, 0)]);
    assert_eq!((&*rows[0].labels["procs"], rows[0].measures["allocs_per_op"]), ("8", 2.0));
}

#[test]
fn csv() {
    let text = "timestamp,operation,duration_ms,tool,success\r\n2026-01-02T03:04:05Z,\"a, \"\"b\"\"\",1.5,x,true\r\n\n1767323045,c,2,,False\n";
    let rows = check(text, Format::Csv, &[("a, \"b\"", 1.5, 0), ("c", 2.0, 1)]);
    assert_eq!(rows[0].end_ns, rows[1].end_ns);
    assert!(rows[1].labels.is_empty());
    let bad = read(
        b"timestamp,operation,duration_ms\nyesterday,a,1\n2026-01-01,b,fast\n2026-01-01T00:00:00,c,-1\n",
        None,
        NOW,
    )
    .unwrap();
    assert!(bad.rows.is_empty() && bad.refused.len() == 3, "{bad:?}");
    assert!(read(b"a,b\n1,2\n", Some(Format::Csv), NOW).is_err());
    assert!(read(b"hello", None, NOW).is_err() && read(b"\xff", None, NOW).is_err());
}
