//! One Delta log: opens it, follows it, and appends to it so that of two writers of one version exactly one succeeds.
//!
//! [`DeltaLog::commit`] is the commit rule of `docs/formats/store.md`; what a commit contains and when it must be refused is the
//! caller's `plan`, which is asked again for every version it is tried at.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use weir_base::checksum::hex;
use weir_base::{Kind, Retry};

use super::action::{self, CommitInfo, Line};
use super::state::{LogState, Tombstone};
use super::{Env, checkpoint, object_error};
use crate::error::{Error, Result};

/// Versions lost to other writers before a commit gives up.
const RACES_MAX: usize = 1000;
/// Puts without an answer before a commit gives up; the store below has its own tries.
const FAILURES_MAX: usize = 3;
/// A state older than this may lie before what other writers have cleaned up, so it is checked against the last checkpoint.
const STATE_AGE_MAX: Duration = Duration::from_secs(600);
const COMMITS_IN_FLIGHT: usize = 16;
/// A file that no commit names may be part of one that is being made: it is left alone for at least this long; milliseconds.
const STRAY_AGE_MIN_MS: i64 = 24 * HOUR_MS;
/// Of the undo window, the version at each full hour is kept; milliseconds.
pub const HOUR_MS: i64 = 3_600_000;

/// What a commit is to contain, decided on a state.
pub(super) enum Planned {
    /// It has happened before: nothing to do.
    Done,
    /// These actions.
    Write(Vec<Line>),
}

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The version that holds the change, or, when it had happened before, the newest version known.
    pub version: i64,
    /// Whether an earlier attempt, of this process or the one before it, had made the commit.
    pub already: bool,
}

/// A Delta log and its newest known state.
#[derive(Debug)]
pub(super) struct DeltaLog {
    env: Arc<Env>,
    folder: String,
    state: RwLock<Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    state: Arc<LogState>,
    /// When the log was last known to have nothing newer, on the monotonic clock.
    checked: Duration,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct LastCheckpoint {
    version: i64,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<usize>,
}

impl DeltaLog {
    /// Opens the log in `folder`; a folder without one gives version -1.
    pub(super) async fn open(env: Arc<Env>, folder: &str) -> Result<Self> {
        let state = load(env.objects.as_ref(), folder, None).await?;
        Ok(Self::with_state(env, folder, state))
    }

    /// A log that is known to be empty.
    pub(super) fn create(env: Arc<Env>, folder: &str) -> Self {
        let state = LogState::empty(folder);
        Self::with_state(env, folder, state)
    }

    fn with_state(env: Arc<Env>, folder: &str, state: LogState) -> Self {
        let checked = env.clock.monotonic();
        Self { env, folder: folder.to_owned(), state: RwLock::new(Seen { state: Arc::new(state), checked }) }
    }

    pub(super) fn state(&self) -> Arc<LogState> {
        Arc::clone(&self.seen().state)
    }

    fn seen(&self) -> Seen {
        self.state.read().expect("no panic under this lock").clone()
    }

    /// Makes `state` the newest known, unless a newer one is known already.
    fn publish(&self, state: Arc<LogState>) {
        let checked = self.env.clock.monotonic();
        let mut slot = self.state.write().expect("no panic under this lock");
        if state.version >= slot.state.version {
            *slot = Seen { state, checked };
        }
    }

    /// Reads what other writers have committed since.
    pub(super) async fn refresh(&self) -> Result<Arc<LogState>> {
        let seen = self.seen();
        let mut state = seen.state;
        let age = self.env.clock.monotonic().saturating_sub(seen.checked);
        if age > STATE_AGE_MAX
            && let Some(last) = last_checkpoint(self.env.objects.as_ref(), &self.folder).await?
            && last.version > state.version
        {
            state = Arc::new(load(self.env.objects.as_ref(), &self.folder, None).await?);
        }
        while let Some(lines) = read_commit(self.env.objects.as_ref(), &self.folder, state.version + 1).await? {
            let mut next = state.as_ref().clone();
            next.apply(state.version + 1, &lines)?;
            state = Arc::new(next);
        }
        self.publish(Arc::clone(&state));
        Ok(self.state())
    }

    /// The state at an earlier version.
    ///
    /// # Errors
    /// `not found` when it does not exist or has been cleaned up.
    pub(super) async fn state_at(&self, version: i64) -> Result<LogState> {
        load(self.env.objects.as_ref(), &self.folder, Some(version)).await
    }

