//! Responses to consumers: refusals of this proxy, and providers' responses.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use uuid::Uuid;

use super::DecisionRules;
use super::negotiation::FhirFormat;
use crate::forward::{EXCHANGE, PaceFault, ProviderBody, RECEIPT};
use crate::refusal::{ErrorFamily, OperationOutcome, QuotaLeft, Refusal};
use crate::request::SspHeaders;

/// Format in which a refusal is written for one request.
#[derive(Debug)]
pub(super) struct RefusalFormat {
    format: FhirFormat,
    errors: ErrorFamily,
    rules: Arc<DecisionRules>,
    version: Version,
}

impl RefusalFormat {
    /// Chooses the format by a request's head and its consumer's deviations.
    pub(super) fn to(head: &Parts, rules: &Arc<DecisionRules>) -> Self {
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let accept = head.headers.get_all(header::ACCEPT).iter();
        let accept = accept.filter_map(|value| value.to_str().ok());
        let format = FhirFormat::negotiate(head.uri.query(), accept, text(header::CONTENT_TYPE));
        let errors = match rules.compatibility.is_empty() {
            true => ErrorFamily::default(),
            false => rules.compatibility(&SspHeaders::read(&head.headers)).errors,
        };
        Self { format, errors, rules: Arc::clone(rules), version: head.version }
    }

    /// Returns the default format, for a request whose head is not available.
    pub(super) fn before_head(rules: &Arc<DecisionRules>, version: Version) -> Self {
        let (format, errors) = (FhirFormat::default(), ErrorFamily::default());
        Self { format, errors, rules: Arc::clone(rules), version }
    }

    /// Writes a refusal as the bytes of an HTTP/1.1 response, the last of its connection. The response to a
    /// `HEAD` request has no body.
    pub(super) fn bytes(&self, refusal: &Refusal, id: Uuid, method: &Method) -> Vec<u8> {
        let (mut head, body) = self.response(refusal, id).into_parts();
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let now = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
        if let Some(now) = now.ok().and_then(|now| HeaderValue::try_from(now).ok()) {
            head.headers.insert(header::DATE, now);
        }
        let phrase =
            head.status.canonical_reason().map_or_else(|| reason(head.status), str::as_bytes);
        let mut bytes = format!("HTTP/1.1 {} ", head.status.as_u16()).into_bytes();
        bytes.extend_from_slice(phrase);
        for (name, value) in &head.headers {
            bytes.extend([b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
        }
        bytes.extend_from_slice(b"\r\n\r\n");
        if method != Method::HEAD {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }

    /// Builds the response for a refusal.
    pub(super) fn refusal(&self, refusal: &Refusal, id: Uuid) -> Response<AnswerBody> {
        self.response(refusal, id).map(|text| AnswerBody::Refusal(Full::new(Bytes::from(text))))
    }

    fn response(&self, refusal: &Refusal, id: Uuid) -> Response<String> {
        let row = refusal.row();
        let outcome = OperationOutcome { refusal, id: &id.to_string(), errors: self.errors };
        let mut response = Response::new(match self.format {
            FhirFormat::Json => outcome.json(),
            FhirFormat::Xml => outcome.xml(),
        });
        *response.status_mut() =
            StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        give_reason(&mut response);
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(self.format.content_type());
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
        // Spec: RFC 9209.
        let status =
            format!("{}; error={}; details=\"{}\"", self.rules.proxy, row.proxy_error, row.token);
        if let Ok(status) = HeaderValue::from_str(&status) {
            headers.insert("proxy-status", status);
        }
        write_exchange_id(headers, id);
        // Spec: RFC 8288.
        let help = self.rules.help.as_ref();
        let help = help.map(|page| format!("<{page}#{}>; rel=\"help\"", row.token));
        if let Some(link) = help.and_then(|link| HeaderValue::try_from(link).ok()) {
            headers.insert(header::LINK, link);
        }
        // HTTP/2 connections are ended by a GOAWAY instead.
        if refusal.ends_connection() && self.version != Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = refusal.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allowance) = refusal.allowance() {
            write_quota_headers(headers, allowance);
        }
        response
    }
}

/// Sets the reason phrase of a status that has no registered one, where hyper would write `<none>`. A
/// provider's own phrase is kept.
fn give_reason<B>(response: &mut Response<B>) {
    let status = response.status();
    if status.canonical_reason().is_none() && response.extensions().get::<ReasonPhrase>().is_none()
    {
        response.extensions_mut().insert(ReasonPhrase::from_static(reason(status)));
    }
}

/// Returns the reason phrase of an unregistered status: that of nginx for nginx's own, otherwise an empty
/// one.
const fn reason(status: StatusCode) -> &'static [u8] {
    match status.as_u16() {
        495 => b"SSL Certificate Error",
        496 => b"SSL Certificate Required",
        497 => b"HTTP Request Sent to HTTPS Port",
        499 => b"Client Closed Request",
        _ => b"",
    }
}

/// Completes a provider's response with a reason phrase, if it has none, the id of the exchange, the
/// consumer's quota, and evidence of the request's line in the audit journal, if the consumer is to have it.
pub(super) fn complete<B>(
    response: &mut Response<B>,
    id: Uuid,
    allowance: QuotaLeft,
    receipt: Option<&HeaderValue>,
) {
    give_reason(response);
    write_exchange_id(response.headers_mut(), id);
    write_quota_headers(response.headers_mut(), allowance);
    if let Some(receipt) = receipt {
        response.headers_mut().insert(RECEIPT, receipt.clone());
    }
}

/// Sets the header with the id of the exchange, which its record in the journal has.
fn write_exchange_id(headers: &mut HeaderMap, id: Uuid) {
    let mut text = Uuid::encode_buffer();
    if let Ok(id) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        headers.insert(EXCHANGE, id);
    }
}

/// Sets the quota headers, replacing any that the provider sent.
fn write_quota_headers(headers: &mut HeaderMap, allowance: QuotaLeft) {
    for (name, value) in allowance.headers() {
        headers.insert(name, HeaderValue::from(value));
    }
}

/// Spec: value of `Strict-Transport-Security` (RFC 6797), one year.
const HSTS: &str = "max-age=31536000";

/// Body of a response to a consumer.
#[derive(Debug)]
pub enum AnswerBody {
    /// `OperationOutcome` of a refusal.
    Refusal(Full<Bytes>),
    /// Body of a provider's response; boxed, since the other variant is small.
    Provider(Box<ProviderBody>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = PaceFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PaceFault>>> {
        match self.get_mut() {
            Self::Refusal(body) => {
                Pin::new(body).poll_frame(context).map_err(|never| match never {})
            }
            Self::Provider(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Refusal(body) => body.is_end_stream(),
            Self::Provider(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Refusal(body) => body.size_hint(),
            Self::Provider(body) => body.size_hint(),
        }
    }
}
