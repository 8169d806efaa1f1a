//! Revocation checks: the choice of the list that decides about a certificate, and its verdict.
//!
//! RFC 5280 §5.2.3 and §6.3.3: of the lists of one issuer key and one scope, the one with the highest
//! number counts, and a list decides only about certificates in its scope.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::WebPkiSupportedAlgorithms;
use x509_parser::prelude::X509Certificate;

use super::ExpiredCrl;
use super::chain::{Authority, Issuer, KnownIssuer, is_ca, name_text};
use super::files::{CertificateUse, Expiry, Notice, NoticeLevel};
use crate::refusal::CertificateFault;

mod list;

pub(super) use list::{ListResult, RevocationList};

use list::{ListScope, UnsupportedList, points};

/// Maximum number of issuers without a list that are warned of, once each.
const WARNED_ISSUERS_MAX: usize = 256;

/// Revocation lists of one leg, indexed by issuer and distribution point.
#[derive(Debug)]
pub(super) struct RevocationLists {
    by_issuer: HashMap<Box<[u8]>, IssuerLists>,
    expired: ExpiredCrl,
    algorithms: WebPkiSupportedAlgorithms,
    warned: Mutex<HashSet<Box<[u8]>>>,
    newest: Arc<NewestLists>,
}

/// Newest list in force of each issuer key and scope, kept over all loads of one leg, so that a list
/// with a lower number does not replace it.
#[derive(Debug, Default)]
pub(super) struct NewestLists(Mutex<HashMap<KeyAndScope, ListInForce>>);

/// Public key of an issuer in DER, and a scope of its lists.
type KeyAndScope = (Box<[u8]>, ListScope);

/// List that has been in force, with its file and the issuer that signed it.
#[derive(Debug, Clone)]
struct ListInForce {
    issuer: KnownIssuer,
    path: PathBuf,
    list: Arc<RevocationList>,
}

/// Maximum number of issuer keys and scopes whose newest list is kept for a leg.
const NEWEST_MAX: usize = 32_768;

impl NewestLists {
    /// Keeps a list that its issuer has signed, unless a newer one is kept.
    fn remember(&self, issuer: &Issuer<'_>, path: &Path, list: &Arc<RevocationList>) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (issuer.public_key.into(), list.scope.clone());
        let is_newer = newest.get(&key).is_none_or(|held| list.is_newer_than(&held.list));
        if is_newer && (newest.len() < NEWEST_MAX || newest.contains_key(&key)) {
            let in_force = ListInForce {
                issuer: issuer.known(),
                path: path.to_owned(),
                list: Arc::clone(list),
            };
            newest.insert(key, in_force);
        }
    }

    fn all(&self) -> Vec<ListInForce> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.values().cloned().collect()
    }

    /// Removes all lists, so that older ones may be taken.
    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Lists of one issuer name, newest first in each part.
#[derive(Debug, Default)]
struct IssuerLists {
    /// Lists without a distribution point.
    whole: Vec<(PathBuf, Arc<RevocationList>)>,
    by_uri: HashMap<Box<str>, Vec<(PathBuf, Arc<RevocationList>)>>,
}

/// Lists of one scope that cover a certificate.
struct Candidates<'a> {
    scope: &'a ListScope,
    newest: &'a RevocationList,
    /// Newest list that is not overdue.
    current: Option<&'a RevocationList>,
}

impl RevocationLists {
    /// Indexes lists; returns a warning for each of an unsupported kind.
    pub(super) fn new(
        read: Vec<(PathBuf, ListResult)>,
        used_as: CertificateUse,
        expired: ExpiredCrl,
        algorithms: WebPkiSupportedAlgorithms,
        newest: Arc<NewestLists>,
    ) -> (Self, Vec<Notice>) {
        let (mut by_issuer, mut notices) = (HashMap::<_, IssuerLists>::new(), Vec::new());
        for (path, list) in read {
            match list {
                Ok(list) => {
                    let issued: &mut IssuerLists =
                        by_issuer.entry(list.issuer.clone()).or_default();
                    match &list.scope.uris {
                        None => issued.whole.push((path, list)),
                        Some(uris) => {
                            for uri in uris {
                                let part = issued.by_uri.entry(uri.clone()).or_default();
                                part.push((path.clone(), Arc::clone(&list)));
                            }
                        }
                    }
                }
                Err(UnsupportedList { issuer, why }) => notices.push(Notice::new(
                    NoticeLevel::Warning,
                    format!(
                        "{} {}: the revocation list of {issuer} is left out: {why}; a certificate \
                         that no other list covers is refused with certificate_status_unknown",
                        used_as.label(),
                        path.display(),
                    ),
                ).about_file(&path)),
            }
        }
        let mut lists = Self { by_issuer, expired, algorithms, warned: Mutex::default(), newest };
        lists.sort();
        (lists, notices)
    }

