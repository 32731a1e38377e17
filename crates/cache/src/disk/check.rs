//! Index against disk: exact size, verify, repair, garbage collection in bounded steps, rebuild from the files.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use weir_base::{Kind, OpenMode};

use super::blob::{Hash, Trailer};
use super::state::log_budget;
use super::tx::{Tx, count};
use super::{Disk, schema};
use crate::error::{Error, IndexContext, Result};

/// Entries removed per transaction of a collection.
const GC_STEP: usize = 512;
/// Lock files of computations older than this are removed.
const FLIGHT_AGE_NS: i64 = 3_600_000_000_000;

/// What `verify` found, and repaired when asked to.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct Verification {
    /// Index and disk agree.
    pub agree: bool,
    /// Something was repaired.
    pub repaired: bool,
    /// Entries in the index.
    pub entries: u64,
    /// Bytes of blobs as counted.
    pub counted_blob_bytes: u64,
    /// Bytes of blobs as allocated on the disk.
    pub disk_blob_bytes: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Blobs whose file is missing.
    pub missing: u64,
    /// Blobs whose bytes are not what their name says.
    pub damaged: u64,
    /// Files that no entry refers to.
    pub orphans: u64,
    /// Reservations of dead writers, given back.
    pub dead_writers: u64,
    /// Counters that were wrong, by name.
    pub wrong_counters: Vec<String>,
    /// What SQLite's own check says about the index; empty when it is well.
    pub index_errors: Vec<String>,
}

/// What one collection did.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub struct Collection {
    /// Entries removed because their time was over.
    pub expired: u64,
    /// Entries evicted for room.
    pub evicted: u64,
    /// Files removed that nothing referred to.
    pub orphans: u64,
    /// Blobs whose files take other bytes than were counted, counted anew.
    pub recounted: u64,
    /// Reservations of dead writers, given back.
    pub dead_writers: u64,
    /// Whether there is more to do than the budget allowed.
    pub more: bool,
}

struct BlobRow {
    bytes: u64,
    refs: i64,
}

