//! The history of operations at size: storing, listing, filtering, finding by a prefix, and what a listing takes of memory.
//!
//! Every answer is checked. The cost of storing is told beside a bare write and sync of as many bytes in the same run.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark measures real files and the real clock, and prints"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use weir_journal::Durability;
use weir_ops::{Entry, Env, Filter, History, Listing, Operation, Options, Progress, State, Step, View};

#[derive(Parser)]
struct Args {
    /// Where the history is made.
    #[arg(long)]
    dir: PathBuf,
    /// Operations.
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// Entries of each.
    #[arg(long, default_value_t = 10)]
    entries: u64,
    /// Times of each measurement; the median is told.
    #[arg(long, default_value_t = 9)]
    times: usize,
    /// Only list once, and print the peak of the memory (the run itself starts this).
    #[arg(long)]
    list_only: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.list_only {
        let (listed, _) = View::open(Env::system(), &args.dir)?.list(&Listing::default())?;
        println!("{} {}", listed.len(), peak_kib()?);
        return Ok(());
    }
    if args.dir.exists() {
        std::fs::remove_dir_all(&args.dir)?;
    }
    fill(&args)?;
    measure_reading(&args)?;
    measure_storing(&args)?;
    let own = std::env::current_exe()?;
    let output = std::process::Command::new(own).arg("--dir").arg(&args.dir).arg("--list-only").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, peak) = text.trim().split_once(' ').context("no answer")?;
    println!("list, peak resident memory   {:>10.1} MiB (limit 64)", peak.parse::<f64>()? / 1024.0);
    Ok(())
}

fn peak_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

fn operation(history: &History, number: u64, entries: u64) -> Operation {
    let id = history.new_id();
    let time = 1_700_000_000_000_000_000 + number as i64 * 60_000_000_000;
    let set = format!("arn:aws:sso:::permissionSet/ssoins-0123456789abcdef/ps-{:016x}", number % 40);
    let principal = format!("906751fd15-8e5bcd6c-bd7d-455d-8d28-{:012x}", number % 997);
    let entries: Vec<Entry> = (0..entries)
        .map(|at| {
            let account = format!("{:012}", (number * 7 + at * 13) % 300);
            let key = format!("assignment/USER/{principal}/{account}/{set}");
            let mut entry = Entry::new(key, None, Some(serde_json::json!("assigned")));
            for (name, value) in [
                ("account", account.clone()),
                ("account_name", format!("account-{account}")),
                ("permission_set", format!("Set{}", number % 40)),
                ("permission_set_arn", set.clone()),
                ("principal", format!("user-{}", number % 997)),
                ("principal_id", principal.clone()),
                ("principal_type", "USER".to_owned()),
            ] {
                entry.labels.insert(name.to_owned(), value);
            }
            entry
        })
        .collect();
    let done = Progress { step: Step::Done, attempts: 1, ended: Some(time), ..Progress::default() };
    Operation {
        id,
        run: id,
        time,
        kind: if number.is_multiple_of(5) { "revoke" } else { "assign" }.to_owned(),
        target: "aws-sso:arn:aws:sso:::instance/ssoins-0123456789abcdef".to_owned(),
        actor: "bench".to_owned(),
        undoes: Vec::new(),
        plan: String::new(),
        origin: None,
        state: State::Done,
        verified: true,
        wrong: Vec::new(),
        ended: Some(time + 1_000_000_000),
        progress: vec![done; entries.len()],
        entries,
    }
}

