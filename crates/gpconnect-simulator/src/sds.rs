//! Simulator of the Spine Directory Service: its FHIR API with its quirks, and faults on demand.
//!
//! It follows the published code of the API, also in the order of its checks. Its gateway limits the rate of
//! queries if asked for, with [`SdsDirectory::set_rate`]. Not simulated are the reliability extension of an
//! Endpoint, the intermediary addresses of services other than GP Connect's, the paths for health checks, and
//! the gateway's cache, except for [`SdsFault::EmptyUnlessFresh`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

mod bundle;
mod faults;
mod ldif;
mod rate;
mod records;
mod refusal;
mod search;
mod serving;
#[cfg(test)]
mod stage;

use bundle::{FHIR_JSON, JSON};
use faults::{SdsFaults, SdsReply, SdsRequestContext};
use rate::SdsRateLimit;
use refusal::SdsRefusal;
use search::{SdsResourceType, SdsSearch};

use super::lock;

pub use faults::SdsFault;
pub use rate::SdsRate;
pub use records::{Accredited, MessageHandler, Records};

/// LDAP schema, in the syntax of `slapd`, that a server needs to load [`Records::to_ldif`].
pub const SCHEMA: &str = include_str!("sds/nhs-sds.schema");

/// Path prefix of every request to the directory.
pub const BASE_PATH: &str = "/spine-directory/FHIR/R4";

/// Limit: requests remembered for [`SdsDirectory::received`].
const RECEIVED_MAX: usize = 10_000;

/// A request to the directory as it arrived, answered or refused.
#[derive(Debug, Clone)]
pub struct ReceivedSdsRequest {
    /// Path after the base path, such as `/Endpoint` or `/Device`; the whole path without a base path.
    pub path: String,
    /// Query string as sent, without the question mark.
    pub query: String,
    /// Headers of the request, in the order of arrival.
    pub headers: HeaderMap,
    /// Time of its arrival.
    pub at: Instant,
    /// Status of the answer, also of one that a fault delays, cuts off or withholds.
    pub status: StatusCode,
}

/// A simulated Spine directory.
pub struct SdsDirectory {
    key: Option<String>,
    rate: Mutex<Option<SdsRateLimit>>,
    records: Mutex<Records>,
    faults: Mutex<SdsFaults>,
    received: Mutex<VecDeque<ReceivedSdsRequest>>,
}

