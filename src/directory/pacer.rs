//! Queue of the queries to one source: rate limit, concurrency limit, and order.
//!
//! The most urgent query goes first. Among equally urgent ones consumers take turns, so that one
//! with many look-ups does not hold up another with few; queries of one consumer keep their order.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::asker::LookupAccount;
use super::source::{LookupPart, QueryOptions, SharedPriority, SourceFault, Urgency};

/// Limit: number of accounts whose last turn is remembered. Half of them are forgotten when it is exceeded.
const ACCOUNTS_MAX: usize = 1024;

/// Limits the rate and concurrency of queries to one source.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Rate limit in queries per second; `None` for a source without one.
    rate: Option<DefaultDirectRateLimiter>,
    under_way_max: usize,
    queue: Mutex<TurnQueue>,
}

/// Waiting queries, and the number of those under way.
///
/// While any wait and the concurrency limit allows another, one of them is `next`: it waits for the rate
/// limit, then checks if a more urgent one has arrived. All others wait to be notified.
#[derive(Debug, Default)]
struct TurnQueue {
    /// Waiting queries by number, in the order of arrival.
    waiting: BTreeMap<u64, WaitingQuestion>,
    arrivals: u64,
    next: Option<u64>,
    under_way: usize,
    turns: LastTurns,
}

#[derive(Debug)]
struct WaitingQuestion {
    priority: Arc<SharedPriority>,
    part: LookupPart,
    called: Arc<Notify>,
}

/// Number of each account's last turn, counted from 1.
///
/// Look-ups that no request waits for share one account with an empty name.
#[derive(Debug, Default)]
struct LastTurns {
    count: u64,
    last: HashMap<LookupAccount, u64>,
}

/// Result of polling for a turn.
enum TurnPoll {
    /// The query may be sent.
    Now,
    /// The query is next; the rate limit allows it at this time.
    Then(Instant),
    /// The query must wait until it is notified.
    Called,
}

impl Pacer {
    /// Returns a pacer with a rate (also the burst size) and a maximum number of queries under way.
    pub(super) fn new(per_second: Option<NonZeroU32>, under_way_max: usize) -> Self {
        let rate = per_second.map(|per_second| RateLimiter::direct(Quota::per_second(per_second)));
        Self { rate, under_way_max, queue: Mutex::default() }
    }

    /// Waits for a turn to send a query; the turn ends when it is dropped.
    ///
    /// # Errors
    /// Returns [`SourceFault::Paced`] if the query's deadline passes first.
    pub(super) async fn turn(&self, how: QueryOptions<'_>) -> Result<SourceTurn<'_>, SourceFault> {
        let place = self.arrives(how);
        let turn = async {
            loop {
                match self.look(place.number) {
                    TurnPoll::Now => return SourceTurn(self),
                    TurnPoll::Then(at) => sleep_until(at).await,
                    TurnPoll::Called => place.called.notified().await,
                }
            }
        };
        timeout_at(how.deadline, turn).await.map_err(|_| SourceFault::Paced)
    }

    fn arrives(&self, how: QueryOptions<'_>) -> QueuedQuestion<'_> {
        let called = Arc::new(Notify::new());
        let (priority, part) = (Arc::clone(how.priority), how.part);
        let mut queue = self.lock();
        queue.arrivals += 1;
        let number = queue.arrivals;
        queue
            .waiting
            .insert(number, WaitingQuestion { priority, part, called: Arc::clone(&called) });
        QueuedQuestion { pacer: self, number, called }
    }

    fn look(&self, number: u64) -> TurnPoll {
        let mut queue = self.lock();
        if queue.under_way >= self.under_way_max {
            queue.next = None;
            return TurnPoll::Called;
        }
        if queue.next.is_some_and(|next| next != number) {
            return TurnPoll::Called;
        }
        // Urgencies change while queries wait, so the first one is determined only now.
        let Some((first, account)) = queue.first() else { return TurnPoll::Called };
        if first != number {
            queue.call(first);
            return TurnPoll::Called;
        }
        if let Some(Err(not_yet)) = self.rate.as_ref().map(RateLimiter::check) {
            queue.next = Some(number);
            return TurnPoll::Then(
                Instant::now() + not_yet.wait_time_from(DefaultClock::default().now()),
            );
        }
        queue.waiting.remove(&number);
        queue.turns.had(account);
        queue.under_way += 1;
        queue.next = None;
        queue.call_first(self.under_way_max);
        TurnPoll::Now
    }

    fn lock(&self) -> MutexGuard<'_, TurnQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TurnQueue {
    /// Returns the first of the waiting queries, and the account whose turn it is.
    fn first(&self) -> Option<(u64, Option<LookupAccount>)> {
        let ranked = self.waiting.iter().map(|(number, waiting)| {
            let account = waiting.priority.first_account(|account| self.turns.last(Some(account)));
            let rank: (Urgency, u64, u64) = (
                waiting.priority.urgency(waiting.part),
                self.turns.last(account.as_ref()),
                *number,
            );
            (rank, account)
        });
        let first = ranked.min_by_key(|(rank, _)| *rank);
        first.map(|((_, _, number), account)| (number, account))
    }

    fn call(&mut self, number: u64) {
        if let Some(waiting) = self.waiting.get(&number) {
            waiting.called.notify_one();
            self.next = Some(number);
        }
    }

    /// Notifies the first query, if the concurrency limit allows it and no other is `next`.
    fn call_first(&mut self, under_way_max: usize) {
        if self.next.is_none()
            && self.under_way < under_way_max
            && let Some((first, _)) = self.first()
        {
            self.call(first);
        }
    }
}

impl LastTurns {
    /// Returns the number of an account's last turn; zero if it is not remembered.
    fn last(&self, account: Option<&LookupAccount>) -> u64 {
        self.last.get(account.map_or("", |account| account)).copied().unwrap_or_default()
    }

    /// Records a turn of an account.
    ///
    /// Forgets the older half of the accounts when there are too many: they would be next in any case.
    fn had(&mut self, account: Option<LookupAccount>) {
        self.count += 1;
        self.last.insert(account.unwrap_or_default(), self.count);
        if self.last.len() > ACCOUNTS_MAX {
            let kept = self.count.saturating_sub(ACCOUNTS_MAX as u64 / 2);
            self.last.retain(|_, turn| *turn > kept);
        }
    }
}

/// Place of a waiting query in the queue; removed from it on drop.
struct QueuedQuestion<'a> {
    pacer: &'a Pacer,
    number: u64,
    called: Arc<Notify>,
}

impl Drop for QueuedQuestion<'_> {
    fn drop(&mut self) {
        let mut queue = self.pacer.lock();
        if queue.waiting.remove(&self.number).is_some() {
            queue.next = queue.next.filter(|next| *next != self.number);
            queue.call_first(self.pacer.under_way_max);
        }
    }
}

