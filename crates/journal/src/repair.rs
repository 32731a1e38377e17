//! Repair: makes a damaged journal fit for writing again, and says exactly what was lost.
//!
//! A damaged segment is written again without its bad bytes, under a higher generation; a frame that carries the flag "lost"
//! answers for the sequences that are gone. The bad bytes go to `quarantine/`. The old file is removed only after the new one and the
//! manifest that lists it are on the disk, so that a crash leaves the old or the new.

use std::path::{Path, PathBuf};

use weir_base::{Kind, OpenMode};

use crate::frame::{Decoder, FLAG_LOST, FrameHeader};
use crate::index;
use crate::journal;
use crate::manifest::{Manifest, Sealed};
use crate::options::{Env, Options};
use crate::reader::{Cursor, Lost, Part, Reader};
use crate::recover::Staged;
use crate::segment::{self, Segment, SegmentHeader};
use crate::verify::{check_records, footer_is_good};
use crate::{Error, Result};

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repaired {
    /// What was lost.
    pub lost: Vec<Lost>,
    /// Segments that were written again.
    pub segments_rewritten: u64,
    /// Footers that were built again.
    pub footers_rebuilt: u64,
    /// Whether the manifest was damaged and built again from the segments.
    pub manifest_rebuilt: bool,
    /// Where the bad bytes are now.
    pub quarantined: Vec<PathBuf>,
}

/// Repairs the journal in `dir`; takes the writer's lock as `owner`. A torn tail is left to the next opening.
///
/// # Errors
/// `Conflict` when a writer holds the lock, `NotFound` when there is no journal, `Unavailable` when the disk refuses; then nothing is lost
/// that was not lost before.
pub fn repair(env: &Env, dir: &Path, owner: &str, options: &Options) -> Result<Repaired> {
    let _lock = journal::lock(env, dir, owner, options)?;
    let mut repair = Repair { env, dir, done: Repaired::default(), old: Vec::new() };
    repair.manifest()?;
    let reader = Reader::open(env.clone(), dir)?;
    let edition = Manifest::load(&*env.fs, dir)?.edition;
    let mut manifest = Manifest { first: reader.first_sequence(), edition: edition + 1, ..Manifest::default() };
    let mut next = manifest.first;
    for part in reader.parts.iter() {
        if part.first > next {
            let what = "a segment is missing";
            let lost = Lost {
                file: reader.path_of(part),
                offset: 0,
                bytes: 0,
                first: next,
                end: part.first,
                what: what.to_owned(),
            };
            manifest.sealed.push(repair.stand_in(&lost, 0, part.first)?);
        }
        let sealed = repair.part(&reader, part)?;
        let Some(end) = part.end else { break };
        next = end;
        if let Some(sealed) = sealed {
            manifest.sealed.push(sealed);
        }
    }
    manifest.end = manifest.sealed.last().map_or(manifest.first, |sealed| sealed.end);
    if repair.done != Repaired::default() {
        manifest.store(&*env.fs, dir)?;
    }
    for path in &repair.old {
        env.fs.remove_file(path).map_err(|error| Error::io(format!("cannot remove {}", path.display()), error))?;
    }
    for sealed in &manifest.sealed {
        let segment = Segment::open(&*env.fs, &sealed.path(dir), sealed.first, sealed.generation)?;
        if !footer_is_good(&segment, sealed.frames_end)? {
            index::write_footer(env, &segment, sealed.frames_end)?;
            repair.done.footers_rebuilt += 1;
        }
    }
    Ok(repair.done)
}

struct Repair<'a> {
    env: &'a Env,
    dir: &'a Path,
    done: Repaired,
    /// Files that new ones replace.
    old: Vec<PathBuf>,
}

