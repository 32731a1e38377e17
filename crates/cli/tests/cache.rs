//! `weir cache` as scripts use it: exit codes, JSON, settings from the environment.

#![allow(clippy::disallowed_methods, reason = "the tests look at files that the program wrote")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `weir cache` on a cache in `dir` with `input` on standard input.
fn weir(dir: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("cache")
        .args(arguments)
        .env("WEIR_CACHE_DIR", dir)
        .env("WEIR_CACHE_LIMIT", "8 MiB")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn code(dir: &Path, arguments: &[&str], input: &[u8]) -> i32 {
    weir(dir, arguments, input).status.code().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn put_get_delete_and_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let large: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(code(dir, &["get", "key"], b""), 3);
    for value in [&b"value\0\xff"[..], b"", &large] {
        assert_eq!(code(dir, &["put", "key", "--tag", "red", "--ttl", "1h"], value), 0);
        let got = weir(dir, &["get", "key"], b"");
        assert!(got.status.success() && got.stdout == value);
    }
    let file = dir.join("out");
    assert_eq!(code(dir, &["get", "key", "-o", file.to_str().unwrap()], b""), 0);
    assert!(std::fs::read(&file).unwrap() == large);
    assert_eq!(code(dir, &["get", "key", "--namespace", "other"], b""), 3, "namespaces are apart");
    assert_eq!(code(dir, &["get", "key", "--namespace", "../other"], b""), 2);
    assert_eq!(code(dir, &["delete", "--tag", "red"], b""), 0);
    assert_eq!(code(dir, &["delete", "key"], b""), 3);
    assert_eq!(code(dir, &["put", "huge"], &vec![1; 3 << 20]), 6, "above a quarter of the limit");
    assert_eq!(code(dir, &["put", "once", "--write-once"], b"1"), 0);
    assert_eq!(code(dir, &["put", "once", "--write-once"], b"2"), 4);
    assert_eq!(code(dir, &["size", "--limit", "1 parsec"], b""), 2);
}

#[test]
fn batch_answers_one_line_each_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let input = concat!(
        r#"{"op":"put","key":"a","value":"1","ttl_s":60,"tags":["t"]}"#,
        "\n",
        r#"{"op":"get","key":"a"}"#,
        "\n",
        r#"{"op":"delete","key":"a"}"#,
        "\n\n",
        r#"{"op":"get","key":"a"}"#,
        "\n",
    );
    let output = weir(dir.path(), &["batch", "--namespace", "n"], input.as_bytes());
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<_> =
        lines.iter().map(|line| (line["op"].as_str(), line["hit"].as_bool(), line["value"].as_str())).collect();
    assert_eq!(
        said,
        [
            (Some("put"), Some(true), None),
            (Some("get"), Some(true), Some("1")),
            (Some("delete"), Some(true), None),
            (Some("get"), Some(false), None),
        ]
    );
    assert!(lines.iter().all(|line| line["error"].is_null() && line["key"] == "a"));
    let bad =
        weir(dir.path(), &["batch"], b"{\"op\":\"get\",\"key\":\"a\"}\nnot json\n{\"op\":\"frob\",\"key\":\"a\"}\n");
    assert_eq!(bad.status.code(), Some(5));
    let answers = String::from_utf8(bad.stdout).unwrap();
    assert_eq!(answers.lines().filter(|line| !line.contains("\"error\":null")).count(), 2, "{answers}");
}

