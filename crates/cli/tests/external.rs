//! External tables through the real binary: made, asked, dropped and brought back, across restarts; files of others are never touched.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use harness::{Weir, folder, python, run, run_well, sql_on_folder, weir};
use serde_json::{Value, json};

/// Tables that the Delta library for Python makes: one in parts, with more commits than a checkpoint takes; one that maps its columns.
const DELTA: &str = r#"
import sys, datetime
import pyarrow as pa
from deltalake import write_deltalake, DeltaTable
root = sys.argv[1]
def rows(hosts, values):
    time = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    return pa.table({"host": pa.array(hosts), "part": pa.array([h.upper() for h in hosts]), "v": pa.array(values, pa.float64()),
                     "at": pa.array([time] * len(hosts), pa.timestamp("us", "UTC"))})
path = root + "/parts"
write_deltalake(path, rows(["a", "b"], [1.0, 2.0]), partition_by=["part"])
for number in range(3):
    write_deltalake(path, rows(["a"], [10.0 + number]), mode="append")
table = DeltaTable(path)
table.create_checkpoint()
table.delete("host = 'b'")
write_deltalake(path, rows(["c é"], [5.0]), mode="append")
write_deltalake(root + "/mapped", rows(["a"], [1.0]), configuration={})
"#;

fn tell(sql: &str, data: &Path) -> (Option<i32>, String) {
    let output = run(weir().args(["sql", "--db", "d", "--format", "json", sql]).env("WEIR_DATA", data), b"");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn allow(data: &Path, folder: &Path) {
    fs::create_dir_all(data).unwrap();
    let setting = format!("[query]\nquery_external_locations = [\"{}\"]\n", folder.display());
    fs::write(data.join("weir.toml"), setting).unwrap();
}

fn ask(server: &Weir, secret: Option<&str>, sql: &str) -> (u16, Value) {
    let body = json!({"db": "d", "q": sql}).to_string();
    let bearer = secret.map(|secret| format!("Authorization: Bearer {secret}\r\n")).unwrap_or_default();
    let headers = format!("Content-Type: application/json\r\n{bearer}");
    let answer = server.connect().send("POST", "/api/v3/query_sql", &headers, body.as_bytes()).unwrap();
    (answer.status, serde_json::from_str(&answer.text()).unwrap_or(Value::Null))
}

#[test]
fn a_server_keeps_external_tables_across_restarts_and_drops_touch_no_file() {
    let outer = folder();
    let (data, files) = (outer.path().join("data"), outer.path().join("files"));
    fs::create_dir_all(&files).unwrap();
    let csv = files.join("owners.csv");
    fs::write(&csv, "host,owner\na,Ann\nb,Bo\n").unwrap();
    allow(&data, &files);
    let create = format!("CREATE EXTERNAL TABLE owners STORED AS CSV LOCATION '{}'", csv.display());
    let joined = "SELECT cpu.host AS host, owner, v FROM cpu JOIN owners ON cpu.host = owners.host ORDER BY host";
    let answer = json!([{"host": "a", "owner": "Ann", "v": 1.0}, {"host": "b", "owner": "Bo", "v": 2.0}]);
    let server = Weir::start(&data);
    server.write_all("d", "cpu,host=a v=1 1\ncpu,host=b v=2 2\n");
    assert_eq!(server.sql("d", &create)[0], json!({"table": "owners", "state": "created", "columns": 2}));
    assert_eq!(Value::from(server.sql("d", joined)), answer);
    assert_eq!(ask(&server, None, &create).0, 409);
    let again = create.replace("TABLE", "TABLE IF NOT EXISTS");
    assert_eq!(server.sql("d", &again)[0]["state"], "there already");
    assert_eq!(ask(&server, None, &create.replace("owners STORED", "cpu STORED")).0, 409);
    // A GET makes nothing, and rows of that name are refused line by line.
    let encoded: String = create.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let by_get = server.connect().send("GET", &format!("/api/v3/query_sql?db=d&q={encoded}"), "", b"").unwrap();
    assert_eq!(by_get.status, 400, "{}", by_get.text());
    let refused = server.write("d", "owners,host=c v=1 1\ncpu,host=c v=3 3\n");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("external table"), "{}", refused.text());
    assert_eq!(server.sql("d", "SELECT count(*) AS n FROM cpu")[0]["n"], 3);
    server.kill();
    let server = Weir::start(&data);
    assert_eq!(Value::from(server.sql("d", joined)), answer);
    assert_eq!(Value::from(server.sql("d", "SHOW TABLES")), json!([{"table": "cpu"}, {"table": "owners"}]));
    // Another statement in its place, in one commit.
    let other =
        create.replace("CREATE", "CREATE OR REPLACE").replace("owners STORED", "owners (h VARCHAR, o VARCHAR) STORED");
    server.sql("d", &other);
    assert_eq!(Value::from(server.sql("d", "SELECT o FROM owners WHERE h = 'a'")), json!([{"o": "Ann"}]));
    for changes in
        ["DELETE FROM owners WHERE true", "SELECT * FROM owners AS OF VERSION 0", "INSERT INTO owners VALUES (1)"]
    {
        assert!(matches!(ask(&server, None, changes).0, 400 | 404), "{changes}");
    }
    let dropped = server.sql("d", "DROP TABLE owners");
    assert_eq!((&dropped[0]["kind"], &dropped[0]["table"]), (&json!("drop"), &json!("owners")));
    assert_eq!(fs::read_to_string(&csv).unwrap(), "host,owner\na,Ann\nb,Bo\n");
    assert_eq!(ask(&server, None, "SELECT * FROM owners").0, 404);
    let undo = format!("UNDO OPERATION '{}'", dropped[0]["operation"].as_str().unwrap());
    server.sql("d", &undo);
    assert_eq!(Value::from(server.sql("d", "SELECT o FROM owners WHERE h = 'a'")), json!([{"o": "Ann"}]));
    // With its name taken it does not come back.
    let dropped = server.sql("d", "DROP TABLE owners");
    server.write_all("d", "owners v=1 1\n");
    assert_eq!(ask(&server, None, &format!("UNDO OPERATION '{}'", dropped[0]["operation"].as_str().unwrap())).0, 409);
    server.sql("d", "DROP DATABASE d");
    assert!(csv.exists());
    server.stop();
    let server = Weir::start(&data);
    assert_eq!(ask(&server, None, joined).0, 404);
    server.stop();
}

