//! The handle: how a read falls through the levels, a hit fills upward, a write goes through all of them.
//!
//! get: memory (if nothing was written since) -> disk -> remote -> miss. What fails on the way is a counted miss.
//! put: disk (the commit decides the order of writers), memory, remote. When the remote level cannot be told, the
//! namespace's epoch is raised in the same commit, which makes all that it holds unreachable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use weir_base::Kind;
use weir_limits::Deadline;

use crate::disk::entry::{Encoding, Expected, FLAG_ABSENT, Found, Lookup as Row, Prepared, Wrote, is_live};
use crate::disk::{Disk, Scope};
use crate::error::{Error, Result};
use crate::flight::Flights;
use crate::key::KEY_BYTES_MAX;
use crate::memory::{Kept, Memory};
use crate::metrics::{Counter, Metrics, Operation};
use crate::name::Namespace;
use crate::options::{CacheOptions, PutOptions, TAG_BYTES_MAX, TAGS_MAX};
use crate::refresh::Refreshes;
use crate::remote::{Packet, PacketKind, Remote};

/// A handle to one namespace; clones share everything.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: CacheOptions,
    pub(crate) memory: Option<Memory>,
    pub(crate) disk: Level,
    pub(crate) remote: Option<Remote>,
    pub(crate) metrics: Metrics,
    pub(crate) flights: Flights,
    pub(crate) refreshes: Refreshes,
    /// Epoch of remote keys where no disk level keeps it.
    epoch: AtomicU64,
}

/// The disk level as it was found.
#[derive(Debug)]
pub(crate) enum Level {
    Off,
    On(Box<Disk>),
    /// It could not be opened: every read is a miss, every write is refused with this reason.
    Broken(Kind, String),
}

/// A value with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Changes with every write; for [`Cache::compare_and_set`].
    pub version: u64,
    /// Past its TTL, within its stale time: usable while somebody computes it anew.
    pub stale: bool,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing is known.
    Miss,
    /// Known to have no value (see [`Cache::put_absent`]).
    Absent,
    /// A value.
    Hit(Entry),
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Stored, under this version.
    Stored(u64),
    /// Kept out: the namespace is write-once and has the key, or the version expected is not there.
    Refused,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let (Level::On(disk), false) = (&self.disk, self.options.read_only) {
            self.metrics.merge(&*self.options.fs, &disk.dir().join("metrics"));
        }
    }
}

