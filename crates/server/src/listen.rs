//! Listening on TCP and on the data folder's unix socket: connection limits, timeouts, and the orderly stop.
//!
//! A stop takes three steps: no new connections; running requests finish, idle connections close; what still runs after
//! `stop_timeout` is cut off.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::{App, guarded, router};
use crate::error::{Error, Result};
use crate::tls;

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
content-type: application/json\r\ncontent-length: 78\r\n\r\n\
{\"error\":{\"code\":\"limit\",\"message\":\"all connections are taken\",\"hint\":null}}\n\n";

/// Longest path of a unix socket on Linux, without its final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Bound listeners, ready to serve.
pub struct Server {
    app: Arc<App>,
    /// For the socket, which only the folder's owner can open.
    trusting: axum::Router,
    /// For TCP.
    guarded: axum::Router,
    tcp: Option<TcpListener>,
    tls: Option<TlsAcceptor>,
    unix: Option<UnixListener>,
    socket: Option<PathBuf>,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were still busy when the time was over, and were cut off.
    pub cut_off: usize,
}

impl Server {
    /// Binds what the app's config names. The caller holds the data folder's lock, so a socket file that is already there was
    /// left by a process that died, and is replaced.
    ///
    /// # Errors
    /// `unavailable` when an address is taken or not ours, `invalid` when the socket's path is too long or certificate and key
    /// do not fit. A list of tokens that cannot be read is an error too: a server does not start open because of that.
    pub async fn bind(app: Arc<App>) -> Result<Self> {
        app.read_tokens().await?;
        let tls = app.config.tls.as_ref().map(tls::acceptor).transpose()?;
        let tcp = match app.config.http {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
                Error::wrap(weir_base::Kind::Unavailable, format!("cannot listen on {address}"), error)
            })?),
            None => None,
        };
        let unix = app.config.socket.as_deref().map(bind_socket).transpose()?;
        let (trusting, guarded) = (router(Arc::clone(&app)), guarded(Arc::clone(&app)));
        Ok(Self { trusting, guarded, socket: app.config.socket.clone(), app, tcp, tls, unix })
    }

    /// The TCP address, with the port that the system chose.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Whether requests over TCP need a token.
    pub fn needs_tokens(&self) -> bool {
        self.app.needs_tokens()
    }

    /// Serves until `stop` is cancelled and what was running has ended or was cut off. Removes the socket.
    pub async fn serve(self, stop: CancellationToken) -> Stopped {
        let tracker = TaskTracker::new();
        let cut = CancellationToken::new();
        let tcp_slots = Arc::new(Semaphore::new(self.app.config.connections_max));
        let unix_slots = Arc::new(Semaphore::new(self.app.config.connections_max));
        let connection = Connection { app: &self.app, tracker: &tracker, stop: &stop, cut: &cut };
        let watching = tokio::spawn(Arc::clone(&self.app.tokens).watch(stop.clone()));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = accept_unix(self.unix.as_ref()) => {
                    if let Some((stream, slot)) = connection.accepted(accepted, &unix_slots, false).await {
                        connection.spawn(stream, slot, self.trusting.clone());
                    }
                }
                accepted = accept_tcp(self.tcp.as_ref()) => match (connection.accepted(accepted, &tcp_slots, self.tls.is_some()).await, &self.tls) {
                    (Some((stream, slot)), None) => connection.spawn(stream, slot, self.guarded.clone()),
                    (Some((stream, slot)), Some(tls)) => connection.spawn_tls(stream, slot, self.guarded.clone(), tls.clone()),
                    (None, _) => {}
                },
            }
        }
        self.app.stopping.cancel();
        drop((self.tcp, self.unix));
        if let Some(path) = &self.socket {
            remove(path);
        }
        tracker.close();
        let stopped = match tokio::time::timeout(self.app.config.stop_timeout, tracker.wait()).await {
            Ok(()) => Stopped { cut_off: 0 },
            Err(_) => Stopped { cut_off: tracker.len() },
        };
        cut.cancel();
        let _ = watching.await;
        // Cut-off connections end at their next turn; the wait only keeps them from outliving the database.
        let _ = tokio::time::timeout(Duration::from_secs(1), tracker.wait()).await;
        stopped
    }
}

