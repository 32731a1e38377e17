//! Around every request: its id, its line in the log, its numbers, and the net under a panic.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt;
use tracing::Instrument;

use crate::app::App;
use crate::guard;
use crate::status::{Dialect, Problem};

/// Ours first; the second is what proxies send and look for.
const REQUEST_IDS: [HeaderName; 2] =
    [HeaderName::from_static("weir-request-id"), HeaderName::from_static("x-request-id")];
const ID_LEN_MAX: usize = 64;

/// Gives the request an id (the caller's, when it is fit for logs, else a new UUIDv7), runs it, counts it, logs it, and turns a panic into a 500.
pub(crate) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    guard::hide(request.headers_mut());
    let id = given_id(&request)
        .unwrap_or_else(|| weir_base::id::uuid_v7(app.clock.as_ref(), app.random.as_ref()).to_string());
    let route = known_route(request.uri().path());
    let method = request.method().clone();
    // At the highest level, so that every line that is logged at all says which request it belongs to.
    let span = tracing::error_span!("request", id = %id, method = %method, route, token = tracing::field::Empty);
    let began = app.clock.monotonic();
    let in_flight = app.metrics.begin();
    let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    drop(in_flight);
    let _entered = span.enter();
    let mut response = outcome.unwrap_or_else(|_| {
        Problem::bug(format!("the request failed inside Weir; its id in the log is {id}")).respond(Dialect::Weir)
    });
    let took = app.clock.monotonic().saturating_sub(began);
    app.metrics.finished(route, response.status().as_u16(), took);
    tracing::debug!(status = response.status().as_u16(), took_ms = took.as_secs_f64() * 1e3, "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        for name in REQUEST_IDS {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn given_id(request: &Request) -> Option<String> {
    REQUEST_IDS.iter().find_map(|name| fit_for_logs(request.headers().get(name)?.to_str().ok()?))
}

fn fit_for_logs(id: &str) -> Option<String> {
    let fit = (1..=ID_LEN_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    fit.then(|| id.to_owned())
}

/// The route as a label that lives as long as the program: the table of routes is fixed, so labels are bounded.
fn known_route(path: &str) -> &'static str {
    const ROUTES: [&str; 11] = [
        "/write",
        "/api/v2/write",
        "/api/v3/write_lp",
        "/api/v3/query_sql",
        "/api/v1/flush",
        "/api/v1/compact",
        "/api/v1/queries",
        "/health",
        "/ready",
        "/ping",
        "/metrics",
    ];
    if path.starts_with("/api/v1/queries/") {
        return "/api/v1/queries/{id}";
    }
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}
