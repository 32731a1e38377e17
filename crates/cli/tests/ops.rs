//! `weir ops` as scripts use it, and the real binary killed in the middle of a run.

#![allow(clippy::disallowed_methods, reason = "the tests start processes and look at files")]

#[path = "../../access/tests/fake/center.rs"]
mod center;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use center::{Center, SET};
use serde_json::{Value, json};

fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(arguments).env("WEIR_DATA", data).env("AWS_ACCESS_KEY_ID", "test");
    command.env("AWS_SECRET_ACCESS_KEY", "test").env_remove("AWS_PROFILE").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn weir(data: &Path, arguments: &[&str]) -> Output {
    command(data, arguments).output().unwrap()
}

fn json(data: &Path, arguments: &[&str]) -> Value {
    let output = weir(data, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn record(id: &str, kind: &str, day: u32) -> String {
    let set = "arn:aws:sso:::permissionSet/ssoins-1/ps-2";
    json!({
        "operation_id": id, "timestamp": format!("2024-05-{day:02}T07:08:09+00:00"), "operation_type": kind,
        "principal_id": "u-1", "principal_type": "USER", "principal_name": "alice", "permission_set_arn": set,
        "permission_set_name": "Admin", "account_ids": ["111122223333", "444455556666"], "account_names": ["one", "two"],
        "results": [{"account_id": "111122223333", "success": true}, {"account_id": "444455556666", "success": kind == "assign", "error": "no"}],
        "metadata": {}, "rolled_back": false,
    })
    .to_string()
}

#[test]
fn the_history_of_awsideman_is_imported_listed_shown_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (data, files) = (dir.path().join("data"), dir.path().join("awsideman"));
    std::fs::create_dir_all(&files).unwrap();
    let list = |records: &[String]| format!("{{\"operations\": [{}]}}", records.join(","));
    let copy = json!({
        "operation_id": "c", "timestamp": "2024-05-03T00:00:00", "operation_type": "copy_assignments", "source_entity_id": "u-1",
        "target_entity_id": "g-1", "target_entity_type": "GROUP", "target_entity_name": "ops",
        "assignments_copied": ["arn:aws:sso:::permissionSet/ssoins-1/ps-2:111122223333:g-1"],
    });
    let clone = json!({
        "operation_id": "d", "timestamp": "2024-05-04T00:00:00", "source_permission_set_name": "Admin",
        "source_permission_set_arn": "arn:aws:sso:::permissionSet/ssoins-1/ps-2", "target_permission_set_name": "Admin2",
        "target_permission_set_arn": "arn:aws:sso:::permissionSet/ssoins-1/ps-3", "policies_copied": {},
    });
    std::fs::write(files.join("operations.json"), list(&[record("a", "assign", 1), copy.to_string()])).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(list(&[record("b", "revoke", 2), clone.to_string()]).as_bytes()).unwrap();
    std::fs::write(files.join("operations_20240502.json.gz"), gz.finish().unwrap()).unwrap();
    std::fs::write(files.join("rollbacks.json"), "{\"rollbacks\": [{\"rollback_operation_id\": \"r\"}]}").unwrap();
    assert_eq!(weir(&data, &["ops", "list"]).status.code(), Some(3), "there is no history yet");
    let files = files.to_str().unwrap();
    let told = json(&data, &["ops", "import", files]);
    assert_eq!(told, json!({"stored": 4, "present": 0, "rollbacks_passed_over": 1, "problems": 0}));
    assert_eq!(json(&data, &["ops", "import", files])["present"], 4, "once is enough");
    let listed = json(&data, &["ops", "list", "--format", "json"]);
    let kinds: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["clone", "copy", "revoke", "assign"], "the newest first");
    let count = |arguments: &[&str]| {
        let arguments = [&["ops", "list", "--format", "json"], arguments].concat();
        json(&data, &arguments).as_array().unwrap().len()
    };
    assert_eq!(count(&["--principal", "alice"]), 2);
    assert_eq!(count(&["--principal", "ops", "--account", "1111*"]), 1);
    assert_eq!(count(&["--state", "partial"]), 1);
    assert_eq!(count(&["--since", "2024-05-03"]), 2);
    assert_eq!(count(&["--kind", "clone", "--permission-set", "admin2"]), 1);
    let id = listed[2]["id"].as_str().unwrap();
    let shown = json(&data, &["ops", "show", &id[..13], "--format", "json"]);
    assert_eq!((shown["id"].as_str(), shown["entries"][1]["reason"].as_str()), (Some(id), Some("no")));
    assert_eq!(weir(&data, &["ops", "show", "ffffffff"]).status.code(), Some(3));
    assert_eq!(weir(&data, &["ops", "show", "01"]).status.code(), Some(4), "several begin so");
    assert_eq!(json(&data, &["ops", "stats", "--format", "json"])["assign"]["done"], 2);
    let exported = weir(&data, &["ops", "export"]).stdout;
    assert_eq!(String::from_utf8(exported).unwrap().lines().count(), 4);
    let csv = weir(&data, &["ops", "list", "--format", "csv"]).stdout;
    assert!(String::from_utf8(csv).unwrap().starts_with("id,run_id,time,kind,"));
    assert_eq!(weir(&data, &["ops", "verify"]).status.code(), Some(0));
    check_damage(&data);
}