impl SdsDirectory {
    /// Returns a directory with these records, no faults and no rate limit.
    ///
    /// Requests must carry `key` in the `apikey` header; with `None`, the directory is open, as the
    /// sandbox is.
    #[must_use]
    pub fn new(records: Records, key: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            key,
            rate: Mutex::default(),
            records: Mutex::new(records),
            faults: Mutex::default(),
            received: Mutex::default(),
        })
    }

    /// Replaces all records of the directory.
    pub fn replace(&self, records: Records) {
        *lock(&self.records) = records;
    }

    /// Limits the rate of queries, with a full bucket; `None` removes the limit.
    ///
    /// Queries above it are answered as by the real service's gateway: status 429, no `Retry-After`.
    pub fn set_rate(&self, rate: Option<SdsRate>) {
        *lock(&self.rate) = rate.map(SdsRateLimit::new);
    }

    /// Returns the latest requests, oldest first, at most 10,000.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedSdsRequest> {
        lock(&self.received).iter().cloned().collect()
    }

    /// Answers one request and remembers it.
    fn answer(&self, method: &Method, path_and_query: &str, headers: &HeaderMap) -> SdsReply {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let inner = path.strip_prefix(BASE_PATH).filter(|rest| rest.starts_with('/'));
        let at = Instant::now();
        let correlation = search::correlation(headers).ok().flatten();
        let correlation = correlation.unwrap_or_else(bundle::random_id);
        let context = SdsRequestContext { path_and_query, headers, correlation };
        let reply = self
            .judge(method, inner, query, headers)
            .and_then(|(search, media)| self.respond(&search, &context, media))
            .unwrap_or_else(|refusal| {
                SdsReply::at_once(refusal.into_response(&context.correlation))
            });
        self.remember(ReceivedSdsRequest {
            path: inner.unwrap_or(path).to_owned(),
            query: query.to_owned(),
            headers: headers.clone(),
            at,
            status: reply.response.status(),
        });
        reply
    }

    fn remember(&self, request: ReceivedSdsRequest) {
        let mut received = lock(&self.received);
        if received.len() >= RECEIVED_MAX {
            received.pop_front();
        }
        received.push_back(request);
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
    ) -> Result<(SdsSearch, &'static str), SdsRefusal> {
        let path = path.ok_or_else(|| SdsRefusal::with_status(StatusCode::NOT_FOUND))?;
        let key = headers.get("apikey").map(HeaderValue::as_bytes);
        if self.key.as_ref().is_some_and(|needed| key != Some(needed.as_bytes())) {
            return Err(SdsRefusal::with_status(StatusCode::UNAUTHORIZED));
        }
        if lock(&self.rate).as_ref().is_some_and(|limit| !limit.allows()) {
            return Err(SdsRefusal::with_status(StatusCode::TOO_MANY_REQUESTS));
        }
        let kind = SdsResourceType::of(path)
            .ok_or_else(|| SdsRefusal::with_status(StatusCode::NOT_FOUND))?;
        if method != Method::GET {
            return Err(SdsRefusal::with_status(StatusCode::METHOD_NOT_ALLOWED));
        }
        search::correlation(headers)?;
        let search = SdsSearch::parse(kind, query)?;
        let media =
            media(headers).ok_or_else(|| SdsRefusal::with_status(StatusCode::NOT_ACCEPTABLE))?;
        Ok((search, media))
    }
}

/// Returns the media type of the answer, or `None` if `Accept` allows none.
///
/// Media types are compared as whole strings: one with a charset is unknown.
fn media(headers: &HeaderMap) -> Option<&'static str> {
    let Some(accepted) = search::joined(headers, ACCEPT.as_str()) else { return Some(FHIR_JSON) };
    let accepted = accepted.to_ascii_lowercase();
    let names = |media: &str| accepted.split(',').any(|one| one.trim() == media);
    if names("*/*") || names(FHIR_JSON) { Some(FHIR_JSON) } else { names(JSON).then_some(JSON) }
}

#[cfg(test)]
mod tests {
    use super::stage::{get, records, sandbox, send, target};
    use super::*;

    /// Returns the status, and the number of entries or the diagnostics.
    fn outcome(sds: &SdsDirectory, short: &str) -> (u16, String) {
        let response = get(sds, short, &[]);
        let diagnostics =
            response.body.pointer("/issue/0/diagnostics").and_then(|text| text.as_str());
        let total = response.body["entry"].as_array().map(|entries| {
            assert_eq!(response.body["total"], entries.len());
            entries.len().to_string()
        });
        (response.status, diagnostics.map(ToOwned::to_owned).or(total).unwrap_or_default())
    }