#[test]
fn a_server_reads_only_what_its_operator_allows() {
    let outer = folder();
    let (data, files) = (outer.path().join("data"), outer.path().join("files"));
    fs::create_dir_all(&files).unwrap();
    fs::write(outer.path().join("secret.csv"), "a\n1\n").unwrap();
    fs::write(files.join("fine.csv"), "a\n1\n").unwrap();
    symlink(outer.path().join("secret.csv"), files.join("link.csv")).unwrap();
    let create = |path: &Path| format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'", path.display());
    // By default nowhere.
    let server = Weir::start(&data);
    let (status, told) = ask(&server, None, &create(&files.join("fine.csv")));
    assert_eq!(status, 403);
    assert!(told.to_string().contains("query_external_locations"), "{told}");
    server.stop();
    allow(&data, &files);
    let secret = |name: &str, right: &str| {
        let mut command = weir();
        command.args(["token", "create", "--name", name, right, "--db", "d", "--data"]).arg(&data);
        run_well(&mut command, b"").trim().to_owned()
    };
    let (read, write) = (secret("r", "--read"), secret("w", "--write"));
    let server = Weir::start(&data);
    for outside in [outer.path().join("secret.csv"), files.join("link.csv"), Path::new("/etc/passwd").to_owned()] {
        assert_eq!(ask(&server, Some(&write), &create(&outside)).0, 403, "{}", outside.display());
    }
    assert_eq!(ask(&server, Some(&read), &create(&files.join("fine.csv"))).0, 403);
    let elsewhere = create(&files.join("fine.csv")).replace("TABLE t", "TABLE other.t");
    assert_eq!(ask(&server, Some(&write), &elsewhere).0, 403);
    assert_eq!(ask(&server, Some(&write), &create(&files.join("fine.csv"))).0, 200);
    assert_eq!(ask(&server, Some(&read), "SELECT a FROM t"), (200, json!([{"a": 1}])));
    assert_eq!(ask(&server, Some(&read), "DROP TABLE t").0, 403);
    server.stop();
    // What is not allowed any more is not read any more.
    allow(&data, &outer.path().join("other"));
    let server = Weir::start(&data);
    assert_eq!(ask(&server, Some(&read), "SELECT a FROM t").0, 403);
    server.stop();
}

