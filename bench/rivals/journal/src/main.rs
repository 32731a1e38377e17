//! Measures the journal beside other embedded stores, on the same records, in one run.
//!
//! `cargo run --release --manifest-path bench/rivals/journal/Cargo.toml -- [--json FILE] [--large RECORDS] [BATCHES...]`
//!
//! Every store gets the same batches of 100 JSON records of about 300 bytes, one transaction a batch. The stores take turns: batch 1
//! goes to each of them, then batch 2, so that whatever else the machine does meets all alike. After each run the records are counted.

mod large;
mod rivals;
mod stores;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::stores::Store;

/// Records in a batch.
pub const BATCH: usize = 100;

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

/// What a store took for each batch, and what it took on the disk.
pub struct Outcome {
    pub name: String,
    pub times: Vec<Duration>,
    pub stored_bytes: u64,
}

impl Outcome {
    /// The row of the result file. `bare` is the run of writes without a store that this one is compared with.
    fn to_json(&self, json_bytes: u64, bare: Option<&Outcome>) -> Value {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        let tenth = (self.times.len() / 10).max(1);
        let (first, last) = (&self.times[..tenth], &self.times[self.times.len() - tenth..]);
        json!({
            "store": self.name,
            "batches": self.times.len(),
            "mean_ms": mean_ms(&self.times),
            "median_ms": sorted[sorted.len() / 2].as_secs_f64() * 1e3,
            "p99_ms": sorted[sorted.len() * 99 / 100].as_secs_f64() * 1e3,
            "last_over_first_tenth": mean_ms(last) / mean_ms(first),
            "last_over_first_tenth_medians": median_ms(last) / median_ms(first),
            "share_of_bare": bare.map(|bare| mean_ms(&bare.times) / mean_ms(&self.times)),
            "share_of_bare_medians": bare.map(|bare| median_ms(&bare.times) / median_ms(&self.times)),
            "stored_bytes": self.stored_bytes,
            "json_over_stored": json_bytes as f64 / self.stored_bytes as f64,
        })
    }
}

fn mean_ms(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64
}

fn median_ms(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2].as_secs_f64() * 1e3
}

/// Gives the batches to the stores in turns. The first store is the journal; the bare writes are of as many bytes as it wrote.
fn run(mut stores: Vec<Box<dyn Store>>, batches: usize) -> anyhow::Result<Vec<Outcome>> {
    let mut times = vec![Vec::with_capacity(batches); stores.len()];
    for number in 0..batches {
        let batch = batch(number);
        let mut written = 0;
        for turn in 0..stores.len() {
            // Who follows whom changes too; the journal stays first, as it says how much the bare writes write.
            let at = if turn == 0 { 0 } else { 1 + (turn + number) % (stores.len() - 1) };
            let took = stores[at].append(number, &batch, written)?;
            if at == 0 {
                written = stores[0].written();
            }
            times[at].push(took);
        }
    }
    let mut outcomes = Vec::new();
    for (store, times) in stores.into_iter().zip(times) {
        let name = store.name();
        let (records, stored_bytes) = store.finish()?;
        ensure!(records == (batches * BATCH) as u64, "{name} has {records} records");
        outcomes.push(Outcome { name, times, stored_bytes });
    }
    Ok(outcomes)
}

fn rows(batches: usize, json_bytes: u64) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for outcomes in [run(stores::durable()?, batches)?, run(stores::unsynced()?, batches)?] {
        let bare = outcomes.iter().find(|outcome| outcome.name.starts_with("bare"));
        rows.extend(outcomes.iter().map(|outcome| {
            let ours = outcome.name.starts_with("weir");
            outcome.to_json(json_bytes, bare.filter(|_| ours))
        }));
    }
    // It rewrites everything each time: 1,000 batches take a quarter of an hour, 10,000 a day.
    if batches <= 100 {
        let outcome = rivals::python(batches)?;
        rows.push(outcome.to_json(json_bytes, None));
    }
    Ok(rows)
}

fn print(row: &Value) {
    let number = |name: &str| row[name].as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.3}"));
    println!(
        "{:>6} {:44} mean {} median {} p99 {} last/first {} ({}) of bare {} JSON/stored {}",
        row["batches"],
        row["store"].as_str().unwrap_or(""),
        number("mean_ms"),
        number("median_ms"),
        number("p99_ms"),
        number("last_over_first_tenth"),
        number("last_over_first_tenth_medians"),
        number("share_of_bare"),
        number("json_over_stored"),
    );
}

struct Args {
    json: Option<PathBuf>,
    large: usize,
    sizes: Vec<usize>,
}

fn args() -> anyhow::Result<Args> {
    let mut found = Args { json: None, large: 5_000_000, sizes: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => found.json = Some(words.next().context("--json wants a file")?.into()),
            "--large" => found.large = words.next().context("--large wants a count")?.parse()?,
            number => found.sizes.push(number.parse().with_context(|| format!("{number} is no count of batches"))?),
        }
    }
    if found.sizes.is_empty() {
        found.sizes = vec![10, 100, 1000, 10_000];
    }
    Ok(found)
}

fn main() -> anyhow::Result<()> {
    let args = args()?;
    let mut all = Vec::new();
    for &batches in &args.sizes {
        let json_bytes: u64 = (0..batches).flat_map(|n| batch(n).payloads).map(|text| text.len() as u64 + 1).sum();
        let found = rows(batches, json_bytes)?;
        found.iter().for_each(print);
        all.extend(found);
    }
    let large = if args.large > 0 { large::run(args.large)? } else { Value::Null };
    println!("{large:#}");
    if let Some(path) = args.json {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let command = "cargo run --release --manifest-path bench/rivals/journal/Cargo.toml -- ".to_owned() + &words.join(" ");
        let results = json!({"command": command, "machine": machine(), "appends": all, "large": large});
        std::fs::write(&path, format!("{results:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Cores, memory and load of this machine in a few words.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |pair| pair.1);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    // The 41st field, the 39th behind the name in parentheses.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let policy = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(38)).unwrap_or("0");
    let priority = if policy == "1" { "; run at real-time priority (`chrt -f 10`), ahead of other work on the machine" } else { "" };
    format!("{cores} cores ({model}), load {load} at the end{priority}")
}
