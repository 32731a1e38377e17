//! Errors as HTTP says them: the one file that maps kinds to statuses, and the bodies that each dialect expects.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use weir_base::{Kind, Retry};
use weir_engine::lp::Rejected;

/// Which protocol the caller speaks; decides the shape of an error's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/write`: `{"error": "..."}` and the header `x-influxdb-error`.
    V1,
    /// `/api/v2/write`: `{"code": "...", "message": "..."}`.
    V2,
    /// `/api/v3/write_lp`: `{"error": "...", "data": null}`.
    V3,
    /// Everything else: `{"error": {"code", "message", "hint"}}`.
    Weir,
}

impl Dialect {
    /// That of an address.
    pub(crate) fn of_path(path: &str) -> Self {
        match path {
            "/write" => Self::V1,
            "/api/v2/write" => Self::V2,
            "/api/v3/write_lp" => Self::V3,
            _ => Self::Weir,
        }
    }
}

/// A request that was not fulfilled, ready to be told.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
}

/// The status for an error of a layer below.
fn status_of(kind: Kind, retry: Retry) -> StatusCode {
    match (kind, retry) {
        (Kind::NotFound, _) => StatusCode::NOT_FOUND,
        (Kind::Invalid, _) => StatusCode::BAD_REQUEST,
        (Kind::Forbidden, _) => StatusCode::FORBIDDEN,
        (Kind::Conflict, _) => StatusCode::CONFLICT,
        // A limit of the request itself, such as a query's memory.
        (Kind::Limit, Retry::Never) => StatusCode::UNPROCESSABLE_ENTITY,
        (Kind::Limit | Kind::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Kind::Damaged | Kind::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), hint: None, retry_after: None }
    }

    /// From an error of a layer below: its kind, whether to retry, and the message of its whole chain.
    pub(crate) fn of(kind: Kind, retry: Retry, message: impl Into<String>) -> Self {
        let status = status_of(kind, retry);
        let mut problem = Self::new(status, kind.code(), message);
        problem.retry_after = match retry {
            Retry::After(wait) => Some(wait),
            Retry::Backoff => Some(Duration::from_secs(1)),
            Retry::Never => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(5)),
        };
        problem
    }

    /// From an error of a query: past its deadline, the one limit of a query that another try may keep, it is 408.
    pub(crate) fn of_query(error: crate::Error) -> Self {
        if (error.kind(), error.retry()) == (Kind::Limit, Retry::Backoff) {
            return Self::too_slow(weir_base::error::chain(&error));
        }
        error.into_problem()
    }

    /// 400: the request breaks a rule.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Kind::Invalid.code(), message)
    }

    /// 401: no token, or one that nobody knows. What was presented is never told back.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .with_hint("send 'authorization: Bearer TOKEN'; `weir token create` makes one")
    }

    /// 404: no such route or thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Kind::NotFound.code(), message)
    }

    /// 405: the route is there, the method is not.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Kind::Invalid.code(), "this address does not take this method")
    }

    /// 408: the client, or a query, took too long.
    pub(crate) fn too_slow(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, Kind::Limit.code(), message)
    }

    /// Whether the client was too slow: then there is nothing more to wait for.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.status == StatusCode::REQUEST_TIMEOUT
    }

    /// 413: the body is past `limit`, set by `setting`.
    pub(crate) fn too_large(what: &str, limit: impl std::fmt::Display, setting: &str) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Kind::Limit.code(), format!("{what} is over the limit of {limit}"))
            .with_hint(format!("send smaller batches, or raise {setting}"))
    }

    /// 415: an encoding that is not spoken here.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Kind::Invalid.code(), message)
    }

    /// 503: busy now, try again.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Unavailable.code(), message)
            .with_retry_after(Duration::from_secs(1))
    }

    /// 500: a bug in Weir; details are in the log under the request's id.
    pub(crate) fn bug(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Kind::Internal.code(), message)
    }

    /// Adds what the caller may do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The answer, in the caller's dialect.
    pub(crate) fn respond(self, dialect: Dialect) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), code = self.code, "{}", self.message);
        } else {
            tracing::info!(status = self.status.as_u16(), code = self.code, "{}", self.message);
        }
        let told = match &self.hint {
            Some(hint) if dialect != Dialect::Weir => format!("{} ({hint})", self.message),
            _ => self.message.clone(),
        };
        let body = match dialect {
            Dialect::V1 => json!({"error": told}),
            Dialect::V2 => json!({"code": v2_code(self.status), "message": told}),
            Dialect::V3 => json!({"error": told, "data": null}),
            Dialect::Weir => json!({"error": {"code": self.code, "message": told, "hint": self.hint}}),
        };
        let mut response = (self.status, Json(body)).into_response();
        if dialect == Dialect::V1
            && let Ok(value) = HeaderValue::from_str(&told)
        {
            response.headers_mut().insert(HeaderName::from_static("x-influxdb-error"), value);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"weir\""));
        }
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds_up(wait)));
        }
        response
    }
}

