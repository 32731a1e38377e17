//! External tables: Parquet, CSV, JSON Lines and Delta tables of others, read where they lie.
//!
//! - `words`: `CREATE EXTERNAL TABLE`.
//! - `local`: where files may lie, and reading them without leaving those folders.
//! - `table`: a table of files as DataFusion sees it.
//! - `delta`: the files and columns of a Delta table.
//!
//! What is kept of one is the statement that made it (`weir_engine::external`). Each query that names it finds its files anew and asks
//! anew whether they may be read: what an operator takes out of the setting is not read from then on.

mod delta;
mod local;
mod table;
mod words;

use std::sync::Arc;

use datafusion::execution::session_state::SessionState;
use weir_base::Kind;
use weir_engine::external::Definition;

use crate::error::{Error, Result};
pub use local::Locations;
pub(crate) use local::{LOCAL_URL, LocalFiles};
pub(crate) use table::FilesTable;
pub use words::{ExternalStatement, parse};

/// How external tables are opened.
#[derive(Debug, Clone)]
pub(crate) struct Externals {
    pub(crate) state: Arc<SessionState>,
    pub(crate) files: Arc<LocalFiles>,
}

impl Externals {
    /// Finds the files and columns of a table.
    ///
    /// # Errors
    /// `forbidden` where its files may not be read; `not found` without files; `invalid` for what cannot be read as its format.
    pub(crate) async fn open(&self, definition: &Definition) -> Result<FilesTable> {
        let damaged = || Error::new(Kind::Damaged, format!("external table '{}' has no statement", definition.name));
        let statement = parse(&definition.sql)?.ok_or_else(damaged)?;
        table::open(self, &statement).await.map_err(|error| {
            let what = format!("external table '{}': {error}", definition.name);
            Error::new(error.kind(), what).with_retry(error.retry())
        })
    }
}
