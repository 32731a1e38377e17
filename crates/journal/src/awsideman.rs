//! Reading the operation history of awsideman: `operations.json` and `rollbacks.json`, rotated or not, gzipped or not.
//!
//! The files hold `{"operations": [{...}, ...]}` or `{"rollbacks": [...]}`
//! (vikyol/awsideman: src/awsideman/rollback/storage.py and optimized_storage.py). A file that was cut or damaged is
//! salvaged: every whole object of the list is taken, and what could not be read is told.

use std::io::Read;

use serde_json::{Map, Value};

use crate::record::OwnedRecord;
use crate::{Error, Result};

/// Kind of an imported operation.
pub const KIND_OPERATION: u16 = 1;
/// Kind of an imported rollback.
pub const KIND_ROLLBACK: u16 = 2;
/// A file is not inflated past this many bytes.
const INFLATED_BYTES_MAX: u64 = 4 << 30;

/// What was read from a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The entries in the order of the file; the key is the operation's id, the payload the entry as it stands there.
    pub records: Vec<OwnedRecord>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// Whether these bytes look like such a file.
pub fn is_history(bytes: &[u8]) -> bool {
    let (text, _) = inflate(&bytes[..bytes.len().min(64 << 10)]);
    list_at(&text).is_some()
}

/// Reads a file's bytes as far as they go.
///
/// # Errors
/// `Invalid` when there is no list of operations or rollbacks in it.
pub fn read(bytes: &[u8]) -> Result<History> {
    let (text, problem) = inflate(bytes);
    let (mut at, kind) =
        list_at(&text).ok_or_else(|| Error::invalid("no list of operations or rollbacks in this file"))?;
    let mut history = History { problems: problem.into_iter().collect(), ..History::default() };
    loop {
        at += text[at..].iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b',').count();
        match text.get(at) {
            Some(b']') => return Ok(history),
            Some(b'{') => {}
            Some(_) => {
                // Not an object: go on with the next thing that looks like one.
                history.problems.push(format!("unreadable bytes at {at}"));
                match text[at..].iter().position(|byte| *byte == b'{') {
                    Some(skip) => at += skip,
                    None => return Ok(history),
                }
            }
            None => {
                history.problems.push(format!("the list is cut at byte {at}"));
                return Ok(history);
            }
        }
        let mut objects = serde_json::Deserializer::from_slice(&text[at..]).into_iter::<Map<String, Value>>();
        match objects.next() {
            Some(Ok(object)) => {
                let end = at + objects.byte_offset();
                match record(&object, kind, &text[at..end]) {
                    Some(record) => history.records.push(record),
                    None => history.problems.push(format!("an entry without an id at byte {at}")),
                }
                at = end;
            }
            Some(Err(error)) => {
                history.problems.push(format!("an entry at byte {at} cannot be read: {error}"));
                at = next_entry(&text, at);
            }
            None => return Ok(history),
        }
    }
}

/// The inflated bytes as far as they go, and what is wrong with the rest.
fn inflate(bytes: &[u8]) -> (Vec<u8>, Option<String>) {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return (bytes.to_vec(), None);
    }
    let mut text = Vec::new();
    let outcome = flate2::read::MultiGzDecoder::new(bytes).take(INFLATED_BYTES_MAX).read_to_end(&mut text);
    let problem = match outcome {
        Err(error) => Some(format!("the compressed file is damaged after {} bytes: {error}", text.len())),
        Ok(_) if text.len() as u64 == INFLATED_BYTES_MAX => Some("the file is larger than 4 GiB inflated".to_owned()),
        Ok(_) => None,
    };
    (text, problem)
}

/// Where the first entry of the list is, and of which kind it is.
fn list_at(text: &[u8]) -> Option<(usize, u16)> {
    [("\"operations\"", KIND_OPERATION), ("\"rollbacks\"", KIND_ROLLBACK)].into_iter().find_map(|(name, kind)| {
        let at = text.windows(name.len()).position(|window| window == name.as_bytes())? + name.len();
        let open = text[at..].iter().position(|byte| !byte.is_ascii_whitespace() && *byte != b':')? + at;
        (text[open] == b'[').then_some((open + 1, kind))
    })
}

