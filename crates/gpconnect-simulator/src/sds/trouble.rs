//! Faults that are injected into the directory's answers.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::question::{self, SdsQuestion};
use super::refused::SdsRefusal;
use super::{SdsDirectory, bundle, lock};

/// Limit: empty Bundles in the simulated gateway cache; a full cache is cleared.
const CACHED_MAX: usize = 1000;

/// A fault in the directory's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SdsTrouble {
    /// Status 200 with an empty Bundle after this delay; SDS does so after 3 s when its LDAP search
    /// times out.
    EmptyAfter(Duration),
    /// Empty Bundle from the gateway's cache unless the request says `Cache-Control: no-cache`.
    ///
    /// Without that header, the same Bundle is answered at once every time; with it, the correct one.
    EmptyUnlessFresh,
    /// Status 429, with `Retry-After` in seconds if given.
    TooMany(Option<u32>),
    /// This status with an `OperationOutcome`; 500 if the number is not a status.
    Status(u16),
    /// Immediate head, then one byte of the body per this duration.
    SlowBody(Duration),
    /// Open connection without an answer.
    Silence,
    /// Correct answer as of the request, held back until no fault is [`SdsTrouble::Held`].
    Held,
    /// Connection closed in the middle of the body.
    Cut,
    /// Status 200 with exactly this body.
    Body(String),
}

/// Faults by organisation, and the empty Bundles in the simulated gateway cache.
#[derive(Default)]
pub(super) struct SdsTroubles {
    by_organisation: HashMap<Option<String>, SdsTrouble>,
    cached: HashMap<String, Response<Bytes>>,
}

/// An answer, and the way it is sent.
pub(super) struct SdsReply {
    pub(super) response: Response<Bytes>,
    pub(super) manner: SdsDelivery,
}

/// Timing and completeness of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SdsDelivery {
    AtOnce,
    After(Duration),
    /// After [`SdsTrouble::Held`] has ended.
    Held,
    /// Body sent byte by byte, with this pause before each.
    Dripping(Duration),
    /// Half of the body, then the end of the connection.
    Cut,
    Never,
}

/// Parts of a request that its answer depends on.
pub(super) struct SdsCaller<'a> {
    pub(super) path_and_query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) correlation: String,
}

impl SdsDirectory {
    /// Injects a fault into every request about this organisation; with `None`, into every request
    /// that no other fault applies to.
    ///
    /// Invalid requests are refused as without faults.
    pub fn set(&self, ods: Option<&str>, trouble: SdsTrouble) {
        lock(&self.troubles).by_organisation.insert(ods.map(ToOwned::to_owned), trouble);
    }

    /// Removes all faults and cached Bundles.
    pub fn clear(&self) {
        *lock(&self.troubles) = SdsTroubles::default();
    }

    /// Returns the answer to a valid request, with the fault that applies to it.
    pub(super) fn tell(
        &self,
        question: &SdsQuestion,
        caller: &SdsCaller<'_>,
        media: &'static str,
    ) -> Result<SdsReply, SdsRefusal> {
        let found = || {
            question.judge_filter()?;
            let found = lock(&self.records).find(question)?;
            Ok(caller.bundle(found, media))
        };
        let empty = || caller.bundle(Vec::new(), media);
        Ok(match self.trouble(question) {
            None => SdsReply::at_once(found()?),
            Some(SdsTrouble::EmptyAfter(pause)) => {
                SdsReply { response: empty(), manner: SdsDelivery::After(pause) }
            }
            Some(SdsTrouble::EmptyUnlessFresh) if caller.is_fresh() => SdsReply::at_once(found()?),
            Some(SdsTrouble::EmptyUnlessFresh) => {
                let key = format!("{} {media}", caller.path_and_query);
                SdsReply::at_once(lock(&self.troubles).cached(key, empty))
            }
            Some(SdsTrouble::TooMany(pause)) => SdsReply::at_once(too_many(pause)),
            Some(SdsTrouble::Status(status)) => {
                let status = StatusCode::from_u16(status).ok();
                return Err(SdsRefusal::with(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)));
            }
            Some(SdsTrouble::SlowBody(pause)) => {
                SdsReply { response: found()?, manner: SdsDelivery::Dripping(pause) }
            }
            Some(SdsTrouble::Held) => SdsReply { response: found()?, manner: SdsDelivery::Held },
            Some(SdsTrouble::Silence) => SdsReply { response: empty(), manner: SdsDelivery::Never },
            Some(SdsTrouble::Cut) => SdsReply { response: found()?, manner: SdsDelivery::Cut },
            Some(SdsTrouble::Body(text)) => {
                let mut response = Response::new(text.into());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
                SdsReply::at_once(response)
            }
        })
    }

    /// Returns true if answers are held back.
    pub(super) fn holds(&self) -> bool {
        lock(&self.troubles).by_organisation.values().any(|trouble| *trouble == SdsTrouble::Held)
    }

    fn trouble(&self, question: &SdsQuestion) -> Option<SdsTrouble> {
        let troubles = &lock(&self.troubles).by_organisation;
        let organisation = question.organisation.value().map(ToOwned::to_owned);
        troubles.get(&organisation).or_else(|| troubles.get(&None)).cloned()
    }
}

impl SdsTroubles {
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
        Self { response, manner: SdsDelivery::AtOnce }
    }
}