    /// Commits what `plan` says of a state and the commit's time in milliseconds, once, at the first free version for which it
    /// agrees. Each commit of a log is later than the one before it, whatever the clocks of its writers say.
    pub(super) async fn commit(
        &self,
        mut info: CommitInfo,
        plan: impl Fn(&LogState, i64) -> Result<Planned>,
    ) -> Result<Committed> {
        let mut id = [0; 16];
        self.env.random.fill(&mut id);
        info.weir_commit = hex(&id);
        info.engine_info = concat!("weir/", env!("CARGO_PKG_VERSION")).to_owned();
        if self.env.clock.monotonic().saturating_sub(self.seen().checked) > STATE_AGE_MAX {
            self.refresh().await?;
        }
        // The version at which our put may have succeeded though we were not told so.
        let mut uncertain: Option<i64> = None;
        let mut failures = 0;
        for race in 0..RACES_MAX {
            let base = self.state();
            if let Some(version) = uncertain.filter(|version| base.version >= *version)
                && self.is_ours(version, &info.weir_commit).await?
            {
                return Ok(Committed { version, already: false });
            }
            info.timestamp = self.env.now_ms().max(base.stamp_ms.saturating_add(1));
            let mut lines = vec![Line { commit_info: Some(info.clone()), ..Line::default() }];
            match plan(&base, info.timestamp)? {
                Planned::Done => return Ok(Committed { version: base.version, already: true }),
                Planned::Write(actions) => lines.extend(actions),
            }
            let version = base.version + 1;
            match self.put(version, action::serialise(&lines)?).await {
                Ok(()) => {
                    let mut next = base.as_ref().clone();
                    next.apply(version, &lines)?;
                    self.publish(Arc::new(next));
                    return Ok(Committed { version, already: false });
                }
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    uncertain = Some(version);
                }
                Err(error) => {
                    uncertain = Some(version);
                    failures += 1;
                    if failures >= FAILURES_MAX {
                        let what = format!("commit {version} of '{}' has no answer", self.folder);
                        return Err(object_error(what, error).with_retry(Retry::Backoff));
                    }
                }
            }
            self.back_off(race.max(failures * 4)).await;
            if let Err(error) = self.refresh().await {
                failures += 1;
                if failures >= FAILURES_MAX {
                    return Err(error);
                }
            }
        }
        let what = format!("{RACES_MAX} versions of '{}' in a row went to other writers", self.folder);
        Err(Error::new(Kind::Unavailable, what).with_retry(Retry::Backoff))
    }

