//! Rollups: making one, bringing it up to date when asked, and by itself.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use weir_base::Kind;
use weir_engine::Engine;
use weir_engine::rollup::Definition;
use weir_query::rollup::{Refreshed, RollupStatement};
use weir_query::{Request, SqlEngine};

use crate::embedded::{of_engine, of_query};
use crate::error::{Error, Result};

/// Carries a statement out; the answer has one row.
pub(crate) async fn run(
    engine: &Engine,
    sql: &SqlEngine,
    request: &Request,
    statement: RollupStatement,
) -> Result<RecordBatch> {
    match statement {
        RollupStatement::Create { name, if_not_exists, retention_ns, on, query } => {
            let asked = Request { sql: query, ..request.clone() };
            let definition = sql.define_rollup(&asked, &name, on.as_deref()).await.map_err(of_query)?;
            let definition = definition.with_retention(retention_ns);
            match engine.create_rollup(&request.database, &definition).await {
                Ok(()) => line(&name, "created", None),
                Err(error) if error.kind() == Kind::Conflict && if_not_exists => line(&name, "there already", None),
                Err(error) => Err(of_engine(error)),
            }
        }
        RollupStatement::Refresh { name } => {
            let done = sql.refresh_rollup(engine, &request.database, &name).await.map_err(of_query)?;
            line(&name, if done.is_some() { "refreshed" } else { "nothing to do" }, done)
        }
    }
}

/// Brings every rollup up to date; returns how many were behind. What fails is told and tried again with the next round.
///
/// # Errors
/// `unavailable` when the catalog cannot be read.
pub(crate) async fn refresh_all(engine: &Engine, sql: &SqlEngine) -> Result<u64> {
    let mut refreshed = 0;
    for database in engine.databases().await.map_err(of_engine)? {
        for definition in engine.rollups(&database).await.map_err(of_engine)? {
            let name = &definition.name;
            match sql.refresh_rollup(engine, &database, name).await {
                Ok(Some(_)) => refreshed += 1,
                Ok(None) => {}
                // Its table is dropped, or another server was faster.
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => {
                    tracing::debug!(%database, rollup = %name, error = %weir_base::error::chain(&error), "not refreshed");
                }
                Err(error) => {
                    tracing::warn!(%database, rollup = %name, error = %weir_base::error::chain(&error), "a rollup stays behind");
                }
            }
        }
    }
    Ok(refreshed)
}

/// Sums up what a table is about to lose for its age, where a rollup keeps it; `false` when that cannot be done now.
pub(crate) async fn keep(engine: &Engine, sql: &SqlEngine, database: &str, keeping: &[Definition]) -> bool {
    let kept = async {
        engine.flush(Some(database)).await.map_err(of_engine)?;
        for definition in keeping {
            sql.refresh_rollup(engine, database, &definition.name).await.map_err(of_query)?;
        }
        Ok::<_, Error>(())
    };
    kept.await
        .inspect_err(|error| {
            let error = weir_base::error::chain(error);
            tracing::warn!(%database, %error, "what is past its age stays until its rollups are up to date");
        })
        .is_ok()
}

fn line(name: &str, state: &str, done: Option<Refreshed>) -> Result<RecordBatch> {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let number = |number: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![number])) };
    let columns = [
        ("rollup", text(name)),
        ("state", text(state)),
        ("from_version", number(done.map(|done| done.from).filter(|from| *from >= 0))),
        ("right_until", number(done.map(|done| done.to))),
        ("rows", number(done.map(|done| done.rows as i64))),
    ];
    let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|column| column.1).collect())
        .map_err(|error| Error::wrap(Kind::Internal, "cannot build the answer", error))
}
