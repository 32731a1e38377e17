//! `weir track` as scripts use it: runs, reports, checks, exit codes, many processes at once.

#![allow(clippy::disallowed_methods, reason = "the tests look at files that the program wrote")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(arguments).env("WEIR_DATA", dir).stdin(Stdio::null());
    command
}

fn weir(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

#[track_caller]
fn track(dir: &Path, code: i32, arguments: &str) -> String {
    let output = weir(dir, &[&["track"], &arguments.split(' ').collect::<Vec<_>>()[..]].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn count(dir: &Path, name: &str) -> u64 {
    json(&track(dir, 0, &format!("report --name {name} --json")))[0]["count"].as_u64().unwrap()
}

#[test]
fn runs_are_reported_and_a_slower_side_fails_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    track(dir, 3, "report --name nap --json");
    track(dir, 0, "run --name nap --runs 8 --label side=a -- sleep 0.02");
    track(dir, 0, "run --name nap --runs 8 --label side=b -- sleep 0.6");
    let report = json(&track(dir, 0, "report --name nap --json --by label:side"));
    for (group, side) in report.as_array().unwrap().iter().zip(["a", "b"]) {
        assert_eq!(
            (&group["name"], &group["side"], &group["count"], &group["failures"]),
            (&"nap".into(), &side.into(), &8.into(), &0.into())
        );
        let ms = |name: &str| group[name].as_f64().unwrap();
        let order = [ms("min_ms"), ms("p50_ms"), ms("p95_ms"), ms("p99_ms"), ms("max_ms")];
        assert!(
            order.is_sorted() && ms("min_ms") >= if side == "a" { 20.0 } else { 600.0 } && ms("mean_ms") > 0.0,
            "{group}"
        );
    }
    let slower = track(dir, 1, "check --name nap --baseline side=a --candidate side=b");
    assert!(slower.contains("% slower"), "{slower}");
    track(dir, 0, "check --name nap --baseline side=b --candidate side=a");
    track(dir, 0, "check --name nap --baseline side=a --candidate side=b --threshold 90000%");
    track(dir, 1, "check --baseline last-8");
    track(dir, 3, "check --name nap --baseline side=none --candidate side=b");
    track(dir, 2, "check --name nap --baseline side=a --threshold no");
    let annotation = track(dir, 1, "check --baseline side=a --candidate side=b --format github");
    assert!(annotation.starts_with("::error title=nap::nap is ") && annotation.contains("%25 slower"), "{annotation}");
    let junit = dir.join("junit.xml");
    track(dir, 1, &format!("check --baseline side=a --candidate side=b --json --junit {}", junit.display()));
    assert!(std::fs::read_to_string(junit).unwrap().contains("failures=\"1\""));
    for (format, expected) in [("csv", "name,count"), ("markdown", "| operation"), ("html", "<svg"), ("table", "nap")] {
        let text = track(dir, 0, &format!("report --format {format}"));
        assert!(text.contains(expected), "{format}: {text}");
    }
}

#[test]
fn two_commands_in_turns_are_compared_and_failures_are_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let told = weir(
        dir,
        &["track", "run", "--name", "x", "--runs", "7", "--json", "--vs", "sleep 0.01", "--", "sleep", "0.6"],
    );
    assert!(told.status.success(), "{told:?}");
    let told = json(&String::from_utf8(told.stdout).unwrap());
    assert_eq!(told["comparison"]["verdict"], "regression");
    assert_eq!(told["sides"][1]["wall_ms"].as_array().unwrap().len(), 7);
    // `sleep` takes less memory than the program that starts it: that cannot be told, and is not told (M1).
    assert!(told["sides"][0]["peak_memory_bytes"][0].is_null(), "{told}");
    track(dir, 3, "run --name bad -- there-is-no-such-program");
}

#[test]
fn the_exit_code_is_the_commands_and_failures_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let failed = weir(dir, &["track", "run", "--name", "bad", "--", "sh", "-c", "exit 9"]);
    assert_eq!(failed.status.code(), Some(9));
    let killed = weir(dir, &["track", "run", "--name", "bad", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    let report = json(&track(dir, 0, "report --name bad --json"));
    assert_eq!((&report[0]["count"], &report[0]["failures"]), (&2.into(), &2.into()));
    let shown = weir(dir, &["track", "run", "--name", "echo", "--shell", "--", "echo", "hi"]);
    assert_eq!(shown.stdout, b"hi\n");
}

#[test]
fn steps_of_a_script_begin_and_end_in_different_processes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let id = track(dir, 0, "start --name deploy --label stage=prod").trim().to_owned();
    track(dir, 0, &format!("finish {id} --items 5 --measure ratio=0.5"));
    track(dir, 4, &format!("finish {id}"));
    track(dir, 3, "finish nothing");
    let report = json(&track(dir, 0, "report --name deploy --label stage=prod --json"));
    assert_eq!((&report[0]["count"], &report[0]["items"]), (&1.into(), &5.into()));
}

#[test]
fn what_others_measured_is_imported_once_and_searched_for_changes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut text = "timestamp,operation,duration_ms\n".to_owned();
    for at in 0..120 {
        let ms = if at < 70 { 100 } else { 130 } + at * 7 % 5;
        text += &format!("2026-01-{:02}T{:02}:00:00Z,nightly,{ms}\n", 1 + at / 24, at % 24);
    }
    let file = dir.join("history.csv");
    std::fs::write(&file, text).unwrap();
    for _ in 0..2 {
        track(dir, 0, &format!("import {}", file.display()));
    }
    assert_eq!(count(dir, "nightly"), 120);
    let found = json(&track(dir, 0, "changes --name nightly --json"));
    assert_eq!((&found[0]["time"], found.as_array().unwrap().len()), (&"2026-01-03 22:00:00".into(), 1), "{found}");
    assert!((found[0]["ratio"].as_f64().unwrap() - 1.29).abs() < 0.02, "{found}");
    assert!(track(dir, 0, "changes --format html").contains("class=\"mark\""));
    let advice = track(dir, 0, "recommend --name nightly");
    assert!(advice.contains("slower_than_before"), "{advice}");
    std::fs::write(&file, "timestamp,operation,duration_ms\nyesterday,a,1\n").unwrap();
    track(dir, 5, &format!("import {}", file.display()));
    std::fs::write(&file, "nothing known").unwrap();
    track(dir, 2, &format!("import {}", file.display()));
}

