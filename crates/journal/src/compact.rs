//! Compaction: rewriting sealed segments without the records that are not wanted any more.
//!
//! Walk: [`plan`] goes from the newest segment to the oldest and marks what is kept, a bit a record; [`rewrite`] goes from the oldest to
//! the newest and writes what is kept into new files, small neighbours together. The caller swaps them in by the manifest. Appends
//! go on meanwhile: they touch neither sealed segments nor the manifest.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weir_base::checksum::blake3;

use crate::Result;
use crate::frame::{self, Decoder, FrameHeader};
use crate::manifest::Sealed;
use crate::options::{Env, Options};
use crate::reader::Cursor;
use crate::record::{self, Record, RecordRef};
use crate::recover::Staged;
use crate::segment::{self, Segment, SegmentHeader};

/// What may go. `None` everywhere and `false` keep everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records whose time is longer ago than this go.
    pub age_max: Option<Duration>,
    /// The oldest frames go until the journal takes at most this many bytes, footers not counted.
    pub stored_bytes_max: Option<u64>,
    /// The oldest records go until this many are left.
    pub records_max: Option<u64>,
    /// A record goes when a newer one has its key; records without a key stay.
    pub latest_per_key: bool,
}

/// A caller's rule: whether to keep a record. Called newest first, on the housekeeper's thread, with no lock held.
pub type Keep = Box<dyn FnMut(&RecordRef<'_>) -> bool + Send>;

/// One compaction: a record stays if both retention and rule keep it.
#[derive(Default)]
pub struct Compaction {
    /// What may go by age, size, count and key.
    pub retention: Retention,
    /// The caller's rule.
    pub keep: Option<Keep>,
}

impl std::fmt::Debug for Compaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compaction").field("retention", &self.retention).finish_non_exhaustive()
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Records in sealed segments before.
    pub records_before: u64,
    /// Records in sealed segments after.
    pub records_after: u64,
    /// Bytes of sealed segments before, without footers.
    pub bytes_before: u64,
    /// Bytes of sealed segments after, without footers.
    pub bytes_after: u64,
    /// False when there were more keys than `latest_per_key` can hold in memory (4 million): some older records stayed.
    pub complete: bool,
}

/// Keys that `latest_per_key` remembers; 32 bytes each with the table's overhead.
const KEYS_MAX: usize = 4 << 20;

/// What stays of one segment.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) sealed: Sealed,
    /// A bit a record, in order.
    bits: Vec<u64>,
    pub(crate) records: u64,
}

impl Kept {
    fn holds(&self, record: u64) -> bool {
        self.bits[(record / 64) as usize] >> (record % 64) & 1 == 1
    }

    /// Whether nothing goes.
    pub(crate) fn is_whole(&self) -> bool {
        self.records == self.sealed.records
    }
}

/// Where the sealed segments are and what is newer than they.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) env: &'a Env,
    pub(crate) dir: &'a Path,
    pub(crate) sealed: &'a [Sealed],
    /// Records and bytes of the active segment.
    pub(crate) active: (u64, u64),
}

impl Scope<'_> {
    fn open(&self, sealed: &Sealed) -> Result<Segment> {
        Segment::open(&*self.env.fs, &sealed.path(self.dir), sealed.first, sealed.generation)
    }
}

/// Marks what is kept, for each segment; also says whether the keys fitted in memory.
pub(crate) fn plan(scope: &Scope<'_>, compaction: &mut Compaction) -> Result<(Vec<Kept>, bool)> {
    let Compaction { retention, keep } = compaction;
    let age = retention.age_max.map(|age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
    let time_min = age.map_or(i64::MIN, |age| scope.env.clock.now().saturating_sub(age));
    let mut records_left = retention.records_max.map_or(u64::MAX, |max| max.saturating_sub(scope.active.0));
    let mut bytes_left = retention.stored_bytes_max.map_or(u64::MAX, |max| max.saturating_sub(scope.active.1));
    let mut seen: HashSet<[u8; 16]> = HashSet::new();
    let mut complete = true;
    let mut plan = Vec::new();
    for sealed in scope.sealed.iter().rev() {
        let mut kept = Kept { sealed: *sealed, bits: vec![0; sealed.records.div_ceil(64) as usize], records: 0 };
        let mut ordinal = sealed.records;
        for_each_frame_backward(scope, sealed, |header, raw| {
            bytes_left = bytes_left.saturating_sub(header.len());
            let mut refs = Vec::with_capacity(header.records as usize);
            let mut records = header.records(raw);
            while let Ok(Some(record)) = records.next_record() {
                refs.push(record);
            }
            for record in refs.iter().rev() {
                ordinal -= 1;
                let mut wanted = bytes_left > 0 && records_left > 0 && record.time >= time_min;
                wanted = wanted && keep.as_mut().is_none_or(|keep| keep(record));
                if wanted && retention.latest_per_key && !record.key.is_empty() {
                    wanted = first_sight(&mut seen, record.key, &mut complete);
                }
                if wanted {
                    records_left -= 1;
                    kept.records += 1;
                    kept.bits[(ordinal / 64) as usize] |= 1 << (ordinal % 64);
                }
            }
        })?;
        plan.push(kept);
    }
    plan.reverse();
    Ok((plan, complete))
}

/// Whether no newer record had this key. Past [`KEYS_MAX`] keys, those not remembered count as new: too much stays, never too little.
fn first_sight(seen: &mut HashSet<[u8; 16]>, key: &[u8], complete: &mut bool) -> bool {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3(key)[..16]);
    if seen.contains(&short) {
        return false;
    }
    if seen.len() < KEYS_MAX {
        seen.insert(short);
    } else {
        *complete = false;
    }
    true
}

