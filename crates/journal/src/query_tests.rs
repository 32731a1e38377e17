//! Tests of queries, footers, compaction, retention, verify, repair and tail following.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use weir_base::{FileSystem, Kind, Random};
use weir_sim::{Disk, Fault, Seeded};

use crate::{
    Codec, Compaction, Durability, Env, Follow, Journal, KeyMatch, Options, OwnedRecord, Query, Reader, Record,
    Retention, repair, verify,
};

const DIR: &str = "/journal";

fn sim() -> (Disk, Env) {
    let disk = Disk::new(3);
    let env = Env { fs: Arc::new(disk.clone()), clock: Arc::<weir_sim::Clock>::default() };
    (disk, env)
}

fn options() -> Options {
    Options { codec: Codec::Zstd { level: 1 }, segment_bytes_max: 2000, frame_raw_bytes_max: 300, ..Options::default() }
}

fn open(env: &Env, options: &Options) -> Journal {
    Journal::open(env.clone(), Path::new(DIR), "test", options.clone()).unwrap().0
}

/// Appends records with random keys, times and kinds; returns them as they must be read.
fn fill(journal: &Journal, count: u64, seed: u64) -> Vec<OwnedRecord> {
    let random = Seeded::new(seed);
    let mut model = Vec::new();
    while (model.len() as u64) < count {
        let batch: Vec<OwnedRecord> = (0..1 + random.below(5))
            .map(|_| OwnedRecord {
                sequence: 0,
                time: random.below(1000) as i64,
                kind: random.below(4) as u16,
                key: match random.below(40) {
                    0 => Vec::new(),
                    n => format!("key-{n}").into_bytes(),
                },
                payload: vec![random.below(256) as u8; random.below(90) as usize],
            })
            .collect();
        let records: Vec<Record<'_>> =
            batch.iter().map(|r| Record { time: r.time, kind: r.kind, key: &r.key, payload: &r.payload }).collect();
        let first = journal.append(&records, Durability::Durable).unwrap().first;
        model.extend((first..).zip(batch).map(|(sequence, record)| OwnedRecord { sequence, ..record }));
    }
    model
}

fn read(env: &Env, query: Query) -> Vec<OwnedRecord> {
    Reader::open(env.clone(), Path::new(DIR)).unwrap().query(query).map(Result::unwrap).collect()
}

fn check_queries(env: &Env, model: &[OwnedRecord]) {
    let random = Seeded::new(9);
    for round in 0..60 {
        let (a, b) = (random.below(model.len() as u64 + 9), random.below(model.len() as u64 + 9));
        let (c, d) = (random.below(1000) as i64, random.below(1000) as i64);
        let query = Query {
            sequences: if round % 3 == 0 { a.min(b)..=a.max(b) } else { 0..=u64::MAX },
            times: if round % 4 == 0 { c.min(d)..=c.max(d) } else { i64::MIN..=i64::MAX },
            key: match round % 5 {
                0 => KeyMatch::Is(format!("key-{}", random.below(45)).into_bytes()),
                1 => KeyMatch::Begins(format!("key-{}", random.below(5)).into_bytes()),
                _ => KeyMatch::Any,
            },
            kinds: if round % 7 == 0 { vec![1, 3] } else { Vec::new() },
            backward: round % 2 == 1,
            salvage: false,
        };
        let mut expected: Vec<OwnedRecord> = model
            .iter()
            .filter(|record| {
                query.sequences.contains(&record.sequence)
                    && query.times.contains(&record.time)
                    && query.key.holds(&record.key)
                    && (query.kinds.is_empty() || query.kinds.contains(&record.kind))
            })
            .cloned()
            .collect();
        if query.backward {
            expected.reverse();
        }
        assert_eq!(read(env, query.clone()), expected, "{query:?}");
    }
}

