//! Trace of one exchange, from its head to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Version;
use jiff::Timestamp;
use uuid::Uuid;

use super::context::OutgoingContext;
use crate::metrics::{ExchangeOutcome, Phase};
use spine_types::interaction::Interaction;
use spine_types::{Asid, OdsCode};

/// Limit: phases of one exchange that have spans; an exchange has fewer.
const PHASES_MAX: usize = 16;
/// Time below which a phase has no span, unless it is the provider's.
const SHORT: Duration = Duration::from_micros(100);

/// Trace of one exchange while it is under way.
#[derive(Debug)]
pub struct ExchangeTrace {
    /// Id of the trace: the consumer's, or that of the exchange.
    pub trace_id: [u8; 16],
    /// Span of the consumer, if it sent a context.
    pub parent_id: Option<[u8; 8]>,
    /// Id of the span of the whole exchange.
    pub server_id: [u8; 8],
    /// Id of the span of the request to the provider.
    pub client_id: [u8; 8],
    /// True if its spans are exported.
    pub is_sampled: bool,
    /// True if the consumer's `tracestate` goes to the provider.
    pub passes_state: bool,
    /// Version of HTTP that the consumer uses.
    pub version: Version,
    /// Provider that the request may be sent to, once it is known.
    pub provider: Option<TracedProvider>,
    /// Phases that have spans, in the order of their ends.
    pub phases: Vec<ExchangePhase>,
}

/// Phase that an exchange has passed through.
#[derive(Debug, Clone, Copy)]
pub struct ExchangePhase {
    /// Phase that has ended.
    pub phase: Phase,
    /// Time at which it began.
    pub began: Instant,
    /// Time that it took.
    pub took: Duration,
}

/// Provider, as its registration has it.
#[derive(Debug, Clone)]
pub struct TracedProvider {
    /// Host of the service root.
    pub host: Arc<str>,
    /// Port of the service root.
    pub port: u16,
}

impl ExchangeTrace {
    /// Returns the context that the provider gets.
    #[must_use]
    pub const fn to_provider(&self) -> OutgoingContext {
        OutgoingContext {
            trace_id: self.trace_id,
            span_id: self.client_id,
            is_sampled: self.is_sampled,
            passes_state: self.passes_state,
        }
    }

    /// Notes a phase that has ended, if it is to have a span.
    pub fn passed(&mut self, phase: ExchangePhase) {
        let has_span = match phase.phase {
            Phase::Tls | Phase::Policy => false,
            Phase::Provider => true,
            Phase::Queue | Phase::Directory | Phase::Audit | Phase::Body => phase.took >= SHORT,
        };
        if has_span && self.is_sampled && self.phases.len() < PHASES_MAX {
            self.phases.push(phase);
        }
    }
}

/// Exchange that has ended, with what its spans say.
///
/// Security: no member may hold a target, a claim, a header's value besides those named, or anything else that
/// could be of a patient.
#[derive(Debug)]
pub struct TracedExchange {
    /// Trace of the exchange.
    pub trace: Box<ExchangeTrace>,
    /// Id of the exchange, as in its record.
    pub id: Uuid,
    /// Time at which it began.
    pub opened_at: Timestamp,
    /// Time at which it began, by the clock that phases are measured with.
    pub started: Instant,
    /// Time that it took.
    pub took: Duration,
    /// Method of the request.
    pub method: &'static str,
    /// Interaction, if it is known.
    pub interaction: Option<&'static Interaction>,
    /// Value of `Ssp-TraceID`, if it is well formed, fit to be shown.
    pub ssp_trace_id: Option<String>,
    /// ASID of the consumer, as it claims if it was not identified.
    pub from: Option<Asid>,
    /// ASID of the practice's system, once it is known, or else as the request names it.
    pub to: Option<Asid>,
    /// Practice, once it is known.
    pub ods: Option<OdsCode>,
    /// Address and port of the consumer.
    pub client: Option<Arc<str>>,
    /// Provider's address on whose connection the request was sent.
    pub provider_address: Option<SocketAddr>,
    /// Status of the answer.
    pub status: Option<u16>,
    /// Token of the refusal, if there is one.
    pub refusal: Option<&'static str>,
    /// Phase in which the exchange ended.
    pub ended_in: Phase,
    /// Outcome of the exchange.
    pub outcome: ExchangeOutcome,
    /// Party that broke it off, if its outcome is so.
    pub aborted_by: &'static str,
}

impl TracedExchange {
    /// Returns the number of its spans.
    #[must_use]
    pub fn spans(&self) -> u64 {
        u64::try_from(self.trace.phases.len()).unwrap_or(u64::MAX).saturating_add(1)
    }
}
