//! Diagnosis of outcomes: which of several mismatched values is the odd one, once a request is already
//! refused, and what an answer says about the health of a provider. Nothing here lets a request in.

use std::time::Duration;

use http::request::Parts;
use http::{Response, header};

use crate::breaker::AttemptResult;
use crate::claims;
use crate::directory::Directory;
use crate::forward::Unanswered;
use crate::refusal::{MismatchedSide, Refusal};
use crate::tls::Peer;
use spine_types::OdsCode;
use spine_types::target::Target;

/// Refines a mismatch of certificate and `Ssp-From`: the ASID is the odd one if the token's organisation is
/// that of the certificate, otherwise the certificate is.
///
/// Security: a certificate with unknown names is answered as if the ASID belonged to another consumer, so
/// that its owner cannot find out which ASIDs exist.
pub(super) fn sender(
    directory: &Directory,
    refusal: Refusal,
    peer: &Peer,
    head: &Parts,
) -> Refusal {
    let (Refusal::SenderUnknown(from) | Refusal::CertificateNotSenders(from)) = &refusal else {
        return refusal;
    };
    if matches!(refusal, Refusal::SenderUnknown(_)) && directory.knows(peer.names()) {
        return refusal;
    }
    let from = from.clone();
    match claims::organisation(&head.headers) {
        Some(ods) if directory.are_names_of(peer.names(), &ods) => {
            Refusal::SenderNotCertificates(from)
        }
        _ => Refusal::CertificateNotSenders(from),
    }
}

/// Refines an organisation mismatch: distinguishes an organisation of another consumer from an unknown one.
pub(super) fn organisation(
    directory: &Directory,
    refusal: Refusal,
    organisation: &OdsCode,
) -> Refusal {
    let unknown = !directory.knows_organisation(organisation);
    if unknown && refusal == Refusal::OrganisationMismatch {
        return Refusal::OrganisationUnknown;
    }
    refusal
}

/// Refines a target mismatch: distinguishes the target of another registration from an unregistered one.
pub(super) fn target(directory: &Directory, refusal: Refusal, target: &Target<'_>) -> Refusal {
    match (refusal, target) {
        (Refusal::TargetVaries { root, cpa, url, .. }, Target::Url(inner))
            if !directory.knows_root_of(inner) =>
        {
            Refusal::TargetVaries { root, cpa, url, odd: MismatchedSide::UnknownTarget }
        }
        (other, _) => other,
    }
}

/// Rates an exchange for the provider's circuit breaker. A status of 500 counts as a success, since its cause
/// may be a single patient's data.
pub(super) fn verdict<B>(answer: &Result<Response<B>, Unanswered>) -> AttemptResult {
    let answer = match answer {
        Err(unanswered) if unanswered.is_of_dead_connection => return AttemptResult::Inconclusive,
        answer => answer.as_ref().map_err(|unanswered| &unanswered.refusal),
    };
    match answer {
        Ok(response) if matches!(response.status().as_u16(), 502..=504) => {
            AttemptResult::Failed(retry_after(response))
        }
        Ok(_) => AttemptResult::Succeeded,
        Err(Refusal::ProviderFailed { .. } | Refusal::ProviderTimedOut { .. }) => {
            AttemptResult::Failed(None)
        }
        Err(_) => AttemptResult::Inconclusive,
    }
}

/// Describes the result of an attempt, for the log.
pub(super) fn last_result<B>(answer: &Result<Response<B>, Unanswered>) -> String {
    match answer {
        Ok(response) => format!("status {}", response.status().as_u16()),
        Err(unanswered) => {
            unanswered.cause.clone().unwrap_or_else(|| unanswered.refusal.row().token.to_owned())
        }
    }
}

/// Limit: time for which a provider's `Retry-After` may keep its circuit open.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Reads `Retry-After` in seconds, at most [`RETRY_AFTER_MAX`].
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(value.trim().parse().ok()?).min(RETRY_AFTER_MAX))
}
