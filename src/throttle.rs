//! Who may send how much, what a practice can bear, and who is sent away first.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::breaker::{Admitted, Breaker, Patience, Verdict};
use crate::interaction::Effect;
use crate::metrics::Metrics;
use crate::refusal::{Allowance, Refusal};
use crate::spine::Asid;
use crate::tls::Peer;

mod memory;
mod pressure;
mod queue;
mod quota;
mod shared;

pub use memory::{Limit, Memory};
pub use pressure::{Ceiling, Level, Pressure, Pulse};
pub use shared::{Sharing, SharingError};

use queue::{Queue, Room};
use quota::{Account, Crowd, Terms};
use shared::Shared;

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
    /// Requests of one consumer at once, after a pause; as many as a second's when not set.
    pub consumer_burst: Option<NonZeroU32>,
    /// Exchanges of one consumer at once.
    pub consumer_exchanges_max: usize,
    /// The same three for single consumers, by ASID.
    pub consumers: BTreeMap<Asid, Own>,
    /// Where consumers' quotas are shared with other gateways.
    pub shared: Option<Sharing>,
    /// Exchanges at once with one practice's system.
    pub practice_exchanges_max: usize,
    /// Of these, exchanges of one consumer: what is left is for the others.
    pub practice_consumer_max: usize,
    /// Requests that may wait for a place with one practice's system.
    pub practice_waiting_max: usize,
    /// How long a request may wait for it.
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
    /// Memory near which load is shed; when not set, all that the process may use: the limit of its container or
    /// cgroup, else the machine's memory.
    #[serde(with = "crate::spine::size::optional")]
    #[schemars(with = "Option<String>")]
    pub memory_max: Option<ByteSize>,
    /// How late workers may be before load is shed.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub delay_max: Duration,
}

/// What holds for one consumer instead.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Own {
    /// Requests a second.
    pub per_second: Option<NonZeroU32>,
    /// Requests at once, after a pause.
    pub burst: Option<NonZeroU32>,
    /// Exchanges at once.
    pub exchanges_max: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            certificate_per_second: NonZeroU32::MIN.saturating_add(1999),
            consumer_per_second: NonZeroU32::MIN.saturating_add(999),
            consumer_burst: None,
            consumer_exchanges_max: 512,
            consumers: BTreeMap::new(),
            shared: None,
            practice_exchanges_max: 64,
            practice_consumer_max: 32,
            practice_waiting_max: 64,
            wait: Duration::from_secs(2),
            practice_failures_max: 5,
            practice_failures_percent: 50,
            practice_spared: Duration::from_secs(10),
            memory_max: None,
            delay_max: Duration::from_millis(500),
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

    const fn room(&self) -> Room {
        Room {
            places: self.practice_exchanges_max,
            share: self.practice_consumer_max,
            waiting: self.practice_waiting_max,
        }
    }

    fn terms(&self, consumer: &Asid) -> Terms {
        let own = self.consumers.get(consumer).copied().unwrap_or_default();
        let per_second = own.per_second.unwrap_or(self.consumer_per_second);
        // Of its own rate follows a burst of its own.
        let general = self.consumer_burst.filter(|_| own.per_second.is_none());
        Terms {
            per_second,
            burst: own.burst.or(general).unwrap_or(per_second),
            exchanges_max: own.exchanges_max.unwrap_or(self.consumer_exchanges_max),
        }
    }

    /// Returns the levels near which load is shed, where the process may use so much memory.
    #[must_use]
    pub fn ceiling(&self, memory: Option<Memory>) -> Ceiling {
        let given_bytes = memory.map(|memory| memory.bytes);
        let memory_max_bytes = self.memory_max.map(|max| max.as_u64()).or(given_bytes);
        Ceiling { memory_max_bytes, delay_max: self.delay_max }
    }
}

/// The rates and caps in force, shared by all workers.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    knocks: DefaultKeyedRateLimiter<String>,
    accounts: Mutex<HashMap<Asid, Arc<Account>>>,
    crowd: Arc<Crowd>,
    shared: Option<Shared>,
    pressure: Pressure,
    practices: Mutex<HashMap<Asid, Arc<Practice>>>,
    metrics: Arc<Metrics>,
}

