//! Deletes rows by a predicate that is judged on merged rows: of a row written several times, the last write of each field.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not, prep_null_mask_filter};
use futures::StreamExt;
use weir_base::Kind;

use super::{LOST_RACES_MAX, Place, Rewritten, RowStream, merged_files, newest, span, sub_micro, write_files};
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::overlap::overlap_groups;
use crate::read::Times;
use crate::store::{Change, Step};

/// For each row of a batch in the logical layout, whether it is meant; NULL means that it is not.
pub type Predicate = Arc<dyn Fn(&RecordBatch) -> Result<BooleanArray> + Send + Sync>;

/// Which rows are meant.
#[derive(Clone)]
pub struct RowFilter {
    /// Decides on merged rows. Called on threads that may block.
    pub predicate: Predicate,
    /// No row outside these times is meant: files without any of them are not read. `None` when it is not known.
    pub times: Option<Times>,
    /// All rows before this time in nanoseconds UTC are meant, and no other: they go for their age.
    pub older_than: Option<i64>,
}

/// What a delete would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preview {
    /// The version of the Delta table that was looked at; -1 when nothing is committed yet.
    pub version: i64,
    /// Rows that it would delete, those of the buffer included.
    pub rows: u64,
    /// Files that hold rows that may share keys with them.
    pub files: usize,
}

impl RowFilter {
    /// Rows for which `predicate` is true.
    pub fn new(predicate: impl Fn(&RecordBatch) -> Result<BooleanArray> + Send + Sync + 'static) -> Self {
        Self { predicate: Arc::new(predicate), times: None, older_than: None }
    }

    /// Rows older than a time in nanoseconds UTC.
    pub fn older_than(time: i64) -> Self {
        let older = move |batch: &RecordBatch| {
            let times = batch.column(0).as_primitive_opt::<arrow::datatypes::TimestampNanosecondType>();
            let times = times.ok_or_else(|| Error::new(Kind::Internal, "a batch without a time column"))?;
            debug_assert_eq!(times.null_count(), 0, "every row has a time");
            Ok(times.values().iter().map(|value| Some(*value < time)).collect())
        };
        Self { times: Some(i64::MIN..=time.saturating_sub(1)), older_than: Some(time), ..Self::new(older) }
    }

    fn concerns(&self, times: &Times) -> bool {
        self.times.as_ref().is_none_or(|wanted| wanted.start() <= times.end() && times.start() <= wanted.end())
    }

    /// Which rows are meant, without NULL.
    fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let mask = (self.predicate)(batch)?;
        if mask.len() != batch.num_rows() {
            let what = format!("a predicate gave {} answers for {} rows", mask.len(), batch.num_rows());
            return Err(Error::new(Kind::Internal, what));
        }
        Ok(if mask.null_count() == 0 { mask } else { prep_null_mask_filter(&mask) })
    }
}

impl fmt::Debug for RowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowFilter").field("times", &self.times).finish_non_exhaustive()
    }
}

impl Engine {
    /// Deletes the rows that `filter` means, as step 1 of `operation`, in one commit; what was buffered when this was called is
    /// flushed first. Rows that are written meanwhile stay. Once the operation is on record, nothing is done again.
    ///
    /// # Errors
    /// `not found` when there is no such table; `conflict`, to be tried again, when others keep changing the files; those of the
    /// predicate and of the store.
    pub async fn delete_rows(
        &self,
        database: &str,
        table: &str,
        filter: &RowFilter,
        operation: &str,
    ) -> Result<Rewritten> {
        let place = self.place(database, table).await?;
        self.delete_at(&place, filter, operation).await
    }

    pub(crate) async fn delete_at(&self, place: &Place, filter: &RowFilter, operation: &str) -> Result<Rewritten> {
        let mut lost = 0;
        loop {
            match delete_once(&self.shared, place, filter, operation).await {
                Err(error) if super::is_lost_race(&error) && lost < LOST_RACES_MAX => lost += 1,
                outcome => return outcome,
            }
        }
    }

    /// Deletes rows older than a time in nanoseconds UTC: retention by age. Otherwise as [`Engine::delete_rows`].
    ///
    /// # Errors
    /// As [`Engine::delete_rows`].
    pub async fn apply_retention(
        &self,
        database: &str,
        table: &str,
        older_than: i64,
        operation: &str,
    ) -> Result<Rewritten> {
        self.delete_rows(database, table, &RowFilter::older_than(older_than), operation).await
    }

