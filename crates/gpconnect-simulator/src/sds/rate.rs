//! Rate limit of the directory's gateway.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Terms of the rate limit, a token bucket.
///
/// The real limit is five queries a second for each application, smoothed to one in 200 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SdsRate {
    /// Queries per second that are answered in the long run.
    pub per_second: NonZeroU32,
    /// Queries that are answered at once after a pause: the size of the bucket.
    pub burst: NonZeroU32,
}

/// A rate limit in force. Refused queries do not count against it.
pub(super) struct SdsRateLimit<C: Clock = DefaultClock>(
    RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
);

impl SdsRateLimit {
    pub(super) fn new(rate: SdsRate) -> Self {
        Self::with_clock(rate, DefaultClock::default())
    }
}

impl<C: Clock> SdsRateLimit<C> {
    fn with_clock(rate: SdsRate, clock: C) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self(RateLimiter::direct_with_clock(quota, clock))
    }

    /// Counts a query. Returns false if it is above the limit.
    pub(super) fn allows(&self) -> bool {
        self.0.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use http::Method;

    use super::super::SdsDirectory;
    use super::super::stage::{get, records, sandbox, send};
    use super::*;

    const GOOD: &str = "/Endpoint?org=Z99001&ia=SLOTS";
    /// Limit: queries that are sent to reach a limit of one per second.
    const TRIES: usize = 1000;

    fn rate(per_second: u32, burst: u32) -> SdsRate {
        let [per_second, burst] = [per_second, burst].map(|n| NonZeroU32::new(n).unwrap());
        SdsRate { per_second, burst }
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let clock = FakeRelativeClock::default();
        let limit = SdsRateLimit::with_clock(rate(4, 6), clock.clone());
        let allowed = |tries: u32| (0..tries).filter(|_| limit.allows()).count();
        assert_eq!(allowed(10), 6);
        clock.advance(Duration::from_millis(249));
        assert_eq!(allowed(10), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(allowed(10), 1);
        clock.advance(Duration::from_secs(1));
        assert_eq!(allowed(10), 4, "refused queries do not count");
        clock.advance(Duration::from_secs(60));
        assert_eq!(allowed(10), 6, "the bucket is not larger after a long pause");
    }

    #[test]
    fn queries_above_the_limit_are_refused_by_the_gateway_and_remembered_as_such() {
        let sds = sandbox();
        sds.set_rate(Some(rate(1, 1)));
        let mut responses = (0..TRIES).map(|_| get(&sds, GOOD, &[]));
        let refused = responses.find(|response| response.status != 200).unwrap();
        assert_eq!(refused.status, 429);
        let coding = &refused.body["issue"][0]["details"]["coding"][0];
        assert_eq!(coding["code"], "UNKNOWN_ERROR");
        assert!(!refused.headers.contains_key("retry-after"));
        let received = sds.received();
        let (last, earlier) = received.split_last().unwrap();
        assert_eq!(last.status, 429);
        assert!(!earlier.is_empty() && earlier.iter().all(|request| request.status == 200));
        assert!(received.is_sorted_by_key(|request| request.at));
        sds.set_rate(None);
        assert_eq!(get(&sds, GOOD, &[]).status, 200);
    }

    #[test]
    fn the_limit_is_checked_after_the_key_and_before_the_query() {
        let sds = SdsDirectory::new(records(), Some("s3cret".to_owned()));
        sds.set_rate(Some(rate(1, 1)));
        let with_key = [("apikey", "s3cret")];
        assert!((0..TRIES).any(|_| get(&sds, "/else", &with_key).status == 429));
        assert_eq!(get(&sds, "/else", &[]).status, 401);
        assert_eq!(send(&sds, &Method::GET, "/outside", &with_key).status, 404);
    }
}
