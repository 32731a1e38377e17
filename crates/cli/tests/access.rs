//! `weir access` and `weir ops` against a real moto server, as scripts use them.

#![allow(clippy::disallowed_methods, reason = "the tests start processes and look at files")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The interpreter with moto and boto3, which the test script makes.
fn python() -> PathBuf {
    let path = std::env::var_os("WEIR_TEST_PYTHON");
    PathBuf::from(path.expect("WEIR_TEST_PYTHON names the interpreter that `cargo xtask python` made"))
}

/// A moto server; stopped when dropped.
struct Moto {
    child: Child,
    url: String,
}

impl Moto {
    fn start() -> Self {
        let mut child = Command::new(python())
            .args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.ok()?.split("http://").nth(1).map(|rest| rest.trim().to_owned()))
            .expect("moto tells its address");
        std::thread::spawn(move || lines.for_each(drop));
        let begin = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(30), "moto does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, url: format!("http://{address}") }
    }

    fn boto3(&self, command: &str, argument: &str) -> Value {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/identity_center.py");
        let output = Command::new(python()).arg(script).args([&self.url, command, argument]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn assignments(&self) -> Vec<Value> {
        let Value::Array(found) = self.boto3("assignments", "") else { panic!("a list") };
        let distinct: BTreeSet<String> = found.iter().map(Value::to_string).collect();
        assert_eq!(distinct.len(), found.len(), "nothing is there twice");
        found
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Weir<'a> {
    data: &'a Path,
    moto: &'a Moto,
}

impl Weir<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(arguments).env("WEIR_DATA", self.data).env("AWS_ACCESS_KEY_ID", "test");
        command.env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_EC2_METADATA_DISABLED", "true");
        command.env_remove("AWS_PROFILE").stdin(Stdio::null());
        command
    }

    /// A command that talks to moto, at a higher rate than AWS allows.
    fn aws(&self, arguments: &[&str]) -> Output {
        let connect = ["--endpoint-url", &self.moto.url, "--region", "us-east-1", "--requests-per-second", "5000"];
        self.command(&[arguments, &connect].concat()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.aws(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn list(&self, arguments: &[&str]) -> Vec<Value> {
        let arguments = [&["ops", "list", "--format", "json"], arguments].concat();
        let output = self.command(&arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn twelve_principals_in_three_hundred_accounts_are_assigned_rolled_back_and_restored() {
    let moto = Moto::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir { data: dir.path(), moto: &moto };
    let wanted = json!({"accounts": 300, "users": 8, "groups": 4, "existing": 40});
    let made = moto.boto3("set-up", &wanted.to_string());
    let before = moto.assignments();
    assert_eq!(before.len(), 40);
    let mut csv = "principal_type,principal,permission_set,account\n".to_owned();
    for principal in made["principals"].as_array().unwrap() {
        for (n, account) in made["accounts"].as_array().unwrap().iter().enumerate() {
            // By name and by id, as people write them.
            let name = principal[if n % 2 == 0 { 1 } else { 2 }].as_str().unwrap();
            let account = if n % 3 == 0 { format!("account-{n:03}") } else { account.as_str().unwrap().to_owned() };
            csv += &format!("{},{name},Readers,{account}\n", principal[0].as_str().unwrap());
        }
    }
    let file = dir.path().join("wishes.csv");
    std::fs::write(&file, &csv).unwrap();
    let file = file.to_str().unwrap();

    let applied = weir.json(&["access", "apply", file, "--yes", "--format", "json"]);
    assert_eq!((applied["state"].as_str(), applied["done"].as_u64()), (Some("done"), Some(3560)), "{applied}");
    assert_eq!(applied["verified"], true);
    let run = applied["run_id"].as_str().unwrap();
    let id = applied["operation_ids"][0].as_str().unwrap();
    let after = moto.assignments();
    assert_eq!(after.len(), 3600);

    let again = weir.json(&["access", "apply", file, "--yes", "--format", "json"]);
    assert_eq!((again["operation_ids"].as_array().unwrap().len(), &again["counts"]["skip"]), (0, &json!(3600)));
    let listed = weir.list(&["--principal", "user-3", "--state", "done"]);
    assert_eq!((listed.len(), listed[0]["id"].as_str(), listed[0]["run_id"].as_str()), (1, Some(id), Some(run)));
    assert!(weir.list(&["--principal", "nobody"]).is_empty());
    let user = weir.json(&["access", "list", "--user", "user-3", "--format", "json"]);
    assert_eq!(user.as_array().unwrap().len(), 300);

    let undone = weir.json(&["ops", "rollback", "--run", run, "--yes", "--format", "json"]);
    assert_eq!((undone["state"].as_str(), undone["done"].as_u64()), (Some("done"), Some(3560)), "{undone}");
    assert_eq!(moto.assignments(), before, "exactly as before, what was there already included");
    assert_eq!(weir.list(&[])[1]["undone_by"], undone["operation_ids"][0]);

    let undo = undone["operation_ids"][0].as_str().unwrap();
    weir.json(&["ops", "rollback", undo, "--yes", "--format", "json"]);
    assert_eq!(moto.assignments(), after, "R4: the undo is undone");
    assert_eq!(weir.list(&[]).len(), 3);
}

#[test]
fn plans_are_written_refused_when_stale_and_applied() {
    let moto = Moto::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir { data: dir.path(), moto: &moto };
    let wanted = json!({"accounts": 3, "users": 2, "groups": 1, "existing": 1});
    moto.boto3("set-up", &wanted.to_string());
    let before = moto.assignments();
    let wishes = dir.path().join("wishes.yaml");
    let row = "principal_type: GROUP\n  principal: group-0\n  permission_set: Readers\n  account: '*'";
    std::fs::write(&wishes, format!("- {row}\n")).unwrap();
    let plan = dir.path().join("plan.json");
    let (wishes, plan) = (wishes.to_str().unwrap(), plan.to_str().unwrap());
    let code = |arguments: &[&str]| weir.aws(arguments).status.code();
    assert_eq!(code(&["access", "apply", wishes]), Some(2), "nobody can be asked");
    assert_eq!(code(&["access", "plan", wishes, "--out", plan]), Some(0));
    assert_eq!(code(&["access", "apply", wishes, "--dry-run"]), Some(0));
    assert_eq!(moto.assignments(), before, "a plan changes nothing");
    let assign = ["access", "assign", "--group", "group-0", "--permission-set", "Readers", "--account", "account-001"];
    assert_eq!(code(&[&assign[..], &["--yes"]].concat()), Some(0));
    assert_eq!(code(&["access", "apply", plan, "--yes"]), Some(4), "R3: the world moved");
    assert_eq!(code(&["access", "plan", wishes, "--out", plan]), Some(0));
    assert_eq!(code(&["access", "apply", plan, "--yes"]), Some(0));
    assert_eq!(code(&["ops", "rollback", "--since", "1h", "--yes"]), Some(0));
    assert_eq!(moto.assignments(), before);
    assert_eq!(code(&["access", "copy", "user:user-0", "user:user-1", "--yes"]), Some(0));
    std::fs::write(dir.path().join("weir.toml"), "[operations]\nprotected = [\"principal=group-*\"]\n").unwrap();
    assert_eq!(code(&[&assign[..], &["--yes"]].concat()), Some(4), "protected");
    let bad = dir.path().join("bad.csv");
    std::fs::write(
        &bad,
        "principal_type,principal,permission_set,account\nUSER,nobody,Readers,account-000\nUSER,user-0,None,x\n",
    )
    .unwrap();
    let output = weir.aws(&["access", "apply", bad.to_str().unwrap(), "--yes"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("row 1") && told.contains("row 2"), "every bad row is told: {told}");
}
