//! `weir export`: a table as line protocol, CSV, JSON lines or Parquet, streamed.
//!
//! Line protocol is what `weir write` takes back without being told anything: tags, types and nanoseconds are in it. What it cannot spell
//! (NaN and infinity, tags with newlines, tags in which a backslash stands before a comma, an equals sign, a space or the end) is left out
//! and counted, never changed.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::Float64Type;
use arrow::ipc::reader::StreamDecoder;
use axum::body::Body;
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::Value;

use crate::client;
use crate::exit::Exit;
use crate::folder::Target;
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::terminal::Terminal;
use crate::write::RowWriter;

/// The answer to DESCRIBE: 2,000 columns have room in it.
const COLUMNS_BYTES_MAX: usize = 16 << 20;

/// Write a table to a file or to standard output, as it comes.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  weir export --db demo --table traffic > traffic.lp
  weir export --db demo --table traffic --where \"time >= '2024-01-01'\" --format parquet --output jan.parquet
  weir export --db demo --table traffic | weir write --server http://other:8181 --db demo -

Exit codes: 0 all of it; 5 values or rows are left out that line protocol cannot spell (counted on stderr);
2 bad input; 3 no such table; 6 the server is not there.")]
pub(crate) struct Args {
    /// Database.
    #[arg(long, value_name = "NAME", default_value = "default")]
    db: String,
    /// The table.
    #[arg(long, value_name = "NAME")]
    table: String,
    /// The form.
    #[arg(long, value_enum, default_value_t = Format::Lp)]
    format: Format,
    /// Only rows for which this SQL condition holds.
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// The file; made anew, removed again when it cannot be finished [default: standard output].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Line protocol, with everything that `weir write` needs.
    Lp,
    /// Comma-separated with a header line.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// A Parquet file.
    Parquet,
}

/// Runs `weir export`.
pub(crate) fn run(args: &Args, terminal: &Terminal) -> Result<Exit> {
    if args.format == Format::Parquet && args.output.is_none() && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        anyhow::bail!("parquet does not belong on a terminal; send it to a file");
    }
    runtime::block_on(export(args, terminal))
}

async fn export(args: &Args, terminal: &Terminal) -> Result<Exit> {
    let mut session = Session::open(&args.target, Purpose::Read, "weir export", terminal).await?;
    let outcome = to_output(&mut session, args, terminal).await;
    session.close(terminal).await;
    outcome
}

#[allow(clippy::disallowed_methods, reason = "a file of the user's, not of the database")]
async fn to_output(session: &mut Session, args: &Args, terminal: &Terminal) -> Result<Exit> {
    let Some(path) = &args.output else {
        return copied(session, args, terminal, &mut std::io::BufWriter::new(std::io::stdout().lock())).await;
    };
    let file = std::fs::File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let outcome = copied(session, args, terminal, &mut std::io::BufWriter::new(file)).await;
    if outcome.is_err() {
        // Half a file looks like a whole one.
        let _ = std::fs::remove_file(path);
    }
    outcome
}

async fn copied(session: &mut Session, args: &Args, terminal: &Terminal, out: &mut dyn Write) -> Result<Exit> {
    let condition = args.condition.as_ref().map_or_else(String::new, |condition| format!(" WHERE ({condition})"));
    let sql = format!("SELECT * FROM {}{condition}", identifier(&args.table));
    let word = match args.format {
        Format::Lp => return lines(session, args, &sql, terminal, out).await,
        Format::Csv => "csv",
        Format::Jsonl => "jsonl",
        Format::Parquet => "parquet",
    };
    client::copy(session.query(&args.db, &sql, word).await?, out).await?;
    Ok(Exit::Done)
}

/// What could not be spelled.
#[derive(Debug, Default, PartialEq, Eq)]
struct LeftOut {
    values: u64,
    rows: u64,
}

async fn lines(
    session: &mut Session,
    args: &Args,
    sql: &str,
    terminal: &Terminal,
    out: &mut dyn Write,
) -> Result<Exit> {
    let described = session.query(&args.db, &format!("DESCRIBE {}", identifier(&args.table)), "json").await?;
    let columns: Vec<Value> = serde_json::from_slice(&client::collect(described, COLUMNS_BYTES_MAX).await?)?;
    let tags = columns.iter().filter(|column| column["role"] == "tag");
    let tags: Vec<String> = tags.filter_map(|column| column["column"].as_str().map(str::to_owned)).collect();
    let body = session.query(&args.db, sql, "arrow").await?;
    let mut left_out = LeftOut::default();
    let mut writer = None;
    batches(body, |batch| {
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(RowWriter::of_table(&batch.schema(), &args.table, &tags)?),
        };
        let spelled = spelled(&batch, &tags, &mut left_out)?;
        Ok(out.write_all(&writer.write(&spelled)?)?)
    })
    .await?;
    out.flush()?;
    if left_out == LeftOut::default() {
        return Ok(Exit::Done);
    }
    let LeftOut { values, rows } = left_out;
    terminal.warn(format!(
        "left out: {values} values that are not finite and {rows} rows, which line protocol cannot spell; Parquet can"
    ));
    Ok(Exit::Partial)
}

/// Hands on the batches of an Arrow stream as they come.
async fn batches(body: Body, mut each: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
    let mut decoder = StreamDecoder::new();
    client::pieces(body, |piece| {
        let mut buffer = Buffer::from(piece);
        while let Some(batch) = decoder.decode(&mut buffer).context("the answer is no Arrow stream")? {
            each(batch)?;
        }
        Ok(())
    })
    .await?;
    decoder.finish().context("the answer ended early")
}

/// The rows that line protocol can spell: those with tags that it can and with a finite field.
fn spelled(batch: &RecordBatch, tags: &[String], left_out: &mut LeftOut) -> Result<RecordBatch> {
    let schema = batch.schema();
    let mut keep = vec![true; batch.num_rows()];
    let mut has_field = vec![false; batch.num_rows()];
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if field.name() == weir_engine::schema::TIME {
            continue;
        }
        if tags.contains(field.name()) {
            let text = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8)?;
            let text = text.as_string::<i32>();
            (0..text.len()).for_each(|row| keep[row] &= text.is_null(row) || is_spellable(text.value(row)));
            continue;
        }
        let floats = column.as_primitive_opt::<Float64Type>();
        for (row, has_field) in has_field.iter_mut().enumerate() {
            let is_lost = floats.is_some_and(|floats| floats.is_valid(row) && !floats.value(row).is_finite());
            left_out.values += u64::from(is_lost);
            *has_field |= column.is_valid(row) && !is_lost;
        }
    }
    let keep: Vec<bool> = keep.into_iter().zip(has_field).map(|(tags, field)| tags && field).collect();
    left_out.rows += keep.iter().filter(|keep| !**keep).count() as u64;
    Ok(arrow::compute::filter_record_batch(batch, &keep.into())?)
}

/// Whether a tag reads back as it is: a backslash escapes what follows it, and there is no way to write one before it.
fn is_spellable(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    let escapes =
        |(at, byte): (usize, &u8)| *byte == b'\\' && bytes.get(at + 1).is_none_or(|next| b",= \\".contains(next));
    !bytes.contains(&b'\n') && !bytes.iter().enumerate().any(escapes)
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_would_read_otherwise_are_told_from_others() {
        for tag in ["a", "a b,c=d", "C:\\dir", "é", "\"q\""] {
            assert!(is_spellable(tag), "{tag}");
        }
        for tag in ["a\nb", "ends\\", "a\\ b", "a\\,b", "a\\=b", "\\\\server"] {
            assert!(!is_spellable(tag), "{tag}");
        }
    }
}