/// Without a server the folder is the user's own, and so are the files.
#[test]
fn delta_tables_of_others_are_read_on_a_folder() {
    let outer = folder();
    let (data, files) = (outer.path().join("data"), outer.path().join("files"));
    fs::create_dir_all(&files).unwrap();
    let made = Command::new(python()).arg("-c").arg(DELTA).arg(&files).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = weir();
    command.args(["write", "--db", "d", "-"]).env("WEIR_DATA", &data);
    run_well(&mut command, b"cpu,host=a load=7 1\n");
    let create =
        |name: &str| format!("CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION '{}'", files.join(name).display());
    let sql = |sql: &str| Value::from(sql_on_folder(&data, "d", sql));
    assert_eq!(sql(&create("parts"))[0]["columns"], 4);
    // The deleted row is gone, the files that the log does not name are not read.
    let rows = sql("SELECT host, part, v FROM parts ORDER BY host, v");
    let row = |host: &str, part: &str, v: f64| json!({"host": host, "part": part, "v": v});
    let expected =
        [row("a", "A", 1.0), row("a", "A", 10.0), row("a", "A", 11.0), row("a", "A", 12.0), row("c é", "C É", 5.0)];
    assert_eq!(rows, Value::from(expected.to_vec()));
    assert_eq!(sql("SELECT count(*) AS n FROM parts WHERE part = 'A' AND v > 10"), json!([{"n": 2}]));
    assert_eq!(
        sql("SELECT min(at) AS at FROM parts WHERE at >= '2026-01-01'")[0]["at"].as_str().map(|at| &at[..10]),
        Some("2026-01-01")
    );
    assert_eq!(
        sql("SELECT load, max(v) AS v FROM cpu JOIN parts ON cpu.host = parts.host GROUP BY load"),
        json!([{"load": 7.0, "v": 12.0}])
    );
    let names = |rows: Value| {
        rows.as_array().unwrap().iter().map(|row| row["column"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(sql("DESCRIBE parts")), ["host", "part", "v", "at"]);
    // What this reader does not know is refused in words: the log is made to say so.
    let log = files.join("mapped/_delta_log/00000000000000000000.json");
    let said = fs::read_to_string(&log).unwrap();
    let mapped = said.replace("\"configuration\":{}", "\"configuration\":{\"delta.columnMapping.mode\":\"name\"}");
    assert_ne!(said, mapped);
    fs::write(&log, mapped).unwrap();
    let (code, told) = tell(&create("mapped"), &data);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("maps its columns"), "{told}");
    let (code, told) = tell(&create("none"), &data);
    assert_eq!(code, Some(3), "{told}");
    // The library still reads its own table: nothing was touched.
    let count =
        "import sys; from deltalake import DeltaTable; print(DeltaTable(sys.argv[1]).to_pyarrow_table().num_rows)";
    let counted = Command::new(python()).arg("-c").arg(count).arg(files.join("parts")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&counted.stdout).trim(), "5", "{}", String::from_utf8_lossy(&counted.stderr));
}
