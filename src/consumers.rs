//! Identification of consumers: a certificate and a claimed ASID become a [`Consumer`].

use std::sync::Arc;

use crate::refusal::Refusal;
use crate::registry::Sender;
use crate::tls::Peer;
use spine_types::CertificateName;

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
/// Returns a refusal if the certificate has none of the sender's registered names, or the sender has none.
pub fn identify(peer: &Peer, sender: Arc<Sender>) -> Result<Consumer, Refusal> {
    match peer.names().iter().find(|name| sender.names.contains(name)) {
        Some(name) => Ok(Consumer { sender, name: name.clone() }),
        None => Err(Refusal::CertificateNotSenders(sender.asid.clone())),
    }
}
