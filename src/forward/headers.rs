//! Header fields towards providers: a request's are built by rule, a response's filtered in place.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};

use super::Upload;
use crate::policy::Permit;
use crate::refusal::Refusal;
use crate::request::{CONNECTION_NAMES_MAX, field_name, is_end_to_end};
use crate::traces::OutgoingContext;
use spine_types::SspHeader;

/// The consumer's hop, as headers describe it to the provider.
#[derive(Debug, Clone, Copy)]
pub struct ConsumerHop<'a> {
    /// Address and port that the request came from.
    pub consumer: &'a str,
    /// Name of this proxy in `Via` and `Forwarded`.
    pub proxy: &'a str,
    /// Evidence of the request's line in the audit journal, if the practice is to have it.
    pub receipt: Option<&'a HeaderValue>,
    /// Trace context in place of the consumer's, if traces are on.
    pub trace: Option<OutgoingContext>,
}

/// Header with evidence of a write's line in the audit journal: the journal's name, the line's number, a
/// colon and the chain value.
pub const RECEIPT: HeaderName = HeaderName::from_static("spine-proxy-receipt");

/// Header with the id of an exchange in every answer to a consumer. One of a provider or a consumer is dropped:
/// it would be taken for this proxy's.
pub const EXCHANGE: HeaderName = HeaderName::from_static("spine-proxy-exchange");

