//! Reservations: bytes counted before a blob is written, given back by whoever finds their writer dead.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::fs::FlockOperation;
use weir_base::{File, OpenMode};
use weir_limits::Deadline;

use super::Disk;
use super::blob::Hash;
use super::tx::{Tx, count};
use crate::error::{Error, IndexContext, Result};

/// Other writers looked at by one reclaim.
const LOOK_MAX: i64 = 128;

/// This handle's reservation. The lock on its file says that it is alive.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) id: i64,
    _lock: Arc<dyn File>,
    /// What `cover` may use; never more than `recorded`.
    reserved: u64,
    /// What the committed row says.
    recorded: u64,
    in_flight: u64,
    /// Bytes of the spare file, part of `in_flight`; zero when there is none.
    spare: u64,
    /// Blobs being staged: one thread at a time for each.
    staging: Vec<Hash>,
}

/// Bytes of this handle's reservation that one staged blob uses; given back when dropped.
#[derive(Debug)]
pub(crate) struct Cover<'a> {
    disk: &'a Disk,
    pub(crate) writer: i64,
    bytes: u64,
}

impl<'a> Cover<'a> {
    pub(crate) fn disk(&self) -> &'a Disk {
        self.disk
    }
}

impl Drop for Cover<'_> {
    fn drop(&mut self) {
        self.disk.with_writer(|writer| writer.in_flight = writer.in_flight.saturating_sub(self.bytes));
    }
}

/// What a handle keeps reserved between its writes.
fn standing_bytes(limit: u64) -> u64 {
    (limit / 256) & !4095
}

impl Disk {
    /// Waits until no other thread of this handle stages the same blob; gives the spare file to the caller if there is one
    /// that its cover is large enough for.
    pub(crate) fn begin_staging(&self, hash: &Hash, cover: &Cover<'_>) -> Result<bool> {
        let deadline = Deadline::after(&*self.clock, self.lock_deadline);
        loop {
            let begun = self.with_writer(|writer| {
                if writer.staging.contains(hash) {
                    return None;
                }
                writer.staging.push(*hash);
                let fits = writer.spare > 0 && writer.spare <= cover.bytes;
                if fits {
                    writer.in_flight = writer.in_flight.saturating_sub(std::mem::take(&mut writer.spare));
                }
                Some(fits)
            });
            if let Some(Some(spare)) = begun {
                return Ok(spare);
            }
            if deadline.has_passed(&*self.clock) {
                return Err(Error::new(weir_base::Kind::Unavailable, "another thread is writing the same value")
                    .with_retry(weir_base::Retry::Backoff));
            }
            self.clock.sleep(Duration::from_millis(1));
        }
    }

    /// The blob is where it belongs, or given up.
    pub(crate) fn end_staging(&self, hash: &Hash) {
        self.with_writer(|writer| writer.staging.retain(|staged| staged != hash));
    }

    /// After the commit that dropped a blob, under the lock: its file becomes the spare if this handle has none and its
    /// reservation covers it. Otherwise it is removed. Counted twice until the next transaction finds its name gone.
    pub(crate) fn drop_blob_file(&self, hash: &Hash) {
        let wants = self.with_writer(|writer| writer.spare == 0 && writer.in_flight < writer.reserved) == Some(true);
        let bytes = if wants { self.blobs.unshare(hash).unwrap_or(0) } else { 0 };
        let covered = |writer: &mut Writer| {
            let fits = bytes > 0 && writer.spare == 0 && writer.in_flight + bytes <= writer.reserved;
            if fits {
                writer.in_flight += bytes;
            }
            fits.then_some(writer.id)
        };
        let kept = self.with_writer(covered).flatten().is_some_and(|id| {
            let kept = self.blobs.keep_spare(id, hash).is_ok();
            self.with_writer(|writer| match kept {
                true => writer.spare = bytes,
                false => writer.in_flight = writer.in_flight.saturating_sub(bytes),
            });
            kept
        });
        if !kept {
            // Counted until the next transaction finds it gone.
            let _ = self.blobs.remove(hash);
        }
    }

