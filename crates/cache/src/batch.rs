//! Many operations in one call and, as far as they fit the index's log, one transaction. A transaction that fails as a whole
//! is tried entry by entry, so that the answers say which ones failed.

use bytes::Bytes;

use crate::cache::{Cache, Lookup, Put, kept_of, packet_of, tombstone};
use crate::disk::Disk;
use crate::disk::entry::{Expected, Wrote};
use crate::error::{Error, Result};
use crate::metrics::Operation;
use crate::options::{BATCH_MAX, INLINE_BYTES_MAX, PutOptions};

/// Operations of one transaction: what they write stays within half of the log's budget.
const CHUNK_MAX: usize = 100;

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Store a value.
    Put {
        /// Its key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// TTL, tags and cost.
        options: PutOptions,
    },
    /// Look a key up.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
}

/// The answer to one operation.
#[derive(Debug)]
pub enum Answer {
    /// A get's.
    Got(Option<Bytes>),
    /// A put's.
    Put(Put),
    /// A delete's: whether there was an entry.
    Deleted(bool),
    /// This one failed.
    Failed(Error),
}

impl Cache {
    /// Runs operations in order; one answer each.
    ///
    /// # Errors
    /// `Limit` for more than [`BATCH_MAX`] operations. Failures of single operations are answers.
    pub fn batch(&self, ops: &[Op]) -> Result<Vec<Answer>> {
        if ops.len() > BATCH_MAX {
            return Err(Error::new(
                weir_base::Kind::Limit,
                format!("a batch has at most {BATCH_MAX} operations, not {}", ops.len()),
            ));
        }
        let clock = &*self.inner.options.clock;
        let started = clock.monotonic();
        let mut answers = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let writes = |op: &Op| !matches!(op, Op::Get { .. });
            let run = rest.iter().take_while(|op| writes(op) == writes(first)).take(CHUNK_MAX).count();
            let (now, later) = rest.split_at(run);
            rest = later;
            match self.inner.disk() {
                Ok(Some(disk)) if writes(first) && now.len() > 1 && now.iter().all(fits_together) => {
                    match self.write_together(disk, now) {
                        Ok(done) => answers.extend(done),
                        Err(_) => answers.extend(now.iter().map(|op| self.single(op))),
                    }
                }
                _ => answers.extend(now.iter().map(|op| self.single(op))),
            }
        }
        self.inner.metrics.time(Operation::Batch, clock.monotonic().saturating_sub(started));
        Ok(answers)
    }

    fn single(&self, op: &Op) -> Answer {
        let outcome = match op {
            Op::Get { key } => Ok(Answer::Got(self.get(key))),
            Op::Put { key, value, options } => self.put(key, value, options).map(Answer::Put),
            Op::Delete { key } => self.delete(key).map(Answer::Deleted),
        };
        outcome.unwrap_or_else(Answer::Failed)
    }

    fn write_together(&self, disk: &Disk, ops: &[Op]) -> Result<Vec<Answer>> {
        let inner = &*self.inner;
        let expected = if inner.options.write_once { Expected::Nothing } else { Expected::Anything };
        let mut prepared = Vec::with_capacity(ops.len());
        for op in ops {
            prepared.push(match op {
                Op::Put { key, value, options } => {
                    Some(disk.prepare(key, Some(value), options, inner.encoding(), expected)?)
                }
                _ => None,
            });
        }
        let unreachable = inner.remote.as_ref().is_some_and(crate::remote::Remote::is_open);
        let (done, committed_ns) = disk.write(|tx| {
            tx.keep_below_high_water()?;
            tx.state.epoch += u64::from(unreachable);
            let mut done = Vec::with_capacity(ops.len());
            for (op, prepared) in ops.iter().zip(&prepared) {
                done.push(match (op, prepared) {
                    (_, Some(prepared)) => Ok(tx.put(prepared)?),
                    (Op::Delete { key }, _) => Err(tx.delete(key, None)?),
                    _ => Err(false),
                });
            }
            tx.removes = false;
            Ok((done, disk.clock.now()))
        })?;
        let mut answers = Vec::with_capacity(ops.len());
        for ((op, prepared), done) in ops.iter().zip(&prepared).zip(done) {
            answers.push(match (op, prepared, done) {
                (Op::Put { key, value, options }, Some(prepared), Ok(Wrote::Stored { version, id })) => {
                    disk.settle(prepared);
                    let kept = kept_of(prepared, Some(value), version, id, options);
                    if let Some(memory) = &inner.memory {
                        memory.insert(key, kept.clone());
                    }
                    if !unreachable && inner.remote.is_some() {
                        inner.tell_remote(key, packet_of(&kept, committed_ns));
                    }
                    Answer::Put(Put::Stored(version as u64))
                }
                (Op::Delete { key }, _, Err(found)) => {
                    if let Some(memory) = &inner.memory {
                        memory.remove(key);
                    }
                    if !unreachable && inner.remote.is_some() {
                        inner.tell_remote(key, tombstone(committed_ns));
                    }
                    Answer::Deleted(found)
                }
                _ => Answer::Put(Put::Refused),
            });
        }
        Ok(answers)
    }

    /// Values of many keys, in order.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Option<Bytes>> {
        keys.iter()
            .map(|key| match self.lookup(key) {
                Lookup::Hit(entry) => Some(entry.value),
                _ => None,
            })
            .collect()
    }
}

/// Whether an operation is checked and small enough to share a transaction.
fn fits_together(op: &Op) -> bool {
    match op {
        Op::Put { key, value, options } => {
            (1..=crate::key::KEY_BYTES_MAX).contains(&key.len())
                && value.len() <= INLINE_BYTES_MAX
                && options.tags.len() <= 4
                && options.tags.iter().all(|tag| (1..=crate::options::TAG_BYTES_MAX).contains(&tag.len()))
        }
        Op::Delete { key } => (1..=crate::key::KEY_BYTES_MAX).contains(&key.len()),
        Op::Get { .. } => false,
    }
}
