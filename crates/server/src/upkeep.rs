//! What an operator does to a running server: flush, compact, see and stop queries.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::guard::Caller;
use crate::names;
use crate::params::Params;
use crate::status::{Dialect, Problem};
use crate::tokens::Right;

/// `POST /api/v1/flush`: answers when everything buffered (of `db`, if given) is committed.
pub(crate) async fn flush(State(app): State<Arc<App>>, request: Request) -> Response {
    let caller = Caller::in_request(request.extensions());
    let params = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    told(async {
        let database = params.get("db")?;
        match database {
            Some(name) => {
                names::check_database(name)?;
                caller.check(Right::Write, name)?;
            }
            None => caller.check_everywhere(Right::Write)?,
        }
        let done = app.database.flush(database).await.map_err(|error| error.into_problem())?;
        Ok(json!({"tables": done.tables, "rows": done.rows}))
    })
    .await
}

/// `POST /api/v1/compact`: merges the files of `table`, or of every table of `db`, until nothing overlaps.
pub(crate) async fn compact(State(app): State<Arc<App>>, request: Request) -> Response {
    let caller = Caller::in_request(request.extensions());
    let params = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    told(async {
        let database = params.require("db")?;
        names::check_database(database)?;
        caller.check(Right::Write, database)?;
        let done = app.database.compact(database, params.get("table")?).await.map_err(|error| error.into_problem())?;
        Ok(json!({"files_before": done.files_before, "files_after": done.files_after, "rows": done.rows}))
    })
    .await
}

/// `GET /api/v1/queries`: those that run and wait, of the databases that the caller may read.
pub(crate) async fn queries(State(app): State<Arc<App>>, request: Request) -> Response {
    let caller = Caller::in_request(request.extensions());
    told(async {
        caller.grant().check_right(Right::Read).map_err(|error| error.into_problem())?;
        let seen = app.database.queries().into_iter().filter(|query| caller.grant().holds(&query.database));
        let listed = seen.map(|query| {
            json!({
                "id": query.id,
                "db": query.database,
                "q": query.sql,
                "state": if query.running { "running" } else { "waiting" },
                "elapsed_ms": query.elapsed.as_millis() as u64,
            })
        });
        Ok(listed.collect())
    })
    .await
}

/// `DELETE /api/v1/queries/{id}`: stops one that the caller may see; whether there are others it is not told.
pub(crate) async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Response {
    let caller = Caller::in_request(request.extensions());
    let missing = || Problem::not_found("there is no query with this id");
    let stopped = || {
        caller.grant().check_right(Right::Read).map_err(|error| error.into_problem())?;
        let seen = caller.grant().databases.is_none()
            || app.database.queries().iter().any(|query| query.id == id && caller.grant().holds(&query.database));
        if seen && app.database.cancel_query(&id) { Ok(()) } else { Err(missing()) }
    };
    match stopped() {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => problem.respond(Dialect::Weir),
    }
}

async fn told(work: impl Future<Output = Result<Value, Problem>>) -> Response {
    match work.await {
        Ok(done) => Json(done).into_response(),
        Err(problem) => problem.respond(Dialect::Weir),
    }
}
