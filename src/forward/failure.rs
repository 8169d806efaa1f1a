//! Why one try gave no response head, whether it may be repeated, and what may be said of it.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::Request;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::body::{PaceFault, Upload};
use crate::audit::Transfer;
use crate::interaction::Effect;
use crate::policy::Permit;
use crate::refusal::{Reached, Refusal};

/// Why one try gave no response head.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// Not one byte was written; the request is given back.
    NotWritten(Box<Request<Upload>>),
    /// The connection failed under the request.
    Lost(hyper::Error),
    /// The consumer's own body failed.
    Upload(PaceFault),
    /// No response head in time.
    TimedOut,
    /// Interim responses without an end.
    Interims,
}

impl SendFailure {
    pub(super) fn of(mut error: TrySendError<Request<Upload>>, upload: Option<PaceFault>) -> Self {
        if let Some(request) = error.take_message() {
            return Self::NotWritten(Box::new(request));
        }
        if let Some(fault) = upload {
            return Self::Upload(fault);
        }
        Self::Lost(error.into_error())
    }

    /// Returns true if a request without a body that failed on a kept connection may be sent once more, on
    /// another.
    pub(super) fn may_be_repeated(&self, effect: Effect, sent_at: Instant) -> bool {
        match self {
            Self::Lost(_) => effect == Effect::Reads && self.is_of_dead_connection(sent_at),
            Self::NotWritten(_) | Self::Upload(_) | Self::TimedOut | Self::Interims => false,
        }
    }

    /// Returns true if a kept connection on which a request was sent at this moment is taken to have been dead
    /// by then, so that the failure says nothing of the provider: it closed at once, or the other end
    /// acknowledged nothing.
    pub(super) fn is_of_dead_connection(&self, sent_at: Instant) -> bool {
        let Self::Lost(cause) = self else { return false };
        sent_at.elapsed() < LOST_AT_ONCE || is_unacknowledged(cause)
    }

    /// Whether the provider said nothing to it.
    pub(super) const fn is_silence(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::TimedOut | Self::Interims)
    }

    /// What may truly be said: a write whose last byte was handed over may have been carried out.
    pub(super) fn refusal(&self, permit: &Permit, transfer: &Transfer) -> Refusal {
        let reached = match (permit.interaction().effect(), transfer.is_whole()) {
            (Effect::Reads, _) => Reached::Read,
            (Effect::Writes, true) => Reached::Unknown,
            (Effect::Writes, false) => Reached::NotSent,
        };
        let ods = &permit.provider().ods;
        match self {
            Self::NotWritten(_) => {
                transfer.nothing_sent();
                failed(permit, Reached::NotSent)
            }
            Self::Upload(PaceFault::Slow) => Refusal::BodyTimedOut,
            Self::Upload(PaceFault::Cut) => Refusal::BodyCut,
            Self::Lost(cause) => {
                tracing::warn!(%ods, cause = %ErrorChain(cause), "provider failed");
                failed(permit, reached)
            }
            Self::Interims => {
                tracing::warn!(%ods, "provider sends interim responses without an end");
                failed(permit, reached)
            }
            Self::TimedOut => {
                tracing::warn!(%ods, "provider did not answer in time");
                Refusal::ProviderTimedOut { reached }
            }
        }
    }
}

/// Returns true if the kernel gave a connection up since the other end did not acknowledge what was sent.
fn is_unacknowledged(error: &(dyn Error + 'static)) -> bool {
    use std::io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let mut kinds = causes.filter_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    kinds.any(|kind| matches!(kind, TimedOut | HostUnreachable | NetworkUnreachable))
}

/// An error with everything that caused it, for the log.
pub(super) struct ErrorChain<'a>(pub(super) &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let causes = std::iter::successors(self.0.source(), |&error| error.source());
        causes.take(CAUSES_MAX).try_for_each(|cause| write!(out, ": {cause}"))
    }
}

/// Limit: causes of one error that are logged.
const CAUSES_MAX: usize = 8;

/// A request that a provider did not answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Answer to the consumer.
    pub refusal: Refusal,
    /// True if a kept connection was dead, which says nothing of the provider.
    pub is_of_dead_connection: bool,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, is_of_dead_connection: false }
    }
}

/// A provider that was not reached, or broke off.
pub(super) fn failed(permit: &Permit, reached: Reached) -> Refusal {
    Refusal::ProviderFailed { url: permit.provider().printable_url(permit.interaction()), reached }
}

/// A kept connection that closes this soon after a request had been closed before it; later, the
/// provider had the request, and its consumer has no time for another.
const LOST_AT_ONCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("connection error")]
    struct OuterCause(#[source] io::Error);

    #[test]
    fn a_failure_is_logged_with_all_that_caused_it() {
        let alert =
            io::Error::new(io::ErrorKind::InvalidData, "received fatal alert: NoRenegotiation");
        let said = ErrorChain(&OuterCause(alert)).to_string();
        assert_eq!(said, "connection error: received fatal alert: NoRenegotiation");
    }

    #[test]
    fn what_the_kernel_gave_up_was_not_acknowledged_and_what_was_reset_may_have_been() {
        let timed_out = OuterCause(io::ErrorKind::TimedOut.into());
        assert!(is_unacknowledged(&timed_out), "{}", ErrorChain(&timed_out));
        let reset = OuterCause(io::ErrorKind::ConnectionReset.into());
        assert!(!is_unacknowledged(&reset), "{}", ErrorChain(&reset));
    }
}
