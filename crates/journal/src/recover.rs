//! Opening: which files count, where the torn tail begins, what must be written again.
//!
//! The steps and why each is safe are on the format page, "Torn or damaged" and "Why a crash at any step is safe".

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::{File, FileSystem, OpenMode};

use crate::frame::{self, FrameHeader};
use crate::manifest::{Manifest, Sealed};
use crate::options::Env;
use crate::segment::{self, Found, Segment, SegmentHeader, read_error};
use crate::{Error, Result};

/// What opening found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// A torn tail that was cut.
    pub torn: Option<TornTail>,
    /// Records past the last mark that were written again into a new segment.
    pub records_rewritten: u64,
    /// First sequence that the journal still holds.
    pub first_sequence: u64,
    /// Sequence that the next record gets.
    pub next_sequence: u64,
}

/// Bytes at the end of the journal that never were acknowledged as durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the tail began.
    pub offset: u64,
    /// How many bytes there were.
    pub bytes: u64,
    /// The sequence that the first lost record had, or would have had.
    pub sequence: u64,
}

/// The files of a journal's folder.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) manifest: Manifest,
    /// Segments at or past the manifest's end, in order; the last one is the active one.
    pub(crate) unlisted: Vec<(u64, u32)>,
    /// Files that do not count.
    pub(crate) leftover: Vec<PathBuf>,
}

impl Layout {
    /// Reads the manifest and the folder. `NotFound` when the folder does not exist.
    pub(crate) fn discover(fs: &dyn FileSystem, dir: &Path) -> Result<Self> {
        let mut manifest = Manifest::load(fs, dir)?;
        let paths = loop {
            let paths = fs.list(dir).map_err(|error| read_error(dir, error))?;
            let now = Manifest::load(fs, dir)?;
            if now.edition == manifest.edition {
                break paths;
            }
            // Replaced while the folder was read: the two do not belong together.
            manifest = now;
        };
        let mut layout = Self { manifest, ..Self::default() };
        let mut unlisted = Vec::new();
        for path in paths {
            if path.extension().is_some_and(|extension| extension == "new") {
                layout.leftover.push(path);
                continue;
            }
            let Some((first, generation)) = segment::parse_name(&path) else { continue };
            let listed = |sealed: &Sealed| (sealed.first, sealed.generation) == (first, generation);
            if first >= layout.manifest.end {
                unlisted.push((first, generation));
            } else if !layout.manifest.sealed.iter().any(listed) {
                layout.leftover.push(path);
            }
        }
        unlisted.sort_unstable();
        for (index, &(first, generation)) in unlisted.iter().enumerate() {
            match unlisted.get(index + 1) {
                Some(&(next, _)) if next == first => {
                    layout.leftover.push(dir.join(segment::file_name(first, generation)));
                }
                _ => layout.unlisted.push((first, generation)),
            }
        }
        Ok(layout)
    }
}

/// The result of walking the frame headers of a segment.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    /// The sequence after the last good frame.
    pub(crate) next: u64,
    /// Where the last good frame ends.
    pub(crate) offset: u64,
    /// Where the sequence equals the highest mark; frames behind it were not known to be synced.
    pub(crate) marked_offset: u64,
    /// Highest mark.
    pub(crate) mark: u64,
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
    /// What stands behind the last good frame, if anything.
    pub(crate) bad: Option<&'static str>,
}

impl Survey {
    pub(crate) fn start(header: &SegmentHeader) -> Self {
        Self {
            next: header.first,
            offset: header.len(),
            marked_offset: header.len(),
            mark: header.mark,
            records: 0,
            raw_bytes: 0,
            time_min: i64::MAX,
            time_max: i64::MIN,
            bad: None,
        }
    }

    /// Counts the frame that stands at `offset`.
    pub(crate) fn add(&mut self, header: &FrameHeader) {
        self.offset += header.len();
        self.next = header.end;
        self.mark = self.mark.max(header.mark);
        self.records += u64::from(header.records);
        self.raw_bytes += u64::from(header.raw_len);
        if header.records > 0 {
            self.time_min = self.time_min.min(header.time_min);
            self.time_max = self.time_max.max(header.time_max);
        }
    }

