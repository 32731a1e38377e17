//! `weir access`: assignments of AWS IAM Identity Center, changed by plans and kept in the history of operations.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use weir_access::file::{self, Action, Form, Row};
use weir_access::listing::{self, Wanted};
use weir_access::{Access, Client, Directory, PrincipalKind, Settings, permission_set};
use weir_ops::{Entry, History, Plan, Target as _};

use crate::exit::Exit;
use crate::ops::history::{HistoryArgs, RunArgs, actor, read_file};
use crate::ops::output::{self, Format};
use crate::ops::{Finish, finish};
use crate::terminal::{Terminal, print};

/// `weir access`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weir access assign --group ops --permission-set ReadOnly --account tag:Stage=prod --dry-run
  weir access plan wishes.csv --out plan.json && weir access apply plan.json --yes
  weir access list --user alice --format csv
  weir ops rollback 0190c7

A file has the columns principal_type,principal,permission_set,account and, if wanted, action (assign or revoke).
Exit codes: 0 done; 2 bad input; 4 stale plan or conflict; 5 partial; 6 unavailable.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give users and groups permission sets in accounts.
    Assign(ChangeArgs),
    /// Take permission sets in accounts away from users and groups.
    Revoke(ChangeArgs),
    /// Carry out a file: CSV, JSON, YAML, or a plan.
    Apply(FileArgs),
    /// Show what a file would do, or write it as a plan.
    Plan(FileArgs),
    /// List assignments.
    List(ListArgs),
    /// Give one principal what another has.
    Copy(CopyArgs),
    /// Make a copy of a permission set, with its policies and boundary.
    Clone(CloneArgs),
}

/// How to reach AWS.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConnectArgs {
    /// Another endpoint for all services, such as that of a test server.
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// Region of the identity center.
    #[arg(long)]
    region: Option<String>,
    /// Profile of the AWS configuration.
    #[arg(long)]
    profile: Option<String>,
    /// Which instance, where there are several.
    #[arg(long, value_name = "ARN")]
    instance_arn: Option<String>,
    /// Requests in any second, over all that is done at once.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests_per_second: u32,
    /// Creations and deletions that AWS may be working on at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=256))]
    outstanding: u16,
    /// Longest time of one request, milliseconds.
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    request_timeout_ms: u64,
    /// Pause between two questions about an accepted request, milliseconds.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    poll_ms: u64,
}

impl ConnectArgs {
    /// Reads the configuration of AWS and connects.
    pub(crate) fn connect(&self, history: &History) -> anyhow::Result<Client> {
        self.connect_with(Arc::clone(&history.env().journal.clock))
    }

    fn connect_with(&self, clock: Arc<dyn weir_base::Clock>) -> anyhow::Result<Client> {
        let settings = Settings {
            endpoint_url: self.endpoint_url.clone(),
            region: self.region.clone(),
            profile: self.profile.clone(),
            credentials: None,
            instance_arn: self.instance_arn.clone(),
            requests_per_second: self.requests_per_second,
            outstanding_max: usize::from(self.outstanding),
            call_deadline: Duration::from_millis(self.request_timeout_ms),
            ask_pause: Duration::from_millis(self.poll_ms),
        };
        Ok(Client::connect(settings, clock)?)
    }
}

/// The target of a client, which must be the one that an operation changed.
pub(crate) fn target_of<'a>(client: &'a Client, name: &str) -> anyhow::Result<Access<'a>> {
    ensure!(name.starts_with(weir_access::TARGET_PREFIX), "operations on {name} are not undone with this command");
    let access = Access::new(client)?;
    if access.name() != name {
        let message = format!("the operation changed {name}, the connection is to {}", access.name());
        return Err(weir_ops::Error::new(weir_base::Kind::Conflict, message).into());
    }
    Ok(access)
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// A user, by name or id.
    #[arg(long)]
    user: Vec<String>,
    /// A group, by name or id.
    #[arg(long)]
    group: Vec<String>,
    /// A permission set, by name or ARN.
    #[arg(long, required = true)]
    permission_set: Vec<String>,
    /// An account: id, name, tag:Key=Value, ou:ID-or-name, or * for all.
    #[arg(long, required = true)]
    account: Vec<String>,
    #[command(flatten)]
    with: WithArgs,
}

