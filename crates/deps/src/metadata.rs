//! Core metadata (`METADATA`, `PKG-INFO`): the few header fields that a check needs, read without the description.
//!
//! The format is that of e-mail headers; a value goes on in lines that start with a space or a tab. What is not
//! understood is skipped, and what breaks the format is a [`Problem`] with its line, never a refusal of the rest.

use serde::{Deserialize, Serialize};

/// Largest header block that is read, bytes. The largest seen in the wild is below 100 KiB (scipy).
pub const HEADER_BYTES_MAX: usize = 1 << 20;
/// Most values of one repeated field.
const VALUES_MAX: usize = 10_000;

/// The fields of one package.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// `Name` as written.
    pub name: String,
    /// `Version` as written.
    pub version: String,
    /// `License-Expression` (PEP 639).
    pub license_expression: Option<String>,
    /// `License`, all lines, with the continuation marks removed.
    pub license: Option<String>,
    /// `Classifier` values that start with `License ::`, without that start.
    pub license_classifiers: Vec<String>,
    /// `License-File` values.
    pub license_files: Vec<String>,
    /// `Requires-Dist` values.
    pub requires: Vec<String>,
    /// `Home-page`, or the first `Project-URL`.
    pub url: Option<String>,
    /// `Author` or `Author-email`.
    pub author: Option<String>,
    /// `Summary`.
    pub summary: Option<String>,
}

/// Something in a file that breaks its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from 1; 0 for the whole file.
    pub line: u32,
    /// What is wrong, lowercase, no full stop.
    pub message: String,
}

/// Bytes as text, with what is not UTF-8 replaced. Going through valid text is much faster than replacing.
pub(crate) fn text_of(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Into::into)
}

/// Reads a header block. Bytes that are not UTF-8 are replaced and reported.
pub fn parse(bytes: &[u8]) -> (Metadata, Vec<Problem>) {
    let mut problems = Vec::new();
    let text = text_of(bytes);
    if let std::borrow::Cow::Owned(_) = text {
        let line = bytes.utf8_chunks().next().map_or(0, |chunk| chunk.valid().matches('\n').count() + 1);
        problems.push(Problem { line: u32::try_from(line).unwrap_or(0), message: "bytes that are not UTF-8".into() });
    }
    let mut metadata = Metadata::default();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        if line.trim_end_matches('\r').is_empty() {
            break;
        }
        let at = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let Some((field, value)) = line.split_once(':').filter(|(field, _)| is_field_name(field)) else {
            if problems.len() < 16 {
                problems
                    .push(Problem { line: at, message: "a line that is neither a header nor its continuation".into() });
            }
            continue;
        };
        let continued = lines.peek().is_some_and(|(_, next)| next.starts_with([' ', '\t']));
        if !continued {
            metadata.set(field, value.trim());
            continue;
        }
        let mut whole = value.trim().to_owned();
        while let Some((_, next)) = lines.next_if(|(_, next)| next.starts_with([' ', '\t'])) {
            whole.push('\n');
            whole.push_str(next.trim_start_matches([' ', '\t']).trim_start_matches('|').trim_end());
        }
        metadata.set(field, &whole);
    }
    if metadata.name.is_empty() {
        problems.push(Problem { line: 1, message: "no Name field".into() });
    }
    if metadata.version.is_empty() {
        problems.push(Problem { line: 1, message: "no Version field".into() });
    }
    (metadata, problems)
}

fn is_field_name(field: &str) -> bool {
    !field.is_empty() && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl Metadata {
    fn set(&mut self, field: &str, value: &str) {
        // The usual spelling of the most frequent fields first: most lines are classifiers and requirements.
        if field.eq_ignore_ascii_case("classifier") {
            if let Some(rest) = value.strip_prefix("License ::") {
                push(&mut self.license_classifiers, rest.trim());
            }
        } else if field.eq_ignore_ascii_case("requires-dist") {
            push(&mut self.requires, value);
        } else if field.eq_ignore_ascii_case("license-file") {
            push(&mut self.license_files, value);
        } else if field.eq_ignore_ascii_case("name") {
            set_once(&mut self.name, value);
        } else if field.eq_ignore_ascii_case("version") {
            set_once(&mut self.version, value);
        } else if field.eq_ignore_ascii_case("license") {
            self.license.get_or_insert_with(|| value.to_owned());
        } else if field.eq_ignore_ascii_case("license-expression") {
            self.license_expression.get_or_insert_with(|| value.to_owned());
        } else if field.eq_ignore_ascii_case("summary") {
            self.summary.get_or_insert_with(|| value.to_owned());
        } else if field.eq_ignore_ascii_case("home-page") {
            self.url = Some(value.to_owned());
        } else if field.eq_ignore_ascii_case("project-url") {
            if let Some((_, url)) = value.split_once(',') {
                self.url.get_or_insert_with(|| url.trim().to_owned());
            }
        } else if field.eq_ignore_ascii_case("author") || field.eq_ignore_ascii_case("author-email") {
            self.author.get_or_insert_with(|| value.to_owned());
        }
    }
}

fn push(values: &mut Vec<String>, value: &str) {
    if values.len() < VALUES_MAX {
        values.push(value.to_owned());
    }
}

fn set_once(slot: &mut String, value: &str) {
    if slot.is_empty() {
        slot.push_str(value);
    }
}

/// Where the header block ends: the offset of the first empty line, or `None` when it is not in `bytes`.
pub fn header_end(bytes: &[u8]) -> Option<usize> {
    let lf = memchr::memmem::find(bytes, b"\n\n");
    let crlf = memchr::memmem::find(bytes, b"\n\r\n");
    match (lf, crlf) {
        (Some(a), Some(b)) => Some(a.min(b) + 1),
        (a, b) => a.or(b).map(|at| at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_the_description_is_not() {
        let text = "Metadata-Version: 2.1\nName: Some.Package\nVersion: 1.0\nLicense: first line\n        second\n        |third\n\
            Classifier: License :: OSI Approved :: MIT License\nClassifier: Topic :: Utilities\nLicense-File: LICENSE\n\
            Requires-Dist: idna>=2\n\nLicense: not this one\n";
        let (metadata, problems) = parse(text.as_bytes());
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(metadata.name, "Some.Package");
        assert_eq!(metadata.license.as_deref(), Some("first line\nsecond\nthird"));
        assert_eq!(metadata.license_classifiers, ["OSI Approved :: MIT License"]);
        assert_eq!(metadata.requires, ["idna>=2"]);
        assert_eq!(header_end(text.as_bytes()), text.find("\n\n").map(|at| at + 1));
    }

    #[test]
    fn a_broken_file_is_a_problem_with_its_line_and_the_rest_is_read() {
        let (metadata, problems) = parse(b"Name: x\nthis is no header\nVersion: 1\nLicense: MIT\n");
        assert_eq!(metadata.license.as_deref(), Some("MIT"));
        assert_eq!(
            problems,
            [Problem { line: 2, message: "a line that is neither a header nor its continuation".into() }]
        );
        let (_, problems) = parse(b"Name: x\nVersion: 1\nAuthor: \xff\n");
        assert_eq!(problems[0].line, 3);
        let (_, problems) = parse(b"");
        assert_eq!(problems.len(), 2);
    }
}
