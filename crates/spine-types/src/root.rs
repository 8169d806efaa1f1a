//! Byte grammar of the `https` URLs that the Spine uses, and service roots in this form.
//!
//! A URL is not decoded, merged, case-folded or resolved: a text has the one accepted form or is refused. A URL
//! library would turn `127.1` into an address and `%2e` into a dot.

use std::fmt;
use std::str::FromStr;

/// Fault of a URL that does not have the accepted form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// The URL does not begin with `https://` in lower case.
    #[error("the URL does not begin with https:// in lower case")]
    Scheme,
    /// The URL names a user, as in `user@host`.
    #[error("the URL names a user")]
    Userinfo,
    /// The host is empty, has other characters than letters, digits and hyphens in its labels, or ends in a
    /// dot.
    #[error("the host is not a host name")]
    Host,
    /// The host is an IP address, in any spelling, instead of a name.
    #[error("the host is an address, not a name")]
    Address,
    /// The port is empty, zero, padded with zeros or above 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The path has a segment `.` or `..`, plain or percent-encoded.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// The path has a percent-encoded separator, control character or percent sign, or an incomplete escape.
    #[error("the path holds an escape that is not allowed")]
    Escape,
    /// The path has a byte that is not allowed.
    #[error("the path holds a character that is not allowed")]
    PathByte,
    /// The query has a byte that is not allowed.
    #[error("the query holds a character that is not allowed")]
    QueryByte,
}

/// Parts of a URL, which borrow from its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerUrl<'a> {
    /// `host` or `host:port`, as written.
    pub authority: &'a str,
    /// Path with its leading slash, or empty.
    pub path: &'a str,
    /// Query without its question mark.
    pub query: Option<&'a str>,
}

impl<'a> InnerUrl<'a> {
    /// Parses a URL of the form `https://authority/path?query`.
    ///
    /// # Errors
    /// Returns the first fault if the text does not have the accepted form.
    pub fn parse(url: &'a str) -> Result<Self, UrlFault> {
        Self::after_scheme(url.strip_prefix("https://").ok_or(UrlFault::Scheme)?)
    }

    /// Parses `authority/path?query`, the part of a URL after its scheme.
    ///
    /// # Errors
    /// Returns the first fault if the text does not have the accepted form.
    pub fn after_scheme(rest: &'a str) -> Result<Self, UrlFault> {
        let end = rest.bytes().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at_checked(end).ok_or(UrlFault::Host)?;
        check_authority(authority)?;
        let (path, query) = split_query(tail);
        check_path(path)?;
        check_query(query)?;
        Ok(Self { authority, path, query })
    }
}

/// Splits a target at its first question mark.
pub(crate) fn split_query(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

fn check_authority(authority: &str) -> Result<(), UrlFault> {
    if authority.contains('@') {
        return Err(UrlFault::Userinfo);
    }
    if authority.starts_with('[') {
        return Err(UrlFault::Address);
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    check_host(host)?;
    match port {
        None => Ok(()),
        Some(port) if port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) => {
            Err(UrlFault::Port)
        }
        Some(port) => port.parse::<u16>().map(drop).map_err(|_| UrlFault::Port),
    }
}

fn check_host(host: &str) -> Result<(), UrlFault> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(UrlFault::Host);
    }
    // Security: `127.1`, `0x7f.1` and `2130706433` are addresses to some resolvers. No top-level
    // domain begins with a digit, so a host whose last label does is an address.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.starts_with(|c: char| c.is_ascii_digit()) { Err(UrlFault::Address) } else { Ok(()) }
}

/// Checks a path that is empty or begins with a slash.
pub(crate) fn check_path(path: &str) -> Result<(), UrlFault> {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => check_escape(high * 16 + low)?,
                _ => return Err(UrlFault::Escape),
            },
            b'/' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*'
            | b'+' | b',' | b'=' | b':' | b'@' => {}
            _ if byte.is_ascii_alphanumeric() => {}
            _ => return Err(UrlFault::PathByte),
        }
    }
    let mut segments = path.as_bytes().split(|byte| *byte == b'/');
    let dots = segments.any(|segment| matches!(segment, b"." | b".."));
    if dots { Err(UrlFault::DotSegment) } else { Ok(()) }
}

