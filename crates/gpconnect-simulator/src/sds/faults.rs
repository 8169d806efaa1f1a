//! Faults that are injected into the directory's answers.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::refusal::SdsRefusal;
use super::search::{self, SdsSearch};
use super::{SdsDirectory, bundle, lock};

/// Limit: empty Bundles in the simulated gateway cache; a full cache is cleared.
const CACHED_MAX: usize = 1000;

/// A fault in the directory's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SdsFault {
    /// Status 200 with an empty Bundle after this delay; SDS does so after 3 s when its LDAP search
    /// times out.
    EmptyAfter(Duration),
    /// Empty Bundle from the gateway's cache unless the request has `Cache-Control: no-cache`.
    ///
    /// Without that header, the same Bundle is answered at once every time; with it, the correct one.
    EmptyUnlessFresh,
    /// Status 429, with `Retry-After` in seconds if given.
    TooManyRequests(Option<u32>),
    /// This status with an `OperationOutcome`; 500 if the number is not a status.
    Status(u16),
    /// Immediate head, then one byte of the body per this duration.
    SlowBody(Duration),
    /// Open connection without an answer.
    NoResponse,
    /// Correct answer as of the request, held back until no fault is [`SdsFault::HeldBack`].
    HeldBack,
    /// Connection closed in the middle of the body.
    Cut,
    /// Status 200 with exactly this body.
    Body(String),
}

/// Faults by organisation, and the empty Bundles in the simulated gateway cache.
#[derive(Default)]
pub(super) struct SdsFaults {
    by_organisation: HashMap<Option<String>, SdsFault>,
    cached: HashMap<String, Response<Bytes>>,
}

/// An answer, and the way it is sent.
pub(super) struct SdsReply {
    pub(super) response: Response<Bytes>,
    pub(super) delivery: SdsDelivery,
}

/// Timing and completeness of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SdsDelivery {
    AtOnce,
    After(Duration),
    /// After [`SdsFault::HeldBack`] has ended.
    HeldBack,
    /// Body sent byte by byte, with this pause before each.
    Dripping(Duration),
    /// Half of the body, then the end of the connection.
    Cut,
    Never,
}

/// Parts of a request, besides its query, that its answer depends on.
pub(super) struct SdsRequestContext<'a> {
    pub(super) path_and_query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) correlation: String,
}

impl SdsDirectory {
    /// Injects a fault into every request about this organisation; with `None`, into every request
    /// that no other fault applies to.
    ///
    /// Invalid requests are refused as without faults.
    pub fn set(&self, ods: Option<&str>, fault: SdsFault) {
        lock(&self.faults).by_organisation.insert(ods.map(ToOwned::to_owned), fault);
    }

    /// Removes all faults and cached Bundles.
    pub fn clear(&self) {
        *lock(&self.faults) = SdsFaults::default();
    }

    /// Returns the answer to a valid request, with the fault that applies to it.
    pub(super) fn respond(
        &self,
        search: &SdsSearch,
        context: &SdsRequestContext<'_>,
        media: &'static str,
    ) -> Result<SdsReply, SdsRefusal> {
        let found = || {
            search.judge_filter()?;
            let found = lock(&self.records).find(search)?;
            Ok(context.bundle(found, media))
        };
        let empty = || context.bundle(Vec::new(), media);
        Ok(match self.fault_for(search) {
            None => SdsReply::at_once(found()?),
            Some(SdsFault::EmptyAfter(pause)) => {
                SdsReply { response: empty(), delivery: SdsDelivery::After(pause) }
            }
            Some(SdsFault::EmptyUnlessFresh) if context.bypasses_cache() => {
                SdsReply::at_once(found()?)
            }
            Some(SdsFault::EmptyUnlessFresh) => {
                let key = format!("{} {media}", context.path_and_query);
                SdsReply::at_once(lock(&self.faults).cached(key, empty))
            }
            Some(SdsFault::TooManyRequests(pause)) => SdsReply::at_once(too_many_requests(pause)),
            Some(SdsFault::Status(status)) => {
                let status = StatusCode::from_u16(status).ok();
                return Err(SdsRefusal::with_status(
                    status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                ));
            }
            Some(SdsFault::SlowBody(pause)) => {
                SdsReply { response: found()?, delivery: SdsDelivery::Dripping(pause) }
            }
            Some(SdsFault::HeldBack) => {
                SdsReply { response: found()?, delivery: SdsDelivery::HeldBack }
            }
            Some(SdsFault::NoResponse) => {
                SdsReply { response: empty(), delivery: SdsDelivery::Never }
            }
            Some(SdsFault::Cut) => SdsReply { response: found()?, delivery: SdsDelivery::Cut },
            Some(SdsFault::Body(text)) => {
                let mut response = Response::new(text.into());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
                SdsReply::at_once(response)
            }
        })
    }

