//! SPDX licence expressions: parsing, normal form and evaluation (SPDX 2.3, annex D; PEP 639).
//!
//! Precedence is `WITH`, then `AND`, then `OR`. Identifiers match without regard to case and are printed in the case of
//! the SPDX list; deprecated identifiers are mapped to their successors with a notice. An identifier outside the list
//! is an error unless it is a `LicenseRef-`: a misspelt licence must not pass as an exotic one.

use std::fmt;

/// Longest expression that is parsed, bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4096;
const DEPTH_MAX: usize = 64;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// One licence, perhaps with an exception.
    License(License),
    /// All of them apply at once.
    And(Vec<Expression>),
    /// The licensee chooses one.
    Or(Vec<Expression>),
}

/// A licence identifier with its exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// SPDX identifier in its official case, or a `LicenseRef-`. `+` stays where SPDX has no successor for it.
    pub id: String,
    /// The identifier after `WITH`.
    pub exception: Option<String>,
}

impl fmt::Display for License {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        match &self.exception {
            Some(exception) => write!(f, " WITH {exception}"),
            None => Ok(()),
        }
    }
}

/// An expression and what had to be changed to make it official.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The expression.
    pub expression: Expression,
    /// Deprecated identifiers that were replaced: (old, new).
    pub replaced: Vec<(String, String)>,
}

/// Parses an expression. The error is a short sentence without a full stop.
pub fn parse(text: &str) -> Result<Parsed, String> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(format!("the expression is longer than {EXPRESSION_BYTES_MAX} bytes"));
    }
    let tokens: Vec<&str> = tokens(text);
    let mut parser = Parser { tokens: &tokens, at: 0, replaced: Vec::new() };
    let expression = parser.or(0)?;
    match parser.peek() {
        None => Ok(Parsed { expression, replaced: parser.replaced }),
        Some(token) => Err(format!("unexpected '{}'", crate::name::printable(token))),
    }
}

fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for word in text.split_ascii_whitespace() {
        let mut start = 0;
        for (at, byte) in word.bytes().enumerate() {
            if byte == b'(' || byte == b')' {
                if start < at {
                    tokens.push(&word[start..at]);
                }
                tokens.push(&word[at..=at]);
                start = at + 1;
            }
        }
        if start < word.len() {
            tokens.push(&word[start..]);
        }
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    at: usize,
    replaced: Vec<(String, String)>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn or(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.and(depth)?];
        while self.take("OR") {
            parts.push(self.and(depth)?);
        }
        Ok(join(parts, Expression::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.atom(depth)?];
        while self.take("AND") {
            parts.push(self.atom(depth)?);
        }
        Ok(join(parts, Expression::And))
    }

    fn atom(&mut self, depth: usize) -> Result<Expression, String> {
        if depth > DEPTH_MAX {
            return Err(format!("parentheses nest deeper than {DEPTH_MAX}"));
        }
        if self.take("(") {
            let inner = self.or(depth + 1)?;
            return if self.take(")") { Ok(inner) } else { Err("a parenthesis is not closed".into()) };
        }
        let token = self.peek().ok_or("the expression ends early")?;
        if token == ")" || ["AND", "OR", "WITH"].iter().any(|word| token.eq_ignore_ascii_case(word)) {
            return Err(format!("unexpected '{token}'"));
        }
        self.at += 1;
        let exception = if self.take("WITH") {
            let token = self.peek().ok_or("nothing follows WITH")?;
            self.at += 1;
            Some(exception_id(token).ok_or_else(|| unknown("exception", token))?)
        } else {
            None
        };
        let (mut id, old) = license_id(token).ok_or_else(|| unknown("licence", token))?;
        let mut exception = exception;
        if let Some((base, with)) = id.split_once(" WITH ") {
            exception = exception.or_else(|| Some(with.to_owned()));
            id = base.to_owned();
        }
        if let Some(old) = old {
            self.replaced.push((old, id.clone()));
        }
        Ok(Expression::License(License { id, exception }))
    }
}

fn unknown(what: &str, token: &str) -> String {
    format!("'{}' is not an SPDX {what} identifier", crate::name::printable(token))
}

fn join(mut parts: Vec<Expression>, make: fn(Vec<Expression>) -> Expression) -> Expression {
    if parts.len() == 1 { parts.remove(0) } else { make(parts) }
}

