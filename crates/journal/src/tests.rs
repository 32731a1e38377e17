//! Tests of the whole crate on the machine's own disk.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use weir_base::Kind;

use crate::{Codec, Durability, Env, Journal, Options, OwnedRecord, Reader, Record};

fn open(dir: &Path, options: &Options) -> Journal {
    Journal::open(Env::system(), dir, "test", options.clone()).unwrap().0
}

fn all(dir: &Path) -> Vec<OwnedRecord> {
    Reader::open(Env::system(), dir).unwrap().records_from(0).map(Result::unwrap).collect()
}

fn append(journal: &Journal, text: &str) -> u64 {
    let record = Record { time: text.len() as i64, kind: 7, key: text.as_bytes(), payload: text.as_bytes() };
    journal.append(&[record], Durability::Durable).unwrap().first
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let fs = Env::system().fs;
    let mut found: Vec<PathBuf> =
        fs.list(dir).unwrap().into_iter().filter(|path| path.extension().is_some_and(|e| e == "wj")).collect();
    found.sort();
    found
}

#[test]
fn what_was_appended_is_read_back_with_each_codec() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd { level: 1 }, Codec::Zstd { level: 9 }] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { codec, frame_raw_bytes_max: 1000, ..Options::default() };
        let journal = open(dir.path(), &options);
        let payloads: Vec<Vec<u8>> = (0..100).map(|n: u32| vec![n as u8; n as usize * 7]).collect();
        let records: Vec<Record<'_>> = payloads
            .iter()
            .enumerate()
            .map(|(n, payload)| Record {
                time: [i64::MIN, i64::MAX, -1, 5][n % 4],
                kind: [0, u16::MAX][n % 2],
                key: &payload[..n.min(payload.len())],
                payload,
            })
            .collect();
        let first = journal.append(&records, Durability::None).unwrap();
        assert_eq!((first.first, first.last), (1, 100));
        assert_eq!(journal.append(&records[..3], Durability::Interval).unwrap().first, 101);
        journal.close().unwrap();
        let found = all(dir.path());
        assert_eq!(found.len(), 103);
        for (index, found) in found.iter().enumerate() {
            let record = &records[index % 100];
            assert_eq!(found.sequence, index as u64 + 1);
            assert_eq!((found.time, found.kind), (record.time, record.kind));
            assert_eq!((&found.key[..], &found.payload[..]), (record.key, record.payload));
        }
        let reader = Reader::open(Env::system(), dir.path()).unwrap();
        assert_eq!(
            reader.records_from(99).map(|record| record.unwrap().sequence).collect::<Vec<_>>(),
            [99, 100, 101, 102, 103]
        );
    }
}

#[test]
fn sequences_go_on_after_reopening_and_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_max: 300, ..Options::default() };
    let mut next = 1;
    for _ in 0..5 {
        let (journal, recovery) = Journal::open(Env::system(), dir.path(), "test", options.clone()).unwrap();
        assert_eq!(recovery.next_sequence, next);
        assert_eq!((recovery.torn, recovery.records_rewritten), (None, 0));
        for _ in 0..7 {
            assert_eq!(append(&journal, &format!("key {next}")), next);
            next += 1;
        }
        journal.close().unwrap();
    }
    assert!(segments(dir.path()).len() > 5);
    assert_eq!(all(dir.path()).len(), 35);
}

#[test]
fn trimming_removes_whole_segments_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Options::default());
    let mut starts = Vec::new();
    for round in 0..4 {
        starts.push(append(&journal, &format!("round {round}")));
        append(&journal, "more");
        journal.rotate().unwrap();
    }
    journal.settle().unwrap();
    let before = journal.stored_bytes();
    assert_eq!(journal.trim_before(2).unwrap(), 0, "half a segment stays");
    let freed = journal.trim_before(starts[2]).unwrap();
    assert!(freed > 0 && journal.stored_bytes() == before - freed, "{freed} of {before}");
    assert_eq!(journal.first_sequence(), starts[2]);
    journal.close().unwrap();
    let journal = open(dir.path(), &Options::default());
    assert_eq!((journal.first_sequence(), journal.next_sequence()), (5, 9));
    assert_eq!(all(dir.path()).iter().map(|record| record.sequence).collect::<Vec<_>>(), [5, 6, 7, 8]);
    journal.trim_before(u64::MAX).unwrap();
    assert_eq!(append(&journal, "on"), 9);
    drop(journal);
    assert_eq!(all(dir.path()).len(), 1);
}