    #[test]
    fn a_search_finds_the_records_that_match() {
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
    fn an_invalid_search_is_refused() {
        for (short, status, expected) in [
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
            let (status_got, diagnostics) = outcome(&sandbox(), short);
            assert!(
                status_got == status && diagnostics.contains(expected),
                "{short}: {status_got} {diagnostics}"
            );
        }
        let outside = send(&sandbox(), &Method::GET, "/Device", &[]);
        assert_eq!((outside.status, &outside.body["issue"][0]["code"]), (404, &"not-found".into()));
    }

    #[test]
    fn an_invalid_interaction_fails_only_searches_that_find_it() {
        let mut records = records();
        records.handlers[0].interaction = "slots".to_owned();
        let sds = sandbox();
        sds.replace(records);
        let response = outcome(&sds, "/Endpoint?org=Z99001&ia=slots");
        assert_eq!(response, (500, "Invalid service interaction: slots".to_owned()));
        assert_eq!(outcome(&sds, "/Endpoint?org=Z99001&ia=BOOK").0, 200);
    }

    #[test]
    fn methods_other_than_get_are_refused() {
        for method in [Method::HEAD, Method::POST, Method::PUT, Method::OPTIONS] {
            let response = send(&sandbox(), &method, &target("/Endpoint?org=Z99001&ia=SLOTS"), &[]);
            assert_eq!(
                (response.status, &response.headers["allow"]),
                (405, &"GET".parse().unwrap())
            );
            assert_eq!(
                response.body["issue"][0]["details"]["coding"][0]["code"],
                "NOT_IMPLEMENTED"
            );
            assert_eq!(send(&sandbox(), &method, &target("/else"), &[]).status, 404);
        }
    }

    #[test]
    fn the_key_is_checked_before_everything_else() {
        let sds = SdsDirectory::new(records(), Some("s3cret".to_owned()));
        let status = |short: &str, headers: &[(&str, &str)]| get(&sds, short, headers).status;
        let good = "/Endpoint?org=Z99001&ia=SLOTS";
        assert_eq!(status(good, &[("apikey", "s3cret")]), 200);
        assert_eq!(status("/else", &[("apikey", "s3cret")]), 404);
        for headers in [&[][..], &[("apikey", "")], &[("apikey", "S3cret")]] {
            assert_eq!(status(good, headers), 401);
            assert_eq!(status("/else", headers), 401);
        }
        assert_eq!(get(&sds, good, &[]).body["resourceType"], "OperationOutcome");
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
            let response = get(&sandbox(), "/Endpoint?org=Z99001&ia=SLOTS", &headers);
            let status = if expected.is_some() { 200 } else { 406 };
            assert_eq!(response.status, status, "{accept:?}");
            assert_eq!(
                response.headers["content-type"],
                expected.unwrap_or("application/fhir+json")
            );
        }
    }

    #[test]
    fn a_correlation_id_must_be_a_uuid_and_is_echoed_or_generated() {
        let good = "/Endpoint?org=Z99001&ia=SLOTS";
        let id = "c013f113-6FDA-442c-9fce-aa1db0a7d327";
        let with = |short: &str, id: &str| get(&sandbox(), short, &[("x-correlation-id", id)]);
        assert_eq!(with(good, id).headers["x-correlation-id"], id);
        let refused = with("/else", id);
        assert_eq!((refused.status, &refused.body["id"]), (404, &id.into()));
        assert_eq!(with(good, "").headers["x-correlation-id"].len(), 36);
        for bad in ["t", "c013f1136fda442c9fceaa1db0a7d327", &format!("{id}0"), &format!("{id},a")]
        {
            let response = with(good, bad);
            let generated = &response.headers["x-correlation-id"];
            assert_eq!((response.status, generated.len()), (400, 36), "{bad}");
            assert_eq!(response.body["id"], generated.to_str().unwrap());
            let diagnostics = response.body["issue"][0]["diagnostics"].as_str().unwrap();
            assert!(diagnostics.contains("Invalid X-Correlation-ID header."), "{diagnostics}");
        }
    }

    #[test]
    fn requests_are_remembered_up_to_a_limit() {
        let sds = sandbox();
        for n in 0..RECEIVED_MAX + 2 {
            get(&sds, &format!("/else?n={n}%7C"), &[("x-request-id", "r")]);
        }
        let received = sds.received();
        assert_eq!(received.len(), RECEIVED_MAX);
        assert_eq!((received[0].path.as_str(), received[0].query.as_str()), ("/else", "n=2%7C"));
        assert_eq!(received[0].headers["x-request-id"], "r");
    }
}
