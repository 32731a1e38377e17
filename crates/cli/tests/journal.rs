//! `weir journal` as scripts use it: lines in, lines out, exit codes, damage, two processes, following.

#![allow(clippy::disallowed_methods, reason = "the tests look at and damage files that the program wrote")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest time for one command.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts `weir journal`.
fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("journal")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs `weir journal` with `input` on standard input.
fn weir(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = start(arguments);
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    finish(child)
}

/// Waits for a command's end; panics when it takes too long.
fn finish(mut child: Child) -> Output {
    let streams = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let readers = [Box::new(streams.0) as Box<dyn Read + Send>, Box::new(streams.1)].map(|mut stream| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).map(|_| bytes).unwrap()
        })
    });
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > until => {
                child.kill().unwrap();
                panic!("the command does not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let [stdout, stderr] = readers.map(|reader| reader.join().unwrap());
    Output { status, stdout, stderr }
}

#[track_caller]
fn check(arguments: &[&str], input: &[u8], code: i32) -> String {
    let output = weir(arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a command that ends with this code.
#[track_caller]
fn complaint(arguments: &[&str], input: &[u8], code: i32) -> String {
    let output = weir(arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    errors
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Lines of records with an id each.
fn lines(from: u64, to: u64) -> String {
    let line = |n| format!("{{\"id\":\"op-{n:05}\",\"n\":{n},\"text\":\"{}\"}}\n", "weir ".repeat((n % 7) as usize));
    (from..to).map(line).collect()
}

struct Place {
    _dir: tempfile::TempDir,
    journal: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("journal");
        Self { _dir: dir, journal }
    }

    fn name(&self) -> &str {
        self.journal.to_str().unwrap()
    }

    fn beside(&self, name: &str) -> String {
        self.journal.with_file_name(name).to_str().unwrap().to_owned()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.journal).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "wj")).collect();
        found.sort();
        found
    }
}

#[test]
fn lines_come_back_in_order_at_every_durability_and_codec() {
    let input = lines(0, 2500);
    for durability in ["none", "interval", "durable"] {
        for codec in ["none", "lz4", "zstd"] {
            let place = Place::new();
            let dir = place.name();
            let arguments =
                ["append", dir, "--batch", "100", "--durability", durability, "--codec", codec, "--kind", "7"];
            check(&arguments, input.as_bytes(), 0);
            assert_eq!(check(&["cat", dir], b"", 0), input);
            let stat = parsed(&check(&["stat", dir, "--json"], b"", 0));
            assert_eq!((&stat["records"], &stat["segments"], &stat["damage"]), (&json!(2500), &json!(1), &json!([])));
            let (raw, stored) = (stat["raw_bytes"].as_u64().unwrap(), stat["stored_bytes"].as_u64().unwrap());
            assert!(raw > input.len() as u64 - 2500 && stored == place.segments()[0].metadata().unwrap().len());
            assert_eq!(codec != "none", stored * 2 < raw, "{codec}: {stored} of {raw}");
            check(&["verify", dir], b"", 0);
        }
    }
}

#[test]
fn appending_goes_on_where_it_ended_and_the_last_line_needs_no_line_feed() {
    let place = Place::new();
    let dir = place.name();
    check(&["append", dir], b"{\"a\":1}\n\n  {\"a\":2}  ", 0);
    check(&["append", dir], b"", 0);
    check(&["append", dir], b"[3]\r\n", 0);
    assert_eq!(check(&["cat", dir], b"", 0), "{\"a\":1}\n{\"a\":2}\n[3]\n");
    assert_eq!(check(&["cat", dir, "--reverse", "--limit", "2"], b"", 0), "[3]\n{\"a\":2}\n");
    assert_eq!(check(&["cat", dir, "--from", "3"], b"", 0), "[3]\n");
    // What stands before a bad line is kept, and the line is named.
    assert!(complaint(&["append", dir], b"4\n{\"a\":\n5\n", 2).contains("line 2"));
    assert!(complaint(&["append", dir, "--key-field", "id"], b"{\"id\":1}\n{\"a\":1}\n", 2).contains("line 2"));
    assert_eq!(check(&["cat", dir, "--from", "4"], b"", 0), "4\n{\"id\":1}\n");
}

#[test]
fn records_are_found_by_key_prefix_kind_and_time() {
    let place = Place::new();
    let dir = place.name();
    check(&["append", dir, "--key-field", "id", "--kind", "1"], lines(0, 300).as_bytes(), 0);
    check(&["append", dir, "--key-field", "id", "--kind", "2"], lines(290, 310).as_bytes(), 0);
    assert_eq!(check(&["get", dir, "op-00305"], b"", 0), lines(305, 306));
    let newest = parsed(&check(&["get", dir, "op-00295", "--json"], b"", 0));
    assert_eq!((&newest["sequence"], &newest["kind"], &newest["key"]), (&json!(306), &json!(2), &json!("op-00295")));
    assert_eq!(check(&["get", dir, "op-0000"], b"", 4), "", "several keys begin so");
    assert_eq!(check(&["get", dir, "op-4"], b"", 3), "");
    assert_eq!(check(&["get", &place.beside("none"), "op-4"], b"", 3), "");
    assert_eq!(check(&["cat", dir, "--key", "op-00295"], b"", 0), lines(295, 296).repeat(2));
    assert_eq!(check(&["cat", dir, "--prefix", "op-0000"], b"", 0), lines(0, 10));
    assert_eq!(check(&["cat", dir, "--kind", "2"], b"", 0), lines(290, 310));
    assert_eq!(check(&["cat", dir, "--since", "2999-01-01T00:00:00Z"], b"", 0), "");
    assert_eq!(check(&["cat", dir, "--until", "2999-01-01T00:00:00Z"], b"", 0).lines().count(), 320);
    check(&["cat", dir, "--since", "yesterday"], b"", 2);
    check(&["append", dir, "--durability", "maybe"], b"", 2);
}

#[test]
fn an_export_is_imported_exactly() {
    let place = Place::new();
    let (dir, copy, file) = (place.name(), place.beside("copy"), place.beside("export.jsonl"));
    check(&["append", dir, "--key-field", "id", "--kind", "9"], lines(0, 1200).as_bytes(), 0);
    let export = check(&["export", dir], b"", 0);
    assert_eq!(export.lines().count(), 1200);
    check(&["export", dir, &file], b"", 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), export);
    check(&["import", &copy, &file], b"", 0);
    assert_eq!(check(&["export", &copy], b"", 0), export);
    assert!(complaint(&["import", &copy, "-"], b"{\"payload\":\"x\"}\nnonsense\n", 5).contains("line 2"));
    assert_eq!(check(&["cat", &copy, "--from", "1201"], b"", 0), "x\n");
}

