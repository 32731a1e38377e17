//! Measurement and tags of a series that the body did not have so far.
//!
//! Here tags are split, checked, sorted and brought into the canonical form of [`crate::series`]. When a line carries that
//! form already (no backslash, keys ascending) its bytes are taken as they are.

use std::borrow::Cow;

use memchr::memchr;

use super::Options;
use super::refusal::{Step, refuse, show};
use crate::series;

/// A tag's place in the head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    key: (u32, u32),
    value: (u32, u32),
}

/// A head taken apart. Kept between lines for its memory.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// The measurement is `head[..name_end]`.
    pub(super) name_end: usize,
    spans: Vec<Span>,
    escaped: bool,
}

/// The first unescaped `a` or `b` in `bytes` from `at` on.
fn find(a: u8, b: u8, bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let found = at + bytes.get(at..)?.iter().position(|&byte| byte == a || byte == b)?;
        if found == 0 || bytes[found - 1] != b'\\' {
            return Some(found);
        }
        at = found + 1;
    }
}

impl Split {
    /// Takes `head` apart: measurement and tags up to the space before the fields.
    pub(super) fn split(&mut self, head: &[u8], options: &Options) -> Step<()> {
        self.spans.clear();
        self.escaped = memchr(b'\\', head).is_some();
        self.name_end = find(b',', b',', head, 0).unwrap_or(head.len());
        if self.name_end == 0 {
            return refuse("the measurement is missing");
        }
        if self.name_end > options.name_bytes_max {
            return refuse(too_long("the measurement", options.name_bytes_max, "name_bytes_max"));
        }
        let mut at = self.name_end;
        while at < head.len() {
            let key = at + 1;
            let equals = match find(b'=', b',', head, key) {
                Some(equals) if head[equals] == b'=' => equals,
                other => {
                    return refuse(format!("tag '{}' has no value", show(&head[key..other.unwrap_or(head.len())])));
                }
            };
            let end = find(b',', b'=', head, equals + 1).unwrap_or(head.len());
            if head.get(end) == Some(&b'=') {
                return refuse(format!("the value of tag '{}' has an unescaped '='", show(&head[key..equals])));
            }
            check(&head[key..equals], &head[equals + 1..end], options)?;
            let span = |start, end| (start as u32, end as u32);
            self.spans.push(Span { key: span(key, equals), value: span(equals + 1, end) });
            at = end;
        }
        Ok(())
    }

    /// The tag keys as they stand, each as the bytes from the head.
    pub(super) fn keys<'a>(&'a self, head: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.spans.iter().map(|span| &head[span.key.0 as usize..span.key.1 as usize])
    }

    /// Appends the canonical key of the tags to `out`.
    pub(super) fn canonical(&self, head: &[u8], out: &mut Vec<u8>) -> Step<()> {
        if self.spans.is_empty() {
            return Ok(());
        }
        let text = |(start, end): (u32, u32)| &head[start as usize..end as usize];
        if !self.escaped && self.spans.windows(2).all(|pair| text(pair[0].key) < text(pair[1].key)) {
            out.extend_from_slice(&head[self.name_end + 1..]);
            return Ok(());
        }
        let mut tags: Vec<(Cow<'_, [u8]>, Cow<'_, [u8]>)> =
            self.spans.iter().map(|span| (unescape(text(span.key)), unescape(text(span.value)))).collect();
        tags.sort();
        if let Some(pair) = tags.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return refuse(format!("tag '{}' stands twice in the line", show(&pair[0].0)));
        }
        let tags: Vec<(&[u8], &[u8])> = tags.iter().map(|(key, value)| (&**key, &**value)).collect();
        series::encode(&tags, out);
        Ok(())
    }
}

fn check(key: &[u8], value: &[u8], options: &Options) -> Step<()> {
    if key.is_empty() {
        return refuse("a tag has no name");
    }
    if value.is_empty() {
        return refuse(format!("tag '{}' has an empty value", show(key)));
    }
    if key.len() > options.name_bytes_max {
        return refuse(too_long("a tag's name", options.name_bytes_max, "name_bytes_max"));
    }
    if value.len() > options.tag_value_bytes_max {
        let what = format!("the value of tag '{}'", show(key));
        return refuse(too_long(&what, options.tag_value_bytes_max, "tag_value_bytes_max"));
    }
    Ok(())
}

/// The message of a part past its limit.
pub(super) fn too_long(what: &str, max: usize, limit: &str) -> String {
    format!("{what} is longer than {max} bytes (limit {limit})")
}

/// Removes the backslash before `,`, `=` and space; every other backslash stands for itself.
pub(super) fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escapes = byte == b'\\' && matches!(bytes.peek(), Some(b',' | b'=' | b' '));
        if !escapes {
            out.push(byte);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_separators_can_be_escaped() {
        for (raw, text) in [
            ("plain", "plain"),
            (r"a\,b\=c\ d", "a,b=c d"),
            (r"a\b", r"a\b"),
            (r"a\\b", r"a\\b"),
            (r"a\\,b", r"a\,b"),
            (r"a\", r"a\"),
        ] {
            assert_eq!(unescape(raw.as_bytes()), text.as_bytes(), "{raw}");
        }
    }
}