/// Calls `each` with header and raw bytes of every frame of a segment, the last one first.
fn for_each_frame_backward(
    scope: &Scope<'_>,
    sealed: &Sealed,
    mut each: impl FnMut(&FrameHeader, &[u8]),
) -> Result<()> {
    let segment = scope.open(sealed)?;
    let mut cursor = Cursor::new(segment.clone(), Some(sealed.end));
    let mut frames = Vec::new();
    while let Some(frame) = cursor.next(false, &mut Vec::new())? {
        frames.push(frame);
    }
    let (mut decoder, mut stored, mut raw) = (Decoder::new(), Vec::new(), Vec::new());
    for (header, offset) in frames.into_iter().rev() {
        segment.decode(&header, offset, &mut decoder, &mut stored, &mut raw)?;
        each(&header, &raw);
    }
    Ok(())
}

/// Writes what is kept of neighbouring segments into one new, published segment, which does not count until the manifest lists it.
pub(crate) fn rewrite(
    env: &Env,
    dir: &Path,
    options: &Options,
    run: &[Kept],
    dictionary: &[u8],
) -> Result<Option<Sealed>> {
    let (Some(oldest), Some(newest)) = (run.first(), run.last()) else { return Ok(None) };
    let generation = run.iter().map(|kept| kept.sealed.generation).max().unwrap_or(0) + 1;
    let header = SegmentHeader::new(env, dir, oldest.sealed.first, generation, dictionary.to_vec());
    let path = dir.join(format!("{}.new", segment::file_name(header.first, generation)));
    let written = Output::new(env, dir, options, header).and_then(|mut output| {
        let scope = Scope { env, dir, sealed: &[], active: (0, 0) };
        for kept in run {
            output.copy(&scope, kept)?;
        }
        output.flush(newest.sealed.end)?;
        let active = output.staged.publish(env, dir)?;
        Ok(active.survey.sealed(&active.header))
    });
    if written.is_err() {
        // What was staged counts for nothing; on a full disk its room is needed.
        let _ = env.fs.remove_file(&path);
    }
    written.map(Some)
}

/// A segment being written: gathers records into frames.
struct Output<'a> {
    options: &'a Options,
    staged: Staged,
    dictionary: Option<frame::Dictionary>,
    /// The bytes of keys and payloads of the frame being gathered, and what is known of each record.
    bytes: Vec<u8>,
    pending: Vec<Pending>,
}

struct Pending {
    sequence: u64,
    time: i64,
    kind: u16,
    at: usize,
    key_len: usize,
    len: usize,
}

impl<'a> Output<'a> {
    fn new(env: &Env, dir: &Path, options: &'a Options, header: SegmentHeader) -> Result<Self> {
        let dictionary = (!header.dictionary.is_empty())
            .then(|| frame::Dictionary { id: header.salt | 1, bytes: header.dictionary.clone() });
        let staged = Staged::new(env, dir, header)?;
        Ok(Self { options, staged, dictionary, bytes: Vec::new(), pending: Vec::new() })
    }

