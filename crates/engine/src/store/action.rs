//! The lines of a Delta commit, and the same actions as rows of a checkpoint.
//!
//! Only what Weir needs is read; what it does not know is skipped, since the table's protocol version says whether that is safe.
//! Source: the Delta Lake protocol, <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_base::Kind;

use super::file::{DataFile, TagRange};
use crate::error::{Error, Result};
use crate::schema::{Column, FieldType, Role, TIME, TIME_NS, TableSchema};

/// One line of a commit: exactly one of the members is there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit_info: Option<CommitInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meta_data: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) txn: Option<Txn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) add: Option<Add>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remove: Option<Remove>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CommitInfo {
    pub(super) timestamp: i64,
    pub(super) operation: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) operation_parameters: BTreeMap<String, serde_json::Value>,
    pub(super) engine_info: String,
    pub(super) weir_commit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub(super) min_reader_version: i32,
    pub(super) min_writer_version: i32,
    /// What a reader must know of, from reader version 3 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reader_features: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) format: Format,
    pub(super) schema_string: String,
    #[serde(default)]
    pub(super) partition_columns: Vec<String>,
    #[serde(default)]
    pub(super) configuration: BTreeMap<String, Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_time: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) provider: String,
    #[serde(default)]
    pub(super) options: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_updated: Option<i64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    /// Relative to the table's folder, percent-encoded.
    pub(super) path: String,
    #[serde(default)]
    pub(super) partition_values: BTreeMap<String, Option<String>>,
    pub(super) size: u64,
    pub(super) modification_time: i64,
    pub(super) data_change: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<BTreeMap<String, Option<String>>>,
    /// Rows of the file that are deleted; other programs write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deletion_vector: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub(super) data_change: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extended_file_metadata: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tags: Option<BTreeMap<String, Option<String>>>,
}

const ROLE: &str = "weir.role";
const TYPE: &str = "weir.type";
const NAME: &str = "weir.name";
const ORDER: &str = "weir.order";
const TIMES: &str = "weir.time";
const ADDED: &str = "weir.added";

/// Lines of JSON, one action each.
pub(super) fn serialise(lines: &[Line]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)
            .map_err(|error| Error::wrap(Kind::Internal, "a commit cannot be serialised", error))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// The opposite of [`serialise`]; `what` names the object in errors.
pub(super) fn parse(bytes: &[u8], what: &str) -> Result<Vec<Line>> {
    let damaged = |error| Error::wrap(Kind::Damaged, format!("{what} is not a Delta commit"), error);
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .map(|line| serde_json::from_slice(line).map_err(damaged))
        .collect()
}

#[derive(Serialize, Deserialize)]
struct StructType {
    r#type: String,
    fields: Vec<StructField>,
}

#[derive(Serialize, Deserialize)]
struct StructField {
    name: String,
    r#type: serde_json::Value,
    nullable: bool,
    metadata: BTreeMap<String, serde_json::Value>,
}

