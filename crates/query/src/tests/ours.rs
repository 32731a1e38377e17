//! `tests/slt/*.slt`: every function and statement of ours on tables of an engine, with answers worked out by hand.
//!
//! Besides SQL a file has two statements: `WRITE`, followed by lines of line protocol, and `FLUSH`. Each file has an engine
//! and a folder of its own.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqllogictest::{AsyncDB, DBOutput, parse_file};
use weir_base::OsRandom;
use weir_base::clock::SystemClock;
use weir_engine::Engine;
use weir_engine::config::Config;
use weir_engine::engine::Env;
use weir_engine::ingest::WriteOptions;

use super::cells::{self, Kind};
use super::run;
use crate::error::Error;
use crate::settings::Settings;
use crate::sql::{Request, SqlEngine};

struct Connection {
    engine: Engine,
    sql: Arc<SqlEngine>,
}

#[derive(Debug)]
struct Told(String);

impl std::fmt::Display for Told {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Told {}

impl From<Error> for Told {
    fn from(error: Error) -> Self {
        Self(weir_base::error::chain(&error))
    }
}

impl From<weir_engine::Error> for Told {
    fn from(error: weir_engine::Error) -> Self {
        Self(weir_base::error::chain(&error))
    }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = Told;
    type ColumnType = Kind;

    async fn run(&mut self, statement: &str) -> Result<DBOutput<Kind>, Told> {
        if let Some(lines) = statement.strip_prefix("WRITE\n") {
            let mut write = self.engine.begin_write("db", WriteOptions::default())?;
            let lines = lines.as_bytes().to_vec();
            let fed = tokio::task::spawn_blocking(move || write.feed(&lines).map(|()| write));
            let written = fed.await.expect("no panic")?.commit().await?;
            assert!(written.rejected.is_empty(), "{:?}", written.rejected);
            return Ok(DBOutput::StatementComplete(written.rows as u64));
        }
        if statement == "FLUSH" {
            return Ok(DBOutput::StatementComplete(self.engine.flush(None).await?.rows));
        }
        let request = Request { database: "db".to_owned(), sql: statement.to_owned(), ..Request::default() };
        let (schema, batches) = self.sql.collect(request).await?;
        Ok(DBOutput::Rows { types: cells::kinds(&schema), rows: cells::rows(&batches, |cell| cell) })
    }

    async fn shutdown(&mut self) {}
}

async fn check(file: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { background: false, ..Config::new(folder.path()) };
    let (engine, _) = Engine::open(config, Env::default()).await.unwrap();
    let clock = Arc::new(SystemClock::default());
    let sql = SqlEngine::new(Arc::new(engine.clone()), Settings::new(1 << 30, 2), clock, Arc::new(OsRandom)).unwrap();
    let sql = Arc::new(sql);
    let records = parse_file(file).unwrap();
    let failed =
        run(records, false, || async { Ok(Connection { engine: engine.clone(), sql: Arc::clone(&sql) }) }).await;
    let told: Vec<String> = failed.into_iter().map(|one| format!("line {}: {}", one.line, one.told)).collect();
    assert!(told.is_empty(), "{}\n{}", file.display(), told.join("\n"));
}

#[test]
fn every_function_and_statement_gives_the_answers_worked_out_by_hand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    let files: Vec<_> = files.into_iter().filter(|path| path.extension().is_some_and(|name| name == "slt")).collect();
    assert!(files.len() >= 7, "only {} files in {}", files.len(), folder.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for file in files {
        runtime.block_on(check(&file));
    }
}
