//! The servers that take the workload: how each is started, asked and emptied to disk.
//!
//! Rivals are the packages of the distribution (`bench/rivals/install.sh`), started with their own defaults except for
//! folders and addresses. What each promises when it answers is written beside its name: a rate means little without.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::http::{Answer, Connection, escape};

/// Longest wait for any one answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// The database that the workload goes to.
pub const DATABASE: &str = "bench";

/// A server that takes line protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Weir, durable before it answers.
    Weir,
    /// Weir with `no_sync=true`: survives the end of the process, not of the power.
    WeirNoSync,
    /// VictoriaMetrics: answers before anything is on disk, and has no log.
    Victoriametrics,
    /// InfluxDB 1.x: syncs its log before it answers.
    Influxdb,
    /// No database: receives, lz4-compresses, appends, syncs, answers. Nothing durable can be faster.
    Floor,
}

/// Rows and the sum of `usage_user` that a server says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// `count(*)`.
    pub rows: u64,
    /// `sum(usage_user)`.
    pub usage_user_sum: u64,
}

impl Target {
    /// The name in tables and result files.
    pub fn name(self) -> &'static str {
        match self {
            Target::Weir => "weir",
            Target::WeirNoSync => "weir-no-sync",
            Target::Victoriametrics => "victoriametrics",
            Target::Influxdb => "influxdb",
            Target::Floor => "floor",
        }
    }

    /// What an answered write means.
    pub fn promise(self) -> &'static str {
        match self {
            Target::Weir => "synced to disk",
            Target::WeirNoSync => "in the system's page cache",
            Target::Victoriametrics => "in the server's memory",
            Target::Influxdb | Target::Floor => "synced to disk",
        }
    }

    /// The command that serves `data` at `address`. `weir` is the path of our binary.
    pub fn command(self, weir: &Path, extra: &[String], data: &Path, address: SocketAddr) -> anyhow::Result<Command> {
        let command = match self {
            Target::Weir | Target::WeirNoSync => {
                let mut command = Command::new(weir);
                command.arg("serve").arg("--data").arg(data).arg("--http").arg(address.to_string()).args(extra);
                command
            }
            Target::Victoriametrics => {
                let mut command = Command::new("victoria-metrics");
                command
                    .arg(format!("-storageDataPath={}", data.display()))
                    .arg(format!("-httpListenAddr={address}"))
                    .args(["-retentionPeriod=100y", "-search.maxUniqueTimeseries=10000000"])
                    .args(["-search.maxQueryDuration=300s", "-search.maxSamplesPerQuery=4000000000"]);
                command
            }
            Target::Influxdb => {
                let mut command = Command::new("influxd");
                command
                    .env("INFLUXDB_REPORTING_DISABLED", "true")
                    .env("INFLUXDB_META_DIR", data.join("meta"))
                    .env("INFLUXDB_DATA_DIR", data.join("data"))
                    .env("INFLUXDB_DATA_WAL_DIR", data.join("wal"))
                    .env("INFLUXDB_HTTP_BIND_ADDRESS", address.to_string())
                    .env("INFLUXDB_BIND_ADDRESS", crate::process::free_address()?.to_string())
                    .env("INFLUXDB_DATA_QUERY_LOG_ENABLED", "false")
                    .env("INFLUXDB_HTTP_LOG_ENABLED", "false");
                command
            }
            Target::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("serve-floor").arg("--data").arg(data).arg("--http").arg(address.to_string());
                command
            }
        };
        Ok(command)
    }

    /// Whether it answers requests.
    pub fn is_ready(self, address: SocketAddr) -> bool {
        let path = match self {
            Target::Weir | Target::WeirNoSync => "/ready",
            Target::Victoriametrics => "/health",
            Target::Influxdb | Target::Floor => "/ping",
        };
        let answer = Connection::open(address, Duration::from_secs(5)).and_then(|mut one| one.get(path));
        answer.is_ok_and(|answer| answer.status < 300)
    }

    /// What must exist before the first write.
    pub fn prepare(self, address: SocketAddr) -> anyhow::Result<()> {
        if self == Target::Influxdb {
            let path = format!("/query?q={}", escape(&format!("CREATE DATABASE {DATABASE}")));
            expect_ok(Connection::open(address, ANSWER_TIMEOUT)?.post(&path, b"")?)?;
        }
        Ok(())
    }

    /// Where lines are posted.
    pub fn write_path(self) -> String {
        match self {
            Target::Weir => format!("/api/v3/write_lp?db={DATABASE}&precision=nanosecond"),
            Target::WeirNoSync => format!("/api/v3/write_lp?db={DATABASE}&precision=nanosecond&no_sync=true"),
            Target::Victoriametrics => "/write".to_owned(),
            Target::Influxdb | Target::Floor => format!("/write?db={DATABASE}"),
        }
    }

    /// Returns when everything accepted is in files in its final form; false where there is no such call.
    pub fn flush(self, address: SocketAddr) -> anyhow::Result<bool> {
        let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
        match self {
            Target::Weir | Target::WeirNoSync => expect_ok(connection.post("/api/v1/flush", b"")?)?,
            Target::Victoriametrics => expect_ok(connection.get("/internal/force_flush")?)?,
            Target::Influxdb | Target::Floor => return Ok(false),
        };
        Ok(true)
    }

    /// Merges the files of the table, where that can be asked for.
    pub fn compact(self, address: SocketAddr) -> anyhow::Result<bool> {
        if !matches!(self, Target::Weir | Target::WeirNoSync) {
            return Ok(false);
        }
        let path = format!("/api/v1/compact?db={DATABASE}&table=cpu");
        expect_ok(Connection::open(address, ANSWER_TIMEOUT)?.post(&path, b"")?)?;
        Ok(true)
    }

    /// What the server says it holds; none for the floor, which cannot be asked.
    pub fn content(self, address: SocketAddr) -> anyhow::Result<Option<Content>> {
        let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
        let content = match self {
            Target::Weir | Target::WeirNoSync => {
                let rows = sql(&mut connection, "select count(*) as n, sum(usage_user) as s from cpu")?;
                Content { rows: number(&rows[0]["n"])?, usage_user_sum: number(&rows[0]["s"])? }
            }
            Target::Victoriametrics => Content {
                rows: metric(&mut connection, "sum(count_over_time(cpu_usage_user[10y]))")?,
                usage_user_sum: metric(&mut connection, "sum(sum_over_time(cpu_usage_user[10y]))")?,
            },
            Target::Influxdb => {
                let q = escape("select count(usage_user), sum(usage_user) from cpu");
                let answer = json(connection.get(&format!("/query?db={DATABASE}&q={q}"))?)?;
                let row = &answer["results"][0]["series"][0]["values"][0];
                Content { rows: number(&row[1])?, usage_user_sum: number(&row[2])? }
            }
            Target::Floor => return Ok(None),
        };
        Ok(Some(content))
    }

    /// The folder of the final files, for the size per value; all of `data` where it is not apart.
    pub fn files_folder(self, data: &Path) -> PathBuf {
        match self {
            Target::Weir | Target::WeirNoSync => data.join("tables"),
            Target::Victoriametrics | Target::Influxdb => data.join("data"),
            Target::Floor => data.to_owned(),
        }
    }
}

