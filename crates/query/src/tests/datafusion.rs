//! The SQL files of DataFusion on a session of ours: plain SQL means with Weir's functions and rules what it means without.
//!
//! `WEIR_TEST_SLT` names their folder; without it `cargo xtask slt` is asked. Queries are read and planned as those of
//! Weir; what they are about is made by the files themselves with statements that Weir does not have (CREATE TABLE, INSERT,
//! SET), and these go to DataFusion. Four settings are those that the files were written for: names without quotes are
//! lower-case, plans have four partitions over which rows are spread in turns, and Parquet filters are not pushed down
//! unless a file says so. Files are written to an object store in memory.
//!
//! `tests/slt/datafusion.txt` lists what does not apply and why, a file or a line of one. What is listed and passes fails
//! the test, as does what is not listed and fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
};
use datafusion::common::DataFusionError;
use datafusion::common::config::Dialect;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::physical_plan::common::collect;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use sqllogictest::{AsyncDB, DBOutput, parse_file};
use weir_engine::past::{At, Past};
use weir_engine::read::{ReadSnapshot, Tables};
use weir_engine::rollup::Definition;

use super::cells::{self, Kind};
use super::{Failed, run};
use crate::session::Sessions;
use crate::settings::Settings;
use crate::statement::{self, Statement};

/// Where the files were when their expected plans were written.
const WRITTEN_IN: &str = "WORKSPACE_ROOT/datafusion/sqllogictest";
/// Stack of a thread; plans of a debug build nest deeply.
const STACK_BYTES: usize = 64 << 20;
const THREADS: usize = 2;

/// A store without tables.
#[derive(Debug)]
struct NoTables(Arc<InMemory>);

#[async_trait]
impl Tables for NoTables {
    async fn databases(&self) -> weir_engine::Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn tables(&self, _: &str) -> weir_engine::Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn snapshot(&self, _: &str, _: &str) -> weir_engine::Result<Option<ReadSnapshot>> {
        Ok(None)
    }

    async fn snapshot_at(&self, _: &str, table: &str, _: At) -> weir_engine::Result<Past> {
        Err(weir_engine::Error::new(weir_base::Kind::NotFound, format!("no table {table}")))
    }

    async fn rollups(&self, _: &str) -> weir_engine::Result<Vec<Definition>> {
        Ok(Vec::new())
    }

    async fn externals(&self, _: &str) -> weir_engine::Result<Vec<weir_engine::external::Definition>> {
        Ok(Vec::new())
    }

    async fn external(&self, _: &str, _: &str) -> weir_engine::Result<Option<weir_engine::external::Definition>> {
        Ok(None)
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0) as _
    }
}

/// A session as the files expect it.
fn session() -> SessionContext {
    let settings = Settings::new(1 << 36, 4);
    let sessions = Sessions::new(Arc::new(NoTables(Arc::default())), &settings).unwrap();
    let state = sessions.plain_state();
    let mut config = state.config().clone().with_default_catalog_and_schema("datafusion", "public");
    let options = config.options_mut();
    options.sql_parser.enable_ident_normalization = true;
    options.execution.parquet.pushdown_filters = false;
    options.execution.parquet.reorder_filters = false;
    options.catalog.information_schema = false;
    options.optimizer.enable_round_robin_repartition = true;
    let runtime = Arc::new(RuntimeEnv::default());
    runtime.register_object_store(ObjectStoreUrl::local_filesystem().as_ref(), Arc::new(InMemory::new()));
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema("public", Arc::new(MemorySchemaProvider::new())).unwrap();
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog("datafusion".to_owned(), Arc::new(catalog));
    let state = SessionStateBuilder::new_from_existing(state)
        .with_config(config)
        .with_runtime_env(runtime)
        .with_catalog_list(Arc::new(catalogs))
        .build();
    SessionContext::new_with_state(state)
}

#[derive(Debug)]
struct Told(DataFusionError);

impl std::fmt::Display for Told {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "DataFusion error: {}", self.0.strip_backtrace())
    }
}

impl std::error::Error for Told {}

struct Session(SessionContext);

#[async_trait]
impl AsyncDB for Session {
    type Error = Told;
    type ColumnType = Kind;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, Told> {
        self.answer(sql).await.map_err(Told)
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "DataFusion"
    }
}

