//! What is measured, each behind the same calls.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use weir_journal::{Codec, Durability, Env, Journal, Options, Reader, Record};

use crate::rivals::{Fjall, Redb, Sqlite};
use crate::{BATCH, Batch};

/// Something that takes batches.
pub trait Store {
    fn name(&self) -> String;
    /// Appends a batch and says how long it took. `written` are the bytes that the journal wrote for it.
    fn append(&mut self, number: usize, batch: &Batch, written: u64) -> anyhow::Result<Duration>;
    /// Bytes that the last append wrote, where that is known.
    fn written(&self) -> u64 {
        0
    }
    /// Closes; the records counted, and the bytes on the disk.
    fn finish(self: Box<Self>) -> anyhow::Result<(u64, u64)>;
}

/// All with a sync before the answer.
pub fn durable() -> anyhow::Result<Vec<Box<dyn Store>>> {
    let zstd = Codec::Zstd { level: 3 };
    Ok(vec![
        Box::new(Weir::open("weir, zstd 3, durable", zstd, Durability::Durable)?),
        Box::new(Bare::open(true)?),
        Box::new(Weir::open("weir, lz4, durable", Codec::Lz4, Durability::Durable)?),
        Box::new(Sqlite::open(true)?),
        Box::new(Redb::open(true)?),
        Box::new(Fjall::open(true)?),
    ])
}

/// All without waiting for a sync.
pub fn unsynced() -> anyhow::Result<Vec<Box<dyn Store>>> {
    let zstd = Codec::Zstd { level: 3 };
    Ok(vec![
        Box::new(Weir::open("weir, zstd 3, none", zstd, Durability::None)?),
        Box::new(Bare::open(false)?),
        Box::new(Weir::open("weir, lz4, none", Codec::Lz4, Durability::None)?),
        Box::new(Weir::open("weir, zstd 3, interval 100 ms", zstd, Durability::Interval)?),
        Box::new(Sqlite::open(false)?),
        Box::new(Redb::open(false)?),
        Box::new(Fjall::open(false)?),
    ])
}

/// Bytes that the files below a folder take on the disk.
pub fn bytes_in(dir: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

struct Weir {
    name: &'static str,
    dir: tempfile::TempDir,
    journal: Journal,
    durability: Durability,
    written: u64,
}

impl Weir {
    fn open(name: &'static str, codec: Codec, durability: Durability) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(".")?;
        let options = Options { codec, ..Options::default() };
        let (journal, _) = Journal::open(Env::system(), dir.path(), "bench", options)?;
        Ok(Self { name, dir, journal, durability, written: 0 })
    }
}

/// The records of a batch, as the journal takes them.
pub fn records(number: usize, batch: &Batch) -> Vec<Record<'_>> {
    let pairs = batch.keys.iter().zip(&batch.payloads);
    pairs
        .map(|(key, payload)| Record { time: number as i64, kind: 1, key: key.as_bytes(), payload: payload.as_bytes() })
        .collect()
}

impl Store for Weir {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn append(&mut self, number: usize, batch: &Batch, _written: u64) -> anyhow::Result<Duration> {
        let before = self.journal.stored_bytes();
        let start = Instant::now();
        self.journal.append(&records(number, batch), self.durability)?;
        let took = start.elapsed();
        self.written = self.journal.stored_bytes().saturating_sub(before);
        Ok(took)
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn finish(self: Box<Self>) -> anyhow::Result<(u64, u64)> {
        self.journal.close()?;
        let mut records = Reader::open(Env::system(), self.dir.path())?.records_from(0);
        let mut count = 0;
        while records.next_ref()?.is_some() {
            count += 1;
        }
        Ok((count, bytes_in(self.dir.path())?))
    }
}

/// A write, and a sync, of as many bytes as the journal wrote, and nothing else.
struct Bare {
    dir: tempfile::TempDir,
    file: std::fs::File,
    sync: bool,
    noise: Vec<u8>,
    appends: u64,
}

impl Bare {
    fn open(sync: bool) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(".")?;
        let file = std::fs::File::create(dir.path().join("bare"))?;
        Ok(Self { dir, file, sync, noise: (0..1 << 20).map(|n: u32| (n * 31 >> 3) as u8).collect(), appends: 0 })
    }
}

impl Store for Bare {
    fn name(&self) -> String {
        if self.sync { "bare write + fdatasync of the same bytes" } else { "bare write of the same bytes" }.to_owned()
    }

    fn append(&mut self, _number: usize, _batch: &Batch, written: u64) -> anyhow::Result<Duration> {
        ensure!(written as usize <= self.noise.len(), "a batch of {written} bytes");
        let bytes = &self.noise[..written as usize];
        let start = Instant::now();
        self.file.write_all(bytes)?;
        if self.sync {
            self.file.sync_data()?;
        }
        self.appends += 1;
        Ok(start.elapsed())
    }

    fn finish(self: Box<Self>) -> anyhow::Result<(u64, u64)> {
        Ok((self.appends * BATCH as u64, bytes_in(self.dir.path())?))
    }
}
