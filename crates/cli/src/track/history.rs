//! Where measured operations go and come from: the spool, and database `weir` for what the spool let go.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use axum::body::Body;
use hyper::Request;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use weir_base::{Clock, OsRandom, SystemClock};
use weir_engine::spool::{self, Drain, Placed, Spool};
use weir_journal::{Env, KeyMatch};
use weir_server::Database;
use weir_track::{Finished, Labels, Row, Started};

use crate::client;
use crate::config::Config;
use crate::exit::Exit;
use crate::folder::{Target, data_folder};
use crate::runtime;
use crate::session::{Purpose, Session};
use crate::terminal::Terminal;

const ANSWER_DEADLINE: std::time::Duration = std::time::Duration::from_secs(90);
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// An operation of a script that was begun longer ago than this counts as unfinished.
const OPEN_MAX_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Which data folder.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Folder {
    /// Data folder [default: the platform's, as `weir doctor` tells].
    #[arg(long, env = "WEIR_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Folder {
    pub(crate) fn path(&self) -> Result<PathBuf> {
        data_folder(self.data.as_ref())
    }
}

/// The spool, open for this process.
pub(crate) struct Recorder {
    spool: Spool,
    clock: SystemClock,
    prefix: String,
    next: u64,
}

impl Recorder {
    pub(crate) fn open(folder: &Folder) -> Result<Self> {
        let clock = SystemClock::default();
        let prefix = weir_base::id::uuid_v7(&clock, &OsRandom).simple().to_string();
        let spool = Spool::open(&Env::system(), &spool::folder(&folder.path()?), &prefix)?;
        Ok(Self { spool, clock, prefix, next: 1 })
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// An id of its own for a series of runs or an operation.
    pub(crate) fn id(&mut self) -> String {
        self.next += 1;
        format!("{}-{}", self.prefix, self.next - 1)
    }

    pub(crate) fn append(&mut self, rows: Vec<Row>) -> Result<()> {
        Ok(self.spool.append(rows)?)
    }

    pub(crate) fn close(self) -> Result<()> {
        Ok(self.spool.close()?)
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Operations that ended, oldest first.
    pub(crate) finished: Vec<Finished>,
    /// Operations that never ended: their process died, or nobody finished them for a day.
    pub(crate) unfinished: Vec<Started>,
    /// Operations that run.
    pub(crate) running: Vec<Started>,
}

/// Reads the operations that `wanted` asks for, of any process, and from the database what the spool has no more.
pub(crate) fn read(folder: &Folder, wanted: impl Fn(&Finished) -> bool, terminal: &Terminal) -> Result<History> {
    let data = folder.path()?;
    let mut history = History::default();
    let (mut begun, mut ended, mut imported) = (Vec::new(), HashSet::new(), HashSet::new());
    let visit = |placed: Placed| match placed.row {
        Row::Finished(row) => {
            if let Some(id) = &row.id {
                ended.insert(id.clone());
                if id.starts_with("import-") && !imported.insert(id.clone()) {
                    return;
                }
            }
            if wanted(&row) {
                history.finished.push(row);
            }
        }
        Row::Started(row) => begun.push((placed.slot, row)),
        Row::Sampled(_) => {}
    };
    let summary = spool::read(&Env::system(), &spool::folder(&data), i64::MIN..=i64::MAX, &KeyMatch::Any, visit)?;
    for damage in &summary.damage {
        terminal.warn(damage);
    }
    let day_ago = SystemClock::default().now() - OPEN_MAX_NS;
    for (slot, row) in begun.into_iter().filter(|(_, row)| !ended.contains(&row.id)) {
        let alive = match row.detached {
            true => row.start_ns > day_ago,
            false => summary.holders.get(&slot).is_some_and(|holder| row.id.starts_with(holder)),
        };
        if alive { history.running.push(row) } else { history.unfinished.push(row) }
    }
    let trimmed: BTreeMap<u16, u64> = summary.first.into_iter().filter(|(_, first)| *first > 1).collect();
    if !trimmed.is_empty() {
        history.finished.extend(stored(&data, &trimmed, terminal)?.into_iter().filter(|row| wanted(row)));
    }
    history.finished.sort_by_key(|row| row.end_ns);
    Ok(history)
}

/// One operation that was begun, by its id.
pub(crate) fn find_started(folder: &Folder, id: &str) -> Result<(Option<Started>, bool)> {
    let (mut found, mut ended) = (None, false);
    let visit = |placed: Placed| match placed.row {
        Row::Started(row) if row.id == id => found = Some(row),
        Row::Finished(row) if row.id.as_deref() == Some(id) => ended = true,
        _ => {}
    };
    let dir = spool::folder(&folder.path()?);
    spool::read(&Env::system(), &dir, i64::MIN..=i64::MAX, &KeyMatch::Is(id.into()), visit)?;
    Ok((found, ended))
}

/// Rows that only the database still has: of each slot those before the first sequence that the spool holds.
fn stored(data: &Path, trimmed: &BTreeMap<u16, u64>, terminal: &Terminal) -> Result<Vec<Finished>> {
    let target = Target { data: Some(data.to_path_buf()), ..Target::default() };
    let gone: Vec<String> =
        trimmed.iter().map(|(slot, first)| format!("(slot = '{slot:03}' AND sequence < {first})")).collect();
    let sql = format!("SELECT * FROM operations WHERE {}", gone.join(" OR "));
    let text = runtime::block_on(async {
        let mut session = Session::open(&target, Purpose::Read, "weir track", terminal).await?;
        let asked = async {
            let body = session.query(spool::DATABASE, &sql, "jsonl").await?;
            client::collect(body, ANSWER_BYTES_MAX).await
        };
        let outcome = asked.await;
        session.close(terminal).await;
        outcome
    });
    match text {
        Ok(text) => Ok(String::from_utf8_lossy(&text).lines().filter_map(of_stored).collect()),
        Err(error) => {
            terminal.warn(format!("operations that the spool let go are left out: {error:#}"));
            Ok(Vec::new())
        }
    }
}

/// A row of table `operations`.
fn of_stored(line: &str) -> Option<Finished> {
    let row: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    let ns = |name: &str| row[name].as_f64().map(|ms| (ms * 1e6).round() as u64);
    let end: jiff::Timestamp =
        row["time"].as_str().and_then(|time| format!("{}Z", time.trim_end_matches('Z')).parse().ok())?;
    let labels: Labels = row
        .as_object()?
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("label_")?.to_owned(), value.as_str()?.to_owned())))
        .collect();
    Some(Finished {
        name: text("name")?,
        labels,
        parent: text("parent"),
        id: text("id"),
        end_ns: i64::try_from(end.as_nanosecond()).ok()?,
        duration_ns: ns("duration_ms")?,
        count: row["count"].as_u64()?,
        failures: row["failures"].as_u64().unwrap_or(0),
        items: row["items"].as_u64(),
        bytes: row["bytes"].as_u64(),
        min_ns: ns("min_ms"),
        max_ns: ns("max_ms"),
        sketch: text("sketch"),
        measures: BTreeMap::new(),
        run: text("run"),
        round: row["round"].as_u64().and_then(|round| u32::try_from(round).ok()),
    })
}

