//! What the HTTP side needs of a database: the seam between statuses and the engine.
//!
//! The real one is [`crate::embedded::Embedded`]; tests of the HTTP side put a double here, so that they can hold a sync,
//! fill a buffer or break a component at will.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::Result;

/// The unit of the timestamps in line protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 1e-9 s.
    Nanosecond,
    /// 1e-6 s.
    Microsecond,
    /// 1e-3 s.
    Millisecond,
    /// 1 s.
    Second,
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
}

/// How a request wants to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// The unit of timestamps.
    pub precision: Precision,
    /// Keep the good lines when some are bad; else refuse all.
    pub accept_partial: bool,
    /// Answer once written to the log, before it is synced: survives a crash of the process, not of the machine.
    pub no_sync: bool,
}

/// A line that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Its number in the request, from 1.
    pub line_number: u64,
    /// Why.
    pub reason: String,
    /// Its text, or the beginning of it.
    pub original_line: String,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// Rows that are now in the log.
    pub rows: u64,
    /// The first of the refused lines.
    pub rejected: Vec<Rejected>,
    /// All refused lines.
    pub rejected_total: u64,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Tables that had something to commit.
    pub tables: u64,
    /// Rows committed.
    pub rows: u64,
    /// Files made.
    pub files: u64,
    /// Bytes of those files.
    pub bytes: u64,
}

/// How a result is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An array of objects.
    Json,
    /// One object a line.
    JsonLines,
    /// Comma-separated with a header line.
    Csv,
    /// A Parquet file.
    Parquet,
    /// A table for people.
    Pretty,
}

impl Format {
    /// The format called `name` in requests.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "json" => Self::Json,
            "jsonl" | "json_lines" => Self::JsonLines,
            "csv" => Self::Csv,
            "parquet" => Self::Parquet,
            "pretty" | "table" => Self::Pretty,
            _ => return None,
        })
    }

    /// The media type of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonLines => "application/jsonl",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Pretty => "text/plain; charset=utf-8",
        }
    }
}

/// A query to run.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryRequest {
    /// The database that unqualified names mean.
    pub database: String,
    /// One SQL statement.
    pub sql: String,
    /// How to encode the result.
    pub format: Format,
    /// Values for `$name` placeholders.
    pub params: serde_json::Map<String, serde_json::Value>,
    /// The request's id, by which it shows in the list of queries.
    pub id: String,
}

/// The encoded result, piece by piece. Dropping it cancels the query.
pub type Chunks = BoxStream<'static, Result<Bytes>>;

/// How a part of the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Works.
    Ok,
    /// Works, but somebody should look.
    Warning,
    /// Does not work.
    Unhealthy,
}

impl State {
    /// The word in JSON and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One part of the server and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Which part: `wal`, `buffer`, `store`, `query`.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// Why, when it is not `Ok`.
    pub reason: Option<String>,
    /// Whether writes are refused because of it (`/ready`).
    pub blocks_writes: bool,
}

/// What a measured number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One measured number. A number that could not be measured is left out, never zero (M1).
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name in Prometheus' form, with its unit: `weir_buffer_bytes`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: SampleKind,
    /// Labels, few and bounded.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

/// A write in progress. Dropping it leaves nothing behind.
#[async_trait]
pub trait WriteSession: Send {
    /// Takes the next piece of text, cut anywhere. Works on the calling thread: call it where blocking is allowed.
    ///
    /// # Errors
    /// `limit` when a limit is reached; lines that are merely bad are collected for [`WriteSession::commit`].
    fn feed(&mut self, text: &[u8]) -> Result<()>;

    /// Makes everything fed durable at the level that was asked for, and visible to queries.
    async fn commit(self: Box<Self>) -> Result<Written>;
}

/// A database as the HTTP side sees it.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// Begins a write.
    ///
    /// # Errors
    /// `limit` with a time to retry after when writes are refused at the moment.
    fn begin_write(&self, database: &str, options: WriteOptions) -> Result<Box<dyn WriteSession>>;

    /// Runs a query; the answer streams while it runs.
    async fn query(&self, request: QueryRequest) -> Result<Chunks>;

    /// Commits what is buffered, of one database or of all.
    async fn flush(&self, database: Option<&str>) -> Result<Flushed>;

    /// How the parts are. Must not block.
    fn components(&self) -> Vec<Component>;

    /// The numbers for `/metrics`. Must not block.
    ///
    /// # Errors
    /// When they cannot be measured; they are then absent.
    fn samples(&self) -> Result<Vec<Sample>>;

    /// Flushes and lets go of the folder, within `deadline`.
    async fn close(&self, deadline: Duration) -> Result<()>;
}
