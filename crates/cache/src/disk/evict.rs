//! Making room: which entries go, in bounded steps, with hysteresis.
//!
//! S3-FIFO needs no order of its own: rows are numbered by insertion. Rows above `small_hand` are the small queue; the hand
//! moves up over them and evicts what was not read twice. Rows below it are the main queue, swept like a clock by
//! `main_hand`: a row that was read since the last visit stays for another round. Keys evicted from the small queue leave a
//! fingerprint in `ghosts`; one that comes back starts as if it had been read. LRU and GDSF evict by `rank`.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use xxhash_rust::xxh3::xxh3_64;

use super::Disk;
use super::entry::Victim;
use super::state::State;
use super::tx::Tx;
use crate::error::{IndexContext, Result};
use crate::options::Policy;

/// Entries that one transaction evicts at most.
const STEP_MAX: usize = 256;
/// Rows looked at per query.
const LOOK_MAX: i64 = 32;
/// Hits after which counting stops (S3-FIFO).
pub(crate) const FREQ_MAX: i64 = 3;
const FREQ_MAX_GDSF: i64 = 255;
/// An entry whose key was evicted recently starts as if read twice.
pub(crate) const FREQ_FROM_GHOST: i64 = 2;
/// Hits in the small queue that let an entry stay.
const FREQ_STAYS: i64 = 2;
/// The small queue's share of the bytes.
const SMALL_SHARE: u64 = 10;
const GHOSTS_MAX: u64 = 1 << 20;
/// Rows whose hits one transaction counts.
const TOUCHES_PER_TX: usize = 256;
/// Rows whose hits may wait; those of more are forgotten.
const TOUCHES_MAX: usize = 16 << 10;
/// Under s3fifo a nearly full cache is told of hits this often.
const TOUCHES_EVERY: Duration = Duration::from_millis(250);
/// Transactions in which an ending handle tells of its hits.
const TOUCHES_LAST_TXS: usize = 4;

/// Hits of one row that the index has not been told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Touch {
    hits: i64,
    at_us: i64,
}

/// Hits that the index has not been told of. Each row told dirties a page, so s3fifo, which needs them only when it looks at
/// a row, keeps them here: its own evictions see them at once, other processes' after a while.
#[derive(Debug, Default)]
pub(crate) struct Touches {
    waiting: BTreeMap<i64, Touch>,
    told_at: Duration,
}

impl Touches {
    fn add(&mut self, id: i64, at_us: i64) {
        if self.waiting.len() < TOUCHES_MAX || self.waiting.contains_key(&id) {
            let touch = self.waiting.entry(id).or_insert(Touch { hits: 0, at_us });
            *touch = Touch { hits: touch.hits + 1, at_us };
        }
    }

    fn take(&mut self, max: usize) -> Vec<(i64, Touch)> {
        (0..max).map_while(|_| self.waiting.pop_first()).collect()
    }
}

/// The rank of an entry, `None` where the policy needs none.
pub(crate) fn rank_of(state: &State, at_us: i64, freq: i64, cost_us: u64, size: u64) -> Option<f64> {
    match state.policy {
        Policy::S3Fifo => None,
        Policy::Lru => Some(at_us as f64),
        Policy::Gdsf => Some(state.floor + (freq + 1) as f64 * cost_us.max(1) as f64 / (size + 128) as f64),
    }
}

/// What a row takes in the index beside its value, roughly; only decides where a step ends.
const ROW_BYTES: u64 = 100;

/// How much a step should free; it ends there, or with its last row.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    bytes: u64,
    entries: u64,
}

impl Wanted {
    fn is_met(self) -> bool {
        self.bytes == 0 && self.entries == 0
    }
}

struct Candidate {
    victim: Victim,
    key: Vec<u8>,
    freq: i64,
    rank: f64,
}

impl Disk {
    /// Remembers a hit; forgets it when too many are waiting.
    pub(crate) fn touch(&self, id: i64, freq: i64) {
        if self.read_only || (freq >= FREQ_MAX && self.counts_to_three()) {
            return;
        }
        let at_us = self.clock.now() / 1000;
        self.touches().add(id, at_us);
    }

    fn touches(&self) -> MutexGuard<'_, Touches> {
        self.touches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hits of a row that waited here; the caller counts them.
    fn take_hits(&self, id: i64) -> i64 {
        self.touches().waiting.remove(&id).map_or(0, |touch| touch.hits)
    }

