//! Statements that change tables: what they ask for, read and settled. Nothing is carried out here.
//!
//! `DELETE FROM t WHERE ...`, `DROP TABLE`, `DROP DATABASE`, `UNDO OPERATION 'id'` and `RESUME OPERATION 'id'`, each also behind
//! `EXPLAIN`, which asks what it would do. A DELETE's predicate is kept as text with the operation and evaluated whenever the operation is
//! carried out or resumed, so everything in it that depends on the moment or on the request becomes a literal here: parameters, `now()`.

use std::ops::ControlFlow;

use datafusion::common::ScalarValue;
use datafusion::sql::parser::{DFParserBuilder, Statement as Parsed};
use datafusion::sql::sqlparser::ast::{
    DataType, Delete, Expr, FromTable, FunctionArguments, ObjectName, ObjectType, Statement as Sql, TableFactor,
    TypedString, UnaryOperator, Value, visit_expressions, visit_expressions_mut,
};
use datafusion::sql::sqlparser::tokenizer::Token;

use weir_engine::rollup;

use crate::error::{Error, Result};
use crate::statement::{NESTING_MAX, TableName, Words};

/// What is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Rows for which a predicate is true.
    Delete {
        /// The database.
        database: String,
        /// The table.
        table: String,
        /// In SQL, without anything that depends on when it is evaluated.
        predicate: String,
    },
    /// A table.
    DropTable {
        /// The database.
        database: String,
        /// The table.
        table: String,
        /// Whether a table that is not there is fine.
        if_exists: bool,
    },
    /// All tables of a database.
    DropDatabase {
        /// The database.
        database: String,
        /// Whether a database that is not there is fine.
        if_exists: bool,
    },
    /// Operations, to be undone as one new operation.
    Undo {
        /// Their ids, or beginnings of them that no other has.
        operations: Vec<String>,
        /// A filter of entries, in the words of `weir ops --only`; empty for all.
        only: String,
        /// Where the world moved.
        drift: Drift,
    },
    /// An operation that was interrupted or is partial, to be gone on with.
    Resume {
        /// Its id, or a beginning that no other has.
        operation: String,
        /// Where the world moved.
        drift: Drift,
    },
}

/// What to do where the state is not as the history left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drift {
    /// Nothing at all.
    #[default]
    Refuse,
    /// Leave those entries alone.
    Skip,
    /// Overwrite.
    Force,
}

/// A change, or the question what it would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRequest {
    /// The change.
    pub change: Change,
    /// Whether it is only to be shown (`EXPLAIN`).
    pub preview: bool,
}

/// Reads a statement that changes tables; `None` when it is of another kind. `database` is where tables are that name none, `params` are the
/// values of `$name`, and `now` is what `now()` means, in nanoseconds UTC.
///
/// # Errors
/// `invalid` when such a statement is wrong.
pub fn parse(sql: &str, database: &str, params: &[(String, ScalarValue)], now: i64) -> Result<Option<ChangeRequest>> {
    let Some(mut words) = Words::beginning_with(sql, &["EXPLAIN", "DELETE", "DROP", "UNDO", "RESUME"])? else {
        return Ok(None);
    };
    let preview = words.take("EXPLAIN");
    if preview && words.is(0, "ANALYZE") && ["DELETE", "DROP", "UNDO", "RESUME"].iter().any(|word| words.is(1, word)) {
        return Err(Error::invalid("EXPLAIN ANALYZE would carry the change out: use EXPLAIN"));
    }
    let change = if words.is(0, "DROP") && words.is(1, "ROLLUP") {
        drop_rollup(&mut words, database)?
    } else if words.take("UNDO") {
        undo(&mut words)?
    } else if words.take("RESUME") {
        resume(&mut words)?
    } else if words.is(0, "DELETE") || words.is(0, "DROP") {
        of_sql(sql, database, params, now)?
    } else {
        return Ok(None);
    };
    Ok(Some(ChangeRequest { change, preview }))
}

/// What a rollup keeps is a table of its own, and dropped as one.
fn drop_rollup(words: &mut Words, database: &str) -> Result<Change> {
    words.take_both("DROP", "ROLLUP");
    let if_exists = words.take_both("IF", "EXISTS");
    let name = words.name()?;
    words.end()?;
    Ok(Change::DropTable { database: database.to_owned(), table: rollup::table_name(&name), if_exists })
}

