//! Settings: the file as written (raw) becomes checked limits with units in their types, once, here.
//!
//! `default.toml` is the documentation and, by a test, exactly the defaults of the code.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use weir_base::ByteSize;
use weir_server::{Retention, TlsFiles};

use crate::folder::Open;
use crate::logging::LogFormat;
use crate::terminal::Terminal;

/// The commented defaults.
pub(crate) const DEFAULT: &str = include_str!("config/default.toml");
/// The file that is read by itself, in the data folder.
pub(crate) const FILE: &str = "weir.toml";

/// All settings, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The engine and its folder.
    pub(crate) engine: weir_engine::config::Config,
    /// The SQL side.
    pub(crate) query: weir_query::Settings,
    /// The HTTP side.
    pub(crate) server: weir_server::Config,
    /// Bulk operations.
    pub(crate) operations: Operations,
    /// How long rows are kept; those that are not named are kept for ever.
    pub(crate) retention: Vec<Retention>,
    /// How often what is past its age is deleted.
    pub(crate) retention_every: Duration,
    /// How often rollups are brought up to date.
    pub(crate) rollups_every: Duration,
    /// Form of the log.
    pub(crate) log: LogFormat,
    /// Level or filter of the log.
    pub(crate) log_level: String,
    /// How long an orderly stop may flush.
    pub(crate) close_timeout: Duration,
}

/// Settings of `weir ops` and `weir access`.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    /// Entries that no plan may touch.
    pub(crate) protected: Vec<weir_ops::Filter>,
    /// Memory of a listing.
    pub(crate) memory_bytes_max: ByteSize,
    /// How long finished operations are kept.
    pub(crate) keep: Duration,
    /// Whether records are chained.
    pub(crate) chain: bool,
}

