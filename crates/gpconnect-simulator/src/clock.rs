//! Clock of the simulator: the real time, or a time that was set and runs on from there.

use std::sync::Mutex;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::lock;

/// A clock that can be set.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(Timestamp, Instant)>>);

impl Clock {
    /// Returns the time of the clock.
    pub(super) fn now(&self) -> Timestamp {
        let Some((set_to, set_at)) = *lock(&self.0) else { return Timestamp::now() };
        let passed = SignedDuration::try_from(set_at.elapsed()).unwrap_or(SignedDuration::MAX);
        set_to.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    /// Sets the clock; `None` restores the real time.
    pub(super) fn set(&self, now: Option<Timestamp>) {
        *lock(&self.0) = now.map(|now| (now, Instant::now()));
    }

    /// Returns true if the clock has been set.
    pub(super) fn is_set(&self) -> bool {
        lock(&self.0).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::now;
    use super::*;

    #[test]
    fn a_set_clock_runs_on_until_it_is_restored() {
        let clock = Clock::default();
        assert!(!clock.is_set() && clock.now() > now());
        clock.set(Some(now()));
        let first = clock.now();
        assert!(clock.is_set() && first >= now() && clock.now() > first);
        assert!(first < now() + SignedDuration::from_hours(1));
        clock.set(Some(Timestamp::MAX));
        assert_eq!(clock.now(), Timestamp::MAX);
        clock.set(None);
        assert!(!clock.is_set() && clock.now() > first);
    }
}