impl Cache {
    /// Opens a namespace, making it when missing.
    ///
    /// A disk that cannot be used does not fail this: the handle answers misses and refuses writes, and
    /// [`Cache::doctor`] says why (C1).
    ///
    /// # Errors
    /// `Invalid` for a bad namespace or remote address.
    pub fn open(options: CacheOptions) -> Result<Self> {
        let namespace = Namespace::new(&options.namespace)?;
        let remote = options
            .remote
            .as_ref()
            .map(|remote| Remote::new(remote, namespace.as_str(), Arc::clone(&options.clock)))
            .transpose()?;
        let disk = match options.disk.then(|| Disk::open(&options, &namespace)) {
            None => Level::Off,
            Some(Ok(disk)) => Level::On(Box::new(disk)),
            Some(Err(error)) => Level::Broken(error.kind(), weir_base::error::chain(&error)),
        };
        let inner = Inner {
            memory: Memory::new(options.memory_limit.bytes()),
            metrics: Metrics::new(options.metrics),
            flights: Flights::default(),
            refreshes: Refreshes::default(),
            epoch: AtomicU64::new(1),
            disk,
            remote,
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The value of `key`, fresh or stale; `None` for a miss, a known absence, and whatever goes wrong.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Bytes> {
        match self.lookup(key) {
            Lookup::Hit(entry) => Some(entry.value),
            Lookup::Absent | Lookup::Miss => None,
        }
    }

    /// Looks `key` up.
    pub fn lookup(&self, key: impl AsRef<[u8]>) -> Lookup {
        let inner = &*self.inner;
        let started = inner.options.clock.monotonic();
        let lookup = inner.lookup(key.as_ref());
        inner.metrics.time(Operation::Get, inner.options.clock.monotonic().saturating_sub(started));
        inner.count_answer(&lookup);
        lookup
    }

    /// Stores a value.
    ///
    /// # Errors
    /// `Limit` for a value above the item limit or when no room could be made in a bounded time, `Invalid` for a key or tag
    /// that is too long, `Unavailable` when the disk or the lock cannot be had. The cache is then as before.
    pub fn put(&self, key: impl AsRef<[u8]>, value: &[u8], options: &PutOptions) -> Result<Put> {
        let expected = if self.inner.options.write_once { Expected::Nothing } else { Expected::Anything };
        self.inner.put(key.as_ref(), Some(value), options, expected)
    }

    /// Stores that `key` has no value.
    ///
    /// # Errors
    /// As [`Cache::put`].
    pub fn put_absent(&self, key: impl AsRef<[u8]>, options: &PutOptions) -> Result<Put> {
        let expected = if self.inner.options.write_once { Expected::Nothing } else { Expected::Anything };
        self.inner.put(key.as_ref(), None, options, expected)
    }

    /// Stores a value if the key is at `version` (`None`: has no live entry).
    ///
    /// # Errors
    /// As [`Cache::put`]; `Invalid` without a disk level, which alone can decide.
    pub fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        version: Option<u64>,
        value: &[u8],
        options: &PutOptions,
    ) -> Result<Put> {
        if matches!(self.inner.disk, Level::Off) {
            return Err(Error::invalid("compare-and-set needs the disk level"));
        }
        let version = version.map(|version| version as i64);
        self.inner.put(key.as_ref(), Some(value), options, Expected::Version(version))
    }

    /// Removes a key; whether there was an entry.
    ///
    /// # Errors
    /// `Unavailable` when the disk or the lock cannot be had.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let (inner, key) = (&*self.inner, key.as_ref());
        let started = inner.options.clock.monotonic();
        let outcome = inner.delete(key);
        inner.metrics.time(Operation::Delete, inner.options.clock.monotonic().saturating_sub(started));
        outcome
    }

    /// The value of `key`, computed by one caller at a time over all threads and processes when it is missing. The time it
    /// took is recorded as its cost. A stale value is answered at once, except to the one caller that computes it anew.
    ///
    /// # Errors
    /// Those of `compute`. What fails in the cache only makes it slower.
    pub fn get_or_compute<E>(
        &self,
        key: impl AsRef<[u8]>,
        options: &PutOptions,
        compute: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let key = key.as_ref();
        let started = self.inner.options.clock.monotonic();
        let stale = match self.lookup(key) {
            Lookup::Hit(entry) if !entry.stale => return Ok(entry.value),
            Lookup::Hit(entry) => Some(entry.value),
            Lookup::Absent | Lookup::Miss => None,
        };
        self.compute(key, options, stale, started, compute)
    }

    /// Computes what a look found missing or stale, unless somebody else does or did meanwhile.
    pub(crate) fn compute<E>(
        &self,
        key: &[u8],
        options: &PutOptions,
        stale: Option<Bytes>,
        started: Duration,
        compute: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let inner = &*self.inner;
        let clock = &*inner.options.clock;
        // Somebody else may be at it already: then the stale value will do.
        let wait = if stale.is_some() { Duration::ZERO } else { inner.options.flight_deadline };
        let dir = match &inner.disk {
            Level::On(disk) if !inner.options.read_only => Some((disk.dir(), &inner.options.fs)),
            _ => None,
        };
        let flight = inner.flights.board(key, dir, clock, Deadline::after(clock, wait));
        if let (Some(stale), None) = (stale, &flight) {
            return Ok(stale);
        }
        // Another may have finished between the look and the lease.
        if let Lookup::Hit(entry) = inner.lookup(key)
            && !entry.stale
        {
            inner.metrics.add(Counter::Joined, 1);
            return Ok(entry.value);
        }
        let computing = clock.monotonic();
        let value = compute()?;
        let now = clock.monotonic();
        let mut options = options.clone();
        options.cost.get_or_insert(now.saturating_sub(computing));
        if inner.put(key, Some(&value), &options, Expected::Anything).is_err() {
            inner.metrics.add(Counter::Failed, 1);
        }
        inner.metrics.time(Operation::Compute, now.saturating_sub(started));
        drop(flight);
        Ok(Bytes::from(value))
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(Error::invalid(format!("a key has 1 to {KEY_BYTES_MAX} bytes, not {len}"))),
    }
}

