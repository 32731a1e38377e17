//! Tokens against the real binary: made and revoked while a server runs, their scope in every form of SQL, and that a secret is
//! seen exactly once.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use harness::{Weir, folder, run, run_well, sql_on_folder, weir};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn token(data: &Path, arguments: &[&str]) -> Output {
    run(weir().arg("token").args(arguments).arg("--data").arg(data), b"")
}

/// Makes a token; what is printed is its secret and nothing else.
fn create(data: &Path, name: &str, arguments: &[&str]) -> String {
    let output = token(data, &[&["create", "--name", name], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let secret = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(secret.starts_with("weir_") && secret.len() == 86, "{}", secret.len());
    secret
}

/// A query over TCP: its status, and what was told.
fn ask(server: &Weir, secret: Option<&str>, database: &str, sql: &str) -> (u16, Value) {
    let body = json!({"db": database, "q": sql}).to_string();
    let mut headers = "Content-Type: application/json\r\n".to_owned();
    if let Some(secret) = secret {
        headers.push_str(&format!("Authorization: Bearer {secret}\r\n"));
    }
    let answer = server.connect().send("POST", "/api/v3/query_sql", &headers, body.as_bytes()).unwrap();
    (answer.status, serde_json::from_str(&answer.text()).unwrap_or(Value::Null))
}

/// Until the server has read its list again.
fn until(server: &Weir, secret: Option<&str>, status: u16) {
    let start = Instant::now();
    while ask(server, secret, "a", "select 1").0 != status {
        assert!(start.elapsed() < PATIENCE, "the server never answered {status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two databases, `a` with two tables and `b` with one, and a server on them.
fn served(data: &Path) -> Weir {
    for (database, lines) in [("a", "t,k=x v=1 1\nt,k=y v=2 2\nu v=3 3\n"), ("b", "secret_t,k=z v=9 1\n")] {
        run_well(weir().args(["write", "--db", database, "--data"]).arg(data).arg("-"), lines.as_bytes());
    }
    Weir::start(data)
}

#[test]
fn a_scope_holds_in_every_form_of_sql() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = served(&data);
    let secret = create(&data, "a-only", &["--read", "--write", "--db", "a"]);
    until(&server, None, 401);
    let asked = |sql: &str| ask(&server, Some(&secret), "a", sql);
    assert_eq!(asked("select count(*) as n from t"), (200, json!([{"n": 2}])));
    for sql in [
        "select * from b.secret_t",
        "select * from weir.b.secret_t",
        "select * from \"b\".\"secret_t\"",
        "select (select max(v) from b.secret_t) as m",
        "select * from t where exists (select 1 from b.secret_t)",
        "with x as (select * from b.secret_t) select * from x",
        "select * from t union all select * from b.secret_t",
        "select * from b.secret_t AS OF VERSION 1",
        "select * from b.no_such_table",
        "explain select * from b.secret_t",
        "explain analyze select * from b.secret_t",
        "describe b.secret_t",
        "show columns from b.secret_t",
        "show tag keys from b.secret_t",
        "show field keys from b.secret_t",
        "show tag values from b.secret_t with key = k",
        "delete from b.secret_t where v > 0",
        "explain delete from b.secret_t where v > 0",
        "drop table b.secret_t",
        "drop database b",
        "drop database if exists b",
    ] {
        let (status, told) = asked(sql);
        assert_eq!(status, 403, "{sql}: {told}");
        assert_eq!(told["error"]["code"], "forbidden", "{sql}: {told}");
    }
    assert_eq!(ask(&server, Some(&secret), "b", "select 1").0, 403);
    for (sql, rows) in [
        ("show databases", json!([{"database": "a"}])),
        ("show tables", json!([{"table": "t"}, {"table": "u"}])),
        ("show tables from b", json!([])),
        ("show table status from b", json!([])),
        (
            "select distinct table_schema as s from information_schema.tables where table_schema <> 'information_schema'",
            json!([{"s": "a"}]),
        ),
        ("select table_name as t from information_schema.columns where table_name like 'secret%'", json!([])),
        (
            "select schema_name as s from information_schema.schemata where schema_name in ('a', 'b')",
            json!([{"s": "a"}]),
        ),
    ] {
        assert_eq!(asked(sql), (200, rows), "{sql}");
    }
    assert_eq!(sql_on_folder(&data, "b", "select count(*) as n from secret_t"), [json!({"n": 1})]);
    server.stop();
}

#[test]
fn changes_of_tables_need_the_right_to_write_and_undo_stays_within_the_scope() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = served(&data);
    let reader = create(&data, "reader", &["--read"]);
    let writer_of_a = create(&data, "writer-of-a", &["--read", "--write", "--db", "a"]);
    let writer = create(&data, "writer", &["--write"]);
    until(&server, Some(&writer_of_a), 200);
    until(&server, Some(&writer), 403);
    let delete_in_b = |secret: &str| ask(&server, Some(secret), "b", "delete from secret_t where v = 9");
    for sql in ["delete from t where v = 1", "explain delete from t where v = 1", "drop table t", "drop database a"] {
        let (status, told) = ask(&server, Some(&reader), "a", sql);
        assert_eq!((status, &told["error"]["message"]), (403, &json!("this token may not write")), "{sql}");
    }
    let count = |database: &str, table: &str| {
        sql_on_folder(&data, database, &format!("select count(*) as n from {table}"))[0]["n"].clone()
    };
    assert_eq!((count("a", "t"), count("b", "secret_t")), (json!(2), json!(1)), "nothing refused was done");
    let (status, told) = delete_in_b(&writer);
    assert_eq!(status, 200, "{told}");
    assert_eq!(count("b", "secret_t"), 0);
    let in_b = told[0]["operation"].as_str().unwrap().to_owned();
    for sql in [
        format!("undo operation '{in_b}'"),
        format!("explain undo operation '{in_b}'"),
        format!("resume operation '{in_b}'"),
    ] {
        for secret in [&writer_of_a, &reader] {
            let (status, told) = ask(&server, Some(secret), "a", &sql);
            assert_eq!((status, &told["error"]["code"]), (403, &json!("forbidden")), "{sql}: {told}");
        }
    }
    assert_eq!(count("b", "secret_t"), 0);
    let (status, told) = ask(&server, Some(&writer_of_a), "a", "delete from t where v = 1");
    assert_eq!(status, 200, "{told}");
    let in_a = told[0]["operation"].as_str().unwrap().to_owned();
    let (status, told) = ask(&server, Some(&writer_of_a), "a", &format!("undo operation '{in_a}'"));
    assert_eq!(status, 200, "{told}");
    assert_eq!(count("a", "t"), 2);
    let (status, _) = ask(&server, Some(&writer), "b", &format!("undo operation '{in_b}'"));
    assert_eq!((status, count("b", "secret_t")), (200, json!(1)));
    let history = run_well(weir().args(["ops", "list", "--format", "json", "--data"]).arg(&data), b"");
    assert!(history.contains("token writer-of-a"), "the history does not say which token asked: {history}");
    server.stop();
}

#[test]
fn a_secret_is_shown_once_and_is_in_no_file_log_or_error() {
    let folder = folder();
    let data = folder.path().join("data");
    let address = weir_bench::process::free_address().unwrap();
    let secret = create(&data, "ci", &["--read", "--db", "a"]);
    assert_eq!(std::fs::metadata(data.join("tokens.json")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = token(&data, &["create", "--name", "ci", "--read"]);
    assert_eq!(again.status.code(), Some(4));
    assert_eq!(token(&data, &["create", "--name", "none"]).status.code(), Some(2));
    let server = Weir::start_with(&data, address, &["--log-level".as_ref(), "trace".as_ref()]);
    let url = format!("http://{address}");
    let mut wrong = secret.clone();
    wrong.replace_range(80.., "abcdef");
    let sql = |secret: Option<&str>, by_flag: bool| {
        let mut command = weir();
        command.args(["sql", "--db", "a", "--format", "csv", "--server", &url, "select 1 as one"]);
        match secret {
            Some(secret) if by_flag => command.args(["--token", secret]),
            Some(secret) => command.env("WEIR_TOKEN", secret),
            None => &mut command,
        };
        run(&mut command, b"")
    };
    let mut printed = String::new();
    for (given, by_flag, code, out) in [
        (Some(&*secret), false, 0, "one\n1\n"),
        (Some(&*secret), true, 0, "one\n1\n"),
        (Some(&*wrong), false, 2, ""),
        (Some("not\na token"), false, 2, ""),
        (None, false, 2, ""),
    ] {
        let output = sql(given, by_flag);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), out);
        printed.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    assert!(printed.contains("needs a token") && printed.contains("not known"), "{printed}");
    // The v1 parameter stands in the address: it must not reach the log from there either.
    server.connect().post(&format!("/write?db=a&u=x&p={secret}"), b"m v=1").unwrap();
    printed.push_str(&run_well(weir().args(["token", "list", "--data"]).arg(&data), b""));
    printed.push_str(&run_well(weir().args(["token", "list", "--json", "--data"]).arg(&data), b""));
    assert!(printed.contains("\"databases\":[\"a\"]"), "{printed}");
    let log = server.log();
    assert!(log.contains("/write") && log.contains("token=\"ci\""), "{log}");
    server.stop();
    let mut files = Command::new("grep");
    let found = run(files.args(["-rlE", &format!("{}|{}", &secret[22..], &wrong[22..])]).arg(folder.path()), b"");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "a secret is in a file of the data folder or in the log");
    assert!(!printed.contains(&secret[22..]) && !printed.contains(&wrong[22..]), "a secret was printed");
}

#[test]
fn tokens_come_and_go_while_a_server_runs_and_the_socket_needs_none() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = served(&data);
    assert_eq!(ask(&server, None, "a", "select 1").0, 200, "without tokens everybody may");
    let secret = create(&data, "ci", &["--read"]);
    until(&server, None, 401);
    until(&server, Some(&secret), 200);
    assert_eq!(sql_on_folder(&data, "a", "select count(*) as n from t"), [json!({"n": 2})], "through the socket");
    assert_eq!(token(&data, &["revoke", "nobody"]).status.code(), Some(3));
    assert_eq!(token(&data, &["revoke", "ci"]).status.code(), Some(0));
    until(&server, Some(&secret), 401);
    assert_eq!(ask(&server, None, "a", "select 1").0, 401, "the last token's end does not open the door");
    server.stop();
    let server = Weir::start(&data);
    assert_eq!(ask(&server, None, "a", "select 1").0, 401);
    server.stop();
    std::fs::write(data.join("tokens.json"), "not a list").unwrap();
    let output = run(weir().args(["serve", "--http", "127.0.0.1:0", "--data"]).arg(&data), b"");
    assert_eq!(output.status.code(), Some(7), "a server must not start open because its list is damaged");
}

#[test]
fn a_server_that_others_can_reach_says_what_they_can_do() {
    let folder = folder();
    let data = folder.path().join("data");
    let warned = |word: &str| {
        let port = weir_bench::process::free_address().unwrap().port();
        let server = Weir::start_at(&data, ([0, 0, 0, 0], port).into());
        let log = server.log();
        server.stop();
        assert!(log.contains(word), "{log}");
        log
    };
    assert!(warned("NOT PROTECTED").contains("--tls-cert"));
    create(&data, "ci", &["--read"]);
    assert!(!warned("NOT ENCRYPTED").contains("NOT PROTECTED"));
}
