//! The error of this crate.

weir_base::define_error!("What can go wrong while text of other tools is read or numbers are compared.");
