//! Finds the ends of SQL statements: a semicolon outside of quotes and comments.

/// The statements of `text` that are complete, and the rest after the last semicolon.
pub(crate) fn statements(text: &str) -> (Vec<&str>, &str) {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(end) = statement_end(&text[start..]) {
        let statement = text[start..start + end].trim();
        if !is_blank(statement) {
            found.push(statement);
        }
        start += end + 1;
    }
    (found, &text[start..])
}

/// Whether there is nothing but space and comments.
pub(crate) fn is_blank(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match comment_end(bytes, at) {
            Some(end) => at = end,
            None if bytes[at].is_ascii_whitespace() || bytes[at] == b';' => at += 1,
            None => return false,
        }
    }
    true
}

/// Where the first statement's semicolon is.
fn statement_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(end) = comment_end(bytes, at) {
            at = end;
            continue;
        }
        match bytes[at] {
            b';' => return Some(at),
            // A doubled quote is an escaped one: leaving and entering the quotes again gives the same end.
            quote @ (b'\'' | b'"') => at += 2 + memchr::memchr(quote, &bytes[at + 1..])?,
            _ => at += 1,
        }
    }
    None
}

/// The end of a comment that begins at `at`; that of the text when it is not closed.
fn comment_end(bytes: &[u8], at: usize) -> Option<usize> {
    let find = |end: &[u8]| {
        memchr::memmem::find(&bytes[at + 2..], end).map_or(bytes.len(), |found| at + 2 + found + end.len())
    };
    match bytes.get(at..at + 2)? {
        b"--" => Some(find(b"\n")),
        b"/*" => Some(find(b"*/")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_end_statements_except_in_quotes_and_comments() {
        for (text, complete, rest) in [
            ("select 1; select 2;", vec!["select 1", "select 2"], ""),
            ("select ';'; x", vec!["select ';'"], " x"),
            ("select 'it''s;' from \"a;b\";", vec!["select 'it''s;' from \"a;b\""], ""),
            ("-- no; not here\nselect 1;", vec!["-- no; not here\nselect 1"], ""),
            ("/* ; */ select 1;;;", vec!["/* ; */ select 1"], ""),
            ("select 'open;", vec![], "select 'open;"),
            ("select /* open;", vec![], "select /* open;"),
        ] {
            assert_eq!(statements(text), (complete, rest), "{text}");
        }
        assert!(is_blank("  -- only words\n /* and */ ;"));
        assert!(!is_blank("-- x\n1"));
    }
}
