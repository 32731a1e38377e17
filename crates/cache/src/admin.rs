//! What is done to a namespace as a whole: size, statistics, invalidation, collection, checks, a diagnosis.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use weir_base::{ByteSize, Kind};

use crate::cache::{Cache, Level};
use crate::disk::Disk;
use crate::disk::check::{Collection, Verification};
use crate::error::{Error, Result};
use crate::metrics::{Operation, Stat};
use crate::name::Namespace;

/// Entries removed per transaction of an invalidation.
const STEP_MAX: i64 = 512;

/// What a namespace takes and may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Bytes on the disk by the cache's own counting: blobs, reservations, index, log budget.
    pub bytes: u64,
    /// Entries, those whose time is over but which were not removed yet included.
    pub entries: u64,
    /// Byte limit.
    pub limit: u64,
    /// Of `bytes`: blobs.
    pub blob_bytes: u64,
    /// Of `bytes`: reservations of writers.
    pub reserved_bytes: u64,
    /// Of `bytes`: pages of the index.
    pub index_bytes: u64,
    /// Of `bytes`: what is kept free for the index's log.
    pub log_budget_bytes: u64,
}

/// An entry as exports carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: bytes::Bytes,
    /// What is left of its TTL.
    pub ttl: Option<Duration>,
    /// Its stale time after that.
    pub stale: Option<Duration>,
    /// What it cost.
    pub cost: Duration,
    /// Its tags.
    pub tags: Vec<String>,
}

/// Something that was looked at.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Finding {
    /// `ok`, `warning` or `error`.
    pub level: String,
    /// What was looked at.
    pub subject: String,
    /// What was found, and what to do.
    pub message: String,
}

/// What `doctor` says.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Diagnosis {
    /// No finding is an error.
    pub healthy: bool,
    /// In the order of looking.
    pub findings: Vec<Finding>,
}

impl Cache {
    fn disk(&self) -> Result<&Disk> {
        self.inner.disk()?.ok_or_else(|| Error::new(Kind::Unavailable, "the disk level is switched off"))
    }

    /// The size: one row of the index, whatever the number of entries.
    ///
    /// # Errors
    /// `Unavailable` without a disk level.
    pub fn size(&self) -> Result<Size> {
        let state = self.disk()?.state()?;
        let log_budget_bytes = crate::disk::state::log_budget(state.limit);
        Ok(Size {
            bytes: state.total(),
            entries: state.entries,
            limit: state.limit,
            blob_bytes: state.blob_bytes,
            reserved_bytes: state.reserved,
            index_bytes: state.index_pages * crate::disk::schema::PAGE_BYTES,
            log_budget_bytes,
        })
    }

    /// Allocated bytes of all files of the namespace, by a scan of the disk.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be read.
    pub fn scan_bytes(&self) -> Result<u64> {
        self.disk()?.scan_bytes()
    }

    /// Counters and percentiles of all handles that ended, and of this one.
    pub fn stat(&self) -> Stat {
        let inner = &*self.inner;
        let disk = match &inner.disk {
            Level::On(disk) => Some(&**disk),
            _ => None,
        };
        let path = disk.map(|disk| disk.dir().join("metrics"));
        let mut stat = inner.metrics.stat(&*inner.options.fs, path.as_deref());
        if let Some(state) = disk.and_then(|disk| disk.state().ok()) {
            stat.evicted = state.evicted;
            stat.levels[1].bytes = Some(state.total());
            stat.levels[1].entries = Some(state.entries);
        }
        if let Some(memory) = &inner.memory {
            stat.levels[0].bytes = Some(memory.bytes());
            stat.levels[0].entries = Some(memory.entries());
        }
        stat
    }

    /// Adds this handle's numbers to the namespace's; done by itself when the handle ends.
    pub fn flush_metrics(&self) {
        if let (Level::On(disk), false) = (&self.inner.disk, self.inner.options.read_only) {
            self.inner.metrics.merge(&*self.inner.options.fs, &disk.dir().join("metrics"));
        }
    }

