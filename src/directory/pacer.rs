//! How fast a source may be asked, and who goes first.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

use super::source::{How, SourceFault, Urgency};

/// Limit: questions to one source under way.
const UNDER_WAY_MAX: usize = 8;
/// How long who is not urgent steps back for those who are.
const STEP_BACK: Duration = Duration::from_millis(50);

/// Paces the questions to one source.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: DefaultDirectRateLimiter,
    under_way: Semaphore,
    /// How many of each urgency wait.
    waiting: Waiting,
}

impl Pacer {
    /// So many questions a second, and as many at once.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second);
        Self {
            rate: RateLimiter::direct(quota),
            under_way: Semaphore::new(UNDER_WAY_MAX),
            waiting: Default::default(),
        }
    }

    /// Waits for a turn to put a question, until its deadline; the turn is over once it is dropped.
    pub(super) async fn turn(&self, how: How) -> Result<Turn<'_>, SourceFault> {
        let turn = async {
            let _waits = Waits::new(&self.waiting, how.urgency);
            // A place first: a turn that cannot be used would be lost.
            let mut place = self.under_way.try_acquire().ok();
            while place.is_none() || self.somebody_before(how.urgency) || self.rate.check().is_err()
            {
                tokio::time::sleep(STEP_BACK).await;
                place = place.or_else(|| self.under_way.try_acquire().ok());
            }
            place
        };
        let turn = timeout_at(how.deadline, turn).await;
        turn.map(Turn).map_err(|_| SourceFault::Paced)
    }

    fn somebody_before(&self, urgency: Urgency) -> bool {
        let before = self.waiting.iter().take(urgency as usize);
        before.map(|waiting| waiting.load(Ordering::Acquire)).sum::<usize>() > 0
    }
}

/// A place among the questions under way.
#[derive(Debug)]
pub(super) struct Turn<'a>(#[expect(dead_code, reason = "held")] Option<SemaphorePermit<'a>>);

/// How many wait, by urgency.
type Waiting = [AtomicUsize; 4];

/// Counts one who waits, until dropped.
struct Waits<'a>(Option<&'a AtomicUsize>);

impl<'a> Waits<'a> {
    fn new(waiting: &'a Waiting, urgency: Urgency) -> Self {
        let waiting = waiting.get(urgency as usize);
        if let Some(waiting) = waiting {
            waiting.fetch_add(1, Ordering::AcqRel);
        }
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0 {
            waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
