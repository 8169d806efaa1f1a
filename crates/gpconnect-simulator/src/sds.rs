//! Simulator of the Spine Directory Service: its FHIR API with its quirks, and faults on demand.
//!
//! It follows the published code of the API, also in the order of its checks. Not simulated are the
//! reliability extension of an Endpoint, the intermediary addresses of services other than GP
//! Connect's, the paths for health checks, rate limits, and the gateway's cache, except for
//! [`SdsTrouble::EmptyUnlessFresh`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

mod bundle;
mod ldif;
mod question;
mod records;
mod refused;
mod serving;
#[cfg(test)]
mod stage;
mod trouble;

use bundle::{FHIR_JSON, JSON};
use question::{QuestionKind, SdsQuestion};
use refused::SdsRefusal;
use trouble::{SdsCaller, SdsReply, SdsTroubles};

use super::lock;

pub use records::{Accredited, MessageHandler, Records};
pub use trouble::SdsTrouble;

/// LDAP schema, in the syntax of `slapd`, that a server needs to load [`Records::to_ldif`].
pub const SCHEMA: &str = include_str!("sds/nhs-sds.schema");

/// Path prefix of every request to the directory.
pub const BASE_PATH: &str = "/spine-directory/FHIR/R4";

/// Limit: requests kept for [`SdsDirectory::asked`].
const ASKED_MAX: usize = 10_000;

/// A request to the directory as it arrived, answered or refused.
#[derive(Debug, Clone)]
pub struct ReceivedQuestion {
    /// Path after the base path, such as `/Endpoint` or `/Device`; the whole path without a base path.
    pub path: String,
    /// Query string as sent, without the question mark.
    pub query: String,
    /// Headers of the request, in the order of arrival.
    pub headers: HeaderMap,
}

/// A simulated Spine directory.
pub struct SdsDirectory {
    key: Option<String>,
    records: Mutex<Records>,
    troubles: Mutex<SdsTroubles>,
    asked: Mutex<VecDeque<ReceivedQuestion>>,
}

impl SdsDirectory {
    /// Returns a directory with these records and no faults.
    ///
    /// Requests must carry `key` in the `apikey` header; with `None`, the directory is open, as the
    /// sandbox is.
    #[must_use]
    pub fn new(records: Records, key: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            key,
            records: Mutex::new(records),
            troubles: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    /// Replaces all records of the directory.
    pub fn replace(&self, records: Records) {
        *lock(&self.records) = records;
    }

    /// Returns the latest requests, oldest first, at most 10,000.
    #[must_use]
    pub fn asked(&self) -> Vec<ReceivedQuestion> {
        lock(&self.asked).iter().cloned().collect()
    }

    /// Answers one request and remembers it.
    fn answer(&self, method: &Method, path_and_query: &str, headers: &HeaderMap) -> SdsReply {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let inner = path.strip_prefix(BASE_PATH).filter(|rest| rest.starts_with('/'));
        self.remember(inner.unwrap_or(path), query, headers);
        let correlation = question::correlation(headers).ok().flatten();
        let correlation = correlation.unwrap_or_else(bundle::random_id);
        let caller = SdsCaller { path_and_query, headers, correlation };
        self.judge(method, inner, query, headers)
            .and_then(|(question, media)| self.tell(&question, &caller, media))
            .unwrap_or_else(|refused| SdsReply::at_once(refused.into_response(&caller.correlation)))
    }

    fn remember(&self, path: &str, query: &str, headers: &HeaderMap) {
        let mut asked = lock(&self.asked);
        if asked.len() >= ASKED_MAX {
            asked.pop_front();
        }
        asked.push_back(ReceivedQuestion {
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.clone(),
        });
    }

    /// Checks a request, as the gateway does first and the service then.
    ///
    /// Returns the parsed request and the media type of its answer.
    fn judge(
        &self,
        method: &Method,
        path: Option<&str>,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<(SdsQuestion, &'static str), SdsRefusal> {
        let path = path.ok_or_else(|| SdsRefusal::with(StatusCode::NOT_FOUND))?;
        let key = headers.get("apikey").map(HeaderValue::as_bytes);
        if self.key.as_ref().is_some_and(|needed| key != Some(needed.as_bytes())) {
            return Err(SdsRefusal::with(StatusCode::UNAUTHORIZED));
        }
        let kind = QuestionKind::of(path).ok_or_else(|| SdsRefusal::with(StatusCode::NOT_FOUND))?;
        if method != Method::GET {
            return Err(SdsRefusal::with(StatusCode::METHOD_NOT_ALLOWED));
        }
        question::correlation(headers)?;
        let question = SdsQuestion::parse(kind, query)?;
        let media = media(headers).ok_or_else(|| SdsRefusal::with(StatusCode::NOT_ACCEPTABLE))?;
        Ok((question, media))
    }
}

/// Returns the media type of the answer, or `None` if `Accept` allows none.
///
/// Media types are compared as whole strings: one with a charset is unknown.
fn media(headers: &HeaderMap) -> Option<&'static str> {
    let Some(accepted) = question::joined(headers, ACCEPT.as_str()) else { return Some(FHIR_JSON) };
    let accepted = accepted.to_ascii_lowercase();
    let names = |media: &str| accepted.split(',').any(|one| one.trim() == media);
    if names("*/*") || names(FHIR_JSON) { Some(FHIR_JSON) } else { names(JSON).then_some(JSON) }
}

#[cfg(test)]
mod tests {
    use super::stage::{ask, records, sandbox, send, target};
    use super::*;

