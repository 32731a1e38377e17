//! What only the cache has: the size query, batches, clean-up, the command line, the lock, the hit ratio.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use weir_base::{ByteSize, FileLock, LockError};
use weir_bench::figures::{Figure, Goal};
use weir_cache::{Cache, CacheOptions, LIMIT_DEFAULT, Op, Policy, PutOptions};

use crate::cells::{median, name, value};
use crate::traces;

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

/// Prints a figure and keeps it.
fn say(figures: &mut Vec<Figure>, figure: Figure) {
    println!("{}: {} {:.3} {}", figure.what, figure.engine, figure.value, figure.unit);
    figures.push(figure);
}

const HELD: Duration = Duration::from_millis(5);

/// Takes the lock `turns` times; prints when it asked, got and gave each time, in nanoseconds.
pub(crate) fn contend(wait: &str, path: &Path, turns: usize, start_ns: u64) -> anyhow::Result<()> {
    std::thread::sleep(Duration::from_nanos(start_ns.saturating_sub(now_ns())));
    for _ in 0..turns {
        let asked = now_ns();
        let lock = if wait == "kernel" {
            FileLock::acquire(path, "bench", Duration::from_secs(60))?
        } else {
            let mut pause = Duration::from_millis(100);
            loop {
                match FileLock::acquire(path, "bench", Duration::ZERO) {
                    Err(LockError::Held { .. }) => std::thread::sleep(pause),
                    other => break other?,
                }
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        };
        let got = now_ns();
        std::thread::sleep(HELD);
        let gave = now_ns();
        drop(lock);
        println!("{asked} {got} {gave}");
    }
    Ok(())
}

/// When each turn was asked for, begun and ended, nanoseconds, in the order of beginning.
fn turns_of(dir: &Path, wait: &str, processes: usize, turns: usize) -> anyhow::Result<Vec<[u64; 3]>> {
    let (path, start) = (dir.join(wait), now_ns() + 500_000_000);
    let children: Vec<_> = (0..processes)
        .map(|_| {
            let mut own = Command::new(std::env::current_exe()?);
            own.args(["contender", wait]).arg(&path).args([turns.to_string(), start.to_string()]);
            own.stdout(Stdio::piped()).spawn()
        })
        .collect::<Result<_, _>>()?;
    let mut held: Vec<[u64; 3]> = Vec::new();
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "a process failed");
        for line in String::from_utf8(output.stdout)?.lines() {
            let times: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            held.push(times.try_into().map_err(|_| anyhow::anyhow!("{line}"))?);
        }
    }
    ensure!(held.len() == processes * turns, "{} turns", held.len());
    held.sort_by_key(|times| times[1]);
    ensure!(held.windows(2).all(|pair| pair[1][1] >= pair[0][2]), "two held the lock at once");
    Ok(held)
}

/// Processes that want one lock: the kernel's queue beside exponential backoff.
pub(crate) fn contention(dir: &Path, processes: usize, turns: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    for wait in ["kernel", "exponential"] {
        let held = turns_of(dir, wait, processes, turns)?;
        let mut gaps: Vec<f64> = held.windows(2).map(|pair| (pair[1][1] - pair[0][2]) as f64 / 1e6).collect();
        gaps.sort_by(f64::total_cmp);
        let total = (held[held.len() - 1][2] - held[0][1]) as f64 / 1e6;
        let ideal = (processes * turns) as f64 * HELD.as_secs_f64() * 1e3;
        let longest = held.iter().map(|times| times[1] - times[0]).max().unwrap_or(0) as f64 / 1e6;
        let fair = (processes - 1) as f64 * HELD.as_secs_f64() * 1e3;
        for (name, value, unit, goal) in [
            ("total / ideal", total / ideal, "", 1.15),
            ("release to next p99", gaps[gaps.len() * 99 / 100], "ms", 2.0),
            ("longest wait / fair", longest / fair, "", 6.0),
        ] {
            let figure = Figure::new(&format!("one lock, {processes} processes, 5 ms held: {name}"), wait, value, unit);
            say(figures, if wait == "kernel" { figure.with_goal(Goal::AtMost(goal)) } else { figure });
        }
    }
    Ok(())
}

