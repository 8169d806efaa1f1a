//! Results of interactions: a resource, or a fault with a Spine error code.

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Value, json};

use super::fhir;
use super::state::Change;

/// Result of every interaction.
pub(super) type InteractionResult = Result<ResourceReply, ReplyFault>;

/// A response: its status, resource and headers, and the changes to commit before it is sent.
pub(super) struct ResourceReply {
    pub(super) status: StatusCode,
    pub(super) version: Option<String>,
    pub(super) location: Option<String>,
    pub(super) body: Value,
    /// Changes to commit before the response is sent.
    changes: Vec<Change>,
}

impl ResourceReply {
    /// Returns a reply with a bundle or another body without a version.
    pub(super) fn plain(body: Value) -> Self {
        Self { status: StatusCode::OK, version: None, location: None, body, changes: Vec::new() }
    }

    /// Returns a reply with a resource, and its version as the `ETag`.
    pub(super) fn resource(body: Value) -> Self {
        let version = fhir::text(&body, "/meta/versionId").map(ToOwned::to_owned);
        Self { version, ..Self::plain(body) }
    }

    /// Returns a reply of status 201 with the resource that the request created.
    pub(super) fn created(body: Value, location: String) -> Self {
        Self { status: StatusCode::CREATED, location: Some(location), ..Self::resource(body) }
    }

    /// Returns the reply with these changes to commit.
    pub(super) fn with_changes(self, changes: Vec<Change>) -> Self {
        Self { changes, ..self }
    }

    /// Prefixes the location with the service root, if there is one.
    pub(super) fn with_service_root(mut self, root: impl FnOnce() -> Option<String>) -> Self {
        self.location = self.location.map(|location| match root() {
            Some(root) => format!("{root}/{location}"),
            None => location,
        });
        self
    }

    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}

/// Failure of an interaction, with diagnostics for a developer.
#[derive(Debug)]
pub(super) struct ReplyFault {
    kind: SpineErrorCode,
    diagnostics: Cow<'static, str>,
    /// Status that replaces the kind's own, if any.
    status: Option<StatusCode>,
}

/// Spec: the table of Spine error codes, as far as it is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpineErrorCode {
    BadRequest,
    InvalidIdentifierSystem,
    InvalidNhsNumber,
    InvalidDemographics,
    AccessDenied,
    OrganisationNotFound,
    PatientNotFound,
    PractitionerNotFound,
    NoRecordFound,
    DuplicateRejected,
    ConstraintViolation,
    TimedOut,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidResource,
    InvalidParameter,
    Internal,
    NotImplemented,
}

impl SpineErrorCode {
    /// Returns status, issue type, code and display.
    #[rustfmt::skip]
    fn row(self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "invalid", "BAD_REQUEST", "Submitted request is malformed/invalid."),
            Self::InvalidIdentifierSystem => (400, "value", "INVALID_IDENTIFIER_SYSTEM", "Invalid identifier system"),
            Self::InvalidNhsNumber => (400, "value", "INVALID_NHS_NUMBER", "Invalid NHS number"),
            Self::InvalidDemographics => (400, "business-rule", "INVALID_PATIENT_DEMOGRAPHICS", "Invalid patient demographics (that is, PDS trace failed)"),
            Self::AccessDenied => (403, "forbidden", "ACCESS_DENIED", "Access has been denied to process this request"),
            Self::OrganisationNotFound => (404, "not-found", "ORGANISATION_NOT_FOUND", "Organisation record not found"),
            Self::PatientNotFound => (404, "not-found", "PATIENT_NOT_FOUND", "Patient record not found"),
            Self::PractitionerNotFound => (404, "not-found", "PRACTITIONER_NOT_FOUND", "Practitioner record not found"),
            Self::NoRecordFound => (404, "not-found", "NO_RECORD_FOUND", "No record found"),
            Self::DuplicateRejected => (409, "duplicate", "DUPLICATE_REJECTED", "Create would lead to creation of a duplicate resource"),
            Self::ConstraintViolation => (409, "conflict", "FHIR_CONSTRAINT_VIOLATION", "FHIR constraint violated"),
            Self::TimedOut => (408, "timeout", "BAD_REQUEST", "Submitted request is malformed/invalid."),
            Self::BodyTooLarge => (413, "too-long", "BAD_REQUEST", "Submitted request is malformed/invalid."),
            Self::UnsupportedMediaType => (415, "invalid", "BAD_REQUEST", "Submitted request is malformed/invalid."),
            Self::InvalidResource => (422, "invalid", "INVALID_RESOURCE", "Submitted resource is not valid."),
            Self::InvalidParameter => (422, "invalid", "INVALID_PARAMETER", "Submitted parameter is not valid."),
            Self::Internal => (500, "processing", "INTERNAL_SERVER_ERROR", "Unexpected internal server error."),
            Self::NotImplemented => (501, "not-supported", "NOT_IMPLEMENTED", "FHIR resource or operation not implemented at server"),
        }
    }
}

impl ReplyFault {
    pub(super) fn new(kind: SpineErrorCode, diagnostics: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, diagnostics: diagnostics.into(), status: None }
    }

    pub(super) fn bad_request(diagnostics: impl Into<Cow<'static, str>>) -> Self {
        Self::new(SpineErrorCode::BadRequest, diagnostics)
    }

    pub(super) fn resource(diagnostics: impl Into<Cow<'static, str>>) -> Self {
        Self::new(SpineErrorCode::InvalidResource, diagnostics)
    }

    pub(super) fn parameter(diagnostics: impl Into<Cow<'static, str>>) -> Self {
        Self::new(SpineErrorCode::InvalidParameter, diagnostics)
    }

    /// Returns an injected fault with this status, of the nearest kind.
    pub(super) fn simulated(status: StatusCode, diagnostics: &'static str) -> Self {
        let kind = match status.as_u16() {
            403 => SpineErrorCode::AccessDenied,
            404 => SpineErrorCode::NoRecordFound,
            408 => SpineErrorCode::TimedOut,
            409 => SpineErrorCode::DuplicateRejected,
            413 => SpineErrorCode::BodyTooLarge,
            415 => SpineErrorCode::UnsupportedMediaType,
            422 => SpineErrorCode::InvalidResource,
            501 => SpineErrorCode::NotImplemented,
            500.. => SpineErrorCode::Internal,
            _ => SpineErrorCode::BadRequest,
        };
        Self { status: Some(status), ..Self::new(kind, diagnostics) }
    }

    pub(super) fn status(&self) -> StatusCode {
        let usual = || StatusCode::from_u16(self.kind.row().0).ok();
        self.status.or_else(usual).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn into_reply(self) -> ResourceReply {
        let status = self.status();
        let (_, issue, code, display) = self.kind.row();
        let body = json!({
            "resourceType": "OperationOutcome",
            "meta": { "profile": [fhir::profile("GPConnect-OperationOutcome-1")] },
            "issue": [{
                "severity": "error",
                "code": issue,
                "details": { "coding": [{
                    "system": "https://fhir.nhs.uk/STU3/CodeSystem/Spine-ErrorOrWarningCode-1",
                    "code": code,
                    "display": display,
                }] },
                "diagnostics": self.diagnostics,
            }],
        });
        ResourceReply { status, ..ResourceReply::plain(body) }
    }
}

/// Fails with the fault of an invalid resource, and this flaw as its diagnostics, unless `condition` is
/// true.
pub(super) fn require(condition: bool, flaw: &'static str) -> Result<(), ReplyFault> {
    if condition { Ok(()) } else { Err(ReplyFault::resource(flaw)) }
}
