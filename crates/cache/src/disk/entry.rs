//! Rows: reading one, inserting or replacing one, removing one; references to blobs and tags follow.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use weir_base::Kind;
use xxhash_rust::xxh3::xxh3_64;

use super::Disk;
use super::blob::{Blobs, Hash, Trailer};
use super::evict::{FREQ_FROM_GHOST, rank_of};
use super::tx::Tx;
use super::writers::Cover;
use crate::codec::{Codec, decode, encode};
use crate::error::{Error, IndexContext, Result};
use crate::options::{Compression, INLINE_BYTES_MAX, PutOptions};

/// The entry says that the key is known to have no value.
pub(crate) const FLAG_ABSENT: i64 = 1;
/// The entry has rows in `tags`.
pub(crate) const FLAG_TAGGED: i64 = 2;
/// An entry with a lifetime that was written further ahead than this is from before the clock was set back: a miss.
const CLOCK_SKEW_MS: i64 = 5_000;

/// A row as read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) id: i64,
    pub(crate) version: i64,
    pub(crate) flags: i64,
    pub(crate) freq: i64,
    pub(crate) written_ms: i64,
    pub(crate) expires_ms: i64,
    pub(crate) dead_ms: i64,
    pub(crate) cost_us: u64,
    pub(crate) value: Option<Bytes>,
}

/// Whether an entry with these times may be served at `now_ms`.
pub(crate) fn is_live(now_ms: i64, written_ms: i64, dead_ms: i64) -> bool {
    dead_ms == i64::MAX || (now_ms < dead_ms && written_ms <= now_ms.saturating_add(CLOCK_SKEW_MS))
}

/// What reading a row found.
#[derive(Debug)]
pub(crate) enum Lookup {
    Missing,
    Found(Found),
    /// The row is there but its bytes are not what was written.
    Damaged(i64),
}

/// An entry met while walking over all of them.
pub(crate) type NextEntry = (Vec<u8>, Option<Found>, Vec<String>);

struct Stored {
    found: Found,
    codec: i64,
    size: u64,
    raw: u64,
    blob: Option<Hash>,
    inline: Option<Vec<u8>>,
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        found: Found {
            id: row.get(0)?,
            version: row.get(1)?,
            flags: row.get(2)?,
            freq: row.get(4)?,
            written_ms: row.get(7)?,
            expires_ms: row.get::<_, Option<i64>>(8)?.unwrap_or(i64::MAX),
            dead_ms: row.get::<_, Option<i64>>(9)?.unwrap_or(i64::MAX),
            cost_us: row.get::<_, i64>(10)?.max(0) as u64,
            value: None,
        },
        codec: row.get(3)?,
        size: row.get::<_, i64>(5)?.max(0) as u64,
        raw: row.get::<_, i64>(6)?.max(0) as u64,
        blob: row.get(11)?,
        inline: row.get(12)?,
    })
}

fn select(sql: &Connection, key: &[u8]) -> Result<Option<Stored>> {
    sql.prepare_cached(
        "SELECT id, version, flags, codec, freq, size, raw, written, expires, dead, cost, blob, value FROM entries WHERE key = ?1",
    )
    .and_then(|mut statement| statement.query_row([key], stored).optional())
    .doing("cannot read an entry")
}

impl Disk {
    /// Reads the entry of `key`.
    pub(crate) fn get(&self, sql: &Connection, key: &[u8]) -> Result<Lookup> {
        let Some(mut row) = select(sql, key)? else { return Ok(Lookup::Missing) };
        for _ in 0..2 {
            match self.materialize(row)? {
                Ok(found) => return Ok(Lookup::Found(found)),
                // A writer may have replaced it between row and file: then the row has another version now.
                Err(version) => match select(sql, key)? {
                    None => return Ok(Lookup::Missing),
                    Some(again) if again.found.version == version => return Ok(Lookup::Damaged(version)),
                    Some(again) => row = again,
                },
            }
        }
        Ok(Lookup::Missing)
    }

