//! `weir deps` beside pip-licenses, licensecheck, liccheck and `uv pip list`, in one run over one environment of real
//! packages; then made-up environments, and a lock file over a slow local index.
//!
//! ```text
//! cargo xtask bench dependencies -- --json bench/results/deps.json
//! cargo xtask bench dependencies -- --pip-index --json bench/results/deps.json     (also asks the index that pip is configured for)
//! ```

#![allow(clippy::disallowed_methods, reason = "starts programs and lays out folders for them")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::Value;
use weir_bench::deps::{self, DepsResults, Row, Run, WARM, all_approved, drop_pages, measure, of_list, of_weir};
use weir_bench::index::Index;
use weir_bench::{packages, report};

/// The lock file of about 500 pinned packages.
const LOCK: &str = include_str!("../../deps/airflow.txt");
/// Packages of the real environment at least.
const PACKAGES_MIN: usize = 250;
/// How long the local index waits before each answer.
const LATENCY: Duration = Duration::from_millis(30);

/// Measures `weir deps`.
#[derive(Debug, Parser)]
struct Cli {
    /// The binary.
    #[arg(long)]
    weir: PathBuf,
    /// Where environments and tools are kept between runs.
    #[arg(long, default_value = "target/bench-deps")]
    work: PathBuf,
    /// Runs of what takes less than a second.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Asks the index that pip is configured for as well, once.
    #[arg(long)]
    pip_index: bool,
    /// Writes the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let script = Command::new("bench/rivals/deps.sh").arg(&cli.work).status().context("bench/rivals/deps.sh")?;
    ensure!(script.success(), "the rivals could not be installed");
    let work = cli.work.canonicalize()?;
    let bench = Bench { weir: cli.weir.canonicalize()?, work, rounds: cli.rounds };
    let mut rows = bench.environment()?;
    rows.extend(bench.rivals(rows[0].packages)?);
    for count in [500, 10_000] {
        rows.extend(bench.made_up(count)?);
    }
    rows.extend(bench.lock_over_local_index()?);
    if cli.pip_index {
        rows.extend(bench.lock_over_pip_index()?);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let shown = arguments.iter().skip_while(|argument| *argument != "--pip-index" && *argument != "--rounds");
    let command = format!("cargo xtask bench dependencies -- {}", shown.cloned().collect::<Vec<_>>().join(" "));
    let results = DepsResults { command: command.trim_end().to_owned(), machine: report::machine(), rows };
    say(&deps::table(&results));
    cli.json.iter().try_for_each(|path| report::save(path, &results))
}

#[allow(clippy::print_stdout, reason = "the table is the answer")]
fn say(text: &str) {
    println!("{text}");
}

struct Bench {
    weir: PathBuf,
    work: PathBuf,
    rounds: usize,
}

impl Bench {
    fn data(&self) -> PathBuf {
        self.work.join("data")
    }

    fn weir(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.weir);
        command.args(arguments).env("WEIR_DATA", self.data()).env_remove("PIP_INDEX_URL");
        command
    }

    fn check(&self, flag: &str, path: &Path, more: &[&str]) -> Command {
        let mut command = self.weir(&["deps", "check", "--format", "json", flag]);
        command.arg(path).args(more);
        command
    }

