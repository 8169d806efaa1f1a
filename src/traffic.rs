//! Traffic since the start, for operators: by practice, by consumer and by minute, and the last exchanges.
//!
//! All of it is kept in memory within limits, and holds nothing of a patient. The audit journal is the record
//! of what happened; this is a view of it that costs no reading.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use crate::metrics::ExchangeOutcome;
use crate::refusal::QuotaLeft;
use crate::tls::Peer;
use spine_types::interaction::Interaction;
use spine_types::{Asid, OdsCode};

/// Limit: practices whose traffic is kept. Others are forwarded to as usual, and are not listed.
pub const PRACTICES_MAX: usize = 20_000;
/// Limit: consumers whose traffic is kept.
pub const CONSUMERS_MAX: usize = 5_000;
/// Limit: last exchanges, and last refusals of identified and of other callers, that are kept of each.
pub const LAST_MAX: usize = 100;
/// Limit: minutes whose counts are kept.
pub const MINUTES_MAX: usize = 60;
/// Limit: bytes of the cause of a failure that are kept.
const CAUSE_BYTES_MAX: usize = 300;
/// Time after which a practice or consumer without traffic is forgotten.
const FORGET_AFTER_S: i64 = 24 * 60 * 60;
/// Length of the periods over which latencies are taken: the present one and the one before.
const PERIOD_S: i64 = 300;
const MINUTE_S: i64 = 60;

/// Traffic since the start.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<TrafficState>);

#[derive(Debug, Default)]
struct TrafficState {
    practices: HashMap<OdsCode, PracticeState>,
    consumers: HashMap<Asid, ConsumerState>,
    /// Counts of the last minutes, oldest first.
    minutes: VecDeque<MinuteCounts>,
    exchanges: VecDeque<Arc<ExchangeSummary>>,
    refusals: VecDeque<Arc<ExchangeSummary>>,
    /// Refusals of callers that were not identified, who could push out all others.
    unidentified: VecDeque<Arc<ExchangeSummary>>,
}

/// Step of the decision about a request that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionReached {
    /// The caller is not known to be a consumer.
    Unidentified,
    /// The certificate is that of the consumer.
    Identified,
    /// The request may be sent to the practice.
    Permitted,
}

/// Exchange that has ended.
#[derive(Debug, Clone, Serialize)]
pub struct ExchangeSummary {
    /// Time at which the request began.
    pub time: Timestamp,
    /// Id of the exchange, as in its record.
    pub id: Uuid,
    /// Value of `Ssp-TraceID`, if it is well formed, fit to be shown.
    pub trace_id: Option<String>,
    /// ASID of the consumer, as it claims if it was not identified.
    pub from: Option<Asid>,
    /// Step of the decision that was reached.
    pub reached: DecisionReached,
    /// Practice, once the request is permitted, or else as the target names it.
    pub ods: Option<OdsCode>,
    /// ASID of the practice's system, once it is known, or else as the request names it.
    pub to: Option<Asid>,
    /// Interaction, if it is known.
    #[serde(serialize_with = "short_id")]
    pub interaction: Option<&'static Interaction>,
    /// Method of the request.
    pub method: &'static str,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Outcome of the exchange.
    #[serde(serialize_with = "label")]
    pub outcome: ExchangeOutcome,
    /// Token of the refusal, if there is one.
    pub refusal: Option<&'static str>,
    /// Cause of a failure on the way to the practice.
    pub cause: Option<String>,
    /// Duration in microseconds.
    pub duration_us: u64,
    /// True if the practice's system failed: it was not reached, broke off, or answered with a status of 500
    /// or more.
    pub has_failed: bool,
    /// True if the practice's system answered.
    pub has_answer: bool,
    /// Quota that the consumer had left.
    #[serde(skip)]
    pub quota: Option<QuotaLeft>,
}

/// Serializes an interaction by its short id.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn short_id<S: serde::Serializer>(
    of: &Option<&'static Interaction>,
    to: S,
) -> Result<S::Ok, S::Error> {
    of.map(Interaction::short_id).serialize(to)
}

/// Serializes an outcome by its label.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn label<S: serde::Serializer>(of: &ExchangeOutcome, to: S) -> Result<S::Ok, S::Error> {
    of.label().serialize(to)
}

