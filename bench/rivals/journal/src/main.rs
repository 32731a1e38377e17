//! Measures appends to the journal beside other embedded stores, on the same records, in one run.
//!
//! `cargo run --release --manifest-path bench/rivals/journal/Cargo.toml -- [BATCHES...]` prints a table in Markdown. Every store gets the
//! same batches of 100 JSON records of about 300 bytes, one transaction a batch; after each run the records are counted.

mod rivals;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_journal::{Codec, Durability, Env, Journal, Options, Reader, Record};

/// Records in a batch.
const BATCH: usize = 100;

/// A batch of records, as JSON texts with their keys.
pub struct Batch {
    pub keys: Vec<String>,
    pub payloads: Vec<String>,
}

/// The batch with this number; values repeat as those of real operations do.
pub fn batch(number: usize) -> Batch {
    let mut keys = Vec::with_capacity(BATCH);
    let mut payloads = Vec::with_capacity(BATCH);
    for index in 0..BATCH {
        let n = (number * BATCH + index) as u64;
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let key = format!("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", mixed as u32, n & 0xffff, n & 0xfff, mixed & 0xfff, n);
        payloads.push(format!(
            "{{\"operation_id\":\"{key}\",\"timestamp\":\"2026-01-{:02}T{:02}:{:02}:{:02}Z\",\"operation_type\":\"{}\",\
             \"principal_type\":\"USER\",\"principal_name\":\"user{}@example.com\",\"permission_set_name\":\"{}\",\
             \"account_id\":\"{:012}\",\"success\":true,\"duration_ms\":{}}}",
            1 + n / 86_400 % 28,
            n / 3600 % 24,
            n / 60 % 60,
            n % 60,
            ["assign", "revoke"][(mixed % 7 == 0) as usize],
            mixed % 500,
            ["ReadOnly", "Admin", "Billing", "PowerUser"][(mixed >> 8) as usize % 4],
            111_111_111_111u64 + mixed % 40,
            20 + mixed % 900
        ));
        keys.push(key);
    }
    Batch { keys, payloads }
}

/// What a run took.
pub struct Outcome {
    /// One for each batch.
    pub times: Vec<Duration>,
    pub stored_bytes: u64,
}

/// Bytes of all files below a folder.
pub fn bytes_in(dir: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

fn weir(batches: usize, codec: Codec, durability: Durability) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir_in(".")?;
    let options = Options { codec, ..Options::default() };
    let (journal, _) = Journal::open(Env::system(), dir.path(), "bench", options)?;
    let mut times = Vec::with_capacity(batches);
    for number in 0..batches {
        let batch = batch(number);
        let start = Instant::now();
        let records: Vec<Record<'_>> = batch
            .keys
            .iter()
            .zip(&batch.payloads)
            .map(|(key, payload)| Record { time: number as i64, kind: 1, key: key.as_bytes(), payload: payload.as_bytes() })
            .collect();
        journal.append(&records, durability)?;
        times.push(start.elapsed());
    }
    journal.close()?;
    let stored_bytes = bytes_in(dir.path())?;
    let found = Reader::open(Env::system(), dir.path())?.statistics()?;
    ensure!(found.records == (batches * BATCH) as u64, "weir lost records");
    Ok(Outcome { times, stored_bytes })
}

/// Bare writes and syncs of as many bytes as the journal wrote for each batch.
fn bare(batches: usize, bytes: u64, sync: bool) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir_in(".")?;
    let mut file = std::fs::File::create(dir.path().join("bare"))?;
    let chunk: Vec<u8> = (0..bytes / batches as u64).map(|n| (n * 31) as u8).collect();
    let mut times = Vec::with_capacity(batches);
    for _ in 0..batches {
        let start = Instant::now();
        file.write_all(&chunk)?;
        if sync {
            file.sync_data()?;
        }
        times.push(start.elapsed());
    }
    Ok(Outcome { times, stored_bytes: bytes })
}

fn row(name: &str, outcome: &Outcome, json_bytes: u64) {
    let times = &outcome.times;
    let total: Duration = times.iter().sum();
    let tenth = (times.len() / 10).max(1);
    let mean = |part: &[Duration]| part.iter().sum::<Duration>().as_secs_f64() / part.len() as f64;
    let flat = mean(&times[times.len() - tenth..]) / mean(&times[..tenth]);
    println!(
        "| {name} | {} | {:.3} | {:.3} | {flat:.2} | {:.2} |",
        times.len(),
        total.as_secs_f64(),
        mean(times) * 1e3,
        json_bytes as f64 / outcome.stored_bytes as f64
    );
}

