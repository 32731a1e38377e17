//! The parameters of a request: of its query string, a form, or a JSON object, as one flat list.

use std::borrow::Cow;

use weir_engine::lp::Precision;

use crate::status::{Dialect, Problem};

/// Names and values in the order they were given.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Of a query string or form body; percent-escapes that are not UTF-8 become U+FFFD and then fail the checks.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into_owned(), value.into_owned());
        Self(url::form_urlencoded::parse(text).map(owned).collect())
    }

    /// The value of `name`.
    ///
    /// # Errors
    /// 400 when it is given twice with different values: guessing which one is meant loses data.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut found = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let Some(first) = found.next() else { return Ok(None) };
        match found.find(|other| *other != first) {
            Some(_) => Err(Problem::invalid(format!("parameter '{name}' is given twice"))),
            None => Ok(Some(first)),
        }
    }

    /// The value of `name`, which must be there and not be empty.
    pub(crate) fn require(&self, name: &str) -> Result<&str, Problem> {
        match self.get(name)? {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(Problem::invalid(format!("parameter '{name}' is missing"))),
        }
    }

    /// A yes or no.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(name)? {
            None => Ok(default),
            Some("true" | "1" | "t" | "T" | "True" | "TRUE") => Ok(true),
            Some("false" | "0" | "f" | "F" | "False" | "FALSE") => Ok(false),
            Some(other) => Err(Problem::invalid(format!("parameter '{name}' is '{}', not true or false", cut(other)))),
        }
    }

    /// The unit of timestamps, in the spelling of the dialect; nanoseconds when it is not given.
    pub(crate) fn precision(&self, dialect: Dialect) -> Result<Precision, Problem> {
        let Some(text) = self.get("precision")?.filter(|text| !text.is_empty()) else {
            return Ok(Precision::Nanosecond);
        };
        let parsed = match dialect {
            Dialect::V1 => Precision::from_v1(text),
            Dialect::V2 => Precision::from_v2(text),
            Dialect::V3 | Dialect::Weir => Precision::from_v3(text),
        };
        parsed.ok_or_else(|| {
            let spelled = match dialect {
                Dialect::V1 => "n, u, ms, s, m or h",
                Dialect::V2 => "ns, us, ms or s",
                Dialect::V3 | Dialect::Weir => "nanosecond, microsecond, millisecond, second or auto",
            };
            Problem::invalid(format!("precision '{}' is not known; use {spelled}", cut(text)))
        })
    }
}

/// Enough of a caller's text to recognise it in a message.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_read_in_the_dialect_that_is_spoken() {
        for (dialect, text, wanted) in [
            (Dialect::V1, "m", Some(Precision::Minute)),
            (Dialect::V1, "h", Some(Precision::Hour)),
            (Dialect::V2, "us", Some(Precision::Microsecond)),
            (Dialect::V2, "m", None),
            (Dialect::V3, "second", Some(Precision::Second)),
            (Dialect::V3, "h", None),
            (Dialect::V1, "auto", None),
        ] {
            let params = Params::parse(format!("precision={text}").as_bytes());
            assert_eq!(params.precision(dialect).ok(), wanted, "{dialect:?} {text}");
        }
        assert_eq!(Params::parse(b"").precision(Dialect::V1).unwrap(), Precision::Nanosecond);
    }

    #[test]
    fn a_parameter_given_twice_is_refused_unless_equal() {
        let params = Params::parse(b"db=a&db=b&q=1&q=1");
        assert!(params.get("db").is_err());
        assert_eq!(params.require("q").unwrap(), "1");
        assert!(params.require("missing").is_err());
        assert!(Params::parse(b"no_sync=maybe").flag("no_sync", false).is_err());
    }
}
