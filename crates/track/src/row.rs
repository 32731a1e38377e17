//! What a tracker hands on: rows about finished, started and sampled work. They live in the spool as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_base::Timestamp;

use crate::sketch::Sketch;

/// Labels of an operation, by name.
pub type Labels = BTreeMap<String, String>;

/// One finished operation, or several of the same label set and second summed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finished {
    /// What was done, such as `flush`.
    pub name: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Name of the operation that it was a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its id; none for summed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it ended.
    pub end_ns: Timestamp,
    /// How long it took; the sum for summed ones.
    pub duration_ns: u64,
    /// How many operations this row stands for.
    pub count: u64,
    /// How many of them failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u64,
    /// Items done; none when nobody counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// Bytes done; none when nobody counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The shortest of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ns: Option<u64>,
    /// The longest of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ns: Option<u64>,
    /// Durations of several, as [`Sketch::encode`] writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sketch: Option<String>,
    /// Other measured numbers, by name with unit. What could not be measured is not there (M1).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, f64>,
    /// Which series of runs it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Which round of that series; runs of one round were taken one right after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Finished {
    /// How long it took, in milliseconds; the mean for summed ones.
    pub fn duration_ms(&self) -> f64 {
        self.duration_ns as f64 / 1e6 / self.count.max(1) as f64
    }

    /// Adds its durations to `sketch`. False when what it says cannot be read.
    pub fn add_to(&self, sketch: &mut Sketch) -> bool {
        if self.count <= 1 && self.sketch.is_none() {
            sketch.record(self.duration_ns);
            return true;
        }
        let (min, max) = (self.min_ns.unwrap_or(0), self.max_ns.unwrap_or(self.duration_ns));
        let own = Sketch::decode(self.sketch.as_deref().unwrap_or(""), u128::from(self.duration_ns), min, max);
        let Some(own) = own.filter(|own| own.count() == self.count) else { return false };
        sketch.merge(&own);
        true
    }
}

/// An operation that was announced before it ended. Without a [`Finished`] of its id it is unfinished.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Started {
    /// Its id.
    pub id: String,
    /// What is done.
    pub name: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Name of the operation that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When it began.
    pub start_ns: Timestamp,
    /// Whether it outlives the process that announced it, as steps of a script do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

/// Numbers of the whole process at one moment. What could not be measured is not there (M1).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampled {
    /// When.
    pub time_ns: Timestamp,
    /// Which program.
    pub process: String,
    /// Numbers, by name with unit.
    pub measures: BTreeMap<String, f64>,
}

/// Anything that a tracker hands on.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// Work that ended.
    Finished(Finished),
    /// Work that began.
    Started(Started),
    /// Numbers of the process.
    Sampled(Sampled),
}

impl Row {
    /// The number of its kind in the spool.
    pub fn kind(&self) -> u16 {
        match self {
            Self::Finished(_) => 1,
            Self::Started(_) => 2,
            Self::Sampled(_) => 3,
        }
    }

    /// Its time in the spool.
    pub fn time_ns(&self) -> Timestamp {
        match self {
            Self::Finished(row) => row.end_ns,
            Self::Started(row) => row.start_ns,
            Self::Sampled(row) => row.time_ns,
        }
    }

    /// What it is found by in the spool: the id, else the name.
    pub fn key(&self) -> &str {
        match self {
            Self::Finished(row) => row.id.as_deref().unwrap_or(&row.name),
            Self::Started(row) => &row.id,
            Self::Sampled(row) => &row.process,
        }
    }

    /// Its bytes in the spool.
    pub fn to_json(&self) -> Vec<u8> {
        let bytes = match self {
            Self::Finished(row) => serde_json::to_vec(row),
            Self::Started(row) => serde_json::to_vec(row),
            Self::Sampled(row) => serde_json::to_vec(row),
        };
        bytes.expect("rows have text keys only")
    }

    /// Reads what [`Row::to_json`] wrote; none for another kind or bytes that are no row.
    pub fn from_json(kind: u16, bytes: &[u8]) -> Option<Self> {
        match kind {
            1 => serde_json::from_slice(bytes).ok().map(Self::Finished),
            2 => serde_json::from_slice(bytes).ok().map(Self::Started),
            3 => serde_json::from_slice(bytes).ok().map(Self::Sampled),
            _ => None,
        }
    }
}
