//! A series key: the tag set of a point in one canonical byte form, so that equal tag sets are equal bytes.
//!
//! **Plain form**: `k1=v1,k2=v2`, keys ascending by bytes, when no key or value holds a backslash, comma, equals sign or
//! space. A line of line protocol without escapes and with ascending tags carries this form verbatim, so most keys are
//! never built, only compared. **Binary form**, for all other tag sets: the byte `0xff` (never in UTF-8), then for each tag,
//! ascending by key, varint length and bytes of key and of value. The empty tag set is the empty plain form.

use crate::error::{Error, Result};

const BINARY: u8 = 0xff;

/// Builds the canonical key of `tags`, which must be sorted by key and free of duplicates, and appends it to `out`.
pub fn encode(tags: &[(&[u8], &[u8])], out: &mut Vec<u8>) {
    debug_assert!(tags.windows(2).all(|pair| pair[0].0 < pair[1].0));
    if tags.iter().all(|(key, value)| is_plain(key) && is_plain(value)) {
        for (index, (key, value)) in tags.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            out.push(b'=');
            out.extend_from_slice(value);
        }
        return;
    }
    out.push(BINARY);
    for part in tags.iter().flat_map(|(key, value)| [key, value]) {
        let mut len = part.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(part);
    }
}

/// Whether `text` can stand in the plain form.
pub fn is_plain(text: &[u8]) -> bool {
    !text.iter().any(|byte| matches!(byte, b'\\' | b',' | b'=' | b' '))
}

/// The tags of a canonical key, ascending by key.
///
/// # Errors
/// `damaged` when `key` is not one that [`encode`] makes or is not UTF-8.
pub fn decode(key: &[u8]) -> Result<Vec<(&str, &str)>> {
    let damaged = || Error::new(weir_base::Kind::Damaged, "a series key is malformed");
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| damaged());
    let mut tags = Vec::new();
    if key.first() == Some(&BINARY) {
        let mut rest = &key[1..];
        while !rest.is_empty() {
            let name = take(&mut rest).ok_or_else(damaged)?;
            let value = take(&mut rest).ok_or_else(damaged)?;
            tags.push((text(name)?, text(value)?));
        }
    } else if !key.is_empty() {
        for pair in text(key)?.split(',') {
            tags.push(pair.split_once('=').ok_or_else(damaged)?);
        }
    }
    if tags.windows(2).all(|pair| pair[0].0 < pair[1].0) { Ok(tags) } else { Err(damaged()) }
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        len |= usize::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte < 0x80 {
            break;
        }
        if shift > 28 {
            return None;
        }
    }
    let (part, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_are_distinct() {
        let long = "x".repeat(300);
        let sets: Vec<Vec<(&str, &str)>> = vec![
            vec![],
            vec![("a", "b")],
            vec![("a", "b"), ("c", "d")],
            vec![("a", "b,c=d")],
            vec![("a", "b\\")],
            vec![("a=", "b")],
            vec![("a", "=b")],
            vec![("z", &long), ("é", "ü x")],
        ];
        let mut seen = std::collections::HashSet::new();
        for set in &sets {
            let bytes: Vec<_> = set.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
            let mut key = Vec::new();
            encode(&bytes, &mut key);
            assert_eq!(&decode(&key).unwrap(), set);
            assert!(seen.insert(key));
        }
        for bad in [&b"a"[..], b"b=1,a=2", b"\xff\x05a", b"\xff\xff\xff\xff\xff\xff\xff\x01", b"a=\xfe"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }
}
