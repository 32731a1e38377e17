//! The commands as people call them: embedded, through the server that holds the folder, and against a URL.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use harness::{Weir, folder, run, run_well, sql_on_folder, weir};
use serde_json::{Value, json};

const LINES: &str = "room,name=attic temp=21.5 1\nroom,name=cellar temp=9 2\n";

fn write(data: &Path, arguments: &[&str], input: &[u8]) -> Output {
    run(weir().args(["write", "--db", "d", "--data"]).arg(data).args(arguments), input)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn count(data: &Path) -> Value {
    sql_on_folder(data, "d", "select count(*) as n from room")[0]["n"].clone()
}

#[test]
fn compressed_input_is_recognised_and_a_cut_one_is_an_error() {
    let folder = folder();
    let data = folder.path().join("data");
    for input in [gzip(LINES.as_bytes()), zstd::encode_all(LINES.as_bytes(), 3).unwrap(), LINES.into()] {
        let output = write(&data, &["-"], &input);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(count(&data), 2);
    }
    let whole = gzip(&LINES.repeat(1000).into_bytes());
    let output = write(&data, &["-"], &whole[..whole.len() / 2]);
    assert!(matches!(output.status.code(), Some(2 | 5 | 7)), "{:?} {}", output.status, stderr(&output));
    assert!(stderr(&output).contains("cannot read the file on"), "{}", stderr(&output));
}

#[test]
fn bad_lines_are_told_by_their_number_in_the_file_and_the_rest_is_written() {
    let folder = folder();
    let data = folder.path().join("data");
    let mut text = String::new();
    for index in 0..200_000 {
        match index {
            5 => text.push_str("room,name=x note=\"two\nlines\" 5\n"),
            150_000 => text.push_str("bad line\n"),
            _ => text.push_str(&format!("room,name=n temp={index} {index}\n")),
        }
    }
    let output = write(&data, &["-"], text.as_bytes());
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    // One more than the line's index and one, for the value that takes two lines.
    assert!(stderr(&output).contains("line 150002: "), "{}", stderr(&output));
    assert_eq!(count(&data), 199_999);
    let output = write(&data, &["--all-or-nothing", "-"], b"hall temp=1 1\nbad\n");
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let mut sql = weir();
    let output = run(sql.args(["sql", "--db", "d", "--data"]).arg(&data).arg("select * from hall"), b"");
    assert_eq!(output.status.code(), Some(3), "nothing of a refused batch is written: {}", stderr(&output));
}

#[test]
fn a_command_goes_through_the_server_that_holds_the_folder() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = Weir::start(&data);
    let output = write(&data, &["-"], LINES.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("weir.sock"), "{}", stderr(&output));
    assert_eq!(server.sql("d", "select count(*) as n from room"), [json!({"n": 2})]);
    assert_eq!(count(&data), 2);
    let url = format!("http://{}", server.address);
    let mut sql = weir();
    sql.args(["sql", "--db", "d", "--format", "csv", "--server", &url, "select name from room order by name"]);
    assert_eq!(run_well(&mut sql, b""), "name\nattic\ncellar\n");
    server.stop();
    assert!(!data.join("weir.sock").exists());
    assert_eq!(count(&data), 2, "an orderly stop loses nothing");
}

#[test]
fn a_second_writer_is_told_who_holds_the_folder() {
    let folder = folder();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let _held = weir_base::FileLock::acquire(&data.join("lock"), "weir backup", std::time::Duration::ZERO).unwrap();
    let output = write(&data, &["-"], LINES.as_bytes());
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("weir backup (pid"), "{}", stderr(&output));
}

