//! Records and their bytes inside a frame.

use crate::varint;

/// A record to append; the journal gives it a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds UTC, or what the caller takes for time; need not rise.
    pub time: i64,
    /// The caller's number for what the payload is.
    pub kind: u16,
    /// What the record is found by; may be empty.
    pub key: &'a [u8],
    /// Any bytes.
    pub payload: &'a [u8],
}

/// A record as read, inside the bytes of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its place in the journal.
    pub sequence: u64,
    /// As appended.
    pub time: i64,
    /// As appended.
    pub kind: u16,
    /// As appended.
    pub key: &'a [u8],
    /// As appended.
    pub payload: &'a [u8],
}

/// A record as read, with its own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its place in the journal.
    pub sequence: u64,
    /// As appended.
    pub time: i64,
    /// As appended.
    pub kind: u16,
    /// As appended.
    pub key: Vec<u8>,
    /// As appended.
    pub payload: Vec<u8>,
}

impl RecordRef<'_> {
    /// A copy with its own bytes.
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord {
            sequence: self.sequence,
            time: self.time,
            kind: self.kind,
            key: self.key.to_vec(),
            payload: self.payload.to_vec(),
        }
    }
}

impl OwnedRecord {
    /// The same record, to be appended; its sequence is left out.
    pub fn to_append(&self) -> Record<'_> {
        Record { time: self.time, kind: self.kind, key: &self.key, payload: &self.payload }
    }

    /// The same record, borrowed.
    pub fn as_ref(&self) -> RecordRef<'_> {
        RecordRef { sequence: self.sequence, time: self.time, kind: self.kind, key: &self.key, payload: &self.payload }
    }
}

/// Upper bound for the bytes of a record in a frame.
pub(crate) fn encoded_len_max(record: &Record<'_>) -> usize {
    33 + record.key.len() + record.payload.len()
}

/// Appends one record; `gap` is its distance from the sequence after the record before, `before` that record's time.
pub(crate) fn encode(out: &mut Vec<u8>, gap: u64, before: i64, record: &Record<'_>) {
    varint::put(out, gap);
    varint::put_signed(out, record.time.wrapping_sub(before));
    varint::put(out, u64::from(record.kind));
    varint::put(out, record.key.len() as u64);
    varint::put(out, record.payload.len() as u64);
    out.extend_from_slice(record.key);
    out.extend_from_slice(record.payload);
}

/// Reads the records of one frame's raw bytes in order.
#[derive(Debug, Clone)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
    left: u32,
    next: u64,
    end: u64,
    time: i64,
}

impl<'a> Records<'a> {
    /// `first`, `end`, `count` and `time_min` are the frame header's.
    pub(crate) fn new(raw: &'a [u8], first: u64, end: u64, count: u32, time_min: i64) -> Self {
        Self { rest: raw, left: count, next: first, end, time: time_min }
    }

    /// The next record; `Ok(None)` after the last, `Err` when the bytes are not records of this frame.
    pub(crate) fn next_record(&mut self) -> Result<Option<RecordRef<'a>>, &'static str> {
        if self.left == 0 {
            return if self.rest.is_empty() { Ok(None) } else { Err("bytes behind the last record") };
        }
        self.left -= 1;
        self.decode().map(Some).ok_or("malformed record")
    }

    /// Bytes that were not read yet.
    pub(crate) fn rest_len(&self) -> usize {
        self.rest.len()
    }

    fn decode(&mut self) -> Option<RecordRef<'a>> {
        let bytes = &mut self.rest;
        let sequence = self.next.checked_add(varint::take(bytes)?).filter(|sequence| *sequence < self.end)?;
        let time = self.time.wrapping_add(varint::take_signed(bytes)?);
        let kind = u16::try_from(varint::take(bytes)?).ok()?;
        let (key_len, payload_len) = (varint::take_len(bytes)?, varint::take_len(bytes)?);
        let (key, rest) = bytes.split_at_checked(key_len)?;
        let (payload, rest) = rest.split_at_checked(payload_len)?;
        *bytes = rest;
        (self.next, self.time) = (sequence + 1, time);
        Some(RecordRef { sequence, time, kind, key, payload })
    }
}
