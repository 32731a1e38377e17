//! Crashes, failed syncs, failed writes and full disks at every I/O step, on the simulator's disk.
//!
//! An oracle keeps what was promised: after each fault and reopening, everything acknowledged as durable is there, nothing is
//! there that was refused, nothing is out of order, and the journal goes on. J1, J2.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use weir_base::{FileSystem, Kind, Random};
use weir_sim::{Disk, Fault, Seeded};

use crate::{Codec, Durability, Env, Journal, Options, Reader, Record, Result};

const DIR: &str = "/journal";

/// What the journal was asked and what it promised.
#[derive(Debug, Default)]
struct Oracle {
    /// Acknowledged, by sequence; whether durably.
    acknowledged: BTreeMap<u64, (String, bool)>,
    /// Neither promised nor denied.
    unknown: Vec<String>,
    /// Trimmed at most up to here.
    trimmed: u64,
    written: u64,
}

struct Run {
    disk: Disk,
    clock: Arc<weir_sim::Clock>,
    options: Options,
    oracle: Oracle,
    journal: Option<Journal>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let options =
            Options { codec: Codec::Lz4, segment_bytes_max: 700, frame_raw_bytes_max: 200, ..Options::default() };
        Self { disk: Disk::new(seed), clock: Arc::default(), options, oracle: Oracle::default(), journal: None }
    }

    fn env(&self) -> Env {
        let clock: Arc<dyn weir_base::Clock> = Arc::clone(&self.clock) as _;
        Env { fs: Arc::new(self.disk.clone()), clock }
    }

    /// Opens and compares; an error is the disk's.
    fn open(&mut self) -> Result<()> {
        self.journal = None;
        let (journal, recovery) = Journal::open(self.env(), Path::new(DIR), "test", self.options.clone())?;
        // The housekeeper has its share of the faults.
        journal.settle()?;
        if self.disk.is_off() {
            return Err(crate::Error::new(Kind::Unavailable, "the power went after opening"));
        }
        assert!(recovery.first_sequence <= self.oracle.trimmed.max(1), "{recovery:?}");
        self.check(recovery.first_sequence, recovery.next_sequence);
        self.journal = Some(journal);
        Ok(())
    }

    /// Reads everything and compares it with what was promised; what turned out to be there is promised from now on.
    fn check(&mut self, first: u64, next: u64) {
        let reader = Reader::open(self.env(), Path::new(DIR)).unwrap();
        let mut expected = first;
        let mut found = BTreeMap::new();
        for record in reader.records_from(0) {
            let record = record.unwrap();
            assert_eq!(record.sequence, expected, "no gap");
            expected += 1;
            let text = String::from_utf8(record.payload).unwrap();
            assert_eq!(text.as_bytes(), record.key);
            match self.oracle.acknowledged.get(&record.sequence) {
                Some((promised, _)) if *promised == text => {}
                promised => assert!(
                    self.oracle.unknown.contains(&text) && !promised.is_some_and(|(_, durable)| *durable),
                    "{text} at {} instead of {promised:?}",
                    record.sequence
                ),
            }
            found.insert(record.sequence, (text, true));
        }
        assert_eq!(expected, next, "the reader ends where the writer goes on");
        for (sequence, (text, durable)) in &self.oracle.acknowledged {
            let lost = *durable && *sequence >= first && !found.contains_key(sequence);
            assert!(!lost, "lost {text} at {sequence}");
        }
        self.oracle.acknowledged = found;
        self.oracle.unknown.clear();
    }

    fn append(&mut self, count: usize, durability: Durability) -> Result<()> {
        let texts: Vec<String> = (0..count)
            .map(|n| format!("{}-{n}-{}", self.oracle.written, "x".repeat((self.oracle.written as usize * 37) % 150)))
            .collect();
        self.oracle.written += 1;
        let records: Vec<Record<'_>> = texts
            .iter()
            .map(|text| Record { time: 1, kind: 1, key: text.as_bytes(), payload: text.as_bytes() })
            .collect();
        let journal = self.journal.as_ref().unwrap();
        let outcome = journal.append(&records, durability);
        match outcome {
            Ok(appended) => {
                assert_eq!(appended.last - appended.first + 1, count as u64);
                if durability == Durability::Durable {
                    self.oracle.acknowledged.values_mut().for_each(|(_, durable)| *durable = true);
                }
                for (sequence, text) in (appended.first..).zip(texts) {
                    self.oracle.acknowledged.insert(sequence, (text, durability == Durability::Durable));
                }
                Ok(())
            }
            Err(error) => {
                let poisoned = journal.sync().is_err();
                if poisoned {
                    self.oracle.unknown.extend(texts);
                } else {
                    // The sync above, and the cut before it.
                    self.oracle.acknowledged.values_mut().for_each(|(_, durable)| *durable = true);
                }
                Err(error)
            }
        }
    }

    fn step(&mut self, step: u64) -> Result<()> {
        let journal = self.journal.as_ref().unwrap();
        match step % 12 {
            0 | 4 | 8 => self.append(1, Durability::Durable),
            1 | 5 => self.append(3, Durability::None),
            2 => self.append(7, Durability::Durable),
            3 => journal.rotate().map(drop),
            6 => self.append(2, Durability::Interval),
            7 => {
                let first = journal.first_sequence();
                let at = (first + journal.next_sequence()) / 2;
                self.oracle.trimmed = self.oracle.trimmed.max(at);
                journal.trim_before(at).map(drop)
            }
            9 => self.append(20, Durability::None),
            10 => {
                self.journal.take().unwrap().close()?;
                self.open()
            }
            _ => journal.sync(),
        }
    }

    /// The script, going on after each error: by itself, else reopened, else after the power came back.
    fn script(&mut self, steps: u64) {
        for step in 0..steps {
            let ready = self.journal.is_some() || self.open().is_ok();
            if ready && self.step(step).is_ok() {
                continue;
            }
            let usable = self.journal.as_ref().is_some_and(|journal| journal.sync().is_ok());
            if usable {
                continue;
            }
            self.journal = None;
            self.disk.power_cycle();
            self.open().unwrap();
        }
        self.journal = None;
        self.disk.power_cycle();
        self.open().unwrap();
        self.append(1, Durability::Durable).unwrap();
        self.journal.take().unwrap().close().unwrap();
        self.open().unwrap();
    }
}

