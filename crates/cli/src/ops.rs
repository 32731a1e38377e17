//! `weir ops`: the history of bulk operations, and undoing, resuming, checking and moving it.

pub(crate) mod history;
mod import;
pub(crate) mod output;
mod tables;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use serde_json::json;
use weir_base::id::Uuid;
use weir_ops::{Filter, History, Listing, Operation, Plan, Policy, State, Summary, Target, UndoOptions, View};

use crate::access::ConnectArgs;
use crate::exit::Exit;
use crate::terminal::{Terminal, print};
use history::{DriftArgs, HistoryArgs, RunArgs};
use output::Format;

/// `weir ops`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weir ops list --principal alice --state partial
  weir ops rollback 0190c7 --dry-run
  weir ops rollback --run 0190c7d2 --yes
  weir ops resume 0190c7

Exit codes: 0 done; 3 no such operation; 4 stale plan or conflict; 5 partial; 6 unavailable; 7 damaged history.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List operations, newest first.
    List(ListArgs),
    /// Show one operation with all entries and reasons.
    Show(ShowArgs),
    /// Show what undoing an operation would do, or write it as a plan file; or what a DELETE or DROP would do.
    Plan(UndoArgs),
    /// Undo operations, as one new operation.
    Rollback(UndoArgs),
    /// Go on with an operation that was interrupted or is partial.
    Resume(ResumeArgs),
    /// Figures by kind of operation.
    Stats(StatsArgs),
    /// Take over the history of awsideman: operations.json and rollbacks.json, rotated or gzipped.
    Import(import::ImportArgs),
    /// Print every operation as a line of JSON.
    Export(ExportArgs),
    /// Check the history: damage, torn ends, the chain; exit 7 when something is wrong.
    Verify(VerifyArgs),
    /// Remove finished operations past their time.
    Retain(RetainArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Of this kind, such as assign, revoke, undo.
    #[arg(long)]
    kind: Option<String>,
    /// With this principal, by name or id; * stands for anything.
    #[arg(long)]
    principal: Option<String>,
    /// With this permission set, by name or ARN.
    #[arg(long)]
    permission_set: Option<String>,
    /// With this account, by id or name.
    #[arg(long)]
    account: Option<String>,
    /// In this state: running, done, partial, failed.
    #[arg(long)]
    state: Option<State>,
    /// Of this run.
    #[arg(long)]
    run: Option<String>,
    /// Begun at or after: a time, or an age such as 7d.
    #[arg(long)]
    since: Option<String>,
    /// Begun before.
    #[arg(long)]
    until: Option<String>,
    /// At most so many.
    #[arg(long)]
    limit: Option<usize>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Its id, or a beginning that no other has.
    id: String,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct UndoArgs {
    #[command(flatten)]
    history: HistoryArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    run_args: RunArgs,
    #[command(flatten)]
    drift: DriftArgs,
    /// Its id, or a beginning that no other has; for `plan` also a statement such as "DELETE FROM cpu WHERE host = 'a'".
    #[arg(required_unless_present_any = ["run", "since"])]
    id: Option<String>,
    /// The database of a statement.
    #[arg(long, value_name = "NAME", default_value = "default")]
    db: String,
    /// All operations of a run.
    #[arg(long, conflicts_with = "id")]
    run: Option<String>,
    /// All operations since: a time, or an age such as 2h. Undone ones are left out.
    #[arg(long, conflicts_with_all = ["id", "run"])]
    since: Option<String>,
    /// Only entries such as principal=alice,account=1111*.
    #[arg(long, value_name = "FILTER", default_value = "")]
    only: Filter,
    /// Write the plan to a file; `weir access apply` carries it out.
    #[arg(long, value_name = "FILE")]
    out: Option<std::path::PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ResumeArgs {
    #[command(flatten)]
    history: HistoryArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    run_args: RunArgs,
    #[command(flatten)]
    drift: DriftArgs,
    /// Its id, or a beginning that no other has [default: the newest that is not done].
    id: Option<String>,
}

#[derive(Debug, clap::Args)]
struct StatsArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    #[command(flatten)]
    history: HistoryArgs,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// A chain value noted earlier that must still be in the chain.
    #[arg(long)]
    head: Option<String>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct RetainArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Keep the newest so many at most.
    #[arg(long)]
    count: Option<usize>,
    /// Also remove what is unfinished or unverified.
    #[arg(long)]
    unfinished: bool,
}

/// Runs `weir ops`.
pub(crate) fn run(args: Args, terminal: &Terminal) -> anyhow::Result<Exit> {
    match args.command {
        Command::List(args) => list(&args, terminal),
        Command::Show(args) => show(&args, terminal),
        Command::Plan(args) => undo(&args, true, terminal),
        Command::Rollback(args) => undo(&args, args.run_args.dry_run, terminal),
        Command::Resume(args) => resume(&args, terminal),
        Command::Stats(args) => stats(&args, terminal),
        Command::Import(args) => import::run(&args, terminal),
        Command::Export(args) => export(&args, terminal),
        Command::Verify(args) => verify(&args),
        Command::Retain(args) => retain(&args, terminal),
    }
}

fn list(args: &ListArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let (view, _) = args.history.view(terminal)?;
    let mut filter = Filter::default();
    for (field, pattern) in
        [("principal", &args.principal), ("permission_set", &args.permission_set), ("account", &args.account)]
    {
        if let Some(pattern) = pattern {
            filter.push(field, pattern)?;
        }
    }
    let listing = Listing {
        kind: args.kind.clone(),
        filter,
        state: args.state,
        run: args.run.as_deref().map(|run| run_of(&view, run)).transpose()?,
        since: args.since.as_deref().map(history::time_of).transpose()?,
        until: args.until.as_deref().map(history::time_of).transpose()?,
        limit: args.limit,
    };
    let (summaries, lost) = view.list(&listing)?;
    print(output::summaries(args.format, &summaries)?)?;
    Ok(history::tell_lost(&lost, terminal))
}

/// The run that begins so.
fn run_of(view: &View, prefix: &str) -> anyhow::Result<Uuid> {
    if let Ok(run) = prefix.parse() {
        return Ok(run);
    }
    let (summaries, _) = view.list(&Listing::default())?;
    let mut runs: Vec<Uuid> = summaries.iter().map(|summary| summary.run).collect();
    runs.retain(|run| run.to_string().starts_with(&prefix.to_lowercase()));
    runs.dedup();
    let kind = if runs.is_empty() { weir_base::Kind::NotFound } else { weir_base::Kind::Conflict };
    match runs[..] {
        [run] => Ok(run),
        _ => Err(weir_ops::Error::new(kind, format!("{} runs begin with '{prefix}'", runs.len())).into()),
    }
}

fn show(args: &ShowArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let (view, _) = args.history.view(terminal)?;
    let (operation, lost) = view.show(&args.id)?;
    print(output::operation(args.format, &operation)?)?;
    Ok(history::tell_lost(&lost, terminal))
}

/// The operations that are meant, newest first.
fn chosen(args: &UndoArgs, view: &View) -> anyhow::Result<Vec<Uuid>> {
    if let Some(id) = &args.id {
        return Ok(vec![view.show(id)?.0.id]);
    }
    let mut listing = Listing::default();
    if let Some(run) = &args.run {
        listing.run = Some(run_of(view, run)?);
    }
    if let Some(since) = &args.since {
        listing.since = Some(history::time_of(since)?);
    }
    let (mut summaries, _) = view.list(&listing)?;
    if args.since.is_some() {
        // What was undone, and what undid it, together changed nothing.
        let inside: std::collections::HashSet<Uuid> = summaries.iter().map(|summary| summary.id).collect();
        let cancels =
            |summary: &Summary| !summary.undoes.is_empty() && summary.undoes.iter().all(|id| inside.contains(id));
        summaries.retain(|summary| summary.undone_by.is_none() && !cancels(summary));
    }
    if summaries.is_empty() {
        return Err(weir_ops::Error::new(weir_base::Kind::NotFound, "no such operation").into());
    }
    Ok(summaries.iter().map(|summary| summary.id).collect())
}

/// Whether what was given for an id is a statement: no id has a blank in it.
fn statement(args: &UndoArgs) -> Option<&str> {
    args.id.as_deref().map(str::trim).filter(|id| id.contains(char::is_whitespace))
}

fn undo(args: &UndoArgs, plan_only: bool, terminal: &Terminal) -> anyhow::Result<Exit> {
    if let Some(statement) = statement(args) {
        ensure!(plan_only, "'{statement}' is no operation: `weir sql` carries statements out");
        return tables::preview(args, statement, terminal);
    }
    let (view, _) = args.history.view(terminal)?;
    let ids = chosen(args, &view)?;
    let first = view.show(&ids[0].to_string())?.0;
    if first.target == weir_engine::operations::TARGET {
        return tables::undo(args, &view, &ids, plan_only, terminal);
    }
    let (history, config) = args.history.open("weir ops", terminal)?;
    let view = history.view()?;
    let client = args.connect.connect(&history)?;
    let target = crate::access::target_of(&client, &first.target)?;
    let options = args.run_args.options();
    if !plan_only {
        // What is in flight is found out about first: only then is it known what there is to undo.
        for id in &ids {
            let operation = view.show(&id.to_string())?.0;
            if operation.state == State::Running {
                terminal.say(format!("operation {id} was interrupted: settling it first"));
                weir_ops::settle(&history, &target, *id, &options)?;
            }
        }
    }
    let undo = UndoOptions { policy: args.drift.policy(), only: args.only.clone() };
    let plan = Plan::undo(&history, &target, &history::actor(), &ids, &undo)?;
    plan.check_protected(&config.operations.protected)?;
    finish(
        &Finish { history: &history, target: &target, run: &args.run_args, out: args.out.as_deref(), plan_only },
        &plan,
        terminal,
    )
}

/// What a plan is finished with.
pub(crate) struct Finish<'a> {
    pub(crate) history: &'a History,
    pub(crate) target: &'a dyn Target,
    pub(crate) run: &'a RunArgs,
    pub(crate) out: Option<&'a std::path::Path>,
    pub(crate) plan_only: bool,
}

