//! The crate's one error type, and what DataFusion's errors mean to a caller.

use datafusion::common::{DataFusionError, SchemaError};
use weir_base::{Kind, Retry};

weir_base::define_error!("What a query could not do, for whom it matters (kind) and whether to try again (retry).");

/// Where an operator ran out of memory or disk without saying of which limit.
const LIMIT_SETTINGS: &str =
    " (settings query_each_memory_bytes_max, query_memory_bytes_max, query_spill_dir, query_spill_bytes_max)";

/// DataFusion's name of the limit of spilled bytes, by which alone its error can be told.
const SPILL_SETTING: &str = "max_temp_directory_size";

/// How a reader of footers tells of the store's error, of which it keeps only the words.
const STORE_WORDS: &str = "Object Store error: ";
/// The words of one that says that an object is missing.
const MISSING_WORDS: &str = "Object Store error: Object at location ";

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        classify(error)
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        classify(DataFusionError::from(error))
    }
}

/// An error of the engine, as it is.
pub(crate) fn from_engine(error: weir_engine::Error) -> Error {
    Error::new(error.kind(), weir_base::error::chain(&error)).with_retry(error.retry())
}

/// The kind of an error that came up while planning or running a statement. The message is DataFusion's, without the
/// words that only repeat its class.
fn classify(error: DataFusionError) -> Error {
    let error = match unwrapped(error) {
        Ok(ours) => return ours,
        Err(error) => error,
    };
    if error.to_string().contains(SPILL_SETTING) {
        let what = "the query has to spill more than all queries may together (setting query_spill_bytes_max)";
        return Error::new(Kind::Limit, what);
    }
    let (kind, retry) = match &error {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Configuration(_)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Execution(_) => (Kind::Invalid, Retry::Never),
        DataFusionError::ArrowError(inner, _) => (kind_of_arrow(inner), Retry::Never),
        DataFusionError::ResourcesExhausted(_) => (Kind::Limit, Retry::Never),
        other if let Some(found) = of_store(other) => found,
        DataFusionError::ParquetError(_) => (Kind::Damaged, Retry::Never),
        DataFusionError::IoError(inner) => (weir_base::error::kind_of_io(inner), Retry::Never),
        _ => (Kind::Internal, Retry::Never),
    };
    let mut text = message(&error);
    if kind == Kind::Limit && !text.contains("(setting ") {
        text.push_str(LIMIT_SETTINGS);
    }
    Error::new(kind, text).with_retry(retry)
}

/// What an object store's error means, wherever among the causes it is: readers of files and operators wrap it in their own.
fn of_store(error: &DataFusionError) -> Option<(Kind, Retry)> {
    let causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let found = causes.filter_map(|cause| cause.downcast_ref::<object_store::Error>()).last();
    let is_missing = match found {
        Some(found) => matches!(found, object_store::Error::NotFound { .. }),
        None => {
            let text = error.to_string();
            if !text.contains(STORE_WORDS) {
                return None;
            }
            text.contains(MISSING_WORDS)
        }
    };
    Some(if is_missing { (Kind::Damaged, Retry::Never) } else { (Kind::Unavailable, Retry::Backoff) })
}

/// The innermost error; `Ok` when it is one of ours.
fn unwrapped(error: DataFusionError) -> Result<Error, DataFusionError> {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => unwrapped(*inner),
        DataFusionError::Shared(inner) => match inner.find_root() {
            DataFusionError::ResourcesExhausted(text) => Err(DataFusionError::ResourcesExhausted(text.clone())),
            DataFusionError::Execution(text) => Err(DataFusionError::Execution(text.clone())),
            _ => Err(DataFusionError::Shared(inner)),
        },
        DataFusionError::External(inner) => match inner.downcast::<weir_engine::Error>() {
            Ok(engine) => Ok(from_engine(*engine)),
            Err(inner) => match inner.downcast::<Error>() {
                Ok(ours) => Ok(*ours),
                Err(inner) => Err(DataFusionError::External(inner)),
            },
        },
        DataFusionError::ArrowError(inner, trace) => match *inner {
            arrow::error::ArrowError::ExternalError(inner) => match inner.downcast::<DataFusionError>() {
                Ok(inner) => unwrapped(*inner),
                Err(inner) => Err(DataFusionError::External(inner)),
            },
            inner => Err(DataFusionError::ArrowError(Box::new(inner), trace)),
        },
        DataFusionError::Collection(mut errors) if !errors.is_empty() => unwrapped(errors.swap_remove(0)),
        other => Err(other),
    }
}

fn kind_of_arrow(error: &arrow::error::ArrowError) -> Kind {
    use arrow::error::ArrowError as E;
    match error {
        E::CastError(_) | E::ParseError(_) | E::ComputeError(_) | E::DivideByZero | E::ArithmeticOverflow(_) => {
            Kind::Invalid
        }
        E::InvalidArgumentError(_) | E::NotYetImplemented(_) => Kind::Invalid,
        E::ParquetError(_) => Kind::Damaged,
        _ => Kind::Internal,
    }
}

/// The message with a small first letter and without a full stop.
fn message(error: &DataFusionError) -> String {
    let text = match error {
        DataFusionError::SchemaError(inner, _) => match inner.as_ref() {
            SchemaError::FieldNotFound { .. } => inner.to_string(),
            other => other.to_string(),
        },
        other => other.strip_backtrace(),
    };
    let mut text = text.trim().trim_end_matches('.').to_owned();
    for prefix in
        ["Error during planning: ", "Execution error: ", "SQL error: ", "Resources exhausted: ", "Arrow error: "]
    {
        if let Some(rest) = text.strip_prefix(prefix) {
            text = rest.to_owned();
        }
    }
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), &text[first.len_utf8()..])
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::parquet::errors::ParquetError;

    use super::*;

    /// A store that does not answer is a reason to come back, not damage, however deep its error is.
    #[test]
    fn an_error_of_the_store_keeps_its_kind_in_all_wrappings() {
        let store = || object_store::Error::Generic { store: "remote", source: "no answer".into() };
        let gone = || object_store::Error::NotFound { path: "a".into(), source: "gone".into() };
        let parquet = |error| DataFusionError::ParquetError(Box::new(ParquetError::External(Box::new(error))));
        let arrow = |error| {
            let external = arrow::error::ArrowError::ExternalError(Box::new(error));
            DataFusionError::ArrowError(Box::new(external), None)
        };
        let shared = |error| DataFusionError::Shared(Arc::new(error));
        for error in [
            DataFusionError::ObjectStore(Box::new(store())),
            parquet(store()),
            arrow(parquet(store())),
            shared(parquet(store())),
            shared(DataFusionError::ObjectStore(Box::new(store()))).context("while it was joined"),
        ] {
            let (told, error) = (error.to_string(), classify(error));
            assert_eq!((error.kind(), error.retry()), (Kind::Unavailable, Retry::Backoff), "{told}");
        }
        let words = |error| {
            let words = DataFusionError::ObjectStore(Box::new(error)).to_string();
            DataFusionError::ParquetError(Box::new(ParquetError::General(format!("Failed to fetch metadata: {words}"))))
        };
        assert_eq!(classify(shared(words(store()))).kind(), Kind::Unavailable);
        for error in [parquet(gone()), shared(parquet(gone())), words(gone())] {
            assert_eq!(classify(error).kind(), Kind::Damaged);
        }
        let bad = DataFusionError::ParquetError(Box::new(ParquetError::General("no footer".into())));
        assert_eq!(classify(bad).kind(), Kind::Damaged);
    }
}