/// How many I/O steps the script takes without faults.
fn steps_without_faults() -> u64 {
    let mut run = Run::new(0);
    run.script(24);
    run.disk.steps()
}

fn check_fault_at_every_step(fault: Fault) {
    for step in 0..steps_without_faults() {
        for seed in 0..4 {
            let mut run = Run::new(seed * 1000 + step);
            run.disk.inject(step, fault);
            run.script(24);
        }
    }
}

#[test]
fn power_off_at_every_step_loses_nothing_promised_j1_j2() {
    check_fault_at_every_step(Fault::PowerOff);
}

#[test]
fn a_failed_sync_at_every_step_poisons_and_loses_nothing_promised_j2() {
    check_fault_at_every_step(Fault::SyncFails);
}

#[test]
fn a_failed_call_at_every_step_is_cut_back_or_poisons_j2() {
    check_fault_at_every_step(Fault::Fails);
}

#[test]
fn any_number_of_faults_in_random_runs_j1_j2() {
    for seed in 0..150 {
        let random = Seeded::new(seed);
        let mut run = Run::new(seed);
        for _ in 0..6 {
            let fault = [Fault::PowerOff, Fault::SyncFails, Fault::Fails][random.below(3) as usize];
            run.disk.inject(random.below(300), fault);
        }
        run.script(60);
    }
}

#[test]
fn lost_syncs_never_panic() {
    for seed in 0..100 {
        let disk = Disk::new(seed);
        let run = Run { disk: disk.clone(), ..Run::new(seed) };
        let env = run.env();
        (10..40).for_each(|step| disk.inject(step, Fault::SyncLies));
        let options = run.options.clone();
        let (journal, _) = Journal::open(env.clone(), Path::new(DIR), "test", options.clone()).unwrap();
        for n in 0..30 {
            let record = Record { time: n, kind: 0, key: b"", payload: &[n as u8; 90] };
            journal.append(&[record], Durability::Durable).unwrap();
        }
        drop(journal);
        disk.power_cycle();
        if let Ok((journal, _)) = Journal::open(env.clone(), Path::new(DIR), "test", options) {
            drop(journal);
        }
        if let Ok(reader) = Reader::open(env, Path::new(DIR)) {
            for record in reader.records_from(0).flatten() {
                assert_eq!(record.payload, [record.time as u8; 90], "wrong bytes are never returned");
            }
        }
    }
}

