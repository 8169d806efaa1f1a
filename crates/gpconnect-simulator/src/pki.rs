//! Throwaway PKI for the demonstration, tests and development: authorities, certificates and revocation lists.
//!
//! It is never for real use: nothing protects its private keys.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// Error returned when a certificate or list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The time is out of the range that certificates can have.
    #[error("the clock is out of range")]
    Clock,
    /// A key, certificate or list cannot be generated or signed.
    #[error(transparent)]
    Generation(#[from] rcgen::Error),
}

/// Throwaway root authority and sub authority, as NHS certificates have them.
pub struct Pki {
    root: IssuingAuthority,
    sub: IssuingAuthority,
    now: OffsetDateTime,
    /// Number of the next revocation list.
    pub crl_number: u64,
}

/// Authority with its certificate as PEM.
struct IssuingAuthority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Keys of a [`Pki`] and certificate of its sub authority, as PEM, by which it can be used again.
#[derive(Debug, Clone)]
pub struct KeptPki {
    /// Certificate of the root authority.
    pub root: String,
    /// Private key of the root authority.
    pub root_key: String,
    /// Certificate of the sub authority.
    pub sub: String,
    /// Private key of the sub authority.
    pub sub_key: String,
}

const ROOT: &str = "Throwaway root";
const SUB: &str = "Throwaway sub authority";

/// Contents of a certificate to be issued.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Common name of the subject.
    pub common_name: String,
    /// DNS names and IP addresses in the subject alternative name; may be empty.
    pub names: Vec<String>,
    /// Start and end of its validity, in days from now.
    pub days: (i64, i64),
    /// Kind of its private key.
    pub key: KeyKind,
}

/// Kind of private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA key on curve P-256.
    Ecdsa,
    /// RSA key of 2048 bits.
    Rsa,
}

impl Leaf {
    /// Returns the contents of a certificate for one name, in CN and SAN, valid for thirty days.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let names = vec![name.to_owned()];
        Self { common_name: name.to_owned(), names, days: (-1, 30), key: KeyKind::Ecdsa }
    }
}

/// Certificate chain and private key, as PEM.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// Leaf certificate, followed by that of the sub authority.
    pub chain: String,
    /// Private key in PKCS#8.
    pub key: String,
    /// Serial number, by which a revocation list names the certificate.
    pub serial: u64,
}

impl IssuedCertificate {
    /// Returns the certificate without that of the sub authority in its chain.
    #[must_use]
    pub fn without_sub_authority(mut self) -> Self {
        const END: &str = "-----END CERTIFICATE-----\n";
        let end = self.chain.find(END).map_or(self.chain.len(), |at| at + END.len());
        self.chain.truncate(end);
        self
    }
}

impl Pki {
    /// Creates new authorities, valid for a year from `now_s`, in seconds since 1970.
    ///
    /// # Errors
    /// Returns an error if a key cannot be generated or `now_s` is out of range.
    pub fn new(now_s: i64) -> Result<Self, PkiError> {
        let now = OffsetDateTime::from_unix_timestamp(now_s).map_err(|_| PkiError::Clock)?;
        let (params, key) = (authority(ROOT, now), KeyPair::generate()?);
        let pem = params.self_signed(&key)?.pem();
        let root = IssuingAuthority { pem, issuer: Issuer::new(params, key) };
        let (params, key) = (authority(SUB, now), KeyPair::generate()?);
        let pem = params.signed_by(&key, &root.issuer)?.pem();
        let sub = IssuingAuthority { pem, issuer: Issuer::new(params, key) };
        Ok(Self { root, sub, now, crl_number: 1 })
    }

    /// Returns the authorities that [`Pki::keep`] has returned, at `now_s` in seconds since 1970.
    ///
    /// # Errors
    /// Returns an error if a key cannot be read or `now_s` is out of range.
    pub fn from_kept(kept: KeptPki, now_s: i64) -> Result<Self, PkiError> {
        let now = OffsetDateTime::from_unix_timestamp(now_s).map_err(|_| PkiError::Clock)?;
        let authority = |name, pem, key: &str| {
            let issuer = Issuer::new(authority(name, now), KeyPair::from_pem(key)?);
            Ok::<_, PkiError>(IssuingAuthority { pem, issuer })
        };
        let root = authority(ROOT, kept.root, &kept.root_key)?;
        let sub = authority(SUB, kept.sub, &kept.sub_key)?;
        Ok(Self { root, sub, now, crl_number: 1 })
    }

    /// Returns what is needed to use the authorities again.
    #[must_use]
    pub fn keep(&self) -> KeptPki {
        KeptPki {
            root: self.root.pem.clone(),
            root_key: self.root.issuer.key().serialize_pem(),
            sub: self.sub.pem.clone(),
            sub_key: self.sub.issuer.key().serialize_pem(),
        }
    }

    /// Returns the root certificate as PEM, for the other side to trust.
    #[must_use]
    pub fn authority(&self) -> String {
        self.root.pem.clone()
    }

    /// Issues a certificate from the sub authority.
    ///
    /// # Errors
    /// Returns an error if a name is not allowed in a certificate, or signing fails.
    pub fn issue(&self, leaf: &Leaf) -> Result<IssuedCertificate, PkiError> {
        let key = match leaf.key {
            KeyKind::Ecdsa => KeyPair::generate()?,
            KeyKind::Rsa => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?,
        };
        let mut params = CertificateParams::new(leaf.names.clone())?;
        params.distinguished_name = named(&leaf.common_name);
        let (from, to) = leaf.days;
        params.not_before = self.now + Duration::days(from);
        params.not_after = self.now + Duration::days(to);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial = uuid::Uuid::new_v4().as_u64_pair().0 >> 1;
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.sub.issuer)?;
        let chain = format!("{}{}", certificate.pem(), self.sub.pem);
        Ok(IssuedCertificate { chain, key: key.serialize_pem(), serial })
    }

    /// Signs revocation lists of both authorities, as PEM; the next ones are due `days` from now.
    ///
    /// # Errors
    /// Returns an error if a list cannot be signed.
    pub fn revocation_lists(&self, revoked: &[u64], days: i64) -> Result<String, PkiError> {
        let list = |revoked: &[u64]| CertificateRevocationListParams {
            this_update: self.now - Duration::days(2),
            next_update: self.now + Duration::days(days),
            crl_number: SerialNumber::from(self.crl_number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(|serial| revocation(*serial, self.now)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let root = list(&[]).signed_by(&self.root.issuer)?.pem()?;
        let sub = list(revoked).signed_by(&self.sub.issuer)?.pem()?;
        Ok(format!("{root}{sub}"))
    }
}

fn revocation(serial: u64, now: OffsetDateTime) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: now - Duration::days(1),
        reason_code: None,
        invalidity_date: None,
    }
}

fn authority(name: &str, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(365);
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
