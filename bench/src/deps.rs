//! `weir deps` and its rivals: commands run, timed and weighed, each with the answer that it gave.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What ran.
    pub what: String,
    /// Packages in its answer.
    pub packages: usize,
    /// Each run's wall time, milliseconds.
    pub wall_ms: Vec<f64>,
    /// Processor time of the last run, milliseconds.
    pub cpu_ms: f64,
    /// Largest resident set of one more run, MiB.
    pub peak_mib: Option<f64>,
    /// Share of packages that came from the cache in the last run.
    pub hit_ratio: Option<f64>,
    /// Requests that the index got in the last run.
    pub requests: Option<usize>,
}

impl Row {
    /// The row of one run that was not weighed.
    pub fn of(what: &str, run: &Run) -> Self {
        Self {
            what: what.to_owned(),
            packages: 0,
            wall_ms: vec![run.wall_ms],
            cpu_ms: run.cpu_ms,
            peak_mib: None,
            hit_ratio: None,
            requests: None,
        }
    }

    /// The median run, milliseconds.
    pub fn median_ms(&self) -> f64 {
        let mut sorted = self.wall_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The rows of one run of the benchmark, as kept in its result file.
#[derive(Debug, Serialize, Deserialize)]
pub struct DepsResults {
    /// The command that made them.
    pub command: String,
    /// The machine.
    pub machine: String,
    /// In the order in which they were measured.
    pub rows: Vec<Row>,
}

/// What one run of a command gave.
#[derive(Debug)]
pub struct Run {
    /// Standard output.
    pub output: Vec<u8>,
    /// Exit code.
    pub code: i32,
    wall_ms: f64,
    cpu_ms: f64,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> anyhow::Result<Run> {
    let started = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let pid = child.id();
    let mut stdout = child.stdout.take().context("no standard output")?;
    let mut stderr = child.stderr.take().context("no standard error")?;
    let drain = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stderr, &mut text);
        text
    });
    let mut output = Vec::new();
    std::io::Read::read_to_end(&mut stdout, &mut output)?;
    let cpu_ms = cpu_ms_at_end(pid)?;
    let status = child.wait()?;
    let wall_ms = started.elapsed().as_secs_f64() * 1e3;
    let errors = drain.join().unwrap_or_default();
    let Some(code) = status.code() else { bail!("{} was killed", command.get_program().display()) };
    // 255 is how liccheck says that it found something.
    if code > 1 && code != 255 {
        let text = String::from_utf8_lossy(&errors);
        bail!("{} ended with {code}: {}", command.get_program().display(), text.lines().last().unwrap_or_default());
    }
    Ok(Run { output, code, wall_ms, cpu_ms })
}

/// Processor milliseconds of a child that has ended, once it has, before it is waited for.
fn cpu_ms_at_end(pid: u32) -> anyhow::Result<f64> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("no process id")?;
    // The process is a zombie after this, so that its figures can still be read.
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), options)?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()))?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |pair| pair.1).split_ascii_whitespace().collect();
    let ticks: f64 = fields.get(11..13).context("no times")?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks * 1e3 / rustix::param::clock_ticks_per_second() as f64)
}

/// The largest resident set of one more run, MiB, as GNU time tells it.
fn peak_mib(command: &Command) -> anyhow::Result<f64> {
    let told = std::env::temp_dir().join(format!("weir-bench-{}", std::process::id()));
    let mut weighed = Command::new("/usr/bin/time");
    weighed.args(["--quiet", "--format=%M", "--output"]).arg(&told).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => weighed.env(name, value),
            None => weighed.env_remove(name),
        };
    }
    run(&mut weighed)?;
    let text = std::fs::read_to_string(&told)?;
    std::fs::remove_file(&told)?;
    Ok(text.trim().parse::<f64>().context("what GNU time told")? / 1024.0)
}

/// Measures a command some times; `before` runs before each, outside the time, and `count` reads the answer.
pub fn measure(
    what: &str,
    rounds: usize,
    command: impl Fn() -> Command,
    mut before: impl FnMut() -> anyhow::Result<()>,
    count: impl Fn(&Run) -> anyhow::Result<usize>,
) -> anyhow::Result<Row> {
    let mut row = Row {
        what: what.to_owned(),
        packages: 0,
        wall_ms: Vec::new(),
        cpu_ms: 0.0,
        peak_mib: None,
        hit_ratio: None,
        requests: None,
    };
    for _ in 0..rounds {
        before()?;
        let run = run(&mut command()).with_context(|| what.to_owned())?;
        row.packages = count(&run).with_context(|| format!("the answer of {what}"))?;
        row.wall_ms.push(run.wall_ms);
        row.cpu_ms = run.cpu_ms;
    }
    before()?;
    row.peak_mib = Some(peak_mib(&command())?);
    Ok(row)
}

/// The packages in the JSON of `weir deps check`, whose summary must add up.
pub fn of_weir(run: &Run) -> anyhow::Result<usize> {
    let answer: Value = serde_json::from_slice(&run.output)?;
    let count = |key: &str| answer["summary"][key].as_u64().unwrap_or(0) as usize;
    let classes = ["approved", "restricted", "unlisted", "prohibited", "unknown"];
    ensure!(
        classes.iter().map(|class| count(class)).sum::<usize>() == count("packages"),
        "the summary does not add up"
    );
    ensure!(answer["packages"].as_array().map(Vec::len) == Some(count("packages")), "packages are missing");
    Ok(count("packages"))
}

/// The packages, all of which must be approved: the answer for packages that are made up.
pub fn all_approved(run: &Run) -> anyhow::Result<usize> {
    let answer: Value = serde_json::from_slice(&run.output)?;
    ensure!(
        answer["summary"]["approved"] == answer["summary"]["packages"],
        "not all are approved: {}",
        answer["summary"]
    );
    of_weir(run)
}

/// The entries of a JSON array.
pub fn of_list(run: &Run) -> anyhow::Result<usize> {
    Ok(serde_json::from_slice::<Vec<Value>>(&run.output)?.len())
}

/// Drops the kernel's copies of the metadata files below `site`, so that the next reading asks the disk.
pub fn drop_pages(site: &Path) -> anyhow::Result<()> {
    let mut folders: Vec<_> = std::fs::read_dir(site)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "dist-info"))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let file = std::fs::File::open(&path)?;
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
    }
    Ok(())
}

/// The page's table; `against` is the row that ratios are given to.
pub fn table(results: &DepsResults) -> String {
    let head =
        ["what", "packages", "median (max) ms", "times weir warm", "CPU ms", "peak MiB", "from the cache", "requests"];
    let against = results.rows.iter().find(|row| row.what == WARM).map_or(f64::NAN, Row::median_ms);
    let rows: Vec<Vec<String>> = results
        .rows
        .iter()
        .map(|row| {
            let max = row.wall_ms.iter().copied().fold(0.0, f64::max);
            let or_none = |text: Option<String>| text.unwrap_or_default();
            vec![
                row.what.clone(),
                if row.packages == 0 { String::new() } else { row.packages.to_string() },
                format!("{:.1} ({max:.1})", row.median_ms()),
                format!("{:.1}", row.median_ms() / against),
                format!("{:.0}", row.cpu_ms),
                or_none(row.peak_mib.map(|mib| format!("{mib:.0}"))),
                or_none(row.hit_ratio.map(|ratio| format!("{:.1} %", ratio * 100.0))),
                or_none(row.requests.map(|count| count.to_string())),
            ]
        })
        .collect();
    crate::report::table(&head, &rows)
}

/// The row that others are compared with.
pub const WARM: &str = "weir deps check, warm";
