//! `/api/v3/query_sql`: SQL in, an encoded result out, streamed while the query runs. A client that goes away cancels it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Map, Value};

use crate::app::App;
use crate::database::{Format, QueryRequest};
use crate::guard::{self, Caller};
use crate::names;
use crate::params::Params;
use crate::status::{Dialect, Problem};
use crate::tokens::Right;

const QUERY_ID: HeaderName = HeaderName::from_static("weir-query-id");
/// What is to be said beside the result, with escapes where it is not ASCII.
const NOTE: HeaderName = HeaderName::from_static("weir-note");
/// Who asks, for the history of operations.
const ACTOR: HeaderName = HeaderName::from_static("weir-actor");
const ACTOR_CHARS_MAX: usize = 100;
/// A query's text, parameters included.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The body of a POST as JSON.
#[derive(Debug, serde::Deserialize)]
struct Asked {
    #[serde(alias = "database")]
    db: String,
    #[serde(alias = "query", alias = "sql")]
    q: String,
    format: Option<String>,
    params: Option<Map<String, Value>>,
}

/// GET: everything in the query string.
pub(crate) async fn by_get(State(app): State<Arc<App>>, request: Request) -> Response {
    let params = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    let asked = of_params(&params);
    let caller = Caller::in_request(request.extensions());
    answer(&app, asked, None, &caller, request.headers()).await
}

/// POST: a JSON object, or a form.
pub(crate) async fn by_post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let asked = match tokio::time::timeout(app.config.body_timeout, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Err(_) => Err(Problem::too_slow("the request's body did not arrive in time")),
        Ok(Err(_)) => Err(Problem::too_large("the query", "1 MiB", "nothing: split the query")),
        Ok(Ok(bytes)) => of_body(&head.headers, &bytes),
    };
    let caller = Caller::in_request(&head.extensions);
    let actor = guard::actor(actor_of(&head.headers), &caller);
    answer(&app, asked, Some(actor), &caller, &head.headers).await
}

/// Who says to ask. Nothing is allowed or refused by it.
fn actor_of(headers: &HeaderMap) -> Option<String> {
    let told = headers.get(ACTOR).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let told: String = told.chars().filter(|letter| !letter.is_control()).take(ACTOR_CHARS_MAX).collect();
    (!told.trim().is_empty()).then_some(told)
}

fn of_params(params: &Params) -> Result<Asked, Problem> {
    let values = params
        .get("params")?
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| Problem::invalid(format!("parameter 'params' is not a JSON object: {error}")))?;
    Ok(Asked {
        db: params.require("db")?.to_owned(),
        q: params.require("q")?.to_owned(),
        format: params.get("format")?.map(str::to_owned),
        params: values,
    })
}

fn of_body(headers: &HeaderMap, body: &[u8]) -> Result<Asked, Problem> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media.starts_with("application/x-www-form-urlencoded") && body.first() != Some(&b'{') {
        return of_params(&Params::parse(body));
    }
    serde_json::from_slice(body).map_err(|error| {
        Problem::invalid(format!("the body is not a query: {error}"))
            .with_hint(r#"send {"db": "NAME", "q": "SELECT ...", "format": "json"}"#)
    })
}

async fn answer(
    app: &Arc<App>,
    asked: Result<Asked, Problem>,
    actor: Option<String>,
    caller: &Caller,
    headers: &HeaderMap,
) -> Response {
    match run(app, asked, actor, caller, headers).await {
        Ok(response) => response,
        Err(problem) => problem.respond(Dialect::Weir),
    }
}

async fn run(
    app: &Arc<App>,
    asked: Result<Asked, Problem>,
    actor: Option<String>,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let asked = asked?;
    names::check_database(&asked.db)?;
    // Which right a POST needs depends on the statement, and which other databases it names: the database behind checks those.
    match actor {
        None => caller.check(Right::Read, &asked.db)?,
        Some(_) => caller.grant().check_database(&asked.db).map_err(|error| error.into_problem())?,
    }
    let format = format_of(asked.format.as_deref(), headers)?;
    let params = asked.params.unwrap_or_default();
    let grant = caller.grant().clone();
    let request = QueryRequest { database: asked.db, sql: asked.q, format, params, actor, grant };
    let answer = app.database.query(request).await.map_err(Problem::of_query)?;
    // An error after the first byte cannot change the status any more: it ends the body early, which clients see.
    let logged = answer.chunks.inspect(|chunk| {
        if let Err(error) = chunk {
            tracing::warn!(error = %weir_base::error::chain(error), "a query failed while its result was sent");
        }
    });
    let mut response = Response::new(Body::from_stream(logged));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    if let Ok(value) = HeaderValue::from_str(&answer.id) {
        response.headers_mut().insert(QUERY_ID, value);
    }
    for note in &answer.notes {
        if let Ok(value) = HeaderValue::from_str(&ascii(note)) {
            response.headers_mut().append(NOTE, value);
        }
    }
    Ok(response)
}

/// With escapes for what a header cannot carry.
fn ascii(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii() && !letter.is_ascii_control();
    text.chars()
        .map(|letter| if plain(letter) { letter.to_string() } else { letter.escape_unicode().to_string() })
        .collect()
}

/// The parameter decides; without it the `accept` header, where it names one of ours; else JSON.
fn format_of(name: Option<&str>, headers: &HeaderMap) -> Result<Format, Problem> {
    if let Some(name) = name {
        return Format::parse(name).ok_or_else(|| {
            let shown: String = name.chars().take(40).collect();
            Problem::invalid(format!("format '{shown}' is not known; use json, jsonl, csv, parquet, arrow or pretty"))
        });
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = |part: &str| part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let asked = accept.split(',').map(media).find_map(|media| match media.as_str() {
        "application/json" => Some(Format::Json),
        "application/jsonl" | "application/x-ndjson" => Some(Format::JsonLines),
        "text/csv" => Some(Format::Csv),
        "application/vnd.apache.parquet" => Some(Format::Parquet),
        "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
        "text/plain" => Some(Format::Pretty),
        _ => None,
    });
    Ok(asked.unwrap_or(Format::Json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_comes_from_the_parameter_then_from_accept() {
        let mut headers = HeaderMap::new();
        assert_eq!(format_of(None, &headers).unwrap(), Format::Json);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/html, text/csv;q=0.9"));
        assert_eq!(format_of(None, &headers).unwrap(), Format::Csv);
        assert_eq!(format_of(Some("jsonl"), &headers).unwrap(), Format::JsonLines);
        assert!(format_of(Some("xml"), &headers).is_err());
    }

    #[test]
    fn a_post_is_json_or_a_form() {
        let mut headers = HeaderMap::new();
        let asked = of_body(&headers, br#"{"db":"d","q":"SELECT 1","params":{"a":1}}"#).unwrap();
        assert_eq!((asked.db.as_str(), asked.q.as_str()), ("d", "SELECT 1"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        assert_eq!(of_body(&headers, b"db=d&q=SELECT+1%2B1").unwrap().q, "SELECT 1+1");
        assert!(of_body(&headers, b"db=d").is_err());
        assert!(of_body(&HeaderMap::new(), b"db=d").is_err());
    }
}
