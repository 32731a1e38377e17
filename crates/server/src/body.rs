//! A request's body on its way into a write: received in pieces, inflated and parsed on blocking threads, counted at each step.
//!
//! A piece is at most a few hundred KiB of what came over the wire. Receiving it holds no thread; inflating and parsing it
//! holds one of `parse_threads` slots, never one of the runtime's threads (Q2). Inflated text passes through in pieces of
//! at most 128 KiB and is never held.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};
use weir_base::ByteSize;

use crate::config::Config;
use crate::database::WriteSession;
use crate::status::Problem;

/// Wire bytes that are gathered before a blocking thread is asked.
const PIECE_BYTES: usize = 512 << 10;
/// The ratio of a body counts from here on: short texts of one repeated line are honest.
const RATIO_FREE_BYTES: u64 = 1 << 20;
/// Largest zstd window, as a power of two: 8 MiB, which RFC 8878 asks decoders to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What a refused body is read on for, so that the client reads the answer instead of a reset.
const DRAIN_TIME: Duration = Duration::from_secs(5);
const DRAIN_BYTES: u64 = 256 << 20;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// Of `content-encoding`.
    ///
    /// # Errors
    /// 415 for any other, also for two at once.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else { return Ok(Self::Identity) };
        let name = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
        match (name.as_str(), values.next()) {
            ("" | "identity", None) => Ok(Self::Identity),
            ("gzip" | "x-gzip", None) => Ok(Self::Gzip),
            ("zstd", None) => Ok(Self::Zstd),
            _ => Err(Problem::unsupported("the body's content-encoding is not gzip, zstd or identity")),
        }
    }
}

/// The decompressed bytes that all requests together may have in work.
#[derive(Debug, Clone)]
pub(crate) struct TextBudget {
    used: Arc<AtomicU64>,
    max: ByteSize,
}

/// What one request holds of the budget; given back when it is dropped.
#[derive(Debug)]
struct Reservation {
    budget: TextBudget,
    bytes: u64,
}

impl TextBudget {
    pub(crate) fn new(max: ByteSize) -> Self {
        Self { used: Arc::default(), max }
    }

    fn reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }
}

impl Reservation {
    fn grow(&mut self, bytes: u64) -> Result<(), Problem> {
        let max = self.budget.max.bytes();
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        match self.budget.used.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Problem::budget(self.budget.max, "limits.text_bytes_total_max")),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
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

/// Where inflated text ends: counted, checked, and fed into the write.
struct TextSink {
    session: Box<dyn WriteSession>,
    reservation: Reservation,
    wire_bytes: u64,
    text_bytes: u64,
    text_bytes_max: ByteSize,
    ratio_max: u32,
    problem: Option<Problem>,
}

impl TextSink {
    fn take(&mut self, text: &[u8]) -> Result<(), Problem> {
        self.text_bytes += text.len() as u64;
        if self.text_bytes > self.text_bytes_max.bytes() {
            return Err(Problem::too_large(
                "the request's decompressed body",
                self.text_bytes_max,
                "limits.text_bytes_max",
            ));
        }
        let allowed = self.wire_bytes.saturating_mul(u64::from(self.ratio_max));
        if self.text_bytes > RATIO_FREE_BYTES.saturating_add(allowed) {
            let limit = format!("{} : 1", self.ratio_max);
            return Err(Problem::too_large("the request's compression ratio", limit, "limits.ratio_max"));
        }
        self.reservation.grow(text.len() as u64)?;
        self.session.feed(text).map_err(|error| error.into_problem())
    }
}

impl Write for TextSink {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self.take(text) {
            Ok(()) => Ok(text.len()),
            Err(problem) => {
                self.problem = Some(problem);
                Err(io::Error::other("refused"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    Identity(TextSink),
    Gzip(flate2::write::MultiGzDecoder<TextSink>),
    Zstd(zstd::stream::write::Decoder<'static, TextSink>),
}

/// The working side of a body: inflates and feeds. Call its methods where blocking is allowed.
pub(crate) struct Intake(Decoder);

impl Intake {
    /// Into `session`.
    pub(crate) fn new(
        encoding: Encoding,
        session: Box<dyn WriteSession>,
        budget: &TextBudget,
        config: &Config,
    ) -> Result<Self, Problem> {
        let sink = TextSink {
            session,
            reservation: budget.reservation(),
            wire_bytes: 0,
            text_bytes: 0,
            text_bytes_max: config.text_bytes_max,
            ratio_max: config.ratio_max,
            problem: None,
        };
        Ok(Self(match encoding {
            Encoding::Identity => Decoder::Identity(sink),
            Encoding::Gzip => Decoder::Gzip(flate2::write::MultiGzDecoder::new(sink)),
            Encoding::Zstd => {
                let broken = |_| Problem::bug("cannot set up zstd");
                let mut decoder = zstd::stream::raw::Decoder::new().map_err(broken)?;
                decoder
                    .set_parameter(zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                    .map_err(broken)?;
                let writer = zstd::stream::zio::Writer::new(sink, decoder);
                Decoder::Zstd(zstd::stream::write::Decoder::with_writer(writer))
            }
        }))
    }

    /// Works through one piece of the wire.
    pub(crate) fn feed(&mut self, piece: &[Bytes]) -> Result<(), Problem> {
        for bytes in piece {
            self.sink().wire_bytes += bytes.len() as u64;
            let outcome = match &mut self.0 {
                Decoder::Identity(sink) => sink.write_all(bytes),
                Decoder::Gzip(decoder) => decoder.write_all(bytes),
                Decoder::Zstd(decoder) => decoder.write_all(bytes),
            };
            outcome.map_err(|_| self.problem())?;
        }
        Ok(())
    }

    /// Ends the text; the write is ready to commit. Returns the decompressed length too.
    pub(crate) fn finish(mut self) -> Result<(Box<dyn WriteSession>, u64), Problem> {
        let outcome = match &mut self.0 {
            Decoder::Identity(_) => Ok(()),
            Decoder::Gzip(decoder) => decoder.try_finish(),
            Decoder::Zstd(decoder) => decoder.do_finish(),
        };
        outcome.map_err(|_| self.problem())?;
        let sink = match self.0 {
            Decoder::Identity(sink) => sink,
            Decoder::Gzip(decoder) => decoder.finish().map_err(|_| damaged("gzip"))?,
            Decoder::Zstd(decoder) => decoder.finish().map_err(|_| damaged("zstd"))?,
        };
        Ok((sink.session, sink.text_bytes))
    }

    fn sink(&mut self) -> &mut TextSink {
        match &mut self.0 {
            Decoder::Identity(sink) => sink,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
        }
    }

    /// What the sink refused, else the encoding itself is bad.
    fn problem(&mut self) -> Problem {
        let encoding = match &self.0 {
            Decoder::Identity(_) => "identity",
            Decoder::Gzip(_) => "gzip",
            Decoder::Zstd(_) => "zstd",
        };
        self.sink().problem.take().unwrap_or_else(|| damaged(encoding))
    }
}

fn damaged(encoding: &str) -> Problem {
    Problem::invalid(format!("the request's body is not whole {encoding} data; nothing of it was written"))
}
