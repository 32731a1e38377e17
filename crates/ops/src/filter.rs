//! Which operations or entries are meant: `principal=alice,account=1111*`.

use std::str::FromStr;

use crate::operation::Entry;
use crate::{Error, Result};

/// Terms that must all hold; none holds for everything.
///
/// A term is `field=pattern`, where the field is a label or its beginning (`principal` also asks `principal_id`), or `key`; a
/// pattern without a field asks all of them. `*` stands for any characters; letters are compared without case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: Option<String>,
    pattern: String,
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut filter = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((field, pattern)) => filter.push(field.trim(), pattern.trim())?,
                None => filter.terms.push(Term { field: None, pattern: part.to_lowercase() }),
            }
        }
        Ok(filter)
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, term) in self.terms.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match &term.field {
                Some(field) => write!(f, "{comma}{field}={}", term.pattern)?,
                None => write!(f, "{comma}{}", term.pattern)?,
            }
        }
        Ok(())
    }
}

impl Filter {
    /// Adds a term.
    ///
    /// # Errors
    /// `Invalid` for an empty field or pattern.
    pub fn push(&mut self, field: &str, pattern: &str) -> Result<()> {
        if field.is_empty() || pattern.is_empty() {
            return Err(Error::invalid(format!("'{field}={pattern}' is not field=pattern")));
        }
        self.terms.push(Term { field: Some(field.to_lowercase()), pattern: pattern.to_lowercase() });
        Ok(())
    }

    /// Whether everything is meant.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an entry is meant.
    pub fn holds(&self, entry: &Entry) -> bool {
        let labels = || entry.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.terms.iter().all(|term| labels().chain([("key", entry.key.as_str())]).any(|label| term.holds(label)))
    }

    /// Whether one of these labels holds for each term.
    pub(crate) fn holds_for<'a>(&self, labels: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> bool {
        self.terms.iter().all(|term| labels.clone().any(|label| term.holds(label)))
    }
}

impl Term {
    fn holds(&self, (name, value): (&str, &str)) -> bool {
        self.field.as_ref().is_none_or(|field| name.starts_with(field.as_str())) && matches(&self.pattern, value)
    }
}

/// Whether `text` is what a lower-case `pattern` with `*` describes, ignoring ASCII case.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    let same = |a: &[u8], b: &[u8]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| *a == b.to_ascii_lowercase());
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return same(pattern, text) };
    if text.len() < star || !same(&pattern[..star], &text[..star]) {
        return false;
    }
    (pattern, text) = (&pattern[star + 1..], &text[star..]);
    while let Some(star) = pattern.iter().position(|byte| *byte == b'*') {
        let part = &pattern[..star];
        let found = (0..=text.len().saturating_sub(part.len()))
            .find(|at| text.len() >= at + part.len() && same(part, &text[*at..at + part.len()]));
        let Some(at) = found else { return false };
        (pattern, text) = (&pattern[star + 1..], &text[at + part.len()..]);
    }
    text.len() >= pattern.len() && same(pattern, &text[text.len() - pattern.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("alice", "Alice", true),
            ("alice", "alice2", false),
            ("al*", "alice", true),
            ("*", "", true),
            ("*ce", "alice", true),
            ("a*i*e", "alice", true),
            ("a*x*e", "alice", false),
            ("a*ce*", "alice", true),
            ("ab*b", "ab", false),
            ("11112222*", "111122223333", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn terms_ask_labels_and_their_kin() {
        let mut entry = Entry::new("USER/u-1/x", None, None);
        for (name, value) in [("principal", "Alice"), ("principal_id", "u-1"), ("account", "111122223333")] {
            entry.labels.insert(name.into(), value.into());
        }
        for (text, expected) in [
            ("", true),
            ("principal=alice", true),
            ("principal=u-1,account=1111*", true),
            ("principal=bob", false),
            ("account=alice", false),
            ("u-1", true),
            ("key=user/*", true),
            ("permission_set=*", false),
        ] {
            assert_eq!(text.parse::<Filter>().unwrap().holds(&entry), expected, "{text}");
        }
        assert!("=x".parse::<Filter>().is_err());
    }
}
