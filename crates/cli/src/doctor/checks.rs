//! The checks: each looks at one thing and says what it found. None changes anything or takes the writer's lock.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::Request;
use serde_json::Value;
use weir_base::{ByteSize, Clock, Kind, OsFileSystem, OsRandom, SystemClock};
use weir_engine::store::{Store, StoreOptions};
use weir_server::tokens::{FILE, TokenFile};

use super::machine;
use crate::client::{self, Client, Transport};
use crate::config::{self, Config};
use crate::folder::Open;
use crate::session::socket_of;
use crate::terminal::Terminal;

const STORE_DEADLINE: Duration = Duration::from_secs(35);
const SERVER_DEADLINE: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 1 << 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Good,
    Warning,
    Wrong,
    Damaged,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
            Self::Damaged => "damaged",
        }
    }
}

/// What a check found.
#[derive(Debug)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: String,
    /// How bad it is.
    pub(super) verdict: Verdict,
    /// What was seen.
    pub(super) detail: String,
    /// What to do.
    pub(super) advice: Option<String>,
}

pub(super) fn found(check: &str, verdict: Verdict, detail: impl Into<String>, advice: Option<&str>) -> Finding {
    Finding { check: check.to_owned(), verdict, detail: detail.into(), advice: advice.map(str::to_owned) }
}

pub(super) fn good(check: &str, detail: impl Into<String>) -> Finding {
    found(check, Verdict::Good, detail, None)
}

/// All checks of a data folder; those of its server too, when one holds it.
pub(super) async fn folder(data: &Path, open: &Open, terminal: &Terminal) -> Vec<Finding> {
    let mut findings = vec![machine::clock(SystemClock::default().now(), machine::newest(data))];
    let config = match Config::load(data, open, terminal) {
        Ok(config) => config,
        Err(error) => {
            findings.push(found(
                "settings",
                Verdict::Wrong,
                format!("{error:#}"),
                Some("mend or remove the file; `weir config` prints all settings"),
            ));
            return findings;
        }
    };
    findings.push(good("settings", "read"));
    let holder = weir_base::lock::holder(&data.join("lock"));
    findings.push(machine::open_files(pid_of(&holder), &config));
    if !data.is_dir() {
        let detail = format!("{} does not exist", data.display());
        findings.push(found("folder", Verdict::Warning, detail, Some("`weir write` or `weir serve` makes it")));
        return findings;
    }
    findings.push(permissions(data));
    findings.extend(secrets(data, &config));
    findings.push(tokens(data, &config));
    findings.push(machine::room(data, config.engine.wal_bytes_max.bytes()));
    findings.push(memory(&config));
    let mut served = false;
    if holder.is_empty() {
        findings.push(good("holder", "nobody has the folder open"));
    } else {
        served = socket_of(data).exists();
        findings.push(good("holder", format!("open in {holder}")));
    }
    if served {
        findings.extend(server(&mut Client::new(Transport::Unix(socket_of(data)))).await);
    }
    findings.push(log(data));
    if !served {
        findings.push(store(&config).await);
    }
    findings
}

/// What a running server says of itself.
pub(super) async fn server(client: &mut Client) -> Vec<Finding> {
    let peer = client.peer();
    let unreachable = |error: anyhow::Error| {
        let advice = "a server that holds the folder should answer; look at its log, or end it and start it again";
        vec![found("server", Verdict::Wrong, format!("{error:#}"), Some(advice))]
    };
    let Ok(request) = Request::get("/health").body(Body::empty()) else { return Vec::new() };
    let body = match client.send(request, SERVER_DEADLINE).await {
        Ok(answer) => client::collect(answer.into_body(), BODY_BYTES_MAX).await,
        Err(error) => return unreachable(error),
    };
    let told: Value = match body.map(|body| serde_json::from_slice(&body)) {
        Ok(Ok(told)) => told,
        Ok(Err(_)) => return unreachable(anyhow::anyhow!("{peer} does not answer /health as Weir does")),
        Err(error) => return unreachable(error),
    };
    let mut findings =
        vec![good("server", format!("{peer} answers, version {}", told["version"].as_str().unwrap_or("unknown")))];
    for part in told["components"].as_array().into_iter().flatten() {
        let text = |key: &str| part[key].as_str().unwrap_or_default();
        let verdict = match text("state") {
            "ok" => Verdict::Good,
            "warning" => Verdict::Warning,
            _ => Verdict::Wrong,
        };
        let detail = match part["reason"].as_str() {
            Some(reason) => format!("{reason} (since {})", text("since")),
            None => "works".to_owned(),
        };
        findings.push(found(&format!("server: {}", text("component")), verdict, detail, None));
    }
    findings
}