#[test]
fn every_precision_and_format_gives_the_same_rows() {
    let folder = folder();
    let data = folder.path().join("data");
    for (precision, time) in [("s", "2"), ("ms", "2000"), ("us", "2000000"), ("ns", "2000000000")] {
        let line = format!("room,name=attic temp=21.5 {time}\n");
        let output = write(&data, &["--precision", precision, "-"], line.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let csv = "when,name,temp\n1970-01-01T00:00:02Z,attic,21.5\n";
    let jsonl = "{\"when\": 2, \"name\": \"attic\", \"temp\": 21.5}\n";
    for (format, text) in [("csv", csv), ("jsonl", jsonl)] {
        let arguments =
            ["--format", format, "--table", "room", "--tags", "name", "--time", "when", "--precision", "s", "-"];
        let output = write(&data, &arguments, text.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{format}: {}", stderr(&output));
    }
    let parquet = folder.path().join("rows.parquet");
    let mut sql = weir();
    sql.args(["sql", "--db", "d", "--format", "parquet", "--data"]).arg(&data).arg("select * from room");
    std::fs::write(&parquet, run(&mut sql, b"").stdout).unwrap();
    let file = parquet.to_str().unwrap();
    let output = write(&data, &["--format", "parquet", "--table", "room", "--tags", "name", file], b"");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        sql_on_folder(&data, "d", "select * from room"),
        [json!({"time": "1970-01-01T00:00:02", "name": "attic", "temp": 21.5})]
    );
}

#[test]
fn a_script_from_standard_input_runs_statement_by_statement_and_stops_at_an_error() {
    let folder = folder();
    let data = folder.path().join("data");
    write(&data, &["-"], LINES.as_bytes());
    run_well(weir().args(["write", "--db", "other", "--data"]).arg(&data).arg("-"), b"elsewhere v=1\n");
    let script = "-- a comment; with a semicolon\nselect ';' as a;\n\\d\nselect 2\n  as b;\nselect nothing from nowhere;\nselect 3;";
    let mut sql = weir();
    let output = run(sql.args(["sql", "--db", "d", "--format", "csv", "--data"]).arg(&data), script.as_bytes());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\n;\ntable_name\nroom\nb\n2\n", "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn wrong_names_and_usage_have_their_exit_codes() {
    let folder = folder();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    for (arguments, code) in [
        (&["sql", "--data", data, "select 1"][..], 3),
        (&["write", "--data", data, "--db", "../up", "-"], 2),
        (&["write", "--data", data, "/nothing/here.lp"], 3),
        (&["write", "--data", data, "--format", "csv", "-"], 2),
        (&["sql", "--server", "http://127.0.0.1:1", "select 1"], 6),
        (&["sql", "--server", "http://127.0.0.1/path", "select 1"], 2),
        (&["sql", "--server", "https://127.0.0.1:1", "--ca", "/nothing/here.pem", "select 1"], 3),
        (&["nonsense"], 2),
    ] {
        let output = run(weir().args(arguments), b"m v=1\n");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_quickstart_answers_three_questions_and_can_run_again() {
    let folder = folder();
    let data = folder.path().join("try");
    for _ in 0..2 {
        let text = run_well(weir().arg("quickstart").arg(&data), b"");
        assert_eq!(text.matches("SELECT ").count(), 3, "{text}");
        for known in ["825cc2", "89.79", "99.118", "2380"] {
            assert!(text.contains(known), "{known} is not in {text}");
        }
    }
    let tables = ["ad_exchange", "ec2_cpu_utilization", "elb_request_count", "rds_cpu_utilization", "traffic"];
    let rows: u64 = tables
        .iter()
        .map(|table| {
            sql_on_folder(&data, "demo", &format!("select count(*) as n from {table}"))[0]["n"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(rows, 59_945);
}

#[test]
fn the_doctor_is_well_with_a_good_folder_and_tells_of_a_wrong_setting() {
    let folder = folder();
    let data = folder.path().join("data");
    write(&data, &["-"], LINES.as_bytes());
    let doctor = |data: &Path| run(weir().args(["doctor", "--json", "--data"]).arg(data), b"");
    let output = doctor(&data);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    std::fs::write(data.join("weir.toml"), "[limits]\nwrites_max = 0\n").unwrap();
    let output = doctor(&data);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = told["checks"].as_array().unwrap().iter().find(|check| check["check"] == "settings").unwrap();
    assert!(settings["detail"].as_str().unwrap().contains("limits.writes_max"), "{settings}");
}

/// Each trouble is one finding that says what to do; a folder without it has none of this kind.
#[test]
fn the_doctor_finds_a_clock_that_went_back_open_secrets_and_a_store_that_is_gone() {
    let folder = folder();
    let data = folder.path().join("data");
    write(&data, &["-"], LINES.as_bytes());
    let look = |arguments: &[&str], code: i32| -> Vec<Value> {
        let output = run(weir().args(["doctor", "--json"]).args(arguments).arg("--data").arg(&data), b"");
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        told["checks"].as_array().unwrap().clone()
    };
    let of = |checks: &[Value], name: &str| -> Vec<Value> {
        checks.iter().filter(|check| check["check"] == name && check["state"] != "ok").cloned().collect()
    };
    let well = look(&[], 0);
    for name in ["clock", "tokens", "secrets", "store"] {
        assert!(of(&well, name).is_empty(), "{well:?}");
    }
    run_well(weir().args(["token", "create", "--name", "x", "--read", "--data"]).arg(&data), b"");
    let list = data.join("tokens.json");
    let mode = |mode| std::fs::set_permissions(&list, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let found = of(&look(&[], 0), "secrets");
    assert!(found[0]["advice"].as_str().unwrap().starts_with("chmod 600"), "{found:?}");
    mode(0o600);
    assert!(of(&look(&[], 0), "secrets").is_empty());
    run_well(weir().args(["token", "revoke", "x", "--data"]).arg(&data), b"");
    assert!(of(&look(&[], 0), "tokens")[0]["detail"].as_str().unwrap().contains("nobody gets in"));
    std::fs::write(&list, "half").unwrap();
    assert_eq!(of(&look(&[], 1), "tokens")[0]["state"], "wrong");
    std::fs::remove_file(&list).unwrap();
    std::fs::write(data.join("weir.toml"), "[server]\nhttp = \"0.0.0.0:8181\"\n").unwrap();
    assert!(of(&look(&[], 0), "tokens")[0]["advice"].as_str().unwrap().contains("weir token create"));
    std::fs::remove_file(data.join("weir.toml")).unwrap();
    // An hour ahead: as if the clock had been set back by an hour after the file was written.
    let newest = std::fs::File::create(data.join("wal").join("ahead")).unwrap();
    newest.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(3600)).unwrap();
    let found = of(&look(&[], 1), "clock");
    assert!(
        found[0]["detail"].as_str().unwrap().contains("went backwards") && found[0]["advice"].is_string(),
        "{found:?}"
    );
    std::fs::remove_file(data.join("wal").join("ahead")).unwrap();
    let keys = "aws_access_key_id = \"x\"\naws_secret_access_key = \"y\"\naws_region = \"x\"\n";
    let settings = format!("[store]\naws_endpoint = \"http://127.0.0.1:1\"\naws_allow_http = true\n{keys}");
    std::fs::write(data.join("weir.toml"), settings).unwrap();
    let checks = look(&["--store", "s3://nowhere/weir"], 1);
    assert!(of(&checks, "secrets")[0]["detail"].as_str().unwrap().contains("weir.toml"), "{checks:?}");
    let gone = of(&checks, "store");
    assert!(gone[0]["advice"].as_str().unwrap().contains("rows stay in the log"), "{gone:?}");
}

#[test]
fn the_settings_and_completions_are_printed() {
    let text = run_well(weir().arg("config"), b"");
    assert!(text.contains("body_bytes_max = \"64 MiB\""), "{text}");
    assert_eq!(run_well(weir().args(["serve", "--print-config"]), b""), text);
    for shell in ["bash", "zsh", "fish"] {
        assert!(run_well(weir().args(["completions", shell]), b"").contains("quickstart"), "{shell}");
    }
}

/// Everything that was answered is in files after an orderly stop, also with a request in the middle of its body.
#[test]
fn sigterm_finishes_flushes_and_ends_with_zero() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = Weir::start(&data);
    server.write_all("d", LINES);
    server.stop();
    let files = Command::new("find").arg(data.join("tables")).args(["-name", "*.parquet"]).output().unwrap();
    assert!(!files.stdout.is_empty(), "nothing was flushed");
    assert_eq!(count(&data), 2);
}

/// The state of tables and compaction are the same embedded and through a server; queries are listed and stopped.
#[test]
fn tables_are_listed_and_compacted_and_queries_stopped() {
    let folder = folder();
    let data = folder.path().join("data");
    // Each command closes the folder, and with it flushes: two files of the same keys.
    for _ in 0..2 {
        let output = write(&data, &["-"], LINES.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let ask = |arguments: &[&str]| {
        let mut command = weir();
        command.args(&arguments[..1]).arg("--data").arg(&data).args(&arguments[1..]);
        run(&mut command, b"")
    };
    let tables = || -> Value {
        let output = ask(&["tables", "--db", "d", "--format", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let status = tables();
    let number = |status: &Value, name: &str| status[0][name].as_u64().unwrap();
    assert_eq!((number(&status, "rows"), number(&status, "files"), number(&status, "files_overlapping")), (4, 2, 2));
    assert_eq!(status[0]["table"], "room");
    assert!(status[0]["oldest"].as_str().unwrap() < status[0]["newest"].as_str().unwrap(), "{status}");
    let output = ask(&["compact", "--db", "d", "--table", "room"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["files_before"], &told["files_after"]), (&json!(2), &json!(1)), "{told}");
    let server = Weir::start(&data);
    let status = tables();
    assert_eq!((number(&status, "rows"), number(&status, "files"), number(&status, "files_overlapping")), (2, 1, 0));
    std::thread::scope(|scope| {
        let endless = "select count(*) from generate_series(1, 4000000000) a, generate_series(1, 4000000000) b where a.value + b.value < 0";
        let asked = scope.spawn(|| ask(&["sql", "--db", "d", endless]));
        let id = loop {
            let output = ask(&["queries", "list", "--json"]);
            let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
            if let Some(query) = listed.as_array().unwrap().iter().find(|query| query["state"] == "running") {
                assert_eq!(query["q"], endless);
                break query["id"].as_str().unwrap().to_owned();
            }
        };
        assert_eq!(ask(&["queries", "cancel", &id]).status.code(), Some(0));
        let asked = asked.join().unwrap();
        assert_eq!(asked.status.code(), Some(4), "{}", stderr(&asked));
        assert!(stderr(&asked).contains("cancelled"), "{}", stderr(&asked));
        assert_eq!(ask(&["queries", "cancel", &id]).status.code(), Some(3));
    });
    server.stop();
}
