//! C1: with the cache damaged, full, read-only or of another version, answers are a miss or a clear error, never wrong.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_base::{ByteSize, Kind};
use weir_cache::{Cache, CacheOptions, PutOptions};

use crate::{check_agreement, noise, open, options, processes::worker_path};

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn cold(dir: &Path) -> Cache {
    Cache::open(CacheOptions { memory_limit: ByteSize::new(0), ..options(dir) }).unwrap()
}

#[test]
fn c1_flipped_cut_and_missing_blobs_are_healed_misses() {
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[12_345] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    let cut = |path: &Path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap();
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    let damages: [&dyn Fn(&Path); 3] = [&flip, &cut, &remove];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let cache = cold(dir.path());
        let value = noise(1, 50_000);
        cache.put("key", &value, &PutOptions::default()).unwrap();
        cache.put("well", &noise(2, 50_000), &PutOptions::default()).unwrap();
        let hash = weir_base::checksum::hex(&weir_base::checksum::blake3(&value));
        damage(&dir.path().join("ns/test/blobs").join(&hash[..2]).join(&hash));
        let found = cache.verify(false).unwrap();
        assert!(!found.agree && found.missing + found.damaged == 1, "{found:?}");
        assert_eq!(cache.get("key"), None);
        assert_eq!(cache.stat().damaged, 1, "counted");
        assert_eq!(cache.size().unwrap().entries, 1, "healed");
        cache.put("key", &value, &PutOptions::default()).unwrap();
        assert!(cache.get("key").as_deref() == Some(&value[..]));
        check_agreement(&cache);
    }
}

#[test]
fn verify_repair_makes_index_and_disk_agree() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cold(dir.path());
    for number in 0..20 {
        cache.put(format!("key-{number}"), &noise(number, 30_000), &PutOptions::default()).unwrap();
    }
    let blobs = files(&dir.path().join("ns/test/blobs"));
    std::fs::remove_file(&blobs[0]).unwrap();
    std::fs::write(&blobs[1], b"short").unwrap();
    std::fs::write(blobs[2].with_file_name("stranger"), b"?").unwrap();
    let orphan = dir.path().join("ns/test/blobs/00");
    std::fs::create_dir_all(&orphan).unwrap();
    std::fs::write(orphan.join("00".repeat(32)), noise(99, 10_000)).unwrap();
    let sql = rusqlite::Connection::open(dir.path().join("ns/test/index.db")).unwrap();
    sql.execute_batch("UPDATE state SET entries = 7, blob_bytes = blob_bytes + 4096").unwrap();
    drop(sql);
    let found = cache.verify(false).unwrap();
    assert!(!found.agree && found.missing == 1 && found.damaged == 1 && found.orphans == 2, "{found:?}");
    assert!(found.wrong_counters.contains(&"entries".to_owned()));
    let repaired = cache.verify(true).unwrap();
    assert!(repaired.agree && repaired.repaired, "{repaired:?}");
    cache.put("new", b"value", &PutOptions::default()).unwrap();
    check_agreement(&cache);
    assert_eq!(cache.size().unwrap().entries, 19);
    let right = (0..20).filter(|number| cache.get(format!("key-{number}")).is_some()).count();
    assert_eq!(right, 18);
}

#[test]
fn c2_collections_count_blobs_anew_a_shard_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cold(dir.path());
    for number in 0..20 {
        cache.put(format!("key-{number}"), &noise(number, 30_000), &PutOptions::default()).unwrap();
    }
    let right = cache.size().unwrap().bytes;
    let sql = rusqlite::Connection::open(dir.path().join("ns/test/index.db")).unwrap();
    sql.execute_batch("UPDATE blobs SET bytes = bytes + 40960; UPDATE state SET blob_bytes = blob_bytes + 819200")
        .unwrap();
    drop(sql);
    assert!(!cache.verify(false).unwrap().agree);
    let recounted: u64 = (0..256).map(|_| cache.collect(std::time::Duration::from_secs(1)).unwrap().recounted).sum();
    assert_eq!(recounted, 20);
    check_agreement(&cache);
    assert!(cache.size().unwrap().bytes <= right, "the right bytes are counted again");
    assert_eq!((0..20).filter(|number| cache.get(format!("key-{number}")).is_some()).count(), 20);
}

#[test]
fn a_destroyed_index_is_rebuilt_from_the_blobs_without_bringing_back_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let old = open(dir.path());
    old.put("kept", &noise(1, 50_000), &PutOptions { tags: vec!["t".into()], ..PutOptions::default() }).unwrap();
    old.put("deleted", &noise(2, 50_000), &PutOptions::default()).unwrap();
    old.put("overwritten", &noise(3, 50_000), &PutOptions::default()).unwrap();
    old.put("shares", &noise(2, 50_000), &PutOptions::default()).unwrap();
    old.put("small", b"in the index only", &PutOptions::default()).unwrap();
    old.delete("deleted").unwrap();
    old.put("overwritten", b"new", &PutOptions::default()).unwrap();
    for name in ["index.db", "index.db-wal"] {
        let path = dir.path().join("ns/test").join(name);
        let len = std::fs::metadata(&path).map_or(0, |found| found.len());
        std::fs::write(path, noise(9, len as usize)).unwrap();
    }
    let cache = cold(dir.path());
    let well = cache.doctor();
    assert!(well.healthy, "{well:?}");
    assert!(cache.get("kept").as_deref() == Some(&noise(1, 50_000)[..]));
    for lost in ["deleted", "overwritten", "small", "shares"] {
        assert_eq!(cache.get(lost), None, "C1: {lost}");
    }
    assert_eq!(cache.invalidate_tag("t").unwrap(), 1);
    cache.put("kept", b"2", &PutOptions::default()).unwrap();
    assert_eq!(old.get("kept").as_deref(), Some(&b"2"[..]), "a handle from before sees the new index");
    old.put("old handle", &noise(5, 40_000), &PutOptions::default()).unwrap();
    check_agreement(&cache);
}

