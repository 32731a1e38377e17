//! Memory of queries: one pool for all, and within it a share for each query.
//!
//! A query's share is divided so that everything that can go to disk does so before the query fails:
//!
//! - Operators that can spill have three eighths of it, divided evenly; less when what cannot spill holds more.
//! - Merges inside sorts have half, divided evenly. A merge in memory needs what its sort held: half of that for the rows (all of it
//!   where strings share memory, which is counted for each batch that has a part in it), and as much again for keys as long as rows.
//!   One of spilled runs takes as much as it is given, though it would make do with two runs at a time: unbounded, the first
//!   of them would starve the others and the merge above them.
//! - What cannot spill (a join's build side, the last merge) may take all that nobody else holds, at least the last eighth.
//!
//! What the share grants is then taken from the pool of all.

use std::fmt::{Display, Formatter};
use std::sync::{Arc, Mutex};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use weir_base::ByteSize;

/// How DataFusion begins the name of what merges the runs of a sort.
const MERGE_PREFIX: &str = "ExternalSorterMerge";

/// The pool of all queries.
#[derive(Debug, Clone)]
pub(crate) struct SharedMemory {
    pool: Arc<GreedyMemoryPool>,
    limit: ByteSize,
}

impl SharedMemory {
    pub(crate) fn new(limit: ByteSize) -> Self {
        Self { pool: Arc::new(GreedyMemoryPool::new(to_usize(limit))), limit }
    }

    /// Bytes in use by all queries.
    pub(crate) fn reserved(&self) -> u64 {
        self.pool.reserved() as u64
    }

    /// The memory of one query.
    pub(crate) fn share(&self, limit: ByteSize) -> QueryMemory {
        QueryMemory { share: Share::new(to_usize(limit)), share_limit: limit, all: self.clone() }
    }
}

/// Whom memory is for, as far as a share tells consumers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Spillable,
    Merge,
    Fixed,
}

impl Use {
    fn of(consumer: &MemoryConsumer) -> Self {
        if consumer.can_spill() {
            Self::Spillable
        } else if consumer.name().starts_with(MERGE_PREFIX) {
            Self::Merge
        } else {
            Self::Fixed
        }
    }
}

/// A number of bytes, divided among the consumers of one query.
#[derive(Debug)]
struct Share {
    bytes_max: usize,
    taken: Mutex<Taken>,
}

/// Consumers and the bytes they hold, by use.
#[derive(Debug, Default)]
struct Taken {
    consumers: [usize; 3],
    bytes: [usize; 3],
    /// Most bytes held at once so far.
    peak: usize,
}

impl Taken {
    fn total(&self) -> usize {
        self.bytes.iter().sum()
    }
}

impl Share {
    fn new(bytes_max: usize) -> Self {
        Self { bytes_max, taken: Mutex::default() }
    }

    fn update<T>(&self, change: impl FnOnce(&mut Taken) -> T) -> T {
        let mut taken = self.taken.lock().expect("no holder of this lock panics");
        let changed = change(&mut taken);
        taken.peak = taken.peak.max(taken.total());
        changed
    }

    /// Takes `additional` bytes for a consumer that holds `held`, if its part of the share has them.
    fn try_take(&self, user: Use, held: usize, additional: usize) -> bool {
        self.update(|taken| {
            let even = |bytes: usize| bytes / taken.consumers[user as usize].max(1);
            let others = taken.bytes[Use::Fixed as usize] + taken.bytes[Use::Merge as usize];
            let part_max = match user {
                Use::Spillable => even((self.bytes_max / 8 * 3).min(self.bytes_max.saturating_sub(others))),
                Use::Merge => even(self.bytes_max / 2),
                Use::Fixed => usize::MAX,
            };
            let fits = held.saturating_add(additional) <= part_max
                && taken.total().saturating_add(additional) <= self.bytes_max;
            if fits {
                taken.bytes[user as usize] += additional;
            }
            fits
        })
    }
}

/// One query's share.
#[derive(Debug)]
pub(crate) struct QueryMemory {
    share: Share,
    share_limit: ByteSize,
    all: SharedMemory,
}

impl QueryMemory {
    /// Most bytes that the query held at once so far.
    pub(crate) fn peak(&self) -> u64 {
        self.share.update(|taken| taken.peak) as u64
    }
}

impl Display for QueryMemory {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "query memory ({} of {})", ByteSize::new(self.reserved() as u64), self.share_limit)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.share.update(|taken| taken.consumers[Use::of(consumer) as usize] += 1);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.share.update(|taken| taken.consumers[Use::of(consumer) as usize] -= 1);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.share.update(|taken| taken.bytes[Use::of(reservation.consumer()) as usize] += additional);
        self.all.pool.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.share.update(|taken| taken.bytes[Use::of(reservation.consumer()) as usize] -= shrink);
        self.all.pool.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let exhausted = |what: &str, limit: ByteSize, setting: &str| {
            DataFusionError::ResourcesExhausted(format!(
                "{} needs {} more and {what} is limited to {limit} (setting {setting})",
                reservation.consumer().name(),
                ByteSize::new(additional as u64)
            ))
        };
        let user = Use::of(reservation.consumer());
        if !self.share.try_take(user, reservation.size(), additional) {
            return Err(exhausted("the memory of one query", self.share_limit, "query_each_memory_bytes_max"));
        }
        self.all.pool.try_grow(reservation, additional).map_err(|_| {
            self.share.update(|taken| taken.bytes[user as usize] -= additional);
            exhausted("the memory of all queries", self.all.limit, "query_memory_bytes_max")
        })
    }

    fn reserved(&self) -> usize {
        self.share.update(|taken| taken.total())
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(to_usize(self.share_limit))
    }
}

fn to_usize(size: ByteSize) -> usize {
    usize::try_from(size.bytes()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes pieces until no more are given.
    fn fill(reservation: &MemoryReservation) -> usize {
        while reservation.try_grow(1 << 10).is_ok() {}
        reservation.size()
    }

    #[test]
    fn a_merge_in_memory_gets_all_that_its_sort_held_and_a_third_more() {
        for sorts in [1, 2, 8] {
            let all = SharedMemory::new(ByteSize::mib(64));
            let pool: Arc<dyn MemoryPool> = Arc::new(all.share(ByteSize::mib(16)));
            let reserve =
                |name: &str, can_spill: bool| MemoryConsumer::new(name).with_can_spill(can_spill).register(&pool);
            let pairs: Vec<_> = (0..sorts)
                .map(|_| (reserve("ExternalSorter[0]", true), reserve("ExternalSorterMerge[0]", false)))
                .collect();
            let above = reserve("SortPreservingMergeExec[0]", false);
            for (sort, merge) in &pairs {
                let held = fill(sort);
                assert!(held > (4 << 20) / sorts, "{held} of {sorts}");
                assert!(fill(merge) >= held / 3 * 4, "{} for {held}", merge.size());
            }
            assert!(fill(&above) >= 2 << 20, "the last eighth is for what cannot spill");
            drop((pairs, above));
            assert_eq!((pool.reserved(), all.reserved()), (0, 0));
        }
    }
}
