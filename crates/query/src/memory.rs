//! Memory of queries: one pool for all, and within it a share for each query.
//!
//! A query's share is divided fairly among its operators that can spill, so that a sort and an aggregation of one query
//! both go to disk before either fails. What the share grants is then taken from the pool of all.

use std::fmt::{Display, Formatter};
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use weir_base::ByteSize;

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
        QueryMemory { share: FairSpillPool::new(to_usize(limit)), share_limit: limit, all: self.clone() }
    }
}

/// One query's share.
#[derive(Debug)]
pub(crate) struct QueryMemory {
    share: FairSpillPool,
    share_limit: ByteSize,
    all: SharedMemory,
}

impl Display for QueryMemory {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "query memory ({} of {})", ByteSize::new(self.share.reserved() as u64), self.share_limit)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.share.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.share.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.share.grow(reservation, additional);
        self.all.pool.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.share.shrink(reservation, shrink);
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
        self.share
            .try_grow(reservation, additional)
            .map_err(|_| exhausted("the memory of one query", self.share_limit, "query_each_memory_bytes_max"))?;
        self.all.pool.try_grow(reservation, additional).map_err(|_| {
            self.share.shrink(reservation, additional);
            exhausted("the memory of all queries", self.all.limit, "query_memory_bytes_max")
        })
    }

    fn reserved(&self) -> usize {
        self.share.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(to_usize(self.share_limit))
    }
}

fn to_usize(size: ByteSize) -> usize {
    usize::try_from(size.bytes()).unwrap_or(usize::MAX)
}
