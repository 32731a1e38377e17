//! Keys built from parts without collisions: every part is length-prefixed and carries its domain.

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Hashes parts into a key. `("a", "bc")` and `("ab", "c")` give different keys, and so do a file and an argument with the
/// same bytes.
///
/// ```
/// use weir_cache::KeyBuilder;
/// let key = |parts: &[&str]| parts.iter().fold(KeyBuilder::new("build"), |key, part| key.arg(part)).finish();
/// assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
/// ```
#[derive(Debug)]
pub struct KeyBuilder {
    hasher: blake3::Hasher,
    domain: String,
}

impl KeyBuilder {
    /// Starts a key of `domain`, such as the name of the tool.
    pub fn new(domain: &str) -> Self {
        let builder = Self { hasher: blake3::Hasher::new_derive_key("weir cache key 1"), domain: domain.to_owned() };
        builder.part("domain", domain.as_bytes())
    }

    /// Adds a part of a domain of the caller's choosing.
    pub fn part(mut self, domain: &str, bytes: &[u8]) -> Self {
        for piece in [domain.as_bytes(), bytes] {
            self.hasher.update(&(piece.len() as u64).to_le_bytes());
            self.hasher.update(piece);
        }
        self
    }

    /// Adds an argument.
    pub fn arg(self, text: &str) -> Self {
        self.part("arg", text.as_bytes())
    }

    /// Adds an environment variable; unset differs from empty.
    pub fn env(self, name: &str, value: Option<&[u8]>) -> Self {
        let with_name = self.part("env", name.as_bytes());
        match value {
            Some(value) => with_name.part("set", value),
            None => with_name.part("unset", b""),
        }
    }

    /// Adds a file by its name (as the caller wants it known) and the blake3 of its content.
    pub fn file(self, name: &str, content_hash: &[u8; 32]) -> Self {
        self.part("file", name.as_bytes()).part("content", content_hash)
    }

    /// The key: the domain, a colon, and 64 hexadecimal digits; so that a whole domain can be invalidated by prefix.
    pub fn finish(self) -> String {
        format!("{}:{}", self.domain, self.hasher.finalize().to_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        let new = || KeyBuilder::new("t");
        let keys = [
            new().finish(),
            new().arg("").finish(),
            new().arg("ab").finish(),
            new().arg("a").arg("b").finish(),
            new().env("ab", None).finish(),
            new().env("ab", Some(b"")).finish(),
            new().env("a", Some(b"b")).finish(),
            new().part("file", b"ab").finish(),
            new().file("ab", &[0; 32]).finish(),
            KeyBuilder::new("u").finish(),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(new().arg("x").finish(), new().arg("x").finish());
    }
}
