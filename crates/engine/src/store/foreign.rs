//! Delta tables of other programs, read only: which files hold their rows now, and which columns they have.
//!
//! The log is followed as that of Weir's own tables is; only the meaning differs, as nothing of `weir.` is there. What this reader does
//! not know is refused, never passed over: columns under other names, rows that a file holds and a deletion vector takes out of it,
//! features of readers that came later.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use object_store::ObjectStore;
use serde::Deserialize;
use serde_json::Value;
use weir_base::Kind;

use super::action::{self, Add, Line, Metadata, Protocol};
use super::log::{self, Follows};
use crate::error::{Error, Result};

/// Features of readers that ask nothing of one that only reads the newest version.
const HARMLESS: [&str; 4] = ["timestampNtz", "vacuumProtocolCheck", "deletionVectors", "columnMapping"];
/// How deep types may nest.
const NESTING_MAX: usize = 16;

/// A table of another program at its newest version.
#[derive(Debug, Clone)]
pub struct ForeignTable {
    /// The version.
    pub version: i64,
    /// Columns in the order of the table, those by which it is partitioned among them.
    pub columns: Vec<Field>,
    /// The columns by which it is partitioned.
    pub partitioned_by: Vec<String>,
    /// The files that hold its rows.
    pub files: Vec<ForeignFile>,
}

/// A file of such a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFile {
    /// From the root of the object store.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// When it was added, milliseconds since 1970 UTC.
    pub modified_ms: i64,
    /// Values of the columns by which the table is partitioned, as text.
    pub partition: BTreeMap<String, Option<String>>,
}

/// Reads what the log in `folder` says now.
///
/// # Errors
/// `not found` when there is no log; `invalid` when the table needs what this reader does not know; `damaged`; those of the store.
pub async fn read(objects: &Arc<dyn ObjectStore>, folder: &str) -> Result<ForeignTable> {
    let mut state = State { version: -1, protocol: None, metadata: None, files: BTreeMap::new() };
    log::replay(objects.as_ref(), folder, None, &mut state).await?;
    let missing = || Error::new(Kind::NotFound, format!("there is no Delta table in '/{folder}'"));
    let (Some(protocol), Some(metadata)) = (&state.protocol, &state.metadata) else { return Err(missing()) };
    check(protocol, metadata, folder)?;
    let columns = columns(&metadata.schema_string)?;
    let files = state.files.values().map(|add| file(add, folder)).collect::<Result<_>>()?;
    Ok(ForeignTable { version: state.version, columns, partitioned_by: metadata.partition_columns.clone(), files })
}

/// What the log has said so far.
struct State {
    version: i64,
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    files: BTreeMap<String, Add>,
}

impl Follows for State {
    fn version(&self) -> i64 {
        self.version
    }

    fn apply(&mut self, version: i64, lines: &[Line]) -> Result<()> {
        // The removes of a commit are of files that were there before it: one may be added anew in it, with a deletion vector.
        for remove in lines.iter().filter_map(|line| line.remove.as_ref()) {
            self.files.remove(&remove.path);
        }
        for line in lines {
            if let Some(protocol) = &line.protocol {
                self.protocol = Some(protocol.clone());
            }
            if let Some(metadata) = &line.meta_data {
                self.metadata = Some(metadata.clone());
            }
            if let Some(add) = &line.add {
                self.files.insert(add.path.clone(), Add { stats: None, tags: None, ..add.clone() });
            }
        }
        self.version = version;
        Ok(())
    }
}

