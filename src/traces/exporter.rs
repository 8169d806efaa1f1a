//! Export of spans, in batches, by a task of its own.
//!
//! Source: OTLP 1.x, OTLP/HTTP. A batch that the receiver may take later is sent again some times, then lost;
//! meanwhile the queue fills, and exchanges that find it full are dropped.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::otlp::SpanEncoder;
use super::{TracedExchange, TracesError, TracesSettings};
use crate::metrics::{Metrics, SpanFate};
use crate::outbound::{ServiceAnswer, ServiceUrl};

/// Limit: exchanges whose spans are exported at once.
const BATCH_MAX: usize = 256;
/// Limit: attempts to export a batch.
const ATTEMPTS_MAX: u32 = 3;
/// Limit: bytes of the receiver's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Export of spans to a receiver.
#[derive(Debug)]
pub(super) struct Exporter {
    settings: TracesSettings,
    encoder: SpanEncoder,
    endpoint: ServiceUrl,
    metrics: Arc<Metrics>,
    /// Number of spans lost since the receiver failed; `None` while it does not.
    outage: Option<u64>,
}

/// Reason why a batch was not taken.
#[derive(Debug)]
struct ExportFault {
    why: String,
    /// True if it may be taken later.
    may_pass: bool,
}

/// Returns a fault that may have passed by the next attempt.
fn passing(why: &dyn std::fmt::Display) -> ExportFault {
    ExportFault { why: why.to_string(), may_pass: true }
}

impl Exporter {
    /// Prepares the export.
    ///
    /// # Errors
    /// Returns an error if the settings or a file that they name cannot be used.
    pub(super) fn new(
        settings: &TracesSettings,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TracesError> {
        settings.check_files()?;
        let endpoint = settings.endpoint().map_err(TracesError::Setting)?;
        let encoder = SpanEncoder::new(&settings.service_name).map_err(TracesError::Setting)?;
        Ok(Self { settings: settings.clone(), encoder, endpoint, metrics, outage: None })
    }

    /// Exports what is queued until the process stops, and then once more what is left.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<TracedExchange>,
        stop: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                count = queue.recv_many(&mut batch, 1) => if count == 0 { break },
            }
            gather(&mut queue, &mut batch, Instant::now() + self.settings.delay, &stop).await;
            self.export(&mut batch, &stop).await;
        }
        loop {
            while batch.len() < BATCH_MAX
                && let Ok(exchange) = queue.try_recv()
            {
                batch.push(exchange);
            }
            if batch.is_empty() {
                break;
            }
            self.export(&mut batch, &stop).await;
        }
    }

    /// Exports a batch and empties it, whether it was taken or not. Once the process stops, it is tried once.
    async fn export(&mut self, batch: &mut Vec<TracedExchange>, stop: &CancellationToken) {
        let spans = batch.iter().map(TracedExchange::spans).sum();
        let body = Bytes::from(self.encoder.request(batch));
        batch.clear();
        for attempt in 1..=ATTEMPTS_MAX {
            let fault = match self.post(body.clone()).await {
                Ok(rejected) => return self.exported(spans, rejected.min(spans)),
                Err(fault) => fault,
            };
            self.failed(&fault);
            if !fault.may_pass || attempt == ATTEMPTS_MAX || stop.is_cancelled() {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.settings.delay) => {}
            }
        }
        self.metrics.spans(SpanFate::Failed, spans);
        self.outage = self.outage.map(|lost| lost.saturating_add(spans));
    }

    fn exported(&mut self, spans: u64, rejected: u64) {
        self.metrics.spans(SpanFate::Exported, spans - rejected);
        self.metrics.spans(SpanFate::Failed, rejected);
        if let Some(lost) = self.outage.take() {
            tracing::info!(lost, "the receiver of traces takes spans again");
        }
    }

    /// Logs a fault, unless the receiver has failed before.
    fn failed(&mut self, fault: &ExportFault) {
        if self.outage.is_none() {
            self.outage = Some(0);
            tracing::warn!(
                receiver = self.endpoint.authority,
                error = fault.why,
                "the receiver of traces does not take spans: they are kept while there is room, then \
                 dropped; requests are served as usual; check traces.endpoint and the receiver"
            );
        }
    }

    /// Posts a request, and returns the number of spans that the receiver has rejected.
    async fn post(&self, body: Bytes) -> Result<u64, ExportFault> {
        let exchange = self.exchange(body);
        tokio::time::timeout(self.settings.wait, exchange)
            .await
            .unwrap_or_else(|_| Err(passing(&"no answer within traces.wait")))
    }

    async fn exchange(&self, body: Bytes) -> Result<u64, ExportFault> {
        let (settings, is_https) = (self.settings.clone(), self.endpoint.is_https);
        let files = tokio::task::spawn_blocking(move || settings.files(is_https)).await;
        let files = files.map_err(|why| passing(&why.to_string()))?.map_err(|why| passing(&why))?;
        let mut request = Request::post("/").body(Full::new(body)).map_err(|why| passing(&why))?;
        request.headers_mut().extend(files.headers);
        let content_type = HeaderValue::from_static(CONTENT_TYPE);
        request.headers_mut().insert(header::CONTENT_TYPE, content_type);
        let answer = self.endpoint.send(files.tls.as_ref(), request, ANSWER_BYTES_MAX).await;
        let ServiceAnswer { status, body, .. } = answer.map_err(|why| passing(&why))?;
        if status.is_success() {
            // The spans are taken, whatever the rest of the answer is.
            return Ok(body.map_or(0, |body| self.encoder.rejected(&body)));
        }
        // Spec: OTLP, section "Failures": these may be tried again, others must not.
        let may_pass = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        Err(ExportFault { why: format!("it answered {status}"), may_pass })
    }
}

const CONTENT_TYPE: &str = "application/x-protobuf";

/// Adds what is queued to a batch until it is full, a time has come, or the process stops.
async fn gather(
    queue: &mut mpsc::Receiver<TracedExchange>,
    batch: &mut Vec<TracedExchange>,
    until: Instant,
    stop: &CancellationToken,
) {
    while let Some(room) = BATCH_MAX.checked_sub(batch.len()).filter(|room| *room > 0) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(until) => return,
            count = queue.recv_many(batch, room) => if count == 0 { return },
        }
    }
}
