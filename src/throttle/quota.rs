//! Quota of one consumer: requests per second, and exchanges at once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::lease::QuotaLease;
use crate::refusal::{QuotaLeft, Refusal};

/// Terms of one consumer's quota.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuotaTerms {
    pub(super) per_second: NonZeroU32,
    /// Requests at once, after a pause.
    pub(super) burst: NonZeroU32,
    pub(super) exchanges_max: usize,
}

/// Quota of one consumer, and what is used of it.
#[derive(Debug)]
pub(super) struct ConsumerQuota {
    pub(super) terms: QuotaTerms,
    rate: RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
    /// Requests drawn from a quota that gateways share.
    pub(super) lease: QuotaLease,
    exchanges: AtomicUsize,
    /// True if a request was admitted since [`ConsumerQuota::is_forgettable`] was last called.
    drew: AtomicBool,
    all: Arc<GlobalInFlight>,
}

/// Number of exchanges under way, and of consumers that have any.
#[derive(Debug, Default)]
pub(super) struct GlobalInFlight {
    consumers: AtomicUsize,
    exchanges: AtomicUsize,
}

impl ConsumerQuota {
    pub(super) fn new(terms: QuotaTerms, all: Arc<GlobalInFlight>) -> Self {
        let clock = DefaultClock::default();
        let quota = Quota::per_second(terms.per_second).allow_burst(terms.burst);
        let rate = RateLimiter::direct_with_clock(quota, clock.clone()).with_middleware();
        let exchanges = AtomicUsize::new(0);
        Self {
            terms,
            rate,
            clock,
            lease: QuotaLease::default(),
            exchanges,
            drew: AtomicBool::new(true),
            all,
        }
    }

    /// Takes one request from the quota.
    pub(super) fn take(&self) -> Result<QuotaLeft, Refusal> {
        match self.rate.check() {
            Ok(left) => Ok(self.terms.allowance(left.remaining_burst_capacity())),
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.clock.now());
                // Rounded up to whole seconds, so that a retry after them is not refused again.
                let retry_after_s = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
                Err(self.terms.exceeded(retry_after_s.saturating_add(1)))
            }
        }
    }

    /// Begins one more exchange.
    pub(super) fn enter(self: &Arc<Self>) -> Result<InFlightExchange, Refusal> {
        self.drew.store(true, Ordering::Relaxed);
        let max = self.terms.exchanges_max;
        let enter = |now: usize| (now < max).then_some(now + 1);
        match self.exchanges.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter) {
            Ok(before) => {
                if before == 0 {
                    self.all.consumers.fetch_add(1, Ordering::Relaxed);
                }
                self.all.exchanges.fetch_add(1, Ordering::Relaxed);
                Ok(InFlightExchange(Arc::clone(self)))
            }
            Err(_) => Err(Refusal::ConsumerBusy),
        }
    }

    /// Returns true if one more exchange would put this consumer above an equal share.
    pub(super) fn is_above_its_share(&self) -> bool {
        let own = self.exchanges.load(Ordering::Relaxed);
        let others = self.all.consumers.load(Ordering::Relaxed);
        let consumers = if own == 0 { others + 1 } else { others.max(1) };
        let share = (self.all.exchanges.load(Ordering::Relaxed) + 1).div_ceil(consumers);
        own + 1 > share
    }

    /// Returns true if the quota may be dropped.
    ///
    /// That is so if nothing is under way, nothing was admitted since this was last called, a minute ago or
    /// more, and the quota fills within that time.
    pub(super) fn is_forgettable(&self) -> bool {
        const MINUTE_S: u32 = 60;
        !self.drew.swap(false, Ordering::Relaxed)
            && self.exchanges.load(Ordering::Acquire) == 0
            && self.terms.burst.get() <= self.terms.per_second.get().saturating_mul(MINUTE_S)
    }
}

impl QuotaTerms {
    /// Returns the quota left, for answers.
    pub(super) fn allowance(&self, remaining: u32) -> QuotaLeft {
        let limit = self.burst.get();
        let gone = limit.saturating_sub(remaining);
        QuotaLeft { limit, remaining, reset_s: gone.div_ceil(self.per_second.get()) }
    }

    /// Returns the refusal for an exhausted quota.
    pub(super) fn exceeded(&self, retry_after_s: u32) -> Refusal {
        Refusal::QuotaExceeded { allowance: self.allowance(0), retry_after_s }
    }
}

/// An exchange of a consumer that is under way, until dropped.
#[derive(Debug)]
pub(super) struct InFlightExchange(Arc<ConsumerQuota>);

impl Drop for InFlightExchange {
    fn drop(&mut self) {
        let Self(account) = self;
        account.all.exchanges.fetch_sub(1, Ordering::Relaxed);
        if account.exchanges.fetch_sub(1, Ordering::AcqRel) == 1 {
            account.all.consumers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(all: &Arc<GlobalInFlight>, exchanges_max: usize) -> Arc<ConsumerQuota> {
        let (per_second, burst) = (NonZeroU32::new(2).unwrap(), NonZeroU32::new(5).unwrap());
        Arc::new(ConsumerQuota::new(
            QuotaTerms { per_second, burst, exchanges_max },
            Arc::clone(all),
        ))
    }

    #[test]
    fn a_quota_says_what_is_left_and_when_there_is_more() {
        let account = account(&Arc::default(), 1);
        for remaining in (0..5).rev() {
            let allowance = account.take().unwrap();
            assert_eq!((allowance.limit, allowance.remaining), (5, remaining));
            assert_eq!(allowance.reset_s, (5 - remaining).div_ceil(2));
        }
        let refused = account.take().unwrap_err();
        assert_eq!(refused.retry_after_s(), Some(1));
        assert_eq!(refused.allowance(), Some(QuotaLeft { limit: 5, remaining: 0, reset_s: 3 }));
    }

    #[test]
    fn exchanges_are_counted_until_they_end() {
        let all = Arc::<GlobalInFlight>::default();
        let (one, other) = (account(&all, 3), account(&all, 3));
        assert!(!one.is_above_its_share(), "there is nobody else");
        let held = [one.enter().unwrap(), one.enter().unwrap(), one.enter().unwrap()];
        assert_eq!(one.enter().unwrap_err(), Refusal::ConsumerBusy);
        assert!(!one.is_above_its_share(), "there is still nobody else");
        assert!(!other.is_above_its_share());
        let others = other.enter().unwrap();
        assert!(one.is_above_its_share() && !other.is_above_its_share());
        assert!(!one.is_forgettable() && !one.is_forgettable());
        drop((held, others));
        assert!(one.is_forgettable());
        assert_eq!(all.consumers.load(Ordering::Relaxed), 0);
        assert_eq!(all.exchanges.load(Ordering::Relaxed), 0);
    }
}
