//! Measurement and tags of a series that the body did not have so far.
//!
//! Here tags are split, checked, sorted and brought into the canonical form of [`crate::series`]. When a line carries that
//! form already (no backslash, keys ascending) its bytes are taken as they are.

use std::borrow::Cow;

use memchr::memchr;

use super::refusal::{Step, refuse, show};
use super::{Options, scan};
use crate::series;

/// A tag's place in the head: `head[start..equals]` is its key, `head[equals + 1..end]` its value.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    equals: u32,
    end: u32,
}

/// The tag keys of a new series and their order by bytes. The next new series mostly has the same; then its tags need
/// neither be checked nor sorted.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// Each key and `=`.
    keys: Vec<u8>,
    /// Numbers of the tags, ascending by key.
    order: Vec<u32>,
}

/// A head taken apart. Kept between lines for its memory.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// The measurement is `head[..name_end]`.
    pub(super) name_end: usize,
    spans: Vec<Span>,
    escaped: bool,
    order: Vec<u32>,
}

/// The first unescaped `a` or `b` in `bytes` from `at` on, or the end.
#[inline]
fn find(a: u8, b: u8, bytes: &[u8], mut at: usize, escaped: bool) -> usize {
    loop {
        let found = scan::find(a, b, bytes, at);
        if !escaped || found == bytes.len() || bytes[found - 1] != b'\\' {
            return found;
        }
        at = found + 1;
    }
}

impl Split {
    /// Takes `head` apart: measurement and tags up to the space before the fields.
    pub(super) fn split(&mut self, head: &[u8], options: &Options) -> Step<()> {
        self.spans.clear();
        self.escaped = memchr(b'\\', head).is_some();
        if head.first() == Some(&b',') {
            return refuse("the measurement is missing");
        }
        self.name_end = find(b',', b',', head, 0, self.escaped);
        if self.name_end > options.name_bytes_max {
            return refuse(too_long("the measurement", options.name_bytes_max, "name_bytes_max"));
        }
        let mut at = self.name_end;
        while at < head.len() {
            let start = at + 1;
            let equals = find(b'=', b',', head, start, self.escaped);
            if head.get(equals) != Some(&b'=') {
                return refuse(format!("tag '{}' has no value", show(&head[start..equals])));
            }
            let end = find(b',', b'=', head, equals + 1, self.escaped);
            if head.get(end) == Some(&b'=') {
                return refuse(format!("the value of tag '{}' has an unescaped '='", show(&head[start..equals])));
            }
            check(&head[start..equals], &head[equals + 1..end], options)?;
            self.spans.push(Span { start: start as u32, equals: equals as u32, end: end as u32 });
            at = end;
        }
        Ok(())
    }

    /// The tag keys as they stand.
    pub(super) fn keys<'a>(&'a self, head: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.spans.iter().map(|span| &head[span.start as usize..span.equals as usize])
    }

    /// Whether the tag keys are those of `shape`.
    pub(super) fn has_shape(&self, head: &[u8], shape: &Shape) -> bool {
        let mut rest = shape.keys.as_slice();
        !self.escaped
            && self.spans.len() == shape.order.len()
            && self.spans.iter().all(|span| {
                let key = &head[span.start as usize..=span.equals as usize];
                rest.strip_prefix(key).map(|after| rest = after).is_some()
            })
    }

    /// Keeps the tag keys for [`Split::has_shape`].
    pub(super) fn keep_shape(&self, head: &[u8], shape: &mut Shape) {
        shape.clear();
        if !self.escaped {
            for span in &self.spans {
                shape.keys.extend_from_slice(&head[span.start as usize..=span.equals as usize]);
            }
            shape.order.extend_from_slice(&self.order);
        }
    }

    /// Appends the canonical key of tags that have `shape` to `out`.
    pub(super) fn canonical_as(&self, head: &[u8], shape: &Shape, out: &mut Vec<u8>) {
        join(head, &self.spans, &shape.order, out);
    }

    /// Appends the canonical key of the tags to `out`.
    pub(super) fn canonical(&mut self, head: &[u8], out: &mut Vec<u8>) -> Step<()> {
        if self.escaped {
            return self.canonical_escaped(head, out);
        }
        let key = |number: u32| {
            let span = &self.spans[number as usize];
            &head[span.start as usize..span.equals as usize]
        };
        self.order.clear();
        self.order.extend(0..self.spans.len() as u32);
        self.order.sort_by_key(|&number| key(number));
        if let Some(pair) = self.order.windows(2).find(|pair| key(pair[0]) == key(pair[1])) {
            return refuse(format!("tag '{}' stands twice in the line", show(key(pair[0]))));
        }
        join(head, &self.spans, &self.order, out);
        Ok(())
    }

    fn canonical_escaped(&self, head: &[u8], out: &mut Vec<u8>) -> Step<()> {
        let text = |start, end| unescape(&head[start as usize..end as usize]);
        let mut tags: Vec<(Cow<'_, [u8]>, Cow<'_, [u8]>)> =
            self.spans.iter().map(|span| (text(span.start, span.equals), text(span.equals + 1, span.end))).collect();
        tags.sort();
        if let Some(pair) = tags.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return refuse(format!("tag '{}' stands twice in the line", show(&pair[0].0)));
        }
        let tags: Vec<(&[u8], &[u8])> = tags.iter().map(|(key, value)| (&**key, &**value)).collect();
        series::encode(&tags, out);
        Ok(())
    }
}

impl Shape {
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.order.clear();
    }

    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity() + self.order.capacity() * 4
    }
}

/// Tags without escapes in the plain form.
fn join(head: &[u8], spans: &[Span], order: &[u32], out: &mut Vec<u8>) {
    for &number in order {
        let span = &spans[number as usize];
        out.extend_from_slice(&head[span.start as usize..span.end as usize]);
        out.push(b',');
    }
    out.pop();
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