type Unknown = BTreeMap<String, toml::Value>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    server: RawServer,
    limits: RawLimits,
    engine: RawEngine,
    query: RawQuery,
    operations: RawOperations,
    retention: BTreeMap<String, String>,
    store: BTreeMap<String, toml::Value>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawServer {
    http: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    log: Option<LogFormat>,
    log_level: Option<String>,
    stop_timeout_s: Option<u64>,
    close_timeout_s: Option<u64>,
    name: Option<String>,
    own_metrics_every_s: Option<u64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawLimits {
    connections_max: Option<usize>,
    tls_handshake_timeout_s: Option<u64>,
    header_timeout_s: Option<u64>,
    body_idle_timeout_s: Option<u64>,
    body_timeout_s: Option<u64>,
    body_bytes_max: Option<ByteSize>,
    text_bytes_max: Option<ByteSize>,
    text_bytes_total_max: Option<ByteSize>,
    ratio_max: Option<u32>,
    writes_max: Option<usize>,
    write_wait_s: Option<u64>,
    commit_timeout_s: Option<u64>,
    parse_threads: Option<usize>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawEngine {
    store: Option<String>,
    store_connect_timeout_ms: Option<u64>,
    store_request_timeout_ms: Option<u64>,
    store_transfer_timeout_ms: Option<u64>,
    store_tries: Option<usize>,
    store_retry_budget: Option<u32>,
    store_breaker_failures: Option<u32>,
    store_breaker_open_ms: Option<u64>,
    buffer_bytes_max: Option<ByteSize>,
    flush_bytes: Option<ByteSize>,
    flush_bytes_min: Option<ByteSize>,
    flush_age_s: Option<u64>,
    flush_age_max_s: Option<u64>,
    wal_flush_bytes: Option<ByteSize>,
    wal_bytes_max: Option<ByteSize>,
    series_max: Option<u64>,
    tables_max: Option<usize>,
    columns_max: Option<usize>,
    line_bytes_max: Option<ByteSize>,
    schema_wait_ms: Option<u64>,
    flush_backoff_ms: Option<u64>,
    flush_backoff_max_ms: Option<u64>,
    compact_files: Option<usize>,
    compact_rows: Option<usize>,
    compact_bytes_max: Option<ByteSize>,
    compact_bytes_per_s: Option<ByteSize>,
    undo_window_s: Option<u64>,
    vacuum_every_s: Option<u64>,
    retention_every_s: Option<u64>,
    rollups_every_s: Option<u64>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawQuery {
    query_threads: Option<usize>,
    query_memory_bytes_max: Option<ByteSize>,
    query_each_memory_bytes_max: Option<ByteSize>,
    query_spill_bytes_max: Option<ByteSize>,
    query_running_max: Option<usize>,
    query_waiting_max: Option<usize>,
    query_wait_s: Option<u64>,
    query_deadline_s: Option<u64>,
    query_slow_ms: Option<u64>,
    query_footer_bytes_max: Option<ByteSize>,
    query_column_bytes_max: Option<ByteSize>,
    query_gapfill_rows_max: Option<u64>,
    query_rollups: Option<bool>,
    query_external_locations: Option<Vec<PathBuf>>,
    query_external_files_max: Option<usize>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawOperations {
    protected: Option<Vec<String>>,
    memory_bytes_max: Option<ByteSize>,
    keep_days: Option<u64>,
    chain: Option<bool>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// What can be zero by mistake: no setting means "choose for me".
trait Positive: Copy {
    fn is_zero(self) -> bool;
}

macro_rules! positive {
    ($($kind:ty => $zero:expr),*) => { $(impl Positive for $kind {
        fn is_zero(self) -> bool {
            self == $zero
        }
    })* };
}

positive!(u64 => 0, u32 => 0, usize => 0, ByteSize => ByteSize::new(0));

/// Sets `place` when the file says something, which must not be zero.
fn set<R: Positive, T>(place: &mut T, name: &str, raw: Option<R>, unit: impl FnOnce(R) -> T) -> Result<()> {
    match raw {
        Some(raw) if raw.is_zero() => bail!("setting {name} is 0; leave it out for the default"),
        Some(raw) => *place = unit(raw),
        None => {}
    }
    Ok(())
}

impl Config {
    /// The settings for the folder `data`: those of `open.config`, else of `data/weir.toml`, else the defaults; flags win.
    ///
    /// # Errors
    /// When the file cannot be read or a value in it makes no sense, naming it. Unknown settings only warn.
    pub(crate) fn load(data: &Path, open: &Open, terminal: &Terminal) -> Result<Self> {
        let (text, origin) = read(data, open.config.as_ref())?;
        let (mut config, unknown) = Self::parse(&text, data).with_context(|| format!("in {}", origin.display()))?;
        for name in unknown {
            terminal.warn(format!("{}: setting {name} is not known and has no effect", origin.display()));
        }
        if let Some(store) = &open.store {
            config.engine.store = Some(store.clone());
        }
        config.engine.store_options.splice(..0, store_environment());
        Ok(config)
    }

    /// The settings in `text`, and the names in it that mean nothing.
    fn parse(text: &str, data: &Path) -> Result<(Self, Vec<String>)> {
        let raw: Raw = toml::from_str(text)?;
        let mut config = Self {
            engine: weir_engine::config::Config::new(data),
            query: weir_query::Settings {
                query_spill_dir: Some(data.join("spill")),
                ..weir_query::Settings::new(weir_engine::config::memory_of_machine(), weir_base::machine::cores())
            },
            server: weir_server::Config::default(),
            operations: Operations {
                protected: Vec::new(),
                memory_bytes_max: ByteSize::new(weir_ops::view::MEMORY_BYTES_MAX),
                keep: Duration::from_secs(90 * 86_400),
                chain: raw.operations.chain.unwrap_or(false),
            },
            retention: retentions(&raw.retention)?,
            retention_every: Duration::from_secs(3600),
            rollups_every: Duration::from_secs(60),
            log: raw.server.log.unwrap_or(LogFormat::Text),
            log_level: raw.server.log_level.clone().unwrap_or_else(|| "info".to_owned()),
            close_timeout: Duration::from_secs(300),
        };
        let unknown = unknown(&raw);
        config.set_server(&raw.server)?;
        config.set_limits(&raw.limits)?;
        config.set_query(&raw.query)?;
        config.set_operations(&raw.operations)?;
        config.set_engine(&raw.engine, raw.store)?;
        Ok((config, unknown))
    }

    fn set_server(&mut self, raw: &RawServer) -> Result<()> {
        if let Some(http) = &raw.http {
            self.server.http = Some(address(http).context("setting server.http")?);
        }
        self.server.tls =
            tls(raw.tls_cert.as_ref(), raw.tls_key.as_ref(), "settings server.tls_cert and server.tls_key")?;
        if let Some(name) = &raw.name {
            anyhow::ensure!(!name.is_empty(), "setting server.name is empty; leave it out for the machine's name");
            self.server.name.clone_from(name);
        }
        let every = raw.own_metrics_every_s;
        set(&mut self.server.own_metrics_every, "server.own_metrics_every_s", every, Duration::from_secs)?;
        set(&mut self.server.stop_timeout, "server.stop_timeout_s", raw.stop_timeout_s, Duration::from_secs)?;
        set(&mut self.close_timeout, "server.close_timeout_s", raw.close_timeout_s, Duration::from_secs)
    }

    fn set_limits(&mut self, raw: &RawLimits) -> Result<()> {
        let seconds = Duration::from_secs;
        let limits = &mut self.server;
        set(&mut limits.connections_max, "limits.connections_max", raw.connections_max, |n| n)?;
        let handshake = raw.tls_handshake_timeout_s;
        set(&mut limits.tls_handshake_timeout, "limits.tls_handshake_timeout_s", handshake, seconds)?;
        set(&mut limits.header_timeout, "limits.header_timeout_s", raw.header_timeout_s, seconds)?;
        set(&mut limits.body_idle_timeout, "limits.body_idle_timeout_s", raw.body_idle_timeout_s, seconds)?;
        set(&mut limits.body_timeout, "limits.body_timeout_s", raw.body_timeout_s, seconds)?;
        set(&mut limits.body_bytes_max, "limits.body_bytes_max", raw.body_bytes_max, |n| n)?;
        set(&mut limits.text_bytes_max, "limits.text_bytes_max", raw.text_bytes_max, |n| n)?;
        set(&mut limits.text_bytes_total_max, "limits.text_bytes_total_max", raw.text_bytes_total_max, |n| n)?;
        set(&mut limits.ratio_max, "limits.ratio_max", raw.ratio_max, |n| n)?;
        set(&mut limits.writes_max, "limits.writes_max", raw.writes_max, |n| n)?;
        set(&mut limits.write_wait, "limits.write_wait_s", raw.write_wait_s, seconds)?;
        set(&mut limits.commit_timeout, "limits.commit_timeout_s", raw.commit_timeout_s, seconds)?;
        set(&mut limits.parse_threads, "limits.parse_threads", raw.parse_threads, |n| n)
    }

    fn set_operations(&mut self, raw: &RawOperations) -> Result<()> {
        let operations = &mut self.operations;
        for text in raw.protected.iter().flatten() {
            operations.protected.push(text.parse().context("setting operations.protected")?);
        }
        let days = |days: u64| Duration::from_secs(days.saturating_mul(86_400));
        set(&mut operations.memory_bytes_max, "operations.memory_bytes_max", raw.memory_bytes_max, |n| n)?;
        set(&mut operations.keep, "operations.keep_days", raw.keep_days, days)
    }

    fn set_query(&mut self, raw: &RawQuery) -> Result<()> {
        let query = &mut self.query;
        set(&mut query.query_threads, "query.query_threads", raw.query_threads, |n| n)?;
        set(&mut query.query_memory_bytes_max, "query.query_memory_bytes_max", raw.query_memory_bytes_max, |n| n)?;
        let each = raw.query_each_memory_bytes_max;
        set(&mut query.query_each_memory_bytes_max, "query.query_each_memory_bytes_max", each, |n| n)?;
        set(&mut query.query_spill_bytes_max, "query.query_spill_bytes_max", raw.query_spill_bytes_max, |n| n)?;
        set(&mut query.query_running_max, "query.query_running_max", raw.query_running_max, |n| n)?;
        set(&mut query.query_waiting_max, "query.query_waiting_max", raw.query_waiting_max, |n| n)?;
        set(&mut query.query_wait, "query.query_wait_s", raw.query_wait_s, Duration::from_secs)?;
        set(&mut query.query_deadline, "query.query_deadline_s", raw.query_deadline_s, Duration::from_secs)?;
        set(&mut query.query_slow, "query.query_slow_ms", raw.query_slow_ms, Duration::from_millis)?;
        set(&mut query.query_footer_bytes_max, "query.query_footer_bytes_max", raw.query_footer_bytes_max, |n| n)?;
        set(&mut query.query_column_bytes_max, "query.query_column_bytes_max", raw.query_column_bytes_max, |n| n)?;
        query.query_rollups = raw.query_rollups.unwrap_or(query.query_rollups);
        if let Some(folders) = &raw.query_external_locations {
            if let Some(folder) = folders.iter().find(|folder| !folder.is_absolute()) {
                bail!("setting query.query_external_locations: '{}' is not an absolute path", folder.display());
            }
            query.query_external_locations = weir_query::external::Locations::Below(folders.clone());
        }
        set(
            &mut query.query_external_files_max,
            "query.query_external_files_max",
            raw.query_external_files_max,
            |n| n,
        )?;
        set(&mut query.query_gapfill_rows_max, "query.query_gapfill_rows_max", raw.query_gapfill_rows_max, |n| n)
    }

    fn set_engine(&mut self, raw: &RawEngine, store: BTreeMap<String, toml::Value>) -> Result<()> {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        let engine = &mut self.engine;
        engine.store.clone_from(&raw.store);
        for (name, value) in store {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Table(_) | toml::Value::Array(_) => bail!("setting store.{name} is not a plain value"),
                plain => plain.to_string(),
            };
            engine.store_options.push((name, text));
        }
        set_store(&mut engine.store_limits, raw)?;
        set(&mut engine.buffer_bytes_max, "engine.buffer_bytes_max", raw.buffer_bytes_max, |n| n)?;
        set(&mut engine.flush_bytes, "engine.flush_bytes", raw.flush_bytes, |n| n)?;
        set(&mut engine.flush_bytes_min, "engine.flush_bytes_min", raw.flush_bytes_min, |n| n)?;
        set(&mut engine.flush_age, "engine.flush_age_s", raw.flush_age_s, seconds)?;
        set(&mut engine.flush_age_max, "engine.flush_age_max_s", raw.flush_age_max_s, seconds)?;
        set(&mut engine.wal_flush_bytes, "engine.wal_flush_bytes", raw.wal_flush_bytes, |n| n)?;
        set(&mut engine.wal_bytes_max, "engine.wal_bytes_max", raw.wal_bytes_max, |n| n)?;
        set(&mut engine.series_max, "engine.series_max", raw.series_max, |n| n)?;
        set(&mut engine.tables_max, "engine.tables_max", raw.tables_max, |n| n)?;
        set(&mut engine.columns_max, "engine.columns_max", raw.columns_max, |n| n)?;
        set(&mut engine.line_bytes_max, "engine.line_bytes_max", raw.line_bytes_max, |n| n)?;
        set(&mut engine.schema_wait, "engine.schema_wait_ms", raw.schema_wait_ms, millis)?;
        set(&mut engine.flush_backoff, "engine.flush_backoff_ms", raw.flush_backoff_ms, millis)?;
        set(&mut engine.flush_backoff_max, "engine.flush_backoff_max_ms", raw.flush_backoff_max_ms, millis)?;
        set(&mut engine.compact_files, "engine.compact_files", raw.compact_files, |n| n)?;
        set(&mut engine.compact_rows, "engine.compact_rows", raw.compact_rows, |n| n)?;
        set(&mut engine.compact_bytes_max, "engine.compact_bytes_max", raw.compact_bytes_max, |n| n)?;
        set(&mut engine.compact_bytes_per_s, "engine.compact_bytes_per_s", raw.compact_bytes_per_s, |n| n)?;
        set(&mut engine.undo_window, "engine.undo_window_s", raw.undo_window_s, seconds)?;
        set(&mut engine.vacuum_every, "engine.vacuum_every_s", raw.vacuum_every_s, seconds)?;
        set(&mut self.retention_every, "engine.retention_every_s", raw.retention_every_s, seconds)?;
        set(&mut self.rollups_every, "engine.rollups_every_s", raw.rollups_every_s, seconds)
    }
}

/// What the server's own measurements are kept for when the file says nothing of them.
const OWN_AGE: &str = "30d";
/// The tables of database `weir` that they are in.
const OWN_TABLES: [&str; 3] = ["weir.server", "weir.server_component_state", "weir.server_http_request_seconds"];

/// The section `[retention]` over its defaults.
fn retentions(raw: &BTreeMap<String, String>) -> Result<Vec<Retention>> {
    let mut all: BTreeMap<&str, &str> = OWN_TABLES.iter().map(|name| (*name, OWN_AGE)).collect();
    all.extend(raw.iter().map(|(name, age)| (name.as_str(), age.as_str())));
    all.into_iter().map(|(name, age)| retention(name, age)).collect()
}

/// An entry of `[retention]`: `db` or `db.table`, and an age such as `30d`.
fn retention(name: &str, age: &str) -> Result<Retention> {
    let number = age.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &age[number.len()..] {
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => bail!("setting retention.{name}: '{age}' is not an age such as 12h, 30d or 8w"),
    };
    let count: u64 = number.parse().with_context(|| format!("setting retention.{name}: '{age}' is not an age"))?;
    anyhow::ensure!(count > 0, "setting retention.{name} is 0: it would delete everything");
    let (database, table) = match name.split_once('.') {
        Some((database, table)) => (database, Some(table.to_owned())),
        None => (name, None),
    };
    Ok(Retention { database: database.to_owned(), table, age: Duration::from_secs(count.saturating_mul(unit)) })
}

fn set_store(limits: &mut weir_engine::store::RemoteLimits, raw: &RawEngine) -> Result<()> {
    let millis = Duration::from_millis;
    set(&mut limits.connect_timeout, "engine.store_connect_timeout_ms", raw.store_connect_timeout_ms, millis)?;
    set(&mut limits.request_timeout, "engine.store_request_timeout_ms", raw.store_request_timeout_ms, millis)?;
    set(&mut limits.transfer_timeout, "engine.store_transfer_timeout_ms", raw.store_transfer_timeout_ms, millis)?;
    set(&mut limits.tries, "engine.store_tries", raw.store_tries, |n| n)?;
    set(&mut limits.retry_budget, "engine.store_retry_budget", raw.store_retry_budget, |n| n)?;
    set(&mut limits.breaker_failures, "engine.store_breaker_failures", raw.store_breaker_failures, |n| n)?;
    set(&mut limits.breaker_open, "engine.store_breaker_open_ms", raw.store_breaker_open_ms, millis)
}

/// Settings of object stores in the environment, such as `AWS_ACCESS_KEY_ID`; those of the file, which come later, win.
fn store_environment() -> Vec<(String, String)> {
    const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
    let ours =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    ours.filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect()
}

/// Certificate and key, which go together.
pub(crate) fn tls(cert: Option<&PathBuf>, key: Option<&PathBuf>, names: &str) -> Result<Option<TlsFiles>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert: cert.clone(), key: key.clone() })),
        (None, None) => Ok(None),
        _ => bail!("{names} go together: one without the other is no TLS"),
    }
}