impl Disk {
    /// Allocated bytes of every file of the namespace, by a scan.
    pub(crate) fn scan_bytes(&self) -> Result<u64> {
        let mut total = 0;
        let mut folders = vec![self.dir.clone()];
        while let Some(folder) = folders.pop() {
            for path in self.list(&folder)? {
                match self.fs.metadata(&path) {
                    Ok(found) if found.is_dir => folders.push(path),
                    Ok(found) => total += found.allocated,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io("cannot scan the cache", error)),
                }
            }
        }
        Ok(total)
    }

    fn list(&self, folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
        match self.fs.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|error| Error::io("cannot list the cache", error)),
        }
    }

    /// Compares the index with the disk; with `repair`, makes them agree.
    pub(crate) fn verify(&self, repair: bool) -> Result<Verification> {
        if self.read_only {
            return Err(Error::new(Kind::Unavailable, "verify needs write permission: it takes the namespace's lock"));
        }
        let damaged = self.damaged_blobs()?;
        let mut report = self.write(|tx| {
            tx.removes = true;
            let mut report = Verification { dead_writers: self.reclaim(tx)?, ..Verification::default() };
            report.index_errors = index_errors(tx.sql)?;
            self.compare(tx, &mut report, &damaged, repair)?;
            Ok(report)
        })?;
        let wrong = report.missing + report.damaged + report.orphans > 0
            || !report.wrong_counters.is_empty()
            || report.counted_blob_bytes != report.disk_blob_bytes;
        report.repaired = repair && wrong;
        report.agree = report.index_errors.is_empty() && (!wrong || report.repaired);
        if repair && !report.index_errors.is_empty() {
            self.rebuild()?;
            return self.verify(false).map(|after| Verification { repaired: true, ..after });
        }
        Ok(report)
    }

    /// Hashes of blobs whose content is wrong; reads every blob, without the lock.
    fn damaged_blobs(&self) -> Result<Vec<Hash>> {
        let rows: Vec<(Hash, i64)> = self.read(|sql| {
            sql.prepare("SELECT blob, max(size) FROM entries WHERE blob IS NOT NULL GROUP BY blob")
                .and_then(|mut all| all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
                .doing("cannot read the index")
        })?;
        let is_damaged =
            |error: io::Error| matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        Ok(rows
            .into_iter()
            .filter(|(hash, size)| self.blobs.read(hash, *size as u64).is_err_and(is_damaged))
            .map(|(hash, _)| hash)
            .collect())
    }

    fn compare(&self, tx: &mut Tx<'_>, report: &mut Verification, damaged: &[Hash], repair: bool) -> Result<()> {
        let mut rows = blob_rows(tx.sql)?;
        report.blobs = rows.len() as u64;
        report.counted_blob_bytes = tx.state.blob_bytes;
        let io = |error| Error::io("cannot read blobs", error);
        for shard in 0..=255 {
            let (hashes, strangers) = self.blobs.shard(shard).map_err(io)?;
            for hash in hashes {
                let allocated = self.blobs.allocated(&hash).map_err(io)?.unwrap_or(0);
                if rows.remove(&hash).is_none() {
                    report.orphans += 1;
                    if repair {
                        self.blobs.remove(&hash).map_err(io)?;
                        continue;
                    }
                }
                report.disk_blob_bytes += allocated;
                if repair {
                    set_blob_bytes(tx.sql, &hash, allocated)?;
                }
            }
            report.orphans += strangers.len() as u64;
            if repair {
                strangers.iter().try_for_each(|path| self.blobs.remove_stranger(path)).map_err(io)?;
            }
        }
        // A doomed blob without a file is on its way out, not missing; its bytes come off with the next write.
        let gone: u64 = rows.values().filter(|row| row.refs == 0).map(|row| row.bytes).sum();
        report.counted_blob_bytes = report.counted_blob_bytes.saturating_sub(gone);
        let missing: Vec<Hash> = rows.iter().filter(|(_, row)| row.refs > 0).map(|(hash, _)| *hash).collect();
        report.missing = missing.len() as u64;
        report.damaged = damaged.iter().filter(|hash| !rows.contains_key(*hash)).count() as u64;
        if repair {
            for hash in missing.iter().chain(damaged) {
                self.blobs.discard_from_pool(hash);
                let victims = tx.victims("SELECT id, size, flags, blob FROM entries WHERE blob = ?1", [hash])?;
                victims.iter().try_for_each(|victim| tx.remove(victim))?;
            }
        }
        self.recount(tx, report, repair)
    }

    fn recount(&self, tx: &mut Tx<'_>, report: &mut Verification, repair: bool) -> Result<()> {
        let hand = tx.state.small_hand;
        let fresh = [
            ("entries", count(tx.sql, "SELECT count(*) FROM entries")?, tx.state.entries),
            ("live_bytes", count(tx.sql, "SELECT coalesce(sum(size), 0) FROM entries")?, tx.state.live_bytes),
            (
                "small_bytes",
                count(tx.sql, &format!("SELECT coalesce(sum(size), 0) FROM entries WHERE id > {hand}"))?,
                tx.state.small_bytes,
            ),
            ("blob_bytes", count(tx.sql, "SELECT coalesce(sum(bytes), 0) FROM blobs")?, tx.state.blob_bytes),
            ("reserved", count(tx.sql, "SELECT coalesce(sum(reserved), 0) FROM writers")?, tx.state.reserved),
            ("doomed", count(tx.sql, "SELECT count(*) FROM doomed")?, tx.state.doomed),
        ];
        report.entries = fresh[0].1;
        report.wrong_counters =
            fresh.iter().filter(|(_, is, said)| is != said).map(|(name, ..)| (*name).into()).collect();
        if repair {
            let [entries, live, small, blobs, reserved, doomed] = fresh.map(|(_, is, _)| is);
            let state = &mut tx.state;
            (state.entries, state.live_bytes, state.small_bytes) = (entries, live, small);
            (state.blob_bytes, state.reserved, state.doomed) = (blobs, reserved, doomed);
        }
        Ok(())
    }

    /// One collection of at most `budget`: expired entries, the limit, dead writers, one shard of files.
    pub(crate) fn collect(&self, budget: Duration) -> Result<Collection> {
        let started = self.clock.monotonic();
        let in_time = || self.clock.monotonic().saturating_sub(started) < budget;
        let mut report = Collection::default();
        loop {
            let (expired, evicted) = self.write(|tx| {
                tx.removes = true;
                let expired = tx.remove_dead(GC_STEP)? as u64;
                let before = tx.state.evicted;
                tx.keep_below_high_water()?;
                Ok((expired, tx.state.evicted - before))
            })?;
            report.expired += expired;
            report.evicted += evicted;
            report.more = expired == GC_STEP as u64 || evicted > 0;
            if !report.more || !in_time() {
                break;
            }
        }
        report.dead_writers = self.write(|tx| {
            tx.removes = true;
            self.reclaim(tx)
        })?;
        let shard = self.shard_next.fetch_add(1, Ordering::Relaxed);
        (report.orphans, report.recounted) = self.reconcile_shard(shard)?;
        self.sweep_flights();
        if in_time() {
            self.give_pages_back()?;
        }
        Ok(report)
    }

    /// Removes files of one shard, here and in the pool, that nothing refers to, and counts anew those that take other bytes than were
    /// counted. Says how many of each.
    fn reconcile_shard(&self, shard: u8) -> Result<(u64, u64)> {
        let io = |error| Error::io("cannot read blobs", error);
        let (mut removed, recounted) = self.write(|tx| {
            tx.removes = true;
            let (hashes, strangers) = self.blobs.shard(shard).map_err(io)?;
            let (mut removed, mut recounted) = (strangers.len() as u64, 0);
            strangers.iter().try_for_each(|path| self.blobs.remove_stranger(path)).map_err(io)?;
            for hash in hashes {
                if !super::writers::blob_is_counted(tx, &hash)? {
                    self.blobs.remove(&hash).map_err(io)?;
                    removed += 1;
                } else if let Some(counted) = referred_bytes(tx.sql, &hash)?
                    && let Some(allocated) = self.blobs.allocated(&hash).map_err(io)?
                    && allocated != counted
                {
                    set_blob_bytes(tx.sql, &hash, allocated)?;
                    tx.state.blob_bytes = (tx.state.blob_bytes + allocated).saturating_sub(counted);
                    recounted += 1;
                }
            }
            Ok((removed, recounted))
        })?;
        for path in self.blobs.pool_shard(shard).map_err(io)? {
            removed += u64::from(self.blobs.sweep_pool_file(&path).map_err(io)?);
        }
        Ok((removed, recounted))
    }

    fn sweep_flights(&self) {
        let Ok(files) = self.fs.list(&self.dir.join("flights")) else { return };
        for path in files.into_iter().take(1000) {
            let old = self.fs.metadata(&path).is_ok_and(|found| self.clock.now() - found.modified > FLIGHT_AGE_NS);
            if old {
                let _ = self.fs.remove_file(&path);
            }
        }
    }

    /// Shrinks the index's file when a quarter of it is free.
    fn give_pages_back(&self) -> Result<()> {
        let worth = self.read(|sql| {
            let (free, pages) = (count(sql, "PRAGMA freelist_count")?, count(sql, "PRAGMA page_count")?);
            // Also when a process died between cutting the file and counting it.
            Ok((free > 64 && free * 4 > pages) || pages < super::state::State::load(sql)?.index_pages)
        })?;
        if !worth {
            return Ok(());
        }
        let _held = self.lock.acquire(weir_limits::Deadline::after(&*self.clock, self.lock_deadline))?;
        let sql = self.take()?;
        let outcome = self.shrink_index(&sql);
        self.give_back(sql, &outcome);
        outcome
    }

    fn rebuild(&self) -> Result<()> {
        let _held = self.lock.acquire(weir_limits::Deadline::after(&*self.clock, self.lock_deadline))?;
        let limit = self.limit_seen.load(Ordering::Relaxed);
        let sql = self.rebuild_locked(limit)?;
        self.give_back(sql, &Ok(()));
        Ok(())
    }

    /// Replaces a damaged index by one made from the blobs' trailers. The caller holds the lock.
    pub(crate) fn rebuild_locked(&self, limit: u64) -> Result<Connection> {
        self.generation.next_era();
        let io = |error| Error::io("cannot replace the index", error);
        let index = self.index_path();
        for suffix in ["-wal", "-shm", ""] {
            let mut path = index.clone().into_os_string();
            path.push(suffix);
            self.blobs.remove_stranger(path.as_ref()).map_err(io)?;
        }
        self.fs.open(&index, OpenMode::CreateNew).map_err(io)?;
        let sql = self.take()?;
        schema::create(&sql, limit)?;
        let mut kept: HashMap<String, i64> = HashMap::new();
        let (mut total, mut next_id) = (log_budget(limit), 1);
        for shard in 0..=255 {
            let (hashes, strangers) = self.blobs.shard(shard).map_err(io)?;
            strangers.iter().try_for_each(|path| self.blobs.remove_stranger(path)).map_err(io)?;
            super::tx::run(&sql, "BEGIN IMMEDIATE")?;
            for hash in hashes {
                let allocated = self.blobs.allocated(&hash).map_err(io)?.unwrap_or(0);
                let wanted = self.readable_trailer(&hash)?.filter(|found| {
                    total + allocated + (1 << 20) < limit
                        && kept.get(&found.key).is_none_or(|at| *at < found.written_ms)
                });
                let Some(trailer) = wanted else {
                    self.blobs.remove(&hash).map_err(io)?;
                    continue;
                };
                total += allocated + 512;
                insert_rebuilt(&sql, next_id, &hash, allocated, &trailer)?;
                kept.insert(trailer.key, trailer.written_ms);
                next_id += 1;
            }
            super::tx::run(&sql, "COMMIT")?;
            self.truncate_log(&sql)?;
        }
        for (path, _) in self.blobs.staged().map_err(io)? {
            self.blobs.remove_stranger(&path).map_err(io)?;
        }
        finish_rebuilt(&sql, next_id)?;
        Ok(sql)
    }

    /// The trailer of a blob of this namespace whose content is right.
    fn readable_trailer(&self, hash: &Hash) -> Result<Option<Trailer>> {
        let trailer = match self.blobs.trailer(hash) {
            Ok(Some(trailer)) if trailer.namespace == self.namespace.as_str() => trailer,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(Error::io("cannot read a blob", error)),
        };
        Ok(self.blobs.read(hash, trailer.stored_len).is_ok().then_some(trailer))
    }
}

