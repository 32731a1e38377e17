//! A journal with bytes changed and cut behind its back: reading, verifying, opening, repairing. Nothing may panic, and no record
//! may come back other than it was appended.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::FileSystem;
use weir_journal::{Codec, Durability, Env, Journal, Options, Query, Reader, Record, repair, verify};
use weir_sim::Disk;

const DIR: &str = "/journal";

fn payload(n: u64) -> Vec<u8> {
    format!("payload {n} ").repeat(n as usize % 9 + 1).into_bytes()
}

fn options() -> Options {
    Options { codec: Codec::Zstd { level: 1 }, segment_bytes_max: 900, frame_raw_bytes_max: 300, ..Options::default() }
}

fn sound() -> Disk {
    let disk = Disk::new(1);
    let env = Env { fs: Arc::new(disk.clone()), clock: Arc::<weir_sim::Clock>::default() };
    let (journal, _) = Journal::open(env, Path::new(DIR), "fuzz", options()).expect("a sound disk");
    for n in 1..=40u64 {
        let (key, payload) = (format!("key-{}", n % 7), payload(n));
        let record = Record { time: n as i64, kind: n as u16, key: key.as_bytes(), payload: &payload };
        journal.append(&[record], Durability::Durable).expect("a sound disk");
    }
    journal.settle().expect("a sound disk");
    disk
}

fn read(env: &Env, salvage: bool) {
    let Ok(reader) = Reader::open(env.clone(), Path::new(DIR)) else { return };
    for backward in [false, true] {
        for record in reader.query(Query { salvage, backward, ..Query::default() }).flatten() {
            assert_eq!(record.payload, payload(record.sequence));
        }
    }
    if let Ok(Some(record)) = reader.get(b"key-3") {
        assert_eq!(record.key, b"key-3");
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let disk = sound();
    let env = Env { fs: Arc::new(disk.clone()), clock: Arc::<weir_sim::Clock>::default() };
    let mut files: Vec<PathBuf> = disk.list(Path::new(DIR)).expect("a sound disk");
    files.sort();
    // Each four bytes are a change: file, place, and what to flip there; nothing to flip means a cut.
    for change in bytes.chunks_exact(4).take(16) {
        let path = &files[usize::from(change[0]) % files.len()];
        let len = disk.metadata(path).map_or(0, |found| found.len as usize);
        if len == 0 {
            continue;
        }
        let at = usize::from(u16::from_le_bytes([change[1], change[2]])) % len;
        match change[3] {
            0 => disk.truncate(path, at),
            mask => disk.flip(path, at, mask),
        }
    }
    read(&env, false);
    read(&env, true);
    // Whether there is damage is for the tests to say; here only that it ends.
    let _ = verify(&env, Path::new(DIR));
    drop(Journal::open(env.clone(), Path::new(DIR), "fuzz", options()));
    if repair(&env, Path::new(DIR), "fuzz", &options()).is_ok() {
        drop(Journal::open(env.clone(), Path::new(DIR), "fuzz", options()));
        read(&env, false);
    }
});
