//! A request's body on its way into a write: received in pieces, inflated and parsed on blocking threads, counted at each step.
//!
//! A piece is at most a few hundred KiB of what came over the wire. Receiving it holds no thread; inflating and parsing it
//! holds one of `parse_threads` slots, never one of the runtime's threads (Q2). Inflated text passes through in pieces of
//! at most 128 KiB and is never held.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};
use weir_base::ByteSize;
use weir_limits::inflate::{Budget, Encoding, Inflate, InflateLimits};

use crate::config::Config;
use crate::database::WriteSession;
use crate::status::Problem;

/// Wire bytes that are gathered before a blocking thread is asked.
const PIECE_BYTES: usize = 512 << 10;
/// What a refused body is read on for, so that the client reads the answer instead of a reset.
const DRAIN_TIME: Duration = Duration::from_secs(5);
const DRAIN_BYTES: u64 = 256 << 20;

/// How a body is encoded, by its `content-encoding`.
///
/// # Errors
/// 415 for any other than gzip, zstd and identity, also for two at once.
pub(crate) fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    let name = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    match (name.as_str(), values.next()) {
        ("" | "identity", None) => Ok(Encoding::Identity),
        ("gzip" | "x-gzip", None) => Ok(Encoding::Gzip),
        ("zstd", None) => Ok(Encoding::Zstd),
        _ => Err(Problem::unsupported("the body's content-encoding is not gzip, zstd or identity")),
    }
}

/// The receiving side: pieces of the wire, within size and time.
pub(crate) struct Inlet {
    stream: BodyDataStream,
    bytes: u64,
    bytes_max: ByteSize,
    idle: Duration,
    deadline: Instant,
}

impl Inlet {
    /// Of `body`.
    ///
    /// # Errors
    /// 413 when its announced length is over the limit already.
    #[allow(clippy::result_large_err, reason = "the refused body goes along to be drained")]
    pub(crate) fn new(headers: &HeaderMap, body: Body, config: &Config) -> Result<Self, (Problem, Self)> {
        let inlet = Self {
            stream: body.into_data_stream(),
            bytes: 0,
            bytes_max: config.body_bytes_max,
            idle: config.body_idle_timeout,
            deadline: Instant::now() + config.body_timeout,
        };
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        match announced {
            Some(length) if length > inlet.bytes_max.bytes() => Err((inlet.too_large(), inlet)),
            _ => Ok(inlet),
        }
    }

    /// The next piece; none at the end of the body.
    pub(crate) async fn piece(&mut self) -> Result<Option<Vec<Bytes>>, Problem> {
        let (mut piece, mut len) = (Vec::new(), 0);
        while len < PIECE_BYTES {
            let until = self.deadline.min(Instant::now() + self.idle);
            match timeout_at(until, self.stream.next()).await {
                Err(_) => return Err(Problem::too_slow("the request's body did not arrive in time")),
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(Problem::invalid("the request's body ended early")),
                Ok(Some(Ok(bytes))) => {
                    self.bytes += bytes.len() as u64;
                    len += bytes.len();
                    piece.push(bytes);
                }
            }
            if self.bytes > self.bytes_max.bytes() {
                return Err(self.too_large());
            }
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// Bytes received.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads on for a while after a refusal and throws it away: a client that is still sending would otherwise see a reset
    /// connection and never the answer.
    pub(crate) async fn drain(mut self) {
        let until = Instant::now() + DRAIN_TIME;
        let mut drained = 0;
        while let Ok(Some(Ok(bytes))) = timeout_at(until, self.stream.next()).await {
            drained += bytes.len() as u64;
            if drained > DRAIN_BYTES {
                break;
            }
        }
    }

    fn too_large(&self) -> Problem {
        Problem::too_large("the request's body", self.bytes_max, "limits.body_bytes_max")
    }
}

/// The working side of a body: inflates and feeds. Call its methods where blocking is allowed.
pub(crate) struct Intake {
    inflate: Inflate,
    session: Box<dyn WriteSession>,
}

impl Intake {
    /// Into `session`.
    pub(crate) fn new(
        encoding: Encoding,
        session: Box<dyn WriteSession>,
        budget: &Budget,
        config: &Config,
    ) -> Result<Self, Problem> {
        let limits = InflateLimits {
            text_bytes_max: config.text_bytes_max.bytes(),
            ratio_max: u64::from(config.ratio_max),
            ..InflateLimits::default()
        };
        Ok(Self { inflate: Inflate::new(encoding, limits, budget)?, session })
    }

    /// Works through one piece of the wire.
    pub(crate) fn feed(&mut self, piece: &[Bytes]) -> Result<(), Problem> {
        let Self { inflate, session } = self;
        for bytes in piece {
            inflate.feed(bytes, &mut |text: &[u8]| session.feed(text).map_err(|error| error.into_problem()))?;
        }
        Ok(())
    }

    /// Ends the text; the write is ready to commit. Returns the decompressed length too.
    pub(crate) fn finish(self) -> Result<(Box<dyn WriteSession>, u64), Problem> {
        let inflated = self.inflate.finish()?;
        Ok((self.session, inflated.text_bytes))
    }
}
