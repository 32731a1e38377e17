//! The server's limits, checked, with units in their types. Defaults are those that the documentation promises.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weir_base::ByteSize;

use crate::tls::TlsFiles;
use crate::tokens::TokenFile;

/// Everything that bounds the HTTP side.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen for TCP; none for a server that only embedded callers and the socket reach.
    pub http: Option<SocketAddr>,
    /// The unix socket, mode 0600.
    pub socket: Option<PathBuf>,
    /// Connections over TCP at once; past it 503 and the connection is closed. The socket has as many of its own.
    pub connections_max: usize,
    /// Time to send a request's head; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// Time between two pieces of a request's body.
    pub body_idle_timeout: Duration,
    /// Time for a whole body.
    pub body_timeout: Duration,
    /// A request's body as it comes over the wire; past it 413.
    pub body_bytes_max: ByteSize,
    /// A request's body decompressed; past it 413.
    pub text_bytes_max: ByteSize,
    /// Decompressed bytes of all requests at once; past it 429.
    pub text_bytes_total_max: ByteSize,
    /// Decompressed bytes per compressed byte, past the first MiB; past it 413.
    pub ratio_max: u32,
    /// Requests that may be writing at once; past it they wait, then 503.
    pub writes_max: usize,
    /// How long a write waits for its turn.
    pub write_wait: Duration,
    /// How long a write waits to be durable before it is answered 503 with an unknown outcome.
    pub commit_timeout: Duration,
    /// Threads that may parse at once.
    pub parse_threads: usize,
    /// The list of tokens; `None` where everybody may do everything.
    pub tokens: Option<TokenFile>,
    /// Certificate and key for TCP; without them it is in clear.
    pub tls: Option<TlsFiles>,
    /// Time for the handshake of TLS; past it the connection is closed.
    pub tls_handshake_timeout: Duration,
    /// How long an orderly stop waits for running requests.
    pub stop_timeout: Duration,
    /// What its own measurements call this server.
    pub name: String,
    /// How often they are written into database `weir`; see [`crate::own`].
    pub own_metrics_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            http: Some(SocketAddr::from(([127, 0, 0, 1], 8181))),
            socket: None,
            connections_max: 1024,
            header_timeout: Duration::from_secs(30),
            body_idle_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(300),
            body_bytes_max: ByteSize::mib(64),
            text_bytes_max: ByteSize::mib(256),
            text_bytes_total_max: ByteSize::mib(1024),
            ratio_max: 100,
            writes_max: 128,
            write_wait: Duration::from_secs(5),
            commit_timeout: Duration::from_secs(60),
            parse_threads: cores,
            tokens: None,
            tls: None,
            tls_handshake_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(30),
            name: weir_base::machine::host_name(),
            own_metrics_every: Duration::from_secs(10),
        }
    }
}
