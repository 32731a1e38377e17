//! The tasks behind `cargo xtask`: checks of the house, the whole test run, and benchmarks.
//!
//! [`tidy`] holds the tree against `ARCHITECTURE.md`, [`suite`] runs everything that a change must pass, [`python`] makes
//! the environment of foreign readers that tests compare with, [`soak`] runs a server past
//! its capacity for as long as it is told, and [`mod@bench`] builds for release and runs a benchmark.

#![allow(clippy::disallowed_methods, reason = "a build task works on the real disk, clock and environment")]

pub mod bench;
pub mod python;
pub mod shell;
pub mod slt;
pub mod soak;
pub mod suite;
pub mod tidy;
