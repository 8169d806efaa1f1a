//! What can go wrong with an answer.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::question::{self, SdsQuestion};
use super::refused::SdsRefusal;
use super::{SdsDirectory, bundle, lock};

/// Limit: empty Bundles in the cache; a full one is emptied.
const CACHED_MAX: usize = 1000;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SdsTrouble {
    /// 200 with an empty Bundle after this long: three seconds when its LDAP search times out.
    EmptyAfter(Duration),
    /// An empty Bundle stands in the gateway's cache for each question: who does not send
    /// `Cache-Control: no-cache` gets the same one at once, again and again. With it, a question is
    /// answered well.
    EmptyUnlessFresh,
    /// 429, with `Retry-After` in seconds if given.
    TooMany(Option<u32>),
    /// This status with an `OperationOutcome`; 500 if it is not a status.
    Status(u16),
    /// The head comes, the body comes one byte each of this duration.
    SlowBody(Duration),
    /// Nothing is answered.
    Silence,
    /// What is true now is answered, once the troubles have ended.
    Held,
    /// The connection is closed in the middle of the body.
    Cut,
    /// 200 with this body as it stands.
    Body(String),
}

/// Who meets what, and the empty Bundles in the gateway's cache.
#[derive(Default)]
pub(super) struct SdsTroubles {
    by_organisation: HashMap<Option<String>, SdsTrouble>,
    cached: HashMap<String, Response<Bytes>>,
}

/// An answer, and how it comes.
pub(super) struct SdsReply {
    pub(super) response: Response<Bytes>,
    pub(super) manner: SdsDelivery,
}

/// How the bytes of an answer come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SdsDelivery {
    AtOnce,
    After(Duration),
    /// Once this trouble has ended.
    Held,
    /// The body, byte by byte.
    Dripping(Duration),
    /// Half of the body.
    Cut,
    Never,
}

/// What is known of whoever asks.
pub(super) struct SdsCaller<'a> {
    pub(super) path_and_query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) correlation: String,
}

impl SdsDirectory {
    /// From now on, every question about this organisation meets this trouble; with `None`, every
    /// question that no other trouble is meant for.
    ///
    /// Questions that would be refused are refused as ever.
    pub fn set(&self, ods: Option<&str>, trouble: SdsTrouble) {
        lock(&self.troubles).by_organisation.insert(ods.map(ToOwned::to_owned), trouble);
    }

    /// Ends all troubles.
    pub fn clear(&self) {
        *lock(&self.troubles) = SdsTroubles::default();
    }

    /// The answer to a question that may be asked, in whatever trouble it meets.
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

    /// Whether answers are held back.
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
    /// The Bundle in the cache: this one, if there is none yet.
    fn cached(&mut self, key: String, made: impl FnOnce() -> Response<Bytes>) -> Response<Bytes> {
        if self.cached.len() >= CACHED_MAX {
            self.cached.clear();
        }
        self.cached.entry(key).or_insert_with(made).clone()
    }
}

impl SdsReply {
    /// An answer without trouble.
    pub(super) fn at_once(response: Response<Bytes>) -> Self {
        Self { response, manner: SdsDelivery::AtOnce }
    }
}

impl SdsCaller<'_> {
    fn bundle(&self, resources: Vec<Value>, media: &'static str) -> Response<Bytes> {
        let host = question::joined(self.headers, HOST.as_str());
        let host = host.unwrap_or_else(|| "localhost".to_owned());
        let told = question::unescaped(self.path_and_query);
        let asked = format!("https://{host}{}", String::from_utf8_lossy(&told));
        let bundle = bundle::bundle(resources, &asked);
        bundle::response(&bundle, media, Some(&self.correlation))
    }

    /// Whether the gateway's cache is passed by: this very value, and no other, does it.
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
