//! Queries that run: who they are, how to stop one, and how their rows reach whoever asked.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weir_base::id::Uuid;
use weir_base::{Clock, Kind};

use crate::error::{Error, Result};

/// What is known of a query that waits or runs.
#[derive(Debug, Clone)]
pub struct RunningQuery {
    /// Its id, by which it can be cancelled.
    pub id: Uuid,
    /// The database it asks.
    pub database: String,
    /// The statement.
    pub sql: String,
    /// Whether it has a slot; else it waits for one.
    pub admitted: bool,
    /// Since it was asked.
    pub elapsed: Duration,
}

/// All queries that wait or run. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    clock: Arc<dyn Clock>,
    entries: Arc<Mutex<BTreeMap<Uuid, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    database: String,
    sql: String,
    admitted: bool,
    start: Duration,
    cancel: CancellationToken,
}

/// A query's place in the list; dropping it takes the query off.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) id: Uuid,
    pub(crate) cancel: CancellationToken,
    registry: Registry,
}

impl Registry {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, entries: Arc::default() }
    }

    pub(crate) fn list(&self) -> Vec<RunningQuery> {
        let now = self.clock.monotonic();
        let running = |(id, entry): (&Uuid, &Entry)| RunningQuery {
            id: *id,
            database: entry.database.clone(),
            sql: entry.sql.clone(),
            admitted: entry.admitted,
            elapsed: now.saturating_sub(entry.start),
        };
        self.entries.lock().expect("no holder of this lock panics").iter().map(running).collect()
    }

    pub(crate) fn enter(&self, id: Uuid, database: &str, sql: &str) -> Listed {
        let cancel = CancellationToken::new();
        let entry = Entry {
            database: database.to_owned(),
            sql: sql.to_owned(),
            admitted: false,
            start: self.clock.monotonic(),
            cancel: cancel.clone(),
        };
        self.entries.lock().expect("no holder of this lock panics").insert(id, entry);
        Listed { id, cancel, registry: self.clone() }
    }

    /// Tells a query to stop; `false` when there is none with this id.
    pub(crate) fn cancel(&self, id: Uuid) -> bool {
        let entries = self.entries.lock().expect("no holder of this lock panics");
        entries.get(&id).map(|entry| entry.cancel.cancel()).is_some()
    }
}

impl Listed {
    pub(crate) fn admitted(&self) {
        if let Some(entry) = self.registry.entries.lock().expect("no holder of this lock panics").get_mut(&self.id) {
            entry.admitted = true;
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.entries.lock().expect("no holder of this lock panics").remove(&self.id);
    }
}

/// The rows of a query as they are computed. Dropping it stops the query.
#[derive(Debug)]
pub struct Answer {
    pub(crate) id: Uuid,
    pub(crate) schema: SchemaRef,
    pub(crate) notes: Vec<String>,
    pub(crate) batches: mpsc::Receiver<Message>,
    pub(crate) ended: bool,
}

/// What the query's task sends.
#[derive(Debug)]
pub(crate) enum Message {
    Batch(RecordBatch),
    Failed(Error),
    /// All rows were sent; without it the stream was cut.
    Complete,
}

impl Answer {
    pub(crate) fn of(id: Uuid, batch: RecordBatch) -> Self {
        let schema = batch.schema();
        let (sender, batches) = mpsc::channel(2);
        for message in [Message::Batch(batch), Message::Complete] {
            sender.try_send(message).expect("the channel holds two");
        }
        Self { id, schema, notes: Vec::new(), batches, ended: false }
    }

    /// What is to be said beside the rows, such as which version of the past they are of.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The query's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Columns in the order of the SELECT.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

impl Stream for Answer {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let message = match self.batches.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(message) => message,
        };
        self.ended = !matches!(message, Some(Message::Batch(_)));
        Poll::Ready(match message {
            Some(Message::Batch(batch)) => Some(Ok(batch)),
            Some(Message::Complete) => None,
            Some(Message::Failed(error)) => Some(Err(error)),
            None => Some(Err(Error::new(Kind::Internal, "the query's task ended without an answer"))),
        })
    }
}
