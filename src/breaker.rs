//! Circuit breaker: stops calls to a system that fails, until a probe succeeds.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Conditions under which a breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BreakerSettings {
    /// Number of failures in a row that open it.
    pub in_a_row: usize,
    /// Percentage of failures above which it opens, of ten attempts or more in ten seconds.
    pub percent: usize,
    /// Time for which it stays open, plus up to a tenth, so that several gateways do not probe together.
    pub open_for: Duration,
}

/// Time over which the percentage of failures is taken.
const SPAN: Duration = Duration::from_secs(10);
/// Minimum number of attempts in that time for the percentage to count.
const LEAST: usize = 10;
/// Limit: attempts that are remembered.
const REMEMBERED_MAX: usize = 1000;

/// Manner in which a call was admitted: normally or as a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Normally: the breaker is closed.
    Closed,
    /// By an open breaker, as the probe with this number.
    ToProbe(u64),
}

/// Evidence that an attempt gives about the system that was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// The system works.
    Succeeded,
    /// Inconclusive: no evidence either way.
    Inconclusive,
    /// The system failed, and is not to be called for this long if that is known.
    Failed(Option<Duration>),
    /// The system is not to be called for this long, whatever came before.
    OpenFor(Duration),
}

/// Change of a breaker that an attempt's result has caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitChange {
    /// Neither opened nor closed by it.
    Unchanged,
    /// It has opened, for this long.
    Opened(Duration),
    /// It has closed, after being open for this long.
    Closed(Duration),
}

/// Circuit breaker of one system.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: Mutex<BreakerState>,
}

#[derive(Debug, Default)]
struct BreakerState {
    in_a_row: usize,
    recent: VecDeque<(Instant, bool)>,
    open_until: Option<Instant>,
    /// Time at which it opened.
    opened: Option<Instant>,
    /// Number and start of the probe under way.
    probing: Option<(u64, Instant)>,
    probes: u64,
}

impl Breaker {
    /// Returns a closed breaker.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    /// Admits a call if the breaker is closed; once an open breaker's time is over, admits one as a probe.
    ///
    /// # Errors
    /// Returns the time for which the breaker stays open.
    pub fn admits(&self) -> Result<Admitted, Duration> {
        let now = Instant::now();
        let mut state = self.state();
        let Some(until) = state.open_until else { return Ok(Admitted::Closed) };
        if now < until {
            return Err(until - now);
        }
        // A probe that never came back does not keep the breaker open for ever.
        match state.probing.map(|(_, since)| since + self.settings.open_for) {
            Some(until) if now < until => Err(until - now),
            _ => {
                state.probes += 1;
                let probe = state.probes;
                state.probing = Some((probe, now));
                Ok(Admitted::ToProbe(probe))
            }
        }
    }

