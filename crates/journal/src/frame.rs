//! Frames: a fixed header and one self-contained block of records.
//!
//! The thread that appends encodes and compresses ([`encode`]); the writer thread fills in what only it knows (place,
//! sequences, mark) with [`FrameHeader::put`].

use std::cell::RefCell;

use weir_base::checksum::{crc32c, crc32c_append};

use crate::options::Codec;
use crate::record::{self, Record, Records};
use crate::{Error, Result};

/// Bytes of a frame header.
pub(crate) const HEADER_LEN: usize = 72;
/// First bytes of a frame.
pub(crate) const MAGIC: [u8; 4] = *b"WJF1";
/// No frame is larger, raw or stored.
pub(crate) const FRAME_BYTES_MAX: usize = (1 << 30) + 4096;
/// This frame stands where a repair took damaged ones out.
pub(crate) const FLAG_LOST: u8 = 1;

const STORED: u8 = 0;
const LZ4: u8 = 1;
const ZSTD: u8 = 2;
const ZSTD_DICTIONARY: u8 = 3;

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FrameHeader {
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) codec: u8,
    pub(crate) flags: u8,
    pub(crate) records: u32,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) mark: u64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
}

impl FrameHeader {
    /// A frame that carries only a mark.
    pub(crate) fn mark_only(next: u64, mark: u64) -> Self {
        Self { payload_crc: crc32c(&[]), first: next, end: next, mark, ..Self::default() }
    }

    /// Header and stored bytes together.
    pub(crate) fn len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.stored_len)
    }

    /// Writes the header for this place into the first [`HEADER_LEN`] bytes of `out`.
    pub(crate) fn put(&self, out: &mut [u8], salt: u64, offset: u64) {
        out[..4].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.stored_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.raw_len.to_le_bytes());
        out[16..20].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[20..24].copy_from_slice(&[self.codec, self.flags, 0, 0]);
        out[24..28].copy_from_slice(&self.records.to_le_bytes());
        out[28..32].fill(0);
        out[32..40].copy_from_slice(&self.first.to_le_bytes());
        out[40..48].copy_from_slice(&self.end.to_le_bytes());
        out[48..56].copy_from_slice(&self.mark.to_le_bytes());
        out[56..64].copy_from_slice(&self.time_min.to_le_bytes());
        out[64..72].copy_from_slice(&self.time_max.to_le_bytes());
        let crc = header_crc(&out[..HEADER_LEN], salt, offset);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header that was written for this place; `None` when it was not, or says what cannot be.
    pub(crate) fn parse(bytes: &[u8], salt: u64, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..HEADER_LEN)?;
        if bytes[..4] != MAGIC || u32_at(bytes, 4) != header_crc(bytes, salt, offset) {
            return None;
        }
        let header = Self {
            stored_len: u32_at(bytes, 8),
            raw_len: u32_at(bytes, 12),
            payload_crc: u32_at(bytes, 16),
            codec: bytes[20],
            flags: bytes[21],
            records: u32_at(bytes, 24),
            first: u64_at(bytes, 32),
            end: u64_at(bytes, 40),
            mark: u64_at(bytes, 48),
            time_min: u64_at(bytes, 56) as i64,
            time_max: u64_at(bytes, 64) as i64,
        };
        let sane = header.codec <= ZSTD_DICTIONARY
            && header.stored_len as usize <= FRAME_BYTES_MAX
            && header.raw_len as usize <= FRAME_BYTES_MAX
            && header.end >= header.first
            && header.mark <= header.end
            && u64::from(header.records) <= header.end - header.first;
        sane.then_some(header)
    }

    /// Whether these are the stored bytes of this frame.
    pub(crate) fn matches(&self, stored: &[u8]) -> bool {
        stored.len() == self.stored_len as usize && crc32c(stored) == self.payload_crc
    }

    /// The records of the frame, given its raw bytes.
    pub(crate) fn records<'a>(&self, raw: &'a [u8]) -> Records<'a> {
        Records::new(raw, self.first, self.end, self.records, self.time_min)
    }
}

fn header_crc(bytes: &[u8], salt: u64, offset: u64) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    crc32c_append(crc32c(&place), &bytes[8..HEADER_LEN])
}

