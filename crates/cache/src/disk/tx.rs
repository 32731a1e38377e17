//! One write transaction: under the namespace's lock, within the limit, visible to memory levels everywhere.
//!
//! `Disk::write` runs a body until it fits: begin, clear what is doomed, run the body, compare the sum with the limit,
//! commit; or roll back, make room, and run the body again, a bounded number of times.

use rusqlite::Connection;
use weir_base::{Kind, Retry};
use weir_limits::Deadline;

use super::blob::Hash;
use super::schema::PAGE_BYTES;
use super::state::{State, log_budget};
use super::{Disk, Scope};
use crate::error::{Error, IndexContext, Result};

/// What puts leave free, so that removing (which may need a page) always fits.
pub(crate) const MARGIN_BYTES: u64 = 64 << 10;
/// What writing one entry adds to the log at most: its pages, a few tags', and what splits on the way.
const ONE_TX_BYTES: u64 = 512 << 10;
/// How often room is made for one call.
const ROUNDS_MAX: u32 = 16;
/// Doomed files removed by one transaction.
const DOOMED_MAX: usize = 256;

/// An open transaction.
#[derive(Debug)]
pub(crate) struct Tx<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) sql: &'a Connection,
    pub(crate) state: State,
    before: State,
    /// Blobs whose files go after the commit.
    pub(crate) doomed_now: Vec<Hash>,
    pub(crate) now_ms: i64,
    /// Set by bodies that only remove: they may use the margin that puts leave.
    pub(crate) removes: bool,
    /// Set by bodies that change no entry: memory levels need not hear of them.
    pub(crate) silent: bool,
    /// Which keys memory levels must ask about again.
    pub(crate) scope: Scope,
    /// What this handle has reserved once this commits.
    pub(crate) on_commit_reserved: Option<u64>,
    open: bool,
}

enum Commit {
    Done,
    /// The sum would grow past the limit by this much.
    Over(u64),
}

impl<'a> Tx<'a> {
    fn begin(disk: &'a Disk, sql: &'a Connection) -> Result<Self> {
        run(sql, "BEGIN IMMEDIATE")?;
        let state = match State::load(sql) {
            Ok(state) => state,
            Err(error) => {
                let _ = run(sql, "ROLLBACK");
                return Err(error);
            }
        };
        let before = state.clone();
        Ok(Self {
            disk,
            sql,
            state,
            before,
            doomed_now: Vec::new(),
            now_ms: disk.now_ms(),
            removes: false,
            silent: false,
            scope: Scope::All,
            on_commit_reserved: None,
            open: true,
        })
    }

    /// Pages of the index that hold nothing.
    pub(crate) fn free_pages(&self) -> Result<u64> {
        count(self.sql, "PRAGMA freelist_count")
    }

    /// The sum without what the next transactions use again or give back.
    pub(crate) fn used_bytes(&self) -> Result<u64> {
        let pages = count(self.sql, "PRAGMA page_count")?.saturating_sub(self.free_pages()?);
        let state = &self.state;
        Ok(state.blob_bytes + state.reserved + pages * PAGE_BYTES + log_budget(state.limit))
    }

    /// Removes the files that earlier transactions gave up, and stops counting them.
    pub(crate) fn clear_doomed(&mut self) -> Result<()> {
        if self.state.doomed == 0 {
            return Ok(());
        }
        let doing = "cannot clear removed blobs";
        let mut statement = self
            .sql
            .prepare_cached("SELECT d.hash, b.bytes FROM doomed d JOIN blobs b ON b.hash = d.hash LIMIT ?1")
            .doing(doing)?;
        let found: Vec<(Hash, u64)> = statement
            .query_map([DOOMED_MAX as i64], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))
            .and_then(Iterator::collect)
            .doing(doing)?;
        for (hash, bytes) in found {
            if self.disk.blobs.remove(&hash).is_err() {
                continue; // still there, so still counted
            }
            for text in ["DELETE FROM doomed WHERE hash = ?1", "DELETE FROM blobs WHERE hash = ?1"] {
                self.sql.prepare_cached(text).and_then(|mut delete| delete.execute([hash])).doing(doing)?;
            }
            self.state.blob_bytes = self.state.blob_bytes.saturating_sub(bytes);
            self.state.doomed = self.state.doomed.saturating_sub(1);
        }
        Ok(())
    }

    /// Whether this transaction will do more than its body: evict, clear many files, count hits.
    fn does_more(&self) -> bool {
        let crowded = self.state.entry_limit > 0 && self.state.entries >= self.state.entry_limit;
        crowded
            || self.state.total() > self.low_water()
            || self.state.doomed > 8
            || self.state.policy != crate::options::Policy::S3Fifo
    }

    fn commit(mut self) -> Result<Commit> {
        let pages = count(self.sql, "PRAGMA page_count")?;
        self.state.index_pages = self.state.index_pages.max(pages);
        let (sum, before) = (self.state.total(), self.before.total());
        let margin = if self.removes { 0 } else { MARGIN_BYTES };
        if sum > before && sum + margin > self.state.limit {
            self.roll_back();
            return Ok(Commit::Over(sum + margin - self.state.limit));
        }
        if self.state != self.before {
            self.state.store(self.sql)?;
        }
        if self.silent {
            run(self.sql, "COMMIT")?;
        } else {
            self.disk.generation.begin(self.scope);
            let outcome = run(self.sql, "COMMIT");
            self.disk.generation.end(self.scope);
            outcome?;
        }
        self.open = false;
        if let Some(reserved) = self.on_commit_reserved {
            self.disk.reservation_committed(reserved);
        }
        for hash in &self.doomed_now {
            self.disk.drop_blob_file(hash);
        }
        Ok(Commit::Done)
    }

    fn roll_back(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = run(self.sql, "ROLLBACK");
        }
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        self.roll_back();
    }
}

