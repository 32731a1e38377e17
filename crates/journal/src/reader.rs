//! Reading without the writer and without locks.
//!
//! A [`Reader`] knows which segments there were when it was opened. [`Records`] answers a [`Query`]: it goes from segment to
//! segment, takes the frames that may hold an answer (from the footer where there is one, else by walking the frame headers), and
//! holds one frame in memory at a time. What the writer appends meanwhile to the last segment is found too.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use weir_base::Kind;

use crate::frame;
use crate::index::{FrameEntry, Index, Lookup};
use crate::manifest::Sealed;
use crate::options::Env;
use crate::record::OwnedRecord;
use crate::records::Records;
use crate::recover::Layout;
use crate::segment::{self, Found, Segment};
use crate::verify::Verification;
use crate::{Error, Result};

/// Which records, in which order. The default is all, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Sequences to read.
    pub sequences: RangeInclusive<u64>,
    /// Times to read.
    pub times: RangeInclusive<i64>,
    /// Keys to read.
    pub key: KeyMatch,
    /// Kinds to read; empty for all.
    pub kinds: Vec<u16>,
    /// Newest first.
    pub backward: bool,
    /// Go on behind damaged bytes; [`Records::lost`] says what was skipped.
    pub salvage: bool,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            sequences: 0..=u64::MAX,
            times: i64::MIN..=i64::MAX,
            key: KeyMatch::Any,
            kinds: Vec::new(),
            backward: false,
            salvage: false,
        }
    }
}

/// Which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMatch {
    /// All.
    Any,
    /// This one.
    Is(Vec<u8>),
    /// Those that begin with these bytes.
    Begins(Vec<u8>),
}

impl KeyMatch {
    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        match self {
            KeyMatch::Any => true,
            KeyMatch::Is(wanted) => wanted == key,
            KeyMatch::Begins(prefix) => key.starts_with(prefix),
        }
    }
}

/// Sequences that could not be read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The segment.
    pub file: PathBuf,
    /// Where the bad bytes begin.
    pub offset: u64,
    /// How many bytes are bad.
    pub bytes: u64,
    /// The first sequence that is lost.
    pub first: u64,
    /// The sequence after the last one that is lost.
    pub end: u64,
    /// What is wrong.
    pub what: String,
}

/// A segment and what is known of it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) first: u64,
    pub(crate) generation: u32,
    /// Where the next segment begins; `None` for the last.
    pub(crate) end: Option<u64>,
    /// What the manifest says of it, if it is listed.
    listed: Option<Sealed>,
    index: OnceLock<Option<Arc<Index>>>,
    /// The open file, kept for the next query: what was read once is read from the same files, also when compaction has
    /// replaced them since.
    open: OnceLock<Segment>,
}

/// Files of segments that a reader keeps open between queries.
const FILES_OPEN_MAX: usize = 128;

impl Part {
    /// What the manifest says of it, if it is listed.
    pub(crate) fn listed(&self) -> Option<&Sealed> {
        self.listed.as_ref()
    }
}

/// A journal open for reading.
#[derive(Debug)]
pub struct Reader {
    env: Env,
    dir: PathBuf,
    pub(crate) parts: Arc<Vec<Part>>,
    mapped: bool,
}

