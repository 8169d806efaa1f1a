//! Who may send how much, and what a practice can bear.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Refusal;
use crate::spine::Asid;
use crate::tls::Peer;

/// Rates and caps.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Requests a second with one certificate, before anything is looked up.
    pub certificate_per_second: NonZeroU32,
    /// Requests a second of one consumer ASID.
    pub consumer_per_second: NonZeroU32,
    /// Exchanges at once with one practice's system.
    pub practice_exchanges_max: usize,
    /// Exchanges at once with all providers.
    pub exchanges_max: usize,
    /// How long a request may wait for either.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            certificate_per_second: NonZeroU32::MIN.saturating_add(1999),
            consumer_per_second: NonZeroU32::MIN.saturating_add(999),
            practice_exchanges_max: 64,
            exchanges_max: 4096,
            wait: Duration::from_secs(2),
        }
    }
}

/// The rates and caps in force, shared by all workers.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    knocks: DefaultKeyedRateLimiter<String>,
    quotas: DefaultKeyedRateLimiter<Asid>,
    all: Arc<Semaphore>,
    practices: Mutex<HashMap<Asid, Arc<Semaphore>>>,
}

/// A place with a practice, given back when dropped.
#[derive(Debug)]
pub struct Place {
    _all: OwnedSemaphorePermit,
    _practice: OwnedSemaphorePermit,
}

impl Throttle {
    /// A throttle with nothing counted yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            knocks: RateLimiter::keyed(Quota::per_second(limits.certificate_per_second)),
            quotas: RateLimiter::keyed(Quota::per_second(limits.consumer_per_second)),
            all: Arc::new(Semaphore::new(limits.exchanges_max)),
            practices: Mutex::default(),
            limits,
        }
    }

    /// The limits in force.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A cheap rate per certificate, against floods.
    pub fn knock(&self, peer: &Peer) -> Result<(), Refusal> {
        let fingerprint = peer.fingerprint().to_owned();
        self.knocks.check_key(&fingerprint).map_err(|_| Refusal::KnockLimited)
    }

    /// The quota of a consumer.
    pub fn admit(&self, consumer: &Asid) -> Result<(), Refusal> {
        self.quotas.check_key(consumer).map_err(|_| Refusal::QuotaExceeded)
    }

    /// A place with a practice, waited for at most [`Limits::wait`].
    pub async fn provider(&self, asid: &Asid) -> Result<Place, Refusal> {
        let practice = self.practice(asid);
        // The common case, without a timer.
        if let (Ok(practice), Ok(all)) =
            (Arc::clone(&practice).try_acquire_owned(), Arc::clone(&self.all).try_acquire_owned())
        {
            return Ok(Place { _all: all, _practice: practice });
        }
        let wait = async {
            let practice = practice.acquire_owned().await.ok()?;
            let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Place { _all: all, _practice: practice })
        };
        let place = tokio::time::timeout(self.limits.wait, wait).await;
        place.ok().flatten().ok_or(Refusal::ProviderBusy)
    }

    /// Forgets whoever has not been seen for a while; the limiters never do by themselves.
    pub fn tidy(&self) {
        self.knocks.retain_recent();
        self.quotas.retain_recent();
        let mut practices = self.practices.lock().unwrap_or_else(PoisonError::into_inner);
        practices.retain(|_, practice| Arc::strong_count(practice) > 1);
    }

    fn practice(&self, asid: &Asid) -> Arc<Semaphore> {
        let mut practices = self.practices.lock().unwrap_or_else(PoisonError::into_inner);
        match practices.get(asid) {
            Some(practice) => Arc::clone(practice),
            None => {
                let practice = Arc::new(Semaphore::new(self.limits.practice_exchanges_max));
                practices.insert(asid.clone(), Arc::clone(&practice));
                practice
            }
        }
    }
}
