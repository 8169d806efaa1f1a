//! The name of one installation.

use serde::Deserialize;

/// Name of one installation in `Via`, `Forwarded` and `Proxy-Status`.
///
/// A letter, then letters, digits, full stops, underscores and hyphens: at once a pseudonym of RFC 9110
/// (section 7.6.3), an obfuscated identifier of RFC 7239 (section 6.3, after an underscore) and a token of
/// RFC 9651.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ProxyName(String);

/// Limit: bytes of a name, as of a host name on Linux.
const NAME_BYTES_MAX: usize = 64;
/// The name where the machine has none that tells it from others.
const FALLBACK: &str = "spine-proxy";

/// A name that is not a valid one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no proxy name: a letter, then letters, digits, full stops, underscores and hyphens, \
     {NAME_BYTES_MAX} at most"
)]
pub struct ProxyNameError(String);

impl ProxyName {
    /// Returns the machine's host name, each character that may not stand in a name replaced by a hyphen.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::from_host(&rustix::system::uname().nodename().to_string_lossy())
    }

    fn from_host(host: &str) -> Self {
        if ["", "(none)", "localhost", "localhost.localdomain"].contains(&host) {
            return Self(FALLBACK.to_owned());
        }
        // The host name of a container is often its id, which may begin with a digit.
        let prefix = if host.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "host-" };
        let legal = |c: char| if is_legal(c) { c } else { '-' };
        Self(prefix.chars().chain(host.chars().map(legal)).take(NAME_BYTES_MAX).collect())
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProxyName {
    type Error = ProxyNameError;

    fn try_from(name: String) -> Result<Self, ProxyNameError> {
        let is_valid = name.len() <= NAME_BYTES_MAX
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(is_legal);
        if is_valid { Ok(Self(name)) } else { Err(ProxyNameError(name)) }
    }
}

const fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_valid_in_all_three_fields_or_refused() {
        for good in ["ssp-1", "a", "SSP_1.example.nhs.uk", &"x".repeat(64)] {
            assert!(ProxyName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "1ssp", "_ssp", "a b", "a:1", "a/b", "a,b", "caf\u{e9}", &"x".repeat(65)] {
            let refused = ProxyName::try_from(bad.to_owned()).unwrap_err();
            assert!(refused.to_string().contains("is no proxy name"), "{refused}");
        }
    }

    #[test]
    fn whatever_the_host_name_its_name_is_valid() {
        for (host, name) in [
            ("ssp-1.example.nhs.uk", "ssp-1.example.nhs.uk"),
            ("3f2a9c", "host-3f2a9c"),
            ("a b\u{e9}", "a-b-"),
            ("", "spine-proxy"),
            ("localhost", "spine-proxy"),
            (&"x".repeat(300), &"x".repeat(64)),
        ] {
            assert_eq!(ProxyName::from_host(host).as_str(), name);
            assert!(ProxyName::try_from(name.to_owned()).is_ok());
        }
        let own = ProxyName::of_this_machine().as_str().to_owned();
        assert!(ProxyName::try_from(own.clone()).is_ok(), "{own}");
    }
}
