//! `certs`: a throwaway PKI, for the demonstration, tests and development. Never for real use: its
//! keys lie beside its certificates.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use super::{CommandFailure, print};

/// A root and a sub authority, as NHS certificates have them.
pub struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    sub: CertifiedIssuer<'static, KeyPair>,
    now: OffsetDateTime,
}

/// A certificate to be issued.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Subject's CN.
    pub common_name: String,
    /// DNS names and addresses of the SAN; may be none.
    pub names: Vec<String>,
    /// Days from now of its beginning and its end.
    pub days: (i64, i64),
    /// Kind of key.
    pub key: KeyKind,
}

/// Kinds of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// P-256.
    Ecdsa,
    /// 2048 bits.
    Rsa,
}

impl Leaf {
    /// A certificate for one name, in the CN and the SAN, good for thirty days.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let names = vec![name.to_owned()];
        Self { common_name: name.to_owned(), names, days: (-1, 30), key: KeyKind::Ecdsa }
    }
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// Leaf, then the sub authority.
    pub chain: String,
    /// PKCS#8.
    pub key: String,
    /// What a revocation list names it by.
    pub serial: u64,
}

impl Pki {
    /// New authorities, good for a year from `now_s`, seconds since 1970.
    ///
    /// # Errors
    /// A key cannot be made.
    pub fn new(now_s: i64) -> anyhow::Result<Self> {
        let now = OffsetDateTime::from_unix_timestamp(now_s).context("the clock")?;
        let root =
            CertifiedIssuer::self_signed(authority("Throwaway root", now), KeyPair::generate()?)?;
        let sub = authority("Throwaway sub authority", now);
        let sub = CertifiedIssuer::signed_by(sub, KeyPair::generate()?, &root)?;
        Ok(Self { root, sub, now })
    }

    /// The root's certificate, as PEM: what the other side trusts.
    #[must_use]
    pub fn authority(&self) -> String {
        self.root.pem()
    }

    /// Issues a certificate.
    ///
    /// # Errors
    /// A name is not one a certificate may have.
    pub fn issue(&self, leaf: &Leaf) -> anyhow::Result<IssuedCertificate> {
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
        let certificate = params.signed_by(&key, &self.sub)?;
        let chain = format!("{}{}", certificate.pem(), self.sub.pem());
        Ok(IssuedCertificate { chain, key: key.serialize_pem(), serial })
    }

    /// Revocation lists of both authorities, as PEM; `days` from now until the next is due.
    ///
    /// # Errors
    /// A list cannot be signed.
    pub fn revocation_lists(&self, revoked: &[u64], days: i64) -> anyhow::Result<String> {
        let list = |revoked: &[u64]| CertificateRevocationListParams {
            this_update: self.now - Duration::days(2),
            next_update: self.now + Duration::days(days),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(|serial| revocation(*serial, self.now)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let root = list(&[]).signed_by(&self.root)?.pem()?;
        let sub = list(revoked).signed_by(&self.sub)?.pem()?;
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

/// Names of the certificates that `certs` issues; the example configuration uses them.
const LEAVES: [(&str, &str, &[&str]); 4] = [
    ("server", "ssp.example.nhs.uk", &["ssp.example.nhs.uk", "localhost", "127.0.0.1"]),
    ("gateway", "gateway.ssp.example.nhs.uk", &["gateway.ssp.example.nhs.uk"]),
    ("consumer", "hub.example.nhs.uk", &["hub.example.nhs.uk"]),
    ("provider", "provider.example.nhs.uk", &["provider.example.nhs.uk"]),
];

/// Writes a throwaway PKI into a folder, which is made if it is not there.
///
/// # Errors
/// The folder or a file cannot be written, or a file is already there.
pub fn run(folder: &Path) -> Result<(), CommandFailure> {
    write_all(folder).map_err(CommandFailure::World)
}

fn write_all(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let pki = Pki::new(jiff::Timestamp::now().as_second())?;
    let put = |name: &str, text: &str| write(&folder.join(name), text);
    put("ca.pem", &pki.authority())?;
    put("crl.pem", &pki.revocation_lists(&[], 30)?)?;
    for (file, name, names) in LEAVES {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let issued = pki.issue(&Leaf { names, ..Leaf::named(name) })?;
        put(&format!("{file}.pem"), &issued.chain)?;
        put(&format!("{file}.key"), &issued.key)?;
        print(format_args!("{} and .key: {name}", folder.join(format!("{file}.pem")).display()));
    }
    print("Good for thirty days; for trying out, never for real use.");
    Ok(())
}

/// Writes a file that only its owner may read; one that is there is never overwritten.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = options.with_context(|| path.display().to_string())?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}
