//! `weir token`: who may use a server over TCP. Works on the data folder; a running server notices within seconds.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::{Args as ClapArgs, Subcommand};
use comfy_table::Table;
use serde_json::json;
use weir_base::{OsFileSystem, OsRandom, SystemClock};
use weir_server::tokens::{Grant, NewToken, Token, TokenFile};

use crate::exit::Exit;
use crate::folder::data_folder;
use crate::terminal::{self, Terminal};

/// Make, list and revoke tokens of a server.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  weir token create --name grafana --read
  weir token create --name ci --read --write --db builds --db tests
  WEIR_TOKEN=weir_... weir sql --server https://db.example:8181 --db builds \"SELECT 1\"
  weir token revoke ci

With the first token the server needs one for every request over TCP but /health, /ready and /ping; commands on the same
machine go through the socket in the data folder and need none. A running server notices within seconds.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Data folder [default: the platform's, as `weir doctor` tells].
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token and print its secret, once.
    Create {
        /// By which it is listed and revoked.
        #[arg(long, value_name = "NAME")]
        name: String,
        /// It may query.
        #[arg(long)]
        read: bool,
        /// It may write, delete, drop, undo, flush and compact.
        #[arg(long)]
        write: bool,
        /// Only in this database, or these [default: all].
        #[arg(long, value_name = "NAME")]
        db: Vec<String>,
    },
    /// Those that there are, without their secrets.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take one back; exit 3 when there is none of this name.
    Revoke {
        /// As `list` prints it.
        name: String,
    },
}

/// Runs `weir token`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let file = TokenFile::new(Arc::new(OsFileSystem), &data_folder(args.data.as_ref())?);
    match &args.command {
        Command::Create { name, read, write, db } => {
            ensure!(*read || *write, "say what the token may do: --read, --write or both");
            let databases = (!db.is_empty()).then(|| db.clone().into());
            let new = NewToken { name: name.clone(), grant: Grant { read: *read, write: *write, databases } };
            let secret = file.create(&new, &SystemClock::default(), &OsRandom)?;
            terminal.say("keep this: it is shown only now, and only a hash of it is stored");
            terminal::print(secret + "\n")
        }
        Command::List { json } => list(&file, *json, terminal),
        Command::Revoke { name } => {
            file.revoke(name)?;
            Ok(Exit::Done)
        }
    }
}

fn list(file: &TokenFile, json: bool, terminal: &Terminal) -> Result<Exit> {
    let found = file.list()?;
    if found.is_none() {
        terminal.say("there are no tokens: whoever reaches the server may do everything");
    }
    let tokens = found.unwrap_or_default();
    if json {
        let listed: Vec<_> = tokens.iter().map(as_json).collect();
        return terminal::print(serde_json::to_string(&listed)? + "\n");
    }
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(["name", "may", "databases", "created"]);
    for token in &tokens {
        let grant = token.grant();
        let may = match (grant.read, grant.write) {
            (true, true) => "read, write",
            (true, false) => "read",
            _ => "write",
        };
        let databases = grant.databases.map_or_else(|| "all".to_owned(), |names| names.join(", "));
        table.add_row([token.name(), may, &databases, token.created()]);
    }
    terminal::print(format!("{table}\n"))
}

fn as_json(token: &Token) -> serde_json::Value {
    let grant = token.grant();
    json!({
        "name": token.name(),
        "read": grant.read,
        "write": grant.write,
        "databases": grant.databases.as_deref(),
        "created": token.created(),
    })
}
