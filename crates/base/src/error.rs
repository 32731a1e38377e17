//! The closed set of error kinds, and the macro that gives each crate its one `Error`.
//!
//! A kind says what happened to the caller's wish; whether trying again can help is a separate fact ([`Retry`]).
//! HTTP statuses and exit codes are derived from kinds in one file each, in `server` and `cli`.

use std::time::Duration;

/// What happened, as the caller needs to know it. Small and closed on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The named thing does not exist.
    NotFound,
    /// The input is malformed or breaks a rule; the same input will fail again.
    Invalid,
    /// Whoever asks may not do this; who may is for others to say.
    Forbidden,
    /// Somebody else holds it, changed it or made it first.
    Conflict,
    /// A configured limit was reached; the message names the limit and its setting.
    Limit,
    /// A disk, peer or lock did not answer in time or refused.
    Unavailable,
    /// Stored bytes are not what was written.
    Damaged,
    /// A bug in Weir.
    Internal,
}

impl Kind {
    /// The stable word for machine output (`error.code` in JSON).
    pub const fn code(self) -> &'static str {
        match self {
            Kind::NotFound => "not_found",
            Kind::Invalid => "invalid",
            Kind::Forbidden => "forbidden",
            Kind::Conflict => "conflict",
            Kind::Limit => "limit",
            Kind::Unavailable => "unavailable",
            Kind::Damaged => "damaged",
            Kind::Internal => "internal",
        }
    }
}

/// Whether the same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Trying again gives the same answer.
    Never,
    /// Trying again may help; back off first.
    Backoff,
    /// Trying again may help, not before this long.
    After(Duration),
}

/// Classifies an operating-system error.
pub fn kind_of_io(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::Conflict,
        E::InvalidInput => Kind::Invalid,
        E::InvalidData | E::UnexpectedEof => Kind::Damaged,
        _ => Kind::Unavailable,
    }
}

/// Defines a crate's one error type: `Error { kind, retry, context, source }`, and its `Result`.
///
/// `Display` prints the context only: lowercase, no full stop, never the source (callers walk `source()`).
#[macro_export]
macro_rules! define_error {
    ($doc:literal) => {
        #[doc = $doc]
        #[derive(Debug)]
        pub struct Error {
            kind: $crate::Kind,
            retry: $crate::Retry,
            context: String,
            source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
        }

        /// The crate's result.
        pub type Result<T, E = Error> = std::result::Result<T, E>;

        #[allow(dead_code, reason = "one vocabulary for all crates; not every crate says every word")]
        impl Error {
            /// An error of `kind` with a lowercase message that has no full stop.
            pub fn new(kind: $crate::Kind, context: impl Into<String>) -> Self {
                Self { kind, retry: $crate::Retry::Never, context: context.into(), source: None }
            }

            /// The input breaks a rule.
            pub fn invalid(context: impl Into<String>) -> Self {
                Self::new($crate::Kind::Invalid, context)
            }

            /// Wraps an error of a layer below, keeping its kind and retry where the caller passes them on.
            pub fn wrap(
                kind: $crate::Kind,
                context: impl Into<String>,
                source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
            ) -> Self {
                Self { kind, retry: $crate::Retry::Never, context: context.into(), source: Some(source.into()) }
            }

            /// Wraps an operating-system error with what was being done to what.
            pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
                let kind = $crate::error::kind_of_io(&source);
                let retry = match kind {
                    $crate::Kind::Unavailable => $crate::Retry::Backoff,
                    _ => $crate::Retry::Never,
                };
                Self { kind, retry, context: context.into(), source: Some(Box::new(source)) }
            }

            /// Says whether trying again may help.
            pub fn with_retry(mut self, retry: $crate::Retry) -> Self {
                self.retry = retry;
                self
            }

            /// What happened.
            pub fn kind(&self) -> $crate::Kind {
                self.kind
            }

            /// Whether trying again may help.
            pub fn retry(&self) -> $crate::Retry {
                self.retry
            }

            /// The message without its source.
            pub fn context(&self) -> &str {
                &self.context
            }
        }

        impl std::fmt::Display for Error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.context)
            }
        }

        impl std::error::Error for Error {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
            }
        }
    };
}

/// The message of an error and of every source below it, joined with `: `.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
