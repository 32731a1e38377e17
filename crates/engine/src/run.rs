//! Buffered rows that are read and flushed together: in order of arrival until somebody needs them in key order.

use std::sync::{Arc, OnceLock};

use crate::chunk::Chunk;
use crate::error::Result;
use crate::schema::SchemaRef;
use crate::sort::Sorted;

/// Rows of one table. Their times are known at once; sorting waits until a query or a flush needs them, and is done once for all.
#[derive(Debug)]
pub(crate) struct Run {
    /// In order of arrival.
    chunks: Vec<Arc<Chunk>>,
    /// Columns that the rows may have.
    schema: SchemaRef,
    /// Smallest and largest time, nanoseconds since 1970 UTC; `None` without rows.
    times: Option<(i64, i64)>,
    sorted: OnceLock<Arc<Sorted>>,
}

impl Run {
    /// `chunks` come in order of arrival.
    pub(crate) fn new(chunks: Vec<Arc<Chunk>>, schema: SchemaRef) -> Self {
        let times = chunks.iter().filter_map(|chunk| chunk.span());
        let times = times.reduce(|one, two| (one.0.min(two.0), one.1.max(two.1)));
        Self { chunks, schema, times, sorted: OnceLock::new() }
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Smallest and largest time, nanoseconds since 1970 UTC; `None` without rows.
    pub(crate) fn times(&self) -> Option<(i64, i64)> {
        self.times
    }

    /// Rows, those counted several times that were written several times.
    pub(crate) fn rows_at_most(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    pub(crate) fn is_sorted(&self) -> bool {
        self.sorted.get().is_some()
    }

    /// The rows in key order.
    ///
    /// # Errors
    /// Those of [`Sorted::new`].
    pub(crate) fn sorted(&self) -> Result<Arc<Sorted>> {
        if let Some(sorted) = self.sorted.get() {
            return Ok(Arc::clone(sorted));
        }
        let sorted = Arc::new(Sorted::new(self.chunks.clone(), &self.schema)?);
        Ok(Arc::clone(self.sorted.get_or_init(|| sorted)))
    }
}
