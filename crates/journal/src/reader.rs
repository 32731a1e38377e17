//! Reading without the writer and without locks.
//!
//! A [`Reader`] is a view of which segments there were when it was opened; [`Records`] walks their frames and holds one
//! frame at a time. What the writer appends meanwhile to the last segment is found too.

use std::path::{Path, PathBuf};

use crate::frame::{self, Decoder, FrameHeader};
use crate::manifest::Sealed;
use crate::options::Env;
use crate::record::{self, OwnedRecord, RecordRef};
use crate::recover::Layout;
use crate::segment::{Found, Segment};
use crate::{Error, Result};

/// A journal open for reading.
#[derive(Debug)]
pub struct Reader {
    env: Env,
    dir: PathBuf,
    segments: Vec<Part>,
}

/// A segment and what is known of it.
#[derive(Debug, Clone, Copy)]
struct Part {
    first: u64,
    generation: u32,
    /// Where the next segment begins; `None` for the last.
    end: Option<u64>,
}

impl Reader {
    /// Opens the journal in `dir`.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Damaged` when the manifest cannot be read.
    pub fn open(env: Env, dir: &Path) -> Result<Self> {
        let layout = Layout::discover(&*env.fs, dir)?;
        let listed = layout.manifest.sealed.iter().map(|sealed: &Sealed| (sealed.first, sealed.generation));
        let names: Vec<(u64, u32)> = listed.chain(layout.unlisted.iter().copied()).collect();
        if names.is_empty() {
            return Err(Error::new(weir_base::Kind::NotFound, format!("no journal in {}", dir.display())));
        }
        let mut segments: Vec<Part> = Vec::with_capacity(names.len());
        for (index, &(first, generation)) in names.iter().enumerate() {
            segments.push(Part { first, generation, end: names.get(index + 1).map(|next| next.0) });
        }
        Ok(Self { env, dir: dir.to_path_buf(), segments })
    }

    /// First sequence that the journal holds.
    pub fn first_sequence(&self) -> u64 {
        self.segments[0].first
    }

    /// The records from `sequence` on, in order. Holds one frame in memory.
    pub fn records_from(&self, sequence: u64) -> Records<'_> {
        let at = self.segments.partition_point(|part| part.end.is_some_and(|end| end <= sequence));
        Records {
            reader: self,
            part: at,
            from: sequence,
            cursor: None,
            decoder: Decoder::new(),
            stored: Vec::new(),
            raw: Vec::new(),
            frame: None,
            failed: false,
        }
    }

    fn open_part(&self, part: &Part) -> Result<Segment> {
        let path = self.dir.join(crate::segment::file_name(part.first, part.generation));
        Segment::open(&*self.env.fs, &path, part.first, part.generation)
    }
}

/// A place in a segment.
#[derive(Debug)]
struct Cursor {
    segment: Segment,
    offset: u64,
    next: u64,
    end: Option<u64>,
}

/// Records in the order of their sequences; after an error it ends.
#[derive(Debug)]
pub struct Records<'a> {
    reader: &'a Reader,
    part: usize,
    from: u64,
    cursor: Option<Cursor>,
    decoder: Decoder,
    stored: Vec<u8>,
    raw: Vec<u8>,
    /// Header of the frame in `raw`, bytes of it consumed, and the state of decoding.
    frame: Option<FramePosition>,
    failed: bool,
}