/// Security: a provider may decode once more than this proxy, so no escape may become a separator, a dot, a
/// control character or another escape.
fn check_escape(decoded: u8) -> Result<(), UrlFault> {
    match decoded {
        b'/' | b'\\' | b'%' | b';' | b'?' | b'#' | 0..=0x1f | 0x7f => Err(UrlFault::Escape),
        b'.' => Err(UrlFault::DotSegment),
        _ => Ok(()),
    }
}

/// Checks a query: visible ASCII without `#` and backslash is allowed; escapes are left to the provider.
pub(crate) fn check_query(query: Option<&str>) -> Result<(), UrlFault> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'#' && byte != b'\\';
    if query.unwrap_or_default().bytes().all(allowed) { Ok(()) } else { Err(UrlFault::QueryByte) }
}

fn hex(byte: Option<u8>) -> Option<u8> {
    char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Registered service root of a provider, kept exactly as the directory holds it.
///
/// Spec: `https://[FQDN]/[path]`, compared with the consumer's target byte for byte.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServiceRoot {
    text: Box<str>,
    host_end: usize,
    authority_end: usize,
}

const SCHEME: &str = "https://";

impl ServiceRoot {
    /// Returns the registered text, which is also the audience that tokens must name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the host name, without the port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.get(SCHEME.len()..self.host_end).unwrap_or_default()
    }

    /// Returns host and port as registered, which become `Host` in requests to the provider.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text.get(SCHEME.len()..self.authority_end).unwrap_or_default()
    }

    /// Returns the registered port; 443 if there is none.
    #[must_use]
    pub fn port(&self) -> u16 {
        let port = self.text.get(self.host_end + 1..self.authority_end);
        port.and_then(|port| port.parse().ok()).unwrap_or(443)
    }

    /// Returns the path without a final slash, to which a FHIR request's own path is appended.
    #[must_use]
    pub fn base_path(&self) -> &str {
        let path = self.text.get(self.authority_end..).unwrap_or_default();
        path.strip_suffix('/').unwrap_or(path)
    }

    /// Returns the path that follows this root in `url`; `None` if `url` does not lie under it.
    ///
    /// A root registered with a final slash matches both with and without it.
    #[must_use]
    pub fn rest_of<'a>(&self, url: &InnerUrl<'a>) -> Option<&'a str> {
        if url.authority != self.authority() {
            return None;
        }
        let rest = url.path.strip_prefix(self.base_path())?;
        let ends_in_slash = self.text.ends_with('/');
        match rest.strip_prefix("//") {
            Some(_) if ends_in_slash => rest.get(1..),
            _ if rest.is_empty() || rest.starts_with('/') => Some(rest),
            _ => None,
        }
    }
}

impl FromStr for ServiceRoot {
    type Err = UrlFault;

    fn from_str(text: &str) -> Result<Self, UrlFault> {
        let url = InnerUrl::parse(text)?;
        if url.query.is_some() {
            return Err(UrlFault::QueryByte);
        }
        let host_len = url.authority.find(':').unwrap_or(url.authority.len());
        Ok(Self {
            text: text.into(),
            host_end: SCHEME.len() + host_len,
            authority_end: SCHEME.len() + url.authority.len(),
        })
    }
}

