//! Identification of consumers: a certificate and a claimed ASID become a [`Consumer`].

use std::sync::Arc;

use crate::refusal::Refusal;
use crate::tls::Peer;
use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, OdsCode};

/// Directory entry of a system that may send requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// ASID of the system.
    pub asid: Asid,
    /// Names of which its certificate must have one; several senders may share a name.
    pub names: Vec<CertificateName>,
    /// Organisation that the system is registered for.
    pub ods: OdsCode,
    /// Other organisations that its tokens may name.
    pub on_behalf_of: Vec<OdsCode>,
    /// Interactions that it may initiate.
    pub interactions: Vec<&'static Interaction>,
}

/// Sender whose certificate has been verified to be its own.
#[derive(Debug, Clone)]
pub struct Consumer {
    sender: Arc<Sender>,
    name: CertificateName,
}

impl Consumer {
    /// Returns the sender's directory entry.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Returns the certificate name by which the consumer was identified.
    #[must_use]
    pub const fn name(&self) -> &CertificateName {
        &self.name
    }
}

/// Identifies the consumer by a certificate name that is registered for the sender.
///
/// Spec: the FQDN in the certificate is checked against the FQDN registered for `Ssp-From`.
///
/// # Errors
/// Returns a refusal if the certificate has none of the sender's names; always, if none is registered.
pub fn identify(peer: &Peer, sender: Arc<Sender>) -> Result<Consumer, Refusal> {
    match peer.names().iter().find(|name| sender.names.contains(name)) {
        Some(name) => Ok(Consumer { sender, name: name.clone() }),
        None => Err(Refusal::CertificateNotSenders(sender.asid.clone())),
    }
}
