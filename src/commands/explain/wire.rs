//! Requests as bytes of HTTP/1.1: composed from what a client was told to send, and parsed as the listener does.

use std::path::PathBuf;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Uri, Version, header};

use super::usage;
use crate::failure::Failure;
use crate::gateway::BodyToJudge;
use crate::listener::{InputFault, ScanResult, Validator};
use crate::refusal::Refusal;
use crate::request;

/// Limit: header lines of a request, as the listener has it.
const HEADERS_MAX: usize = 128;

/// Request read from an input, in the bytes that a client would send.
#[derive(Debug, Default)]
pub(super) struct WireRequest {
    pub(super) bytes: Vec<u8>,
    /// File of the client certificate; `Some(None)` if the client presents none, `None` if that is not known.
    pub(super) certificate: Option<Option<PathBuf>>,
    /// Notes on how the input was read.
    pub(super) notes: Vec<String>,
}

/// Parts of a request that a client would send.
#[derive(Debug, Default)]
pub(super) struct RequestParts {
    /// Method, target and version.
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    /// Body; `None` if none is sent.
    pub(super) body: Option<Vec<u8>>,
}

impl RequestParts {
    /// Returns true if there is a header of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// Returns the bytes of the request. The body is one chunk if a header says that it is chunked.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.line).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        let Some(body) = &self.body else { return bytes };
        let is_chunked = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("transfer-encoding")
                && value.to_ascii_lowercase().contains("chunked")
        };
        match (self.headers.iter().any(is_chunked), body.len()) {
            (false, _) => bytes.extend_from_slice(body),
            (true, 0) => bytes.extend_from_slice(LAST_CHUNK),
            (true, length) => {
                bytes.extend(format!("{length:x}\r\n").into_bytes());
                bytes.extend([body, &b"\r\n"[..], LAST_CHUNK].concat());
            }
        }
        bytes
    }
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Parts of an `https` URL, as a client reads it.
#[derive(Debug)]
pub(super) struct HttpsUrl<'a> {
    /// User name and password.
    pub(super) user: Option<&'a str>,
    /// Value of `Host`.
    pub(super) host: &'a str,
    /// Path and query; the fragment is not sent.
    pub(super) target: String,
}

impl<'a> HttpsUrl<'a> {
    /// Reads a URL.
    ///
    /// # Errors
    /// Returns a text if it has another scheme or none: only requests over TLS are judged.
    pub(super) fn parse(url: &'a str) -> Result<Self, String> {
        let split = url.split_once("://");
        let (_, rest) = split
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
            .ok_or("the URL is not https, and the proxy answers nothing else")?;
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        let host = host.strip_suffix(":443").unwrap_or(host);
        Ok(Self { user, host, target: format!("{slash}{target}") })
    }
}

/// Head of a request, parsed from its bytes.
#[derive(Debug)]
pub(super) struct WireBytes {
    /// Head, or its readable part if it has a fault.
    pub(super) head: Parts,
    /// Refusal of the head on its bytes.
    pub(super) fault: Option<Refusal>,
    pub(super) body: BodyToJudge,
}

impl WireBytes {
    /// Parses the first request among these bytes.
    ///
    /// # Errors
    /// Returns an error if they end before the head does.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let mut validator = Validator::new();
        let scan = validator.scan(bytes);
        match scan.fault {
            Some(InputFault::Head(refusal)) if validator.heads() == 0 => {
                let head = request::readable(bytes);
                return Ok(Self { head, fault: Some(refusal), body: BodyToJudge::Unknown });
            }
            // What follows the first request is not judged.
            Some(InputFault::Head(_) | InputFault::Body) | None => {}
        }
        if validator.heads() == 0 {
            return Err(usage("the request ends before its head does: an empty line is missing"));
        }
        let (head, body) = parsed(bytes).ok_or_else(|| usage("the head cannot be read"))?;
        let is_chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
        let length = head.headers.get(header::CONTENT_LENGTH);
        let has_length =
            length.is_some_and(|text| text.as_bytes().iter().any(|digit| *digit != b'0'));
        let body = match (is_chunked, has_length) {
            (true, _) => chunked_body(&validator, &scan, bytes.len() - body.len(), body),
            (false, true) => BodyToJudge::Content,
            (false, false) => BodyToJudge::Empty,
        };
        Ok(Self { head, fault: None, body })
    }
}

/// Returns what is known of a chunked body that begins at `start` of the bytes that were scanned.
fn chunked_body(
    validator: &Validator,
    scan: &ScanResult,
    start: usize,
    body: &[u8],
) -> BodyToJudge {
    let passed = body.get(..scan.passed.saturating_sub(start)).unwrap_or(body);
    let is_broken = scan.fault == Some(InputFault::Body);
    match httparse::parse_chunk_size(passed) {
        Ok(httparse::Status::Complete((data, size))) if size > 0 && passed.len() > data => {
            BodyToJudge::Content
        }
        _ if is_broken && validator.heads() == 1 => BodyToJudge::Broken,
        _ if validator.heads() > 1 || validator.is_between_messages() => BodyToJudge::Empty,
        _ => BodyToJudge::Unknown,
    }
}

/// Parses a head that the listener accepts, and returns what follows it.
fn parsed(bytes: &[u8]) -> Option<(Parts, &[u8])> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(end) = parsed.parse(bytes).ok()? else { return None };
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    head.uri = Uri::try_from(parsed.path?).ok()?;
    head.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        head.headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    Some((head, bytes.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_of_a_chunked_body_is_known_as_far_as_it_is_there() {
        use BodyToJudge::{Broken, Content, Empty, Unknown};
        for (body, known) in [
            ("", Unknown),
            ("0", Unknown),
            ("0\r\n", Unknown),
            ("0\r\n\r\n", Empty),
            ("000;a=b\r\nA: b\r\n\r\n", Empty),
            ("0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", Empty),
            ("5\r\n", Unknown),
            ("5\r\nh", Content),
            ("5\r\nhello\r\nzz", Content),
            ("zz\r\n", Broken),
            ("5\nhello", Broken),
            ("0\r\nA\n", Broken),
        ] {
            let head = "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
            let parsed = WireBytes::parse(format!("{head}{body}").as_bytes()).unwrap();
            assert_eq!(parsed.body, known, "{body:?}");
        }
    }

    #[test]
    fn a_url_is_split_as_a_client_does() {
        let split = HttpsUrl::parse("HTTPS://me:p@h:8443?a=b#c").unwrap();
        assert_eq!((split.user, split.host, &*split.target), (Some("me:p"), "h:8443", "/?a=b"));
        let split = HttpsUrl::parse("https://h:443/https://x@y/").unwrap();
        assert_eq!((split.user, split.host, &*split.target), (None, "h", "/https://x@y/"));
        for url in ["http://h/", "h/https://x", "h"] {
            assert!(HttpsUrl::parse(url).is_err(), "{url}");
        }
    }
}