/// A body that cannot be inflated: 429 past the budget that all requests share, 413 past a limit of its own, 400 when it is
/// damaged or cut off.
impl From<weir_limits::Error> for Problem {
    fn from(error: weir_limits::Error) -> Self {
        let message = format!("the request's body: {}", weir_base::error::chain(&error));
        match (error.kind(), error.retry()) {
            (Kind::Limit, Retry::After(wait)) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, Kind::Limit.code(), message).with_retry_after(wait)
            }
            (Kind::Limit, _) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, Kind::Limit.code(), message)
                .with_hint("send smaller batches, or raise the limit in [limits] of the settings"),
            (Kind::Invalid, _) => Self::invalid(format!("{message}; nothing of it was written")),
            (kind, retry) => Self::of(kind, retry, message),
        }
    }
}

/// Bytes of a bad line that are sent back.
const ORIGINAL_LINE_BYTES: usize = 1024;

/// 400 for a write some of whose lines were refused: the bad ones by number, in the same shape in every dialect.
pub(crate) fn partial(rejected: &[Rejected], rejected_total: usize, rows: usize, kept: bool) -> Response {
    let error = if kept {
        format!("partial write: {rejected_total} lines refused, {rows} rows written")
    } else {
        format!("nothing written: {rejected_total} lines refused and accept_partial is false")
    };
    let data: Vec<_> = rejected
        .iter()
        .map(|line| {
            json!({
                "line_number": line.line_number,
                "error_message": line.reason,
                "original_line": shortened(&line.original_line),
            })
        })
        .collect();
    tracing::info!(status = 400, refused = rejected_total, rows, "{error}");
    (StatusCode::BAD_REQUEST, Json(json!({"error": error, "refused": rejected_total, "data": data}))).into_response()
}

fn shortened(line: &str) -> &str {
    &line[..line.floor_char_boundary(ORIGINAL_LINE_BYTES)]
}

fn v2_code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not found",
        StatusCode::CONFLICT => "conflict",
        StatusCode::PAYLOAD_TOO_LARGE => "request too large",
        StatusCode::TOO_MANY_REQUESTS => "too many requests",
        StatusCode::METHOD_NOT_ALLOWED => "method not allowed",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        status if status.is_server_error() => "internal error",
        _ => "invalid",
    }
}

/// Whole seconds, rounded up, at least one: `Retry-After` knows no fractions and 0 means "at once".
fn seconds_up(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_past_its_deadline_is_408_and_past_its_memory_422() {
        let limit = |retry| Problem::of_query(crate::Error::new(Kind::Limit, "x").with_retry(retry)).status;
        assert_eq!(limit(Retry::Backoff), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(limit(Retry::Never), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(limit(Retry::After(Duration::from_secs(1))), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn kinds_have_statuses_and_limits_say_when_to_come_back() {
        let after = Retry::After(Duration::from_millis(1500));
        for (kind, retry, status, retry_after) in [
            (Kind::NotFound, Retry::Never, 404, None),
            (Kind::Invalid, Retry::Never, 400, None),
            (Kind::Forbidden, Retry::Never, 403, None),
            (Kind::Conflict, Retry::Never, 409, None),
            (Kind::Limit, Retry::Never, 422, None),
            (Kind::Limit, after, 503, Some("2")),
            (Kind::Unavailable, Retry::Backoff, 503, Some("1")),
            (Kind::Unavailable, Retry::Never, 503, Some("5")),
            (Kind::Damaged, Retry::Never, 500, None),
            (Kind::Internal, Retry::Never, 500, None),
        ] {
            let response = Problem::of(kind, retry, "x").respond(Dialect::Weir);
            assert_eq!(response.status().as_u16(), status, "{kind:?}");
            let told = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(told, retry_after, "{kind:?}");
        }
    }
}