#[test]
fn callbacks_come_once_and_in_order_from_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Options::default());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (journal, sender) = (&journal, sender.clone());
            scope.spawn(move || {
                for n in 0..50 {
                    let sender = sender.clone();
                    let text = format!("{thread} {n}");
                    let record = Record { time: 0, kind: 0, key: b"", payload: text.as_bytes() };
                    let durability = [Durability::None, Durability::Durable][n % 2];
                    journal.submit(&[record; 2], durability, move |done| sender.send(done.unwrap()).unwrap()).unwrap();
                }
            });
        }
    });
    drop(sender);
    journal.close().unwrap();
    let firsts: Vec<u64> = receiver.iter().map(|done| done.first).collect();
    assert_eq!(firsts, (0..200).map(|n| 2 * n + 1).collect::<Vec<_>>());
    assert_eq!(all(dir.path()).len(), 400);
}

#[test]
fn a_second_writer_is_told_who_holds_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Options::default());
    let options = Options { lock_wait: std::time::Duration::ZERO, ..Options::default() };
    let error = Journal::open(Env::system(), dir.path(), "second", options.clone()).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("held by test (pid"), "{error}");
    drop(journal);
    Journal::open(Env::system(), dir.path(), "second", options).unwrap();
}

#[test]
fn a_torn_tail_is_cut_and_reported_j1() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Options::default());
    append(&journal, "first");
    append(&journal, "second");
    journal.close().unwrap();
    let path = segments(dir.path()).pop().unwrap();
    let env = Env::system();
    let file = env.fs.open(&path, weir_base::OpenMode::Write).unwrap();
    let len = file.len().unwrap();
    file.write_all_at(b"WJF1 torn", len).unwrap();
    let (journal, recovery) = Journal::open(env, dir.path(), "test", Options::default()).unwrap();
    let torn = recovery.torn.unwrap();
    assert_eq!((torn.offset, torn.bytes, torn.sequence), (len, 9, 3));
    assert_eq!(append(&journal, "third"), 3);
    drop(journal);
    assert_eq!(all(dir.path()).len(), 3);
}

#[test]
fn a_mapped_reader_answers_as_a_plain_one_also_after_its_files_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_max: 2000, codec: Codec::Lz4, ..Options::default() };
    let journal = open(dir.path(), &options);
    for n in 0..200 {
        append(&journal, &format!("{n:03} {}", "x".repeat(n % 90)));
    }
    journal.settle().unwrap();
    let plain = Reader::open(Env::system(), dir.path()).unwrap();
    let mapped = Reader::open_mapped(Env::system(), dir.path()).unwrap();
    let read = |reader: &Reader, backward| -> Vec<OwnedRecord> {
        reader.query(crate::Query { backward, ..crate::Query::default() }).map(Result::unwrap).collect()
    };
    let before = read(&plain, false);
    assert_eq!(before.len(), 200);
    for backward in [false, true] {
        assert_eq!(read(&mapped, backward), read(&plain, backward));
    }
    assert_eq!(mapped.get(b"117 xxxxxxxxxxxxxxxxxxxxxxxxxxx").unwrap().unwrap().sequence, 118);
    let keep: crate::Keep = Box::new(|record| record.sequence % 2 == 0);
    journal.compact(crate::Compaction { keep: Some(keep), ..crate::Compaction::default() }).unwrap();
    let after = read(&Reader::open_mapped(Env::system(), dir.path()).unwrap(), false);
    assert_eq!(after.len(), 100);
    // The old readers still see the old files, or look again and see the new ones: never a mixture.
    for reader in [&plain, &mapped] {
        let found = read(reader, false);
        assert!(found == before || found == after, "{}", found.len());
    }
}
