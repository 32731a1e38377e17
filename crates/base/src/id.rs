//! Identifiers: UUIDv7 (RFC 9562), so that they sort by the time they were made.

use crate::{Clock, Random};
pub use uuid::Uuid;

/// A new UUIDv7 from the given clock and randomness.
pub fn uuid_v7(clock: &dyn Clock, random: &dyn Random) -> Uuid {
    let mut tail = [0; 10];
    random.fill(&mut tail);
    let millis = u64::try_from(clock.now() / 1_000_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
}
