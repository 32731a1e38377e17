//! AWS IAM Identity Center as a target of operations; the only room that knows the AWS SDK.
//!
//! [`Client`] makes every call within its rate, deadline and class of failure; [`directory`] turns names into ids; [`Access`] is the
//! [`weir_ops::Target`]; [`mod@file`] reads wishes from CSV, JSON and YAML; [`awsideman`] reads what that tool recorded.
//! Nothing here journals: that is `weir_ops`.

pub mod assignment;
pub mod awsideman;
mod classify;
pub mod client;
pub mod directory;
mod error;
pub mod file;
pub mod listing;
mod partition;
pub mod permission_set;
mod target;

pub use assignment::{Assignment, PrincipalKind};
pub use client::{Client, Settings};
pub use directory::Directory;
pub use error::{Error, Result};
pub use file::{Action, Row};
pub use target::{Access, TARGET_PREFIX};
