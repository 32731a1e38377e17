//! `weir track recommend`: what to change, with the evidence.

use anyhow::Result;

use super::history::{self, Folder};
use super::report::Wanted;
use crate::exit::Exit;
use crate::terminal::{self, Terminal};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// Print an array of objects.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: Folder,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let query = args.wanted.query(Vec::new());
    // Parts of an operation go by other names: they are evidence for it too.
    let asked = |row: &weir_track::Finished| query.takes(row) || (row.parent.is_some() && row.parent == query.name);
    let history = history::read(&args.folder, asked, terminal)?;
    let advice = weir_track::recommend::recommend(&history.finished);
    if args.json {
        return terminal::print(format!("{}\n", serde_json::to_string(&advice)?));
    }
    if advice.is_empty() {
        terminal.say(format!("nothing to recommend from {} rows", history.finished.len()));
    }
    let text: String = advice
        .iter()
        .map(|one| format!("{} ({}): {}\n  because {}\n", one.name, one.rule, one.advice, one.evidence))
        .collect();
    terminal::print(text)
}
