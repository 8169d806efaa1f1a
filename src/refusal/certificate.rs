//! Faults of a certificate chain, in texts that are safe for consumers, logs and records.

use super::Refusal;

/// Reason for which a certificate chain is not accepted (RFC 5280 §6).
///
/// Any distinguished name in it is that of an issuer, in printable ASCII, at most 128 bytes, with ten-digit
/// numbers masked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// The chain has too many certificates or bytes.
    #[error("its chain has more than 8 certificates or 16 KiB")]
    ChainTooLong,
    /// The certificates are not in the order of issue.
    #[error(
        "each certificate of its chain must be issued by the one sent after it, under a name of its own"
    )]
    ChainOrder,
    /// A certificate in the chain is malformed.
    #[error("a certificate of its chain cannot be parsed")]
    Malformed,
    /// The chain does not lead to a configured authority.
    #[error("no accepted authority has issued it; its issuer is {0}")]
    UnknownIssuer(Box<str>),
    /// A signature was not made with its issuer's key, or with a rejected algorithm.
    #[error("a signature in its chain is not its issuer's, or its algorithm is not accepted")]
    Signature,
    /// A certificate whose `notAfter` has passed.
    #[error("a certificate of its chain has expired")]
    Expired,
    /// A certificate whose `notBefore` is to come.
    #[error("a certificate of its chain is not valid yet")]
    NotYetValid,
    /// Key usage or extended key usage does not allow this use.
    #[error("its key usage or extended key usage does not allow this use")]
    Usage,
    /// An issuer in the chain may not issue it: it is no CA, the chain is too long for it, or a name is
    /// outside its name constraints.
    #[error(
        "an issuer in its chain may not issue it (basic constraints, key usage, name constraints)"
    )]
    IssuerConstraint,
    /// A server's certificate is for another name.
    #[error("it is not for the name {0}")]
    Name(Box<str>),
    /// A serial number is on its issuer's revocation list.
    #[error("it, or an issuer in its chain, is on the revocation list of {0}")]
    Revoked(Box<str>),
    /// A certificate is not covered by any usable revocation list.
    #[error("no revocation list of {0} covers it")]
    NoList(Box<str>),
    /// The revocation lists that cover a certificate are past their next update.
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
