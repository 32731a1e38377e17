//! Random operations, power failures and reopenings against a model in memory. J1, J2.
//!
//! Crashes at chosen I/O steps, with every kind of fault, are in the crate (`crash_tests`); here the operations are what varies: every way to
//! change a journal, in any order, with a power failure after any number of I/O steps, and every way to read it afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use weir_journal::{
    Codec, Compaction, Durability, Env, Journal, KeyMatch, Options, OwnedRecord, Query, Reader, Record, Retention,
    verify,
};
use weir_sim::{Disk, Fault};

const DIR: &str = "/journal";

#[derive(Debug, Clone)]
enum Step {
    Append { count: usize, bytes: usize, durability: Durability },
    Submit { groups: usize },
    Sync,
    Rotate,
    Trim { share: u8 },
    LatestPerKey,
    DropKind(u16),
    Reopen,
    PowerOff,
    PowerOffSoon(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![Just(Durability::None), Just(Durability::Interval), Just(Durability::Durable)];
    prop_oneof![
        8 => (1..6usize, 0..220usize, durability)
            .prop_map(|(count, bytes, durability)| Step::Append { count, bytes, durability }),
        2 => (1..5usize).prop_map(|groups| Step::Submit { groups }),
        1 => Just(Step::Sync),
        2 => Just(Step::Rotate),
        1 => any::<u8>().prop_map(|share| Step::Trim { share }),
        1 => Just(Step::LatestPerKey),
        1 => (0..3u16).prop_map(Step::DropKind),
        1 => Just(Step::Reopen),
        1 => Just(Step::PowerOff),
        1 => (0..40u64).prop_map(Step::PowerOffSoon),
    ]
}

/// What must be there, and what may be.
#[derive(Debug, Clone, Default)]
struct Model {
    records: Vec<OwnedRecord>,
    /// Sequences below it survive anything.
    durable: u64,
    /// Trimming was asked for up to here at most.
    trimmed: u64,
    written: u64,
}

impl Model {
    fn make(&mut self, count: usize, bytes: usize) -> Vec<OwnedRecord> {
        let make = |n: u64| OwnedRecord {
            sequence: 0,
            time: (n * 7919 % 1000) as i64 - 300,
            kind: (n % 3) as u16,
            key: if n.is_multiple_of(11) { Vec::new() } else { format!("key-{}", n * 31 % 17).into_bytes() },
            payload: vec![n as u8; (bytes + n as usize * 13) % 230],
        };
        let first = self.written;
        self.written += count as u64;
        (first..self.written).map(make).collect()
    }

    fn next(&self) -> u64 {
        self.records.last().map_or(0, |record| record.sequence + 1)
    }

    fn latest_per_key(&mut self) {
        let all = std::mem::take(&mut self.records);
        let newer = |at: usize| all[at + 1..].iter().any(|later| later.key == all[at].key);
        self.records =
            (0..all.len()).filter(|&at| all[at].key.is_empty() || !newer(at)).map(|at| all[at].clone()).collect();
    }

    /// Whether these records, the journal's from `first` on, are what a crash may have left of the model.
    fn allows(&self, found: &[OwnedRecord], first: u64) -> bool {
        let expected: Vec<&OwnedRecord> = self.records.iter().filter(|record| record.sequence >= first).collect();
        let lost = expected.get(found.len()..).unwrap_or_default();
        let cut = self.records.iter().filter(|record| record.sequence < first);
        found.len() <= expected.len()
            && found.iter().zip(&expected).all(|(found, expected)| found == *expected)
            && lost.iter().all(|record| record.sequence >= self.durable)
            && cut.clone().all(|record| record.sequence < self.trimmed)
    }
}

fn with_sequences(first: u64, records: Vec<OwnedRecord>) -> Vec<OwnedRecord> {
    (first..).zip(records).map(|(sequence, record)| OwnedRecord { sequence, ..record }).collect()
}

fn refs(records: &[OwnedRecord]) -> Vec<Record<'_>> {
    records.iter().map(|r| Record { time: r.time, kind: r.kind, key: &r.key, payload: &r.payload }).collect()
}

