//! Wishes from a file: CSV, JSON or YAML. Every row is checked and every name resolved before anything is done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_base::Kind;
use weir_ops::Entry;

use crate::assignment::{Assignment, Names, PrincipalKind};
use crate::directory::Directory;
use crate::{Error, Result};

/// Rows of one file.
pub const ROWS_MAX: usize = 1_000_000;
/// Problems that are told before the rest is only counted.
const PROBLEMS_MAX: usize = 20;

/// What to do with an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is to be there.
    #[default]
    Assign,
    /// It is not to be there.
    Revoke,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// User or group.
    pub principal_type: PrincipalKind,
    /// Name or id.
    pub principal: String,
    /// Name or ARN.
    pub permission_set: String,
    /// Id, name, `tag:Key=Value`, `ou:ID-or-name` or `*`.
    pub account: String,
    /// `assign` (default) or `revoke`.
    #[serde(default)]
    pub action: Action,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Rows(Vec<serde_json::Value>),
    Named { assignments: Vec<serde_json::Value> },
}

/// The form of a file, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `.csv`, with a header.
    Csv,
    /// `.json`: a list of rows, alone or as `assignments`.
    Json,
    /// `.yaml`, `.yml`: the same.
    Yaml,
}

impl Form {
    /// The form that a file's name says.
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
            "csv" => Some(Form::Csv),
            "json" => Some(Form::Json),
            "yaml" | "yml" => Some(Form::Yaml),
            _ => None,
        }
    }
}

/// Reads all rows.
///
/// # Errors
/// `Invalid` with each bad row by its number.
pub fn parse(form: Form, bytes: &[u8]) -> Result<Vec<Row>> {
    let mut problems = Problems::default();
    let rows = match form {
        Form::Csv => csv_rows(bytes, &mut problems)?,
        Form::Json => values(
            serde_json::from_slice(bytes).map_err(|error| Error::wrap(Kind::Invalid, "this is no JSON list", error))?,
            &mut problems,
        ),
        Form::Yaml => values(
            serde_yaml_ng::from_slice(bytes)
                .map_err(|error| Error::wrap(Kind::Invalid, "this is no YAML list", error))?,
            &mut problems,
        ),
    };
    if rows.len() > ROWS_MAX {
        return Err(Error::new(Kind::Limit, format!("more than {ROWS_MAX} rows")));
    }
    problems.finish()?;
    if rows.is_empty() { Err(Error::invalid("the file has no rows")) } else { Ok(rows) }
}

fn csv_rows(bytes: &[u8], problems: &mut Problems) -> Result<Vec<Row>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let headers = reader.headers().map_err(|error| Error::wrap(Kind::Invalid, "the header cannot be read", error))?;
    for name in ["principal_type", "principal", "permission_set", "account"] {
        if !headers.iter().any(|header| header == name) {
            return Err(Error::invalid(format!("the header has no column '{name}'")));
        }
    }
    let mut rows = Vec::new();
    for (number, row) in reader.deserialize().enumerate() {
        match row {
            Ok(row) => rows.push(row),
            Err(error) => problems.add(number + 1, &error),
        }
    }
    Ok(rows)
}

fn values(document: Document, problems: &mut Problems) -> Vec<Row> {
    let (Document::Rows(values) | Document::Named { assignments: values }) = document;
    let mut rows = Vec::new();
    for (number, value) in values.into_iter().enumerate() {
        match serde_json::from_value(value) {
            Ok(row) => rows.push(row),
            Err(error) => problems.add(number + 1, &error),
        }
    }
    rows
}

/// What is wrong, row by row.
#[derive(Default)]
struct Problems {
    told: Vec<String>,
    count: usize,
}

impl Problems {
    fn add(&mut self, row: usize, what: &dyn std::error::Error) {
        self.count += 1;
        if self.told.len() < PROBLEMS_MAX {
            self.told.push(format!("row {row}: {what}"));
        }
    }

    fn finish(self) -> Result<()> {
        match self.count {
            0 => Ok(()),
            count => Err(Error::invalid(format!("{count} rows are wrong: {}", self.told.join("; ")))),
        }
    }
}

/// Turns rows into entries, with every name resolved. A row that comes twice counts once.
///
/// # Errors
/// `Invalid` with each row that cannot be resolved or contradicts another; what AWS says where it does not answer.
pub fn resolve(directory: &Directory<'_>, rows: &[Row]) -> Result<Vec<Entry>> {
    let mut problems = Problems::default();
    let mut entries: BTreeMap<String, (usize, Entry)> = BTreeMap::new();
    for (number, row) in rows.iter().enumerate() {
        match resolve_row(directory, row) {
            Ok(found) => {
                for entry in found {
                    let place = entries.len();
                    let (_, known) = entries.entry(entry.key.clone()).or_insert((place, entry.clone()));
                    if known.after != entry.after {
                        let both = Error::invalid("the same assignment is to be assigned and revoked");
                        problems.add(number + 1, &both);
                    }
                }
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid | Kind::Conflict) => {
                problems.add(number + 1, &error);
            }
            Err(error) => return Err(error),
        }
    }
    problems.finish()?;
    let mut entries: Vec<(usize, Entry)> = entries.into_values().collect();
    entries.sort_unstable_by_key(|(place, _)| *place);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn resolve_row(directory: &Directory<'_>, row: &Row) -> Result<Vec<Entry>> {
    let principal = directory.principal(row.principal_type, &row.principal)?;
    let set = directory.permission_set(&row.permission_set)?;
    let accounts = directory.accounts_of(&row.account)?;
    let entry = |account: crate::directory::Named| {
        let assignment = Assignment {
            principal_type: row.principal_type,
            principal_id: principal.id.clone(),
            permission_set: set.id.clone(),
            account: account.id,
        };
        let names =
            Names { principal: principal.name.clone(), permission_set: set.name.clone(), account: account.name };
        assignment.entry(&names, row.action == Action::Assign)
    };
    Ok(accounts.into_iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str =
        "principal_type,principal,permission_set,account\nUSER,alice,Admin,111122223333\ngroup, ops ,arn:x,Prod\n";

    #[test]
    fn the_three_forms_say_the_same() {
        let rows = parse(Form::Csv, CSV.as_bytes()).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[1].principal_type, rows[1].principal.as_str()), (PrincipalKind::Group, "ops"));
        let json = serde_json::to_vec(&rows).unwrap();
        assert_eq!(parse(Form::Json, &json).unwrap(), rows);
        let yaml = format!("assignments:\n{}", serde_yaml_ng::to_string(&rows).unwrap());
        assert_eq!(parse(Form::Yaml, yaml.as_bytes()).unwrap(), rows);
        assert_eq!(Form::of("a/b.YML"), Some(Form::Yaml));
    }

    #[test]
    fn every_bad_row_is_told() {
        let bad = format!("{CSV}ROLE,x,y,z\nUSER,a\n");
        let error = parse(Form::Csv, bad.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("2 rows are wrong: row 3:") && error.contains("row 4:"), "{error}");
        assert!(parse(Form::Csv, b"principal,account\n").is_err());
        assert!(parse(Form::Json, br#"[{"principal_type":"USER"}]"#).is_err());
        assert!(parse(Form::Csv, b"principal_type,principal,permission_set,account\n").is_err(), "no rows");
    }
}