impl Repair<'_> {
    /// Takes a damaged manifest out of the way; what compaction had replaced is told by overlap and generation.
    fn manifest(&mut self) -> Result<()> {
        match Manifest::load(&*self.env.fs, self.dir) {
            Err(error) if error.kind() == Kind::Damaged => {}
            other => return other.map(drop),
        }
        let path = self.dir.join("manifest");
        let bytes = self.env.fs.read(&path).map_err(|error| segment::read_error(&path, error))?;
        self.quarantine("manifest", &bytes)?;
        let mut names: Vec<(u64, u32)> = self
            .env
            .fs
            .list(self.dir)
            .map_err(|error| segment::read_error(self.dir, error))?
            .iter()
            .filter_map(|path| segment::parse_name(path))
            .collect();
        names.sort_unstable_by_key(|&(first, generation)| (first, std::cmp::Reverse(generation)));
        let mut manifest = Manifest { edition: 1, ..Manifest::default() };
        let first = names.first().map_or(1, |name| name.0);
        // Nothing is listed: every segment counts by its name, but for those that a merged one covers.
        (manifest.first, manifest.end) = (first, first);
        let (mut reach, mut reach_generation) = (0, 0);
        for (first, generation) in names {
            let path = self.dir.join(segment::file_name(first, generation));
            if first < reach && generation <= reach_generation {
                self.old.push(path);
                continue;
            }
            if let Ok(segment) = Segment::open(&*self.env.fs, &path, first, generation) {
                let mut cursor = Cursor::new(segment, None);
                while let Some(_frame) = cursor.next(true, &mut Vec::new())? {}
                (reach, reach_generation) = (cursor.next, generation);
                // The tail of a file without generation may be superseded by the next file; only merged ones cover others.
                if generation == 0 {
                    reach = first + 1;
                }
            }
        }
        for path in std::mem::take(&mut self.old) {
            self.env.fs.remove_file(&path).map_err(|error| Error::io("cannot remove a replaced segment", error))?;
        }
        self.done.manifest_rebuilt = true;
        manifest.store(&*self.env.fs, self.dir)
    }

    /// Checks one segment and writes it again if it is damaged; what the manifest is to list for it.
    fn part(&mut self, reader: &Reader, part: &Part) -> Result<Option<Sealed>> {
        let path = reader.path_of(part);
        let segment = match reader.open_part(part) {
            Ok(segment) => segment,
            Err(error) if error.kind() == Kind::Unavailable => return Err(error),
            Err(error) => return self.unreadable(part, path, &error),
        };
        let (lost, sealed) = self.survey(&segment, part)?;
        if lost.is_empty() {
            // Frames that only carry a mark may follow where the survey ended: the manifest knows.
            let sealed = part.listed().filter(|listed| listed.records == sealed.records).copied().unwrap_or(sealed);
            return Ok(part.end.map(|_| sealed));
        }
        for lost in &lost {
            let len = usize::try_from(lost.bytes).unwrap_or(usize::MAX);
            let mut bytes = vec![0; len];
            segment.read_exact(&mut bytes, lost.offset)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.quarantine(&format!("{name}-{}.bytes", lost.offset), &bytes)?;
        }
        let rewritten = self.rewrite(&segment, part, &lost)?;
        self.old.push(path);
        self.done.segments_rewritten += 1;
        self.done.lost.extend(lost);
        Ok(part.end.map(|_| rewritten))
    }

    /// A segment whose header is gone: all of it is lost.
    fn unreadable(&mut self, part: &Part, path: PathBuf, error: &Error) -> Result<Option<Sealed>> {
        let mut bytes = 0;
        if let Ok(content) = self.env.fs.read(&path) {
            bytes = content.len() as u64;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.quarantine(&name, &content)?;
            self.old.push(path.clone());
        }
        let end = part.end.unwrap_or(part.first);
        let what = weir_base::error::chain(error);
        let lost = Lost { file: path, offset: 0, bytes, first: part.first, end, what };
        let sealed = self.stand_in(&lost, part.generation + 1, end)?;
        Ok(part.end.map(|_| sealed))
    }

    /// A segment that says that these sequences are lost.
    fn stand_in(&mut self, lost: &Lost, generation: u32, end: u64) -> Result<Sealed> {
        let header = SegmentHeader::new(self.env, self.dir, lost.first, generation, Vec::new());
        let mut staged = Staged::new(self.env, self.dir, header)?;
        push_lost(&mut staged, end)?;
        let active = staged.publish(self.env, self.dir)?;
        self.done.lost.push(lost.clone());
        self.done.segments_rewritten += 1;
        Ok(active.survey.sealed(&active.header))
    }

    /// What is damaged, and what the manifest says of the segment if nothing is.
    fn survey(&self, segment: &Segment, part: &Part) -> Result<(Vec<Lost>, Sealed)> {
        let mut lost = Vec::new();
        let mut cursor = Cursor::new(segment.clone(), part.end);
        let mut survey = crate::recover::Survey::start(&segment.header);
        let (mut decoder, mut stored, mut raw) = (Decoder::new(), Vec::new(), Vec::new());
        while let Some((header, offset)) = cursor.next(true, &mut lost)? {
            survey.add(&header);
            let outcome = segment
                .decode(&header, offset, &mut decoder, &mut stored, &mut raw)
                .and_then(|()| check_records(segment, &header, offset, &raw));
            match outcome {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Damaged => {
                    if !cursor.is_damage(offset, header.first)? {
                        break;
                    }
                    lost.push(Lost {
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
        Ok((lost, survey.sealed(&segment.header)))
    }

    /// Writes the good frames of a segment into a new one, with a frame in the place of what is lost.
    fn rewrite(&self, segment: &Segment, part: &Part, lost: &[Lost]) -> Result<Sealed> {
        let old = &segment.header;
        let header = SegmentHeader::new(self.env, self.dir, old.first, old.generation + 1, old.dictionary.clone());
        let mut staged = Staged::new(self.env, self.dir, header)?;
        let mut cursor = Cursor::new(segment.clone(), part.end);
        let mut stored = Vec::new();
        while let Some((header, offset)) = cursor.next(true, &mut Vec::new())? {
            if lost.iter().any(|lost| lost.offset == offset) || header.end == header.first {
                continue;
            }
            let Some(stored) = segment.stored(&header, offset, &mut stored)? else { break };
            push_lost(&mut staged, header.first)?;
            let mark = staged.survey.mark;
            staged.push(FrameHeader { mark, ..header }, stored)?;
        }
        push_lost(&mut staged, part.end.unwrap_or_else(|| lost.last().map_or(0, |lost| lost.end)))?;
        let active = staged.publish(self.env, self.dir)?;
        Ok(active.survey.sealed(&active.header))
    }

    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let dir = self.dir.join("quarantine");
        let disk_error = |error| Error::io(format!("cannot write to {}", dir.display()), error);
        self.env.fs.create_dir_all(&dir).map_err(disk_error)?;
        let path = dir.join(format!("{}-{name}", self.env.clock.now()));
        let file = self.env.fs.open(&path, OpenMode::Create).map_err(disk_error)?;
        file.write_all_at(bytes, 0).and_then(|()| file.sync_data()).map_err(disk_error)?;
        self.env.fs.sync_dir(&dir).map_err(disk_error)?;
        self.done.quarantined.push(path);
        Ok(())
    }
}

/// Appends a frame that says that everything up to `end` is lost, if anything is.
fn push_lost(staged: &mut Staged, end: u64) -> Result<()> {
    let first = staged.survey.next;
    if first >= end {
        return Ok(());
    }
    let mark = staged.survey.mark;
    let header = FrameHeader { flags: FLAG_LOST, end, ..FrameHeader::mark_only(first, mark) };
    staged.push(header, &[])
}
