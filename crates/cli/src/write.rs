//! `weir write`: a file or standard input into a database, in bounded batches, retried when the server asks for it.

mod columns;
mod input;
mod lines;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::Body;
use clap::{Args as ClapArgs, ValueEnum};
use hyper::{Request, StatusCode};
use indicatif::ProgressBar;
use weir_track::Progress;

use crate::client::{self, Refused, Unreachable, escape};
use crate::exit::Exit;
use crate::folder::Target;
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::terminal::Terminal;
use crate::track::progress::{ProgressForm, Teller};
pub(crate) use columns::RowWriter;
pub(crate) use input::inflated;
use lines::{Batch, Batches};

/// One answer; the server gives up on a write after a minute.
const ANSWER_DEADLINE: Duration = Duration::from_secs(90);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Write a file of points into a database.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  weir write --db demo examples/nab-sample.lp.gz
  generate | weir write --db demo --precision s -
  weir write --db demo --format csv --table trips --tags city,vendor --time pickup trips.csv
  weir write --server http://127.0.0.1:8181 --db demo points.lp.zst

Exit codes: 0 all written; 5 some lines refused (each on stderr with its line number); 6 the server
did not take the rest in time; 2 bad input. Writing the same file again is safe: equal rows are one row.")]
pub(crate) struct Args {
    /// The file, or - for standard input. gzip and zstd are recognised by their first bytes.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Database; made by its first row.
    #[arg(long, value_name = "NAME", default_value = "default")]
    db: String,
    /// Unit of timestamps that are bare numbers.
    #[arg(long, value_enum, default_value_t = Precision::Ns)]
    precision: Precision,
    /// What the file holds.
    #[arg(long, value_enum, default_value_t = Format::Lp)]
    format: Format,
    #[command(flatten)]
    columns: columns::Mapping,
    /// Refuse a batch as a whole when a line of it is bad.
    #[arg(long)]
    all_or_nothing: bool,
    /// Answer before the disk has it: survives a crash of the process, not of the machine.
    #[arg(long)]
    no_sync: bool,
    /// How long to go on trying when the server is busy or away, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    retry_time: u64,
    /// How progress is told: a bar of bytes on a terminal; or JSON lines.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressForm,
    #[command(flatten)]
    target: Target,
}

/// Counts the bytes that are read.
struct Counted<R>(R, Progress);

impl<R: std::io::Read> std::io::Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(into)?;
        self.1.add(read as u64);
        Ok(read)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    Ns,
    Us,
    Ms,
    S,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Line protocol.
    Lp,
    /// Comma-separated with a header line.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Parquet.
    Parquet,
}

impl Precision {
    fn word(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::Us => "us",
            Self::Ms => "ms",
            Self::S => "s",
        }
    }

    fn nanoseconds(self) -> i64 {
        match self {
            Self::Ns => 1,
            Self::Us => 1_000,
            Self::Ms => 1_000_000,
            Self::S => 1_000_000_000,
        }
    }
}

/// What was done so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    /// Lines sent.
    pub(crate) lines: u64,
    /// Lines refused.
    pub(crate) refused: u64,
}

/// Runs `weir write`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    if args.format != Format::Lp && args.columns.table.is_none() {
        bail!(
            "--table is needed with --format {}: the name of the table to write",
            args.format.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
        );
    }
    // A file that is not there makes no folder.
    let input = input::open(&args.file)?;
    runtime::block_on(async {
        let mut session = Session::open(&args.target, Purpose::Write, "weir write", terminal).await?;
        let outcome = write_file(args, input, &mut session, terminal).await;
        session.close(terminal).await;
        outcome
    })
}

async fn write_file(
    args: &Args,
    (raw, bytes): input::Input,
    session: &mut Session,
    terminal: &Terminal,
) -> Result<Exit> {
    let progress = Progress::new("write", bytes);
    let json = args.progress == ProgressForm::Json;
    let teller = json.then(|| Teller::start(&progress, args.progress, terminal));
    let bar = if json { ProgressBar::hidden() } else { terminal.bytes_bar(bytes, "writing") };
    let (precision, unit) = match args.format {
        Format::Lp => (args.precision.word(), 1),
        _ => ("ns", args.precision.nanoseconds()),
    };
    let path = format!(
        "/api/v3/write_lp?db={}&precision={precision}&accept_partial={}&no_sync={}",
        escape(&args.db),
        !args.all_or_nothing,
        args.no_sync
    );
    let mut sender = Sender {
        session,
        path,
        retry_time: Duration::from_secs(args.retry_time),
        terminal,
        bar: &bar,
        totals: Totals::default(),
        whole: args.all_or_nothing,
    };
    let counted = Counted(bar.wrap_read(raw), progress.clone());
    let outcome = match args.format {
        Format::Lp => sender.send_lines(input::inflated(counted)?).await,
        Format::Csv => sender.send_text(columns::of_csv(input::inflated(counted)?, &args.columns, unit)?).await,
        Format::Jsonl => sender.send_text(columns::of_jsonl(input::inflated(counted)?, &args.columns, unit)?).await,
        Format::Parquet => sender.send_text(columns::of_parquet(&args.file, &args.columns, unit)?).await,
    };
    bar.finish_and_clear();
    progress.finish();
    drop(teller);
    let Totals { lines, refused } = sender.totals;
    match outcome {
        Ok(()) => {
            let peer = session.peer();
            terminal.say(format!("{} lines written to database '{}' of {peer}", lines - refused, args.db));
            Ok(if refused == 0 { Exit::Done } else { Exit::Partial })
        }
        Err(error) if lines > refused => {
            terminal.error(&error);
            terminal
                .warn(format!("the first {lines} lines were written; write the file again: equal rows are one row"));
            Ok(if crate::exit::of_error(&error) == Exit::Unavailable { Exit::Unavailable } else { Exit::Partial })
        }
        Err(error) => Err(error),
    }
}

