//! Refusals and failures of the directory: answers without a Bundle.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::bundle::{FHIR_JSON, JSON, response};

/// Refusal or failure of a request to the directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SdsRefusal {
    status: StatusCode,
    diagnostics: Cow<'static, str>,
}

impl SdsRefusal {
    /// Returns a refusal with the diagnostics that SDS gives for this status.
    pub(super) fn with_status(status: StatusCode) -> Self {
        let diagnostics = match status.as_u16() {
            404 => "HTTP endpoint not found",
            405 => "HTTP operation not supported",
            406 => "Accept type not supported",
            502 => "Invalid LDAP response received",
            504 => "LDAP request timed out",
            _ => status.canonical_reason().unwrap_or("Unknown"),
        };
        Self { status, diagnostics: diagnostics.into() }
    }

    /// Returns a refusal of an invalid request, with status 400.
    pub(super) fn bad_request(why: &str) -> Self {
        let diagnostics = format!("HTTP 400: Bad Request ({why})").into();
        Self { status: StatusCode::BAD_REQUEST, diagnostics }
    }

    /// Returns a failure of SDS on the request or on its own data, with status 500.
    pub(super) fn internal_error(why: impl Into<Cow<'static, str>>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, diagnostics: why.into() }
    }

    /// Converts to a response, with the correlation id as the outcome's id.
    pub(super) fn into_response(self, correlation: &str) -> Response<Bytes> {
        let mut answer = match self.status.as_u16() {
            // The gateway's own answers are not published; this is its generic outcome.
            401 | 429 | 503 => response(&gateway_outcome(), JSON, None),
            _ => response(&self.outcome(correlation), FHIR_JSON, Some(correlation)),
        };
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        *answer.status_mut() = self.status;
        answer
    }

    fn outcome(&self, correlation: &str) -> Value {
        let (issue, code, display) = row(self.status);
        json!({
            "resourceType": "OperationOutcome",
            "id": correlation,
            "issue": [{
                "severity": "error",
                "code": issue,
                "details": { "coding": [{
                    "system": "https://fhir.nhs.uk/STU3/ValueSet/Spine-ErrorOrWarningCode-1",
                    "code": code,
                    "display": display,
                }] },
                "diagnostics": self.diagnostics,
            }],
        })
    }
}

/// Returns issue type, code and display for a status.
#[rustfmt::skip]
fn row(status: StatusCode) -> (&'static str, &'static str, &'static str) {
    match status.as_u16() {
        400 => ("required", "BAD_REQUEST", "Bad request"),
        404 => ("not-found", "NO_RECORD_FOUND", "No record found"),
        405 => ("not-supported", "NOT_IMPLEMENTED", "Not implemented"),
        406 => ("not-supported", "MISSING_OR_INVALID_HEADER", "There is a required header missing or invalid"),
        ..500 => ("exception", "BAD_REQUEST", "Bad request"),
        504 => ("timeout", "INTERNAL_SERVER_ERROR", "Unexpected internal server error"),
        _ => ("exception", "INTERNAL_SERVER_ERROR", "Unexpected internal server error"),
    }
}

fn gateway_outcome() -> Value {
    json!({
        "resourceType": "OperationOutcome",
        "issue": [{
            "severity": "error",
            "code": "unknown",
            "details": { "coding": [{
                "system": "https://fhir.nhs.uk/R4/CodeSystem/Spine-ErrorOrWarningCode",
                "version": "1",
                "code": "UNKNOWN_ERROR",
                "display": "An unknown error occurred processing this request.",
            }] },
        }],
    })
}
