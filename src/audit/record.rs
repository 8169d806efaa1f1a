//! Lines of an exchange, as the journal holds them.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use audit_journal::time_text;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::EndedBy;
use crate::claims::Claims;
use spine_types::{Asid, CertificateName, OdsCode, masked};

/// Limit: bytes kept of one claim, and of a certificate's issuer.
const TEXT_BYTES_MAX: usize = 256;

/// Line of an exchange. Members without a value are left out.
#[derive(Debug, Serialize)]
pub(super) struct ExchangeLine<'a> {
    #[serde(serialize_with = "time")]
    pub(super) time: Timestamp,
    pub(super) event: &'static str,
    pub(super) id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<&'a Asid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<&'a Asid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ods: Option<&'a OdsCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interaction: Option<&'static str>,
    pub(super) method: &'static str,
    /// In the first line of an exchange only.
    #[serde(flatten)]
    pub(super) caller: Option<CallerFields<'a>>,
    /// In the last line of an exchange only.
    #[serde(flatten)]
    pub(super) end: Option<ExchangeEnd<'a>>,
}

/// Members of the first line of an exchange: who called, and with which claims.
#[derive(Debug, Serialize)]
pub(super) struct CallerFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) balancer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<&'a CertificateName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_fault: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) directory_age_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) claims: Option<&'a RecordedClaims>,
}

/// End of an exchange: members of its last line.
#[derive(Debug, Serialize)]
pub(super) struct ExchangeEnd<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<&'static str>,
    pub(super) ended_by: EndedBy,
    pub(super) ended_in: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<&'a str>,
    pub(super) sent_whole: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    #[serde(serialize_with = "micros")]
    pub(super) duration_us: Duration,
    #[serde(flatten)]
    pub(super) spent: TimeSpent,
}

/// Time that an exchange spent in each phase; a phase that took less than a microsecond is left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct TimeSpent {
    #[serde(serialize_with = "micros", skip_serializing_if = "is_short")]
    pub(super) policy_us: Duration,
    #[serde(serialize_with = "micros", skip_serializing_if = "is_short")]
    pub(super) queue_us: Duration,
    #[serde(serialize_with = "micros", skip_serializing_if = "is_short")]
    pub(super) directory_us: Duration,
    #[serde(serialize_with = "micros", skip_serializing_if = "is_short")]
    pub(super) audit_us: Duration,
    #[serde(serialize_with = "micros", skip_serializing_if = "is_short")]
    pub(super) provider_us: Duration,
    #[serde(serialize_with = "micros", skip_serializing_if = "is_short")]
    pub(super) body_us: Duration,
}

/// Claims as the journal records them: this list and no others, each masked and cut.
///
/// Spec: the SSP logs the user and system claims.
#[derive(Debug, Serialize)]
pub(super) struct RecordedClaims {
    organisation: OdsCode,
    issuer: Box<str>,
    subject: Box<str>,
    reason: Box<str>,
    scope: Box<str>,
    issued_at: i64,
    expires_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role_profile_id: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_model: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_version: Option<Box<str>>,
}

impl RecordedClaims {
    pub(super) fn of(claims: &Claims<'_>) -> Self {
        // Security: anything may stand in a claim.
        let text = |claim: &str| Box::from(masked(claim, TEXT_BYTES_MAX));
        Self {
            organisation: claims.organisation.clone(),
            issuer: text(&claims.issuer),
            subject: text(&claims.subject),
            reason: text(&claims.reason),
            scope: text(&claims.scope),
            issued_at: claims.issued_s,
            expires_at: claims.expires_s,
            user_id: claims.user_id.as_deref().map(text),
            role_profile_id: claims.role_profile_id.as_deref().map(text),
            user_name: claims.user_name.as_deref().map(text),
            device: claims.device.as_deref().map(text),
            device_model: claims.device_model.as_deref().map(text),
            device_version: claims.device_version.as_deref().map(text),
        }
    }
}

fn time<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time_text(*at))
}

/// Returns true for less than a microsecond.
fn is_short(duration: &Duration) -> bool {
    duration.as_micros() == 0
}

fn micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
