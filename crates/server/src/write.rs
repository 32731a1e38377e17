//! The three ways to write line protocol, one flow: parameters, body, commit, answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use weir_engine::ingest::{WriteOptions, Written};
use weir_limits::inflate::Encoding;

use crate::app::App;
use crate::body::{Inlet, Intake, encoding_of};
use crate::database::WriteSession;
use crate::guard::Caller;
use crate::names;
use crate::params::Params;
use crate::status::{self, Dialect, Problem};
use crate::tokens::Right;

/// Says in each answer how safe the rows are: `synced` to the disk, or `written` to the log only (`no_sync`).
const DURABILITY: HeaderName = HeaderName::from_static("weir-durability");

/// Where and how a request wants to be written.
#[derive(Debug)]
struct Target {
    database: String,
    options: WriteOptions,
}

/// `/write` of InfluxDB 1: `db`, `rp`, `precision` (n, u, ms, s, m, h).
pub(crate) async fn v1(State(app): State<Arc<App>>, request: Request) -> Response {
    let target = |params: &Params| {
        let database = names::of_v1(params.require("db")?, params.get("rp")?);
        Ok(Target { database, options: options(params, Dialect::V1)? })
    };
    write(&app, request, Dialect::V1, target).await
}

/// `/api/v2/write` of InfluxDB 2: `bucket`, `precision` (ns, us, ms, s); `org` is taken and ignored.
pub(crate) async fn v2(State(app): State<Arc<App>>, request: Request) -> Response {
    let target = |params: &Params| {
        let database = names::of_bucket(params.require("bucket")?);
        Ok(Target { database, options: options(params, Dialect::V2)? })
    };
    write(&app, request, Dialect::V2, target).await
}

/// `/api/v3/write_lp` of InfluxDB 3: `db`, `precision`, `accept_partial`, `no_sync`.
pub(crate) async fn v3(State(app): State<Arc<App>>, request: Request) -> Response {
    let target = |params: &Params| {
        let database = params.require("db")?.to_owned();
        Ok(Target { database, options: options(params, Dialect::V3)? })
    };
    write(&app, request, Dialect::V3, target).await
}

fn options(params: &Params, dialect: Dialect) -> Result<WriteOptions, Problem> {
    Ok(WriteOptions {
        precision: params.precision(dialect)?,
        accept_partial: params.flag("accept_partial", true)?,
        no_sync: params.flag("no_sync", false)?,
    })
}

async fn write(
    app: &Arc<App>,
    request: Request,
    dialect: Dialect,
    target: impl FnOnce(&Params) -> Result<Target, Problem>,
) -> Response {
    let params = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    let caller = Caller::in_request(request.extensions());
    let (head, body) = request.into_parts();
    // A client that asks first (`expect: 100-continue`) has sent nothing yet: there is nothing to drain.
    let asks_first = head.headers.contains_key(header::EXPECT);
    let mut inlet = match Inlet::new(&head.headers, body, &app.config) {
        Ok(inlet) => inlet,
        Err((problem, inlet)) => return refuse(problem, dialect, inlet, asks_first).await,
    };
    let checked = target(&params)
        .and_then(|target| names::check_database(&target.database).map(|()| target))
        .and_then(|target| caller.check(Right::Write, &target.database).map(|()| target))
        .and_then(|target| Ok((target, encoding_of(&head.headers)?)));
    let outcome = match checked {
        Ok((target, encoding)) => {
            receive(app, &mut inlet, &target, encoding).await.map(|written| (target.options, written))
        }
        Err(problem) => Err(problem),
    };
    app.metrics.wire_bytes.fetch_add(inlet.bytes(), Relaxed);
    match outcome {
        Ok((options, written)) => answer(app, options, &written),
        Err(problem) => refuse(problem, dialect, inlet, false).await,
    }
}

async fn refuse(problem: Problem, dialect: Dialect, inlet: Inlet, asks_first: bool) -> Response {
    if !asks_first && !problem.is_too_slow() {
        inlet.drain().await;
    }
    problem.respond(dialect)
}

/// Receives the whole body into a write and commits it.
async fn receive(app: &Arc<App>, inlet: &mut Inlet, target: &Target, encoding: Encoding) -> Result<Written, Problem> {
    // The first piece comes before the slot: a slow client must not hold one while it has sent nothing.
    let first = inlet.piece().await?;
    let _slot = tokio::time::timeout(app.config.write_wait, app.write_slots.acquire())
        .await
        .map_err(|_| Problem::busy("all write slots are taken").with_hint("raise limits.writes_max"))?
        .map_err(|_| Problem::busy("the server is stopping"))?;
    let session = app.database.begin_write(&target.database, target.options).map_err(|error| error.into_problem())?;
    let mut intake = Intake::new(encoding, session, &app.text_budget, &app.config)?;
    let mut next = first;
    while let Some(piece) = next {
        intake = feed(app, intake, piece).await?;
        next = inlet.piece().await?;
    }
    let (session, text_bytes) = finish(app, intake).await?;
    app.metrics.text_bytes.fetch_add(text_bytes, Relaxed);
    match tokio::time::timeout(app.config.commit_timeout, session.commit()).await {
        Ok(outcome) => outcome.map_err(|error| error.into_problem()),
        Err(_) => Err(Problem::busy("the write was not durable in time; it may become so later")
            .with_hint("send it again: equal rows are one row")),
    }
}

async fn feed(app: &Arc<App>, mut intake: Intake, piece: Vec<Bytes>) -> Result<Intake, Problem> {
    on_parse_thread(app, move || intake.feed(&piece).map(|()| intake)).await
}

async fn finish(app: &Arc<App>, intake: Intake) -> Result<(Box<dyn WriteSession>, u64), Problem> {
    on_parse_thread(app, move || intake.finish()).await
}

/// Runs `work` on a blocking thread, of which at most `parse_threads` work at once.
async fn on_parse_thread<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let slot =
        Arc::clone(&app.parse_slots).acquire_owned().await.map_err(|_| Problem::busy("the server is stopping"))?;
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _slot = slot;
        span.in_scope(work)
    })
    .await
    .unwrap_or_else(|_| Err(Problem::bug("parsing failed inside Weir; nothing was written")))
}

fn answer(app: &App, options: WriteOptions, written: &Written) -> Response {
    app.metrics.rows.fetch_add(written.rows as u64, Relaxed);
    app.metrics.lines_refused.fetch_add(written.rejected_total as u64, Relaxed);
    let mut response = if written.rejected_total == 0 {
        StatusCode::NO_CONTENT.into_response()
    } else {
        status::partial(&written.rejected, written.rejected_total, written.rows, options.accept_partial)
    };
    let durability = if options.no_sync { "written" } else { "synced" };
    if written.rows > 0 {
        response.headers_mut().insert(DURABILITY, HeaderValue::from_static(durability));
    }
    response
}
