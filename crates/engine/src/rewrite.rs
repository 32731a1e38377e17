//! Changes of rows that are in files: deletes, and the undo of them. Each is one commit and a step of an operation (R2, R4).
//!
//! A rewrite replaces closed groups: files that may share keys, directly or through others, are replaced together and their
//! replacement takes their place in the write order, so rows that are written meanwhile are newer and stay. The store
//! refuses the commit when a file of a group has gone or one has come that is not newer; then the rewrite starts over.

pub mod delete;
mod threeway;
pub mod undo;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use weir_base::Kind;

use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::schema::SchemaRef;
use crate::store::file::DataFile;
use crate::store::{NewFile, Snapshot, Table};
use crate::table::TableState;

pub use delete::{Preview, RowFilter};

/// How often a rewrite starts over because files came or went.
const LOST_RACES_MAX: u32 = 32;

/// What a rewrite did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The version of the Delta table that holds it.
    pub version: i64,
    /// Whether an earlier call had done it; the figures below are then zero.
    pub already: bool,
    /// Rows that it deleted, restored or changed.
    pub rows: u64,
    /// Files replaced.
    pub files_before: usize,
    /// Files that replaced them.
    pub files_after: usize,
}

/// A stream of rows in the logical layout, sorted, one row per key.
pub(crate) type RowStream = BoxStream<'static, Result<arrow::array::RecordBatch>>;

/// A table that is to be rewritten, and where it was stored when that was decided: one of the same name that comes after a drop is
/// another.
pub(crate) struct Place {
    pub(crate) state: Arc<TableState>,
    pub(crate) table: Arc<Table>,
}

impl Place {
    /// The table, if it has not been dropped meanwhile.
    fn check(&self) -> Result<&Arc<Table>> {
        let same = self.state.stored().is_some_and(|stored| stored.folder() == self.table.folder());
        let gone = || Error::new(Kind::NotFound, format!("table '{}' was dropped", self.table.name()));
        if same { Ok(&self.table) } else { Err(gone()) }
    }
}

impl Engine {
    /// A table with everything that it has buffered now in files.
    pub(crate) async fn place(&self, database: &str, table: &str) -> Result<Place> {
        let state = self.existing(database, table).await?;
        crate::flush::flush_buffered(&self.shared, &state).await?;
        let table = self.shared.store_table(&state).await?;
        Ok(Place { state, table })
    }

    pub(crate) async fn existing(&self, database: &str, table: &str) -> Result<Arc<TableState>> {
        let missing = || Error::new(Kind::NotFound, format!("there is no table '{table}' in database '{database}'"));
        self.shared.find(database, table).await?.ok_or_else(missing)
    }
}

/// Whether files came or went, so that a rewrite is to be decided anew.
fn is_lost_race(error: &Error) -> bool {
    error.kind() == Kind::Conflict && error.retry() != weir_base::Retry::Never
}

/// The merged rows of files, which come oldest first.
pub(crate) async fn merged_files(table: &Table, schema: &SchemaRef, files: &[Arc<DataFile>]) -> Result<RowStream> {
    let mut streams = Vec::with_capacity(files.len());
    for file in files {
        streams.push(table.read_file(file, schema).await?);
    }
    Ok(crate::read::merged(schema, streams)?.boxed())
}

/// Writes sorted rows to files of `compact_rows` rows each. The writer takes rows as they come: neither side holds more than
/// a few batches besides the file's encoded bytes.
pub(crate) async fn write_files(
    shared: &Shared,
    table: &Table,
    schema: &SchemaRef,
    sub_micro: bool,
    mut rows: RowStream,
) -> Result<Vec<NewFile>> {
    let mut files = Vec::new();
    loop {
        let mut writer = table.file_writer(schema, sub_micro);
        while writer.rows() < shared.config.compact_rows as u64 {
            let Some(batch) = rows.next().await else { break };
            writer = table.append(writer, batch?).await?;
        }
        if writer.rows() == 0 {
            return Ok(files);
        }
        files.push(table.finish_file(writer).await?);
    }
}

/// Whether rows of these files may have times that are not whole microseconds.
pub(crate) fn sub_micro(files: &[Arc<DataFile>]) -> bool {
    files.iter().any(|file| file.sub_micro() != Some(false))
}

/// The part of the write order that files span together; `None` without files.
fn span(files: &[Arc<DataFile>]) -> Option<(i64, i64)> {
    let low = files.iter().map(|file| file.order.0).min()?;
    Some((low, files.iter().map(|file| file.order.1).max()?))
}

/// The newest version, also of other servers.
async fn newest(shared: &Shared, table: &Table) -> Result<Arc<Snapshot>> {
    if shared.store.is_shared() { table.refresh().await } else { Ok(table.snapshot()) }
}
