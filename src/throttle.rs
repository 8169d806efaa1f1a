//! Who may send how much, and what a practice can bear.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::breaker::{Admitted, Breaker, Patience, Verdict};
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
    /// Of these, exchanges of one consumer: what is left is for the others.
    pub practice_consumer_max: usize,
    /// Exchanges at once with all providers.
    pub exchanges_max: usize,
    /// How long a request may wait for either.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
    /// Failures in a row after which a practice's system is spared.
    pub practice_failures_max: usize,
    /// The percentage of failures, of ten exchanges or more in ten seconds, above which it is spared.
    pub practice_failures_percent: usize,
    /// How long it is spared before one request may probe it.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub practice_spared: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            certificate_per_second: NonZeroU32::MIN.saturating_add(1999),
            consumer_per_second: NonZeroU32::MIN.saturating_add(999),
            practice_exchanges_max: 64,
            practice_consumer_max: 32,
            exchanges_max: 4096,
            wait: Duration::from_secs(2),
            practice_failures_max: 5,
            practice_failures_percent: 50,
            practice_spared: Duration::from_secs(10),
        }
    }
}

impl Limits {
    const fn patience(&self) -> Patience {
        Patience {
            in_a_row: self.practice_failures_max,
            percent: self.practice_failures_percent,
            open_for: self.practice_spared,
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
    practices: Mutex<HashMap<Asid, Arc<Practice>>>,
}

/// What a practice's system bears, and how it is.
#[derive(Debug)]
struct Practice {
    places: Arc<Semaphore>,
    breaker: Breaker,
    /// What each consumer may have of the places.
    shares: Mutex<HashMap<Asid, Arc<Semaphore>>>,
}

impl Practice {
    fn share(&self, consumer: &Asid, max: usize) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = || Arc::new(Semaphore::new(max));
        Arc::clone(shares.entry(consumer.clone()).or_insert_with(share))
    }

    /// Forgets consumers that have no place and wait for none; whether anybody is left.
    fn tidy(&self) -> bool {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        !shares.is_empty()
    }
}

/// A place with a practice, given back when dropped.
#[derive(Debug)]
pub struct Place {
    _all: OwnedSemaphorePermit,
    _practice: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

/// Where it is said what became of an exchange with a practice. Dropped without a word, it said
/// nothing of the practice.
#[derive(Debug)]
pub struct Health {
    practice: Arc<Practice>,
    admitted: Admitted,
}

impl Health {
    /// The practice's system is well, or has failed; answers whether it is spared from now on.
    #[must_use]
    pub fn judge(mut self, verdict: Verdict) -> bool {
        let opened = self.practice.breaker.learn(self.admitted, verdict);
        // What has been said is not said again.
        self.admitted = Admitted::Closed;
        opened
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.practice.breaker.learn(self.admitted, Verdict::Moot);
    }
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

    /// A place for a consumer with a practice that is not spared, waited for at most
    /// [`Limits::wait`].
    ///
    /// # Errors
    /// [`Refusal::ProviderSpared`] after failures, [`Refusal::ProviderBusy`] without a place.
    pub async fn provider(&self, consumer: &Asid, asid: &Asid) -> Result<(Place, Health), Refusal> {
        let practice = self.practice(asid);
        let place = self.place(consumer, &practice).await?;
        // Asked last: who is let in to probe does probe.
        let admitted = practice.breaker.admits().map_err(|left| Refusal::ProviderSpared {
            retry_after_s: u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1),
        })?;
        Ok((place, Health { practice, admitted }))
    }

    /// The consumer's own share comes first: who waits for it waits in nobody's way.
    async fn place(&self, consumer: &Asid, practice: &Practice) -> Result<Place, Refusal> {
        let share = practice.share(consumer, self.limits.practice_consumer_max);
        let [practice, all] = [&practice.places, &self.all].map(Arc::clone);
        // The common case, without a timer.
        if let (Ok(share), Ok(practice), Ok(all)) = (
            Arc::clone(&share).try_acquire_owned(),
            Arc::clone(&practice).try_acquire_owned(),
            Arc::clone(&all).try_acquire_owned(),
        ) {
            return Ok(Place { _share: share, _practice: practice, _all: all });
        }
        let wait = async {
            let share = share.acquire_owned().await.ok()?;
            let practice = practice.acquire_owned().await.ok()?;
            Some(Place {
                _share: share,
                _practice: practice,
                _all: all.acquire_owned().await.ok()?,
            })
        };
        let place = tokio::time::timeout(self.limits.wait, wait).await;
        place.ok().flatten().ok_or(Refusal::ProviderBusy)
    }

    /// Forgets whoever has not been seen for a while; the limiters never do by themselves.
    pub fn tidy(&self) {
        self.knocks.retain_recent();
        self.quotas.retain_recent();
        let mut practices = self.practices.lock().unwrap_or_else(PoisonError::into_inner);
        practices.retain(|_, practice| {
            practice.tidy() || Arc::strong_count(practice) > 1 || !practice.breaker.is_forgettable()
        });
    }

    fn practice(&self, asid: &Asid) -> Arc<Practice> {
        let mut practices = self.practices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(practice) = practices.get(asid) {
            return Arc::clone(practice);
        }
        let places = Arc::new(Semaphore::new(self.limits.practice_exchanges_max));
        let breaker = Breaker::new(self.limits.patience());
        let practice = Arc::new(Practice { places, breaker, shares: Mutex::default() });
        practices.insert(asid.clone(), Arc::clone(&practice));
        practice
    }
}
