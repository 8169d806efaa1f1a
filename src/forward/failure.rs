//! Why one try gave no response head, whether it may be repeated, and what may be said of it.

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
pub(super) enum Failure {
    /// Not one byte was written; the request is given back.
    NotWritten(Box<Request<Upload>>),
    /// The provider says that it did not look at the request.
    Unprocessed,
    /// The connection failed under the request.
    Lost(hyper::Error),
    /// The consumer's own body failed.
    Upload(PaceFault),
    /// No response head in time.
    TimedOut,
    /// Interim responses without an end.
    Interims,
}

impl Failure {
    pub(super) fn of(mut error: TrySendError<Request<Upload>>, upload: Option<PaceFault>) -> Self {
        if let Some(request) = error.take_message() {
            return Self::NotWritten(Box::new(request));
        }
        if let Some(fault) = upload {
            return Self::Upload(fault);
        }
        let error = error.into_error();
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        match cause {
            // Spec: RFC 9113 §8.7. Such a request may be repeated, whatever it does.
            Some(h2) if is_unprocessed(h2) => Self::Unprocessed,
            _ => Self::Lost(error),
        }
    }

    /// Whether a request without a body may be sent once more, on another connection.
    pub(super) fn may_be_repeated(&self, effect: Effect, reused: bool, sent_at: Instant) -> bool {
        match self {
            Self::Unprocessed => reused,
            Self::Lost(_) => reused && effect == Effect::Reads && sent_at.elapsed() < LOST_AT_ONCE,
            Self::NotWritten(_) | Self::Upload(_) | Self::TimedOut | Self::Interims => false,
        }
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
            Self::NotWritten(_) | Self::Unprocessed => {
                transfer.nothing_sent();
                failed(permit, Reached::NotSent)
            }
            Self::Upload(PaceFault::Slow) => Refusal::BodyTimedOut,
            Self::Upload(PaceFault::Cut) => Refusal::BodyCut,
            Self::Lost(cause) => {
                tracing::warn!(%ods, %cause, "provider failed");
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

/// A stream that was refused, or that a departing provider says it never looked at.
fn is_unprocessed(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (is_refused || error.is_go_away())
}

/// A provider that was not reached, or broke off.
pub(super) fn failed(permit: &Permit, reached: Reached) -> Refusal {
    Refusal::ProviderFailed { url: permit.provider().printable_url(permit.interaction()), reached }
}

/// A kept connection that closes this soon after a request had been closed before it; later, the
/// provider had the request, and its consumer has no time for another.
const LOST_AT_ONCE: Duration = Duration::from_secs(1);
