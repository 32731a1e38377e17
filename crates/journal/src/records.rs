//! [`Records`]: the answer to a query, a frame at a time.

use std::collections::VecDeque;

use weir_base::Kind;

use crate::frame::{Decoder, FrameHeader};
use crate::index::FrameEntry;
use crate::reader::{Cursor, Lost, Query, Reader, may_answer};
use crate::record::{OwnedRecord, RecordRef};
use crate::segment::{Found, Segment};
use crate::{Error, Result};

/// Records in the order that the query asked for; after an error it ends.
#[derive(Debug)]
pub struct Records {
    reader: Reader,
    query: Query,
    /// The segments still to be read: `parts[from..to]` of the reader.
    from: usize,
    to: usize,
    source: Source,
    decoder: Decoder,
    stored: Vec<u8>,
    raw: Vec<u8>,
    places: VecDeque<Place>,
    /// The first sequence that was not answered yet, going forward; the one after the last, going backward.
    position: u64,
    lost: Vec<Lost>,
    ended: bool,
}

/// Where frames come from.
#[derive(Debug)]
enum Source {
    /// The next segment is to be opened.
    Closed,
    /// Walking the headers.
    Walk(Cursor),
    /// Listed in the order in which they are read.
    List(Segment, Option<u64>, VecDeque<FrameEntry>),
}

/// Where a record lies in the raw bytes of its frame; key and payload are the last bytes before `end`.
#[derive(Debug, Clone, Copy)]
struct Place {
    sequence: u64,
    time: i64,
    kind: u16,
    key_len: usize,
    payload_len: usize,
    end: usize,
}

impl Place {
    fn record(self, raw: &[u8]) -> RecordRef<'_> {
        let payload_at = self.end - self.payload_len;
        RecordRef {
            sequence: self.sequence,
            time: self.time,
            kind: self.kind,
            key: &raw[payload_at - self.key_len..payload_at],
            payload: &raw[payload_at..self.end],
        }
    }
}

impl Records {
    pub(crate) fn new(reader: Reader, query: Query) -> Self {
        let to = reader.parts.len();
        let position = if query.backward { u64::MAX } else { 0 };
        Self {
            reader,
            query,
            from: 0,
            to,
            source: Source::Closed,
            decoder: Decoder::new(),
            stored: Vec::new(),
            raw: Vec::new(),
            places: VecDeque::new(),
            position,
            lost: Vec::new(),
            ended: false,
        }
    }

