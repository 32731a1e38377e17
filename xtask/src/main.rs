//! `cargo xtask`: flags and exit code only.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a build task talks to the person who runs it")]

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask tidy               is the house as ARCHITECTURE.md says?
cargo xtask test [STEP...]     installs what tests need, then format, lints, tidy, all tests, docs
cargo xtask soak [--minutes N] [--seed N]
                               a real server past its capacity on a failing store, 10 minutes long
cargo xtask bench NAME [-- ARGS]
                               builds for release and runs bench/src/bin/NAME.rs
cargo xtask python             makes the Python environment of the tests and prints its interpreter
cargo xtask slt                fetches the SQL files of the pinned DataFusion and prints their folder";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["tidy"] => xtask::tidy::run(&xtask::shell::root()),
        ["test", steps @ ..] => xtask::suite::run(steps),
        ["soak", flags @ ..] => xtask::soak::run_with(flags),
        ["bench", name, rest @ ..] => xtask::bench::run(name, rest.strip_prefix(&["--"]).unwrap_or(rest)),
        ["slt"] => xtask::slt::ensure().map(|folder| println!("{}", folder.display())),
        ["python"] => xtask::python::ensure().map(|interpreter| println!("{}", interpreter.display())),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