    /// Whether hits past the third change nothing.
    pub(crate) fn counts_to_three(&self) -> bool {
        self.policy_seen.load(std::sync::atomic::Ordering::Relaxed) == 0
    }

    /// Counts remembered hits in `tx`, as far as the policy needs them now.
    pub(crate) fn apply_touches(&self, tx: &Tx<'_>) -> Result<()> {
        let policy = tx.state.policy;
        self.policy_seen.store(u64::from(policy != Policy::S3Fifo), std::sync::atomic::Ordering::Relaxed);
        let now = self.clock.monotonic();
        let waiting = {
            let mut touches = self.touches();
            let due = now.saturating_sub(touches.told_at) >= TOUCHES_EVERY && tx.state.total() > tx.low_water();
            if touches.waiting.is_empty() || (policy == Policy::S3Fifo && !due) {
                return Ok(());
            }
            touches.told_at = now;
            touches.take(TOUCHES_PER_TX)
        };
        count_hits(tx, &waiting)
    }

    /// At the end of a handle: counts what it remembered, unless another writer is busy.
    pub(crate) fn flush_touches(&self) {
        for _ in 0..TOUCHES_LAST_TXS {
            let waiting = self.touches().take(TOUCHES_PER_TX);
            if waiting.is_empty() {
                return;
            }
            let deadline = weir_limits::Deadline::after(&*self.clock, Duration::from_millis(20));
            let told = self.write_until(deadline, |tx| {
                (tx.removes, tx.silent) = (true, true);
                count_hits(tx, &waiting)
            });
            if told.is_err() {
                return;
            }
        }
    }
}

/// Adds hits to rows; in the order of rows, so that each page is met once.
fn count_hits(tx: &Tx<'_>, waiting: &[(i64, Touch)]) -> Result<()> {
    let policy = tx.state.policy;
    let text = match policy {
        Policy::S3Fifo => "UPDATE entries SET freq = min(freq + ?3, ?2) WHERE id = ?1 AND freq < ?2",
        Policy::Lru => "UPDATE entries SET freq = min(freq + ?3, ?2), rank = max(coalesce(rank, 0), ?4) WHERE id = ?1",
        Policy::Gdsf => {
            "UPDATE entries SET freq = min(freq + ?3, ?2), rank = ?4 + (min(freq + ?3, ?2) + 1.0) * max(cost, 1) / (size + 128) \
             WHERE id = ?1"
        }
    };
    let mut update = tx.sql.prepare_cached(text).doing("cannot count hits")?;
    for (id, touch) in waiting {
        match policy {
            Policy::S3Fifo => update.execute(params![id, FREQ_MAX, touch.hits]),
            Policy::Lru => update.execute(params![id, FREQ_MAX, touch.hits, touch.at_us as f64]),
            Policy::Gdsf => update.execute(params![id, FREQ_MAX_GDSF, touch.hits, tx.state.floor]),
        }
        .doing("cannot count hits")?;
    }
    Ok(())
}

