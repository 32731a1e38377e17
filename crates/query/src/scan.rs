//! One table of one snapshot as DataFusion sees it, and how it is read (E3).
//!
//! Files and runs of the buffer whose keys cannot match are left out before anything is opened ([`prune`]). What is left
//! is split by `engine::read` into parts that nothing overlaps and groups that must be merged. The former become plain
//! `DataSourceExec`s over Parquet, into which every filter, projection and limit may sink; the latter become a
//! [`MergeExec`] through which only filters on tags and time pass. A [`StoredColumns`] adapter turns what files hold into
//! the logical layout, so that everything above speaks true names and types.

mod buffer_exec;
pub(crate) mod hot;
mod merge_exec;
mod parquet;
pub(crate) mod prune;
mod stored;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use weir_engine::read::{MemoryRun, Part, ReadPlan, ReadSnapshot, SortedRun, Source, logical_schema};
use weir_engine::schema::TableSchema;

use buffer_exec::BufferExec;
pub(crate) use hot::ColumnCache;
use merge_exec::MergeExec;
pub(crate) use parquet::{Caches, Files};
use prune::Pruning;
pub(crate) use stored::StoredColumns;

/// Rows of all inputs of a merge together that are decoded at once: many inputs get small batches.
const ROWS_IN_FLIGHT: usize = 256 << 10;
const BATCH_ROWS_MIN: usize = 256;
const BATCH_ROWS_MAX: usize = 8192;

/// A table at one moment.
#[derive(Debug)]
pub(crate) struct SnapshotTable {
    snapshot: ReadSnapshot,
    schema: SchemaRef,
    files: Files,
    /// What scans of this table left out, in words, for EXPLAIN.
    notes: Arc<Mutex<Vec<String>>>,
}

/// The columns that a scan gives and where the key lies among those that it must read for it.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    /// Columns to read for a merge: those asked for and the key, ascending positions in the logical layout.
    pub(crate) read: Vec<usize>,
    /// Tags in the order of the sort key, as positions in `read`.
    pub(crate) tags: Vec<usize>,
    /// `time`, as position in `read`.
    pub(crate) time: usize,
    /// Columns asked for, as positions in `read`.
    pub(crate) output: Vec<usize>,
}

impl SnapshotTable {
    pub(crate) fn new(snapshot: ReadSnapshot, files: Files, notes: Arc<Mutex<Vec<String>>>) -> Self {
        let schema = Arc::clone(files.schema());
        Self { snapshot, schema, files, notes }
    }

    /// What this table is at this moment.
    pub(crate) fn snapshot(&self) -> &ReadSnapshot {
        &self.snapshot
    }

    fn columns(&self, asked: &[usize]) -> Columns {
        let tags: Vec<usize> = self.snapshot.schema.tags().map(|(index, _)| index + 1).collect();
        let mut read: Vec<usize> = asked.iter().chain(&tags).copied().chain([0]).collect();
        read.sort_unstable();
        read.dedup();
        let place = |column: &usize| read.binary_search(column).expect("every column of the key and asked for is read");
        Columns {
            tags: tags.iter().map(place).collect(),
            time: place(&0),
            output: asked.iter().map(place).collect(),
            read,
        }
    }

    fn note(&self, kept: &[Source], plan: &ReadPlan) {
        let files = kept.iter().filter(|source| matches!(source, Source::File(_))).count();
        let mut notes = self.notes.lock().expect("no holder of this lock panics");
        notes.push(format!(
            "{}.{}: version {}, {files} of {} files, {} of {} buffered runs, {} plain parts, {} merged groups of {} parts",
            self.snapshot.database,
            self.snapshot.table,
            self.snapshot.version,
            self.snapshot.files.len(),
            kept.len() - files,
            self.snapshot.runs.len(),
            plan.plain.len(),
            plan.merged.len(),
            plan.merged.iter().map(Vec::len).sum::<usize>(),
        ));
    }