    /// Removes every entry with a tag; how many.
    ///
    /// # Errors
    /// `Unavailable` when the disk or the lock cannot be had; part may be removed then.
    pub fn invalidate_tag(&self, tag: &str) -> Result<u64> {
        self.invalidate(
            "SELECT e.id, e.size, e.flags, e.blob FROM tags t JOIN entries e ON e.id = t.id WHERE t.tag = ?1 LIMIT ?2",
            &[&tag, &STEP_MAX],
        )
    }

    /// Removes every entry whose key begins with `prefix`; how many.
    ///
    /// # Errors
    /// As [`Cache::invalidate_tag`].
    pub fn invalidate_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u64> {
        let prefix = prefix.as_ref();
        let mut end = prefix.to_vec();
        while end.last() == Some(&255) {
            end.pop();
        }
        if let Some(last) = end.last_mut() {
            *last += 1;
            return self.invalidate(
                "SELECT id, size, flags, blob FROM entries WHERE key >= ?1 AND key < ?2 LIMIT ?3",
                &[&prefix, &end, &STEP_MAX],
            );
        }
        self.invalidate("SELECT id, size, flags, blob FROM entries WHERE key >= ?1 LIMIT ?2", &[&prefix, &STEP_MAX])
    }

    /// Removes every entry; how many.
    ///
    /// # Errors
    /// As [`Cache::invalidate_tag`].
    pub fn clear(&self) -> Result<u64> {
        self.invalidate("SELECT id, size, flags, blob FROM entries LIMIT ?1", &[&STEP_MAX])
    }

    fn invalidate(&self, text: &str, parameters: &[&dyn rusqlite::ToSql]) -> Result<u64> {
        let clock = &*self.inner.options.clock;
        let started = clock.monotonic();
        let disk = self.disk()?;
        let mut removed = 0;
        loop {
            let step = disk.write(|tx| {
                tx.removes = true;
                let found = tx.victims(text, parameters)?;
                found.iter().try_for_each(|victim| tx.remove(victim))?;
                // The remote level has no tags: everything it holds becomes unreachable.
                tx.state.epoch += u64::from(removed == 0 && self.inner.remote.is_some());
                Ok(found.len() as u64)
            })?;
            removed += step;
            if step < STEP_MAX as u64 {
                break;
            }
        }
        if let Some(memory) = &self.inner.memory {
            memory.clear();
        }
        if let Some(remote) = &self.inner.remote {
            let _ = remote.raise(self.inner.epoch());
        }
        self.inner.metrics.time(Operation::Invalidate, clock.monotonic().saturating_sub(started));
        Ok(removed)
    }

    /// The live entry with a value that follows key `after`, in key order; for exports.
    ///
    /// # Errors
    /// `Unavailable` without a disk level.
    pub fn next_entry(&self, after: Option<&[u8]>) -> Result<Option<Exported>> {
        let disk = self.disk()?;
        let mut after = after.unwrap_or_default().to_vec();
        loop {
            let Some((key, found, tags)) = disk.read(|sql| disk.next_after(sql, &after))? else { return Ok(None) };
            let now = self.inner.now_ms();
            let left = |until: i64| {
                (until != i64::MAX).then(|| Duration::from_millis(until.saturating_sub(now).max(0) as u64))
            };
            if let Some(found) = found
                && let Some(value) = found.value
                && crate::disk::entry::is_live(now, found.written_ms, found.dead_ms)
            {
                let ttl = left(found.expires_ms);
                let stale = left(found.dead_ms).and_then(|dead| Some(dead.saturating_sub(ttl?)));
                return Ok(Some(Exported { key, value, ttl, stale, cost: Duration::from_micros(found.cost_us), tags }));
            }
            after = key;
        }
    }

    /// One collection of at most `budget`.
    ///
    /// # Errors
    /// `Unavailable` when the disk or the lock cannot be had.
    pub fn collect(&self, budget: Duration) -> Result<Collection> {
        self.disk()?.collect(budget)
    }

    /// Compares index and disk, reading every blob; with `repair`, makes them agree.
    ///
    /// # Errors
    /// `Unavailable` when the disk or the lock cannot be had.
    pub fn verify(&self, repair: bool) -> Result<Verification> {
        let outcome = self.disk()?.verify(repair);
        if repair && let Some(memory) = &self.inner.memory {
            memory.clear();
        }
        outcome
    }

