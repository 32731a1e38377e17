//! The interactive prompt: statements over several lines up to a semicolon, a history, and a few commands.

use std::time::Duration;

use anyhow::{Context, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::{Args, Command, Format, columns_of, command, show, split, tables_of};
use crate::exit::Exit;
use crate::folder::history_file;
use crate::session::{Purpose, Session};
use crate::terminal::Terminal;

const HISTORY_LINES: usize = 1000;

const HELP: &str = "Statements end with a semicolon and may take several lines. Ctrl-C stops a query or drops a line.
  \\d            tables                 \\c NAME       go to another database
  \\d TABLE      columns of a table     \\f FORMAT     table, csv, json or jsonl
  \\q            leave (also Ctrl-D)    \\?            this help";

/// Runs the prompt until the end of its input.
pub(super) async fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let mut session = Session::open(&args.target, Purpose::Read, "weir sql", terminal).await?;
    crate::deps::send_before_query(&mut session, &args.target, &args.db, terminal).await;
    terminal.say(format!("weir {} on {}; \\? for help", weir_server::VERSION, session.peer()));
    let mut prompt = Prompt { database: args.db.clone(), format: args.format, held: String::new() };
    let outcome = prompt.talk(&mut session, terminal).await;
    session.close(terminal).await;
    outcome
}

struct Prompt {
    database: String,
    format: Format,
    /// The statement so far.
    held: String,
}

impl Prompt {
    async fn talk(&mut self, session: &mut Session, terminal: &Terminal) -> Result<Exit> {
        let config = rustyline::Config::builder().max_history_size(HISTORY_LINES)?.auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(config).context("cannot start the prompt")?;
        let history = history_file();
        if let Some(path) = &history {
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = editor.load_history(path);
        }
        loop {
            let sign =
                if self.held.is_empty() { format!("{}=> ", self.database) } else { format!("{}-> ", self.database) };
            // The editor blocks its thread, which belongs to the prompt alone.
            match tokio::task::block_in_place(|| editor.readline(&sign)) {
                Ok(line) => {
                    if !self.take(&line, session, terminal).await {
                        break;
                    }
                }
                Err(ReadlineError::Interrupted) => self.held.clear(),
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error).context("cannot read from the terminal"),
            }
        }
        if let Some(path) = &history {
            let _ = editor.save_history(path);
        }
        Ok(Exit::Done)
    }

    /// Takes a line; whether to go on.
    async fn take(&mut self, line: &str, session: &mut Session, terminal: &Terminal) -> bool {
        if self.held.is_empty() && line.trim_start().starts_with('\\') {
            return self.obey(line, session, terminal).await;
        }
        self.held.push_str(line);
        self.held.push('\n');
        let text = std::mem::take(&mut self.held);
        let (statements, rest) = split::statements(&text);
        for statement in statements {
            self.answer(statement, session, terminal).await;
        }
        if !split::is_blank(rest) {
            self.held = rest.to_owned();
        }
        true
    }

    async fn obey(&mut self, line: &str, session: &mut Session, terminal: &Terminal) -> bool {
        let argument = line.split_whitespace().nth(1).map(|word| word.trim_end_matches(';'));
        match command(line) {
            Some(Command::Quit) => return false,
            Some(Command::Tables) => self.answer(&tables_of(&self.database), session, terminal).await,
            Some(Command::Columns(table)) => self.answer(&columns_of(&self.database, &table), session, terminal).await,
            Some(Command::Unknown(name)) => match (name.as_str(), argument) {
                ("c", Some(database)) => self.database = database.to_owned(),
                ("f", Some(format)) => match <Format as clap::ValueEnum>::from_str(format, true) {
                    Ok(format) if format != Format::Parquet => self.format = format,
                    _ => terminal.warn("the format is table, csv, json or jsonl"),
                },
                _ => terminal.say(HELP),
            },
            None => {}
        }
        true
    }

    /// Prints a result or an error; Ctrl-C stops waiting, which cancels the query.
    async fn answer(&self, sql: &str, session: &mut Session, terminal: &Terminal) {
        tokio::select! {
            outcome = show(session, &self.database, sql, self.format) => {
                if let Err(error) = outcome {
                    terminal.error(&error);
                }
            }
            _ = tokio::signal::ctrl_c() => {
                // The answer's stream is dropped; give its task a moment to let go of the connection.
                tokio::time::sleep(Duration::from_millis(10)).await;
                terminal.warn("stopped");
            }
        }
    }
}
