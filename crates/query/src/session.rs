//! Sessions: how DataFusion is set up for one query, and how a statement becomes a stream of rows.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::temporal_conversions::timestamp_ns_to_datetime;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, TableReference};
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::execution::cache::cache_manager::{CacheManagerConfig, FileMetadataCache};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SQLOptions, SessionConfig};
use datafusion::sql::parser::Statement as Parsed;
use futures::{StreamExt, stream};
use weir_base::{Kind, Timestamp};
use weir_engine::external;
use weir_engine::operations::FilterOf;
use weir_engine::read::Tables;
use weir_engine::rollup::Definition;

use crate::catalog::{CATALOG, QueryCatalog};
use crate::count;
use crate::error::{Error, Result};
use crate::external::{ExternalStatement, Externals, LOCAL_URL, LocalFiles};
use crate::functions;
use crate::memory::SharedMemory;
use crate::planner;
use crate::predicate;
use crate::rollup;
use crate::scan::{Caches, ColumnCache};
use crate::scope;
use crate::settings::Settings;
use crate::show;
use crate::slow::Trace;
use crate::sql::Request;
use crate::statement::{self, Statement};

/// Under this URL plans name the store of the tables.
const STORE_URL: &str = "weir://store/";
/// A thread's memory over the rows of a batch: 64 batches fit, of rows of 128 bytes.
const BATCH_ROW_SHARE: u64 = 64 * 128;
/// How DataFusion begins the names of its folders for spilled data.
const SPILL_PREFIX: &[u8] = b"datafusion-";

/// What all queries share.
#[derive(Debug)]
pub(crate) struct Sessions {
    tables: Arc<dyn Tables>,
    /// A state with all functions and rules, copied for each query.
    state: SessionState,
    runtime: RuntimeEnv,
    footers: Arc<FileMetadataCache>,
    columns: Arc<ColumnCache>,
    memory: SharedMemory,
    settings: Settings,
    url: ObjectStoreUrl,
    externals: Externals,
}

impl Sessions {
    pub(crate) fn new(tables: Arc<dyn Tables>, settings: &Settings) -> Result<Self> {
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        let footers = usize::try_from(settings.query_footer_bytes_max.bytes()).unwrap_or(usize::MAX);
        let disk = match &settings.query_spill_dir {
            Some(dir) => {
                sweep(dir).map_err(|error| Error::io(format!("cannot sweep {}", dir.display()), error))?;
                DiskManagerMode::Directories(vec![dir.clone()])
            }
            None => DiskManagerMode::Disabled,
        };
        let disk = DiskManagerBuilder::default()
            .with_mode(disk)
            .with_max_temp_directory_size(settings.query_spill_bytes_max.bytes());
        let runtime = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(disk)
            .with_cache_manager(
                CacheManagerConfig::default().with_metadata_cache_limit(footers).with_list_files_cache_limit(0),
            )
            .build()
            .map_err(|error| Error::wrap(Kind::Unavailable, "cannot use the folder for spilled data", error))?;
        runtime.register_object_store(url.as_ref(), tables.objects());
        let files = LocalFiles::new(settings.query_external_locations.clone(), settings.query_external_files_max);
        let files = Arc::new(files);
        runtime.register_object_store(ObjectStoreUrl::parse(LOCAL_URL)?.as_ref(), Arc::clone(&files) as _);
        let config = session_config(settings);
        let builder = SessionStateBuilder::new().with_config(config).with_default_features();
        let builder = builder.with_runtime_env(Arc::new(runtime.clone()));
        let state = planner::register(functions::register(builder), settings).build();
        let externals = Externals { state: Arc::new(state.clone()), files };
        Ok(Self {
            externals,
            tables,
            state,
            footers: runtime.cache_manager.get_file_metadata_cache(),
            columns: Arc::new(ColumnCache::new(settings.query_column_bytes_max)),
            runtime,
            memory: SharedMemory::new(settings.query_memory_bytes_max),
            settings: settings.clone(),
            url,
        })
    }

    /// What each query starts from.
    #[cfg(test)]
    pub(crate) fn plain_state(&self) -> SessionState {
        self.state.clone()
    }

    fn caches(&self) -> Caches {
        Caches {
            url: self.url.clone(),
            footers: Arc::clone(&self.footers),
            columns: Arc::clone(&self.columns),
            memory: self.settings.query_each_memory_bytes_max,
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.reserved()
    }

    pub(crate) fn columns(&self) -> &ColumnCache {
        &self.columns
    }

    /// Footers in memory: how many, and their bytes.
    pub(crate) fn footers(&self) -> (u64, u64) {
        let held = self.footers.list_entries();
        let bytes = held.iter().map(|(path, entry)| path.as_ref().len() + entry.size_bytes).sum::<usize>();
        (held.len() as u64, bytes as u64)
    }

    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.runtime.disk_manager.used_disk_space()
    }

    /// Makes filters of rows with the functions that queries have.
    pub(crate) fn filters(&self) -> FilterOf {
        predicate::filters(self.state.clone())
    }

