//! `weir track start` and `finish`: steps of a script.

use anyhow::Result;
use weir_base::Kind;
use weir_track::{Finished, Row, Started};

use super::history::{self, Folder, Recorder};
use crate::client::Refused;
use crate::exit::Exit;
use crate::terminal::{self, Terminal};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  id=$(weir track start --name deploy --label stage=prod)
  ./deploy.sh && weir track finish \"$id\" || weir track finish \"$id\" --failed")]
pub(super) struct StartArgs {
    /// What is done.
    #[arg(long)]
    name: String,
    /// A label, as name=value (repeatable).
    #[arg(long = "label", value_parser = super::label, value_name = "K=V")]
    labels: Vec<(String, String)>,
    /// Name of the operation that it is a part of.
    #[arg(long)]
    parent: Option<String>,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, clap::Args)]
pub(super) struct FinishArgs {
    /// What `start` printed.
    id: String,
    /// It did not work.
    #[arg(long)]
    failed: bool,
    /// Items done.
    #[arg(long)]
    items: Option<u64>,
    /// Bytes done.
    #[arg(long)]
    bytes: Option<u64>,
    /// Another measured number, as name=number (repeatable).
    #[arg(long = "measure", value_parser = super::label, value_name = "K=N")]
    measures: Vec<(String, String)>,
    #[command(flatten)]
    folder: Folder,
}

pub(super) fn start(args: &StartArgs) -> Result<Exit> {
    let mut recorder = Recorder::open(&args.folder)?;
    let id = recorder.id();
    let started = Started {
        id: id.clone(),
        name: args.name.clone(),
        labels: super::labels(&args.labels),
        parent: args.parent.clone(),
        start_ns: recorder.now(),
        detached: true,
    };
    recorder.append(vec![Row::Started(started)])?;
    recorder.close()?;
    terminal::print(format!("{id}\n"))
}

pub(super) fn finish(args: &FinishArgs, terminal: &Terminal) -> Result<Exit> {
    let refuse = |kind, message| Refused { kind, message, retry_after: None };
    let mut measures = std::collections::BTreeMap::new();
    for (name, value) in &args.measures {
        let value: f64 = value.parse().map_err(|_| anyhow::anyhow!("'{value}' is no number"))?;
        measures.insert(name.clone(), value);
    }
    let (started, ended) = history::find_started(&args.folder, &args.id)?;
    let Some(started) = started else {
        return Err(refuse(Kind::NotFound, format!("no operation {} was started here", args.id)).into());
    };
    if ended {
        return Err(refuse(Kind::Conflict, format!("operation {} is finished already", args.id)).into());
    }
    let mut recorder = Recorder::open(&args.folder)?;
    let end_ns = recorder.now();
    let duration_ns = u64::try_from(end_ns.saturating_sub(started.start_ns)).unwrap_or(0);
    let (name, labels, parent) = (started.name.clone(), started.labels, started.parent);
    let row = Finished {
        name,
        labels,
        parent,
        id: Some(started.id),
        end_ns,
        duration_ns,
        count: 1,
        failures: u64::from(args.failed),
        items: args.items,
        bytes: args.bytes,
        measures,
        ..Finished::default()
    };
    recorder.append(vec![Row::Finished(row)])?;
    recorder.close()?;
    let word = if args.failed { "failed" } else { "done" };
    terminal.say(format!("{} {word} after {}", started.name, weir_track::compare::millis(duration_ns as f64 / 1e6)));
    Ok(Exit::Done)
}
