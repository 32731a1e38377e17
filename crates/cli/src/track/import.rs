//! `weir track import`: what other tools measured.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result};
use weir_track::Row;
use weir_track::import::{self, Format};

use super::history::{Folder, Recorder};
use crate::exit::Exit;
use crate::terminal::Terminal;

/// Larger files are refused.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Rows in one append.
const BATCH: usize = 10_000;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Formats: hyperfine, pytest-benchmark, google-benchmark, criterion (JSON), junit (XML), go (text), and csv
with columns timestamp,operation,duration_ms (other columns are labels; success=false is a failure).
The same file again changes nothing. Exit code 5: some lines could not be read; each is told."
)]
pub(super) struct Args {
    /// The file, or - for standard input.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// What it is [default: by its looks].
    #[arg(long, value_parser = format)]
    format: Option<Format>,
    /// A label for all of it, as name=value (repeatable).
    #[arg(long = "label", value_parser = super::label, value_name = "K=V")]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    folder: Folder,
}

fn format(name: &str) -> Result<Format> {
    Format::parse(name).with_context(|| format!("'{name}' is not a format; see --help"))
}

#[allow(clippy::disallowed_methods, reason = "the file is the user's and may be a pipe")]
fn bytes_of(file: &PathBuf) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let cannot = || format!("cannot read {}", file.display());
    if file.as_os_str() == "-" {
        std::io::stdin().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        let open = std::fs::File::open(file).with_context(cannot)?;
        open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(cannot)?;
    }
    anyhow::ensure!(bytes.len() as u64 <= FILE_BYTES_MAX, "{} has more than 1 GiB", file.display());
    Ok(bytes)
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let bytes = bytes_of(&args.file)?;
    let mut recorder = Recorder::open(&args.folder)?;
    let imported = import::read(&bytes, args.format, recorder.now())?;
    let rows = imported.rows.len();
    let labels = super::labels(&args.labels);
    let mut waiting: Vec<Row> = Vec::new();
    for mut row in imported.rows {
        row.labels.extend(labels.clone());
        waiting.push(Row::Finished(row));
        if waiting.len() == BATCH {
            recorder.append(std::mem::take(&mut waiting))?;
        }
    }
    recorder.append(waiting)?;
    recorder.close()?;
    for refused in imported.refused.iter().take(20) {
        terminal.warn(refused);
    }
    terminal.say(format!("took in {rows} operations; {} could not be read", imported.refused.len()));
    Ok(if imported.refused.is_empty() { Exit::Done } else { Exit::Partial })
}