/// The rows that a statement answers on Weir's database of the benchmark.
pub fn sql(connection: &mut Connection, statement: &str) -> anyhow::Result<Vec<Value>> {
    let body = serde_json::json!({ "db": DATABASE, "q": statement, "format": "json" }).to_string();
    let headers = "Content-Type: application/json\r\n";
    let answer = json(connection.send("POST", "/api/v3/query_sql", headers, body.as_bytes())?)?;
    match answer {
        Value::Array(rows) if !rows.is_empty() => Ok(rows),
        other => bail!("{statement:?} answered {other}"),
    }
}

/// The newest stamp that VictoriaMetrics may look back from: past the end of any run here.
const METRICS_ASKED_AT: u64 = crate::tsbs::START_SECONDS + 3600 * 24 * 365 * 5;

fn metric(connection: &mut Connection, expression: &str) -> anyhow::Result<u64> {
    let path = format!("/api/v1/query?nocache=1&time={METRICS_ASKED_AT}&query={}", escape(expression));
    let answer = json(connection.get(&path)?)?;
    number(&answer["data"]["result"][0]["value"][1])
}

fn number(value: &Value) -> anyhow::Result<u64> {
    let number = match value {
        Value::String(text) => text.parse::<f64>().ok(),
        other => other.as_f64(),
    };
    Ok(number.with_context(|| format!("expected a number, got {value}"))?.round() as u64)
}

fn json(answer: Answer) -> anyhow::Result<Value> {
    let answer = expect_ok(answer)?;
    serde_json::from_slice(&answer.body).with_context(|| format!("not JSON: {}", answer.text()))
}

fn expect_ok(answer: Answer) -> anyhow::Result<Answer> {
    ensure!((200..300).contains(&answer.status), "status {}: {}", answer.status, answer.text());
    Ok(answer)
}
