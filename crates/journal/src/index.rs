//! The footer of a sealed segment: where its frames are, and which frames hold a key. Disposable.
//!
//! Bytes: `docs/formats/journal.md`, "Footer". A footer that is missing, cut or does not match its checksum is as if it
//! were not there; the segment is then searched frame by frame.

use std::collections::HashMap;
use std::sync::Arc;

use weir_base::checksum::{crc32c, crc32c_append};

use crate::filter;
use crate::frame::{Decoder, FrameHeader, u32_at, u64_at};
use crate::segment::{Found, Segment, read_error};
use crate::varint;
use crate::{Error, Result};

const TRAILER_LEN: usize = 48;
const MAGIC: [u8; 8] = *b"WEIRFOOT";
const KEY_BLOCK_BYTES: usize = 16 << 10;
const KEY_BLOCK_BYTES_MAX: usize = 64 << 20;
/// Past this many bytes of distinct keys in a segment its footer has no key blocks, only filter and frames.
const KEY_BYTES_MAX: usize = 128 << 20;
const KINDS_MAX: usize = 16;

/// A frame as the footer knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameEntry {
    pub(crate) offset: u64,
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
    pub(crate) records: u32,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
    /// The kinds in it; `None` when they are too many to list.
    pub(crate) kinds: Option<Arc<[u16]>>,
}

impl FrameEntry {
    /// The entry of a frame whose content was not looked at.
    pub(crate) fn of(header: &FrameHeader, offset: u64) -> Self {
        Self {
            offset,
            stored_len: header.stored_len,
            raw_len: header.raw_len,
            records: header.records,
            first: header.first,
            end: header.end,
            time_min: header.time_min,
            time_max: header.time_max,
            kinds: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyBlock {
    first_key: Vec<u8>,
    offset: u64,
    stored_len: usize,
    raw_len: usize,
    crc: u32,
}

/// A footer in memory; key blocks stay in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Index {
    pub(crate) frames: Vec<FrameEntry>,
    filter: Vec<u8>,
    blocks: Vec<KeyBlock>,
    /// Whether every key that is not empty is in the blocks.
    has_keys: bool,
}

/// What a footer says about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// In these frames and no others.
    Frames(Vec<u32>),
    /// The footer does not know: search the frames.
    Unknown,
}

impl Index {
    /// Loads the footer of a segment; `None` when there is none that can be used.
    pub(crate) fn load(segment: &Segment) -> Result<Option<Self>> {
        let len = segment.len()?;
        let Some(trailer_at) = len.checked_sub(TRAILER_LEN as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER_LEN];
        segment.read_exact(&mut trailer, trailer_at)?;
        let Some(trailer) = Trailer::parse(&trailer, segment.header.salt) else { return Ok(None) };
        let sections = [trailer.frames_len, trailer.filter_len, trailer.directory_len];
        let total = sections.iter().try_fold(0u64, |sum, len| sum.checked_add(*len));
        let Some(start) = total.and_then(|total| trailer_at.checked_sub(total)) else { return Ok(None) };
        if start < trailer.frames_end {
            return Ok(None);
        }
        let mut bytes = vec![0; (trailer_at - start) as usize];
        segment.read_exact(&mut bytes, start)?;
        if crc32c(&bytes) != trailer.crc {
            return Ok(None);
        }
        Ok(Self::parse(&bytes, &trailer))
    }

    fn parse(bytes: &[u8], trailer: &Trailer) -> Option<Self> {
        let (frames, rest) = bytes.split_at_checked(usize::try_from(trailer.frames_len).ok()?)?;
        let (filter, directory) = rest.split_at_checked(usize::try_from(trailer.filter_len).ok()?)?;
        let frames = parse_frames(frames)?;
        let (blocks, has_keys) = parse_directory(directory, trailer.frames_end)?;
        Some(Self { frames, filter: filter.to_vec(), blocks, has_keys })
    }

    /// Which frames hold `key`.
    pub(crate) fn lookup(&self, segment: &Segment, key: &[u8]) -> Result<Lookup> {
        if key.is_empty() {
            return Ok(Lookup::Unknown);
        }
        if !filter::may_contain(&self.filter, filter::hash(key)) {
            return Ok(Lookup::Frames(Vec::new()));
        }
        if !self.has_keys {
            return Ok(Lookup::Unknown);
        }
        let at = self.blocks.partition_point(|block| block.first_key.as_slice() <= key);
        let Some(block) = at.checked_sub(1).map(|at| &self.blocks[at]) else { return Ok(Lookup::Frames(Vec::new())) };
        let Some(raw) = self.read_raw_block(segment, block)? else { return Ok(Lookup::Unknown) };
        Ok(find_key(&raw, key, self.frames.len()).map_or(Lookup::Unknown, Lookup::Frames))
    }

