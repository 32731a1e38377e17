//! The housekeeper thread: lists sealed segments in the manifest and removes what is not needed any more.
//!
//! It is the only one that changes the manifest, so that nobody holds a lock while the disk works.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};

use crate::manifest::{Manifest, Sealed};
use crate::options::Env;
use crate::writer::Shared;
use crate::{Error, Result};

/// Something for the housekeeper to do.
#[derive(Debug)]
pub(crate) enum Chore {
    /// A segment was sealed.
    Sealed(Sealed),
    /// Remove the segments that hold nothing at or past this sequence.
    Trim { before: u64, reply: SyncSender<Result<u64>> },
    /// Do what is queued, then end.
    Close,
}

/// The state of the housekeeper thread.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) manifest: Manifest,
    /// Sealed, but not in the manifest yet.
    pub(crate) unlisted: Vec<Sealed>,
}

impl Housekeeper {
    /// Runs until the journal is closed.
    pub(crate) fn run(mut self, chores: &Receiver<Chore>) {
        while let Ok(chore) = chores.recv() {
            match chore {
                Chore::Sealed(sealed) => self.unlisted.push(sealed),
                Chore::Trim { before, reply } => {
                    let outcome = self.trim(before);
                    // The caller may have gone away; what was done stays done.
                    let _ = reply.send(outcome);
                }
                Chore::Close => break,
            }
        }
    }

    fn trim(&mut self, before: u64) -> Result<u64> {
        let mut manifest = self.manifest.clone();
        for sealed in &self.unlisted {
            manifest.end = sealed.end;
            manifest.sealed.push(*sealed);
        }
        let kept = manifest.sealed.iter().position(|sealed| sealed.end > before).unwrap_or(manifest.sealed.len());
        if kept == 0 {
            return Ok(0);
        }
        let removed: Vec<Sealed> = manifest.sealed.drain(..kept).collect();
        manifest.first = removed.last().map_or(manifest.first, |sealed| sealed.end);
        manifest.edition += 1;
        manifest.store(&*self.env.fs, &self.dir)?;
        self.shared.first.store(manifest.first, Ordering::Release);
        self.manifest = manifest;
        self.unlisted.clear();
        let mut freed = 0;
        for sealed in &removed {
            let path = sealed.path(&self.dir);
            let len = self.env.fs.metadata(&path).map_or(0, |found| found.len);
            self.env
                .fs
                .remove_file(&path)
                .map_err(|error| Error::io(format!("cannot remove {}", path.display()), error))?;
            freed += len;
            self.shared.sealed_bytes.fetch_sub(sealed.frames_end, Ordering::AcqRel);
        }
        Ok(freed)
    }
}
