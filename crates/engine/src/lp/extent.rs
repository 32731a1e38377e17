//! Where a line ends: at the first newline that is not inside a quoted field value.
//!
//! The parser finds the end of a good line by parsing it. This scanner is for the others: a line that was cut by the end of
//! a chunk, a line past its limit, and a refused line, which must be skipped whole: what a quoted text of a refused line
//! holds must never be taken for lines of its own, or whoever writes the text writes the database.
//!
//! A quote opens a text only where a value begins, that is behind an unescaped `=` after the first unescaped space.

/// The scanner's place in a line; it can be stopped and continued at any byte.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    place: Place,
    /// The byte before, for `\` and for `="`; `=` stands here only when it is unescaped.
    before: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Nothing but blanks so far.
    #[default]
    Start,
    Comment,
    Head,
    Fields,
    Text,
    /// In a text, behind a backslash.
    Escape,
}

impl Extent {
    /// Reads on; the answer is how many bytes belong to the line, its newline included, once that is known.
    pub(super) fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, &byte) in bytes.iter().enumerate() {
            match self.place {
                Place::Escape => self.place = Place::Text,
                Place::Text if byte == b'\\' => self.place = Place::Escape,
                Place::Text if byte == b'"' => self.place = Place::Fields,
                Place::Text => {}
                _ if byte == b'\n' => return Some(index + 1),
                Place::Start if byte == b' ' || byte == b'\t' => {}
                Place::Start if byte == b'#' => self.place = Place::Comment,
                Place::Start => self.place = Place::Head,
                Place::Head if byte == b' ' && self.before != b'\\' => self.place = Place::Fields,
                Place::Fields if byte == b'"' && self.before == b'=' => self.place = Place::Text,
                Place::Comment | Place::Head | Place::Fields => {}
            }
            self.before = if byte == b'=' && self.before == b'\\' { 0 } else { byte };
        }
        None
    }

    /// Whether a line has begun.
    pub(super) fn is_open(self) -> bool {
        self.place != Place::Start
    }

    /// Whether the line is a comment.
    pub(super) fn is_comment(self) -> bool {
        self.place == Place::Comment
    }

    /// Whether the line ended inside a quoted text.
    pub(super) fn in_text(self) -> bool {
        matches!(self.place, Place::Text | Place::Escape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_in_a_text_does_not_end_the_line() {
        let lines = [
            "m f=1\n",
            "\n",
            " \t # a=\"b\n",
            "m,t=a\"b f=1\n",
            "m f=\"a\nb\" 1\n",
            "m f=\"a\\\"\nb\\\\\",g=\"\"\n",
            "m\\ =\"x f=1\n",
            "m \\=\"=1\n",
            "m f=\"a\"b=\"c\nd\"\n",
        ];
        for line in lines {
            let rest = format!("{line}next f=\"\n\"\n");
            assert_eq!(Extent::default().find_end(rest.as_bytes()), Some(line.len()), "{line:?}");
            for split in 0..line.len() {
                let mut extent = Extent::default();
                assert_eq!(extent.find_end(&rest.as_bytes()[..split]), None, "{line:?}");
                assert_eq!(extent.find_end(&rest.as_bytes()[split..]), Some(line.len() - split), "{line:?}");
            }
        }
    }
}
