//! Spares whoever fails, until a probe of one has shown that they are there again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub in_a_row: usize,
    /// The share of failures, in percent, above which it opens, once there are enough to weigh.
    pub percent: usize,
    /// How long it stays open, and up to a tenth more: siblings should not probe together.
    pub open_for: Duration,
}

/// The span over which failures are weighed, and the least in it that weigh anything.
const SPAN: Duration = Duration::from_secs(10);
const LEAST: usize = 10;
/// Limit: what is remembered of the span.
const REMEMBERED_MAX: usize = 1000;

/// As what somebody may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// As always.
    Closed,
    /// To find out whether they are there again: which probe it is.
    ToProbe(u64),
}

/// What an attempt says of whoever was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// They are well.
    Well,
    /// Nothing.
    Moot,
    /// They failed; they are not to be asked for so long, if that is known.
    Failed(Option<Duration>),
    /// They are not to be asked for so long, whatever came before.
    Spare(Duration),
}

/// One breaker.
#[derive(Debug)]
pub struct Breaker {
    patience: BreakerSettings,
    state: Mutex<BreakerState>,
}

#[derive(Debug, Default)]
struct BreakerState {
    in_a_row: usize,
    recent: VecDeque<(Instant, bool)>,
    open_until: Option<Instant>,
    /// The probe under way, and since when.
    probing: Option<(u64, Instant)>,
    probes: u64,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(patience: BreakerSettings) -> Self {
        Self { patience, state: Mutex::default() }
    }

    /// Whether they may be asked now; once an open breaker's time is up, one may, to probe.
    ///
    /// # Errors
    /// Time for which the breaker stays open.
    pub fn admits(&self) -> Result<Admitted, Duration> {
        let now = Instant::now();
        let mut state = self.state();
        let Some(until) = state.open_until else { return Ok(Admitted::Closed) };
        if now < until {
            return Err(until - now);
        }
        // A probe that never came back does not keep the breaker open for ever.
        match state.probing.map(|(_, since)| since + self.patience.open_for) {
            Some(until) if now < until => Err(until - now),
            _ => {
                state.probes += 1;
                let probe = state.probes;
                state.probing = Some((probe, now));
                Ok(Admitted::ToProbe(probe))
            }
        }
    }

