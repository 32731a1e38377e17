//! Records as JSON Lines: one object a line, exact both ways.
//!
//! `{"sequence":7,"time":1700000000000000000,"kind":1,"key":"build/42","payload":"..."}`; a key or payload that is not
//! UTF-8 goes as `key_hex` or `payload_hex`.

use serde_json::{Map, Value};
use weir_base::checksum::hex;

use crate::record::{OwnedRecord, RecordRef};
use crate::{Error, Result};

/// The line of a record, without the line feed.
pub fn to_line(record: &RecordRef<'_>) -> String {
    let mut object = Map::new();
    object.insert("sequence".into(), record.sequence.into());
    object.insert("time".into(), record.time.into());
    object.insert("kind".into(), record.kind.into());
    for (name, bytes) in [("key", record.key), ("payload", record.payload)] {
        match std::str::from_utf8(bytes) {
            Ok(text) => object.insert(name.into(), text.into()),
            Err(_) => object.insert(format!("{name}_hex"), hex(bytes).into()),
        };
    }
    Value::Object(object).to_string()
}

/// The record of a line; what is missing is 0 or empty.
///
/// # Errors
/// `Invalid` when the line is no such object.
pub fn from_line(line: &str) -> Result<OwnedRecord> {
    let invalid = |what: &str| Error::invalid(format!("not a record of a journal: {what}"));
    let object: Map<String, Value> = serde_json::from_str(line)
        .map_err(|error| Error::wrap(weir_base::Kind::Invalid, "not a JSON object", error))?;
    let bytes = |name: &str| -> Result<Vec<u8>> {
        match (object.get(name), object.get(&format!("{name}_hex"))) {
            (Some(Value::String(text)), None) => Ok(text.clone().into_bytes()),
            (None, Some(Value::String(digits))) => from_hex(digits).ok_or_else(|| invalid(name)),
            (None, None) => Ok(Vec::new()),
            _ => Err(invalid(name)),
        }
    };
    let number = |name: &str| -> Result<Option<&Value>> {
        object.get(name).map(|value| if value.is_number() { Ok(value) } else { Err(invalid(name)) }).transpose()
    };
    let time = number("time")?.map_or(Some(0), Value::as_i64).ok_or_else(|| invalid("time"))?;
    let kind = number("kind")?.map_or(Some(0), Value::as_u64).and_then(|kind| u16::try_from(kind).ok());
    Ok(OwnedRecord {
        sequence: number("sequence")?.map_or(Some(0), Value::as_u64).ok_or_else(|| invalid("sequence"))?,
        time,
        kind: kind.ok_or_else(|| invalid("kind"))?,
        key: bytes("key")?,
        payload: bytes("payload")?,
    })
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Some((nibble(pair[0])? << 4 | nibble(*pair.get(1)?)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_exactly() {
        for (key, payload) in [(&b"k"[..], &b"{\"a\": 1}"[..]), (b"", b""), (&[0xff, 0], &[0, 0x80, 10])] {
            let record = OwnedRecord {
                sequence: u64::MAX,
                time: i64::MIN,
                kind: u16::MAX,
                key: key.to_vec(),
                payload: payload.to_vec(),
            };
            assert_eq!(from_line(&to_line(&record.as_ref())).unwrap(), record);
        }
        for line in ["", "[]", "{\"kind\":70000}", "{\"key\":1}", "{\"key_hex\":\"abc\"}", "{\"time\":\"now\"}"] {
            assert!(from_line(line).is_err(), "{line}");
        }
        assert_eq!(from_line("{}").unwrap().kind, 0);
    }
}
