//! The chain of hashes that makes tampering with the history visible.

use std::collections::HashMap;

use weir_base::Kind;
use weir_base::checksum::{blake3, hex};
use weir_journal::{Query, Reader};

use crate::event::Event;
use crate::{Error, Result};

/// A chain value.
pub(crate) type Link = [u8; 32];
/// The value before the first record.
pub(crate) const START: Link = [0; 32];

/// The value of a record after `before`.
pub(crate) fn next(before: &Link, kind: u16, time: i64, key: &[u8], json: &[u8]) -> Link {
    let mut bytes = Vec::with_capacity(50 + key.len() + json.len());
    bytes.extend_from_slice(before);
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&time.to_le_bytes());
    bytes.extend_from_slice(&(key.len() as u64).to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(json);
    blake3(&bytes)
}

/// Puts a value behind the JSON of a record.
pub(crate) fn join(json: &mut Vec<u8>, link: &Link) {
    json.push(b'\n');
    json.extend_from_slice(hex(link).as_bytes());
}

/// The JSON of a payload, and the value behind it.
pub(crate) fn split(payload: &[u8]) -> (&[u8], Option<Link>) {
    let Some(at) = payload.len().checked_sub(65).filter(|at| payload[*at] == b'\n') else { return (payload, None) };
    match parse(&payload[at + 1..]) {
        Some(link) => (&payload[..at], Some(link)),
        None => (payload, None),
    }
}

/// A value from its 64 digits.
pub(crate) fn parse(digits: &[u8]) -> Option<Link> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == 64 && text.is_ascii())?;
    let mut link = START;
    for (index, byte) in link.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(link)
}

/// What walking the chain found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct ChainReport {
    /// Records that carry a value.
    pub chained: u64,
    /// Records before the first that does.
    pub unchained: u64,
    /// What does not fit, with the sequence where it shows.
    pub problems: Vec<String>,
    /// The last value, 64 hexadecimal digits; to be kept elsewhere.
    pub head: Option<String>,
    /// Whether the value that was asked for is in the chain.
    pub holds_head: Option<bool>,
}

/// Walks the chain of a history's log; `head` is a value noted earlier that must be in it.
///
/// # Errors
/// `Damaged` and `Unavailable` where the log cannot be read.
pub fn verify_chain(reader: &Reader, head: Option<&str>) -> Result<ChainReport> {
    let wanted = match head {
        Some(text) => Some(
            parse(text.as_bytes())
                .ok_or_else(|| Error::new(Kind::Invalid, "a chain value has 64 hexadecimal digits"))?,
        ),
        None => None,
    };
    let gaps = gaps(reader)?;
    let mut report = ChainReport { holds_head: wanted.map(|_| false), ..ChainReport::default() };
    let mut last: Option<(u64, Link)> = None;
    let mut records = reader.query(Query::default());
    while let Some(record) = records.next_ref()? {
        let (json, link) = split(record.payload);
        let Some(link) = link else {
            if report.chained > 0 {
                report.problems.push(format!("record {} is not chained", record.sequence));
            } else {
                report.unchained += 1;
            }
            continue;
        };
        report.chained += 1;
        let before = match last {
            Some((sequence, link)) if sequence + 1 == record.sequence => Some(link),
            None if report.unchained > 0 || record.sequence == 1 => Some(START),
            _ => gaps.get(&record.sequence).copied(),
        };
        match before {
            None => report.problems.push(format!("records before {} are missing", record.sequence)),
            Some(before) if next(&before, record.kind, record.time, record.key, json) != link => {
                report.problems.push(format!("record {} does not follow the one before it", record.sequence));
            }
            Some(_) => {}
        }
        if wanted == Some(link) {
            report.holds_head = Some(true);
        }
        last = Some((record.sequence, link));
    }
    report.head = last.map(|(_, link)| hex(&link));
    Ok(report)
}

/// What anchors say about the values before gaps.
fn gaps(reader: &Reader) -> Result<HashMap<u64, Link>> {
    let mut gaps = HashMap::new();
    let mut records = reader.query(Query { kinds: vec![7], ..Query::default() });
    while let Some(record) = records.next_ref()? {
        if let Some(Event::Anchor { gaps: found }) = Event::parse(record.kind, record.payload)? {
            gaps.extend(found.into_iter().filter_map(|(sequence, text)| Some((sequence, parse(text.as_bytes())?))));
        }
    }
    Ok(gaps)
}