/// What a practice's system bears, and how it is.
#[derive(Debug)]
struct Practice {
    queue: Arc<Queue>,
    breaker: Breaker,
}

/// A consumer's request that was let in, until dropped.
#[derive(Debug)]
pub struct Admission {
    /// What is left of its quota.
    pub allowance: Allowance,
    exchange: quota::Exchange,
}

/// A request's turn with a practice.
#[derive(Debug)]
pub struct Turn {
    /// The place, held to the last byte of the answer.
    pub place: Place,
    /// The way to say what became of it.
    pub health: Health,
}

/// A place with a practice, given back when dropped.
#[derive(Debug)]
pub struct Place {
    _exchange: quota::Exchange,
    _place: queue::Place,
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
    ///
    /// # Errors
    /// Quotas cannot be shared there.
    pub fn new(
        limits: Limits,
        pressure: Pressure,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SharingError> {
        let shared = limits.shared.as_ref().map(Shared::new).transpose()?;
        metrics.quotas_shared.set(i64::from(shared.is_some()));
        Ok(Self {
            knocks: RateLimiter::keyed(Quota::per_second(limits.certificate_per_second)),
            accounts: Mutex::default(),
            crowd: Arc::default(),
            shared,
            pressure,
            practices: Mutex::default(),
            limits,
            metrics,
        })
    }

    /// The limits in force.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The level of load shedding, measured now.
    #[must_use]
    pub fn shedding(&self) -> Level {
        self.pressure.observed()
    }

    /// A cheap rate per certificate, against floods.
    pub fn knock(&self, peer: &Peer) -> Result<(), Refusal> {
        let fingerprint = peer.fingerprint().to_owned();
        self.knocks.check_key(&fingerprint).map_err(|_| Refusal::KnockLimited)
    }

    /// One more request of a consumer.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] where load is shed and it is this one's turn;
    /// [`Refusal::QuotaExceeded`] and [`Refusal::ConsumerBusy`] beyond what it may send.
    pub async fn admit(&self, consumer: &Asid, effect: Effect) -> Result<Admission, Refusal> {
        let account = self.account(consumer);
        let is_shed = match (self.pressure.level(), effect) {
            (Level::Calm, _) | (Level::Strained | Level::Overloaded, Effect::Writes) => false,
            (Level::Strained, Effect::Reads) => account.is_above_its_share(),
            (Level::Overloaded, Effect::Reads) | (Level::Critical, _) => true,
        };
        if is_shed {
            return Err(Refusal::Overloaded);
        }
        let shared = match &self.shared {
            None => None,
            // Boxed: most requests share no quota, and would hold the room for it.
            Some(shared) => Box::pin(shared.draw(consumer, &account, &self.metrics)).await,
        };
        let allowance = shared.unwrap_or_else(|| account.draw())?;
        Ok(Admission { allowance, exchange: account.enter()? })
    }

    /// A place for a consumer with a practice that is not spared, waited for at most
    /// [`Limits::wait`].
    ///
    /// # Errors
    /// [`Refusal::ProviderSpared`] after failures, [`Refusal::ProviderBusy`] without a place.
    pub async fn provider(
        &self,
        admission: Admission,
        consumer: &Asid,
        asid: &Asid,
    ) -> Result<Turn, Refusal> {
        let practice = self.practice(asid);
        let waiting = &self.metrics.provider_waiting;
        let place = practice.queue.place(consumer, self.limits.wait, waiting).await;
        let place = place.map_err(|queue::Full| Refusal::ProviderBusy)?;
        // Asked last: who is let in to probe does probe.
        let admitted = practice.breaker.admits().map_err(|left| Refusal::ProviderSpared {
            retry_after_s: u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1),
        })?;
        let place = Place { _exchange: admission.exchange, _place: place };
        Ok(Turn { place, health: Health { practice, admitted } })
    }

    /// Forgets whoever has not been seen for a while; the limiters never do by themselves.
    pub fn tidy(&self) {
        self.knocks.retain_recent();
        self.accounts()
            .retain(|_, account| Arc::strong_count(account) > 1 || !account.is_forgettable());
        self.practices().retain(|_, practice| {
            !practice.queue.is_empty()
                || Arc::strong_count(practice) > 1
                || !practice.breaker.is_forgettable()
        });
    }

