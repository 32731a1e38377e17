//! Cuts line protocol into batches at line ends. A newline within a quoted field value does not end a line.

use std::io::{self, Read};

/// Text of one batch, unless a single line is longer.
const BATCH_BYTES: usize = 4 << 20;
/// A line that is longer cannot be right: the server's own limit is far below.
const LINE_BYTES_MAX: usize = 32 << 20;
const READ_BYTES: usize = 256 << 10;

/// Some whole lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The lines.
    pub(crate) text: Vec<u8>,
    /// The number of the first in the file, from 1.
    pub(crate) first_line: u64,
}

/// Reads batches.
pub(crate) struct Batches<R> {
    input: R,
    held: Vec<u8>,
    /// How much of `held` is known to be whole lines.
    whole: usize,
    /// How far the line after it has been looked through.
    scan: Scan,
    next_line: u64,
    ended: bool,
}

impl<R: Read> Batches<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, held: Vec::new(), whole: 0, scan: Scan::default(), next_line: 1, ended: false }
    }

    /// The next batch; none at the end.
    ///
    /// # Errors
    /// Those of reading; what was read before stays available to the caller as earlier batches.
    pub(crate) fn next(&mut self) -> io::Result<Option<Batch>> {
        while !self.ended && (self.held.len() < BATCH_BYTES || self.whole == 0) {
            if self.held.len() - self.whole > LINE_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("line {} is longer than {} MiB", self.next_line, LINE_BYTES_MAX >> 20),
                ));
            }
            self.fill()?;
        }
        let cut = if self.ended { self.held.len() } else { self.whole };
        if cut == 0 {
            return Ok(None);
        }
        let rest = self.held.split_off(cut);
        let text = std::mem::replace(&mut self.held, rest);
        self.whole = 0;
        let first_line = self.next_line;
        self.next_line += memchr::memchr_iter(b'\n', &text).count() as u64;
        Ok(Some(Batch { text, first_line }))
    }

    fn fill(&mut self) -> io::Result<()> {
        let before = self.held.len();
        self.held.resize(before + READ_BYTES, 0);
        let read = loop {
            match self.input.read(&mut self.held[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        self.held.truncate(before + read.as_ref().copied().unwrap_or(0));
        if read? == 0 {
            self.ended = true;
            return Ok(());
        }
        let mut at = before;
        while let Some(end) = self.scan.line_end(&self.held[at..]) {
            at += end;
            self.whole = at;
        }
        Ok(())
    }
}

/// Where in a line the scan is; kept between reads, so that every byte is looked at once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At its beginning.
    #[default]
    Start,
    Comment,
    /// Measurement and tags: quotes mean nothing.
    Head,
    /// Behind the first unescaped space: a quote opens a text where a value begins, that is behind an unescaped `=`.
    Fields,
    Text,
    /// In a text, behind a backslash.
    Escape,
}

/// Finds line ends by the same rule as the server's parser: a cut elsewhere would make lines of what is text.
#[derive(Debug, Default, Clone, Copy)]
struct Scan {
    place: Place,
    /// The byte before; `=` only when it is not escaped.
    before: u8,
}

impl Scan {
    /// Looks on through `bytes`; the position after the newline that ends the line, if it is there.
    fn line_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if !matches!(self.place, Place::Text | Place::Escape)
            && let Some(newline) = memchr::memchr(b'\n', bytes)
            && memchr::memchr(b'"', &bytes[..newline]).is_none()
        {
            // Nearly all lines have no quotes: then only the newline matters.
            *self = Self::default();
            return Some(newline + 1);
        }
        bytes.iter().position(|&byte| self.ends_at(byte)).map(|index| index + 1)
    }

    /// Takes one byte; whether it ends the line.
    fn ends_at(&mut self, byte: u8) -> bool {
        self.place = match (self.place, byte) {
            (Place::Escape, _) => Place::Text,
            (Place::Text, b'\\') => Place::Escape,
            (Place::Text, b'"') => Place::Fields,
            (Place::Text, _) => Place::Text,
            (_, b'\n') => {
                *self = Self::default();
                return true;
            }
            (Place::Start, b' ' | b'\t') => Place::Start,
            (Place::Start, b'#') => Place::Comment,
            (Place::Start, _) => Place::Head,
            (Place::Head, b' ') if self.before != b'\\' => Place::Fields,
            (Place::Fields, b'"') if self.before == b'=' => Place::Text,
            (place, _) => place,
        };
        self.before = if byte == b'=' && self.before == b'\\' { 0 } else { byte };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, so that every state is left and entered between reads.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buf.len());
            buf[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    /// The ends of all lines, as the scan sees them.
    fn ends(text: &[u8], step: usize) -> Vec<usize> {
        let (mut scan, mut ends) = (Scan::default(), Vec::new());
        for (index, chunk) in text.chunks(step).enumerate() {
            let mut at = 0;
            while let Some(end) = scan.line_end(&chunk[at..]) {
                at += end;
                ends.push(index * step + at);
            }
        }
        ends
    }

    #[test]
    fn only_newlines_outside_of_quoted_values_end_lines() {
        for (text, wanted) in [
            (&b"m v=1\nm v=2\n"[..], vec![6, 12]),
            (b"m s=\"a\nb\" 1\nm v=2\n", vec![12, 18]),
            (b"m s=\"a\\\"\nb\" 1\n", vec![14]),
            (b"m\" v=1\n", vec![7]),
            (b"m,t=\"x v=1\nm v=1\n", vec![11, 17]),
            (b"# it's \" a comment\nm v=1\n", vec![19, 25]),
            (b"m v=1 \"\nm v=2\n", vec![8, 14]),
            (b"m\\ \"x v=\"\n\" 1\r\n\n", vec![15, 16]),
        ] {
            for step in [1, 2, 3, 7, 1000] {
                assert_eq!(ends(text, step), wanted, "{:?} by {step}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn batches_are_whole_lines_with_their_numbers_and_lose_nothing() {
        let mut text = Vec::new();
        for index in 0..600_000 {
            let line = if index % 1000 == 7 { format!("m s=\"a\nb {index}\"\n") } else { format!("m v={index}\n") };
            text.extend_from_slice(line.as_bytes());
        }
        text.extend_from_slice(b"m v=0");
        let mut batches = Batches::new(Drops(&text, 100_003));
        let (mut joined, mut lines, mut count) = (Vec::new(), 1, 0);
        while let Some(batch) = batches.next().unwrap() {
            assert_eq!(batch.first_line, lines);
            lines += batch.text.iter().filter(|byte| **byte == b'\n').count() as u64;
            joined.extend_from_slice(&batch.text);
            count += 1;
        }
        assert!(joined == text && count > 1, "{count} batches");
    }
}
