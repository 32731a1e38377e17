//! A small HTTP client: over TCP, with or without TLS, over a server's unix socket, or straight into a router in this process.
//!
//! The third makes an embedded database and a server one thing for every command: same routes, same limits, same errors.

mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::ServiceExt;
use weir_base::Kind;

use crate::folder::{Secret, Target};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An error's body that is read at most.
const ERROR_BYTES_MAX: usize = 1 << 20;

/// How to reach the database.
#[derive(Clone)]
pub(crate) enum Transport {
    /// `HOST:PORT`.
    Tcp(String),
    /// `HOST:PORT`, whose certificate must be for this name.
    Tls(String, ServerName<'static>, Arc<ClientConfig>),
    /// A server's socket.
    Unix(PathBuf),
    /// A database in this process.
    InProcess(axum::Router),
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Tls(authority, ..) => write!(f, "https://{authority}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::InProcess(_) => f.write_str("this process"),
        }
    }
}

/// An answer that says no.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What kind of no.
    pub(crate) kind: Kind,
    /// The server's words.
    pub(crate) message: String,
    /// When to come back, if that can help.
    pub(crate) retry_after: Option<Duration>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

/// The server cannot be reached, or went away.
#[derive(Debug)]
pub(crate) struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// A client with at most one open connection.
pub(crate) struct Client {
    transport: Transport,
    /// Sent with every request.
    token: Option<Secret>,
    connection: Option<SendRequest<Body>>,
}

