//! `weir deps`: the licence and policy gate for Python environments and lock files.

mod background;
mod input;
mod output;
mod pip;
mod record;
mod rules;
mod stat;

use std::path::PathBuf;

use clap::Subcommand;
use weir_base::OsFileSystem;
use weir_deps::check::{self, Report};
use weir_deps::finding::{Code, Level};
use weir_deps::licence::newer;
use weir_deps::policy::Policy;
use weir_deps::report::{self, diff};
use weir_deps::{advisory, history};

use crate::exit::Exit;
use crate::terminal::Terminal;
use output::{Format, Timings};
pub(crate) use record::send_before_query;
use record::{AlertArgs, RecordArgs, When};
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
    /// Bring newer data: advisories (OSV or PyPA export: zip or folder), or licences (the list of SPDX, an alias file).
    Update(UpdateArgs),
    /// Say whether data, cache and index are in order; exit 1 when not.
    Health(HealthArgs),
    /// Say how much the cache helped.
    Stat(stat::StatArgs),
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
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    alerts: AlertArgs,
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
    /// Name of the history that `last` is taken from [default: the path of the input].
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
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
    /// Do so in a process of its own, and return at once.
    #[arg(long)]
    background: bool,
}

#[derive(Debug, clap::Args)]
struct UpdateArgs {
    /// A zip file or folder of OSV or PyPA records; or licenses.json or exceptions.json of SPDX, or an alias file.
    #[arg(value_name = "FILE")]
    export: PathBuf,
    /// Where to write what it gives [default: deps/advisories or deps/licences in the data folder].
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct HealthArgs {
    #[command(flatten)]
    input: input::InputArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// Name of the history to compare with [default: the path of the input].
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    #[command(flatten)]
    alerts: AlertArgs,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Where to write it.
    #[arg(default_value = "weir-deps.toml")]
    file: PathBuf,
}

/// Runs `weir deps`.
pub(crate) fn run(args: Args, terminal: &Terminal) -> anyhow::Result<Exit> {
    rules::install_newer_licences(terminal);
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
        Command::Stat(args) => stat::run(&args),
        Command::Init(args) => rules::init(&args.file, terminal),
    }
}