#[test]
fn an_index_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).put("key", b"value", &PutOptions::default()).unwrap();
    let index = dir.path().join("ns/test/index.db");
    let set = |version: u32| {
        let sql = rusqlite::Connection::open(&index).unwrap();
        sql.execute_batch(&format!("PRAGMA user_version = {version}")).unwrap();
    };
    set(2);
    let cache = open(dir.path());
    assert_eq!(cache.get("key"), None);
    assert_eq!(cache.put("key", b"new", &PutOptions::default()).unwrap_err().kind(), Kind::Unavailable);
    assert!(cache.doctor().findings.iter().any(|finding| finding.message.contains("format 2")));
    set(1);
    assert_eq!(open(dir.path()).get("key").as_deref(), Some(&b"value"[..]), "nothing was touched");
}

#[test]
fn names_and_links_cannot_lead_out_and_modes_are_private() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).put("key", &noise(1, 50_000), &PutOptions::default()).unwrap();
    let namespace = dir.path().join("ns/test");
    assert_eq!(std::fs::metadata(&namespace).unwrap().permissions().mode() & 0o777, 0o700);
    for file in files(&namespace) {
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "{}", file.display());
    }
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("ns/linked")).unwrap();
    let linked = Cache::open(CacheOptions::new(dir.path(), "linked")).unwrap();
    assert!(linked.put("key", b"value", &PutOptions::default()).is_err());
    assert!(!elsewhere.path().join("index.db").exists(), "a symbolic link is not followed");
    assert!(Cache::open(CacheOptions::new(dir.path(), "../test")).is_err());

    let shared = Cache::open(CacheOptions { shared: true, ..CacheOptions::new(dir.path(), "shared") }).unwrap();
    shared.put("key", &noise(2, 50_000), &PutOptions::default()).unwrap();
    let blob = files(&dir.path().join("ns/shared/blobs")).remove(0);
    for (path, mode) in
        [(dir.path().join("ns/shared"), 0o750), (dir.path().join("ns/shared/index.db"), 0o640), (blob, 0o640)]
    {
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn a_reader_reads_what_writers_write_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let writer = open(dir.path());
    writer.put("key", b"one", &PutOptions::default()).unwrap();
    let reader = Cache::open(CacheOptions { read_only: true, ..options(dir.path()) }).unwrap();
    assert_eq!(reader.get("key").as_deref(), Some(&b"one"[..]));
    writer.put("key", b"two", &PutOptions::default()).unwrap();
    assert_eq!(reader.get("key").as_deref(), Some(&b"two"[..]));
    assert_eq!(reader.put("key", b"three", &PutOptions::default()).unwrap_err().kind(), Kind::Unavailable);
    assert!(reader.size().unwrap().bytes > 0);
}

/// Runs shell lines in a mount namespace of their own; the cache's folder is `$DIR`.
fn in_own_mounts(dir: &Path, script: &str) -> std::process::Output {
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc", script])
        .env("DIR", dir)
        .env("WORKER", worker_path())
        .output()
        .expect("unshare (util-linux) is installed")
}

#[test]
fn c1_a_full_disk_gives_misses_and_errors_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    // 4 MiB of disk for a limit of 1 GiB; the worker checks every value that it reads.
    let script = "mount -t tmpfs -o size=4m none \"$DIR\"; \"$WORKER\" \"$DIR\" full 1 2 200000; \
                  head -c 100M /dev/zero > \"$DIR/filler\" 2>/dev/null || true; \"$WORKER\" \"$DIR\" full 2 1 200000; \
                  rm \"$DIR/filler\"; \"$WORKER\" \"$DIR\" full 3 1 2000";
    let output = in_own_mounts(dir.path(), script);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let refused: Vec<u64> = said.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
    assert_eq!(refused.len(), 3, "{said}");
    assert!(refused[0] > 0, "the disk was full: {said}");
}

#[test]
fn c1_a_folder_that_cannot_be_written_is_read_or_missed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    cache.put("key-1", b"", &PutOptions::default()).unwrap();
    drop(cache);
    let script =
        "mount --bind \"$DIR\" \"$DIR\"; mount -o remount,bind,ro \"$DIR\"; \"$WORKER\" \"$DIR\" other 1 0.5 2000";
    let output = in_own_mounts(dir.path(), script);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.split(' ').nth(1).is_some_and(|refused| refused.trim().parse::<u64>().unwrap() > 0), "{said}");
}
