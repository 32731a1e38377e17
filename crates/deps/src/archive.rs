//! Zip archives read defensively: wheels and advisory exports. Nothing is ever written to the disk from one.
//!
//! Only the central directory is believed; entries are stored or deflated. Names with `..`, absolute paths, drive
//! letters or backslashes are refused, overlapping entries, encryption and zip64 sizes past the limits too. Inflation
//! stops at a size and a ratio, so that a bomb costs its limit and no more.

use std::io::Read;

use crate::environment::is_inside;
use crate::{Error, Result};

/// Most entries of an archive.
pub const ENTRIES_MAX: usize = 200_000;
/// Largest central directory, bytes.
pub const DIRECTORY_BYTES_MAX: u64 = 64 << 20;
/// Inflated bytes per stored byte, past the first MiB.
const RATIO_MAX: u64 = 200;
/// The end record with the longest comment.
pub const TAIL_BYTES_MAX: u64 = 22 + 65_535;

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, checked to stay inside.
    pub name: String,
    /// 0 stored, 8 deflated.
    method: u16,
    /// Bytes in the archive.
    pub packed: u64,
    /// Bytes when read.
    pub size: u64,
    /// CRC-32 of the content.
    crc: u32,
    /// Where its local header starts.
    pub offset: u64,
}

/// Where bytes of an archive come from: a file, memory, or ranges of a URL.
pub trait Source {
    /// Length of the archive.
    fn len(&self) -> u64;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Exactly the bytes `offset..offset + count`.
    fn read(&self, offset: u64, count: u64) -> Result<Vec<u8>>;
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }
    fn read(&self, offset: u64, count: u64) -> Result<Vec<u8>> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(count).ok());
        let bytes = range.and_then(|(from, count)| self.get(from..from.checked_add(count)?));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| damaged("it ends early"))
    }
}

/// A file of the operating system or the simulator.
impl Source for std::sync::Arc<dyn weir_base::File> {
    fn len(&self) -> u64 {
        weir_base::File::len(self.as_ref()).unwrap_or(0)
    }
    fn read(&self, offset: u64, count: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| damaged("an entry is too large"))?];
        self.read_exact_at(&mut bytes, offset).map_err(|error| Error::io("cannot read the archive", error))?;
        Ok(bytes)
    }
}

fn damaged(why: &str) -> Error {
    Error::new(weir_base::Kind::Damaged, format!("the archive is not a sound zip file: {why}"))
}

fn u16_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u16_at(bytes, at) | u16_at(bytes, at + 2) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) | u32_at(bytes, at + 4) << 32
}

/// Reads the list of entries. Folders are left out.
pub fn entries(source: &dyn Source) -> Result<Vec<Entry>> {
    let tail_len = source.len().min(TAIL_BYTES_MAX);
    let tail_at = source.len() - tail_len;
    let tail = source.read(tail_at, tail_len)?;
    let end = memchr::memmem::rfind(&tail, b"PK\x05\x06").ok_or_else(|| damaged("no end record"))?;
    if tail.len() < end + 22 {
        return Err(damaged("the end record is cut"));
    }
    let (mut count, mut size, mut offset) = (u16_at(&tail, end + 10), u32_at(&tail, end + 12), u32_at(&tail, end + 16));
    if count == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff {
        (count, size, offset) = zip64(source, &tail, end)?;
    }
    if count > ENTRIES_MAX as u64 || size > DIRECTORY_BYTES_MAX {
        return Err(Error::new(
            weir_base::Kind::Limit,
            format!("the archive has more than {ENTRIES_MAX} entries or a list past 64 MiB"),
        ));
    }
    if offset.checked_add(size).is_none_or(|end| end > source.len()) {
        return Err(damaged("the list lies outside"));
    }
    let list = source.read(offset, size)?;
    let mut entries = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (entry, next) = entry(&list, at, source.len())?;
        entries.extend(entry);
        at = next;
    }
    check_overlaps(&entries)?;
    Ok(entries)
}

fn zip64(source: &dyn Source, tail: &[u8], end: usize) -> Result<(u64, u64, u64)> {
    let locator = end.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07"));
    let at = u64_at(tail, locator.ok_or_else(|| damaged("no zip64 locator"))? + 8);
    if at.checked_add(56).is_none_or(|end| end > source.len()) {
        return Err(damaged("the zip64 record lies outside"));
    }
    let record = source.read(at, 56)?;
    if !record.starts_with(b"PK\x06\x06") {
        return Err(damaged("no zip64 record"));
    }
    Ok((u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48)))
}