impl Reader {
    /// Opens the journal in `dir`. Footers are loaded when a query first needs them and kept: about 1.5 bytes a
    /// distinct key and 40 bytes a frame. So are the files of the first 128 sealed segments that were needed.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Damaged` when the manifest cannot be read.
    pub fn open(env: Env, dir: &Path) -> Result<Self> {
        let layout = Layout::discover(&*env.fs, dir)?;
        let parts = parts(&layout);
        if parts.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("no journal in {}", dir.display())));
        }
        Ok(Self { env, dir: dir.to_path_buf(), parts: Arc::new(parts), mapped: false })
    }

    /// The same, with sealed segments mapped into memory: faster, but an unreadable sector ends the process.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_mapped(env: Env, dir: &Path) -> Result<Self> {
        Ok(Self { mapped: true, ..Self::open(env, dir)? })
    }

    /// Looks again which segments there are.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn refresh(&mut self) -> Result<()> {
        *self = Self { mapped: self.mapped, ..Self::open(self.env.clone(), &self.dir)? };
        Ok(())
    }

    /// First sequence that the journal holds.
    pub fn first_sequence(&self) -> u64 {
        self.parts[0].first
    }

    /// The records from `sequence` on, oldest first. Holds one frame in memory.
    pub fn records_from(&self, sequence: u64) -> Records {
        self.query(Query { sequences: sequence..=u64::MAX, ..Query::default() })
    }

    /// The records that a query asks for. Holds one frame in memory.
    pub fn query(&self, query: Query) -> Records {
        Records::new(self.fork(), query)
    }

    /// The newest record with this key.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn get(&self, key: &[u8]) -> Result<Option<OwnedRecord>> {
        let query = Query { key: KeyMatch::Is(key.to_vec()), backward: true, ..Query::default() };
        self.query(query).next().transpose()
    }

    /// The record with this sequence.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn get_sequence(&self, sequence: u64) -> Result<Option<OwnedRecord>> {
        self.query(Query { sequences: sequence..=sequence, ..Query::default() }).next().transpose()
    }

    /// Distinct keys that begin with `prefix`, in order, at most `limit`.
    ///
    /// # Errors
    /// `Damaged`, `Unavailable`.
    pub fn keys(&self, prefix: &[u8], limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut found = BTreeSet::new();
        for part in self.parts.iter() {
            let segment = self.open_part(part)?;
            let known = match self.index(part, &segment)? {
                Some(index) => index.with_prefix(&segment, prefix, limit)?,
                None => None,
            };
            if let Some(keys) = known {
                found.extend(keys.into_iter().map(|(key, _)| key));
            } else {
                let last = part.end.map_or(u64::MAX, |end| end - 1);
                let key = KeyMatch::Begins(prefix.to_vec());
                let mut records = self.query(Query { key, sequences: part.first..=last, ..Query::default() });
                while let Some(record) = records.next_ref()? {
                    if !record.key.is_empty() && !found.contains(record.key) {
                        found.insert(record.key.to_vec());
                        if found.len() > limit {
                            found.pop_last();
                        }
                    }
                }
            }
        }
        Ok(found.into_iter().take(limit).collect())
    }

    /// What the journal holds, from manifest and frame headers alone: payloads are not read, so that damage in them is not seen
    /// (that is what [`crate::verify()`] is for).
    ///
    /// # Errors
    /// `Unavailable` when the disk refuses.
    pub fn statistics(&self) -> Result<Verification> {
        let mut found = Verification { first_sequence: self.first_sequence(), ..Verification::default() };
        found.next_sequence = found.first_sequence;
        for part in self.parts.iter() {
            let path = self.path_of(part);
            found.segments += 1;
            match self.env.fs.metadata(&path) {
                Ok(metadata) => found.stored_bytes += metadata.len,
                Err(error) => {
                    found.lose(path, part, &segment::read_error(&self.path_of(part), error));
                    continue;
                }
            }
            if let Some(sealed) = part.listed {
                found.add(sealed.records, sealed.raw_bytes, sealed.time_min, sealed.time_max, sealed.end);
                continue;
            }
            let segment = match self.open_part(part) {
                Ok(segment) => segment,
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) => {
                    found.lose(path, part, &error);
                    continue;
                }
            };
            let mut cursor = Cursor::new(segment, part.end);
            while let Some((header, _)) = cursor.next(true, &mut found.damage)? {
                let records = u64::from(header.records);
                found.add(records, u64::from(header.raw_len), header.time_min, header.time_max, header.end);
            }
        }
        Ok(found)
    }

    /// The one key that begins with `prefix`, or is it.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Conflict` when there are several, `Damaged`, `Unavailable`.
    pub fn unique_key(&self, prefix: &[u8]) -> Result<Vec<u8>> {
        let mut found = self.keys(prefix, 2)?;
        let shown = String::from_utf8_lossy(prefix).into_owned();
        match found.len() {
            0 => Err(Error::new(Kind::NotFound, format!("no key begins with '{shown}'"))),
            1 => Ok(found.remove(0)),
            _ if found[0] == prefix => Ok(found.remove(0)),
            _ => Err(Error::new(Kind::Conflict, format!("several keys begin with '{shown}'"))),
        }
    }

    pub(crate) fn fork(&self) -> Self {
        Self { env: self.env.clone(), dir: self.dir.clone(), parts: Arc::clone(&self.parts), mapped: self.mapped }
    }

    pub(crate) fn path_of(&self, part: &Part) -> PathBuf {
        self.dir.join(segment::file_name(part.first, part.generation))
    }

    pub(crate) fn open_part(&self, part: &Part) -> Result<Segment> {
        if let Some(open) = part.open.get() {
            return Ok(open.clone());
        }
        let path = self.path_of(part);
        let mut segment = Segment::open(&*self.env.fs, &path, part.first, part.generation)?;
        if self.mapped && part.listed.is_some() {
            segment.map();
        }
        let kept = self.parts.iter().filter(|part| part.open.get().is_some()).count();
        if kept < FILES_OPEN_MAX {
            return Ok(part.open.get_or_init(|| segment).clone());
        }
        Ok(segment)
    }

    /// The footer of a sealed segment, loaded once.
    pub(crate) fn index(&self, part: &Part, segment: &Segment) -> Result<Option<Arc<Index>>> {
        if part.listed.is_none() {
            return Ok(None);
        }
        if let Some(known) = part.index.get() {
            return Ok(known.clone());
        }
        let loaded = Index::load(segment)?.filter(|index| index.covers(part)).map(Arc::new);
        Ok(part.index.get_or_init(|| loaded).clone())
    }

    /// Whether a segment cannot hold an answer.
    pub(crate) fn rules_out(part: &Part, query: &Query) -> bool {
        let ends_before = part.end.is_some_and(|end| end <= *query.sequences.start());
        let begins_after = part.first > *query.sequences.end();
        let other_time = part
            .listed
            .is_some_and(|sealed| sealed.time_min > *query.times.end() || sealed.time_max < *query.times.start());
        ends_before || begins_after || other_time
    }

    /// The frames of a sealed segment that may hold an answer, if its footer can tell.
    pub(crate) fn candidates(&self, part: &Part, segment: &Segment, query: &Query) -> Result<Option<Vec<FrameEntry>>> {
        let Some(index) = self.index(part, segment)? else { return Ok(None) };
        let numbers: Option<BTreeSet<u32>> = match &query.key {
            KeyMatch::Any => None,
            KeyMatch::Is(key) => match index.lookup(segment, key)? {
                Lookup::Frames(frames) => {
                    let entries = frames.iter().filter_map(|number| index.frames.get(*number as usize));
                    return Ok(Some(entries.filter(|entry| may_answer(entry, query)).cloned().collect()));
                }
                Lookup::Unknown => None,
            },
            KeyMatch::Begins(prefix) => index
                .with_prefix(segment, prefix, usize::MAX)?
                .map(|keys| keys.into_iter().flat_map(|(_, frames)| frames).collect()),
        };
        let entries = index.frames.iter().enumerate().filter(|(number, entry)| {
            let wanted = numbers.as_ref().is_none_or(|numbers| numbers.contains(&(*number as u32)));
            wanted && may_answer(entry, query)
        });
        Ok(Some(entries.map(|(_, entry)| entry.clone()).collect()))
    }

    /// The frames of a segment by walking their headers, the good ones up to where it ends or is torn.
    pub(crate) fn walk(
        &self,
        part: &Part,
        segment: &Segment,
        query: &Query,
        lost: &mut Vec<Lost>,
    ) -> Result<Vec<FrameEntry>> {
        let mut cursor = Cursor::new(segment.clone(), part.end);
        let mut entries = Vec::new();
        while let Some((header, offset)) = cursor.next(query.salvage, lost)? {
            let entry = FrameEntry::of(&header, offset);
            if may_answer(&entry, query) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

impl Index {
    /// A footer that answers for other sequences than the segment is not its footer.
    fn covers(&self, part: &Part) -> bool {
        let first = self.frames.first().map_or(part.first, |frame| frame.first);
        let end = self.frames.last().map(|frame| frame.end);
        first == part.first && (end == part.end || end.is_none())
    }
}

fn parts(layout: &Layout) -> Vec<Part> {
    let part = |first, generation, listed| Part {
        first,
        generation,
        end: None,
        listed,
        index: OnceLock::new(),
        open: OnceLock::new(),
    };
    let listed = layout.manifest.sealed.iter().map(|sealed| part(sealed.first, sealed.generation, Some(*sealed)));
    let unlisted = layout.unlisted.iter().map(|&(first, generation)| part(first, generation, None));
    let mut parts: Vec<Part> = listed.chain(unlisted).collect();
    for index in 1..parts.len() {
        parts[index - 1].end = Some(parts[index].first);
    }
    parts
}

/// Whether a frame may hold an answer.
pub(crate) fn may_answer(entry: &FrameEntry, query: &Query) -> bool {
    entry.records > 0
        && entry.end > *query.sequences.start()
        && entry.first <= *query.sequences.end()
        && entry.time_min <= *query.times.end()
        && entry.time_max >= *query.times.start()
        && (query.kinds.is_empty()
            || entry.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| query.kinds.contains(kind))))
}

