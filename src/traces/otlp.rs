//! Spans as messages of OTLP.
//!
//! Source: opentelemetry-proto, `trace/v1`; attributes are those of the semantic conventions for HTTP, and
//! `ssp.…` for what is of this service alone.

use std::net::SocketAddr;

use http::Version;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use super::context::random_span_id;
use super::{ExchangePhase, TracedExchange, TracedProvider};
use crate::metrics::{ExchangeOutcome, Phase};
use spine_types::interaction::Interaction;

/// Flags of a span: sampled, and known whether its parent is of another process.
const FLAGS: u32 = 0x101;
/// Flag of a span whose parent is of another process.
const PARENT_IS_REMOTE: u32 = 0x200;

/// Encoder of spans.
#[derive(Debug)]
pub(super) struct SpanEncoder {
    service: String,
}

impl SpanEncoder {
    /// Makes an encoder for the spans of a service with this name.
    ///
    /// # Errors
    /// Returns none in this build.
    #[expect(clippy::unnecessary_wraps, reason = "a build without OTLP fails here")]
    pub(super) fn new(service: &str) -> Result<Self, String> {
        Ok(Self { service: service.to_owned() })
    }

    /// Returns the body of a request that exports the spans of exchanges.
    pub(super) fn request(&self, exchanges: &[TracedExchange]) -> Vec<u8> {
        let version = env!("CARGO_PKG_VERSION");
        let attributes =
            vec![text("service.name", &*self.service), text("service.version", version)];
        let scope = InstrumentationScope {
            name: "spine_proxy".to_owned(),
            version: version.to_owned(),
            ..InstrumentationScope::default()
        };
        let spans = exchanges.iter().flat_map(spans).collect();
        let of_scope = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
        let of_resource = ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![of_scope],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![of_resource] }.encode_to_vec()
    }

    /// Returns the number of spans that a receiver has rejected, by its answer; 0 if that cannot be read.
    #[expect(clippy::unused_self, reason = "a build without OTLP has no encoder")]
    pub(super) fn rejected(&self, answer: &[u8]) -> u64 {
        let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        u64::try_from(rejected).unwrap_or(0)
    }
}

/// Returns the spans of an exchange: its own, and one for each phase.
fn spans(exchange: &TracedExchange) -> impl Iterator<Item = Span> + '_ {
    let phases = exchange.trace.phases.iter().map(|phase| phase_span(exchange, phase));
    std::iter::once(server_span(exchange)).chain(phases)
}

fn server_span(of: &TracedExchange) -> Span {
    let (start_time_unix_nano, end_time_unix_nano) = times(of, 0, of.took.as_nanos());
    let is_remote = if of.trace.parent_id.is_some() { PARENT_IS_REMOTE } else { 0 };
    let error = error_type(of);
    // Conventions: an answer below 500 is no error of the server's.
    let is_error = error.is_some()
        && (of.outcome == ExchangeOutcome::Aborted || of.status.is_none_or(|status| status >= 500));
    let client = of.client.as_deref().and_then(|client| client.parse::<SocketAddr>().ok());
    let method = known_method(of.method);
    let name = match of.interaction {
        Some(interaction) => format!("{method} {}", interaction.short_id()),
        None => method.to_owned(),
    };
    let optional = [
        of.status.map(|status| number("http.response.status_code", status.into())),
        protocol_version(of.trace.version).map(|is| text("network.protocol.version", is)),
        client.map(|client| text("client.address", client.ip().to_string())),
        client.map(|client| number("client.port", client.port().into())),
        error.map(|error| text("error.type", error)),
        of.ssp_trace_id.as_ref().map(|id| text("ssp.trace_id", id.as_str())),
        of.from.as_ref().map(|from| text("ssp.from_asid", from.as_str())),
        of.to.as_ref().map(|to| text("ssp.to_asid", to.as_str())),
        of.ods.as_ref().map(|ods| text("ssp.to_ods", ods.as_str())),
        of.interaction.map(|of| text("ssp.interaction_id", of.id)),
    ];
    let mut attributes = vec![
        text("http.request.method", of.method),
        text("url.scheme", "https"),
        text("ssp.exchange_id", of.id.to_string()),
        text("ssp.outcome", of.outcome.label()),
    ];
    attributes.extend(optional.into_iter().flatten());
    Span {
        trace_id: of.trace.trace_id.to_vec(),
        span_id: of.trace.server_id.to_vec(),
        parent_span_id: of.trace.parent_id.map(Vec::from).unwrap_or_default(),
        flags: FLAGS | is_remote,
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano,
        end_time_unix_nano,
        attributes,
        status: Some(status(is_error)),
        ..Span::default()
    }
}