    /// Fills in the value; `Err(version)` when the bytes are missing or wrong.
    fn materialize(&self, row: Stored) -> Result<Result<Found, i64>> {
        let mut found = row.found;
        if found.flags & FLAG_ABSENT != 0 {
            return Ok(Ok(found));
        }
        let stored = match (row.inline, row.blob) {
            (Some(inline), _) => inline,
            (None, Some(hash)) => match self.blobs.read(&hash, row.size) {
                Ok(bytes) => bytes,
                Err(error) => {
                    use std::io::ErrorKind as E;
                    if matches!(error.kind(), E::InvalidData | E::UnexpectedEof) {
                        self.blobs.discard_from_pool(&hash);
                    }
                    return match error.kind() {
                        E::InvalidData | E::UnexpectedEof | E::NotFound => Ok(Err(found.version)),
                        _ => Err(Error::io("cannot read a blob", error)),
                    };
                }
            },
            (None, None) => return Ok(Err(found.version)),
        };
        let decoded = Codec::from_number(row.codec).and_then(|codec| decode(codec, stored, row.raw));
        match decoded {
            Ok(value) => found.value = Some(Bytes::from(value)),
            Err(_) => return Ok(Err(found.version)),
        }
        Ok(Ok(found))
    }

    /// The entry after `key` in key order: its key, what it holds unless damaged, its tags.
    pub(crate) fn next_after(&self, sql: &Connection, key: &[u8]) -> Result<Option<NextEntry>> {
        let doing = "cannot read the next entry";
        let next: Option<Vec<u8>> = sql
            .prepare_cached("SELECT key FROM entries WHERE key > ?1 ORDER BY key LIMIT 1")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
            .doing(doing)?;
        let Some(next) = next else { return Ok(None) };
        let found = match self.get(sql, &next)? {
            Lookup::Found(found) => Some(found),
            Lookup::Missing | Lookup::Damaged(_) => None,
        };
        let tags = sql
            .prepare_cached("SELECT tag FROM tags WHERE id = (SELECT id FROM entries WHERE key = ?1) ORDER BY tag")
            .and_then(|mut statement| statement.query_map([&next], |row| row.get(0))?.collect())
            .doing(doing)?;
        Ok(Some((next, found, tags)))
    }

    /// The version of `key` as it is now.
    pub(crate) fn version(&self, sql: &Connection, key: &[u8]) -> Result<Option<i64>> {
        sql.prepare_cached("SELECT version FROM entries WHERE key = ?1")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
            .doing("cannot read an entry")
    }
}

/// A value ready to be written: encoded, and staged when it is large.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    key: &'a [u8],
    version: i64,
    flags: i64,
    codec: Codec,
    raw: u64,
    size: u64,
    written_ms: i64,
    expires_ms: Option<i64>,
    dead_ms: Option<i64>,
    cost_us: u64,
    tags: &'a [String],
    body: Body<'a>,
    pub(crate) expected: Expected,
}

/// What must be there for the write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Anything,
    /// No live entry (write-once).
    Nothing,
    /// This version; `None`: no live entry.
    Version(Option<i64>),
}

#[derive(Debug)]
enum Body<'a> {
    Absent,
    Inline(std::borrow::Cow<'a, [u8]>),
    Staged {
        hash: Hash,
        allocated: u64,
        cover: Cover<'a>,
        /// Its staging name is gone.
        settled: std::cell::Cell<bool>,
    },
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if let Body::Staged { hash, cover, settled, .. } = &self.body {
            if !settled.get() {
                cover.disk().blobs.remove_staging(cover.writer, hash);
            }
            cover.disk().end_staging(hash);
        }
    }
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// Stored under this version, in this row.
    Stored { version: i64, id: i64 },
    /// What is there does not fit the expectation; its version.
    Refused(Option<i64>),
}

/// How values are encoded and how large they may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoding {
    pub(crate) compression: Compression,
    pub(crate) compress_from: u64,
    pub(crate) item_bytes_max: u64,
}