    /// Sets the byte limit; the next writes and collections evict down to it in bounded steps.
    ///
    /// # Errors
    /// `Invalid` below [`crate::LIMIT_MIN`].
    pub fn set_limit(&self, limit: ByteSize) -> Result<()> {
        if limit < crate::LIMIT_MIN {
            return Err(Error::invalid(format!("the limit must be at least {}", crate::LIMIT_MIN)));
        }
        self.disk()?.set_limit(limit.bytes())
    }

    /// The namespaces of a cache folder, sorted.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be listed; a missing one has none.
    pub fn namespaces(fs: &dyn weir_base::FileSystem, dir: &Path) -> Result<Vec<Namespace>> {
        let listed = match fs.list(&dir.join("ns")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| Error::io("cannot list the namespaces", error))?,
        };
        let mut names: Vec<Namespace> =
            listed.iter().filter_map(|path| Namespace::new(path.file_name()?.to_str()?).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// What is wrong here, and what to do.
    pub fn doctor(&self) -> Diagnosis {
        let mut findings = Vec::new();
        let mut say = |level: &str, subject: &str, message: String| {
            findings.push(Finding { level: level.into(), subject: subject.into(), message });
        };
        match &self.inner.disk {
            Level::Off => say("ok", "disk", "switched off".into()),
            Level::Broken(_, reason) => {
                say("error", "disk", format!("{reason}; every read is a miss, writes are refused"))
            }
            Level::On(disk) => self.examine_disk(disk, &mut say),
        }
        match &self.inner.remote {
            None => say("ok", "remote", "none configured".into()),
            Some(remote) => match remote.get(self.inner.epoch(), b"doctor") {
                Ok(_) => say("ok", "remote", "answers".into()),
                Err(error) => say(
                    "warning",
                    "remote",
                    format!("{}; the local levels work alone", weir_base::error::chain(&error)),
                ),
            },
        }
        let stat = self.stat();
        if let Some(ratio) = stat.hit_ratio.filter(|ratio| *ratio < 0.8 && stat.hits + stat.misses >= 100) {
            say(
                "warning",
                "hit ratio",
                format!("{:.0} % of the questions were answered; 80 % is usual", ratio * 100.0),
            );
        }
        for operation in &stat.operations {
            if let Some(p99) = operation.p99_us.filter(|p99| *p99 > 100_000.0 && operation.operation != "compute") {
                say("warning", &operation.operation, format!("p99 is {:.0} ms, above 100 ms", p99 / 1000.0));
            }
        }
        Diagnosis { healthy: findings.iter().all(|finding| finding.level != "error"), findings }
    }

    fn examine_disk(&self, disk: &Disk, say: &mut impl FnMut(&str, &str, String)) {
        let clock = &*self.inner.options.clock;
        say("ok", "lock", format!("wait = {}", disk.lock_wait()));
        if crate::lock::is_network_disk(disk.dir()) {
            say("warning", "disk", "on a network file system: locks are polled; a local folder is faster".into());
        }
        if disk.lock_wait_us_max() > 2_000_000 {
            say("warning", "lock", format!("a wait took {} ms, above 2 s", disk.lock_wait_us_max() / 1000));
        }
        let started = clock.monotonic();
        match self.size() {
            Err(error) => say("error", "index", weir_base::error::chain(&error)),
            Ok(size) => {
                let took = clock.monotonic().saturating_sub(started);
                let slow = took > Duration::from_millis(10);
                let level = if slow { "warning" } else { "ok" };
                let (bytes, limit) = (ByteSize::new(size.bytes), ByteSize::new(size.limit));
                say(
                    level,
                    "size",
                    format!("{bytes} of {limit}, {} entries, read in {} us", size.entries, took.as_micros()),
                );
                if size.bytes > size.limit {
                    say("warning", "size", "above the limit (it was lowered): run gc".into());
                }
            }
        }
        match self.inner.options.fs.available(disk.dir()) {
            Ok(free) if free < 64 << 20 => {
                say("warning", "disk", format!("{} left on the file system", ByteSize::new(free)))
            }
            Ok(_) => {}
            Err(error) => say("warning", "disk", format!("free space is unknown: {error}")),
        }
    }
}