impl Session {
    async fn answer(&self, sql: &str) -> Result<DBOutput<Kind>, DataFusionError> {
        let dialect = self.0.state().config().options().sql_parser.dialect;
        let frame = match statement::parse(sql) {
            Ok(Statement::Query(query)) if dialect == Dialect::Generic => {
                let plan = self.0.state().statement_to_plan(*query).await?;
                self.0.execute_logical_plan(plan).await?
            }
            // What Weir refuses or answers in a way of its own, and other dialects.
            _ => self.0.sql(sql).await?,
        };
        let context = Arc::new(frame.task_ctx());
        let plan = frame.create_physical_plan().await?;
        let stream = execute_stream(plan, context)?;
        let kinds = cells::kinds(&stream.schema());
        let batches = collect(stream).await?;
        let here = env!("CARGO_MANIFEST_DIR").trim_start_matches('/');
        let rows = cells::rows(&batches, |cell| cell.replace(here, WRITTEN_IN));
        match rows.is_empty() && kinds.is_empty() {
            true => Ok(DBOutput::StatementComplete(0)),
            false => Ok(DBOutput::Rows { types: kinds, rows }),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the files are named by the environment of the tests")]
fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("WEIR_TEST_SLT") {
        return folder.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let fetched = Command::new(cargo).args(["xtask", "slt"]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(fetched.status.success(), "cargo xtask slt: {}", String::from_utf8_lossy(&fetched.stderr));
    String::from_utf8(fetched.stdout).unwrap().trim().into()
}

/// Every `.slt` file below a folder, by its path from there.
fn files(folder: &Path) -> Vec<String> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(inner) = folders.pop() {
        for entry in inner.read_dir().unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|name| name == "slt") => {
                    files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
                }
                false => {}
            }
        }
    }
    files.sort();
    files
}

/// What does not apply: for each file its lines, none for the whole file.
#[allow(clippy::disallowed_methods, reason = "the list lies beside the test")]
fn listed() -> BTreeMap<String, Vec<u32>> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt/datafusion.txt");
    let mut listed = BTreeMap::new();
    for line in std::fs::read_to_string(list).unwrap().lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (place, reason) = line.split_once(' ').unwrap_or_else(|| panic!("'{line}' has no reason"));
        assert!(!reason.trim().is_empty(), "'{line}' has no reason");
        let (file, lines) = place.split_once(':').unwrap_or((place, ""));
        let lines = lines.split(',').filter(|line| !line.is_empty()).map(|line| line.parse::<u32>().unwrap());
        let known: &mut Vec<u32> = listed.entry(file.to_owned()).or_default();
        known.extend(lines);
    }
    listed
}

/// What failed in a file, of one that is listed as a `whole` at least one. A panic is a failure of the whole.
fn failures(folder: &Path, file: &str, whole: bool) -> Vec<Failed> {
    let path = folder.join(file);
    let asked = move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).thread_stack_size(STACK_BYTES).enable_all().build().unwrap();
        let records = match parse_file(&path) {
            Ok(records) => records,
            Err(error) => return vec![Failed { line: 0, told: error.to_string() }],
        };
        let context = session();
        runtime.block_on(run(records, whole, || async { Ok(Session(context.clone())) }))
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(asked).unwrap();
    thread.join().unwrap_or_else(|_| vec![Failed { line: 0, told: "panicked".to_owned() }])
}

/// What is wrong with how a file went.
fn complaints(file: &str, listed: Option<&Vec<u32>>, failed: &[Failed]) -> Vec<String> {
    match listed {
        Some(lines) if lines.is_empty() => {
            let passed = failed.is_empty().then(|| format!("{file} is listed and passes"));
            passed.into_iter().collect()
        }
        listed => {
            let known = listed.map_or(&[] as &[u32], Vec::as_slice);
            let new = failed.iter().filter(|one| !known.contains(&one.line));
            let new = new.map(|one| format!("{file}:{} {}", one.line, one.told));
            let gone = known.iter().filter(|line| !failed.iter().any(|one| one.line == **line));
            new.chain(gone.map(|line| format!("{file}:{line} is listed and passes"))).collect()
        }
    }
}

#[test]
fn the_sql_files_of_datafusion_hold_on_a_session_of_ours() {
    let folder = folder();
    let (listed, files) = (listed(), files(&folder));
    assert!(files.len() > 300, "only {} files in {}", files.len(), folder.display());
    for file in listed.keys() {
        assert!(files.contains(file), "{file} is listed and not there");
    }
    let (next, complained) = (Mutex::new(files.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let Some(file) = next.lock().unwrap().next() else { break };
                    let listed = listed.get(file);
                    let whole = listed.is_some_and(Vec::is_empty);
                    let wrong = complaints(file, listed, &failures(&folder, file, whole));
                    complained.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    let complained = complained.into_inner().unwrap();
    assert!(complained.is_empty(), "{} complaints\n{}", complained.len(), complained.join("\n"));
}
