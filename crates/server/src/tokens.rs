//! Tokens: who may read and write what, over TCP.
//!
//! [`TokenFile`] is the list on the disk; `Tokens` is what a running server knows of it. A secret of 256 random bits is stored as an
//! argon2id hash only. It names the entry that it belongs to, so that a request costs at most one such hash, whatever the list holds;
//! after the first time it is recognised by a keyed BLAKE3 digest in memory, of which there is at most one for each token.
//!
//! A server that has seen a list never forgets that there was one: when the file cannot be read any more, or is gone, the last
//! list stays in force.

mod file;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weir_base::{Kind, Random};

use crate::database::{Component, State};
use crate::error::{Error, Result};
use crate::guard::Caller;
use crate::status::Problem;

pub use file::{FILE, NewToken, Token, TokenFile};

/// How often a running server looks whether the list has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A hash takes tens of milliseconds and 19 MiB: one at a time, and others wait this long for their turn.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Queries.
    pub read: bool,
    /// Writes, changes of tables, upkeep.
    pub write: bool,
    /// In these databases; `None` for all, and for what belongs to no database.
    pub databases: Option<Arc<[String]>>,
}

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See rows, names or numbers.
    Read,
    /// Add, change, remove or rearrange rows.
    Write,
}

impl Grant {
    /// Whoever holds the data folder, and everybody while there are no tokens.
    pub fn everything() -> Self {
        Self { read: true, write: true, databases: None }
    }

    /// Checks a right, in whichever database.
    ///
    /// # Errors
    /// `forbidden` when it is missing.
    pub fn check_right(&self, right: Right) -> Result<()> {
        let (held, verb) = match right {
            Right::Read => (self.read, "read"),
            Right::Write => (self.write, "write"),
        };
        if held { Ok(()) } else { Err(forbidden(format!("this token may not {verb}"))) }
    }

    /// Checks that a database is within the scope.
    ///
    /// # Errors
    /// `forbidden` when it is not.
    pub fn check_database(&self, database: &str) -> Result<()> {
        if self.holds(database) {
            return Ok(());
        }
        Err(forbidden(format!("this token is not for database '{database}'")))
    }

    /// Checks a right in one database.
    ///
    /// # Errors
    /// `forbidden` when either is missing.
    pub fn check(&self, right: Right, database: &str) -> Result<()> {
        self.check_right(right)?;
        self.check_database(database)
    }

    /// Checks a right over what belongs to no database, or to all.
    ///
    /// # Errors
    /// `forbidden` for a token of some databases only.
    pub fn check_everywhere(&self, right: Right) -> Result<()> {
        self.check_right(right)?;
        match self.databases {
            None => Ok(()),
            Some(_) => Err(forbidden("this token is for some databases only, and this is about all".to_owned())),
        }
    }

    /// Whether a database is within the scope.
    pub fn holds(&self, database: &str) -> bool {
        self.databases.as_ref().is_none_or(|names| names.iter().any(|name| name == database))
    }
}

fn forbidden(message: String) -> Error {
    Error::new(Kind::Forbidden, message)
}

/// The list as a running server knows it.
#[derive(Debug)]
pub(crate) struct Tokens {
    file: Option<TokenFile>,
    /// Of this process: digests in memory mean nothing elsewhere.
    key: [u8; 32],
    seen: RwLock<Seen>,
    turn: Semaphore,
}

#[derive(Debug)]
struct Seen {
    known: Known,
    /// Of the file that was read last.
    digest: Option<blake3::Hash>,
    /// Why the list in force is not the one on the disk.
    trouble: Option<String>,
}

#[derive(Debug, Clone)]
enum Known {
    /// The file was not looked at yet: nobody is let in.
    Nothing,
    /// There are no tokens: everybody is let in.
    NoFile,
    /// Those of the file, by their ids.
    List(Arc<HashMap<String, Arc<Entry>>>),
}

#[derive(Debug)]
struct Entry {
    token: Token,
    /// The digest of its secret, once it was presented.
    verified: OnceLock<blake3::Hash>,
}

impl Tokens {
    /// Of a file; without one there are no tokens.
    pub(crate) fn new(file: Option<TokenFile>, random: &dyn Random) -> Self {
        let mut key = [0; 32];
        random.fill(&mut key);
        let known = if file.is_some() { Known::Nothing } else { Known::NoFile };
        let seen = RwLock::new(Seen { known, digest: None, trouble: None });
        Self { file, key, seen, turn: Semaphore::new(1) }
    }

    /// Whether requests need a token.
    pub(crate) fn needed(&self) -> bool {
        !matches!(self.known(), Known::NoFile)
    }