struct Run {
    disk: Disk,
    env: Env,
    options: Options,
    model: Model,
    journal: Option<Journal>,
}

impl Run {
    fn new(seed: u64, codec: Codec) -> Self {
        let disk = Disk::new(seed);
        let env = Env { fs: Arc::new(disk.clone()), clock: Arc::<weir_sim::Clock>::default() };
        // No sync by itself: the steps say when.
        let interval = Duration::from_secs(3600);
        let options =
            Options { codec, segment_bytes_max: 1500, frame_raw_bytes_max: 400, interval, ..Options::default() };
        let mut run = Self { disk, env, options, model: Model::default(), journal: None };
        assert!(run.open());
        run
    }

    /// Opens; `false` when the power went meanwhile.
    fn open(&mut self) -> bool {
        match Journal::open(self.env.clone(), Path::new(DIR), "test", self.options.clone()) {
            Ok((journal, recovery)) => {
                assert!(recovery.next_sequence >= self.model.durable);
                self.journal = Some(journal);
                true
            }
            Err(error) => {
                assert!(self.disk.is_off(), "{error:?}");
                false
            }
        }
    }

    fn read(&self, query: Query) -> Vec<OwnedRecord> {
        let reader = Reader::open(self.env.clone(), Path::new(DIR)).unwrap();
        reader.query(query).map(Result::unwrap).collect()
    }

