//! The key filter of a footer: a split-block Bloom filter.
//!
//! Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters (2007); blocks of 256 bits with one bit in each
//! of eight lanes, as in Parquet. At 12 bits a key about one absent key in 200 is not ruled out.

const LANES: usize = 8;
const BLOCK_BYTES: usize = LANES * 4;
const BITS_PER_KEY: usize = 12;

/// Odd multipliers, one a lane (those of the Parquet format).
const SALTS: [u32; LANES] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// The hash that filters are built on.
pub(crate) fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Builds the filter of these hashes.
pub(crate) fn build(hashes: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let blocks = (hashes.len() * BITS_PER_KEY).div_ceil(BLOCK_BYTES * 8);
    let mut bytes = vec![0; blocks * BLOCK_BYTES];
    for hash in hashes {
        let at = block_at(hash, blocks);
        for (lane, mask) in masks(hash).into_iter().enumerate() {
            let place = at + lane * 4;
            for (byte, bits) in bytes[place..place + 4].iter_mut().zip(mask.to_le_bytes()) {
                *byte |= bits;
            }
        }
    }
    bytes
}

/// Whether a key with this hash may be in the filter; `false` is certain.
pub(crate) fn may_contain(bytes: &[u8], hash: u64) -> bool {
    let blocks = bytes.len() / BLOCK_BYTES;
    if blocks == 0 {
        return false;
    }
    let block = &bytes[block_at(hash, blocks)..][..BLOCK_BYTES];
    masks(hash).into_iter().zip(block.chunks_exact(4)).all(|(mask, lane)| {
        let bits = u32::from_le_bytes(lane.try_into().expect("four bytes"));
        bits & mask == mask
    })
}

fn block_at(hash: u64, blocks: usize) -> usize {
    (((hash >> 32) * blocks as u64) >> 32) as usize * BLOCK_BYTES
}

fn masks(hash: u64) -> [u32; LANES] {
    SALTS.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_is_found_and_little_else() {
        let key = |n: u32| hash(&n.to_le_bytes());
        let filter = build((0..10_000).map(key).collect::<Vec<_>>().into_iter());
        assert!((0..10_000).all(|n| may_contain(&filter, key(n))));
        let wrong = (10_000..30_000).filter(|n| may_contain(&filter, key(*n))).count();
        assert!(wrong < 400, "{wrong} of 20000");
        assert!(!may_contain(&[], 5));
    }
}