    async fn put(&self, version: i64, body: Vec<u8>) -> Result<(), object_store::Error> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let path = commit_path(&self.folder, version);
        self.env.objects.put_opts(&path, PutPayload::from(body), options).await.map(|_| ())
    }

    async fn is_ours(&self, version: i64, id: &str) -> Result<bool> {
        let lines = read_commit(self.env.objects.as_ref(), &self.folder, version).await?.unwrap_or_default();
        Ok(lines.iter().any(|line| line.commit_info.as_ref().is_some_and(|info| info.weir_commit == id)))
    }

    /// Full jitter, so that racing writers part.
    async fn back_off(&self, step: usize) {
        let bound_us = 500u64 << step.min(9);
        tokio::time::sleep(Duration::from_micros(self.env.random.below(bound_us))).await;
    }

    /// Writes a checkpoint of the newest known state and removes what it makes superfluous from the log.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let state = self.state();
        let since = self.env.now_ms().saturating_sub(self.env.retention_ms()).saturating_sub(HOUR_MS);
        let lines = state.to_lines(since)?;
        let size = lines.len();
        let bytes = tokio::task::spawn_blocking(move || checkpoint::encode(&lines))
            .await
            .map_err(|error| Error::wrap(Kind::Internal, "writing a checkpoint panicked", error))??;
        let path = checkpoint_path(&self.folder, state.version);
        let put = |path: Path, bytes: Vec<u8>| async move {
            let what = format!("checkpoint '{path}' cannot be written");
            self.env.objects.put(&path, bytes.into()).await.map_err(|error| object_error(what, error))
        };
        put(path, bytes).await?;
        let last = LastCheckpoint { version: state.version, size, parts: None };
        let json = serde_json::to_vec(&last)
            .map_err(|error| Error::wrap(Kind::Internal, "a checkpoint's pointer cannot be serialised", error))?;
        put(log_path(&self.folder, "_last_checkpoint"), json).await?;
        self.clean(state.version).await
    }

    /// The last version committed until `time_ms`, as far back as the log goes.
    pub(super) async fn version_at(&self, time_ms: i64) -> Result<Option<i64>> {
        let failed = |error| object_error(format!("the log of '{}' cannot be listed", self.folder), error);
        let listed: Vec<_> =
            self.env.objects.list(Some(&log_path(&self.folder, ""))).try_collect().await.map_err(failed)?;
        let entries = listed.iter().filter_map(|meta| entry_of(&meta.location)).filter(|entry| !entry.checkpoint);
        let mut versions: Vec<i64> = entries.map(|entry| entry.version).collect();
        versions.sort_unstable();
        // Each commit is later than the one before it, so halving finds the last that is early enough.
        let (mut low, mut high) = (0, versions.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.commit_time(versions[middle]).await? {
                Some(time) if time > time_ms => high = middle,
                // One that another server cleans up just now is older than all that stay.
                _ => low = middle + 1,
            }
        }
        Ok(low.checked_sub(1).map(|last| versions[last]))
    }

    /// When a version was committed, milliseconds.
    pub(super) async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        let lines = read_commit(self.env.objects.as_ref(), &self.folder, version).await?.unwrap_or_default();
        Ok(lines.iter().find_map(|line| Some(line.commit_info.as_ref()?.timestamp)))
    }

    /// All data files that are there, of whatever version.
    pub(super) async fn data_files(&self) -> Result<Vec<object_store::ObjectMeta>> {
        let failed = |error| object_error(format!("'{}' cannot be listed", self.folder), error);
        let folder = Path::from(self.folder.as_str());
        let listed = self.env.objects.list_with_delimiter(Some(&folder)).await.map_err(failed)?;
        Ok(listed.objects.into_iter().filter(|meta| meta.location.as_ref().ends_with(".parquet")).collect())
    }

    /// Deletes data files that no kept version needs, and those never committed that are older than the retention and a day.
    pub(super) async fn vacuum(&self) -> Result<Vacuumed> {
        let state = self.refresh().await?;
        let (now_ms, window_ms) = (self.env.now_ms(), self.env.retention_ms());
        let live: HashSet<&str> = state.files.iter().map(|live| live.file.path.as_str()).collect();
        let path = |tombstone: &Tombstone| format!("{}/{}", self.folder, action::percent_decode(&tombstone.base));
        let removed: HashMap<String, bool> = state
            .tombstones
            .iter()
            .map(|tombstone| (path(tombstone), state.is_kept(tombstone, now_ms, window_ms)))
            .collect();
        let is_doomed = |meta: &object_store::ObjectMeta| match removed.get(meta.location.as_ref()) {
            _ if live.contains(meta.location.as_ref()) => false,
            Some(kept) => !kept,
            None => meta.last_modified.timestamp_millis() < now_ms.saturating_sub(window_ms.max(STRAY_AGE_MIN_MS)),
        };
        let doomed = self.data_files().await?.into_iter().filter(is_doomed).collect();
        delete_all(&self.env, &self.folder, doomed).await
    }

    /// Deletes commits and checkpoints before the newest checkpoint that is past the retention.
    async fn clean(&self, newest: i64) -> Result<()> {
        let failed = |error| object_error(format!("the log of '{}' cannot be cleaned", self.folder), error);
        let cutoff = self.env.now_ms().saturating_sub(self.env.retention_ms());
        let listed: Vec<_> =
            self.env.objects.list(Some(&log_path(&self.folder, ""))).try_collect().await.map_err(failed)?;
        let named = listed.iter().filter_map(|meta| Some((entry_of(&meta.location)?, meta)));
        let named: Vec<(Entry, &object_store::ObjectMeta)> = named.collect();
        let old = |meta: &object_store::ObjectMeta| meta.last_modified.timestamp_millis() < cutoff;
        let keep_from = named
            .iter()
            .filter(|(entry, meta)| entry.checkpoint && old(meta) && entry.version < newest)
            .map(|(entry, _)| entry.version)
            .max();
        let Some(keep_from) = keep_from else { return Ok(()) };
        let doomed = named.into_iter().filter(|(entry, _)| entry.version < keep_from);
        let doomed: Vec<_> = doomed.map(|(_, meta)| Ok(meta.location.clone())).collect();
        let deleted = self.env.objects.delete_stream(stream::iter(doomed).boxed());
        let ignore_missing = |outcome| match outcome {
            // Another server cleans the same log.
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        };
        deleted.map(ignore_missing).try_collect::<()>().await
    }
}