fn fill(args: &Args) -> anyhow::Result<()> {
    let options = Options { durability: Durability::None, ..Options::default() };
    let (history, _) = History::open(Env::system(), &args.dir, "bench", options)?;
    let begin = Instant::now();
    let (mut first, mut last) = (Duration::ZERO, Duration::ZERO);
    for number in 0..args.operations {
        let operation = operation(&history, number, args.entries);
        let one = Instant::now();
        history.store(&operation)?;
        let took = one.elapsed();
        if number < 1000 {
            first += took;
        }
        if number + 1000 >= args.operations {
            last += took;
        }
    }
    history.close()?;
    println!(
        "{} operations with {} entries each, stored in {:.1} s",
        args.operations,
        args.entries,
        begin.elapsed().as_secs_f64()
    );
    println!("store without sync, first 1000 {:>8.3} ms each", first.as_secs_f64());
    println!("store without sync, last 1000  {:>8.3} ms each (limit 1)", last.as_secs_f64());
    Ok(())
}

fn median(times: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut took = Vec::new();
    for _ in 0..times {
        let begin = Instant::now();
        work()?;
        took.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() / 2])
}

fn measure_reading(args: &Args) -> anyhow::Result<()> {
    let open = || View::open(Env::system(), &args.dir);
    let list = |listing: &Listing| Ok::<_, weir_ops::Error>(open()?.list(listing)?.0);
    let all = median(args.times, || {
        ensure!(list(&Listing::default())?.len() as u64 == args.operations);
        Ok(())
    })?;
    println!("open and list all            {all:>10.1} ms (limit 200)");
    let filter: Filter = "principal=user-7,account=000000000049".parse()?;
    let expected = (0..args.operations)
        .filter(|n| n % 997 == 7 && (0..args.entries).any(|at| (n * 7 + at * 13) % 300 == 49))
        .count();
    let filtered = median(args.times, || {
        ensure!(list(&Listing { filter: filter.clone(), ..Listing::default() })?.len() == expected);
        Ok(())
    })?;
    println!("open and filter by two labels{filtered:>10.1} ms (limit 200), {expected} found");
    let ids: Vec<String> = list(&Listing::default())?.iter().map(|summary| summary.id.to_string()).collect();
    let mut at = 0;
    let shown = median(args.times * 5, || {
        at = (at + ids.len() / 7 + 1) % ids.len();
        let prefix = unique_prefix(&ids, at);
        let (operation, _) = open()?.show(prefix)?;
        ensure!(operation.id.to_string() == ids[at] && operation.entries.len() as u64 == args.entries);
        Ok(())
    })?;
    println!("open and show by prefix      {shown:>10.1} ms (limit 20)");
    Ok(())
}

/// The shortest beginning that no neighbour has; `ids` are sorted downwards.
fn unique_prefix(ids: &[String], at: usize) -> &str {
    let same = |other: Option<&String>| {
        other.map_or(0, |other| other.bytes().zip(ids[at].bytes()).take_while(|(a, b)| a == b).count())
    };
    let shared = same(at.checked_sub(1).and_then(|at| ids.get(at))).max(same(ids.get(at + 1)));
    &ids[at][..(shared + 1).max(4)]
}

fn measure_storing(args: &Args) -> anyhow::Result<()> {
    let opened = Instant::now();
    let (history, _) = History::open(Env::system(), &args.dir, "bench", Options::default())?;
    println!("open for writing             {:>10.1} ms", opened.elapsed().as_secs_f64() * 1e3);
    let mut bare = bare_file(&args.dir)?;
    let bytes = vec![7u8; 2000];
    let synced = median(args.times * 20, || {
        bare.write_all(&bytes)?;
        Ok(bare.sync_data()?)
    })?;
    let mut number = args.operations;
    let mut operations: Vec<Operation> = (0..args.times * 20)
        .map(|_| {
            number += 1;
            operation(&history, number, args.entries)
        })
        .collect();
    let stored = median(args.times * 20, || Ok(history.store(&operations.pop().context("enough")?)?))?;
    history.close()?;
    println!("bare write and sync of 2 kB  {synced:>10.3} ms");
    println!("store durably                {stored:>10.3} ms, {:.3} beyond the sync (limit 1)", stored - synced);
    Ok(())
}

fn bare_file(dir: &Path) -> anyhow::Result<std::fs::File> {
    Ok(std::fs::OpenOptions::new().append(true).create(true).open(dir.join("bare"))?)
}
