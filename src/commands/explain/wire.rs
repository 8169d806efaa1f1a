//! Requests as bytes of HTTP/1.1: composed from what a client was told to send, and parsed as the listener does.

use std::path::PathBuf;

use http::header;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Uri, Version};

use super::usage;
use crate::failure::Failure;
use crate::listener::{InputFault, Validator};
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
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl RequestParts {
    /// Returns true if there is a header of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// Returns the bytes of the request; adds a `Content-Length` if there is a body without framing.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        let is_framed = self.has("content-length") || self.has("transfer-encoding");
        if !self.body.is_empty() && !is_framed {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).into_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Splits a URL with a scheme into its host and port, and the target after them; the fragment is not sent.
pub(super) fn split_url(url: &str) -> Option<(&str, String)> {
    let (_, rest) = url.split_once("://")?;
    let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end)?;
    let slash = if target.starts_with('/') { "" } else { "/" };
    Some((authority, format!("{slash}{target}")))
}

/// Head of a request, parsed from its bytes.
#[derive(Debug)]
pub(super) struct WireBytes {
    /// Head, or its readable part if it has a fault.
    pub(super) head: Parts,
    /// Refusal of the head on its bytes.
    pub(super) fault: Option<Refusal>,
    /// True if the body is not empty.
    pub(super) has_body: bool,
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
                return Ok(Self { head, fault: Some(refusal), has_body: false });
            }
            // A body is not judged.
            Some(InputFault::Head(_) | InputFault::Body) | None => {}
        }
        if validator.heads() == 0 {
            return Err(usage("the request ends before its head does: an empty line is missing"));
        }
        let (head, body) = parsed(bytes).ok_or_else(|| usage("the head cannot be read"))?;
        let has_body = has_content(&head, body);
        Ok(Self { head, fault: None, has_body })
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

/// Returns true if a body has at least one byte of content.
fn has_content(head: &Parts, body: &[u8]) -> bool {
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        return body.iter().take_while(|byte| byte.is_ascii_hexdigit()).any(|digit| *digit != b'0');
    }
    let length = head.headers.get(header::CONTENT_LENGTH);
    length.is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'))
}