    /// Keys that begin with `prefix` and their frames, in order, at most `limit`; `None` when the footer does not know.
    pub(crate) fn with_prefix(&self, segment: &Segment, prefix: &[u8], limit: usize) -> Result<Option<KeyFrames>> {
        if !self.has_keys || prefix.is_empty() {
            return Ok(None);
        }
        let at = self.blocks.partition_point(|block| block.first_key.as_slice() <= prefix).saturating_sub(1);
        let mut found = Vec::new();
        for block in &self.blocks[at..] {
            if found.len() >= limit || (block.first_key.as_slice() > prefix && !block.first_key.starts_with(prefix)) {
                break;
            }
            let Some(keys) = self.read_block(segment, block)? else { return Ok(None) };
            found.extend(keys.into_iter().filter(|(key, _)| key.starts_with(prefix)));
        }
        found.truncate(limit);
        Ok(Some(found))
    }

    /// Whether this footer, read from the segment, says what `rebuilt` says, and all its key blocks can be read.
    pub(crate) fn equals_rebuilt(&self, segment: &Segment, rebuilt: &[u8], frames_end: u64) -> Result<bool> {
        let Some(at) = rebuilt.len().checked_sub(TRAILER_LEN) else { return Ok(false) };
        let (body, trailer) = rebuilt.split_at(at);
        let trailer = trailer.try_into().ok().and_then(|trailer| Trailer::parse(trailer, segment.header.salt));
        let Some(trailer) = trailer.filter(|trailer| trailer.frames_end == frames_end) else { return Ok(false) };
        let len = (trailer.frames_len + trailer.filter_len + trailer.directory_len) as usize;
        let Some(fresh) = Self::parse(&body[body.len() - len..], &trailer) else { return Ok(false) };
        let mut offset = 0;
        for (mine, theirs) in self.blocks.iter().zip(&fresh.blocks) {
            let stored = &body[offset..offset + theirs.stored_len];
            offset += theirs.stored_len;
            if self.read_block(segment, mine)? != parse_key_block(stored, theirs.raw_len, fresh.frames.len()) {
                return Ok(false);
            }
        }
        Ok(self.frames == fresh.frames && self.filter == fresh.filter && self.blocks.len() == fresh.blocks.len())
    }

    fn read_block(&self, segment: &Segment, block: &KeyBlock) -> Result<Option<KeyFrames>> {
        Ok(self.read_raw_block(segment, block)?.and_then(|raw| parse_keys(&raw, self.frames.len())))
    }