fn check(args: &CheckArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let mut timings = Timings::new();
    let policy = rules::read_policy(&args.rules, terminal)?;
    timings.mark("policy");
    let inputs = input::read(&args.input, &policy, &mut timings)?;
    let shadow = args.shadow.as_ref().map(|path| rules::parse_policy(path)).transpose()?;
    let shadow = shadow.map(|shadow| judged(inputs.clone(), &shadow, &args.rules));
    let mut report = judged(inputs, &policy, &args.rules);
    timings.mark("judge");
    let mut before = None;
    if args.record.record != When::Off {
        report.project = record::project_of(args.record.project.as_ref(), &report);
        before = history::last(&OsFileSystem, &record::runs_folder()?, &report.project, report.time)?;
        rules::alert(before.as_ref(), &mut report);
        timings.mark("compare");
    }
    let text = output::render(args.format, &report, &policy, args.fail_on)?;
    output::write(args.output.as_deref(), &text)?;
    timings.mark("report");
    if let Some(shadow) = shadow {
        terminal.say(format!("with the policy in the shadow: {}", report::table::summary(&shadow).trim_end()));
        for change in rules::side_by_side(&report, &shadow) {
            terminal.say(change);
        }
    }
    let alerted = record::tell(&args.alerts, before.as_ref(), &report, terminal)?;
    record::keep(&args.record, &report, terminal)?;
    timings.mark("record");
    if args.timings {
        terminal.say(timings);
    }
    Ok(if report.fails_at(args.fail_on) { Exit::Failed } else { alerted })
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

fn read_and_judge(input: &input::InputArgs, policy: &Policy, rules: &RuleArgs) -> anyhow::Result<Report> {
    Ok(judged(input::read(input, policy, &mut Timings::new())?, policy, rules))
}

fn list(args: &ListArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = read_and_judge(&args.input, &policy, &args.rules)?;
    let text = match args.format {
        Format::Table => report::table::list(&report),
        other => output::render(other, &report, &policy, Level::Deny)?,
    };
    output::write(args.output.as_deref(), &text)?;
    Ok(Exit::Done)
}

fn diff(args: &DiffArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let now = read_and_judge(&args.input, &policy, &args.rules)?;
    let base = if args.base == "last" {
        let project = record::project_of(args.project.as_ref(), &now);
        let found = history::last(&OsFileSystem, &record::runs_folder()?, &project, now.time)?;
        let none = || weir_deps::Error::new(weir_base::Kind::NotFound, format!("no run of {project} is recorded"));
        found.ok_or_else(none)?
    } else {
        let path = PathBuf::from(&args.base);
        match history::read(&OsFileSystem, &path) {
            Ok(report) => report,
            Err(_) => read_and_judge(&args.input.at(path), &policy, &args.rules)?,
        }
    };
    let changes = diff::compare(&base, &now);
    let text = if args.format == Format::Json { diff::json(&changes) } else { diff::table(&changes) };
    output::write(None, &text)?;
    Ok(if changes.iter().any(|change| change.level >= args.fail_on) { Exit::Failed } else { Exit::Done })
}

fn explain(args: &ExplainArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = read_and_judge(&args.input, &policy, &args.rules)?;
    let name = weir_deps::name::normalize(&args.package)?;
    let Some(package) = report.packages.iter().find(|package| package.name == name) else {
        anyhow::bail!(weir_deps::Error::new(weir_base::Kind::NotFound, format!("{name} is not among the packages")));
    };
    output::write(None, &report::table::explain(package))?;
    Ok(Exit::Done)
}

fn sbom(args: &SbomArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = read_and_judge(&args.input, &policy, &args.rules)?;
    output::write(args.output.as_deref(), &output::render(args.format, &report, &policy, Level::Deny)?)?;
    Ok(Exit::Done)
}

fn notice(args: &ListArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let policy = rules::read_policy(&args.rules, terminal)?;
    let report = read_and_judge(&args.input, &policy, &args.rules)?;
    output::write(args.output.as_deref(), &report::notice::report(&report, &OsFileSystem))?;
    Ok(Exit::Done)
}

fn warm(args: &WarmArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    if args.background {
        return background::start(terminal);
    }
    let policy = Policy::default();
    let inputs = input::read(&args.input, &policy, &mut Timings::new())?;
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
    if rules::is_licence_data(&args.export) {
        let to = args.to.clone().map_or_else(rules::licences_file, Ok)?;
        let data = newer::merge(&OsFileSystem, &args.export, &to)?;
        terminal.say(format!(
            "{}: {} licences, {} exceptions and {} names that this binary does not have",
            to.display(),
            data.licenses.len(),
            data.exceptions.len(),
            data.aliases.len()
        ));
        return Ok(Exit::Done);
    }
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
    let mut alerted = Exit::Done;
    match read_and_judge(&args.input, &policy, &args.rules) {
        Ok(mut report) => {
            report.project = record::project_of(args.project.as_ref(), &report);
            let is_missing =
                |one: &&check::Judged| one.findings.iter().any(|finding| finding.code == Code::DataMissing);
            let missing = report.packages.iter().filter(is_missing).count();
            sound &= missing == 0;
            lines.push(format!("input: {} packages, {missing} without metadata", report.packages.len()));
            lines.push(format!("cache: {} hits, {} misses in this run", report.cache.hits, report.cache.misses));
            let before = history::last(&OsFileSystem, &record::runs_folder()?, &report.project, report.time)?;
            alerted = record::tell(&args.alerts, before.as_ref(), &report, terminal)?;
        }
        Err(error) => {
            sound = false;
            lines.push(format!("input: {error:#}"));
        }
    }
    output::write(None, &format!("{}\n", lines.join("\n")))?;
    Ok(if sound { alerted } else { Exit::Failed })
}
