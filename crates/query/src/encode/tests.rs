//! Each form byte by byte.

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, StringArray, StringViewArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::Int32Type;

use arrow::datatypes::Field;

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|column| column.1).collect()).unwrap()
}

fn bytes(batches: Vec<RecordBatch>, encoding: Encoding) -> Vec<u8> {
    let schema = batches[0].schema();
    let batches = stream::iter(batches.into_iter().map(Ok));
    let pieces: Vec<_> = futures::executor::block_on(encode_batches(schema, batches, encoding).collect());
    pieces.into_iter().flat_map(|piece| piece.unwrap()).collect()
}

fn text(batches: Vec<RecordBatch>, encoding: Encoding) -> String {
    String::from_utf8(bytes(batches, encoding)).unwrap()
}

fn sample() -> RecordBatch {
    batch(vec![
        ("time", Arc::new(TimestampNanosecondArray::from(vec![1_309_478_401_000_000_000, -1, 1_500_000_000]))),
        ("host", Arc::new(StringViewArray::from(vec![Some("a,\"b\"\n"), None, Some("")]))),
        ("value", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN), Some(1e300)]))),
        ("count", Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(0), None]))),
        ("up", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
    ])
}

/// M1: NULL is present as null, columns in the order of the SELECT.
#[test]
fn json_has_every_column_in_order() {
    let first =
        r#"{"time":"2011-07-01T00:00:01","host":"a,\"b\"\n","value":0.1,"count":18446744073709551615,"up":true}"#;
    let second = r#"{"time":"1969-12-31T23:59:59.999999999","host":null,"value":null,"count":0,"up":false}"#;
    let third = r#"{"time":"1970-01-01T00:00:01.500","host":"","value":1e300,"count":null,"up":null}"#;
    let batches = || vec![sample().slice(0, 1), sample().slice(1, 2)];
    assert_eq!(text(batches(), Encoding::Json), format!("[{first},{second},{third}]\n"));
    assert_eq!(text(batches(), Encoding::JsonLines), format!("{first}\n{second}\n{third}\n"));
    assert_eq!(text(vec![sample().slice(0, 0)], Encoding::Json), "[]\n");
    assert_eq!(text(vec![sample().slice(0, 0)], Encoding::JsonLines), "");
}

#[test]
fn csv_tells_null_from_empty() {
    let expected = "time,host,value,count,up\n\
        2011-07-01T00:00:01,\"a,\"\"b\"\"\n\",0.1,18446744073709551615,true\n\
        1969-12-31T23:59:59.999999999,,NaN,0,false\n\
        1970-01-01T00:00:01.500,\"\",1e300,,\n";
    assert_eq!(text(vec![sample()], Encoding::Csv), expected);
    assert_eq!(text(vec![sample().slice(0, 0)], Encoding::Csv), "time,host,value,count,up\n");
}

#[test]
fn equal_names_are_told_apart() {
    let one = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let rows = batch(vec![("x", one()), ("x", one()), ("x_1", one()), ("x", one())]);
    assert_eq!(text(vec![rows], Encoding::Json), "[{\"x\":1,\"x_1_\":1,\"x_1\":1,\"x_2\":1}]\n");
}

#[test]
fn other_types_have_a_spelling() {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None]);
    let rows = batch(vec![
        ("zoned", Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC"))),
        ("list", Arc::new(list)),
        ("decimal", Arc::new(Decimal128Array::from(vec![Some(1234), None]).with_precision_and_scale(10, 2).unwrap())),
        ("text", Arc::new(StringArray::from(vec![Some("\u{1}\\"), None]))),
    ]);
    let first = r#"{"zoned":"1970-01-01T00:00:00.000001Z","list":[1,null],"decimal":12.34,"text":"\u0001\\"}"#;
    let second = r#"{"zoned":null,"list":null,"decimal":null,"text":null}"#;
    assert_eq!(text(vec![rows], Encoding::JsonLines), format!("{first}\n{second}\n"));
}

#[test]
fn a_table_is_drawn() {
    let rows = batch(vec![
        ("name", Arc::new(StringViewArray::from(vec![Some("é"), None, Some("a\nb")]))),
        ("n", Arc::new(Int64Array::from(vec![Some(5), Some(-12), None]))),
    ]);
    let expected = "+------+-----+\n| name | n   |\n+------+-----+\n| é    |   5 |\n|      | -12 |\n| a\\nb |     |\n+------+-----+\n";
    assert_eq!(text(vec![rows], Encoding::Table), expected);
}

#[test]
fn an_arrow_stream_reads_back() {
    let bytes = bytes(vec![sample(), sample()], Encoding::Arrow);
    let reader = arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(bytes), None).unwrap();
    let rows: Vec<_> = reader.map(|batch| batch.unwrap()).collect();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(text(vec![rows[1].clone()], Encoding::Csv), text(vec![sample()], Encoding::Csv));
}

#[test]
fn parquet_reads_back() {
    let bytes = bytes(vec![sample(), sample()], Encoding::Parquet);
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
    let rows: Vec<_> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 6);
    assert_eq!(text(vec![rows[0].slice(0, 3)], Encoding::Csv), text(vec![sample()], Encoding::Csv));
}

#[test]
fn dates_match_the_calendar() {
    let days = |day: i64| TimestampNanosecondArray::from(vec![day * 86_400_000_000_000]);
    for (day, date) in
        [(0, "1970-01-01"), (-1, "1969-12-31"), (11_016, "2000-02-29"), (-25_508, "1900-03-01"), (47_540, "2100-02-28")]
    {
        let rows = batch(vec![("time", Arc::new(days(day)))]);
        assert_eq!(text(vec![rows], Encoding::Csv), format!("time\n{date}T00:00:00\n"));
    }
}
