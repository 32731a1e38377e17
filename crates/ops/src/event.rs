//! The records of the history and their JSON. Format: `docs/formats/operations.md`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weir_base::Kind;
use weir_base::id::Uuid;

use crate::operation::{Entry, State};
use crate::{Error, Result};

/// Something that happened to an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The first record of a history.
    History {
        /// The history's own id.
        id: Uuid,
    },
    /// An operation begins, with all that it is going to do.
    Begin(Box<Begin>),
    /// The target is about to be called for an entry.
    Intent {
        /// Its number.
        entry: u32,
        /// Which call, from 1.
        attempt: u32,
    },
    /// What came of it.
    Outcome {
        /// Its number.
        entry: u32,
        /// Calls so far.
        attempts: u32,
        /// What came of it.
        result: Outcome,
        /// The target's id for the request.
        request: Option<String>,
        /// Why not.
        reason: Option<String>,
    },
    /// A fresh read was compared with what was intended.
    Verified {
        /// Entries that were read.
        read: u32,
        /// Entries that are not as intended.
        wrong: Vec<u32>,
    },
    /// Nothing goes on any more.
    Seal {
        /// How it stands.
        state: State,
    },
    /// Where retention removed records from a chained history.
    Anchor {
        /// A sequence, and the chain value before it.
        gaps: Vec<(u64, String)>,
    },
}

/// The beginning of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Operations of one command share a run.
    pub run: Uuid,
    /// What it is, such as `assign`.
    pub kind: String,
    /// What it changes, as the target names itself.
    pub target: String,
    /// Who asked for it.
    pub actor: String,
    /// The operations that it undoes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undoes: Vec<Uuid>,
    /// Digest of the plan.
    #[serde(default)]
    pub plan: String,
    /// Where an imported operation came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What is to change.
    pub entries: Vec<Entry>,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The target works on it.
    Accepted,
    /// We changed it.
    Done,
    /// It was not changed.
    Failed,
    /// It was not touched.
    Skipped,
    /// It cannot be told whether it was changed: still in flight.
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct HistoryFields {
    version: u32,
    id: Uuid,
}

#[derive(Serialize, Deserialize)]
struct IntentFields {
    entry: u32,
    attempt: u32,
}

#[derive(Serialize, Deserialize)]
struct OutcomeFields {
    entry: u32,
    attempts: u32,
    result: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct VerifiedFields {
    read: u32,
    wrong: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct SealFields {
    state: State,
}

#[derive(Serialize, Deserialize)]
struct AnchorFields {
    gaps: Vec<(u64, String)>,
}

/// Key of the record that names the history.
pub(crate) const HISTORY_KEY: &[u8] = b"history";
/// Version of the records.
const VERSION: u32 = 1;

impl Event {
    /// The number of the record's kind.
    pub fn kind(&self) -> u16 {
        match self {
            Event::History { .. } => 1,
            Event::Begin(_) => 2,
            Event::Intent { .. } => 3,
            Event::Outcome { .. } => 4,
            Event::Verified { .. } => 5,
            Event::Seal { .. } => 6,
            Event::Anchor { .. } => 7,
        }
    }

    /// The payload, without a chain value.
    ///
    /// # Errors
    /// `Internal` when JSON cannot express it.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        match self.clone() {
            Event::History { id } => encode(&HistoryFields { version: VERSION, id }),
            Event::Begin(begin) => encode(&begin),
            Event::Intent { entry, attempt } => encode(&IntentFields { entry, attempt }),
            Event::Outcome { entry, attempts, result, request, reason } => {
                encode(&OutcomeFields { entry, attempts, result, request, reason })
            }
            Event::Verified { read, wrong } => encode(&VerifiedFields { read, wrong }),
            Event::Seal { state } => encode(&SealFields { state }),
            Event::Anchor { gaps } => encode(&AnchorFields { gaps }),
        }
    }

    /// Reads a record; `None` for a kind of a later version.
    ///
    /// # Errors
    /// `Damaged` when the payload is not what its kind says.
    pub fn parse(kind: u16, payload: &[u8]) -> Result<Option<Self>> {
        let json = crate::chain::split(payload).0;
        Ok(Some(match kind {
            1 => {
                let fields: HistoryFields = decode(json)?;
                if fields.version > VERSION {
                    let version = fields.version;
                    return Err(Error::new(
                        Kind::Damaged,
                        format!("the history has version {version}, this program reads {VERSION}"),
                    ));
                }
                Event::History { id: fields.id }
            }
            2 => Event::Begin(Box::new(decode(json)?)),
            3 => {
                let IntentFields { entry, attempt } = decode(json)?;
                Event::Intent { entry, attempt }
            }
            4 => {
                let OutcomeFields { entry, attempts, result, request, reason } = decode(json)?;
                Event::Outcome { entry, attempts, result, request, reason }
            }
            5 => {
                let VerifiedFields { read, wrong } = decode(json)?;
                Event::Verified { read, wrong }
            }
            6 => Event::Seal { state: decode::<SealFields>(json)?.state },
            7 => Event::Anchor { gaps: decode::<AnchorFields>(json)?.gaps },
            _ => return Ok(None),
        }))
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::wrap(Kind::Internal, "cannot encode a record", error))
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json)
        .map_err(|error| Error::wrap(Kind::Damaged, "a record of the history cannot be read", error))
}
