//! Reads a dependency set and says which licences break the policy, and why.
//!
//! The flow: an input ([`environment`], [`lock`]) becomes packages; what is not installed gets its metadata from an
//! index ([`index`]) through a [`store`]; the ladder ([`licence`]) finds each licence; the [`policy`] judges; a [`check`]
//! is the answer, which [`report`] writes in many formats. No code of a package is ever run, and nothing here prints.
//!
//! ```
//! let parsed = weir_deps::licence::expression::parse("mpl-2.0 and (apache-2.0 or mit)").unwrap();
//! assert_eq!(parsed.expression.to_string(), "MPL-2.0 AND (Apache-2.0 OR MIT)");
//! ```

pub mod advisory;
pub mod alert;
pub mod archive;
pub mod check;
pub mod environment;
pub mod finding;
pub mod history;
pub mod index;
pub mod licence;
pub mod lock;
pub mod marker;
pub mod metadata;
pub mod name;
pub mod package;
pub mod policy;
pub mod report;
pub mod store;

mod digest;
mod parallel;

weir_base::define_error!(
    "What can go wrong with a dependency set as a whole; a single package's trouble is a finding."
);