fn check(protocol: &Protocol, metadata: &Metadata, folder: &str) -> Result<()> {
    let refused = |what: String| Err(Error::invalid(format!("the Delta table in '/{folder}' {what}")));
    let version = protocol.min_reader_version;
    if version > 3 {
        return refused(format!("needs a reader of version {version}; Weir knows those up to 3"));
    }
    let features = protocol.reader_features.iter().flatten();
    if let Some(unknown) = features.filter(|_| version == 3).find(|feature| !HARMLESS.contains(&feature.as_str())) {
        return refused(format!("needs a reader that knows of '{unknown}', which Weir does not"));
    }
    let mapping = metadata.configuration.get("delta.columnMapping.mode").and_then(|mode| mode.as_deref());
    if let Some(mode) = mapping.filter(|mode| *mode != "none") {
        return refused(format!(
            "maps its columns to other names (delta.columnMapping.mode = {mode}), which Weir does not read"
        ));
    }
    if metadata.format.provider != "parquet" {
        return refused(format!("is stored as '{}', not as parquet", metadata.format.provider));
    }
    Ok(())
}

fn file(add: &Add, folder: &str) -> Result<ForeignFile> {
    if add.deletion_vector.is_some() {
        return Err(Error::invalid(format!(
            "the Delta table in '/{folder}' has deletion vectors, which Weir does not read; purge them with the program that wrote it \
             (REORG TABLE ... APPLY (PURGE))"
        )));
    }
    let path = action::percent_decode(&add.path);
    if path.starts_with('/') || path.contains("://") {
        return Err(Error::invalid(format!("the Delta table in '/{folder}' has files elsewhere: '{path}'")));
    }
    Ok(ForeignFile {
        path: format!("{folder}/{path}"),
        size: add.size,
        modified_ms: add.modification_time,
        partition: add.partition_values.clone(),
    })
}

#[derive(Deserialize)]
struct Struct {
    fields: Vec<StructField>,
}

#[derive(Deserialize)]
struct StructField {
    name: String,
    r#type: Value,
    nullable: bool,
}

fn columns(schema: &str) -> Result<Vec<Field>> {
    let damaged = |error| Error::wrap(Kind::Damaged, "a table's schema is not a Delta schema", error);
    let found: Struct = serde_json::from_str(schema).map_err(damaged)?;
    found.fields.into_iter().map(|field| field_of(field, 0)).collect()
}

