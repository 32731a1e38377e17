//! Plans, applies, verifies and undoes a bulk operation against a [`Target`], every step journaled.
//!
//! What must hold is R1 to R4 of the map; `docs/formats/operations.md` has the bytes and the argument why a crash is safe.
//! Nothing here knows what kind of thing it changes.
//!
//! Reading order: [`operation`] (what an operation is, folded from [`event`]s), [`history`] (where events are kept), [`view`]
//! (reading them), [`target`] (what is changed), [`plan`] and [`undo`] (what is going to happen), [`run`] (making it happen).
//!
//! ```
//! use std::sync::Arc;
//! use weir_ops::{Env, Entry, History, Options, Plan, RunOptions, model::Model};
//!
//! let dir = tempfile::tempdir()?;
//! let (history, _) = History::open(Env::system(), dir.path(), "example", Options::default())?;
//! let target = Model::default();
//! let entry = Entry::new("door", None, Some(serde_json::json!("open")));
//! let plan = Plan::make(&history, &target, "example", "open", vec![entry])?;
//! let operation = weir_ops::apply(&history, &target, &plan, &RunOptions::default())?;
//! assert_eq!(operation.state, weir_ops::State::Done);
//!
//! let undo = weir_ops::Plan::undo(&history, &target, "example", &[operation.id], &Default::default())?;
//! weir_ops::apply(&history, &target, &undo, &RunOptions::default())?;
//! assert_eq!(target.get("door"), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod chain;
mod error;
pub mod event;
pub mod filter;
pub mod history;
mod index;
pub mod model;
pub mod operation;
pub mod plan;
mod retention;
pub mod run;
pub mod statistics;
mod step;
pub mod target;
pub mod undo;
pub mod view;

pub use chain::{ChainReport, verify_chain};
pub use error::{Error, Result};
pub use event::Event;
pub use filter::Filter;
pub use history::{Env, History, Options};
pub use operation::{Entry, Operation, Progress, State, Step, Value};
pub use plan::{Plan, Policy};
pub use retention::{Retained, Retention};
pub use run::{RunOptions, apply, resume, settle};
pub use target::{Asked, Class, Failure, Started, Target};
pub use undo::UndoOptions;
pub use view::{Listing, Summary, View};