/// Deletes everything in a folder, its log last.
pub(super) async fn purge(env: &Env, folder: &str) -> Result<Vacuumed> {
    let failed = |error| object_error(format!("'{folder}' cannot be listed"), error);
    let listed: Vec<_> = env.objects.list(Some(&Path::from(folder))).try_collect().await.map_err(failed)?;
    let is_data = |meta: &object_store::ObjectMeta| meta.location.as_ref().ends_with(".parquet");
    let (data, log): (Vec<_>, Vec<_>) = listed.into_iter().partition(|meta| is_data(meta));
    let vacuumed = delete_all(env, folder, data).await?;
    delete_all(env, folder, log).await?;
    Ok(vacuumed)
}

async fn delete_all(env: &Env, folder: &str, doomed: Vec<object_store::ObjectMeta>) -> Result<Vacuumed> {
    let vacuumed = Vacuumed { files: doomed.len(), bytes: doomed.iter().map(|meta| meta.size).sum() };
    let paths = stream::iter(doomed.into_iter().map(|meta| Ok(meta.location)).collect::<Vec<_>>());
    let mut deleted = env.objects.delete_stream(paths.boxed());
    while let Some(outcome) = deleted.next().await {
        match outcome {
            // Another server's vacuum was faster.
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(object_error(format!("'{folder}' cannot be vacuumed"), error)),
        }
    }
    Ok(vacuumed)
}

/// What a vacuum deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

pub(super) fn log_path(folder: &str, name: &str) -> Path {
    // Folders of other programs have names with more letters than are escaped in them; Weir's own have none such.
    let folder = Path::parse(folder).unwrap_or_else(|_| Path::from(folder));
    let log = folder.join("_delta_log");
    if name.is_empty() { log } else { log.join(name) }
}

fn commit_path(folder: &str, version: i64) -> Path {
    log_path(folder, &format!("{version:020}.json"))
}