fn check_tags(tags: &[String]) -> Result<()> {
    if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.is_empty() || tag.len() > TAG_BYTES_MAX) {
        return Err(Error::invalid(format!("an entry has at most {TAGS_MAX} tags of 1 to {TAG_BYTES_MAX} bytes")));
    }
    Ok(())
}

impl Inner {
    pub(crate) fn now_ms(&self) -> i64 {
        self.options.clock.now() / 1_000_000
    }

    fn count_answer(&self, lookup: &Lookup) {
        match lookup {
            Lookup::Miss => self.metrics.add(Counter::Miss, 1),
            Lookup::Absent => {}
            Lookup::Hit(entry) => {
                self.metrics.add(Counter::BytesOut, entry.value.len() as u64);
                self.metrics.add(Counter::Stale, u64::from(entry.stale));
            }
        }
    }

    pub(crate) fn disk(&self) -> Result<Option<&Disk>> {
        match &self.disk {
            Level::Off => Ok(None),
            Level::On(disk) => Ok(Some(disk)),
            Level::Broken(kind, reason) => Err(Error::new(*kind, reason.clone())),
        }
    }

    pub(crate) fn lookup(&self, key: &[u8]) -> Lookup {
        let disk = match &self.disk {
            Level::On(disk) => Some(&**disk),
            Level::Off => None,
            Level::Broken(..) => {
                self.metrics.add(Counter::Failed, 1);
                return self.lookup_remote(key, None).unwrap_or(Lookup::Miss);
            }
        };
        let generation = disk.and_then(|disk| disk.generation.quiet(key));
        if let Some(answer) = self.lookup_memory(key, disk, generation) {
            self.metrics.add(Counter::HitMemory, 1);
            return answer;
        }
        if let Some(disk) = disk
            && let Some(answer) = self.lookup_disk(key, disk, generation)
        {
            self.metrics.add(Counter::HitDisk, 1);
            return answer;
        }
        self.lookup_remote(key, generation).unwrap_or(Lookup::Miss)
    }

    /// A memory hit counts when nothing was written since it was filled, or when its row still has the same version.
    fn lookup_memory(&self, key: &[u8], disk: Option<&Disk>, generation: Option<u64>) -> Option<Lookup> {
        let memory = self.memory.as_ref()?;
        let kept = memory.get(key)?;
        if let Some(disk) = disk {
            let unchanged = generation.is_some_and(|now| now == kept.seen_at());
            if !unchanged {
                let version = disk.read(|sql| disk.version(sql, key)).ok()?;
                if version != Some(kept.version as i64) {
                    memory.remove(key);
                    return None;
                }
                if let Some(now) = generation {
                    kept.renew(now);
                }
            }
            if kept.count_hit() || !disk.counts_to_three() {
                disk.touch(kept.id, 0);
            }
        }
        let answer = self.answer(&kept);
        if answer.is_none() {
            memory.remove(key);
        }
        answer
    }

    /// The answer that an entry gives now; `None` when its time is over.
    fn answer(&self, kept: &Kept) -> Option<Lookup> {
        let now = self.now_ms();
        if !is_live(now, kept.written_ms, kept.dead_ms) {
            return None;
        }
        Some(match &kept.value {
            None => Lookup::Absent,
            Some(value) => {
                self.metrics.add(Counter::SavedUs, kept.cost_us);
                Lookup::Hit(Entry { value: value.clone(), version: kept.version, stale: now >= kept.expires_ms })
            }
        })
    }