    /// A key block, checked and decompressed.
    fn read_raw_block(&self, segment: &Segment, block: &KeyBlock) -> Result<Option<Vec<u8>>> {
        let mut stored = vec![0; block.stored_len];
        segment.read_exact(&mut stored, block.offset)?;
        if crc32c(&stored) != block.crc {
            return Ok(None);
        }
        Ok(inflate_key_block(&stored, block.raw_len))
    }
}

/// Keys and the frames that hold them.
pub(crate) type KeyFrames = Vec<(Vec<u8>, Vec<u32>)>;

#[derive(Debug)]
struct Trailer {
    frames_end: u64,
    frames_len: u64,
    filter_len: u64,
    directory_len: u64,
    crc: u32,
}

impl Trailer {
    fn parse(bytes: &[u8; TRAILER_LEN], salt: u64) -> Option<Self> {
        let sound = bytes[40..] == MAGIC && u32_at(bytes, 36) == trailer_crc(bytes, salt);
        sound.then(|| Self {
            frames_end: u64_at(bytes, 0),
            frames_len: u64_at(bytes, 8),
            filter_len: u64_at(bytes, 16),
            directory_len: u64_at(bytes, 24),
            crc: u32_at(bytes, 32),
        })
    }
}

fn trailer_crc(bytes: &[u8], salt: u64) -> u32 {
    crc32c_append(crc32c(&salt.to_le_bytes()), &bytes[..36])
}

/// Reads the frames of a sealed segment and returns the bytes of its footer.
///
/// Holds one frame and the distinct keys of the segment.
pub(crate) fn build(segment: &Segment, frames_end: u64) -> Result<Vec<u8>> {
    let mut keys: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
    let mut key_bytes = 0;
    let mut entries = Vec::new();
    let mut decoder = Decoder::new();
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    let (mut offset, mut next) = (segment.header.len(), segment.header.first);
    while offset < frames_end {
        let Found::Frame(header) = segment.at(offset, frames_end, next)? else {
            return Err(segment.damage(offset, next, "no valid frame header"));
        };
        let number = entries.len() as u32;
        let mut entry = FrameEntry::of(&header, offset);
        segment.decode(&header, offset, &mut decoder, &mut stored, &mut raw)?;
        let mut kinds = Some(Vec::new());
        let mut records = header.records(&raw);
        while let Some(record) = records.next_record().map_err(|what| segment.damage(offset, next, what))? {
            note_kind(&mut kinds, record.kind);
            if record.key.is_empty() {
                continue;
            }
            if let Some(frames) = keys.get_mut(record.key) {
                if frames.last() != Some(&number) {
                    frames.push(number);
                }
            } else {
                key_bytes += record.key.len() + 64;
                keys.insert(record.key.to_vec(), vec![number]);
            }
        }
        entry.kinds = kinds.map(Arc::from);
        entries.push(entry);
        (offset, next) = (offset + header.len(), header.end);
    }
    Ok(to_bytes(&entries, keys, key_bytes <= KEY_BYTES_MAX, frames_end, segment.header.salt))
}

fn note_kind(kinds: &mut Option<Vec<u16>>, kind: u16) {
    if let Some(known) = kinds
        && !known.contains(&kind)
    {
        known.push(kind);
        if known.len() > KINDS_MAX {
            *kinds = None;
        }
    }
}

fn to_bytes(
    entries: &[FrameEntry],
    keys: HashMap<Vec<u8>, Vec<u32>>,
    with_keys: bool,
    frames_end: u64,
    salt: u64,
) -> Vec<u8> {
    let filter = filter::build(keys.keys().map(|key| filter::hash(key)).collect::<Vec<_>>().into_iter());
    let mut sorted: KeyFrames = if with_keys { keys.into_iter().collect() } else { Vec::new() };
    sorted.sort_unstable();
    let (mut out, directory) = put_key_blocks(&sorted, with_keys);
    let frames = put_frames(entries);
    let start = out.len();
    out.extend_from_slice(&frames);
    out.extend_from_slice(&filter);
    out.extend_from_slice(&directory);
    let crc = crc32c(&out[start..]);
    let mut trailer = Vec::with_capacity(TRAILER_LEN);
    for number in [frames_end, frames.len() as u64, filter.len() as u64, directory.len() as u64] {
        trailer.extend_from_slice(&number.to_le_bytes());
    }
    trailer.extend_from_slice(&crc.to_le_bytes());
    let crc = trailer_crc(&trailer, salt);
    trailer.extend_from_slice(&crc.to_le_bytes());
    trailer.extend_from_slice(&MAGIC);
    out.extend_from_slice(&trailer);
    out
}

/// The key blocks and their directory.
fn put_key_blocks(sorted: &KeyFrames, with_keys: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut blocks, mut directory) = (Vec::new(), Vec::new());
    let (mut count, mut raw, mut first_key) = (0, Vec::new(), &[][..]);
    let mut listed = Vec::new();
    let mut before: &[u8] = &[];
    for (index, (key, frames)) in sorted.iter().enumerate() {
        if raw.is_empty() {
            (first_key, before) = (key, &[]);
        }
        let shared = before.iter().zip(key).take_while(|(a, b)| a == b).count();
        varint::put(&mut raw, shared as u64);
        varint::put(&mut raw, (key.len() - shared) as u64);
        raw.extend_from_slice(&key[shared..]);
        varint::put(&mut raw, frames.len() as u64);
        let mut next = 0;
        for &frame in frames {
            varint::put(&mut raw, u64::from(frame - next));
            next = frame + 1;
        }
        before = key;
        if raw.len() >= KEY_BLOCK_BYTES || index + 1 == sorted.len() {
            // Level 1 of a codec that cannot fail on memory to memory but for a lack of memory.
            let stored = zstd::bulk::compress(&raw, 1).unwrap_or_default();
            varint::put(&mut listed, first_key.len() as u64);
            listed.extend_from_slice(first_key);
            varint::put(&mut listed, stored.len() as u64);
            varint::put(&mut listed, raw.len() as u64);
            listed.extend_from_slice(&crc32c(&stored).to_le_bytes());
            blocks.extend_from_slice(&stored);
            count += 1;
            raw.clear();
        }
    }
    directory.push(u8::from(with_keys));
    varint::put(&mut directory, count);
    directory.extend_from_slice(&listed);
    (blocks, directory)
}