    /// Returns the status, and the number of entries or the diagnostics.
    fn outcome(sds: &SdsDirectory, short: &str) -> (u16, String) {
        let told = ask(sds, short, &[]);
        let wrong = told.body.pointer("/issue/0/diagnostics").and_then(|text| text.as_str());
        let total = told.body["entry"].as_array().map(|entries| {
            assert_eq!(told.body["total"], entries.len());
            entries.len().to_string()
        });
        (told.status, wrong.map(ToOwned::to_owned).or(total).unwrap_or_default())
    }

    #[test]
    fn a_question_finds_what_it_names() {
        for (short, count) in [
            ("/Device?org=Z99001&ia=SLOTS", 2),
            ("/Device?org=Z99001&ia=BOOK", 1),
            ("/Device?org=Z99001&ia=SLOTS&pk=Z99001-990001", 1),
            ("/Device?org=Z99001&ia=SLOTS&pk=z99001-990001", 1),
            ("/Device?org=Z99001&ia=SLOTS&manu=zz901", 1),
            ("/Device?org=Z99001&ia=SLOTS&manu=*", 1),
            ("/Device?org=Z00000&ia=SLOTS", 0),
            ("/Device?org=z99001&ia=SLOTS", 0),
            ("/Device?org=Z9*&ia=SLOTS", 0),
            ("/Endpoint?org=Z99001&ia=SLOTS", 1),
            ("/Endpoint?&org=Z99001&&ia=SLOTS&", 1),
            ("/Endpoint?ia=SLOTS&org=+Z99001%20", 1),
            ("/Endpoint?org=Z99001&ia=URN:nhs:names:services:gpconnect", 0),
            ("/Endpoint?org=Z99001&pk=Z99001-990001", 2),
            ("/Endpoint?ia=SLOTS&pk=Z99001-990001", 1),
            ("/Endpoint?org=Z99001&ia=SLOTS&pk=Z99009-990009", 0),
            ("/Endpoint?org=Z99004&ia=SLOTS", 2),
            ("/Endpoint?org=Z99004&ia=BOOK", 1),
            // The last value of a system wins, and one that is blank does not count.
            ("/Endpoint?org=Z00000&ia=BOOK&org=Z99001&ia=SLOTS", 1),
            ("/Endpoint?org=Z99001&ia=SLOTS&org=Z00000", 0),
            ("/Endpoint?org=Z99001&ia=SLOTS&org=", 1),
            // A star finds every record.
            ("/Endpoint?org=*&ia=SLOTS", 3),
            ("/Endpoint?org=%2A&ia=*", 6),
        ] {
            assert_eq!(outcome(&sandbox(), short), (200, count.to_string()), "{short}");
        }
    }