fn blob_rows(sql: &Connection) -> Result<HashMap<Hash, BlobRow>> {
    sql.prepare("SELECT hash, bytes, refs FROM blobs")
        .and_then(|mut all| {
            all.query_map([], |row| {
                Ok((row.get(0)?, BlobRow { bytes: row.get::<_, i64>(1)?.max(0) as u64, refs: row.get(2)? }))
            })?
            .collect()
        })
        .doing("cannot read the index")
}

/// Bytes that are counted for a blob that entries refer to.
fn referred_bytes(sql: &Connection, hash: &Hash) -> Result<Option<u64>> {
    sql.prepare_cached("SELECT bytes FROM blobs WHERE hash = ?1 AND refs > 0")
        .and_then(|mut select| select.query_row([hash], |row| row.get::<_, i64>(0)).optional())
        .map(|bytes| bytes.map(|bytes| bytes as u64))
        .doing("cannot read what is counted for a blob")
}

fn set_blob_bytes(sql: &Connection, hash: &Hash, bytes: u64) -> Result<()> {
    sql.prepare_cached("UPDATE blobs SET bytes = ?2 WHERE hash = ?1")
        .and_then(|mut update| update.execute(params![hash, bytes as i64]))
        .map(drop)
        .doing("cannot count a blob")
}

