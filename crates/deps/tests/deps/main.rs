//! The crate from the outside: real metadata, lock files, hostile inputs, a mock index, and reports read by others.

#![allow(clippy::disallowed_methods, reason = "the tests change real environments on the disk")]

mod environments;
mod hostile;
mod index;
mod licences;
mod locks;
mod mock;
mod policies;
mod reports;