    /// Plans a statement on snapshots taken `now` and starts it. Also says which versions of the past it reads.
    pub(crate) async fn execute(
        &self,
        request: &Request,
        now: Timestamp,
        trace: &Trace,
    ) -> Result<(SendableRecordBatchStream, Vec<String>)> {
        let catalog = self.catalog(request, self.settings.query_rollups);
        trace.catalog(&catalog);
        let (mut state, runtime) = self.state(request, &catalog, trace)?;
        // `now()` is one time for the whole statement, by our clock.
        state.mark_start_execution();
        state.execution_props_mut().query_execution_start_time = timestamp_ns_to_datetime(now).map(|now| now.and_utc());
        let stream = match statement::parse(&request.sql)? {
            Statement::Show(show) => match show::answer(&show, &catalog, &request.database).await? {
                show::Answer::Rows(batch) => rows(batch),
                show::Answer::Query(sql) => {
                    let Statement::Query(statement) = statement::parse(&sql)? else {
                        return Err(Error::new(Kind::Internal, "a SHOW became no query"));
                    };
                    self.run(*statement, request, (&state, runtime), &catalog, trace).await?
                }
            },
            Statement::Query(statement) => self.run(*statement, request, (&state, runtime), &catalog, trace).await?,
        };
        Ok((stream, catalog.past()))
    }

    /// The state of one query: its catalog, its memory.
    fn state(
        &self,
        request: &Request,
        catalog: &QueryCatalog,
        trace: &Trace,
    ) -> Result<(SessionState, Arc<RuntimeEnv>)> {
        let memory = Arc::new(self.memory.share(self.settings.query_each_memory_bytes_max));
        trace.memory(&memory);
        let runtime = RuntimeEnvBuilder::from_runtime_env(&self.runtime).with_memory_pool(memory).build_arc()?;
        let mut config = self.state.config().clone();
        config.options_mut().catalog.default_schema = request.database.clone();
        // A copy of what is registered; a builder would register all of it anew.
        let mut state = self.state.clone();
        *state.config_mut() = config;
        state.register_catalog_list(Arc::new(catalog.clone()));
        Ok((state, runtime))
    }

    /// The databases and tables that a query may see.
    fn catalog(&self, request: &Request, rollups: bool) -> QueryCatalog {
        let tables = scope::within(Arc::clone(&self.tables), request.databases.clone());
        QueryCatalog::new(tables, self.caches(), self.externals.clone(), &request.database, rollups)
    }

    /// The definition of an external table, and its columns: its files are found and looked at.
    pub(crate) async fn define_external(&self, statement: &ExternalStatement) -> Result<(external::Definition, usize)> {
        let definition = external::Definition::new(statement.name.clone(), statement.sql.clone());
        let limit = self.settings.query_deadline;
        let opened = tokio::time::timeout(limit, self.externals.open(&definition)).await.map_err(|_| {
            let what = format!("its files were not found within {limit:?} (setting query_deadline_s)");
            Error::new(Kind::Limit, what)
        })??;
        Ok((definition, opened.schema().fields().len()))
    }

    /// The definition of a rollup by its query.
    pub(crate) async fn define(&self, request: &Request, name: &str, on: Option<&str>) -> Result<Definition> {
        let catalog = self.catalog(request, false);
        let (state, _) = self.state(request, &catalog, &Trace::default())?;
        let Statement::Query(statement) = statement::parse(&request.sql)? else {
            return Err(Error::invalid("a rollup is made of a SELECT"));
        };
        let named = state.resolve_table_references(&statement)?;
        catalog.take_snapshots(&named).await?;
        let plan = state.statement_to_plan(*statement).await?;
        let plan = state.analyzer().execute_and_check(plan, state.config().options(), |_, _| {})?;
        rollup::define(&plan, name, on, request, &state)
    }

    async fn run(
        &self,
        statement: Parsed,
        request: &Request,
        (state, runtime): (&SessionState, Arc<RuntimeEnv>),
        catalog: &QueryCatalog,
        trace: &Trace,
    ) -> Result<SendableRecordBatchStream> {
        let explains = matches!(statement, Parsed::Explain(_));
        let functions = |table: &TableReference| state.table_functions().contains_key(table.table());
        let named = state.resolve_table_references(&statement)?;
        let named: Vec<_> = named.into_iter().filter(|table| !functions(table)).collect();
        catalog.take_snapshots(&named).await?;
        let plan = state.statement_to_plan(statement).await?;
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        options.verify_plan(&plan)?;
        let plan = with_params(plan, request)?;
        if let Some(table) = count::counted(&plan) {
            let database = table.schema().unwrap_or(&request.database);
            let table = catalog.table(database, table.table()).await;
            // What is no table of ours (`information_schema`) is planned like any other question.
            if let Ok(table) = table
                && let Some(batch) = count::answer(&plan, &table).await?
            {
                return Ok(rows(batch));
            }
        }
        let plan = with_rollups(plan, state, catalog)?;
        let plan = match is_simple(&plan)? {
            true => {
                let mut state = state.clone();
                state.config_mut().options_mut().optimizer.max_passes = 1;
                state.create_physical_plan(&plan).await?
            }
            false => state.create_physical_plan(&plan).await?,
        };
        trace.plan(&plan);
        let stream = start(plan, Arc::new(TaskContext::from(state).with_runtime(runtime)))?;
        Ok(if explains { with_notes(stream, catalog.clone()) } else { stream })
    }
}