/// What each new connection needs.
struct Connection<'a> {
    app: &'a Arc<App>,
    tracker: &'a TaskTracker,
    stop: &'a CancellationToken,
    cut: &'a CancellationToken,
}

impl Connection<'_> {
    /// A connection with its place; one past the limit is told so, in clear (a client that speaks TLS would not understand).
    async fn accepted<S>(
        &self,
        accepted: std::io::Result<S>,
        slots: &Arc<Semaphore>,
        encrypted: bool,
    ) -> Option<(S, OwnedSemaphorePermit)>
    where
        S: AsyncWrite + Unpin,
    {
        let mut stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of descriptors: the pending connection stays pending, and asking at once would spin.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return None;
            }
        };
        if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
            return Some((stream, slot));
        }
        self.app.metrics.connections_refused.fetch_add(1, Relaxed);
        tracing::warn!(limit = self.app.config.connections_max, "refused a connection: limits.connections_max");
        if !encrypted {
            // A fresh socket's send buffer takes these few bytes at once, or the peer is gone.
            let _ = tokio::time::timeout(Duration::from_millis(5), stream.write_all(REFUSAL)).await;
        }
        None
    }

    /// As [`Connection::spawn`], after a handshake that has a deadline and ends with a stop.
    fn spawn_tls(&self, stream: TcpStream, slot: OwnedSemaphorePermit, router: axum::Router, tls: TlsAcceptor) {
        let life = self.life();
        self.tracker.spawn(async move {
            let _slot = slot;
            let limit = life.app.config.tls_handshake_timeout;
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(limit, tls.accept(stream)) => shaken,
                () = life.stop.cancelled() => return,
            };
            match shaken {
                Ok(Ok(stream)) => life.serve(stream, router).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long: limits.tls_handshake_timeout_s"),
            }
        });
    }

    fn spawn<S>(&self, stream: S, slot: OwnedSemaphorePermit, router: axum::Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let life = self.life();
        self.tracker.spawn(async move {
            let _slot = slot;
            life.serve(stream, router).await;
        });
    }

    fn life(&self) -> Life {
        Life { app: Arc::clone(self.app), stop: self.stop.clone(), cut: self.cut.clone() }
    }
}

/// What one connection lives by.
struct Life {
    app: Arc<App>,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Life {
    /// Answers requests until the peer goes, the server stops or the connection is cut off.
    async fn serve<S>(self, stream: S, router: axum::Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { app, stop, cut } = self;
        app.metrics.connections.fetch_add(1, Relaxed);
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(app.config.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = cut.cancelled() => Ok(()),
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = served.as_mut() => ended,
                    () = cut.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = %weir_base::error::chain(&error), "a connection ended early");
        }
        app.metrics.connections.fetch_sub(1, Relaxed);
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> std::io::Result<TcpStream> {
    match listener {
        Some(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        None => std::future::pending().await,
    }
}

async fn accept_unix(listener: Option<&UnixListener>) -> std::io::Result<UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

fn bind_socket(path: &Path) -> Result<UnixListener> {
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(Error::invalid(format!(
            "the socket's path {} is longer than the {SOCKET_PATH_MAX} bytes that the system allows; use a shorter data folder",
            path.display()
        )));
    }
    remove(path);
    let cannot = |error| Error::io(format!("cannot listen on {}", path.display()), error);
    let listener = UnixListener::bind(path).map_err(cannot)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
    Ok(listener)
}

#[allow(clippy::disallowed_methods, reason = "a socket is a name in the kernel's namespace, not a file of the data")]
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_announces_its_own_length() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
