//! Pace at which a consumer takes its answers: one that is too slow, or takes nothing, does not hold its
//! connection for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Reason why the proxy ends a connection, as an [`io::Error`] carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PaceBreach {
    /// A head did not end in time.
    #[error("the request's head did not end in time")]
    Head,
    /// An answer was not taken in time.
    #[error("the consumer did not take the answer in time")]
    Write,
    /// Frames that carry nothing came in excess.
    #[error("too many frames that carry nothing")]
    Frames,
}

impl From<PaceBreach> for io::Error {
    fn from(breach: PaceBreach) -> Self {
        let kind = match breach {
            PaceBreach::Head | PaceBreach::Write => io::ErrorKind::TimedOut,
            PaceBreach::Frames => io::ErrorKind::QuotaExceeded,
        };
        Self::new(kind, breach)
    }
}

/// Pace at which answers must be taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct PaceLimits {
    /// Time that writes wait, all in all, until the pace is checked and counted anew.
    pub(super) stall: Duration,
    /// Bytes per second that must have been taken over that time, or the connection ends.
    pub(super) rate_min: u32,
}

impl PaceLimits {
    fn bytes_due(self) -> u64 {
        let stall_ms = u64::try_from(self.stall.as_millis()).unwrap_or(u64::MAX);
        (stall_ms.saturating_mul(u64::from(self.rate_min)) / 1000).max(1)
    }
}

/// Pace of the writes on one connection.
#[derive(Debug)]
pub(super) struct WritePace {
    limits: PaceLimits,
    /// Bytes taken since the pace was last checked.
    taken: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl WritePace {
    pub(super) const fn new(limits: PaceLimits) -> Self {
        Self { limits, taken: 0, waited: Duration::ZERO, waiting_since: None, timer: None }
    }

    /// Returns true while something that was to be written waits for the consumer.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }

    /// Returns the result of a write, or an error if the consumer takes answers too slowly.
    pub(super) fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(Ok(done)) = &polled {
            self.taken += u64::try_from(bytes(done)).unwrap_or(u64::MAX);
        }
        if polled.is_ready() {
            if let Some(since) = self.waiting_since.take() {
                self.waited += since.elapsed();
                self.timer = None;
            }
            return polled;
        }
        self.waiting_since.get_or_insert_with(Instant::now);
        loop {
            let left = self.limits.stall.saturating_sub(self.waited);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if self.taken < self.limits.bytes_due() {
                return Poll::Ready(Err(PaceBreach::Write.into()));
            }
            (self.taken, self.waited) = (0, Duration::ZERO);
            (self.waiting_since, self.timer) = (Some(Instant::now()), None);
        }
    }
}
