//! `weir tables` and `weir compact`: the state of a database's tables, and bringing it in order.

use anyhow::{Context, Result};
use axum::body::Body;
use clap::Args as ClapArgs;
use hyper::Request;
use std::time::Duration;

use crate::client;
use crate::exit::Exit;
use crate::folder::Target;
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::sql::{self, Format};
use crate::terminal::{self, Terminal};

const COMPACT_DEADLINE: Duration = Duration::from_secs(6 * 3600);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// List a database's tables: rows, files, bytes, overlap, oldest and newest time.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Database.
    #[arg(long, value_name = "NAME", default_value = "default")]
    db: String,
    /// Form of the result.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

/// Merge the files of tables until nothing overlaps.
#[derive(Debug, ClapArgs)]
pub(crate) struct CompactArgs {
    /// Database.
    #[arg(long, value_name = "NAME", default_value = "default")]
    db: String,
    /// Table [default: all of the database].
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Runs `weir tables`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    runtime::block_on(async {
        let mut session = Session::open(&args.target, Purpose::Read, "weir tables", terminal).await?;
        let outcome = sql::show(&mut session, &args.db, "SHOW TABLE STATUS", args.format).await;
        session.close(terminal).await;
        outcome.map(|()| Exit::Done)
    })
}

/// Runs `weir compact`; prints `{"files_before", "files_after", "rows"}`.
pub(crate) fn compact(args: &CompactArgs, terminal: &Terminal) -> Result<Exit> {
    runtime::block_on(async {
        let mut session = Session::open(&args.target, Purpose::Read, "weir compact", terminal).await?;
        let outcome = ask_to_compact(&mut session, args).await;
        session.close(terminal).await;
        terminal::print(outcome?)
    })
}

async fn ask_to_compact(session: &mut Session, args: &CompactArgs) -> Result<String> {
    let mut uri = format!("/api/v1/compact?db={}", client::escape(&args.db));
    if let Some(table) = &args.table {
        uri.push_str(&format!("&table={}", client::escape(table)));
    }
    let request = Request::post(uri).body(Body::empty()).context("cannot make the request")?;
    let answer = session.send(request, COMPACT_DEADLINE).await?;
    if !answer.status().is_success() {
        return Err(client::refusal(answer).await);
    }
    let told = client::collect(answer.into_body(), ANSWER_BYTES_MAX).await?;
    Ok(String::from_utf8_lossy(&told).into_owned() + "\n")
}
