//! The server's one error type.

weir_base::define_error!("What the server could not do: bind, listen, or pass a request on to the database.");

impl Error {
    /// As an answer: the kind's status, and the message with those of its sources.
    pub(crate) fn into_problem(self) -> crate::status::Problem {
        crate::status::Problem::of(self.kind(), self.retry(), weir_base::error::chain(&self))
    }
}
