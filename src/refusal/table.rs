//! Table of refusals: everything in a refusal's response besides its text.

use super::{MismatchedSide, Reached, Refusal};
use spine_types::SspHeader;

/// Family of bodies that a refusal is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFamily {
    /// Payload of the live Spine Secure Proxy, for the refusals that it documents.
    Spine,
    /// Payload of the live Spine Secure Proxy for a method that is not allowed.
    SpineMethod,
    /// `OperationOutcome` as GP Connect profiles it.
    GpConnect,
}

/// Row of the table of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalRow {
    /// Token of the refusal in `Proxy-Status`, logs, metrics and records.
    pub token: &'static str,
    /// HTTP status code.
    pub status: u16,
    /// Issue type of FHIR.
    pub issue: &'static str,
    /// Code of Spine-ErrorOrWarningCode-1.
    pub code: &'static str,
    /// Family of bodies that the response has by default.
    pub family: BodyFamily,
    /// Proxy error type (RFC 9209 §2.3).
    pub proxy_error: &'static str,
}

const BAD: &str = "BAD_REQUEST";
const DENIED: &str = "ACCESS_DENIED";
const BROKEN: &str = "INTERNAL_SERVER_ERROR";

const fn gp(
    token: &'static str,
    status: u16,
    issue: &'static str,
    code: &'static str,
    proxy_error: &'static str,
) -> RefusalRow {
    RefusalRow { token, status, issue, code, family: BodyFamily::GpConnect, proxy_error }
}

const fn bad(token: &'static str) -> RefusalRow {
    gp(token, 400, "invalid", BAD, "http_request_error")
}

const fn spine(
    token: &'static str,
    status: u16,
    issue: &'static str,
    proxy_error: &'static str,
) -> RefusalRow {
    let code = match status {
        400 => BAD,
        403 => DENIED,
        _ => BROKEN,
    };
    RefusalRow { token, status, issue, code, family: BodyFamily::Spine, proxy_error }
}

