//! The crate's one error, and how SQLite's codes map to kinds.

use rusqlite::ErrorCode;
use weir_base::{Kind, Retry};

weir_base::define_error!("Why the cache could not do what it was asked. A read never fails: it is a counted miss.");

/// Wraps an error of the index with what was being done.
pub(crate) fn index(context: &str, source: rusqlite::Error) -> Error {
    let (kind, retry) = match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (Kind::Damaged, Retry::Never),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (Kind::Unavailable, Retry::Backoff),
        Some(
            ErrorCode::DiskFull
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::SystemIoFailure
            | ErrorCode::PermissionDenied,
        ) => (Kind::Unavailable, Retry::Backoff),
        _ => (Kind::Internal, Retry::Never),
    };
    Error::wrap(kind, context, source).with_retry(retry)
}

/// `map_err` for index calls.
pub(crate) trait IndexContext<T> {
    /// Says what was being done to the index.
    fn doing(self, context: &str) -> Result<T>;
}

impl<T> IndexContext<T> for rusqlite::Result<T> {
    fn doing(self, context: &str) -> Result<T> {
        self.map_err(|source| index(context, source))
    }
}
