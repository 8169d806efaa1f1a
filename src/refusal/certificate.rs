//! Faults of a certificate chain, in words that a consumer, an operator and a record may hold.

use super::Refusal;

/// The reason why a certificate chain is not accepted (RFC 5280 §6).
///
/// A distinguished name in it is an issuer's, printable ASCII, at most 128 bytes, ten-digit runs
/// masked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// More certificates or bytes than a chain may have.
    #[error("its chain has more than 8 certificates or 16 KiB")]
    ChainTooLong,
    /// The certificates do not follow one another.
    #[error(
        "each certificate of its chain must be issued by the one sent after it, under a name of its own"
    )]
    ChainOrder,
    /// A certificate that is not one.
    #[error("a certificate of its chain cannot be parsed")]
    Malformed,
    /// No path leads to a configured authority.
    #[error("no accepted authority has issued it; its issuer is {0}")]
    UnknownIssuer(Box<str>),
    /// A signature that its issuer's key did not make.
    #[error("a signature in its chain is not its issuer's, or its algorithm is not accepted")]
    Signature,
    /// A certificate whose `notAfter` has passed.
    #[error("a certificate of its chain has expired")]
    Expired,
    /// A certificate whose `notBefore` is to come.
    #[error("a certificate of its chain is not valid yet")]
    NotYetValid,
    /// Key usage or extended key usage of the certificate.
    #[error("its key usage or extended key usage does not allow this use")]
    Usage,
    /// An issuer in the chain that may not issue it: no CA, too deep, outside its name constraints.
    #[error(
        "an issuer in its chain may not issue it (basic constraints, key usage, name constraints)"
    )]
    IssuerConstraint,
    /// A server's certificate for another name.
    #[error("it is not for the name {0}")]
    Name(Box<str>),
    /// A serial number on its issuer's revocation list.
    #[error("it, or an issuer in its chain, is on the revocation list of {0}")]
    Revoked(Box<str>),
    /// No usable list covers it.
    #[error("no revocation list of {0} covers it")]
    NoList(Box<str>),
    /// The lists that cover it are past their next update.
    #[error("the revocation list of {0} is overdue")]
    ListOverdue(Box<str>),
}

impl From<CertificateFault> for Refusal {
    fn from(fault: CertificateFault) -> Self {
        use CertificateFault as Fault;
        match fault {
            Fault::Expired | Fault::NotYetValid => Self::CertificateExpired(fault),
            Fault::Revoked(_) => Self::CertificateRevoked(fault),
            Fault::NoList(_) | Fault::ListOverdue(_) => Self::CertificateStatusUnknown(fault),
            Fault::ChainTooLong
            | Fault::ChainOrder
            | Fault::Malformed
            | Fault::UnknownIssuer(_)
            | Fault::Signature
            | Fault::Usage
            | Fault::IssuerConstraint
            | Fault::Name(_) => Self::CertificateInvalid(fault),
        }
    }
}