/// Shows a plan, asks, and carries it out; or writes it.
pub(crate) fn finish(with: &Finish<'_>, plan: &Plan, terminal: &Terminal) -> anyhow::Result<Exit> {
    if let Some(path) = with.out {
        history::write_file(path, &plan.to_bytes()?)?;
        terminal.say(format!("wrote {}", path.display()));
    }
    let blocked =
        plan.policy == Policy::Refuse && plan.notes.iter().any(|note| note.kind != weir_ops::plan::NoteKind::Skip);
    if with.plan_only {
        print(output::plan(with.run.format, plan)?)?;
        return Ok(if blocked { Exit::Conflict } else { Exit::Done });
    }
    if plan.is_empty() && !blocked {
        print(output::nothing(with.run.format, plan)?)?;
        return Ok(Exit::Done);
    }
    terminal.say(output::plan(Format::Table, plan)?.trim_end());
    if !blocked {
        with.run.confirm(plan.entries.len())?;
    }
    let operations = carry_out(with, plan, terminal)?;
    print(output::outcome(with.run.format, &operations)?)?;
    Ok(exit_of(&operations))
}

/// Applies a plan and tells how far it is.
fn carry_out(with: &Finish<'_>, plan: &Plan, terminal: &Terminal) -> anyhow::Result<Vec<Operation>> {
    let operation = with.run.told(plan.entries.len() as u64, terminal, |step| {
        let options = weir_ops::RunOptions { on_step: Some(step), ..with.run.options() };
        weir_ops::apply(with.history, with.target, plan, &options)
    })?;
    Ok(vec![operation])
}

