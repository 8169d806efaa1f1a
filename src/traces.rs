//! Traces: the trace context of each exchange (W3C), and its spans for a receiver of OTLP.
//!
//! Spans are made from the record of an exchange when it closes: the exchange itself only notes its phases.
//! They hold what the journal holds, without claims, and nothing of a patient. Nothing waits for the export:
//! what its queue cannot take is dropped and counted.

use std::sync::Arc;

use http::request::Parts;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::metrics::{Metrics, SpanFate};

mod context;
mod exchange;
mod exporter;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(not(feature = "otel"))]
#[path = "traces/no_otlp.rs"]
mod otlp;
mod settings;

pub use context::{OutgoingContext, TRACEPARENT, TRACESTATE};
pub use exchange::{ExchangePhase, ExchangeTrace, TracedExchange, TracedProvider};
pub use settings::{SAMPLE_BITS, TracesError, TracesSettings};

pub(crate) use context::ReceivedContext;

use context::random_span_id;
use exporter::Exporter;

/// Limit: exchanges whose spans wait to be exported; about 2 MiB. More are dropped.
const QUEUE_MAX: usize = 2048;
/// Limit: time for the export of the last spans at a stop of the process.
const LAST_EXPORT: std::time::Duration = std::time::Duration::from_secs(2);

/// Handle through which exchanges begin and end their traces. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Traces {
    queue: mpsc::Sender<TracedExchange>,
    sampled_below: u64,
    metrics: Arc<Metrics>,
}

/// Task that exports spans.
#[derive(Debug)]
pub struct TracesTask {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Traces {
    /// Starts the export, on the current runtime.
    ///
    /// # Errors
    /// Returns an error if the settings or a file that they name cannot be used.
    pub fn start(
        settings: &TracesSettings,
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, TracesTask), TracesError> {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let stop = CancellationToken::new();
        let exporter = Exporter::new(settings, Arc::clone(metrics))?;
        let task = AbortOnDropHandle::new(tokio::spawn(exporter.run(queue, stop.clone())));
        let sampled_below = settings.sampled_below();
        let traces = Self { queue: sender, sampled_below, metrics: Arc::clone(metrics) };
        Ok((traces, TracesTask { stop, task }))
    }

    /// Begins the trace of an exchange: continues the one that the request's head names, with its decision
    /// whether it is sampled, or begins one whose id is that of the exchange.
    #[must_use]
    pub fn begin(&self, exchange: Uuid, head: &Parts) -> Box<ExchangeTrace> {
        let received = ReceivedContext::read(&head.headers);
        let (trace_id, is_sampled) = match &received {
            Some(received) => (received.trace_id, received.is_sampled),
            None => {
                let (_, low) = exchange.as_u64_pair();
                (exchange.into_bytes(), low % (1 << SAMPLE_BITS) < self.sampled_below)
            }
        };
        Box::new(ExchangeTrace {
            trace_id,
            parent_id: received.map(|received| received.parent_id),
            server_id: random_span_id(),
            client_id: random_span_id(),
            is_sampled,
            passes_state: received.is_some_and(|received| received.has_valid_state),
            version: head.version,
            provider: None,
            phases: Vec::new(),
        })
    }

