//! `weir deps`: the licence and policy gate for Python environments and lock files.

mod input;
mod output;
mod rules;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use weir_base::OsFileSystem;
use weir_deps::check::{self, Report};
use weir_deps::finding::Level;
use weir_deps::policy::Policy;
use weir_deps::report::{self, diff};
use weir_deps::{advisory, history};

use crate::exit::Exit;
use crate::terminal::Terminal;
use output::{Format, Timings};
use rules::RuleArgs;

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
    /// Show what changed since BASE: packages added, removed, upgraded, licences changed.
    Diff(DiffArgs),
    /// Say everything about one package: its licence and where it was read, who pulled it in, what would fix it.
    Explain(ExplainArgs),
    /// Write a software bill of materials.
    Sbom(SbomArgs),
    /// Write a NOTICE file with the texts of all licences.
    Notice(ListArgs),
    /// Fetch what a check needs, so that it can run offline.
    Warm(WarmArgs),
    /// Compile an advisory export (OSV format: zip or folder) to the index that checks use.
    Update(UpdateArgs),
    /// Say whether data, cache and index are in order; exit 1 when not.
    Health(HealthArgs),
    /// Write a commented weir-deps.toml.
    Init(InitArgs),
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
    /// A second policy, judged side by side; only the first decides.
    #[arg(long, value_name = "FILE")]
    shadow: Option<PathBuf>,
    /// Keep the run, for `weir deps diff last` and alerts about changed licences.
    #[arg(long)]
    record: bool,
    /// Print to stderr how long each stage took.
    #[arg(long)]
    timings: bool,
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
    /// Write the answer to a file instead of stdout.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    /// What to compare with: an environment, a lock file, a stored report, or `last` for the last recorded run.
    base: String,
    #[command(flatten)]
    input: input::InputArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// Form of the answer: table or json.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Exit 1 when a change is at or above this level; a changed licence is at least warn.
    #[arg(long, default_value = "deny")]
    fail_on: Level,
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
struct SbomArgs {
    #[command(flatten)]
    input: input::InputArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// cyclonedx (1.5) or spdx (2.3).
    #[arg(long, value_enum, default_value = "cyclonedx")]
    format: Format,
    /// Write it to a file instead of stdout.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct WarmArgs {
    #[command(flatten)]
    input: input::InputArgs,
}

#[derive(Debug, clap::Args)]
struct UpdateArgs {
    /// A zip file or folder of OSV records.
    export: PathBuf,
    /// Where to write the index [default: deps/advisories in the data folder].
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct HealthArgs {
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
        Command::Diff(args) => diff(&args, terminal),
        Command::Explain(args) => explain(&args, terminal),
        Command::Sbom(args) => sbom(&args, terminal),
        Command::Notice(args) => notice(&args, terminal),
        Command::Warm(args) => warm(&args, terminal),
        Command::Update(args) => update(&args, terminal),
        Command::Health(args) => health(&args, terminal),
        Command::Init(args) => rules::init(&args.file, terminal),
    }
}

fn check(args: &CheckArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let mut timings = Timings::new();
    let policy = rules::read_policy(&args.rules, terminal)?;
    timings.mark("policy");
    let inputs = input::read(&args.input, &policy)?;
    timings.mark("read");
    let shadow = args.shadow.as_ref().map(|path| rules::parse_policy(path)).transpose()?;
    let shadow = shadow.map(|shadow| judged(inputs.clone(), &shadow, &args.rules));
    let mut report = judged(inputs, &policy, &args.rules);
    timings.mark("judge");
    let runs = input::data_folder()?.join("deps").join("runs");
    if args.record {
        let before = history::last(&OsFileSystem, &runs, &report.source, report.time)?;
        rules::alert(before.as_ref(), &mut report);
        history::record(&OsFileSystem, &runs, &report)?;
        timings.mark("record");
    }
    let text = output::render(args.format, &report, &policy, args.fail_on)?;
    output::write(args.output.as_deref(), &text)?;
    if let Some(shadow) = shadow {
        terminal.say(format!("with the policy in the shadow: {}", report::table::summary(&shadow).trim_end()));
        for change in rules::side_by_side(&report, &shadow) {
            terminal.say(change);
        }
    }
    timings.mark("report");
    if args.timings {
        terminal.say(timings);
    }
    Ok(if report.fails_at(args.fail_on) { Exit::Failed } else { Exit::Done })
}

fn judged(inputs: input::Inputs, policy: &Policy, rules: &RuleArgs) -> Report {
    let advisories = rules.advisories().map(|path| {
        let names = inputs.set.packages.iter().map(|package| package.name.as_str());
        advisory::Advisories::open(&OsFileSystem, &path, names)
    });
    let context = check::Context {
        policy,
        now: input::now(),
        advisories: advisories.as_ref(),
        newest: (!inputs.newest.is_empty()).then_some(&inputs.newest),
    };
    check::check(inputs.set, context)
}