    pub(crate) fn sealed(&self, header: &SegmentHeader) -> Sealed {
        Sealed {
            first: header.first,
            end: self.next,
            generation: header.generation,
            records: self.records,
            raw_bytes: self.raw_bytes,
            frames_end: self.offset,
            time_min: self.time_min,
            time_max: self.time_max,
            salt: header.salt,
        }
    }
}

/// Walks the headers of a segment that is followed by another, which begins with `end`.
pub(crate) fn survey_sealed(segment: &Segment, end: u64) -> Result<Survey> {
    let len = segment.len()?;
    let mut survey = Survey::start(&segment.header);
    while survey.next < end {
        match segment.at(survey.offset, len, survey.next)? {
            Found::Frame(header) => survey.add(&header),
            Found::End => return Err(damage(segment, &survey, "segment ends early")),
            Found::Bad(what) => return Err(damage(segment, &survey, what)),
        }
    }
    if survey.next != end {
        return Err(damage(segment, &survey, "the next segment does not follow"));
    }
    Ok(survey)
}

fn damage(segment: &Segment, survey: &Survey, what: &str) -> Error {
    segment.damage(survey.offset, survey.next, what)
}

/// Walks the last segment and tells a torn tail from damage. J1.
pub(crate) fn survey_last(segment: &Segment) -> Result<Survey> {
    let len = segment.len()?;
    let mut survey = Survey::start(&segment.header);
    let mut boundaries = vec![(survey.next, survey.offset)];
    let mut frames = Vec::new();
    loop {
        match segment.at(survey.offset, len, survey.next)? {
            Found::Frame(header) => {
                frames.push((survey.offset, header));
                survey.add(&header);
                if header.end > header.first {
                    boundaries.push((survey.next, survey.offset));
                }
            }
            Found::End => break,
            Found::Bad(what) => {
                survey.bad = Some(what);
                break;
            }
        }
    }
    if survey.bad.is_some() {
        let mut offset = survey.offset;
        while let Some((at, header)) = segment.find_frame(offset, len)? {
            survey.mark = survey.mark.max(header.mark);
            offset = at + frame::HEADER_LEN as u64;
        }
        if let Some(what) = survey.bad.filter(|_| survey.next < survey.mark) {
            return Err(damage(segment, &survey, what));
        }
    }
    check_payloads(segment, &mut survey, &frames)?;
    let marked = boundaries.iter().find(|(next, _)| *next == survey.mark);
    survey.marked_offset = marked.ok_or_else(|| damage(segment, &survey, "a mark lies inside a frame"))?.1;
    Ok(survey)
}

/// Checks the stored bytes of all frames, before anything on the disk is changed. The first bad one is damage below the
/// mark, and past it the end of the journal.
fn check_payloads(segment: &Segment, survey: &mut Survey, frames: &[(u64, FrameHeader)]) -> Result<()> {
    let mut stored = Vec::new();
    for (index, (offset, header)) in frames.iter().enumerate() {
        if segment.stored(header, *offset, &mut stored)?.is_some() {
            continue;
        }
        let what = "frame does not match its checksum";
        if header.first < survey.mark {
            return Err(segment.damage(*offset, header.first, what));
        }
        let mark = survey.mark;
        *survey = Survey::start(&segment.header);
        frames[..index].iter().for_each(|(_, header)| survey.add(header));
        survey.mark = mark;
        survey.bad = Some(what);
        break;
    }
    Ok(())
}

/// A journal that is ready for its next append.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) manifest: Manifest,
    /// Sealed, but not in the manifest yet.
    pub(crate) unlisted: Vec<Sealed>,
    pub(crate) active: Active,
    pub(crate) recovery: Recovery,
}

/// The segment that is being appended to.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: SegmentHeader,
    pub(crate) survey: Survey,
}

