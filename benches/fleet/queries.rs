//! Queries that reached SDS.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use gpconnect_simulator::sds::{SdsDirectory, SdsRate};
use http::StatusCode;

/// Queries a second that SDS answers, and that gateways are configured for.
pub(crate) const PER_SECOND: u32 = 4;
/// Queries that SDS answers at once: a burst of the gateways, four, and two because queries that are sent at even
/// times arrive less evenly.
const BURST: u32 = 6;
/// Lengths of the windows, in seconds, in which most queries are counted.
pub(crate) const WINDOWS_S: [u32; 2] = [1, 10];

/// Queries of one run.
#[derive(Debug)]
pub(crate) struct Queries {
    pub(crate) count: usize,
    /// Those that were refused with 429.
    pub(crate) refused: usize,
    /// The most in a window of each length of [`WINDOWS_S`].
    pub(crate) most: [usize; 2],
    /// Times of all queries, sorted.
    times: Vec<Instant>,
}

impl Queries {
    /// Rate limit of the simulated SDS.
    pub(crate) fn rate() -> SdsRate {
        let [per_second, burst] = [PER_SECOND, BURST].map(|n| NonZeroU32::new(n).unwrap());
        SdsRate { per_second, burst }
    }

    /// Counts all queries so far.
    pub(crate) fn of(sds: &SdsDirectory) -> Self {
        let received = sds.received();
        let too_many = |status: StatusCode| status == StatusCode::TOO_MANY_REQUESTS;
        let refused = received.iter().filter(|query| too_many(query.status)).count();
        let mut times: Vec<_> = received.iter().map(|query| query.at).collect();
        times.sort_unstable();
        let most = WINDOWS_S.map(|seconds| most(&times, Duration::from_secs(seconds.into())));
        Self { count: times.len(), refused, most, times }
    }

    /// Queries in a period, as a share of those that the rate allows, without its burst.
    pub(crate) fn share(&self, begin: Instant, period: Duration) -> f64 {
        let before = |end: Instant| self.times.partition_point(|time| *time < end);
        let count = before(begin + period) - before(begin);
        count as f64 / (f64::from(PER_SECOND) * period.as_secs_f64())
    }

    /// The most queries that the rate allows in a window.
    pub(crate) fn allowed(seconds: u32) -> usize {
        usize::try_from(PER_SECOND * seconds + BURST).unwrap()
    }
}

/// Returns the greatest number of sorted times within one window.
fn most(times: &[Instant], window: Duration) -> usize {
    let counts = times.iter().enumerate().map(|(first, begin)| {
        times[first..].partition_point(|time| time.duration_since(*begin) < window)
    });
    counts.max().unwrap_or(0)
}
