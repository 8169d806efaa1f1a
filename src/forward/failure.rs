//! Failures of one attempt to send a request: whether it may be repeated, and what may be said about it.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::Request;
use hyper::client::conn::TrySendError;
use rustls::CertificateError;
use tokio::time::Instant;

use super::body::{PaceFault, Upload};
use crate::audit::Transfer;
use crate::policy::Permit;
use crate::refusal::{Reached, Refusal};
use spine_types::interaction::Effect;

/// Reason why one attempt got no response head.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// Not one byte was written; the request is given back.
    NotWritten(Box<Request<Upload>>),
    /// The connection failed after the request was written in part or whole.
    Lost(hyper::Error),
    /// The consumer's own body failed.
    Upload(PaceFault),
    /// The response head did not come in time.
    TimedOut,
    /// Interim responses came without an end.
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

    /// Returns true if a kept connection is taken to have been dead when a request was sent on it at this
    /// moment, so that the failure says nothing about the provider.
    ///
    /// That is so if it closed at once, or the other end acknowledged nothing.
    pub(super) fn is_of_dead_connection(&self, sent_at: Instant) -> bool {
        let Self::Lost(cause) = self else { return false };
        sent_at.elapsed() < LOST_AT_ONCE || is_unacknowledged(cause)
    }

    /// Returns true if the provider gave no answer.
    pub(super) const fn is_silence(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::TimedOut | Self::Interims)
    }

    /// Returns the refusal, which says no more than is known: a write whose last byte was handed over may
    /// have been carried out.
    pub(super) fn unanswered(&self, permit: &Permit, transfer: &Transfer) -> Unanswered {
        let reached = match (permit.interaction().effect(), transfer.is_whole()) {
            (Effect::Reads, _) => Reached::Read,
            (Effect::Writes, true) => Reached::Unknown,
            (Effect::Writes, false) => Reached::NotSent,
        };
        let (refusal, cause) = match self {
            Self::NotWritten(_) => {
                transfer.nothing_sent();
                let cause = "the connection could not be written to".to_owned();
                (failed(permit, Reached::NotSent), cause)
            }
            Self::Upload(PaceFault::Slow) => return Refusal::BodyTimedOut.into(),
            Self::Upload(PaceFault::Cut) => return Refusal::BodyCut.into(),
            Self::Lost(cause) => {
                let cause = ErrorChain(cause);
                (
                    failed(permit, reached),
                    format!("the connection failed before the answer: {cause}"),
                )
            }
            Self::Interims => {
                (failed(permit, reached), "it sent too many interim responses".to_owned())
            }
            Self::TimedOut => {
                (Refusal::ProviderTimedOut { reached }, "it did not answer in time".to_owned())
            }
        };
        Unanswered { refusal, cause: Some(cause), is_of_dead_connection: false }
    }
}

/// Returns true if the kernel gave a connection up because the other end did not acknowledge what was sent.
fn is_unacknowledged(error: &(dyn Error + 'static)) -> bool {
    use std::io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let mut kinds = causes.filter_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    kinds.any(|kind| matches!(kind, TimedOut | HostUnreachable | NetworkUnreachable))
}

/// Displays an error with all its causes, for the log.
pub(super) struct ErrorChain<'a>(pub(super) &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&text(self.0))?;
        let causes = std::iter::successors(self.0.source(), |&error| error.source());
        causes.take(CAUSES_MAX).try_for_each(|cause| write!(out, ": {}", text(cause)))
    }
}

/// Returns the text of an error; of a certificate that this proxy refuses, the text of its own fault, which
/// rustls shows as Rust code.
fn text(error: &(dyn Error + 'static)) -> String {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let error: &(dyn Error + 'static) = match inner {
        Some(inner) => inner,
        None => error,
    };
    match error.downcast_ref() {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(fault))) => {
            format!("invalid peer certificate: {}", fault.0)
        }
        _ => error.to_string(),
    }
}

/// Limit: causes of one error that are logged.
const CAUSES_MAX: usize = 8;

/// A request that a provider did not answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Refusal that the consumer is answered with.
    pub refusal: Refusal,
    /// Failure of the provider with what caused it, for the log; `None` if the provider did not fail.
    pub cause: Option<String>,
    /// True if a kept connection was dead, which says nothing of the provider.
    pub is_of_dead_connection: bool,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, cause: None, is_of_dead_connection: false }
    }
}

/// Returns the refusal for a provider that was not reached, or broke off.
pub(super) fn failed(permit: &Permit, reached: Reached) -> Refusal {
    Refusal::ProviderFailed { url: permit.provider().printable_url(permit.interaction()), reached }
}

/// Time within which a kept connection that closes after a request is taken to have been closed before it.
///
/// Later, the provider had the request, and its consumer has no time for another.
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