fn large() -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(".")?;
    let options = Options { codec: Codec::Lz4, ..Options::default() };
    let (journal, _) = Journal::open(Env::system(), dir.path(), "bench", options)?;
    let count = 40_000;
    let mut raw = 0u64;
    let mut keys = Vec::new();
    let start = Instant::now();
    for number in 0..count {
        let batch = batch(number);
        let records: Vec<Record<'_>> = batch
            .keys
            .iter()
            .zip(&batch.payloads)
            .map(|(key, payload)| Record { time: number as i64, kind: 1, key: key.as_bytes(), payload: payload.as_bytes() })
            .collect();
        raw += records.iter().map(|r| (r.key.len() + r.payload.len()) as u64).sum::<u64>();
        journal.append(&records, Durability::None)?;
        if number % 997 == 0 {
            keys.push(batch.keys[number % BATCH].clone());
        }
    }
    journal.rotate()?;
    journal.settle()?;
    journal.close()?;
    println!("\n{} records, {} MB raw, {} MB stored, written in {:.1} s", count * BATCH, raw >> 20, bytes_in(dir.path())? >> 20, start.elapsed().as_secs_f64());
    for entry in std::fs::read_dir(dir.path())? {
        let file = std::fs::File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let start = Instant::now();
    let (journal, _) = Journal::open(Env::system(), dir.path(), "bench", Options::default())?;
    println!("cold open for writing: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    drop(journal);
    let start = Instant::now();
    let reader = Reader::open_mapped(Env::system(), dir.path())?;
    let first = reader.get(keys[0].as_bytes())?.context("a key is missing")?;
    println!("cold open for reading and first get: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    ensure!(first.key == keys[0].as_bytes());
    for state in ["cold", "warm"] {
        let start = Instant::now();
        for key in &keys {
            ensure!(reader.get(key.as_bytes())?.is_some(), "a key is missing");
        }
        println!("get by key, pages {state}: {:.3} ms each", start.elapsed().as_secs_f64() * 1e3 / keys.len() as f64);
    }
    let start = Instant::now();
    let mut records = reader.records_from(0);
    let (mut found, mut bytes) = (0usize, 0u64);
    while let Some(record) = records.next_ref()? {
        found += 1;
        bytes += (record.key.len() + record.payload.len()) as u64;
    }
    ensure!(found == count * BATCH && bytes == raw, "records are missing");
    println!("replay on one core: {:.2} GB/s of raw records", bytes as f64 / start.elapsed().as_secs_f64() / 1e9);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let sizes = if sizes.is_empty() { vec![10, 100, 1000] } else { sizes };
    println!("| store | batches | total s | ms per append | last/first tenth | JSON / stored |");
    println!("|---|---|---|---|---|---|");
    for batches in sizes {
        let json: u64 = (0..batches).flat_map(|n| batch(n).payloads).map(|text| text.len() as u64 + 1).sum();
        let zstd = Codec::Zstd { level: 3 };
        let durable = weir(batches, zstd, Durability::Durable)?;
        row("weir, zstd 3, durable", &durable, json);
        row("bare write + fdatasync of the same bytes", &bare(batches, durable.stored_bytes, true)?, json);
        row("sqlite, WAL, synchronous=FULL", &rivals::sqlite(batches, true)?, json);
        row("redb, immediate", &rivals::redb(batches, true)?, json);
        row("fjall, SyncAll", &rivals::fjall(batches, true)?, json);
        row("weir, lz4, durable", &weir(batches, Codec::Lz4, Durability::Durable)?, json);
        row("weir, zstd 3, interval", &weir(batches, zstd, Durability::Interval)?, json);
        let none = weir(batches, zstd, Durability::None)?;
        row("weir, zstd 3, none", &none, json);
        row("bare write of the same bytes", &bare(batches, none.stored_bytes, false)?, json);
        row("sqlite, WAL, synchronous=OFF", &rivals::sqlite(batches, false)?, json);
        row("redb, none", &rivals::redb(batches, false)?, json);
        row("fjall, no sync", &rivals::fjall(batches, false)?, json);
        if batches <= 100 {
            row("python, gzip-JSON rewritten", &rivals::python(batches)?, json);
        }
    }
    large()
}
