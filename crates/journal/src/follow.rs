//! Following the tail: records as they come, across segments and across processes.
//!
//! There is no wake-up between processes: the end of the file is looked at again after a pause.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_base::Kind;

use crate::frame::Decoder;
use crate::options::Env;
use crate::reader::Cursor;
use crate::record::OwnedRecord;
use crate::recover::Layout;
use crate::segment::{self, Segment};
use crate::{Error, Result};

/// Reads records as they come. Holds the records of one frame.
///
/// A record may be seen before it was synced; if its append fails it is taken back, and the sequence goes to another.
#[derive(Debug)]
pub struct Follow {
    env: Env,
    dir: PathBuf,
    from: u64,
    place: Option<(u64, u32)>,
    cursor: Option<Cursor>,
    decoder: Decoder,
    ready: VecDeque<OwnedRecord>,
}

/// Pause between two looks at the end.
const PAUSE: Duration = Duration::from_millis(20);

impl Follow {
    /// Follows the journal in `dir` from `sequence` on.
    pub fn new(env: Env, dir: &Path, sequence: u64) -> Self {
        Self {
            env,
            dir: dir.to_path_buf(),
            from: sequence,
            place: None,
            cursor: None,
            decoder: Decoder::new(),
            ready: VecDeque::new(),
        }
    }

    /// The next record; waits at most `wait` for it, and returns `None` when none came.
    ///
    /// # Errors
    /// `NotFound` when there is no journal, `Damaged`, `Unavailable`.
    pub fn next_within(&mut self, wait: Duration) -> Result<Option<OwnedRecord>> {
        let until = self.env.clock.monotonic() + wait;
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.from = record.sequence + 1;
                return Ok(Some(record));
            }
            if self.load()? {
                continue;
            }
            if self.env.clock.monotonic() >= until {
                return Ok(None);
            }
            self.env.clock.sleep(PAUSE);
        }
    }

    /// Loads a frame or moves to another segment; `false` at the end.
    fn load(&mut self) -> Result<bool> {
        if self.cursor.is_none() && !self.find_segment()? {
            return Ok(false);
        }
        let Some(cursor) = &mut self.cursor else { return Ok(false) };
        let before = (cursor.offset, cursor.next);
        let Some((header, offset)) = cursor.next(false, &mut Vec::new())? else {
            return self.find_segment();
        };
        if header.end <= self.from || header.records == 0 {
            return Ok(true);
        }
        let (mut stored, mut raw) = (Vec::new(), Vec::new());
        let segment = cursor.segment.clone();
        if segment.stored(&header, offset, &mut stored)?.is_none() && !cursor.is_damage(offset, header.first)? {
            // Being written: look again later.
            (cursor.offset, cursor.next) = before;
            return Ok(false);
        }
        segment.decode(&header, offset, &mut self.decoder, &mut stored, &mut raw)?;
        let mut records = header.records(&raw);
        while let Some(record) = records.next_record().map_err(|what| segment.damage(offset, header.first, what))? {
            if record.sequence >= self.from {
                self.ready.push_back(record.to_owned());
            }
        }
        Ok(true)
    }

    /// Goes to the segment that holds the next sequence, if that is another one than now.
    fn find_segment(&mut self) -> Result<bool> {
        let layout = Layout::discover(&*self.env.fs, &self.dir)?;
        let listed = layout.manifest.sealed.iter().map(|sealed| (sealed.first, sealed.generation));
        let names: Vec<(u64, u32)> = listed.chain(layout.unlisted.iter().copied()).collect();
        let wanted = self.cursor.as_ref().map_or(self.from, |cursor| cursor.next.max(self.from));
        let at = names.partition_point(|(first, _)| *first <= wanted).saturating_sub(1);
        let Some(&(first, generation)) = names.get(at) else {
            return Err(Error::new(Kind::NotFound, format!("no journal in {}", self.dir.display())));
        };
        if self.place == Some((first, generation)) {
            return Ok(false);
        }
        let path = self.dir.join(segment::file_name(first, generation));
        let segment = match Segment::open(&*self.env.fs, &path, first, generation) {
            // Replaced since the folder was read: look again later.
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            opened => opened?,
        };
        self.cursor = Some(Cursor::new(segment, names.get(at + 1).map(|(next, _)| *next)));
        self.place = Some((first, generation));
        Ok(true)
    }
}
