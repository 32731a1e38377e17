//! The store by itself: rows encoded as Parquet per second of one core, what a commit costs, how long a table takes to open.
//!
//! `store [FOLDER] [ROWS]`. Rows have the shape of TSBS cpu-only: ten tags, ten integer fields that walk at random, 100 hosts,
//! sorted by tags and time, tags as dictionaries, in batches of 65,536 as a flush hands them over.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(clippy::disallowed_methods, reason = "timing is what a benchmark does")]

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::Int32Type;
use weir_base::{OsFileSystem, OsRandom, SystemClock};
use weir_engine::schema::{FieldType, Role, SchemaRef, TableSchema};
use weir_engine::store::{Change, Store, StoreEnv, StoreOptions, Table};

const HOSTS: usize = 100;
const TAGS: usize = 10;
const FIELDS: usize = 10;
const BATCH_ROWS: usize = 64 << 10;
const COMMITS: i64 = 10_000;

fn schema() -> SchemaRef {
    let mut schema = TableSchema::default();
    for tag in 0..TAGS {
        schema.add(&format!("tag{tag}"), Role::Tag).expect("a plain name");
    }
    for field in 0..FIELDS {
        schema.add(&format!("usage{field}"), Role::Field(FieldType::I64)).expect("a plain name");
    }
    Arc::new(schema)
}

/// Sorted rows; every tag is a function of the host, as in TSBS, with the host in the first.
fn batches(rows: usize) -> Vec<RecordBatch> {
    let steps = rows / HOSTS;
    let mut state = 88_172_645_463_325_252u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut walks = [50i64; FIELDS];
    let mut result = Vec::new();
    for start in (0..rows).step_by(BATCH_ROWS) {
        let end = (start + BATCH_ROWS).min(rows);
        let time = |row: usize| 1_451_606_400_000_000_000 + (row % steps) as i64 * 10_000_000_000;
        let mut columns: Vec<(String, ArrayRef)> =
            vec![("time".into(), Arc::new(TimestampNanosecondArray::from_iter_values((start..end).map(time))))];
        for tag in 0..TAGS {
            let values =
                StringArray::from_iter_values((0..HOSTS).map(|host| format!("value-{tag}-{}", host / (1 + tag))));
            let keys = Int32Array::from_iter_values((start..end).map(|row| (row / steps) as i32));
            let tags = DictionaryArray::<Int32Type>::try_new(keys, Arc::new(values)).expect("keys are in range");
            columns.push((format!("tag{tag}"), Arc::new(tags)));
        }
        for (field, walk) in walks.iter_mut().enumerate() {
            let values = Int64Array::from_iter_values((start..end).map(|_| {
                *walk = (*walk + (random() % 3) as i64 - 1).clamp(0, 100);
                *walk
            }));
            columns.push((format!("usage{field}"), Arc::new(values)));
        }
        result.push(RecordBatch::try_from_iter(columns).expect("columns of one length"));
    }
    result
}

async fn encode(table: &Table, schema: &SchemaRef, rows: usize) -> anyhow::Result<()> {
    let batches = batches(rows);
    for _ in 0..3 {
        let start = Instant::now();
        let mut writer = table.file_writer(schema, false);
        for batch in &batches {
            writer.write(batch)?;
        }
        let written = start.elapsed();
        let file = table.finish_file(writer).await?;
        let bytes = file.file.size as f64 / (rows * FIELDS) as f64;
        let (million, seconds) = (rows as f64 / 1e6, start.elapsed().as_secs_f64());
        println!(
            "encode: {:.2} million rows/s without the end, {:.2} with it and its put; {bytes:.3} bytes a point",
            million / written.as_secs_f64(),
            million / seconds
        );
    }
    Ok(())
}

async fn commit(table: &Table, schema: &SchemaRef) -> anyhow::Result<()> {
    let file = table.write_file(schema, batches(HOSTS)).await?;
    let start = Instant::now();
    for number in 0..COMMITS {
        let mut copy = file.clone();
        // The same bytes under many names: only the log is measured.
        copy.file.path = copy.file.path.replace(".us.", &format!("-{number}.us."));
        table.commit(Change::flush(vec![copy], Some(("bench".into(), number)))).await?;
    }
    println!(
        "commit: {:.2} ms each with its sync, {COMMITS} files",
        start.elapsed().as_secs_f64() * 1e3 / COMMITS as f64
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "store-bench".to_owned());
    let rows = std::env::args().nth(2).map_or(Ok(2_000_000), |text| text.parse())?;
    let open = async || {
        let env = StoreEnv {
            fs: Arc::new(OsFileSystem),
            clock: Arc::new(SystemClock::default()),
            random: Arc::new(OsRandom),
        };
        Store::open(&folder, &StoreOptions::default(), env).await
    };
    let schema = schema();
    let store = open().await?;
    encode(store.create_table("bench", "encode").await?.as_ref(), &schema, rows).await?;
    commit(store.create_table("bench", "commit").await?.as_ref(), &schema).await?;
    let again = open().await?;
    let start = Instant::now();
    let files = again.table("bench", "commit").await?.map_or(0, |table| table.snapshot().files.len());
    println!("open: {:.1} ms for a table of {files} files", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
