//! Compression of values: above a threshold, and only where it pays.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::options::Compression;
use weir_base::Kind;

/// How stored bytes are encoded; the number is in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Raw = 0,
    Lz4 = 1,
    Zstd = 2,
}

impl Codec {
    pub(crate) fn from_number(number: i64) -> Result<Self> {
        match number {
            0 => Ok(Codec::Raw),
            1 => Ok(Codec::Lz4),
            2 => Ok(Codec::Zstd),
            other => Err(damaged(format!("codec {other} is not known"))),
        }
    }
}

fn damaged(context: String) -> Error {
    Error::new(Kind::Damaged, context)
}

/// Encodes `value`, raw unless an eighth is saved.
pub(crate) fn encode(value: &[u8], compression: Compression, from: u64) -> (Codec, Cow<'_, [u8]>) {
    if (value.len() as u64) < from {
        return (Codec::Raw, Cow::Borrowed(value));
    }
    let packed = match compression {
        Compression::None => None,
        Compression::Lz4 => Some((Codec::Lz4, lz4_flex::block::compress(value))),
        Compression::Zstd => zstd::bulk::compress(value, 3).ok().map(|packed| (Codec::Zstd, packed)),
    };
    match packed {
        Some((codec, packed)) if packed.len() <= value.len() - value.len() / 8 => (codec, Cow::Owned(packed)),
        _ => (Codec::Raw, Cow::Borrowed(value)),
    }
}

/// Decodes to exactly `raw_len` bytes: the length in the index bounds what is inflated.
pub(crate) fn decode(codec: Codec, stored: Vec<u8>, raw_len: u64) -> Result<Vec<u8>> {
    let raw_len = usize::try_from(raw_len).map_err(|_| damaged("a length does not fit in memory".into()))?;
    let raw = match codec {
        Codec::Raw => stored,
        // LZ4 cannot expand more than 255 times: a larger claim would only reserve memory.
        Codec::Lz4 if raw_len / 256 > stored.len() => return Err(damaged("length of an lz4 value is wrong".into())),
        Codec::Lz4 => lz4_flex::block::decompress(&stored, raw_len)
            .map_err(|error| Error::wrap(Kind::Damaged, "lz4 value does not decode", error))?,
        Codec::Zstd => zstd_bounded(&stored, raw_len)?,
    };
    if raw.len() == raw_len { Ok(raw) } else { Err(damaged(format!("value has {} bytes, not {raw_len}", raw.len()))) }
}

fn zstd_bounded(stored: &[u8], raw_len: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let wrap = |error| Error::wrap(Kind::Damaged, "zstd value does not decode", error);
    let mut raw = Vec::with_capacity(raw_len.min(stored.len().saturating_mul(64)));
    let decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(wrap)?;
    decoder.take(raw_len as u64 + 1).read_to_end(&mut raw).map_err(wrap)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_and_noise_stays_raw() {
        let text = b"weir ".repeat(4000);
        let noise = blake3::Hasher::new().finalize_xof().take_bytes(20_000);
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            for value in [&text[..], &noise[..], b""] {
                let (codec, stored) = encode(value, compression, 1);
                assert!(stored.len() <= value.len());
                assert_eq!(codec == Codec::Raw, compression == Compression::None || value != &text[..]);
                assert_eq!(decode(codec, stored.to_vec(), value.len() as u64).unwrap(), value);
            }
        }
        assert_eq!(encode(&text, Compression::Zstd, 1 << 20).0, Codec::Raw);
    }

    #[test]
    fn s1_inflating_is_bounded_by_the_length_in_the_index() {
        for codec in [Codec::Lz4, Codec::Zstd] {
            let compression = if codec == Codec::Lz4 { Compression::Lz4 } else { Compression::Zstd };
            let (_, stored) = encode(&[0; 1 << 20], compression, 1);
            for wrong in [0, 100, (1 << 20) - 1, (1 << 20) + 1, 1 << 40] {
                assert_eq!(decode(codec, stored.to_vec(), wrong).unwrap_err().kind(), Kind::Damaged, "{wrong}");
            }
        }
    }

    trait TakeBytes {
        fn take_bytes(self, count: usize) -> Vec<u8>;
    }
    impl TakeBytes for blake3::OutputReader {
        fn take_bytes(mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.fill(&mut bytes);
            bytes
        }
    }
}
