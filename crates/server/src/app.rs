//! What every handler shares, and the table of routes.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weir_base::{Clock, Random};
use weir_limits::inflate::Budget;

use crate::config::Config;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::health::Since;
use crate::metrics::Metrics;
use crate::status::{Dialect, Problem};
use crate::tokens::Tokens;
use crate::{guard, health, metrics, query, request, upkeep, write};

/// The state behind all routes.
pub struct App {
    pub(crate) config: Config,
    pub(crate) database: Arc<dyn Database>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) metrics: Metrics,
    pub(crate) since: Since,
    pub(crate) text_budget: Budget,
    pub(crate) write_slots: Semaphore,
    pub(crate) parse_slots: Arc<Semaphore>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tokens: Arc<Tokens>,
}

impl App {
    /// The state for `database` under the limits of `config`.
    pub fn new(
        config: Config,
        database: Arc<dyn Database>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        log_lines_dropped: Arc<std::sync::atomic::AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            text_budget: Budget::new(config.text_bytes_total_max.bytes()),
            write_slots: Semaphore::new(config.writes_max),
            parse_slots: Arc::new(Semaphore::new(config.parse_threads)),
            metrics: Metrics::new(log_lines_dropped),
            since: Since::default(),
            stopping: CancellationToken::new(),
            tokens: Arc::new(Tokens::new(config.tokens.clone(), random.as_ref())),
            config,
            database,
            clock,
            random,
        })
    }

    /// The database behind the routes.
    pub fn database(&self) -> &Arc<dyn Database> {
        &self.database
    }

    /// Reads the list of tokens; until then [`guarded`] lets nobody in who needs one.
    ///
    /// # Errors
    /// When there is a list and it cannot be read.
    pub async fn read_tokens(&self) -> Result<()> {
        let tokens = Arc::clone(&self.tokens);
        let read = tokio::task::spawn_blocking(move || tokens.look()).await;
        read.map_err(|error| Error::wrap(weir_base::Kind::Internal, "reading the list of tokens panicked", error))?
    }

    /// Whether requests over TCP need a token.
    pub fn needs_tokens(&self) -> bool {
        self.tokens.needed()
    }
}

/// All routes, for callers who may do everything: those in this process, without any socket, and those on the folder's socket.
pub fn router(app: Arc<App>) -> Router {
    let routes = routes().layer(axum::middleware::from_fn(guard::trust));
    observed(routes, app)
}

/// All routes, for callers who need a token where there are tokens: those over TCP.
pub fn guarded(app: Arc<App>) -> Router {
    let routes = routes().layer(axum::middleware::from_fn_with_state(Arc::clone(&app), guard::guard));
    observed(routes, app)
}

fn observed(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    routes.layer(axum::middleware::from_fn_with_state(Arc::clone(&app), request::observe)).with_state(app)
}

fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/write", post(write::v1))
        .route("/api/v2/write", post(write::v2))
        .route("/api/v3/write_lp", post(write::v3))
        .route("/api/v3/query_sql", get(query::by_get).post(query::by_post))
        .route("/api/v1/flush", post(upkeep::flush))
        .route("/api/v1/compact", post(upkeep::compact))
        .route("/api/v1/queries", get(upkeep::queries))
        .route("/api/v1/queries/{id}", axum::routing::delete(upkeep::cancel))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/ping", get(health::ping))
        .route("/metrics", get(metrics::render))
        .fallback(|| async { Problem::not_found("no such address").respond(Dialect::Weir) })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed().respond(Dialect::Weir) })
}