    #[test]
    fn a_question_that_is_not_one_is_refused() {
        for (short, status, says) in [
            ("/Device", 400, "Missing or invalid 'organization' query parameter."),
            ("/Device?org=Z99001", 400, "Missing or invalid 'identifier' query parameter."),
            ("/Device?org=Z99001&pk=1", 400, "Missing or invalid 'identifier' query parameter."),
            ("/Device?org=%20&ia=SLOTS", 400, "Missing or invalid 'organization'"),
            ("/Device?org=Z99001&ia=SLOTS&_count=1", 400, "Illegal query parameter '_count'"),
            ("/Endpoint?org=Z99001&ia=SLOTS&manu=ZZ901", 400, "Illegal query parameter 'manuf"),
            ("/Endpoint?org=Z99001&ia=SLOTS&Identifier=", 400, "Illegal query parameter 'Ident"),
            ("/Endpoint?org=Z99001", 400, "Missing or invalid query parameters."),
            ("/Endpoint?ia=SLOTS", 400, "Missing or invalid query parameters."),
            ("/Endpoint?pk=Z99001-990001", 400, "Missing or invalid query parameters."),
            ("/Endpoint?ia=SLOTS&organization=Z99001", 400, "Missing or invalid 'organization'"),
            ("/Endpoint?ia=SLOTS&organization", 400, "Missing or invalid 'organization'"),
            (
                "/Endpoint?org=Z99001&identifier=https://fhir.nhs.uk/Id/nhsEndpointServiceId|SLOTS",
                400,
                "Missing or invalid 'identifier'",
            ),
            ("/Endpoint?org=%FF&ia=SLOTS", 500, "'utf-8' codec can't decode"),
            ("/Endpoint?org=Z)(a=*&ia=SLOTS", 500, "malformed filter"),
            ("/Device?org=Z99004&ia=SLOTS", 500, "LDAP returned more than 1 'nhsAsClient' attribu"),
            ("/endpoint?org=Z99001&ia=SLOTS", 404, "HTTP endpoint not found"),
            ("/Endpoint/1", 404, "HTTP endpoint not found"),
            ("/metadata", 404, "HTTP endpoint not found"),
            ("/", 404, "HTTP endpoint not found"),
            ("", 404, "HTTP endpoint not found"),
        ] {
            let (told, wrong) = outcome(&sandbox(), short);
            assert!(told == status && wrong.contains(says), "{short}: {told} {wrong}");
        }
        let outside = send(&sandbox(), &Method::GET, "/Device", &[]);
        assert_eq!((outside.status, &outside.body["issue"][0]["code"]), (404, &"not-found".into()));
    }

    #[test]
    fn an_interaction_without_a_service_breaks_its_row_alone() {
        let mut held = records();
        held.handlers[0].interaction = "slots".to_owned();
        let sds = sandbox();
        sds.replace(held);
        let told = outcome(&sds, "/Endpoint?org=Z99001&ia=slots");
        assert_eq!(told, (500, "Invalid service interaction: slots".to_owned()));
        assert_eq!(outcome(&sds, "/Endpoint?org=Z99001&ia=BOOK").0, 200);
    }

