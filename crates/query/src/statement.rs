//! What a statement asks for: a query for DataFusion, or one of Weir's own SHOW and DESCRIBE forms.
//!
//! Names keep their case, quoted or not; keywords are read in any case. Everything that would write is refused here,
//! before anything is planned.

use datafusion::sql::parser::{DFParserBuilder, Statement as Parsed};
use datafusion::sql::sqlparser::ast::Statement as Sql;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::asof;
use crate::error::{Error, Result};
use crate::past;

/// How deep a statement may nest.
pub(crate) const NESTING_MAX: usize = 100;

/// A statement that only reads.
#[derive(Debug)]
pub(crate) enum Statement {
    /// SELECT and EXPLAIN.
    Query(Box<Parsed>),
    /// What is there.
    Show(Show),
}

/// Weir's own statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Show {
    /// `SHOW DATABASES`
    Databases,
    /// `SHOW TABLES [FROM database]`
    Tables(Option<String>),
    /// `SHOW TABLE STATUS [FROM database]`
    TableStatus(Option<String>),
    /// `SHOW ROLLUPS [FROM database]`
    Rollups(Option<String>),
    /// `SHOW TAG KEYS [FROM table]`
    TagKeys(Option<TableName>),
    /// `SHOW FIELD KEYS [FROM table]`
    FieldKeys(Option<TableName>),
    /// `SHOW TAG VALUES [FROM table] [WITH KEY = tag | WITH KEY IN (tag, ...)]`; no keys mean all.
    TagValues(Option<TableName>, Vec<String>),
    /// `DESCRIBE table`, `SHOW COLUMNS FROM table`
    Columns(TableName),
}

/// A table, in the query's database unless another is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableName {
    pub(crate) database: Option<String>,
    pub(crate) table: String,
}

/// Reads one statement.
///
/// # Errors
/// `invalid` when it is not SQL, is more than one statement, or would write.
pub(crate) fn parse(sql: &str) -> Result<Statement> {
    if let Some(show) = parse_show(sql)? {
        return Ok(Statement::Show(show));
    }
    let sql = past::rewrite(sql)?;
    let mut parser = DFParserBuilder::new(&*sql).with_recursion_limit(NESTING_MAX).build()?;
    let mut parsed = parser.parse_statements()?;
    let (Some(mut statement), None) = (parsed.pop_front(), parsed.pop_front()) else {
        return Err(Error::invalid("a request holds exactly one statement"));
    };
    check_reads(&statement)?;
    rewrite_joins(&mut statement)?;
    Ok(Statement::Query(Box::new(statement)))
}

fn check_reads(statement: &Parsed) -> Result<()> {
    match statement {
        Parsed::Explain(explain) => check_reads(&explain.statement),
        Parsed::Statement(sql) => match sql.as_ref() {
            Sql::Query(_) | Sql::Explain { .. } | Sql::ShowFunctions { .. } => Ok(()),
            other => Err(refused(&other.to_string())),
        },
        other => Err(refused(&other.to_string())),
    }
}

/// DataFusion plans no ASOF JOIN, so that its words are replaced before.
fn rewrite_joins(statement: &mut Parsed) -> Result<()> {
    match statement {
        Parsed::Explain(explain) => rewrite_joins(&mut explain.statement),
        Parsed::Statement(sql) => asof::rewrite(sql),
        _ => Ok(()),
    }
}

fn refused(statement: &str) -> Error {
    let word = statement.split_whitespace().next().unwrap_or_default().to_uppercase();
    Error::invalid(format!(
        "{word} is not supported: queries only read (SELECT, EXPLAIN, SHOW, DESCRIBE); rows are written through /write; DELETE, DROP, UNDO and RESUME stand alone, in a POST"
    ))
}

/// `None` when the statement is none of Weir's own.
fn parse_show(sql: &str) -> Result<Option<Show>> {
    let Some(mut words) = Words::beginning_with(sql, &["SHOW", "DESCRIBE", "DESC"])? else {
        return Ok(None);
    };
    let show = if words.take("SHOW") { show(&mut words)? } else { describe(&mut words)? };
    if show.is_some() {
        words.end()?;
    }
    Ok(show)
}