/// Permission to send one query; counts as under way until dropped.
#[derive(Debug)]
pub(super) struct SourceTurn<'a>(&'a Pacer);

impl Drop for SourceTurn<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.under_way = queue.under_way.saturating_sub(1);
        queue.call_first(self.0.under_way_max);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::sync::mpsc;
    use tokio::task::{JoinSet, yield_now};
    use uuid::Uuid;

    use super::super::source::LookupPurpose;
    use super::*;

    /// Pacer with a concurrency limit of one, and the tasks that wait for it.
    struct PacedSource {
        pacer: Arc<Pacer>,
        tell: mpsc::Sender<&'static str>,
        told: mpsc::Receiver<&'static str>,
        tasks: JoinSet<()>,
    }

    impl PacedSource {
        fn new() -> Self {
            let (tell, told) = mpsc::channel(64);
            Self { pacer: Arc::new(Pacer::new(None, 1)), tell, told, tasks: JoinSet::new() }
        }

        /// Occupies the source until the turn is dropped.
        async fn busy(pacer: &Pacer) -> SourceTurn<'_> {
            pacer.turn(how(&now("somebody"), LookupPart::First)).await.unwrap()
        }

        /// Starts a task that waits for a turn and gives it back at once.
        async fn waits(
            &mut self,
            name: &'static str,
            priority: &Arc<SharedPriority>,
            part: LookupPart,
        ) {
            let (pacer, tell) = (Arc::clone(&self.pacer), self.tell.clone());
            let (priority, waiting) = (Arc::clone(priority), self.waiting());
            self.tasks.spawn(async move {
                let turn = pacer.turn(how(&priority, part)).await.unwrap();
                tell.send(name).await.unwrap();
                drop(turn);
            });
            while self.waiting() == waiting {
                yield_now().await;
            }
        }

        fn waiting(&self) -> usize {
            self.pacer.lock().waiting.len()
        }

        /// Returns the tasks' names in the order of their turns.
        async fn order(mut self) -> Vec<&'static str> {
            while self.tasks.join_next().await.is_some() {}
            drop(self.tell);
            let mut order = Vec::new();
            while let Some(name) = self.told.recv().await {
                order.push(name);
            }
            order
        }
    }

    fn how(priority: &Arc<SharedPriority>, part: LookupPart) -> QueryOptions<'_> {
        let deadline = Instant::now() + Duration::from_secs(60);
        QueryOptions { deadline, anew: false, priority, part, id: Uuid::nil() }
    }

    fn now(account: &str) -> Arc<SharedPriority> {
        Arc::new(SharedPriority::new(&LookupPurpose::Now(account.into())))
    }

    #[tokio::test]
    async fn the_most_urgent_question_goes_first_however_many_wait() {
        let mut source = PacedSource::new();
        let pacer = Arc::clone(&source.pacer);
        let busy = PacedSource::busy(&pacer).await;
        let behind = Arc::new(SharedPriority::new(&LookupPurpose::Behind));
        for _ in 0..3 {
            source.waits("refresh", &behind, LookupPart::First).await;
        }
        source.waits("finishing", &behind, LookupPart::Second).await;
        source.waits("waiting", &now("a"), LookupPart::First).await;
        source.waits("begun", &now("b"), LookupPart::Second).await;
        drop(busy);
        let order = source.order().await;
        assert_eq!(order, ["begun", "waiting", "finishing", "refresh", "refresh", "refresh"]);
    }

    #[tokio::test]
    async fn consumers_take_turns_whatever_each_has_waiting() {
        let mut source = PacedSource::new();
        let pacer = Arc::clone(&source.pacer);
        let busy = PacedSource::busy(&pacer).await;
        for _ in 0..5 {
            source.waits("a", &now("a"), LookupPart::First).await;
        }
        for _ in 0..2 {
            source.waits("b", &now("b"), LookupPart::First).await;
        }
        drop(busy);
        assert_eq!(source.order().await, ["a", "b", "a", "b", "a", "a", "a"]);
    }

    #[tokio::test]
    async fn who_asks_again_after_a_turn_goes_behind_the_others() {
        let mut source = PacedSource::new();
        let pacer = Arc::clone(&source.pacer);
        let busy = PacedSource::busy(&pacer).await;
        for _ in 0..3 {
            source.waits("b", &now("b"), LookupPart::First).await;
        }
        let (tell, again) = (source.tell.clone(), Arc::clone(&pacer));
        source.tasks.spawn(async move {
            let priority = now("a");
            let mut turn = again.turn(how(&priority, LookupPart::First)).await.unwrap();
            for _ in 0..2 {
                let mut next = Box::pin(again.turn(how(&priority, LookupPart::First)));
                assert!(next.as_mut().now_or_never().is_none());
                tell.send("a").await.unwrap();
                drop(turn);
                turn = next.await.unwrap();
            }
            tell.send("a").await.unwrap();
        });
        while source.waiting() < 4 {
            yield_now().await;
        }
        drop(busy);
        assert_eq!(source.order().await, ["b", "a", "b", "a", "b", "a"]);
    }

    #[tokio::test]
    async fn a_look_up_that_another_consumer_joins_has_its_turn_too() {
        let mut source = PacedSource::new();
        let pacer = Arc::clone(&source.pacer);
        let busy = PacedSource::busy(&pacer).await;
        for _ in 0..3 {
            source.waits("a", &now("a"), LookupPart::First).await;
        }
        let joined = now("a");
        source.waits("joined", &joined, LookupPart::First).await;
        joined.raise(&LookupPurpose::Now("b".into()));
        drop(busy);
        assert_eq!(source.order().await, ["a", "joined", "a", "a"]);
    }

    #[tokio::test]
    async fn a_question_begun_ahead_goes_first_once_a_request_waits_for_it() {
        let mut source = PacedSource::new();
        let pacer = Arc::clone(&source.pacer);
        let busy = PacedSource::busy(&pacer).await;
        let (behind, ahead) = (
            Arc::new(SharedPriority::new(&LookupPurpose::Behind)),
            Arc::new(SharedPriority::new(&LookupPurpose::Ahead)),
        );
        source.waits("behind", &behind, LookupPart::First).await;
        source.waits("ahead", &ahead, LookupPart::First).await;
        ahead.raise(&LookupPurpose::Now("a".into()));
        drop(busy);
        assert_eq!(source.order().await, ["ahead", "behind"]);
    }

    #[tokio::test]
    async fn who_gives_up_holds_up_nobody() {
        let mut source = PacedSource::new();
        let pacer = Arc::clone(&source.pacer);
        let busy = PacedSource::busy(&pacer).await;
        let priority = now("a");
        let mut gives_up = Box::pin(pacer.turn(how(&priority, LookupPart::First)));
        assert!(gives_up.as_mut().now_or_never().is_none());
        source.waits("b", &now("b"), LookupPart::First).await;
        // Dropping `busy` notifies the first query, which is dropped before it polls.
        drop(busy);
        drop(gives_up);
        assert_eq!(source.order().await, ["b"]);
    }

    #[tokio::test]
    async fn the_rate_holds_over_many_who_wait() {
        let pacer = Arc::new(Pacer::new(NonZeroU32::new(20), 8));
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..30 {
            let pacer = Arc::clone(&pacer);
            tasks.spawn(async move {
                let priority = now("a");
                drop(pacer.turn(how(&priority, LookupPart::First)).await.unwrap());
            });
        }
        while tasks.join_next().await.is_some() {}
        // A burst of twenty, then one every 50 ms.
        assert!(began.elapsed() >= Duration::from_millis(490));
    }

    #[test]
    fn the_accounts_remembered_are_limited() {
        let mut turns = LastTurns::default();
        for number in 0..3 * ACCOUNTS_MAX {
            turns.had(Some(format!("{number}").into()));
            assert!(turns.last.len() <= ACCOUNTS_MAX);
        }
        assert_eq!(turns.last(Some(&"3071".into())), 3072);
    }

    #[test]
    fn the_rest_of_a_look_up_is_urgent_for_who_comes_for_it() {
        let priority = now("a");
        priority.rest();
        assert_eq!(priority.urgency(LookupPart::Rest), Urgency::Finishing);
        priority.raise(&LookupPurpose::Now("b".into()));
        assert_eq!(priority.urgency(LookupPart::Rest), Urgency::Waiting);
    }
}
