//! Places of one practice and the queue for them: fair between consumers, whatever each of them sends.
//!
//! A free place goes to the consumer that holds the fewest; among equals to the one that has waited longest
//! for its turn. When the queue is full, the consumer with the most requests in it loses the last of them to
//! one that has fewer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::oneshot;

use spine_types::Asid;

/// Sizes of a practice's queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueSizes {
    /// Number of places.
    pub(super) places: usize,
    /// Maximum number of places that one consumer holds.
    pub(super) share: usize,
    /// Maximum number of requests that wait.
    pub(super) waiting: usize,
}

/// The places of one practice, and the queue for them.
#[derive(Debug)]
pub(super) struct PlaceQueue {
    sizes: QueueSizes,
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    taken: usize,
    /// Number of places that each consumer holds; consumers that hold none are absent.
    held: HashMap<Asid, usize>,
    /// Consumers with requests that wait, in the order of their turns.
    turns: VecDeque<QueueTurn>,
    waiting: usize,
    tickets: u64,
}

#[derive(Debug)]
struct QueueTurn {
    consumer: Asid,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    sender: oneshot::Sender<QueuePlace>,
}

/// A place with a practice, given back when dropped.
#[derive(Debug)]
pub(super) struct QueuePlace {
    queue: Arc<PlaceQueue>,
    consumer: Asid,
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let given = {
            let mut state = self.queue.state();
            state.leaves(&self.consumer);
            self.queue.hand_out(&mut state)
        };
        self.queue.give(given);
    }
}

/// A request that waits; dropping it takes it out of the queue.
struct WaitGuard<'a> {
    queue: &'a PlaceQueue,
    consumer: &'a Asid,
    ticket: u64,
    waiting: &'a IntGauge,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.queue.state().forget(self.consumer, self.ticket);
        self.waiting.dec();
    }
}

/// Error returned when there was no place in time, or the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueFull;

impl PlaceQueue {
    pub(super) fn new(sizes: QueueSizes) -> Arc<Self> {
        Arc::new(Self { sizes, state: Mutex::default() })
    }

    /// Returns a place for a consumer, for which it waits at most `wait`; `waiting` counts those that wait.
    pub(super) async fn place(
        self: &Arc<Self>,
        consumer: &Asid,
        wait: Duration,
        waiting: &IntGauge,
    ) -> Result<QueuePlace, QueueFull> {
        let (ticket, turn) = match self.take(consumer)? {
            Taken::Place(place) => return Ok(place),
            Taken::Turn(ticket, turn) => (ticket, turn),
        };
        waiting.inc();
        let waiting = WaitGuard { queue: self, consumer, ticket, waiting };
        let turn = tokio::time::timeout(wait, turn).await;
        drop(waiting);
        turn.ok().and_then(Result::ok).ok_or(QueueFull)
    }