fn describe(words: &mut Words) -> Result<Option<Show>> {
    words.next += 1;
    words.take("TABLE");
    Ok(Some(Show::Columns(words.table()?)))
}

fn show(words: &mut Words) -> Result<Option<Show>> {
    if words.take("DATABASES") {
        return Ok(Some(Show::Databases));
    }
    if words.take("TABLES") || words.take("MEASUREMENTS") {
        let named = words.take("FROM") || words.take("IN");
        return Ok(Some(Show::Tables(if named { Some(words.name()?) } else { None })));
    }
    if words.take_both("TABLE", "STATUS") {
        let named = words.take("FROM") || words.take("IN");
        return Ok(Some(Show::TableStatus(if named { Some(words.name()?) } else { None })));
    }
    if words.take("ROLLUPS") {
        let named = words.take("FROM") || words.take("IN");
        return Ok(Some(Show::Rollups(if named { Some(words.name()?) } else { None })));
    }
    if words.take("COLUMNS") {
        if !(words.take("FROM") || words.take("IN")) {
            return Err(Error::invalid("SHOW COLUMNS needs FROM and a table"));
        }
        return Ok(Some(Show::Columns(words.table()?)));
    }
    if words.take_both("TAG", "KEYS") {
        return Ok(Some(Show::TagKeys(words.from()?)));
    }
    if words.take_both("FIELD", "KEYS") {
        return Ok(Some(Show::FieldKeys(words.from()?)));
    }
    if words.take_both("TAG", "VALUES") {
        let table = words.from()?;
        return Ok(Some(Show::TagValues(table, words.with_key()?)));
    }
    Ok(None)
}

/// The tokens of a statement, read one after the other.
pub(crate) struct Words {
    tokens: Vec<Token>,
    next: usize,
}

