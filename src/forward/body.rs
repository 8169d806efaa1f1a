//! Bodies in transit: one frame at a time, held to a pace, and never a clean end for a body that was cut.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::pool::{Pool, PooledConnection};
use crate::audit::{EndedBy, Entry, Transfer};
use crate::refusal::Refusal;
use crate::throttle::ProviderPlace;

/// Pace at which a body must come.
#[derive(Debug, Clone, Copy)]
pub struct BodyPace {
    /// Longest wait for the next piece.
    pub idle: Duration,
    /// Longest time for the whole body.
    pub total: Duration,
    /// Bytes per second over the time it is waited for, once that exceeds [`BodyPace::idle`].
    pub rate_min: u32,
}

/// Reason why a body did not come whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PaceFault {
    /// It came too slowly.
    #[error("the body came too slowly")]
    Slow,
    /// Its sender broke off.
    #[error("the body was cut")]
    Cut,
}

/// A body that is held to a pace. Only time spent waiting for its sender counts, not time that its receiver
/// takes.
#[derive(Debug)]
pub struct Paced {
    body: Incoming,
    pace: BodyPace,
    started: Instant,
    waiting_since: Option<Instant>,
    waited: Duration,
    bytes: u64,
    timer: Option<Pin<Box<Sleep>>>,
    version: Version,
}

impl Paced {
    /// Holds a body to a pace, from now on; `version` is the version of HTTP that it came by.
    #[must_use]
    pub fn new(body: Incoming, version: Version, pace: BodyPace) -> Self {
        let started = Instant::now();
        let (waited, bytes) = (Duration::ZERO, 0);
        Self { body, pace, started, waiting_since: None, waited, bytes, timer: None, version }
    }

    /// Returns true if a body that gives no more has ended, and was not cut.
    ///
    /// hyper takes an HTTP/2 stream that is reset without an error for one that has ended.
    fn has_ended(&self) -> bool {
        self.version != Version::HTTP_2 || self.body.is_end_stream()
    }

    /// Returns the next piece of data. Trailers are dropped: FHIR has none, and they could carry what headers
    /// were refused for.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, PaceFault>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Some(since) = self.waiting_since.take() {
                        self.waited += since.elapsed();
                    }
                    self.bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
                    return Poll::Ready(Some(Ok(data)));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(PaceFault::Cut))),
                Poll::Ready(None) if self.has_ended() => return Poll::Ready(None),
                Poll::Ready(None) => return Poll::Ready(Some(Err(PaceFault::Cut))),
                Poll::Pending => return self.poll_deadline(context),
            }
        }
    }

    fn poll_deadline(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, PaceFault>>> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            let left = self.allowance();
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset((now + left).into()),
                None => self.timer = Some(Box::pin(tokio::time::sleep(left))),
            }
        }
        match &mut self.timer {
            Some(timer) => {
                ready!(timer.as_mut().poll(context));
                Poll::Ready(Some(Err(PaceFault::Slow)))
            }
            None => Poll::Pending,
        }
    }

    /// Returns how long the next piece may be waited for: the least of the idle limit, what the rate still
    /// allows, and what is left of the whole.
    fn allowance(&self) -> Duration {
        let earned = self.bytes / u64::from(self.pace.rate_min.max(1));
        let by_rate = (self.pace.idle + Duration::from_secs(earned)).saturating_sub(self.waited);
        let by_total = self.pace.total.saturating_sub(self.started.elapsed());
        self.pace.idle.min(by_rate).min(by_total)
    }
}

/// Returns true if no byte can follow: the end has been seen, or all that was announced has come.
fn is_spent(body: &Incoming) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

/// A consumer's body on its way to a provider.
#[derive(Debug)]
pub struct Upload {
    body: Option<Paced>,
    transfer: Option<Arc<Transfer>>,
    fate: Arc<UploadFate>,
}

/// Outcome of an upload, as far as its sender must know it.
#[derive(Debug, Default)]
pub(super) struct UploadFate {
    fault: OnceLock<PaceFault>,
    given_up: AtomicBool,
}

impl UploadFate {
    /// Returns the reason why the body did not come whole, if it did not.
    pub(super) fn fault(&self) -> Option<PaceFault> {
        self.fault.get().copied()
    }

    /// Gives the upload up, so that it does not end as if it were whole: its answer is no longer awaited.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }
}