    /// Returns true if answers are held back.
    pub(super) fn holds_answers_back(&self) -> bool {
        lock(&self.faults).by_organisation.values().any(|fault| *fault == SdsFault::HeldBack)
    }

    fn fault_for(&self, search: &SdsSearch) -> Option<SdsFault> {
        let faults = &lock(&self.faults).by_organisation;
        let organisation = search.organisation.value().map(ToOwned::to_owned);
        faults.get(&organisation).or_else(|| faults.get(&None)).cloned()
    }
}

impl SdsFaults {
    /// Returns the cached Bundle for this key; caches the result of `made` if there is none.
    fn cached(&mut self, key: String, made: impl FnOnce() -> Response<Bytes>) -> Response<Bytes> {
        if self.cached.len() >= CACHED_MAX {
            self.cached.clear();
        }
        self.cached.entry(key).or_insert_with(made).clone()
    }
}

impl SdsReply {
    /// Returns an answer that is sent whole and at once.
    pub(super) fn at_once(response: Response<Bytes>) -> Self {
        Self { response, delivery: SdsDelivery::AtOnce }
    }
}

impl SdsRequestContext<'_> {
    fn bundle(&self, resources: Vec<Value>, media: &'static str) -> Response<Bytes> {
        let host = search::joined(self.headers, HOST.as_str());
        let host = host.unwrap_or_else(|| "localhost".to_owned());
        let target = search::unescaped(self.path_and_query);
        let url = format!("https://{host}{}", String::from_utf8_lossy(&target));
        let bundle = bundle::bundle(resources, &url);
        bundle::response(&bundle, media, Some(&self.correlation))
    }

    /// Returns true if the request bypasses the gateway's cache, which only the exact value `no-cache` does.
    fn bypasses_cache(&self) -> bool {
        search::joined(self.headers, CACHE_CONTROL.as_str()).as_deref() == Some("no-cache")
    }
}

