//! Verification of certificate chains (RFC 5280 §6): limits, path, key usage, revocation, names.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::X509Name;

use super::files::Issued;
use super::revocation::RevocationLists;
use crate::refusal::CertificateFault;
use spine_types::{CertificateName, masked};

/// Maximum number of certificates in a chain.
pub(super) const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Maximum size of a chain, in bytes of DER.
pub(super) const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// Maximum length of a distinguished name in texts, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Configured authority (trust anchor) with the file that it comes from.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) path: PathBuf,
    pub(super) text: Box<str>,
    pub(super) subject: Box<[u8]>,
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) issuer: KnownIssuer,
}

/// Owned copy of an [`Issuer`], which outlives the chain that it was seen in.
#[derive(Debug, Clone)]
pub(super) struct KnownIssuer {
    certificate: CertificateDer<'static>,
    public_key: Box<[u8]>,
    key_id: Option<Box<[u8]>>,
    signs_lists: bool,
}

impl KnownIssuer {
    pub(super) fn issuer(&self) -> Issuer<'_> {
        Issuer {
            certificate: &self.certificate,
            public_key: &self.public_key,
            key_id: self.key_id.as_deref(),
            signs_lists: self.signs_lists,
        }
    }
}

impl Issuer<'_> {
    pub(super) fn known(&self) -> KnownIssuer {
        KnownIssuer {
            certificate: self.certificate.clone().into_owned(),
            public_key: self.public_key.into(),
            key_id: self.key_id.map(Into::into),
            signs_lists: self.signs_lists,
        }
    }
}

/// Issuer of a certificate: the fields that its revocation lists must match.
pub(super) struct Issuer<'a> {
    pub(super) certificate: &'a CertificateDer<'a>,
    /// Public key: `SubjectPublicKeyInfo` in DER.
    pub(super) public_key: &'a [u8],
    pub(super) key_id: Option<&'a [u8]>,
    /// True if key usage allows signing revocation lists, or is absent.
    pub(super) signs_lists: bool,
}

impl Authority {
    /// Parses the certificate of an authority; returns it with its name and its expiry in seconds since 1970.
    ///
    /// # Errors
    /// Returns a text if the certificate cannot be parsed or may not issue certificates.
    pub(super) fn read(
        path: PathBuf,
        certificate: &CertificateDer<'static>,
    ) -> Result<(Self, Issued, i64), String> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let text = name_text(parsed.subject());
        if !is_ca(&parsed) {
            return Err(format!(
                "the certificate of {text} is not an authority's (basicConstraints is not CA)"
            ));
        }
        if !allows(&parsed, x509_parser::extensions::KeyUsage::key_cert_sign) {
            return Err(format!("the key usage of {text} does not allow it to sign certificates"));
        }
        let ends_s = parsed.validity().not_after.timestamp();
        let anchor = webpki::anchor_from_trusted_cert(certificate);
        let authority = Self {
            path,
            text,
            anchor: anchor.map_err(|error| error.to_string())?.to_owned(),
            subject: parsed.subject().as_raw().into(),
            issuer: KnownIssuer {
                public_key: parsed.public_key().raw.into(),
                key_id: key_id(&parsed).map(Into::into),
                signs_lists: allows(&parsed, x509_parser::extensions::KeyUsage::crl_sign),
                certificate: certificate.clone(),
            },
        };
        Ok((authority, Issued::certificate(&parsed), ends_s))
    }
}

/// Authorities of one leg, also as the library's store of trust anchors.
#[derive(Debug)]
pub(super) struct Authorities {
    pub(super) each: Vec<Authority>,
    pub(super) roots: Arc<RootCertStore>,
}

/// Verifier of the certificate chains of one leg.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    pub(super) authorities: Arc<Authorities>,
    /// Revocation lists; `None` if revocation is not checked.
    pub(super) lists: Option<Arc<RevocationLists>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Result of verifying a chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct VerifiedChain {
    /// Time in seconds since 1970 at which a certificate or revocation list in the path expires.
    pub(super) until_s: i64,
    /// True if an issuer in the path has name constraints.
    pub(super) constrained: bool,
}