/// Loads line protocol from memory; for `weir quickstart`.
pub(crate) async fn load(
    session: &mut Session,
    db: &str,
    text: impl std::io::Read + Send,
    bar: &ProgressBar,
    terminal: &Terminal,
) -> Result<Totals> {
    let path = format!("/api/v3/write_lp?db={}&precision=ns", escape(db));
    let retry_time = Duration::from_secs(60);
    let mut sender = Sender { session, path, retry_time, terminal, bar, totals: Totals::default(), whole: false };
    sender.send_lines(text).await?;
    Ok(sender.totals)
}

struct Sender<'a> {
    session: &'a mut Session,
    path: String,
    retry_time: Duration,
    terminal: &'a Terminal,
    bar: &'a ProgressBar,
    totals: Totals,
    /// A batch is refused as a whole when a line of it is.
    whole: bool,
}

impl Sender<'_> {
    async fn send_lines(&mut self, text: impl std::io::Read) -> Result<()> {
        let mut batches = Batches::new(text);
        while let Some(batch) = batches.next().context("cannot read the file on")? {
            self.send(batch).await?;
        }
        Ok(())
    }

    /// Batches that were made from rows, whose numbers are those of rows.
    async fn send_text(&mut self, batches: impl Iterator<Item = Result<Batch>>) -> Result<()> {
        for batch in batches {
            self.send(batch?).await?;
        }
        Ok(())
    }

    /// Sends one batch until it is taken, refused for good, or the time is over. Batches go one after the other: of two
    /// equal keys the later in the file must win.
    async fn send(&mut self, batch: Batch) -> Result<()> {
        let lines = memchr::memchr_iter(b'\n', &batch.text).count() as u64
            + u64::from(batch.text.last().is_some_and(|byte| *byte != b'\n'));
        let first_line = batch.first_line;
        let text = bytes::Bytes::from(batch.text);
        let mut waited = Duration::ZERO;
        let mut pause = PAUSE_MIN;
        loop {
            match self.send_once(text.clone(), first_line).await {
                Ok(refused) => {
                    self.totals.lines += lines;
                    self.totals.refused += if self.whole && refused > 0 { lines } else { refused };
                    return Ok(());
                }
                Err(error) => {
                    let Some(wait) = wait_after(&error, pause).filter(|wait| waited + *wait <= self.retry_time) else {
                        return Err(error.context(format!("the lines from {first_line} on are not written")));
                    };
                    self.bar.set_message(format!("waiting: {error}"));
                    tokio::time::sleep(wait).await;
                    waited += wait;
                    pause = (pause * 2).min(PAUSE_MAX);
                    self.bar.set_message("writing");
                }
            }
        }
    }

    /// The number of refused lines.
    async fn send_once(&mut self, text: bytes::Bytes, first_line: u64) -> Result<u64> {
        let request = Request::post(self.path.as_str()).body(Body::from(text)).context("cannot make the request")?;
        let answer = self.session.send(request, ANSWER_DEADLINE).await?;
        if answer.status().is_success() {
            return Ok(0);
        }
        if answer.status() != StatusCode::BAD_REQUEST {
            return Err(client::refusal(answer).await);
        }
        let (head, body) = answer.into_parts();
        let body = client::collect(body, ANSWER_BYTES_MAX).await?;
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let Some(refused) = told["data"].as_array() else {
            return Err(client::refusal(hyper::Response::from_parts(head, Body::from(body))).await);
        };
        self.bar.suspend(|| report(refused, first_line));
        let total = told["refused"].as_u64().unwrap_or(refused.len() as u64);
        let untold = total.saturating_sub(refused.len() as u64);
        if untold > 0 {
            self.bar.suspend(|| {
                self.terminal.warn(format!("and {untold} more bad lines in the batch from line {first_line} on"))
            });
        }
        Ok(total)
    }
}

/// One line on stderr for each refused line, with its number in the file.
fn report(refused: &[serde_json::Value], first_line: u64) {
    let mut stderr = std::io::stderr().lock();
    for line in refused {
        let number = line["line_number"].as_u64().unwrap_or(1) + first_line - 1;
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let shown: String = text("original_line").chars().take(200).flat_map(char::escape_debug).collect();
        let _ = writeln!(stderr, "line {number}: {}: {shown}", text("error_message"));
    }
}

/// How long to wait before trying again; none when that cannot help.
fn wait_after(error: &anyhow::Error, pause: Duration) -> Option<Duration> {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return refused.retry_after;
    }
    error.downcast_ref::<Unreachable>().map(|_| pause)
}
