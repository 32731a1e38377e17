//! Decimal floating-point numbers, rounded correctly.
//!
//! Up to 19 digits and powers of ten from -27 to 22 are done here: exactly in floating point where mantissa and power are
//! exact (Clinger 1990), else by one or two multiplications with a 128-bit power of five (Lemire, "Number Parsing at a
//! Gigabyte per Second", 2021, for a range in which it never has to give up). The rest goes to `fast_float2`.

use super::digits;

const POWER_MIN: i64 = -27;
const POWER_MAX: i64 = 22;

/// Powers of five from [`POWER_MIN`] on, scaled to 128 bits with the highest bit set; reciprocals are rounded up.
static FIVES: [(u64, u64); (POWER_MAX - POWER_MIN + 1) as usize] = fives();

const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

const fn fives() -> [(u64, u64); (POWER_MAX - POWER_MIN + 1) as usize] {
    let mut table = [(0, 0); (POWER_MAX - POWER_MIN + 1) as usize];
    let mut power = POWER_MIN;
    while power <= POWER_MAX {
        let five = 5u128.pow(power.unsigned_abs() as u32);
        let scaled = if power >= 0 { five << five.leading_zeros() } else { reciprocal(five) + 1 };
        table[(power - POWER_MIN) as usize] = ((scaled >> 64) as u64, scaled as u64);
        power += 1;
    }
    table
}

/// The 128 highest bits of 1 / `five`, by long division.
const fn reciprocal(five: u128) -> u128 {
    let (mut rest, mut quotient) = (1u128, 0u128);
    while quotient >> 127 == 0 {
        rest *= 2;
        quotient *= 2;
        if rest >= five {
            rest -= five;
            quotient += 1;
        }
    }
    quotient
}

/// The number at `at` and where it ends; `None` when there is none or it is not finite.
#[inline(always)]
pub(super) fn parse(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let negative = *bytes.get(at)? == b'-';
    let start = at + usize::from(negative);
    let (mut mantissa, point) = digits::append(bytes, start, 0);
    let (mut end, mut digits, mut power) = (point, point - start, 0);
    if bytes.get(point) == Some(&b'.') {
        (mantissa, end) = digits::append(bytes, point + 1, mantissa);
        digits = end - start - 1;
        power = point as i64 + 1 - end as i64;
    }
    // What comes here otherwise: a plus, an exponent, very many digits, or no number.
    if digits == 0 || digits > 19 || power < POWER_MIN || matches!(bytes.get(end), Some(b'e' | b'E')) {
        return general(bytes, at);
    }
    let number = if mantissa <= 1 << 53 && power >= -22 {
        mantissa as f64 / EXACT[(-power) as usize]
    } else {
        scale(mantissa, power)
    };
    Some((if negative { -number } else { number }, end))
}

#[cold]
fn general(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let rest = bytes.get(at..)?;
    // The parser below would also take `inf` and `nan`.
    let first = rest.iter().position(|byte| !matches!(byte, b'-' | b'+'))?;
    if first > 1 || !matches!(rest[first], b'0'..=b'9' | b'.') {
        return None;
    }
    let (number, len) = fast_float2::parse_partial::<f64, _>(rest).ok()?;
    number.is_finite().then_some((number, at + len))
}

/// `mantissa` (not zero) times ten to `power`, to the nearest, ties to even.
#[inline]
fn scale(mantissa: u64, power: i64) -> f64 {
    debug_assert!(mantissa != 0 && (POWER_MIN..=POWER_MAX).contains(&power));
    let zeros = mantissa.leading_zeros();
    let mantissa = mantissa << zeros;
    let (five_high, five_low) = FIVES[(power - POWER_MIN) as usize];
    let product = u128::from(mantissa) * u128::from(five_high);
    let (mut high, mut low) = ((product >> 64) as u64, product as u64);
    // 55 bits decide; when the bits below are all ones the low half of the power of five may carry into them.
    if high & 0x1ff == 0x1ff {
        let more = ((u128::from(mantissa) * u128::from(five_low)) >> 64) as u64;
        let (sum, carry) = low.overflowing_add(more);
        low = sum;
        high += u64::from(carry);
    }
    let upper = high >> 63;
    let shift = upper + 9;
    let mut bits = high >> shift;
    // Halfway between two floats, and exactly so: to the even one.
    if low <= 1 && (-4..=23).contains(&power) && bits & 3 == 1 && bits << shift == high {
        bits &= !1;
    }
    bits = (bits + (bits & 1)) >> 1;
    // 217706 / 65536 is the binary logarithm of ten, close enough for all powers here.
    let mut exponent = ((217_706 * power) >> 16) + 63 + upper as i64 - i64::from(zeros) + 1023;
    if bits >> 53 != 0 {
        bits = 1 << 52;
        exponent += 1;
    }
    f64::from_bits((bits & ((1 << 52) - 1)) | (exponent as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) {
        let expected: f64 = text.parse().unwrap();
        for tail in ["", ",", ",g=12345678"] {
            let (number, end) = parse(format!("={text}{tail}").as_bytes(), 1).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((number.to_bits(), end), (expected.to_bits(), 1 + text.len()), "{text}");
        }
    }

    #[test]
    fn hard_numbers_are_rounded_to_the_nearest() {
        for text in [
            "0",
            "-0.0",
            "0.000",
            "1",
            "9007199254740993",
            "9007199254740992.5",
            "9007199254740993.5",
            "9007199254740991.5",
            "9223372036854775807",
            "9999999999999999999",
            "1.7976931348623157e308",
            "2.2250738585072014e-308",
            "5e-324",
            "0.1",
            "0.30000000000000004",
            "123456789.12345678901",
            "8.5",
            "4503599627370496.5",
            "4503599627370497.5",
            "0.0000000000000000000000001",
            "1.0000000000000002220",
            "18014398509481985",
            "36028797018963970",
        ] {
            check(text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_number_is_as_the_standard_library_has_it(mantissa: u64, cut in 0u32..64, places in 0usize..30, sign: bool) {
            let digits = format!("{:030}", mantissa >> cut);
            let (whole, fraction) = digits.split_at(30 - places);
            let whole = whole.trim_start_matches('0');
            let text = format!("{}{}.{fraction}", if sign { "-" } else { "" }, if whole.is_empty() { "0" } else { whole });
            check(&text);
        }

        #[test]
        fn every_float_comes_back(bits: u64) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            check(&number.to_string());
            check(&(number.abs() % 1e6).to_string());
            // The middle between two neighbours, exactly.
            let low = 1.0 + (bits >> 40) as f64;
            check(&format!("{}", low / 8.0));
        }
    }
}
