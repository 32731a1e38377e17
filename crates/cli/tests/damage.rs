//! What the disk can do to a server: run full, be read-only, give back bytes that were not written, lose the last ones.
//!
//! Tests that mount something run themselves again in mounts of their own (`unshare`), so that nothing stays mounted
//! however they end; that works for root and, through a user namespace, for everybody else.

#![allow(clippy::disallowed_methods, reason = "these tests damage real files")]

mod harness;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Weir, folder, run, run_well, weir};
use serde_json::json;
use weir_bench::process::free_address;

/// E4, J2: past a full disk writes are refused before they are acknowledged; with room again all goes on.
#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    if !in_own_mounts("a_full_disk_refuses_and_loses_nothing") {
        return;
    }
    let folder = folder();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    run_well(Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(&disk), b"");
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; 24 << 20]).unwrap();
    let data = disk.join("data");
    let server = Weir::start(&data);
    let mut acknowledged = 0_u64;
    let mut refused = 0;
    for batch in 0..4_000_u64 {
        let answer = server.write("full", &batch_of_text(batch));
        match answer.status {
            204 => {
                acknowledged += 1;
                assert_eq!(refused, 0, "a write was taken on a full disk");
            }
            429 | 503 => {
                assert!(answer.retry_after_seconds.is_some(), "no Retry-After: {}", answer.text());
                refused += 1;
            }
            status => panic!("{status}: {}", answer.text()),
        }
        if refused == 3 {
            break;
        }
    }
    assert!(acknowledged > 10 && refused == 3, "{acknowledged} acknowledged, {refused} refused");
    let count = |server: &Weir| server.sql("full", "select count(*) as n from t")[0]["n"].as_u64().unwrap();
    assert_eq!(count(&server), acknowledged * ROWS_PER_BATCH);
    let health = server.connect().get("/health").unwrap();
    assert_ne!(health.status, 500, "{}", health.text());
    fs::remove_file(&ballast).unwrap();
    assert!(eventually(|| server.write("full", &batch_of_text(4_000)).status == 204), "{}", server.log());
    assert_eq!(count(&server), (acknowledged + 1) * ROWS_PER_BATCH);
    server.kill();
    let server = Weir::start(&data);
    assert_eq!(count(&server), (acknowledged + 1) * ROWS_PER_BATCH);
    server.stop();
}

/// E4, S1: a store that takes no files makes the buffer fill to its limit, and then writes are refused; once it takes them
/// again, all goes on and every acknowledged row is there.
#[test]
fn a_full_store_fills_the_buffer_and_then_refuses() {
    if !in_own_mounts("a_full_store_fills_the_buffer_and_then_refuses") {
        return;
    }
    let folder = folder();
    let (data, store) = (folder.path().join("data"), folder.path().join("store"));
    fs::create_dir(&store).unwrap();
    run_well(Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&store), b"");
    let config = folder.path().join("small.toml");
    fs::write(&config, "[engine]\nbuffer_bytes_max = \"8 MiB\"\nflush_bytes = \"1 MiB\"\nflush_backoff_ms = 10\n")
        .unwrap();
    let arguments = [OsStr::new("--store"), store.as_os_str(), OsStr::new("--config"), config.as_os_str()];
    let server = Weir::start_with(&data, free_address().unwrap(), &arguments);
    server.write_all("d", &batch_of_text(0));
    server.flush();
    let ballast = store.join("ballast");
    let filled = run(Command::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", ballast.display())), b"");
    assert!(!filled.status.success(), "the store did not run full");
    let mut acknowledged = 1;
    let refusal = (1..1_000).find_map(|batch| {
        let answer = server.write("d", &batch_of_text(batch));
        if answer.status == 204 {
            acknowledged += 1;
            return None;
        }
        Some(answer)
    });
    let refusal = refusal.expect("nothing was refused");
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(refusal.retry_after_seconds.is_some());
    assert!((10..200).contains(&acknowledged), "{acknowledged} batches of 80 KiB in 8 MiB");
    let count = |server: &Weir| server.sql("d", "select count(*) as n from t")[0]["n"].as_u64().unwrap();
    assert_eq!(count(&server), acknowledged * ROWS_PER_BATCH);
    fs::remove_file(&ballast).unwrap();
    assert!(eventually(|| server.write("d", &batch_of_text(2_000)).status == 204), "{}", server.log());
    server.flush();
    assert_eq!(count(&server), (acknowledged + 1) * ROWS_PER_BATCH);
    server.stop();
}

/// A folder that cannot be written is an error that names it, before anything listens.
#[test]
fn a_read_only_folder_is_refused_by_name() {
    if !in_own_mounts("a_read_only_folder_is_refused_by_name") {
        return;
    }
    let folder = folder();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    run_well(Command::new("mount").arg("--bind").arg(&data).arg(&data), b"");
    run_well(Command::new("mount").args(["-o", "remount,ro,bind"]).arg(&data), b"");
    let mut serve = weir();
    serve.args(["serve", "--http"]).arg(free_address().unwrap().to_string()).arg("--data").arg(&data);
    let mut write = weir();
    write.args(["write", "--db", "x", "--data"]).arg(&data).arg("-");
    for mut command in [serve, write] {
        let output = run(&mut command, b"t f=1 1\n");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(2 | 6)), "{:?}: {stderr}", output.status);
        assert!(stderr.contains(&data.display().to_string()), "{stderr}");
        assert!(stderr.to_lowercase().contains("read-only"), "{stderr}");
    }
}

