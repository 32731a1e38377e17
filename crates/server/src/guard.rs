//! Who asks: every request over TCP passes [`guard`], which lets nobody past without a token where there are tokens.
//!
//! What a token allows depends on the database, which each dialect names in its own way: the handler checks it on the
//! [`Caller`] that the guard leaves with the request. Only `/health`, `/ready` and `/ping` need no token; an address that does not exist
//! needs one. Secrets go from the header to the comparison and nowhere else.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::app::App;
use crate::body::Inlet;
use crate::params::Params;
use crate::status::{Dialect, Problem};
use crate::tokens::{Grant, Right, Token};

/// What needs no token: load balancers and clients ask these before they have one.
const OPEN: [&str; 3] = ["/health", "/ready", "/ping"];

/// Who a request comes from, and what it may do.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The token's name; `None` for whoever holds the folder, or where there are no tokens.
    name: Option<Arc<str>>,
    grant: Grant,
}

impl Caller {
    /// Whoever holds the data folder.
    pub(crate) fn owner() -> Self {
        Self { name: None, grant: Grant::everything() }
    }

    /// Whoever holds a token.
    pub(crate) fn of(token: &Token) -> Self {
        Self { name: Some(token.name().into()), grant: token.grant() }
    }

    /// The one that the guard left with a request; a request that passed none may do nothing.
    pub(crate) fn in_request(extensions: &Extensions) -> Self {
        let nobody = || Self { name: None, grant: Grant { read: false, write: false, databases: Some([].into()) } };
        extensions.get::<Self>().cloned().unwrap_or_else(nobody)
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// 403 unless the right is held in the database.
    pub(crate) fn check(&self, right: Right, database: &str) -> Result<(), Problem> {
        self.grant.check(right, database).map_err(|error| error.into_problem())
    }

    /// 403 unless the right is held everywhere.
    pub(crate) fn check_everywhere(&self, right: Right) -> Result<(), Problem> {
        self.grant.check_everywhere(right).map_err(|error| error.into_problem())
    }
}

/// Finds out who asks over TCP, or answers 401.
pub(crate) async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if !app.tokens.needed() || OPEN.contains(&request.uri().path()) {
        request.extensions_mut().insert(Caller::owner());
        return next.run(request).await;
    }
    let caller = match presented(&request) {
        Ok(secret) => app.tokens.caller(secret.as_deref()).await,
        Err(problem) => Err(problem),
    };
    match caller {
        Ok(caller) => {
            if let Some(name) = caller.name() {
                tracing::Span::current().record("token", name);
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => refuse(&app, problem, request).await,
    }
}

/// Trusts whoever asks: a caller in this process, or on the socket, which only the folder's owner can open.
pub(crate) async fn trust(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller::owner());
    next.run(request).await
}

async fn refuse(app: &App, problem: Problem, request: Request) -> Response {
    let dialect = Dialect::of_path(request.uri().path());
    let (head, body) = request.into_parts();
    if !head.headers.contains_key(header::EXPECT)
        && let Ok(inlet) = Inlet::new(&head.headers, body, &app.config)
    {
        // A client that is still sending would see a reset instead of the answer.
        inlet.drain().await;
    }
    problem.respond(dialect)
}

/// The secret of a request: `Authorization: Bearer T`, `Token T` or `Basic` with it as the password; for the v1 write call also the
/// parameter `p`.
fn presented(request: &Request) -> Result<Option<String>, Problem> {
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        return of_header(value)
            .map(Some)
            .ok_or_else(|| Problem::unauthorized("the authorization header is none of Bearer, Token and Basic"));
    }
    if request.uri().path() != "/write" {
        return Ok(None);
    }
    let params = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    Ok(params.get("p")?.filter(|secret| !secret.is_empty()).map(str::to_owned))
}

fn of_header(value: &HeaderValue) -> Option<String> {
    let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

/// Who is told to have asked for a change: who they say they are, and the token that vouches for them.
pub(crate) fn actor(told: Option<String>, caller: &Caller) -> String {
    match (told, caller.name()) {
        (Some(told), Some(name)) => format!("{told} (token {name})"),
        (None, Some(name)) => format!("token {name}"),
        (Some(told), None) => told,
        (None, None) => "http".to_owned(),
    }
}

/// Marks a value as not to be printed: `Debug` of headers shows `Sensitive` then.
pub(crate) fn hide(headers: &mut HeaderMap) {
    if let Some(value) = headers.get_mut(header::AUTHORIZATION) {
        value.set_sensitive(true);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn of(uri: &str, authorization: Option<&str>) -> Result<Option<String>, Problem> {
        let mut request = Request::builder().uri(uri);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        presented(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn a_secret_comes_by_header_or_by_the_parameters_of_the_v1_write_call() {
        for (uri, authorization, secret) in [
            ("/x", Some("Bearer abc"), Some("abc")),
            ("/x", Some("token  abc "), Some("abc")),
            ("/x", Some("Basic dTphYmM="), Some("abc")),
            ("/x", Some("Basic OmE6Yg=="), Some("a:b")),
            ("/x", None, None),
            ("/x?u=u&p=abc", None, None),
            ("/write?u=u&p=abc", None, Some("abc")),
            ("/write?u=u&p=", None, None),
            ("/write?p=no", Some("Bearer abc"), Some("abc")),
        ] {
            assert_eq!(of(uri, authorization).unwrap().as_deref(), secret, "{uri} {authorization:?}");
        }
        for bad in ["abc", "Digest abc", "Basic ???", "Basic YWJj"] {
            assert!(of("/write?p=abc", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_that_passed_no_guard_may_do_nothing() {
        let nobody = Caller::in_request(&Extensions::new());
        assert!(nobody.check(Right::Read, "d").is_err() && nobody.check(Right::Write, "d").is_err());
        assert!(nobody.check_everywhere(Right::Read).is_err());
    }
}