/// Owner-only, and writable: looked up, not tried.
fn permissions(data: &Path) -> Finding {
    let mode = match std::fs::metadata(data) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) => {
            return found("folder", Verdict::Wrong, format!("cannot look at {}: {error}", data.display()), None);
        }
    };
    if let Err(errno) = rustix::fs::access(data, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        let detail = format!("{} cannot be written by this user: {errno}", data.display());
        return found(
            "folder",
            Verdict::Wrong,
            detail,
            Some("run as its owner, or mend its owner and mode; a read-only disk shows here too"),
        );
    }
    if mode & 0o077 != 0 {
        let detail = format!("{} has mode {mode:o}: others on this machine can reach in", data.display());
        return found("folder", Verdict::Warning, detail, Some("chmod 700, unless that is meant"));
    }
    good("folder", format!("{} is ours, mode {mode:o}", data.display()))
}

/// The process in a lock's words, `weir serve (pid 4711)`.
fn pid_of(holder: &str) -> Option<u32> {
    holder.rsplit_once("(pid ")?.1.strip_suffix(')')?.parse().ok()
}

/// Files that hold secrets, or what guards them, and that others can read.
fn secrets(data: &Path, config: &Config) -> Vec<Finding> {
    let mut places = vec![data.join(FILE)];
    if !config.engine.store_options.is_empty() {
        places.push(data.join(config::FILE));
    }
    places.extend(config.server.tls.iter().map(|files| files.key.clone()));
    let mut findings = Vec::new();
    for path in places {
        let Ok(found_at) = std::fs::metadata(&path) else { continue };
        let mode = found_at.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let detail = format!("{} has mode {mode:o}: others on this machine may read it", path.display());
            let advice = format!("chmod 600 {}; if they could reach it, make its secrets anew", path.display());
            findings.push(found("secrets", Verdict::Warning, detail, Some(&advice)));
        }
    }
    findings
}

/// Whether whoever reaches the server needs a token, as its settings say where it listens.
fn tokens(data: &Path, config: &Config) -> Finding {
    let local = config.server.http.is_none_or(|address| address.ip().is_loopback());
    match TokenFile::new(Arc::new(OsFileSystem), data).list() {
        Err(error) => {
            let advice = "take the file from a backup, or remove it and make new tokens (`weir token create`)";
            found("tokens", Verdict::Wrong, weir_base::error::chain(&error), Some(advice))
        }
        Ok(None) if !local => found(
            "tokens",
            Verdict::Warning,
            "there are none, and server.http is an address that others can reach",
            Some("`weir token create` makes the first; from then on every request over TCP needs one"),
        ),
        Ok(None) => good("tokens", "there are none; the server listens for this machine only"),
        Ok(Some(listed)) if listed.is_empty() => found(
            "tokens",
            Verdict::Warning,
            "all are revoked: nobody gets in over TCP",
            Some("`weir token create` makes one; without the file (then start again) none are needed"),
        ),
        Ok(Some(listed)) => good("tokens", format!("{} of them", listed.len())),
    }
}

/// The buffer and the queries must fit into the memory that there is.
fn memory(config: &Config) -> Finding {
    let machine = weir_engine::config::memory_of_machine();
    let wanted = config.engine.buffer_bytes_max.bytes().saturating_add(config.query.query_memory_bytes_max.bytes());
    let detail = format!(
        "buffer {} and queries {} of {}",
        config.engine.buffer_bytes_max,
        config.query.query_memory_bytes_max,
        ByteSize::new(machine)
    );
    if wanted > machine {
        let advice = "lower engine.buffer_bytes_max or query.query_memory_bytes_max: the system would end the process";
        return found("memory", Verdict::Wrong, detail, Some(advice));
    }
    good("memory", detail)
}

