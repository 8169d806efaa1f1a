//! Quotas of consumers, queues and circuit breakers of practices, and load shedding.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::breaker::{Admitted, AttemptResult, Breaker, BreakerSettings, CircuitChange};
use crate::metrics::Metrics;
use crate::refusal::{QuotaLeft, Refusal};
use crate::sharing::Sharing;
use crate::tls::Peer;
use spine_types::interaction::Effect;
use spine_types::{Asid, COUNT_MAX, check_range};

mod lease;
mod memory;
mod pressure;
mod queue;
mod quota;

pub use memory::{MemoryLimit, MemoryLimitKind};
pub use pressure::{HeartbeatHandle, Pressure, PressureLevel, PressureLimits};

use lease::take_shared;
use queue::{PlaceQueue, QueueSizes};
use quota::{ConsumerQuota, GlobalInFlight, QuotaTerms};

/// Limits on rates and on concurrent exchanges.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ThrottleLimits {
    /// Requests per second with one certificate, before anything is looked up.
    pub certificate_per_second: NonZeroU32,
    /// Requests per second of one consumer ASID.
    pub consumer_per_second: NonZeroU32,
    /// Requests of one consumer at once, after a pause; as many as in a second if not set.
    pub consumer_burst: Option<NonZeroU32>,
    /// Exchanges of one consumer at once.
    pub consumer_exchanges_max: usize,
    /// Limits of single consumers instead of the general ones, by ASID.
    pub consumers: BTreeMap<Asid, ConsumerLimits>,
    /// Key of earlier versions, which is an error that names the new one.
    #[serde(rename = "shared", deserialize_with = "shared_has_moved", skip_serializing)]
    #[schemars(skip)]
    pub _shared: (),
    /// Exchanges at once with one practice's system.
    pub practice_exchanges_max: usize,
    /// Exchanges of one consumer at once with one practice's system; the other places are left for others.
    pub practice_consumer_max: usize,
    /// Requests that may wait for a place with one practice's system.
    pub practice_waiting_max: usize,
    /// Time for which a request may wait for a place with one practice's system.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub wait: Duration,
    /// Failures in a row after which the circuit of a practice's system opens.
    pub practice_failures_max: usize,
    /// Percentage of failures above which the circuit opens, of ten exchanges or more in ten seconds.
    pub practice_failures_percent: usize,
    /// Time for which the circuit stays open before one request may probe the system.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub practice_circuit_open: Duration,
    /// Key of earlier versions, which is an error that names the new one.
    #[serde(
        rename = "practice-spared",
        deserialize_with = "practice_spared_is_renamed",
        skip_serializing
    )]
    #[schemars(skip)]
    pub _practice_spared: (),
    /// Memory near which load is shed. If not set, all that the process may use: the limit of its container
    /// or cgroup, else the machine's memory.
    #[serde(with = "spine_types::size::optional")]
    #[schemars(with = "Option<String>")]
    pub memory_max: Option<ByteSize>,
    /// Delay of workers near which load is shed.
    #[serde(with = "spine_types::period")]
    #[schemars(with = "String")]
    pub delay_max: Duration,
}

/// Limits of one consumer, instead of the general ones.
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
pub struct ConsumerLimits {
    /// Requests per second of this consumer.
    pub per_second: Option<NonZeroU32>,
    /// Requests of this consumer at once, after a pause.
    pub burst: Option<NonZeroU32>,
    /// Exchanges of this consumer at once.
    pub exchanges_max: Option<usize>,
}

fn shared_has_moved<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom("this key has moved: write a section [redis]"))
}

fn practice_spared_is_renamed<'de, D: serde::Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(serde::de::Error::custom("this key has been renamed: write `practice-circuit-open`"))
}

impl ThrottleLimits {
    /// Checks that every limit allows something to be served.
    ///
    /// # Errors
    /// Returns a text that names the first key with a value that is not allowed.
    pub fn check(&self) -> Result<(), String> {
        for (key, count) in [
            ("consumer-exchanges-max", self.consumer_exchanges_max),
            ("practice-waiting-max", self.practice_waiting_max),
            ("practice-exchanges-max", self.practice_exchanges_max),
            ("practice-consumer-max", self.practice_consumer_max),
        ] {
            check_range(&format!("throttle.{key}"), &count, 1..=COUNT_MAX)?;
        }
        check_range("throttle.delay-max", &self.delay_max, Duration::from_millis(50)..)?;
        if let Some(max) = &self.memory_max {
            check_range("throttle.memory-max", max, ByteSize::mib(1)..)?;
        }
        Ok(())
    }
}

