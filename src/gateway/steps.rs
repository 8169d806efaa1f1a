//! Steps of the decision that need the directory but wait for nothing: the path of a request and its dry run
//! take them.

use std::sync::Arc;

use http::request::Parts;

use super::diagnosis;
use crate::consumers::{self, Consumer};
use crate::directory::Directory;
use crate::policy;
use crate::refusal::Refusal;
use crate::registry::Sender;
use crate::tls::Peer;
use spine_types::OdsCode;
use spine_types::target::Target;

/// Checks that a consumer may be registered with a name of this certificate.
pub(super) fn check_known(directory: &Directory, peer: &Peer) -> Result<(), Refusal> {
    if directory.may_know(peer.names()) { Ok(()) } else { Err(Refusal::CertificateUnknown) }
}

/// Identifies the consumer by its certificate, or refines the refusal.
pub(super) fn identify(
    directory: &Directory,
    sender: Result<Arc<Sender>, Refusal>,
    peer: &Peer,
    head: &Parts,
) -> Result<Consumer, Refusal> {
    sender
        .and_then(|sender| consumers::identify(peer, sender))
        .map_err(|refusal| diagnosis::sender(directory, refusal, peer, head))
}

/// Checks the token's organisation, or refines the refusal.
pub(super) fn check_organisation(
    directory: &Directory,
    sender: &Sender,
    organisation: &OdsCode,
) -> Result<(), Refusal> {
    policy::check_organisation(sender, organisation)
        .map_err(|refusal| diagnosis::organisation(directory, refusal, organisation))
}

/// Returns true if a refusal could come from a registration that is no longer true, such as that of a practice
/// that has moved to another supplier.
pub(super) const fn may_be_outdated(refusal: &Refusal, target: &Target<'_>) -> bool {
    match target {
        // With the practice in the target, only the token shows which root the consumer knows.
        Target::Practice(_) => matches!(
            refusal,
            Refusal::TargetVaries { .. }
                | Refusal::ReceiverNotPractices
                | Refusal::AudienceMismatch { .. }
        ),
        Target::Url(_) => {
            matches!(refusal, Refusal::TargetVaries { .. } | Refusal::ReceiverNotPractices)
        }
    }
}