#[test]
fn queries_answer_as_the_model_does_with_and_without_footers() {
    for index in [true, false] {
        let (disk, env) = sim();
        let journal = open(&env, &Options { index, ..options() });
        let model = fill(&journal, 400, 1);
        journal.settle().unwrap();
        check_queries(&env, &model);
        journal.close().unwrap();
        check_queries(&env, &model);
        let found = verify(&env, Path::new(DIR)).unwrap();
        assert_eq!((found.records, found.damage.len(), found.torn), (400.max(model.len() as u64), 0, None));
        assert!(found.footers_bad.is_empty() && found.segments > 5);
        // A footer is disposable.
        for path in segments(&disk) {
            let len = disk.metadata(&path).unwrap().len as usize;
            if index && !path.ends_with(segments(&disk).last().unwrap()) {
                disk.flip(&path, len - 1, 1);
            }
        }
        check_queries(&env, &model);
    }
}

fn segments(disk: &Disk) -> Vec<PathBuf> {
    let all = disk.list(Path::new(DIR)).unwrap();
    all.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "wj")).collect()
}

#[test]
fn keys_are_found_by_unique_prefix() {
    let (_, env) = sim();
    let journal = open(&env, &options());
    for n in [1, 12, 123, 3] {
        let key = format!("op-{n}");
        journal.append(&[Record { time: n, kind: 0, key: key.as_bytes(), payload: b"" }], Durability::None).unwrap();
        journal.rotate().unwrap();
    }
    journal.settle().unwrap();
    let reader = Reader::open(env, Path::new(DIR)).unwrap();
    assert_eq!(reader.unique_key(b"op-3").unwrap(), b"op-3");
    assert_eq!(reader.unique_key(b"op-123").unwrap(), b"op-123");
    assert_eq!(reader.unique_key(b"op-1").unwrap(), b"op-1", "a whole key is meant");
    assert_eq!(reader.unique_key(b"op-").unwrap_err().kind(), Kind::Conflict);
    assert_eq!(reader.unique_key(b"x").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(reader.get(b"op-12").unwrap().unwrap().time, 12);
    assert_eq!(reader.get(b"op-9").unwrap(), None);
    assert_eq!(reader.get_sequence(3).unwrap().unwrap().key, b"op-123");
}

fn latest(model: &[OwnedRecord]) -> Vec<OwnedRecord> {
    let newest: BTreeMap<&[u8], u64> = model.iter().map(|record| (record.key.as_slice(), record.sequence)).collect();
    let stays = |record: &&OwnedRecord| record.key.is_empty() || newest[record.key.as_slice()] == record.sequence;
    model.iter().filter(stays).cloned().collect()
}

#[test]
fn compaction_keeps_what_it_should_while_readers_and_appends_go_on() {
    let (_, env) = sim();
    let journal = open(&env, &options());
    let mut model = fill(&journal, 500, 2);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let found = read(&env, Query::default());
                    assert!(found.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
                    assert!(found.len() >= 20);
                }
            });
        }
        let retention = Retention { latest_per_key: true, ..Retention::default() };
        let done = journal.compact(Compaction { retention, keep: None }).unwrap();
        model = latest(&model);
        assert_eq!(done.records_after, model.len() as u64);
        assert!(done.complete && done.bytes_after < done.bytes_before);
        model.extend(fill(&journal, 20, 3));
        let keep: crate::Keep = Box::new(|record| record.kind != 2);
        journal.compact(Compaction { keep: Some(keep), ..Compaction::default() }).unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    model.retain(|record| record.kind != 2);
    check_queries(&env, &model);
    let next = journal.next_sequence();
    journal.close().unwrap();
    assert_eq!(verify(&env, Path::new(DIR)).unwrap().damage, []);
    let journal = open(&env, &options());
    assert_eq!(journal.next_sequence(), next, "sequences are never used twice");
    check_queries(&env, &model);
}

#[test]
fn compaction_by_age_size_and_count_drops_the_oldest() {
    let (_, env) = sim();
    let journal = open(&env, &options());
    let model = fill(&journal, 300, 4);
    let retention = Retention { records_max: Some(100), ..Retention::default() };
    journal.compact(Compaction { retention, keep: None }).unwrap();
    assert_eq!(read(&env, Query::default()), model[model.len() - 100..]);
    assert_eq!(journal.first_sequence(), Reader::open(env.clone(), Path::new(DIR)).unwrap().first_sequence());
    let retention = Retention { stored_bytes_max: Some(2500), ..Retention::default() };
    let done = journal.compact(Compaction { retention, keep: None }).unwrap();
    assert!(done.bytes_after <= 2600 && done.records_after > 5, "{done:?}");
    // The simulator's clock stands at 2023, the records' times in 1970.
    let retention = Retention { age_max: Some(Duration::from_secs(3600)), ..Retention::default() };
    journal.compact(Compaction { retention, keep: None }).unwrap();
    assert_eq!(read(&env, Query::default()), []);
    assert_eq!(journal.first_sequence(), journal.next_sequence());
}

