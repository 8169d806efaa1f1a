//! One certificate revocation list: parsing, issuer check and scope.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::EndEntityCert;
use x509_parser::asn1_rs::Any;
use x509_parser::extensions::{
    CRLDistributionPoint, DistributionPointName, GeneralName, IssuingDistributionPoint,
    ParsedExtension, X509Extension,
};
use x509_parser::oid_registry::Oid;
use x509_parser::oid_registry::asn1_rs::oid;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::tls::chain::{Issuer, name_text};
use crate::tls::files::Issued;

/// Maximum number of issuer keys whose signature check is cached for one list.
const CHECKED_KEYS_MAX: usize = 8;

/// Parsed revocation list (RFC 5280 §5).
#[derive(Debug)]
pub(in crate::tls) struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    pub(super) issuer: Box<[u8]>,
    pub(super) issuer_text: Box<str>,
    pub(super) key_id: Option<Box<[u8]>>,
    /// Number (`cRLNumber`), big-endian without leading zeros; empty if there is none.
    pub(super) number: Box<[u8]>,
    this_update_s: i64,
    next_update_s: i64,
    pub(super) scope: ListScope,
    /// Serial numbers without leading zeros, sorted.
    serials: Vec<Box<[u8]>>,
    /// Results of signature checks by issuer key.
    checked: Mutex<Vec<(Box<[u8]>, bool)>>,
}

/// Scope of a list: the certificates of its issuer that it covers (RFC 5280 §5.2.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct ListScope {
    /// URIs of the distribution point; `None` if the list has no distribution point.
    pub(super) uris: Option<Vec<Box<str>>>,
    users_only: bool,
    authorities_only: bool,
}

/// Parsed list, or the reason why it cannot be used.
pub(in crate::tls) type ListResult = Result<Arc<RevocationList>, UnsupportedList>;

/// Well-formed list of an unsupported kind.
#[derive(Debug, Clone)]
pub(in crate::tls) struct UnsupportedList {
    pub(super) issuer: Box<str>,
    pub(super) why: &'static str,
}

