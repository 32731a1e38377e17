//! The answers to SHOW and DESCRIBE.

mod rollups;
mod status;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::catalog::TableProvider;
use weir_base::Kind;
use weir_engine::schema::{Role, TIME};

use crate::catalog::QueryCatalog;
use crate::error::{Error, Result};
use crate::scan::SnapshotTable;
use crate::session::text_schema;
use crate::statement::{Show, TableName};

/// Rows at once, or a query that gives them.
pub(crate) enum Answer {
    Rows(RecordBatch),
    Query(String),
}

/// Answers in the given database.
pub(crate) async fn answer(show: &Show, catalog: &QueryCatalog, database: &str) -> Result<Answer> {
    Ok(match show {
        Show::Databases => Answer::Rows(table(&["database"], catalog.list().await?.keys().map(|name| [name.clone()]))?),
        Show::Tables(named) => {
            let database = named.as_deref().unwrap_or(database);
            let tables = catalog.list().await?.get(database).cloned().unwrap_or_default();
            Answer::Rows(table(&["table"], tables.into_iter().map(|name| [name]))?)
        }
        Show::TableStatus(named) => {
            let database = named.as_deref().unwrap_or(database);
            let tables = catalog.list().await?.get(database).cloned().unwrap_or_default();
            let mut found = Vec::with_capacity(tables.len());
            for table in tables {
                // Of external tables the files are others' to look after.
                found.extend(catalog.stored(database, &table).await?);
            }
            Answer::Rows(status::of(&found)?)
        }
        Show::Rollups(named) => {
            Answer::Rows(rollups::of(catalog.visible(), named.as_deref().unwrap_or(database)).await?)
        }
        Show::TagKeys(named) => {
            let rows = columns(catalog, database, named.as_ref()).await?;
            let rows = rows.into_iter().filter(|row| row.role == Role::Tag).map(|row| [row.table, row.column]);
            Answer::Rows(table(&["table", "tag"], rows)?)
        }
        Show::FieldKeys(named) => {
            let rows = columns(catalog, database, named.as_ref()).await?;
            let rows = rows.into_iter().filter_map(|row| match row.role {
                Role::Field(kind) => Some([row.table, row.column, kind.word().to_owned()]),
                Role::Tag => None,
            });
            Answer::Rows(table(&["table", "field", "type"], rows)?)
        }
        Show::TagValues(named, keys) => tag_values(catalog, database, named.as_ref(), keys).await?,
        Show::Columns(named) => describe(catalog, database, named).await?,
    })
}

struct ColumnOf {
    database: String,
    table: String,
    column: String,
    role: Role,
}

/// The columns of one table or of all of the database.
async fn columns(catalog: &QueryCatalog, database: &str, named: Option<&TableName>) -> Result<Vec<ColumnOf>> {
    let tables: Vec<(String, String)> = match named {
        Some(named) => vec![(named.database.as_deref().unwrap_or(database).to_owned(), named.table.clone())],
        None => {
            let tables = catalog.list().await?.get(database).cloned().unwrap_or_default();
            tables.into_iter().map(|table| (database.to_owned(), table)).collect()
        }
    };
    let mut rows = Vec::new();
    for (database, table) in tables {
        // The columns of external tables are neither tags nor fields.
        let Some(snapshot) = catalog.stored(&database, &table).await? else { continue };
        rows.extend(snapshot.snapshot().schema.columns().iter().map(|column| ColumnOf {
            database: database.clone(),
            table: table.clone(),
            column: column.name.clone(),
            role: column.role,
        }));
    }
    Ok(rows)
}

async fn tag_values(
    catalog: &QueryCatalog,
    database: &str,
    named: Option<&TableName>,
    keys: &[String],
) -> Result<Answer> {
    let rows = columns(catalog, database, named).await?;
    let tags = rows.iter().filter(|row| row.role == Role::Tag && (keys.is_empty() || keys.contains(&row.column)));
    let selects: Vec<String> = tags
        .map(|row| {
            let tag = identifier(&row.column);
            format!(
                "SELECT {} AS \"table\", {} AS \"tag\", {tag} AS \"value\" FROM {}.{} WHERE {tag} IS NOT NULL GROUP BY {tag}",
                literal(&row.table),
                literal(&row.column),
                identifier(&row.database),
                identifier(&row.table),
            )
        })
        .collect();
    match (selects.is_empty(), named, keys.first()) {
        (true, Some(named), Some(key)) => {
            Err(Error::new(weir_base::Kind::NotFound, format!("table '{}' has no tag '{key}'", named.table)))
        }
        (true, ..) => Ok(Answer::Rows(table(&["table", "tag", "value"], std::iter::empty::<[String; 3]>())?)),
        _ => Ok(Answer::Query(format!("{} ORDER BY \"table\", \"tag\", \"value\"", selects.join(" UNION ALL ")))),
    }
}

async fn describe(catalog: &QueryCatalog, database: &str, named: &TableName) -> Result<Answer> {
    let database = named.database.as_deref().unwrap_or(database);
    let found: Arc<SnapshotTable> = match catalog.table(database, &named.table).await {
        Err(error) if error.kind() == Kind::NotFound => {
            let external = catalog.external(database, &named.table).await?.ok_or(error)?;
            let schema = external.schema();
            let rows = schema.fields().iter().map(|field| {
                [field.name().clone(), "external".to_owned(), field.data_type().to_string().to_lowercase()]
            });
            return Ok(Answer::Rows(table(&["column", "role", "type"], rows)?));
        }
        found => found?,
    };
    let time = [TIME.to_owned(), "time".to_owned(), "timestamp (ns, UTC)".to_owned()];
    let rows = found.snapshot().schema.columns().iter().map(|column| match column.role {
        Role::Tag => [column.name.clone(), "tag".to_owned(), "string".to_owned()],
        Role::Field(kind) => [column.name.clone(), "field".to_owned(), kind.word().to_owned()],
    });
    Ok(Answer::Rows(table(&["column", "role", "type"], std::iter::once(time).chain(rows))?))
}

fn table<const N: usize>(names: &[&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Result<RecordBatch> {
    let rows: Vec<[String; N]> = rows.into_iter().collect();
    let columns = (0..N)
        .map(|column| Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[column].as_str()))) as ArrayRef);
    Ok(RecordBatch::try_new(text_schema(names), columns.collect())?)
}

pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
