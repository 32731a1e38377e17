//! Statements about rollups.

use datafusion::sql::sqlparser::ast::{Query, SetExpr};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Error, Result};
use crate::statement::{NESTING_MAX, Words};

/// A statement that makes a rollup or brings one up to date. `DROP ROLLUP` is a change of tables, see [`crate::change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollupStatement {
    /// `CREATE ROLLUP [IF NOT EXISTS] name [RETENTION 'age'] [ON table] AS SELECT ...`
    Create {
        /// Its name.
        name: String,
        /// Whether it is fine that there is one.
        if_not_exists: bool,
        /// How long its rows are kept, nanoseconds; `None`: as long as those of its table.
        retention_ns: Option<i64>,
        /// The table that the query must be about, where it is named.
        on: Option<String>,
        /// What it keeps.
        query: String,
    },
    /// `REFRESH ROLLUP name`
    Refresh {
        /// Its name.
        name: String,
    },
}

/// Reads a statement about a rollup; `None` when it is of another kind.
///
/// # Errors
/// `invalid` when such a statement is wrong.
pub fn parse(sql: &str) -> Result<Option<RollupStatement>> {
    let Some(mut words) = Words::beginning_with(sql, &["CREATE", "REFRESH"])? else { return Ok(None) };
    if words.take_both("REFRESH", "ROLLUP") {
        let name = words.name()?;
        words.end()?;
        return Ok(Some(RollupStatement::Refresh { name }));
    }
    if !words.take_both("CREATE", "ROLLUP") {
        return Ok(None);
    }
    create(sql).map(Some)
}

fn create(sql: &str) -> Result<RollupStatement> {
    let dialect = GenericDialect {};
    let wrong = |error: datafusion::sql::sqlparser::parser::ParserError| Error::invalid(error.to_string());
    let mut parser = Parser::new(&dialect).with_recursion_limit(NESTING_MAX).try_with_sql(sql).map_err(wrong)?;
    // CREATE ROLLUP, as the caller has seen.
    parser.next_token();
    parser.next_token();
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parser.parse_identifier().map_err(wrong)?.value;
    let retained = match parser.peek_token().token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case("RETENTION"),
        _ => false,
    };
    let mut retention_ns = None;
    if retained {
        parser.next_token();
        retention_ns = Some(age(&parser.parse_literal_string().map_err(wrong)?)?);
    }
    let on = match parser.parse_keyword(Keyword::ON) {
        true => Some(parser.parse_identifier().map_err(wrong)?.value),
        false => None,
    };
    parser.expect_keyword(Keyword::AS).map_err(wrong)?;
    let query: Box<Query> = parser.parse_query().map_err(wrong)?;
    while parser.consume_token(&Token::SemiColon) {}
    parser.expect_token(&Token::EOF).map_err(wrong)?;
    check_name(&name)?;
    if !matches!(*query.body, SetExpr::Select(_)) {
        return Err(Error::invalid("a rollup is made of a SELECT"));
    }
    Ok(RollupStatement::Create { name, if_not_exists, retention_ns, on, query: query.to_string() })
}

/// An age such as `90d`, in nanoseconds; `forever` is the largest.
fn age(text: &str) -> Result<i64> {
    if text.eq_ignore_ascii_case("forever") {
        return Ok(i64::MAX);
    }
    let wrong = || Error::invalid(format!("'{text}' is not an age such as 12h, 30d or 8w, nor 'forever'"));
    let hours = match text.chars().last() {
        Some('h') => 1,
        Some('d') => 24,
        Some('w') => 168,
        _ => return Err(wrong()),
    };
    let count: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let age = count.checked_mul(hours).and_then(|hours| hours.checked_mul(3_600_000_000_000));
    age.filter(|age| *age > 0).ok_or_else(wrong)
}

/// The name becomes part of a folder's.
fn check_name(name: &str) -> Result<()> {
    if (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    {
        return Ok(());
    }
    Err(Error::invalid(format!("'{name}' is not a name of a rollup: 1 to 64 letters, digits, '_' or '-'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_are_read_and_others_left_alone() {
        let made =
            parse("create rollup if not exists h ON cpu AS SELECT host, count(*) FROM cpu GROUP BY host;").unwrap();
        let Some(RollupStatement::Create { name, if_not_exists: true, retention_ns: None, on: Some(on), query }) = made
        else {
            panic!("{made:?}")
        };
        assert_eq!((&*name, &*on), ("h", "cpu"));
        assert_eq!(query, "SELECT host, count(*) FROM cpu GROUP BY host");
        let made = |age: &str| parse(&format!("CREATE ROLLUP h RETENTION '{age}' AS SELECT count(*) FROM cpu"));
        for (age, hours) in [("12h", 12), ("3d", 72), ("2w", 336)] {
            let Some(RollupStatement::Create { retention_ns: Some(found), .. }) = made(age).unwrap() else {
                panic!("{age}")
            };
            assert_eq!(found, hours * 3_600_000_000_000);
        }
        assert!(matches!(made("forever"), Ok(Some(RollupStatement::Create { retention_ns: Some(i64::MAX), .. }))));
        for wrong in ["", "d", "0d", "-1d", "1", "1y", "9999999999w", "1é"] {
            assert!(made(wrong).is_err(), "{wrong}");
        }
        let refresh = RollupStatement::Refresh { name: "h".to_owned() };
        assert_eq!(parse("REFRESH ROLLUP h").unwrap(), Some(refresh));
        for other in ["SELECT 1", "CREATE TABLE t (a INT)", "", "EXPLAIN SELECT 1"] {
            assert_eq!(parse(other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (sql, told) in [
            ("CREATE ROLLUP h SELECT 1", "AS"),
            ("CREATE ROLLUP \"a b\" AS SELECT 1", "is not a name"),
            ("CREATE ROLLUP h AS SELECT 1; DROP TABLE t", "expected: EOF"),
            ("CREATE ROLLUP h AS DELETE FROM t", "SELECT"),
            ("REFRESH ROLLUP", "expected a name"),
            ("REFRESH ROLLUP h now", "unexpected"),
        ] {
            let error = parse(sql).expect_err(sql);
            assert!(error.to_string().to_lowercase().contains(&told.to_lowercase()), "{sql}: {error}");
        }
    }
}