impl RevocationList {
    /// Parses one list in DER.
    ///
    /// # Errors
    /// Returns a text if the bytes are not a revocation list, and an inner [`UnsupportedList`] if it is of
    /// an unsupported kind.
    pub(in crate::tls) fn read(
        der: &CertificateRevocationListDer<'static>,
    ) -> Result<ListResult, String> {
        let (rest, parsed) =
            CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("more bytes follow the revocation list".to_owned());
        }
        let issuer_text = name_text(parsed.issuer());
        let usable = Self::parts(&parsed).and_then(|parts| strict(der).map(|()| parts));
        let (key_id, number, scope, serials, next_update_s) = match usable {
            Ok(parts) => parts,
            Err(why) => return Ok(Err(UnsupportedList { issuer: issuer_text, why })),
        };
        let list = Self {
            issuer: parsed.issuer().as_raw().into(),
            issuer_text,
            key_id,
            number,
            this_update_s: parsed.last_update().timestamp(),
            next_update_s,
            scope,
            serials,
            checked: Mutex::default(),
            der: der.clone(),
        };
        Ok(Ok(Arc::new(list)))
    }

    fn parts(parsed: &CertificateRevocationList<'_>) -> Result<ListParts, &'static str> {
        if parsed.version() != Some(X509Version::V2) {
            return Err("it is a version 1 list, without number or key identifier");
        }
        let next_update =
            parsed.next_update().ok_or("it does not say when the next list is due (nextUpdate)")?;
        let (mut key, mut number, mut scope) = (None, None, ListScope::default());
        for extension in parsed.extensions() {
            let found = extension.parsed_extension();
            if let ParsedExtension::AuthorityKeyIdentifier(id) = found {
                key = id.key_identifier.as_ref().map(|id| id.0.into());
            } else if let ParsedExtension::CRLNumber(found) = found {
                number = Some(unpadded(&found.to_bytes_be()).into());
            } else if let ParsedExtension::IssuingDistributionPoint(point) = found {
                scope = ListScope::read(point)?;
            } else if extension.oid == DELTA_CRL_INDICATOR {
                return Err("it is a delta list");
            } else if extension.critical {
                return Err("it has an unknown critical extension");
            } else if matches!(found, ParsedExtension::ParseError { .. }) {
                return Err("it has a malformed extension");
            }
        }
        let mut serials = Vec::with_capacity(parsed.iter_revoked_certificates().count());
        for entry in parsed.iter_revoked_certificates() {
            let unknown = |extension: &X509Extension<'_>| {
                extension.critical
                    && !matches!(
                        extension.parsed_extension(),
                        ParsedExtension::ReasonCode(_) | ParsedExtension::InvalidityDate(_)
                    )
            };
            if entry.extensions().iter().any(unknown) {
                return Err("an entry has an unknown critical extension");
            }
            serials.push(unpadded(entry.raw_serial()).into());
        }
        serials.sort_unstable();
        Ok((key, number.unwrap_or_default(), scope, serials, next_update.timestamp()))
    }

    /// Returns the list in DER.
    #[cfg(feature = "lab")]
    pub(in crate::tls) const fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    /// Returns the time in seconds since 1970 at which the next list is due.
    pub(in crate::tls) const fn next_update_s(&self) -> i64 {
        self.next_update_s
    }

    /// Returns a key that sorts the newest list first.
    pub(super) fn newest_first(&self) -> (Reverse<(usize, &[u8])>, Reverse<i64>) {
        (Reverse((self.number.len(), &self.number)), Reverse(self.this_update_s))
    }

    /// Returns true if this list has a higher number or, at equal numbers, was issued later.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.newest_first() < other.newest_first()
    }

    /// Returns the number for texts, preceded by the word.
    pub(super) fn number_text(&self) -> String {
        self.number().map_or("without a number".to_owned(), |number| format!("number {number}"))
    }

    /// Returns the number as text, decimal up to 128 bits, else hexadecimal; `None` if there is none.
    fn number(&self) -> Option<String> {
        match <[u8; 16]>::try_from(padded(&self.number)) {
            _ if self.number.is_empty() => None,
            Ok(bytes) => Some(u128::from_be_bytes(bytes).to_string()),
            Err(_) => Some(format!("0x{}", crate::hex::encode(&self.number))),
        }
    }

    /// Returns the issuer and the number of the list.
    pub(super) fn issued(&self) -> Issued {
        Issued::List { issuer: self.issuer_text.clone(), number: self.number() }
    }

    pub(super) fn revokes(&self, serial: &[u8]) -> bool {
        self.serials.binary_search_by(|listed| (**listed).cmp(unpadded(serial))).is_ok()
    }

    /// Returns true if this issuer signed the list: key identifier, key usage and signature match.
    ///
    /// The issuer's name is not compared; callers look lists up by name.
    pub(super) fn is_by(
        &self,
        issuer: &Issuer<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        if !issuer.signs_lists || !self.may_be_by(issuer.key_id) {
            return false;
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, verdict)) = checked.iter().find(|(key, _)| **key == *issuer.public_key) {
            return *verdict;
        }
        let verdict = self.is_signed_by(issuer.certificate, algorithms);
        if checked.len() == CHECKED_KEYS_MAX {
            checked.clear();
        }
        checked.push((issuer.public_key.into(), verdict));
        verdict
    }

    fn may_be_by(&self, key_id: Option<&[u8]>) -> bool {
        self.key_id.as_deref().is_none_or(|ours| key_id.is_none_or(|theirs| ours == theirs))
    }

    fn is_signed_by(
        &self,
        issuer: &CertificateDer<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        let Ok(issuer) = EndEntityCert::try_from(issuer) else { return false };
        let Some((signed, algorithm, signature)) = signed_parts(&self.der) else { return false };
        let fitting = algorithms
            .all
            .iter()
            .filter(|candidate| candidate.signature_alg_id().as_ref() == algorithm);
        fitting
            .into_iter()
            .any(|algorithm| issuer.verify_signature(*algorithm, signed, signature).is_ok())
    }
}

/// Key identifier, number, scope, serial numbers, and next update in seconds since 1970.
type ListParts = (Option<Box<[u8]>>, Box<[u8]>, ListScope, Vec<Box<[u8]>>, i64);

/// Object identifier of the delta CRL indicator (RFC 5280 §5.2.4).
const DELTA_CRL_INDICATOR: Oid<'static> = oid!(2.5.29.27);

/// Parses the list once more with a stricter parser.
///
/// The first parser accepts extensions that are not valid DER, such as a boolean other than 0 and 255.
fn strict(der: &[u8]) -> Result<(), &'static str> {
    match webpki::BorrowedCertRevocationList::from_der(der) {
        // A distribution point without a name is accepted: the list is only for users or authorities.
        Ok(_) | Err(webpki::Error::UnsupportedCrlIssuingDistributionPoint) => Ok(()),
        Err(_) => Err("it is not encoded as RFC 5280 requires"),
    }
}

/// Returns the signed bytes, the content of the algorithm identifier, and the signature.
fn signed_parts(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (_, list) = Any::from_der(der).ok()?;
    let (after, _) = Any::from_der(list.data).ok()?;
    let signed = list.data.get(..list.data.len() - after.len())?;
    let (signature, algorithm) = Any::from_der(after).ok()?;
    let (_, signature) = Any::from_der(signature).ok()?;
    // A bit string begins with its number of unused bits.
    Some((signed, algorithm.data, signature.data.strip_prefix(&[0])?))
}

/// Returns a big-endian number without its leading zeros.
fn unpadded(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Returns a big-endian number padded to sixteen bytes; longer ones are unchanged.
fn padded(number: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 16_usize.saturating_sub(number.len())];
    bytes.extend_from_slice(number);
    bytes
}

