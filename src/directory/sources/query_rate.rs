//! Rate of the queries to one source, which limits the application and not the process: all gateways together.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep, sleep_until};

use crate::sharing::{AWAY, MissingRate, RateDraw, Sharing};

/// Limit: time ahead for which a query may be granted; a look-up waits no longer for its turn.
const AHEAD_MAX: Duration = Duration::from_secs(10);
/// Number of queries that are granted at once: as many as a look-up needs for its answer. Granted one by one, the
/// second would come a round of all gateways later, and the look-up might have no time left for it.
pub(in super::super) const AT_ONCE: u32 = 2;
/// Time after its grant for which a query may still be sent; later, others are granted instead of it.
const GRANT: Duration = Duration::from_secs(1);
/// Limit: time until Redis is asked again for a query that it did not grant.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// Rate limit of the queries to one source, shared with other gateways if there are any.
///
/// Queries are granted in the order in which gateways ask, each gateway for at most [`AT_ONCE`] at a time, so that
/// none is left out. While Redis cannot be used, a gateway sends its part: the rate divided by the number of gateways.
#[derive(Debug)]
pub(super) struct QueryRate {
    /// Rate of this process, also the burst size: never exceeded, whatever Redis answers.
    own: DefaultDirectRateLimiter,
    per_second: NonZeroU32,
    /// Key of the shared rate.
    key: String,
    state: Mutex<QueryRateState>,
}

#[derive(Debug, Default)]
struct QueryRateState {
    /// Times of queries that are granted and not yet sent, at most [`AT_ONCE`], earliest first.
    granted: VecDeque<Instant>,
    /// Time of the last query.
    sent: Option<Instant>,
}

impl QueryRate {
    /// Returns a rate in queries per second, also the burst size, to the source at this URL.
    pub(super) fn new(per_second: NonZeroU32, url: &str) -> Self {
        Self {
            own: RateLimiter::direct(Quota::per_second(per_second)),
            per_second,
            key: format!("spine-proxy:rate:{url}"),
            state: Mutex::default(),
        }
    }

    /// Waits until one more query may be sent. Called by one task at a time; dropped, it keeps what was granted
    /// for the next call.
    ///
    /// `wanted` returns how many queries the look-up needs whose query is next, at most [`AT_ONCE`].
    pub(super) async fn wait(&self, sharing: &Sharing, wanted: impl Fn() -> u32) {
        while let Err(not_yet) = self.own.check() {
            sleep(not_yet.wait_time_from(DefaultClock::default().now())).await;
        }
        while let Some(gateways) = sharing.gateways() {
            if let Some(at) = self.granted() {
                sleep_until(at).await;
                self.state().granted.pop_front();
                break;
            }
            match sharing.draw(&self.draw(wanted())).await {
                Some(grant) if grant.granted > 0 => {
                    let last = Instant::now() + grant.wait;
                    let before = (0..grant.granted).rev().map(|queries| self.interval() * queries);
                    let times = before.map(|before| last.checked_sub(before).unwrap_or(last));
                    self.state().granted = times.collect();
                }
                Some(none) => sleep(none.wait.min(ASK_AGAIN_MAX)).await,
                None => {
                    let sent = self.state().sent;
                    let due = sent.map(|sent| sent + self.interval() * gateways.get());
                    match due.filter(|due| *due > Instant::now()) {
                        // Redis may be back before.
                        Some(due) => sleep_until(due.min(Instant::now() + AWAY)).await,
                        None => break,
                    }
                }
            }
        }
        self.state().sent = Some(Instant::now());
    }

    /// Returns the earliest time of a query that is granted and not too long ago.
    fn granted(&self) -> Option<Instant> {
        let mut state = self.state();
        state.granted.retain(|at| at.elapsed() < GRANT);
        state.granted.front().copied()
    }

    fn draw(&self, wanted: u32) -> RateDraw<'_> {
        RateDraw {
            key: &self.key,
            interval: self.interval(),
            burst: self.per_second,
            wanted: wanted.min(self.per_second.get()),
            ahead: AHEAD_MAX,
            // Gateways that went on alone may not have noticed yet that Redis is back.
            missing: MissingRate::UsedUp(AWAY + self.interval()),
        }
    }

    /// Returns the time between two queries of one look-up.
    pub(super) fn gap(&self, sharing: &Sharing) -> Duration {
        let alone = sharing.gateways().filter(|_| sharing.is_away());
        self.interval() * alone.map_or(1, NonZeroU32::get)
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }

    fn state(&self) -> MutexGuard<'_, QueryRateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
