//! Which of several things that do not fit is the odd one: a refusal is already certain, and its
//! token tells an operator where to look. Nothing here lets anybody in.

use http::request::Parts;

use crate::claims::{self, Claims};
use crate::directory::Directory;
use crate::refusal::{OddOne, Refusal};
use crate::target::Target;
use crate::tls::Peer;

/// Which is the odd one when certificate and `Ssp-From` do not fit: a certificate nobody has,
/// an ASID that certificate and token both disown, or the certificate.
pub(super) fn misfit(
    directory: &Directory,
    refusal: Refusal,
    peer: &Peer,
    head: &Parts,
) -> Refusal {
    let Refusal::CertificateNotSenders(from) = refusal else { return refusal };
    if !directory.knows_any(peer.names()) {
        return Refusal::CertificateUnknown;
    }
    match claims::organisation(&head.headers) {
        Some(ods) if directory.are_names_of(peer.names(), &ods) => {
            Refusal::SenderNotCertificates(from)
        }
        _ => Refusal::CertificateNotSenders(from),
    }
}

/// Whether the token's organisation is another consumer's or nobody's.
pub(super) fn misnamed(directory: &Directory, refusal: Refusal, claims: &Claims) -> Refusal {
    let unknown = !directory.knows_organisation(&claims.organisation);
    if unknown && refusal == Refusal::OrganisationMismatch {
        return Refusal::OrganisationUnknown;
    }
    refusal
}

/// Whether a target that is not the receiver's is another's or nobody's.
pub(super) fn misdirected(directory: &Directory, refusal: Refusal, target: &Target<'_>) -> Refusal {
    match (refusal, target) {
        (Refusal::TargetVaries { root, cpa, url, .. }, Target::Url(inner))
            if !directory.knows_root_of(inner) =>
        {
            Refusal::TargetVaries { root, cpa, url, odd: OddOne::Stray }
        }
        (other, _) => other,
    }
}