impl ListScope {
    fn read(point: &IssuingDistributionPoint<'_>) -> Result<Self, &'static str> {
        if point.indirect_crl {
            return Err("it is an indirect list");
        }
        if point.only_some_reasons.is_some() {
            return Err("it covers only some revocation reasons");
        }
        if point.only_contains_attribute_certs {
            return Err("it covers only attribute certificates");
        }
        let uris = match &point.distribution_point {
            None => None,
            Some(name) => {
                let uris: Vec<_> = uris(name).map(Into::into).collect();
                if uris.is_empty() {
                    return Err("its distribution point has no URI");
                }
                Some(uris)
            }
        };
        Ok(Self {
            uris,
            users_only: point.only_contains_user_certs,
            authorities_only: point.only_contains_ca_certs,
        })
    }

    /// Returns true if the scope covers certificates of this kind: of authorities or others.
    pub(super) const fn takes(&self, is_authority: bool) -> bool {
        !(self.users_only && is_authority || self.authorities_only && !is_authority)
    }
}

/// Returns the URIs of a distribution point; names of other types are ignored.
fn uris<'a>(name: &'a DistributionPointName<'_>) -> impl Iterator<Item = &'a str> {
    let names = match name {
        DistributionPointName::FullName(names) => names.as_slice(),
        DistributionPointName::NameRelativeToCRLIssuer(_) => &[],
    };
    names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
}

/// Returns the URIs of a certificate's distribution points, without indirect points and points for only
/// some reasons.
pub(super) fn points<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let points = certificate.extensions().iter().filter_map(|extension| {
        let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() else {
            return None;
        };
        Some(points.points.as_slice())
    });
    let whole =
        |point: &&CRLDistributionPoint<'_>| point.reasons.is_none() && point.crl_issuer.is_none();
    points
        .flatten()
        .filter(whole)
        .filter_map(|point| point.distribution_point.as_ref())
        .flat_map(uris)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, IsCa, KeyIdMethod, KeyPair,
        SerialNumber,
    };
    use time::OffsetDateTime;

    use super::*;

    fn list(number: SerialNumber, scope: Option<CrlScope>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        // Long, so that every length around it takes two bytes.
        let uris = vec![format!("http://crl.example.nhs.uk/{}.crl", "x".repeat(256))];
        let list = CertificateRevocationListParams {
            this_update: OffsetDateTime::UNIX_EPOCH,
            next_update: OffsetDateTime::UNIX_EPOCH + time::Duration::days(30_000),
            crl_number: number,
            issuing_distribution_point: Some(CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris },
                scope,
            }),
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&issuer).unwrap().der().to_vec()
    }

    /// Replaces each occurrence of a byte sequence by another of the same length.
    fn with(mut der: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
        let places: Vec<_> = memchr::memmem::find_iter(&der, from).collect();
        assert!(!places.is_empty());
        for at in places {
            der[at..at + to.len()].copy_from_slice(to);
        }
        der
    }

    /// Returns the list without its version, like version 1 lists: both lengths are three less.
    fn without_version(mut der: Vec<u8>) -> Vec<u8> {
        for at in [2, 6] {
            assert_eq!(&der[at - 2..at], &[0x30, 0x82]);
            let length = u16::from_be_bytes([der[at], der[at + 1]]) - 3;
            der[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        assert_eq!(der.drain(8..11).collect::<Vec<_>>(), [2, 1, 1]);
        der
    }

    fn why(der: Vec<u8>) -> &'static str {
        RevocationList::read(&CertificateRevocationListDer::from(der)).unwrap().unwrap_err().why
    }

    #[test]
    fn lists_of_kinds_that_are_not_supported_are_left_out_with_their_reason() {
        let plain = || list(SerialNumber::from(1), None);
        const NUMBER: &[u8] = &[0x55, 0x1d, 20];
        const POINT: &[u8] = &[0x55, 0x1d, 28];
        assert_eq!(
            why(without_version(plain())),
            "it is a version 1 list, without number or key identifier"
        );
        assert_eq!(why(with(plain(), NUMBER, &[0x55, 0x1d, 27])), "it is a delta list");
        assert_eq!(
            why(with(plain(), POINT, &[0x55, 0x1d, 0x7f])),
            "it has an unknown critical extension"
        );
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_scopes_take_their_certificates() {
        let read = |number: u64, scope| {
            let der = list(SerialNumber::from(number), scope);
            RevocationList::read(&CertificateRevocationListDer::from(der)).unwrap().unwrap()
        };
        let (small, large) = (read(255, None), read(256, Some(CrlScope::UserCertsOnly)));
        assert!(large.newest_first() < small.newest_first());
        assert_eq!(large.number_text(), "number 256");
        assert!(small.scope.takes(true) && small.scope.takes(false));
        assert!(!large.scope.takes(true) && large.scope.takes(false));
        assert!(!read(1, Some(CrlScope::CaCertsOnly)).scope.takes(false));
    }
}