/// Where an entry may begin behind a damaged one: a `{` whose first field is one that entries begin with.
fn next_entry(text: &[u8], mut at: usize) -> usize {
    const FIRST_FIELDS: [&[u8]; 5] =
        [b"\"operation_id\"", b"\"rollback_operation_id\"", b"\"rollback_id\"", b"\"id\"", b"\"timestamp\""];
    while at + 1 < text.len() {
        at += 1;
        let Some(skip) = text[at..].iter().position(|byte| *byte == b'{') else { break };
        at += skip;
        let inside = text[at + 1..].trim_ascii_start();
        if FIRST_FIELDS.iter().any(|name| inside.starts_with(name)) {
            return at;
        }
    }
    text.len()
}

fn record(object: &Map<String, Value>, kind: u16, payload: &[u8]) -> Option<OwnedRecord> {
    let names: &[&str] = if kind == KIND_ROLLBACK {
        &["rollback_operation_id", "rollback_id", "operation_id", "id"]
    } else {
        &["operation_id", "id"]
    };
    let id = names.iter().find_map(|name| object.get(*name)?.as_str())?;
    let time = object.get("timestamp").and_then(Value::as_str).and_then(parse_time).unwrap_or(0);
    Some(OwnedRecord { sequence: 0, time, kind, key: id.as_bytes().to_vec(), payload: payload.to_vec() })
}

/// `datetime.isoformat()` of Python; without an offset it is taken for UTC.
fn parse_time(text: &str) -> Option<i64> {
    let timestamp = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
  "operations": [
    {"operation_id": "a-1", "timestamp": "2024-05-06T07:08:09.000001+00:00", "metadata": {"note": "x } ] {"}},
    {"operation_id": "b-2", "timestamp": "2024-05-06T07:08:10", "results": []}
  ]
}"#;

    #[test]
    fn a_whole_file_is_read() {
        let history = read(FILE.as_bytes()).unwrap();
        assert_eq!(history.problems, [""; 0]);
        let keys: Vec<&[u8]> = history.records.iter().map(|record| record.key.as_slice()).collect();
        assert_eq!(keys, [b"a-1", b"b-2"]);
        assert_eq!(history.records[0].time, 1_714_979_289_000_001_000);
        assert_eq!(history.records[1].time, 1_714_979_290_000_000_000);
        assert!(history.records[0].payload.ends_with(b"{\"note\": \"x } ] {\"}}"));
        assert!(is_history(FILE.as_bytes()) && !is_history(b"{\"a\": 1}"));
        let rollbacks = br#"{"rollbacks":[{"rollback_operation_id":"r","timestamp":"2024-05-06T07:08:09Z"}]}"#;
        assert_eq!(read(rollbacks).unwrap().records[0].kind, KIND_ROLLBACK);
    }

    #[test]
    fn a_cut_or_damaged_file_is_salvaged_and_told() {
        for at in 0..FILE.len() - 3 {
            if let Ok(history) = read(&FILE.as_bytes()[..at]) {
                assert!(!history.problems.is_empty(), "cut at {at}");
                assert!(history.records.len() <= 2);
            }
        }
        let cut = FILE.find("\"results\"").unwrap();
        assert_eq!(read(&FILE.as_bytes()[..cut]).unwrap().records.len(), 1);
        let damaged = FILE.replace("\"metadata\":", "\"metadata\"#");
        let history = read(damaged.as_bytes()).unwrap();
        assert_eq!((history.records.len(), history.problems.len()), (1, 1));
        assert_eq!(history.records[0].key, b"b-2");
    }

    #[test]
    fn a_cut_gzip_file_is_salvaged() {
        use std::io::Write;
        let entries: Vec<String> = (0..2000)
            .map(|n| format!("{{\"operation_id\":\"{}\",\"timestamp\":\"2024-01-01T00:00:00Z\"}}", n * 7919 % 2003))
            .collect();
        let text = format!("{{\"operations\":[{}]}}", entries.join(","));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(read(&bytes).unwrap().records.len(), 2000);
        let history = read(&bytes[..bytes.len() / 2]).unwrap();
        assert!((500..1900).contains(&history.records.len()), "{}", history.records.len());
        assert!(!history.problems.is_empty());
    }
}