/// `HOST:PORT` as an address; a name must resolve.
pub(crate) fn address(text: &str) -> Result<SocketAddr> {
    text.to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .with_context(|| format!("'{text}' is not an address such as 127.0.0.1:8181"))
}

#[allow(clippy::disallowed_methods, reason = "the settings are read before there is a file system to hand around")]
fn read(data: &Path, given: Option<&PathBuf>) -> Result<(String, PathBuf)> {
    let path = given.cloned().unwrap_or_else(|| data.join(FILE));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((text, path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && given.is_none() => Ok((String::new(), path)),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn unknown(raw: &Raw) -> Vec<String> {
    let sections = [
        ("", &raw.unknown),
        ("server.", &raw.server.unknown),
        ("limits.", &raw.limits.unknown),
        ("engine.", &raw.engine.unknown),
        ("query.", &raw.query.unknown),
        ("operations.", &raw.operations.unknown),
    ];
    sections.iter().flat_map(|(section, names)| names.keys().map(move |name| format!("{section}{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_by_database_or_table() {
        let (config, _) = Config::parse("[retention]\nd = '12h'\n'd.my table' = '8w'", Path::new("x")).unwrap();
        let hours = |table: Option<&str>, hours: u64| Retention {
            database: "d".into(),
            table: table.map(str::to_owned),
            age: Duration::from_secs(hours * 3600),
        };
        let of_d: Vec<_> = config.retention.iter().filter(|one| one.database == "d").cloned().collect();
        assert_eq!(of_d, [hours(None, 12), hours(Some("my table"), 8 * 7 * 24)]);
        let of_own = |text: &str| {
            let (config, _) = Config::parse(text, Path::new("x")).unwrap();
            let own = config.retention.into_iter().filter(|one| one.database == "weir");
            own.map(|one| one.age.as_secs() / 86_400).collect::<Vec<_>>()
        };
        assert_eq!(of_own("[retention]\nd = '12h'"), [30; 3]);
        assert_eq!(of_own("[retention]\n'weir.server' = '52w'"), [364, 30, 30]);
        for bad in ["d = '0d'", "d = '5'", "d = 'xd'", "d = '5y'"] {
            assert!(Config::parse(&format!("[retention]\n{bad}"), Path::new("x")).is_err(), "{bad}");
        }
    }

    fn parse(text: &str) -> Result<(Config, Vec<String>)> {
        Config::parse(text, Path::new("data"))
    }

    #[test]
    fn the_commented_file_says_exactly_the_defaults() {
        let (written, unknown) = parse(DEFAULT).unwrap();
        let (default, _) = parse("").unwrap();
        assert_eq!(format!("{written:?}"), format!("{default:?}"));
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn every_setting_is_in_the_commented_file() {
        let uncommented: String = DEFAULT
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") && !rest.contains("://127") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let (config, unknown) = parse(&uncommented).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(config.engine.store.as_deref(), Some("s3://bucket/path"));
        assert_eq!(config.engine.buffer_bytes_max, ByteSize::mib(2048));
        let raw: Raw = toml::from_str(&uncommented).unwrap();
        let debug = format!("{raw:?}");
        assert!(!debug.contains("None"), "a setting is missing from the file: {debug}");
    }

    #[test]
    fn unknown_settings_are_told_and_zero_is_refused() {
        let (_, unknown) = parse("x = 1\n[limits]\nbody_bytes = 5\n").unwrap();
        assert_eq!(unknown, ["x", "limits.body_bytes"]);
        for bad in [
            "[limits]\nwrites_max = 0",
            "[limits]\nbody_bytes_max = \"many\"",
            "[server]\nhttp = \"nowhere\"",
            "[engine]\nflush_age_s = -1",
            "[",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