#[derive(Debug, clap::Args)]
struct WithArgs {
    #[command(flatten)]
    history: HistoryArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Write the plan to a file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// CSV, JSON or YAML by its name; or a plan that was written before.
    file: PathBuf,
    #[command(flatten)]
    with: WithArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Only of this user, by name or id.
    #[arg(long)]
    user: Vec<String>,
    /// Only of this group.
    #[arg(long)]
    group: Vec<String>,
    /// Only with this permission set, by name or ARN.
    #[arg(long)]
    permission_set: Vec<String>,
    /// Only in this account: id, name, tag:Key=Value, ou:ID-or-name.
    #[arg(long)]
    account: Vec<String>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct CopyArgs {
    /// user:NAME or group:NAME whose assignments are copied.
    from: String,
    /// user:NAME or group:NAME who gets them.
    to: String,
    #[command(flatten)]
    with: WithArgs,
}

#[derive(Debug, clap::Args)]
struct CloneArgs {
    /// The permission set to copy, by name or ARN.
    from: String,
    /// Name of the copy.
    to: String,
    #[command(flatten)]
    with: WithArgs,
}

/// Runs `weir access`.
pub(crate) fn run(args: Args, terminal: &Terminal) -> anyhow::Result<Exit> {
    match args.command {
        Command::Assign(args) => change(&args, Action::Assign, terminal),
        Command::Revoke(args) => change(&args, Action::Revoke, terminal),
        Command::Apply(args) => apply(&args, args.with.run.dry_run, terminal),
        Command::Plan(args) => apply(&args, true, terminal),
        Command::List(args) => list(&args),
        Command::Copy(args) => copy(&args, terminal),
        Command::Clone(args) => clone(&args, terminal),
    }
}

/// Plans wishes and finishes the plan.
fn go(
    with: &WithArgs,
    kind: Option<&str>,
    plan_only: bool,
    terminal: &Terminal,
    wishes: impl FnOnce(&Directory<'_>, &Access<'_>) -> anyhow::Result<Vec<Entry>>,
) -> anyhow::Result<Exit> {
    let (history, config) = with.history.open("weir access", terminal)?;
    let client = with.connect.connect(&history)?;
    let access = Access::new(&client)?;
    let wishes = wishes(&Directory::new(&client), &access)?;
    let kind = kind.unwrap_or_else(|| kind_of(&wishes));
    let plan = Plan::make(&history, &access, &actor(), kind, wishes)?;
    plan.check_protected(&config.operations.protected)?;
    let with = Finish { history: &history, target: &access, run: &with.run, out: with.out.as_deref(), plan_only };
    finish(&with, &plan, terminal)
}

fn kind_of(wishes: &[Entry]) -> &'static str {
    let assigns = wishes.iter().filter(|wish| wish.after.is_some()).count();
    match assigns {
        0 => "revoke",
        count if count == wishes.len() => "assign",
        _ => "apply",
    }
}

fn change(args: &ChangeArgs, action: Action, terminal: &Terminal) -> anyhow::Result<Exit> {
    ensure!(!(args.user.is_empty() && args.group.is_empty()), "give at least one --user or --group");
    let users = args.user.iter().map(|user| (PrincipalKind::User, user));
    let groups = args.group.iter().map(|group| (PrincipalKind::Group, group));
    let mut rows = Vec::new();
    for (principal_type, principal) in users.chain(groups) {
        for permission_set in &args.permission_set {
            for account in &args.account {
                rows.push(Row {
                    principal_type,
                    principal: principal.clone(),
                    permission_set: permission_set.clone(),
                    account: account.clone(),
                    action,
                });
            }
        }
    }
    go(&args.with, None, args.with.run.dry_run, terminal, |directory, _| Ok(file::resolve(directory, &rows)?))
}