#[test]
fn retention_runs_by_itself() {
    let (_, env) = sim();
    let retention = Retention { records_max: Some(50), ..Retention::default() };
    let journal = open(&env, &Options { retention, ..options() });
    fill(&journal, 600, 5);
    journal.settle().unwrap();
    let left = read(&env, Query::default()).len();
    assert!((50..200).contains(&left), "{left}");
}

#[test]
fn a_crash_at_every_step_of_a_compaction_leaves_the_old_or_the_new() {
    let run = |disk: &Disk, env: &Env| -> crate::Result<()> {
        let journal = Journal::open(env.clone(), Path::new(DIR), "test", options())?.0;
        let retention = Retention { latest_per_key: true, ..Retention::default() };
        journal.compact(Compaction { retention, keep: None })?;
        let _ = disk;
        journal.close()
    };
    let (disk, env) = sim();
    let journal = open(&env, &options());
    let model = fill(&journal, 120, 6);
    journal.close().unwrap();
    let after = latest(&model);
    let whole = disk.fork(0);
    run(&whole, &Env { fs: Arc::new(whole.clone()), clock: Arc::clone(&env.clock) }).unwrap();
    for step in 0..whole.steps() + 2 {
        for fault in [Fault::PowerOff, Fault::Fails, Fault::SyncFails] {
            let disk = disk.fork(step);
            let env = Env { fs: Arc::new(disk.clone()), clock: Arc::clone(&env.clock) };
            disk.inject(step, fault);
            let outcome = run(&disk, &env);
            disk.power_cycle();
            let journal = open(&env, &options());
            journal.settle().unwrap();
            let found = read(&env, Query::default());
            assert!(found == model || found == after, "{fault:?} at {step}");
            assert!(outcome.is_err() || found == after || fault == Fault::Fails, "{fault:?} at {step}");
            assert_eq!(journal.next_sequence(), model.len() as u64 + 1);
            journal.close().unwrap();
            assert_eq!(verify(&env, Path::new(DIR)).unwrap().damage, []);
        }
    }
}

#[test]
fn repair_makes_a_damaged_journal_fit_and_says_what_was_lost_j1() {
    let (whole, env) = sim();
    let journal = open(&env, &options());
    let model = fill(&journal, 150, 7);
    journal.close().unwrap();
    let files = segments(&whole);
    for (number, path) in files.iter().enumerate() {
        let len = whole.metadata(path).unwrap().len as usize;
        for at in [3, 70, 100, len / 3, len / 2] {
            if at >= len {
                continue;
            }
            let disk = whole.fork(at as u64);
            let env = Env { fs: Arc::new(disk.clone()), clock: Arc::clone(&env.clock) };
            disk.flip(path, at, 0x10);
            let what = format!("flip at {at} of segment {number}");
            let before = verify(&env, Path::new(DIR)).unwrap();
            let salvaged = read_salvaging(&env);
            let done = repair(&env, Path::new(DIR), "test", &options()).unwrap();
            assert_eq!(before.damage.is_empty(), done.lost.is_empty(), "{what}");
            let gone = |sequence: u64| done.lost.iter().any(|lost| (lost.first..lost.end).contains(&sequence));
            let journal = open(&env, &options());
            let found = read(&env, Query::default());
            let is_last_header = number + 1 == files.len() && at < 64;
            if !is_last_header {
                let expected: Vec<OwnedRecord> = model.iter().filter(|r| !gone(r.sequence)).cloned().collect();
                let numbers = |records: &[OwnedRecord]| records.iter().map(|r| r.sequence).collect::<Vec<_>>();
                assert_eq!(numbers(&found), numbers(&expected), "{what}: {:?}", done.lost);
                assert_eq!(numbers(&salvaged), numbers(&expected), "{what}: {:?}", done.lost);
                assert!(found == expected && salvaged == expected, "{what}");
            }
            fill(&journal, 3, 1);
            journal.close().unwrap();
            let after = verify(&env, Path::new(DIR)).unwrap();
            assert_eq!((after.damage, after.footers_bad), (vec![], vec![]), "{what}");
        }
    }
}