impl ExchangeSummary {
    /// Returns true if the certificate is that of the consumer.
    #[must_use]
    pub fn is_identified(&self) -> bool {
        self.reached != DecisionReached::Unidentified
    }

    /// Returns the time at which the exchange ended.
    fn ended(&self) -> Timestamp {
        let took = SignedDuration::from_micros(i64::try_from(self.duration_us).unwrap_or(i64::MAX));
        self.time.checked_add(took).unwrap_or(self.time)
    }
}

/// Failure of a practice's system.
#[derive(Debug, Clone, Serialize)]
pub struct ProviderError {
    /// Time at which the exchange ended.
    pub time: Timestamp,
    /// Trace id of the exchange.
    pub trace_id: Option<String>,
    /// Status of the answer: the practice's, or that of the refusal.
    pub status: Option<u16>,
    /// Token of the refusal, if there is one.
    pub refusal: Option<&'static str>,
    /// Fault with what caused it.
    pub cause: Option<String>,
}

#[derive(Debug, Default)]
struct PracticeState {
    asid: Option<Asid>,
    requests: u64,
    failures: u64,
    latency: Latency,
    last_success: Option<Timestamp>,
    last_error: Option<ProviderError>,
    last_s: i64,
}

#[derive(Debug, Default)]
struct ConsumerState {
    requests: u64,
    refusals: BTreeMap<&'static str, u64>,
    certificate: Option<Arc<Peer>>,
    quota: Option<QuotaLeft>,
    last: Option<Timestamp>,
    /// Start of the present minute, its requests, and those of the minute before.
    minute: (i64, u64, u64),
}

/// Number of buckets of a latency distribution: below 1 ms, 2 ms, 4 ms and so on to 17 minutes, longer than any
/// exchange may take by default.
const BUCKETS: usize = 21;

/// Distribution of latencies over the present and the last period.
#[derive(Debug, Default)]
struct Latency {
    since_s: i64,
    now: [u32; BUCKETS],
    before: [u32; BUCKETS],
}

impl Latency {
    fn turn(&mut self, now_s: i64) {
        let start_s = now_s.div_euclid(PERIOD_S) * PERIOD_S;
        match start_s.saturating_sub(self.since_s) {
            0 => {}
            PERIOD_S => (self.since_s, self.before) = (start_s, std::mem::take(&mut self.now)),
            // Long ago; or in the future, after the clock was set back.
            _ => *self = Self { since_s: start_s, ..Self::default() },
        }
    }

    fn add(&mut self, now_s: i64, took: Duration) {
        self.turn(now_s);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let at = usize::try_from(u64::BITS - ms.leading_zeros()).unwrap_or_default();
        if let Some(count) = self.now.get_mut(at.min(BUCKETS - 1)) {
            *count = count.saturating_add(1);
        }
    }

    /// Returns the upper end of the bucket that holds this percentage of the latencies, in milliseconds;
    /// `None` without any.
    fn percentile_ms(&self, percent: u64) -> Option<u64> {
        let counts = self.now.iter().zip(&self.before);
        let counts: Vec<u64> =
            counts.map(|(now, before)| u64::from(*now) + u64::from(*before)).collect();
        let total: u64 = counts.iter().sum();
        let wanted = (total * percent).div_ceil(100).max(1);
        let mut sum = 0;
        let at = counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        })?;
        1_u64.checked_shl(u32::try_from(at).ok()?)
    }
}

/// Counts of one minute.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MinuteCounts {
    /// Start of the minute, in seconds since 1970.
    pub start_s: i64,
    /// Exchanges by interaction, under its short id.
    pub interactions: BTreeMap<&'static str, u32>,
    /// Refusals by token.
    pub refusals: BTreeMap<&'static str, u32>,
    /// Exchanges that were broken off.
    pub aborted: u32,
}

