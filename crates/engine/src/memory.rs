//! The one account of the engine's memory: bytes reserved before they are used, never more than the limit (S1, E4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weir_base::{ByteSize, Kind, Retry};

use crate::error::{Error, Result};

/// Bytes in use against a hard limit.
#[derive(Debug)]
pub struct Memory {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

/// Bytes taken from a [`Memory`]; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Memory {
    /// An account that never exceeds `limit` bytes.
    pub fn new(limit: ByteSize) -> Arc<Self> {
        Arc::new(Self { limit: limit.bytes(), used: AtomicU64::new(0), peak: AtomicU64::new(0) })
    }

    /// Bytes reserved now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that were ever reserved at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// An empty reservation, to be grown.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { memory: Arc::clone(self), bytes: 0 }
    }

    fn take(&self, bytes: u64) -> Result<()> {
        let outcome = self.used.try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= self.limit)
        });
        match outcome {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => Err(Error::new(
                Kind::Limit,
                format!(
                    "the ingest buffer is full ({} of {}; setting buffer_bytes_max); try again when it has been flushed",
                    ByteSize::new(self.used()),
                    ByteSize::new(self.limit)
                ),
            )
            .with_retry(Retry::After(Duration::from_secs(1)))),
        }
    }
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Grows or shrinks to `bytes`.
    ///
    /// # Errors
    /// `limit`, to be retried, when the account is full; the reservation is then as before.
    pub fn resize(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.bytes {
            self.memory.take(bytes - self.bytes)?;
        } else {
            self.memory.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Whose bytes these are.
    pub fn account(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Takes over what `other` holds.
    pub fn absorb(&mut self, mut other: Reservation) {
        debug_assert!(Arc::ptr_eq(&self.memory, &other.memory));
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Splits off everything into a reservation of its own.
    pub fn take_all(&mut self) -> Reservation {
        Reservation { memory: Arc::clone(&self.memory), bytes: std::mem::take(&mut self.bytes) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_exceeded_s1() {
        let memory = Memory::new(ByteSize::new(100));
        let mut first = memory.reservation();
        first.resize(60).unwrap();
        let mut second = memory.reservation();
        second.resize(40).unwrap();
        let error = second.resize(41).unwrap_err();
        assert_eq!(error.kind(), Kind::Limit);
        assert!(error.to_string().contains("buffer_bytes_max"), "{error}");
        assert_eq!((memory.used(), second.bytes()), (100, 40));
        first.absorb(second);
        assert_eq!((memory.used(), first.bytes()), (100, 100));
        let rest = first.take_all();
        drop(first);
        assert_eq!(memory.used(), 100);
        drop(rest);
        assert_eq!((memory.used(), memory.peak()), (0, 100));
    }
}