fn field_of(field: StructField, depth: usize) -> Result<Field> {
    Ok(Field::new(field.name, type_of(&field.r#type, depth)?, field.nullable))
}

/// The Arrow type of a Delta type. Source: "Schema Serialization Format" of the protocol.
fn type_of(kind: &Value, depth: usize) -> Result<DataType> {
    let unknown = || Error::invalid(format!("Delta's type {kind} is not known to Weir"));
    if depth > NESTING_MAX {
        return Err(unknown());
    }
    if let Some(word) = kind.as_str() {
        return primitive(word).ok_or_else(unknown);
    }
    let inner = |key: &str| type_of(kind.get(key).unwrap_or(&Value::Null), depth + 1);
    let nullable = |key: &str| kind.get(key).and_then(Value::as_bool).unwrap_or(true);
    match kind.get("type").and_then(Value::as_str) {
        Some("struct") => {
            let found: Struct = serde_json::from_value(kind.clone()).map_err(|_| unknown())?;
            let fields = found.fields.into_iter().map(|field| field_of(field, depth + 1));
            Ok(DataType::Struct(fields.collect::<Result<Vec<_>>>()?.into()))
        }
        Some("array") => {
            Ok(DataType::List(Arc::new(Field::new("element", inner("elementType")?, nullable("containsNull")))))
        }
        Some("map") => {
            let key = Field::new("key", inner("keyType")?, false);
            let value = Field::new("value", inner("valueType")?, nullable("valueContainsNull"));
            let entries = Field::new("key_value", DataType::Struct(vec![key, value].into()), false);
            Ok(DataType::Map(Arc::new(entries), false))
        }
        _ => Err(unknown()),
    }
}

fn primitive(word: &str) -> Option<DataType> {
    Some(match word {
        "string" => DataType::Utf8View,
        "long" => DataType::Int64,
        "integer" => DataType::Int32,
        "short" => DataType::Int16,
        "byte" => DataType::Int8,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "binary" => DataType::BinaryView,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => {
            let (precision, scale) = word.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
            DataType::Decimal128(
                precision.trim().parse().ok().filter(|&digits| digits <= 38)?,
                scale.trim().parse().ok()?,
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt, PutPayload};

    use super::*;

    const PROTOCOL: &str = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}"#;
    const FILE: &str = r#"{"add":{"path":"p=a%20b/1.parquet","partitionValues":{"p":"a b"},"size":7,"modificationTime":5,"dataChange":true}}"#;

    fn metadata(configuration: &str) -> String {
        let schema = r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"p\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"n\",\"type\":\"decimal(10,2)\",\"nullable\":false,\"metadata\":{}},{\"name\":\"l\",\"type\":{\"type\":\"array\",\"elementType\":\"long\",\"containsNull\":true},\"nullable\":true,\"metadata\":{}}]}"#;
        format!(
            r#"{{"metaData":{{"id":"1","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":["p"],"configuration":{{{configuration}}}}}}}"#
        )
    }

    fn read_of(commits: &[String]) -> Result<ForeignTable> {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for (version, commit) in commits.iter().enumerate() {
                let path = Path::parse(format!("some/t/_delta_log/{version:020}.json")).unwrap();
                objects.put(&path, PutPayload::from(commit.clone().into_bytes())).await.unwrap();
            }
            read(&objects, "some/t").await
        })
    }

    fn lines(lines: &[&str]) -> String {
        lines.join("\n")
    }

    #[test]
    fn live_files_and_columns_are_read() {
        let other = FILE.replace("1.parquet", "2.parquet");
        let removed = r#"{"remove":{"path":"p=a%20b/1.parquet","dataChange":true}}"#;
        let table = read_of(&[lines(&[PROTOCOL, &metadata(""), FILE]), lines(&[removed, &other])]).unwrap();
        assert_eq!((table.version, table.partitioned_by.as_slice()), (1, ["p".to_owned()].as_slice()));
        let element = Arc::new(Field::new("element", DataType::Int64, true));
        assert_eq!(
            table.columns,
            [
                Field::new("p", DataType::Utf8View, true),
                Field::new("n", DataType::Decimal128(10, 2), false),
                Field::new("l", DataType::List(element), true),
            ]
        );
        let partition = BTreeMap::from([("p".to_owned(), Some("a b".to_owned()))]);
        let path = "some/t/p=a b/2.parquet".to_owned();
        assert_eq!(table.files, [ForeignFile { path, size: 7, modified_ms: 5, partition }]);
    }

    #[test]
    fn what_is_not_known_is_refused_in_words() {
        let newer = |features: &str| {
            format!(r#"{{"protocol":{{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":[{features}]}}}}"#)
        };
        let vector = FILE.replace("\"size\"", r#""deletionVector":{"storageType":"u"},"size""#);
        let mapped = metadata(r#""delta.columnMapping.mode":"name""#);
        let elsewhere = FILE.replace("p=a%20b/1.parquet", "/etc/passwd");
        for (commit, told) in [
            (lines(&[&newer("\"v2Checkpoint\""), &metadata("")]), "knows of 'v2Checkpoint'"),
            (lines(&[&PROTOCOL.replace(":1", ":4"), &metadata("")]), "reader of version 4"),
            (lines(&[PROTOCOL, &metadata(""), &vector]), "deletion vectors"),
            (lines(&[&PROTOCOL.replace(":1", ":2"), &mapped]), "maps its columns"),
            (lines(&[PROTOCOL, &metadata(""), &elsewhere]), "files elsewhere"),
            (lines(&[PROTOCOL, &metadata("").replace("decimal(10,2)", "variant")]), "is not known"),
            (String::new(), "no Delta table"),
        ] {
            let error = read_of(&[commit]).unwrap_err();
            assert!(error.to_string().contains(told), "{told}: {error}");
        }
        // A feature that is only allowed, and not used, is in nobody's way.
        let allowed = newer("\"deletionVectors\",\"timestampNtz\"");
        assert_eq!(read_of(&[lines(&[&allowed, &metadata(""), FILE])]).unwrap().files.len(), 1);
    }
}