impl Default for ThrottleLimits {
    fn default() -> Self {
        Self {
            certificate_per_second: NonZeroU32::MIN.saturating_add(1999),
            consumer_per_second: NonZeroU32::MIN.saturating_add(999),
            consumer_burst: None,
            consumer_exchanges_max: 512,
            consumers: BTreeMap::new(),
            _shared: (),
            practice_exchanges_max: 64,
            practice_consumer_max: 32,
            practice_waiting_max: 64,
            wait: Duration::from_secs(2),
            practice_failures_max: 5,
            practice_failures_percent: 50,
            practice_circuit_open: Duration::from_secs(10),
            _practice_spared: (),
            memory_max: None,
            delay_max: Duration::from_millis(500),
        }
    }
}

impl ThrottleLimits {
    const fn breaker_settings(&self) -> BreakerSettings {
        BreakerSettings {
            in_a_row: self.practice_failures_max,
            percent: self.practice_failures_percent,
            open_for: self.practice_circuit_open,
        }
    }

    const fn queue_sizes(&self) -> QueueSizes {
        QueueSizes {
            places: self.practice_exchanges_max,
            share: self.practice_consumer_max,
            waiting: self.practice_waiting_max,
        }
    }

    fn terms(&self, consumer: &Asid) -> QuotaTerms {
        let own = self.consumers.get(consumer).copied().unwrap_or_default();
        let per_second = own.per_second.unwrap_or(self.consumer_per_second);
        // A consumer with a rate of its own does not take the general burst.
        let general = self.consumer_burst.filter(|_| own.per_second.is_none());
        QuotaTerms {
            per_second,
            burst: own.burst.or(general).unwrap_or(per_second),
            exchanges_max: own.exchanges_max.unwrap_or(self.consumer_exchanges_max),
        }
    }

    /// Returns the memory and the delay near which load is shed, given the memory that the process may use.
    #[must_use]
    pub fn ceiling(&self, memory: Option<MemoryLimit>) -> PressureLimits {
        let given_bytes = memory.map(|memory| memory.bytes);
        let memory_max_bytes = self.memory_max.map(|max| max.as_u64()).or(given_bytes);
        PressureLimits { memory_max_bytes, delay_max: self.delay_max }
    }
}

/// The limits in force and what counts against them, shared by all workers.
#[derive(Debug)]
pub struct Throttle {
    limits: ThrottleLimits,
    certificate_rates: DefaultKeyedRateLimiter<String>,
    accounts: Mutex<HashMap<Asid, Arc<ConsumerQuota>>>,
    in_flight: Arc<GlobalInFlight>,
    sharing: Sharing,
    pressure: Pressure,
    practices: Mutex<HashMap<Asid, Arc<PracticeLoad>>>,
    metrics: Arc<Metrics>,
}

/// Queue and circuit breaker of one practice's system.
#[derive(Debug)]
struct PracticeLoad {
    queue: Arc<PlaceQueue>,
    breaker: Breaker,
}

/// A consumer's request that was admitted, until dropped.
#[derive(Debug)]
pub struct AdmittedRequest {
    /// Remaining quota of the consumer.
    pub allowance: QuotaLeft,
    exchange: quota::InFlightExchange,
}

/// Leave for a request to be sent to a practice's system.
#[derive(Debug)]
pub struct ProviderTurn {
    /// The place with the practice, held to the last byte of the answer.
    pub place: ProviderPlace,
    /// Reports what became of the exchange.
    pub health: OutcomeReport,
}

/// A place with a practice's system, given back when dropped.
#[derive(Debug)]
pub struct ProviderPlace {
    _exchange: quota::InFlightExchange,
    _place: queue::QueuePlace,
}

/// Reports an exchange's outcome to the practice's circuit breaker; dropping it counts as no evidence.
#[derive(Debug)]
pub struct OutcomeReport {
    practice: Arc<PracticeLoad>,
    admitted: Admitted,
}

impl OutcomeReport {
    /// Reports the outcome; returns how that changes the circuit.
    #[must_use]
    pub fn judge(mut self, verdict: AttemptResult) -> CircuitChange {
        let change = self.practice.breaker.learn(self.admitted, verdict);
        // Dropping it now must not report a second time.
        self.admitted = Admitted::Closed;
        change
    }
}