/// Returns true for fields that belong to one connection, in either direction.
fn is_of_one_connection(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-length"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Prefixes of fields by which a proxy in front of a server describes its client: address, host, certificate,
/// and what NHS England's API platform has found out about it.
const OF_A_PROXY: [&str; 9] = [
    "client-cert",
    "nhsd-",
    "ssl-client-",
    "x-amzn-mtls-",
    "x-arr-",
    "x-client-cert",
    "x-forwarded-",
    "x-original-",
    "x-ssl-",
];

/// Returns true for fields that never go to a provider.
///
/// These are the fields that this proxy writes itself, those by which a consumer could speak for a proxy in
/// front of the provider, and those that override what was checked.
fn is_never_sent(name: &str) -> bool {
    // Security: the method and target that were checked are the ones that count.
    is_of_one_connection(name)
        || OF_A_PROXY.iter().any(|family| name.starts_with(family))
        || matches!(
            name,
            "cf-connecting-ip"
                | "expect"
                | "fastly-client-ip"
                | "forwarded"
                | "host"
                | "spine-proxy-exchange"
                | "spine-proxy-receipt"
                | "true-client-ip"
                | "via"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-forwarded"
                | "x-http-method"
                | "x-http-method-override"
                | "x-method-override"
                | "x-real-ip"
                | "x-rewrite-url"
        )
}

/// Returns true for fields of a response that never reach a consumer.
///
/// They hold for the whole origin, which here is this proxy's and so every other practice's, or lead away
/// from it.
fn is_never_returned(name: &str) -> bool {
    is_of_one_connection(name)
        || matches!(
            name,
            "accept-ch"
                | "alt-svc"
                | "clear-site-data"
                | "expect-ct"
                | "nel"
                | "proxy-status"
                | "public-key-pins"
                | "public-key-pins-report-only"
                | "refresh"
                | "report-to"
                | "reporting-endpoints"
                | "spine-proxy-exchange"
                | "spine-proxy-receipt"
                | "strict-transport-security"
        )
}

/// Returns true for fields of a request that carry cookies.
fn is_cookie(name: &str) -> bool {
    matches!(name, "cookie" | "cookie2")
}

/// Returns true for fields of a response that set cookies.
fn sets_cookie(name: &str) -> bool {
    matches!(name, "set-cookie" | "set-cookie2")
}

/// Builds the provider's request, with the consumer's end-to-end headers and this proxy's own `Host`,
/// `Forwarded` and `Via`.
///
/// # Errors
/// Returns [`Refusal::Internal`] if the registered root has an authority that is not valid in HTTP, which
/// cannot be.
pub(super) fn request(
    permit: &Permit,
    head: &Parts,
    upload: Upload,
    hop: &ConsumerHop<'_>,
    pass_cookies: bool,
) -> Result<Request<Upload>, Refusal> {
    let bodiless_write = upload.is_empty() && head.method != Method::GET;
    let mut request = Request::new(upload);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from(permit.path_and_query().clone());
    // Extensions hold the spelling of header names, for hyper.
    *request.extensions_mut() = head.extensions.clone();
    let named = connection_named(&head.headers);
    let headers = request.headers_mut();
    headers.reserve(head.headers.len() + 3);
    let host = HeaderValue::from_str(permit.provider().root.authority());
    headers.insert(header::HOST, host.map_err(|_| Refusal::Internal)?);
    for (name, value) in &head.headers {
        let text = name.as_str();
        if !is_never_sent(text) && !is_cookie(text) && !is_named(name, &named) {
            headers.append(name.clone(), value.clone());
        }
    }
    if pass_cookies {
        append_cookies(headers, head);
    }
    if bodiless_write {
        // Some servers require a length where a body could be.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let to = head.headers.get(field_name(SspHeader::To));
    if to.is_none_or(|to| to.as_bytes().trim_ascii().is_empty())
        && let Ok(to) = HeaderValue::from_str(permit.provider().asid.as_str())
    {
        // Form (b) of the target may come without `Ssp-To`, which providers check.
        headers.insert(field_name(SspHeader::To), to);
    }
    let forwarded = ["for=\"", hop.consumer, "\";by=_", hop.proxy, ";proto=https"].concat();
    if let Ok(forwarded) = HeaderValue::from_str(&forwarded) {
        headers.insert(header::FORWARDED, forwarded);
    }
    if let Ok(via) = HeaderValue::from_str(&via(head, hop)) {
        headers.insert(header::VIA, via);
    }
    if let Some(receipt) = hop.receipt {
        headers.insert(RECEIPT, receipt.clone());
    }
    if let Some(trace) = hop.trace {
        trace.write(headers);
    }
    Ok(request)
}

/// Appends the request's cookies, in one field where HTTP/2 has split them.
///
/// Spec: RFC 9113, section 8.2.3.
fn append_cookies(headers: &mut HeaderMap, head: &Parts) {
    let cookies = head.headers.get_all(header::COOKIE);
    if head.version != Version::HTTP_2 {
        for cookie in cookies {
            headers.append(header::COOKIE, cookie.clone());
        }
        return;
    }
    let cookies: Vec<_> = cookies.iter().map(HeaderValue::as_bytes).collect();
    if !cookies.is_empty()
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Removes from a provider's response headers those that must not reach a consumer; the others stay
/// untouched.
///
/// `proxy` is the name of this proxy.
pub(super) fn filter_response(headers: &mut HeaderMap, proxy: &str, pass_cookies: bool) {
    let named = connection_named(headers);
    let status = status_of_others(headers, proxy);
    let is_dropped = |name: &&HeaderName| {
        let text = name.as_str();
        is_never_returned(text) || (sets_cookie(text) && !pass_cookies) || is_named(name, &named)
    };
    let dropped: Vec<_> = headers.keys().filter(is_dropped).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    if let Some(status) = status {
        headers.insert(PROXY_STATUS, status);
    }
}

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Returns the members of `Proxy-Status` that are another proxy's, as one value; `None` if the field is not a
/// valid list.
///
/// Security: a member in this proxy's name would tell the consumer that a booking was not sent, or was.
///
/// Spec: RFC 9209, section 2: each member is a string or a token; RFC 9651, section 4.2: lines are joined,
/// and a field that cannot be parsed is ignored whole.
fn status_of_others(from: &HeaderMap, proxy: &str) -> Option<HeaderValue> {
    let lines: Vec<_> = from.get_all(PROXY_STATUS).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return None;
    }
    let mut members: sfv::List = sfv::Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    members.retain(|member| {
        let sfv::ListEntry::Item(item) = member else { return false };
        let token = item.bare_item.as_token().map(|name| name.as_str());
        let name = token.or_else(|| item.bare_item.as_string().map(|name| name.as_str()));
        name.is_some_and(|name| !name.eq_ignore_ascii_case(proxy))
    });
    HeaderValue::try_from(sfv::FieldType::serialize(&members)?).ok()
}

/// Returns the one value of `Via`, however many came in: some test harnesses fail on two.
fn via(from: &Parts, hop: &ConsumerHop<'_>) -> String {
    let version = if from.version == Version::HTTP_2 { "2.0" } else { "1.1" };
    let before = from.headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    let mut via: String = before.map(|value| format!("{value}, ")).collect();
    via.push_str(version);
    via.push(' ');
    via.push_str(hop.proxy);
    via
}

/// Returns true if `Connection` names this field.
fn is_named(name: &HeaderName, named: &[String]) -> bool {
    named.iter().any(|dropped| dropped == name.as_str())
}

/// Returns the headers that `Connection` names, without those that it may not take away.
///
/// In a response, names beyond the limit are ignored; a request with more was refused before.
fn connection_named(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter();
    let names = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let names = names.take(CONNECTION_NAMES_MAX);
    let names = names.map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !name.is_empty() && !is_end_to_end(name)).collect()
}
