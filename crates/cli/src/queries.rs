//! `weir queries`: those that run and wait on a server, and stopping one.

use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use clap::{Args as ClapArgs, Subcommand};
use comfy_table::Table;
use hyper::Request;
use serde_json::Value;

use crate::client;
use crate::exit::Exit;
use crate::folder::Target;
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::terminal::{self, Terminal};

const DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// See and stop the queries of a server.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Those that run and wait, longest first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop one; exit 3 when there is none with this id.
    Cancel {
        /// As `list` prints it.
        id: String,
    },
}

/// Runs `weir queries`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    runtime::block_on(async {
        let mut session = Session::open(&args.target, Purpose::Read, "weir queries", terminal).await?;
        let outcome = match &args.command {
            Command::List { json } => list(&mut session, *json).await,
            Command::Cancel { id } => cancel(&mut session, id).await,
        };
        session.close(terminal).await;
        outcome
    })
}

async fn list(session: &mut Session, json: bool) -> Result<Exit> {
    let request = Request::get("/api/v1/queries").body(Body::empty()).context("cannot make the request")?;
    let answer = session.send(request, DEADLINE).await?;
    if !answer.status().is_success() {
        return Err(client::refusal(answer).await);
    }
    let body = client::collect(answer.into_body(), ANSWER_BYTES_MAX).await?;
    let mut queries: Vec<Value> = serde_json::from_slice(&body).context("the server's list is not JSON")?;
    queries.sort_by_key(|query| std::cmp::Reverse(query["elapsed_ms"].as_u64()));
    if json {
        return terminal::print(serde_json::to_string(&queries)? + "\n");
    }
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(["id", "state", "seconds", "database", "statement"]);
    for query in &queries {
        let text = |name: &str| query[name].as_str().unwrap_or_default().to_owned();
        let seconds = query["elapsed_ms"].as_f64().unwrap_or_default() / 1e3;
        table.add_row([text("id"), text("state"), format!("{seconds:.1}"), text("db"), text("q")]);
    }
    terminal::print(format!("{table}\n"))
}

async fn cancel(session: &mut Session, id: &str) -> Result<Exit> {
    let uri = format!("/api/v1/queries/{}", client::escape(id));
    let request = Request::delete(uri).body(Body::empty()).context("cannot make the request")?;
    let answer = session.send(request, DEADLINE).await?;
    if answer.status().is_success() { Ok(Exit::Done) } else { Err(client::refusal(answer).await) }
}