/// J1: bytes that changed before the mark are damage: an error that names file and offset, and a doctor who explains.
#[test]
fn a_damaged_frame_in_the_middle_is_an_error_that_says_where() {
    let folder = folder();
    let data = folder.path().join("data");
    write_and_kill(&data, 8);
    let (segment, frames) = last_segment_with_frames(&data);
    let damaged = frames[1];
    flip(&segment, damaged.stored_at + damaged.stored_bytes as u64 / 2);
    let before = fs::read(&segment).unwrap();
    let mut serve = weir();
    serve.args(["serve", "--http"]).arg(free_address().unwrap().to_string()).arg("--data").arg(&data);
    let output = run(&mut serve, b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains(segment.file_name().unwrap().to_str().unwrap()), "{stderr}");
    assert!(stderr.contains(&damaged.at.to_string()), "offset {}: {stderr}", damaged.at);
    let mut doctor = weir();
    let output = run(doctor.args(["doctor", "--data"]).arg(&data), b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(segment.file_name().unwrap().to_str().unwrap()), "{text}");
    assert!(text.contains("sav") || text.contains("recover"), "does not say what can be saved: {text}");
    assert!(text.contains("weir journal repair"), "{text}");
    assert!(fs::read(&segment).unwrap() == before, "the damaged segment was changed");
    let output = run(weir().args(["journal", "repair"]).arg(data.join("wal")), b"");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Weir::start(&data);
    let kept: Vec<u64> =
        server.sql("d", "select f from t order by time").iter().map(|row| row["f"].as_f64().unwrap() as u64).collect();
    assert_eq!(kept.len(), 7, "all but the damaged one: {kept:?}");
    assert_eq!(*kept.last().unwrap(), 8);
    server.stop();
}

/// J1, E1: a last frame that is torn was never acknowledged: it is cut and reported, and everything before it is there.
#[test]
fn a_torn_last_frame_is_cut_and_reported() {
    let folder = folder();
    let data = folder.path().join("data");
    write_and_kill(&data, 6);
    let (segment, frames) = last_segment_with_frames(&data);
    let mut bytes = fs::read(&segment).unwrap();
    let last = *frames.last().unwrap();
    bytes.truncate(last.stored_at as usize + last.stored_bytes);
    let half = bytes[last.at as usize..last.stored_at as usize + last.stored_bytes / 2].to_vec();
    bytes.extend_from_slice(&half);
    fs::write(&segment, &bytes).unwrap();
    let server = Weir::start(&data);
    assert_eq!(server.sql("d", "select count(*) as n from t"), [json!({ "n": 6 })]);
    let log = server.log().to_lowercase();
    assert!(log.contains("torn") || log.contains("cut"), "the cut is not reported: {log}");
    server.write_all("d", "t f=7 700\n");
    server.kill();
    let server = Weir::start(&data);
    assert_eq!(server.sql("d", "select count(*) as n from t"), [json!({ "n": 7 })]);
    server.stop();
}

const ROWS_PER_BATCH: u64 = 20;

/// Rows whose text does not compress, about 80 KiB a batch.
fn batch_of_text(batch: u64) -> String {
    let mut dice = harness::Dice(batch);
    let mut lines = String::new();
    for row in 0..ROWS_PER_BATCH {
        let text: String = (0..4_000).map(|_| char::from(b'!' + 2 + dice.below(56) as u8)).collect();
        lines.push_str(&format!("t,k=a s=\"{text}\" {}\n", batch * ROWS_PER_BATCH + row));
    }
    lines
}

fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    (0..300).any(|_| {
        let holds = condition();
        if !holds {
            std::thread::sleep(Duration::from_millis(100));
        }
        holds
    })
}

/// `rows` requests of a row each, all acknowledged and none flushed.
fn write_and_kill(data: &Path, rows: u64) {
    let server = Weir::start(data);
    for row in 1..=rows {
        server.write_all("d", &format!("t f={row} {row}00\n"));
    }
    server.kill();
}

/// A frame of a segment: `docs/formats/journal.md`.
#[derive(Debug, Clone, Copy)]
struct Frame {
    at: u64,
    stored_at: u64,
    stored_bytes: usize,
}

const FRAME_HEADER_BYTES: usize = 72;

fn last_segment_with_frames(data: &Path) -> (PathBuf, Vec<Frame>) {
    let mut segments: Vec<PathBuf> =
        fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "wj"));
    segments.sort();
    for segment in segments.into_iter().rev() {
        let bytes = fs::read(&segment).unwrap();
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut frames = Vec::new();
        let mut at = number(12);
        while at + FRAME_HEADER_BYTES <= bytes.len() && &bytes[at..at + 4] == b"WJF1" {
            let stored_bytes = number(at + 8);
            frames.push(Frame { at: at as u64, stored_at: (at + FRAME_HEADER_BYTES) as u64, stored_bytes });
            at += FRAME_HEADER_BYTES + stored_bytes;
        }
        frames.retain(|frame| frame.stored_bytes > 0);
        if frames.len() > 2 {
            return (segment, frames);
        }
    }
    panic!("no segment with three frames below {}", data.display());
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

/// Whether this process may mount; if not, the named test has just been run in a process that may.
fn in_own_mounts(test: &str) -> bool {
    const INSIDE: &str = "WEIR_TEST_INSIDE_OWN_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    if run_well(Command::new("id").arg("-u"), b"").trim() != "0" {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = run(&mut unshare, b"");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}
