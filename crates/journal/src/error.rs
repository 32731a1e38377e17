//! The crate's one error.

weir_base::define_error!("What went wrong with a journal, and whether trying again may help.");

impl Error {
    /// Stored bytes are not what was written.
    pub(crate) fn damaged(context: impl Into<String>) -> Self {
        Self::new(weir_base::Kind::Damaged, context)
    }

    /// The same error for one more waiter: kind, retry and the whole message; the source is told in words.
    pub(crate) fn copy(&self) -> Self {
        Self::new(self.kind(), weir_base::error::chain(self)).with_retry(self.retry())
    }
}
