//! Wiring: from settings to an engine with its SQL side, and to the routes over it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use weir_base::{OsRandom, SystemClock};
use weir_engine::Engine;
use weir_engine::engine::{Env, Opened};
use weir_server::{App, Database, Embedded, HistorySettings};

use crate::config::Config;
use crate::terminal::Terminal;

/// The folder of the history of operations, in the data folder.
pub(crate) const OPERATIONS: &str = "operations";

/// Opens the folder for `owner`, and says what the last process left to repair.
///
/// # Errors
/// `conflict`, naming the holder, when another process has it; `damaged`, naming file and offset.
pub(crate) async fn open(config: &Config, owner: &str, terminal: &Terminal) -> Result<Arc<dyn Database>> {
    let mut engine = config.engine.clone();
    engine.owner = owner.to_owned();
    let data = engine.data.clone();
    let env = Env::default();
    let (engine, opened) =
        Engine::open(engine, env.clone()).await.with_context(|| format!("cannot open {}", data.display()))?;
    report(&opened, terminal);
    let history = HistorySettings {
        dir: data.join(OPERATIONS),
        owner: format!("{owner} (pid {})", std::process::id()),
        options: weir_ops::Options { chain: config.operations.chain, ..weir_ops::Options::default() },
        protected: config.operations.protected.clone(),
    };
    let database = Embedded::new(engine, config.query.clone(), history, env.clock, env.random)
        .context("cannot start the SQL engine")?;
    Ok(Arc::new(database))
}

fn report(opened: &Opened, terminal: &Terminal) {
    if let Some(torn) = &opened.torn_tail {
        tracing::warn!(%torn, "the write-ahead log ended in a torn write, which was cut; nothing acknowledged was in it");
        terminal.warn(format!(
            "the write-ahead log ended in a torn write, which was cut; nothing acknowledged was in it: {torn}"
        ));
    }
    if opened.rows_recovered > 0 {
        tracing::info!(rows = opened.rows_recovered, "read back from the write-ahead log");
    }
}

/// The routes' state over `database`.
pub(crate) fn app(config: &Config, database: Arc<dyn Database>, log_lines_dropped: Arc<AtomicU64>) -> Arc<App> {
    App::new(config.server.clone(), database, Arc::new(SystemClock::default()), Arc::new(OsRandom), log_lines_dropped)
}
