//! Everything that a change must pass, in the order in which it fails fastest.
//!
//! A component that a test needs and this machine lacks is installed; when that fails, the run fails: no test is left
//! out because something is missing.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{python, shell, slt, soak, tidy};

/// Programs that builds and tests run, each with the package that has it.
const PROGRAMS: [(&str, &str); 4] =
    [("cc", "build-essential"), ("chromium", "chromium"), ("git", "git"), ("python3", "python3")];

type Step = fn() -> anyhow::Result<()>;

const STEPS: [(&str, &str, Step); 9] = [
    ("components", "programs, the Python environment and the SQL files that tests need", components),
    ("format", "cargo fmt --check", format),
    ("tidy", "the house is as ARCHITECTURE.md says", || tidy::run(&shell::root())),
    ("build", "everything that the tests run", build),
    ("test", "all tests", test),
    ("soak", "two minutes past capacity on a store that fails", || soak::run(SOAK_SECONDS, None)),
    ("model", "the tracker's counters and admission in all orders of their steps", model),
    ("lints", "clippy on all targets, warnings are errors", lints),
    ("docs", "cargo doc, warnings are errors", docs),
];

/// Runs the named steps, or all.
pub fn run(names: &[&str]) -> anyhow::Result<()> {
    if let Some(unknown) = names.iter().find(|name| !STEPS.iter().any(|step| step.0 == **name)) {
        let known: Vec<&str> = STEPS.iter().map(|step| step.0).collect();
        bail!("there is no step {unknown:?}; the steps are {}", known.join(", "));
    }
    let start = Instant::now();
    let mut durations = Vec::new();
    for (name, what, step) in STEPS {
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        say(&format!("==> {name}: {what}"));
        let start = Instant::now();
        step().with_context(|| format!("step {name} failed"))?;
        durations.push((name, start.elapsed()));
    }
    say("==> done");
    for (name, duration) in durations {
        say(&format!("{name:12} {}", minutes(duration)));
    }
    say(&format!("{:12} {}", "all", minutes(start.elapsed())));
    Ok(())
}

fn components() -> anyhow::Result<()> {
    let mut packages: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !shell::has_program(program)).map(|pair| pair.1).collect();
    let has_venv = || Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if packages.contains(&"python3") || !has_venv().is_ok_and(|output| output.status.success()) {
        packages.push("python3-venv");
    }
    let listed =
        std::fs::read_to_string(shell::root().join("xtask/apt-packages.txt")).context("xtask/apt-packages.txt")?;
    packages.extend(
        listed.lines().map(str::trim).filter(|name| !name.is_empty() && !name.starts_with('#') && !is_installed(name)),
    );
    if !packages.is_empty() {
        say(&format!("installing {}", packages.join(", ")));
        shell::run(&mut apt_get(&["update", "--quiet=2"]))?;
        let mut install = apt_get(&["install", "--quiet=2", "--yes", "--no-install-recommends"]);
        shell::run(install.args(&packages)).context("a component that the tests need cannot be installed")?;
    }
    python::ensure()?;
    slt::ensure().map(|_| ())
}

/// Whether the system has a package, as its package manager knows.
fn is_installed(package: &str) -> bool {
    let status = Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    status.is_ok_and(|output| output.stdout == b"installed")
}

/// `apt-get`, through `sudo` for a person who is not root.
fn apt_get(arguments: &[&str]) -> Command {
    let is_root = shell::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
    if !is_root {
        command.arg("apt-get");
    }
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn format() -> anyhow::Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> anyhow::Result<()> {
    shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}

fn build() -> anyhow::Result<()> {
    shell::run(shell::cargo().args(["test", "--workspace", "--no-run", "--quiet"]))
}

fn test() -> anyhow::Result<()> {
    let (interpreter, files) = (python::ensure()?, slt::ensure()?);
    let mut test = shell::cargo();
    test.args(["test", "--workspace", "--no-fail-fast"]);
    shell::run(test.env("WEIR_TEST_PYTHON", interpreter).env("WEIR_TEST_SLT", files))
}

/// How long the soak of a test run takes; `cargo xtask soak` runs it for longer.
const SOAK_SECONDS: u64 = 120;

/// How long the model may take once it is built; it takes seconds.
const MODEL_SECONDS_MAX: &str = "300";

/// A model needs everything below it compiled with another flag, so it has a target folder of its own.
fn model() -> anyhow::Result<()> {
    let folder = shell::target_folder().join("loom");
    let model = |wrapped: &mut Command, last: &[&str]| {
        wrapped.args(["test", "--quiet", "--release", "--package", "weir-track", "--package", "weir-limits"]);
        wrapped.args(["--test", "loom"]).args(last);
        shell::run(wrapped.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", &folder))
    };
    model(&mut shell::cargo(), &["--no-run"])?;
    let mut bounded = Command::new("timeout");
    bounded.current_dir(shell::root()).args([MODEL_SECONDS_MAX, "cargo"]);
    model(&mut bounded, &[]).context("the model found an order that loses something, or did not end")
}

fn docs() -> anyhow::Result<()> {
    let mut doc = shell::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn minutes(duration: Duration) -> String {
    format!("{:3} min {:2} s", duration.as_secs() / 60, duration.as_secs() % 60)
}

#[allow(clippy::print_stdout, reason = "the headings of the run")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_step_is_refused_before_anything_runs() {
        let error = run(&["format", "tests"]).unwrap_err();
        assert!(error.to_string().contains("there is no step \"tests\""), "{error}");
    }
}