fn undo(words: &mut Words) -> Result<Change> {
    let _ = words.take("OPERATION") || words.take("OPERATIONS");
    let mut operations = vec![words.name()?];
    while words.take_token(&Token::Comma) {
        operations.push(words.name()?);
    }
    let only = if words.take("ONLY") { words.name()? } else { String::new() };
    let drift = on_drift(words)?;
    words.end()?;
    Ok(Change::Undo { operations, only, drift })
}

fn resume(words: &mut Words) -> Result<Change> {
    words.take("OPERATION");
    let operation = words.name()?;
    let drift = on_drift(words)?;
    words.end()?;
    Ok(Change::Resume { operation, drift })
}

fn on_drift(words: &mut Words) -> Result<Drift> {
    if !words.take_both("ON", "DRIFT") {
        return Ok(Drift::Refuse);
    }
    let policies = [("REFUSE", Drift::Refuse), ("SKIP", Drift::Skip), ("FORCE", Drift::Force)];
    let found = policies.into_iter().find(|(word, _)| words.take(word));
    found.map(|found| found.1).ok_or_else(|| Error::invalid("expected REFUSE, SKIP or FORCE after ON DRIFT"))
}

/// DELETE and DROP, with or without EXPLAIN.
fn of_sql(sql: &str, database: &str, params: &[(String, ScalarValue)], now: i64) -> Result<Change> {
    let mut parsed = DFParserBuilder::new(sql).with_recursion_limit(NESTING_MAX).build()?.parse_statements()?;
    let (Some(statement), None) = (parsed.pop_front(), parsed.pop_front()) else {
        return Err(Error::invalid("a request holds exactly one statement"));
    };
    let statement = match statement {
        Parsed::Explain(explain) => *explain.statement,
        statement => statement,
    };
    let Parsed::Statement(statement) = statement else {
        return Err(unsupported(&statement.to_string()));
    };
    match *statement {
        Sql::Delete(delete) => of_delete(delete, database, params, now),
        Sql::Drop {
            object_type,
            if_exists,
            names,
            cascade: false,
            purge: false,
            temporary: false,
            table: None,
            ..
        } => of_drop(&object_type, if_exists, &names, database),
        other => Err(unsupported(&other.to_string())),
    }
}

fn unsupported(statement: &str) -> Error {
    let shown: String = statement.chars().take(80).collect();
    Error::invalid(format!(
        "'{shown}' is not supported; rows and tables are removed by DELETE FROM t WHERE ..., DROP TABLE t and DROP DATABASE d"
    ))
}

fn of_drop(kind: &ObjectType, if_exists: bool, names: &[ObjectName], database: &str) -> Result<Change> {
    let [name] = names else {
        return Err(Error::invalid("one DROP drops one thing: send a statement for each"));
    };
    match kind {
        ObjectType::Table => {
            let name = table_name(name)?;
            check_own(&name.table)?;
            let database = name.database.unwrap_or_else(|| database.to_owned());
            Ok(Change::DropTable { database, table: name.table, if_exists })
        }
        ObjectType::Database | ObjectType::Schema => match table_name(name)? {
            TableName { database: None, table } => Ok(Change::DropDatabase { database: table, if_exists }),
            _ => Err(Error::invalid(format!("'{name}' is not the name of a database"))),
        },
        other => Err(unsupported(&format!("DROP {other}"))),
    }
}

/// Rows of a rollup change with those of its table, and it goes by DROP ROLLUP.
fn check_own(table: &str) -> Result<()> {
    match table.strip_prefix(rollup::PREFIX) {
        Some(name) => Err(Error::invalid(format!(
            "'{table}' holds rollup {name}: it is only removed whole, by DROP ROLLUP {name}"
        ))),
        None => Ok(()),
    }
}

pub(crate) fn table_name(name: &ObjectName) -> Result<TableName> {
    let parts: Option<Vec<String>> =
        name.0.iter().map(|part| part.as_ident().map(|ident| ident.value.clone())).collect();
    match parts.as_deref() {
        Some([table]) => Ok(TableName { database: None, table: table.clone() }),
        Some([database, table]) => Ok(TableName { database: Some(database.clone()), table: table.clone() }),
        _ => Err(Error::invalid(format!("'{name}' is not the name of a table"))),
    }
}