/// The Delta schema of a table as JSON. `sub_micro` says whether it has the column for nanoseconds below a microsecond.
pub(super) fn schema_string(schema: &TableSchema, sub_micro: bool) -> Result<String> {
    let field = |name: &str, kind: &str, nullable, metadata| StructField {
        name: name.to_owned(),
        r#type: kind.into(),
        nullable,
        metadata,
    };
    let role = |word: &str| BTreeMap::from([(ROLE.to_owned(), word.into())]);
    let mut fields = vec![field(TIME, "timestamp", false, role("time"))];
    if sub_micro {
        fields.push(field(TIME_NS, "integer", true, role("time")));
    }
    for column in schema.columns() {
        let (kind, mut metadata) = match column.role {
            Role::Tag => ("string", role("tag")),
            Role::Field(kind) => {
                let mut metadata = role("field");
                metadata.insert(TYPE.to_owned(), type_word(kind).into());
                (delta_type(kind), metadata)
            }
        };
        if column.name != column.stored {
            metadata.insert(NAME.to_owned(), column.name.as_str().into());
        }
        fields.push(field(&column.stored, kind, true, metadata));
    }
    serde_json::to_string(&StructType { r#type: "struct".to_owned(), fields })
        .map_err(|error| Error::wrap(Kind::Internal, "a schema cannot be serialised", error))
}

/// The opposite of [`schema_string`]. Columns that another program added are left out, since their role is not known.
pub(super) fn parse_schema(text: &str) -> Result<(TableSchema, bool)> {
    let damaged = |error| Error::wrap(Kind::Damaged, "a table's schema is not a Delta schema", error);
    let found: StructType = serde_json::from_str(text).map_err(damaged)?;
    let mut schema = TableSchema::default();
    let mut sub_micro = false;
    for field in found.fields {
        let word = |key: &str| field.metadata.get(key).and_then(serde_json::Value::as_str);
        if field.name == TIME_NS {
            sub_micro = true;
            continue;
        }
        let role = match (word(ROLE), word(TYPE)) {
            (Some("tag"), _) => Role::Tag,
            (Some("field"), Some(kind)) => Role::Field(type_of(kind)?),
            _ => continue,
        };
        let name = word(NAME).unwrap_or(&field.name).to_owned();
        schema.push(Column { name, stored: field.name, role });
    }
    Ok((schema, sub_micro))
}

fn type_word(kind: FieldType) -> &'static str {
    match kind {
        FieldType::F64 => "f64",
        FieldType::I64 => "i64",
        FieldType::U64 => "u64",
        FieldType::Bool => "bool",
        FieldType::Str => "str",
    }
}

fn type_of(word: &str) -> Result<FieldType> {
    [FieldType::F64, FieldType::I64, FieldType::U64, FieldType::Bool, FieldType::Str]
        .into_iter()
        .find(|kind| type_word(*kind) == word)
        .ok_or_else(|| Error::new(Kind::Damaged, format!("a table's schema has a column of the unknown type '{word}'")))
}

fn delta_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::F64 => "double",
        FieldType::I64 => "long",
        FieldType::U64 => "decimal(20,0)",
        FieldType::Bool => "boolean",
        FieldType::Str => "string",
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stats {
    num_records: u64,
    min_values: BTreeMap<String, serde_json::Value>,
    max_values: BTreeMap<String, serde_json::Value>,
    null_count: BTreeMap<String, serde_json::Value>,
}

/// Builds the `add` of a file. `base` is its name in the table's folder.
pub(super) fn add_of(
    file: &DataFile,
    base: &str,
    modified_ms: i64,
    data_change: bool,
    schema: &TableSchema,
) -> Result<Add> {
    let mut stats = Stats { num_records: file.rows, ..Stats::default() };
    if file.time_min <= file.time_max {
        stats.min_values.insert(TIME.to_owned(), iso_ms(file.time_min.div_euclid(1_000_000)).into());
        let up = file.time_max.div_euclid(1_000_000) + i64::from(file.time_max.rem_euclid(1_000_000) != 0);
        stats.max_values.insert(TIME.to_owned(), iso_ms(up).into());
        stats.null_count.insert(TIME.to_owned(), 0.into());
    }
    for range in &file.tags {
        let Some((_, column)) = schema.get(&range.name) else { continue };
        let put = |map: &mut BTreeMap<String, serde_json::Value>, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                map.insert(column.stored.clone(), value);
            }
        };
        put(&mut stats.min_values, range.min.as_deref().map(Into::into));
        put(&mut stats.max_values, range.max.as_deref().map(Into::into));
        put(&mut stats.null_count, range.nulls.map(Into::into));
    }
    let stats = serde_json::to_string(&stats)
        .map_err(|error| Error::wrap(Kind::Internal, "statistics cannot be serialised", error))?;
    Ok(Add {
        path: base.to_owned(),
        partition_values: BTreeMap::new(),
        size: file.size,
        modification_time: modified_ms,
        data_change,
        stats: Some(stats),
        deletion_vector: None,
        tags: Some(BTreeMap::from([
            (ORDER.to_owned(), Some(format!("{},{}", file.order.0, file.order.1))),
            (TIMES.to_owned(), Some(format!("{},{}", file.time_min, file.time_max))),
        ])),
    })
}

