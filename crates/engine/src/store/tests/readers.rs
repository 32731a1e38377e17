//! The tables in the eyes of Delta readers that are not ours: Polars, DuckDB, delta-rs (from Python).
//!
//! `WEIR_TEST_PYTHON` names a Python with `deltalake`, `polars`, `duckdb==1.5.5` and `duckdb-extension-delta==1.5.5`;
//! `cargo xtask test` makes one.

use std::process::Command;

use super::rows::{NAMES, awkward_rows, awkward_schema};
use super::*;
use crate::store::Change;

#[allow(clippy::disallowed_methods, reason = "the test script says by the environment where its Python is")]
fn python() -> String {
    std::env::var("WEIR_TEST_PYTHON").expect(
        "WEIR_TEST_PYTHON must name a Python with deltalake, polars, duckdb and duckdb-extension-delta; `cargo xtask test` makes one",
    )
}

#[tokio::test]
async fn polars_and_duckdb_read_names_and_values_right() {
    let python = python();
    let place = Place::local();
    let store = open(&place).await;
    let schema = awkward_schema();
    let rows = awkward_rows(&schema);
    for (number, name) in NAMES.into_iter().enumerate() {
        let table = store.create_table("db", name).await.unwrap();
        for row in 0..3 {
            let file = table.write_file(&schema, vec![rows.slice(row, 1)]).await.unwrap();
            table.commit(Change::flush(vec![file], Some(("w".into(), row as i64)))).await.unwrap();
        }
        if number % 2 == 1 {
            let inputs = table.snapshot().files.clone();
            let file = table.write_file(&schema, vec![rows.clone()]).await.unwrap();
            table.commit(Change::compaction(inputs, vec![file])).await.unwrap();
            table.checkpoint().await.unwrap();
        }
    }
    let stored: Vec<_> = schema.columns().iter().map(|column| column.stored.as_str()).collect();
    let tables: Vec<_> = store.tables().iter().map(|entry| (entry.table.clone(), entry.folder.clone())).collect();
    let input = serde_json::json!({
        "root": place.location(), "stored": stored, "tables": tables,
        "names": schema.columns().iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/tests/readers.py");
    let output = Command::new(python).arg(script).arg(input.to_string()).output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "6 tables, 3 readers");
    // What another program checkpoints keeps the write order.
    for entry in store.tables() {
        let before = store.table_in(&entry.folder).await.unwrap().snapshot();
        let after = open(&place).await.table_in(&entry.folder).await.unwrap().snapshot();
        assert_eq!(after.files, before.files);
    }
}