/// Reads every record of the write-ahead log, beside a running server too.
fn log(data: &Path) -> Finding {
    let env = weir_journal::Env { fs: Arc::new(OsFileSystem), clock: Arc::new(SystemClock::default()) };
    let folder = data.join("wal");
    let reader = match weir_journal::Reader::open(env, &folder) {
        Ok(reader) => reader,
        Err(error) if error.kind() == Kind::NotFound => return good("log", "there is none yet"),
        Err(error) => return damage(&folder, 0, None, &error),
    };
    let first = reader.first_sequence();
    let mut records = reader.records_from(first);
    let (mut count, mut last) = (0_u64, None);
    loop {
        match records.next_ref() {
            Ok(Some(record)) => {
                count += 1;
                last = Some(record.sequence);
            }
            Ok(None) => return good("log", format!("all {count} records in {} can be read", folder.display())),
            Err(error) => return damage(&folder, count, last, &error),
        }
    }
}

fn damage(folder: &Path, count: u64, last: Option<u64>, error: &weir_journal::Error) -> Finding {
    let verdict = if error.kind() == Kind::Damaged { Verdict::Damaged } else { Verdict::Wrong };
    let before = match last {
        Some(last) => format!("The {count} records before it, up to sequence {last}, can be read and saved."),
        None => "Nothing before it can be saved.".to_owned(),
    };
    let advice = format!(
        "{before} What is in the tables is not touched by this.\n\
         Copy {0} away first. If the disk gave wrong bytes, a copy or backup of the named file mends it.\n\
         Else `weir journal repair {0}` keeps every record but the damaged ones, says which are lost, and puts the bad\n\
         bytes into {0}/quarantine; then start again. The senders may have what is lost still: sending twice is safe.",
        folder.display()
    );
    Finding { check: "log".to_owned(), verdict, detail: weir_base::error::chain(error), advice: Some(advice) }
}

/// Opens the catalog of the tables, within a deadline.
async fn store(config: &Config) -> Finding {
    let (location, shared) = match &config.engine.store {
        Some(location) => (location.clone(), true),
        None => (config.engine.data.join("tables").display().to_string(), false),
    };
    if !shared && !Path::new(&location).exists() {
        return good("store", "there are no tables yet");
    }
    if Path::new(&location).is_dir()
        && let Err(errno) = rustix::fs::access(&location, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
    {
        let detail = format!("{location} cannot be written by this user: {errno}");
        return found("store", Verdict::Wrong, detail, Some("run as its owner, or mend its owner and mode"));
    }
    let options = StoreOptions {
        shared,
        provider: config.engine.store_options.iter().cloned().collect(),
        ..StoreOptions::default()
    };
    let env = weir_engine::store::StoreEnv {
        fs: Arc::new(OsFileSystem),
        clock: Arc::new(SystemClock::default()),
        random: Arc::new(OsRandom),
    };
    let look = async {
        let store = Store::open(&location, &options, env).await?;
        let databases: std::collections::BTreeSet<String> =
            store.tables().into_iter().map(|table| table.database).collect();
        Ok::<usize, weir_engine::Error>(databases.len())
    };
    let advice =
        "rows stay in the log until it answers; check the address, the credentials and [store] in the settings";
    match tokio::time::timeout(STORE_DEADLINE, look).await {
        Ok(Ok(databases)) => good("store", format!("{location} answers; {databases} databases")),
        Ok(Err(error)) => {
            let verdict = if error.kind() == Kind::Damaged { Verdict::Damaged } else { Verdict::Wrong };
            found("store", verdict, format!("{location}: {}", weir_base::error::chain(&error)), Some(advice))
        }
        Err(_) => {
            found("store", Verdict::Wrong, format!("{location} did not answer in {STORE_DEADLINE:?}"), Some(advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_s_process_is_found_in_its_words() {
        assert_eq!(pid_of("weir serve (pid 4711)"), Some(4711));
        for other in ["", "weir serve", "weir (pid x)"] {
            assert_eq!(pid_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_that_others_can_reach_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let set = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o755);
        assert_eq!(permissions(folder.path()).verdict, Verdict::Warning);
        set(0o700);
        assert_eq!(permissions(folder.path()).verdict, Verdict::Good);
        assert_eq!(permissions(&folder.path().join("missing")).verdict, Verdict::Wrong);
    }
}