    fn account(&self, consumer: &Asid) -> Arc<Account> {
        let mut accounts = self.accounts();
        if let Some(account) = accounts.get(consumer) {
            return Arc::clone(account);
        }
        let terms = self.limits.terms(consumer);
        let account = Arc::new(Account::new(terms, Arc::clone(&self.crowd)));
        accounts.insert(consumer.clone(), Arc::clone(&account));
        account
    }

    fn practice(&self, asid: &Asid) -> Arc<Practice> {
        let mut practices = self.practices();
        if let Some(practice) = practices.get(asid) {
            return Arc::clone(practice);
        }
        let (queue, breaker) =
            (Queue::new(self.limits.room()), Breaker::new(self.limits.patience()));
        let practice = Arc::new(Practice { queue, breaker });
        practices.insert(asid.clone(), Arc::clone(&practice));
        practice
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Asid, Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn practices(&self) -> MutexGuard<'_, HashMap<Asid, Arc<Practice>>> {
        self.practices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_shed_near_the_memory_there_is_unless_another_amount_is_set() {
        let given = Memory { bytes: 1 << 30, limit: Limit::Machine };
        let mut limits = Limits::default();
        assert_eq!(limits.ceiling(Some(given)).memory_max_bytes, Some(1 << 30));
        assert_eq!(limits.ceiling(None).memory_max_bytes, None);
        limits.memory_max = Some(ByteSize::mib(5));
        assert_eq!(limits.ceiling(Some(given)).memory_max_bytes, Some(5 << 20));
    }

    /// Who is let in at this level: reads and writes of a consumer that has three exchanges under way,
    /// and of one that has one.
    async fn let_in(level: Level) -> [bool; 4] {
        let throttle = |level| {
            let (pressure, metrics) = (Pressure::at(level), Arc::new(Metrics::new()));
            Throttle::new(Limits::default(), pressure, metrics).unwrap()
        };
        let mut throttle = throttle(level);
        let (many, few): (Asid, Asid) =
            ("200000000359".parse().unwrap(), "200000000360".parse().unwrap());
        let pressed = std::mem::replace(&mut throttle.pressure, Pressure::at(Level::Calm));
        let mut held = Vec::new();
        for consumer in [&many, &many, &many, &few] {
            held.push(throttle.admit(consumer, Effect::Reads).await.unwrap());
        }
        throttle.pressure = pressed;
        let mut let_in = [false; 4];
        let asked = [
            (&many, Effect::Reads),
            (&many, Effect::Writes),
            (&few, Effect::Reads),
            (&few, Effect::Writes),
        ];
        for (let_in, (consumer, effect)) in let_in.iter_mut().zip(asked) {
            match throttle.admit(consumer, effect).await {
                Ok(_) => *let_in = true,
                Err(refusal) => assert_eq!(refusal, Refusal::Overloaded),
            }
        }
        let_in
    }

    #[tokio::test]
    async fn whoever_has_most_goes_first_then_reads_then_everything() {
        assert_eq!(let_in(Level::Calm).await, [true; 4]);
        assert_eq!(let_in(Level::Strained).await, [false, true, true, true]);
        assert_eq!(let_in(Level::Overloaded).await, [false, true, false, true]);
        assert_eq!(let_in(Level::Critical).await, [false; 4]);
    }

    #[tokio::test]
    async fn a_consumers_own_terms_stand_before_all_others() {
        let asid: Asid = "200000000359".parse().unwrap();
        let number = |number| NonZeroU32::new(number).unwrap();
        let mut limits = Limits { consumer_burst: Some(number(7)), ..Limits::default() };
        let bursts = |limits: &Limits| (limits.terms(&asid).per_second, limits.terms(&asid).burst);
        assert_eq!(bursts(&limits), (number(1000), number(7)));
        let own = Own { per_second: Some(number(5)), ..Own::default() };
        limits.consumers.insert(asid.clone(), own);
        assert_eq!(bursts(&limits), (number(5), number(5)));
        let own = Own { burst: Some(number(9)), ..Own::default() };
        limits.consumers.insert(asid.clone(), own);
        assert_eq!(bursts(&limits), (number(1000), number(9)));
    }
}