/// The little-endian number at `at`; the caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian number at `at`; the caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Frames as compressed by the thread that made them: room for each header, followed by its stored bytes. `first` and
/// `end` of the headers count from 0; the writer thread moves them to their place.
#[derive(Debug, Default)]
pub(crate) struct EncodedFrames {
    pub(crate) bytes: Vec<u8>,
    pub(crate) headers: Vec<FrameHeader>,
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
}

impl EncodedFrames {
    /// Fills in the headers for frames that start at `offset` of the segment with `salt`, the first with sequence `next`.
    pub(crate) fn place(&mut self, salt: u64, offset: u64, next: u64, mark: u64) {
        let mut at = 0usize;
        for header in &self.headers {
            let placed = FrameHeader { first: header.first + next, end: header.end + next, mark, ..*header };
            placed.put(&mut self.bytes[at..], salt, offset + at as u64);
            at += placed.len() as usize;
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers and compressor state that a thread keeps between appends.
#[derive(Default)]
struct Scratch {
    raw: Vec<u8>,
    zstd: Option<(i32, u64, zstd::bulk::Compressor<'static>)>,
}

/// Larger scratch buffers are given back after use.
const SCRATCH_BYTES_KEPT: usize = 16 << 20;

/// A zstd dictionary with a number that tells it from others in this process.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    pub(crate) id: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Encodes and compresses records into frames of at most `frame_raw_bytes_max` raw bytes, unless one record is larger.
pub(crate) fn encode(
    records: &[Record<'_>],
    codec: Codec,
    dictionary: Option<&Dictionary>,
    frame_raw_bytes_max: usize,
) -> Result<EncodedFrames> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut frames = EncodedFrames::default();
        let mut rest = records;
        while !rest.is_empty() {
            let count = frame_len(rest, frame_raw_bytes_max);
            let (now, later) = rest.split_at(count);
            rest = later;
            let first = frames.records;
            scratch.raw.clear();
            let time_min = now.iter().map(|record| record.time).min().unwrap_or(0);
            let time_max = now.iter().map(|record| record.time).max().unwrap_or(0);
            let mut before = time_min;
            for record in now {
                record::encode(&mut scratch.raw, 0, before, record);
                before = record.time;
            }
            let header = FrameHeader {
                records: count as u32,
                first,
                end: first + count as u64,
                time_min,
                time_max,
                ..FrameHeader::default()
            };
            compress(scratch, &mut frames, header, codec, dictionary)?;
            frames.records += count as u64;
        }
        if scratch.raw.capacity() > SCRATCH_BYTES_KEPT {
            scratch.raw = Vec::new();
        }
        Ok(frames)
    })
}

/// How many of the records go into the next frame.
fn frame_len(records: &[Record<'_>], frame_raw_bytes_max: usize) -> usize {
    let mut bytes = 0usize;
    let fitting = records.iter().take_while(|record| {
        bytes = bytes.saturating_add(record::encoded_len_max(record));
        bytes <= frame_raw_bytes_max
    });
    fitting.count().max(1)
}

/// Compresses raw bytes of a frame made elsewhere (compaction), whose `header` has its sequences and times.
pub(crate) fn encode_raw(
    raw: &[u8],
    header: FrameHeader,
    codec: Codec,
    dictionary: Option<&Dictionary>,
) -> Result<EncodedFrames> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut frames = EncodedFrames::default();
        scratch.raw.clear();
        scratch.raw.extend_from_slice(raw);
        compress(scratch, &mut frames, header, codec, dictionary)?;
        frames.records = u64::from(header.records);
        Ok(frames)
    })
}

