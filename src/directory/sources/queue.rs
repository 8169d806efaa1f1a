//! Queue of the queries to one source: order, rate limit and concurrency limit.
//!
//! Two priorities: look-ups that a request waits for, then background refreshes. Within a priority, look-ups
//! that have found records are finished first, and those that have too little time left to end are begun last, or
//! none would end in time under load; then consumers take turns, so that one with many look-ups does not hold up
//! another with few.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::super::payer::LookupAccount;
use super::query::SourceFault;
use super::query_rate::{AT_ONCE, QueryRate};
use crate::sharing::Sharing;

/// Limit: number of accounts whose last turn is remembered. Half of them are forgotten when it is exceeded.
const TURNS_MAX: usize = 1024;
/// Limit: number of accounts kept for one look-up; callers beyond it wait for the look-up all the same.
const WAITERS_MAX: usize = 8;
/// Time in which a source is expected to answer a query, to judge whether a look-up can still end in time.
pub(in super::super) const ANSWER_EXPECTED: Duration = Duration::from_millis(500);

/// Callers that wait for a look-up. They decide its priority, which can rise while a query is queued.
#[derive(Debug, Default)]
pub(in super::super) struct LookupWaiters(Mutex<Waiters>);

#[derive(Debug, Default)]
struct Waiters {
    /// Accounts of the waiting requests; empty for a background refresh.
    accounts: Vec<LookupAccount>,
    /// True once the look-up has found records, to which others have to be joined.
    has_found: bool,
}

/// Rank of a queued query; the lowest is sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueryRank {
    is_background: bool,
    has_found_nothing: bool,
    /// True if the look-up has found nothing, and too little time left for the [`AT_ONCE`] queries that it needs.
    is_late: bool,
    /// Number of the account's last turn.
    last_turn: u64,
    /// Number of the query, in the order of arrival.
    number: u64,
}

/// Limits the rate and concurrency of queries to one source, and decides their order.
#[derive(Debug)]
pub(super) struct SourceQueue {
    /// Rate limit of queries; `None` for a source without one.
    rate: Option<QueryRate>,
    /// One permit for each query that may be under way.
    slots: Arc<Semaphore>,
    /// Held by the one queued query that waits for a slot and the rate limit, on behalf of all.
    dispatch: tokio::sync::Mutex<()>,
    queued: Mutex<QueuedQueries>,
}

#[derive(Debug, Default)]
struct QueuedQueries {
    /// Number of queries that have arrived.
    arrived: u64,
    by_number: BTreeMap<u64, QueuedQuery>,
    turns: LastTurns,
}

#[derive(Debug)]
struct QueuedQuery {
    waiters: Arc<LookupWaiters>,
    /// Time at which the look-up is given up.
    deadline: Instant,
    turn: oneshot::Sender<QueryTurn>,
}

/// Number of each account's last turn, counted from 1.
///
/// Background refreshes share one account with an empty name.
#[derive(Debug, Default)]
struct LastTurns {
    count: u64,
    last: HashMap<LookupAccount, u64>,
}

/// Permission to send one query, which counts as under way until this is dropped.
#[derive(Debug)]
pub(super) struct QueryTurn {
    _slot: OwnedSemaphorePermit,
}

impl LookupWaiters {
    /// Returns the waiters of a look-up that a request of this account waits for, or nobody.
    pub(in super::super) fn new(account: Option<LookupAccount>) -> Self {
        let waiters = Waiters { accounts: account.into_iter().collect(), has_found: false };
        Self(Mutex::new(waiters))
    }

    /// Adds the account of another request that waits.
    pub(in super::super) fn join(&self, account: LookupAccount) {
        let mut waiters = self.lock();
        if waiters.accounts.len() < WAITERS_MAX && !waiters.accounts.contains(&account) {
            waiters.accounts.push(account);
        }
    }

    /// Puts the look-up's next queries before those of look-ups that have found nothing yet.
    pub(super) fn found(&self) {
        self.lock().has_found = true;
    }

    /// Removes all accounts: they have their answer, and the rest of the look-up is a background refresh.
    pub(in super::super) fn leave(&self) {
        self.lock().accounts.clear();
    }

