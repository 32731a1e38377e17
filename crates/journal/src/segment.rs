//! Segment files: their names, their header, and walking their frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::checksum::{blake3, crc32c};
use weir_base::{File, FileSystem, Kind, OpenMode};

use crate::frame::{self, Decoder, FrameHeader, u32_at, u64_at};
use crate::options::Env;
use crate::{Error, Result};

/// Bytes of a segment header without its dictionary.
pub(crate) const HEADER_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"WEIRJRNL";
const VERSION: u32 = 1;
const DICTIONARY_BYTES_MAX: u32 = 1 << 20;

/// The name of the segment that begins with sequence `first`.
pub(crate) fn file_name(first: u64, generation: u32) -> String {
    format!("{first:020}-{generation:06}.wj")
}

/// First sequence and generation out of a segment's name.
pub(crate) fn parse_name(path: &Path) -> Option<(u64, u32)> {
    let (first, generation) = path.file_name()?.to_str()?.strip_suffix(".wj")?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if first.len() != 20 || generation.len() < 6 || !digits(first) || !digits(generation) {
        return None;
    }
    Some((first.parse().ok()?, generation.parse().ok()?))
}

/// What a segment says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) salt: u64,
    pub(crate) first: u64,
    pub(crate) mark: u64,
    pub(crate) generation: u32,
    pub(crate) made: i64,
    pub(crate) dictionary: Vec<u8>,
}

impl SegmentHeader {
    /// A header for a new file; the salt comes from time and place.
    pub(crate) fn new(env: &Env, dir: &Path, first: u64, generation: u32, dictionary: Vec<u8>) -> Self {
        let made = env.clock.now();
        let mut seed = dir.as_os_str().as_encoded_bytes().to_vec();
        seed.extend_from_slice(&made.to_le_bytes());
        seed.extend_from_slice(&env.clock.monotonic().as_nanos().to_le_bytes());
        seed.extend_from_slice(&first.to_le_bytes());
        seed.extend_from_slice(&generation.to_le_bytes());
        Self { salt: u64_at(&blake3(&seed), 0), first, mark: first, generation, made, dictionary }
    }

    /// Length in the file.
    pub(crate) fn len(&self) -> u64 {
        (HEADER_LEN + self.dictionary.len()) as u64
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.dictionary.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.mark.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&(self.dictionary.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.made.to_le_bytes());
        out.extend_from_slice(&crc32c(&self.dictionary).to_le_bytes());
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&self.dictionary);
        out
    }

    /// Reads a header off the front of a segment; says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let fixed = bytes.get(..HEADER_LEN).ok_or("segment ends inside its header")?;
        if fixed[..8] != MAGIC {
            return Err("not a journal segment");
        }
        if u32_at(fixed, 60) != crc32c(&fixed[..60]) {
            return Err("segment header does not match its checksum");
        }
        if u32_at(fixed, 8) != VERSION {
            return Err("segment has a format version that this release does not know");
        }
        let dictionary_len = u32_at(fixed, 44);
        if dictionary_len > DICTIONARY_BYTES_MAX || u32_at(fixed, 12) as usize != HEADER_LEN + dictionary_len as usize {
            return Err("segment header gives an impossible length");
        }
        let dictionary =
            bytes.get(HEADER_LEN..HEADER_LEN + dictionary_len as usize).ok_or("segment ends inside its dictionary")?;
        if u32_at(fixed, 56) != crc32c(dictionary) {
            return Err("dictionary does not match its checksum");
        }
        Ok(Self {
            salt: u64_at(fixed, 16),
            first: u64_at(fixed, 24),
            mark: u64_at(fixed, 32),
            generation: u32_at(fixed, 40),
            made: u64_at(fixed, 48) as i64,
            dictionary: dictionary.to_vec(),
        })
    }
}

/// A segment open for reading.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: Arc<SegmentHeader>,
    /// The content, where it is mapped into memory.
    map: Option<Arc<memmap2::Mmap>>,
}

/// What stands at a place of a segment.
#[derive(Debug)]
pub(crate) enum Found {
    /// A frame with a valid header; its stored bytes lie inside the file.
    Frame(FrameHeader),
    /// Nothing: the file ends here, or only room for later frames follows.
    End,
    /// Bytes that are not a frame of this place.
    Bad(&'static str),
}

impl Segment {
    /// Opens a segment whose name gave `first` and `generation`.
    pub(crate) fn open(fs: &dyn FileSystem, path: &Path, first: u64, generation: u32) -> Result<Self> {
        let file = fs
            .open(path, OpenMode::Read)
            .map_err(|error| Error::io(format!("cannot open segment {}", path.display()), error))?;
        Self::with_file(file, path, first, generation)
    }

    /// The same with a file that is open already.
    pub(crate) fn with_file(file: Arc<dyn File>, path: &Path, first: u64, generation: u32) -> Result<Self> {
        let segment_error = |what: &str| Error::damaged(format!("segment {}: {what}", path.display()));
        let mut bytes = vec![0; HEADER_LEN];
        let count = read_up_to(&*file, &mut bytes, 0).map_err(|error| read_error(path, error))?;
        bytes.truncate(count);
        if count == HEADER_LEN {
            let dictionary_len = u32_at(&bytes, 44).min(DICTIONARY_BYTES_MAX) as usize;
            bytes.resize(HEADER_LEN + dictionary_len, 0);
            let more = read_up_to(&*file, &mut bytes[HEADER_LEN..], HEADER_LEN as u64)
                .map_err(|error| read_error(path, error))?;
            bytes.truncate(HEADER_LEN + more);
        }
        let header = SegmentHeader::parse(&bytes).map_err(segment_error)?;
        if (header.first, header.generation) != (first, generation) {
            return Err(segment_error("its header has another sequence or generation than its name"));
        }
        Ok(Self { path: path.to_path_buf(), file, header: Arc::new(header), map: None })
    }

