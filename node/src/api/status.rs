//! A refusal as a gRPC status: code, sentence, and machine-readable details.

use std::collections::HashMap;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::gate::Refusal;

/// The domain of every reason.
const DOMAIN: &str = "tarn";

/// A refusal as a status. The details are google.rpc.ErrorInfo (reason, domain, and in its metadata the step of the gate, the field, the
/// limit and the actual version, as far as there are any), google.rpc.RequestInfo (the request's trace id) and google.rpc.RetryInfo, where it is known when the
/// same may be worth another try.
#[must_use]
pub fn status(refusal: Refusal, trace: &str) -> Status {
    let code = refusal.code();
    let Refusal { step, rejection } = refusal;
    let mut facts = HashMap::new();
    if let Some(step) = step {
        facts.insert("step".to_owned(), step.to_owned());
    }
    if !rejection.field.is_empty() {
        facts.insert("field".to_owned(), rejection.field.clone());
    }
    if rejection.limit > 0 {
        facts.insert("limit".to_owned(), rejection.limit.to_string());
    }
    if rejection.reason == "VERSION_CONFLICT" {
        facts.insert("actual_version".to_owned(), rejection.actual_version.to_string());
    }
    let mut details = ErrorDetails::with_error_info(rejection.reason, DOMAIN, facts);
    details.set_request_info(trace, "");
    if rejection.retry_after_ms > 0 {
        details.set_retry_info(Some(Duration::from_millis(rejection.retry_after_ms)));
    }
    Status::with_error_details(code, rejection.message, details)
}