#[test]
fn histories_of_awsideman_are_imported_as_far_as_they_go() {
    let place = Place::new();
    let operation = |n: u64| json!({"operation_id": format!("id-{n}"), "timestamp": "2025-05-01T10:00:00Z", "n": n});
    let whole = json!({"operations": (0..50).map(operation).collect::<Vec<_>>()}).to_string();
    let file = place.beside("operations.json");
    std::fs::write(&file, &whole).unwrap();
    let dir = place.name();
    check(&["import", dir, &file], b"", 0);
    assert_eq!(parsed(&check(&["get", dir, "id-17"], b"", 0)), operation(17));
    // Cut in the middle: what is whole is taken, the rest is told.
    let cut = place.beside("cut");
    assert!(!complaint(&["import", &cut, "-"], &whole.as_bytes()[..whole.len() / 2], 5).is_empty());
    let kept = check(&["cat", &cut], b"", 0).lines().count();
    assert!((20..30).contains(&kept), "{kept}");
}

#[test]
fn damage_is_told_and_repaired_and_the_rest_is_kept_j1() {
    let place = Place::new();
    let dir = place.name();
    check(&["append", dir, "--batch", "100", "--key-field", "id"], lines(0, 1000).as_bytes(), 0);
    let segment = &place.segments()[0];
    let mut bytes = std::fs::read(segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(segment, &bytes).unwrap();
    let told = complaint(&["verify", dir], b"", 7);
    assert!(told.contains("are lost"), "{told}");
    check(&["cat", dir], b"", 7);
    assert!(!complaint(&["append", dir], b"1\n", 7).is_empty(), "a damaged journal takes nothing");
    assert_eq!(std::fs::read(segment).unwrap(), bytes, "and nothing of it was changed");
    let salvaged = check(&["cat", dir, "--salvage"], b"", 7);
    assert_eq!(salvaged.lines().count(), 900);
    let told = complaint(&["repair", dir], b"", 5);
    assert!(told.contains("sequences") && told.contains("quarantine"), "{told}");
    assert_eq!(check(&["cat", dir], b"", 0), salvaged);
    let verified = parsed(&check(&["verify", dir, "--json"], b"", 0));
    assert_eq!((&verified["records"], &verified["next_sequence"]), (&json!(900), &json!(1001)));
    check(&["repair", dir], b"", 0);
    check(&["append", dir], b"1\n", 0);
    assert_eq!(check(&["cat", dir, "--from", "1001"], b"", 0), "1\n");
    check(&["verify", &place.beside("none")], b"", 3);
}

#[test]
fn a_torn_tail_is_cut_and_told_j1() {
    let place = Place::new();
    let dir = place.name();
    check(&["append", dir, "--batch", "10"], lines(0, 100).as_bytes(), 0);
    let segment = &place.segments()[0];
    // The mark that the orderly close wrote goes, and half a frame with it.
    let bytes = std::fs::read(segment).unwrap();
    std::fs::write(segment, &bytes[..bytes.len() - 72 - 20]).unwrap();
    let verified = parsed(&check(&["verify", dir, "--json"], b"", 0));
    assert!(verified["torn_bytes"].as_u64().unwrap() > 0);
    assert_eq!(check(&["cat", dir], b"", 0), lines(0, 90));
    assert!(complaint(&["append", dir], b"1\n", 0).contains("torn bytes"));
    assert_eq!(check(&["cat", dir], b"", 0), lines(0, 90) + "1\n");
}

#[test]
fn compaction_keeps_what_it_was_told() {
    let place = Place::new();
    let dir = place.name();
    for _ in 0..3 {
        check(&["append", dir, "--key-field", "id"], lines(0, 500).as_bytes(), 0);
    }
    check(&["compact", dir, "--latest-per-key"], b"", 0);
    assert_eq!(check(&["cat", dir], b"", 0), lines(0, 500));
    check(&["compact", dir, "--age", "90d"], b"", 0);
    check(&["compact", dir, "--count", "20"], b"", 0);
    assert_eq!(check(&["cat", dir], b"", 0), lines(480, 500));
    assert_eq!(parsed(&check(&["stat", dir, "--json"], b"", 0))["next_sequence"], json!(1501));
    check(&["compact", dir, "--age", "soon"], b"", 2);
    check(&["compact", &place.beside("none"), "--count", "1"], b"", 3);
}

#[test]
fn two_processes_contend_for_the_writers_lock() {
    let place = Place::new();
    let dir = place.name();
    let mut holder = start(&["append", dir, "--batch", "1"]);
    let mut input = holder.stdin.take().unwrap();
    input.write_all(b"{\"holder\":1}\n").unwrap();
    wait_for(dir, 1);
    // Past the deadline the other one gives up and says who is in the way.
    let told = complaint(&["append", dir], b"{\"other\":1}\n", 4);
    assert!(told.contains("held by") && told.contains("weir journal"), "{told}");
    assert_eq!(check(&["cat", dir], b"", 0), "{\"holder\":1}\n", "readers wait for nobody");
    // One that still waits when the lock is let go gets it; so does the next after a kill.
    let mut waiting = start(&["append", dir]);
    waiting.stdin.take().unwrap().write_all(b"{\"other\":2}\n").unwrap();
    input.write_all(b"{\"holder\":2}\n").unwrap();
    drop(input);
    assert!(finish(holder).status.success());
    assert!(finish(waiting).status.success());
    assert_eq!(check(&["cat", dir], b"", 0), "{\"holder\":1}\n{\"holder\":2}\n{\"other\":2}\n");
    let mut killed = start(&["append", dir, "--batch", "1"]);
    let mut input = killed.stdin.take().unwrap();
    input.write_all(b"{\"killed\":1}\n").unwrap();
    wait_for(dir, 4);
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(input);
    check(&["append", dir], b"{\"after\":1}\n", 0);
    assert_eq!(check(&["cat", dir, "--from", "4"], b"", 0), "{\"killed\":1}\n{\"after\":1}\n");
}

/// Waits until a journal holds that many records.
fn wait_for(dir: &str, records: u64) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let found = weir(&["stat", dir, "--json"], b"");
        if found.status.success() && parsed(&String::from_utf8_lossy(&found.stdout))["records"] == json!(records) {
            return;
        }
    }
    panic!("{dir} does not get {records} records");
}