#[derive(Debug)]
struct FramePosition {
    header: FrameHeader,
    consumed: usize,
    left: u32,
    next: u64,
    time: i64,
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
    fn of(record: &RecordRef<'_>, end: usize) -> Self {
        let RecordRef { sequence, time, kind, key, payload } = *record;
        Self { sequence, time, kind, key_len: key.len(), payload_len: payload.len(), end }
    }

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

impl Records<'_> {
    /// The next record, borrowed from the frame in memory; `None` at the end.
    ///
    /// # Errors
    /// `Damaged` where synced bytes cannot be read, `Unavailable` when the disk refuses.
    pub fn next_ref(&mut self) -> Result<Option<RecordRef<'_>>> {
        loop {
            if self.frame.as_ref().is_none_or(|frame| frame.left == 0) && !self.load_frame()? {
                return Ok(None);
            }
            if let Some(place) = self.step()? {
                return Ok(Some(place.record(&self.raw)));
            }
        }
    }

    /// Decodes the next record of the frame; `None` when it lies before what was asked for.
    fn step(&mut self) -> Result<Option<Place>> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let rest = &self.raw[frame.consumed..];
        let mut records = record::Records::new(rest, frame.next, frame.header.end, frame.left, frame.time);
        let Some(record) = records.next_record().map_err(Error::damaged)? else { return Ok(None) };
        frame.consumed = self.raw.len() - records.rest_len();
        frame.left -= 1;
        (frame.next, frame.time) = (record.sequence + 1, record.time);
        Ok((record.sequence >= self.from).then(|| Place::of(&record, frame.consumed)))
    }

    /// Loads the next frame that holds something at or past `from`; `false` at the end of the journal.
    fn load_frame(&mut self) -> Result<bool> {
        self.frame = None;
        loop {
            if self.cursor.is_none() && !self.open_next()? {
                return Ok(false);
            }
            let Some(cursor) = &mut self.cursor else { continue };
            if cursor.end.is_some_and(|end| cursor.next >= end) {
                self.cursor = None;
                self.part += 1;
                continue;
            }
            let len = cursor.segment.len()?;
            match cursor.segment.at(cursor.offset, len, cursor.next)? {
                Found::Frame(header) => {
                    if !self.read_frame(header)? {
                        return Ok(false);
                    }
                    if self.frame.is_some() {
                        return Ok(true);
                    }
                }
                Found::End if cursor.end.is_none() => return Ok(false),
                Found::End => return Err(cursor.damage("segment ends early")),
                Found::Bad(what) => {
                    cursor.torn_or_damaged(len, what)?;
                    return Ok(false);
                }
            }
        }
    }

    /// Reads the frame at the cursor, unless it lies before what was asked for; `false` where a torn tail begins.
    fn read_frame(&mut self, header: FrameHeader) -> Result<bool> {
        let Some(cursor) = &mut self.cursor else { return Ok(false) };
        if header.records > 0 && header.end > self.from {
            if !cursor.segment.read_stored(&header, cursor.offset, &mut self.stored)? {
                let len = cursor.segment.len()?;
                cursor.torn_or_damaged(len, "frame does not match its checksum")?;
                return Ok(false);
            }
            let of = &cursor.segment.header;
            self.decoder
                .decode(&header, &self.stored, of.salt, &of.dictionary, &mut self.raw)
                .map_err(|what| cursor.damage(what))?;
            self.frame = Some(FramePosition {
                header,
                consumed: 0,
                left: header.records,
                next: header.first,
                time: header.time_min,
            });
        }
        cursor.offset += header.len();
        cursor.next = header.end;
        Ok(true)
    }

    fn open_next(&mut self) -> Result<bool> {
        let Some(part) = self.reader.segments.get(self.part) else { return Ok(false) };
        let segment = self.reader.open_part(part)?;
        let (offset, next) = (segment.header.len(), segment.header.first);
        self.cursor = Some(Cursor { segment, offset, next, end: part.end });
        Ok(true)
    }
}

impl Cursor {
    /// J1: bad bytes below a mark are damage; past all marks they are a torn tail, or a frame being written.
    fn torn_or_damaged(&self, len: u64, what: &str) -> Result<()> {
        if self.end.is_some() {
            return Err(self.damage(what));
        }
        let mut offset = self.offset;
        let mut mark = self.segment.header.mark;
        while let Some((at, header)) = self.segment.find_frame(offset, len)? {
            mark = mark.max(header.mark);
            offset = at + frame::HEADER_LEN as u64;
        }
        if self.next < mark { Err(self.damage(what)) } else { Ok(()) }
    }

    fn damage(&self, what: &str) -> Error {
        Error::damaged(format!(
            "segment {} is damaged at byte {}, sequence {}: {what}",
            self.segment.path.display(),
            self.offset,
            self.next
        ))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<OwnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.next_ref() {
            Ok(record) => record.map(|record| Ok(record.to_owned())),
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}