impl Disk {
    /// Encodes a value and stages it when it is large; `None` for a known absence.
    pub(crate) fn prepare<'a>(
        &'a self,
        key: &'a [u8],
        value: Option<&'a [u8]>,
        options: &'a PutOptions,
        encoding: Encoding,
        expected: Expected,
    ) -> Result<Prepared<'a>> {
        let written_ms = self.now_ms();
        let after = |from: i64, wait: std::time::Duration| {
            from.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
        };
        let expires_ms = options.ttl.map(|ttl| after(written_ms, ttl));
        let dead_ms = expires_ms.map(|expires| options.stale.map_or(expires, |stale| after(expires, stale)));
        let (codec, encoded) = value.map_or((Codec::Raw, std::borrow::Cow::Borrowed(&[][..])), |value| {
            encode(value, encoding.compression, encoding.compress_from)
        });
        let size = encoded.len() as u64;
        let limit = self.item_bytes_max(Some(encoding.item_bytes_max));
        if size > limit {
            return Err(Error::new(
                Kind::Limit,
                format!("the value has {size} bytes as stored, the item limit is {limit}"),
            ));
        }
        let tagged = if options.tags.is_empty() { 0 } else { FLAG_TAGGED };
        let mut prepared = Prepared {
            key,
            version: self.fresh_version(),
            flags: tagged | if value.is_none() { FLAG_ABSENT } else { 0 },
            codec,
            raw: value.map_or(0, |value| value.len() as u64),
            size,
            written_ms,
            expires_ms,
            dead_ms,
            cost_us: options
                .cost
                .map_or(0, |cost| u64::try_from(cost.as_micros()).unwrap_or(u64::MAX).min(u64::MAX >> 1)),
            tags: &options.tags,
            body: Body::Absent,
            expected,
        };
        if value.is_some() {
            prepared.body = if encoded.len() <= INLINE_BYTES_MAX {
                Body::Inline(encoded)
            } else {
                self.stage(&prepared, &encoded)?
            };
        }
        Ok(prepared)
    }

    fn stage(&self, prepared: &Prepared<'_>, stored: &[u8]) -> Result<Body<'_>> {
        let hash = weir_base::checksum::blake3(stored);
        let trailer = Trailer {
            namespace: self.namespace.as_str().to_owned(),
            key: weir_base::checksum::hex(prepared.key),
            version: prepared.version,
            codec: prepared.codec as i64,
            raw_len: prepared.raw,
            stored_len: prepared.size,
            written_ms: prepared.written_ms,
            expires_ms: prepared.expires_ms,
            dead_ms: prepared.dead_ms,
            cost_us: prepared.cost_us,
            tags: prepared.tags.to_vec(),
        };
        let cover = self.cover(Blobs::estimate(prepared.size, &trailer))?;
        let spare = self.begin_staging(&hash, &cover)?;
        let staged = self.blobs.stage(cover.writer, &hash, stored, &trailer, spare);
        if spare {
            // Still there when the pool had the blob.
            self.blobs.remove_spare(cover.writer);
        }
        let allocated = staged.map_err(|error| {
            self.end_staging(&hash);
            Error::io("cannot write a blob", error)
        })?;
        Ok(Body::Staged { hash, allocated, cover, settled: std::cell::Cell::new(false) })
    }

    /// After the commit: puts files where they belong.
    pub(crate) fn settle(&self, prepared: &Prepared<'_>) {
        if let Body::Staged { hash, cover, settled, .. } = &prepared.body {
            self.blobs.settle(cover.writer, hash);
            settled.set(true);
        }
    }
}

/// What an existing row needs for being replaced or removed.
#[derive(Debug, Clone)]
pub(crate) struct Victim {
    pub(crate) id: i64,
    pub(crate) size: u64,
    pub(crate) flags: i64,
    pub(crate) blob: Option<Hash>,
}

struct Existing {
    victim: Victim,
    version: i64,
    live: bool,
}