/// The official spelling of an identifier, and the deprecated one that it replaces.
fn license_id(token: &str) -> Option<(String, Option<String>)> {
    if is_reference(token) {
        return Some((token.to_owned(), None));
    }
    let (base, plus) = token.strip_suffix('+').map_or((token, false), |base| (base, true));
    let Some(found) = find_license(base) else {
        let name = super::newer::license(base)?;
        return Some((if plus { format!("{name}+") } else { name.to_owned() }, None));
    };
    let name = found.name;
    if found.is_deprecated()
        && let Some(new) = successor(name, plus)
    {
        return Some((new, Some(if plus { format!("{name}+") } else { name.to_owned() })));
    }
    if plus && found.is_gnu() {
        let base = name.strip_suffix("-only").unwrap_or(name);
        return Some((if base.ends_with("-or-later") { base.into() } else { format!("{base}-or-later") }, None));
    }
    Some((if plus { format!("{name}+") } else { name.to_owned() }, None))
}

fn is_reference(token: &str) -> bool {
    let rest = match token.split_once(':') {
        Some((document, rest)) if document.starts_with("DocumentRef-") => rest,
        _ => token,
    };
    rest.len() > 11
        && rest.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("LicenseRef-"))
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

fn find_license(name: &str) -> Option<spdx::LicenseId> {
    spdx::license_id(name).filter(|id| id.name == name).or_else(|| {
        static FOLDED: std::sync::OnceLock<std::collections::HashMap<String, &'static str>> =
            std::sync::OnceLock::new();
        let folded = FOLDED.get_or_init(|| {
            spdx::identifiers::LICENSES.iter().map(|one| (one.name.to_ascii_lowercase(), one.name)).collect()
        });
        folded.get(&name.to_ascii_lowercase()).and_then(|official| spdx::license_id(official))
    })
}

fn exception_id(name: &str) -> Option<String> {
    if name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("AdditionRef-")) {
        return Some(name.to_owned());
    }
    spdx::identifiers::EXCEPTIONS
        .iter()
        .find(|known| known.name.eq_ignore_ascii_case(name))
        .map(|known| known.name)
        .or_else(|| super::newer::exception(name))
        .map(str::to_owned)
}