/// Walks the frame headers of a segment.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) segment: Segment,
    pub(crate) offset: u64,
    pub(crate) next: u64,
    /// Where the next segment begins; `None` for the last.
    pub(crate) end: Option<u64>,
    /// Length of the file when it was looked at last.
    pub(crate) len: u64,
}

impl Cursor {
    pub(crate) fn new(segment: Segment, end: Option<u64>) -> Self {
        let (offset, next) = (segment.header.len(), segment.header.first);
        Self { segment, offset, next, end, len: 0 }
    }

    /// The next frame and where it is; `None` at the end, or where a torn tail begins.
    pub(crate) fn next(&mut self, salvage: bool, lost: &mut Vec<Lost>) -> Result<Option<(frame::FrameHeader, u64)>> {
        loop {
            if self.end.is_some_and(|end| self.next >= end) {
                return Ok(None);
            }
            let what = match self.look()? {
                Found::Frame(header) => {
                    let at = self.offset;
                    self.offset += header.len();
                    self.next = header.end;
                    return Ok(Some((header, at)));
                }
                Found::End if self.end.is_none() => return Ok(None),
                Found::End => "segment ends early",
                Found::Bad(what) => what,
            };
            if !self.is_damage(self.offset, self.next)? {
                return Ok(None);
            }
            if !salvage {
                return Err(self.segment.damage(self.offset, self.next, what));
            }
            if !self.skip(self.len, what, lost)? {
                return Ok(None);
            }
        }
    }

