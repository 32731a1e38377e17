//! External tables: making one. Dropping one is a change of tables like others.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use weir_base::Kind;
use weir_engine::Engine;
use weir_query::SqlEngine;
use weir_query::external::ExternalStatement;

use crate::embedded::{of_engine, of_query};
use crate::error::{Error, Result};

/// Looks at the files and keeps the definition; the answer has one row.
pub(crate) async fn create(
    engine: &Engine,
    sql: &SqlEngine,
    database: &str,
    statement: &ExternalStatement,
) -> Result<RecordBatch> {
    let (definition, columns) = sql.define_external(statement).await.map_err(of_query)?;
    match engine.create_external(database, &definition, statement.or_replace).await {
        Ok(()) => line(&definition.name, "created", Some(columns)),
        Err(error) if error.kind() == Kind::Conflict && statement.if_not_exists => {
            line(&definition.name, "there already", None)
        }
        Err(error) => Err(of_engine(error)),
    }
}

fn line(name: &str, state: &str, columns: Option<usize>) -> Result<RecordBatch> {
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let columns: ArrayRef = Arc::new(Int64Array::from(vec![columns.and_then(|columns| i64::try_from(columns).ok())]));
    let columns = [("table", text(name)), ("state", text(state)), ("columns", columns)];
    let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|column| column.1).collect())
        .map_err(|error| Error::wrap(Kind::Internal, "cannot build the answer", error))
}
