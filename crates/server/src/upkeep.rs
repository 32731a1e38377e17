//! What an operator does to a running server: flush, compact, see and stop queries.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::names;
use crate::params::Params;
use crate::status::{Dialect, Problem};

/// `POST /api/v1/flush`: answers when everything buffered (of `db`, if given) is committed.
pub(crate) async fn flush(State(app): State<Arc<App>>, request: Request) -> Response {
    let params = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    told(async {
        let database = params.get("db")?;
        if let Some(name) = database {
            names::check_database(name)?;
        }
        let done = app.database.flush(database).await.map_err(|error| error.into_problem())?;
        Ok(json!({"tables": done.tables, "rows": done.rows}))
    })
    .await
}

/// `POST /api/v1/compact`: merges the files of `table`, or of every table of `db`, until nothing overlaps.
pub(crate) async fn compact(State(app): State<Arc<App>>, request: Request) -> Response {
    let params = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    told(async {
        let database = params.require("db")?;
        names::check_database(database)?;
        let done = app.database.compact(database, params.get("table")?).await.map_err(|error| error.into_problem())?;
        Ok(json!({"files_before": done.files_before, "files_after": done.files_after, "rows": done.rows}))
    })
    .await
}

/// `GET /api/v1/queries`: those that run and wait.
pub(crate) async fn queries(State(app): State<Arc<App>>) -> Response {
    let listed: Vec<_> = app
        .database
        .queries()
        .into_iter()
        .map(|query| {
            json!({
                "id": query.id,
                "db": query.database,
                "q": query.sql,
                "state": if query.running { "running" } else { "waiting" },
                "elapsed_ms": query.elapsed.as_millis() as u64,
            })
        })
        .collect();
    Json(listed).into_response()
}

/// `DELETE /api/v1/queries/{id}`: stops one.
pub(crate) async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    if app.database.cancel_query(&id) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        Problem::not_found("there is no query with this id").respond(Dialect::Weir)
    }
}

async fn told(work: impl Future<Output = Result<Value, Problem>>) -> Response {
    match work.await {
        Ok(done) => Json(done).into_response(),
        Err(problem) => problem.respond(Dialect::Weir),
    }
}
