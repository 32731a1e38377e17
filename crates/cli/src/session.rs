//! A database to talk to: a server given by URL, the server that holds the folder, or the folder itself, opened here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use hyper::{Request, Response, header};
use serde_json::json;
use weir_base::Kind;
use weir_server::Database;

use crate::client::{self, Client, Refused, Transport, Unreachable};
use crate::config::Config;
use crate::embedded;
use crate::exit;
use crate::folder::{Target, data_folder};
use crate::ops::history::actor;
use crate::terminal::Terminal;

/// Longer than a query may take on the server.
const QUERY_DEADLINE: Duration = Duration::from_secs(330);
const FLUSH_DEADLINE: Duration = Duration::from_secs(600);
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);
/// A server that is starting holds the folder before it listens: how often and how long apart to look again.
const SOCKET_TRIES: u32 = 10;
const SOCKET_PAUSE: Duration = Duration::from_millis(200);

/// What a command does with the folder, should nobody hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Only reads: a folder that is not there is an error.
    Read,
    /// Writes: makes the folder.
    Write,
}

/// An open way to a database.
pub(crate) struct Session {
    client: Client,
    /// The database, when it is in this process.
    database: Option<Arc<dyn Database>>,
    /// Told what servers say beside an answer.
    terminal: Terminal,
}

impl Session {
    /// Opens what `target` names; `owner` is what others read who want the folder meanwhile.
    ///
    /// # Errors
    /// `conflict`, naming the holder, when another process that is no server holds the folder.
    pub(crate) async fn open(target: &Target, purpose: Purpose, owner: &str, terminal: &Terminal) -> Result<Self> {
        if let Some(client) = Client::of_target(target)? {
            if client.tells_token() {
                terminal.warn("the token goes over the network in clear: use https:// where others can listen");
            }
            return Ok(Self { client, database: None, terminal: *terminal });
        }
        let data = data_folder(target.data.as_ref())?;
        if purpose == Purpose::Read && !data.is_dir() {
            return Err(Refused {
                kind: Kind::NotFound,
                message: format!("there is no database folder {}; `weir write` makes one", data.display()),
                retry_after: None,
            }
            .into());
        }
        if let Some(client) = client_of_holder(&data).await {
            return Ok(Self { client, database: None, terminal: *terminal });
        }
        let mut config = Config::load(&data, &target.open, terminal)?;
        config.query.query_external_locations.or_anywhere();
        for _ in 0..SOCKET_TRIES {
            match embedded::open(&config, owner, terminal).await {
                Ok(database) => return Ok(Self::embedded(&config, database, terminal)),
                Err(error) if exit::kind_in(&error) == Some(Kind::Conflict) => {
                    tokio::time::sleep(SOCKET_PAUSE).await;
                    if let Some(client) = client_of_holder(&data).await {
                        return Ok(Self { client, database: None, terminal: *terminal });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        embedded::open(&config, owner, terminal).await.map(|database| Self::embedded(&config, database, terminal))
    }

    /// Of a database that is open in this process.
    pub(crate) fn embedded(config: &Config, database: Arc<dyn Database>, terminal: &Terminal) -> Self {
        let app = embedded::app(config, Arc::clone(&database), Arc::default());
        let client = Client::new(Transport::InProcess(weir_server::router(app)));
        Self { client, database: Some(database), terminal: *terminal }
    }

    /// Who answers.
    pub(crate) fn peer(&self) -> String {
        self.client.peer()
    }

    /// Runs a statement; the result streams, encoded as `format`.
    pub(crate) async fn query(&mut self, database: &str, sql: &str, format: &str) -> Result<Body> {
        let asked = json!({"db": database, "q": sql, "format": format}).to_string();
        let request = Request::post("/api/v3/query_sql")
            .header(header::CONTENT_TYPE, "application/json")
            .header("weir-actor", ascii(&actor()))
            .body(Body::from(asked))
            .context("cannot make the request")?;
        let answer = self.client.send(request, QUERY_DEADLINE).await?;
        for note in answer.headers().get_all("weir-note") {
            self.terminal.say(String::from_utf8_lossy(note.as_bytes()));
        }
        if answer.status().is_success() { Ok(answer.into_body()) } else { Err(client::refusal(answer).await) }
    }

    /// Sends a request that has no body of interest.
    pub(crate) async fn send(&mut self, request: Request<Body>, deadline: Duration) -> Result<Response<Body>> {
        self.client.send(request, deadline).await
    }

    /// Commits what is buffered.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        let request = Request::post("/api/v1/flush").body(Body::empty()).context("cannot make the request")?;
        let answer = self.client.send(request, FLUSH_DEADLINE).await?;
        if answer.status().is_success() { Ok(()) } else { Err(client::refusal(answer).await) }
    }

    /// Lets go of the folder. What could not be flushed stays in the log: a warning, not a failure.
    pub(crate) async fn close(self, terminal: &Terminal) {
        if let Some(database) = self.database
            && let Err(error) = database.close(CLOSE_DEADLINE).await
        {
            terminal.warn(weir_base::error::chain(&error));
        }
    }
}

/// A header carries nothing else.
fn ascii(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' }).collect()
}

/// The socket of the server that would hold `data`.
pub(crate) fn socket_of(data: &Path) -> PathBuf {
    data.join("weir.sock")
}

/// A client of the server that holds `data`; none when there is no such server.
async fn client_of_holder(data: &Path) -> Option<Client> {
    let socket = socket_of(data);
    if !socket.exists() {
        return None;
    }
    let mut client = Client::new(Transport::Unix(socket));
    let request = Request::get("/ping").body(Body::empty()).ok()?;
    match client.send(request, Duration::from_secs(5)).await {
        Ok(_) => Some(client),
        // A socket that a dead server left behind refuses; one that answers too late is a server all the same.
        Err(error) => {
            let refused =
                error.downcast_ref::<Unreachable>().is_some_and(|error| error.to_string().contains("cannot connect"));
            (!refused).then_some(client)
        }
    }
}
