//! The crate's one error.

weir_base::define_error!("Why an operation was refused or broken off, and whether trying again may help.");

impl From<weir_journal::Error> for Error {
    fn from(error: weir_journal::Error) -> Self {
        let (kind, retry) = (error.kind(), error.retry());
        Self::wrap(kind, "the history of operations refused", error).with_retry(retry)
    }
}

impl Error {
    /// Somebody else changed or holds it.
    pub(crate) fn conflict(context: impl Into<String>) -> Self {
        Self::new(weir_base::Kind::Conflict, context)
    }
}
