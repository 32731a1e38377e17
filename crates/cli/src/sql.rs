//! `weir sql`: one statement, a script from standard input, or an interactive prompt.

mod prompt;
mod split;

use std::io::{IsTerminal, Read};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};

use crate::client;
use crate::exit::Exit;
use crate::folder::Target;
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::terminal::Terminal;

/// Ask a database in SQL.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  weir sql --db demo \"SELECT count(*) FROM traffic\"
  weir sql --db demo --format csv \"SELECT * FROM traffic WHERE time > now() - INTERVAL '1 day'\" > day.csv
  weir sql --db demo < report.sql
  weir sql --db demo                      (interactive; \\q leaves, \\d lists tables, \\? helps)")]
pub(crate) struct Args {
    /// The statement; without it standard input is read, or a prompt opens on a terminal.
    #[arg(value_name = "SQL")]
    statement: Option<String>,
    /// Database.
    #[arg(long, value_name = "NAME", default_value = "default")]
    db: String,
    /// Form of the result [default: table].
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    target: Target,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// Comma-separated with a header line.
    Csv,
    /// An array of objects.
    Json,
    /// One object a line.
    Jsonl,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC stream.
    Arrow,
}

impl Format {
    /// As requests spell it.
    fn word(self) -> &'static str {
        match self {
            Self::Table => "pretty",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
        }
    }
}

/// Runs `weir sql`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    if matches!(args.format, Format::Parquet | Format::Arrow) && std::io::stdout().is_terminal() {
        anyhow::bail!("{} does not belong on a terminal; send it to a file", args.format.word());
    }
    match &args.statement {
        Some(statement) => runtime::block_on(script(args, statement, terminal)),
        None if std::io::stdin().is_terminal() => runtime::block_on(prompt::run(args, terminal)),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            runtime::block_on(script(args, &text, terminal))
        }
    }
}

/// Runs the statements of `text` one after the other and stops at the first that fails.
async fn script(args: &Args, text: &str, terminal: &Terminal) -> Result<Exit> {
    anyhow::ensure!(!split::is_blank(text), "there is no statement");
    let mut session = Session::open(&args.target, Purpose::Read, "weir sql", terminal).await?;
    crate::deps::send_before_query(&mut session, &args.target, &args.db, terminal).await;
    if args.db == weir_engine::spool::DATABASE {
        crate::track::drain_for(&mut session, &args.target, terminal).await;
    }
    let outcome = run_all(&mut session, args, text).await;
    session.close(terminal).await;
    outcome
}

/// As at the prompt: a line that begins with a backslash is a command, unless a statement is open.
async fn run_all(session: &mut Session, args: &Args, text: &str) -> Result<Exit> {
    let mut held = String::new();
    for line in text.lines() {
        if split::is_blank(&held)
            && let Some(command) = command(line)
        {
            held.clear();
            match command {
                Command::Quit => return Ok(Exit::Done),
                Command::Tables => show(session, &args.db, &tables_of(&args.db), args.format).await?,
                Command::Columns(table) => show(session, &args.db, &columns_of(&args.db, &table), args.format).await?,
                Command::Unknown(name) => anyhow::bail!("\\{name} is not a command here"),
            }
            continue;
        }
        held.push_str(line);
        held.push('\n');
        let (statements, rest) = split::statements(&held);
        for statement in statements {
            show(session, &args.db, statement, args.format).await?;
        }
        held = rest.to_owned();
    }
    if !split::is_blank(&held) {
        show(session, &args.db, held.trim(), args.format).await?;
    }
    Ok(Exit::Done)
}

/// Prints one result to stdout.
pub(crate) async fn show(session: &mut Session, database: &str, sql: &str, format: Format) -> Result<()> {
    let body = session.query(database, sql, format.word()).await?;
    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    client::copy(body, &mut stdout).await?;
    Ok(std::io::Write::flush(&mut stdout)?)
}

/// A line that begins with a backslash.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Quit,
    Tables,
    Columns(String),
    Unknown(String),
}

fn command(line: &str) -> Option<Command> {
    let mut words = line.trim().strip_prefix('\\')?.split_whitespace();
    let name = words.next().unwrap_or_default();
    Some(match (name, words.next()) {
        ("q", _) => Command::Quit,
        ("d", None) => Command::Tables,
        ("d", Some(table)) => Command::Columns(table.trim_end_matches(';').trim_matches('"').to_owned()),
        _ => Command::Unknown(name.to_owned()),
    })
}

/// The tables of a database; `information_schema` lists those of all.
fn tables_of(database: &str) -> String {
    let database = database.replace('\'', "''");
    format!("SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}' ORDER BY table_name")
}

fn columns_of(database: &str, table: &str) -> String {
    format!(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns \
         WHERE table_schema = '{}' AND table_name = '{}' ORDER BY ordinal_position",
        database.replace('\'', "''"),
        table.replace('\'', "''")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backslash_commands() {
        for (line, wanted) in [
            ("\\q", Some(Command::Quit)),
            ("  \\d ", Some(Command::Tables)),
            ("\\d \"my table\"", Some(Command::Columns("my".into()))),
            ("\\d traffic;", Some(Command::Columns("traffic".into()))),
            ("\\x", Some(Command::Unknown("x".into()))),
            ("select 1", None),
        ] {
            assert_eq!(command(line), wanted, "{line}");
        }
        assert!(columns_of("d", "o'clock").contains("'o''clock'"));
    }
}
