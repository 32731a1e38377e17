//! The crate's one error.

weir_base::define_error!("Why a wish cannot be understood or the identity center does not answer.");

impl From<weir_ops::Failure> for Error {
    fn from(failure: weir_ops::Failure) -> Self {
        use weir_ops::Class;
        let kind = match failure.class {
            Class::Retry | Class::Wait | Class::Stop => weir_base::Kind::Unavailable,
            Class::Skip => weir_base::Kind::NotFound,
        };
        Self::wrap(kind, "the identity center refused", failure)
    }
}