fn list(args: &ListArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = judged(input::read(&args.input, &policy)?, &policy, &args.rules);
    let text = match args.format {
        Format::Table => report::table::list(&report),
        other => output::render(other, &report, &policy, Level::Deny)?,
    };
    output::write(args.output.as_deref(), &text)?;
    Ok(Exit::Done)
}

fn diff(args: &DiffArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let now = judged(input::read(&args.input, &policy)?, &policy, &args.rules);
    let base = if args.base == "last" {
        let runs = input::data_folder()?.join("deps").join("runs");
        history::last(&OsFileSystem, &runs, &now.source, now.time)?
            .context("no run of this source is recorded (check --record)")?
    } else {
        let path = PathBuf::from(&args.base);
        match history::read(&OsFileSystem, &path) {
            Ok(report) => report,
            Err(_) => judged(input::read(&args.input.at(path), &policy)?, &policy, &args.rules),
        }
    };
    let changes = diff::compare(&base, &now);
    let text = if args.format == Format::Json { diff::json(&changes) } else { diff::table(&changes) };
    output::write(None, &text)?;
    Ok(if changes.iter().any(|change| change.level >= args.fail_on) { Exit::Failed } else { Exit::Done })
}

fn explain(args: &ExplainArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = judged(input::read(&args.input, &policy)?, &policy, &args.rules);
    let name = weir_deps::name::normalize(&args.package)?;
    let Some(package) = report.packages.iter().find(|package| package.name == name) else {
        anyhow::bail!(weir_deps::Error::new(weir_base::Kind::NotFound, format!("{name} is not among the packages")));
    };
    output::write(None, &report::table::explain(package))?;
    Ok(Exit::Done)
}

fn sbom(args: &SbomArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = judged(input::read(&args.input, &policy)?, &policy, &args.rules);
    output::write(args.output.as_deref(), &output::render(args.format, &report, &policy, Level::Deny)?)?;
    Ok(Exit::Done)
}

fn notice(args: &ListArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = judged(input::read(&args.input, &policy)?, &policy, &args.rules);
    output::write(args.output.as_deref(), &report::notice::report(&report, &OsFileSystem))?;
    Ok(Exit::Done)
}

fn warm(args: &WarmArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = Policy::default();
    let inputs = input::read(&args.input, &policy)?;
    let missing =
        inputs.set.packages.iter().filter(|package| package.metadata.is_none() && package.stated_license.is_none());
    let names: Vec<String> = missing.map(|package| format!("{} {}", package.name, package.version)).collect();
    terminal.say(format!("{} packages, {} without metadata", inputs.set.packages.len(), names.len()));
    for name in &names {
        terminal.warn(format!("no metadata of {name}"));
    }
    Ok(if names.is_empty() { Exit::Done } else { Exit::Partial })
}

fn update(args: &UpdateArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let to = match &args.to {
        Some(to) => to.clone(),
        None => rules::advisories_file()?,
    };
    let compiled = advisory::compile(&OsFileSystem, &args.export, &to, input::now())?;
    for broken in &compiled.broken {
        terminal.warn(broken);
    }
    terminal.say(format!("{}: {} records about {} packages", to.display(), compiled.records, compiled.packages));
    Ok(if compiled.broken.is_empty() { Exit::Done } else { Exit::Partial })
}

fn health(args: &HealthArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let mut lines = vec![format!("policy: profile {}, {} warnings", policy.profile, policy.warnings.len())];
    let mut sound = policy.warnings.is_empty();
    match args.rules.advisories() {
        Some(path) => {
            let found = advisory::Advisories::open(&OsFileSystem, &path, std::iter::empty());
            let problems = found.problems(&policy);
            sound &= problems.is_empty();
            lines.push(format!("advisories: {} ({} problems)", path.display(), problems.len()));
            lines.extend(problems.into_iter().map(|problem| format!("  {}", problem.message)));
        }
        None => lines.push("advisories: none are compiled (weir deps update)".into()),
    }
    match input::read(&args.input, &policy) {
        Ok(inputs) => {
            let missing = inputs.set.packages.iter().filter(|package| package.metadata.is_none()).count();
            sound &= missing == 0;
            lines.push(format!("input: {} packages, {missing} without metadata", inputs.set.packages.len()));
            let (hits, misses) = inputs.store_counts;
            lines.push(format!("cache: {hits} hits, {misses} misses in this run"));
        }
        Err(error) => {
            sound = false;
            lines.push(format!("input: {error:#}"));
        }
    }
    output::write(None, &format!("{}\n", lines.join("\n")))?;
    Ok(if sound { Exit::Done } else { Exit::Failed })
}
