//! Records whose payload is JSON: made from any value that serde can write, read into any that it can read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use weir_base::Kind;

use crate::record::{OwnedRecord, RecordRef};
use crate::{Error, Result};

impl OwnedRecord {
    /// A record to append, with `value` as JSON in its payload.
    ///
    /// ```
    /// use weir_journal::OwnedRecord;
    /// let record = OwnedRecord::from_json(5, 1, b"build/42", &("ok", 17))?;
    /// assert_eq!(record.payload, br#"["ok",17]"#);
    /// assert_eq!(record.as_ref().json::<(String, u32)>()?, ("ok".to_owned(), 17));
    /// # Ok::<(), weir_journal::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` when the value has no form in JSON, such as a map whose keys are not texts.
    pub fn from_json<T: Serialize + ?Sized>(time: i64, kind: u16, key: &[u8], value: &T) -> Result<Self> {
        let payload = serde_json::to_vec(value)
            .map_err(|error| Error::wrap(Kind::Invalid, "the value cannot be written as JSON", error))?;
        Ok(Self { sequence: 0, time, kind, key: key.to_vec(), payload })
    }
}

impl RecordRef<'_> {
    /// The value in the payload.
    ///
    /// # Errors
    /// `Invalid` when the payload is not the JSON of such a value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(self.payload).map_err(|error| {
            Error::wrap(Kind::Invalid, format!("the payload of record {} is not as expected", self.sequence), error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_of_another_shape_is_told() {
        let record = OwnedRecord { sequence: 9, ..OwnedRecord::from_json(0, 0, b"", &[1, 2]).unwrap() };
        assert_eq!(record.as_ref().json::<Vec<u8>>().unwrap(), [1, 2]);
        let error = record.as_ref().json::<String>().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("record 9"));
        let keys_are_no_texts = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(OwnedRecord::from_json(0, 0, b"", &keys_are_no_texts).unwrap_err().kind(), Kind::Invalid);
    }
}
