//! A target for tests: a model with faults, drifts and crashes, and an account of every effect.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use weir_limits::Deadline;
use weir_ops::{Asked, Class, Entry, Env, Failure, History, Options, Started, Target, Value};
use weir_sim::{Disk, Fault, Seeded};

/// Disk, clock and randomness of one world.
pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) clock: Arc<weir_sim::Clock>,
    pub(crate) seed: u64,
}

pub(crate) const DIR: &str = "/data/operations";

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = Disk::new(seed);
        weir_base::FileSystem::create_dir_all(&disk, Path::new("/data")).unwrap();
        Self { disk, clock: Arc::default(), seed }
    }

    pub(crate) fn env(&self) -> Env {
        let clock: Arc<dyn weir_base::Clock> = Arc::clone(&self.clock) as _;
        // A process that is started again draws other ids than the one before.
        let seed = self.seed ^ self.disk.steps().wrapping_mul(0x9e37_79b9);
        Env {
            journal: weir_journal::Env { fs: Arc::new(self.disk.clone()), clock },
            random: Arc::new(Seeded::new(seed)),
        }
    }

    pub(crate) fn open(&self) -> weir_ops::Result<History> {
        self.clock.advance(Duration::from_millis(5));
        Ok(History::open(self.env(), Path::new(DIR), "test", Options::default())?.0)
    }
}

/// What a call does instead of working.
#[derive(Debug, Clone)]
pub(crate) enum Trick {
    /// Fails with this class, without effect.
    Fails(Class),
    /// Has its effect, but the answer is lost.
    LosesAnswer,
    /// Is accepted, and takes so many questions.
    Slow(u32),
    /// Is accepted, then fails.
    FailsLater,
    /// The process dies before the effect, or after it.
    Crash { after: bool },
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) states: BTreeMap<String, serde_json::Value>,
    /// Accepted and not finished: request, key, state, questions left, whether it fails.
    pending: BTreeMap<String, (String, Value, u32, bool)>,
    /// Effects, in order: key and state.
    pub(crate) effects: Vec<(String, Value)>,
    /// What happens at the call with this number.
    pub(crate) tricks: BTreeMap<u64, Trick>,
}

/// The model target.
pub(crate) struct Scripted {
    pub(crate) inner: Mutex<Inner>,
    pub(crate) calls: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) disk: Option<Disk>,
    pub(crate) pause: Duration,
}

impl Scripted {
    pub(crate) fn new(disk: Option<Disk>) -> Self {
        Self {
            inner: Mutex::default(),
            calls: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            disk,
            pause: Duration::from_millis(100),
        }
    }

    pub(crate) fn set(&self, key: &str, state: Value) {
        set(&mut self.inner.lock().unwrap().states, key, state);
    }

    pub(crate) fn states(&self) -> BTreeMap<String, serde_json::Value> {
        self.inner.lock().unwrap().states.clone()
    }

    pub(crate) fn trick(&self, call: u64, trick: Trick) {
        self.inner.lock().unwrap().tricks.insert(call, trick);
    }

    pub(crate) fn effects(&self) -> Vec<(String, Value)> {
        self.inner.lock().unwrap().effects.clone()
    }

    /// What goes on by itself comes to its end.
    pub(crate) fn finish_pending(&self) {
        let mut inner = self.inner.lock().unwrap();
        for (_, (key, state, _, fails)) in std::mem::take(&mut inner.pending) {
            if !fails {
                inner.take_effect(&key, state);
            }
        }
    }

    fn die(&self) -> Failure {
        let disk = self.disk.as_ref().expect("only a simulated process can die");
        disk.inject(disk.steps(), Fault::PowerOff);
        Failure::new(Class::Retry, "the process died")
    }
}

impl Inner {
    fn take_effect(&mut self, key: &str, state: Value) {
        set(&mut self.states, key, state.clone());
        self.effects.push((key.to_owned(), state));
    }
}

fn set(states: &mut BTreeMap<String, serde_json::Value>, key: &str, state: Value) {
    match state {
        Some(state) => drop(states.insert(key.to_owned(), state)),
        None => drop(states.remove(key)),
    }
}

impl Target for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn read(&self, keys: &[&str], _deadline: Deadline) -> Result<Vec<Value>, Failure> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let inner = self.inner.lock().unwrap();
        Ok(keys.iter().map(|key| inner.states.get(*key).cloned()).collect())
    }

    fn start(&self, entry: &Entry, to: &Value, _deadline: Deadline) -> Result<Started, Failure> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let mut inner = self.inner.lock().unwrap();
        let request = format!("request-{call}");
        match inner.tricks.remove(&call) {
            None => {
                inner.take_effect(&entry.key, to.clone());
                Ok(Started::Done { request: Some(request) })
            }
            Some(Trick::Fails(class)) => Err(Failure::new(class, format!("told to fail as {class:?}"))),
            Some(Trick::LosesAnswer) => {
                inner.take_effect(&entry.key, to.clone());
                Err(Failure::new(Class::Retry, "the connection was dropped"))
            }
            Some(Trick::Slow(questions)) => {
                inner.pending.insert(request.clone(), (entry.key.clone(), to.clone(), questions, false));
                Ok(Started::Accepted { request })
            }
            Some(Trick::FailsLater) => {
                inner.pending.insert(request.clone(), (entry.key.clone(), to.clone(), 1, true));
                Ok(Started::Accepted { request })
            }
            Some(Trick::Crash { after }) => {
                if after {
                    inner.take_effect(&entry.key, to.clone());
                }
                drop(inner);
                Err(self.die())
            }
        }
    }

    fn ask(&self, entry: &Entry, to: &Value, request: Option<&str>, deadline: Deadline) -> Result<Asked, Failure> {
        let mut inner = self.inner.lock().unwrap();
        let known = request.map(str::to_owned).filter(|request| inner.pending.contains_key(request));
        let known = known.or_else(|| {
            let mut pending = inner.pending.iter();
            pending.find(|(_, (key, ..))| *key == entry.key).map(|(request, _)| request.clone())
        });
        if let Some(request) = known {
            let (key, state, questions, fails) = inner.pending.remove(&request).unwrap();
            if questions > 0 {
                inner.pending.insert(request.clone(), (key, state, questions - 1, fails));
                return Ok(Asked::Accepted { request });
            }
            if fails {
                return Ok(Asked::Failed(Failure::new(Class::Skip, "the target gave up")));
            }
            inner.take_effect(&key, state);
            return Ok(Asked::Done);
        }
        drop(inner);
        let state = self.read(&[&entry.key], deadline)?.remove(0);
        Ok(if state == *to { Asked::Done } else { Asked::State(state) })
    }

    fn ask_pause(&self) -> Duration {
        self.pause
    }
}

/// Entries `k0..`, each to be set to its own state.
pub(crate) fn wishes(count: usize, value: &str) -> Vec<Entry> {
    (0..count)
        .map(|n| {
            let mut entry = Entry::new(format!("k{n:02}"), None, Some(json!(value)));
            entry.labels.insert("account".to_owned(), format!("a{}", n % 7));
            entry
        })
        .collect()
}

/// Keys of effects that came more than once.
pub(crate) fn twice(effects: &[(String, Value)]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    effects.iter().filter(|(key, _)| !seen.insert(key.clone())).map(|(key, _)| key.clone()).collect()
}
