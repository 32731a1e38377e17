//! A target in memory that does as it is told: for tests, examples and benchmarks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weir_limits::Deadline;

use crate::operation::{Entry, Value};
use crate::target::{Failure, Started, Target};

/// A map of keys and states.
#[derive(Debug, Default)]
pub struct Model {
    states: Mutex<BTreeMap<String, serde_json::Value>>,
}

impl Model {
    /// The state of a key.
    pub fn get(&self, key: &str) -> Value {
        self.lock().get(key).cloned()
    }

    /// Sets the state of a key, as somebody else would.
    pub fn set(&self, key: &str, state: Value) {
        match state {
            Some(state) => drop(self.lock().insert(key.to_owned(), state)),
            None => drop(self.lock().remove(key)),
        }
    }

    /// All states.
    pub fn states(&self) -> BTreeMap<String, serde_json::Value> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, serde_json::Value>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for Model {
    fn name(&self) -> &str {
        "model"
    }

    fn read(&self, keys: &[&str], _deadline: Deadline) -> Result<Vec<Value>, Failure> {
        let states = self.lock();
        Ok(keys.iter().map(|key| states.get(*key).cloned()).collect())
    }

    fn start(&self, entry: &Entry, to: &Value, _deadline: Deadline) -> Result<Started, Failure> {
        self.set(&entry.key, to.clone());
        Ok(Started::Done { request: None })
    }
}