#[test]
fn size_verify_stat_and_doctor_speak_json() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(code(dir, &["put", "key"], &vec![7; 100_000]), 0);
    assert_eq!(code(dir, &["get", "key"], b""), 0);
    let size = json(&weir(dir, &["size", "--exact", "--json"], b""));
    assert_eq!((size["entries"].as_u64(), size["limit"].as_u64()), (Some(1), Some(8 << 20)));
    assert!(size["bytes"].as_u64() >= size["disk_bytes"].as_u64(), "C2: {size}");
    let verified = weir(dir, &["verify", "--json"], b"");
    assert!(verified.status.success() && json(&verified)["agree"] == true);
    let stat = json(&weir(dir, &["stat", "--json"], b""));
    assert_eq!((stat["hits"].as_u64(), stat["hit_ratio"].as_f64()), (Some(1), Some(1.0)), "of earlier processes");
    assert!(weir(dir, &["doctor", "--json"], b"").status.success());
    assert!(weir(dir, &["gc", "--json"], b"").status.success());
    let blobs = dir.join("ns/default/blobs");
    for shard in std::fs::read_dir(&blobs).unwrap() {
        std::fs::remove_dir_all(shard.unwrap().path()).unwrap();
    }
    assert_eq!(code(dir, &["verify"], b""), 1);
    assert_eq!(code(dir, &["verify", "--repair"], b""), 0);
    assert_eq!(code(dir, &["get", "key"], b""), 3, "C1: a miss, not a wrong byte");
    assert_eq!(weir(dir, &["namespaces"], b"").stdout, b"default\n");
    assert_eq!(code(dir, &["clear"], b""), 0);
}

#[test]
fn a_command_runs_once_and_folders_and_exports_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let counter = dir.join("counter");
    let script = format!("echo x >> {}; echo out; echo err >&2; exit $0", counter.display());
    let run = |status: &str, more: &[&str]| {
        let mut arguments = vec!["run"];
        arguments.extend_from_slice(more);
        arguments.extend_from_slice(&["--", "sh", "-c", &script, status]);
        let output = weir(dir, &arguments, b"");
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        output.status.code().unwrap()
    };
    let ran = || std::fs::read_to_string(&counter).unwrap().lines().count();
    assert_eq!((run("0", &[]), run("0", &[]), ran()), (0, 0, 1));
    assert_eq!((run("7", &[]), run("7", &[]), ran()), (7, 7, 3), "failures are not kept");
    assert_eq!((run("7", &["--failures"]), run("7", &["--failures"]), ran()), (7, 7, 4));

    let folder = dir.join("folder/sub");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("file"), b"content").unwrap();
    assert_eq!(code(dir, &["put", "deps", dir.join("folder").to_str().unwrap()], b""), 0);
    let to = dir.join("restored");
    assert_eq!(code(dir, &["get", "deps", "--directory", "-o", to.to_str().unwrap()], b""), 0);
    assert_eq!(std::fs::read(to.join("sub/file")).unwrap(), b"content");

    let exported = weir(dir, &["export"], b"").stdout;
    assert_eq!(code(dir, &["import", "--namespace", "copy"], &exported), 0);
    assert_eq!(weir(dir, &["export", "--namespace", "copy"], b"").stdout, exported);

    let key = |arguments: &[&str]| weir(dir, &[&["key", "--domain", "d"], arguments].concat(), b"").stdout;
    let (one, two) = (key(&["--arg", "a", "--arg", "b"]), key(&["--arg", "ab"]));
    assert!(one.starts_with(b"d:") && one != two && one == key(&["--arg", "a", "--arg", "b"]));
    assert_ne!(key(&["--file", counter.to_str().unwrap()]), key(&["--arg", counter.to_str().unwrap()]));
}

#[test]
fn recorded_numbers_are_rows_of_database_weir() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, data) = (dir.path(), dir.path().join("data"));
    let data = data.to_str().unwrap();
    assert_eq!(code(dir, &["put", "key"], b"value"), 0);
    for found in [0, 0, 3] {
        assert_eq!(code(dir, &["get", if found == 0 { "key" } else { "other" }], b""), found);
    }
    assert_eq!(code(dir, &["stat"], b""), 0, "nothing is recorded unasked");
    assert_eq!(code(dir, &["stat", "--json", "--record", "--data", data], b""), 0);
    let query = "SELECT value FROM measures WHERE name = 'cache' AND label_namespace = 'default' AND measure = 'hits'";
    let asked = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["sql", "--data", data, "--db", "weir", "--format", "jsonl", query])
        .output()
        .unwrap();
    assert!(asked.status.success(), "{asked:?}");
    let rows = String::from_utf8(asked.stdout).unwrap();
    let values: Vec<f64> =
        rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["value"].as_f64().unwrap()).collect();
    assert_eq!(values, [2.0]);
}
