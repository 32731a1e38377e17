//! The crate from the outside: real metadata, lock files, hostile inputs, a mock index, and reports read by others.

mod licences;
mod locks;
