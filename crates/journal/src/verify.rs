//! Verifying: reads everything, and says exactly what is wrong. Changes nothing, takes no lock.

use std::path::{Path, PathBuf};

use crate::frame::Decoder;
use crate::index::{self, Index};
use crate::options::Env;
use crate::reader::{Cursor, Lost, Part, Reader};
use crate::recover::TornTail;
use crate::segment::{Found, Segment};
use crate::{Error, Result};

/// What is in a journal and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Segments.
    pub segments: u64,
    /// Frames that could be read.
    pub frames: u64,
    /// Records that could be read.
    pub records: u64,
    /// Bytes of these records before compression.
    pub raw_bytes: u64,
    /// Bytes of the segments' files.
    pub stored_bytes: u64,
    /// First sequence that the journal answers for.
    pub first_sequence: u64,
    /// The sequence after the last one that was found.
    pub next_sequence: u64,
    /// Smallest and largest time of a record; `None` without records.
    pub times: Option<(i64, i64)>,
    /// Bytes below a mark that cannot be read.
    pub damage: Vec<Lost>,
    /// Bytes past every mark that cannot be read: the next writer cuts them.
    pub torn: Option<TornTail>,
    /// Sealed segments whose footer is missing or bad; reading them by key is slow until a repair.
    pub footers_bad: Vec<PathBuf>,
}

/// Reads and checks everything in the journal in `dir`. Holds one frame, and one segment's footer.
///
/// # Errors
/// `NotFound` when there is no journal, `Damaged` when the manifest cannot be read, `Unavailable`.
pub fn verify(env: &Env, dir: &Path) -> Result<Verification> {
    let reader = Reader::open(env.clone(), dir)?;
    let mut found = Verification { first_sequence: reader.first_sequence(), ..Verification::default() };
    found.next_sequence = found.first_sequence;
    for part in reader.parts.iter() {
        found.segments += 1;
        let path = reader.path_of(part);
        found.stored_bytes += env.fs.metadata(&path).map_or(0, |metadata| metadata.len);
        match reader.open_part(part) {
            Ok(segment) => verify_segment(&segment, part, &mut found)?,
            Err(error) if error.kind() == weir_base::Kind::Unavailable => return Err(error),
            Err(error) => found.lose(path, part, &error),
        }
    }
    Ok(found)
}

impl Verification {
    /// Counts a frame or a segment.
    pub(crate) fn add(&mut self, records: u64, raw_bytes: u64, time_min: i64, time_max: i64, end: u64) {
        self.records += records;
        self.raw_bytes += raw_bytes;
        self.next_sequence = end;
        if records > 0 {
            let (min, max) = self.times.unwrap_or((i64::MAX, i64::MIN));
            self.times = Some((min.min(time_min), max.max(time_max)));
        }
    }

    /// Notes a segment that cannot be opened.
    pub(crate) fn lose(&mut self, file: PathBuf, part: &Part, error: &Error) {
        let end = part.end.unwrap_or(part.first);
        let what = weir_base::error::chain(error);
        self.damage.push(Lost { file, offset: 0, bytes: 0, first: part.first, end, what });
    }
}

fn verify_segment(segment: &Segment, part: &Part, found: &mut Verification) -> Result<()> {
    let mut cursor = Cursor::new(segment.clone(), part.end);
    let mut decoder = Decoder::new();
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    let damage_before = found.damage.len();
    let mut torn_at = None;
    while let Some((header, offset)) = cursor.next(true, &mut found.damage)? {
        let mut outcome = segment.decode(&header, offset, &mut decoder, &mut stored, &mut raw);
        if outcome.is_ok() {
            outcome = check_records(segment, &header, offset, &raw);
        }
        match outcome {
            Ok(()) => {
                found.frames += 1;
                let records = u64::from(header.records);
                found.add(records, u64::from(header.raw_len), header.time_min, header.time_max, header.end);
            }
            Err(error) if error.kind() == weir_base::Kind::Damaged => {
                if !cursor.is_damage(offset, header.first)? {
                    torn_at = Some((offset, header.first));
                    break;
                }
                found.damage.push(Lost {
                    file: segment.path.clone(),
                    offset,
                    bytes: header.len(),
                    first: header.first,
                    end: header.end,
                    what: error.to_string(),
                });
            }
            Err(error) => return Err(error),
        }
    }
    let len = segment.len()?;
    let (offset, sequence) = torn_at.unwrap_or((cursor.offset, cursor.next));
    if part.end.is_none() {
        let room = torn_at.is_none() && matches!(segment.at(offset, len, sequence)?, Found::End);
        if offset < len && !room {
            found.torn = Some(TornTail { file: segment.path.clone(), offset, bytes: len - offset, sequence });
        }
    } else if found.damage.len() == damage_before
        && let Some(listed) = part.listed()
        // Not where the walk ended: a frame that only carries a mark may follow.
        && !footer_is_good(segment, listed.frames_end)?
    {
        found.footers_bad.push(segment.path.clone());
    }
    Ok(())
}

/// Whether the raw bytes are the records that the header announces.
pub(crate) fn check_records(
    segment: &Segment,
    header: &crate::frame::FrameHeader,
    offset: u64,
    raw: &[u8],
) -> Result<()> {
    let mut records = header.records(raw);
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    while let Some(record) = records.next_record().map_err(|what| segment.damage(offset, header.first, what))? {
        (min, max) = (min.min(record.time), max.max(record.time));
    }
    if header.records > 0 && (min, max) != (header.time_min, header.time_max) {
        return Err(segment.damage(offset, header.first, "times are not those of the header"));
    }
    Ok(())
}

/// Whether the footer in the file says what one built from the frames would say.
pub(crate) fn footer_is_good(segment: &Segment, frames_end: u64) -> Result<bool> {
    let Some(index) = Index::load(segment)? else { return Ok(false) };
    index.equals_rebuilt(segment, &index::build(segment, frames_end)?, frames_end)
}