fn exit_of(operations: &[Operation]) -> Exit {
    if operations.iter().all(|operation| operation.state == State::Done) { Exit::Done } else { Exit::Partial }
}

fn resume(args: &ResumeArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let (view, _) = args.history.view(terminal)?;
    let id = match &args.id {
        Some(id) => view.resolve(id)?,
        None => {
            let (summaries, _) = view.list(&Listing::default())?;
            let open = summaries.iter().find(|summary| summary.state != State::Done && summary.undone_by.is_none());
            match open {
                Some(summary) => summary.id,
                None => {
                    terminal.say("nothing to resume");
                    return Ok(Exit::Done);
                }
            }
        }
    };
    let operation = view.show(&id.to_string())?.0;
    if operation.target == weir_engine::operations::TARGET {
        return tables::resume(args, &operation, terminal);
    }
    let (history, config) = args.history.open("weir ops", terminal)?;
    let operation = history.view()?.show(&id.to_string())?.0;
    let protected =
        operation.entries.iter().any(|entry| config.operations.protected.iter().any(|one| one.holds(entry)));
    ensure!(!protected, "operation {id} touches what is protected by the configuration");
    let client = args.connect.connect(&history)?;
    let target = crate::access::target_of(&client, &operation.target)?;
    let left = operation.entries.len() as u32 - operation.count(weir_ops::Step::Done);
    if left > 0 && operation.state != State::Done {
        args.run_args.confirm(left as usize)?;
    }
    let resumed = args.run_args.told(u64::from(left), terminal, |step| {
        let policy = args.drift.policy();
        let options = weir_ops::RunOptions { on_step: Some(step), policy, ..args.run_args.options() };
        weir_ops::resume(&history, &target, id, &options)
    });
    let operations = vec![resumed?];
    print(output::outcome(args.run_args.format, &operations)?)?;
    Ok(exit_of(&operations))
}