impl Words {
    /// Those of a statement that begins with one of `first`; `None` when it begins otherwise.
    pub(crate) fn beginning_with(sql: &str, first: &[&str]) -> Result<Option<Self>> {
        let plain = sql.trim_start().split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
        let commented = sql.trim_start().starts_with(['-', '/']);
        if !commented && !first.iter().any(|word| plain.eq_ignore_ascii_case(word)) {
            return Ok(None);
        }
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize();
        let tokens = tokens.map_err(|error| Error::invalid(error.to_string()))?;
        let meant = |token: &Token| !matches!(token, Token::Whitespace(_) | Token::SemiColon);
        let words = Self { tokens: tokens.into_iter().filter(meant).collect(), next: 0 };
        Ok(first.iter().any(|word| words.is(0, word)).then_some(words))
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<()> {
        match self.tokens.get(self.next) {
            Some(token) => Err(Error::invalid(format!("unexpected '{token}'"))),
            None => Ok(()),
        }
    }

    pub(crate) fn is(&self, ahead: usize, word: &str) -> bool {
        matches!(self.tokens.get(self.next + ahead), Some(Token::Word(found)) if found.value.eq_ignore_ascii_case(word))
    }

    pub(crate) fn take(&mut self, word: &str) -> bool {
        let taken = self.is(0, word);
        self.next += usize::from(taken);
        taken
    }

    pub(crate) fn take_both(&mut self, first: &str, second: &str) -> bool {
        let taken = self.is(0, first) && self.is(1, second);
        self.next += 2 * usize::from(taken);
        taken
    }

    pub(crate) fn take_token(&mut self, token: &Token) -> bool {
        let taken = self.tokens.get(self.next) == Some(token);
        self.next += usize::from(taken);
        taken
    }

    pub(crate) fn name(&mut self) -> Result<String> {
        let token = self.tokens.get(self.next);
        let name = match token {
            Some(Token::Word(word)) => word.value.clone(),
            Some(Token::SingleQuotedString(text) | Token::DoubleQuotedString(text)) => text.clone(),
            Some(other) => return Err(Error::invalid(format!("expected a name, found '{other}'"))),
            None => return Err(Error::invalid("expected a name at the end")),
        };
        self.next += 1;
        Ok(name)
    }

    fn table(&mut self) -> Result<TableName> {
        let first = self.name()?;
        if self.take_token(&Token::Period) {
            return Ok(TableName { database: Some(first), table: self.name()? });
        }
        Ok(TableName { database: None, table: first })
    }

    fn from(&mut self) -> Result<Option<TableName>> {
        if self.take("FROM") { self.table().map(Some) } else { Ok(None) }
    }

    fn with_key(&mut self) -> Result<Vec<String>> {
        if !self.take_both("WITH", "KEY") {
            return Ok(Vec::new());
        }
        if self.take_token(&Token::Eq) {
            return Ok(vec![self.name()?]);
        }
        if !(self.take("IN") && self.take_token(&Token::LParen)) {
            return Err(Error::invalid("expected '=' or 'IN (' after WITH KEY"));
        }
        let mut keys = vec![self.name()?];
        while self.take_token(&Token::Comma) {
            keys.push(self.name()?);
        }
        if !self.take_token(&Token::RParen) {
            return Err(Error::invalid("expected ')' after the keys"));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(sql: &str) -> Show {
        match parse(sql).unwrap() {
            Statement::Show(show) => show,
            Statement::Query(query) => panic!("not our own: {query}"),
        }
    }

    fn name(database: Option<&str>, table: &str) -> TableName {
        TableName { database: database.map(str::to_owned), table: table.to_owned() }
    }

    #[test]
    fn show_forms_are_read_and_names_keep_their_case() {
        assert_eq!(show("show databases;"), Show::Databases);
        assert_eq!(show("SHOW TABLES"), Show::Tables(None));
        assert_eq!(show("SHOW TABLES FROM \"my db\""), Show::Tables(Some("my db".to_owned())));
        assert_eq!(show("SHOW TABLE STATUS IN db"), Show::TableStatus(Some("db".to_owned())));
        assert_eq!(show("SHOW ROLLUPS FROM db"), Show::Rollups(Some("db".to_owned())));
        assert_eq!(show("Show Tag Keys From Cpu"), Show::TagKeys(Some(name(None, "Cpu"))));
        assert_eq!(show("SHOW FIELD KEYS"), Show::FieldKeys(None));
        assert_eq!(show("SHOW TAG VALUES FROM db.\"a b\" WITH KEY = host"), {
            Show::TagValues(Some(name(Some("db"), "a b")), vec!["host".to_owned()])
        });
        assert_eq!(show("SHOW TAG VALUES WITH KEY IN (a, \"B\")"), {
            Show::TagValues(None, vec!["a".to_owned(), "B".to_owned()])
        });
        for sql in ["DESCRIBE cpu", "desc cpu", "DESCRIBE TABLE cpu", "SHOW COLUMNS FROM cpu"] {
            assert_eq!(show(sql), Show::Columns(name(None, "cpu")), "{sql}");
        }
    }

    #[test]
    fn what_writes_or_is_no_single_statement_is_refused() {
        for (sql, message) in [
            ("DROP TABLE cpu", "DROP is not supported"),
            ("INSERT INTO cpu VALUES (1)", "INSERT is not supported"),
            ("EXPLAIN DELETE FROM cpu", "DELETE is not supported"),
            ("COPY cpu TO 'x.csv'", "COPY is not supported"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "CREATE is not supported"),
            ("SET datafusion.execution.batch_size = 1", "SET is not supported"),
            ("SELECT 1; SELECT 2", "exactly one statement"),
            ("", "exactly one statement"),
            ("SHOW TAG KEYS FROM", "expected a name at the end"),
            ("SHOW TABLES nonsense", "unexpected 'nonsense'"),
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.kind(), weir_base::Kind::Invalid);
            assert!(error.to_string().contains(message), "{sql}: {error}");
        }
    }
}