    fn with_writer<T>(&self, change: impl FnOnce(&mut Writer) -> T) -> Option<T> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(change)
    }

    fn writer_path(&self, id: i64) -> PathBuf {
        self.dir.join("writers").join(format!("{id:016x}"))
    }

    fn become_writer(&self) -> Result<()> {
        if self.with_writer(|_| ()).is_some() {
            return Ok(());
        }
        let id = (self.random.next_u64() >> 1) as i64;
        let path = self.writer_path(id);
        let file =
            self.fs.open(&path, OpenMode::CreateNew).map_err(|error| Error::io("cannot register a writer", error))?;
        if let Some(os) = file.os_file() {
            rustix::fs::flock(os, FlockOperation::NonBlockingLockExclusive)
                .map_err(|errno| Error::io("cannot lock a writer's file", errno.into()))?;
        }
        let mut slot = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            drop(slot);
            let _ = self.fs.remove_file(&path); // another thread was first
            return Ok(());
        }
        *slot = Some(Writer { id, _lock: file, reserved: 0, recorded: 0, in_flight: 0, spare: 0, staging: Vec::new() });
        Ok(())
    }

    /// Covers `bytes` that are about to be written.
    pub(crate) fn cover(&self, bytes: u64) -> Result<Cover<'_>> {
        self.become_writer()?;
        let begun = self.with_writer(|writer| {
            writer.in_flight += bytes;
            (writer.id, writer.in_flight <= writer.reserved)
        });
        let Some((writer, covered)) = begun else {
            return Err(Error::new(weir_base::Kind::Internal, "the reservation is gone"));
        };
        let cover = Cover { disk: self, writer, bytes };
        if !covered {
            self.write_one(|tx| self.grow_reservation(tx))?;
        }
        Ok(cover)
    }

    fn grow_reservation(&self, tx: &mut Tx<'_>) -> Result<()> {
        // Twice what is asked for, as far as it may stand: the next blob, or a spare file.
        let standing = standing_bytes(tx.state.limit);
        let wanted = |writer: &mut Writer| {
            let twice = (writer.in_flight * 2).min(standing);
            (writer.id, writer.in_flight.max(writer.reserved).max(twice))
        };
        let Some((id, wanted)) = self.with_writer(wanted) else {
            return Ok(());
        };
        self.set_reservation(tx, id, wanted)?;
        tx.silent = true;
        tx.on_commit_reserved = Some(wanted);
        Ok(())
    }

    fn set_reservation(&self, tx: &mut Tx<'_>, id: i64, wanted: u64) -> Result<()> {
        let doing = "cannot write a reservation";
        let before: u64 = tx
            .sql
            .prepare_cached("SELECT coalesce(sum(reserved), 0) FROM writers WHERE id = ?1")
            .and_then(|mut found| found.query_row([id], |row| row.get::<_, i64>(0)))
            .doing(doing)? as u64;
        if before == wanted {
            return Ok(());
        }
        tx.sql
            .prepare_cached("INSERT INTO writers VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET reserved = ?2")
            .and_then(|mut upsert| upsert.execute((id, wanted as i64)))
            .doing(doing)?;
        tx.state.reserved = (tx.state.reserved + wanted).saturating_sub(before);
        Ok(())
    }

    /// In the commit that counts a staged blob: gives back what is above the standing part, or takes what is below it.
    pub(crate) fn settle_reservation(&self, tx: &mut Tx<'_>, cover: &Cover<'_>) -> Result<()> {
        let standing = standing_bytes(tx.state.limit);
        let change = self.with_writer(|writer| {
            // Room for the next blob and a spare file, as far as it may stand.
            let kept = standing.min(writer.reserved.max(cover.bytes * 2));
            let wanted = writer.in_flight.saturating_sub(cover.bytes).max(kept);
            // Lowered before the commit: a thread that begins now sees the smaller one and asks for its own.
            writer.reserved = writer.reserved.min(wanted);
            (wanted != writer.recorded).then_some((writer.id, wanted))
        });
        if let Some(Some((id, wanted))) = change {
            self.set_reservation(tx, id, wanted)?;
            tx.on_commit_reserved = Some(wanted);
        }
        Ok(())
    }

    /// Called by the transaction after its commit.
    pub(crate) fn reservation_committed(&self, reserved: u64) {
        self.with_writer(|writer| (writer.reserved, writer.recorded) = (reserved, reserved));
    }

    /// Gives back what dead writers reserved, after removing what they left.
    pub(crate) fn reclaim(&self, tx: &mut Tx<'_>) -> Result<u64> {
        if tx.state.reserved == 0 && count(tx.sql, "SELECT count(*) FROM writers")? == 0 {
            return Ok(0);
        }
        let doing = "cannot read reservations";
        let own = self.with_writer(|writer| writer.id);
        let rows: Vec<(i64, i64)> = tx
            .sql
            .prepare_cached("SELECT id, reserved FROM writers LIMIT ?1")
            .doing(doing)?
            .query_map([LOOK_MAX], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect)
            .doing(doing)?;
        let mut dead = HashSet::new();
        for (id, reserved) in rows {
            if Some(id) == own || !self.is_dead(id) {
                continue;
            }
            dead.insert(id);
            tx.sql
                .prepare_cached("DELETE FROM writers WHERE id = ?1")
                .and_then(|mut delete| delete.execute([id]))
                .doing(doing)?;
            tx.state.reserved = tx.state.reserved.saturating_sub(reserved.max(0) as u64);
        }
        if dead.is_empty() {
            return Ok(0);
        }
        self.remove_leftovers(tx, &dead)?;
        for id in &dead {
            let _ = self.fs.remove_file(&self.writer_path(*id));
        }
        Ok(dead.len() as u64)
    }

    /// Removes staging files of `dead` writers, and blobs that were linked but never committed.
    fn remove_leftovers(&self, tx: &Tx<'_>, dead: &HashSet<i64>) -> Result<()> {
        let io = |error| Error::io("cannot remove what a dead writer left", error);
        for (path, parsed) in self.blobs.staged().map_err(io)? {
            let Some((_, hash)) = parsed.filter(|(writer, _)| dead.contains(writer)) else { continue };
            if let Some(hash) = hash
                && !blob_is_counted(tx, &hash)?
            {
                self.blobs.remove(&hash).map_err(io)?;
            }
            self.blobs.remove_stranger(&path).map_err(io)?;
        }
        Ok(())
    }

    /// Whether nobody holds the lock of writer `id`.
    pub(crate) fn is_dead(&self, id: i64) -> bool {
        let Ok(file) = self.fs.open(&self.writer_path(id), OpenMode::Write) else { return true };
        file.os_file().is_some_and(|os| rustix::fs::flock(os, FlockOperation::NonBlockingLockExclusive).is_ok())
    }

    /// At the end of a handle: best effort, since anybody can do it afterwards.
    pub(crate) fn release_reservation(&self) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.blobs.remove_spare(writer.id);
        let deadline = Deadline::after(&*self.clock, Duration::from_millis(200));
        let released = self.write_until(deadline, |tx| {
            (tx.removes, tx.silent) = (true, true);
            self.set_reservation(tx, writer.id, 0)?;
            tx.sql
                .prepare_cached("DELETE FROM writers WHERE id = ?1")
                .and_then(|mut delete| delete.execute([writer.id]))
                .map(drop)
                .doing("cannot give a reservation back")
        });
        if released.is_ok() {
            let _ = self.fs.remove_file(&self.writer_path(writer.id));
        }
    }

    /// The index is another one now and knows nothing of this handle.
    pub(crate) fn forget_reservation(&self) {
        let id = self.with_writer(|writer| {
            writer.in_flight = writer.in_flight.saturating_sub(std::mem::take(&mut writer.spare));
            (writer.reserved, writer.recorded) = (0, 0);
            writer.id
        });
        if let Some(id) = id {
            self.blobs.remove_spare(id);
        }
    }
}

/// Whether `hash` has a row, doomed or not.
pub(crate) fn blob_is_counted(tx: &Tx<'_>, hash: &Hash) -> Result<bool> {
    tx.sql
        .prepare_cached("SELECT 1 FROM blobs WHERE hash = ?1")
        .and_then(|mut found| found.exists([hash]))
        .doing("cannot look for a blob")
}