impl SdsCaller<'_> {
    fn bundle(&self, resources: Vec<Value>, media: &'static str) -> Response<Bytes> {
        let host = question::joined(self.headers, HOST.as_str());
        let host = host.unwrap_or_else(|| "localhost".to_owned());
        let target = question::unescaped(self.path_and_query);
        let asked = format!("https://{host}{}", String::from_utf8_lossy(&target));
        let bundle = bundle::bundle(resources, &asked);
        bundle::response(&bundle, media, Some(&self.correlation))
    }

    /// Returns true if the request bypasses the gateway's cache, which only exactly `no-cache` does.
    fn is_fresh(&self) -> bool {
        question::joined(self.headers, CACHE_CONTROL.as_str()).as_deref() == Some("no-cache")
    }
}

fn too_many(pause: Option<u32>) -> Response<Bytes> {
    let mut response = SdsRefusal::with(StatusCode::TOO_MANY_REQUESTS).into_response("");
    if let Some(pause) = pause {
        response.headers_mut().insert(RETRY_AFTER, pause.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::super::stage::{SdsStageAnswer, ask, sandbox};
    use super::*;

    const GOOD: &str = "/Endpoint?org=Z99001&ia=SLOTS";
    const PAUSE: Duration = Duration::from_secs(3);

    fn met(trouble: SdsTrouble) -> SdsStageAnswer {
        let sds = sandbox();
        sds.set(Some("Z99001"), trouble);
        ask(&sds, GOOD, &[])
    }

    #[test]
    fn an_answer_comes_as_its_trouble_has_it() {
        for (trouble, status, total, manner) in [
            (SdsTrouble::EmptyAfter(PAUSE), 200, Some(0), SdsDelivery::After(PAUSE)),
            (SdsTrouble::EmptyUnlessFresh, 200, Some(0), SdsDelivery::AtOnce),
            (SdsTrouble::TooMany(None), 429, None, SdsDelivery::AtOnce),
            (SdsTrouble::Status(401), 401, None, SdsDelivery::AtOnce),
            (SdsTrouble::Status(500), 500, None, SdsDelivery::AtOnce),
            (SdsTrouble::Status(503), 503, None, SdsDelivery::AtOnce),
            (SdsTrouble::Status(504), 504, None, SdsDelivery::AtOnce),
            (SdsTrouble::Status(9), 500, None, SdsDelivery::AtOnce),
            (SdsTrouble::SlowBody(PAUSE), 200, Some(1), SdsDelivery::Dripping(PAUSE)),
            (SdsTrouble::Silence, 200, Some(0), SdsDelivery::Never),
            (SdsTrouble::Held, 200, Some(1), SdsDelivery::Held),
            (SdsTrouble::Cut, 200, Some(1), SdsDelivery::Cut),
        ] {
            let told = met(trouble.clone());
            let body = &told.body;
            assert_eq!((told.status, told.manner), (status, manner), "{trouble:?}");
            assert_eq!(body["total"].as_u64(), total, "{trouble:?}");
            let outcome = body["resourceType"] == "OperationOutcome";
            assert_eq!(outcome, total.is_none(), "{trouble:?}");
        }
        let told = met(SdsTrouble::Body("{\"resourceType\":".to_owned()));
        assert_eq!((told.status, told.text.as_str()), (200, "{\"resourceType\":"));
        assert_eq!(told.headers["content-type"], "application/fhir+json");
    }

    #[test]
    fn too_many_say_when_to_come_back_if_they_are_told_to() {
        assert_eq!(met(SdsTrouble::TooMany(Some(7))).headers["retry-after"], "7");
        assert!(!met(SdsTrouble::TooMany(None)).headers.contains_key("retry-after"));
    }

    #[test]
    fn an_empty_bundle_stays_in_the_cache_until_it_is_passed_by() {
        let sds = sandbox();
        sds.set(None, SdsTrouble::EmptyUnlessFresh);
        let id = |told: &SdsStageAnswer| told.body["id"].as_str().unwrap().to_owned();
        let first = ask(&sds, GOOD, &[]);
        assert_eq!(first.body["total"], 0);
        let fresh = ask(&sds, GOOD, &[("cache-control", "no-cache")]);
        assert_eq!(fresh.body["total"], 1);
        for headers in [&[][..], &[("cache-control", "no-cache, no-store")]] {
            let again = ask(&sds, GOOD, headers);
            assert_eq!((id(&again), &again.text), (id(&first), &first.text));
            assert_eq!(again.headers["x-correlation-id"], first.headers["x-correlation-id"]);
        }
        let other = ask(&sds, "/Endpoint?ia=SLOTS&org=Z99001", &[]);
        assert_eq!(other.body["total"], 0);
        assert_ne!(id(&other), id(&first));
    }

    #[test]
    fn troubles_are_met_by_those_they_are_meant_for_until_they_end() {
        let sds = sandbox();
        let status = |short: &str| ask(&sds, short, &[]).status;
        sds.set(Some("Z99001"), SdsTrouble::Status(503));
        assert_eq!(status(GOOD), 503);
        assert_eq!(status("/Device?org=Z99001&ia=SLOTS"), 503);
        assert_eq!(status("/Endpoint?org=Z99004&ia=SLOTS"), 200);
        assert_eq!(status("/Endpoint?ia=SLOTS&pk=Z99001-990001"), 200);
        sds.set(None, SdsTrouble::Status(500));
        assert_eq!(status(GOOD), 503);
        assert_eq!(status("/Endpoint?org=Z99004&ia=SLOTS"), 500);
        assert_eq!(status("/Endpoint?ia=SLOTS&pk=Z99001-990001"), 500);
        assert_eq!(status("/Endpoint?org=Z99001"), 400, "refused as ever");
        sds.clear();
        assert_eq!(status(GOOD), 200);
    }
}
