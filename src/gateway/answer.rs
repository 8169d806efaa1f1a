//! What a consumer is answered: a refusal of ours, or the provider's response.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use uuid::Uuid;

use super::Rulebook;
use crate::audit::Followed;
use crate::forward::{PaceFault, ProviderBody};
use crate::refusal::{Errors, Format, Outcome, Refusal};
use crate::request::SspHeaders;

/// How a refusal is written for this consumer.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    format: Format,
    errors: Errors,
    proxy: String,
    version: Version,
}

impl Reply {
    pub(super) fn to(head: &Parts, rulebook: &Rulebook) -> Self {
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let format =
            Format::negotiate(head.uri.query(), text(header::ACCEPT), text(header::CONTENT_TYPE));
        let headers = SspHeaders::read(&head.headers);
        let errors = rulebook.leniences(&headers).errors;
        Self { format, errors, proxy: rulebook.proxy.clone(), version: head.version }
    }

    /// A reply where nothing is known of the request.
    pub(super) fn named(proxy: &str) -> Self {
        Self { proxy: proxy.to_owned(), ..Self::default() }
    }

    pub(super) fn refusal(&self, refusal: &Refusal, id: Uuid) -> Response<Answer> {
        let row = refusal.row();
        let id = id.to_string();
        let outcome = Outcome { refusal, id: &id, errors: self.errors };
        let body = Full::new(Bytes::from(outcome.text(self.format)));
        let mut response = Response::new(Answer::Refusal(body));
        *response.status_mut() =
            StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(self.format.content_type());
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
        // Spec: RFC 9209. One value, as everything we add.
        let status =
            format!("{}; error={}; details=\"{}\"", self.proxy, row.proxy_error, row.token);
        if let Ok(status) = HeaderValue::from_str(&status) {
            headers.insert("proxy-status", status);
        }
        // A certificate does not get better by being asked again; HTTP/2 is told by a GOAWAY.
        if refusal.ends_connection() && self.version != Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = refusal.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Spec: RFC 6797 is employed; a year.
const HSTS: &str = "max-age=31536000";

/// The body of an answer: a refusal of ours, or the provider's, followed to its last byte.
#[derive(Debug)]
pub enum Answer {
    /// An `OperationOutcome`.
    Refusal(Full<Bytes>),
    /// A provider's body.
    Provider(Box<Followed<ProviderBody>>),
}

impl Body for Answer {
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