/// Opens the journal in `dir` for writing; the caller holds the writer's lock.
pub(crate) fn open(env: &Env, dir: &Path) -> Result<Opened> {
    let fs = &*env.fs;
    let layout = Layout::discover(fs, dir)?;
    for sealed in &layout.manifest.sealed {
        let path = sealed.path(dir);
        if !fs.exists(&path).map_err(|error| read_error(&path, error))? {
            return Err(Error::damaged(format!("segment {} is missing", path.display())));
        }
    }
    for path in &layout.leftover {
        fs.remove_file(path).map_err(|error| Error::io(format!("cannot remove {}", path.display()), error))?;
    }
    let Some((&last, before)) = layout.unlisted.split_last() else {
        return start(env, dir, layout.manifest);
    };
    let mut next = layout.manifest.end;
    let mut unlisted = Vec::new();
    for (index, &(first, generation)) in before.iter().enumerate() {
        let path = dir.join(segment::file_name(first, generation));
        let segment = Segment::open(fs, &path, first, generation)?;
        follows(&path, next, first)?;
        next = layout.unlisted[index + 1].0;
        unlisted.push(survey_sealed(&segment, next)?.sealed(&segment.header));
    }
    let path = dir.join(segment::file_name(last.0, last.1));
    follows(&path, next, last.0)?;
    let file = fs
        .open(&path, OpenMode::Write)
        .map_err(|error| Error::io(format!("cannot open segment {}", path.display()), error))?;
    let segment = Segment::with_file(file, &path, last.0, last.1)?;
    let first_sequence = unlisted.first().map_or(last.0, |sealed: &Sealed| sealed.first);
    let first_sequence = layout.manifest.sealed.first().map_or(first_sequence, |sealed| sealed.first);
    let mut opened = revive(env, dir, segment, layout.manifest, unlisted)?;
    opened.recovery.first_sequence = first_sequence;
    opened.recovery.next_sequence = opened.active.survey.next;
    Ok(opened)
}

/// Every segment begins where the one before ends, the first one at sequence 1 or where the manifest says.
fn follows(path: &Path, next: u64, first: u64) -> Result<()> {
    if first == next {
        return Ok(());
    }
    Err(Error::damaged(format!("a segment is missing before {}: sequences {next} to {}", path.display(), first - 1)))
}

/// Makes the first segment of a new journal, or the next one of a journal of which only sealed segments are left.
fn start(env: &Env, dir: &Path, manifest: Manifest) -> Result<Opened> {
    if manifest.edition > 0 {
        return Err(Error::damaged(format!("the last segment is missing in {}", dir.display())));
    }
    let header = SegmentHeader::new(env, dir, manifest.end, 0, Vec::new());
    let staged = Staged::new(env, dir, header)?;
    let active = staged.publish(env, dir)?;
    let next = active.survey.next;
    let recovery = Recovery { first_sequence: next, next_sequence: next, ..Recovery::default() };
    Ok(Opened { manifest, unlisted: Vec::new(), active, recovery })
}

/// Makes the last segment fit for the next append: cuts what is torn, writes what no mark covers again.
fn revive(env: &Env, dir: &Path, segment: Segment, manifest: Manifest, mut unlisted: Vec<Sealed>) -> Result<Opened> {
    let survey = survey_last(&segment)?;
    let len = segment.len()?;
    let mut recovery = Recovery::default();
    if survey.bad.is_some() {
        recovery.torn = Some(TornTail {
            file: segment.path.clone(),
            offset: survey.offset,
            bytes: len - survey.offset,
            sequence: survey.next,
        });
    }
    if survey.next == survey.mark {
        let active = settle(&segment, survey, len)?;
        return Ok(Opened { manifest, unlisted, active, recovery });
    }
    let (active, records) = rewrite_tail(env, dir, &segment, &survey)?;
    recovery.records_rewritten = records;
    let disk_error = |error| Error::io(format!("cannot cut {}", segment.path.display()), error);
    if survey.mark == segment.header.first {
        env.fs.remove_file(&segment.path).map_err(disk_error)?;
    } else {
        segment.file.set_len(survey.marked_offset).map_err(disk_error)?;
        segment.file.sync_data().map_err(disk_error)?;
        unlisted.push(survey_sealed(&segment, survey.mark)?.sealed(&segment.header));
    }
    Ok(Opened { manifest, unlisted, active, recovery })
}