fn of_delete(delete: Delete, database: &str, params: &[(String, ScalarValue)], now: i64) -> Result<Change> {
    let shown = delete.to_string();
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = delete.from;
    let plain = delete.tables.is_empty()
        && delete.using.is_none()
        && delete.returning.is_none()
        && delete.output.is_none()
        && delete.order_by.is_empty()
        && delete.limit.is_none();
    let (true, [from]) = (plain, from.as_slice()) else { return Err(unsupported(&shown)) };
    let (TableFactor::Table { name, alias, args: None, .. }, []) = (&from.relation, from.joins.as_slice()) else {
        return Err(unsupported(&shown));
    };
    let name = table_name(name)?;
    check_own(&name.table)?;
    let Some(mut predicate) = delete.selection else {
        return Err(Error::invalid("a DELETE without WHERE is refused: write WHERE true, or DROP TABLE"));
    };
    let called = alias.as_ref().map_or(&name.table, |alias| &alias.name.value).clone();
    settle(&mut predicate, &called, params, now)?;
    let database = name.database.unwrap_or_else(|| database.to_owned());
    Ok(Change::Delete { database, table: name.table, predicate: predicate.to_string() })
}

/// Takes everything out of a predicate that depends on where and when it is evaluated.
fn settle(predicate: &mut Expr, table: &str, params: &[(String, ScalarValue)], now: i64) -> Result<()> {
    let settled = visit_expressions_mut(predicate, |expr| match settled(expr, table, params, now) {
        Ok(None) => ControlFlow::Continue(()),
        Ok(Some(literal)) => {
            *expr = literal;
            ControlFlow::Continue(())
        }
        Err(error) => ControlFlow::Break(error),
    });
    if let ControlFlow::Break(error) = settled {
        return Err(error);
    }
    let nested = visit_expressions(predicate, |expr| match expr {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    if nested.is_break() {
        return Err(Error::invalid("a DELETE decides on each row by itself: its predicate cannot hold a query"));
    }
    Ok(())
}

/// What an expression is replaced by, if it depends on the request.
fn settled(expr: &Expr, table: &str, params: &[(String, ScalarValue)], now: i64) -> Result<Option<Expr>> {
    Ok(match expr {
        Expr::CompoundIdentifier(parts) if parts.len() == 2 && parts[0].value == table => {
            Some(Expr::Identifier(parts[1].clone()))
        }
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => {
                let wanted = name.trim_start_matches('$');
                let found = params.iter().find(|(name, _)| name == wanted);
                let missing = || Error::invalid(format!("parameter '{name}' has no value"));
                Some(literal(name, &found.ok_or_else(missing)?.1)?)
            }
            _ => None,
        },
        Expr::Function(function) => {
            let name = function.name.to_string().to_lowercase();
            let bare = match &function.args {
                FunctionArguments::None => true,
                FunctionArguments::List(list) => list.args.is_empty(),
                FunctionArguments::Subquery(_) => false,
            };
            match name.as_str() {
                "now" | "current_timestamp" if bare => Some(moment(now)?),
                "current_date" | "today" | "current_time" if bare => {
                    return Err(Error::invalid(format!(
                        "{name}() is not supported in a DELETE: use now() or a literal"
                    )));
                }
                _ => None,
            }
        }
        _ => None,
    })
}

/// A time as a literal.
fn moment(nanos: i64) -> Result<Expr> {
    let text = ScalarValue::TimestampNanosecond(Some(nanos), None).cast_to(&arrow::datatypes::DataType::Utf8)?;
    let value = Value::SingleQuotedString(text.to_string());
    let timezone = datafusion::sql::sqlparser::ast::TimezoneInfo::None;
    let data_type = DataType::Timestamp(None, timezone);
    Ok(Expr::TypedString(TypedString { data_type, value: value.into(), uses_odbc_syntax: false }))
}

/// A parameter's value as it would be written.
fn literal(name: &str, value: &ScalarValue) -> Result<Expr> {
    let number = |text: String| match text.strip_prefix('-') {
        Some(digits) => {
            let expr = Box::new(Expr::Value(Value::Number(digits.to_owned(), false).into()));
            Expr::UnaryOp { op: UnaryOperator::Minus, expr }
        }
        None => Expr::Value(Value::Number(text, false).into()),
    };
    Ok(match value {
        ScalarValue::Utf8(Some(text)) => Expr::Value(Value::SingleQuotedString(text.clone()).into()),
        ScalarValue::Boolean(Some(value)) => Expr::Value(Value::Boolean(*value).into()),
        ScalarValue::Int64(Some(value)) => number(value.to_string()),
        ScalarValue::UInt64(Some(value)) => number(value.to_string()),
        ScalarValue::Float64(Some(value)) if value.is_finite() => number(format!("{value:?}")),
        value if value.is_null() => Expr::Value(Value::Null.into()),
        other => return Err(Error::invalid(format!("parameter '{name}' cannot be written in SQL: {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sql: &str) -> ChangeRequest {
        parse(sql, "db", &[], 1_500_000_000_123_456_789).unwrap().expect(sql)
    }

    fn delete(table: &str, predicate: &str) -> Change {
        Change::Delete { database: "db".into(), table: table.into(), predicate: predicate.into() }
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(change("DELETE FROM cpu WHERE host = 'a'").change, delete("cpu", "host = 'a'"));
        assert_eq!(
            change("delete from Cpu as c where c.\"my tag\" is null;").change,
            delete("Cpu", "\"my tag\" IS NULL")
        );
        let other = change("EXPLAIN DELETE FROM d2.t WHERE t.v > 1");
        assert!(other.preview);
        let wanted = Change::Delete { database: "d2".into(), table: "t".into(), predicate: "v > 1".into() };
        assert_eq!(other.change, wanted);
        let drop = Change::DropTable { database: "db".into(), table: "t".into(), if_exists: true };
        assert_eq!(change("DROP TABLE IF EXISTS t").change, drop);
        let drop = Change::DropDatabase { database: "My db".into(), if_exists: false };
        assert_eq!(change("DROP DATABASE \"My db\"").change, drop);
        let drop = Change::DropTable { database: "db".into(), table: "weir_rollup-h".into(), if_exists: true };
        assert_eq!(change("DROP ROLLUP IF EXISTS h").change, drop);
        let undo = Change::Undo {
            operations: vec!["019a".into(), "019b".into()],
            only: "table=cpu".into(),
            drift: Drift::Skip,
        };
        assert_eq!(change("EXPLAIN UNDO OPERATIONS '019a', '019b' ONLY 'table=cpu' ON DRIFT skip;").change, undo);
        let resume = Change::Resume { operation: "019a".into(), drift: Drift::Refuse };
        assert_eq!(change("RESUME OPERATION '019a'").change, resume);
        for sql in ["SELECT 1", "EXPLAIN SELECT 1", "SHOW TABLES", ""] {
            assert_eq!(parse(sql, "db", &[], 0).unwrap(), None, "{sql}");
        }
    }

    #[test]
    fn what_depends_on_the_moment_becomes_a_literal() {
        let wanted = delete("t", "time < TIMESTAMP '2017-07-14T02:40:00.123456789' - INTERVAL '1 day'");
        assert_eq!(change("DELETE FROM t WHERE time < now() - INTERVAL '1 day'").change, wanted);
        let params = [
            ("a".to_owned(), ScalarValue::Utf8(Some("o'clock".into()))),
            ("1".to_owned(), ScalarValue::Int64(Some(-5))),
            ("f".to_owned(), ScalarValue::Float64(Some(1e300))),
        ];
        let sql = "DELETE FROM t WHERE a = $a AND b > $1 OR c < $f";
        let found = parse(sql, "db", &params, 0).unwrap().unwrap().change;
        assert_eq!(found, delete("t", "a = 'o''clock' AND b > -5 OR c < 1e300"));
    }

    #[test]
    fn what_cannot_be_done_is_told() {
        for (sql, told) in [
            ("DELETE FROM t", "without WHERE"),
            ("DELETE FROM t WHERE a IN (SELECT b FROM u)", "cannot hold a query"),
            ("DELETE FROM t USING u WHERE t.a = u.a", "not supported"),
            ("DELETE FROM t WHERE a = $x", "has no value"),
            ("DELETE FROM t WHERE time < current_date", "current_date"),
            ("DELETE FROM t WHERE true; DROP TABLE t", "exactly one statement"),
            ("EXPLAIN ANALYZE DROP TABLE t", "EXPLAIN"),
            ("DROP TABLE a, b", "one thing"),
            ("DROP VIEW v", "not supported"),
            ("DROP TABLE \"weir_rollup-h\"", "DROP ROLLUP h"),
            ("DELETE FROM \"weir_rollup-h\" WHERE true", "DROP ROLLUP h"),
            ("DROP DATABASE a.b", "not the name of a database"),
            ("UNDO OPERATION", "expected a name"),
            ("UNDO OPERATION 'a' ON DRIFT maybe", "REFUSE, SKIP or FORCE"),
            ("RESUME OPERATION 'a' 'b'", "unexpected"),
        ] {
            let error = parse(sql, "db", &[], 0).expect_err(sql);
            assert!(error.to_string().contains(told), "{sql}: {error}");
        }
    }
}
