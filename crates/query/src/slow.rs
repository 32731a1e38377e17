//! What a query did, kept while it runs and told in the log when it took long.
//!
//! A [`Trace`] holds what is known at the end only: the plan with the numbers of its operators, the query's memory, what its scans left
//! out. A query that is fast costs a few pointers and its log nothing.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use weir_base::id::Uuid;

use crate::catalog::QueryCatalog;
use crate::error::Error;
use crate::memory::QueryMemory;
use crate::sql::Request;

/// Text of one event: a statement or plan may be as long as a request allows.
const SQL_BYTES_MAX: usize = 4 << 10;
const PLAN_BYTES_MAX: usize = 16 << 10;
const NOTES_BYTES_MAX: usize = 2 << 10;

/// What one query did so far.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    rows: AtomicU64,
    plan: OnceLock<Arc<dyn ExecutionPlan>>,
    memory: OnceLock<Arc<QueryMemory>>,
    catalog: OnceLock<QueryCatalog>,
}

impl Trace {
    pub(crate) fn plan(&self, plan: &Arc<dyn ExecutionPlan>) {
        let _ = self.plan.set(Arc::clone(plan));
    }

    pub(crate) fn memory(&self, memory: &Arc<QueryMemory>) {
        let _ = self.memory.set(Arc::clone(memory));
    }

    pub(crate) fn catalog(&self, catalog: &QueryCatalog) {
        let _ = self.catalog.set(catalog.clone());
    }

    pub(crate) fn rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    /// One event; `result` is `None` when whoever asked went away. What is not known, because the query ended before, is absent (M1).
    pub(crate) fn tell(
        &self,
        span: &tracing::Span,
        id: Uuid,
        request: &Request,
        elapsed: Duration,
        result: Option<Result<&(), &Error>>,
    ) {
        let outcome = match result {
            None => "nobody read on".to_owned(),
            Some(Ok(())) => "done".to_owned(),
            Some(Err(error)) => weir_base::error::chain(error),
        };
        let sql = shortened(request.sql.clone(), SQL_BYTES_MAX);
        let plan = self.plan.get().map(|plan| {
            let shown = DisplayableExecutionPlan::with_metrics(plan.as_ref());
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = write!(text, "{}", shown.indent(false));
            shortened(text, PLAN_BYTES_MAX)
        });
        let notes = self.catalog.get().map(|catalog| shortened(catalog.notes().join("; "), NOTES_BYTES_MAX));
        tracing::warn!(
            parent: span,
            query_id = %id,
            database = %request.database,
            elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            outcome,
            rows = self.rows.load(Relaxed),
            bytes_read = self.plan.get().and_then(|plan| sum(plan, "bytes_scanned")),
            memory_peak_bytes = self.memory.get().map(|memory| memory.peak()),
            sql,
            scans = notes.filter(|notes| !notes.is_empty()),
            plan,
            "a slow query"
        );
    }
}

/// A number of all operators of a plan; `None` where none has it.
fn sum(plan: &Arc<dyn ExecutionPlan>, name: &str) -> Option<u64> {
    let own = plan.metrics().and_then(|metrics| metrics.sum_by_name(name)).map(|value| value.as_usize() as u64);
    plan.children().into_iter().map(|child| sum(child, name)).fold(own, |total, part| match (total, part) {
        (None, part) => part,
        (total, None) => total,
        (Some(total), Some(part)) => Some(total + part),
    })
}

fn shortened(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let whole = text.len();
        text.truncate(text.floor_char_boundary(bytes_max));
        let _ = write!(text, "... ({whole} bytes in all)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_long_text_is_cut_between_letters_and_says_so() {
        assert_eq!(shortened("\u{e9}\u{e9}".into(), 3), "\u{e9}... (4 bytes in all)");
        assert_eq!(shortened("abc".into(), 3), "abc");
    }
}
