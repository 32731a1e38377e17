//! What the fuzz target calls; not part of the API.

use crate::codec::{Codec, decode};
use crate::disk::blob::Trailer;
use crate::remote::Packet;

/// Largest length that an index may claim here.
const RAW_MAX: u64 = 1 << 20;

/// Feeds `bytes` to every decoder of stored bytes.
///
/// # Panics
/// When one accepts what its encoder would not have written, or inflates past the length in the index.
pub fn every_decoder(bytes: &[u8]) {
    if let Some(packet) = Packet::decode(bytes) {
        assert_eq!(packet.encode(), bytes);
    }
    let _ = Trailer::decode(bytes);
    let Some((claim, stored)) = bytes.split_first_chunk::<4>() else { return };
    let raw_len = u64::from(u32::from_le_bytes(*claim)) % RAW_MAX;
    for codec in [Codec::Raw, Codec::Lz4, Codec::Zstd] {
        if let Ok(raw) = decode(codec, stored.to_vec(), raw_len) {
            assert_eq!(raw.len() as u64, raw_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_random_bytes_are_refused_without_a_panic() {
        let mut seed = [0; 32];
        for round in 0..2000u32 {
            seed = weir_base::checksum::blake3(&seed);
            let mut bytes = seed.repeat(3);
            bytes.truncate(round as usize % 97);
            if round % 3 == 0 {
                bytes.splice(..0, *b"WRC1");
                bytes.extend_from_slice(b"WEIRBLB1");
            }
            every_decoder(&bytes);
        }
    }
}
