//! `weir`: the one binary. Flags, config, wiring, printing and exit codes; everything else is a library call.
//!
//! A room's commands live in the file of its name: `journal.rs` holds `weir journal`, and so on. Each has `Args` for clap
//! and `run`, which prints its answer to stdout, talks to people on stderr, and returns an [`Exit`].

mod access;
mod bench;
mod cache;
mod client;
mod config;
mod deps;
mod doctor;
mod embedded;
mod exit;
mod export;
mod folder;
mod journal;
mod logging;
mod ops;
mod queries;
mod quickstart;
mod runtime;
mod serve;
mod session;
mod sql;
mod tables;
mod terminal;
mod token;
mod track;
mod write;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::Exit;
use crate::terminal::Terminal;

// Gives back what a query or a flush took, where that of glibc grows with the threads that ever allocated: docs/adr/allocator.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// Serve a data folder over HTTP.
    Serve(serve::Args),
    /// Write a file of points into a database.
    Write(write::Args),
    /// Ask a database in SQL.
    Sql(sql::Args),
    /// Write a table to a file: line protocol, CSV, JSON lines or Parquet.
    Export(export::Args),
    /// Make a small database with real data and ask it three questions.
    Quickstart(quickstart::Args),
    /// List a database's tables: rows, files, bytes, overlap, oldest and newest time.
    Tables(tables::Args),
    /// Merge the files of tables until nothing overlaps.
    Compact(tables::CompactArgs),
    /// See and stop the queries of a server.
    Queries(queries::Args),
    /// Make, list and revoke tokens of a server.
    Token(token::Args),
    /// Check a data folder or server, and say what to do.
    Doctor(doctor::Args),
    /// Print the settings of `weir serve` with their defaults.
    Config,
    /// Print completions for a shell.
    Completions {
        /// For which shell, such as `weir completions bash > /etc/bash_completion.d/weir`.
        shell: clap_complete::Shell,
    },
    /// Keep bytes by key: memory, disk, Redis; bounded, shared by processes.
    Cache(cache::Args),
    /// Check the licences and policy of a dependency set.
    Deps(Box<deps::Args>),
    /// Change assignments of AWS IAM Identity Center, by a plan, with undo.
    Access(Box<access::Args>),
    /// List bulk operations, show, undo and resume them.
    Ops(Box<ops::Args>),
    /// Append to a journal, read, check, repair and compact it.
    Journal(journal::Args),
    /// Time operations, compare them, report on them.
    Track(track::Args),
    /// Run Weir's own standard workloads and record how long they take.
    Bench(bench::Args),
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
        Command::Serve(args) => serve::run(&args, terminal),
        Command::Write(args) => write::run(&args, terminal),
        Command::Sql(args) => sql::run(&args, terminal),
        Command::Export(args) => export::run(&args, terminal),
        Command::Quickstart(args) => quickstart::run(&args, terminal),
        Command::Tables(args) => tables::run(&args, terminal),
        Command::Compact(args) => tables::compact(&args, terminal),
        Command::Queries(args) => queries::run(&args, terminal),
        Command::Token(args) => token::run(&args, terminal),
        Command::Doctor(args) => doctor::run(&args, terminal),
        Command::Config => terminal::print(config::DEFAULT),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
            terminal::print(String::from_utf8_lossy(&script))
        }
        Command::Cache(args) => cache::run(args, terminal),
        Command::Deps(args) => deps::run(*args, terminal),
        Command::Access(args) => access::run(*args, terminal),
        Command::Ops(args) => ops::run(*args, terminal),
        Command::Journal(args) => journal::run(args, terminal),
        Command::Track(args) => track::run(args, terminal),
        Command::Bench(args) => bench::run(&args, terminal),
    }
}
