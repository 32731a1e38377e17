//! Names of namespaces: the one place that decides what may become a folder.

use crate::error::{Error, Result};

/// Longest name of a namespace, bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A checked namespace name; see `docs/formats/cache.md` for the rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(String);

impl Namespace {
    /// Checks `name`.
    ///
    /// # Errors
    /// `Invalid`, naming the rule that it breaks.
    pub fn new(name: &str) -> Result<Self> {
        let refuse = |rule: &str| Err(Error::invalid(format!("namespace {name:?} {rule}")));
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return refuse("must have 1 to 64 bytes");
        }
        if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
            return refuse(&format!("contains {bad:?}; use a-z, 0-9, '.', '_' and '-'"));
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return refuse("must begin with a letter or digit");
        }
        if name.ends_with('.') {
            return refuse("must not end with a dot");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_folder_or_meet_another_name() {
        for good in ["default", "dev-al", "dev-alice", "a", "0", "feature.x_1", &"n".repeat(64)] {
            assert_eq!(Namespace::new(good).unwrap().as_str(), good);
        }
        let bad =
            ["", ".", "..", "../x", "a/b", "a\0b", "Dev", "é", "-x", ".hidden", "a.", "a b", "a\\b", &"n".repeat(65)];
        for name in bad {
            assert!(Namespace::new(name).is_err(), "{name:?}");
        }
    }
}
