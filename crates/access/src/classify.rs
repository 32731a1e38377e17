//! What a failed call means for the entry: retry, wait, skip or stop.

use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use weir_ops::{Class, Failure};

/// Classifies a failed call.
pub(crate) fn failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let raw = service.raw();
            let meta = service.err().meta();
            let code = meta.code().unwrap_or("an unknown error");
            let message = meta.message().unwrap_or_default();
            let reason = if message.is_empty() { code.to_owned() } else { format!("{code}: {message}") };
            Failure {
                class: class(code, raw.status().as_u16()),
                reason,
                request: raw.headers().get("x-amzn-requestid").map(str::to_owned),
                after: raw.headers().get("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs),
            }
        }
        SdkError::ConstructionFailure(_) => Failure::new(Class::Stop, weir_base::error::chain(error)),
        other => {
            let reason = weir_base::error::chain(other);
            // Without credentials nothing was sent, and nothing will be.
            let class = if reason.contains("redential") { Class::Stop } else { Class::Retry };
            Failure::new(class, reason)
        }
    }
}

/// By the code of the API reference ("Common Errors" and those of each action), else by the status.
fn class(code: &str, status: u16) -> Class {
    match code {
        "ThrottlingException" | "Throttling" | "TooManyRequestsException" | "RequestLimitExceeded" | "SlowDown" => {
            Class::Wait
        }
        "ConflictException" | "ConcurrentModificationException" => Class::Wait,
        "AccessDeniedException"
        | "AccessDenied"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired"
        | "SignatureDoesNotMatch"
        | "UnauthorizedException"
        | "UnrecognizedClientException" => Class::Stop,
        _ if status == 429 => Class::Wait,
        _ if status >= 500 => Class::Retry,
        _ => Class::Skip,
    }
}

/// Classifies the reason that a request was accepted and failed later.
pub(crate) fn failed_request(reason: Option<&str>) -> Failure {
    let reason = reason.unwrap_or("the identity center gave no reason");
    let lower = reason.to_ascii_lowercase();
    let is_any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let class = if is_any(&["throttl", "rate exceeded", "conflict", "in progress"]) {
        Class::Wait
    } else if is_any(&["internal", "timed out", "unavailable"]) {
        Class::Retry
    } else {
        Class::Skip
    };
    Failure::new(class, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses() {
        for (code, status, expected) in [
            ("ConflictException", 400, Class::Wait),
            ("ThrottlingException", 400, Class::Wait),
            ("AccessDeniedException", 400, Class::Stop),
            ("ResourceNotFoundException", 400, Class::Skip),
            ("ValidationException", 400, Class::Skip),
            ("InternalServerException", 500, Class::Retry),
            ("whatever", 503, Class::Retry),
            ("whatever", 429, Class::Wait),
        ] {
            assert_eq!(class(code, status), expected, "{code} {status}");
        }
        assert_eq!(failed_request(Some("Internal failure")).class, Class::Retry);
        assert_eq!(failed_request(Some("Received a 404 status error: no such role")).class, Class::Skip);
        assert_eq!(failed_request(None).class, Class::Skip);
    }
}