fn too_many_requests(pause: Option<u32>) -> Response<Bytes> {
    let mut response = SdsRefusal::with_status(StatusCode::TOO_MANY_REQUESTS).into_response("");
    if let Some(pause) = pause {
        response.headers_mut().insert(RETRY_AFTER, pause.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::super::stage::{SdsStageAnswer, get, sandbox};
    use super::*;

    const GOOD: &str = "/Endpoint?org=Z99001&ia=SLOTS";
    const PAUSE: Duration = Duration::from_secs(3);

    fn response_with(fault: SdsFault) -> SdsStageAnswer {
        let sds = sandbox();
        sds.set(Some("Z99001"), fault);
        get(&sds, GOOD, &[])
    }

    #[test]
    fn each_fault_has_its_status_body_and_delivery() {
        for (fault, status, total, delivery) in [
            (SdsFault::EmptyAfter(PAUSE), 200, Some(0), SdsDelivery::After(PAUSE)),
            (SdsFault::EmptyUnlessFresh, 200, Some(0), SdsDelivery::AtOnce),
            (SdsFault::TooManyRequests(None), 429, None, SdsDelivery::AtOnce),
            (SdsFault::Status(401), 401, None, SdsDelivery::AtOnce),
            (SdsFault::Status(500), 500, None, SdsDelivery::AtOnce),
            (SdsFault::Status(503), 503, None, SdsDelivery::AtOnce),
            (SdsFault::Status(504), 504, None, SdsDelivery::AtOnce),
            (SdsFault::Status(9), 500, None, SdsDelivery::AtOnce),
            (SdsFault::SlowBody(PAUSE), 200, Some(1), SdsDelivery::Dripping(PAUSE)),
            (SdsFault::NoResponse, 200, Some(0), SdsDelivery::Never),
            (SdsFault::HeldBack, 200, Some(1), SdsDelivery::HeldBack),
            (SdsFault::Cut, 200, Some(1), SdsDelivery::Cut),
        ] {
            let response = response_with(fault.clone());
            let body = &response.body;
            assert_eq!((response.status, response.delivery), (status, delivery), "{fault:?}");
            assert_eq!(body["total"].as_u64(), total, "{fault:?}");
            let outcome = body["resourceType"] == "OperationOutcome";
            assert_eq!(outcome, total.is_none(), "{fault:?}");
        }
        let response = response_with(SdsFault::Body("{\"resourceType\":".to_owned()));
        assert_eq!((response.status, response.text.as_str()), (200, "{\"resourceType\":"));
        assert_eq!(response.headers["content-type"], "application/fhir+json");
    }

    #[test]
    fn status_429_has_retry_after_only_if_given() {
        assert_eq!(response_with(SdsFault::TooManyRequests(Some(7))).headers["retry-after"], "7");
        assert!(
            !response_with(SdsFault::TooManyRequests(None)).headers.contains_key("retry-after")
        );
    }

    #[test]
    fn an_empty_bundle_stays_in_the_cache_unless_it_is_bypassed() {
        let sds = sandbox();
        sds.set(None, SdsFault::EmptyUnlessFresh);
        let id = |response: &SdsStageAnswer| response.body["id"].as_str().unwrap().to_owned();
        let first = get(&sds, GOOD, &[]);
        assert_eq!(first.body["total"], 0);
        let fresh = get(&sds, GOOD, &[("cache-control", "no-cache")]);
        assert_eq!(fresh.body["total"], 1);
        for headers in [&[][..], &[("cache-control", "no-cache, no-store")]] {
            let again = get(&sds, GOOD, headers);
            assert_eq!((id(&again), &again.text), (id(&first), &first.text));
            assert_eq!(again.headers["x-correlation-id"], first.headers["x-correlation-id"]);
        }
        let other = get(&sds, "/Endpoint?ia=SLOTS&org=Z99001", &[]);
        assert_eq!(other.body["total"], 0);
        assert_ne!(id(&other), id(&first));
    }

    #[test]
    fn a_fault_applies_to_its_organisation_until_it_is_cleared() {
        let sds = sandbox();
        let status = |short: &str| get(&sds, short, &[]).status;
        sds.set(Some("Z99001"), SdsFault::Status(503));
        assert_eq!(status(GOOD), 503);
        assert_eq!(status("/Device?org=Z99001&ia=SLOTS"), 503);
        assert_eq!(status("/Endpoint?org=Z99004&ia=SLOTS"), 200);
        assert_eq!(status("/Endpoint?ia=SLOTS&pk=Z99001-990001"), 200);
        sds.set(None, SdsFault::Status(500));
        assert_eq!(status(GOOD), 503);
        assert_eq!(status("/Endpoint?org=Z99004&ia=SLOTS"), 500);
        assert_eq!(status("/Endpoint?ia=SLOTS&pk=Z99001-990001"), 500);
        assert_eq!(
            status("/Endpoint?org=Z99001"),
            400,
            "an invalid request is refused as without faults"
        );
        sds.clear();
        assert_eq!(status(GOOD), 200);
    }
}
