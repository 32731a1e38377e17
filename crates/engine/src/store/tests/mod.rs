//! Tests of the store as a whole: several stores in one place, faults between put and answer, other people's readers.
//!
//! What a store must do it must do everywhere: `everywhere!` runs a test in a folder and on servers of S3, Azure and Google Cloud Storage.

/// Makes a test of each function `async fn name(place: Place)`, in every place.
macro_rules! everywhere {
    ($($name:ident),* $(,)?) => {
        everywhere!(@in local, Place::local(), $($name),*);
        everywhere!(@in s3, Place::s3(), $($name),*);
        everywhere!(@in azure, Place::azure(), $($name),*);
        everywhere!(@in google, Place::google(), $($name),*);
    };
    (@in $place:ident, $new:expr, $($name:ident),*) => {
        mod $place {
            use super::Place;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    super::$name($new).await;
                }
            )*
        }
    };
}

mod catalog;
mod commits;
mod faults;
mod place;
mod readers;
mod remote;
mod rows;
mod steps;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Int64Type, TimestampNanosecondType};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use weir_base::{OsFileSystem, OsRandom, SystemClock};

use self::place::Place;
use super::{NewFile, Snapshot, Store, StoreEnv, StoreOptions, Table};
use crate::read::logical_schema;
use crate::schema::{FieldType, Role, SchemaRef, TableSchema};

fn env() -> StoreEnv {
    StoreEnv { fs: Arc::new(OsFileSystem), clock: Arc::new(SystemClock::default()), random: Arc::new(OsRandom) }
}

async fn open(place: &Place) -> Store {
    Store::open(place.location(), &place.options(), env()).await.unwrap()
}

/// Names of the objects in a folder, sorted.
async fn listed(store: &Store, folder: &str) -> Vec<String> {
    let objects = store.objects();
    let found: Vec<_> = objects.list(Some(&Path::from(folder))).try_collect().await.unwrap();
    let mut names: Vec<_> = found.iter().map(|meta| meta.location.filename().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// One tag `host` and one integer `v`.
fn simple_schema() -> SchemaRef {
    let mut schema = TableSchema::default();
    schema.add("host", Role::Tag).unwrap();
    schema.add("v", Role::Field(FieldType::I64)).unwrap();
    Arc::new(schema)
}

/// Rows of [`simple_schema`]; sorted by the caller.
fn simple_rows(rows: &[(&str, i64, i64)]) -> RecordBatch {
    let schema = simple_schema();
    let times = TimestampNanosecondArray::from_iter_values(rows.iter().map(|row| row.1));
    let hosts = StringViewArray::from_iter_values(rows.iter().map(|row| row.0));
    let values = Int64Array::from_iter_values(rows.iter().map(|row| row.2));
    let columns: Vec<ArrayRef> = vec![Arc::new(times), Arc::new(hosts), Arc::new(values)];
    RecordBatch::try_new(logical_schema(&schema), columns).unwrap()
}

async fn simple_file(table: &Table, rows: &[(&str, i64, i64)]) -> NewFile {
    table.write_file(&simple_schema(), vec![simple_rows(rows)]).await.unwrap()
}

async fn batches(table: &Table, snapshot: &Snapshot) -> Vec<RecordBatch> {
    let mut all = Vec::new();
    for file in &snapshot.files {
        let stream = table.read_file(file, &snapshot.schema).await.unwrap();
        all.extend(stream.try_collect::<Vec<_>>().await.unwrap());
    }
    all
}

/// All rows of the files of a table of [`simple_schema`], in write order, not merged.
async fn read_simple(table: &Table, snapshot: &Snapshot) -> Vec<(String, i64, i64)> {
    let mut rows = Vec::new();
    for batch in batches(table, snapshot).await {
        let times = batch.column(0).as_primitive::<TimestampNanosecondType>().values().to_vec();
        let hosts = batch.column_by_name("host").unwrap().as_string_view().clone();
        let values = batch.column_by_name("v").unwrap().as_primitive::<Int64Type>().values().to_vec();
        rows.extend((0..batch.num_rows()).map(|row| (hosts.value(row).to_owned(), times[row], values[row])));
    }
    rows
}
