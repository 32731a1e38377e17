//! `weir deps`: the licence and policy gate for Python environments and lock files.

mod input;
mod output;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use weir_deps::check::{self, Report};
use weir_deps::finding::Level;
use weir_deps::policy::{DEFAULT_TOML, Policy};
use weir_deps::report;

use crate::exit::Exit;
use crate::terminal::Terminal;

/// `weir deps`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge every package by the policy; exit 1 when a finding is at or above --fail-on.
    Check(CheckArgs),
    /// List every package with its licence.
    List(ListArgs),
    /// Say everything about one package: its licence and where it was read, who pulled it in, what would fix it.
    Explain(ExplainArgs),
    /// Write a commented weir-deps.toml.
    Init(InitArgs),
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// The whole answer.
    Json,
    /// What pip-licenses prints.
    PipLicensesJson,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    input: input::InputArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// Form of the answer on stdout.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Exit 1 from this level on: warn or deny.
    #[arg(long, default_value = "deny")]
    fail_on: Level,
    /// Write the answer to a file instead of stdout.
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Print to stderr how long each stage took.
    #[arg(long)]
    timings: bool,
}

#[derive(Debug, clap::Args)]
struct RuleArgs {
    /// The policy; by default weir-deps.toml in the current folder, else the built-in one.
    #[arg(long)]
    policy: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    input: input::InputArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// Name of the package.
    package: String,
    #[command(flatten)]
    input: input::InputArgs,
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Where to write it.
    #[arg(default_value = "weir-deps.toml")]
    file: PathBuf,
}

/// Runs `weir deps`.
pub(crate) fn run(args: Args, terminal: &Terminal) -> anyhow::Result<Exit> {
    match args.command {
        Command::Check(args) => check(&args, terminal),
        Command::List(args) => list(&args, terminal),
        Command::Explain(args) => explain(&args, terminal),
        Command::Init(args) => init(&args, terminal),
    }
}

fn check(args: &CheckArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let mut timings = output::Timings::new();
    let policy = read_policy(&args.rules, terminal)?;
    timings.mark("policy");
    let report = judged(&args.input, &policy, &mut timings)?;
    let text = match args.format {
        Format::Table => report::table::check(&report, Level::Warn),
        Format::Json => report::json::report(&report),
        Format::PipLicensesJson => report::json::pip_licenses(&report),
    };
    output::write(args.output.as_deref(), &text)?;
    timings.mark("report");
    if args.timings {
        terminal.say(timings);
    }
    Ok(if report.fails_at(args.fail_on) { Exit::Failed } else { Exit::Done })
}

fn judged(args: &input::InputArgs, policy: &Policy, timings: &mut output::Timings) -> anyhow::Result<Report> {
    let set = input::read(args)?;
    timings.mark("read");
    let context = check::Context { policy, now: input::now(), advisories: None, newest: None };
    let report = check::check(set, context);
    timings.mark("judge");
    Ok(report)
}

fn read_policy(args: &RuleArgs, terminal: &Terminal) -> anyhow::Result<Policy> {
    let policy = match &args.policy {
        Some(path) => parse_policy(path)?,
        None if PathBuf::from("weir-deps.toml").exists() => parse_policy(&PathBuf::from("weir-deps.toml"))?,
        None => Policy::default(),
    };
    for warning in &policy.warnings {
        terminal.warn(warning);
    }
    Ok(policy)
}

fn parse_policy(path: &PathBuf) -> anyhow::Result<Policy> {
    let bytes = input::read_file(path, weir_deps::policy::POLICY_BYTES_MAX as u64)?;
    Ok(Policy::parse(&String::from_utf8_lossy(&bytes)).with_context(|| format!("{}", path.display()))?)
}

fn list(args: &ListArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = read_policy(&args.rules, terminal)?;
    let report = judged(&args.input, &policy, &mut output::Timings::new())?;
    let text = match args.format {
        Format::Table => report::table::list(&report),
        Format::Json => report::json::report(&report),
        Format::PipLicensesJson => report::json::pip_licenses(&report),
    };
    output::write(None, &text)?;
    Ok(Exit::Done)
}

fn explain(args: &ExplainArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = read_policy(&args.rules, terminal)?;
    let report = judged(&args.input, &policy, &mut output::Timings::new())?;
    let name = weir_deps::name::normalize(&args.package)?;
    let Some(package) = report.packages.iter().find(|package| package.name == name) else {
        anyhow::bail!(weir_deps::Error::new(weir_base::Kind::NotFound, format!("{name} is not among the packages")));
    };
    output::write(None, &report::table::explain(package))?;
    Ok(Exit::Done)
}

#[allow(clippy::disallowed_methods, reason = "a file of the user's, made once, never replaced")]
fn init(args: &InitArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.file)
        .with_context(|| format!("cannot make {}", args.file.display()))?;
    file.write_all(DEFAULT_TOML.as_bytes())?;
    terminal.say(format!("wrote {}", args.file.display()));
    Ok(Exit::Done)
}