fn index_errors(sql: &Connection) -> Result<Vec<String>> {
    let lines: Vec<String> = sql
        .prepare("PRAGMA quick_check(20)")
        .and_then(|mut check| check.query_map([], |row| row.get(0))?.collect())
        .doing("cannot check the index")?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

fn insert_rebuilt(sql: &Connection, id: i64, hash: &Hash, allocated: u64, trailer: &Trailer) -> Result<()> {
    let key = unhex(&trailer.key);
    let flags = if trailer.tags.is_empty() { 0 } else { super::entry::FLAG_TAGGED };
    let insert = || -> rusqlite::Result<()> {
        // An older blob of the same key loses its row; its file has no other reference and goes with the next check.
        sql.execute("DELETE FROM entries WHERE key = ?1", [&key])?;
        sql.prepare_cached("INSERT INTO entries VALUES (?1,?2,?3,?4,?5,0,?6,?7,?8,?9,?10,?11,NULL,?12,NULL)")?
            .execute(params![
                id,
                key,
                trailer.version,
                flags,
                trailer.codec,
                trailer.stored_len as i64,
                trailer.raw_len as i64,
                trailer.written_ms,
                trailer.expires_ms,
                trailer.dead_ms,
                trailer.cost_us as i64,
                hash
            ])?;
        sql.prepare_cached("INSERT INTO blobs VALUES (?1, ?2, 1, ?3)")?.execute(params![hash, allocated as i64, id])?;
        for tag in &trailer.tags {
            sql.prepare_cached("INSERT OR IGNORE INTO tags VALUES (?1, ?2)")?.execute(params![tag, id])?;
        }
        Ok(())
    };
    insert().doing("cannot rebuild the index")
}

/// Dooms blobs whose row was replaced, and counts.
fn finish_rebuilt(sql: &Connection, next_id: i64) -> Result<()> {
    sql.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         DELETE FROM tags WHERE id NOT IN (SELECT id FROM entries);
         UPDATE blobs SET refs = 0 WHERE hash NOT IN (SELECT blob FROM entries);
         INSERT INTO doomed SELECT hash FROM blobs WHERE refs = 0;
         UPDATE state SET next_id = {next_id}, small_hand = {next_id} - 1, entries = (SELECT count(*) FROM entries),
           live_bytes = (SELECT coalesce(sum(size), 0) FROM entries), doomed = (SELECT count(*) FROM doomed),
           blob_bytes = (SELECT coalesce(sum(bytes), 0) FROM blobs), index_pages = (SELECT page_count FROM pragma_page_count);
         COMMIT"
    ))
    .doing("cannot rebuild the index")
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
