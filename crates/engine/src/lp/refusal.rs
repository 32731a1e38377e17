//! Why a line is refused, and the bounded list of refused lines.

/// A line that was refused; all others of its body stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The number of its first line in the whole body, from 1, counting every newline.
    pub line_number: usize,
    /// Why: lowercase, no full stop.
    pub reason: String,
    /// The line, cut at [`super::Options::rejected_line_bytes_max`], with replacement characters where it is not UTF-8.
    pub original_line: String,
}

/// Why the parser stops within a line.
#[derive(Debug)]
pub(super) enum Stop {
    /// The bytes end inside a quoted text.
    Incomplete,
    /// The columns would take more memory than the options allow.
    Full,
    /// The line breaks a rule.
    Refused(Box<Refusal>),
}

/// The rule that a line breaks, in words.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

pub(super) type Step<T> = Result<T, Stop>;

/// Refuses the line.
#[cold]
#[inline(never)]
pub(super) fn refuse<T>(reason: impl Into<String>) -> Step<T> {
    Err(Stop::Refused(Box::new(Refusal(reason.into()))))
}

/// Bytes of a line as they may stand in a message: at most 64 bytes, replaced where not UTF-8.
pub(super) fn show(bytes: &[u8]) -> String {
    cut(bytes, 64)
}

/// `bytes` as text of at most `max` bytes, `...` not counted.
pub(super) fn cut(bytes: &[u8], max: usize) -> String {
    if bytes.len() <= max {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut end = max;
    while end > max.saturating_sub(3) && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    format!("{}...", String::from_utf8_lossy(&bytes[..end]))
}
