//! The engine's one error type.

weir_base::define_error!("What the engine could not do, for whom it matters (kind) and whether to try again (retry).");
