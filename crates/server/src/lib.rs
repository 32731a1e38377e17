//! Turns HTTP into calls and errors into statuses.
//!
//! [`router`] is a plain `tower` service over a [`Database`]: [`listen`] serves it on TCP and a unix socket, and an embedded
//! caller calls it without either; [`guarded`] is the same behind tokens, for TCP. Threads of the runtime never parse, inflate or wait for a disk; `/health` and
//! `/metrics` take no slot that writes or queries hold.

mod app;
mod body;
mod changes;
pub mod config;
pub mod database;
pub mod embedded;
pub mod error;
mod externals;
mod guard;
mod health;
pub mod listen;
mod metrics;
mod names;
pub mod own;
mod params;
mod query;
mod request;
mod rollups;
mod status;
mod tls;
pub mod tokens;
mod upkeep;
mod write;

pub use app::{App, guarded, router};
pub use changes::HistorySettings;
pub use config::Config;
pub use database::{Database, Retention};
pub use embedded::Embedded;
pub use error::{Error, Result};
pub use listen::Server;
pub use tls::TlsFiles;

/// The version that the server tells.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