    /// Forgets everything, so that the next run is cold.
    fn forget(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The share of the last run's packages that came from the cache, as `weir deps stat` tells it.
    fn hit_ratio(&self) -> anyhow::Result<Option<f64>> {
        let run = deps::run(&mut self.weir(&["deps", "stat", "--format", "json"]))?;
        let answer: Value = serde_json::from_slice(&run.output)?;
        Ok(answer["last_run"]["hit_ratio"].as_f64())
    }

    /// Cold and warm. The first row is the warm one.
    fn cold_and_warm(
        &self,
        what: &str,
        rounds: usize,
        command: &dyn Fn() -> Command,
        count: &dyn Fn(&Run) -> anyhow::Result<usize>,
    ) -> anyhow::Result<Vec<Row>> {
        let cold = measure(&format!("{what}, cold"), rounds, command, || self.forget(), count)?;
        let mut warm = measure(&format!("{what}, warm"), self.rounds, command, || Ok(()), count)?;
        warm.hit_ratio = self.hit_ratio()?;
        ensure!(warm.hit_ratio.is_some_and(|ratio| ratio > 0.95), "{what}: the cache had {:?}", warm.hit_ratio);
        Ok(vec![warm, cold])
    }

    fn site(&self) -> anyhow::Result<PathBuf> {
        let mut versions = std::fs::read_dir(self.work.join("env/lib"))?;
        let version = versions.find_map(|entry| Some(entry.ok()?.path())).context("the environment is empty")?;
        Ok(version.join("site-packages"))
    }

    fn environment(&self) -> anyhow::Result<Vec<Row>> {
        let env = self.work.join("env");
        let command = || self.check("--env", &env, &[]);
        let mut rows = self.cold_and_warm("weir deps check", self.rounds, &command, &of_weir)?;
        ensure!(rows[0].what == WARM && rows[0].packages >= PACKAGES_MIN, "the environment is too small");
        let site = self.site()?;
        let before = || self.forget().and_then(|()| drop_pages(&site));
        rows.push(measure("weir deps check, cold disk", 5, command, before, of_weir)?);
        let version = || self.weir(&["--version"]);
        rows.push(measure("weir --version", self.rounds, version, || Ok(()), |_| Ok(0))?);
        Ok(rows)
    }

    fn rivals(&self, packages: usize) -> anyhow::Result<Vec<Row>> {
        let tool = |name: &str| Command::new(self.work.join("tools/bin").join(name));
        let python = self.work.join("env/bin/python");
        let uv = || {
            let mut command = tool("uv");
            command.args(["pip", "list", "--format", "json", "--python"]).arg(&python);
            command
        };
        let pip_licenses = || {
            let mut command = tool("pip-licenses");
            command.args(["--from=all", "--format=json", "--with-system", "--python"]).arg(&python);
            command
        };
        let mut rows = vec![
            measure("uv pip list", self.rounds, uv, || Ok(()), of_list)?,
            measure("pip-licenses", 3, pip_licenses, || Ok(()), of_list)?,
        ];
        ensure!(rows.iter().all(|row| row.packages.abs_diff(packages) <= 1), "the tools see other packages");
        // These two read the environment that they run in.
        let site = self.site()?;
        let (all, strategy) = (self.requirements(&site)?, self.work.join("strategy.ini"));
        std::fs::write(
            &strategy,
            "[Licenses]\nauthorized_licenses:\n\tMIT\n\tMIT License\n\tApache Software License\n",
        )?;
        let licensecheck = || {
            let mut command = tool("licensecheck");
            command.args(["--format", "json", "--requirements-paths"]).arg(&all).env("PYTHONPATH", &site);
            command.current_dir(&self.work);
            command
        };
        let liccheck = || {
            let mut command = tool("liccheck");
            command.args(["--no-deps", "-s"]).arg(&strategy).arg("-r").arg(&all).env("PYTHONPATH", &site);
            command
        };
        rows.push(measure("licensecheck", 1, licensecheck, || Ok(()), of_licensecheck)?);
        rows.push(measure("liccheck", 1, liccheck, || Ok(()), of_liccheck)?);
        Ok(rows)
    }

    /// A requirement for each package that neither of the two rivals fails on: one dies of exceptions in expressions
    /// (`WITH`), also of what a package needs, the other of names with a dot.
    fn requirements(&self, site: &Path) -> anyhow::Result<PathBuf> {
        let (mut needs, mut failing) = (BTreeMap::new(), BTreeSet::new());
        for entry in std::fs::read_dir(site)? {
            let info = entry?.path();
            let is_info = info.extension().is_some_and(|extension| extension == "dist-info");
            let Some(text) = is_info.then(|| std::fs::read(info.join("METADATA")).ok()).flatten() else { continue };
            let text = String::from_utf8_lossy(&text);
            let head: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
            let of = |field: &str| head.iter().filter_map(move |line| line.strip_prefix(field)).collect::<Vec<_>>();
            let Some(name) = of("Name: ").first().map(|name| name.trim().to_owned()) else { continue };
            let dotted = name.contains('.')
                || info.file_stem().is_some_and(|stem| {
                    stem.to_string_lossy().split('-').next().is_some_and(|name| name.contains('.'))
                });
            if dotted || head.iter().any(|line| line.starts_with("License") && line.contains(" WITH ")) {
                failing.insert(normal(&name));
            }
            let unconditional = of("Requires-Dist: ").into_iter().filter(|need| !need.contains("extra"));
            let end = |letter: char| !(letter.is_ascii_alphanumeric() || "-_.".contains(letter));
            let needed: Vec<String> = unconditional.filter_map(|need| need.split(end).next().map(normal)).collect();
            needs.insert(name, needed);
        }
        loop {
            let before = failing.len();
            let by_need = needs.iter().filter(|(_, needed)| needed.iter().any(|need| failing.contains(need)));
            let more: Vec<String> = by_need.map(|(name, _)| normal(name)).collect();
            failing.extend(more);
            if failing.len() == before {
                break;
            }
        }
        let kept = needs.keys().filter(|name| !failing.contains(&normal(name)));
        let path = self.work.join("requirements.txt");
        std::fs::write(&path, kept.map(|name| format!("{name}\n")).collect::<String>())?;
        Ok(path)
    }

    fn made_up(&self, count: usize) -> anyhow::Result<Vec<Row>> {
        let env = self.work.join(format!("made-up-{count}"));
        if !env.exists() {
            packages::install(&packages::made_up(count), &env)?;
            // Files as young as these are not remembered.
            std::thread::sleep(Duration::from_secs(3));
        }
        let command = || self.check("--env", &env, &[]);
        let rows = self.cold_and_warm(&format!("weir deps check, {count} made up"), 5, &command, &all_approved)?;
        ensure!(rows[0].packages == count, "{} of {count} packages", rows[0].packages);
        Ok(rows)
    }

    fn lock(&self) -> anyhow::Result<PathBuf> {
        let path = self.work.join("requirements-airflow.txt");
        std::fs::write(&path, LOCK)?;
        Ok(path)
    }

    fn lock_over_local_index(&self) -> anyhow::Result<Vec<Row>> {
        let lock = self.lock()?;
        let index = Index::start(&packages::of_lock(LOCK), LATENCY)?;
        let url = index.url();
        let command = || self.check("--lock", &lock, &["--index", &url]);
        let what = "weir deps check, lock file, index with 30 ms";
        let mut cold = measure(&format!("{what}, cold"), 1, command, || self.forget(), all_approved)?;
        // The run and the one that was weighed.
        cold.requests = Some(index.take_requests().len() / 2);
        let mut warm = measure(&format!("{what}, warm"), self.rounds, command, || Ok(()), all_approved)?;
        (warm.requests, warm.hit_ratio) = (Some(index.take_requests().len()), self.hit_ratio()?);
        ensure!(warm.requests == Some(0) && warm.hit_ratio == Some(1.0), "the second run asked the index");
        Ok(vec![cold, warm])
    }

    fn lock_over_pip_index(&self) -> anyhow::Result<Vec<Row>> {
        let lock = self.lock()?;
        let command = || self.check("--lock", &lock, &[]);
        let what = "weir deps check, lock file, pip's index";
        self.forget()?;
        let first = deps::run(&mut command())?;
        let packages = of_weir(&first)?;
        let missing = String::from_utf8_lossy(&first.output).matches("\"data-missing\"").count();
        let mut cold = Row::of(&format!("{what}, cold, {missing} without data"), &first);
        cold.packages = packages;
        let mut warm = measure(&format!("{what}, warm"), self.rounds, command, || Ok(()), of_weir)?;
        warm.hit_ratio = self.hit_ratio()?;
        Ok(vec![cold, warm])
    }
}

/// A name as indexes compare it.
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

fn of_licensecheck(run: &Run) -> anyhow::Result<usize> {
    let text = String::from_utf8_lossy(&run.output);
    let answer: Value = serde_json::from_str(&text[text.find('{').context("no JSON")?..])?;
    answer["packages"].as_array().map(Vec::len).context("no packages")
}

/// It prints groups of packages, an indented line each.
fn of_liccheck(run: &Run) -> anyhow::Result<usize> {
    let text = String::from_utf8_lossy(&run.output);
    let counts = text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    Ok(counts.sum())
}