fn stats(args: &StatsArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let (view, _) = args.history.view(terminal)?;
    let (summaries, lost) = view.list(&Listing::default())?;
    print(output::statistics(args.format, &weir_ops::statistics::statistics(&summaries))?)?;
    Ok(history::tell_lost(&lost, terminal))
}

fn export(args: &ExportArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    use std::io::Write;
    let (view, _) = args.history.view(terminal)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let lost = view.for_each(&mut |operation| {
        let line = serde_json::to_string(operation).unwrap_or_default();
        writeln!(out, "{line}").map_err(|error| weir_ops::Error::io("cannot write", error))
    })?;
    out.flush().context("cannot write")?;
    Ok(history::tell_lost(&lost, terminal))
}

fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let dir = args.history.dir()?;
    let found = weir_journal::verify(&weir_journal::Env::system(), &dir.join("log"))?;
    let view = View::open(weir_ops::Env::system(), &dir)?;
    let chain =
        if found.damage.is_empty() { Some(weir_ops::verify_chain(view.reader(), args.head.as_deref())?) } else { None };
    let bad_chain = chain.as_ref().is_some_and(|chain| !chain.problems.is_empty() || chain.holds_head == Some(false));
    let damage: Vec<String> =
        found.damage.iter().map(|lost| format!("{} at {}: {}", lost.file.display(), lost.offset, lost.what)).collect();
    let torn = found.torn.as_ref().map(|torn| format!("{} bytes at {}", torn.bytes, torn.offset));
    let answer = json!({
        "records": found.records, "damage": damage, "torn": torn, "chain": chain,
        "ok": damage.is_empty() && !bad_chain,
    });
    print(match args.format {
        Format::Json => format!("{answer}\n"),
        Format::Table | Format::Csv => output::verification(&answer),
    })?;
    Ok(if damage.is_empty() && !bad_chain { Exit::Done } else { Exit::Damaged })
}

fn retain(args: &RetainArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let (history, config) = args.history.open("weir ops", terminal)?;
    if args.count == Some(0) && !args.unfinished {
        bail!("--count 0 would keep nothing that is finished: give at least 1");
    }
    let retention = weir_ops::Retention {
        age_max: Some(config.operations.keep),
        count_max: args.count,
        unfinished: args.unfinished,
    };
    let retained = history.retain(&retention)?;
    terminal.say(format!("removed {} operations, {} are left", retained.removed, retained.left));
    Ok(Exit::Done)
}
