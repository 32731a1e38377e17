//! The manifest: which sealed segments count. Replaced atomically; a reader sees the old one or the new.

use std::path::{Path, PathBuf};

use weir_base::FileSystem;
use weir_base::checksum::crc32c;

use crate::frame::{u32_at, u64_at};
use crate::segment;
use crate::{Error, Result};

const NAME: &str = "manifest";
const MAGIC: [u8; 8] = *b"WEIRMANI";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 40;
const ENTRY_LEN: usize = 72;

/// A sealed segment: it never changes but for its footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) generation: u32,
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
    /// Where the frames end and the footer begins.
    pub(crate) frames_end: u64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
    pub(crate) salt: u64,
}

impl Sealed {
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(segment::file_name(self.first, self.generation))
    }
}

/// The list of sealed segments and the range that it answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) edition: u64,
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) sealed: Vec<Sealed>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { edition: 0, first: 1, end: 1, sealed: Vec::new() }
    }
}

impl Manifest {
    /// The manifest of the journal in `dir`; the empty one where there is none yet.
    pub(crate) fn load(fs: &dyn FileSystem, dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        match fs.read(&path) {
            Ok(bytes) => {
                Self::parse(&bytes).map_err(|what| Error::damaged(format!("manifest {}: {what}", path.display())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(segment::read_error(&path, error)),
        }
    }

    /// Puts this manifest in the place of the one before, so that a crash leaves one of the two.
    pub(crate) fn store(&self, fs: &dyn FileSystem, dir: &Path) -> Result<()> {
        fs.replace(&dir.join(NAME), &self.to_bytes())
            .map_err(|error| Error::io(format!("cannot replace the manifest in {}", dir.display()), error))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + ENTRY_LEN * self.sealed.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.sealed.len() as u32).to_le_bytes());
        for number in [self.edition, self.first, self.end] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for sealed in &self.sealed {
            let numbers = [
                sealed.first,
                sealed.end,
                u64::from(sealed.generation),
                sealed.records,
                sealed.raw_bytes,
                sealed.frames_end,
                sealed.time_min as u64,
                sealed.time_max as u64,
                sealed.salt,
            ];
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        }
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let checked = bytes.len().checked_sub(4).ok_or("too short")?;
        if checked < HEADER_LEN || bytes[..8] != MAGIC {
            return Err("not a manifest");
        }
        if u32_at(bytes, checked) != crc32c(&bytes[..checked]) {
            return Err("does not match its checksum");
        }
        if u32_at(bytes, 8) != VERSION {
            return Err("has a format version that this release does not know");
        }
        if checked != HEADER_LEN + ENTRY_LEN * u32_at(bytes, 12) as usize {
            return Err("has another length than it says");
        }
        let sealed: Option<Vec<Sealed>> = bytes[HEADER_LEN..checked].chunks_exact(ENTRY_LEN).map(parse_entry).collect();
        let manifest = Self {
            edition: u64_at(bytes, 16),
            first: u64_at(bytes, 24),
            end: u64_at(bytes, 32),
            sealed: sealed.ok_or("has an impossible entry")?,
        };
        if manifest.is_chain() { Ok(manifest) } else { Err("its segments do not follow each other") }
    }

    fn is_chain(&self) -> bool {
        let mut next = self.first;
        for sealed in &self.sealed {
            if sealed.first != next || sealed.end < sealed.first {
                return false;
            }
            next = sealed.end;
        }
        next == self.end
    }
}

fn parse_entry(bytes: &[u8]) -> Option<Sealed> {
    Some(Sealed {
        first: u64_at(bytes, 0),
        end: u64_at(bytes, 8),
        generation: u32::try_from(u64_at(bytes, 16)).ok()?,
        records: u64_at(bytes, 24),
        raw_bytes: u64_at(bytes, 32),
        frames_end: u64_at(bytes, 40),
        time_min: u64_at(bytes, 48) as i64,
        time_max: u64_at(bytes, 56) as i64,
        salt: u64_at(bytes, 64),
    })
}