    /// Returns true if no place is taken and no request waits.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.taken == 0 && state.waiting == 0
    }

    fn take(self: &Arc<Self>, consumer: &Asid) -> Result<Taken, QueueFull> {
        let mut state = self.state();
        let held = state.held.get(consumer).copied().unwrap_or_default();
        // Requests that wait while a place is free have used up their consumer's share.
        if state.taken < self.sizes.places && held < self.sizes.share {
            state.enters(consumer);
            return Ok(Taken::Place(QueuePlace {
                queue: Arc::clone(self),
                consumer: consumer.clone(),
            }));
        }
        if state.waiting >= self.sizes.waiting {
            state.displaces_for(consumer)?;
        }
        let (sender, turn) = oneshot::channel();
        let ticket = state.queues(consumer, sender);
        Ok(Taken::Turn(ticket, turn))
    }

    /// Gives free places to requests that wait.
    fn hand_out(
        self: &Arc<Self>,
        state: &mut QueueState,
    ) -> Vec<(oneshot::Sender<QueuePlace>, QueuePlace)> {
        let mut given = Vec::new();
        while state.taken < self.sizes.places
            && let Some((consumer, waiter)) = state.next(self.sizes.share)
        {
            state.enters(&consumer);
            given.push((waiter.sender, QueuePlace { queue: Arc::clone(self), consumer }));
        }
        given
    }

    /// Sends places to requests, outside the lock: a place whose request has just left comes back at once.
    fn give(&self, given: Vec<(oneshot::Sender<QueuePlace>, QueuePlace)>) {
        for (sender, place) in given {
            drop(sender.send(place));
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    Place(QueuePlace),
    Turn(u64, oneshot::Receiver<QueuePlace>),
}

impl QueueState {
    fn enters(&mut self, consumer: &Asid) {
        self.taken += 1;
        *self.held.entry(consumer.clone()).or_default() += 1;
    }

    fn leaves(&mut self, consumer: &Asid) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(held) = self.held.get_mut(consumer) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(consumer);
            }
        }
    }

    fn queues(&mut self, consumer: &Asid, sender: oneshot::Sender<QueuePlace>) -> u64 {
        self.tickets += 1;
        let waiter = Waiter { ticket: self.tickets, sender };
        self.waiting += 1;
        match self.turns.iter_mut().find(|turn| turn.consumer == *consumer) {
            Some(turn) => turn.waiters.push_back(waiter),
            None => {
                let (consumer, waiters) = (consumer.clone(), VecDeque::from([waiter]));
                self.turns.push_back(QueueTurn { consumer, waiters });
            }
        }
        self.tickets
    }

    /// Takes the next request: of the consumers below their share that hold the fewest, the first.
    fn next(&mut self, share: usize) -> Option<(Asid, Waiter)> {
        let held = |turn: &QueueTurn| self.held.get(&turn.consumer).copied().unwrap_or_default();
        let turns = self.turns.iter().map(held).enumerate().filter(|(_, held)| *held < share);
        let (at, _) = turns.min_by_key(|(_, held)| *held)?;
        let mut turn = self.turns.remove(at)?;
        let waiter = turn.waiters.pop_front()?;
        self.waiting = self.waiting.saturating_sub(1);
        let consumer = turn.consumer.clone();
        if !turn.waiters.is_empty() {
            self.turns.push_back(turn);
        }
        Some((consumer, waiter))
    }

    /// Makes space for one more request of this consumer, by dropping the last of the consumer that has the
    /// most waiting, if those are more than this one would have.
    fn displaces_for(&mut self, consumer: &Asid) -> Result<(), QueueFull> {
        let waiting = |turn: &QueueTurn| turn.waiters.len();
        let own = self.turns.iter().find(|turn| turn.consumer == *consumer).map_or(0, waiting);
        let most = self.turns.iter_mut().max_by_key(|turn| turn.waiters.len()).ok_or(QueueFull)?;
        if most.waiters.len() <= own + 1 {
            return Err(QueueFull);
        }
        // Dropping its sender ends that request's wait with an error.
        most.waiters.pop_back();
        self.waiting = self.waiting.saturating_sub(1);
        Ok(())
    }

    fn forget(&mut self, consumer: &Asid, ticket: u64) {
        let Some(at) = self.turns.iter().position(|turn| turn.consumer == *consumer) else {
            return;
        };
        let Some(turn) = self.turns.get_mut(at) else { return };
        let before = turn.waiters.len();
        turn.waiters.retain(|waiter| waiter.ticket != ticket);
        let gone = before - turn.waiters.len();
        if turn.waiters.is_empty() {
            self.turns.remove(at);
        }
        self.waiting = self.waiting.saturating_sub(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn asid(number: u32) -> Asid {
        format!("{number:012}").parse().unwrap()
    }

    /// Takes a free place, or waits; the task ends once there is a place.
    fn ask(
        queue: &Arc<PlaceQueue>,
        consumer: u32,
    ) -> tokio::task::JoinHandle<Result<QueuePlace, QueueFull>> {
        let queue = Arc::clone(queue);
        tokio::spawn(async move { queue.place(&asid(consumer), LONG, &gauge()).await })
    }

    fn gauge() -> IntGauge {
        IntGauge::new("waiting", "waiting").unwrap()
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_go_round_whatever_each_has_waiting() {
        let queue = PlaceQueue::new(QueueSizes { places: 1, share: 1, waiting: 100 });
        let mut place = ask(&queue, 9).await.unwrap().unwrap();
        let mut asked = Vec::new();
        for consumer in [1, 1, 1, 1, 2, 3, 2] {
            asked.push((consumer, ask(&queue, consumer)));
            settle().await;
        }
        let mut order = Vec::new();
        while !asked.is_empty() {
            drop(place);
            settle().await;
            let at = asked.iter().position(|(_, asked)| asked.is_finished()).unwrap();
            let (consumer, asked) = asked.remove(at);
            order.push(consumer);
            place = asked.await.unwrap().unwrap();
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1, 1]);
        drop(place);
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_the_fewest_comes_first() {
        let queue = PlaceQueue::new(QueueSizes { places: 3, share: 3, waiting: 100 });
        let held = [ask(&queue, 1).await, ask(&queue, 1).await, ask(&queue, 2).await];
        let [first, second, third] = held.map(|place| place.unwrap().unwrap());
        let more = ask(&queue, 1);
        settle().await;
        let other = ask(&queue, 3);
        settle().await;
        drop(third);
        settle().await;
        assert!(other.is_finished() && !more.is_finished(), "it holds none");
        drop((first, second));
        settle().await;
        assert!(more.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_loses_the_last_of_whoever_has_most_there() {
        let queue = PlaceQueue::new(QueueSizes { places: 1, share: 1, waiting: 3 });
        let place = ask(&queue, 9).await.unwrap().unwrap();
        let mut many = Vec::new();
        for _ in 0..3 {
            many.push(ask(&queue, 1));
            settle().await;
        }
        assert_eq!(ask(&queue, 1).await.unwrap().unwrap_err(), QueueFull);
        let one = ask(&queue, 2);
        settle().await;
        assert_eq!(many.pop().unwrap().await.unwrap().unwrap_err(), QueueFull);
        assert_eq!(queue.state().waiting, 3);
        // Two and one: no consumer has more than the next would have.
        assert_eq!(ask(&queue, 2).await.unwrap().unwrap_err(), QueueFull);
        drop(place);
        settle().await;
        assert!(many[0].is_finished() && !one.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_takes_no_place_with_them() {
        let queue = PlaceQueue::new(QueueSizes { places: 1, share: 1, waiting: 3 });
        let place = ask(&queue, 9).await.unwrap().unwrap();
        let (gone, stays) = (ask(&queue, 1), ask(&queue, 2));
        settle().await;
        gone.abort();
        settle().await;
        assert_eq!(queue.state().waiting, 1);
        drop(place);
        drop(stays.await.unwrap().unwrap());
        assert!(queue.is_empty());
        let place = ask(&queue, 9).await.unwrap().unwrap();
        let late = queue.place(&asid(1), Duration::from_secs(2), &gauge()).await;
        assert_eq!(late.unwrap_err(), QueueFull);
        assert_eq!(queue.state().waiting, 0);
        drop(place);
    }
}
