//! Builds Weir and a benchmark for release, and runs it.

use crate::shell;

/// Benchmarks that watch a server from outside and so need the binary, but not our crates.
const FROM_OUTSIDE: [&str; 6] = ["dependencies", "health", "ingest", "query", "recovery", "rollup"];
/// Benchmarks that need the binary and, as a feature, our crates and rivals that are libraries.
const WITH_FEATURE: [&str; 1] = ["track"];
/// What needs neither.
const ALONE: [&str; 1] = ["report"];

/// Runs `bench/src/bin/NAME.rs` with `arguments`.
pub fn run(name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = shell::cargo();
    command.args(["run", "--quiet", "--release", "--package", "weir-bench"]);
    if FROM_OUTSIDE.contains(&name) || WITH_FEATURE.contains(&name) {
        shell::run(shell::cargo().args(["build", "--release", "--package", "weir"]))?;
        command.arg("--no-default-features");
        if WITH_FEATURE.contains(&name) {
            command.args(["--features", name]);
        }
        command.args(["--bin", name, "--", "--weir"]);
        command.arg(shell::target_folder().join("release/weir"));
    } else if ALONE.contains(&name) {
        command.args(["--no-default-features", "--bin", name, "--"]);
    } else if ["cache", "ops"].contains(&name) {
        // Nothing of the database is needed for it.
        command.args(["--no-default-features", "--features", name, "--bin", name, "--"]);
    } else {
        command.args(["--bin", name, "--"]);
    }
    shell::run(command.args(arguments))
}