    /// What stands at `offset` of the file, which has `len` bytes; `next` is the sequence that a frame here must begin with.
    pub(crate) fn at(&self, offset: u64, len: u64, next: u64) -> Result<Found> {
        if offset >= len {
            return Ok(Found::End);
        }
        let mut bytes = [0; frame::HEADER_LEN];
        let count = self.read_up_to(&mut bytes, offset)?;
        if count == 0 {
            return Ok(Found::End);
        }
        let Some(header) = FrameHeader::parse(&bytes[..count], self.header.salt, offset) else {
            if bytes[..count].iter().all(|byte| *byte == 0) && self.is_room(offset, len)? {
                return Ok(Found::End);
            }
            return Ok(Found::Bad("no valid frame header"));
        };
        if header.first != next {
            return Ok(Found::Bad("frame does not continue the sequence"));
        }
        if header.len() > len - offset {
            return Ok(Found::Bad("file ends inside a frame"));
        }
        Ok(Found::Frame(header))
    }

    /// Maps the content into memory. Only for sealed segments that the manifest lists: these are never cut.
    #[allow(unsafe_code, reason = "mapping a file is unsafe because others may cut it; nobody cuts a listed segment")]
    pub(crate) fn map(&mut self) {
        if let Some(file) = self.file.os_file() {
            // SAFETY: a listed segment keeps its length until it is removed, and a removed file stays mapped. Bytes that
            // change on a failing disk are caught by the checksums, which are computed before anything else looks at them.
            self.map = unsafe { memmap2::Mmap::map(file) }.ok().map(Arc::new);
        }
    }

    /// The stored bytes of the frame at `offset`, read into `buf` unless they are in memory; `None` when they are not those of the header.
    pub(crate) fn stored<'a>(
        &'a self,
        header: &FrameHeader,
        offset: u64,
        buf: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>> {
        let at = offset + frame::HEADER_LEN as u64;
        let stored = match &self.map {
            Some(map) => usize::try_from(at).ok().and_then(|at| map.get(at..at + header.stored_len as usize)),
            None => {
                buf.resize(header.stored_len as usize, 0);
                let count = self.read_up_to(buf, at)?;
                Some(&buf[..count])
            }
        };
        Ok(stored.filter(|stored| header.matches(stored)))
    }

    /// Puts the raw bytes of the frame at `offset` into `raw`; `Damaged` when they cannot be had.
    pub(crate) fn decode(
        &self,
        header: &FrameHeader,
        offset: u64,
        decoder: &mut Decoder,
        buf: &mut Vec<u8>,
        raw: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.stored(header, offset, buf)?;
        let stored = stored.ok_or_else(|| self.damage(offset, header.first, "frame does not match its checksum"))?;
        decoder
            .decode(header, stored, self.header.salt, &self.header.dictionary, raw)
            .map_err(|what| self.damage(offset, header.first, what))
    }

    /// The error for bytes that are not what was written.
    pub(crate) fn damage(&self, offset: u64, sequence: u64, what: &str) -> Error {
        let path = self.path.display();
        Error::damaged(format!("segment {path} is damaged at byte {offset}, sequence {sequence}: {what}"))
    }

    /// Fills all of `buf`, or fails.
    pub(crate) fn read_exact(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if self.read_up_to(buf, offset)? == buf.len() {
            return Ok(());
        }
        Err(self.damage(offset, self.header.first, "file ends early"))
    }

    fn read_up_to(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if let Some(map) = &self.map {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(map.len());
            let count = buf.len().min(map.len() - from);
            buf[..count].copy_from_slice(&map[from..from + count]);
            return Ok(count);
        }
        read_up_to(&*self.file, buf, offset).map_err(|error| read_error(&self.path, error))
    }

    /// The next place at or past `offset` with a valid frame header, whatever its sequence. Holds 1 MiB.
    pub(crate) fn find_frame(&self, mut offset: u64, len: u64) -> Result<Option<(u64, FrameHeader)>> {
        const WINDOW: usize = 1 << 20;
        let mut window = vec![0; WINDOW + frame::HEADER_LEN];
        while offset < len {
            let count = read_up_to(&*self.file, &mut window, offset).map_err(|error| read_error(&self.path, error))?;
            let places = window[..count].windows(4).enumerate().filter(|(_, bytes)| *bytes == frame::MAGIC);
            for (place, _) in places.take_while(|(place, _)| *place < WINDOW) {
                let at = offset + place as u64;
                if let Some(header) = FrameHeader::parse(&window[place..count], self.header.salt, at) {
                    return Ok(Some((at, header)));
                }
            }
            offset += WINDOW as u64;
        }
        Ok(None)
    }

    /// Whether only zeros stand from `offset` to the end: room that the writer made for later frames.
    fn is_room(&self, mut offset: u64, len: u64) -> Result<bool> {
        let mut window = vec![0; 64 << 10];
        while offset < len {
            let count = self.read_up_to(&mut window, offset)?;
            if count == 0 {
                break;
            }
            if window[..count].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            offset += count as u64;
        }
        Ok(true)
    }

    /// Length of the file now.
    pub(crate) fn len(&self) -> Result<u64> {
        if let Some(map) = &self.map {
            return Ok(map.len() as u64);
        }
        self.file.len().map_err(|error| read_error(&self.path, error))
    }
}

/// The error for a segment that cannot be read.
pub(crate) fn read_error(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Unavailable,
    };
    Error::wrap(kind, format!("cannot read {}", path.display()), error)
}

/// Reads until `buf` is full or the file ends.
pub(crate) fn read_up_to(file: &dyn File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buf.len() {
        match file.read_at(&mut buf[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
