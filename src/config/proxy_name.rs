//! Name of this installation in HTTP headers.

use serde::Deserialize;

/// Name of this installation in `Via`, `Forwarded` and `Proxy-Status`.
///
/// It is a letter, followed by letters, digits, full stops, underscores and hyphens, so that it is a
/// pseudonym of RFC 9110 (§7.6.3), with an underscore before it an obfuscated identifier of RFC 7239 (§6.3),
/// and a token of RFC 9651.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(try_from = "String")]
pub struct ProxyName(String);

/// Limit: bytes of a name, the same as for a host name on Linux.
const NAME_BYTES_MAX: usize = 64;
/// Name of an installation whose machine has no distinctive host name.
const FALLBACK: &str = "spine-proxy";

/// Error returned when a proxy name is not valid.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a proxy name: it must be a letter, followed by letters, digits, full stops, underscores \
     and hyphens, at most {NAME_BYTES_MAX} characters"
)]
pub struct ProxyNameError(String);

impl ProxyName {
    /// Returns a name derived from the machine's host name; characters that are not allowed become hyphens.
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
            assert!(refused.to_string().contains("is not a proxy name"), "{refused}");
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
