//! Deletes and drops of tables by SQL, seen beforehand, undone and redone by `weir ops`, and the past read back: embedded, through a
//! server, and across restarts and kills.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::fmt::Write;
use std::path::Path;
use std::process::Output;

use harness::{Weir, folder, run, run_well, weir};
use serde_json::{Value, json};

/// A `weir` command on a folder.
fn on(data: &Path, arguments: &[&str]) -> Output {
    let mut command = weir();
    command.args(arguments).env("WEIR_DATA", data).env("USER", "ann");
    run(&mut command, b"")
}

fn well(data: &Path, arguments: &[&str]) -> String {
    let output = on(data, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn sql(data: &Path, statement: &str) -> Vec<Value> {
    serde_json::from_str(&well(data, &["sql", "--db", "d", "--format", "json", statement])).unwrap()
}

fn json_of(data: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&well(data, arguments)).unwrap()
}

/// The operations in this state; none while there is no history.
fn listed(data: &Path, state: &str) -> Vec<Value> {
    let output = on(data, &["ops", "list", "--state", state, "--format", "json"]);
    match output.status.code() {
        Some(3) => Vec::new(),
        code => {
            assert_eq!(code, Some(0), "{}", told(&output));
            serde_json::from_slice(&output.stdout).unwrap()
        }
    }
}

fn write(data: &Path, lines: &str) {
    let mut command = weir();
    command.args(["write", "--db", "d", "-"]).env("WEIR_DATA", data);
    run_well(&mut command, lines.as_bytes());
}

/// 40 rows: hosts `a` to `d`, times 1 to 10, `v` = time; `w` only where time is even.
fn forty() -> String {
    let mut lines = String::new();
    for host in ["a", "b", "c", "d"] {
        for time in 1..=10 {
            let more = if time % 2 == 0 { format!(",w={time}i") } else { String::new() };
            writeln!(lines, "m,host={host} v={time}{more} {time}000000000").unwrap();
        }
    }
    lines
}

fn count(data: &Path, from: &str) -> i64 {
    sql(data, &format!("SELECT count(*) AS n FROM {from}"))[0]["n"].as_i64().unwrap()
}

/// The newest operation of the history.
fn newest(data: &Path) -> Value {
    json_of(data, &["ops", "list", "--format", "json", "--limit", "1"])[0].clone()
}

#[test]
fn a_delete_is_previewed_recorded_undone_and_its_undo_undone_r4() {
    let folder = folder();
    let data = folder.path();
    write(data, &forty());
    let delete = "DELETE FROM m WHERE host = 'b' AND w >= 4";
    let preview = json_of(data, &["ops", "plan", delete, "--db", "d", "--format", "json"]);
    assert_eq!(preview[0]["rows"], 4, "a NULL predicate deletes nothing: {preview}");
    assert_eq!((&preview[0]["state"], &preview[0]["operation"]), (&json!("planned"), &Value::Null));
    assert_eq!(count(data, "m"), 40);

    let done = sql(data, delete);
    assert_eq!((&done[0]["state"], &done[0]["rows"], &done[0]["table"]), (&json!("done"), &json!(4), &json!("m")));
    assert_eq!(count(data, "m"), 36);
    let operation = newest(data);
    assert_eq!(operation["id"], done[0]["operation"]);
    assert_eq!(
        (&operation["kind"], &operation["actor"], &operation["state"]),
        (&json!("delete"), &json!("ann"), &json!("done"))
    );

    // Of one of the deleted rows one field is written anew: the undo leaves that, and brings the other back, as if the row had
    // never been deleted.
    write(data, "m,host=b v=-1 4000000000\n");
    let id = operation["id"].as_str().unwrap();
    let plan = json_of(data, &["ops", "rollback", id, "--dry-run", "--format", "json"]);
    assert_eq!((&plan[0]["kind"], &plan[0]["state"]), (&json!("undo"), &json!("planned")));
    let undo = json_of(data, &["ops", "rollback", id, "--yes", "--format", "json"]);
    assert_eq!((&undo["state"], &undo["verified"], &undo["done"]), (&json!("done"), &json!(true), &json!(1)), "{undo}");
    assert_eq!(count(data, "m"), 40);
    let kept = sql(data, "SELECT v, w FROM m WHERE host = 'b' AND v IN (-1, 6) ORDER BY time");
    assert_eq!(kept, [json!({"v": -1.0, "w": 4}), json!({"v": 6.0, "w": 6})]);

    let again = undo["operation_ids"][0].as_str().unwrap();
    well(data, &["ops", "rollback", &again[..18.min(again.len())], "--yes"]);
    assert_eq!(count(data, "m"), 37, "the undo was undone: what was written since stays");
    let kinds: Vec<Value> = json_of(data, &["ops", "list", "--format", "json"]).as_array().unwrap().clone();
    assert_eq!(kinds.iter().map(|one| one["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["undo", "undo", "delete"]);
    assert_eq!(
        sql(data, "DELETE FROM m WHERE v > 1000"),
        [json!({
            "operation": null, "kind": "delete", "database": "d", "table": "m", "rows": 0, "state": "nothing to do", "note": null
        })]
    );
    assert_eq!(newest(data)["id"], kinds[0]["id"], "what changes nothing is no operation");
}

#[test]
fn the_past_is_read_by_version_and_time_and_the_answer_says_which() {
    let folder = folder();
    let data = folder.path();
    write(data, &forty());
    let before = sql(data, "SELECT * FROM m ORDER BY host, time");
    let version = sql(data, "EXPLAIN DELETE FROM m WHERE host = 'a'");
    assert_eq!(version[0]["rows"], 10);
    sql(data, "DELETE FROM m WHERE host = 'a'");
    write(data, "m,host=b v=77 1000000000\n");
    assert_eq!(count(data, "m"), 30);
    let past = sql(data, "SELECT * FROM m AS OF VERSION 0 ORDER BY m.host, time");
    assert_eq!(past, before, "as it was, the overwritten value too");
    let joined = "SELECT count(*) AS n FROM m AS OF VERSION 0 AS old LEFT JOIN m ON m.host = old.host AND m.time = old.time \
        WHERE m.time IS NULL";
    assert_eq!(sql(data, joined)[0]["n"], 10, "what is gone since");
    let output = on(data, &["sql", "--db", "d", "SELECT count(*) FROM m AS OF TIMESTAMP '2100-01-01'"]);
    assert!(told(&output).contains("m: as of version"), "{}", told(&output));
    for (at, wanted) in [("VERSION 1000", "has no version 1000"), ("TIMESTAMP '1999-01-01'", "no version that old")] {
        let output = on(data, &["sql", "--db", "d", &format!("SELECT * FROM m AS OF {at}")]);
        assert_eq!(output.status.code(), Some(3), "{}", told(&output));
        assert!(told(&output).contains(wanted), "{}", told(&output));
    }
}

#[test]
fn drops_are_undone_through_a_server_and_across_restarts() {
    let folder = folder();
    let data = folder.path();
    let server = Weir::start(data);
    server.write_all("d", &forty());
    server.write_all("d", "other v=1 1\n");
    assert_eq!(server.sql("d", "DROP TABLE m")[0]["state"], "done");
    let missing = on(data, &["sql", "--db", "d", "SELECT * FROM m"]);
    assert_eq!(missing.status.code(), Some(3), "{}", told(&missing));
    assert_eq!(server.sql("d", "DROP TABLE IF EXISTS m"), [] as [Value; 0]);
    server.kill();

    let server = Weir::start(data);
    let operation = newest(data);
    assert_eq!((&operation["kind"], &operation["actor"]), (&json!("drop"), &json!("http")));
    well(data, &["ops", "rollback", operation["id"].as_str().unwrap(), "--yes"]);
    assert_eq!(count(data, "m"), 40);
    assert_eq!(sql(data, "DROP DATABASE d").len(), 2, "a row for each table");
    let output = on(data, &["sql", "--db", "d", "DROP DATABASE d"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    // A table of the same name that was made since is in the way of the one that was dropped.
    server.write_all("d", "other v=2 1\n");
    server.flush();
    let id = newest(data)["id"].as_str().unwrap().to_owned();
    let refused = on(data, &["ops", "rollback", &id, "--yes"]);
    assert_eq!(refused.status.code(), Some(4), "{}", told(&refused));
    well(data, &["ops", "rollback", &id, "--yes", "--drift", "skip"]);
    assert_eq!(count(data, "m"), 40);
    assert_eq!(sql(data, "SELECT v FROM other"), [json!({"v": 2.0})]);
    server.stop();
    assert_eq!(count(data, "m"), 40, "also in the folder by itself");
}

#[test]
fn what_changes_tables_is_neither_a_get_nor_part_of_a_query() {
    let folder = folder();
    let data = folder.path();
    let server = Weir::start(data);
    server.write_all("d", &forty());
    let mut connection = server.connect();
    let answer = connection.get("/api/v3/query_sql?db=d&q=DROP%20TABLE%20m").unwrap();
    assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(&answer.body));
    assert!(String::from_utf8_lossy(&answer.body).contains("POST"));
    for (statement, wanted) in [
        ("DELETE FROM m", "without WHERE"),
        ("DELETE FROM m WHERE nosuch = 1", "nosuch"),
        ("DELETE FROM m WHERE v", "neither true nor false"),
        ("DELETE FROM m WHERE random() < 0.5", "same answer each time"),
        ("DELETE FROM m WHERE v > avg(v)", "aggregates"),
        ("DELETE FROM m WHERE v IN (SELECT v FROM m)", "cannot hold a query"),
        ("UPDATE m SET v = 1", "UPDATE is not supported"),
        ("UNDO OPERATION 'abc'", "abc"),
    ] {
        let output = on(data, &["sql", "--db", "d", statement]);
        assert_ne!(output.status.code(), Some(0), "{statement}");
        assert!(told(&output).contains(wanted), "{statement}: {}", told(&output));
    }
    assert_eq!(count(data, "m"), 40);
    assert_eq!(json_of(data, &["ops", "list", "--format", "json"]), json!([]));
    server.stop();
}

#[test]
fn rows_past_their_age_are_deleted_as_operations_that_can_be_undone() {
    let folder = folder();
    let data = folder.path();
    let config = "[engine]\nretention_every_s = 1\n[retention]\nd = '30d'\n'd.kept' = '5200w'\n";
    std::fs::write(data.join("weir.toml"), config).unwrap();
    let server = Weir::start(data);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let old = now - 40 * 86_400_000_000_000;
    server.write_all("d", &format!("m v=1 {old}\nm v=2 {now}\nkept v=1 {old}\n"));
    let operation = loop {
        if let Some(found) = listed(data, "done").first() {
            break found.clone();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert_eq!((&operation["kind"], &operation["actor"]), (&json!("retention"), &json!("retention")));
    assert_eq!(sql(data, "SELECT v FROM m"), [json!({"v": 2.0})]);
    assert_eq!(sql(data, "SELECT v FROM kept"), [json!({"v": 1.0})], "a table's own age counts");
    server.stop();
    std::fs::remove_file(data.join("weir.toml")).unwrap();
    well(data, &["ops", "rollback", operation["id"].as_str().unwrap(), "--yes"]);
    assert_eq!(count(data, "m"), 2);
}

/// Kills fall anywhere: before the intent, in the change, after it. Whatever was seen of it, the resume ends it, once.
#[test]
fn r1_r2_a_delete_that_is_killed_is_resumed_or_never_was() {
    let folder = folder();
    let data = folder.path();
    let mut server = Weir::start(data);
    let mut lines = String::new();
    for row in 0..60_000 {
        writeln!(lines, "big,host=h{} v={row} {row}", row % 100).unwrap();
    }
    server.write_all("d", &lines);
    server.flush();
    for round in 0..8_u64 {
        let host = format!("h{round}");
        let before = count(data, "big");
        let mut connection = server.connect();
        let asked = json!({"db": "d", "q": format!("DELETE FROM big WHERE host = '{host}'")}).to_string();
        let deleting = std::thread::spawn(move || connection.post("/api/v3/query_sql", asked.as_bytes()).is_ok());
        std::thread::sleep(std::time::Duration::from_millis(round * 25));
        server.kill();
        let acknowledged = deleting.join().unwrap();
        server = Weir::start(data);
        let open = listed(data, "running");
        if let Some(open) = open.first() {
            well(data, &["ops", "resume", open["id"].as_str().unwrap(), "--yes"]);
        }
        let left = count(data, &format!("big WHERE host = '{host}'"));
        let wanted = if left == 0 { before - 600 } else { before };
        assert!(left == 0 || (left == 600 && !acknowledged && open.is_empty()), "{left} of round {round}");
        assert_eq!(count(data, "big"), wanted, "round {round}");
        assert_eq!(listed(data, "running"), [] as [Value; 0]);
    }
    // All of them are taken back as one operation.
    well(data, &["ops", "rollback", "--since", "1d", "--yes"]);
    assert_eq!(count(data, "big"), 60_000);
    server.stop();
}
