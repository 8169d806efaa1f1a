//! Choice between JSON and XML, for the request's body and for the response's.
//!
//! Spec: `_format` takes precedence over `Accept`, and `Accept` over the request's own
//! `Content-Type`; the default is JSON.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, Response};
use serde_json::Value;

use super::parameters::Parameters;
use super::reply::{ReplyFault, ResourceReply, SpineErrorCode};
use super::{json, xml};

/// One of the two formats of FHIR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResourceFormat {
    Json,
    Xml,
}

impl ResourceFormat {
    /// Returns the format that a media type or a value of `_format` names.
    ///
    /// A plus sign may have been decoded to a space.
    fn named(text: &str) -> Option<Self> {
        let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.replace(' ', "+").as_str() {
            "application/fhir+json"
            | "application/json+fhir"
            | "application/json"
            | "json"
            | "text/json" => Some(Self::Json),
            "application/fhir+xml"
            | "application/xml+fhir"
            | "application/xml"
            | "xml"
            | "text/xml" => Some(Self::Xml),
            _ => None,
        }
    }

    /// Spec: the media type with its character set, without a space between them.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/fhir+json;charset=utf-8",
            Self::Xml => "application/fhir+xml;charset=utf-8",
        }
    }

    pub(super) fn write(self, resource: &Value) -> String {
        match self {
            Self::Json => resource.to_string(),
            Self::Xml => xml::write(resource),
        }
    }

    /// Returns a response in this format; with `minimal`, a success has no body.
    pub(super) fn response(
        self,
        reply: ResourceReply,
        minimal: bool,
        with_gzip: bool,
    ) -> Response<Bytes> {
        let ResourceReply { status, version, location, body, .. } = reply;
        let empty = minimal && status.is_success();
        let body = if empty { String::new() } else { self.write(&body) };
        let gzipped = if with_gzip && !empty { gzip(body.as_bytes()) } else { None };
        let coding = gzipped.as_ref().map(|_| "gzip".to_owned());
        let mut response = Response::new(gzipped.unwrap_or_else(|| body.into()));
        *response.status_mut() = status;
        let tag = version.map(|version| format!("W/\"{version}\""));
        let kind = (!empty).then(|| self.content_type().to_owned());
        for (name, text) in
            [(CONTENT_TYPE, kind), (CONTENT_ENCODING, coding), (ETAG, tag), (LOCATION, location)]
        {
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    /// Parses a body; one that cannot be parsed is an invalid resource, as the test suite expects.
    pub(super) fn read(self, body: &[u8]) -> Result<Value, ReplyFault> {
        let read = match self {
            Self::Json => json::read_json(body),
            Self::Xml => xml::read(body),
        };
        read.map_err(ReplyFault::resource)
    }
}

/// Returns the bytes compressed with gzip.
fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::default());
    writer.write_all(body).ok()?;
    writer.finish().ok().map(Bytes::from)
}