    /// What stands here. The file is asked for its length only where its known part ends.
    fn look(&mut self) -> Result<Found> {
        if self.offset < self.len
            && let Found::Frame(header) = self.segment.at(self.offset, self.len, self.next)?
        {
            return Ok(Found::Frame(header));
        }
        self.len = self.segment.len()?;
        self.segment.at(self.offset, self.len, self.next)
    }

    /// J1: bad bytes below a mark are damage; past all marks they are a torn tail, or a frame being written.
    pub(crate) fn is_damage(&self, offset: u64, sequence: u64) -> Result<bool> {
        if self.end.is_some() {
            return Ok(true);
        }
        let len = self.segment.len()?;
        let mut at = offset;
        let mut mark = self.segment.header.mark;
        while let Some((found, header)) = self.segment.find_frame(at, len)? {
            mark = mark.max(header.mark);
            at = found + frame::HEADER_LEN as u64;
        }
        Ok(sequence < mark)
    }

    /// Goes to the next good frame; `false` when there is none.
    fn skip(&mut self, len: u64, what: &str, lost: &mut Vec<Lost>) -> Result<bool> {
        let (from, first) = (self.offset, self.next);
        let mut at = from + 1;
        let found = loop {
            match self.segment.find_frame(at, len)? {
                Some((found, header)) if header.first >= first && header.len() <= len - found => {
                    break Some((found, header.first));
                }
                Some((found, _)) => at = found + 1,
                None => break None,
            }
        };
        let inside = found.filter(|(_, first)| self.end.is_none_or(|end| *first <= end));
        let (to, end) = inside.unwrap_or((len, self.end.unwrap_or(first)));
        lost.push(Lost {
            file: self.segment.path.clone(),
            offset: from,
            bytes: to - from,
            first,
            end,
            what: what.to_owned(),
        });
        (self.offset, self.next) = (to, end);
        Ok(inside.is_some())
    }
}