fn entry(list: &[u8], at: usize, len: u64) -> Result<(Option<Entry>, usize)> {
    let head = list.get(at..at + 46).ok_or_else(|| damaged("the list is cut"))?;
    if !head.starts_with(b"PK\x01\x02") {
        return Err(damaged("the list is broken"));
    }
    let (name_len, extra_len, comment_len) = (u16_at(head, 28), u16_at(head, 30), u16_at(head, 32));
    let name_end = at + 46 + name_len as usize;
    let next = name_end + (extra_len + comment_len) as usize;
    let name = list.get(at + 46..name_end).ok_or_else(|| damaged("the list is cut"))?;
    let extra = list.get(name_end..name_end + extra_len as usize).ok_or_else(|| damaged("the list is cut"))?;
    let name = std::str::from_utf8(name).map_err(|_| damaged("a name is not UTF-8"))?.to_owned();
    if name.ends_with('/') && is_inside(name.trim_end_matches('/')) {
        return Ok((None, next));
    }
    if !is_inside(&name) || name.contains(':') || name.contains('\0') {
        return Err(damaged(&format!("the name '{}' leads outside", crate::name::printable(&name))));
    }
    if u16_at(head, 8) & 1 != 0 {
        return Err(damaged("an entry is encrypted"));
    }
    let (mut packed, mut size, mut offset) = (u32_at(head, 20), u32_at(head, 24), u32_at(head, 42));
    let mut wide = wide_fields(extra);
    for field in [&mut size, &mut packed, &mut offset] {
        if *field == 0xffff_ffff {
            *field = wide.next().ok_or_else(|| damaged("a zip64 field is missing"))?;
        }
    }
    if offset.checked_add(packed).and_then(|end| end.checked_add(30)).is_none_or(|end| end > len) {
        return Err(damaged("an entry lies outside"));
    }
    let method = u16_at(head, 10) as u16;
    let crc = u32_at(head, 16) as u32;
    Ok((Some(Entry { name, method, packed, size, crc, offset }), next))
}

fn wide_fields(mut extra: &[u8]) -> impl Iterator<Item = u64> + use<> {
    let mut fields = Vec::new();
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), u16_at(extra, 2) as usize);
        let Some(body) = extra.get(4..4 + len) else { break };
        if id == 1 {
            fields.extend(body.chunks_exact(8).map(|chunk| u64_at(chunk, 0)));
        }
        extra = &extra[4 + len..];
    }
    fields.into_iter()
}

fn check_overlaps(entries: &[Entry]) -> Result<()> {
    let mut ranges: Vec<(u64, u64)> =
        entries.iter().map(|entry| (entry.offset, entry.offset + 30 + entry.packed)).collect();
    ranges.sort_unstable();
    match ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        true => Err(damaged("entries overlap")),
        false => Ok(()),
    }
}

/// Reads one entry, at most `max` bytes of it; its checksum must be right.
pub fn read(source: &dyn Source, entry: &Entry, max: u64) -> Result<Vec<u8>> {
    let limit = max.min((1 << 20) + entry.packed.saturating_mul(RATIO_MAX));
    if entry.size > limit {
        let why =
            format!("'{}' would have {} bytes, the limit is {limit}", crate::name::printable(&entry.name), entry.size);
        return Err(Error::new(weir_base::Kind::Limit, why));
    }
    let head = source.read(entry.offset, 30)?;
    if !head.starts_with(b"PK\x03\x04") {
        return Err(damaged("an entry has no header"));
    }
    let start = entry.offset + 30 + u16_at(&head, 26) + u16_at(&head, 28);
    if start.checked_add(entry.packed).is_none_or(|end| end > source.len()) {
        return Err(damaged("an entry lies outside"));
    }
    let packed = source.read(start, entry.packed)?;
    let bytes = match entry.method {
        0 => packed,
        8 => {
            let mut bytes = Vec::new();
            let inflated = flate2::read::DeflateDecoder::new(&packed[..]).take(limit + 1).read_to_end(&mut bytes);
            inflated.map_err(|_| damaged("an entry does not inflate"))?;
            bytes
        }
        _ => return Err(damaged("an entry has an unknown compression")),
    };
    if bytes.len() as u64 > limit {
        return Err(Error::new(weir_base::Kind::Limit, "an entry inflates past its limit"));
    }
    let mut crc = flate2::Crc::new();
    crc.update(&bytes);
    if bytes.len() as u64 != entry.size || crc.sum() != entry.crc {
        return Err(damaged("an entry's checksum is wrong"));
    }
    Ok(bytes)
}