    fn sort(&mut self) {
        for part in self.by_issuer.values_mut().flat_map(IssuerLists::parts_mut) {
            part.sort_by(|(_, one), (_, other)| one.newest_first().cmp(&other.newest_first()));
        }
    }

    /// Puts back a list that was in force if the newest one loaded for its issuer key and scope is older;
    /// returns an alarm for each. A list whose issuer has no list left is not put back.
    pub(super) fn keep_newer(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        for ListInForce { issuer, path, list: held } in self.newest.all() {
            let Some(issued) = self.by_issuer.get_mut(&held.issuer) else { continue };
            let uri = held.scope.uris.as_ref().and_then(|uris| uris.first());
            let part = match uri {
                None => Some(&mut issued.whole),
                Some(uri) => issued.by_uri.get_mut(uri),
            };
            let Some(part) = part else { continue };
            let is_its = |(_, list): &&(PathBuf, Arc<RevocationList>)| {
                list.scope == held.scope && list.is_by(&issuer.issuer(), &self.algorithms)
            };
            let Some((new_path, new)) = part.iter().find(is_its) else { continue };
            if !held.is_newer_than(new) {
                continue;
            }
            notices.push(Notice::new(
                NoticeLevel::Alarm,
                format!(
                    "{}: the revocation list of {} is older than the one in force ({}, in force {}), \
                     which stays in force; crl-rollback = \"accept\" takes the older one",
                    new_path.display(),
                    new.issuer_text,
                    new.number_text(),
                    held.number_text(),
                ),
            ).about_file(new_path));
            for uri in held.scope.uris.iter().flatten() {
                let part = issued.by_uri.entry(uri.clone()).or_default();
                part.push((path.clone(), Arc::clone(&held)));
            }
            if held.scope.uris.is_none() {
                issued.whole.push((path, held));
            }
        }
        self.sort();
        notices
    }

    /// Forgets the lists that were in force, so that older ones may be taken.
    pub(super) fn accept_older(&self) {
        self.newest.forget();
    }

    /// Compares lists with authorities; returns notices of lists without an authority, authorities without
    /// a list, and outdated lists.
    ///
    /// `known` holds names of authorities that are not trust anchors: issuers in our own chains.
    pub(super) fn compare(
        &self,
        authorities: &[Authority],
        known: &HashSet<Box<[u8]>>,
        used_as: CertificateUse,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (issuer, issued) in &self.by_issuer {
            let named: Vec<_> =
                authorities.iter().filter(|authority| *authority.subject == **issuer).collect();
            for part in issued.parts() {
                let is_known = known.contains(issuer);
                notices.extend(self.compare_part(part, &named, is_known, used_as));
            }
        }
        for authority in authorities {
            let issuer = authority.issuer.issuer();
            let lists = self.by_issuer.get(&*authority.subject);
            let lists = lists.into_iter().flat_map(IssuerLists::parts).flatten();
            let mut has_one = false;
            for (path, list) in lists.filter(|(_, list)| list.is_by(&issuer, &self.algorithms)) {
                has_one = true;
                self.newest.remember(&issuer, path, list);
            }
            if !has_one {
                notices.push(Notice::new(
                    NoticeLevel::Warning,
                    format!(
                        "{} {}: no revocation list of {}; every certificate it issued is refused \
                         with certificate_status_unknown",
                        used_as.label(),
                        authority.path.display(),
                        authority.text,
                    ),
                ).about_file(&authority.path));
            }
        }
        notices.sort_by(|one, other| one.text.cmp(&other.text));
        notices.dedup();
        notices
    }

    fn compare_part(
        &self,
        part: &[(PathBuf, Arc<RevocationList>)],
        named: &[&Authority],
        is_known: bool,
        used_as: CertificateUse,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut newest: Vec<(&Path, &RevocationList)> = Vec::new();
        for (path, list) in part {
            let shown = path.display();
            let label = used_as.label();
            let by_one = named.iter().any(|one| list.is_by(&one.issuer.issuer(), &self.algorithms));
            if named.is_empty() && !is_known {
                notices.push(Notice::new(
                    NoticeLevel::Warning,
                    format!(
                        "{label} {shown}: the revocation list of {} fits no configured authority; it \
                         is used only for chains that hold a certificate of that authority",
                        list.issuer_text,
                    ),
                ).about_file(path));
            } else if !named.is_empty() && !by_one {
                notices.push(Notice::new(
                    NoticeLevel::Warning,
                    format!(
                        "{label} {shown}: the revocation list of {} is not signed by the authority of \
                         that name; it is not used for its certificates",
                        list.issuer_text,
                    ),
                ).about_file(path));
                continue;
            }
            let twin = |(_, newer): &&(&Path, &RevocationList)| {
                newer.scope == list.scope && newer.key_id == list.key_id
            };
            match newest.iter().find(twin) {
                None => newest.push((path, list)),
                Some((newer_path, newer)) if newer.number != list.number => {
                    notices.push(Notice::new(
                        NoticeLevel::Info,
                        format!(
                            "{label} {shown}: the revocation list of {}, {}, does not count: {} has \
                             {}",
                            list.issuer_text,
                            list.number_text(),
                            newer_path.display(),
                            newer.number_text(),
                        ),
                    ).about_file(path));
                }
                Some(_) => {}
            }
        }
        notices
    }