    fn known(&self) -> Known {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).known.clone()
    }

    /// Reads the file, if it changed. Blocks.
    ///
    /// # Errors
    /// When it cannot be read or understood; the last list stays in force.
    pub(crate) fn look(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let read = file.read_bytes();
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let digest = match &read {
            Ok(Some(bytes)) => Some(blake3::hash(bytes)),
            _ => None,
        };
        if digest.is_some() && digest == seen.digest && seen.trouble.is_none() {
            return Ok(());
        }
        let list = read.and_then(|bytes| bytes.map(|bytes| file.parse(&bytes)).transpose());
        match list {
            Ok(Some(list)) => {
                let known = merged(&seen.known, list);
                tracing::info!(tokens = known.len(), "read the list of tokens");
                *seen = Seen { known: Known::List(Arc::new(known)), digest, trouble: None };
                Ok(())
            }
            Ok(None) if !matches!(seen.known, Known::List(_)) => {
                seen.known = Known::NoFile;
                Ok(())
            }
            Ok(None) => {
                let gone = "the file of tokens is gone; those that were in it stay in force until the next start";
                seen.warn(gone.to_owned());
                Ok(())
            }
            Err(error) => {
                if error.kind() == Kind::Damaged && matches!(seen.known, Known::NoFile) {
                    // Somebody wanted tokens: who they are for is not known, so nobody is let in.
                    seen.known = Known::Nothing;
                }
                seen.warn(format!("{}; the last list stays in force", weir_base::error::chain(&error)));
                Err(error)
            }
        }
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while self.file.is_some() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let tokens = Arc::clone(&self);
            // What went wrong is told by the component and, once, in the log.
            let _ = tokio::task::spawn_blocking(move || tokens.look()).await;
        }
    }

    /// Who presents `secret`.
    ///
    /// # Errors
    /// 401 without a token that is known, 503 when it cannot be checked now.
    pub(crate) async fn caller(&self, secret: Option<&str>) -> Result<Caller, Problem> {
        let list = match self.known() {
            Known::NoFile => return Ok(Caller::owner()),
            Known::Nothing => return Err(Problem::busy("the list of tokens was not read yet")),
            Known::List(list) => list,
        };
        let secret = secret.ok_or_else(|| Problem::unauthorized("this server needs a token"))?;
        let unknown = || Problem::unauthorized("the token is not known");
        let entry = file::id_of(secret).and_then(|id| list.get(id)).ok_or_else(unknown)?;
        if self.holds(entry, secret).await? { Ok(Caller::of(&entry.token)) } else { Err(unknown()) }
    }

    async fn holds(&self, entry: &Arc<Entry>, secret: &str) -> Result<bool, Problem> {
        let digest = blake3::keyed_hash(&self.key, secret.as_bytes());
        // There is one right secret: once it was seen, any other is wrong. The comparison takes the same time for all.
        if let Some(verified) = entry.verified.get() {
            return Ok(*verified == digest);
        }
        let _turn = tokio::time::timeout(TURN_WAIT, self.turn.acquire())
            .await
            .map_err(|_| Problem::busy("too many tokens are being checked"))?
            .map_err(|_| Problem::busy("the server is stopping"))?;
        if let Some(verified) = entry.verified.get() {
            return Ok(*verified == digest);
        }
        let (checked, presented) = (Arc::clone(entry), secret.to_owned());
        let right = tokio::task::spawn_blocking(move || checked.token.verifies(&presented))
            .await
            .map_err(|_| Problem::bug("the token could not be checked"))?;
        if right {
            let _ = entry.verified.set(digest);
        }
        Ok(right)
    }

    /// For `/health`; none while there are no tokens.
    pub(crate) fn component(&self) -> Option<Component> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        if matches!(seen.known, Known::NoFile) {
            return None;
        }
        let state = if seen.trouble.is_some() { State::Warning } else { State::Ok };
        Some(Component { name: "tokens", state, reason: seen.trouble.clone(), blocks_writes: false })
    }
}

impl Seen {
    fn warn(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
            self.trouble = Some(trouble);
        }
    }
}

/// A new list, with the digests of tokens that are as they were.
fn merged(before: &Known, list: Vec<Token>) -> HashMap<String, Arc<Entry>> {
    let kept = |token: &Token| match before {
        Known::List(entries) => entries.get(token.id()).filter(|entry| entry.token == *token).cloned(),
        _ => None,
    };
    list.into_iter()
        .map(|token| {
            let id = token.id().to_owned();
            let entry = kept(&token).unwrap_or_else(|| Arc::new(Entry { token, verified: OnceLock::new() }));
            (id, entry)
        })
        .collect()
}