    /// The parts that nothing overlaps: files through the cache of columns where they fit, else one scan of whole files and
    /// one of clipped ones; and the runs of the buffer.
    async fn plain(
        &self,
        parts: Vec<Part>,
        pruning: &Pruning,
        filter: Option<&Arc<dyn PhysicalExpr>>,
        asked: &[usize],
        partitions: usize,
    ) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let (mut files, mut plans) = (Vec::new(), Vec::<Arc<dyn ExecutionPlan>>::new());
        for part in parts {
            match part.source {
                Source::File(file) => files.push((file, part.times)),
                Source::Run(run) => {
                    let run = sorted(&run)?;
                    plans.push(Arc::new(BufferExec::new(run, part.times, asked.to_vec(), &self.schema)));
                }
            }
        }
        let filters: Vec<_> = filter.map(split_conjunction).unwrap_or_default().into_iter().cloned().collect();
        if let Some(hot) = self.files.scan_hot(&files, pruning, &filters, asked, partitions).await? {
            plans.push(hot);
            return Ok(plans);
        }
        plans.extend(self.files.scan_cold(&files, asked, partitions)?);
        Ok(plans)
    }

    fn merged(&self, groups: Vec<Vec<Part>>, asked: &[usize], partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.columns(asked);
        let mut inputs = Vec::with_capacity(groups.len());
        for group in groups {
            let rows = group.iter().map(Part::rows).sum::<u64>();
            let batch_rows = (ROWS_IN_FLIGHT / group.len()).clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX);
            let parts = group.into_iter().map(|part| self.input(part, &columns, batch_rows));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            inputs.push((rows, parts));
        }
        let rows: u64 = inputs.iter().map(|(rows, _)| rows).sum();
        let merge = MergeExec::try_new(inputs, columns, partitions)?;
        let parts = merge.properties().output_partitioning().partition_count();
        if parts >= partitions || rows < parquet::PARTITION_ROWS_MIN {
            return Ok(Arc::new(merge));
        }
        // What comes above shares the work even where the merge cannot.
        Ok(Arc::new(RepartitionExec::try_new(Arc::new(merge), Partitioning::RoundRobinBatch(partitions))?))
    }

    /// One sorted input of a merge.
    fn input(&self, part: Part, columns: &Columns, batch_rows: usize) -> Result<Arc<dyn ExecutionPlan>> {
        match part.source {
            Source::File(file) => self.files.scan_sorted(&file, part.times, columns, batch_rows),
            Source::Run(run) => {
                let run = BufferExec::new(sorted(&run)?, part.times, columns.read.clone(), &self.schema);
                Ok(Arc::new(run.sorted(columns)?))
            }
        }
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Every filter is seen here, for pruning; where it is applied is settled when the plan is optimised.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let asked: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let filter = match conjunction(filters.iter().cloned()) {
            Some(filter) => {
                let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
                Some(state.create_physical_expr(filter, &schema)?)
            }
            None => None,
        };
        let pruning = Pruning::new(filter.as_ref(), &self.schema);
        let kept = pruning.sources(self.snapshot.sources())?;
        let plan = ReadPlan::new(kept.clone(), &pruning.wanted);
        self.note(&kept, &plan);
        sort(&kept).await?;
        let partitions = state.config().target_partitions();
        let mut plans = self.plain(plan.plain, &pruning, filter.as_ref(), &asked, partitions).await?;
        if !plan.merged.is_empty() {
            plans.push(self.merged(plan.merged, &asked, partitions)?);
        }
        match plans.len() {
            0 => Ok(Arc::new(EmptyExec::new(project(&self.schema, &asked)?))),
            1 => Ok(plans.swap_remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }
}

/// What marks a tag in the schema of a table, for as long as it goes through a plan by itself.
const ROLE: &str = "weir.role";
const TAG: &str = "tag";

/// The logical layout of a table, with its tags marked.
pub(crate) fn table_schema(schema: &TableSchema) -> SchemaRef {
    let logical = logical_schema(schema);
    let tags: HashSet<usize> = schema.tags().map(|(index, _)| index + 1).collect();
    let fields = logical.fields().iter().enumerate().map(|(index, field)| match tags.contains(&index) {
        true => {
            let mark = HashMap::from([(ROLE.to_owned(), TAG.to_owned())]);
            Arc::new(field.as_ref().clone().with_metadata(mark))
        }
        false => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether a column of an answer is a tag of a table.
pub(crate) fn is_tag(field: &Field) -> bool {
    field.metadata().get(ROLE).is_some_and(|role| role == TAG)
}

/// Sorts those of the runs that are not sorted yet, off the threads that queries share.
pub(crate) async fn sort(sources: &[Source]) -> Result<()> {
    for source in sources {
        let Source::Run(run) = source else { continue };
        if !run.is_sorted() {
            let run = run.clone();
            let sorting = tokio::task::spawn_blocking(move || sorted(&run).map(drop));
            sorting.await.map_err(|error| DataFusionError::External(Box::new(error)))??;
        }
    }
    Ok(())
}

/// The rows of a run in key order.
fn sorted(run: &MemoryRun) -> Result<SortedRun> {
    run.sorted().map_err(|error| DataFusionError::External(Box::new(error)))
}

fn project(schema: &Schema, columns: &[usize]) -> Result<SchemaRef> {
    Ok(Arc::new(schema.project(columns)?))
}
