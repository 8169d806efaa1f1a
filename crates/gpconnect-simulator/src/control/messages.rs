//! Requests and answers of the control interface.

use http::StatusCode;
use http::request::Parts;
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::{ControlError, bad_request, practice_code};
use crate::parameters::Parameters;
use crate::scripts::{SCRIPTS_MAX, Script};
use crate::{ReceivedRequest, SimulatedProvider};
use spine_types::OdsCode;

/// Parameters of a control request, in its query or its path.
#[derive(Default, JsonSchema)]
pub struct ControlParameters {
    /// Number of the latest requests to return; all if absent.
    #[schemars(with = "usize")]
    pub(super) last: Option<usize>,
    /// ODS code of a practice, in either case.
    #[schemars(with = "String", extend("pattern" = "^[0-9A-Za-z]{3,9}$"))]
    pub(super) ods: Option<OdsCode>,
    /// Parts of the state that a reset keeps.
    #[schemars(length(min = 1))]
    pub(super) keep: Vec<KeptPart>,
}

/// Part of the state that a reset may keep.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KeptPart {
    /// Scripts of the practices.
    Scripts,
    /// Time of the clock.
    Clock,
    /// Requests that arrived.
    Requests,
}

/// Body of a request that sets the clock.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "now": "2026-03-25T10:30:00Z" }))]
pub(super) struct ClockSetting {
    /// Time to set, in the years 1972 to 8999; `null` restores the real time.
    #[serde(deserialize_with = "present_or_null")]
    #[schemars(schema_with = "time_or_null")]
    pub(super) now: Option<Timestamp>,
}

/// Body of a request that replaces the scripts of a practice.
#[derive(Deserialize, JsonSchema)]
#[schemars(inline, extend("maxItems" = SCRIPTS_MAX))]
pub(super) struct PracticeScripts(pub(super) Vec<Script>);

/// Time of the clock.
#[derive(Serialize, JsonSchema)]
#[schemars(example = serde_json::json!({ "now": "2026-03-25T10:30:00Z", "set": true }))]
pub(super) struct ClockReading {
    /// Time of the clock now.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub(super) now: Timestamp,
    /// True if the clock was set; false if it has the real time.
    pub(super) set: bool,
}

/// Number of requests that were forgotten.
#[derive(Serialize, JsonSchema)]
pub(super) struct ForgottenRequests {
    /// Number of requests.
    pub(super) forgotten: usize,
}

/// Number of practices that were reset.
#[derive(Serialize, JsonSchema)]
pub(super) struct ResetPractices {
    /// Number of practices.
    pub(super) reset: usize,
}

/// A request that arrived.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListedRequest {
    /// Time of arrival, by the simulator's clock.
    #[schemars(with = "String", extend("format" = "date-time"))]
    time: Timestamp,
    /// Practice with the service root that the target begins with, or `null`.
    ods: Option<OdsCode>,
    /// Method of the request.
    method: String,
    /// Target as sent.
    target: String,
    /// Names in lower case and values, in the order sent.
    headers: Vec<(String, String)>,
    /// Status of the answer, or `null` if there was none.
    status: Option<u16>,
    #[serde(flatten)]
    body: ListedBody,
}

/// Body of a request that arrived.
#[derive(Serialize, JsonSchema)]
enum ListedBody {
    /// Body that is UTF-8 text.
    #[serde(rename = "body")]
    Text(String),
    /// Any other body, in Base64.
    #[serde(rename = "body-base64")]
    Bytes(String),
}

/// Answer to a control request that is refused.
#[derive(Serialize, JsonSchema)]
pub struct ControlFault {
    /// Reason in one sentence.
    pub(super) error: String,
}

impl ControlParameters {
    /// Parses the query of a request, of which only these parameters may be in it.
    pub(super) fn parse(
        head: &Parts,
        names: &[&str],
        provider: &SimulatedProvider,
    ) -> Result<Self, ControlError> {
        let query = Parameters::parse(head.uri.query().unwrap_or_default())
            .map_err(|_| bad_request("the query has an invalid percent escape"))?;
        let mut parsed = Self::default();
        for (name, value) in query.pairs() {
            if !names.contains(&name) {
                return Err(bad_request(format!("unknown query parameter {name}")));
            }
            if query.all(name).len() > 1 {
                return Err(bad_request(format!("query parameter {name} is repeated")));
            }
            match name {
                "ods" => parsed.ods = Some(practice_code(provider, value)?),
                "last" => {
                    let number = value.parse();
                    let number =
                        number.map_err(|_| bad_request("last must be a number of requests"))?;
                    parsed.last = Some(number);
                }
                _ => {
                    let parts = value.split(',').map(KeptPart::parse);
                    parsed.keep = parts.collect::<Result<_, _>>()?;
                }
            }
        }
        Ok(parsed)
    }

    /// Returns the practice that the request names.
    pub(super) fn practice(&self) -> Result<&OdsCode, ControlError> {
        let missing = || ControlError::new(StatusCode::NOT_FOUND, "the request names no practice");
        self.ods.as_ref().ok_or_else(missing)
    }
}

impl KeptPart {
    fn parse(text: &str) -> Result<Self, ControlError> {
        Self::deserialize(StrDeserializer::<ValueError>::new(text))
            .map_err(|_| bad_request("keep is a list of scripts, clock and requests, with commas"))
    }
}

impl From<&ReceivedRequest> for ListedRequest {
    fn from(received: &ReceivedRequest) -> Self {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = received.headers.iter();
        Self {
            time: received.at,
            ods: received.ods.clone(),
            method: received.method.to_string(),
            target: received.target.clone(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                .collect(),
            status: received.status.map(|status| status.as_u16()),
            body: match std::str::from_utf8(&received.body) {
                Ok(text) => ListedBody::Text(text.to_owned()),
                Err(_) => ListedBody::Bytes(base64_simd::STANDARD.encode_to_string(&received.body)),
            },
        }
    }
}

/// Deserialises a field that must be present but may be null.
fn present_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    Option::deserialize(from)
}

fn time_or_null(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "date-time" })
}
