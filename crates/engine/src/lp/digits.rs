//! Decimal digits, eight at a time in one machine word.

const ZEROS: u64 = 0x3030_3030_3030_3030;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The eight bytes at `at`, first byte lowest.
#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// How many of the eight bytes are digits before the first that is none.
#[inline(always)]
pub(super) fn count(word: u64) -> usize {
    let from_zero = word ^ ZEROS;
    // 0x76 lifts 10 and above into the high bit; bytes cannot carry into each other because their high bits are masked.
    let others = ((from_zero & !HIGH) + 0x7676_7676_7676_7676 | from_zero) & HIGH;
    others.trailing_zeros() as usize / 8
}

/// The number that the first `count` bytes (1 to 8, all digits) spell.
#[inline(always)]
pub(super) fn value(word: u64, count: usize) -> u64 {
    debug_assert!((1..=8).contains(&count));
    // Shifted up, the digits end at the top byte, and the empty bytes below count as leading zeros.
    let digits = (word << (64 - 8 * count)) & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (digits.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 << 32 | 1) >> 32
}

const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Reads digits from `at` on and appends them to `number`, wrapping; the answer is the number and where the digits end.
#[inline(always)]
pub(super) fn append(bytes: &[u8], mut at: usize, mut number: u64) -> (u64, usize) {
    while let Some(word) = word(bytes, at) {
        let digits = count(word);
        if digits > 0 {
            number = number.wrapping_mul(POWERS[digits]).wrapping_add(value(word, digits));
        }
        at += digits;
        if digits < 8 {
            return (number, at);
        }
    }
    while let Some(byte @ b'0'..=b'9') = bytes.get(at) {
        number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        at += 1;
    }
    (number, at)
}

/// A whole number with an optional minus and at most 18 digits, and where it ends; `None` for anything else, which
/// [`signed`] then judges.
#[inline(always)]
pub(super) fn short_signed(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let negative = *bytes.get(at)? == b'-';
    let (number, end) = short_unsigned(bytes, at + usize::from(negative))?;
    let number = number as i64;
    Some((if negative { -number } else { number }, end))
}

/// As [`short_signed`], without a sign.
#[inline(always)]
pub(super) fn short_unsigned(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    if let Some(word) = word(bytes, at) {
        let digits = count(word);
        if digits == 0 {
            return None;
        }
        if digits < 8 {
            return Some((value(word, digits), at + digits));
        }
    }
    let (number, end) = append(bytes, at, 0);
    (end > at && end - at <= 18).then_some((number, end))
}

/// The signed number that all of `text` spells; `None` when it is none or does not fit.
pub(super) fn signed(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The unsigned number that all of `text` spells; `None` when it is none or does not fit.
pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_come_out_at_every_distance_from_the_end() {
        for len in 1..=18 {
            for tail in 0..10 {
                for sign in ["", "-"] {
                    let text = format!("{sign}{}", &"123456789087654321"[..len]);
                    let line = format!("x{text}{}", &"i,/:\u{7f}0000000"[..tail.min(5)]);
                    let (number, end) = short_signed(line.as_bytes(), 1).unwrap();
                    assert_eq!((number.to_string(), end), (text.clone(), 1 + text.len()), "{line}");
                }
            }
        }
        for bad in ["x", "-", "", "-x1234567890", "1234567890123456789"] {
            assert_eq!(short_signed(bad.as_bytes(), 0), None, "{bad}");
        }
    }

    #[test]
    fn every_byte_but_a_digit_ends_the_digits() {
        for byte in 0..=255u8 {
            for place in 0..8 {
                let mut bytes = *b"12345678";
                bytes[place] = byte;
                let expected = if byte.is_ascii_digit() { 8 } else { place };
                assert_eq!(count(u64::from_le_bytes(bytes)), expected, "{byte} at {place}");
            }
        }
    }
}
