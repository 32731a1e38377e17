//! Rows keep their names, types and values on the way through a file.

use arrow::array::{Array, DictionaryArray, Int32Array};
use arrow::datatypes::Int32Type;

use super::*;
use crate::store::Change;

everywhere! {
    dictionary_tags_are_the_same_rows,
    awkward_names_and_extreme_values_come_back,
    times_at_the_ends_of_the_range_come_back,
    whole_microseconds_need_no_second_column,
    a_file_that_lacks_a_column_gives_null,
}

pub(super) const NAMES: [&str; 6] = ["A", "a", "my field", "x=y", "é", "100%"];

/// A schema with tags and fields of awkward names: each of [`NAMES`] as field, and with a prefix as tag.
pub(super) fn awkward_schema() -> SchemaRef {
    let mut schema = TableSchema::default();
    for name in NAMES {
        schema.add(&format!("t {name}"), Role::Tag).unwrap();
    }
    schema.add("T a", Role::Tag).unwrap();
    let kinds = [FieldType::F64, FieldType::I64, FieldType::U64, FieldType::Bool, FieldType::Str, FieldType::U64];
    for (name, kind) in NAMES.into_iter().zip(kinds) {
        schema.add(name, Role::Field(kind)).unwrap();
    }
    Arc::new(schema)
}

/// Three rows: all values, extreme values, only NULLs.
pub(super) fn awkward_rows(schema: &TableSchema) -> RecordBatch {
    let times = TimestampNanosecondArray::from(vec![-1, 1_700_000_000_123_456_789, 1_700_000_000_123_457_000]);
    let mut columns: Vec<ArrayRef> = vec![Arc::new(times)];
    for column in schema.columns() {
        columns.push(match column.role {
            Role::Tag => Arc::new(StringViewArray::from(vec![None, Some("v ä"), Some("w")])) as ArrayRef,
            Role::Field(FieldType::F64) => Arc::new(Float64Array::from(vec![Some(1.5), Some(-0.0), None])),
            Role::Field(FieldType::I64) => Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None])),
            Role::Field(FieldType::U64) => Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None])),
            Role::Field(FieldType::Bool) => Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            Role::Field(FieldType::Str) => Arc::new(StringViewArray::from(vec![Some(""), Some("text, \"q\" é"), None])),
        });
    }
    RecordBatch::try_new(logical_schema(schema), columns).unwrap()
}

async fn awkward_names_and_extreme_values_come_back(place: Place) {
    let store = open(&place).await;
    let schema = awkward_schema();
    let rows = awkward_rows(&schema);
    for name in NAMES {
        let table = store.create_table(name, name).await.unwrap();
        let file = table.write_file(&schema, vec![rows.clone()]).await.unwrap();
        table.commit(Change::flush(vec![file], None)).await.unwrap();
    }
    let again = open(&place).await;
    for name in NAMES {
        let table = again.table(name, name).await.unwrap().unwrap();
        let snapshot = table.snapshot();
        assert_eq!(snapshot.schema.columns(), schema.columns());
        assert_eq!(batches(&table, &snapshot).await, std::slice::from_ref(&rows));
        assert_eq!((snapshot.files[0].time_min, snapshot.files[0].time_max), (-1, 1_700_000_000_123_457_000));
    }
}

async fn times_at_the_ends_of_the_range_come_back(place: Place) {
    let table = open(&place).await.create_table("db", "cpu").await.unwrap();
    let rows = [("a", i64::MIN, 1), ("a", -1_000, 2), ("a", 0, 3), ("a", i64::MAX, 4)];
    let file = simple_file(&table, &rows).await;
    table.commit(Change::flush(vec![file], None)).await.unwrap();
    let found = read_simple(&table, &table.snapshot()).await;
    assert_eq!(found, rows.map(|(host, time, value)| (host.to_owned(), time, value)));
}

async fn whole_microseconds_need_no_second_column(place: Place) {
    let table = open(&place).await.create_table("db", "cpu").await.unwrap();
    let plain = simple_file(&table, &[("a", 5_000, 1)]).await;
    assert_eq!(plain.file.sub_micro(), Some(false));
    table.commit(Change::flush(vec![plain], None)).await.unwrap();
    let fine = simple_file(&table, &[("a", 5_001, 1)]).await;
    assert_eq!(fine.file.sub_micro(), Some(true));
    table.commit(Change::flush(vec![fine], None)).await.unwrap();
    let found = read_simple(&table, &table.snapshot()).await;
    assert_eq!(found, [("a".to_owned(), 5_000, 1), ("a".to_owned(), 5_001, 1)]);
}

/// Tags as flush hands them over (a dictionary for each batch) and as compaction does (views) make the same file.
async fn dictionary_tags_are_the_same_rows(place: Place) {
    const BATCH: i32 = 1_000;
    let table = open(&place).await.create_table("db", "cpu").await.unwrap();
    let schema = simple_schema();
    let (mut as_dictionary, mut as_views) = (Vec::new(), Vec::new());
    for part in 0..40 {
        let key = |row: i32| (part * BATCH + row) / 700;
        // NULL sorts first; then runs of many lengths.
        let text = |row: i32| (key(row) > 0).then(|| format!("host{:05}", key(row)));
        let first = key(0);
        let values = StringArray::from_iter((first..=key(BATCH - 1)).map(|key| Some(format!("host{key:05}"))));
        let keys = Int32Array::from_iter((0..BATCH).map(|row| (key(row) > 0).then(|| key(row) - first)));
        let tags: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::new(values)).unwrap());
        let views: ArrayRef = Arc::new(StringViewArray::from_iter((0..BATCH).map(text)));
        let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(
            (0..BATCH).map(|row| i64::from(part * BATCH + row) * 1000),
        ));
        let fields: ArrayRef =
            Arc::new(Int64Array::from_iter((0..BATCH).map(|row| (row % 3 > 0).then_some(i64::from(row)))));
        let batch = |tags| {
            RecordBatch::try_from_iter([("time", times.clone()), ("host", tags), ("v", fields.clone())]).unwrap()
        };
        as_dictionary.push(batch(tags));
        as_views
            .push(RecordBatch::try_new(logical_schema(&schema), vec![times.clone(), views, fields.clone()]).unwrap());
    }
    let expected = arrow::compute::concat_batches(&as_views[0].schema(), &as_views).unwrap();
    for input in [as_dictionary, as_views] {
        let file = table.write_file(&schema, input).await.unwrap();
        assert_eq!((file.file.tags[0].nulls, file.file.tags[0].max.as_deref()), (Some(700), Some("host00057")));
        let stream = table.read_file(&file.file, &schema).await.unwrap();
        let found = stream.try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(arrow::compute::concat_batches(&expected.schema(), &found).unwrap(), expected);
    }
}

async fn a_file_that_lacks_a_column_gives_null(place: Place) {
    let table = open(&place).await.create_table("db", "cpu").await.unwrap();
    let file = simple_file(&table, &[("a", 1, 1)]).await;
    table.commit(Change::flush(vec![file], None)).await.unwrap();
    let mut wider = simple_schema().as_ref().clone();
    wider.add("later", Role::Tag).unwrap();
    wider.add("more", Role::Field(FieldType::U64)).unwrap();
    table.commit(Change::columns(Arc::new(wider))).await.unwrap();
    let read = batches(&table, &table.snapshot()).await;
    assert_eq!(read[0].num_columns(), 5);
    assert_eq!((read[0].column(3).null_count(), read[0].column(4).null_count()), (1, 1));
    assert_eq!(read[0].column(3).data_type(), &DataType::Utf8View);
}