    #[test]
    fn methods_other_than_get_are_not_served() {
        for method in [Method::HEAD, Method::POST, Method::PUT, Method::OPTIONS] {
            let told = send(&sandbox(), &method, &target("/Endpoint?org=Z99001&ia=SLOTS"), &[]);
            assert_eq!((told.status, &told.headers["allow"]), (405, &"GET".parse().unwrap()));
            assert_eq!(told.body["issue"][0]["details"]["coding"][0]["code"], "NOT_IMPLEMENTED");
            assert_eq!(send(&sandbox(), &method, &target("/else"), &[]).status, 404);
        }
    }

    #[test]
    fn the_key_comes_first_if_there_is_one() {
        let sds = SdsDirectory::new(records(), Some("s3cret".to_owned()));
        let status = |short: &str, headers: &[(&str, &str)]| ask(&sds, short, headers).status;
        let good = "/Endpoint?org=Z99001&ia=SLOTS";
        assert_eq!(status(good, &[("apikey", "s3cret")]), 200);
        assert_eq!(status("/else", &[("apikey", "s3cret")]), 404);
        for headers in [&[][..], &[("apikey", "")], &[("apikey", "S3cret")]] {
            assert_eq!(status(good, headers), 401);
            assert_eq!(status("/else", headers), 401);
        }
        assert_eq!(ask(&sds, good, &[]).body["resourceType"], "OperationOutcome");
    }

    #[test]
    fn media_types_are_compared_whole() {
        for (accept, expected) in [
            (None, Some("application/fhir+json")),
            (Some("*/*"), Some("application/fhir+json")),
            (Some("application/fhir+json"), Some("application/fhir+json")),
            (Some("text/html, Application/FHIR+JSON"), Some("application/fhir+json")),
            (Some("application/json"), Some("application/json")),
            (Some("application/json,*/*"), Some("application/fhir+json")),
            (Some("application/fhir+json;charset=utf-8"), None),
            (Some("application/*"), None),
            (Some(""), None),
        ] {
            let headers: Vec<_> = accept.map(|value| ("accept", value)).into_iter().collect();
            let told = ask(&sandbox(), "/Endpoint?org=Z99001&ia=SLOTS", &headers);
            let status = if expected.is_some() { 200 } else { 406 };
            assert_eq!(told.status, status, "{accept:?}");
            assert_eq!(told.headers["content-type"], expected.unwrap_or("application/fhir+json"));
        }
    }

    #[test]
    fn a_correlation_id_is_echoed_or_made_and_has_to_be_a_uuid() {
        let good = "/Endpoint?org=Z99001&ia=SLOTS";
        let id = "c013f113-6FDA-442c-9fce-aa1db0a7d327";
        let with = |short: &str, id: &str| ask(&sandbox(), short, &[("x-correlation-id", id)]);
        assert_eq!(with(good, id).headers["x-correlation-id"], id);
        let refused = with("/else", id);
        assert_eq!((refused.status, &refused.body["id"]), (404, &id.into()));
        assert_eq!(with(good, "").headers["x-correlation-id"].len(), 36);
        for bad in ["t", "c013f1136fda442c9fceaa1db0a7d327", &format!("{id}0"), &format!("{id},a")]
        {
            let told = with(good, bad);
            let made = &told.headers["x-correlation-id"];
            assert_eq!((told.status, made.len()), (400, 36), "{bad}");
            assert_eq!(told.body["id"], made.to_str().unwrap());
            let says = told.body["issue"][0]["diagnostics"].as_str().unwrap();
            assert!(says.contains("Invalid X-Correlation-ID header."), "{says}");
        }
    }

    #[test]
    fn what_was_asked_is_remembered_up_to_a_limit() {
        let sds = sandbox();
        for n in 0..ASKED_MAX + 2 {
            ask(&sds, &format!("/else?n={n}%7C"), &[("x-request-id", "r")]);
        }
        let asked = sds.asked();
        assert_eq!(asked.len(), ASKED_MAX);
        assert_eq!((asked[0].path.as_str(), asked[0].query.as_str()), ("/else", "n=2%7C"));
        assert_eq!(asked[0].headers["x-request-id"], "r");
    }
}
