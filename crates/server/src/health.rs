//! `/health`, `/ready` and `/ping`: how each part is, since when and why. They take no slot, lock or thread of queries or
//! writes (Q2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use weir_base::Clock;

use crate::app::App;
use crate::database::{Component, State};

/// Remembers since when each component is in its state.
#[derive(Debug, Default)]
pub(crate) struct Since(Mutex<HashMap<&'static str, (State, i64)>>);

impl Since {
    /// Nanoseconds UTC at which `name` was first seen in `state`.
    fn of(&self, name: &'static str, state: State, clock: &dyn Clock) -> i64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(name).or_insert_with(|| (state, clock.now()));
        if entry.0 != state {
            *entry = (state, clock.now());
        }
        entry.1
    }
}

/// All components: those of the database, the server's own and its collectors'.
fn components(app: &App) -> Vec<Component> {
    let mut all = vec![Component {
        name: "http",
        state: if app.stopping.is_cancelled() { State::Warning } else { State::Ok },
        reason: app.stopping.is_cancelled().then(|| "the server is stopping".to_owned()),
        blocks_writes: app.stopping.is_cancelled(),
    }];
    all.extend(app.database.components());
    all.push(app.metrics.collectors.component());
    all.extend(app.tokens.component());
    all
}

/// 200 while nothing is unhealthy, else 503; always the whole list.
pub(crate) async fn health(Shared(app): Shared<Arc<App>>) -> Response {
    let all = components(&app);
    let worst = all.iter().map(|part| part.state).max().unwrap_or(State::Ok);
    let listed: Vec<_> = all
        .iter()
        .map(|part| {
            json!({
                "component": part.name,
                "state": part.state.word(),
                "since": rfc3339(app.since.of(part.name, part.state, app.clock.as_ref())),
                "reason": part.reason,
            })
        })
        .collect();
    let status = if worst == State::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = json!({"status": worst.word(), "version": crate::VERSION, "components": listed});
    (status, Json(body)).into_response()
}

/// 200 when a write would be taken now, else 503 with the reasons; beside them what is wrong and does not keep writes out, such
/// as a store that does not answer.
pub(crate) async fn ready(Shared(app): Shared<Arc<App>>) -> Response {
    let (blocking, others): (Vec<_>, Vec<_>) = components(&app).into_iter().partition(|part| part.blocks_writes);
    let told = |part: &Component| json!({"component": part.name, "state": part.state.word(), "reason": part.reason});
    let reasons: Vec<_> = blocking.iter().map(told).collect();
    let warnings: Vec<_> = others.iter().filter(|part| part.state != State::Ok).map(told).collect();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": reasons.is_empty(), "reasons": reasons, "warnings": warnings}))).into_response()
}

/// 204 with the version in headers, as the v1 clients expect; 200 with a body when `verbose` is set.
pub(crate) async fn ping(Query(params): Query<HashMap<String, String>>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-influxdb-version"), HeaderValue::from_static(VERSION_HEADER));
    headers.insert(HeaderName::from_static("x-influxdb-build"), HeaderValue::from_static("weir"));
    match params.get("verbose").map(String::as_str) {
        None | Some("" | "false" | "0") => (StatusCode::NO_CONTENT, headers).into_response(),
        Some(_) => (headers, Json(json!({"version": crate::VERSION, "product": "weir"}))).into_response(),
    }
}

/// Clients switch dialects by this header's major version: Weir speaks v1, v2 and v3 writes.
const VERSION_HEADER: &str = concat!("weir-", env!("CARGO_PKG_VERSION"));

fn rfc3339(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}