/// Traffic of a practice.
#[derive(Debug, Clone, Serialize)]
pub struct PracticeView {
    /// ODS code of the practice.
    pub ods: OdsCode,
    /// ASID of its system.
    pub asid: Option<Asid>,
    /// Requests that were to be sent there, since the start.
    pub requests: u64,
    /// Requests of those in which its system failed.
    pub failures: u64,
    /// Median duration of the last five to ten minutes' exchanges in milliseconds, rounded up to a power of two.
    pub p50_ms: Option<u64>,
    /// Duration that nine tenths of them did not exceed.
    pub p90_ms: Option<u64>,
    /// Time of the last answer without a failure.
    pub last_success: Option<Timestamp>,
    /// Last failure of its system.
    pub last_error: Option<ProviderError>,
}

/// Traffic of a consumer.
#[derive(Debug, Clone, Serialize)]
pub struct ConsumerView {
    /// ASID of the consumer.
    pub asid: Asid,
    /// Requests since the start.
    pub requests: u64,
    /// Requests of the present and the last minute, a minute.
    pub per_minute: u64,
    /// Requests at once that its quota allows, and those left of them after its last request.
    pub quota: Option<(u32, u32)>,
    /// Refusals by token, since the start.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Time of the last request.
    pub last: Option<Timestamp>,
    /// Certificate of the last request.
    pub certificate: Option<CertificateView>,
}

/// Certificate of a consumer.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateView {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// First of its names.
    pub name: Option<String>,
    /// Expiry, in seconds since 1970.
    pub not_after_s: i64,
}

impl Traffic {
    fn state(&self) -> MutexGuard<'_, TrafficState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an exchange that has ended; `peer` is the verified certificate.
    pub fn add(&self, mut exchange: ExchangeSummary, peer: Option<Arc<Peer>>) {
        if let Some(cause) = &mut exchange.cause {
            let end = (0..=CAUSE_BYTES_MAX).rev().find(|at| cause.is_char_boundary(*at));
            cause.truncate(end.unwrap_or_default());
        }
        let exchange = Arc::new(exchange);
        let mut state = self.state();
        state.count(&exchange);
        state.practice(&exchange);
        state.consumer(&exchange, peer);
        let last = match (exchange.refusal, exchange.reached) {
            (None, _) => &mut state.exchanges,
            (Some(_), DecisionReached::Unidentified) => &mut state.unidentified,
            (Some(_), DecisionReached::Identified | DecisionReached::Permitted) => {
                &mut state.refusals
            }
        };
        if last.len() >= LAST_MAX {
            last.pop_front();
        }
        last.push_back(exchange);
    }

    /// Forgets practices and consumers without traffic for a day.
    pub fn tidy(&self, now_s: i64) {
        let mut state = self.state();
        let is_recent = |last_s: i64| last_s.saturating_add(FORGET_AFTER_S) > now_s;
        state.practices.retain(|_, practice| is_recent(practice.last_s));
        let last_s = |last: Timestamp| last.as_second();
        state.consumers.retain(|_, consumer| consumer.last.map(last_s).is_some_and(is_recent));
    }

    /// Returns the practices with traffic, in the order of their codes.
    #[must_use]
    pub fn practices(&self, now_s: i64) -> Vec<PracticeView> {
        let mut state = self.state();
        let view = |(ods, of): (&OdsCode, &mut PracticeState)| {
            of.latency.turn(now_s);
            PracticeView {
                ods: ods.clone(),
                asid: of.asid.clone(),
                requests: of.requests,
                failures: of.failures,
                p50_ms: of.latency.percentile_ms(50),
                p90_ms: of.latency.percentile_ms(90),
                last_success: of.last_success,
                last_error: of.last_error.clone(),
            }
        };
        let mut views: Vec<_> = state.practices.iter_mut().map(view).collect();
        drop(state);
        views.sort_by(|one, other| one.ods.cmp(&other.ods));
        views
    }

    /// Returns the consumers with traffic, in the order of their ASIDs.
    #[must_use]
    pub fn consumers(&self, now_s: i64) -> Vec<ConsumerView> {
        let state = self.state();
        let view = |(asid, of): (&Asid, &ConsumerState)| ConsumerView {
            asid: asid.clone(),
            requests: of.requests,
            per_minute: of.per_minute(now_s),
            quota: of.quota.map(|quota| (quota.limit, quota.remaining)),
            refusals: of.refusals.clone(),
            last: of.last,
            certificate: of.certificate.as_deref().map(|peer| CertificateView {
                sha256: peer.fingerprint().to_owned(),
                serial: peer.serial().to_owned(),
                name: peer.names().first().map(ToString::to_string),
                not_after_s: peer.not_after_s(),
            }),
        };
        let mut views: Vec<_> = state.consumers.iter().map(view).collect();
        drop(state);
        views.sort_by(|one, other| one.asid.cmp(&other.asid));
        views
    }

