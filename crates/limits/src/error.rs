//! The one error type of the limits.

weir_base::define_error!("What was stopped, which limit stopped it, and whether to try again (retry).");
