//! The one row that makes the size O(1): every counter, the limits and the eviction cursors.

use rusqlite::Connection;

use super::schema::PAGE_BYTES;
use crate::error::{IndexContext, Result};
use crate::options::Policy;

/// The counters of a namespace; see `docs/formats/cache.md`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub(crate) limit: u64,
    /// 0: none.
    pub(crate) entry_limit: u64,
    pub(crate) blob_bytes: u64,
    pub(crate) reserved: u64,
    pub(crate) entries: u64,
    /// Stored bytes of all values.
    pub(crate) live_bytes: u64,
    /// Stored bytes of those behind `small_hand`.
    pub(crate) small_bytes: u64,
    pub(crate) index_pages: u64,
    pub(crate) doomed: u64,
    pub(crate) policy: Policy,
    pub(crate) next_id: i64,
    pub(crate) small_hand: i64,
    pub(crate) main_hand: i64,
    pub(crate) floor: f64,
    pub(crate) epoch: u64,
    pub(crate) evicted: u64,
}

/// Bytes kept free for the index's log, its shared memory and lock files.
pub(crate) fn log_budget(limit: u64) -> u64 {
    (limit / 4).clamp(256 << 10, 4 << 20)
}

fn policy_of(number: i64) -> Policy {
    match number {
        1 => Policy::Lru,
        2 => Policy::Gdsf,
        _ => Policy::S3Fifo,
    }
}

impl State {
    /// What the cache takes on the disk, by its own counting (C2).
    pub(crate) fn total(&self) -> u64 {
        self.blob_bytes + self.reserved + self.index_pages * PAGE_BYTES + log_budget(self.limit)
    }

    pub(crate) fn load(sql: &Connection) -> Result<Self> {
        let mut statement = sql
            .prepare_cached(
                "SELECT lim, entry_limit, blob_bytes, reserved, entries, live_bytes, small_bytes, index_pages, doomed, policy, \
                 next_id, small_hand, main_hand, floor, epoch, evicted FROM state WHERE one = 1",
            )
            .doing("cannot read the state")?;
        statement
            .query_row([], |row| {
                let count = |index| row.get::<_, i64>(index).map(|value| value.max(0) as u64);
                Ok(Self {
                    limit: count(0)?,
                    entry_limit: count(1)?,
                    blob_bytes: count(2)?,
                    reserved: count(3)?,
                    entries: count(4)?,
                    live_bytes: count(5)?,
                    small_bytes: count(6)?,
                    index_pages: count(7)?,
                    doomed: count(8)?,
                    policy: policy_of(row.get(9)?),
                    next_id: row.get(10)?,
                    small_hand: row.get(11)?,
                    main_hand: row.get(12)?,
                    floor: row.get(13)?,
                    epoch: count(14)?,
                    evicted: count(15)?,
                })
            })
            .doing("cannot read the state")
    }

    pub(crate) fn store(&self, sql: &Connection) -> Result<()> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        sql.prepare_cached(
            "UPDATE state SET lim=?1, entry_limit=?2, blob_bytes=?3, reserved=?4, entries=?5, live_bytes=?6, small_bytes=?7, \
             index_pages=?8, doomed=?9, policy=?10, next_id=?11, small_hand=?12, main_hand=?13, floor=?14, epoch=?15, \
             evicted=?16 WHERE one = 1",
        )
        .and_then(|mut statement| {
            statement.execute(rusqlite::params![
                number(self.limit),
                number(self.entry_limit),
                number(self.blob_bytes),
                number(self.reserved),
                number(self.entries),
                number(self.live_bytes),
                number(self.small_bytes),
                number(self.index_pages),
                number(self.doomed),
                match self.policy {
                    Policy::S3Fifo => 0,
                    Policy::Lru => 1,
                    Policy::Gdsf => 2,
                },
                self.next_id,
                self.small_hand,
                self.main_hand,
                self.floor,
                number(self.epoch),
                number(self.evicted),
            ])
        })
        .map(drop)
        .doing("cannot write the state")
    }
}
