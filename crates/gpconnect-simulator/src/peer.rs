//! Check of client certificates against the expected names.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use spine_types::CertificateName;

/// Reason to refuse every request on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerRefusal {
    /// Client certificate without any of the expected names.
    UnexpectedName,
    /// Missing client certificate.
    NoCertificate,
}

impl PeerRefusal {
    /// Returns the status, as `nginx` uses it, and the diagnostics.
    pub(super) fn status_and_diagnostics(self) -> (u16, &'static str) {
        match self {
            Self::UnexpectedName => (495, "the client certificate has none of the expected names"),
            Self::NoCertificate => (496, "a client certificate is required"),
        }
    }
}

/// Checks the certificates that a client has presented; an empty `peers` admits every client.
pub(super) fn judge(
    presented: Option<&[CertificateDer<'_>]>,
    peers: &[CertificateName],
) -> Result<(), PeerRefusal> {
    if peers.is_empty() {
        return Ok(());
    }
    let leaf = presented.and_then(<[_]>::first).ok_or(PeerRefusal::NoCertificate)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| PeerRefusal::UnexpectedName)?;
    let expected = |name: &&str| peers.iter().any(|peer| peer.as_str().eq_ignore_ascii_case(name));
    names(&leaf).iter().any(expected).then_some(()).ok_or(PeerRefusal::UnexpectedName)
}

/// Returns the DNS names of a certificate, or its common names if it has none.
fn names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let general = extension.iter().flat_map(|found| &found.value.general_names);
    let dns: Vec<&str> = general
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None })
        .collect();
    if dns.is_empty() {
        let common = certificate.subject().iter_common_name();
        common.filter_map(|name| name.as_str().ok()).collect()
    } else {
        dns
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn made(names: &[&str], common: &str) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn names_are_dns_names_or_without_any_the_common_name() {
        let peers = ["proxy.test".parse().unwrap(), "spare.test".parse().unwrap()];
        let checked = |certificate: CertificateDer<'static>| judge(Some(&[certificate]), &peers);
        assert_eq!(checked(made(&["other.test", "Spare.TEST"], "x")), Ok(()));
        assert_eq!(checked(made(&[], "Proxy.Test")), Ok(()));
        assert_eq!(checked(made(&["192.0.2.1"], "proxy.test")), Ok(()));
        assert_eq!(checked(made(&["other.test"], "proxy.test")), Err(PeerRefusal::UnexpectedName));
        assert_eq!(checked(made(&[], "other.test")), Err(PeerRefusal::UnexpectedName));
        assert_eq!(checked(CertificateDer::from(vec![1, 2, 3])), Err(PeerRefusal::UnexpectedName));
        assert_eq!(judge(Some(&[]), &peers), Err(PeerRefusal::NoCertificate));
        assert_eq!(judge(None, &peers), Err(PeerRefusal::NoCertificate));
        assert_eq!(judge(None, &[]), Ok(()));
    }
}