impl Client {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, token: None, connection: None }
    }

    /// Of the server that `target` names; `None` when it names none.
    ///
    /// # Errors
    /// When the address makes no sense, or the certificates to trust cannot be read.
    pub(crate) fn of_target(target: &Target) -> Result<Option<Self>> {
        let Some(url) = &target.server else { return Ok(None) };
        let mut client = Self::new(transport(url, target.ca.as_deref())?);
        client.token.clone_from(&target.token);
        Ok(Some(client))
    }

    /// Whether a token would go over a network where others can read it.
    pub(crate) fn tells_token(&self) -> bool {
        let Transport::Tcp(authority) = &self.transport else { return false };
        let host = host_of(authority);
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.token.is_some() && !local
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> String {
        self.transport.to_string()
    }

    /// Sends a request and waits for the head of the answer, at most `deadline`.
    ///
    /// # Errors
    /// [`Unreachable`] when there is no answer; statuses are the caller's to judge.
    pub(crate) async fn send(&mut self, request: Request<Body>, deadline: Duration) -> Result<Response<Body>> {
        let peer = self.peer();
        match tokio::time::timeout(deadline, self.send_unbounded(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.connection = None;
                Err(Unreachable(format!("{peer} did not answer within {} s", deadline.as_secs())).into())
            }
        }
    }

    async fn send_unbounded(&mut self, mut request: Request<Body>) -> Result<Response<Body>> {
        if let Transport::InProcess(router) = &self.transport {
            let Ok(answer) = router.clone().oneshot(request).await;
            return Ok(answer);
        }
        let host = match &self.transport {
            Transport::Tcp(authority) | Transport::Tls(authority, ..) => authority.clone(),
            _ => "localhost".to_owned(),
        };
        request.headers_mut().insert(header::HOST, host.parse().context("the server's name is not a host name")?);
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.reveal());
            let mut value = HeaderValue::try_from(value).context("the token has characters that no token has")?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let sender = self.connected().await?;
        match sender.send_request(request).await {
            Ok(answer) => Ok(answer.map(Body::new)),
            Err(error) => {
                self.connection = None;
                let cause = weir_base::error::chain(&error);
                Err(Unreachable(format!("{} did not answer: {cause}", self.transport)).into())
            }
        }
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Body>> {
        let alive = match &mut self.connection {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !alive {
            self.connection = Some(connect(&self.transport).await?);
        }
        self.connection.as_mut().context("there is no connection")
    }
}

/// Of a URL as people write it: `http://host:8181`, `https://host:8181`, `host:8181`.
fn transport(url: &str, ca: Option<&Path>) -> Result<Transport> {
    let encrypted = url.strip_prefix("https://");
    let authority = encrypted.or_else(|| url.strip_prefix("http://")).unwrap_or(url).trim_end_matches('/');
    if authority.is_empty() || authority.contains(['/', '@', '?', '#', ' ']) {
        // The address may hold a password: it is not printed.
        bail!("this is not a server's address such as http://127.0.0.1:8181");
    }
    let port_given = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if port_given { authority.to_owned() } else { format!("{authority}:8181") };
    if encrypted.is_none() {
        return Ok(Transport::Tcp(authority));
    }
    let name = ServerName::try_from(host_of(&authority).to_owned())
        .with_context(|| format!("'{authority}' has no name that a certificate could be for"))?;
    Ok(Transport::Tls(authority, name, tls::config(ca)?))
}

/// Without the port, and without the brackets of an IPv6 address.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

async fn connect(transport: &Transport) -> Result<SendRequest<Body>> {
    let cannot = |error: std::io::Error| Unreachable(format!("cannot connect to {transport}: {error}"));
    let connecting = async {
        match transport {
            Transport::Tcp(authority) => {
                let stream = tokio::net::TcpStream::connect(authority).await.map_err(cannot)?;
                stream.set_nodelay(true).map_err(cannot)?;
                handshake(stream).await
            }
            Transport::Tls(authority, name, config) => {
                let stream = tokio::net::TcpStream::connect(authority).await.map_err(cannot)?;
                stream.set_nodelay(true).map_err(cannot)?;
                let connector = TlsConnector::from(Arc::clone(config));
                handshake(connector.connect(name.clone(), stream).await.map_err(cannot)?).await
            }
            Transport::Unix(path) => handshake(tokio::net::UnixStream::connect(path).await.map_err(cannot)?).await,
            Transport::InProcess(_) => bail!("a database in this process has no connection"),
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(Unreachable(format!("cannot connect to {transport} within {CONNECT_TIMEOUT:?}")).into()),
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<SendRequest<Body>> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its error reaches the request that is waiting.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Percent-encodes a value for a query string.
pub(crate) fn escape(value: &str) -> String {
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

/// The whole body, at most `limit` bytes.
pub(crate) async fn collect(body: Body, limit: usize) -> Result<Bytes> {
    axum::body::to_bytes(body, limit).await.context("the answer ended early")
}

/// An answer with an error status, as an error.
pub(crate) async fn refusal(answer: Response<Body>) -> anyhow::Error {
    let status = answer.status();
    let retry_after = answer
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let body = match collect(answer.into_body(), ERROR_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let error = &told["error"];
    let message = match error.as_str().or_else(|| error["message"].as_str()) {
        Some(message) => message.to_owned(),
        None => format!("the server answered {status}"),
    };
    let message = match error["hint"].as_str() {
        Some(hint) => format!("{message} ({hint})"),
        None => message,
    };
    let kind = error["code"].as_str().and_then(kind_of_code).unwrap_or_else(|| kind_of_status(status));
    Refused { kind, message, retry_after }.into()
}

fn kind_of_code(code: &str) -> Option<Kind> {
    const KINDS: [Kind; 8] = [
        Kind::NotFound,
        Kind::Invalid,
        Kind::Forbidden,
        Kind::Conflict,
        Kind::Limit,
        Kind::Unavailable,
        Kind::Damaged,
        Kind::Internal,
    ];
    KINDS.into_iter().find(|kind| kind.code() == code)
}

fn kind_of_status(status: StatusCode) -> Kind {
    match status.as_u16() {
        401 | 403 => Kind::Forbidden,
        404 => Kind::NotFound,
        409 => Kind::Conflict,
        408 | 413 | 422 | 429 => Kind::Limit,
        500 => Kind::Internal,
        code if code >= 500 => Kind::Unavailable,
        _ => Kind::Invalid,
    }
}

/// Copies a body to `out` as it comes.
pub(crate) async fn copy(body: Body, out: &mut dyn std::io::Write) -> Result<()> {
    pieces(body, |piece| Ok(out.write_all(&piece)?)).await?;
    Ok(out.flush()?)
}

/// Hands on the pieces of a body as they come.
pub(crate) async fn pieces(body: Body, mut each: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let early = |_| Unreachable("the answer ended early: the query failed or the server stopped".into());
        each(piece.map_err(early)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_as_people_write_them() {
        for (url, peer) in [
            ("http://127.0.0.1:8181", "http://127.0.0.1:8181"),
            ("db.example", "http://db.example:8181"),
            ("http://[::1]:90/", "http://[::1]:90"),
        ] {
            assert_eq!(transport(url, None).unwrap().to_string(), peer);
        }
        for bad in ["http://", "https://", "http://x/y", "a b", "http://user:secret@x"] {
            let told = transport(bad, None).err().expect("refused").to_string();
            assert!(!told.contains("secret"), "{bad}");
        }
    }
}
