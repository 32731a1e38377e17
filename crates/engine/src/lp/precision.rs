//! The unit of a request's timestamps, in the spelling of each dialect of the write API.
//!
//! A unit is never guessed from a number's size, with one exception: `auto` of the v3 API, whose published rule says so.

/// The unit of timestamps in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Nanoseconds.
    #[default]
    Nanosecond,
    /// Microseconds.
    Microsecond,
    /// Milliseconds.
    Millisecond,
    /// Seconds.
    Second,
    /// Minutes (v1 only).
    Minute,
    /// Hours (v1 only).
    Hour,
    /// By magnitude, each timestamp by itself (v3 only): under 5e9 seconds, under 5e12 milliseconds, under 5e15
    /// microseconds, else nanoseconds.
    Auto,
}

impl Precision {
    /// The `precision` of `/write`: `n`, `ns`, `u`, `us`, `µ`, `ms`, `s`, `m`, `h`.
    pub fn from_v1(text: &str) -> Option<Self> {
        match text {
            // Both the micro sign and the Greek letter are in use.
            "u" | "us" | "µ" | "\u{3bc}" | "µs" | "\u{3bc}s" => Some(Precision::Microsecond),
            "n" | "ns" => Some(Precision::Nanosecond),
            "ms" => Some(Precision::Millisecond),
            "s" => Some(Precision::Second),
            "m" => Some(Precision::Minute),
            "h" => Some(Precision::Hour),
            _ => None,
        }
    }

    /// The `precision` of `/api/v2/write`: `ns`, `us`, `ms`, `s`.
    pub fn from_v2(text: &str) -> Option<Self> {
        match text {
            "ns" => Some(Precision::Nanosecond),
            "us" => Some(Precision::Microsecond),
            "ms" => Some(Precision::Millisecond),
            "s" => Some(Precision::Second),
            _ => None,
        }
    }

    /// The `precision` of `/api/v3/write_lp`: `auto` and the units in words, or as in v2 with `n` and `u`.
    pub fn from_v3(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Precision::Auto),
            "nanosecond" | "ns" | "n" => Some(Precision::Nanosecond),
            "microsecond" | "us" | "u" => Some(Precision::Microsecond),
            "millisecond" | "ms" => Some(Precision::Millisecond),
            "second" | "s" => Some(Precision::Second),
            _ => None,
        }
    }

    /// `time` in nanoseconds; `None` when it does not fit.
    #[inline]
    pub fn to_nanoseconds(self, time: i64) -> Option<i64> {
        if self == Precision::Nanosecond { Some(time) } else { time.checked_mul(self.scale(time)) }
    }

    fn scale(self, time: i64) -> i64 {
        match self {
            Precision::Nanosecond => 1,
            Precision::Microsecond => 1_000,
            Precision::Millisecond => 1_000_000,
            Precision::Second => 1_000_000_000,
            Precision::Minute => 60_000_000_000,
            Precision::Hour => 3_600_000_000_000,
            Precision::Auto => match time.unsigned_abs() / 1_000_000_000 {
                0..5 => 1_000_000_000,
                5..5_000 => 1_000_000,
                5_000..5_000_000 => 1_000,
                _ => 1,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_has_its_spellings() {
        type Parse = fn(&str) -> Option<Precision>;
        let dialects: [(Parse, &str); 3] = [
            (Precision::from_v1, "n ns u us µ ms s m h"),
            (Precision::from_v2, "ns us ms s"),
            (Precision::from_v3, "auto nanosecond microsecond millisecond second ns n us u ms s"),
        ];
        let all = "n ns u us µ ms s m h auto nanosecond microsecond millisecond second x NS 1 ";
        for (parse, spellings) in dialects {
            for word in all.split(' ') {
                assert_eq!(
                    parse(word).is_some(),
                    spellings.split(' ').any(|known| known == word),
                    "{word} {spellings}"
                );
            }
        }
        assert_eq!(Precision::from_v1("m"), Some(Precision::Minute));
        assert_eq!(Precision::from_v1("u"), Precision::from_v1("µ"));
    }

    #[test]
    fn scaled_times_fit_or_are_refused() {
        let check = |precision: Precision, time, nanoseconds| {
            assert_eq!(precision.to_nanoseconds(time), nanoseconds, "{precision:?} {time}");
        };
        check(Precision::Nanosecond, i64::MIN, Some(i64::MIN));
        check(Precision::Second, -1, Some(-1_000_000_000));
        check(Precision::Second, 9_223_372_036, Some(9_223_372_036_000_000_000));
        check(Precision::Second, 9_223_372_037, None);
        check(Precision::Hour, 3, Some(10_800_000_000_000));
        check(Precision::Minute, i64::MAX, None);
        check(Precision::Auto, 1_708_976_567, Some(1_708_976_567_000_000_000));
        check(Precision::Auto, 1_708_976_567_123, Some(1_708_976_567_123_000_000));
        check(Precision::Auto, -1_708_976_567_123_456, Some(-1_708_976_567_123_456_000));
        check(Precision::Auto, 1_708_976_567_123_456_789, Some(1_708_976_567_123_456_789));
        check(Precision::Auto, 4_999_999_999, Some(4_999_999_999_000_000_000));
        check(Precision::Auto, 5_000_000_000, Some(5_000_000_000_000_000));
        check(Precision::Auto, i64::MIN, Some(i64::MIN));
    }
}
