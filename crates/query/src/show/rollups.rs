//! `SHOW ROLLUPS`: what is kept, and up to which version of its table it is right.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use weir_engine::read::Tables;
use weir_engine::rollup::{Definition, changed, right_until};

use crate::error::{Result, from_engine};

/// As `CREATE ROLLUP` takes it.
fn age(nanos: i64) -> String {
    match nanos / 3_600_000_000_000 {
        _ if nanos == i64::MAX => "forever".to_owned(),
        hours if hours % 24 == 0 => format!("{}d", hours / 24),
        hours => format!("{hours}h"),
    }
}

/// A row for each rollup of a database.
pub(super) async fn of(tables: &dyn Tables, database: &str) -> Result<RecordBatch> {
    let mut rows = Vec::new();
    for definition in tables.rollups(database).await.map_err(from_engine)? {
        let rolled = tables.snapshot(database, &definition.table_name()).await.map_err(from_engine)?;
        let base = tables.snapshot(database, &definition.table).await.map_err(from_engine)?;
        let version = base.as_ref().and_then(|base| base.committed.as_ref()).map(|committed| committed.version);
        let right = rolled.as_ref().and_then(|rolled| rolled.committed.as_ref());
        let folder = base.as_ref().and_then(|base| base.committed.as_ref()).map(|committed| &committed.folder);
        let right = right.zip(folder).and_then(|(rolled, folder)| right_until(rolled, folder));
        let state = match (&base, right) {
            (None, _) => "the table is not there",
            (Some(_), None) => "not summed up yet",
            (Some(base), Some(right)) => match changed(base, right, definition.retention_ns.is_some()) {
                None => "rows were removed or brought back since",
                Some(times) if times.is_empty() => "right",
                Some(_) => "right but for what was written since",
            },
        };
        rows.push((definition, right, version, state));
    }
    let text = |of: &dyn Fn(&Definition) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| of(&row.0))))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("rollup", text(&|one| one.name.clone())),
        ("table", text(&|one| one.table.clone())),
        ("every", text(&|one| format!("{} s", one.every_ns / 1_000_000_000))),
        ("tags", text(&|one| one.tags.join(", "))),
        ("retention", Arc::new(rows.iter().map(|row| row.0.retention_ns.map(age)).collect::<StringArray>())),
        ("right_until", Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>())),
        ("table_version", Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>())),
        ("state", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.3)))),
        ("query", text(&|one| one.sql.clone())),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|column| column.1).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}