#[test]
fn progress_is_told_as_json_lines() {
    let dir = tempfile::tempdir().unwrap();
    let told = weir(dir.path(), &["track", "run", "--runs", "3", "--progress", "json", "--", "true"]);
    let text = String::from_utf8(told.stderr).unwrap();
    let last = json(text.lines().rfind(|line| line.starts_with('{')).unwrap());
    assert_eq!(
        (&last["progress"], &last["done"], &last["total"], &last["ended"]),
        (&"true".into(), &3.into(), &3.into(), &true.into())
    );
}

#[test]
fn a_process_that_is_killed_leaves_its_operation_unfinished() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    track(dir, 0, "run --name long -- true");
    let mut child = command(dir, &["track", "run", "--name", "long", "--", "sleep", "30"]).spawn().unwrap();
    let told = || String::from_utf8(weir(dir, &["track", "report", "--name", "long"]).stderr).unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !told().contains("1 run right now") {
        assert!(std::time::Instant::now() < until, "{}", told());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(told().contains("unfinished: long began"), "{}", told());
    assert_eq!(count(dir, "long"), 1);
}

#[test]
fn sixteen_processes_at_once_lose_nothing_and_sql_sees_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let children: Vec<_> = (0..16)
        .map(|_| command(dir, &["track", "run", "--name", "many", "--runs", "5", "--", "true"]).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(count(dir, "many"), 80);
    let sql = |statement: &str| {
        let output = weir(dir, &["sql", "--db", "weir", "--format", "json", statement]);
        assert!(output.status.success(), "{output:?}");
        json(&String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(
        sql("SELECT count(*) AS n, sum(count) AS c FROM operations WHERE name = 'many'"),
        json(r#"[{"n":80,"c":80}]"#)
    );
    assert_eq!(sql("SELECT count(*) AS n FROM measures WHERE measure = 'user_ms'"), json(r#"[{"n":80}]"#));
    track(dir, 0, "drain");
    assert_eq!(sql("SELECT count(*) AS n FROM operations"), json(r#"[{"n":80}]"#));
}

#[test]
fn the_standard_workloads_are_recorded_with_samples_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let told = weir(dir, &["bench", "--runs", "3", "--label", "ref=main", "--json", "--progress", "json"]);
    assert!(told.status.success(), "{told:?}");
    let progress = String::from_utf8(told.stderr).unwrap();
    let last = json(progress.lines().rfind(|line| line.starts_with('{')).unwrap());
    assert_eq!((&last["done"], &last["total"]), (&3.into(), &3.into()));
    let told = json(&String::from_utf8(told.stdout).unwrap());
    let names: Vec<&str> = told.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let workloads = ["append", "apply", "cache_get", "cache_put", "deps_check", "flush", "plan", "query"];
    assert_eq!(names, workloads.map(|name| format!("bench.{name}")));
    assert!(told.as_array().unwrap().iter().all(|one| one["median_ms"].as_f64().unwrap() > 0.0), "{told}");
    let report = json(&track(dir, 0, "report --json --label ref=main"));
    assert_eq!(report.as_array().unwrap().len(), workloads.len());
    assert!(report.as_array().unwrap().iter().all(|group| group["count"] == 3 && group["failures"] == 0), "{report}");
    track(dir, 0, "check --baseline main --candidate main");
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("bench-")), "{left:?}");
    let statement =
        "SELECT measure, count(*) AS n FROM measures WHERE name = 'weir bench' GROUP BY measure ORDER BY measure";
    let output = weir(dir, &["sql", "--db", "weir", "--format", "json", statement]);
    let samples = json(&String::from_utf8(output.stdout).unwrap());
    for measure in ["cpu_ms", "memory_bytes", "written_bytes"] {
        let row = samples.as_array().unwrap().iter().find(|row| row["measure"] == measure);
        assert!(row.is_some_and(|row| row["n"].as_u64().unwrap() >= 2), "{measure}: {samples}");
    }
}

#[test]
fn a_long_write_tells_its_progress_as_json_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("points.lp");
    let text: String = (0..50_000).map(|at| format!("m,a=b v={at}i {at}\n")).collect();
    std::fs::write(&file, &text).unwrap();
    let told = weir(dir.path(), &["write", "--progress", "json", file.to_str().unwrap()]);
    assert!(told.status.success(), "{told:?}");
    let lines = String::from_utf8(told.stderr).unwrap();
    let last = json(lines.lines().rfind(|line| line.starts_with('{')).unwrap());
    assert_eq!((&last["progress"], &last["ended"]), (&"write".into(), &true.into()));
    assert_eq!((&last["done"], &last["total"]), (&text.len().into(), &text.len().into()));
}