    /// Returns the counts of the last minutes, oldest first. Minutes without traffic are missing.
    #[must_use]
    pub fn minutes(&self) -> Vec<MinuteCounts> {
        self.state().minutes.iter().cloned().collect()
    }

    /// Returns the number of refusals with this token in the minutes since a time, in seconds since 1970.
    #[must_use]
    pub fn refused_since(&self, token: &str, since_s: i64) -> u32 {
        let state = self.state();
        let minutes = state.minutes.iter().filter(|minute| minute.start_s >= since_s);
        minutes.filter_map(|minute| minute.refusals.get(token)).sum()
    }

    /// Returns the last exchanges that were not refused, newest first.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Arc<ExchangeSummary>> {
        self.state().exchanges.iter().rev().cloned().collect()
    }

    /// Returns the last refusals of identified consumers, and of others, newest first.
    #[must_use]
    pub fn refusals(&self) -> (Vec<Arc<ExchangeSummary>>, Vec<Arc<ExchangeSummary>>) {
        let state = self.state();
        let newest = |of: &VecDeque<Arc<_>>| of.iter().rev().cloned().collect();
        (newest(&state.refusals), newest(&state.unidentified))
    }
}

impl TrafficState {
    fn count(&mut self, exchange: &ExchangeSummary) {
        let start_s = exchange.ended().as_second().div_euclid(MINUTE_S) * MINUTE_S;
        // The clock was set back. One minute is no reason: two exchanges may end around its turn.
        while self.minutes.back().is_some_and(|last| last.start_s > start_s + MINUTE_S) {
            self.minutes.pop_back();
        }
        if self.minutes.back().is_none_or(|last| last.start_s < start_s) {
            if self.minutes.len() >= MINUTES_MAX {
                self.minutes.pop_front();
            }
            self.minutes.push_back(MinuteCounts { start_s, ..MinuteCounts::default() });
        }
        let Some(minute) = self.minutes.back_mut() else { return };
        let interaction = exchange.interaction.map_or("other", Interaction::short_id);
        *minute.interactions.entry(interaction).or_default() += 1;
        if let Some(token) = exchange.refusal {
            *minute.refusals.entry(token).or_default() += 1;
        }
        minute.aborted += u32::from(exchange.outcome == ExchangeOutcome::Aborted);
    }

    fn practice(&mut self, exchange: &ExchangeSummary) {
        // A consumer may name any practice.
        let is_permitted = exchange.reached == DecisionReached::Permitted;
        let Some(ods) = exchange.ods.as_ref().filter(|_| is_permitted) else { return };
        let is_full = self.practices.len() >= PRACTICES_MAX;
        if is_full && !self.practices.contains_key(ods) {
            return;
        }
        let practice = self.practices.entry(ods.clone()).or_default();
        practice.requests += 1;
        practice.asid = exchange.to.clone();
        let ended = exchange.ended();
        practice.last_s = ended.as_second();
        if exchange.has_failed {
            practice.failures += 1;
            practice.last_error = Some(ProviderError {
                time: ended,
                trace_id: exchange.trace_id.clone(),
                status: exchange.status,
                refusal: exchange.refusal,
                cause: exchange.cause.clone(),
            });
        } else if exchange.outcome == ExchangeOutcome::Answered {
            practice.last_success = Some(ended);
        }
        if exchange.has_answer {
            practice.latency.add(practice.last_s, Duration::from_micros(exchange.duration_us));
        }
    }