/// The plan with rollups in the place of tables where they answer.
fn with_rollups(plan: LogicalPlan, state: &SessionState, catalog: &QueryCatalog) -> Result<LogicalPlan> {
    if !catalog.has_candidates() {
        return Ok(plan);
    }
    let placed = |plan: &LogicalPlan| -> Result<Option<LogicalPlan>> {
        let Some((plan, notes)) = rollup::rewrite(plan, &|table| catalog.candidates(table), state)? else {
            return Ok(None);
        };
        notes.into_iter().for_each(|note| catalog.note(note));
        Ok(Some(plan))
    };
    Ok(match plan {
        LogicalPlan::Explain(mut explain) => {
            if let Some(inner) = placed(&explain.plan)? {
                explain.plan = Arc::new(inner);
            }
            LogicalPlan::Explain(explain)
        }
        LogicalPlan::Analyze(mut analyze) => {
            if let Some(inner) = placed(&analyze.input)? {
                analyze.input = Arc::new(inner);
            }
            LogicalPlan::Analyze(analyze)
        }
        plan => placed(&plan)?.unwrap_or(plan),
    })
}

/// Removes what a process that was killed left behind. The folder belongs to one process, which holds the data folder.
fn sweep(dir: &Path) -> std::io::Result<()> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(SPILL_PREFIX)) {
            std::fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Whether a plan is one chain of nodes over one table: its rules have done all they can after one pass.
fn is_simple(plan: &LogicalPlan) -> Result<bool> {
    let mut simple = true;
    plan.apply_with_subqueries(|node| {
        simple &= matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::Aggregate(_)
                | LogicalPlan::Sort(_)
                | LogicalPlan::Limit(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::SubqueryAlias(_)
        );
        Ok(if simple { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(simple)
}

fn start(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
    Ok(execute_stream(plan, context)?)
}

fn with_params(plan: LogicalPlan, request: &Request) -> Result<LogicalPlan> {
    if request.params.is_empty() {
        return Ok(plan);
    }
    let positional = |name: &str| name.parse::<usize>().ok();
    if request.params.iter().all(|(name, _)| positional(name).is_some()) {
        let mut values: Vec<_> = request.params.iter().map(|(name, value)| (positional(name), value)).collect();
        values.sort_by_key(|value| value.0);
        if values.iter().enumerate().any(|(index, value)| value.0 != Some(index + 1)) {
            return Err(Error::invalid("positional parameters must be numbered from $1 without gaps"));
        }
        let values: Vec<_> = values.into_iter().map(|value| value.1.clone().into()).collect();
        return Ok(plan.with_param_values(ParamValues::List(values))?);
    }
    let values = request.params.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    Ok(plan.with_param_values(ParamValues::Map(values))?)
}

/// One batch as a stream.
fn rows(batch: RecordBatch) -> SendableRecordBatchStream {
    let schema = batch.schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Ok(batch)])))
}

/// The rows of an EXPLAIN and one more that says what its scans left out.
fn with_notes(explained: SendableRecordBatchStream, catalog: QueryCatalog) -> SendableRecordBatchStream {
    let schema = explained.schema();
    let text = |schema: &SchemaRef| {
        let texts = schema.fields().iter().all(|field| *field.data_type() == DataType::Utf8);
        texts && schema.fields().len() == 2
    };
    if !text(&schema) {
        return explained;
    }
    let last = schema.clone();
    let notes = stream::once(async move {
        let notes = [catalog.notes(), catalog.past()].concat().join("\n");
        let columns: Vec<arrow::array::ArrayRef> =
            vec![Arc::new(StringArray::from(vec!["scan"])), Arc::new(StringArray::from(vec![notes]))];
        Ok(RecordBatch::try_new(last, columns)?)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, explained.chain(notes)))
}

fn session_config(settings: &Settings) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(settings.query_threads.max(1))
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, "default");
    let options = config.options_mut();
    options.sql_parser.enable_ident_normalization = false;
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    options.explain.show_statistics = false;
    // Scans come in as many parts as are worth it.
    options.optimizer.enable_round_robin_repartition = false;
    // A sort cannot hold less than a batch, nor merge less than two; the defaults alone are more than a small limit.
    let memory = settings.query_each_memory_bytes_max.bytes() / settings.query_threads.max(1) as u64;
    let batch_rows = (memory / BATCH_ROW_SHARE).clamp(256, 8192) as usize;
    options.execution.sort_spill_reservation_bytes = (memory / 32).clamp(64 << 10, 10 << 20) as usize;
    config.with_batch_size(batch_rows)
}

/// A schema of text columns.
pub(crate) fn text_schema(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>()))
}
