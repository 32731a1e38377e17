//! Every decoder of the format, given any bytes: none may panic, and what one accepts must come back the same.
//!
//! Behind the checksums that keep random bytes out otherwise. Used by `fuzz/` (feature `fuzzing`) and by the tests.

use crate::frame::{self, Decoder, FrameHeader};
use crate::manifest::Manifest;
use crate::segment::SegmentHeader;
use crate::{Codec, Record, awsideman, index, jsonl};

/// Frame headers, stored bytes of each codec, and records.
pub fn frames(bytes: &[u8]) {
    let salt = 7;
    if let Some(header) = FrameHeader::parse(bytes, salt, 64) {
        let mut out = [0; frame::HEADER_LEN];
        header.put(&mut out, salt, 64);
        assert_eq!(FrameHeader::parse(&out, salt, 64), Some(header));
    }
    let Some((&[codec, count, size], stored)) = bytes.split_first_chunk::<3>() else { return };
    let raw_len = (u32::from(size) * 40).max(stored.len() as u32);
    let header = FrameHeader {
        codec: codec % 4,
        records: u32::from(count),
        raw_len: if codec & 4 == 0 { stored.len() as u32 } else { raw_len },
        end: 1 << 40,
        ..FrameHeader::default()
    };
    let mut raw = Vec::new();
    if Decoder::new().decode(&header, stored, salt, &bytes[..bytes.len() / 2], &mut raw).is_ok() {
        assert_eq!(raw.len(), header.raw_len as usize);
        read_records(&header, &raw);
    }
    read_records(&header, stored);
}

fn read_records(header: &FrameHeader, raw: &[u8]) {
    let mut records = header.records(raw);
    let mut before = None;
    while let Ok(Some(record)) = records.next_record() {
        assert!(before.is_none_or(|before| before < record.sequence) && record.sequence < header.end);
        before = Some(record.sequence);
    }
}

/// Segment headers and manifests.
pub fn headers(bytes: &[u8]) {
    let mut fixed = bytes.to_vec();
    if fixed.len() >= 64 {
        let crc = weir_base::checksum::crc32c(&fixed[..60]);
        fixed[60..64].copy_from_slice(&crc.to_le_bytes());
    }
    for bytes in [bytes, &fixed] {
        if let Ok(header) = SegmentHeader::parse(bytes) {
            assert_eq!(SegmentHeader::parse(&header.to_bytes()), Ok(header));
        }
    }
    let mut fixed = bytes.to_vec();
    let crc = weir_base::checksum::crc32c(bytes);
    fixed.extend_from_slice(&crc.to_le_bytes());
    for bytes in [bytes, &fixed] {
        if let Ok(manifest) = Manifest::parse(bytes) {
            assert_eq!(manifest.to_bytes(), bytes);
        }
    }
}

/// The sections of a footer.
pub fn footers(bytes: &[u8]) {
    index::decode_any(bytes);
}

/// JSON Lines and the history files of awsideman.
pub fn imports(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(record) = jsonl::from_line(text)
    {
        assert_eq!(jsonl::from_line(&jsonl::to_line(&record.as_ref())).ok(), Some(record));
    }
    awsideman::is_history(bytes);
    // What is read does not matter here, only that it ends.
    let _ = awsideman::read(bytes);
}

/// Records made of any bytes, through each codec and back.
pub fn round_trip(bytes: &[u8]) {
    let records: Vec<Record<'_>> = bytes
        .chunks(9)
        .map(|chunk| {
            let (key, payload) = chunk.split_at(chunk.len() / 3);
            Record { time: i64::from(chunk[0]) << (chunk.len() * 6), kind: u16::from(chunk[0]) * 257, key, payload }
        })
        .collect();
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd { level: 1 }] {
        let mut frames = frame::encode(&records, codec, None, 100).expect("any record can be encoded");
        frames.place(5, 64, 11, 3);
        let (mut at, mut found, mut raw) = (0, 0, Vec::new());
        while at < frames.bytes.len() {
            let header = FrameHeader::parse(&frames.bytes[at..], 5, 64 + at as u64).expect("just written");
            let stored = &frames.bytes[at + frame::HEADER_LEN..at + header.len() as usize];
            assert!(header.matches(stored));
            Decoder::new().decode(&header, stored, 5, &[], &mut raw).expect("just written");
            let mut decoded = header.records(&raw);
            while let Some(record) = decoded.next_record().expect("just written") {
                let expected = records[found];
                assert_eq!(record.sequence, 11 + found as u64);
                assert_eq!((record.time, record.kind), (expected.time, expected.kind));
                assert_eq!((record.key, record.payload), (expected.key, expected.payload));
                found += 1;
            }
            at += header.len() as usize;
        }
        assert_eq!(found, records.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_decoder_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::frames(&bytes);
            super::headers(&bytes);
            super::footers(&bytes);
            super::imports(&bytes);
            super::round_trip(&bytes);
        }

        #[test]
        fn numbers_near_the_edges(
            numbers in proptest::collection::vec(prop_oneof![0..4u64, Just(u64::MAX), Just(u64::from(u32::MAX))], 0..40),
        ) {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|number| crate::varint::put(&mut bytes, *number));
            super::frames(&bytes);
            super::footers(&bytes);
        }
    }
}
