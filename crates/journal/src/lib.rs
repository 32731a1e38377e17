//! An append-only log that reads every record back: checked, compressed frames in segments, one writer, any readers.
//!
//! What must hold is J1 to J3 of the design; every byte and the argument why a crash is safe are in
//! `docs/formats/journal.md`. An append costs what it appends: nothing that is already there is read or written.
//!
//! ```
//! use weir_journal::{Durability, Env, Journal, Options, Reader, Record};
//!
//! let dir = tempfile::tempdir()?;
//! let (journal, recovery) = Journal::open(Env::system(), dir.path(), "example", Options::default())?;
//! assert_eq!(recovery.next_sequence, 1);
//! let record = Record { time: 1_700_000_000_000_000_000, kind: 1, key: b"build/42", payload: b"{\"ok\":true}" };
//! let appended = journal.append(&[record], Durability::Durable)?;
//! assert_eq!((appended.first, appended.last), (1, 1));
//! journal.close()?;
//!
//! let reader = Reader::open(Env::system(), dir.path())?;
//! for record in reader.records_from(1) {
//!     assert_eq!(record?.key, b"build/42");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod awsideman;
mod compact;
mod error;
mod filter;
mod follow;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod housekeeper;
mod index;
mod journal;
mod json;
pub mod jsonl;
mod manifest;
mod options;
mod reader;
mod record;
mod records;
mod recover;
mod repair;
mod segment;
mod varint;
mod verify;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod query_tests;
#[cfg(test)]
mod tests;

pub use compact::{Compacted, Compaction, Keep, Retention};
pub use error::{Error, Result};
pub use follow::Follow;
pub use journal::{Appended, Journal};
pub use options::{Codec, Durability, Env, Options};
pub use reader::{KeyMatch, Lost, Query, Reader};
pub use record::{OwnedRecord, Record, RecordRef};
pub use records::Records;
pub use recover::{Recovery, TornTail};
pub use repair::{Repaired, repair};
pub use verify::{Verification, verify};
