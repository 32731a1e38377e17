//! What columns a table has: tags, typed fields, and their names on the disk.
//!
//! A schema only grows: columns are appended, never renamed, retyped or reordered, so a column's index is stable for the
//! life of the table. `time` is implied, is not in the list, and is always there. A name is a tag or a field, never both.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The type of a field, set by its first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// 64-bit float.
    F64,
    /// Signed 64-bit integer (`1i`).
    I64,
    /// Unsigned 64-bit integer (`1u`); Delta has none, so it is stored as decimal(20,0).
    U64,
    /// Boolean.
    Bool,
    /// UTF-8 text.
    Str,
}

impl FieldType {
    /// The word for people: `float`, `integer`, `unsigned`, `boolean`, `string`.
    pub const fn word(self) -> &'static str {
        match self {
            FieldType::F64 => "float",
            FieldType::I64 => "integer",
            FieldType::U64 => "unsigned",
            FieldType::Bool => "boolean",
            FieldType::Str => "string",
        }
    }
}

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Part of the key; a dictionary-encoded string, NULL when the point lacks it.
    Tag,
    /// A value of one type; NULL when the point lacks it.
    Field(FieldType),
}

/// One column, apart from `time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name as written by users and seen in SQL.
    pub name: String,
    /// The name in Parquet and Delta; unique in the table ignoring case.
    pub stored: String,
    /// Tag or typed field.
    pub role: Role,
}

/// The columns of a table in order of appearance. Cheap to clone behind an `Arc`.
#[derive(Debug, Clone, Default)]
pub struct TableSchema {
    columns: Vec<Column>,
    by_name: HashMap<String, usize>,
    stored_lower: HashMap<String, usize>,
}

/// A shared schema.
pub type SchemaRef = Arc<TableSchema>;

/// The name of the time column.
pub const TIME: &str = "time";
/// The stored column with the nanoseconds below a microsecond, 0 to 999.
pub const TIME_NS: &str = "weir_ns";
/// Names with this prefix are Weir's own.
pub const RESERVED_PREFIX: &str = "weir_";

impl TableSchema {
    /// All columns, in order of appearance.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The column called `name`, with its index.
    pub fn get(&self, name: &str) -> Option<(usize, &Column)> {
        self.by_name.get(name).map(|&index| (index, &self.columns[index]))
    }

    /// Tag columns with their indices, in order of appearance: with `time` they are the sort key of every file.
    pub fn tags(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.columns.iter().enumerate().filter(|(_, column)| column.role == Role::Tag)
    }

    /// Field columns with their indices and types.
    pub fn fields(&self) -> impl Iterator<Item = (usize, &Column, FieldType)> {
        self.columns.iter().enumerate().filter_map(|(index, column)| match column.role {
            Role::Field(kind) => Some((index, column, kind)),
            Role::Tag => None,
        })
    }

    /// Appends a column that is not there yet and returns its index; the same role again is not an error.
    ///
    /// # Errors
    /// `invalid` when the name is reserved or empty; `conflict` when it exists with another role.
    pub fn add(&mut self, name: &str, role: Role) -> Result<usize> {
        if let Some((index, column)) = self.get(name) {
            return match (column.role, role) {
                (old, new) if old == new => Ok(index),
                (old, new) => Err(Error::new(
                    weir_base::Kind::Conflict,
                    format!("column '{name}' is {}, not {}", role_word(old), role_word(new)),
                )),
            };
        }
        check_column_name(name)?;
        let stored = stored_name(name, |candidate| self.stored_lower.contains_key(candidate));
        Ok(self.push(Column { name: name.to_owned(), stored, role }))
    }

    /// Appends a column read back from a store, with the stored name that it has there.
    pub fn push(&mut self, column: Column) -> usize {
        let index = self.columns.len();
        self.by_name.insert(column.name.clone(), index);
        self.stored_lower.insert(column.stored.to_ascii_lowercase(), index);
        self.columns.push(column);
        index
    }
}

/// A role in words, for messages: `a tag`, `an integer field`.
pub fn role_word(role: Role) -> String {
    match role {
        Role::Tag => "a tag".to_owned(),
        Role::Field(FieldType::I64) => "an integer field".to_owned(),
        Role::Field(FieldType::U64) => "an unsigned field".to_owned(),
        Role::Field(kind) => format!("a {} field", kind.word()),
    }
}

/// Refuses names that Weir keeps for itself.
///
/// # Errors
/// `invalid`, naming the rule.
pub fn check_column_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("a column name is empty"));
    }
    if name == TIME || name.starts_with(RESERVED_PREFIX) {
        return Err(Error::invalid(format!(
            "column name '{name}' is reserved ('time' and names that start with 'weir_')"
        )));
    }
    Ok(())
}

/// The stored form of a column name: kept when it is `[A-Za-z0-9_]+` and no stored name equals it ignoring case; else its
/// lower-case form with `_` for other bytes, `_`, and 8 hex digits of its BLAKE3 (Delta without column mapping allows
/// neither spaces nor `,;{}()=`, and compares names ignoring case).
fn stored_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if plain && !taken(&name.to_ascii_lowercase()) {
        return name.to_owned();
    }
    let mut stored: String = name
        .bytes()
        .take(200)
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_lowercase()) } else { '_' })
        .collect();
    stored.push('_');
    stored.push_str(&weir_base::checksum::hex(&weir_base::checksum::blake3(name.as_bytes())[..4]));
    while taken(&stored) {
        stored.push('_');
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_never_collide() {
        let mut schema = TableSchema::default();
        for name in ["A", "a", "my field", "x=y", "é", "100%", "plain_1"] {
            schema.add(name, Role::Field(FieldType::F64)).unwrap();
        }
        let mut stored: Vec<_> = schema.columns().iter().map(|column| column.stored.to_ascii_lowercase()).collect();
        assert_eq!(schema.columns()[0].stored, "A");
        assert_eq!(schema.columns()[6].stored, "plain_1");
        assert!(stored.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')));
        stored.sort();
        stored.dedup();
        assert_eq!(stored.len(), 7);
    }

    #[test]
    fn a_name_has_one_role() {
        let mut schema = TableSchema::default();
        assert_eq!(schema.add("v", Role::Field(FieldType::I64)).unwrap(), 0);
        assert_eq!(schema.add("v", Role::Field(FieldType::I64)).unwrap(), 0);
        let error = schema.add("v", Role::Tag).unwrap_err();
        assert_eq!(error.to_string(), "column 'v' is an integer field, not a tag");
        assert!(schema.add("time", Role::Tag).is_err());
        assert!(schema.add("weir_x", Role::Tag).is_err());
    }
}