    /// Queues an exchange that has ended, for its spans to be exported; drops it if the queue is full.
    pub fn end(&self, exchange: TracedExchange) {
        if let Err(unsent) = self.queue.try_send(exchange) {
            let (mpsc::error::TrySendError::Full(exchange)
            | mpsc::error::TrySendError::Closed(exchange)) = unsent;
            self.metrics.spans(SpanFate::Dropped, exchange.spans());
        }
    }
}

impl TracesTask {
    /// Exports what is queued, within a limit of time, and ends the task.
    pub async fn finish(self) {
        self.stop.cancel();
        match tokio::time::timeout(LAST_EXPORT, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!(
                "the task that exports traces has panicked, and later spans were dropped: this is a bug"
            ),
            Err(_) => tracing::warn!(
                "the receiver of traces did not take the last spans in time: they are lost, and the stop \
                 continues"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http::Request;
    use jiff::Timestamp;

    use super::*;
    use crate::metrics::{ExchangeOutcome, Phase};

    fn traces(ratio: f64, queue: mpsc::Sender<TracedExchange>) -> Traces {
        let settings: TracesSettings =
            toml::from_str(&format!("endpoint = \"http://c\"\nratio = {ratio:?}")).unwrap();
        let sampled_below = settings.sampled_below();
        Traces { queue, sampled_below, metrics: Arc::new(Metrics::new()) }
    }

    fn begin(traces: &Traces, id: Uuid) -> Box<ExchangeTrace> {
        traces.begin(id, &Request::new(()).into_parts().0)
    }

    fn exchange(trace: Box<ExchangeTrace>) -> TracedExchange {
        TracedExchange {
            trace,
            id: Uuid::nil(),
            opened_at: Timestamp::UNIX_EPOCH,
            started: Instant::now(),
            took: Duration::ZERO,
            method: "GET",
            interaction: None,
            ssp_trace_id: None,
            from: None,
            to: None,
            ods: None,
            client: None,
            provider_address: None,
            status: None,
            refusal: None,
            ended_in: Phase::Policy,
            outcome: ExchangeOutcome::Answered,
            aborted_by: "gateway",
        }
    }

    #[test]
    fn what_the_queue_cannot_take_is_dropped_and_counted() {
        let (sender, mut queue) = mpsc::channel(2);
        let traces = traces(1.0, sender);
        let phase = |phase, took| ExchangePhase { phase, began: Instant::now(), took };
        let long = Duration::from_millis(1);
        for _ in 0..5 {
            let mut trace = begin(&traces, Uuid::new_v4());
            for (of, took) in [(Phase::Policy, long), (Phase::Provider, Duration::ZERO)] {
                trace.passed(phase(of, took));
            }
            trace.passed(phase(Phase::Queue, Duration::from_micros(99)));
            trace.passed(phase(Phase::Queue, Duration::from_micros(100)));
            traces.end(exchange(trace));
        }
        let dropped = |count: u64| {
            let line = format!("trace_spans_total{{result=\"dropped\"}} {count}\n");
            assert!(traces.metrics.text().0.contains(&line), "{}", traces.metrics.text().0);
        };
        dropped(3 * 3);
        queue.close();
        traces.end(exchange(begin(&traces, Uuid::new_v4())));
        dropped(3 * 3 + 1);
        let mut trace = begin(&traces, Uuid::new_v4());
        for _ in 0..100 {
            trace.passed(phase(Phase::Queue, long));
        }
        assert_eq!(trace.phases.len(), 16);
    }

    #[cfg(feature = "otel")]
    #[tokio::test]
    async fn what_is_queued_at_a_stop_is_sent_once_more() {
        let (sender, queue) = mpsc::channel(600);
        let traces = traces(1.0, sender);
        for _ in 0..600 {
            traces.end(exchange(begin(&traces, Uuid::new_v4())));
        }
        // Nobody listens there: each batch is tried once, and counted.
        let settings = toml::from_str("endpoint = \"http://127.0.0.1:9/\"").unwrap();
        let exporter = Exporter::new(&settings, Arc::clone(&traces.metrics)).unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        exporter.run(queue, stop).await;
        let text = traces.metrics.text().0;
        assert!(text.contains("trace_spans_total{result=\"failed\"} 600\n"), "{text}");
    }

    #[test]
    fn the_ratio_is_that_of_the_traces_that_are_sampled() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.25, 2_300, 2_700), (1.0, 10_000, 10_000)] {
            let traces = traces(ratio, mpsc::channel(1).0);
            let sampled = (0..10_000).filter(|number| {
                // Bits that are spread over the random part as in any UUID of version 4.
                let id = u128::from(*number as u32)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                begin(&traces, Uuid::from_u128(id)).is_sampled
            });
            let sampled = sampled.count();
            assert!((least..=most).contains(&sampled), "{ratio}: {sampled}");
        }
    }
}