    /// Returns the time at which the next list is due, for each list that is the newest of its scope.
    pub(super) fn expiries(&self, used_as: CertificateUse) -> Vec<Expiry> {
        let parts = self.by_issuer.values().flat_map(IssuerLists::parts);
        let newest = parts.flat_map(|part| {
            let mut seen: Vec<(&ListScope, Option<&[u8]>)> = Vec::new();
            part.iter().filter(move |(_, list)| {
                let group = (&list.scope, list.key_id.as_deref());
                let is_new = !seen.contains(&group);
                if is_new {
                    seen.push(group);
                }
                is_new
            })
        });
        let expiry = |(path, list): &(PathBuf, Arc<RevocationList>)| Expiry {
            used_as,
            path: path.clone(),
            issued: list.issued(),
            at_s: list.next_update_s(),
        };
        newest.map(expiry).collect()
    }

    /// Checks a certificate against the lists of its issuer; returns the end of the verdict's validity, in
    /// seconds since 1970.
    ///
    /// # Errors
    /// Returns a fault if the certificate is revoked, no list covers it, or every list that does is overdue.
    pub(super) fn check(
        &self,
        certificate: &X509Certificate<'_>,
        issuer: &Issuer<'_>,
        now_s: i64,
    ) -> Result<i64, CertificateFault> {
        let mut found: Vec<Candidates<'_>> = Vec::new();
        let is_authority = is_ca(certificate);
        let issued = self.by_issuer.get(certificate.issuer().as_raw());
        let lists = issued.into_iter().flat_map(|issued| {
            let named = points(certificate).filter_map(|uri| issued.by_uri.get(uri)).flatten();
            issued.whole.iter().chain(named)
        });
        for (path, list) in lists {
            if !list.scope.takes(is_authority) || !list.is_by(issuer, &self.algorithms) {
                continue;
            }
            let current = (now_s < list.next_update_s()).then_some(&**list);
            match found.iter_mut().find(|group| *group.scope == list.scope) {
                Some(group) => group.current = group.current.or(current),
                None => {
                    self.newest.remember(issuer, path, list);
                    found.push(Candidates { scope: &list.scope, newest: list, current });
                }
            }
        }
        let mut until_s = None;
        for Candidates { newest, current, .. } in &found {
            let deciding = match self.expired {
                ExpiredCrl::Deny => *current,
                ExpiredCrl::Accept => Some(*newest),
            };
            // A certificate that the newest list revokes stays revoked, even if that list is overdue.
            let revokes = |list: &RevocationList| list.revokes(certificate.raw_serial());
            if revokes(newest) || deciding.is_some_and(revokes) {
                return Err(CertificateFault::Revoked(newest.issuer_text.clone()));
            }
            let ends_s = deciding.map(|list| match self.expired {
                ExpiredCrl::Deny => list.next_update_s(),
                ExpiredCrl::Accept => i64::MAX,
            });
            until_s = until_s.max(ends_s);
        }
        match (until_s, found.is_empty()) {
            (Some(until_s), _) => Ok(until_s),
            (None, false) => Err(CertificateFault::ListOverdue(name_text(certificate.issuer()))),
            (None, true) => {
                self.warn_once(certificate);
                Err(CertificateFault::NoList(name_text(certificate.issuer())))
            }
        }
    }

    /// Logs a warning, once per issuer, that no list covers a certificate of its.
    fn warn_once(&self, certificate: &X509Certificate<'_>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let issuer = certificate.issuer();
        if warned.len() < WARNED_ISSUERS_MAX && warned.insert(issuer.as_raw().into()) {
            tracing::warn!(
                issuer = %name_text(issuer),
                "no revocation list covers a certificate of this authority: its certificates are \
                 refused until a list is added"
            );
        }
    }
}

impl IssuerLists {
    fn parts(&self) -> impl Iterator<Item = &Vec<(PathBuf, Arc<RevocationList>)>> {
        std::iter::once(&self.whole).chain(self.by_uri.values())
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut Vec<(PathBuf, Arc<RevocationList>)>> {
        std::iter::once(&mut self.whole).chain(self.by_uri.values_mut())
    }
}