#[test]
fn a_full_disk_fails_the_append_and_the_journal_goes_on_j2() {
    for room in (0..2000).step_by(61) {
        let mut run = Run::new(room);
        run.open().unwrap();
        run.append(3, Durability::Durable).unwrap();
        run.disk.set_capacity(run.disk.used() + room);
        let mut refused = 0;
        for _ in 0..12 {
            if let Err(error) = run.append(9, Durability::Durable) {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                refused += 1;
            }
        }
        assert!(refused > 0);
        run.disk.set_capacity(u64::MAX);
        run.append(2, Durability::Durable).unwrap();
        run.disk.power_cycle();
        run.open().unwrap();
    }
}

#[test]
fn a_cut_or_a_flip_anywhere_is_found_j1() {
    let mut run = Run::new(1);
    run.options.segment_bytes_max = 1 << 20;
    run.open().unwrap();
    for count in [1, 2, 3, 1] {
        run.append(count, Durability::Durable).unwrap();
    }
    run.journal.take().unwrap().close().unwrap();
    let good: Vec<_> = Reader::open(run.env(), Path::new(DIR)).unwrap().records_from(0).map(Result::unwrap).collect();
    let path = run.disk.list(Path::new(DIR)).unwrap().into_iter().find(|path| path.extension().is_some()).unwrap();
    let len = run.disk.metadata(&path).unwrap().len as usize;
    let check = |disk: &Disk, what: &str| {
        let env = Env { fs: Arc::new(disk.clone()), clock: Arc::clone(&run.clock) as _ };
        let mut read = Vec::new();
        let mut damaged = false;
        if let Ok(reader) = Reader::open(env.clone(), Path::new(DIR)) {
            for record in reader.records_from(0) {
                match record {
                    Ok(record) => read.push(record),
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Damaged, "{what}");
                        damaged = true;
                    }
                }
            }
            assert_eq!(read, good[..read.len()], "{what}");
        }
        let opened = Journal::open(env.clone(), Path::new(DIR), "test", run.options.clone());
        let damaged_open = match &opened {
            Err(error) => {
                assert_eq!(error.kind(), Kind::Damaged, "{what}");
                true
            }
            Ok(_) => false,
        };
        drop(opened);
        (read.len(), damaged || damaged_open)
    };
    for at in 0..len {
        let disk = run.disk.fork(at as u64);
        disk.truncate(&path, at);
        let (_, damaged) = check(&disk, &format!("cut at {at}"));
        assert_eq!(damaged, at < crate::segment::HEADER_LEN, "cut at {at}");
    }
    let marked = len - crate::frame::HEADER_LEN;
    for at in 0..len {
        let disk = run.disk.fork(at as u64);
        disk.flip(&path, at, 1 << (at % 8));
        let (_, damaged) = check(&disk, &format!("flip at {at}"));
        assert_eq!(damaged, at < marked, "flip at {at}: everything below the last mark was synced");
    }
}

#[test]
fn room_for_later_frames_is_neither_torn_nor_damaged_j1() {
    let mut run = Run::new(1);
    run.options.segment_bytes_max = 1 << 20;
    run.open().unwrap();
    for count in [1, 2, 3] {
        run.append(count, Durability::Durable).unwrap();
    }
    let path = run.disk.list(Path::new(DIR)).unwrap().into_iter().find(|path| path.extension().is_some()).unwrap();
    let len = run.disk.metadata(&path).unwrap().len as usize;
    let used = run.journal.as_ref().unwrap().stored_bytes() as usize;
    assert!(len > used + 50_000, "{len} {used}");
    for flipped in [None, Some(used), Some(used + 80), Some(len - 1)] {
        // As after kill -9: nothing was cut.
        let disk = run.disk.fork(1);
        let env = Env { fs: Arc::new(disk.clone()), clock: Arc::clone(&run.clock) as _ };
        if let Some(at) = flipped {
            disk.flip(&path, at, 1);
        }
        let found = crate::verify(&env, Path::new(DIR)).unwrap();
        assert_eq!((found.records, found.damage.len(), found.torn.is_some()), (6, 0, flipped.is_some()));
        let (journal, recovery) = Journal::open(env, Path::new(DIR), "test", run.options.clone()).unwrap();
        assert_eq!((recovery.next_sequence, recovery.torn.is_some()), (7, flipped.is_some()));
        journal.close().unwrap();
        assert!(disk.metadata(&path).is_err() || disk.metadata(&path).unwrap().len < 5000, "room is given back");
    }
}