fn compress(
    scratch: &mut Scratch,
    frames: &mut EncodedFrames,
    mut header: FrameHeader,
    codec: Codec,
    dictionary: Option<&Dictionary>,
) -> Result<()> {
    let raw_len = scratch.raw.len();
    header.raw_len = u32::try_from(raw_len)
        .ok()
        .filter(|_| raw_len <= FRAME_BYTES_MAX)
        .ok_or_else(|| Error::new(weir_base::Kind::Limit, "a record is larger than a frame can be (1 GiB)"))?;
    frames.raw_bytes += raw_len as u64;
    let out = &mut frames.bytes;
    let start = out.len() + HEADER_LEN;
    let bound = match codec {
        Codec::None => 0,
        Codec::Lz4 => lz4_flex::block::get_maximum_output_size(raw_len),
        Codec::Zstd { .. } => zstd::zstd_safe::compress_bound(raw_len),
    };
    out.resize(start + bound, 0);
    let (stored, code) = match codec {
        Codec::None => (raw_len, STORED),
        Codec::Lz4 => {
            let stored = lz4_flex::block::compress_into(&scratch.raw, &mut out[start..])
                .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot compress with lz4", error))?;
            (stored, LZ4)
        }
        Codec::Zstd { level } => {
            let (raw, compressor) = scratch.compressor(level, dictionary)?;
            let stored = compressor
                .compress_to_buffer(raw, &mut out[start..])
                .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot compress with zstd", error))?;
            (stored, if dictionary.is_some() { ZSTD_DICTIONARY } else { ZSTD })
        }
    };
    if stored >= raw_len {
        out.truncate(start);
        out.extend_from_slice(&scratch.raw);
        header.codec = STORED;
    } else {
        out.truncate(start + stored);
        header.codec = code;
    }
    header.stored_len = (out.len() - start) as u32;
    header.payload_crc = crc32c(&out[start..]);
    frames.headers.push(header);
    Ok(())
}

impl Scratch {
    /// The raw bytes and a compressor for them, made anew only when level or dictionary differ from the last use.
    fn compressor(
        &mut self,
        level: i32,
        dictionary: Option<&Dictionary>,
    ) -> Result<(&[u8], &mut zstd::bulk::Compressor<'static>)> {
        let id = dictionary.map_or(0, |dictionary| dictionary.id);
        if self.zstd.as_ref().is_none_or(|(of_level, of_id, _)| (*of_level, *of_id) != (level, id)) {
            let bytes = dictionary.map_or(&[][..], |dictionary| &dictionary.bytes);
            let made = zstd::bulk::Compressor::with_dictionary(level, bytes)
                .map_err(|error| Error::wrap(weir_base::Kind::Internal, "cannot start zstd", error))?;
            self.zstd = Some((level, id, made));
        }
        let Scratch { raw, zstd } = self;
        Ok((raw, &mut zstd.as_mut().expect("made above").2))
    }
}

/// Decompresses frames; keeps its state between them.
pub(crate) struct Decoder {
    plain: Option<zstd::bulk::Decompressor<'static>>,
    with_dictionary: Option<(u64, zstd::bulk::Decompressor<'static>)>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { plain: None, with_dictionary: None }
    }

    /// Puts the raw bytes of a frame into `raw`; `salt` names the segment, and with it the dictionary.
    pub(crate) fn decode(
        &mut self,
        header: &FrameHeader,
        stored: &[u8],
        salt: u64,
        dictionary: &[u8],
        raw: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let raw_len = header.raw_len as usize;
        if raw_len > FRAME_BYTES_MAX {
            return Err("frame is too large");
        }
        let found = match header.codec {
            STORED => {
                raw.clear();
                raw.extend_from_slice(stored);
                stored.len()
            }
            LZ4 => {
                if raw_len / 255 > stored.len() {
                    return Err("lz4 block is shorter than its raw length allows");
                }
                raw.resize(raw_len, 0);
                lz4_flex::block::decompress_into(stored, raw).map_err(|_| "lz4 block is malformed")?
            }
            ZSTD | ZSTD_DICTIONARY => {
                raw.clear();
                raw.reserve(raw_len);
                let decompressor = self.zstd(header.codec == ZSTD_DICTIONARY, salt, dictionary)?;
                decompressor.decompress_to_buffer(stored, raw).map_err(|_| "zstd frame is malformed")?
            }
            _ => return Err("unknown codec"),
        };
        if found == raw_len && raw.len() == raw_len { Ok(()) } else { Err("frame has another raw length") }
    }

    fn zstd(
        &mut self,
        with_dictionary: bool,
        salt: u64,
        dictionary: &[u8],
    ) -> Result<&mut zstd::bulk::Decompressor<'static>, &'static str> {
        if !with_dictionary {
            if self.plain.is_none() {
                self.plain = Some(zstd::bulk::Decompressor::new().map_err(|_| "cannot start zstd")?);
            }
            return Ok(self.plain.as_mut().expect("made above"));
        }
        if self.with_dictionary.as_ref().is_none_or(|(of, _)| *of != salt) {
            let made = zstd::bulk::Decompressor::with_dictionary(dictionary).map_err(|_| "bad dictionary")?;
            self.with_dictionary = Some((salt, made));
        }
        Ok(&mut self.with_dictionary.as_mut().expect("made above").1)
    }
}