impl Tx<'_> {
    /// Eviction starts above this.
    pub(crate) fn high_water(&self) -> u64 {
        self.state.limit - (self.state.limit / 32).max(super::tx::MARGIN_BYTES)
    }

    /// And stops below this.
    pub(crate) fn low_water(&self) -> u64 {
        let high = self.high_water();
        high - (high / 64).min(16 << 20)
    }

    /// Before a put: a bounded step of eviction when the cache is nearly full.
    pub(crate) fn keep_below_high_water(&mut self) -> Result<()> {
        let state = &self.state;
        let crowded = state.entry_limit > 0 && state.entries >= state.entry_limit;
        if crowded || (state.total() > self.low_water() && self.used_bytes()? > self.high_water()) {
            let low = self.low_water();
            self.evict_until(low)?;
        }
        Ok(())
    }

    /// Evicts up to `STEP_MAX` entries until the bytes in use are at most `goal` and the entry limit is kept.
    pub(crate) fn evict_until(&mut self, goal: u64) -> Result<usize> {
        let mut gone = self.remove_dead(STEP_MAX)?;
        let mut freed = 0;
        while gone < STEP_MAX {
            let limit = self.state.entry_limit;
            let crowded = if limit > 0 { self.state.entries.saturating_sub(limit - 1 - (limit - 1) / 64) } else { 0 };
            let bytes = self.used_bytes()?.saturating_sub(goal.saturating_add(freed));
            if crowded == 0 && bytes == 0 {
                break;
            }
            let wanted = Wanted { bytes, entries: crowded };
            let (count, blobs) = match self.state.policy {
                Policy::S3Fifo => self.step_s3fifo(wanted)?,
                Policy::Lru | Policy::Gdsf => self.step_by_rank(wanted)?,
            };
            if count == 0 {
                break;
            }
            gone += count;
            freed += blobs; // counted until their files are gone, but on their way
        }
        Ok(gone)
    }

    /// Removes entries whose time is over.
    pub(crate) fn remove_dead(&mut self, max: usize) -> Result<usize> {
        let found = self.victims(
            "SELECT id, size, flags, blob FROM entries WHERE dead IS NOT NULL AND dead <= ?1 LIMIT ?2",
            params![self.now_ms, max as i64],
        )?;
        for victim in &found {
            self.remove(victim)?;
        }
        Ok(found.len())
    }

    fn candidates(&self, text: &str, parameters: impl rusqlite::Params) -> Result<Vec<Candidate>> {
        self.sql
            .prepare_cached(text)
            .and_then(|mut statement| {
                statement
                    .query_map(parameters, |row| {
                        Ok(Candidate {
                            victim: Victim {
                                id: row.get(0)?,
                                size: row.get::<_, i64>(1)?.max(0) as u64,
                                flags: row.get(2)?,
                                blob: row.get(3)?,
                            },
                            key: row.get(4)?,
                            freq: row.get(5)?,
                            rank: row.get::<_, Option<f64>>(6)?.unwrap_or(0.0),
                        })
                    })?
                    .collect()
            })
            .doing("cannot find entries to evict")
    }

    fn evict(&mut self, candidate: &Candidate, wanted: &mut Wanted) -> Result<u64> {
        self.remove(&candidate.victim)?;
        self.state.evicted += 1;
        wanted.entries = wanted.entries.saturating_sub(1);
        wanted.bytes = wanted.bytes.saturating_sub(candidate.victim.size + ROW_BYTES);
        Ok(if candidate.victim.blob.is_some() { candidate.victim.size } else { 0 })
    }

    fn step_s3fifo(&mut self, wanted: Wanted) -> Result<(usize, u64)> {
        let main_is_empty = self.state.live_bytes <= self.state.small_bytes;
        if main_is_empty || self.state.small_bytes * SMALL_SHARE >= self.state.live_bytes {
            let outcome = self.step_small(wanted)?;
            if outcome.0 > 0 {
                return Ok(outcome);
            }
        }
        self.step_main(wanted)
    }

    /// Rows from the small queue's old end: read twice stays, the rest goes and leaves a ghost.
    fn step_small(&mut self, mut wanted: Wanted) -> Result<(usize, u64)> {
        for _ in 0..8 {
            let rows = self.candidates(
                "SELECT id, size, flags, blob, key, freq, rank FROM entries WHERE id > ?1 ORDER BY id LIMIT ?2",
                params![self.state.small_hand, LOOK_MAX],
            )?;
            let (mut gone, mut freed) = (0, 0);
            for row in &rows {
                let freq = row.freq + self.disk.take_hits(row.victim.id);
                if freq >= FREQ_STAYS {
                    self.set_freq(row.victim.id, 0)?;
                    self.state.small_bytes = self.state.small_bytes.saturating_sub(row.victim.size);
                } else {
                    freed += self.evict(row, &mut wanted)?;
                    self.leave_ghost(xxh3_64(&row.key))?;
                    gone += 1;
                }
                self.state.small_hand = row.victim.id;
                if wanted.is_met() {
                    break;
                }
            }
            if gone > 0 || rows.is_empty() {
                return Ok((gone, freed));
            }
        }
        Ok((0, 0))
    }

    /// Rows under the clock's hand: read since the last visit stays, the rest goes.
    fn step_main(&mut self, mut wanted: Wanted) -> Result<(usize, u64)> {
        for _ in 0..64 {
            let rows = self.candidates(
                "SELECT id, size, flags, blob, key, freq, rank FROM entries WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
                params![self.state.main_hand, self.state.small_hand, LOOK_MAX],
            )?;
            if rows.is_empty() {
                if self.state.main_hand == 0 {
                    return self.step_small(wanted);
                }
                self.state.main_hand = 0;
                continue;
            }
            let (mut gone, mut freed) = (0, 0);
            for row in &rows {
                let freq = row.freq + self.disk.take_hits(row.victim.id);
                if freq > 0 {
                    self.set_freq(row.victim.id, freq.min(FREQ_MAX) - 1)?;
                } else {
                    freed += self.evict(row, &mut wanted)?;
                    gone += 1;
                }
                self.state.main_hand = row.victim.id;
                if wanted.is_met() {
                    break;
                }
            }
            if gone > 0 {
                return Ok((gone, freed));
            }
        }
        Ok((0, 0))
    }

    fn step_by_rank(&mut self, mut wanted: Wanted) -> Result<(usize, u64)> {
        if self.state.main_hand < self.state.small_hand {
            return self.step_unranked(wanted);
        }
        let rows = self.candidates(
            "SELECT id, size, flags, blob, key, freq, rank FROM entries WHERE rank IS NOT NULL ORDER BY rank LIMIT ?1",
            params![LOOK_MAX / 2],
        )?;
        let (mut gone, mut freed) = (0, 0);
        for row in &rows {
            freed += self.evict(row, &mut wanted)?;
            gone += 1;
            self.state.floor = self.state.floor.max(row.rank);
            if wanted.is_met() {
                break;
            }
        }
        Ok((gone, freed))
    }

    /// Entries from before the policy was changed, oldest first; those read since have a rank.
    fn step_unranked(&mut self, mut wanted: Wanted) -> Result<(usize, u64)> {
        let rows = self.candidates(
            "SELECT id, size, flags, blob, key, freq, rank FROM entries WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
            params![self.state.main_hand, self.state.small_hand, LOOK_MAX],
        )?;
        let (mut gone, mut freed) = (0, 0);
        if rows.is_empty() {
            self.state.main_hand = self.state.small_hand;
        }
        for row in &rows {
            if row.rank == 0.0 {
                freed += self.evict(row, &mut wanted)?;
                gone += 1;
            }
            self.state.main_hand = row.victim.id;
            if wanted.is_met() {
                break;
            }
        }
        // At least one, so that the caller goes on; the hand moves each time, so it ends.
        Ok((gone.max(1), freed))
    }

    fn set_freq(&self, id: i64, freq: i64) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE entries SET freq = ?2 WHERE id = ?1")
            .and_then(|mut update| update.execute(params![id, freq]))
            .map(drop)
            .doing("cannot update an entry")
    }

    fn ghost_slot(&self, mark: u64) -> i64 {
        let slots = (self.state.entries.next_power_of_two()).clamp(256, GHOSTS_MAX);
        (mark & (slots - 1)) as i64
    }

    fn leave_ghost(&self, mark: u64) -> Result<()> {
        self.sql
            .prepare_cached("INSERT OR REPLACE INTO ghosts VALUES (?1, ?2)")
            .and_then(|mut insert| insert.execute(params![self.ghost_slot(mark), (mark >> 32) as i64]))
            .map(drop)
            .doing("cannot remember an evicted key")
    }

    /// Whether a key with this mark was evicted recently.
    pub(crate) fn take_ghost(&self, mark: u64) -> Result<bool> {
        if self.state.policy != Policy::S3Fifo {
            return Ok(false);
        }
        self.sql
            .prepare_cached("SELECT mark FROM ghosts WHERE slot = ?1")
            .and_then(|mut found| found.query_row([self.ghost_slot(mark)], |row| row.get::<_, i64>(0)).optional())
            .map(|found| found == Some((mark >> 32) as i64))
            .doing("cannot look for an evicted key")
    }

    /// Changes the policy; ranks are given to all entries or taken from them.
    pub(crate) fn change_policy(&mut self, policy: Policy) -> Result<()> {
        if policy == self.state.policy {
            return Ok(());
        }
        // Bounded: nothing is rewritten. What is there now is older than what comes: the main queue of s3fifo, or, without a
        // rank, the first to go.
        self.state.policy = policy;
        self.state.small_hand = self.state.next_id - 1;
        self.state.main_hand = 0;
        self.state.small_bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_a_bounded_number_of_rows_waits_and_each_keeps_its_hits() {
        let mut touches = Touches::default();
        for round in 0..2 {
            for id in 0..TOUCHES_MAX as i64 + 100 {
                touches.add(id, round);
            }
        }
        assert_eq!(touches.waiting.len(), TOUCHES_MAX);
        let taken = touches.take(TOUCHES_PER_TX);
        assert_eq!(taken.len(), TOUCHES_PER_TX);
        assert!(
            taken.iter().enumerate().all(|(at, (id, touch))| *id == at as i64 && touch.hits == 2 && touch.at_us == 1)
        );
        touches.add(1_000_000, 0);
        assert_eq!(touches.waiting.len(), TOUCHES_MAX - TOUCHES_PER_TX + 1, "there is room again");
    }
}
