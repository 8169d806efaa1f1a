//! Activity of an HTTP/2 connection: hyper has no deadline for a connection without a request, nor for an
//! answer whose window the consumer keeps closed.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::ConnectionFault;

/// Exchanges that a connection carries, and those of them that wait for its consumer.
#[derive(Debug, Default)]
pub(super) struct Activity {
    state: Mutex<ActivityState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct ActivityState {
    /// Number of exchanges so far, the present ones included.
    carried: usize,
    /// Numbers of the exchanges under way, the first being 1.
    under_way: BTreeSet<usize>,
    /// Time since which the consumer has taken nothing of an answer that it could take, by exchange.
    untaken: HashMap<usize, Instant>,
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of exchanges carried so far.
    pub(super) fn carried(&self) -> usize {
        self.state().carried
    }

    /// Returns no fault if the peer has closed a connection that carries no exchange.
    ///
    /// Many clients close the socket right after `GOAWAY` or `close_notify`, before they have read all that was
    /// sent to them, which resets it.
    pub(super) fn excuse(&self, fault: ConnectionFault) -> Result<(), ConnectionFault> {
        let is_closed = matches!(fault, ConnectionFault::Reset | ConnectionFault::Cut);
        match is_closed && self.state().under_way.is_empty() {
            true => Ok(()),
            false => Err(fault),
        }
    }

    /// Returns once no exchange is carried.
    pub(super) async fn idle(&self) {
        self.until(|state| state.under_way.is_empty()).await;
    }

    /// Returns once the exchanges up to this number have ended, whatever has begun since.
    pub(super) async fn over(&self, number: usize) {
        self.until(|state| state.under_way.first().is_none_or(|first| *first > number)).await;
    }

    /// Returns once more exchanges than this have been carried.
    pub(super) async fn beyond(&self, number: usize) {
        self.until(|state| state.carried > number).await;
    }

    async fn until(&self, is_so: impl Fn(&ActivityState) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// Returns once no exchange has been carried for `first` from the start, or for `idle` later.
    pub(super) async fn wait_until_idle(&self, first: Duration, idle: Duration) {
        loop {
            let carried = self.carried();
            let wait = if carried == 0 { first } else { idle };
            let changed = self.changed.notified();
            let unchanged = tokio::time::timeout(wait, changed).await.is_err();
            let state = self.state();
            if unchanged && state.under_way.is_empty() && state.carried == carried {
                return;
            }
        }
    }

    /// Returns once an answer has waited for `stall` and nothing was taken from it.
    ///
    /// Over HTTP/2 a consumer stops reading by its window, which the socket does not show.
    pub(super) async fn stalled(&self, stall: Duration) {
        loop {
            let oldest = self.state().untaken.values().min().copied();
            let until = match oldest {
                Some(since) if since.elapsed() >= stall => return,
                Some(since) => since + stall,
                None => Instant::now() + stall,
            };
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Keeps a connection busy until dropped.
#[derive(Debug)]
pub(super) struct BusyGuard {
    activity: Arc<Activity>,
    number: usize,
}

impl BusyGuard {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        let mut state = activity.state();
        state.carried += 1;
        let number = state.carried;
        state.under_way.insert(number);
        drop(state);
        activity.changed.notify_waiters();
        Self { activity: Arc::clone(activity), number }
    }

    /// Ties the exchange to its answer's body, of which nothing has been taken yet.
    pub(super) fn carry<B>(self, body: B) -> TrackedBody<B> {
        self.waits(true);
        TrackedBody { body, rest: Bytes::new(), has_begun: false, busy: self }
    }

    /// Sets whether part of the answer waits for the consumer.
    fn waits(&self, for_consumer: bool) {
        let mut state = self.activity.state();
        match for_consumer {
            true => drop(state.untaken.insert(self.number, Instant::now())),
            false => drop(state.untaken.remove(&self.number)),
        }
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.under_way.remove(&self.number);
        state.untaken.remove(&self.number);
        drop(state);
        self.activity.changed.notify_waiters();
    }
}

/// Body of an answer that keeps its connection busy until its consumer has taken all but one piece of it.
///
/// A piece that is handed over waits in the HTTP/2 library, however small the consumer's window is, and with
/// the last one the body would be dropped. So pieces are small, and the end comes after the last.
#[derive(Debug)]
pub(super) struct TrackedBody<B> {
    body: B,
    rest: Bytes,
    has_begun: bool,
    busy: BusyGuard,
}

/// Limit: bytes of an answer that wait for its consumer's window.
const PIECE_BYTES_MAX: usize = 8 * 1024;

impl<B> Body for TrackedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            self.busy.waits(matches!(polled, Poll::Ready(Some(Ok(_)))));
            let Poll::Ready(Some(Ok(frame))) = polled else { return polled };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        } else {
            self.busy.waits(true);
        }
        self.has_begun = true;
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        !self.has_begun && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.has_begun {
            false => self.body.size_hint(),
            true => SizeHint::new(),
        }
    }
}
