//! What is written: a file or standard input, inflated when its first bytes say that it is compressed.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};

const BUFFER_BYTES: usize = 256 << 10;

/// The raw bytes, and how many there are if that is known.
pub(super) type Input = (Box<dyn Read + Send>, Option<u64>);

/// Opens a file, or standard input for `-`.
#[allow(clippy::disallowed_methods, reason = "a file of the user's, not of the database")]
pub(super) fn open(path: &Path) -> Result<Input> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
    Ok((Box::new(file), bytes))
}

/// The text behind `raw`: of gzip (several members too), zstd, or as it is.
pub(crate) fn inflated<'a>(raw: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let mut raw = BufReader::with_capacity(BUFFER_BYTES, raw);
    let first = raw.fill_buf().context("cannot read the input")?;
    Ok(if first.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(raw))
    } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(raw).context("cannot read zstd")?)
    } else {
        Box::new(raw)
    })
}
