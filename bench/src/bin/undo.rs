//! Deletes a tenth of a table, writes a hundredth of that anew, compacts, undoes, with every answer checked:
//! `undo [rows] [folder]`. The default is a million rows in a new folder, `undo-bench`.

use std::time::Instant;

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::Int64Type;
use weir_engine::Engine;
use weir_engine::config::Config;
use weir_engine::engine::Env;
use weir_engine::ingest::WriteOptions;
use weir_engine::past::At;
use weir_engine::rewrite::RowFilter;

const SERIES: usize = 1000;

#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark measures wall time and prints")]
fn main() -> anyhow::Result<()> {
    let rows: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = std::env::args().nth(2).unwrap_or_else(|| "undo-bench".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let config = Config { background: false, ..Config::new(&dir) };
        let (engine, _) = Engine::open(config, Env::default()).await?;
        let all: Vec<usize> = (0..rows).collect();
        for part in all.chunks(rows.div_ceil(4).max(1)) {
            write(&engine, part, 1).await?;
            engine.flush(None).await?;
        }
        // Each row has `k` = its number modulo 10, so the third residue is a tenth.
        let anew: Vec<usize> = all.iter().copied().filter(|row| row % 1000 == 3).collect();
        let start = Instant::now();
        let deleted = engine.delete_rows("bench", "m", &where_int("k", 3), "op").await?;
        println!("delete: {} of {rows} rows in {:?}", deleted.rows, start.elapsed());
        write(&engine, &anew, 2).await?;
        engine.flush(None).await?;
        let start = Instant::now();
        let compacted = engine.compact("bench", None).await?;
        println!("compaction: {} rows in {:?}", compacted.rows, start.elapsed());
        let start = Instant::now();
        let undone = engine.undo_step("bench", "m", "op", 2).await?;
        println!("undo: {} rows back in {:?}", undone.rows, start.elapsed());
        anyhow::ensure!(undone.rows as usize + anew.len() == deleted.rows as usize, "{undone:?} {deleted:?}");
        for (value, expected) in [(1, rows - anew.len()), (2, anew.len())] {
            let found = engine.preview_delete("bench", "m", &where_int("v", value)).await?.rows;
            anyhow::ensure!(found as usize == expected, "{found} rows have v = {value}, not {expected}");
        }
        let past = engine.snapshot_at("bench", "m", At::Version(deleted.version - 1)).await?;
        let before: u64 = past.snapshot.files.iter().map(|file| file.rows).sum();
        anyhow::ensure!(before as usize == rows, "{before} rows before the delete, not {rows}");
        anyhow::Ok(())
    })
}

async fn write(engine: &Engine, rows: &[usize], value: i64) -> anyhow::Result<()> {
    for part in rows.chunks(20_000) {
        let line = |row: &usize| format!("m,h=h{} k={}i,v={value}i {}\n", row % SERIES, row % 10, row / SERIES);
        let text: String = part.iter().map(line).collect();
        let mut write = engine.begin_write("bench", WriteOptions::default())?;
        let fed = tokio::task::spawn_blocking(move || write.feed(text.as_bytes()).map(|()| write)).await??;
        anyhow::ensure!(fed.commit().await?.rows == part.len(), "lines were refused");
    }
    Ok(())
}

/// Rows whose integer field is `wanted`.
fn where_int(field: &'static str, wanted: i64) -> RowFilter {
    RowFilter::new(move |batch| {
        let Some(column) = batch.column_by_name(field) else { return Ok(BooleanArray::new_null(batch.num_rows())) };
        Ok(column.as_primitive::<Int64Type>().iter().map(|value| Some(value? == wanted)).collect())
    })
}
