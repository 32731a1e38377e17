//! Computing anew in the background: whoever meets a stale value is answered with it at once.
//!
//! A refresh is a thread of this handle that holds the key's lease while it computes, so that over all threads and processes
//! one runs per key. A handle runs a bounded number at once; past it, stale values are served and the next reader tries again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::cache::{Cache, Lookup};
use crate::error::Result;
use crate::metrics::Counter;
use crate::options::PutOptions;

/// Refreshes that are running.
#[derive(Debug, Default)]
pub(crate) struct Refreshes {
    running: Arc<AtomicUsize>,
}

/// A place among them, given back when dropped, also when computing panics.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Refreshes {
    fn enter(&self, max: usize) -> Option<Place> {
        let more = |running: usize| (running < max).then_some(running + 1);
        self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Place(Arc::clone(&self.running)))
    }

    /// How many are running.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }
}

impl Cache {
    /// Like [`Cache::get_or_compute`], but a stale value is answered at once to every caller: `compute` runs in a thread of its
    /// own, one at a time per key over all threads and processes, at most [`crate::CacheOptions::refreshes_max`] in this
    /// handle. A refresh that fails is counted; the stale value stays until its time is over.
    ///
    /// # Errors
    /// Those of `compute`, where there is nothing to answer with meanwhile.
    pub fn get_or_refresh<E>(
        &self,
        key: impl AsRef<[u8]>,
        options: &PutOptions,
        compute: impl FnOnce() -> Result<Vec<u8>, E> + Send + 'static,
    ) -> Result<Bytes, E> {
        let key = key.as_ref();
        let started = self.inner.options.clock.monotonic();
        match self.lookup(key) {
            Lookup::Hit(entry) => {
                if entry.stale {
                    self.refresh(key, options, compute);
                }
                Ok(entry.value)
            }
            Lookup::Absent | Lookup::Miss => self.compute(key, options, None, started, compute),
        }
    }

    /// Refreshes of this handle that are running.
    pub fn refreshes_running(&self) -> usize {
        self.inner.refreshes.running()
    }

    fn refresh<E>(
        &self,
        key: &[u8],
        options: &PutOptions,
        compute: impl FnOnce() -> Result<Vec<u8>, E> + Send + 'static,
    ) {
        if self.inner.flights.is_busy(key) {
            return;
        }
        let Some(place) = self.inner.refreshes.enter(self.inner.options.refreshes_max) else { return };
        let (cache, key, options) = (self.clone(), key.to_vec(), options.clone());
        let work = move || {
            // Given back last, so that the number is right when the new value is there.
            let _place = place;
            let started = cache.inner.options.clock.monotonic();
            // With something to answer, the lease is not waited for: who has it is computing already.
            let outcome = cache.compute(&key, &options, Some(Bytes::new()), started, compute);
            cache.inner.metrics.add(Counter::Failed, u64::from(outcome.is_err()));
        };
        let spawned = std::thread::Builder::new().name("weir-cache-refresh".to_owned()).spawn(work);
        // Without a thread the value stays stale until somebody computes it.
        self.inner.metrics.add(Counter::Failed, u64::from(spawned.is_err()));
    }
}