/// A flipped byte in the log: told with exit 7, what can be read is read, and nothing is written over it.
fn check_damage(data: &Path) {
    let log = std::fs::read_dir(data.join("operations/log")).unwrap().map(|entry| entry.unwrap().path());
    let file = log.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "wj")).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 0x20;
    std::fs::write(&file, &bytes).unwrap();
    let code = |arguments: &[&str]| weir(data, arguments).status.code();
    assert_eq!(code(&["ops", "verify"]), Some(7));
    assert_eq!(json(data, &["ops", "list", "--format", "json"]).as_array().unwrap().len(), 4, "the index has them");
    assert_eq!(code(&["ops", "retain"]), Some(7));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[test]
fn r1_r2_killed_at_a_call_the_binary_resumes_to_the_planned_state() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wishes.csv");
    let mut csv = "principal_type,principal,permission_set,account\n".to_owned();
    for n in 0..40 {
        csv += &format!("USER,00000000-0000-4000-8000-00000000000{},{SET},{:012}\n", n % 4, n / 4);
    }
    std::fs::write(&file, csv).unwrap();
    let file = file.to_str().unwrap();
    let requests = requests_of_a_run(file);
    assert!(requests > 100, "{requests}");
    for at in (1..=requests).step_by(requests / 24) {
        for after in [false, true] {
            let data = tempfile::tempdir().unwrap();
            let center = Center::start_with(Duration::from_millis(15));
            kill_and_resume(&center, data.path(), file, at, after);
        }
    }
}

fn connect(center: &Center) -> Vec<&str> {
    let rest =
        ["--region", "eu-west-1", "--yes", "--format", "json", "--requests-per-second", "2000", "--poll-ms", "10"];
    [&["--endpoint-url", &center.url], &rest[..]].concat()
}

fn requests_of_a_run(file: &str) -> usize {
    let data = tempfile::tempdir().unwrap();
    let center = Center::start_with(Duration::from_millis(15));
    let applied = json(data.path(), &[&["access", "apply", file][..], &connect(&center)].concat());
    assert_eq!(applied["done"], 40, "{applied}");
    center.state.lock().unwrap().times.len()
}

fn kill_and_resume(center: &Center, data: &Path, file: &str, at: usize, after: bool) {
    let apply = [&["access", "apply", file][..], &connect(center)].concat();
    {
        let mut state = center.state.lock().unwrap();
        state.victim = Some((command(data, &apply).spawn().unwrap(), at, after));
    }
    loop {
        let mut state = center.state.lock().unwrap();
        if state.victim.as_mut().unwrap().0.try_wait().unwrap().is_some() {
            state.victim = None;
            break;
        }
        drop(state);
        std::thread::sleep(Duration::from_millis(5));
    }
    let what = format!("killed at request {at}, after its effect: {after}");
    let listed = weir(data, &["ops", "list", "--format", "json"]);
    let begun = listed.status.success() && listed.stdout.trim_ascii() != b"[]";
    let again = if begun { [&["ops", "resume"][..], &connect(center)].concat() } else { apply };
    let output = weir(data, &again);
    assert_eq!(output.status.code(), Some(0), "{what}: {output:?}");
    assert_eq!(center.assignments().len(), 40, "{what}");
    let state = center.state.lock().unwrap();
    assert_eq!((state.doubled, state.effects.len()), (0, 40), "{what}: nothing is done twice");
    drop(state);
    let listed = json(data, &["ops", "list", "--format", "json"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{what}");
    assert_eq!((&listed[0]["state"], &listed[0]["verified"]), (&json!("done"), &json!(true)), "{what}");
}