impl ChainVerifier {
    /// Verifies a chain, leaf first: limits, order, path to an authority, dates, key usage,
    /// revocation of every certificate in the path.
    ///
    /// # Errors
    /// Returns the first fault found; revocation is checked last.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: KeyUsage,
        now_s: i64,
    ) -> Result<VerifiedChain, CertificateFault> {
        within_limits(chain)?;
        let certificates = parsed(chain)?;
        let (Some((leaf, issuers)), Some(first)) = (chain.split_first(), certificates.first())
        else {
            return Err(CertificateFault::Malformed);
        };
        if !allows(first, x509_parser::extensions::KeyUsage::digital_signature) {
            return Err(CertificateFault::Usage);
        }
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| CertificateFault::Malformed)?;
        let seconds = std::time::Duration::from_secs(u64::try_from(now_s).unwrap_or_default());
        let now = UnixTime::since_unix_epoch(seconds);
        let (accepted, refused) = (Cell::new(None), Cell::new(None));
        let judge = |path: &VerifiedPath<'_>| match self.check_path(&certificates, path, now_s) {
            Ok(path) => {
                accepted.set(Some(path));
                Ok(())
            }
            Err(fault) => {
                refused.set(Some(fault));
                Err(webpki::Error::UnknownRevocationStatus)
            }
        };
        let verified = leaf.verify_for_usage(
            self.algorithms.all,
            &self.authorities.roots.roots,
            issuers,
            now,
            usage,
            None,
            Some(&judge),
        );
        match (verified, accepted.take(), refused.take()) {
            (Ok(_), Some(accepted), _) => Ok(accepted),
            (_, _, Some(fault)) => Err(fault),
            (Err(error), ..) => Err(fault(&error, first)),
            (Ok(_), None, None) => Err(CertificateFault::Malformed),
        }
    }

    /// Checks key usage and revocation of a path to an authority; path building has checked all else.
    fn check_path(
        &self,
        certificates: &[X509Certificate<'_>],
        path: &VerifiedPath<'_>,
        now_s: i64,
    ) -> Result<VerifiedChain, CertificateFault> {
        // The chain is in order and no name occurs twice, so a path can only be a prefix of it.
        let length = 1 + path.intermediate_certificates().count();
        let path_certificates = certificates.get(..length).ok_or(CertificateFault::Malformed)?;
        let anchor = path.anchor();
        let authority = self.authorities.each.iter().find(|one| one.anchor == *anchor);
        let authority = authority.ok_or(CertificateFault::Malformed)?;
        let issuers = path_certificates.get(1..).ok_or(CertificateFault::Malformed)?;
        if !issuers
            .iter()
            .all(|issuer| allows(issuer, x509_parser::extensions::KeyUsage::key_cert_sign))
        {
            return Err(CertificateFault::IssuerConstraint);
        }
        let ends = path_certificates.iter().map(|one| one.validity().not_after.timestamp());
        let mut until_s = ends.min().unwrap_or(i64::MAX);
        if let Some(lists) = &self.lists {
            let ders: Vec<_> = path.intermediate_certificates().map(webpki::Cert::der).collect();
            for (at, certificate) in path_certificates.iter().enumerate() {
                let issuer = match (issuers.get(at), ders.get(at)) {
                    (Some(issuer), Some(der)) => Issuer {
                        certificate: der,
                        public_key: issuer.public_key().raw,
                        key_id: key_id(issuer),
                        signs_lists: allows(issuer, x509_parser::extensions::KeyUsage::crl_sign),
                    },
                    _ => authority.issuer.issuer(),
                };
                until_s = until_s.min(lists.check(certificate, &issuer, now_s)?);
            }
        }
        let constrained =
            anchor.name_constraints.is_some() || issuers.iter().any(has_name_constraints);
        Ok(VerifiedChain { until_s, constrained })
    }
}

/// Refuses a chain that is too long, before any of it is parsed.
fn within_limits(chain: &[CertificateDer<'_>]) -> Result<(), CertificateFault> {
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if chain.len() > CHAIN_CERTIFICATES_MAX || bytes > CHAIN_BYTES_MAX {
        return Err(CertificateFault::ChainTooLong);
    }
    Ok(())
}

/// Parses a chain in which each certificate is issued by the next and no subject occurs twice.
///
/// Such a chain has at most one path, so that path building needs no search.
fn parsed<'a>(
    chain: &'a [CertificateDer<'_>],
) -> Result<Vec<X509Certificate<'a>>, CertificateFault> {
    let mut certificates: Vec<X509Certificate<'a>> = Vec::with_capacity(chain.len());
    for certificate in chain {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateFault::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateFault::Malformed);
        }
        let subject = parsed.subject().as_raw();
        let follows = certificates.last().is_none_or(|before| before.issuer().as_raw() == subject);
        if !follows || certificates.iter().any(|before| before.subject().as_raw() == subject) {
            return Err(CertificateFault::ChainOrder);
        }
        certificates.push(parsed);
    }
    Ok(certificates)
}