impl Drop for OutcomeReport {
    fn drop(&mut self) {
        self.practice.breaker.learn(self.admitted, AttemptResult::Inconclusive);
    }
}

impl Throttle {
    /// Returns a throttle with nothing counted yet; quotas are shared through `sharing`.
    #[must_use]
    pub fn new(
        limits: ThrottleLimits,
        pressure: Pressure,
        sharing: Sharing,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            certificate_rates: RateLimiter::keyed(Quota::per_second(limits.certificate_per_second)),
            accounts: Mutex::default(),
            in_flight: Arc::default(),
            sharing,
            pressure,
            practices: Mutex::default(),
            limits,
            metrics,
        }
    }

    /// Returns the limits in force.
    #[must_use]
    pub const fn limits(&self) -> &ThrottleLimits {
        &self.limits
    }

    /// Measures and returns the level of load shedding.
    #[must_use]
    pub fn shedding(&self) -> PressureLevel {
        self.pressure.observed()
    }

    /// Checks the rate of requests with one certificate, at little cost, against floods.
    ///
    /// # Errors
    /// Returns [`Refusal::CertificateRateLimited`] if the rate is exceeded.
    pub fn check_certificate_rate(&self, peer: &Peer) -> Result<(), Refusal> {
        let fingerprint = peer.fingerprint().to_owned();
        self.certificate_rates.check_key(&fingerprint).map_err(|_| Refusal::CertificateRateLimited)
    }

    /// Admits one more request of a consumer.
    ///
    /// # Errors
    /// Returns [`Refusal::Overloaded`] if load is shed that includes it, and [`Refusal::QuotaExceeded`] or
    /// [`Refusal::ConsumerBusy`] if the consumer exceeds its limits.
    pub async fn admit(&self, consumer: &Asid, effect: Effect) -> Result<AdmittedRequest, Refusal> {
        let account = self.account(consumer);
        let is_shed = match (self.pressure.level(), effect) {
            (PressureLevel::Calm, _)
            | (PressureLevel::Strained | PressureLevel::Overloaded, Effect::Writes) => false,
            (PressureLevel::Strained, Effect::Reads) => account.is_above_its_share(),
            (PressureLevel::Overloaded, Effect::Reads) | (PressureLevel::Critical, _) => true,
        };
        if is_shed {
            return Err(Refusal::Overloaded);
        }
        let shared = match self.sharing.is_configured() {
            false => None,
            // Boxed: most requests share no quota, and would hold the memory for it.
            true => Box::pin(take_shared(&self.sharing, consumer, &account)).await,
        };
        let allowance = shared.unwrap_or_else(|| account.take())?;
        Ok(AdmittedRequest { allowance, exchange: account.enter()? })
    }

    /// Waits for a place with a practice's system, for at most [`ThrottleLimits::wait`].
    ///
    /// # Errors
    /// Returns [`Refusal::ProviderCircuitOpen`] if the system's circuit is open, and
    /// [`Refusal::ProviderBusy`] if there is no place in time.
    pub async fn provider(
        &self,
        admission: AdmittedRequest,
        consumer: &Asid,
        asid: &Asid,
    ) -> Result<ProviderTurn, Refusal> {
        let practice = self.practice(asid);
        let waiting = &self.metrics.provider_waiting;
        let place = practice.queue.place(consumer, self.limits.wait, waiting).await;
        let place = place.map_err(|queue::QueueFull| Refusal::ProviderBusy)?;
        // Checked last, so that a request that is let in as a probe is sent.
        let admitted = practice.breaker.admits().map_err(|left| Refusal::ProviderCircuitOpen {
            retry_after_s: u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1),
        })?;
        let place = ProviderPlace { _exchange: admission.exchange, _place: place };
        Ok(ProviderTurn { place, health: OutcomeReport { practice, admitted } })
    }

    /// Returns the systems of practices whose circuits are open, and for how long they have been.
    #[must_use]
    pub fn open_circuits(&self) -> HashMap<Asid, Duration> {
        let open = |(asid, practice): (&Asid, &Arc<PracticeLoad>)| {
            Some((asid.clone(), practice.breaker.open_since()?))
        };
        self.practices().iter().filter_map(open).collect()
    }

    /// Drops the state of callers and practices that were not seen for a while; the limiters never do by
    /// themselves.
    pub fn tidy(&self) {
        self.certificate_rates.retain_recent();
        self.accounts()
            .retain(|_, account| Arc::strong_count(account) > 1 || !account.is_forgettable());
        self.practices().retain(|asid, practice| {
            let stays = !practice.queue.is_empty()
                || Arc::strong_count(practice) > 1
                || !practice.breaker.is_forgettable();
            if !stays && let Some(open) = practice.breaker.open_since() {
                tracing::info!(
                    %asid,
                    seconds = open.as_secs(),
                    "circuit forgotten: the practice's system was not sent a request for a while, and the next \
                     one is sent"
                );
            }
            stays
        });
    }

    fn account(&self, consumer: &Asid) -> Arc<ConsumerQuota> {
        let mut accounts = self.accounts();
        if let Some(account) = accounts.get(consumer) {
            return Arc::clone(account);
        }
        let terms = self.limits.terms(consumer);
        let account = Arc::new(ConsumerQuota::new(terms, Arc::clone(&self.in_flight)));
        accounts.insert(consumer.clone(), Arc::clone(&account));
        account
    }

    fn practice(&self, asid: &Asid) -> Arc<PracticeLoad> {
        let mut practices = self.practices();
        if let Some(practice) = practices.get(asid) {
            return Arc::clone(practice);
        }
        let (queue, breaker) = (
            PlaceQueue::new(self.limits.queue_sizes()),
            Breaker::new(self.limits.breaker_settings()),
        );
        let practice = Arc::new(PracticeLoad { queue, breaker });
        practices.insert(asid.clone(), Arc::clone(&practice));
        practice
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Asid, Arc<ConsumerQuota>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn practices(&self) -> MutexGuard<'_, HashMap<Asid, Arc<PracticeLoad>>> {
        self.practices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_shed_near_the_memory_there_is_unless_another_amount_is_set() {
        let given = MemoryLimit { bytes: 1 << 30, limit: MemoryLimitKind::Machine };
        let mut limits = ThrottleLimits::default();
        assert_eq!(limits.ceiling(Some(given)).memory_max_bytes, Some(1 << 30));
        assert_eq!(limits.ceiling(None).memory_max_bytes, None);
        limits.memory_max = Some(ByteSize::mib(5));
        assert_eq!(limits.ceiling(Some(given)).memory_max_bytes, Some(5 << 20));
    }

    /// Returns true for those admitted at this level: reads and writes of a consumer with three exchanges
    /// under way, and of one with one.
    async fn let_in(level: PressureLevel) -> [bool; 4] {
        let throttle = |level| {
            let (pressure, metrics) = (Pressure::at(level), Arc::new(Metrics::new()));
            let sharing = Sharing::new(Arc::clone(&metrics));
            Throttle::new(ThrottleLimits::default(), pressure, sharing, metrics)
        };
        let mut throttle = throttle(level);
        let (many, few): (Asid, Asid) =
            ("200000000359".parse().unwrap(), "200000000360".parse().unwrap());
        let pressed = std::mem::replace(&mut throttle.pressure, Pressure::at(PressureLevel::Calm));
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
        assert_eq!(let_in(PressureLevel::Calm).await, [true; 4]);
        assert_eq!(let_in(PressureLevel::Strained).await, [false, true, true, true]);
        assert_eq!(let_in(PressureLevel::Overloaded).await, [false, true, false, true]);
        assert_eq!(let_in(PressureLevel::Critical).await, [false; 4]);
    }

    #[tokio::test]
    async fn a_consumers_own_terms_stand_before_all_others() {
        let asid: Asid = "200000000359".parse().unwrap();
        let number = |number| NonZeroU32::new(number).unwrap();
        let mut limits =
            ThrottleLimits { consumer_burst: Some(number(7)), ..ThrottleLimits::default() };
        let bursts =
            |limits: &ThrottleLimits| (limits.terms(&asid).per_second, limits.terms(&asid).burst);
        assert_eq!(bursts(&limits), (number(1000), number(7)));
        let own = ConsumerLimits { per_second: Some(number(5)), ..ConsumerLimits::default() };
        limits.consumers.insert(asid.clone(), own);
        assert_eq!(bursts(&limits), (number(5), number(5)));
        let own = ConsumerLimits { burst: Some(number(9)), ..ConsumerLimits::default() };
        limits.consumers.insert(asid.clone(), own);
        assert_eq!(bursts(&limits), (number(1000), number(9)));
    }
}