fn batch_of(numbers: std::ops::Range<u64>, prefix: &str, bytes: usize, options: &PutOptions) -> Vec<Op> {
    let op = |number: u64| Op::Put {
        key: format!("{prefix}{number:08}").into_bytes(),
        value: vec![7; bytes],
        options: options.clone(),
    };
    numbers.map(op).collect()
}

/// The command line beside an empty process, taking turns.
pub(crate) fn starts(
    dir: &Path,
    weir: &Path,
    entries: u64,
    rounds: usize,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let options = CacheOptions { limit: Some(LIMIT_DEFAULT), ..CacheOptions::new(dir, "start") };
    let cache = Cache::open(options)?;
    for start in (0..entries).step_by(100) {
        cache.batch(&batch_of(start..start + 100, "key-", 100, &PutOptions::default()))?;
    }
    let filled = cache.size()?.entries;
    ensure!(filled == entries, "{filled} of {entries} entries are there");
    drop(cache);
    let key = name(entries as usize / 2);
    let weir = weir.to_str().unwrap_or_default();
    let commands = [
        ("an empty process", vec!["true"]),
        ("weir --version", vec![weir, "--version"]),
        ("weir cache size", vec![weir, "cache", "size", "--namespace", "start"]),
        ("weir cache get", vec![weir, "cache", "get", &key, "--namespace", "start"]),
    ];
    let mut took = vec![Vec::new(); commands.len()];
    for _ in 0..rounds {
        for ((name, words), took) in commands.iter().zip(&mut took) {
            let started = Instant::now();
            let output = Command::new(words[0]).args(&words[1..]).env("WEIR_CACHE_DIR", dir).output()?;
            took.push(started.elapsed().as_secs_f64() * 1e3);
            ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr));
            ensure!(*name != "weir cache get" || output.stdout == [7; 100], "a wrong answer");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(
                *name != "weir cache size" || said.contains(&format!("{filled} entries")),
                "a wrong answer: {said}"
            );
        }
    }
    let medians: Vec<f64> = took.into_iter().map(median).collect();
    let what = format!("from start to end with {filled} entries, median");
    for ((name, _), value) in commands.iter().zip(&medians) {
        say(figures, Figure::new(&what, name, *value, "ms"));
    }
    for at in [2, 3] {
        let beyond = |empty: usize| {
            let what = format!("{what}, beyond {}", commands[empty].0);
            Figure::new(&what, commands[at].0, medians[at] - medians[empty], "ms")
        };
        say(figures, beyond(0).with_goal(Goal::AtMost(5.0)));
        // What the cache itself adds to starting the program.
        say(figures, beyond(1));
    }
    Ok(())
}

