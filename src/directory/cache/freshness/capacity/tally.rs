//! Seeded numbers, and counts of what is measured.

use super::gateway::SimulatedRequest;
use super::*;

/// Generator of numbers that are the same in every run (splitmix64).
#[derive(Debug)]
pub(super) struct SeededNumbers(pub(super) u64);

impl SeededNumbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// A number below a limit; a tenth of them are in the lowest hundredth.
    pub(super) fn skewed(&mut self, limit: usize) -> usize {
        const STEPS: usize = 1 << 16;
        let step = self.below(STEPS);
        step * step / STEPS * limit / STEPS
    }
}

/// Outcome of a request for its practice's registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Served with a fresh entry, its own or one that another gateway had.
    Fresh,
    /// Served with a stale entry, which is refreshed in the background.
    Stale,
    /// Served after it waited for the directory, or for another gateway that asked.
    Waited,
    /// Served with an older entry after it waited in vain.
    WaitedInVain,
    /// Refused with `directory_unavailable`.
    Refused,
}

impl Outcome {
    pub(super) const ALL: [Self; 5] =
        [Self::Fresh, Self::Stale, Self::Waited, Self::WaitedInVain, Self::Refused];
}

/// Counts of what is measured.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests by outcome.
    pub(super) requests: [u32; 5],
    pub(super) writes: u32,
    pub(super) writes_refused: u32,
    pub(super) questions: u32,
    /// Questions whose look-up ended before its next one had a turn.
    pub(super) lost: u32,
    pub(super) redis_calls: u32,
    /// Age of the oldest answer that was used, in seconds.
    pub(super) oldest_s: i64,
    pub(super) seconds: u32,
    pub(super) is_measuring: bool,
    /// The one gateway whose requests count; all if `None`.
    pub(super) gateway: Option<usize>,
}

impl Tally {
    pub(super) fn questions_per_second(&self) -> f64 {
        f64::from(self.questions) / f64::from(self.seconds)
    }

    /// Returns the percentage of questions whose look-up ended without an answer for want of turns.
    pub(super) fn percent_of_questions_lost(&self) -> f64 {
        100.0 * f64::from(self.lost) / f64::from(self.questions)
    }

    pub(super) fn redis_calls_per_second(&self) -> f64 {
        f64::from(self.redis_calls) / f64::from(self.seconds)
    }

    pub(super) fn percent(&self, outcome: Outcome) -> f64 {
        let all: u32 = self.requests.iter().sum();
        100.0 * f64::from(self.requests[outcome as usize]) / f64::from(all)
    }

    pub(super) fn percent_of_writes_refused(&self) -> f64 {
        100.0 * f64::from(self.writes_refused) / f64::from(self.writes)
    }

    pub(super) fn count(
        &mut self,
        gateway: usize,
        request: &SimulatedRequest,
        outcome: Outcome,
        age_s: i64,
    ) {
        if !self.is_measuring || self.gateway.is_some_and(|only| only != gateway) {
            return;
        }
        let is_write = request.intended == RegistrationUse::Trusted;
        self.requests[outcome as usize] += 1;
        self.writes += u32::from(is_write);
        self.writes_refused += u32::from(is_write && outcome == Outcome::Refused);
        if outcome != Outcome::Refused {
            self.oldest_s = self.oldest_s.max(age_s);
        }
    }
}
