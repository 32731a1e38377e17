//! The engine's one error type.

weir_base::define_error!("What the engine could not do, for whom it matters (kind) and whether to try again (retry).");

impl From<arrow::error::ArrowError> for Error {
    /// Arrow refuses what we built: a bug, unless it passes on an error from reading.
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::wrap(weir_base::Kind::Internal, "cannot process columns", error)
    }
}
