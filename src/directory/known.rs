//! Facts about registrations from which the exact refusal is chosen. None of them lets a request in.

use super::Directory;
use spine_types::{CertificateName, InnerUrl, OdsCode};

/// Limit: bytes of a target's path that are compared with known service roots.
const ROOT_PATH_BYTES_MAX: usize = 512;
/// Limit: path segments of a target that are compared with known service roots.
const ROOT_SEGMENTS_MAX: usize = 16;

impl Directory {
    /// Returns true if a sender may have one of these certificate names.
    ///
    /// Always true with a live source of consumers, since it cannot be searched by name.
    #[must_use]
    pub fn may_know(&self, names: &[CertificateName]) -> bool {
        self.shared.in_force.load().knows_senders() || self.knows(names)
    }

    /// Returns true if a sender of the file or of a look-up so far has one of these certificate names.
    #[must_use]
    pub fn knows(&self, names: &[CertificateName]) -> bool {
        let in_force = self.shared.in_force.load();
        let learnt = &self.shared.cache.names;
        names.iter().any(|name| in_force.file.names.contains_key(name) || learnt.contains_key(name))
    }

    /// Returns true if the file registers a consumer of this organisation with one of these names.
    #[must_use]
    pub fn are_names_of(&self, names: &[CertificateName], ods: &OdsCode) -> bool {
        let in_force = self.shared.in_force.load();
        names
            .iter()
            .any(|name| in_force.file.names.get(name).is_some_and(|held| held.contains(ods)))
    }

    /// Returns true if a consumer may be registered for this organisation.
    ///
    /// Always true with a live source of consumers, since it cannot be searched by organisation.
    #[must_use]
    pub fn knows_organisation(&self, ods: &OdsCode) -> bool {
        let in_force = self.shared.in_force.load();
        in_force.knows_senders() || in_force.file.organisations.contains(ods)
    }

    /// Returns true if a URL lies under a service root of the file or of a look-up so far.
    ///
    /// Only the first 512 bytes and 16 segments of the path are compared.
    #[must_use]
    pub fn knows_root_of(&self, url: &InnerUrl<'_>) -> bool {
        let in_force = self.shared.in_force.load();
        // The URL grammar allows ASCII only, so that any index is a character boundary.
        let path = url.path.get(..ROOT_PATH_BYTES_MAX).unwrap_or(url.path);
        let longest = format!("https://{}{path}", url.authority);
        let before = longest.len() - path.len();
        let whole = (path.len() == url.path.len()).then_some(path.len());
        let ends = path.match_indices('/').map(|(at, _)| at).chain(whole);
        ends.take(ROOT_SEGMENTS_MAX).filter_map(|end| longest.get(..before + end)).any(|root| {
            in_force.file.roots.contains(root) || self.shared.cache.roots.contains_key(root)
        })
    }
}