/// Makes small archives for tests, sound ones and hostile ones.
#[cfg(test)]
pub mod make {
    /// A zip file of stored entries.
    pub fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        zip_as(files, |bytes| (0, bytes.to_vec(), bytes.len() as u32))
    }

    /// A zip file whose entries are packed by `pack`: (method, packed bytes, claimed size).
    pub fn zip_as(files: &[(&str, &[u8])], pack: impl Fn(&[u8]) -> (u16, Vec<u8>, u32)) -> Vec<u8> {
        let (mut body, mut list) = (Vec::new(), Vec::new());
        for (name, bytes) in files {
            let (method, packed, size) = pack(bytes);
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            let offset = body.len() as u32;
            let mut common = Vec::new();
            common.extend(20u16.to_le_bytes());
            common.extend(0u16.to_le_bytes());
            common.extend(method.to_le_bytes());
            common.extend([0; 4]);
            common.extend(crc.sum().to_le_bytes());
            common.extend((packed.len() as u32).to_le_bytes());
            common.extend(size.to_le_bytes());
            common.extend((name.len() as u16).to_le_bytes());
            common.extend(0u16.to_le_bytes());
            body.extend(b"PK\x03\x04");
            body.extend(&common);
            body.extend(name.as_bytes());
            body.extend(&packed);
            list.extend(b"PK\x01\x02\x14\x00");
            list.extend(&common);
            list.extend([0; 10]);
            list.extend(offset.to_le_bytes());
            list.extend(name.as_bytes());
        }
        let (count, at) = (files.len() as u16, body.len() as u32);
        body.extend(&list);
        body.extend(b"PK\x05\x06\0\0\0\0");
        body.extend(count.to_le_bytes());
        body.extend(count.to_le_bytes());
        body.extend((list.len() as u32).to_le_bytes());
        body.extend(at.to_le_bytes());
        body.extend([0, 0]);
        body
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn entries_are_read_stored_and_deflated() {
        let files: &[(&str, &[u8])] = &[("a/METADATA", b"Name: a\n"), ("a/b.txt", b"")];
        for zip in [make::zip(files), make::zip_as(files, |bytes| (8, deflate(bytes), bytes.len() as u32))] {
            let source: &dyn Source = &&zip[..];
            let list = entries(source).unwrap();
            assert_eq!(list.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a/METADATA", "a/b.txt"]);
            assert_eq!(read(source, &list[0], 1000).unwrap(), b"Name: a\n");
            assert_eq!(read(source, &list[0], 3).unwrap_err().kind(), weir_base::Kind::Limit);
        }
    }

    #[test]
    fn hostile_archives_are_refused() {
        for name in ["../evil", "/etc/passwd", "a/../../b", "c:\\x", "a\\..\\b", "C:x", "a\0b", ""] {
            assert!(entries(&&make::zip(&[(name, b"x")])[..]).is_err(), "{name}");
        }
        // A bomb: 64 MiB of zeros, claimed honestly and claimed small.
        let zeros = vec![0u8; 64 << 20];
        let packed = deflate(&zeros);
        for claimed in [zeros.len() as u32, 10] {
            let zip = make::zip_as(&[("bomb", &zeros)], |_| (8, packed.clone(), claimed));
            let list = entries(&&zip[..]).unwrap();
            assert!(read(&&zip[..], &list[0], 1 << 30).is_err(), "{claimed}");
        }
        let good = make::zip(&[("a", b"hello"), ("b", b"world")]);
        for cut in 0..good.len() {
            let source = &good[..cut];
            if let Ok(list) = entries(&source) {
                assert!(list.iter().all(|entry| read(&source, entry, 100).is_ok()), "{cut}");
            }
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            if let Ok(list) = entries(&&bad[..]) {
                list.iter().for_each(|entry| drop(read(&&bad[..], entry, 100)));
            }
        }
        // Two names for the same bytes, as overlapping bombs have.
        let mut overlapping = make::zip(&[("a", b"hello"), ("b", b"world")]);
        let list_at = memchr::memmem::rfind(&overlapping, b"PK\x01\x02").unwrap();
        overlapping[list_at + 42..list_at + 46].copy_from_slice(&0u32.to_le_bytes());
        assert!(entries(&&overlapping[..]).is_err());
    }
}