/// Runs a statement that gives no rows.
pub(crate) fn run(sql: &Connection, text: &str) -> Result<()> {
    sql.prepare_cached(text)
        .and_then(|mut statement| statement.execute([]))
        .map(drop)
        .doing("cannot write to the index")
}

/// Runs a query that gives one number.
pub(crate) fn count(sql: &Connection, text: &str) -> Result<u64> {
    sql.prepare_cached(text)
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .map(|number| number.max(0) as u64)
        .doing("cannot read the index")
}

impl Disk {
    /// Runs `body` in a transaction that keeps within the limit; the body may run several times and must then do the same.
    pub(crate) fn write<T>(&self, body: impl FnMut(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        self.write_until(Deadline::after(&*self.clock, self.lock_deadline), body)
    }

    /// Like [`Disk::write`], for a body that writes one entry: it needs little of the log.
    pub(crate) fn write_one<T>(&self, body: impl FnMut(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        self.write_sized(Deadline::after(&*self.clock, self.lock_deadline), ONE_TX_BYTES, body)
    }

    /// Like [`Disk::write`], with a deadline for the lock.
    pub(crate) fn write_until<T>(&self, deadline: Deadline, body: impl FnMut(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        self.write_sized(deadline, u64::MAX, body)
    }

    fn write_sized<T>(
        &self,
        deadline: Deadline,
        log_bytes: u64,
        mut body: impl FnMut(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        if self.read_only {
            return Err(Error::new(Kind::Unavailable, "the cache is open for reading only"));
        }
        let started = self.clock.monotonic();
        let held = self.lock.acquire(deadline)?;
        self.note_lock_wait(self.clock.monotonic().saturating_sub(started));
        let sql = self.take()?;
        let outcome = self.write_locked(&sql, log_bytes, &mut body);
        drop(held);
        self.give_back(sql, &outcome);
        outcome
    }

    fn write_locked<T>(
        &self,
        sql: &Connection,
        log_bytes: u64,
        body: &mut impl FnMut(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        for round in 0..ROUNDS_MAX {
            self.make_log_room(sql, log_bytes)?;
            let mut tx = Tx::begin(self, sql)?;
            if tx.does_more() && self.log_bytes() > self.log_budget() / 2 {
                drop(tx);
                self.make_log_room(sql, u64::MAX)?;
                tx = Tx::begin(self, sql)?;
            }
            tx.clear_doomed()?;
            self.apply_touches(&tx)?;
            let value = body(&mut tx)?;
            match tx.commit()? {
                Commit::Done => return Ok(value),
                Commit::Over(bytes) => self.make_room(sql, bytes, round)?,
            }
        }
        Err(Error::new(Kind::Limit, "no room below the byte limit yet (limit); eviction goes on with the next writes")
            .with_retry(Retry::Backoff))
    }

    /// Evicts for `bytes`; from the second round on also shrinks the index's file.
    fn make_room(&self, sql: &Connection, bytes: u64, round: u32) -> Result<()> {
        self.make_log_room(sql, u64::MAX)?;
        let mut tx = Tx::begin(self, sql)?;
        tx.removes = true;
        tx.clear_doomed()?;
        self.reclaim(&mut tx)?;
        let used = tx.used_bytes()?;
        tx.evict_until(used.saturating_sub(bytes).min(tx.low_water()))?;
        tx.commit()?;
        if round > 0 {
            self.shrink_index(sql)?;
        }
        Ok(())
    }

    /// Gives free pages back to the file system in a bounded step.
    pub(crate) fn shrink_index(&self, sql: &Connection) -> Result<()> {
        const PAGES_MAX: u64 = 4096;
        self.make_log_room(sql, u64::MAX)?;
        let tx = Tx::begin(self, sql)?;
        let free = tx.free_pages()?.min(PAGES_MAX);
        if free > 0 {
            // Steps once per page; the pragma gives no rows that are of use.
            let mut statement =
                sql.prepare(&format!("PRAGMA incremental_vacuum({free})")).doing("cannot shrink the index")?;
            let mut rows = statement.query([]).doing("cannot shrink the index")?;
            while rows.next().doing("cannot shrink the index")?.is_some() {}
        }
        tx.commit()?;
        if self.truncate_log(sql)? {
            let mut tx = Tx::begin(self, sql)?;
            tx.state.index_pages = count(sql, "PRAGMA page_count")?;
            tx.commit()?;
        }
        Ok(())
    }

    /// Restarts the log when less than `room_bytes` of its budget are left.
    fn make_log_room(&self, sql: &Connection, room_bytes: u64) -> Result<()> {
        let budget = self.log_budget();
        if self.log_bytes() + room_bytes.min(budget / 2) <= budget || self.truncate_log(sql)? {
            return Ok(());
        }
        let deadline = Deadline::after(&*self.clock, self.lock_deadline);
        while !deadline.has_passed(&*self.clock) {
            self.clock.sleep(std::time::Duration::from_millis(5));
            if self.truncate_log(sql)? {
                return Ok(());
            }
        }
        Err(Error::new(
            Kind::Unavailable,
            "the index's log is at its budget and a reader keeps it from being restarted",
        )
        .with_retry(Retry::Backoff))
    }

    /// Copies the log into the index and cuts it; `false` when a reader is in the way.
    pub(crate) fn truncate_log(&self, sql: &Connection) -> Result<bool> {
        sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
            .map(|busy| busy == 0)
            .doing("cannot restart the index's log")
    }
}
