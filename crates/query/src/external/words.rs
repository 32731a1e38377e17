//! `CREATE EXTERNAL TABLE`, read and checked. `DROP TABLE` is a change of tables, see [`crate::change`].

use datafusion::sql::parser::{CreateExternalTable, DFParserBuilder, Statement as Parsed};

use crate::change;
use crate::error::{Error, Result};
use crate::statement::{NESTING_MAX, Words};

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    Csv,
    Json,
    Delta,
}

impl Format {
    fn of(word: &str) -> Result<Self> {
        Ok(match word.to_ascii_uppercase().as_str() {
            "PARQUET" => Self::Parquet,
            "CSV" => Self::Csv,
            "JSON" => Self::Json,
            "DELTA" => Self::Delta,
            _ => return Err(Error::invalid(format!("STORED AS {word} is not known: PARQUET, CSV, JSON or DELTA"))),
        })
    }

    /// DataFusion's name of the format of the files.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Parquet | Self::Delta => "parquet",
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    /// How files of a folder end that are meant.
    pub(crate) fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Parquet | Self::Delta => &["parquet"],
            Self::Csv => &["csv"],
            Self::Json => &["json", "jsonl", "ndjson"],
        }
    }
}

/// `CREATE [OR REPLACE] EXTERNAL TABLE [IF NOT EXISTS] name [(column type, ...)] STORED AS format LOCATION 'path' [OPTIONS (...)]`
#[derive(Debug, Clone)]
pub struct ExternalStatement {
    /// The database, where it is named.
    pub database: Option<String>,
    /// The table.
    pub name: String,
    /// Whether it is fine that there is one.
    pub if_not_exists: bool,
    /// Whether it takes the place of an external table of that name.
    pub or_replace: bool,
    /// The statement as it was written.
    pub sql: String,
    pub(crate) format: Format,
    pub(crate) location: String,
    pub(crate) parsed: CreateExternalTable,
}

/// Reads a statement that makes an external table; `None` when it is of another kind.
///
/// # Errors
/// `invalid` when such a statement is wrong.
pub fn parse(sql: &str) -> Result<Option<ExternalStatement>> {
    let Some(mut words) = Words::beginning_with(sql, &["CREATE"])? else { return Ok(None) };
    words.take("CREATE");
    words.take_both("OR", "REPLACE");
    if !(words.is(0, "EXTERNAL") || words.is(0, "UNBOUNDED") && words.is(1, "EXTERNAL")) {
        return Ok(None);
    }
    let mut parsed = DFParserBuilder::new(sql).with_recursion_limit(NESTING_MAX).build()?.parse_statements()?;
    let (Some(Parsed::CreateExternalTable(parsed)), None) = (parsed.pop_front(), parsed.pop_front()) else {
        return Err(Error::invalid("a request holds exactly one statement"));
    };
    let refused = [
        (parsed.temporary, "TEMPORARY"),
        (parsed.unbounded, "UNBOUNDED"),
        // Files that are not so would give wrong answers.
        (!parsed.order_exprs.is_empty(), "WITH ORDER"),
        (!parsed.table_partition_cols.is_empty(), "PARTITIONED BY (folders named key=value are found by themselves)"),
        (!parsed.constraints.is_empty(), "a constraint"),
        (parsed.or_replace && parsed.if_not_exists, "OR REPLACE together with IF NOT EXISTS"),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(is, _)| *is) {
        return Err(Error::invalid(format!("{what} is not supported for external tables")));
    }
    let format = Format::of(&parsed.file_type)?;
    if format == Format::Delta && !(parsed.columns.is_empty() && parsed.options.is_empty()) {
        return Err(Error::invalid("a Delta table says itself what its columns are: no columns and no OPTIONS"));
    }
    let [location] = parsed.locations.as_slice() else {
        return Err(Error::invalid("an external table has one LOCATION"));
    };
    let name = change::table_name(&parsed.name)?;
    Ok(Some(ExternalStatement {
        database: name.database,
        name: name.table,
        if_not_exists: parsed.if_not_exists,
        or_replace: parsed.or_replace,
        sql: sql.trim().to_owned(),
        format,
        location: location.clone(),
        parsed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_is_read_and_others_left_alone() {
        let sql = "create or replace external table d.t (a INT) stored as csv location '/x/y.csv' options ('has_header' 'true');";
        let made = parse(sql).unwrap().unwrap();
        assert_eq!((made.database.as_deref(), &*made.name, &*made.location), (Some("d"), "t", "/x/y.csv"));
        assert!(made.or_replace && !made.if_not_exists && made.format == Format::Csv);
        for other in ["SELECT 1", "CREATE TABLE t (a INT)", "CREATE ROLLUP h AS SELECT 1", ""] {
            assert!(parse(other).unwrap().is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_not_supported_is_told() {
        let location = "LOCATION '/x'";
        for (sql, told) in [
            (format!("CREATE EXTERNAL TABLE t STORED AS AVRO {location}"), "PARQUET, CSV, JSON or DELTA"),
            (format!("CREATE UNBOUNDED EXTERNAL TABLE t STORED AS CSV {location}"), "UNBOUNDED"),
            (format!("CREATE EXTERNAL TABLE t (a INT) STORED AS CSV WITH ORDER (a) {location}"), "WITH ORDER"),
            (format!("CREATE EXTERNAL TABLE t STORED AS CSV PARTITIONED BY (a) {location}"), "key=value"),
            (format!("CREATE EXTERNAL TABLE t (a INT) STORED AS DELTA {location}"), "says itself"),
            (format!("CREATE EXTERNAL TABLE t STORED AS CSV {location}; DROP TABLE x"), "exactly one"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV".to_owned(), "LOCATION"),
        ] {
            let error = parse(&sql).expect_err(&sql);
            assert!(error.to_string().contains(told), "{sql}: {error}");
        }
    }
}
