//! Bounded decompression: gzip (any number of members) and zstd, as a stream, within limits.
//!
//! A few hundred kilobytes can hold gigabytes, so nothing is ever inflated as a whole: text comes out in pieces of at most
//! [`PIECE_BYTES`], each counted before it is handed on. Four limits hold for one stream: its text, the ratio of text to
//! what it was compressed to, the window that a frame may ask for, and the number of members. A [`Budget`] holds for all
//! streams of the process together. Past a limit the error names it; past the shared budget trying again may help.
//!
//! [`Inflate`] is fed (a request's body arrives in pieces); [`BoundedReader`] is read from (a file).
//!
//! ```
//! use weir_limits::inflate::{Budget, Encoding, Inflate, InflateLimits};
//! let mut text = Vec::new();
//! let mut inflate = Inflate::new(Encoding::Identity, InflateLimits::default(), &Budget::new(1 << 30))?;
//! inflate.feed(b"abc", &mut |piece| -> weir_limits::Result<()> { Ok(text.extend_from_slice(piece)) })?;
//! assert_eq!(inflate.finish()?.text_bytes, 3);
//! # Ok::<(), weir_limits::Error>(())
//! ```

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::{Decompress, FlushDecompress, Status};
use weir_base::{ByteSize, Kind, Retry};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use crate::error::{Error, Result};

/// Most text that is inflated at once.
pub const PIECE_BYTES: usize = 128 << 10;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

/// What one stream may do.
#[derive(Debug, Clone, Copy)]
pub struct InflateLimits {
    /// Most text.
    pub text_bytes_max: u64,
    /// Most bytes of text for each compressed byte, once there are more than `ratio_free_bytes` of text.
    pub ratio_max: u64,
    /// Text that may come at any ratio: a short text of one repeated line is honest.
    pub ratio_free_bytes: u64,
    /// Largest zstd window as a power of two. RFC 8878 asks decoders to support 23 (8 MiB).
    pub window_log_max: u32,
    /// Most gzip members or zstd frames.
    pub members_max: u64,
}

impl Default for InflateLimits {
    /// 256 MiB of text; 100 : 1 past the first MiB; windows of 8 MiB; 65,536 members.
    fn default() -> Self {
        Self {
            text_bytes_max: 256 << 20,
            ratio_max: 100,
            ratio_free_bytes: 1 << 20,
            window_log_max: 23,
            members_max: 1 << 16,
        }
    }
}

/// Text that all streams of the process together may have in work. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    used: Arc<AtomicU64>,
    max: u64,
}

/// What one stream holds of a budget; given back when dropped.
#[derive(Debug)]
struct Share {
    budget: Budget,
    bytes: u64,
}

/// A stream that is fed.
pub struct Inflate {
    decoder: Decoder,
    limits: InflateLimits,
    share: Share,
    /// Compressed bytes taken in.
    input_bytes: u64,
    text_bytes: u64,
    members: u64,
    /// Whether a member has begun and not ended.
    open: bool,
    piece: Vec<u8>,
}

/// The size of a stream that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflated {
    /// As it came.
    pub input_bytes: u64,
    /// As it left.
    pub text_bytes: u64,
}

enum Decoder {
    Identity,
    Gzip(Decompress),
    Zstd(ZstdDecoder<'static>),
}

/// What one call of a decoder did.
struct Step {
    read: usize,
    written: usize,
    ended: bool,
}

impl Budget {
    /// At most `bytes_max` bytes at once.
    pub fn new(bytes_max: u64) -> Self {
        Self { used: Arc::default(), max: bytes_max }
    }