fn checkpoint_path(folder: &str, version: i64) -> Path {
    log_path(folder, &format!("{version:020}.checkpoint.parquet"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    version: i64,
    checkpoint: bool,
    /// Number and count of a part of a checkpoint in several files.
    part: Option<(usize, usize)>,
}

/// What a file of a log is by its name; `None` for what is neither commit nor classic checkpoint.
fn entry_of(path: &Path) -> Option<Entry> {
    let (version, rest) = path.filename()?.split_once('.')?;
    let version = (version.len() == 20).then(|| version.parse().ok())??;
    match rest.split('.').collect::<Vec<_>>()[..] {
        ["json"] => Some(Entry { version, checkpoint: false, part: None }),
        ["checkpoint", "parquet"] => Some(Entry { version, checkpoint: true, part: None }),
        ["checkpoint", part, parts, "parquet"] => {
            Some(Entry { version, checkpoint: true, part: Some((part.parse().ok()?, parts.parse().ok()?)) })
        }
        _ => None,
    }
}

async fn get(objects: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>> {
    let failed = |error| object_error(format!("'{path}' cannot be read"), error);
    match objects.get(path).await {
        Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

async fn read_commit(objects: &dyn ObjectStore, folder: &str, version: i64) -> Result<Option<Vec<Line>>> {
    let path = commit_path(folder, version);
    match get(objects, &path).await? {
        Some(bytes) => Ok(Some(action::parse(&bytes, &format!("'{path}'"))?)),
        None => Ok(None),
    }
}

async fn last_checkpoint(objects: &dyn ObjectStore, folder: &str) -> Result<Option<LastCheckpoint>> {
    let bytes = get(objects, &log_path(folder, "_last_checkpoint")).await?;
    // Only a hint: one that cannot be read is as good as none.
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// What the lines of a log come to, version by version.
pub(super) trait Follows {
    /// Up to where it has followed; -1 before the first.
    fn version(&self) -> i64;

    /// Takes the lines of a commit, or of a checkpoint, of a version.
    fn apply(&mut self, version: i64, lines: &[Line]) -> Result<()>;
}

impl Follows for LogState {
    fn version(&self) -> i64 {
        self.version
    }

    fn apply(&mut self, version: i64, lines: &[Line]) -> Result<()> {
        Self::apply(self, version, lines)
    }
}

/// Reads the state at `at`, or the newest.
async fn load(objects: &dyn ObjectStore, folder: &str, at: Option<i64>) -> Result<LogState> {
    let mut state = LogState::empty(folder);
    replay(objects, folder, at, &mut state).await?;
    Ok(state)
}

/// Brings an empty `state` to what a log says at `at`, or at its end.
pub(super) async fn replay(
    objects: &dyn ObjectStore,
    folder: &str,
    at: Option<i64>,
    state: &mut impl Follows,
) -> Result<()> {
    let failed = |error| object_error(format!("the log of '{folder}' cannot be listed"), error);
    let hint =
        last_checkpoint(objects, folder).await?.map(|last| last.version).filter(|hint| at.is_none_or(|at| *hint <= at));
    let prefix = log_path(folder, "");
    let mut entries = Vec::new();
    for from in [hint, None] {
        let listed = match from {
            Some(version) => objects.list_with_offset(Some(&prefix), &log_path(folder, &format!("{version:020}"))),
            None => objects.list(Some(&prefix)),
        };
        let metas: Vec<_> = listed.try_collect().await.map_err(failed)?;
        entries = metas.iter().filter_map(|meta| entry_of(&meta.location)).collect::<Vec<_>>();
        if from.is_none_or(|version| entries.iter().any(|entry| entry.checkpoint && entry.version == version)) {
            break;
        }
    }
    entries.retain(|entry| at.is_none_or(|at| entry.version <= at));
    if let Some((version, parts)) = newest_checkpoint(&entries) {
        let mut all = Vec::new();
        for path in parts.map_or_else(
            || vec![checkpoint_path(folder, version)],
            |parts| {
                let name = |part| format!("{version:020}.checkpoint.{part:010}.{parts:010}.parquet");
                (1..=parts).map(|part| log_path(folder, &name(part))).collect()
            },
        ) {
            let missing = || Error::new(Kind::Damaged, format!("'{path}' has gone"));
            let bytes = get(objects, &path).await?.ok_or_else(missing)?;
            let what = format!("'{path}'");
            let lines = tokio::task::spawn_blocking(move || checkpoint::decode(bytes, &what))
                .await
                .map_err(|error| Error::wrap(Kind::Internal, "reading a checkpoint panicked", error))??;
            all.extend(lines);
        }
        state.apply(version, &all)?;
    }
    let gone = |at| Error::new(Kind::NotFound, format!("version {at} of '{folder}' is not there (any more)"));
    if let Some(at) = at.filter(|_| state.version() < 0)
        && entries.iter().map(|entry| entry.version).min().is_some_and(|oldest| oldest > 0)
    {
        // What is left of a log that is being cleaned up.
        return Err(gone(at));
    }
    follow(objects, folder, state, &entries).await?;
    match at {
        Some(at) if state.version() != at => Err(gone(at)),
        _ => Ok(()),
    }
}

/// The newest checkpoint of which all parts are there, with their number.
fn newest_checkpoint(entries: &[Entry]) -> Option<(i64, Option<usize>)> {
    let complete = |entry: &&Entry| match entry.part {
        None => true,
        Some((_, parts)) => {
            let same = |other: &&Entry| {
                other.version == entry.version && other.part.is_some_and(|(_, others)| others == parts)
            };
            entries.iter().filter(same).count() == parts
        }
    };
    let checkpoints = entries.iter().filter(|entry| entry.checkpoint).filter(complete);
    checkpoints.map(|entry| (entry.version, entry.part.map(|(_, parts)| parts))).max_by_key(|(version, _)| *version)
}

/// Applies the commits after `state` that `entries` names.
async fn follow(objects: &dyn ObjectStore, folder: &str, state: &mut impl Follows, entries: &[Entry]) -> Result<()> {
    let mut versions: Vec<i64> = entries
        .iter()
        .filter(|entry| !entry.checkpoint && entry.version > state.version())
        .map(|entry| entry.version)
        .collect();
    versions.sort_unstable();
    if let Some(gap) = versions.iter().zip(state.version() + 1..).find(|(found, wanted)| **found != *wanted) {
        return Err(Error::new(Kind::Damaged, format!("commit {} of '{folder}' is missing", gap.1)));
    }
    let read = |version| async move {
        let missing = || Error::new(Kind::Damaged, format!("commit {version} of '{folder}' has gone"));
        Ok::<_, Error>((version, read_commit(objects, folder, version).await?.ok_or_else(missing)?))
    };
    let mut commits = stream::iter(versions).map(read).buffered(COMMITS_IN_FLIGHT);
    while let Some((version, lines)) = commits.try_next().await? {
        state.apply(version, &lines)?;
    }
    Ok(())
}