    /// Does a step; what the model is afterwards if it succeeds, and whether it did.
    fn act(&mut self, step: &Step) -> (Model, bool) {
        let mut after = self.model.clone();
        let journal = self.journal.as_ref().unwrap();
        let done = match step {
            Step::Append { count, bytes, durability } => {
                let records = after.make(*count, *bytes);
                let outcome = journal.append(&refs(&records), *durability);
                let first = outcome.as_ref().map_or(journal.next_sequence(), |appended| appended.first);
                after.records.extend(with_sequences(first, records));
                if outcome.is_ok() && *durability == Durability::Durable {
                    after.durable = first + *count as u64;
                }
                outcome.is_ok()
            }
            Step::Submit { groups } => {
                let mut next = journal.next_sequence();
                let mut accepted = true;
                for group in 0..*groups {
                    let records = after.make(group + 1, group * 50);
                    accepted &= journal.submit(&refs(&records), Durability::None, |_| ()).is_ok();
                    let count = records.len() as u64;
                    after.records.extend(with_sequences(next, records));
                    next += count;
                }
                let done = accepted && journal.sync().is_ok();
                if done {
                    after.durable = next;
                }
                done
            }
            Step::Sync => journal.sync().inspect(|()| after.durable = journal.next_sequence()).is_ok(),
            Step::Rotate => journal.rotate().inspect(|next| after.durable = *next).is_ok(),
            Step::Trim { share } => {
                let first = journal.first_sequence();
                let before = first + (journal.next_sequence() - first) * u64::from(*share) / 255;
                after.trimmed = after.trimmed.max(before);
                self.model.trimmed = after.trimmed;
                journal.trim_before(before).is_ok()
            }
            Step::LatestPerKey => {
                after.latest_per_key();
                let retention = Retention { latest_per_key: true, ..Retention::default() };
                journal.compact(Compaction { retention, keep: None }).is_ok()
            }
            Step::DropKind(kind) => {
                let kind = *kind;
                after.records.retain(|record| record.kind != kind);
                let keep: weir_journal::Keep = Box::new(move |record| record.kind != kind);
                journal.compact(Compaction { keep: Some(keep), ..Compaction::default() }).is_ok()
            }
            Step::Reopen => {
                let closed = self.journal.take().unwrap().close().is_ok();
                closed && self.open()
            }
            Step::PowerOff | Step::PowerOffSoon(_) => true,
        };
        (after, done)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::PowerOffSoon(steps) => self.disk.inject(self.disk.steps() + steps, Fault::PowerOff),
            Step::PowerOff => return self.power_off(&self.model.clone()),
            _ => {}
        }
        let (after, done) = self.act(step);
        // What the housekeeper does now it does not do while the test reads.
        if let Some(journal) = &self.journal {
            journal.settle().unwrap();
        }
        if self.disk.is_off() {
            return self.power_off(&after);
        }
        assert!(done, "{step:?} fails on a sound disk");
        // What was durable is so although later steps trimmed it; a closed journal is durable.
        self.model = after;
        if matches!(step, Step::Reopen) {
            self.model.durable = self.model.next().max(self.model.durable);
        }
        self.check();
    }

    /// The power goes and comes back: what is there is what the model was, or what it would have become.
    fn power_off(&mut self, after: &Model) {
        self.journal = None;
        self.disk.power_cycle();
        assert!(self.open());
        let (first, next) = {
            let journal = self.journal.as_ref().unwrap();
            journal.settle().unwrap();
            (journal.first_sequence(), journal.next_sequence())
        };
        let found = self.read(Query::default());
        let before = Model { trimmed: after.trimmed, ..self.model.clone() };
        // A compaction trims the segments of which nothing is left: nothing of its own model lies there.
        let allowed =
            before.allows(&found, first) || Model { durable: before.durable, ..after.clone() }.allows(&found, first);
        assert!(allowed, "first {first}\nfound {found:?}\nbefore {before:?}\nafter {after:?}");
        self.model = Model { records: found, durable: next, ..after.clone() };
        self.check();
    }

    /// Every way to read answers as the model does.
    fn check(&mut self) {
        let first = self.journal.as_ref().unwrap().first_sequence();
        assert!(self.model.records.iter().all(|r| r.sequence >= first || r.sequence < self.model.trimmed));
        self.model.records.retain(|record| record.sequence >= first);
        let all = &self.model.records;
        assert_eq!(self.read(Query::default()), *all);
        let backward: Vec<OwnedRecord> = all.iter().rev().filter(|record| record.kind == 1).cloned().collect();
        assert_eq!(self.read(Query { backward: true, kinds: vec![1], ..Query::default() }), backward);
        let times = -100..=250;
        let in_time: Vec<OwnedRecord> = all.iter().filter(|record| times.contains(&record.time)).cloned().collect();
        assert_eq!(self.read(Query { times, ..Query::default() }), in_time);
        let begins: Vec<OwnedRecord> = all.iter().filter(|record| record.key.starts_with(b"key-1")).cloned().collect();
        assert_eq!(self.read(Query { key: KeyMatch::Begins(b"key-1".to_vec()), ..Query::default() }), begins);
        let reader = Reader::open(self.env.clone(), Path::new(DIR)).unwrap();
        for key in ["key-0", "key-3", "key-16", "key-99"] {
            let newest = all.iter().rev().find(|record| record.key == key.as_bytes());
            assert_eq!(reader.get(key.as_bytes()).unwrap().as_ref(), newest);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    #[test]
    fn any_run_of_operations_and_power_failures_answers_as_the_model_j1_j2(
        seed in any::<u64>(),
        zstd in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let codec = if zstd { Codec::Zstd { level: 1 } } else { Codec::Lz4 };
        let mut run = Run::new(seed, codec);
        steps.iter().for_each(|step| run.step(step));
        run.power_off(&run.model.clone());
        let next = run.journal.as_ref().unwrap().next_sequence();
        run.journal.take().unwrap().close().unwrap();
        let found = verify(&run.env, Path::new(DIR)).unwrap();
        prop_assert_eq!((found.damage, found.torn, found.footers_bad), (vec![], None, vec![]));
        prop_assert!(run.open());
        prop_assert_eq!(run.journal.as_ref().unwrap().next_sequence(), next, "sequences are never used twice");
        run.check();
    }
}
