//! A report in the formats that people and tools read. Each writer is a function from a report to text.

pub mod bill;
pub mod diff;
pub mod json;
pub mod markdown;
pub mod notice;
pub mod page;
pub mod pipeline;
pub mod sarif;
pub mod table;

/// Text for XML and HTML, in content and in quoted attributes. Characters that XML 1.0 forbids become `?`.
pub(crate) fn escape_markup(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A path as a URI reference: relative as it is, absolute as `file://`.
pub(crate) fn uri(path: &str) -> String {
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' | b'+' | b'@' => {
                uri.push(char::from(byte))
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

/// The package URL (purl) of a package.
pub(crate) fn package_url(package: &crate::check::Judged) -> String {
    let kind = match package.ecosystem {
        crate::package::Ecosystem::Pypi => "pypi",
        crate::package::Ecosystem::Cargo => "cargo",
        crate::package::Ecosystem::Npm => "npm",
    };
    let encode = |text: &str| text.replace('@', "%40").replace('+', "%2B").replace('!', "%21");
    let version = if package.version.is_empty() { String::new() } else { format!("@{}", encode(&package.version)) };
    format!("pkg:{kind}/{}{version}", encode(&package.name))
}

/// A time as RFC 3339 in UTC, to the second.
pub(crate) fn instant(time: weir_base::Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time))
        .map_or_else(|_| "1970-01-01T00:00:00Z".into(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
