//! A journal of a gigabyte and more: opening, getting by key, replaying.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use weir_journal::{Codec, Durability, Env, Journal, Options, Reader};

use crate::stores::{bytes_in, records};
use crate::{BATCH, batch};

/// Writes `count` records with lz4 and measures.
pub fn run(count: usize) -> anyhow::Result<Value> {
    let dir = tempfile::tempdir_in(".")?;
    let options = Options { codec: Codec::Lz4, ..Options::default() };
    let batches = count / BATCH;
    let (journal, _) = Journal::open(Env::system(), dir.path(), "bench", options)?;
    let (mut raw, mut keys) = (0u64, Vec::new());
    let start = Instant::now();
    for number in 0..batches {
        let batch = batch(number);
        let records = records(number, &batch);
        raw += records.iter().map(|record| (record.key.len() + record.payload.len()) as u64).sum::<u64>();
        journal.append(&records, Durability::None)?;
        if number % (batches / 500).max(1) == 0 {
            keys.push(batch.keys[number % BATCH].clone());
        }
    }
    journal.close()?;
    let written_s = start.elapsed().as_secs_f64();
    let stored = bytes_in(dir.path())?;
    forget(dir.path())?;
    let start = Instant::now();
    let (journal, _) = Journal::open(Env::system(), dir.path(), "bench", Options::default())?;
    let open_ms = ms(start);
    drop(journal);
    forget(dir.path())?;
    let start = Instant::now();
    let reader = Reader::open_mapped(Env::system(), dir.path())?;
    let open_reader_ms = ms(start);
    // In no order, so that each is a place of its own.
    keys.sort_unstable();
    let cold = gets(&reader, &keys)?;
    let warm = gets(&reader, &keys)?;
    let bare = bare_reads(dir.path(), keys.len())?;
    let mut gigabytes_per_second: Vec<f64> = (0..3).map(|_| replay(&reader, batches, raw)).collect::<Result<_, _>>()?;
    gigabytes_per_second.sort_by(f64::total_cmp);
    Ok(json!({
        "records": batches * BATCH,
        "raw_bytes": raw,
        "stored_bytes": stored,
        "written_s": written_s,
        "open_for_writing_cold_ms": open_ms,
        "open_for_reading_cold_ms": open_reader_ms,
        "get_first_cold_ms": cold[0],
        "get_cold_mean_ms": mean(&cold),
        "get_cold_median_ms": median(&cold),
        "get_warm_mean_ms": mean(&warm),
        "get_warm_median_ms": median(&warm),
        "bare_cold_read_16k_mean_ms": mean(&bare),
        "bare_cold_read_16k_median_ms": median(&bare),
        "replay_gb_per_s_median": gigabytes_per_second[1],
    }))
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Drops the pages of all files from the cache.
fn forget(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let file = std::fs::File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn gets(reader: &Reader, keys: &[String]) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(keys.len());
    for key in keys {
        let start = Instant::now();
        let found = reader.get(key.as_bytes())?.context("a key is missing")?;
        times.push(ms(start));
        ensure!(found.key == key.as_bytes(), "another record was found");
    }
    Ok(times)
}

/// What the disk takes for a read of 16 KiB at a place that is not in the cache.
fn bare_reads(dir: &Path, count: usize) -> anyhow::Result<Vec<f64>> {
    use std::os::unix::fs::FileExt;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.len() > 1 << 20 {
            files.push(std::fs::File::open(entry.path())?);
        }
    }
    forget(dir)?;
    let mut times = Vec::with_capacity(count);
    let mut bytes = vec![0; 16 << 10];
    for number in 0..count as u64 {
        let file = &files[number as usize % files.len()];
        let places = file.metadata()?.len() / bytes.len() as u64 - 1;
        let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % places;
        let start = Instant::now();
        file.read_exact_at(&mut bytes, place * (16 << 10))?;
        times.push(ms(start));
    }
    Ok(times)
}

/// Gigabytes of raw records a second, on this thread alone.
fn replay(reader: &Reader, batches: usize, raw: u64) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut records = reader.records_from(0);
    let (mut found, mut bytes) = (0usize, 0u64);
    while let Some(record) = records.next_ref()? {
        found += 1;
        bytes += (record.key.len() + record.payload.len()) as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(found == batches * BATCH && bytes == raw, "records are missing");
    Ok(bytes as f64 / seconds / 1e9)
}
