//! Certificates, keys and lists read from files; every error names its file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::{Crl, KeyPair, Peer};
use crate::spine::CertificateName;

/// A file of the trust that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct TrustError {
    path: PathBuf,
    why: String,
}

impl TrustError {
    pub(super) fn new(path: &Path, why: impl std::fmt::Display) -> Self {
        Self { path: path.to_owned(), why: why.to_string() }
    }
}

/// What a date belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Our certificate towards consumers.
    Server,
    /// Our certificate towards providers.
    Client,
    /// An authority of either leg.
    Authority,
    /// A revocation list for consumers' certificates.
    ClientCrl,
    /// A revocation list for providers' certificates.
    ProviderCrl,
    /// Our certificate towards a source of the directory.
    Directory,
    /// A revocation list for the certificate of a source of the directory.
    DirectoryCrl,
}

impl Use {
    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Authority => "authority",
            Self::ClientCrl => "client_crl",
            Self::ProviderCrl => "provider_crl",
            Self::Directory => "directory",
            Self::DirectoryCrl => "directory_crl",
        }
    }

    /// Whether it is a revocation list.
    #[must_use]
    pub const fn is_crl(self) -> bool {
        matches!(self, Self::ClientCrl | Self::ProviderCrl | Self::DirectoryCrl)
    }
}

/// When a certificate ends or the next revocation list is due.
#[derive(Debug, Clone)]
pub struct Expiry {
    /// What it belongs to.
    pub used_as: Use,
    /// The file.
    pub path: PathBuf,
    /// Seconds since 1970, UTC.
    pub at_s: i64,
}

/// The first end among dates of one use.
pub(super) fn first_end(expiries: &[Expiry], used_as: Use) -> i64 {
    let ends = expiries.iter().filter(|expiry| expiry.used_as == used_as);
    ends.map(|expiry| expiry.at_s).min().unwrap_or(i64::MAX)
}

/// A chain and its key, checked: they fit, and the leaf is within its dates.
pub(super) fn certified_key(
    pair: &KeyPair,
    crypto: &Arc<CryptoProvider>,
    used_as: Use,
    now_s: i64,
    expiries: &mut Vec<Expiry>,
) -> Result<CertifiedKey, TrustError> {
    let chain = certificates(&pair.chain)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key)
        .map_err(|error| TrustError::new(&pair.key, pem(&error, "a private key")))?;
    let key = crypto
        .key_provider
        .load_private_key(key)
        .map_err(|error| TrustError::new(&pair.key, error))?;
    let leaf = chain.first().ok_or_else(|| TrustError::new(&pair.chain, "holds no certificate"))?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|error| TrustError::new(&pair.chain, error))?;
    let (from_s, to_s) =
        (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    if now_s >= to_s {
        let end = parsed.validity().not_after;
        return Err(TrustError::new(&pair.chain, format!("the certificate expired on {end}")));
    }
    if now_s < from_s {
        let start = parsed.validity().not_before;
        let why = format!("the certificate is not valid before {start}");
        return Err(TrustError::new(&pair.chain, why));
    }
    expiries.push(Expiry { used_as, path: pair.chain.clone(), at_s: to_s });
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| {
        let why = format!("the key is not the key of the certificate in {}", pair.chain.display());
        TrustError::new(&pair.key, why)
    })?;
    Ok(certified)
}

/// The authorities of a leg.
pub(super) fn authorities(
    paths: &[PathBuf],
    expiries: &mut Vec<Expiry>,
) -> Result<Arc<RootCertStore>, TrustError> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        for certificate in certificates(path)? {
            let (_, parsed) = X509Certificate::from_der(&certificate)
                .map_err(|error| TrustError::new(path, error))?;
            let at_s = parsed.validity().not_after.timestamp();
            expiries.push(Expiry { used_as: Use::Authority, path: path.clone(), at_s });
            roots.add(certificate).map_err(|error| TrustError::new(path, error))?;
        }
    }
    Ok(Arc::new(roots))
}

/// The revocation lists of a leg.
pub(super) fn revocation_lists(
    crl: &Crl,
    used_as: Use,
    expiries: &mut Vec<Expiry>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TrustError> {
    let mut lists = Vec::new();
    for path in crl.files() {
        let found = lists_in(read(path)?).map_err(|why| TrustError::new(path, why))?;
        for (list, at_s) in found {
            expiries.push(Expiry { used_as, path: path.clone(), at_s });
            lists.push(list);
        }
    }
    Ok(lists)
}

/// The revocation lists of a file, in PEM or one in DER, and when the next of each is due.
pub(crate) fn lists_in(
    bytes: Vec<u8>,
) -> Result<Vec<(CertificateRevocationListDer<'static>, i64)>, String> {
    let found: Vec<_> = if bytes.starts_with(b"-----") || bytes.starts_with(b"#") {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| pem(&error, "a revocation list"))?
    } else {
        vec![CertificateRevocationListDer::from(bytes)]
    };
    if found.is_empty() {
        return Err("holds no revocation list".to_owned());
    }
    let dated = found.into_iter().map(|list| {
        let (_, parsed) =
            CertificateRevocationList::from_der(&list).map_err(|error| error.to_string())?;
        let at_s = parsed.next_update().map_or(i64::MAX, |due| due.timestamp());
        Ok((list, at_s))
    });
    dated.collect()
}

/// The names of a verified chain's leaf, and the first end in the chain.
pub(super) fn peer(chain: &[CertificateDer<'_>]) -> Option<Peer> {
    let end = |certificate: &CertificateDer<'_>| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    };
    let leaf = chain.first()?;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let digest = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = digest.tls13()?.common.hash_provider.hash(leaf);
    Some(Peer {
        names: names(&parsed),
        fingerprint: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_after_s: chain.iter().filter_map(end).min()?,
    })
}

/// DNS names of the SAN, then the subject's CN.
pub(super) fn names(certificate: &X509Certificate<'_>) -> Vec<CertificateName> {
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<CertificateName> = Vec::new();
    for name in dns_names(certificate).into_iter().chain(common) {
        if let Ok(name) = name.to_ascii_lowercase().parse()
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// DNS names of the SAN alone.
pub(super) fn dns_names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = |name: &GeneralName<'a>| {
        if let GeneralName::DNSName(name) = name { Some(*name) } else { None }
    };
    extension.value.general_names.iter().filter_map(dns).collect()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TrustError::new(path, pem(&error, "a certificate")))?;
    if found.is_empty() {
        return Err(TrustError::new(path, "holds no certificate"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|error| TrustError::new(path, error))
}

fn pem(error: &rustls::pki_types::pem::Error, what: &str) -> String {
    format!("is not {what} in PEM: {error}")
}
