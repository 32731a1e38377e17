//! `weir`: the one binary. Flags, config, wiring, printing and exit codes; everything else is a library call.
//!
//! A room's commands live in the file of its name: `journal.rs` holds `weir journal`, and so on. Each has `Args` for clap
//! and `run`, which prints its answer to stdout, talks to people on stderr, and returns an [`Exit`].

mod cache;
mod deps;
mod exit;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::terminal::Terminal;

/// Time-series and operations database, and the toolbox around it.
#[derive(Debug, Parser)]
#[command(name = "weir", version, propagate_version = true)]
struct Cli {
    /// Print nothing but the answer and errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print without colours (also `NO_COLOR`).
    #[arg(long, global = true)]
    no_color: bool,
    #[command(subcommand)]
    command: Command,
}

/// One line per room.
#[derive(Debug, Subcommand)]
enum Command {
    /// Keep bytes by key: memory, disk, Redis; bounded, shared by processes.
    Cache(cache::Args),
    /// Check the licences and policy of a dependency set.
    Deps(deps::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new(cli.quiet, cli.no_color);
    match run(cli.command, &terminal) {
        Ok(exit) => exit.into(),
        Err(error) => {
            terminal.error(&error);
            exit::of_error(&error).into()
        }
    }
}

fn run(command: Command, terminal: &Terminal) -> anyhow::Result<Exit> {
    match command {
        Command::Cache(args) => cache::run(args, terminal),
        Command::Deps(args) => deps::run(args, terminal),
    }
}