/// `weir track drain`.
pub(crate) fn drain_now(folder: &Folder, terminal: &Terminal) -> Result<Exit> {
    let data = folder.path()?;
    let target = Target { data: Some(data.clone()), ..Target::default() };
    let rows = runtime::block_on(async {
        let mut session = Session::open(&target, Purpose::Write, "weir track drain", terminal).await?;
        let outcome = drain(&mut session, &data).await;
        session.close(terminal).await;
        outcome
    })?;
    terminal.say(format!("copied {rows} rows into database {}", spool::DATABASE));
    Ok(Exit::Done)
}

/// Copies what was measured into the database that is about to be asked. A question never fails for it.
pub(crate) async fn drain_for(session: &mut Session, target: &Target, terminal: &Terminal) {
    if target.server.is_some() {
        return;
    }
    let Ok(data) = data_folder(target.data.as_ref()) else { return };
    if let Err(error) = drain(session, &data).await {
        terminal.warn(format!("the newest operations are not in the database yet: {error:#}"));
    }
}

/// Between two looks of a server at its folder's spool.
const DRAIN_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// Copies what processes measure into the database of a server, until it stops.
pub(crate) async fn drain_always(database: Arc<dyn Database>, config: Config, stop: CancellationToken) {
    let mut session = Session::embedded(&config, database, &Terminal::new(true, true));
    loop {
        if let Err(error) = drain(&mut session, &config.engine.data).await {
            tracing::warn!("the spool is not copied into the database: {error:#}");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(DRAIN_EVERY) => {}
        }
    }
}

/// Copies what is new in the spool of `data` into database `weir`; returns how many rows.
///
/// # Errors
/// What the write answers; what is copied by then stays copied.
pub(crate) async fn drain(session: &mut Session, data: &Path) -> Result<usize> {
    let Some(drain) = Drain::begin(&Env::system(), &spool::folder(data))? else { return Ok(0) };
    let mut rows = 0;
    while let Some(batch) = drain.next()? {
        if !batch.lines.is_empty() {
            let path = format!("/api/v3/write_lp?db={}&precision=ns&accept_partial=true", spool::DATABASE);
            let request = Request::post(path).body(Body::from(batch.lines.clone()))?;
            let answer = session.send(request, ANSWER_DEADLINE).await?;
            // A line that is refused (say, past a limit of the schema) will be refused again: the rest is in.
            if !answer.status().is_success() && answer.status() != hyper::StatusCode::BAD_REQUEST {
                return Err(client::refusal(answer).await);
            }
        }
        drain.done(&batch)?;
        rows += batch.rows;
    }
    Ok(rows)
}
