//! Files of every format version are still read: the fixtures were written by `examples/fixture.rs` when the version was new.
#![allow(clippy::disallowed_methods, reason = "copies fixture files")]

use std::path::Path;

use weir_journal::{Durability, Env, Journal, Options, Reader, Record, verify};

#[test]
fn version_1_is_read_and_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    for entry in std::fs::read_dir(&fixture).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let check = |records: usize| {
        let reader = Reader::open(Env::system(), dir.path()).unwrap();
        let found: Vec<_> = reader.records_from(0).map(Result::unwrap).collect();
        assert_eq!(found.len(), records);
        for record in found.iter().filter(|record| record.sequence <= 72) {
            let number = (record.sequence - 1) / 2;
            let text = "weir ".repeat((number % 9) as usize);
            assert_eq!(record.payload, format!("{{\"number\":{number},\"text\":\"{text}\"}}").as_bytes());
            assert_eq!(record.key, format!("key-{}", number % 5).as_bytes());
            assert_eq!((record.time, record.kind), (1_700_000_000_000_000_000 + number as i64, (number % 3) as u16));
        }
        let found = verify(&Env::system(), dir.path()).unwrap();
        assert_eq!((found.damage, found.torn, found.footers_bad), (vec![], None, vec![]));
        assert_eq!(reader.get(b"key-4").unwrap().unwrap().sequence, 70);
    };
    check(64);
    let (journal, recovery) = Journal::open(Env::system(), dir.path(), "test", Options::default()).unwrap();
    assert_eq!((recovery.first_sequence, recovery.next_sequence, recovery.records_rewritten), (1, 73, 0));
    let record = Record { time: 0, kind: 0, key: b"new", payload: b"new" };
    assert_eq!(journal.append(&[record], Durability::Durable).unwrap().first, 73);
    journal.close().unwrap();
    check(65);
}