    /// Returns true while the breaker is open, probing or not.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state().open_until.is_some()
    }

    /// Returns true if the breaker has no recent attempt, and its circuit has not been open lately.
    #[must_use]
    pub fn is_forgettable(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        state.forget(now);
        state.recent.is_empty() && state.open_until.is_none_or(|until| until + SPAN < now)
    }

    /// Returns the time for which the breaker has been open; `None` if it is closed.
    #[must_use]
    pub fn open_since(&self) -> Option<Duration> {
        let state = self.state();
        state.open_until.and(state.opened).map(|opened| opened.elapsed())
    }

    /// Records the result of an attempt; returns how that changes the breaker.
    pub fn learn(&self, admitted: Admitted, verdict: AttemptResult) -> CircuitChange {
        let mut state = self.state();
        let (named, is_certain) = match verdict {
            AttemptResult::Succeeded => {
                // A call that was admitted before the breaker opened does not close it.
                let closes = state.is_probe(admitted);
                if closes {
                    (state.open_until, state.probing) = (None, None);
                    state.recent.clear();
                }
                state.in_a_row = 0;
                state.note(true);
                return match state.opened.take_if(|_| closes) {
                    Some(opened) => CircuitChange::Closed(opened.elapsed()),
                    None => CircuitChange::Unchanged,
                };
            }
            AttemptResult::Inconclusive => {
                // A probe without evidence makes way for the next.
                if state.is_probe(admitted) {
                    state.probing = None;
                }
                return CircuitChange::Unchanged;
            }
            AttemptResult::Failed(named) => (named, false),
            AttemptResult::OpenFor(named) => (Some(named), true),
        };
        state.in_a_row += 1;
        state.note(false);
        // A call that was admitted before the breaker opened is no new evidence.
        let was_open = state.open_until.is_some();
        if was_open && !is_certain && !state.is_probe(admitted) {
            return CircuitChange::Unchanged;
        }
        let opens = is_certain
            || state.is_probe(admitted)
            || state.in_a_row >= self.settings.in_a_row
            || state.is_failing(self.settings.percent);
        if !opens {
            return CircuitChange::Unchanged;
        }
        let usual = self.settings.open_for.mul_f64(1.0 + jitter());
        let open_for = if is_certain { named } else { named.map(|named| named.max(usual)) };
        let open_for = open_for.unwrap_or(usual);
        let now = Instant::now();
        state.open_until = Some(now + open_for);
        state.probing = None;
        if was_open {
            return CircuitChange::Unchanged;
        }
        state.opened = Some(now);
        CircuitChange::Opened(open_for)
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

/// Returns up to a tenth, at random.
fn jitter() -> f64 {
    let [byte, ..] = *uuid::Uuid::new_v4().as_bytes();
    f64::from(byte) / 2550.0
}

#[cfg(test)]
mod tests {
    use super::CircuitChange::{Closed, Opened, Unchanged};
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
            assert_eq!(breaker.learn(Admitted::Closed, FAILED), Unchanged);
        }
        assert_eq!(breaker.admits(), Ok(Admitted::Closed));
        assert!(matches!(breaker.learn(Admitted::Closed, FAILED), Opened(_)));
        assert!(breaker.admits().is_err() && breaker.is_open());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(breaker.admits(), Ok(Admitted::ToProbe(1)), "one probe");
        assert!(breaker.admits().is_err(), "and one alone");
        assert_eq!(breaker.learn(Admitted::Closed, FAILED), Unchanged, "late, and nothing new");
        assert_eq!(breaker.learn(Admitted::ToProbe(1), FAILED), Unchanged, "it was open");
        assert!(breaker.admits().is_err());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(breaker.admits(), Ok(Admitted::ToProbe(2)));
        breaker.learn(Admitted::ToProbe(1), AttemptResult::Inconclusive);
        assert!(breaker.admits().is_err(), "the second is under way");
        let closed = breaker.learn(Admitted::ToProbe(2), AttemptResult::Succeeded);
        assert_eq!(closed, Closed(Duration::from_secs(24)));
        let changed = breaker.learn(Admitted::Closed, FAILED);
        assert_eq!(changed, Unchanged, "what came before is forgotten");
        assert!(breaker.admits().is_ok() && breaker.admits().is_ok() && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn more_failures_than_answers_open_it() {
        let breaker = breaker();
        for _ in 0..4 {
            breaker.learn(Admitted::Closed, AttemptResult::Succeeded);
            breaker.learn(Admitted::Closed, FAILED);
        }
        breaker.learn(Admitted::Closed, AttemptResult::Succeeded);
        assert_eq!(breaker.learn(Admitted::Closed, FAILED), Unchanged, "half and half");
        assert!(breaker.admits().is_ok());
        assert!(matches!(breaker.learn(Admitted::Closed, FAILED), Opened(_)));
        assert!(breaker.admits().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_opens_nothing_and_makes_room_for_the_next_probe() {
        let breaker = breaker();
        for _ in 0..20 {
            breaker.learn(Admitted::Closed, AttemptResult::Inconclusive);
        }
        assert!(breaker.admits().is_ok());
        breaker.learn(Admitted::Closed, AttemptResult::OpenFor(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(breaker.admits().is_err());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(breaker.admits(), Ok(Admitted::ToProbe(1)));
        breaker.learn(Admitted::ToProbe(1), AttemptResult::Inconclusive);
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