/// Reads an `add`. `order` is what it gets when it does not say.
pub(super) fn file_of(add: &Add, folder: &str, schema: &TableSchema, order: (i64, i64)) -> Result<DataFile> {
    let damaged = |error| Error::wrap(Kind::Damaged, format!("the statistics of '{}' are not JSON", add.path), error);
    let stats: Stats = match &add.stats {
        Some(text) => serde_json::from_str(text).map_err(damaged)?,
        None => Stats::default(),
    };
    let pair = |key: &str| {
        let text = add.tags.as_ref()?.get(key)?.as_ref()?;
        let (low, high) = text.split_once(',')?;
        Some((low.parse::<i64>().ok()?, high.parse::<i64>().ok()?))
    };
    let (time_min, time_max) = pair(TIMES).unwrap_or_else(|| {
        let bound = |map: &BTreeMap<String, serde_json::Value>| map.get(TIME)?.as_str().and_then(parse_iso_ns);
        let widened = bound(&stats.max_values).map_or(i64::MAX, |max| max.saturating_add(1_000_000));
        (bound(&stats.min_values).unwrap_or(i64::MIN), widened)
    });
    let tags = schema.tags().filter_map(|(_, column)| {
        let text = |map: &BTreeMap<String, serde_json::Value>| Some(map.get(&column.stored)?.as_str()?.to_owned());
        let nulls = stats.null_count.get(&column.stored).and_then(serde_json::Value::as_u64);
        let (min, max) = (text(&stats.min_values), text(&stats.max_values));
        let known = min.is_some() || max.is_some() || nulls.is_some();
        known.then(|| TagRange { name: column.name.clone(), min, max, nulls })
    });
    Ok(DataFile {
        path: format!("{folder}/{}", percent_decode(&add.path)),
        size: add.size,
        rows: stats.num_records,
        time_min,
        time_max,
        tags: tags.collect(),
        order: pair(ORDER).unwrap_or(order),
    })
}

/// The tag of a `remove` that says when its file was added, milliseconds.
pub(super) fn added_tag(added_ms: i64) -> BTreeMap<String, Option<String>> {
    BTreeMap::from([(ADDED.to_owned(), Some(added_ms.to_string()))])
}

/// The opposite of [`added_tag`].
pub(super) fn added_of(remove: &Remove) -> Option<i64> {
    remove.tags.as_ref()?.get(ADDED)?.as_ref()?.parse().ok()
}

/// Whether an `add` carries its write order.
pub(super) fn has_order(add: &Add) -> bool {
    add.tags.as_ref().is_some_and(|tags| tags.contains_key(ORDER))
}

/// The name that a percent-encoded path of the log stands for.
pub(super) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[index] == b'%' => {
                decoded.push(byte);
                index += 3;
            }
            _ => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

/// `2024-01-31T12:34:56.789Z` of milliseconds since 1970. Days to date after Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", <https://howardhinnant.github.io/date_algorithms.html>.
fn iso_ms(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

fn parse_iso_ns(text: &str) -> Option<i64> {
    arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_comes_back() {
        let mut schema = TableSchema::default();
        schema.add("host", Role::Tag).unwrap();
        for (name, kind) in [
            ("A", FieldType::F64),
            ("a", FieldType::I64),
            ("my field", FieldType::U64),
            ("x=y", FieldType::Bool),
            ("é", FieldType::Str),
        ] {
            schema.add(name, Role::Field(kind)).unwrap();
        }
        for ns in [false, true] {
            let (back, sub_micro) = parse_schema(&schema_string(&schema, ns).unwrap()).unwrap();
            assert_eq!(back.columns(), schema.columns());
            assert_eq!(sub_micro, ns);
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_704_067_199_999, "2023-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(iso_ms(ms), text);
            assert_eq!(parse_iso_ns(text), Some(ms * 1_000_000));
        }
    }

    #[test]
    fn a_file_comes_back_from_its_add_and_a_foreign_add_is_widened() {
        let mut schema = TableSchema::default();
        schema.add("my tag", Role::Tag).unwrap();
        let tag = TagRange { name: "my tag".into(), min: Some("a".into()), max: Some("z".into()), nulls: Some(2) };
        let file = DataFile {
            path: "db/t/x.us.parquet".into(),
            size: 9,
            rows: 7,
            time_min: -5,
            time_max: 1_000_001,
            tags: vec![tag],
            order: (3, 8),
        };
        let mut add = add_of(&file, "x.us.parquet", 1, true, &schema).unwrap();
        assert_eq!(file_of(&add, "db/t", &schema, (0, 0)).unwrap(), file);
        add.tags = None;
        let foreign = file_of(&add, "db/t", &schema, (4, 4)).unwrap();
        assert_eq!(foreign.order, (4, 4));
        assert!(foreign.time_min <= -5 && foreign.time_max >= 1_000_001);
        add.stats = None;
        let unknown = file_of(&add, "db/t", &schema, (4, 4)).unwrap();
        assert_eq!((unknown.time_min, unknown.time_max, unknown.tags), (i64::MIN, i64::MAX, vec![]));
    }

    #[test]
    fn escaped_paths_are_decoded() {
        assert_eq!(percent_decode("a%20b%C3%A9%"), "a bé%");
    }
}
