//! Spares a source that fails: the next question goes elsewhere until a probe has succeeded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::source::SourceFault;

/// Failures in a row that open a breaker.
const IN_A_ROW: usize = 5;
/// The span over which failures are weighed, and the least questions in it.
const SPAN: Duration = Duration::from_secs(10);
const LEAST: usize = 10;
/// A source that does not accept our credentials is not asked again so soon.
const DENIED: Duration = Duration::from_secs(60);

/// As what a question may be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// As any other.
    Closed,
    /// To find out whether the source is there again.
    ToProbe,
}

/// One source's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    open_for: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: usize,
    recent: VecDeque<(Instant, bool)>,
    open_until: Option<Instant>,
    probing: Option<Instant>,
}

impl Breaker {
    pub(super) const fn new(open_for: Duration) -> Self {
        let state = State { in_a_row: 0, recent: VecDeque::new(), open_until: None, probing: None };
        Self { open_for, state: Mutex::new(state) }
    }

    /// Whether a question may be put now; once an open breaker's time is up, one may, to probe.
    pub(super) fn admits(&self) -> Option<Admitted> {
        let now = Instant::now();
        let mut state = self.state();
        match state.open_until {
            None => Some(Admitted::Closed),
            Some(until) if now < until => None,
            // A probe that never came back does not keep the breaker open for ever.
            Some(_) if state.probing.is_some_and(|since| now < since + self.open_for) => None,
            Some(_) => {
                state.probing = Some(now);
                Some(Admitted::ToProbe)
            }
        }
    }

    /// Whether it is open, probing or not.
    pub(super) fn is_open(&self) -> bool {
        self.state().open_until.is_some()
    }

    /// A question has been answered.
    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        state.in_a_row = 0;
        state.note(true);
        (state.open_until, state.probing) = (None, None);
    }

    /// A question has not been answered. Our own mistakes and limits, and a
    /// record that cannot be read, say nothing about the source.
    pub(super) fn failed(&self, admitted: Admitted, fault: &SourceFault) {
        let open_for = match fault {
            SourceFault::OurFault(_)
            | SourceFault::Paced
            | SourceFault::Unsupported
            | SourceFault::Spared
            | SourceFault::Doubtful
            | SourceFault::Unpaid
            | SourceFault::Replaced
            | SourceFault::Malformed(_)
            | SourceFault::Truncated => {
                // A probe that told nothing makes room for the next.
                if admitted == Admitted::ToProbe {
                    self.state().probing = None;
                }
                return;
            }
            SourceFault::Denied(_) => Some(DENIED),
            SourceFault::RateLimited(after) => Some(after.unwrap_or(Duration::from_secs(1))),
            SourceFault::TimedOut | SourceFault::Unavailable(_) => None,
        };
        let mut state = self.state();
        state.in_a_row += 1;
        state.note(false);
        let probe_failed = state.probing.is_some();
        let open_for = open_for.or_else(|| {
            (probe_failed || state.in_a_row >= IN_A_ROW || state.is_failing())
                .then(|| self.open_for.mul_f64(1.0 + jitter()))
        });
        if let Some(open_for) = open_for {
            state.open_until = Some(Instant::now() + open_for);
            state.probing = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, ok: bool) {
        let now = Instant::now();
        self.recent.push_back((now, ok));
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > SPAN) {
            self.recent.pop_front();
        }
    }

    fn is_failing(&self) -> bool {
        let failed = self.recent.iter().filter(|(_, ok)| !ok).count();
        self.recent.len() >= LEAST && failed * 2 > self.recent.len()
    }
}

/// Up to a tenth, so that siblings do not probe together.
fn jitter() -> f64 {
    let [byte, ..] = *uuid::Uuid::new_v4().as_bytes();
    f64::from(byte) / 2550.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_spare_a_source_until_one_probe_succeeds() {
        let breaker = Breaker::new(Duration::from_secs(10));
        for _ in 0..4 {
            breaker.failed(Admitted::Closed, &SourceFault::TimedOut);
        }
        assert!(breaker.admits().is_some());
        breaker.failed(Admitted::Closed, &SourceFault::TimedOut);
        assert!(breaker.admits().is_none() && breaker.is_open());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert!(breaker.admits().is_some(), "one probe");
        assert!(breaker.admits().is_none(), "and one alone");
        breaker.failed(Admitted::Closed, &SourceFault::TimedOut);
        assert!(breaker.admits().is_none());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert!(breaker.admits().is_some());
        breaker.succeeded();
        assert!(breaker.admits().is_some() && breaker.admits().is_some() && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn more_failures_than_answers_spare_a_source() {
        let breaker = Breaker::new(Duration::from_secs(10));
        for _ in 0..4 {
            breaker.succeeded();
            breaker.failed(Admitted::Closed, &SourceFault::TimedOut);
        }
        breaker.succeeded();
        assert!(breaker.admits().is_some());
        breaker.failed(Admitted::Closed, &SourceFault::TimedOut);
        assert!(breaker.admits().is_some(), "half and half");
        breaker.failed(Admitted::Closed, &SourceFault::TimedOut);
        assert!(breaker.admits().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_mistakes_are_not_the_sources_and_credentials_take_a_minute() {
        let breaker = Breaker::new(Duration::from_secs(10));
        for _ in 0..20 {
            breaker.failed(Admitted::Closed, &SourceFault::OurFault("x".to_owned()));
        }
        assert!(breaker.admits().is_some());
        breaker.failed(Admitted::Closed, &SourceFault::Denied("x".to_owned()));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(breaker.admits().is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(breaker.admits().is_some());
    }
}