#[test]
fn following_prints_lines_as_they_come_and_stops_at_its_limit() {
    let place = Place::new();
    let dir = place.name();
    check(&["append", dir], lines(0, 3).as_bytes(), 0);
    let mut follower = start(&["cat", dir, "--follow", "--limit", "7"]);
    let mut out = BufReader::new(follower.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    let mut seen: String = (0..3).map(|_| next()).collect();
    assert_eq!(seen, lines(0, 3), "before anything else is appended");
    for n in 3..7 {
        check(&["append", dir], lines(n, n + 1).as_bytes(), 0);
        seen.push_str(&next());
    }
    assert_eq!(seen, lines(0, 7));
    assert!(follower.wait().unwrap().success());
}

#[test]
fn a_killed_writer_loses_no_acknowledged_line_j2() {
    let place = Place::new();
    let dir = place.name();
    let mut appended = 0;
    for round in 1..=5u64 {
        let mut writer = start(&["append", dir, "--batch", "1"]);
        let mut input = writer.stdin.take().unwrap();
        for n in appended..round * 40 {
            input.write_all(lines(n, n + 1).as_bytes()).unwrap();
        }
        // Each line is an append of its own: what can be read was answered.
        wait_for(dir, round * 40);
        writer.kill().unwrap();
        writer.wait().unwrap();
        appended = round * 40;
    }
    assert_eq!(check(&["cat", dir], b"", 0), lines(0, appended));
    check(&["append", dir], lines(appended, appended + 1).as_bytes(), 0);
    assert_eq!(check(&["cat", dir], b"", 0), lines(0, appended + 1));
    check(&["verify", dir], b"", 0);
}

#[test]
fn frames_are_read_by_stock_tools() {
    let place = Place::new();
    let dir = place.name();
    check(&["append", dir], lines(0, 500).as_bytes(), 0);
    let bytes = std::fs::read(&place.segments()[0]).unwrap();
    // As the format page says: the segment's header takes 64 bytes, a frame's 72, its stored length stands at 8.
    let stored = u32::from_le_bytes(bytes[64 + 8..64 + 12].try_into().unwrap()) as usize;
    let frame = place.beside("frame.zst");
    std::fs::write(&frame, &bytes[64 + 72..64 + 72 + stored]).unwrap();
    let raw = zstd_cli(Path::new(&frame));
    for line in lines(0, 500).lines() {
        assert!(raw.windows(line.len()).any(|window| window == line.as_bytes()), "{line}");
    }
}

/// `zstd -d` where it is installed (it is in the build's list of packages).
fn zstd_cli(file: &Path) -> Vec<u8> {
    let output = Command::new("zstd").args(["-d", "-c"]).arg(file).output().expect("apt-get install zstd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
