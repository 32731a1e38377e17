//! Operations on Weir's own tables: the server that holds the folder carries them out, or the database opened here.
//!
//! What is printed comes from the history, as for every other target; statements only ask for the work.

use anyhow::Result;
use weir_base::id::Uuid;
use weir_ops::{Listing, Operation, Policy, State, View};

use super::history::HistoryArgs;
use super::output;
use super::{UndoArgs, exit_of};
use crate::client;
use crate::exit::Exit;
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::sql;
use crate::terminal::{Terminal, print};

/// Shows what a statement such as DELETE or DROP would do.
pub(super) fn preview(args: &UndoArgs, statement: &str, terminal: &Terminal) -> Result<Exit> {
    ask(&args.history, &args.db, &format!("EXPLAIN {statement}"), Some(args.run_args.format), terminal)?;
    Ok(Exit::Done)
}

/// Undoes operations on tables, or shows what that would do.
pub(super) fn undo(args: &UndoArgs, view: &View, ids: &[Uuid], plan_only: bool, terminal: &Terminal) -> Result<Exit> {
    anyhow::ensure!(args.out.is_none(), "an undo of tables is planned where it is carried out: --out has no use here");
    let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    let only = if args.only.is_empty() { String::new() } else { format!(" ONLY '{}'", quoted(&args.only.to_string())) };
    let statement = format!("UNDO OPERATIONS {}{only}{}", ids.join(", "), on_drift(args.drift.policy()));
    if plan_only {
        ask(&args.history, &args.db, &format!("EXPLAIN {statement}"), Some(args.run_args.format), terminal)?;
        return Ok(Exit::Done);
    }
    args.run_args.confirm(ids.len())?;
    let before = newest(view)?;
    let asked = ask(&args.history, &args.db, &statement, None, terminal);
    let (view, _) = args.history.view(terminal)?;
    let made = newest(&view)?.filter(|id| Some(*id) != before);
    told(made.map(|id| view.show(&id.to_string())).transpose()?.map(|found| found.0), asked, args.run_args.format)
}

/// Goes on with an operation on tables.
pub(super) fn resume(args: &super::ResumeArgs, operation: &Operation, terminal: &Terminal) -> Result<Exit> {
    if operation.state != State::Done {
        args.run_args.confirm(operation.entries.len())?;
    }
    let statement = format!("RESUME OPERATION '{}'{}", operation.id, on_drift(args.drift.policy()));
    let asked = ask(&args.history, "default", &statement, None, terminal);
    let (view, _) = args.history.view(terminal)?;
    told(Some(view.show(&operation.id.to_string())?.0), asked, args.run_args.format)
}

/// Prints what an operation came to. Without one, what was asked for was refused, or there was nothing to do.
fn told(operation: Option<Operation>, asked: Result<()>, format: output::Format) -> Result<Exit> {
    let Some(operation) = operation else {
        asked?;
        print(output::outcome(format, &[])?)?;
        return Ok(Exit::Done);
    };
    if operation.state == State::Done {
        asked?;
    }
    let exit = exit_of(std::slice::from_ref(&operation));
    print(output::outcome(format, &[operation])?)?;
    Ok(exit)
}

fn newest(view: &View) -> Result<Option<Uuid>> {
    let (summaries, _) = view.list(&Listing { limit: Some(1), ..Listing::default() })?;
    Ok(summaries.first().map(|summary| summary.id))
}

fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

fn on_drift(policy: Policy) -> &'static str {
    match policy {
        Policy::Refuse => "",
        Policy::Skip => " ON DRIFT SKIP",
        Policy::Force => " ON DRIFT FORCE",
    }
}

/// Sends a statement; its rows are printed in `format`, if any.
fn ask(
    history: &HistoryArgs,
    database: &str,
    statement: &str,
    format: Option<output::Format>,
    terminal: &Terminal,
) -> Result<()> {
    let target = history.database();
    let format = format.map(|format| match format {
        output::Format::Table => sql::Format::Table,
        output::Format::Json => sql::Format::Json,
        output::Format::Csv => sql::Format::Csv,
    });
    runtime::block_on(async {
        let mut session = Session::open(&target, Purpose::Read, "weir ops", terminal).await?;
        let outcome = match format {
            Some(format) => sql::show(&mut session, database, statement, format).await,
            None => match session.query(database, statement, "json").await {
                Ok(body) => client::copy(body, &mut std::io::sink()).await,
                Err(error) => Err(error),
            },
        };
        session.close(terminal).await;
        outcome
    })
}