    /// Returns true if a request waits for the look-up's next answer.
    pub(in super::super) fn is_waited_for(&self) -> bool {
        !self.lock().accounts.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceQueue {
    /// Returns a queue with a rate and a maximum number of queries under way.
    pub(super) fn new(rate: Option<QueryRate>, under_way_max: usize) -> Self {
        Self {
            rate,
            slots: Arc::new(Semaphore::new(under_way_max)),
            dispatch: tokio::sync::Mutex::default(),
            queued: Mutex::default(),
        }
    }

    /// Waits for a turn to send a query of a look-up.
    ///
    /// # Errors
    /// Returns [`SourceFault::NoTurn`] if the deadline passes first.
    pub(super) async fn turn(
        &self,
        waiters: &Arc<LookupWaiters>,
        sharing: &Sharing,
        deadline: Instant,
    ) -> Result<QueryTurn, SourceFault> {
        let mut place = self.enqueue(waiters, deadline);
        let turn = async {
            loop {
                tokio::select! {
                    biased;
                    Ok(turn) = &mut place.turn => return turn,
                    _dispatching = self.dispatch.lock() => self.give_turn(sharing).await,
                }
            }
        };
        timeout_at(deadline, turn).await.map_err(|_| SourceFault::NoTurn)
    }

    fn enqueue(&self, waiters: &Arc<LookupWaiters>, deadline: Instant) -> QueryPlace<'_> {
        let (sender, turn) = oneshot::channel();
        let mut queued = self.lock();
        queued.arrived += 1;
        let number = queued.arrived;
        let query = QueuedQuery { waiters: Arc::clone(waiters), deadline, turn: sender };
        queued.by_number.insert(number, query);
        QueryPlace { queue: self, number, turn }
    }

    /// Waits until the source may be sent another query, and gives the turn to the query that ranks first
    /// then: more urgent ones may have arrived meanwhile.
    async fn give_turn(&self, sharing: &Sharing) {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
        if let Some(rate) = &self.rate {
            let wanted = || {
                let late = self.late(sharing);
                self.lock().wanted(late)
            };
            rate.wait(sharing, wanted).await;
        }
        let late = self.late(sharing);
        self.lock().give(QueryTurn { _slot: slot }, late);
    }

    /// Returns the deadline before which a look-up that begins now would not end in time.
    fn late(&self, sharing: &Sharing) -> Instant {
        let gap = self.rate.as_ref().map_or(Duration::ZERO, |rate| rate.gap(sharing));
        Instant::now() + gap.max(ANSWER_EXPECTED) * (AT_ONCE - 1) + ANSWER_EXPECTED
    }

    fn lock(&self) -> MutexGuard<'_, QueuedQueries> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedQueries {
    /// Gives the turn to the query that ranks first; look-ups that end before `late` rank last.
    fn give(&mut self, turn: QueryTurn, late: Instant) {
        let ranked = self.by_number.iter().map(|(number, query)| self.rank(*number, query, late));
        let Some((rank, account)) = ranked.min_by_key(|(rank, _)| *rank) else { return };
        let Some(query) = self.by_number.remove(&rank.number) else { return };
        self.turns.add(account);
        // A receiver that is gone drops the turn, which frees its slot.
        let _gone = query.turn.send(turn);
    }

    /// Returns how many queries the look-up needs whose query ranks first: more if it has found nothing yet.
    fn wanted(&self, late: Instant) -> u32 {
        let ranks = self.by_number.iter().map(|(number, query)| self.rank(*number, query, late).0);
        match ranks.min() {
            Some(first) if first.has_found_nothing => AT_ONCE,
            Some(_) | None => 1,
        }
    }

    /// Returns the rank of a query, and the account whose turn it would be: of the waiting ones, that whose
    /// last turn is longest ago.
    fn rank(
        &self,
        number: u64,
        query: &QueuedQuery,
        late: Instant,
    ) -> (QueryRank, Option<LookupAccount>) {
        let waiters = query.waiters.lock();
        let last_turn = |account: &&LookupAccount| self.turns.last(Some(*account));
        let account = waiters.accounts.iter().min_by_key(last_turn);
        let rank = QueryRank {
            is_background: account.is_none(),
            has_found_nothing: !waiters.has_found,
            is_late: !waiters.has_found && query.deadline < late,
            last_turn: self.turns.last(account),
            number,
        };
        (rank, account.cloned())
    }
}

impl LastTurns {
    /// Returns the number of an account's last turn; zero if it is not remembered.
    fn last(&self, account: Option<&LookupAccount>) -> u64 {
        self.last.get(account.map_or("", |account| account)).copied().unwrap_or_default()
    }