/// What SPDX says to use instead of a deprecated identifier.
fn successor(name: &str, plus: bool) -> Option<String> {
    const FIXED: &[(&str, &str)] = &[
        ("BSD-2-Clause-FreeBSD", "BSD-2-Clause-Views"),
        ("BSD-2-Clause-NetBSD", "BSD-2-Clause"),
        ("bzip2-1.0.5", "bzip2-1.0.6"),
        ("eCos-2.0", "GPL-2.0-or-later WITH eCos-exception-2.0"),
        ("GPL-2.0-with-autoconf-exception", "GPL-2.0-only WITH Autoconf-exception-2.0"),
        ("GPL-2.0-with-bison-exception", "GPL-2.0-only WITH Bison-exception-2.2"),
        ("GPL-2.0-with-classpath-exception", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("GPL-2.0-with-font-exception", "GPL-2.0-only WITH Font-exception-2.0"),
        ("GPL-2.0-with-GCC-exception", "GPL-2.0-only WITH GCC-exception-2.0"),
        ("GPL-3.0-with-autoconf-exception", "GPL-3.0-only WITH Autoconf-exception-3.0"),
        ("GPL-3.0-with-GCC-exception", "GPL-3.0-only WITH GCC-exception-3.1"),
        ("Nunit", "zlib-acknowledgement"),
        ("StandardML-NJ", "SMLNJ"),
        ("wxWindows", "LGPL-2.0-or-later WITH WxWindows-exception-3.1"),
    ];
    if let Some((_, new)) = FIXED.iter().find(|(old, _)| *old == name) {
        return Some((*new).to_owned());
    }
    let base = name.strip_suffix('+').unwrap_or(name);
    let family = ["GPL-", "LGPL-", "AGPL-", "GFDL-"].iter().any(|family| base.starts_with(family));
    family.then(|| format!("{base}{}", if plus || name.ends_with('+') { "-or-later" } else { "-only" }))
}

impl Expression {
    /// One licence without an exception. The identifier must be official already.
    pub fn of(id: &str) -> Self {
        Expression::License(License { id: id.to_owned(), exception: None })
    }

    /// Every licence that is named, in the order of the text.
    pub fn licenses(&self) -> Vec<&License> {
        let mut found = Vec::new();
        self.collect(&mut found);
        found
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a License>) {
        match self {
            Expression::License(license) => found.push(license),
            Expression::And(parts) | Expression::Or(parts) => parts.iter().for_each(|part| part.collect(found)),
        }
    }

    /// Evaluates with a value per licence: `AND` takes the worst (greatest), `OR` the best (least).
    pub fn evaluate<T: Ord>(&self, class: &impl Fn(&License) -> T) -> T {
        match self {
            Expression::License(license) => class(license),
            Expression::And(parts) => parts.iter().map(|part| part.evaluate(class)).max().expect("AND has parts"),
            Expression::Or(parts) => parts.iter().map(|part| part.evaluate(class)).min().expect("OR has parts"),
        }
    }

    /// Whether both name the same set of licences, whatever the operators.
    pub fn same_licenses(&self, other: &Self) -> bool {
        let set = |expression: &Self| {
            expression.licenses().iter().map(|license| license.to_string()).collect::<std::collections::BTreeSet<_>>()
        };
        set(self) == set(other)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, word) = match self {
            Expression::License(license) => return license.fmt(f),
            Expression::And(parts) => (parts, " AND "),
            Expression::Or(parts) => (parts, " OR "),
        };
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                f.write_str(word)?;
            }
            match (self, part) {
                (Expression::And(_), Expression::Or(_)) => write!(f, "({part})")?,
                _ => part.fmt(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_parse_to_their_normal_form() {
        for (text, normal) in [
            ("mit", "MIT"),
            ("MIT OR Apache-2.0 AND BSD-3-Clause", "MIT OR Apache-2.0 AND BSD-3-Clause"),
            ("MPL-2.0 AND (Apache-2.0 OR MIT)", "MPL-2.0 AND (Apache-2.0 OR MIT)"),
            ("(mit or (apache-2.0))", "MIT OR Apache-2.0"),
            ("GPL-2.0-or-later WITH Bootloader-exception", "GPL-2.0-or-later WITH Bootloader-exception"),
            ("LicenseRef-Acme AND MIT", "LicenseRef-Acme AND MIT"),
            ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
            ("EPL-1.0+", "EPL-1.0+"),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.expression.to_string(), normal);
            assert!(parsed.replaced.is_empty(), "{text}");
            assert_eq!(parse(normal).unwrap().expression, parsed.expression);
        }
    }

    #[test]
    fn deprecated_identifiers_are_mapped_with_a_notice() {
        for (text, normal) in [
            ("GPL-2.0", "GPL-2.0-only"),
            ("GPL-3.0+", "GPL-3.0-or-later"),
            ("LGPL-2.1", "LGPL-2.1-only"),
            ("AGPL-3.0", "AGPL-3.0-only"),
            ("GPL-2.0-with-classpath-exception", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed.expression.to_string(), normal, "{text}");
            assert_eq!(parsed.replaced.len(), 1, "{text}");
        }
    }

    #[test]
    fn what_is_not_an_expression_is_refused() {
        for text in [
            "",
            "BSD",
            "Apache 2.0",
            "MIT AND",
            "OR MIT",
            "(MIT",
            "MIT)",
            "MIT MIT",
            "MIT WITH",
            "MIT WITH MIT",
            "permitted",
            "MIT, Apache-2.0",
            "MIT/Apache-2.0",
            "LicenseRef-",
            "UNKNOWN",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"(".repeat(4000)).is_err());
        assert!(parse(&format!("{}MIT{}", "(".repeat(100), ")".repeat(100))).unwrap_err().contains("nest"));
        assert!(parse(&"MIT AND ".repeat(600)).unwrap_err().contains("longer"));
    }

    #[test]
    fn and_takes_the_worst_and_or_the_best() {
        let class = |license: &License| match license.id.as_str() {
            "MIT" | "Apache-2.0" => 0,
            "MPL-2.0" => 1,
            _ => 2,
        };
        for (text, value) in [
            ("MPL-2.0 AND (Apache-2.0 OR MIT)", 1),
            ("MIT OR GPL-3.0-only", 0),
            ("MIT AND GPL-3.0-only", 2),
            ("GPL-3.0-only OR MPL-2.0 AND MIT", 1),
        ] {
            assert_eq!(parse(text).unwrap().expression.evaluate(&class), value, "{text}");
        }
    }
}
