//! The housekeeper thread: writes footers, lists sealed segments in the manifest, trims, compacts, trains the dictionary.
//!
//! It is the only one that changes the manifest, so that nobody holds a lock while the disk works. What it could not do (a full
//! disk, say) it tries again with the next chore; nothing that was promised depends on it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::compact::{self, Compacted, Compaction, Retention, Run, Scope};
use crate::frame::{Decoder, Dictionary};
use crate::index;
use crate::manifest::{Manifest, Sealed};
use crate::options::{Env, Options};
use crate::reader::Cursor;
use crate::segment::Segment;
use crate::writer::Shared;
use crate::{Error, Result};

/// Something for the housekeeper to do.
pub(crate) enum Chore {
    /// A segment was sealed.
    Sealed(Sealed),
    /// Remove the segments that hold nothing at or past this sequence.
    Trim { before: u64, reply: SyncSender<Result<u64>> },
    /// Rewrite the sealed segments without what is not wanted.
    Compact { compaction: Compaction, reply: SyncSender<Result<Compacted>> },
    /// Say when everything before is done.
    Settle { reply: SyncSender<()> },
    /// Do what is queued, then end.
    Close,
}

/// How often retention by age looks at the clock.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);
/// Raw bytes of records that a dictionary is trained from.
const TRAINING_BYTES_MAX: usize = 4 << 20;

/// The state of the housekeeper thread.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) shared: Arc<Shared>,
    pub(crate) manifest: Manifest,
    /// Sealed, but not in the manifest yet.
    pub(crate) unlisted: Vec<Sealed>,
    /// Lengths of the listed segments' files, by first sequence and generation.
    pub(crate) lens: HashMap<(u64, u32), u64>,
}