fn fault(error: &webpki::Error, leaf: &X509Certificate<'_>) -> CertificateFault {
    use webpki::Error;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may add errors; unknown ones are mapped together"
    )]
    match error {
        Error::CertExpired { .. } | Error::InvalidCertValidity => CertificateFault::Expired,
        Error::CertNotValidYet { .. } => CertificateFault::NotYetValid,
        Error::UnknownIssuer => CertificateFault::UnknownIssuer(name_text(leaf.issuer())),
        Error::RequiredEkuNotFoundContext(_)
        | Error::EmptyEkuExtension
        | Error::CaUsedAsEndEntity => CertificateFault::Usage,
        Error::InvalidSignatureForPublicKey
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Error::SignatureAlgorithmMismatch => CertificateFault::Signature,
        Error::EndEntityUsedAsCa
        | Error::NameConstraintViolation
        | Error::PathLenConstraintViolated
        | Error::MaximumPathDepthExceeded => CertificateFault::IssuerConstraint,
        _ => CertificateFault::Malformed,
    }
}

/// Returns true if basic constraints mark the certificate as an authority's.
pub(super) fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|found| found.value.ca)
}

/// Returns the subject key identifier, if there is one.
pub(super) fn key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        Some(id.0)
    })
}

/// Returns true if key usage has this bit, or is absent (RFC 5280 §4.2.1.3).
fn allows(
    certificate: &X509Certificate<'_>,
    bit: fn(&x509_parser::extensions::KeyUsage) -> bool,
) -> bool {
    match certificate.key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => bit(usage.value),
        Err(_) => false,
    }
}

fn has_name_constraints(certificate: &X509Certificate<'_>) -> bool {
    !matches!(certificate.name_constraints(), Ok(None))
}

/// Returns a distinguished name for texts: printable ASCII, at most 128 bytes, ten-digit runs masked.
pub(super) fn name_text(name: &X509Name<'_>) -> Box<str> {
    let text: String = name
        .to_string()
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect();
    masked(&text, NAME_BYTES_MAX).into()
}

/// Returns the names of a leaf in lower case, each once: DNS names of its SAN, else its CN.
///
/// The CN counts only if there is exactly one, the SAN has no DNS name, and no issuer in the path has name
/// constraints, since those are not compared with CNs.
pub(super) fn names(leaf: &X509Certificate<'_>, constrained: bool) -> Vec<CertificateName> {
    let mut names: Vec<CertificateName> = Vec::new();
    let common = if constrained { None } else { only_common_name(leaf) };
    for name in dns_names(leaf).unwrap_or_default().into_iter().chain(common) {
        if let Ok(name) = name.to_ascii_lowercase().parse()
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// Returns the CN if there is exactly one and the SAN has no DNS name.
pub(super) fn only_common_name<'a>(leaf: &'a X509Certificate<'_>) -> Option<&'a str> {
    if !dns_names(leaf).is_some_and(|names| names.is_empty()) {
        return None;
    }
    let mut common = leaf.subject().iter_common_name();
    match (common.next(), common.next()) {
        (Some(name), None) => name.as_str().ok(),
        _ => None,
    }
}

/// Returns the DNS names of the SAN; `None` if the SAN cannot be parsed.
fn dns_names<'a>(leaf: &'a X509Certificate<'_>) -> Option<Vec<&'a str>> {
    use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME as SAN;
    let mut names = Vec::new();
    for extension in leaf.extensions().iter().filter(|extension| extension.oid == SAN) {
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
            return None;
        };
        for name in &san.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(*name);
            } else if matches!(name, GeneralName::Invalid(..)) {
                // May be a malformed DNS name, which must not make the CN count.
                return None;
            }
        }
    }
    Some(names)
}
