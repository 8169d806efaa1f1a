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
    pub(super) async fn turn(&self, how: How<'_>) -> Result<Turn<'_>, SourceFault> {
        let turn = async {
            let mut waits = Waits::new(&self.waiting, how.urgency());
            loop {
                // The turn last: one that cannot be used would be lost. And a place is not kept by
                // who steps back, or those who are stepped back for would have none.
                if !self.somebody_before(waits.urgency)
                    && let Ok(place) = self.under_way.try_acquire()
                    && self.rate.check().is_ok()
                {
                    return place;
                }
                tokio::time::sleep(STEP_BACK).await;
                waits.now(how.urgency());
            }
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
pub(super) struct Turn<'a>(#[expect(dead_code, reason = "held")] SemaphorePermit<'a>);

/// How many wait, by urgency.
type Waiting = [AtomicUsize; Urgency::COUNT];

/// Counts one who waits, until dropped.
struct Waits<'a> {
    waiting: &'a Waiting,
    urgency: Urgency,
}

impl<'a> Waits<'a> {
    fn new(waiting: &'a Waiting, urgency: Urgency) -> Self {
        let waits = Self { waiting, urgency };
        waits.count(|waiting| waiting.fetch_add(1, Ordering::AcqRel));
        waits
    }

    /// It is more urgent by now, perhaps.
    fn now(&mut self, urgency: Urgency) {
        if urgency != self.urgency {
            *self = Self::new(self.waiting, urgency);
        }
    }

    fn count(&self, change: impl FnOnce(&AtomicUsize) -> usize) {
        self.waiting.get(self.urgency as usize).map(change);
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.count(|waiting| waiting.fetch_sub(1, Ordering::AcqRel));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::super::source::{Haste, Part, Wanted};
    use super::*;

    fn how(haste: &Haste, part: Part) -> How<'_> {
        let deadline = Instant::now() + Duration::from_secs(60);
        How { deadline, anew: false, haste, part, id: Uuid::nil() }
    }

    /// A pacer without a turn left for the moment.
    async fn spent() -> Pacer {
        let pacer = Pacer::new(NonZeroU32::new(4).unwrap());
        let haste = Haste::new(Wanted::Now);
        for _ in 0..4 {
            drop(pacer.turn(how(&haste, Part::First)).await.unwrap());
        }
        pacer
    }

    #[tokio::test]
    async fn who_is_waited_for_goes_first_however_many_wait_behind() {
        let pacer = Arc::new(spent().await);
        let mut waiting = vec![(Wanted::Behind, Part::First); UNDER_WAY_MAX * 3];
        waiting.extend([
            (Wanted::Behind, Part::Second),
            (Wanted::Now, Part::First),
            (Wanted::Now, Part::Second),
        ]);
        let (tell, mut told) = mpsc::channel(64);
        let mut tasks = tokio::task::JoinSet::new();
        for one in waiting {
            let (pacer, tell) = (Arc::clone(&pacer), tell.clone());
            tasks.spawn(async move {
                let haste = Haste::new(one.0);
                let _turn = pacer.turn(how(&haste, one.1)).await;
                tell.send(one).await
            });
        }
        assert_eq!(told.recv().await, Some((Wanted::Now, Part::Second)));
        assert_eq!(told.recv().await, Some((Wanted::Now, Part::First)));
        assert_eq!(told.recv().await, Some((Wanted::Behind, Part::Second)));
    }

    #[test]
    fn the_rest_of_a_look_up_is_urgent_for_who_comes_for_it() {
        let haste = Haste::new(Wanted::Now);
        haste.rest();
        assert_eq!(how(&haste, Part::Rest).urgency(), Urgency::Finishing);
        haste.raise(Wanted::Now);
        assert_eq!(how(&haste, Part::Rest).urgency(), Urgency::Waiting);
    }

    #[tokio::test]
    async fn who_is_wanted_by_now_goes_first_though_it_began_ahead() {
        let pacer = spent().await;
        let (behind, ahead) = (Haste::new(Wanted::Behind), Haste::new(Wanted::Ahead));
        let first = async {
            tokio::select! {
                biased;
                _ = pacer.turn(how(&behind, Part::First)) => "behind",
                _ = pacer.turn(how(&ahead, Part::First)) => "ahead",
            }
        };
        let (first, ()) = tokio::join!(first, async { ahead.raise(Wanted::Now) });
        assert_eq!(first, "ahead");
    }
}
