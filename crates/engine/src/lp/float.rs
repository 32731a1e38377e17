//! Decimal floating-point numbers, rounded correctly.

/// The number at `at` and where it ends; `None` when there is none or it is not finite.
#[inline]
pub(super) fn parse(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let rest = bytes.get(at..)?;
    // The parser below would also take `inf` and `nan`.
    let first = rest.iter().position(|byte| !matches!(byte, b'-' | b'+'))?;
    if first > 1 || !matches!(rest[first], b'0'..=b'9' | b'.') {
        return None;
    }
    let (number, len) = fast_float2::parse_partial::<f64, _>(rest).ok()?;
    number.is_finite().then_some((number, at + len))
}
