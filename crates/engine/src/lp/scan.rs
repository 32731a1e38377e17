//! The next separator in short pieces of text, eight bytes at a time: names and tag values are too short for a call.

use super::digits::word;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// A mark in the high bit of each byte of `word` that is zero, exact up to the first.
#[inline(always)]
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

/// Where the first `a` or `b` stands in `bytes` from `at` on; the length of `bytes` when there is none.
#[inline(always)]
pub(super) fn find(a: u8, b: u8, bytes: &[u8], mut at: usize) -> usize {
    let (first, second) = (ONES * a as u64, ONES * b as u64);
    while let Some(word) = word(bytes, at) {
        let found = zeros(word ^ first) | zeros(word ^ second);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && bytes[at] != a && bytes[at] != b {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_is_found_at_every_place() {
        for len in 0..40 {
            for place in 0..len {
                let mut bytes = vec![b'='.wrapping_add(1 + (place % 2) as u8 * 0x80); len];
                assert_eq!(find(b',', b'=', &bytes, 0), len);
                for byte in *b",=" {
                    bytes[place] = byte;
                    for at in 0..len {
                        assert_eq!(find(b',', b'=', &bytes, at), if at <= place { place } else { len });
                    }
                }
            }
        }
    }
}
