//! What the HTTP side needs of a database: the seam between statuses and the engine.
//!
//! The real one is [`crate::embedded::Embedded`]; tests of the HTTP side put a double here, so that they can hold a sync,
//! fill a buffer or break a component at will.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use weir_engine::compact::Compacted;
use weir_engine::flush::Flushed;
use weir_engine::ingest::{WriteOptions, Written};

use crate::error::Result;
use crate::tokens::Grant;

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
    /// An Arrow IPC stream.
    Arrow,
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
            "arrow" => Self::Arrow,
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
            Self::Arrow => "application/vnd.apache.arrow.stream",
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
    /// Who asks for a change of tables; `None` where only reading is allowed.
    pub actor: Option<String>,
    /// What whoever asks may read and change, in this and in other databases that the statement names.
    pub grant: Grant,
}

/// How long rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// The database.
    pub database: String,
    /// One of its tables; `None` for all that have no retention of their own.
    pub table: Option<String>,
    /// Rows older than this go.
    pub age: Duration,
}

/// A query's answer.
pub struct Answer {
    /// The query's id, by which it shows in the list of queries and can be cancelled.
    pub id: String,
    /// What is to be said beside the result, such as which version of the past it is of.
    pub notes: Vec<String>,
    /// The encoded result, piece by piece. Dropping it cancels the query.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

/// A query that waits or runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// The database it asks.
    pub database: String,
    /// The statement.
    pub sql: String,
    /// Whether it runs; else it waits for a slot.
    pub running: bool,
    /// Since it was asked.
    pub elapsed: Duration,
}

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
    ///
    /// # Errors
    /// `forbidden` when the statement goes past the request's grant.
    async fn query(&self, request: QueryRequest) -> Result<Answer>;

    /// The queries that wait or run.
    fn queries(&self) -> Vec<Running>;

    /// Stops a query; `false` when there is none with this id.
    fn cancel_query(&self, id: &str) -> bool;

    /// Commits what is buffered, of one database or of all.
    async fn flush(&self, database: Option<&str>) -> Result<Flushed>;

    /// Merges the files of a table, or of all tables of a database, until nothing overlaps.
    async fn compact(&self, database: &str, table: Option<&str>) -> Result<Compacted>;

    /// Deletes rows past their age, each table as an operation of its own that can be undone; returns how many rows. Ages are counted from
    /// whole hours, those over a week from whole days, so that files are rewritten seldom.
    async fn retain(&self, retention: &[Retention]) -> Result<u64>;

    /// Brings every rollup up to date with what is committed of its table; returns how many were behind.
    async fn refresh_rollups(&self) -> Result<u64> {
        Ok(0)
    }

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