fn apply(args: &FileArgs, plan_only: bool, terminal: &Terminal) -> anyhow::Result<Exit> {
    let bytes = read_file(&args.file)?;
    let name = args.file.display().to_string();
    let form = Form::of(&name).with_context(|| format!("{name} is neither .csv, .json, .yaml nor a plan"))?;
    if form == Form::Json && is_plan(&bytes) {
        return apply_plan(&args.with, &bytes, plan_only, terminal);
    }
    let rows = file::parse(form, &bytes).with_context(|| format!("cannot use {name}"))?;
    go(&args.with, None, plan_only, terminal, |directory, _| {
        file::resolve(directory, &rows).with_context(|| format!("cannot use {name}"))
    })
}

fn is_plan(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Head {
        format: String,
    }
    serde_json::from_slice::<Head>(bytes).is_ok_and(|head| head.format == "weir-plan")
}

fn apply_plan(with: &WithArgs, bytes: &[u8], plan_only: bool, terminal: &Terminal) -> anyhow::Result<Exit> {
    let plan = Plan::parse(bytes)?;
    let (history, config) = with.history.open("weir access", terminal)?;
    plan.check_protected(&config.operations.protected)?;
    let client = with.connect.connect(&history)?;
    let access = target_of(&client, &plan.target)?;
    if plan_only {
        plan.check_fresh(&history, &access)?;
    }
    let with = Finish { history: &history, target: &access, run: &with.run, out: with.out.as_deref(), plan_only };
    finish(&with, &plan, terminal)
}

fn list(args: &ListArgs) -> anyhow::Result<Exit> {
    let client = args.connect.connect_with(Arc::new(weir_base::SystemClock::default()))?;
    let access = Access::new(&client)?;
    let users = args.user.iter().map(|user| (PrincipalKind::User, user.clone()));
    let groups = args.group.iter().map(|group| (PrincipalKind::Group, group.clone()));
    let wanted = Wanted {
        principals: users.chain(groups).collect(),
        permission_sets: args.permission_set.clone(),
        accounts: args.account.clone(),
    };
    let listed = listing::list(&Directory::new(&client), &access, &wanted)?;
    let header = "principal_type,principal,permission_set,account,principal_id,permission_set_arn,account_name";
    let row = |one: &listing::Listed| {
        let assignment = &one.assignment;
        output::csv(&[
            assignment.principal_type.to_string(),
            one.principal.clone().unwrap_or_else(|| assignment.principal_id.clone()),
            one.permission_set_name.clone().unwrap_or_else(|| assignment.permission_set.clone()),
            assignment.account.clone(),
            assignment.principal_id.clone(),
            assignment.permission_set.clone(),
            one.account_name.clone().unwrap_or_default(),
        ])
    };
    print(match args.format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&listed)?),
        Format::Csv => listed.iter().fold(format!("{header}\n"), |out, one| out + &row(one) + "\n"),
        Format::Table => listed.iter().fold(String::new(), |out, one| {
            let name = |name: &Option<String>, id: &str| name.clone().unwrap_or_else(|| id.to_owned());
            let assignment = &one.assignment;
            let principal = name(&one.principal, &assignment.principal_id);
            let set = name(&one.permission_set_name, &assignment.permission_set);
            let account = one.account_name.as_deref().unwrap_or_default();
            out + &format!("{:5} {principal:32} {set:32} {} {account}\n", assignment.principal_type, assignment.account)
        }),
    })
}

fn principal(text: &str) -> anyhow::Result<(PrincipalKind, &str)> {
    let (kind, name) = text.split_once(':').with_context(|| format!("'{text}' is not user:NAME or group:NAME"))?;
    Ok((PrincipalKind::parse(kind).with_context(|| format!("'{kind}' is not user or group"))?, name))
}

fn copy(args: &CopyArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    let (from, to) = (principal(&args.from)?, principal(&args.to)?);
    go(&args.with, Some("copy"), args.with.run.dry_run, terminal, |directory, access| {
        Ok(listing::copy(directory, access, from, to)?)
    })
}

fn clone(args: &CloneArgs, terminal: &Terminal) -> anyhow::Result<Exit> {
    go(&args.with, Some("clone"), args.with.run.dry_run, terminal, |directory, access| {
        let from = directory.permission_set(&args.from)?;
        let content = access.content(&from.id).map_err(weir_access::Error::from)?;
        Ok(vec![permission_set::entry(&args.to, &content)?])
    })
}
