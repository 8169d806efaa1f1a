//! Certificate authorities for tests that need more than the test bed's: numbered revocation lists, distribution
//! points, names used twice, name constraints.

use gpconnect_simulator::pki::IssuedCertificate;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CrlDistributionPoint, CrlIssuingDistributionPoint, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    NameConstraints, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// An authority, with the chain from it to its root, the root left out.
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    above: String,
}

/// Description of a revocation list.
#[derive(Clone, Copy)]
pub struct CrlSpec<'a> {
    pub number: u64,
    pub revoked: &'a [u64],
    /// Days from now until its next update is due.
    pub days: i64,
    /// URI of the issuing distribution point.
    pub point: Option<&'a str>,
}

impl<'a> CrlSpec<'a> {
    pub fn number(number: u64) -> Self {
        Self { number, revoked: &[], days: 30, point: None }
    }

    pub fn revoking(self, revoked: &'a [u64]) -> Self {
        Self { revoked, ..self }
    }

    pub fn days(self, days: i64) -> Self {
        Self { days, ..self }
    }

    pub fn point(self, point: &'a str) -> Self {
        Self { point: Some(point), ..self }
    }
}

/// Description of a certificate.
#[derive(Clone)]
pub struct CertificateSpec {
    pub common_names: Vec<&'static str>,
    pub names: Vec<&'static str>,
    pub usages: Vec<KeyUsagePurpose>,
    pub point: Option<&'static str>,
}

impl CertificateSpec {
    pub fn named(name: &'static str) -> Self {
        Self {
            common_names: vec![name],
            names: vec![name],
            usages: vec![KeyUsagePurpose::DigitalSignature],
            point: None,
        }
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(super::test_bed::now_s()).unwrap()
}

fn subject(common_names: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for common_name in common_names {
        name.push(DnType::CommonName, *common_name);
    }
    name
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&[name]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now() - Duration::days(1);
    params.not_after = now() + Duration::days(365);
    params
}

impl TestAuthority {
    pub fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params(name), key).unwrap();
        Self { issuer, above: String::new() }
    }

    /// Creates an intermediate authority. `only` is the one DNS subtree for which it may issue.
    pub fn intermediate(&self, name: &str, only: Option<&str>) -> Self {
        let mut params = params(name);
        params.name_constraints = only.map(|only| NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(only.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap();
        let own = issuer.pem();
        let above = if self.above.is_empty() { own } else { format!("{own}{}", self.above) };
        Self { issuer, above }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn issue(&self, name: &'static str) -> IssuedCertificate {
        self.issue_as(&CertificateSpec::named(name))
    }

    pub fn issue_as(&self, spec: &CertificateSpec) -> IssuedCertificate {
        let names: Vec<_> = spec.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        // rcgen's DistinguishedName keeps one value of a type; a second CN has to be of a custom type.
        let mut name = DistinguishedName::new();
        for (at, common_name) in spec.common_names.iter().enumerate() {
            let kind =
                if at == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            name.push(kind, *common_name);
        }
        params.distinguished_name = name;
        params.key_usages = spec.usages.clone();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = now() - Duration::days(1);
        params.not_after = now() + Duration::days(30);
        let point = |uri: &str| CrlDistributionPoint { uris: vec![uri.to_owned()] };
        params.crl_distribution_points = spec.point.map(point).into_iter().collect();
        let serial = uuid::Uuid::new_v4().as_u64_pair().0 >> 1;
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = format!("{}{}", certificate.pem(), self.above);
        IssuedCertificate { chain, key: key.serialize_pem(), serial }
    }

    pub fn revocation_list(&self, list: CrlSpec<'_>) -> String {
        let CrlSpec { number, revoked, days, point } = list;
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now() - Duration::days(1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now() - Duration::days(2),
            next_update: now() + Duration::days(days),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: point.map(|uri| CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![uri.to_owned()] },
                scope: None,
            }),
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}