    fn lookup_disk(&self, key: &[u8], disk: &Disk, generation: Option<u64>) -> Option<Lookup> {
        match disk.read(|sql| disk.get(sql, key)) {
            Ok(Row::Found(found)) => {
                let freq = found.freq;
                let kept = keep(found, generation.unwrap_or(u64::MAX));
                let answer = self.answer(&kept)?;
                disk.touch(kept.id, freq);
                if let (Some(memory), Some(_)) = (&self.memory, generation) {
                    memory.insert(key, kept);
                }
                Some(answer)
            }
            Ok(Row::Missing) => None,
            Ok(Row::Damaged(version)) => {
                self.metrics.add(Counter::Damaged, 1);
                // Healed by removing the row, unless a writer is busy: then the next reader does.
                let deadline = Deadline::after(&*disk.clock, Duration::from_millis(50));
                let _ = disk.write_until(deadline, |tx| {
                    tx.scope = Scope::of(key);
                    tx.delete(key, Some(version))
                });
                None
            }
            Err(_) => {
                self.metrics.add(Counter::Failed, 1);
                None
            }
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        match &self.disk {
            Level::On(disk) => disk.state().map_or(1, |state| state.epoch),
            _ => self.epoch.load(Ordering::Acquire),
        }
    }

    /// Makes the local epoch at least `epoch`; gives it.
    pub(crate) fn raise_epoch_to(&self, epoch: u64) {
        match &self.disk {
            Level::On(disk) => {
                let _ = disk.write(|tx| {
                    tx.removes = true;
                    tx.state.epoch = tx.state.epoch.max(epoch);
                    Ok(())
                });
            }
            _ => drop(self.epoch.fetch_max(epoch, Ordering::AcqRel)),
        }
    }

    /// Asks the remote level; `None` when it fails, which is counted.
    fn fetch(&self, remote: &Remote, epoch: u64, key: &[u8]) -> Option<crate::remote::Fetched> {
        match remote.get(epoch, key) {
            Ok(fetched) => {
                self.metrics.add(Counter::Damaged, u64::from(fetched.damaged));
                Some(fetched)
            }
            Err(_) => {
                self.metrics.add(Counter::Failed, 1);
                None
            }
        }
    }

    fn lookup_remote(&self, key: &[u8], generation: Option<u64>) -> Option<Lookup> {
        let remote = self.remote.as_ref()?;
        let epoch = self.epoch();
        let mut fetched = self.fetch(remote, epoch, key)?;
        let mut asked_at = generation;
        if fetched.epoch > epoch {
            // Another machine invalidated: what it wrote since is under its epoch.
            self.raise_epoch_to(fetched.epoch);
            asked_at = match &self.disk {
                Level::On(disk) => disk.generation.quiet(key),
                _ => None,
            };
            fetched = self.fetch(remote, fetched.epoch, key)?;
        } else if fetched.epoch < epoch {
            let _ = remote.raise(epoch);
        }
        let packet = fetched.packet.filter(|packet| packet.kind != PacketKind::Tombstone)?;
        let found = Found {
            id: 0,
            version: packet.version,
            flags: if packet.kind == PacketKind::Absent { FLAG_ABSENT } else { 0 },
            freq: 0,
            written_ms: packet.written_ms,
            expires_ms: packet.expires_ms,
            dead_ms: packet.dead_ms,
            cost_us: packet.cost_us,
            value: (packet.kind == PacketKind::Value).then(|| Bytes::from(packet.value)),
        };
        let kept = keep(found, 0);
        let answer = self.answer(&kept)?;
        self.metrics.add(Counter::HitRemote, 1);
        self.fill_down(key, &kept, asked_at);
        Some(answer)
    }

    /// Stores a remote hit in the lower levels, unless anything was written here since the question was asked: what was
    /// fetched may have been overwritten or deleted meanwhile.
    fn fill_down(&self, key: &[u8], kept: &Kept, asked_at: Option<u64>) {
        let now = self.now_ms();
        let left =
            |until: i64| (until != i64::MAX).then(|| Duration::from_millis(until.saturating_sub(now).max(0) as u64));
        let ttl = left(kept.expires_ms);
        let stale = left(kept.dead_ms).and_then(|dead| Some(dead.saturating_sub(ttl?)));
        let options = PutOptions { ttl, stale, tags: Vec::new(), cost: Some(Duration::from_micros(kept.cost_us)) };
        match (&self.disk, asked_at) {
            (Level::On(disk), Some(asked_at)) if !self.options.read_only => {
                let fill = || -> Result<()> {
                    let prepared =
                        disk.prepare(key, kept.value.as_deref(), &options, self.encoding(), Expected::Nothing)?;
                    disk.write(|tx| {
                        if disk.generation.quiet(key) != Some(asked_at) {
                            return Ok(());
                        }
                        tx.scope = Scope::of(key);
                        tx.keep_below_high_water()?;
                        tx.put(&prepared).map(drop)
                    })?;
                    disk.settle(&prepared);
                    Ok(())
                };
                if fill().is_err() {
                    self.metrics.add(Counter::Failed, 1);
                }
            }
            (Level::Off, _) => {
                if let Some(memory) = &self.memory {
                    memory.insert(key, kept.clone());
                }
            }
            _ => {}
        }
    }

    pub(crate) fn encoding(&self) -> Encoding {
        Encoding {
            compression: self.options.compression,
            compress_from: self.options.compress_from.bytes(),
            item_bytes_max: self.options.item_limit.map_or(u64::MAX, |limit| limit.bytes()),
        }
    }

    pub(crate) fn put(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        options: &PutOptions,
        expected: Expected,
    ) -> Result<Put> {
        let started = self.options.clock.monotonic();
        check_key(key)?;
        check_tags(&options.tags)?;
        let outcome = match self.disk()? {
            Some(disk) => self.put_disk(disk, key, value, options, expected),
            None => self.put_without_disk(key, value, options, expected),
        };
        self.metrics.add(Counter::BytesIn, value.map_or(0, |value| value.len() as u64));
        self.metrics.time(Operation::Put, self.options.clock.monotonic().saturating_sub(started));
        outcome
    }

    fn put_disk(
        &self,
        disk: &Disk,
        key: &[u8],
        value: Option<&[u8]>,
        options: &PutOptions,
        expected: Expected,
    ) -> Result<Put> {
        let prepared = disk.prepare(key, value, options, self.encoding(), expected)?;
        let unreachable = self.remote.as_ref().is_some_and(Remote::is_open);
        let (wrote, committed_ns) = disk.write_one(|tx| {
            tx.scope = Scope::of(key);
            tx.keep_below_high_water()?;
            let wrote = tx.put(&prepared)?;
            if unreachable && matches!(wrote, Wrote::Stored { .. }) {
                tx.state.epoch += 1;
            }
            Ok((wrote, disk.clock.now()))
        })?;
        let Wrote::Stored { version, id } = wrote else { return Ok(Put::Refused) };
        disk.settle(&prepared);
        let kept = kept_of(&prepared, value, version, id, options);
        if let Some(memory) = &self.memory {
            // Without a generation it is compared with its row at the next hit.
            memory.insert(key, kept.clone());
        }
        if !unreachable {
            self.tell_remote(key, packet_of(&kept, committed_ns));
        }
        Ok(Put::Stored(version as u64))
    }

    fn put_without_disk(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        options: &PutOptions,
        expected: Expected,
    ) -> Result<Put> {
        if expected == Expected::Nothing && self.lookup(key) != Lookup::Miss {
            return Ok(Put::Refused);
        }
        if !options.tags.is_empty() {
            return Err(Error::invalid("tags need the disk level"));
        }
        let now = self.options.clock.now();
        let after = |wait: Duration| self.now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        let expires_ms = options.ttl.map_or(i64::MAX, after);
        let dead_ms = options.ttl.map_or(i64::MAX, |ttl| after(ttl.saturating_add(options.stale.unwrap_or_default())));
        let version = self.options.random.next_u64() >> 1;
        let kept = Kept {
            value: value.map(Bytes::copy_from_slice),
            version,
            expires_ms,
            dead_ms,
            written_ms: self.now_ms(),
            cost_us: options.cost.map_or(0, |cost| cost.as_micros() as u64),
            id: 0,
            freq: Kept::new_generation(u64::MAX),
            generation: Kept::new_generation(0),
        };
        if let Some(memory) = &self.memory {
            memory.insert(key, kept.clone());
        }
        self.tell_remote(key, packet_of(&kept, now));
        Ok(Put::Stored(version))
    }

    /// Sends a packet; when that fails, raises the epoch, so that an older value there cannot come back.
    pub(crate) fn tell_remote(&self, key: &[u8], packet: Packet) {
        let Some(remote) = &self.remote else { return };
        let epoch = self.epoch();
        match remote.put(epoch, key, &packet) {
            Ok(there) if there > epoch => self.raise_epoch_to(there),
            Ok(_) => {}
            Err(_) => self.raise_epoch_to(epoch + 1),
        }
    }

    fn delete(&self, key: &[u8]) -> Result<bool> {
        check_key(key)?;
        let (found, committed_ns) = match self.disk()? {
            Some(disk) => disk.write_one(|tx| {
                tx.scope = Scope::of(key);
                Ok((tx.delete(key, None)?, disk.clock.now()))
            })?,
            None => (self.memory.as_ref().is_some_and(|memory| memory.get(key).is_some()), self.options.clock.now()),
        };
        if let Some(memory) = &self.memory {
            memory.remove(key);
        }
        if self.remote.is_some() {
            self.tell_remote(key, tombstone(committed_ns));
        }
        Ok(found)
    }
}

pub(crate) fn tombstone(committed_ns: i64) -> Packet {
    Packet {
        committed_ns,
        version: 0,
        written_ms: 0,
        expires_ms: 0,
        dead_ms: 0,
        cost_us: 0,
        kind: PacketKind::Tombstone,
        value: Vec::new(),
    }
}

pub(crate) fn packet_of(kept: &Kept, committed_ns: i64) -> Packet {
    Packet {
        committed_ns,
        version: kept.version as i64,
        written_ms: kept.written_ms,
        expires_ms: kept.expires_ms,
        dead_ms: kept.dead_ms,
        cost_us: kept.cost_us,
        kind: if kept.value.is_some() { PacketKind::Value } else { PacketKind::Absent },
        value: kept.value.as_ref().map_or_else(Vec::new, |value| value.to_vec()),
    }
}

pub(crate) fn kept_of(
    prepared: &Prepared<'_>,
    value: Option<&[u8]>,
    version: i64,
    id: i64,
    options: &PutOptions,
) -> Kept {
    let (written_ms, expires_ms, dead_ms) = prepared.times_ms();
    Kept {
        value: value.map(Bytes::copy_from_slice),
        version: version as u64,
        expires_ms,
        dead_ms,
        written_ms,
        cost_us: options.cost.map_or(0, |cost| u64::try_from(cost.as_micros()).unwrap_or(u64::MAX)),
        id,
        freq: Kept::new_generation(0),
        generation: Kept::new_generation(u64::MAX),
    }
}

fn keep(found: Found, generation: u64) -> Kept {
    Kept {
        value: if found.flags & FLAG_ABSENT != 0 { None } else { found.value },
        version: found.version as u64,
        expires_ms: found.expires_ms,
        dead_ms: found.dead_ms,
        written_ms: found.written_ms,
        cost_us: found.cost_us,
        id: found.id,
        freq: Kept::new_generation(found.freq as u64),
        generation: Kept::new_generation(generation),
    }
}