    /// Whether it is open, probing or not.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state().open_until.is_some()
    }

    /// Whether it remembers nothing that matters.
    #[must_use]
    pub fn is_forgettable(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        state.forget(now);
        state.recent.is_empty() && state.open_until.is_none_or(|until| until + SPAN < now)
    }

    /// Learns what came of an attempt; answers whether the breaker has opened by it.
    pub fn learn(&self, admitted: Admitted, verdict: AttemptResult) -> bool {
        let mut state = self.state();
        let (named, is_certain) = match verdict {
            AttemptResult::Well => {
                // What was asked before it opened does not close it.
                if state.is_probe(admitted) {
                    (state.open_until, state.probing) = (None, None);
                    state.recent.clear();
                }
                state.in_a_row = 0;
                state.note(true);
                return false;
            }
            AttemptResult::Moot => {
                // A probe that told nothing makes room for the next.
                if state.is_probe(admitted) {
                    state.probing = None;
                }
                return false;
            }
            AttemptResult::Failed(named) => (named, false),
            AttemptResult::Spare(named) => (Some(named), true),
        };
        state.in_a_row += 1;
        state.note(false);
        // What was asked before it opened says nothing new.
        let was_open = state.open_until.is_some();
        if was_open && !is_certain && !state.is_probe(admitted) {
            return false;
        }
        let opens = is_certain
            || state.is_probe(admitted)
            || state.in_a_row >= self.patience.in_a_row
            || state.is_failing(self.patience.percent);
        if opens {
            let usual = self.patience.open_for.mul_f64(1.0 + jitter());
            let open_for = if is_certain { named } else { named.map(|named| named.max(usual)) };
            state.open_until = Some(Instant::now() + open_for.unwrap_or(usual));
            state.probing = None;
        }
        opens && !was_open
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BreakerState {
    fn is_probe(&self, admitted: Admitted) -> bool {
        let probing = self.probing.map(|(probe, _)| Admitted::ToProbe(probe));
        probing == Some(admitted)
    }

    fn note(&mut self, ok: bool) {
        let now = Instant::now();
        self.recent.push_back((now, ok));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        let is_over = |recent: &VecDeque<(Instant, bool)>| {
            recent.len() > REMEMBERED_MAX
                || recent.front().is_some_and(|(at, _)| now.duration_since(*at) > SPAN)
        };
        while is_over(&self.recent) {
            self.recent.pop_front();
        }
    }

    fn is_failing(&self, percent: usize) -> bool {
        let failed = self.recent.iter().filter(|(_, ok)| !ok).count();
        self.recent.len() >= LEAST && failed * 100 > self.recent.len() * percent
    }
}

/// Up to a tenth.
fn jitter() -> f64 {
    let [byte, ..] = *uuid::Uuid::new_v4().as_bytes();
    f64::from(byte) / 2550.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: AttemptResult = AttemptResult::Failed(None);

    fn breaker() -> Breaker {
        let open_for = Duration::from_secs(10);
        Breaker::new(BreakerSettings { in_a_row: 5, percent: 50, open_for })
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_until_one_probe_succeeds() {
        let breaker = breaker();
        for _ in 0..4 {
            assert!(!breaker.learn(Admitted::Closed, FAILED));
        }
        assert_eq!(breaker.admits(), Ok(Admitted::Closed));
        assert!(breaker.learn(Admitted::Closed, FAILED));
        assert!(breaker.admits().is_err() && breaker.is_open());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(breaker.admits(), Ok(Admitted::ToProbe(1)), "one probe");
        assert!(breaker.admits().is_err(), "and one alone");
        assert!(!breaker.learn(Admitted::Closed, FAILED), "late, and nothing new");
        assert!(!breaker.learn(Admitted::ToProbe(1), FAILED), "it was open");
        assert!(breaker.admits().is_err());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(breaker.admits(), Ok(Admitted::ToProbe(2)));
        breaker.learn(Admitted::ToProbe(1), AttemptResult::Moot);
        assert!(breaker.admits().is_err(), "the second is under way");
        breaker.learn(Admitted::ToProbe(2), AttemptResult::Well);
        assert!(!breaker.learn(Admitted::Closed, FAILED), "what came before is forgotten");
        assert!(breaker.admits().is_ok() && breaker.admits().is_ok() && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn more_failures_than_answers_open_it() {
        let breaker = breaker();
        for _ in 0..4 {
            breaker.learn(Admitted::Closed, AttemptResult::Well);
            breaker.learn(Admitted::Closed, FAILED);
        }
        breaker.learn(Admitted::Closed, AttemptResult::Well);
        assert!(!breaker.learn(Admitted::Closed, FAILED), "half and half");
        assert!(breaker.admits().is_ok());
        assert!(breaker.learn(Admitted::Closed, FAILED));
        assert!(breaker.admits().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_opens_nothing_and_makes_room_for_the_next_probe() {
        let breaker = breaker();
        for _ in 0..20 {
            breaker.learn(Admitted::Closed, AttemptResult::Moot);
        }
        assert!(breaker.admits().is_ok());
        breaker.learn(Admitted::Closed, AttemptResult::Spare(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(breaker.admits().is_err());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(breaker.admits(), Ok(Admitted::ToProbe(1)));
        breaker.learn(Admitted::ToProbe(1), AttemptResult::Moot);
        assert_eq!(breaker.admits(), Ok(Admitted::ToProbe(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_wait_that_is_asked_for_is_kept_to() {
        let breaker = breaker();
        for _ in 0..5 {
            breaker.learn(Admitted::Closed, AttemptResult::Failed(Some(Duration::from_secs(30))));
        }
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(breaker.admits().is_err_and(|left| left <= Duration::from_secs(1)));
    }
}