impl Tx<'_> {
    fn existing(&self, key: &[u8]) -> Result<Option<Existing>> {
        self.sql
            .prepare_cached("SELECT id, size, flags, blob, version, written, dead FROM entries WHERE key = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([key], |row| {
                        Ok(Existing {
                            victim: victim(row)?,
                            version: row.get(4)?,
                            live: is_live(self.now_ms, row.get(5)?, row.get::<_, Option<i64>>(6)?.unwrap_or(i64::MAX)),
                        })
                    })
                    .optional()
            })
            .doing("cannot read an entry")
    }

    /// Writes a prepared value.
    pub(crate) fn put(&mut self, new: &Prepared<'_>) -> Result<Wrote> {
        let existing = self.existing(new.key)?;
        let live = existing.as_ref().filter(|row| row.live).map(|row| row.version);
        let fits = match new.expected {
            Expected::Anything => true,
            Expected::Nothing => live.is_none(),
            Expected::Version(version) => live == version,
        };
        if !fits {
            return Ok(Wrote::Refused(live));
        }
        let id = match &existing {
            Some(existing) => self.replace(new, &existing.victim)?,
            None => self.insert(new)?,
        };
        self.hold_blob(new, id, existing.as_ref().and_then(|row| row.victim.blob))?;
        if let Some(Existing { victim: Victim { blob: Some(old), .. }, .. }) = existing
            && !matches!(&new.body, Body::Staged { hash, .. } if *hash == old)
        {
            self.drop_blob(&old, id)?;
        }
        if new.flags & FLAG_TAGGED != 0 {
            let mut insert =
                self.sql.prepare_cached("INSERT OR IGNORE INTO tags VALUES (?1, ?2)").doing("cannot write a tag")?;
            for tag in new.tags {
                insert.execute(params![tag, id]).doing("cannot write a tag")?;
            }
        }
        if let Body::Staged { cover, .. } = &new.body {
            self.disk.settle_reservation(self, cover)?;
        }
        Ok(Wrote::Stored { version: new.version, id })
    }

    fn insert(&mut self, new: &Prepared<'_>) -> Result<i64> {
        let id = self.state.next_id;
        let freq = self.freq_of_new(xxh3_64(new.key))?;
        self.sql
            .prepare_cached(
                "INSERT INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    id,
                    new.key,
                    new.version,
                    new.flags,
                    new.codec as i64,
                    freq,
                    new.size as i64,
                    new.raw as i64,
                    new.written_ms,
                    new.expires_ms,
                    new.dead_ms,
                    new.cost_us as i64,
                    rank_of(&self.state, new.written_ms * 1000, freq, new.cost_us, new.size),
                    new.blob(),
                    new.inline(),
                ])
            })
            .doing("cannot write an entry")?;
        self.state.next_id += 1;
        self.state.entries += 1;
        self.state.live_bytes += new.size;
        self.state.small_bytes += new.size;
        Ok(id)
    }

    fn freq_of_new(&self, mark: u64) -> Result<i64> {
        let back = self.state.evicted > 0 && self.take_ghost(mark)?;
        Ok(if back { FREQ_FROM_GHOST } else { 0 })
    }

    fn replace(&mut self, new: &Prepared<'_>, old: &Victim) -> Result<i64> {
        if old.flags & FLAG_TAGGED != 0 {
            self.drop_tags(old.id)?;
        }
        self.sql
            .prepare_cached(
                "UPDATE entries SET version=?2, flags=?3, codec=?4, size=?5, raw=?6, written=?7, expires=?8, dead=?9, cost=?10, \
                 blob=?11, value=?12 WHERE id = ?1",
            )
            .and_then(|mut update| {
                update.execute(params![
                    old.id,
                    new.version,
                    new.flags,
                    new.codec as i64,
                    new.size as i64,
                    new.raw as i64,
                    new.written_ms,
                    new.expires_ms,
                    new.dead_ms,
                    new.cost_us as i64,
                    new.blob(),
                    new.inline(),
                ])
            })
            .doing("cannot write an entry")?;
        self.state.live_bytes = (self.state.live_bytes + new.size).saturating_sub(old.size);
        if old.id > self.state.small_hand {
            self.state.small_bytes = (self.state.small_bytes + new.size).saturating_sub(old.size);
        }
        Ok(old.id)
    }

    /// Counts the reference of a staged blob and gives the file its name where it has none.
    fn hold_blob(&mut self, new: &Prepared<'_>, id: i64, old: Option<Hash>) -> Result<()> {
        let Body::Staged { hash, allocated, cover, .. } = &new.body else { return Ok(()) };
        let doing = "cannot count a blob";
        let refs: Option<i64> = self
            .sql
            .prepare_cached("SELECT refs FROM blobs WHERE hash = ?1")
            .and_then(|mut found| found.query_row([hash], |row| row.get(0)).optional())
            .doing(doing)?;
        if refs.is_none_or(|refs| refs == 0) || !self.disk.blobs.path(hash).exists() {
            let published = self.disk.blobs.publish(cover.writer, hash);
            published.map_err(|error| Error::io("cannot give a blob its name", error))?;
        }
        match refs {
            None => {
                self.state.blob_bytes += allocated;
                self.sql
                    .prepare_cached("INSERT INTO blobs VALUES (?1, ?2, 1, ?3)")
                    .and_then(|mut insert| insert.execute(params![hash, *allocated as i64, id]))
            }
            Some(_) if old == Some(*hash) => Ok(0),
            Some(refs) => {
                if refs == 0 {
                    self.undoom(hash, *allocated)?;
                }
                self.sql
                    .prepare_cached(
                        "UPDATE blobs SET refs = refs + 1, owner = iif(refs = 0, ?2, owner) WHERE hash = ?1",
                    )
                    .and_then(|mut update| update.execute(params![hash, id]))
            }
        }
        .map(drop)
        .doing(doing)
    }

    fn undoom(&mut self, hash: &Hash, allocated: u64) -> Result<()> {
        let doing = "cannot count a blob";
        self.doomed_now.retain(|doomed| doomed != hash);
        self.sql
            .prepare_cached("DELETE FROM doomed WHERE hash = ?1")
            .and_then(|mut row| row.execute([hash]))
            .doing(doing)?;
        self.state.doomed = self.state.doomed.saturating_sub(1);
        let bytes: i64 = self
            .sql
            .prepare_cached("SELECT bytes FROM blobs WHERE hash = ?1")
            .and_then(|mut found| found.query_row([hash], |row| row.get(0)))
            .doing(doing)?;
        self.state.blob_bytes = (self.state.blob_bytes + allocated).saturating_sub(bytes as u64);
        self.sql
            .prepare_cached("UPDATE blobs SET bytes = ?2 WHERE hash = ?1")
            .and_then(|mut update| update.execute(params![hash, allocated as i64]))
            .map(drop)
            .doing(doing)
    }

    /// Takes a reference of entry `id` away; the last one dooms the file.
    fn drop_blob(&mut self, hash: &Hash, id: i64) -> Result<()> {
        let doing = "cannot release a blob";
        let left: Option<(i64, i64)> = self
            .sql
            .prepare_cached("UPDATE blobs SET refs = refs - 1 WHERE hash = ?1 AND refs > 0 RETURNING refs, owner")
            .and_then(|mut update| update.query_row([hash], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .doing(doing)?;
        match left {
            Some((0, _)) => {
                self.sql
                    .prepare_cached("INSERT OR IGNORE INTO doomed VALUES (?1)")
                    .and_then(|mut insert| insert.execute([hash]))
                    .doing(doing)?;
                self.state.doomed += 1;
                self.doomed_now.push(*hash);
            }
            Some((_, owner)) if owner == id => {
                self.disk.blobs.disown(hash).map_err(|error| Error::io(doing, error))?;
                self.sql
                    .prepare_cached("UPDATE blobs SET owner = 0 WHERE hash = ?1")
                    .and_then(|mut update| update.execute([hash]))
                    .doing(doing)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn drop_tags(&mut self, id: i64) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM tags WHERE id = ?1")
            .and_then(|mut delete| delete.execute([id]))
            .map(drop)
            .doing("cannot remove tags")
    }

    /// Removes a row with all that hangs on it.
    pub(crate) fn remove(&mut self, row: &Victim) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM entries WHERE id = ?1")
            .and_then(|mut delete| delete.execute([row.id]))
            .doing("cannot remove an entry")?;
        if row.flags & FLAG_TAGGED != 0 {
            self.drop_tags(row.id)?;
        }
        if let Some(hash) = &row.blob {
            self.drop_blob(hash, row.id)?;
        }
        self.state.entries = self.state.entries.saturating_sub(1);
        self.state.live_bytes = self.state.live_bytes.saturating_sub(row.size);
        if row.id > self.state.small_hand {
            self.state.small_bytes = self.state.small_bytes.saturating_sub(row.size);
        }
        Ok(())
    }

    /// Removes `key`, only at `version` if one is given; whether there was a live one.
    pub(crate) fn delete(&mut self, key: &[u8], version: Option<i64>) -> Result<bool> {
        self.removes = true;
        match self.existing(key)? {
            Some(row) if version.is_none_or(|version| version == row.version) => {
                self.remove(&row.victim)?;
                Ok(row.live)
            }
            _ => Ok(false),
        }
    }

    /// Rows that a query on (id, size, flags, blob) finds.
    pub(crate) fn victims(&self, text: &str, parameters: impl rusqlite::Params) -> Result<Vec<Victim>> {
        self.sql
            .prepare_cached(text)
            .and_then(|mut statement| statement.query_map(parameters, victim)?.collect())
            .doing("cannot find entries")
    }
}

fn victim(row: &Row<'_>) -> rusqlite::Result<Victim> {
    Ok(Victim { id: row.get(0)?, size: row.get::<_, i64>(1)?.max(0) as u64, flags: row.get(2)?, blob: row.get(3)? })
}

impl Prepared<'_> {
    fn blob(&self) -> Option<Hash> {
        match &self.body {
            Body::Staged { hash, .. } => Some(*hash),
            _ => None,
        }
    }

    fn inline(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Inline(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Times as the memory level keeps them: written, expires, dead.
    pub(crate) fn times_ms(&self) -> (i64, i64, i64) {
        (self.written_ms, self.expires_ms.unwrap_or(i64::MAX), self.dead_ms.unwrap_or(i64::MAX))
    }
}