    fn copy(&mut self, scope: &Scope<'_>, kept: &Kept) -> Result<()> {
        let segment = scope.open(&kept.sealed)?;
        let mut cursor = Cursor::new(segment.clone(), Some(kept.sealed.end));
        let (mut decoder, mut stored, mut raw) = (Decoder::new(), Vec::new(), Vec::new());
        let mut ordinal = 0;
        while let Some((header, offset)) = cursor.next(false, &mut Vec::new())? {
            let count = u64::from(header.records);
            if (ordinal..ordinal + count).any(|record| kept.holds(record)) {
                segment.decode(&header, offset, &mut decoder, &mut stored, &mut raw)?;
                let mut records = header.records(&raw);
                for record_ordinal in ordinal.. {
                    let record = records.next_record().map_err(|what| segment.damage(offset, header.first, what))?;
                    let Some(record) = record else { break };
                    if kept.holds(record_ordinal) {
                        self.push(&record)?;
                    }
                }
            }
            ordinal += count;
        }
        Ok(())
    }

    fn push(&mut self, record: &RecordRef<'_>) -> Result<()> {
        let len = record.key.len() + record.payload.len();
        if !self.pending.is_empty()
            && self.bytes.len() + len + 33 * self.pending.len() > self.options.frame_raw_bytes_max
        {
            let end = self.pending.last().map_or(0, |last| last.sequence + 1);
            self.flush(end)?;
        }
        self.pending.push(Pending {
            sequence: record.sequence,
            time: record.time,
            kind: record.kind,
            at: self.bytes.len(),
            key_len: record.key.len(),
            len,
        });
        self.bytes.extend_from_slice(record.key);
        self.bytes.extend_from_slice(record.payload);
        Ok(())
    }

    /// Writes the gathered records as a frame that answers for everything up to `end`.
    fn flush(&mut self, end: u64) -> Result<()> {
        let first = self.staged.survey.next;
        if self.pending.is_empty() && first == end {
            return Ok(());
        }
        let time_min = self.pending.iter().map(|record| record.time).min().unwrap_or(0);
        let time_max = self.pending.iter().map(|record| record.time).max().unwrap_or(0);
        let (mut raw, mut next, mut before) = (Vec::new(), first, time_min);
        for pending in &self.pending {
            let (key, payload) = self.bytes[pending.at..pending.at + pending.len].split_at(pending.key_len);
            let record = Record { time: pending.time, kind: pending.kind, key, payload };
            record::encode(&mut raw, pending.sequence - next, before, &record);
            (next, before) = (pending.sequence + 1, pending.time);
        }
        let header = FrameHeader {
            records: self.pending.len() as u32,
            first,
            end,
            time_min,
            time_max,
            ..FrameHeader::default()
        };
        let frames = frame::encode_raw(&raw, header, self.options.codec, self.dictionary.as_ref())?;
        let mark = self.staged.survey.mark;
        let header = FrameHeader { mark, ..frames.headers[0] };
        self.staged.push(header, &frames.bytes[frame::HEADER_LEN..])?;
        self.pending.clear();
        self.bytes.clear();
        Ok(())
    }
}

/// Splits a plan into what stays as it is and runs that are rewritten together, in order.
pub(crate) fn runs(plan: Vec<Kept>, segment_bytes_max: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut run_bytes = 0;
    for kept in plan {
        let share = if kept.sealed.records == 0 { 0.0 } else { kept.records as f64 / kept.sealed.records as f64 };
        let bytes = (kept.sealed.frames_end as f64 * share) as u64;
        if kept.is_whole() && bytes >= segment_bytes_max / 4 {
            runs.push(Run::Same(kept.sealed));
            run_bytes = 0;
            continue;
        }
        match runs.last_mut() {
            Some(Run::Rewritten(run)) if run_bytes + bytes <= segment_bytes_max => {
                run.push(kept);
                run_bytes += bytes;
            }
            _ => {
                runs.push(Run::Rewritten(vec![kept]));
                run_bytes = bytes;
            }
        }
    }
    for run in &mut runs {
        let whole = match run {
            Run::Rewritten(kept) if kept.len() == 1 && kept[0].is_whole() => Some(kept[0].sealed),
            _ => None,
        };
        if let Some(sealed) = whole {
            *run = Run::Same(sealed);
        }
    }
    runs
}

/// Part of a compaction.
#[derive(Debug)]
pub(crate) enum Run {
    /// This segment stays as it is.
    Same(Sealed),
    /// These are written into one.
    Rewritten(Vec<Kept>),
}

/// The files of segments.
pub(crate) fn paths(dir: &Path, sealed: &[Sealed]) -> Vec<PathBuf> {
    sealed.iter().map(|sealed| sealed.path(dir)).collect()
}
