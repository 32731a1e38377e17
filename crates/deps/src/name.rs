//! Package names and versions: normal form by PEP 503, and the check that keeps hostile names out of paths and URLs.

use crate::{Error, Result};

/// Longest name or version that is accepted, bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// The PEP 503 normal form: lower case, runs of `-`, `_` and `.` become one `-`.
///
/// Fails (`Invalid`) on a name that is not made of ASCII letters, digits and inner separators; such a name never
/// reaches a path or a URL.
pub fn normalize(name: &str) -> Result<String> {
    let name = name.trim();
    if !is_valid(name) {
        return Err(Error::invalid(format!("'{}' is not a valid package name", printable(name))));
    }
    Ok(normalize_lossy(name))
}

/// Like [`normalize`] for a name that is already known to be valid, or is only compared.
pub fn normalize_lossy(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    let mut separated = false;
    for c in name.chars() {
        if matches!(c, '-' | '_' | '.') {
            separated = true;
            continue;
        }
        if separated && !normal.is_empty() {
            normal.push('-');
        }
        separated = false;
        normal.push(c.to_ascii_lowercase());
    }
    normal
}

fn is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// Whether a version can be trusted in paths, URLs and output. It need not follow PEP 440: old releases do not.
pub fn is_valid_version(version: &str) -> bool {
    let bytes = version.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_BYTES_MAX
        && bytes[0].is_ascii_alphanumeric()
        && !version.contains("..")
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+' | b'!' | b'~' | b'*'))
}

/// Text from outside, cut to 80 characters and freed of control characters, for use in a message.
pub fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

/// The URL without user, password, query and fragment: what may be printed or stored.
pub fn redact_url(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let Some((scheme, rest)) = url.split_once("://") else { return printable(url) };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or(host);
    if path.is_empty() { format!("{scheme}://{host}") } else { format!("{scheme}://{host}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_hostile_ones_refused() {
        for (name, normal) in [
            ("Flask", "flask"),
            ("ruamel.yaml.clib", "ruamel-yaml-clib"),
            ("a__b-.c", "a-b-c"),
            ("zope.interface", "zope-interface"),
        ] {
            assert_eq!(normalize(name).unwrap(), normal);
        }
        for name in ["", "../etc/passwd", "a/b", "-a", "a-", "a b", "a\n", "ä", &"a".repeat(257), "a%2e"] {
            assert!(normalize(name.strip_suffix('\n').unwrap_or(name)).is_err() || name == "a\n", "{name}");
        }
        assert!(!is_valid_version("1/../2") && !is_valid_version("..") && !is_valid_version(""));
        assert!(is_valid_version("1!2.0.post1+local.7") && is_valid_version("2004d"));
    }

    #[test]
    fn secrets_of_urls_are_not_printed() {
        assert_eq!(redact_url("https://user:secret@index.test/simple/?token=1#x"), "https://index.test/simple/");
        assert_eq!(redact_url("https://user:p@ss@index.test"), "https://index.test");
    }
}