impl Refusal {
    /// Returns the refusal's row. The match has no wildcard, so that a new refusal does not compile without a
    /// row.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "the table has one row for each refusal")]
    pub const fn row(&self) -> RefusalRow {
        const REQUEST: &str = "http_request_error";
        const DENY: &str = "http_request_denied";
        const CERT: &str = "tls_certificate_error";
        const OURS: &str = "proxy_internal_error";
        use Reached::{NotSent, Read, Unknown};
        use SspHeader::{From, InteractionId, To, TraceId};
        match self {
            Self::AuditUnavailable => gp("audit_unavailable", 503, "transient", BROKEN, OURS),
            Self::GatewayFull => {
                gp("gateway_full", 503, "transient", BROKEN, "connection_limit_reached")
            }
            Self::PlainHttp => gp("plain_http", 497, "security", BAD, REQUEST),
            Self::CertificateMissing => gp("certificate_missing", 496, "forbidden", BAD, CERT),
            Self::CertificateInvalid(_) => gp("certificate_invalid", 495, "forbidden", BAD, CERT),
            Self::CertificateExpired(_) => gp("certificate_expired", 495, "forbidden", BAD, CERT),
            Self::CertificateRevoked(_) => gp("certificate_revoked", 495, "forbidden", BAD, CERT),
            Self::CertificateStatusUnknown(_) => {
                gp("certificate_status_unknown", 495, "forbidden", BAD, CERT)
            }
            Self::CertificateUnknown => gp("certificate_unknown", 495, "forbidden", BAD, CERT),
            Self::HeadMalformed => bad("head_malformed"),
            Self::VersionUnknown => gp("version_unknown", 505, "not-supported", BAD, REQUEST),
            Self::MethodNotAllowed => RefusalRow {
                token: "method_not_allowed",
                status: 405,
                issue: "forbidden",
                code: BAD,
                family: BodyFamily::SpineMethod,
                proxy_error: REQUEST,
            },
            Self::MethodUnknown => {
                gp("method_unknown", 501, "not-supported", "NOT_IMPLEMENTED", REQUEST)
            }
            Self::HostInvalid => bad("host_invalid"),
            Self::HostNotOurs => gp("host_not_ours", 421, "invalid", BAD, REQUEST),
            Self::TargetTooLong => gp("target_too_long", 414, "too-long", BAD, REQUEST),
            Self::TargetMalformed(_) => bad("target_malformed"),
            Self::HeadTooLarge => gp("head_too_large", 431, "too-long", BAD, REQUEST),
            Self::HeaderUnderscore => bad("header_underscore"),
            Self::LoopDetected => {
                gp("loop_detected", 508, "processing", BAD, "proxy_loop_detected")
            }
            Self::ConnectionNamesHeader => bad("connection_names_header"),
            Self::FramingAmbiguous => bad("framing_ambiguous"),
            Self::TransferCodingUnknown => {
                gp("transfer_coding_unknown", 501, "not-supported", "NOT_IMPLEMENTED", REQUEST)
            }
            Self::ExpectationUnknown => {
                gp("expectation_unknown", 417, "not-supported", BAD, REQUEST)
            }
            Self::BodyOnGet => bad("body_on_get"),
            Self::HeaderMissing(TraceId) => bad("trace_id_missing"),
            Self::HeaderMissing(From) => bad("from_missing"),
            Self::HeaderMissing(To) => bad("to_missing"),
            Self::HeaderMissing(InteractionId) => bad("interaction_id_missing"),
            Self::HeaderRepeated(TraceId) => bad("trace_id_repeated"),
            Self::HeaderRepeated(From) => bad("from_repeated"),
            Self::HeaderRepeated(To) => bad("to_repeated"),
            Self::HeaderRepeated(InteractionId) => bad("interaction_id_repeated"),
            Self::HeaderInvalid { header: TraceId, .. } => bad("trace_id_invalid"),
            Self::HeaderInvalid { header: From, .. } => bad("from_invalid"),
            Self::HeaderInvalid { header: To, .. } => bad("to_invalid"),
            Self::HeaderInvalid { header: InteractionId, .. } => bad("interaction_id_invalid"),
            Self::CertificateRateLimited => {
                gp("certificate_rate_limited", 429, "throttled", DENIED, DENY)
            }
            Self::LookupsExceeded => gp("lookups_exceeded", 429, "throttled", DENIED, DENY),
            Self::SenderUnknown(_) => spine("sender_unknown", 403, "forbidden", DENY),
            Self::DirectoryUnavailable => {
                gp("directory_unavailable", 503, "transient", BROKEN, OURS)
            }
            Self::CertificateNotSenders(_) => {
                spine("certificate_not_senders", 403, "forbidden", DENY)
            }
            Self::SenderNotCertificates(_) => {
                spine("sender_not_certificates", 403, "forbidden", DENY)
            }
            Self::Overloaded => gp("overloaded", 503, "transient", BROKEN, "proxy_internal_error"),
            Self::QuotaExceeded { .. } => gp("quota_exceeded", 429, "throttled", DENIED, DENY),
            Self::ConsumerBusy => gp("consumer_busy", 429, "throttled", DENIED, DENY),
            Self::InteractionUnknown { .. } => bad("interaction_unknown"),
            Self::InteractionNotAllowed(_) => bad("interaction_not_allowed"),
            Self::InteractionMethod(_) => bad("interaction_method"),
            Self::InteractionPath { .. } => bad("interaction_path"),
            Self::TokenMissing => bad("token_missing"),
            Self::TokenRepeated => bad("token_repeated"),
            Self::AuthorizationMalformed => bad("authorization_malformed"),
            Self::TokenTooLong => bad("token_too_long"),
            Self::TokenMalformed(_) => bad("token_malformed"),
            Self::TokenSigned => bad("token_signed"),
            Self::TokenAlgorithm => bad("token_algorithm"),
            Self::TokenClaims => bad("token_claims"),
            Self::ClaimMissing(_) => bad("claim_missing"),
            Self::ClaimInvalid { .. } => bad("claim_invalid"),
            Self::ClaimResource { .. } => {
                gp("claim_resource", 422, "invalid", "INVALID_RESOURCE", REQUEST)
            }
            Self::TokenLifetime { .. } => bad("token_lifetime"),
            Self::TokenExpired { .. } => bad("token_expired"),
            Self::TokenFromFuture { .. } => bad("token_from_future"),
            Self::ScopeMismatch(_) => bad("scope_mismatch"),
            Self::SenderNotRegistered(_) => spine("sender_not_registered", 403, "forbidden", DENY),
            Self::OrganisationMismatch => {
                gp("organisation_mismatch", 403, "forbidden", DENIED, DENY)
            }
            Self::OrganisationUnknown => gp("organisation_unknown", 403, "forbidden", DENIED, DENY),
            Self::ReceiverUnknown => bad("receiver_unknown"),
            Self::ReceiverNotFound => bad("receiver_not_found"),
            Self::PracticeUnknown => bad("practice_unknown"),
            Self::ReceiverNotRegistered(_) => {
                spine("receiver_not_registered", 403, "forbidden", DENY)
            }
            Self::PracticeNotRegistered => {
                gp("practice_not_registered", 403, "forbidden", DENIED, DENY)
            }
            Self::ReceiverAmbiguous => gp("receiver_ambiguous", 500, "processing", BROKEN, OURS),
            Self::ReceiverNotPractices => bad("receiver_not_practices"),
            Self::TargetVaries { odd: MismatchedSide::Target, .. } => {
                spine("target_not_receivers", 400, "invalid", REQUEST)
            }
            Self::TargetVaries { odd: MismatchedSide::Receiver, .. } => {
                spine("receiver_not_targets", 400, "invalid", REQUEST)
            }
            Self::TargetVaries { odd: MismatchedSide::UnknownTarget, .. } => {
                spine("target_unregistered", 400, "invalid", REQUEST)
            }
            Self::AudienceMismatch { .. } => bad("audience_mismatch"),
            Self::NoAgreement { .. } => spine("no_agreement", 403, "forbidden", DENY),
            Self::ProviderBusy => {
                gp("provider_busy", 503, "transient", BROKEN, "connection_limit_reached")
            }
            Self::ProviderCircuitOpen { .. } => {
                gp("provider_circuit_open", 503, "transient", BROKEN, "destination_unavailable")
            }
            Self::ProviderFailed { reached: NotSent, .. } => {
                spine("provider_not_reached", 502, "transient", "destination_unavailable")
            }
            Self::ProviderFailed { reached: Unknown, .. } => {
                spine("outcome_unknown", 502, "transient", "http_response_incomplete")
            }
            Self::ProviderFailed { reached: Read, .. } => {
                spine("provider_failed", 502, "transient", "http_response_incomplete")
            }
            Self::ProviderTimedOut { reached: NotSent } => {
                gp("provider_not_reached_in_time", 504, "transient", BROKEN, "connection_timeout")
            }
            Self::ProviderTimedOut { reached: Unknown } => {
                gp("outcome_unknown_in_time", 504, "transient", BROKEN, "http_response_timeout")
            }
            Self::ProviderTimedOut { reached: Read } => {
                gp("provider_timed_out", 504, "transient", BROKEN, "http_response_timeout")
            }
            Self::BodyTimedOut => gp("body_timed_out", 408, "transient", BAD, REQUEST),
            Self::BodyCut => bad("body_cut"),
            Self::ConsumerGone => gp("consumer_gone", 499, "transient", BAD, REQUEST),
            Self::Internal => gp("internal", 500, "exception", BROKEN, OURS),
        }
    }
}
/// Refusal tokens of version 0.1, each with its successor: a journal may hold either.
const FORMER_TOKENS: [(&str, &str); 2] =
    [("knock_limited", "certificate_rate_limited"), ("provider_spared", "provider_circuit_open")];

/// Returns the tokens of former versions that are no longer written.
pub fn former_tokens() -> impl Iterator<Item = &'static str> {
    FORMER_TOKENS.into_iter().map(|(former, _)| former)
}

/// Returns every token, former ones included, under which a journal may hold the refusal that `token` names.
#[must_use]
pub fn token_names(token: &str) -> Vec<String> {
    let names = FORMER_TOKENS
        .into_iter()
        .filter(|(former, current)| token == *former || token == *current)
        .flat_map(|(former, current)| [former, current].map(str::to_owned));
    std::iter::once(token.to_owned()).chain(names).collect()
}