fn per_call(count: u32, mut call: impl FnMut(u32) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = Instant::now();
    for number in 0..count {
        call(number)?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

/// The size query, the index, batches, clean-up.
pub(crate) fn extras(dir: &Path, entries: u64, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let options =
        CacheOptions { limit: Some(LIMIT_DEFAULT), memory_limit: ByteSize::new(0), ..CacheOptions::new(dir, "extras") };
    let cache = Cache::open(options)?;
    let hour = PutOptions::ttl(Duration::from_secs(3600));
    for start in (0..entries).step_by(100) {
        cache.batch(&batch_of(start..start + 100, "key-", 108, &hour))?;
    }
    let size = cache.size()?;
    ensure!(size.entries == entries, "{} of {entries} entries are there", size.entries);
    // 108 bytes of value and 12 of key.
    let index = size.index_bytes as f64 / entries as f64 - 120.0;
    say(
        figures,
        Figure::new("index per entry beyond its 120 bytes", "weir", index, "B").with_goal(Goal::AtMost(200.0)),
    );
    let query = per_call(2000, |_| {
        ensure!(cache.size()?.entries == entries, "a wrong size");
        Ok(())
    })?;
    say(figures, Figure::new("size query in process", "weir", query, "us").with_goal(Goal::AtMost(20.0)));
    let plain = PutOptions::default();
    let single = per_call(2000, |number| {
        cache.put(format!("single{number:08}"), &[7; 100], &plain)?;
        Ok(())
    })?;
    let batch = per_call(20, |round| {
        let numbers = u64::from(round) * 100..u64::from(round) * 100 + 100;
        cache.batch(&batch_of(numbers, "batch-", 100, &plain))?;
        Ok(())
    })? / 100.0;
    ensure!(cache.size()?.entries == entries + 4000, "not everything was put");
    say(figures, Figure::new("put of 100 bytes, alone", "weir", single, "us"));
    say(figures, Figure::new("put of 100 bytes, in a batch of 100", "weir", batch, "us"));
    let times = Figure::new("single puts over puts in a batch of 100", "weir", single / batch, "");
    say(figures, times.with_goal(Goal::AtLeast(3.0)));
    let brief = PutOptions::ttl(Duration::from_millis(1));
    for start in (0..10_000).step_by(100) {
        cache.batch(&batch_of(start..start + 100, "dead-", 100, &brief))?;
    }
    std::thread::sleep(Duration::from_millis(20));
    let started = Instant::now();
    let done = cache.collect(STEP_BUDGET)?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    ensure!(done.expired == 10_000, "{} were removed", done.expired);
    let budget = Goal::AtMost(STEP_BUDGET.as_secs_f64() * 1e3);
    say(figures, Figure::new("one step of clean-up, 10,000 expired entries", "weir", took, "ms").with_goal(budget));
    Ok(())
}

/// What `weir cache gc` takes when it is not told otherwise.
const STEP_BUDGET: Duration = Duration::from_secs(1);

/// The share of requests of a trace that the cache answers; what it does not have is put.
fn ratio(cache: &Cache, trace: &[u64], len: impl Fn(u64) -> usize) -> anyhow::Result<f64> {
    let cost = PutOptions { cost: Some(Duration::from_millis(1)), ..PutOptions::default() };
    let mut hits = 0u32;
    for key in trace {
        let wanted = value(*key as usize, len(*key).max(8));
        match cache.get(key.to_be_bytes()) {
            Some(found) => {
                ensure!(found == wanted, "a wrong answer");
                hits += 1;
            }
            None => drop(cache.put(key.to_be_bytes(), &wanted, &cost)?),
        }
    }
    Ok(f64::from(hits) / trace.len() as f64)
}

/// Eviction beside the published algorithm and beside LRU.
pub(crate) fn hit_ratios(dir: &Path, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let plain = |name: &str| CacheOptions {
        memory_limit: ByteSize::new(0),
        limit: Some(ByteSize::mib(16)),
        ..CacheOptions::new(dir, name)
    };
    for (name, trace) in traces::all() {
        for capacity in [200, 800] {
            let what = format!("hit ratio on {name}, {capacity} entries");
            let options = CacheOptions { entry_limit: Some(capacity), ..plain(&format!("{name}-{capacity}")) };
            let found = ratio(&Cache::open(options)?, &trace, |_| 8)?;
            let mut reference = traces::Reference::new(capacity as usize);
            let hits = trace.iter().filter(|key| reference.request(**key)).count();
            let wanted = hits as f64 / trace.len() as f64;
            say(figures, Figure::new(&what, "weir, s3fifo", found, "").with_goal(Goal::AtLeast(wanted - 0.02)));
            say(figures, Figure::new(&what, "reference S3-FIFO", wanted, ""));
        }
    }
    let trace = traces::zipf(3000, 0.8, 12_000);
    let run = |policy: Policy| {
        let limit = Some(ByteSize::mib(4));
        let options = CacheOptions { limit, policy: Some(policy), ..plain(&format!("sized-{policy}")) };
        ratio(&Cache::open(options)?, &trace, traces::sized)
    };
    let (gdsf, lru) = (run(Policy::Gdsf)?, run(Policy::Lru)?);
    let what = "hit ratio on zipf, values of 200 B to 25 KiB, 4 MiB";
    say(figures, Figure::new(what, "weir, gdsf", gdsf, "").with_goal(Goal::AtLeast(lru)));
    say(figures, Figure::new(what, "weir, lru", lru, ""));
    Ok(())
}