    /// Counts what [`Engine::delete_rows`] would delete now. Changes nothing and flushes nothing.
    ///
    /// # Errors
    /// `not found` when there is no such table; those of the predicate and of the store.
    pub async fn preview_delete(&self, database: &str, table: &str, filter: &RowFilter) -> Result<Preview> {
        self.existing(database, table).await?;
        let missing = || Error::new(Kind::NotFound, format!("there is no table '{table}' in database '{database}'"));
        let snapshot = self.snapshot(database, table).await?.ok_or_else(missing)?;
        let mut preview = Preview { version: snapshot.version, ..Preview::default() };
        let mut files = std::collections::HashSet::new();
        for sources in snapshot.groups() {
            if !sources.iter().any(|source| filter.concerns(&source.times())) {
                continue;
            }
            let mut rows = crate::past::merged_sources(self.store(), &snapshot, &sources).await?;
            let mut found = 0;
            while let Some(batch) = rows.next().await {
                found += count(filter, batch?).await?;
            }
            if found > 0 {
                preview.rows += found;
                files.extend(sources.iter().filter_map(|source| match source {
                    crate::read::Source::File(file) => Some(file.path.clone()),
                    crate::read::Source::Run(_) => None,
                }));
            }
        }
        preview.files = files.len();
        Ok(preview)
    }
}

async fn delete_once(shared: &Arc<Shared>, place: &Place, filter: &RowFilter, operation: &str) -> Result<Rewritten> {
    let _lease = place.state.compacting.lock().await;
    let table = place.check()?;
    let snapshot = newest(shared, table).await?;
    let step = Step { operation: operation.to_owned(), number: 1 };
    if let Some(version) = snapshot.transactions.get(&step.app_id()) {
        return Ok(Rewritten { version: *version, already: true, ..Rewritten::default() });
    }
    let mut change = Change::rewrite("DELETE", step, Arc::clone(&snapshot), Vec::new(), Vec::new());
    change.retained = filter.older_than;
    let mut rows = 0;
    for group in overlap_groups(&snapshot.files) {
        let concerned = group.iter().any(|file| filter.concerns(&(file.time_min..=file.time_max)));
        if !concerned || !holds_any(merged_files(table, &snapshot.schema, &group).await?, filter).await? {
            continue;
        }
        let kept = without(merged_files(table, &snapshot.schema, &group).await?, filter.clone());
        let mut files = write_files(shared, table, &snapshot.schema, sub_micro(&group), kept.rows).await?;
        files.iter_mut().for_each(|file| file.order = span(&group));
        rows += kept.deleted.load(std::sync::atomic::Ordering::Relaxed);
        change.add.extend(files);
        change.remove.extend(group);
    }
    commit(place, change, rows).await
}

/// Commits a rewrite and shows it to queries.
pub(super) async fn commit(place: &Place, change: Change, rows: u64) -> Result<Rewritten> {
    let table = &place.table;
    let (files_before, files_after) = (change.remove.len(), change.add.len());
    let app_id = change.step.as_ref().map(Step::app_id);
    let done = table.commit(change).await?;
    place.state.committed(table, false);
    if done.already {
        // An earlier attempt made it, at a version that its txn tells.
        let version = app_id.and_then(|app_id| table.snapshot().transactions.get(&app_id).copied());
        return Ok(Rewritten { version: version.unwrap_or(done.version), already: true, ..Rewritten::default() });
    }
    Ok(Rewritten { version: done.version, already: false, rows, files_before, files_after })
}

async fn count(filter: &RowFilter, batch: RecordBatch) -> Result<u64> {
    let filter = filter.clone();
    crate::flush::blocking(move || Ok(filter.mask(&batch)?.true_count() as u64)).await
}

/// Whether any row is meant; reads no further than to the first.
async fn holds_any(mut rows: RowStream, filter: &RowFilter) -> Result<bool> {
    while let Some(batch) = rows.next().await {
        if count(filter, batch?).await? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Rows that stay, and how many did not so far.
struct Kept {
    rows: RowStream,
    deleted: Arc<std::sync::atomic::AtomicU64>,
}

fn without(rows: RowStream, filter: RowFilter) -> Kept {
    let deleted = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = Arc::clone(&deleted);
    let kept = rows.then(move |batch| {
        let (filter, counter) = (filter.clone(), Arc::clone(&counter));
        async move {
            let batch = batch?;
            crate::flush::blocking(move || {
                let mask = filter.mask(&batch)?;
                counter.fetch_add(mask.true_count() as u64, std::sync::atomic::Ordering::Relaxed);
                Ok(filter_record_batch(&batch, &not(&mask)?)?)
            })
            .await
        }
    });
    Kept { rows: kept.boxed(), deleted }
}
