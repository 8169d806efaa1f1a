//! Header maps rebuilt by rule, never cloned and pruned.

use std::net::SocketAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Scheme;
use http::{Method, Request, Uri, Version};

use super::Upload;
use crate::policy::Permit;
use crate::refusal::{Refusal, SspHeader};
use crate::request::is_end_to_end;

/// The consumer's hop, as the provider is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// Where the request came from.
    pub consumer: SocketAddr,
    /// The name in `Via` and `Forwarded`.
    pub proxy: &'a str,
}

/// Headers that belong to one connection, those this proxy writes anew, and those a consumer could
/// use to speak for a proxy in front of it.
fn is_never_passed(name: &str) -> bool {
    // Security: the method and target that were checked are the ones that count.
    name.starts_with("x-forwarded-")
        || matches!(
            name,
            "connection"
                | "content-length"
                | "expect"
                | "forwarded"
                | "host"
                | "http2-settings"
                | "keep-alive"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "proxy-connection"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "via"
                | "x-http-method"
                | "x-http-method-override"
                | "x-method-override"
                | "x-original-url"
                | "x-real-ip"
                | "x-rewrite-url"
        )
}

/// The provider's request, to be [addressed](address): its headers are the consumer's end-to-end ones,
/// and a `Forwarded` and a `Via` of our own.
pub(super) fn request(
    permit: &Permit,
    head: &Parts,
    upload: Upload,
    hop: &Hop<'_>,
) -> Request<Upload> {
    let bodiless_write = upload.is_empty() && head.method != Method::GET;
    let mut request = Request::new(upload);
    *request.method_mut() = head.method.clone();
    // The spelling of header names, which hyper keeps on the side.
    *request.extensions_mut() = head.extensions.clone();
    let named = connection_named(&head.headers);
    let headers = request.headers_mut();
    headers.reserve(head.headers.len() + 3);
    // Its place is the first; its value comes with the address.
    headers.insert(header::HOST, HeaderValue::from_static(""));
    for (name, value) in &head.headers {
        if !is_dropped(name, &named) {
            headers.append(name.clone(), value.clone());
        }
    }
    if bodiless_write {
        // Some servers ask for a length where a body could be.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let to = head.headers.get(SspHeader::To.name());
    if to.is_none_or(|to| to.as_bytes().trim_ascii().is_empty())
        && let Ok(to) = HeaderValue::from_str(permit.provider().asid.as_str())
    {
        // Form (b) of the target leaves it to us; providers check it.
        headers.insert(HeaderName::from_static("ssp-to"), to);
    }
    let forwarded = format!("for=\"{}\";by=_{};proto=https", hop.consumer, hop.proxy);
    if let Ok(forwarded) = HeaderValue::from_str(&forwarded) {
        headers.insert(header::FORWARDED, forwarded);
    }
    if let Ok(via) = HeaderValue::from_str(&via(head, hop)) {
        headers.insert(header::VIA, via);
    }
    request
}

/// Addresses a request as this version of HTTP does: the authority beside the path, or in `Host`.
///
/// # Errors
/// [`Refusal::Internal`]: a registered root whose authority is none of HTTP's, which cannot be.
pub(super) fn address(
    request: &mut Request<Upload>,
    permit: &Permit,
    version: Version,
) -> Result<(), Refusal> {
    let path = permit.path_and_query().clone();
    let authority = permit.provider().root.authority();
    *request.version_mut() = version;
    *request.uri_mut() = if version == Version::HTTP_2 {
        request.headers_mut().remove(header::HOST);
        let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority);
        uri.path_and_query(path).build().map_err(|_| Refusal::Internal)?
    } else {
        let host = HeaderValue::from_str(authority).map_err(|_| Refusal::Internal)?;
        request.headers_mut().insert(header::HOST, host);
        Uri::from(path)
    };
    Ok(())
}

/// The consumer's response headers: the provider's end-to-end ones, untouched.
pub(super) fn response(from: HeaderMap) -> HeaderMap {
    let named = connection_named(&from);
    let mut headers = HeaderMap::with_capacity(from.len());
    let mut last = None;
    // A name is given once, with the first of its values.
    for (name, value) in from {
        last = name.or(last);
        if let Some(name) = &last
            && (name == header::VIA || !is_dropped(name, &named))
        {
            headers.append(name.clone(), value);
        }
    }
    headers
}

/// One value, whatever came in: some harnesses die on two.
fn via(from: &Parts, hop: &Hop<'_>) -> String {
    let version = if from.version == Version::HTTP_2 { "2.0" } else { "1.1" };
    let before = from.headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    let mut via: String = before.map(|value| format!("{value}, ")).collect();
    via.push_str(version);
    via.push(' ');
    via.push_str(hop.proxy);
    via
}

fn is_dropped(name: &HeaderName, named: &[String]) -> bool {
    is_never_passed(name.as_str()) || named.iter().any(|dropped| dropped == name.as_str())
}

/// Headers that `Connection` names, less those that no `Connection` may take away.
fn connection_named(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter();
    let names = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let names = names.map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !name.is_empty() && !is_end_to_end(name)).collect()
}