impl Housekeeper {
    /// Runs until the journal is closed.
    pub(crate) fn run(mut self, chores: &Receiver<Chore>) {
        // What a crash left undone is done now; if it fails, it is tried again with the next chore.
        let _ = self.list_sealed();
        loop {
            let chore = match self.options.retention.age_max {
                None => chores.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => chores.recv_timeout(RETENTION_INTERVAL),
            };
            match chore {
                Ok(Chore::Sealed(sealed)) => {
                    self.unlisted.push(sealed);
                    let _ = self.list_sealed();
                    self.train(&sealed);
                    self.retain();
                }
                // The caller may have gone away; what was done stays done.
                Ok(Chore::Trim { before, reply }) => drop(reply.send(self.trim(before))),
                Ok(Chore::Compact { compaction, reply }) => drop(reply.send(self.compact(compaction))),
                Ok(Chore::Settle { reply }) => drop(reply.send(())),
                Err(RecvTimeoutError::Timeout) => self.retain(),
                Ok(Chore::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    /// Gives the sealed segments their footers and lists them.
    fn list_sealed(&mut self) -> Result<()> {
        if self.unlisted.is_empty() || !self.options.index {
            return Ok(());
        }
        for sealed in &self.unlisted {
            let segment = Segment::open(&*self.env.fs, &sealed.path(&self.dir), sealed.first, sealed.generation)?;
            index::write_footer(&self.env, &segment, sealed.frames_end)?;
        }
        let manifest = self.with_unlisted();
        self.replace(manifest)?;
        self.count();
        Ok(())
    }

    /// The manifest with everything sealed in it.
    fn with_unlisted(&self) -> Manifest {
        let mut manifest = self.manifest.clone();
        for sealed in &self.unlisted {
            manifest.end = sealed.end;
            manifest.sealed.push(*sealed);
        }
        manifest
    }

    /// Replaces the manifest by one that lists everything sealed.
    fn replace(&mut self, mut manifest: Manifest) -> Result<()> {
        manifest.edition = self.manifest.edition + 1;
        manifest.store(&*self.env.fs, &self.dir)?;
        self.shared.first.store(manifest.first, Ordering::Release);
        self.manifest = manifest;
        self.unlisted.clear();
        Ok(())
    }

    /// Counts the bytes of the sealed segments.
    fn count(&mut self) {
        let mut lens = HashMap::with_capacity(self.manifest.sealed.len());
        for sealed in &self.manifest.sealed {
            let name = (sealed.first, sealed.generation);
            // Asked once: a listed segment keeps its length.
            let known = self.lens.get(&name).copied();
            let ask = || self.env.fs.metadata(&sealed.path(&self.dir)).map_or(0, |found| found.len);
            lens.insert(name, known.unwrap_or_else(ask));
        }
        let unlisted: u64 = self.unlisted.iter().map(|sealed| sealed.frames_end).sum();
        self.shared.sealed_bytes.store(lens.values().sum::<u64>() + unlisted, Ordering::Release);
        self.lens = lens;
    }

    /// Removes files that no manifest lists any more; returns the bytes freed.
    fn remove(&mut self, files: &[PathBuf]) -> Result<u64> {
        let mut freed = 0;
        for path in files {
            let len = self.env.fs.metadata(path).map_or(0, |found| found.len);
            self.env
                .fs
                .remove_file(path)
                .map_err(|error| Error::io(format!("cannot remove {}", path.display()), error))?;
            freed += len;
        }
        self.count();
        Ok(freed)
    }

    fn trim(&mut self, before: u64) -> Result<u64> {
        let mut manifest = self.with_unlisted();
        let kept = manifest.sealed.iter().position(|sealed| sealed.end > before).unwrap_or(manifest.sealed.len());
        if kept == 0 {
            return Ok(0);
        }
        let removed: Vec<Sealed> = manifest.sealed.drain(..kept).collect();
        manifest.first = removed.last().map_or(manifest.first, |sealed| sealed.end);
        self.replace(manifest)?;
        self.remove(&compact::paths(&self.dir, &removed))
    }

    /// Retention runs by itself; what it cannot do now it does next time.
    fn retain(&mut self) {
        if self.options.retention != Retention::default() {
            let _ = self.compact(Compaction { retention: self.options.retention.clone(), keep: None });
        }
    }

    fn compact(&mut self, mut compaction: Compaction) -> Result<Compacted> {
        // The new files must lie below the manifest's end, or they would count before it lists them.
        if !self.unlisted.is_empty() {
            let manifest = self.with_unlisted();
            self.replace(manifest)?;
        }
        let manifest = self.manifest.clone();
        let next = self.shared.next.load(Ordering::Acquire);
        let active = (next.saturating_sub(manifest.end), self.shared.active_bytes.load(Ordering::Acquire));
        let scope = Scope { env: &self.env, dir: &self.dir, sealed: &manifest.sealed, active };
        let (plan, complete) = compact::plan(&scope, &mut compaction)?;
        let mut done = Compacted {
            records_before: manifest.sealed.iter().map(|sealed| sealed.records).sum(),
            bytes_before: manifest.sealed.iter().map(|sealed| sealed.frames_end).sum(),
            complete,
            ..Compacted::default()
        };
        let dictionary = self.dictionary();
        let mut after = Manifest { sealed: Vec::new(), ..manifest.clone() };
        let mut replaced = Vec::new();
        let mut dropping = true;
        for run in compact::runs(plan, self.options.segment_bytes_max) {
            match run {
                Run::Same(sealed) => after.sealed.push(sealed),
                Run::Rewritten(run) => {
                    replaced.extend(run.iter().map(|kept| kept.sealed));
                    // Oldest segments of which nothing is left are trimmed, not rewritten.
                    let empty = run.iter().take_while(|kept| dropping && kept.records == 0).count();
                    if let Some(last) = run[..empty].last() {
                        after.first = last.sealed.end;
                    }
                    after.sealed.extend(self.rewrite(&run[empty..], &dictionary)?);
                }
            }
            dropping = after.sealed.is_empty();
        }
        done.records_after = after.sealed.iter().map(|sealed| sealed.records).sum();
        done.bytes_after = after.sealed.iter().map(|sealed| sealed.frames_end).sum();
        if !replaced.is_empty() {
            self.replace(after)?;
            self.remove(&compact::paths(&self.dir, &replaced))?;
        }
        Ok(done)
    }

    /// Writes segments together into one, with its footer.
    fn rewrite(&self, run: &[compact::Kept], dictionary: &[u8]) -> Result<Option<Sealed>> {
        let Some(sealed) = compact::rewrite(&self.env, &self.dir, &self.options, run, dictionary)? else {
            return Ok(None);
        };
        if self.options.index {
            let path = sealed.path(&self.dir);
            let segment = Segment::open(&*self.env.fs, &path, sealed.first, sealed.generation)?;
            index::write_footer(&self.env, &segment, sealed.frames_end)?;
        }
        Ok(Some(sealed))
    }

    fn dictionary(&self) -> Vec<u8> {
        let known = self.shared.dictionary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map(|dictionary| dictionary.bytes.clone()).unwrap_or_default()
    }

    /// Trains the dictionary from the first sealed segment; the segments after it use it. Too few records train none.
    fn train(&mut self, sealed: &Sealed) {
        let Some(bytes_max) = self.options.dictionary_bytes_max else { return };
        if !self.dictionary().is_empty() {
            return;
        }
        let Ok(samples) = self.samples(sealed) else { return };
        if let Ok(bytes) = zstd::dict::from_samples(&samples, bytes_max) {
            let dictionary = Dictionary { id: sealed.salt | 1, bytes };
            *self.shared.trained.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(dictionary));
        }
    }

    fn samples(&self, sealed: &Sealed) -> Result<Vec<Vec<u8>>> {
        let segment = Segment::open(&*self.env.fs, &sealed.path(&self.dir), sealed.first, sealed.generation)?;
        let mut cursor = Cursor::new(segment.clone(), Some(sealed.end));
        let (mut decoder, mut stored, mut raw) = (Decoder::new(), Vec::new(), Vec::new());
        let (mut samples, mut bytes) = (Vec::new(), 0);
        while let Some((header, offset)) = cursor.next(false, &mut Vec::new())? {
            segment.decode(&header, offset, &mut decoder, &mut stored, &mut raw)?;
            let mut records = header.records(&raw);
            while let Ok(Some(record)) = records.next_record() {
                bytes += record.payload.len();
                samples.push(record.payload.to_vec());
            }
            if bytes > TRAINING_BYTES_MAX {
                break;
            }
        }
        Ok(samples)
    }
}