/// Nothing but marks behind the mark: writes these again, so that the next sync covers them, and cuts the rest.
fn settle(segment: &Segment, survey: Survey, len: u64) -> Result<Active> {
    let disk_error = |error| Error::io(format!("cannot settle {}", segment.path.display()), error);
    let marks = survey.marked_offset..survey.offset;
    if survey.offset < len || !marks.is_empty() {
        let mut bytes = vec![0; (marks.end - marks.start) as usize];
        segment.file.read_exact_at(&mut bytes, marks.start).map_err(disk_error)?;
        segment.file.set_len(survey.offset).map_err(disk_error)?;
        segment.file.write_all_at(&bytes, marks.start).map_err(disk_error)?;
        segment.file.sync_data().map_err(disk_error)?;
    }
    Ok(Active {
        path: segment.path.clone(),
        file: Arc::clone(&segment.file),
        header: SegmentHeader::clone(&segment.header),
        survey,
    })
}

/// Writes the good frames past the mark into a new, synced segment that begins at the mark.
fn rewrite_tail(env: &Env, dir: &Path, segment: &Segment, survey: &Survey) -> Result<(Active, u64)> {
    let old = &segment.header;
    let generation = if survey.mark == old.first { old.generation + 1 } else { 0 };
    let header = SegmentHeader::new(env, dir, survey.mark, generation, old.dictionary.clone());
    let mut staged = Staged::new(env, dir, header)?;
    let (mut offset, mut next, mut records) = (survey.marked_offset, survey.mark, 0);
    let mut stored = Vec::new();
    while offset < survey.offset {
        let Found::Frame(header) = segment.at(offset, survey.offset, next)? else {
            return Err(damage(segment, survey, "segment changed while it was read"));
        };
        // Frames without records carry a mark, or answer for sequences that compaction dropped or a repair gave up.
        if header.end > header.first {
            let stored = segment.stored(&header, offset, &mut stored)?;
            let stored = stored.ok_or_else(|| damage(segment, survey, "segment changed while it was read"))?;
            staged.push(FrameHeader { mark: survey.mark, ..header }, stored)?;
            records += u64::from(header.records);
        }
        offset += header.len();
        next = header.end;
    }
    Ok((staged.publish(env, dir)?, records))
}

/// A segment in the making: not part of the journal until published.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    file: Arc<dyn File>,
    header: SegmentHeader,
    pub(crate) survey: Survey,
}

impl Staged {
    /// Begins the file with its header.
    pub(crate) fn new(env: &Env, dir: &Path, header: SegmentHeader) -> Result<Self> {
        let path = dir.join(format!("{}.new", segment::file_name(header.first, header.generation)));
        let disk_error = |error| Error::io(format!("cannot make {}", path.display()), error);
        let file = env.fs.open(&path, OpenMode::Create).map_err(disk_error)?;
        file.set_len(0).map_err(disk_error)?;
        file.write_all_at(&header.to_bytes(), 0).map_err(disk_error)?;
        Ok(Self { survey: Survey::start(&header), path, file, header })
    }

    /// Appends a frame.
    pub(crate) fn push(&mut self, header: FrameHeader, stored: &[u8]) -> Result<()> {
        assert_eq!(header.first, self.survey.next, "frames form a chain");
        let mut bytes = vec![0; frame::HEADER_LEN];
        bytes.extend_from_slice(stored);
        header.put(&mut bytes, self.header.salt, self.survey.offset);
        self.file
            .write_all_at(&bytes, self.survey.offset)
            .map_err(|error| Error::io(format!("cannot write {}", self.path.display()), error))?;
        self.survey.add(&header);
        Ok(())
    }

    /// Syncs the file and gives it its name; from then on it is part of the journal.
    pub(crate) fn publish(mut self, env: &Env, dir: &Path) -> Result<Active> {
        let path = dir.join(segment::file_name(self.header.first, self.header.generation));
        let disk_error = |error| Error::io(format!("cannot publish {}", path.display()), error);
        self.file.sync_data().map_err(disk_error)?;
        env.fs.rename(&self.path, &path).map_err(disk_error)?;
        env.fs.sync_dir(dir).map_err(disk_error)?;
        self.survey.mark = self.survey.next;
        Ok(Active { path, file: self.file, header: self.header, survey: self.survey })
    }
}
