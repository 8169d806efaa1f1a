//! The lines of the journal.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{Asid, CertificateName, EndedBy, Interaction, OdsCode};

/// Limit: bytes kept of one claim.
pub(super) const CLAIM_BYTES_MAX: usize = 256;

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) time: Timestamp,
    pub(super) who: Arc<Who>,
    pub(super) part: Part,
}

/// Which line of an exchange it is.
#[derive(Debug)]
pub(super) enum Part {
    /// The first of two: it holds the claims.
    Opened,
    /// The second of two.
    Closed(End),
    /// The only one, of an exchange that was never opened.
    Only(End),
}

/// Who asked whom for what: the same in both lines.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Who {
    pub(super) id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Asid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<Asid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ods: Option<OdsCode>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "interaction")]
    pub(super) interaction: Option<&'static Interaction>,
    #[serde(serialize_with = "method")]
    pub(super) method: Method,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<CertificateName>,
    #[serde(skip)]
    pub(super) claims: Option<RecordedClaims>,
}

impl Who {
    pub(super) const fn new(id: Uuid, method: Method) -> Self {
        Self {
            id,
            trace_id: None,
            from: None,
            to: None,
            ods: None,
            interaction: None,
            method,
            certificate: None,
            claims: None,
        }
    }
}

/// Spec: the SSP logs the user and system claims. This is the whole list.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RecordedClaims {
    pub(super) organisation: OdsCode,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) reason: String,
    pub(super) scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role_profile_id: Option<String>,
}

/// How an exchange ended.
#[derive(Debug, Serialize)]
pub(super) struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<&'static str>,
    pub(super) ended_by: EndedBy,
    pub(super) sent_whole: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    #[serde(rename = "duration_us", serialize_with = "micros")]
    pub(super) duration: Duration,
    #[serde(rename = "policy_us", serialize_with = "micros")]
    pub(super) policy: Duration,
    #[serde(rename = "directory_us", serialize_with = "micros")]
    pub(super) directory: Duration,
    #[serde(rename = "provider_us", serialize_with = "micros")]
    pub(super) provider: Duration,
}

impl Line {
    /// Appends the line, its sequence number first and a line feed last.
    pub(super) fn write(&self, seq: u64, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            seq: u64,
            time: Timestamp,
            event: &'static str,
            #[serde(flatten)]
            who: &'a Who,
            #[serde(skip_serializing_if = "Option::is_none")]
            claims: Option<&'a RecordedClaims>,
            #[serde(flatten)]
            end: Option<&'a End>,
        }
        let said = self.who.claims.as_ref();
        let (event, claims, end) = match &self.part {
            Part::Opened => ("opened", said, None),
            Part::Closed(end) => ("closed", None, Some(end)),
            Part::Only(end) => ("closed", said, Some(end)),
        };
        let whole = Whole { seq, time: self.time, event, who: &self.who, claims, end };
        serde_json::to_writer(&mut *out, &whole)?;
        out.push(b'\n');
        Ok(())
    }
}

fn interaction<S: Serializer>(
    interaction: &Option<&'static Interaction>,
    out: S,
) -> Result<S::Ok, S::Error> {
    out.serialize_str(interaction.map_or("", |interaction| interaction.id))
}

/// Methods outside the known ones are not repeated: the token was chosen by whoever sent it.
fn method<S: Serializer>(method: &Method, out: S) -> Result<S::Ok, S::Error> {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
        Method::HEAD,
        Method::TRACE,
        Method::CONNECT,
    ];
    out.serialize_str(if KNOWN.contains(method) { method.as_str() } else { "_OTHER" })
}

fn micros<S: Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