fn phase_span(of: &TracedExchange, phase: &ExchangePhase) -> Span {
    let begins = phase.began.saturating_duration_since(of.started).as_nanos();
    let (start_time_unix_nano, end_time_unix_nano) = times(of, begins, phase.took.as_nanos());
    let failed_here = of.ended_in == phase.phase && of.outcome != ExchangeOutcome::Answered;
    let error = error_type(of).filter(|_| failed_here);
    let common = Span {
        trace_id: of.trace.trace_id.to_vec(),
        parent_span_id: of.trace.server_id.to_vec(),
        flags: FLAGS,
        start_time_unix_nano,
        end_time_unix_nano,
        ..Span::default()
    };
    if phase.phase == Phase::Provider {
        return provider_span(of, common, error);
    }
    Span {
        span_id: random_span_id().to_vec(),
        name: phase.phase.label().to_owned(),
        kind: SpanKind::Internal.into(),
        status: Some(status(error.is_some())),
        attributes: error.map(|error| text("error.type", error)).into_iter().collect(),
        ..common
    }
}

/// Completes the span of the request to the provider.
fn provider_span(of: &TracedExchange, common: Span, error: Option<String>) -> Span {
    // After a refusal, the status is that of the refusal.
    let answered = of.status.filter(|_| of.refusal.is_none());
    let error = error.or_else(|| answered.filter(|status| *status >= 400).map(|is| is.to_string()));
    let is_error = error.is_some();
    let optional = [
        answered.map(|status| number("http.response.status_code", status.into())),
        of.provider_address.map(|at| text("network.peer.address", at.ip().to_string())),
        of.provider_address.map(|at| number("network.peer.port", at.port().into())),
        error.map(|error| text("error.type", error)),
    ];
    let mut attributes = vec![
        text("http.request.method", of.method),
        text("url.scheme", "https"),
        text("network.protocol.version", "1.1"),
    ];
    if let Some(TracedProvider { host, port }) = &of.trace.provider {
        attributes.push(text("server.address", &**host));
        attributes.push(number("server.port", (*port).into()));
    }
    attributes.extend(optional.into_iter().flatten());
    let method = known_method(of.method);
    Span {
        span_id: of.trace.client_id.to_vec(),
        name: of
            .interaction
            .map(Interaction::short_id)
            .map_or_else(|| method.to_owned(), |interaction| format!("{method} {interaction}")),
        kind: SpanKind::Client.into(),
        attributes,
        status: Some(status(is_error)),
        ..common
    }
}

/// Returns why an exchange failed, as a word of a closed list or a status; `None` if it did not.
fn error_type(of: &TracedExchange) -> Option<String> {
    match (of.refusal, of.outcome) {
        (Some(token), _) => Some(token.to_owned()),
        (None, ExchangeOutcome::Aborted) => Some(format!("aborted_by_{}", of.aborted_by)),
        (None, ExchangeOutcome::Answered | ExchangeOutcome::Refused) => {
            of.status.filter(|status| *status >= 500).map(|status| status.to_string())
        }
    }
}

/// Conventions: a method that is not known has the name `HTTP` in a span's name.
fn known_method(method: &'static str) -> &'static str {
    if method == "_OTHER" { "HTTP" } else { method }
}

fn protocol_version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

/// Returns the start and end of a span in nanoseconds since 1970.
fn times(of: &TracedExchange, after: u128, took: u128) -> (u64, u64) {
    let nanos = |of: u128| u64::try_from(of).unwrap_or(u64::MAX);
    let opened = u64::try_from(of.opened_at.as_nanosecond()).unwrap_or(0);
    let start = opened.saturating_add(nanos(after));
    (start, start.saturating_add(nanos(took)))
}

fn status(is_error: bool) -> Status {
    let code = if is_error { StatusCode::Error } else { StatusCode::Unset };
    Status { code: code.into(), ..Status::default() }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
