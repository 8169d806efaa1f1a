//! What an outcome says: which of several things that do not fit is the odd one, where a refusal is
//! already certain and its token tells an operator where to look; and how a provider is. Nothing here
//! lets anybody in.

use std::time::Duration;

use http::request::Parts;
use http::{Response, header};

use crate::breaker::AttemptResult;
use crate::claims::{self, Claims};
use crate::directory::Directory;
use crate::forward::Unanswered;
use crate::refusal::{MismatchedSide, Refusal};
use crate::target::Target;
use crate::tls::Peer;

/// Says which is the odd one when certificate and `Ssp-From` do not fit: an ASID that certificate and
/// token both disown, or the certificate.
///
/// Security: a certificate whose names nobody is known to have is answered as if the ASID were
/// another's, so that it is not told which ASIDs exist.
pub(super) fn explain_receiver_mismatch(
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

/// Whether the token's organisation is another consumer's or nobody's.
pub(super) fn explain_claim_mismatch(
    directory: &Directory,
    refusal: Refusal,
    claims: &Claims<'_>,
) -> Refusal {
    let unknown = !directory.knows_organisation(&claims.organisation);
    if unknown && refusal == Refusal::OrganisationMismatch {
        return Refusal::OrganisationUnknown;
    }
    refusal
}

/// Whether a target that is not the receiver's is another's or nobody's.
pub(super) fn explain_target_mismatch(
    directory: &Directory,
    refusal: Refusal,
    target: &Target<'_>,
) -> Refusal {
    match (refusal, target) {
        (Refusal::TargetVaries { root, cpa, url, .. }, Target::Url(inner))
            if !directory.knows_root_of(inner) =>
        {
            Refusal::TargetVaries { root, cpa, url, odd: MismatchedSide::Stray }
        }
        (other, _) => other,
    }
}

/// What an answer says of the provider that gave it, or did not. A 500 is an answer like any other: it
/// may be about one patient.
pub(super) fn verdict<B>(answer: &Result<Response<B>, Unanswered>) -> AttemptResult {
    let answer = match answer {
        Err(unanswered) if unanswered.is_of_dead_connection => return AttemptResult::Moot,
        answer => answer.as_ref().map_err(|unanswered| &unanswered.refusal),
    };
    match answer {
        Ok(response) if matches!(response.status().as_u16(), 502..=504) => {
            AttemptResult::Failed(retry_after(response))
        }
        Ok(_) => AttemptResult::Well,
        Err(Refusal::ProviderFailed { .. } | Refusal::ProviderTimedOut { .. }) => {
            AttemptResult::Failed(None)
        }
        Err(_) => AttemptResult::Moot,
    }
}

/// Limit: what a provider's own wish may spare it for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(value.trim().parse().ok()?).min(RETRY_AFTER_MAX))
}