    /// Counts a turn of an account.
    ///
    /// Forgets the older half of the accounts when there are too many: they would be next in any case.
    fn add(&mut self, account: Option<LookupAccount>) {
        self.count += 1;
        self.last.insert(account.unwrap_or_default(), self.count);
        if self.last.len() > TURNS_MAX {
            let kept = self.count.saturating_sub(TURNS_MAX as u64 / 2);
            self.last.retain(|_, turn| *turn > kept);
        }
    }
}

/// Place of a query in the queue, removed from it on drop.
struct QueryPlace<'a> {
    queue: &'a SourceQueue,
    number: u64,
    turn: oneshot::Receiver<QueryTurn>,
}

impl Drop for QueryPlace<'_> {
    fn drop(&mut self) {
        self.queue.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::sync::mpsc;
    use tokio::task::{JoinSet, yield_now};

    use super::*;
    use crate::metrics::Metrics;

    /// Queue with a concurrency limit of one, and tasks that wait in it.
    struct TestQueue {
        queue: Arc<SourceQueue>,
        had_turn: mpsc::Sender<&'static str>,
        turns: mpsc::Receiver<&'static str>,
        tasks: JoinSet<()>,
    }

    impl TestQueue {
        fn new() -> Self {
            let (had_turn, turns) = mpsc::channel(64);
            let queue = Arc::new(SourceQueue::new(None, 1));
            Self { queue, had_turn, turns, tasks: JoinSet::new() }
        }

        /// Starts a task that waits for a turn and ends it at once.
        async fn waits(&mut self, name: &'static str, waiters: &Arc<LookupWaiters>) {
            self.waits_until(later(), name, waiters).await;
        }

        /// Starts a task that waits for a turn until a deadline and ends it at once.
        async fn waits_until(
            &mut self,
            deadline: Instant,
            name: &'static str,
            waiters: &Arc<LookupWaiters>,
        ) {
            let (queue, had_turn) = (Arc::clone(&self.queue), self.had_turn.clone());
            let (waiters, queued) = (Arc::clone(waiters), self.queued());
            self.tasks.spawn(async move {
                let turn = queue.turn(&waiters, &alone(), deadline).await.unwrap();
                had_turn.send(name).await.unwrap();
                drop(turn);
            });
            while self.queued() == queued {
                yield_now().await;
            }
        }

        fn queued(&self) -> usize {
            self.queue.lock().by_number.len()
        }

        /// Returns the tasks' names in the order of their turns.
        async fn order(mut self) -> Vec<&'static str> {
            while self.tasks.join_next().await.is_some() {}
            drop(self.had_turn);
            let mut order = Vec::new();
            while let Some(name) = self.turns.recv().await {
                order.push(name);
            }
            order
        }
    }

    /// Returns state of which nothing is shared.
    fn alone() -> Sharing {
        Sharing::new(Arc::new(Metrics::new()))
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// A look-up that a request of this account waits for.
    fn waiting(account: &str) -> Arc<LookupWaiters> {
        Arc::new(LookupWaiters::new(Some(account.into())))
    }

    /// A look-up that no request waits for.
    fn background() -> Arc<LookupWaiters> {
        Arc::new(LookupWaiters::new(None))
    }

    /// A look-up that has found records.
    fn begun(waiters: Arc<LookupWaiters>) -> Arc<LookupWaiters> {
        waiters.found();
        waiters
    }

    /// Takes the only slot; dropped, it starts the queue.
    async fn busy(queue: &TestQueue) -> QueryTurn {
        queue.queue.turn(&waiting("somebody"), &alone(), later()).await.unwrap()
    }

    #[tokio::test]
    async fn a_query_that_a_request_waits_for_goes_first_and_a_begun_look_up_before_others() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        for _ in 0..3 {
            queue.waits("refresh", &background()).await;
        }
        queue.waits("finishing", &begun(background())).await;
        queue.waits("waiting", &waiting("a")).await;
        queue.waits("begun", &begun(waiting("b"))).await;
        drop(busy);
        let order = queue.order().await;
        assert_eq!(order, ["begun", "waiting", "finishing", "refresh", "refresh", "refresh"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_with_too_little_time_left_to_end_is_begun_after_those_that_can_end() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        // Two answers are needed, each of which takes half a second.
        let [late, early] = [900, 1_100].map(|ms| Instant::now() + Duration::from_millis(ms));
        queue.waits("refresh", &background()).await;
        queue.waits_until(late, "late", &waiting("a")).await;
        queue.waits_until(early, "in time", &waiting("b")).await;
        queue.waits("also in time", &waiting("b")).await;
        queue.waits_until(late, "begun", &begun(waiting("c"))).await;
        drop(busy);
        let order = queue.order().await;
        assert_eq!(order, ["begun", "in time", "also in time", "late", "refresh"]);
    }

    #[tokio::test]
    async fn consumers_take_turns_whatever_each_has_waiting() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        for _ in 0..5 {
            queue.waits("a", &waiting("a")).await;
        }
        for _ in 0..2 {
            queue.waits("b", &waiting("b")).await;
        }
        drop(busy);
        assert_eq!(queue.order().await, ["a", "b", "a", "b", "a", "a", "a"]);
    }

    #[tokio::test]
    async fn a_consumer_that_comes_again_after_a_turn_goes_behind_the_others() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        for _ in 0..3 {
            queue.waits("b", &waiting("b")).await;
        }
        let (had_turn, again) = (queue.had_turn.clone(), Arc::clone(&queue.queue));
        queue.tasks.spawn(async move {
            let sharing = alone();
            let mut turn = again.turn(&waiting("a"), &sharing, later()).await.unwrap();
            for _ in 0..2 {
                let another = waiting("a");
                let mut next = Box::pin(again.turn(&another, &sharing, later()));
                assert!(next.as_mut().now_or_never().is_none());
                had_turn.send("a").await.unwrap();
                drop(turn);
                turn = next.await.unwrap();
            }
            had_turn.send("a").await.unwrap();
        });
        while queue.queued() < 4 {
            yield_now().await;
        }
        drop(busy);
        assert_eq!(queue.order().await, ["b", "a", "b", "a", "b", "a"]);
    }

    #[tokio::test]
    async fn a_look_up_that_another_consumer_joins_has_its_turn_too() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        for _ in 0..3 {
            queue.waits("a", &waiting("a")).await;
        }
        let joined = waiting("a");
        queue.waits("joined", &joined).await;
        joined.join("b".into());
        drop(busy);
        assert_eq!(queue.order().await, ["a", "joined", "a", "a"]);
    }

    #[tokio::test]
    async fn a_background_query_goes_first_once_a_request_waits_for_it_and_no_longer() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        let (joined, left) = (background(), waiting("a"));
        queue.waits("left", &left).await;
        queue.waits("background", &background()).await;
        queue.waits("joined", &joined).await;
        joined.join("a".into());
        left.leave();
        drop(busy);
        assert_eq!(queue.order().await, ["joined", "left", "background"]);
    }

    #[tokio::test]
    async fn a_query_that_is_given_up_holds_up_no_other() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        let (first, again, sharing) = (waiting("a"), Arc::clone(&queue.queue), alone());
        // This query dispatches for all; the turn it waits for would be its own.
        let mut gives_up = Box::pin(again.turn(&first, &sharing, later()));
        assert!(gives_up.as_mut().now_or_never().is_none());
        queue.waits("b", &waiting("b")).await;
        drop(busy);
        drop(gives_up);
        assert_eq!(queue.order().await, ["b"]);
    }

    #[tokio::test]
    async fn a_turn_that_comes_too_late_is_free_for_the_next() {
        let mut queue = TestQueue::new();
        let busy = busy(&queue).await;
        let first = waiting("a");
        let fault = queue.queue.turn(&first, &alone(), Instant::now()).await.unwrap_err();
        assert_eq!(fault, SourceFault::NoTurn);
        assert_eq!(queue.queued(), 0, "and leaves the queue");
        queue.waits("b", &waiting("b")).await;
        drop(busy);
        assert_eq!(queue.order().await, ["b"]);
    }

    #[tokio::test]
    async fn the_rate_holds_over_many_that_wait() {
        let queue =
            Arc::new(SourceQueue::new(Some(QueryRate::new(NonZeroU32::new(20).unwrap(), "")), 8));
        let began = std::time::Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..30 {
            let queue = Arc::clone(&queue);
            tasks.spawn(async move {
                drop(queue.turn(&waiting("a"), &alone(), later()).await.unwrap());
            });
        }
        while tasks.join_next().await.is_some() {}
        // A burst of twenty, then one every 50 ms.
        assert!(began.elapsed() >= Duration::from_millis(490));
    }

    #[test]
    fn the_accounts_remembered_are_limited() {
        let mut turns = LastTurns::default();
        for number in 0..3 * TURNS_MAX {
            turns.add(Some(format!("{number}").into()));
            assert!(turns.last.len() <= TURNS_MAX);
        }
        assert_eq!(turns.last(Some(&"3071".into())), 3072);
    }
}