fn parse_directory(mut bytes: &[u8], frames_end: u64) -> Option<(Vec<KeyBlock>, bool)> {
    let (&with_keys, rest) = bytes.split_first()?;
    bytes = rest;
    let count = varint::take_len(&mut bytes)?;
    let mut blocks = Vec::with_capacity(count.min(bytes.len()));
    let mut offset = frames_end;
    for _ in 0..count {
        let len = varint::take_len(&mut bytes)?;
        let (first_key, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        let (stored_len, raw_len) = (varint::take_len(&mut bytes)?, varint::take_len(&mut bytes)?);
        let (crc, rest) = bytes.split_at_checked(4)?;
        bytes = rest;
        if stored_len > KEY_BLOCK_BYTES_MAX || raw_len > KEY_BLOCK_BYTES_MAX {
            return None;
        }
        blocks.push(KeyBlock { first_key: first_key.to_vec(), offset, stored_len, raw_len, crc: u32_at(crc, 0) });
        offset = offset.checked_add(stored_len as u64)?;
    }
    bytes.is_empty().then_some((blocks, with_keys == 1))
}

fn parse_key_block(stored: &[u8], raw_len: usize, frame_count: usize) -> Option<KeyFrames> {
    parse_keys(&inflate_key_block(stored, raw_len)?, frame_count)
}

fn inflate_key_block(stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    zstd::bulk::decompress(stored, raw_len).ok().filter(|raw| raw.len() == raw_len)
}

fn parse_keys(mut bytes: &[u8], frame_count: usize) -> Option<KeyFrames> {
    let mut keys: KeyFrames = Vec::new();
    let (mut key, mut frames) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        take_key(&mut bytes, &mut key)?;
        take_frames(&mut bytes, frame_count, &mut frames)?;
        keys.push((key.clone(), frames.clone()));
    }
    Some(keys)
}

/// The frames that hold `wanted`, none if it is not in the block; `None` when the block is malformed.
fn find_key(mut bytes: &[u8], wanted: &[u8], frame_count: usize) -> Option<Vec<u32>> {
    let (mut key, mut frames) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        take_key(&mut bytes, &mut key)?;
        take_frames(&mut bytes, frame_count, &mut frames)?;
        match key.as_slice().cmp(wanted) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Some(frames),
            std::cmp::Ordering::Greater => break,
        }
    }
    Some(Vec::new())
}

/// Turns the key before into the next one.
fn take_key(bytes: &mut &[u8], key: &mut Vec<u8>) -> Option<()> {
    let (shared, rest_len) = (varint::take_len(bytes)?, varint::take_len(bytes)?);
    let (tail, rest) = bytes.split_at_checked(rest_len)?;
    *bytes = rest;
    if shared > key.len() {
        return None;
    }
    key.truncate(shared);
    key.extend_from_slice(tail);
    Some(())
}

fn take_frames(bytes: &mut &[u8], frame_count: usize, frames: &mut Vec<u32>) -> Option<()> {
    frames.clear();
    let count = varint::take_len(bytes)?;
    let mut next = 0u32;
    for _ in 0..count {
        let frame = next.checked_add(u32::try_from(varint::take(bytes)?).ok()?)?;
        if frame as usize >= frame_count {
            return None;
        }
        frames.push(frame);
        next = frame + 1;
    }
    Some(())
}

fn put_frames(entries: &[FrameEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, entries.len() as u64);
    let (mut offset, mut next) = (0, 0);
    for entry in entries {
        varint::put(&mut out, entry.offset - offset);
        for number in [entry.stored_len, entry.raw_len, entry.records] {
            varint::put(&mut out, u64::from(number));
        }
        varint::put(&mut out, entry.first - next);
        varint::put(&mut out, entry.end - entry.first);
        varint::put_signed(&mut out, entry.time_min);
        varint::put(&mut out, entry.time_max.wrapping_sub(entry.time_min) as u64);
        match &entry.kinds {
            None => varint::put(&mut out, KINDS_MAX as u64 + 1),
            Some(kinds) => {
                varint::put(&mut out, kinds.len() as u64);
                kinds.iter().for_each(|kind| varint::put(&mut out, u64::from(*kind)));
            }
        }
        offset = entry.offset + crate::frame::HEADER_LEN as u64 + u64::from(entry.stored_len);
        next = entry.end;
    }
    out
}