/// Returns the format of the request's body; `None` without a `Content-Type`.
pub(super) fn request_format(headers: &HeaderMap) -> Result<Option<ResourceFormat>, ReplyFault> {
    let Some(named) = text(headers, &CONTENT_TYPE) else { return Ok(None) };
    let charset = named.split(';').skip(1).find_map(|part| part.trim().split_once('='));
    let utf8 = charset.is_none_or(|(name, value)| {
        !name.eq_ignore_ascii_case("charset")
            || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    let format = ResourceFormat::named(named).filter(|_| utf8).ok_or_else(unsupported)?;
    Ok(Some(format))
}

/// Returns the format of the response.
pub(super) fn response_format(
    headers: &HeaderMap,
    parameters: Option<&Parameters>,
) -> Result<ResourceFormat, ReplyFault> {
    let named = parameters.map(|parameters| parameters.all("_format")).unwrap_or_default();
    if let Some(format) = named.first() {
        return ResourceFormat::named(format).ok_or_else(unsupported);
    }
    let default = || request_format(headers).ok().flatten().unwrap_or(ResourceFormat::Json);
    let accepted = text(headers, &ACCEPT).unwrap_or_default();
    if accepted.trim().is_empty() {
        return Ok(default());
    }
    let offer = |part: &str| {
        let is_wildcard = part.starts_with("*/*") || part.starts_with("application/*");
        let format = ResourceFormat::named(part).or_else(|| is_wildcard.then(default))?;
        Some((weight(part), format)).filter(|(weight, _)| *weight > 0.0)
    };
    // Of equal weights, the first wins.
    let offers = accepted.split(',').filter_map(|part| offer(part.trim()));
    let best = offers.reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map(|(_, format)| format).ok_or_else(unsupported)
}

/// Returns the weight `q` of one media range, 1 by default.
fn weight(part: &str) -> f64 {
    let mut words = part.split(';').skip(1).map(str::trim);
    let weight = words.find_map(|word| word.strip_prefix("q="));
    weight.map_or(1.0, |weight| weight.parse().unwrap_or_default())
}

/// Returns true if the response may be compressed with gzip.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = text(headers, &ACCEPT_ENCODING).unwrap_or_default();
    accepted.split(',').any(|part| {
        let mut words = part.split(';').map(str::trim);
        let named = words.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named && !words.any(|word| matches!(word, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn unsupported() -> ReplyFault {
    ReplyFault::new(
        SpineErrorCode::UnsupportedMediaType,
        "only application/fhir+json and application/fhir+xml in UTF-8 are supported",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn headers(of: &[(http::HeaderName, &str)]) -> HeaderMap {
        let pairs = of.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        pairs.collect::<HeaderMap<HeaderValue>>()
    }

    #[test]
    fn the_parameter_overrides_accept_and_accept_overrides_the_content_type() {
        let (json, xml) = ("application/fhir+json", "application/fhir+xml;charset=utf-8");
        for (format, accept, body, expected) in [
            ("", "", "", Some(ResourceFormat::Json)),
            ("", "", xml, Some(ResourceFormat::Xml)),
            ("", json, xml, Some(ResourceFormat::Json)),
            ("", "*/*", xml, Some(ResourceFormat::Xml)),
            ("", "text/html, application/fhir+xml;q=0.9", "", Some(ResourceFormat::Xml)),
            ("", "text/html", "", None),
            (
                "",
                "application/fhir+xml;q=0.1, application/fhir+json",
                "",
                Some(ResourceFormat::Json),
            ),
            ("", "application/fhir+xml;q=0", "", None),
            ("application/fhir+xml", json, json, Some(ResourceFormat::Xml)),
            ("application%2Ffhir%2Bjson", xml, xml, Some(ResourceFormat::Json)),
            ("application/fhir%20xml", "", "", Some(ResourceFormat::Xml)),
            ("json", xml, "", Some(ResourceFormat::Json)),
            ("turtle", json, "", None),
        ] {
            let query = if format.is_empty() { String::new() } else { format!("_format={format}") };
            let parameters = Parameters::parse(&query).unwrap();
            let sent = [(ACCEPT, accept), (CONTENT_TYPE, body)];
            let sent: Vec<_> = sent.into_iter().filter(|(_, text)| !text.is_empty()).collect();
            let format_got = response_format(&headers(&sent), Some(&parameters)).ok();
            assert_eq!(format_got, expected, "{format:?} {accept:?} {body:?}");
        }
    }

    #[test]
    fn only_utf_8_is_supported() {
        for (text, good) in [
            ("application/fhir+json; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/fhir+xml;charset=utf-16", false),
            ("text/plain", false),
        ] {
            assert_eq!(request_format(&headers(&[(CONTENT_TYPE, text)])).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn gzip_is_used_only_if_the_client_accepts_it() {
        for (text, accepted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(&headers(&[(ACCEPT_ENCODING, text)])), accepted, "{text}");
        }
    }

    #[test]
    fn a_fault_is_an_operation_outcome_with_one_coding() {
        let response =
            ResourceFormat::Json.response(ReplyFault::parameter("why").into_reply(), true, false);
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], "application/fhir+json;charset=utf-8");
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["issue"][0]["details"]["coding"][0]["code"], "INVALID_PARAMETER");
        assert_eq!(body["issue"][0]["diagnostics"], "why");
        assert_eq!(body["issue"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_minimal_response_has_its_headers_and_no_body() {
        let body = json!({ "meta": { "versionId": "4" } });
        let reply = ResourceReply::created(body, "Appointment/9".to_owned());
        let response = ResourceFormat::Json.response(reply, true, false);
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["etag"], "W/\"4\"");
        assert_eq!(response.headers()["location"], "Appointment/9");
        assert!(response.body().is_empty());
    }
}