impl fmt::Display for ServiceRoot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for ServiceRoot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for ServiceRoot {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(|fault| {
            serde::de::Error::custom(format!("{text:?} is not a service root: {fault}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> ServiceRoot {
        text.parse().unwrap()
    }

    #[test]
    fn a_root_knows_its_parts() {
        let plain = root("https://pcs.thirdparty.nhs.uk/T99999/STU3/1/gpconnect");
        assert_eq!((plain.host(), plain.port()), ("pcs.thirdparty.nhs.uk", 443));
        assert_eq!(plain.base_path(), "/T99999/STU3/1/gpconnect");
        let ported = root("https://provider.example:8443/v1/fhir/");
        assert_eq!((ported.host(), ported.port()), ("provider.example", 8443));
        assert_eq!(ported.authority(), "provider.example:8443");
        assert_eq!(ported.base_path(), "/v1/fhir");
    }

    #[test]
    fn a_url_lies_under_a_root_only_at_a_segment_boundary() {
        let root = root("https://p.nhs.uk/GP0001/STU3/1/gpconnect");
        let rest = |url: &'static str| root.rest_of(&InnerUrl::parse(url).unwrap());
        assert_eq!(rest("https://p.nhs.uk/GP0001/STU3/1/gpconnect/Slot?a=b"), Some("/Slot"));
        assert_eq!(rest("https://p.nhs.uk/GP0001/STU3/1/gpconnectX/Slot"), None);
        assert_eq!(rest("https://p.nhs.uk/GP00012/STU3/1/gpconnect/Slot"), None);
        assert_eq!(rest("https://p.nhs.uk:443/GP0001/STU3/1/gpconnect/Slot"), None);
        assert_eq!(rest("https://P.nhs.uk/GP0001/STU3/1/gpconnect/Slot"), None);
        assert_eq!(rest("https://p.nhs.uk/GP0001/STU3/1/gpconnect//Slot"), Some("//Slot"));
    }

    #[test]
    fn a_root_registered_with_a_final_slash_matches_with_and_without_it() {
        let root = root("https://supplier.nhs.uk/v1/fhir/");
        let rest = |url: &'static str| root.rest_of(&InnerUrl::parse(url).unwrap());
        assert_eq!(rest("https://supplier.nhs.uk/v1/fhir/Slot"), Some("/Slot"));
        assert_eq!(rest("https://supplier.nhs.uk/v1/fhir//Patient/1"), Some("/Patient/1"));
    }

    #[test]
    fn hosts_are_names_and_never_addresses() {
        let fault = |url: &str| InnerUrl::parse(url).unwrap_err();
        for address in ["[::1]", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "1.2.3.4:80"] {
            assert_eq!(fault(&format!("https://{address}/x")), UrlFault::Address, "{address}");
        }
        for host in ["", "good.nhs.uk.", "*.nhs.uk", "good_host", "a..b", "-a.uk", "①②⑦.uk"] {
            assert_eq!(fault(&format!("https://{host}/x")), UrlFault::Host, "{host}");
        }
        let long = "a".repeat(64);
        assert_eq!(fault(&format!("https://{long}.uk/")), UrlFault::Host);
        for port in [":", ":0", ":0443", ":65536", ":22x", ":-1", ":+1", ":1:2"] {
            assert_eq!(fault(&format!("https://good.uk{port}/")), UrlFault::Port, "{port}");
        }
        assert_eq!(fault("https://good@evil.uk/"), UrlFault::Userinfo);
        assert_eq!(fault("https://good:443@evil.uk/"), UrlFault::Userinfo);
        assert_eq!(fault("HTTPS://good.uk/"), UrlFault::Scheme);
        assert_eq!(fault("http://good.uk/"), UrlFault::Scheme);
    }

    #[test]
    fn paths_hold_no_dots_no_encoded_separators_and_no_broken_escapes() {
        let fault = |path: &str| check_path(path).unwrap_err();
        for path in ["/a/../b", "/./a", "/a/..", "/%2e%2e/", "/.%2E/x"] {
            assert_eq!(fault(path), UrlFault::DotSegment, "{path}");
        }
        for path in ["/%2f", "/%5c", "/%00", "/%0d%0a", "/%252f", "/%zz", "/%2", "/%", "/%3b"] {
            assert_eq!(fault(path), UrlFault::Escape, "{path}");
        }
        for path in ["/\\x", "/a;jsessionid=1", "/..;/x", "/é", "/a b", "/\"", "/<a>", "/a#b"] {
            assert_eq!(fault(path), UrlFault::PathByte, "{path}");
        }
        for path in ["", "/", "/Patient/$gpc.registerpatient", "/a%20b", "/~a/b:c@d", "//x"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }
}