fn parse_frames(mut bytes: &[u8]) -> Option<Vec<FrameEntry>> {
    let count = varint::take_len(&mut bytes)?;
    let mut entries = Vec::with_capacity(count.min(bytes.len()));
    let (mut offset, mut next) = (0u64, 0u64);
    // Neighbours mostly hold the same kinds: they share them.
    let mut known: Arc<[u16]> = Arc::default();
    let mut read = Vec::with_capacity(KINDS_MAX);
    for _ in 0..count {
        let bytes = &mut bytes;
        offset = offset.checked_add(varint::take(bytes)?)?;
        let mut small = || varint::take(bytes).and_then(|number| u32::try_from(number).ok());
        let (stored_len, raw_len, records) = (small()?, small()?, small()?);
        let first = next.checked_add(varint::take(bytes)?)?;
        let end = first.checked_add(varint::take(bytes)?)?;
        let time_min = varint::take_signed(bytes)?;
        let time_max = time_min.wrapping_add(varint::take(bytes)? as i64);
        let kinds = match varint::take_len(bytes)? {
            count if count > KINDS_MAX => None,
            count => {
                read.clear();
                for _ in 0..count {
                    read.push(varint::take(bytes)?.try_into().ok()?);
                }
                if known[..] != read[..] {
                    known = Arc::from(&read[..]);
                }
                Some(Arc::clone(&known))
            }
        };
        entries.push(FrameEntry { offset, stored_len, raw_len, records, first, end, time_min, time_max, kinds });
        offset = offset.checked_add(crate::frame::HEADER_LEN as u64 + u64::from(stored_len))?;
        next = end;
    }
    bytes.is_empty().then_some(entries)
}

/// Gives any bytes to each decoder of a footer.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode_any(bytes: &[u8]) {
    if let Some(frames) = parse_frames(bytes) {
        assert_eq!(parse_frames(&put_frames(&frames)), Some(frames));
    }
    // Whether they are accepted does not matter: nothing may panic.
    if let Some((body, trailer)) = bytes.split_last_chunk::<TRAILER_LEN>() {
        let mut trailer = *trailer;
        let crc = trailer_crc(&trailer, 7);
        trailer[36..40].copy_from_slice(&crc.to_le_bytes());
        trailer[40..].copy_from_slice(&MAGIC);
        if let Some(index) = Trailer::parse(&trailer, 7).and_then(|trailer| Index::parse(body, &trailer)) {
            assert!(index.frames.len() <= body.len());
        }
    }
    let _ = parse_directory(bytes, 64);
    if let Some((&count, rest)) = bytes.split_first() {
        let stored = zstd::bulk::compress(rest, 1).unwrap_or_default();
        let _ = parse_key_block(&stored, rest.len(), usize::from(count));
        let _ = parse_key_block(rest, 1000, usize::from(count));
        if let Some(keys) = parse_keys(rest, usize::from(count))
            && keys.windows(2).all(|pair| pair[0].0 < pair[1].0)
        {
            for (key, frames) in keys {
                assert_eq!(find_key(rest, &key, usize::from(count)), Some(frames));
            }
        }
        filter::may_contain(rest, u64::from(count));
    }
}

/// Writes the footer of a sealed segment behind its frames and syncs it; returns the length of the file.
pub(crate) fn write_footer(env: &crate::Env, segment: &Segment, frames_end: u64) -> Result<u64> {
    let footer = build(segment, frames_end)?;
    let disk_error = |error| Error::io(format!("cannot write the footer of {}", segment.path.display()), error);
    let file = env.fs.open(&segment.path, weir_base::OpenMode::Write).map_err(disk_error)?;
    let len = frames_end + footer.len() as u64;
    if file.len().map_err(|error| read_error(&segment.path, error))? > len {
        file.set_len(len).map_err(disk_error)?;
    }
    let written = file.write_all_at(&footer, frames_end).and_then(|()| file.sync_data());
    if let Err(error) = written {
        // Half a footer is no footer; the room it takes is worth giving back on a full disk.
        let _ = file.set_len(frames_end);
        return Err(disk_error(error));
    }
    Ok(len)
}