    fn consumer(&mut self, exchange: &ExchangeSummary, peer: Option<Arc<Peer>>) {
        let Some(asid) = exchange.from.as_ref().filter(|_| exchange.is_identified()) else {
            return;
        };
        let is_full = self.consumers.len() >= CONSUMERS_MAX;
        if is_full && !self.consumers.contains_key(asid) {
            return;
        }
        let consumer = self.consumers.entry(asid.clone()).or_default();
        consumer.requests += 1;
        consumer.last = Some(exchange.ended());
        consumer.certificate = peer;
        consumer.quota = exchange.quota.or(consumer.quota);
        consumer.tick(exchange.ended().as_second());
        if let Some(token) = exchange.refusal {
            *consumer.refusals.entry(token).or_default() += 1;
        }
    }
}

impl ConsumerState {
    fn tick(&mut self, now_s: i64) {
        let start_s = now_s.div_euclid(MINUTE_S) * MINUTE_S;
        let (since_s, count, _) = self.minute;
        // Smaller by more than a minute if the clock was set back.
        if start_s > since_s || start_s < since_s - MINUTE_S {
            let before = if start_s == since_s + MINUTE_S { count } else { 0 };
            self.minute = (start_s, 0, before);
        }
        self.minute.1 += 1;
    }

    /// Returns the requests of the last sixty seconds, as if those of the minute before were spread evenly.
    fn per_minute(&self, now_s: i64) -> u64 {
        let (since_s, count, before) = self.minute;
        match now_s.saturating_sub(since_s) {
            passed @ 0..MINUTE_S => {
                let left = u64::try_from(MINUTE_S - passed).unwrap_or_default();
                count + before * left / MINUTE_S.unsigned_abs()
            }
            passed @ MINUTE_S..120 => {
                let left = u64::try_from(2 * MINUTE_S - passed).unwrap_or_default();
                count * left / MINUTE_S.unsigned_abs()
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_S: i64 = 1_796_212_800;

    fn exchange(at_s: i64) -> ExchangeSummary {
        ExchangeSummary {
            time: Timestamp::from_second(at_s).unwrap(),
            id: Uuid::nil(),
            trace_id: None,
            from: Some("200000000359".parse().unwrap()),
            reached: DecisionReached::Permitted,
            ods: Some("A20047".parse().unwrap()),
            to: None,
            interaction: None,
            method: "GET",
            status: Some(200),
            outcome: ExchangeOutcome::Answered,
            refusal: None,
            has_failed: false,
            has_answer: true,
            cause: None,
            duration_us: 3_000,
            quota: None,
        }
    }

    fn refused(at_s: i64, token: &'static str) -> ExchangeSummary {
        let (outcome, refusal) = (ExchangeOutcome::Refused, Some(token));
        ExchangeSummary { outcome, refusal, has_answer: false, ..exchange(at_s) }
    }

    #[test]
    fn a_practice_has_its_failures_and_the_latencies_of_the_last_minutes() {
        let traffic = Traffic::default();
        for took_ms in [1, 3, 3, 3, 3, 3, 3, 3, 3, 900] {
            traffic.add(ExchangeSummary { duration_us: took_ms * 1000, ..exchange(NOON_S) }, None);
        }
        let cause = Some(format!("{}é", "x".repeat(CAUSE_BYTES_MAX - 1)));
        let failed =
            ExchangeSummary { has_failed: true, cause, ..refused(NOON_S, "provider_failed") };
        traffic.add(failed, None);
        let view = traffic.practices(NOON_S).remove(0);
        assert_eq!((view.requests, view.failures), (11, 1));
        assert_eq!((view.p50_ms, view.p90_ms), (Some(4), Some(4)));
        let ended = Timestamp::from_second(NOON_S).unwrap() + SignedDuration::from_millis(900);
        assert_eq!(view.last_success, Some(ended));
        let error = view.last_error.unwrap();
        assert_eq!(error.refusal, Some("provider_failed"));
        assert_eq!(error.cause.unwrap().len(), CAUSE_BYTES_MAX - 1);
        // One period later they count still, two periods later they do not.
        let p50_ms = |after_s| traffic.practices(NOON_S + after_s).remove(0).p50_ms;
        assert_eq!((p50_ms(PERIOD_S), p50_ms(3 * PERIOD_S)), (Some(4), None));
    }

    #[test]
    fn a_latency_is_never_below_what_was_measured() {
        for took_us in [0, 999, 1_000, 2_000, 4_095_000, 30_000_000] {
            let mut latency = Latency::default();
            latency.add(NOON_S, Duration::from_micros(took_us));
            let ms = latency.percentile_ms(50).unwrap();
            assert!(ms * 1000 >= took_us && ms <= 1.max(2 * took_us / 1000), "{took_us} {ms}");
        }
    }

    #[test]
    fn a_consumer_has_its_rate_and_its_refusals() {
        let traffic = Traffic::default();
        for second in 0..60 {
            traffic.add(exchange(NOON_S + second), None);
        }
        traffic.add(refused(NOON_S + 60, "quota_exceeded"), None);
        let view = |after_s| traffic.consumers(NOON_S + after_s).remove(0);
        assert_eq!(view(60).requests, 61);
        assert_eq!(view(60).refusals, BTreeMap::from([("quota_exceeded", 1)]));
        assert_eq!((view(60).per_minute, view(90).per_minute), (61, 31));
        assert_eq!((view(150).per_minute, view(600).per_minute), (0, 0));
    }

    #[test]
    fn everything_is_kept_within_its_limit() {
        let traffic = Traffic::default();
        let minutes = i64::try_from(MINUTES_MAX).unwrap();
        for number in 0..2 * minutes {
            let at_s = NOON_S + number * MINUTE_S;
            traffic.add(exchange(at_s), None);
            traffic.add(refused(at_s, "quota_exceeded"), None);
            traffic.add(
                ExchangeSummary {
                    reached: DecisionReached::Unidentified,
                    ..refused(at_s, "token_missing")
                },
                None,
            );
        }
        assert_eq!(traffic.exchanges().len(), LAST_MAX);
        let (identified, others) = traffic.refusals();
        assert_eq!((identified.len(), others.len()), (LAST_MAX, LAST_MAX));
        assert_eq!(traffic.exchanges()[0].time.as_second(), NOON_S + (2 * minutes - 1) * MINUTE_S);
        let kept = traffic.minutes();
        assert_eq!((kept.len(), kept[0].start_s), (MINUTES_MAX, NOON_S + minutes * MINUTE_S));
        assert_eq!(kept[0].interactions["other"], 3);
        for number in 0..=PRACTICES_MAX {
            let ods = format!("A{number:05}").parse().ok();
            let from = format!("{number:012}").parse().ok();
            traffic.add(ExchangeSummary { ods, from, ..exchange(NOON_S) }, None);
        }
        assert_eq!(traffic.practices(NOON_S).len(), PRACTICES_MAX);
        assert_eq!(traffic.consumers(NOON_S).len(), CONSUMERS_MAX);
        traffic.tidy(NOON_S + FORGET_AFTER_S);
        assert_eq!(traffic.practices(NOON_S).len(), 1, "the one with later traffic");
    }

    #[test]
    fn what_ended_last_counts_as_last_whatever_began_first() {
        let traffic = Traffic::default();
        traffic.add(ExchangeSummary { duration_us: 100_000, ..exchange(NOON_S + 1) }, None);
        let late =
            ExchangeSummary { duration_us: 20_000_000, ..refused(NOON_S, "provider_timed_out") };
        traffic.add(ExchangeSummary { has_failed: true, ..late }, None);
        let view = traffic.practices(NOON_S + 20).remove(0);
        assert!(view.last_error.map(|error| error.time) > view.last_success);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_the_counts() {
        let traffic = Traffic::default();
        let token = "certificate_status_unknown";
        traffic.add(refused(NOON_S + 3600, token), None);
        traffic.add(exchange(NOON_S + 3600), None);
        for _ in 0..3 {
            traffic.add(ExchangeSummary { duration_us: 60_000, ..exchange(NOON_S) }, None);
        }
        let minutes = traffic.minutes();
        assert_eq!((minutes.len(), minutes[0].start_s), (1, NOON_S));
        assert_eq!(traffic.refused_since(token, NOON_S - 600), 0);
        assert_eq!(traffic.consumers(NOON_S)[0].per_minute, 3);
        assert_eq!(traffic.practices(NOON_S)[0].p50_ms, Some(64));
    }
}
