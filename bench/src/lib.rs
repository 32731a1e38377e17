//! What the benchmarks share: a workload, a client that costs little, and eyes on the process that is measured.
//!
//! Every benchmark watches from the outside: it starts the real binary, drives it over its network interface, reads the
//! kernel's own figures about it, and checks the answer that it timed. A figure whose answer is wrong is an error.
//!
//! Reading order: [`tsbs`] makes the lines, [`http`] carries them, [`target`] knows the servers, [`process`] watches
//! one, [`load`] puts them together, [`disk`] gives the floor under every durable figure, [`report`] writes it down. For
//! `weir deps`, [`packages`] are made up, [`index`] serves them, and [`deps`] times the commands. [`figures`]
//! is the table of the cache; the figures of the tracker are in [`track`], and [`plot`] draws series.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures the real clock, the real disk and real processes")]

pub mod deps;
pub mod disk;
pub mod figures;
pub mod http;
pub mod index;
pub mod life;
pub mod load;
pub mod packages;
pub mod plot;
pub mod process;
pub mod profile;
pub mod query;
pub mod report;
pub mod rollup;
pub mod target;
pub mod track;
pub mod tsbs;
