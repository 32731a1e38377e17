//! `FROM t AS OF VERSION 7` and `FROM t AS OF TIMESTAMP '2026-01-01'`: tables as they were.
//!
//! The parser knows no such words. Before it sees a statement, each such table becomes one quoted name that carries the moment, with the
//! table's own name as its alias; the catalog reads the moment out of the name again. Delta's spelling, `t VERSION AS OF 7`, is read too.

use std::borrow::Cow;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use weir_engine::past::At;

use crate::error::{Error, Result};

/// Between a table's name and the moment; no measurement that anyone writes has it in its name.
const SEPARATOR: &str = "\u{1f}as of\u{1f}";

/// The statement with every `AS OF` written as the parser can read it.
///
/// # Errors
/// `invalid` when a moment is no number or time, or does not follow a table's name.
pub(crate) fn rewrite(sql: &str) -> Result<Cow<'_, str>> {
    if !sql.as_bytes().windows(3).any(|letters| letters.eq_ignore_ascii_case(b"of ")) {
        return Ok(Cow::Borrowed(sql));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| Error::invalid(error.to_string()))?;
    let tokens: Vec<_> = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let offsets = Offsets::of(sql);
    let mut rewritten = String::new();
    let mut copied = 0;
    let mut next = 0;
    while next < tokens.len() {
        let Some(at) = moment(&tokens[next..])? else {
            next += 1;
            continue;
        };
        let name = next.checked_sub(1).and_then(|before| name(&tokens[before]));
        let name = name.ok_or_else(|| Error::invalid("AS OF must follow the name of a table"))?;
        let from = offsets.at(tokens[next - 1].span.start);
        let last = next + 3;
        rewritten.push_str(&sql[copied..from]);
        rewritten.push_str(&quoted(&encoded(name, at)));
        if !tokens.get(last + 1).is_some_and(is_alias) {
            rewritten.push_str(" AS ");
            rewritten.push_str(&quoted(name));
        }
        copied = offsets.at(tokens[last].span.end);
        next = last + 1;
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(sql));
    }
    rewritten.push_str(&sql[copied..]);
    Ok(Cow::Owned(rewritten))
}

/// The moment, when `tokens` begin with one: `AS OF VERSION n`, `VERSION AS OF n`, and the same with TIMESTAMP.
fn moment(tokens: &[TokenWithSpan]) -> Result<Option<At>> {
    let [first, second, third, value, ..] = tokens else { return Ok(None) };
    let is = |token: &TokenWithSpan, word: &str| matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word));
    let kind = match (first, second, third) {
        (first, second, kind) if is(first, "AS") && is(second, "OF") => kind,
        (kind, second, third) if is(second, "AS") && is(third, "OF") => kind,
        _ => return Ok(None),
    };
    let wrong = |what: &str| Error::invalid(format!("'{}' is not {what}", value.token));
    match &value.token {
        Token::Number(text, _) if is(kind, "VERSION") => {
            text.parse().map(At::Version).map(Some).map_err(|_| wrong("a version"))
        }
        Token::SingleQuotedString(text) if is(kind, "TIMESTAMP") => {
            string_to_timestamp_nanos(text).map(At::Time).map(Some).map_err(|_| wrong("a time"))
        }
        _ if is(kind, "VERSION") => Err(wrong("a version: write AS OF VERSION 7")),
        _ if is(kind, "TIMESTAMP") => Err(wrong("a time: write AS OF TIMESTAMP '2026-01-01T00:00:00'")),
        _ => Ok(None),
    }
}

fn name(token: &TokenWithSpan) -> Option<&str> {
    match &token.token {
        Token::Word(word) => Some(&word.value),
        _ => None,
    }
}

fn is_alias(token: &TokenWithSpan) -> bool {
    match &token.token {
        Token::Word(word) if word.quote_style.is_some() => true,
        Token::Word(word) => word.keyword == Keyword::AS || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword),
        _ => false,
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn encoded(table: &str, at: At) -> String {
    match at {
        At::Version(version) => format!("{table}{SEPARATOR}v{version}"),
        At::Time(time) => format!("{table}{SEPARATOR}t{time}"),
    }
}

/// The table that a name means, and when.
pub(crate) fn decoded(name: &str) -> (&str, Option<At>) {
    let Some((table, at)) = name.rsplit_once(SEPARATOR) else { return (name, None) };
    let at = match at.split_at_checked(1) {
        Some(("v", version)) => version.parse().ok().map(At::Version),
        Some(("t", time)) => time.parse().ok().map(At::Time),
        _ => None,
    };
    if at.is_some() { (table, at) } else { (name, None) }
}

/// Where lines begin; the tokenizer counts lines and characters, from 1.
struct Offsets<'a> {
    sql: &'a str,
    lines: Vec<usize>,
}

impl<'a> Offsets<'a> {
    fn of(sql: &'a str) -> Self {
        let ends = sql.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { sql, lines: std::iter::once(0).chain(ends).collect() }
    }

    /// In bytes.
    fn at(&self, location: Location) -> usize {
        let start = self.lines[location.line as usize - 1];
        let line = &self.sql[start..];
        line.char_indices().nth(location.column as usize - 1).map_or(self.sql.len(), |(at, _)| start + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, wanted: &str) {
        let readable = rewrite(sql).unwrap().replace(SEPARATOR, "@");
        assert_eq!(readable, wanted, "{sql}");
    }

    #[test]
    fn every_spelling_becomes_a_name_with_an_alias() {
        check("SELECT * FROM t AS OF VERSION 7", r#"SELECT * FROM "t@v7" AS "t""#);
        check(
            "SELECT 'é',\n x.a FROM d.\"a \"\"b\" as of version 7 x\nWHERE 1=1",
            "SELECT 'é',\n x.a FROM d.\"a \"\"b@v7\" x\nWHERE 1=1",
        );
        check(
            "SELECT * FROM é AS OF TIMESTAMP '1970-01-01T00:00:01' WHERE é.a > 0",
            r#"SELECT * FROM "é@t1000000000" AS "é" WHERE é.a > 0"#,
        );
        check(
            "SELECT * FROM t VERSION AS OF 1 JOIN t AS OF VERSION 2 AS n ON true",
            r#"SELECT * FROM "t@v1" AS "t" JOIN "t@v2" AS n ON true"#,
        );
    }

    #[test]
    fn what_only_looks_alike_is_left_alone() {
        for sql in [
            "SELECT a AS of , b FROM t",
            "SELECT 'x AS OF VERSION 7' FROM t -- AS OF VERSION 7",
            "SELECT \"AS\" OF FROM t",
            "SELECT count(*) FROM roof WHERE a = 1",
        ] {
            check(sql, sql);
        }
    }

    #[test]
    fn wrong_moments_are_told() {
        for (sql, told) in [
            ("SELECT * FROM t AS OF VERSION 'x'", "is not a version"),
            ("SELECT * FROM t AS OF TIMESTAMP 'soon'", "is not a time"),
            ("SELECT * FROM t AS OF TIMESTAMP 5", "is not a time"),
            ("SELECT * FROM (SELECT 1) AS OF VERSION 7", "must follow the name"),
        ] {
            let error = rewrite(sql).expect_err(sql).to_string();
            assert!(error.contains(told), "{sql}: {error}");
        }
    }

    #[test]
    fn names_come_back() {
        for at in [At::Version(0), At::Version(i64::MAX), At::Time(-5)] {
            assert_eq!(decoded(&encoded("a b", at)), ("a b", Some(at)));
        }
        assert_eq!(decoded("plain"), ("plain", None));
    }
}