impl Upload {
    /// Returns an upload without a body.
    #[must_use]
    pub fn empty() -> Self {
        Self { body: None, transfer: None, fate: Arc::default() }
    }

    /// Returns the body of a write; `transfer` records what was sent.
    #[must_use]
    pub fn new(body: Paced, transfer: Arc<Transfer>) -> Self {
        if is_spent(&body.body) {
            return Self::empty();
        }
        Self { body: Some(body), transfer: Some(transfer), fate: Arc::default() }
    }

    /// Returns the upload's outcome, which is known later.
    pub(super) fn outcome(&self) -> Arc<UploadFate> {
        Arc::clone(&self.fate)
    }

    /// Checks that the body of a read is empty: some HTTP stacks send a chunked one without data.
    ///
    /// # Errors
    /// Returns a refusal if it is not empty, or its end does not come.
    pub async fn none(mut body: Paced) -> Result<Self, Refusal> {
        if body.body.is_end_stream() {
            return Ok(Self::empty());
        }
        loop {
            match std::future::poll_fn(|context| body.poll_data(context)).await {
                None => return Ok(Self::empty()),
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(_)) => return Err(Refusal::BodyOnGet),
                Some(Err(PaceFault::Slow)) => return Err(Refusal::BodyTimedOut),
                Some(Err(PaceFault::Cut)) => return Err(Refusal::BodyCut),
            }
        }
    }

    /// Returns true if there is nothing to send after the head.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.body.is_none()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = PaceFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PaceFault>>> {
        let Self { body: Some(body), transfer: Some(transfer), fate } = &mut *self else {
            return Poll::Ready(None);
        };
        if fate.given_up.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(PaceFault::Cut)));
        }
        let polled = body.poll_data(context);
        transfer.waits(polled.is_pending());
        match ready!(polled) {
            Some(Ok(data)) => {
                transfer.sent(data.len());
                // hyper may never ask a body of known length for its end.
                if is_spent(&body.body) {
                    transfer.sent_whole();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(fault)) => {
                fate.fault.set(fault).unwrap_or_default();
                Poll::Ready(Some(Err(fault)))
            }
            None => {
                transfer.sent_whole();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.body.size_hint())
    }
}

/// A provider's body on its way to a consumer.
///
/// With its last byte the connection goes back to the pool, and the record is closed. If that never comes,
/// the connection is dropped, and the record says who broke off.
#[derive(Debug)]
pub struct ProviderBody {
    body: Paced,
    connection: Option<PooledConnection>,
    pool: Arc<Pool>,
    place: Option<ProviderPlace>,
    fault: Option<PaceFault>,
    record: Option<Entry>,
}

impl ProviderBody {
    pub(super) fn new(
        body: Paced,
        connection: PooledConnection,
        pool: Arc<Pool>,
        place: ProviderPlace,
    ) -> Self {
        let (connection, place) = (Some(connection), Some(place));
        let mut body = Self { body, connection, pool, place, fault: None, record: None };
        body.finish_if_ended();
        body
    }

    /// Ties the exchange's record to the body.
    pub fn record(&mut self, mut record: Entry) {
        // Without a body the answer is complete when its head is.
        if self.body.body.is_end_stream() {
            record.ended(EndedBy::Gateway);
        }
        self.record = Some(record);
    }

    fn finish_if_ended(&mut self) {
        // hyper may never ask a body of known length for its end.
        if self.body.body.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.place = None;
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
        self.ended(EndedBy::Gateway);
    }

    const fn ended(&mut self, by: EndedBy) {
        if let Some(record) = &mut self.record {
            record.ended(by);
        }
    }
}

impl Body for ProviderBody {
    type Data = Bytes;
    type Error = PaceFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PaceFault>>> {
        if let Some(fault) = self.fault.take() {
            self.ended(EndedBy::Provider);
            return Poll::Ready(Some(Err(fault)));
        }
        match ready!(self.body.poll_data(context)) {
            Some(Ok(data)) => {
                if let Some(record) = &mut self.record {
                    record.passed(data.len());
                }
                self.finish_if_ended();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(fault)) => {
                self.connection = None;
                // Reported one poll later: hyper drops what it has not flushed when a body fails, and the
                // status and the data so far must go out first.
                self.fault = Some(fault);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.body.size_hint()
    }
}
