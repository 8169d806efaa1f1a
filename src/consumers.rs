//! Who is calling: a certificate and a claimed ASID become a [`Consumer`].

use std::sync::Arc;

use crate::interaction::Interaction;
use crate::refusal::Refusal;
use crate::spine::{Asid, CertificateName, OdsCode};
use crate::tls::Peer;

/// What the directory knows of a sending system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The system's ASID.
    pub asid: Asid,
    /// Names its certificate may have: one certificate may speak for many ASIDs.
    pub names: Vec<CertificateName>,
    /// The organisation the system is registered for.
    pub ods: OdsCode,
    /// Organisations besides its own that its tokens may name.
    pub on_behalf_of: Vec<OdsCode>,
    /// The interactions it may initiate.
    pub interactions: Vec<&'static Interaction>,
}

/// A sender whose certificate has been shown.
#[derive(Debug, Clone)]
pub struct Consumer {
    sender: Arc<Sender>,
    name: CertificateName,
}

impl Consumer {
    /// The registered system.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The certificate name by which it was identified.
    #[must_use]
    pub const fn name(&self) -> &CertificateName {
        &self.name
    }
}

/// Identifies the consumer: one of the certificate's names is one of the sender's.
///
/// Spec: the FQDN in the certificate is checked against the FQDN registered for `Ssp-From`. No name
/// registered means refused, never passed.
pub fn identify(peer: &Peer, sender: Arc<Sender>) -> Result<Consumer, Refusal> {
    match peer.names().iter().find(|name| sender.names.contains(name)) {
        Some(name) => Ok(Consumer { sender, name: name.clone() }),
        None => Err(Refusal::CertificateNotSenders(sender.asid.clone())),
    }
}