fn read_salvaging(env: &Env) -> Vec<OwnedRecord> {
    read(env, Query { salvage: true, ..Query::default() })
}

#[test]
fn a_damaged_manifest_and_a_missing_segment_are_damage_and_can_be_repaired() {
    let (whole, env) = sim();
    let journal = open(&env, &options());
    let model = fill(&journal, 200, 8);
    journal.settle().unwrap();
    journal.close().unwrap();
    let disk = whole.fork(1);
    let env = Env { fs: Arc::new(disk.clone()), clock: Arc::clone(&env.clock) };
    disk.flip(&Path::new(DIR).join("manifest"), 20, 1);
    assert_eq!(Reader::open(env.clone(), Path::new(DIR)).unwrap_err().kind(), Kind::Damaged);
    assert!(repair(&env, Path::new(DIR), "test", &options()).unwrap().manifest_rebuilt);
    assert_eq!(read(&env, Query::default()), model);
    let missing = segments(&disk).remove(2);
    disk.remove_file(&missing).unwrap();
    let error = Journal::open(env.clone(), Path::new(DIR), "test", options()).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    let done = repair(&env, Path::new(DIR), "test", &options()).unwrap();
    assert_eq!(done.lost.len(), 1);
    let lost = &done.lost[0];
    let expected: Vec<OwnedRecord> =
        model.iter().filter(|r| !(lost.first..lost.end).contains(&r.sequence)).cloned().collect();
    assert_eq!(read(&env, Query::default()), expected);
    open(&env, &options()).close().unwrap();
}

#[test]
fn following_sees_what_comes_over_segments_and_reopenings() {
    let (_, env) = sim();
    let journal = open(&env, &options());
    let mut follow = Follow::new(env.clone(), Path::new(DIR), 1);
    assert_eq!(follow.next_within(Duration::ZERO).unwrap(), None);
    let mut model = fill(&journal, 100, 1);
    for expected in &model {
        assert_eq!(follow.next_within(Duration::from_secs(1)).unwrap().as_ref(), Some(expected));
    }
    journal.close().unwrap();
    let journal = open(&env, &options());
    model = fill(&journal, 60, 2);
    for expected in &model {
        assert_eq!(follow.next_within(Duration::from_secs(1)).unwrap().as_ref(), Some(expected));
    }
    assert_eq!(follow.next_within(Duration::ZERO).unwrap(), None);
}

#[test]
fn a_dictionary_is_trained_from_the_first_records() {
    let (_, env) = sim();
    let options = Options { dictionary_bytes_max: Some(8 << 10), ..Options::default() };
    let journal = open(&env, &options);
    let payload =
        |n: u64| format!("{{\"operation\":\"assign\",\"account\":\"{:012}\",\"n\":{n}}}", n * 7919).into_bytes();
    let mut count = 0;
    for _ in 0..3 {
        for _ in 0..10_000 {
            let bytes = payload(count);
            journal
                .submit(&[Record { time: 0, kind: 0, key: b"", payload: &bytes }], Durability::None, |_| ())
                .unwrap();
            count += 1;
        }
        journal.sync().unwrap();
        journal.settle().unwrap();
    }
    journal.close().unwrap();
    let sizes = verify(&env, Path::new(DIR)).unwrap();
    assert!(sizes.segments >= 3 && sizes.damage.is_empty(), "{sizes:?}");
    let mut expected = 0;
    let reader = Reader::open(env.clone(), Path::new(DIR)).unwrap();
    let mut records = reader.records_from(0);
    while let Some(record) = records.next_ref().unwrap() {
        assert_eq!(record.payload, payload(expected));
        expected += 1;
    }
    assert_eq!(expected, count);
    let journal = open(&env, &options);
    journal.append(&[Record { time: 0, kind: 0, key: b"", payload: &payload(count) }], Durability::Durable).unwrap();
    drop(journal);
    assert_eq!(
        Reader::open(env, Path::new(DIR)).unwrap().get_sequence(count + 1).unwrap().unwrap().payload,
        payload(count)
    );
}