    /// What a salvaging query skipped so far.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// The next record, borrowed from the frame in memory; `None` at the end.
    ///
    /// # Errors
    /// `Damaged` where synced bytes cannot be read, `Unavailable` when the disk refuses.
    pub fn next_ref(&mut self) -> Result<Option<RecordRef<'_>>> {
        while self.places.is_empty() {
            if self.ended || !self.load()? {
                self.ended = true;
                return Ok(None);
            }
        }
        let place = if self.query.backward { self.places.pop_back() } else { self.places.pop_front() };
        Ok(place.map(|place| place.record(&self.raw)))
    }

    /// Loads the next frame; `false` at the end.
    fn load(&mut self) -> Result<bool> {
        if matches!(self.source, Source::Closed) {
            return self.open_segment();
        }
        match &mut self.source {
            Source::Closed => {}
            Source::Walk(cursor) => match cursor.next(self.query.salvage, &mut self.lost)? {
                Some((header, offset)) if may_answer(&FrameEntry::of(&header, offset), &self.query) => {
                    let (segment, end) = (cursor.segment.clone(), cursor.end);
                    if !self.read(&segment, end, header, offset)? {
                        self.source = Source::Closed;
                    }
                }
                Some(_) => {}
                None => self.source = Source::Closed,
            },
            Source::List(segment, end, entries) => {
                let next = if self.query.backward { entries.pop_back() } else { entries.pop_front() };
                let Some(entry) = next else {
                    self.source = Source::Closed;
                    return Ok(true);
                };
                let (segment, end) = (segment.clone(), *end);
                let len = segment.len()?;
                match segment.at(entry.offset, len, entry.first)? {
                    Found::Frame(header) => drop(self.read(&segment, end, header, entry.offset)?),
                    Found::End | Found::Bad(_) => self.bad(&segment, &entry, "no valid frame header")?,
                }
            }
        }
        Ok(true)
    }

    /// Opens the next segment that may hold an answer; `false` when there is none.
    fn open_segment(&mut self) -> Result<bool> {
        let backward = self.query.backward;
        while self.from < self.to {
            let at = if backward { self.to - 1 } else { self.from };
            let parts = std::sync::Arc::clone(&self.reader.parts);
            let part = &parts[at];
            if !Reader::rules_out(part, &self.query) {
                let segment = match self.reader.open_part(part) {
                    Ok(segment) => segment,
                    Err(error) if error.kind() == Kind::NotFound => {
                        self.look_again(error)?;
                        continue;
                    }
                    Err(error) if self.query.salvage && error.kind() == Kind::Damaged => {
                        self.lose_part(at, &error);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                self.source = match self.reader.candidates(part, &segment, &self.query)? {
                    Some(entries) => Source::List(segment, part.end, entries.into()),
                    None if backward => {
                        let entries = self.reader.walk(part, &segment, &self.query, &mut self.lost)?;
                        Source::List(segment, part.end, entries.into())
                    }
                    None => Source::Walk(Cursor::new(segment, part.end)),
                };
            }
            self.pass(at);
            if !matches!(self.source, Source::Closed) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The segment at `at` is dealt with.
    fn pass(&mut self, at: usize) {
        if self.query.backward {
            self.to = at;
        } else {
            self.from = at + 1;
        }
    }

    fn lose_part(&mut self, at: usize, error: &Error) {
        let part = &self.reader.parts[at];
        self.lost.push(Lost {
            file: self.reader.path_of(part),
            offset: 0,
            bytes: 0,
            first: part.first,
            end: part.end.unwrap_or(part.first),
            what: error.to_string(),
        });
        self.pass(at);
    }

    /// A listed file is gone: compaction or trimming replaced the manifest, or it is damage.
    fn look_again(&mut self, error: Error) -> Result<()> {
        let before: Vec<(u64, u32)> = self.reader.parts.iter().map(|part| (part.first, part.generation)).collect();
        self.reader.refresh()?;
        let now: Vec<(u64, u32)> = self.reader.parts.iter().map(|part| (part.first, part.generation)).collect();
        if before == now {
            return Err(Error::wrap(Kind::Damaged, "a segment is missing", error));
        }
        (self.from, self.to) = (0, self.reader.parts.len());
        // What was answered already is left out from here on.
        if self.query.backward {
            let end = (*self.query.sequences.end()).min(self.position.saturating_sub(1));
            self.query.sequences = *self.query.sequences.start()..=end;
        } else {
            let start = (*self.query.sequences.start()).max(self.position);
            self.query.sequences = start..=*self.query.sequences.end();
        }
        Ok(())
    }

    /// Puts the matching records of a frame into `places`; `false` where a torn tail begins.
    fn read(&mut self, segment: &Segment, end: Option<u64>, header: FrameHeader, offset: u64) -> Result<bool> {
        if segment.stored(&header, offset, &mut self.stored)?.is_none() {
            let cursor = Cursor { offset, next: header.first, ..Cursor::new(segment.clone(), end) };
            if !cursor.is_damage(offset, header.first)? {
                return Ok(false);
            }
        }
        let decoded = segment.decode(&header, offset, &mut self.decoder, &mut self.stored, &mut self.raw);
        if decoded.is_err() && self.query.salvage {
            self.bad(segment, &FrameEntry::of(&header, offset), "frame does not match its checksum")?;
            return Ok(true);
        }
        decoded?;
        self.places.clear();
        let mut records = header.records(&self.raw);
        loop {
            match records.next_record() {
                Ok(None) => break,
                Ok(Some(record)) if self.wants(&record) => self.places.push_back(Place {
                    sequence: record.sequence,
                    time: record.time,
                    kind: record.kind,
                    key_len: record.key.len(),
                    payload_len: record.payload.len(),
                    end: self.raw.len() - records.rest_len(),
                }),
                Ok(Some(_)) => {}
                Err(what) => {
                    self.bad(segment, &FrameEntry::of(&header, offset), what)?;
                    break;
                }
            }
        }
        self.position = if self.query.backward { header.first } else { header.end };
        Ok(true)
    }

    fn wants(&self, record: &RecordRef<'_>) -> bool {
        self.query.sequences.contains(&record.sequence)
            && self.query.times.contains(&record.time)
            && (self.query.kinds.is_empty() || self.query.kinds.contains(&record.kind))
            && self.query.key.holds(record.key)
    }

    /// A bad frame: noted when salvaging, else an error.
    fn bad(&mut self, segment: &Segment, entry: &FrameEntry, what: &str) -> Result<()> {
        if !self.query.salvage {
            return Err(segment.damage(entry.offset, entry.first, what));
        }
        self.lost.push(Lost {
            file: segment.path.clone(),
            offset: entry.offset,
            bytes: crate::frame::HEADER_LEN as u64 + u64::from(entry.stored_len),
            first: entry.first,
            end: entry.end,
            what: what.to_owned(),
        });
        Ok(())
    }
}

impl Iterator for Records {
    type Item = Result<OwnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_ref() {
            Ok(record) => record.map(|record| Ok(record.to_owned())),
            Err(error) => {
                self.ended = true;
                self.places.clear();
                Some(Err(error))
            }
        }
    }
}