    /// Bytes in work now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Share {
    fn grow(&mut self, bytes: u64) -> Result<()> {
        let max = self.budget.max;
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        match self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => {
                let max = ByteSize::new(max);
                let reason = format!("all requests together have {max} of text in work (limit text_bytes_total_max)");
                Err(Error::new(Kind::Limit, reason).with_retry(Retry::After(Duration::from_secs(1))))
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Inflate {
    /// A stream in `encoding`.
    ///
    /// # Errors
    /// `internal` when the decoder cannot be set up.
    pub fn new(encoding: Encoding, limits: InflateLimits, budget: &Budget) -> Result<Self> {
        let decoder = match encoding {
            Encoding::Identity => Decoder::Identity,
            Encoding::Gzip => Decoder::Gzip(Decompress::new_gzip(15)),
            Encoding::Zstd => {
                let broken = |error| Error::wrap(Kind::Internal, "cannot set up the zstd decoder", error);
                let mut decoder = ZstdDecoder::new().map_err(broken)?;
                decoder.set_parameter(DParameter::WindowLogMax(limits.window_log_max)).map_err(broken)?;
                Decoder::Zstd(decoder)
            }
        };
        let share = Share { budget: budget.clone(), bytes: 0 };
        let piece = vec![0; PIECE_BYTES];
        Ok(Self { decoder, limits, share, input_bytes: 0, text_bytes: 0, members: 0, open: false, piece })
    }

    /// Takes the next compressed bytes and hands their text to `sink`, piece by piece.
    ///
    /// # Errors
    /// Those of `sink`; `limit` past a limit (with a retry past the shared budget); `invalid` when the bytes are not in the
    /// encoding. The stream is of no use after an error.
    pub fn feed<E: From<Error>>(
        &mut self,
        mut input: &[u8],
        sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = std::mem::take(&mut self.piece);
        loop {
            let step = self.step(input, &mut piece)?;
            input = &input[step.read..];
            if step.written > 0 {
                sink(&piece[..step.written])?;
            }
            if input.is_empty() && step.written < piece.len() {
                self.piece = piece;
                return Ok(());
            }
        }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// `invalid` when it is cut off.
    pub fn finish(self) -> Result<Inflated> {
        self.check_end()?;
        Ok(Inflated { input_bytes: self.input_bytes, text_bytes: self.text_bytes })
    }

    fn check_end(&self) -> Result<()> {
        let empty = self.members == 0 && !matches!(self.decoder, Decoder::Identity);
        if self.open || empty {
            return Err(Error::invalid(format!("the {} data ends too early", self.name())));
        }
        Ok(())
    }

    /// Decodes some of `input` into `output` and counts both. With input left or `output` filled there is more to come.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        if !input.is_empty() && !self.open {
            self.begin()?;
        }
        let step = match &mut self.decoder {
            Decoder::Identity => {
                let len = input.len().min(output.len());
                output[..len].copy_from_slice(&input[..len]);
                Step { read: len, written: len, ended: true }
            }
            Decoder::Gzip(_) | Decoder::Zstd(_) if !self.open => Step { read: 0, written: 0, ended: false },
            Decoder::Gzip(decoder) => gunzip(decoder, input, output)?,
            Decoder::Zstd(decoder) => unzstd(decoder, input, output)?,
        };
        self.open &= !step.ended;
        self.input_bytes += step.read as u64;
        self.text_bytes += step.written as u64;
        self.check()?;
        self.share.grow(step.written as u64)?;
        if step.read == 0 && step.written == 0 && !input.is_empty() && !step.ended {
            return Err(self.damaged());
        }
        Ok(step)
    }

    /// Begins a member.
    fn begin(&mut self) -> Result<()> {
        let max = self.limits.members_max;
        match &mut self.decoder {
            Decoder::Identity => return Ok(()),
            _ if self.members == max => {
                let reason = format!("the {} data has more than {max} members (limit members_max)", self.name());
                return Err(Error::new(Kind::Limit, reason));
            }
            _ if self.members == 0 => {}
            Decoder::Gzip(decoder) => *decoder = Decompress::new_gzip(15),
            Decoder::Zstd(decoder) => {
                decoder.reinit().map_err(|error| Error::wrap(Kind::Internal, "cannot begin a zstd frame", error))?;
            }
        }
        self.members += 1;
        self.open = true;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let InflateLimits { text_bytes_max, ratio_max, ratio_free_bytes, .. } = self.limits;
        if self.text_bytes > text_bytes_max {
            let max = ByteSize::new(text_bytes_max);
            return Err(Error::new(Kind::Limit, format!("the text is longer than {max} (limit text_bytes_max)")));
        }
        if self.text_bytes > ratio_free_bytes.saturating_add(self.input_bytes.saturating_mul(ratio_max)) {
            let reason = format!("the text is more than {ratio_max} times as long as its data (limit ratio_max)");
            return Err(Error::new(Kind::Limit, reason));
        }
        Ok(())
    }

    fn damaged(&self) -> Error {
        Error::invalid(format!("the data is not {}", self.name()))
    }

    fn name(&self) -> &'static str {
        match self.decoder {
            Decoder::Identity => "plain",
            Decoder::Gzip(_) => "gzip",
            Decoder::Zstd(_) => "zstd",
        }
    }
}

fn gunzip(decoder: &mut Decompress, input: &[u8], output: &mut [u8]) -> Result<Step> {
    let (read, written) = (decoder.total_in(), decoder.total_out());
    let status = decoder
        .decompress(input, output, FlushDecompress::None)
        .map_err(|error| Error::wrap(Kind::Invalid, "the data is not gzip", error))?;
    // Both are less than the lengths of the slices.
    let (read, written) = ((decoder.total_in() - read) as usize, (decoder.total_out() - written) as usize);
    Ok(Step { read, written, ended: status == Status::StreamEnd })
}

fn unzstd(decoder: &mut ZstdDecoder<'static>, input: &[u8], output: &mut [u8]) -> Result<Step> {
    let status = decoder.run_on_buffers(input, output).map_err(|error| {
        // The library has no other way to tell a window past its limit from damage.
        if error.to_string().contains("too much memory") {
            return Error::wrap(Kind::Limit, "the zstd data asks for too large a window (limit window_log_max)", error);
        }
        Error::wrap(Kind::Invalid, "the data is not zstd", error)
    })?;
    Ok(Step { read: status.bytes_read, written: status.bytes_written, ended: status.remaining == 0 })
}

/// Text from a compressed source, within limits. An error of the limits comes wrapped in an [`io::Error`]; a source that is
/// cut off is one of them.
pub struct BoundedReader<R> {
    source: R,
    inflate: Inflate,
    input: Vec<u8>,
    /// What of `input` is not yet taken in.
    at: usize,
    len: usize,
    ended: bool,
}

impl<R: Read> BoundedReader<R> {
    /// Reads `source`.
    ///
    /// # Errors
    /// As [`Inflate::new`].
    pub fn new(source: R, encoding: Encoding, limits: InflateLimits, budget: &Budget) -> Result<Self> {
        let inflate = Inflate::new(encoding, limits, budget)?;
        Ok(Self { source, inflate, input: vec![0; 64 << 10], at: 0, len: 0, ended: false })
    }
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            let step = self.inflate.step(&self.input[self.at..self.len], output).map_err(io::Error::other)?;
            self.at += step.read;
            if step.written > 0 {
                return Ok(step.written);
            }
            if self.at < self.len {
                continue;
            }
            if self.ended {
                return self.inflate.check_end().map(|()| 0).map_err(io::Error::other);
            }
            self.at = 0;
            self.len = self.source.read(&mut self.input)?;
            self.ended = self.len == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 3).unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                b"0123456789abcdef"[(state >> 60) as usize]
            })
            .collect()
    }

    fn inflate(encoding: Encoding, limits: InflateLimits, data: &[u8], chunk: usize) -> Result<Vec<u8>> {
        let budget = Budget::new(u64::MAX);
        let mut inflate = Inflate::new(encoding, limits, &budget)?;
        let mut text = Vec::new();
        for part in data.chunks(chunk) {
            inflate.feed(part, &mut |piece| -> Result<()> {
                assert!(piece.len() <= PIECE_BYTES);
                text.extend_from_slice(piece);
                Ok(())
            })?;
        }
        let sizes = inflate.finish()?;
        assert_eq!(sizes, Inflated { input_bytes: data.len() as u64, text_bytes: text.len() as u64 });
        assert_eq!(budget.used(), 0);
        let mut read = Vec::new();
        let mut reader = BoundedReader::new(data, encoding, limits, &budget)?;
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, text);
        Ok(text)
    }

    const BOTH: [(Encoding, fn(&[u8]) -> Vec<u8>); 2] = [(Encoding::Gzip, gzip), (Encoding::Zstd, zstd)];

    #[test]
    fn members_and_frames_follow_each_other_in_any_chunks() {
        let parts = [noise(300_000), Vec::new(), b"x".to_vec(), noise(131_072)];
        for (encoding, encode) in BOTH {
            let data: Vec<u8> = parts.iter().flat_map(|part| encode(part)).collect();
            for chunk in [1, 7, 1_000, data.len()] {
                let text = inflate(encoding, InflateLimits::default(), &data, chunk).unwrap();
                assert_eq!(text, parts.concat(), "{encoding:?} {chunk}");
            }
        }
        assert_eq!(inflate(Encoding::Identity, InflateLimits::default(), b"", 1).unwrap(), b"");
        assert_eq!(inflate(Encoding::Identity, InflateLimits::default(), &parts[0], 200_000).unwrap(), parts[0]);
    }

    #[test]
    fn data_that_is_cut_or_damaged_is_refused() {
        for (encoding, encode) in BOTH {
            let data = encode(&noise(1_000));
            for len in 0..data.len() {
                let error = inflate(encoding, InflateLimits::default(), &data[..len], 100).unwrap_err();
                assert_eq!(error.kind(), Kind::Invalid, "{len}");
                let budget = Budget::new(u64::MAX);
                let mut reader = BoundedReader::new(&data[..len], encoding, InflateLimits::default(), &budget).unwrap();
                assert!(reader.read_to_end(&mut Vec::new()).is_err());
            }
            let garbage = [data.clone(), b"garbage".to_vec()].concat();
            assert!(inflate(encoding, InflateLimits::default(), &garbage, 100).is_err());
        }
        let mut data = gzip(&noise(1_000));
        let last = data.len() - 5;
        data[last] ^= 1;
        assert!(inflate(Encoding::Gzip, InflateLimits::default(), &data, 100).is_err(), "the checksum is wrong");
    }

    /// S1: text, ratio, members and window, each reached and named.
    #[test]
    fn s1_a_stream_stops_at_each_of_its_limits() {
        let check = |encoding, limits, data: &[u8], limit: &str| {
            let error = inflate(encoding, limits, data, 1_000).unwrap_err();
            assert_eq!(error.kind(), Kind::Limit);
            assert_eq!(error.retry(), Retry::Never);
            assert!(error.to_string().contains(limit), "{error}");
        };
        let limits = InflateLimits::default();
        for (encoding, encode) in BOTH {
            let bomb = encode(&vec![0; 32 << 20]);
            check(encoding, limits, &bomb, "ratio_max");
            check(
                encoding,
                InflateLimits { ratio_max: 1 << 20, text_bytes_max: 5 << 20, ..limits },
                &bomb,
                "text_bytes_max",
            );
            let honest = InflateLimits { ratio_free_bytes: 32 << 20, ..limits };
            assert_eq!(inflate(encoding, honest, &bomb, 1_000).unwrap().len(), 32 << 20);
            let members: Vec<u8> = (0..5).flat_map(|_| encode(b"text")).collect();
            check(encoding, InflateLimits { members_max: 4, ..limits }, &members, "members_max");
            assert!(inflate(encoding, InflateLimits { members_max: 5, ..limits }, &members, 3).is_ok());
        }
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&noise(100)).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(&noise(20 << 20)).unwrap();
        check(Encoding::Zstd, limits, &encoder.finish().unwrap(), "window_log_max");
    }

    /// S1: the budget of the process, given back by every stream however it ends.
    #[test]
    fn s1_all_streams_share_one_budget() {
        let budget = Budget::new(500_000);
        let data = gzip(&noise(300_000));
        let open = || Inflate::new(Encoding::Gzip, InflateLimits::default(), &budget).unwrap();
        let mut sink = |_: &[u8]| -> Result<()> { Ok(()) };
        let (mut first, mut second) = (open(), open());
        first.feed(&data, &mut sink).unwrap();
        assert_eq!(budget.used(), 300_000);
        let error = second.feed(&data, &mut sink).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (Kind::Limit, Retry::After(Duration::from_secs(1))));
        assert!(budget.used() <= 500_000);
        drop(second);
        assert_eq!(budget.used(), 300_000);
        first.finish().unwrap();
        assert_eq!(budget.used(), 0);
        open().feed(&data, &mut sink).unwrap();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_error_of_the_sink_is_passed_on() {
        let budget = Budget::new(u64::MAX);
        let mut inflate = Inflate::new(Encoding::Gzip, InflateLimits::default(), &budget).unwrap();
        let error = inflate.feed(&gzip(b"text"), &mut |_| Err(Error::invalid("enough"))).unwrap_err();
        assert_eq!(error.to_string(), "enough");
    }
}
