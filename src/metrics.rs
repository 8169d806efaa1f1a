//! Counters, gauges and histograms, named `spine_proxy_…`. Labels are closed sets: none is ever an ASID, an
//! ODS code or text from a request.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use self::openmetrics::Exemplars;
use crate::refusal::{self, Refusal};
use spine_types::interaction::{self, Interaction};

mod audit;
mod directory;
mod labels;
mod openmetrics;

pub use audit::AuditMetrics;
pub use directory::DirectoryMetrics;
pub use labels::{
    CheckpointKeeper, Conflict, ConnectionFault, ConnectionLimit, ExchangeOutcome,
    ForcedLookupResult, HandshakeResult, LookupResult, LookupTrigger, Oddity, Phase, QueryKind,
    QueryOutcome, SharedAnswerResult, SpanFate,
};
pub use openmetrics::OPEN_METRICS_FORMAT;

/// All metrics of the gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    exemplars: Exemplars,
    phases: [Histogram; Phase::ALL.len()],
    refusals: IntCounterVec,
    reloads: IntCounterVec,
    handshakes: IntCounterVec,
    accept_errors: IntCounter,
    connection_errors: IntCounterVec,
    connections_refused: IntCounterVec,
    provider_connections: IntCounter,
    provider_retries: IntCounter,
    provider_circuits_opened: IntCounter,
    provider_responses: IntCounterVec,
    provider_answers_cut: IntCounter,
    spans: IntCounterVec,
    /// Number of circuit breakers of practices' systems that are open.
    pub provider_circuits_open: IntGauge,
    in_flight_max: IntGauge,
    connections_max: IntGauge,
    /// Number of TLS sessions that consumers may resume.
    pub sessions: IntGauge,
    /// Most TLS sessions, as the configuration has it.
    pub sessions_max: IntGauge,
    /// Memory that the process may use, in bytes; 0 if unknown.
    pub memory_limit: IntGauge,
    /// Number of exchanges under way, from their head to their last byte.
    pub in_flight: IntGauge,
    /// Number of open consumer connections.
    pub connections: IntGauge,
    /// Number of requests that wait for a place with a practice's system.
    pub provider_waiting: IntGauge,
    /// Level of load shedding: 0 is none, 3 is everything.
    pub shedding: IntGauge,
    /// Set to 1 while state is shared with other gateways through Redis, else to 0.
    pub redis_up: IntGauge,
    /// Most memory that the configuration allows, in bytes.
    pub memory_bound: IntGauge,
    /// Number of alarms in force: faults of files, and expiry dates that have passed.
    pub alarms: IntGauge,
    /// Set to 1 if lab switches may be used, else to 0.
    pub lab: IntGauge,
    /// Metrics of the audit journal.
    pub audit: AuditMetrics,
    /// Metrics of the directory.
    pub directory: DirectoryMetrics,
    expiry: GaugeVec,
    crl_due: GaugeVec,
    reloaded: IntGauge,
    reload_succeeded: IntGauge,
}

/// Buckets in seconds: those of the OpenTelemetry HTTP conventions, and two for slow providers.
const REQUEST_S: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0];
/// Buckets in seconds: from a decision's microseconds to a provider's half minute.
const PHASE_S: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

/// Returns the label of a request's method.
fn method_label(method: &str) -> &str {
    match method {
        "GET" | "POST" | "PUT" => method,
        _ => "_OTHER",
    }
}

/// Classes of status codes.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    /// Registers every series at zero, so that no alert on an absent series is needed.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a list with one entry for each metric")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let phases = histogram(
            "phase_duration_seconds",
            "Time spent in each phase of exchanges and handshakes, in seconds",
            PHASE_S,
            &["phase"],
        );
        let metrics = Self {
            requests: counters(
                "http_requests_total",
                "Exchanges that have ended, by interaction, method and outcome",
                &["interaction", "method", "outcome"],
            ),
            durations: histogram(
                "http_request_duration_seconds",
                "Time from a request's head to the last byte of its answer, in seconds",
                REQUEST_S,
                &["interaction"],
            ),
            exemplars: Exemplars::default(),
            phases: Phase::ALL.map(|phase| phases.with_label_values(&[phase.label()])),
            refusals: counters("refusals_total", "Refusals, by token", &["token"]),
            audit: AuditMetrics::new(),
            directory: DirectoryMetrics::new(),
            reloads: counters(
                "reloads_total",
                "Loads of configuration, trust and directory, the first included, by result",
                &["result"],
            ),
            handshakes: counters(
                "tls_handshakes_total",
                "TLS handshakes with consumers, by result",
                &["result"],
            ),
            accept_errors: counter(
                "accept_errors_total",
                "Consumer connections that could not be accepted",
            ),
            connection_errors: counters(
                "connection_errors_total",
                "Consumer connections that ended with an error, by reason",
                &["reason"],
            ),
            connections_refused: counters(
                "connections_refused_total",
                "Consumer connections closed before their first request at a limit, by limit",
                &["share"],
            ),
            provider_connections: counter(
                "provider_connections_total",
                "Connections opened to providers",
            ),
            provider_retries: counter(
                "provider_retries_total",
                "Requests sent to a provider again, on another connection",
            ),
            provider_circuits_opened: counter(
                "provider_circuits_opened_total",
                "Times that the circuit breaker of a practice's system opened, after failures",
            ),
            provider_responses: counters(
                "provider_responses_total",
                "Answers of providers, by class of their status and interaction",
                &["class", "interaction"],
            ),
            provider_answers_cut: counter(
                "provider_answers_cut_total",
                "Answers that a provider broke off, or stopped sending: the consumer got a part",
            ),
            spans: counters(
                "trace_spans_total",
                "Spans of exchanges: exported, dropped because the queue was full, or failed because \
                 the receiver did not take them",
                &["result"],
            ),
            provider_circuits_open: gauge(
                "provider_circuits_open",
                "Circuit breakers of practices' systems that are open",
            ),
            in_flight_max: gauge(
                "http_requests_in_flight_max",
                "Most exchanges under way, as listener.limits.in-hand-max has it",
            ),
            connections_max: gauge(
                "connections_max",
                "Most open consumer connections, as listener.limits.connections-max has it",
            ),
            sessions: gauge("tls_sessions", "TLS sessions kept for consumers to resume"),
            sessions_max: gauge(
                "tls_sessions_max",
                "Most TLS sessions kept, as tls.sessions-max has it",
            ),
            memory_limit: gauge(
                "memory_limit_bytes",
                "Memory that the process may use: the limit of its cgroup, or else the machine's, \
                 in bytes; 0 if unknown",
            ),
            in_flight: gauge(
                "http_requests_in_flight",
                "Exchanges under way, from their head to their last byte",
            ),
            connections: gauge("connections", "Open consumer connections"),
            provider_waiting: gauge(
                "provider_waiting_requests",
                "Requests that wait for a place with a practice's system",
            ),
            shedding: gauge(
                "shedding_level",
                "Load-shedding level: 0 none, 1 reads above a fair share, 2 all reads, 3 all",
            ),
            redis_up: gauge(
                "redis_up",
                "1 while quotas, the rate of queries to SDS and directory answers are shared through Redis",
            ),
            memory_bound: gauge(
                "memory_bound_bytes",
                "Most memory that the configuration allows, in bytes",
            ),
            alarms: gauge(
                "alarms",
                "Faults of certificates, revocation lists and configuration that an operator must \
                 correct; /readyz names them",
            ),
            lab: gauge(
                "lab",
                "1 if lab switches, which are not for live patient data, may be used",
            ),
            expiry: floats(
                "certificate_not_after_timestamp_seconds",
                "Expiry of a file's certificate, as Unix time in seconds",
                &["use", "file"],
            ),
            crl_due: floats(
                "crl_next_update_timestamp_seconds",
                "Next update of a file's revocation list, as Unix time in seconds",
                &["use", "file"],
            ),
            reloaded: gauge(
                "config_last_reload_success_timestamp_seconds",
                "Time of the last load without faults, as Unix time in seconds",
            ),
            reload_succeeded: gauge(
                "config_last_reload_successful",
                "1 if the last load of configuration, trust and directory had no fault",
            ),
            registry,
        };
        metrics.register(&phases);
        metrics.touch();
        metrics
    }

    fn register(&self, phases: &HistogramVec) {
        let all: [Box<dyn Collector>; 35] = [
            Box::new(self.requests.clone()),
            Box::new(self.durations.clone()),
            Box::new(phases.clone()),
            Box::new(self.refusals.clone()),
            Box::new(self.reloads.clone()),
            Box::new(self.handshakes.clone()),
            Box::new(self.accept_errors.clone()),
            Box::new(self.connection_errors.clone()),
            Box::new(self.connections_refused.clone()),
            Box::new(self.provider_connections.clone()),
            Box::new(self.provider_retries.clone()),
            Box::new(self.provider_circuits_opened.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.provider_waiting.clone()),
            Box::new(self.shedding.clone()),
            Box::new(self.redis_up.clone()),
            Box::new(self.memory_bound.clone()),
            Box::new(self.alarms.clone()),
            Box::new(self.lab.clone()),
            Box::new(self.expiry.clone()),
            Box::new(self.crl_due.clone()),
            Box::new(self.reloaded.clone()),
            Box::new(self.reload_succeeded.clone()),
            Box::new(self.provider_responses.clone()),
            Box::new(self.provider_answers_cut.clone()),
            Box::new(self.spans.clone()),
            Box::new(self.provider_circuits_open.clone()),
            Box::new(self.in_flight_max.clone()),
            Box::new(self.connections_max.clone()),
            Box::new(self.sessions.clone()),
            Box::new(self.sessions_max.clone()),
            Box::new(self.memory_limit.clone()),
            Box::new(build_info()),
            Box::new(prometheus::process_collector::ProcessCollector::for_self()),
        ];
        for one in all.into_iter().chain(self.audit.collectors()).chain(self.directory.collectors())
        {
            // Names are constants and each is registered once, so this cannot fail.
            if let Err(error) = self.registry.register(one) {
                tracing::error!(
                    %error,
                    "a metric could not be registered and is missing from /metrics: this is a bug"
                );
            }
        }
    }

    fn touch(&self) {
        for refusal in refusal::every() {
            self.refusals.with_label_values(&[refusal.row().token]);
        }
        for result in ["ok", "failed"] {
            self.reloads.with_label_values(&[result]);
        }
        for result in HandshakeResult::ALL {
            self.handshakes.with_label_values(&[result.label()]);
        }
        for fault in ConnectionFault::ALL {
            self.connection_errors.with_label_values(&[fault.label()]);
        }
        for fate in SpanFate::ALL {
            self.spans.with_label_values(&[fate.label()]);
        }
        for limit in ConnectionLimit::ALL {
            self.connections_refused.with_label_values(&[limit.label()]);
        }
        for interaction in &interaction::CATALOGUE {
            for outcome in ExchangeOutcome::ALL {
                let labels = [interaction.short_id(), interaction.method.as_str(), outcome.label()];
                self.requests.with_label_values(&labels);
            }
            self.durations.with_label_values(&[interaction.short_id()]);
            for class in STATUS_CLASSES {
                self.provider_responses.with_label_values(&[class, interaction.short_id()]);
            }
        }
    }

    /// Counts an exchange that has ended, and its duration.
    pub fn exchange(
        &self,
        interaction: Option<&'static Interaction>,
        method: &str,
        outcome: ExchangeOutcome,
        took: Duration,
    ) {
        let interaction = interaction.map_or("other", Interaction::short_id);
        let labels = [interaction, method_label(method), outcome.label()];
        self.requests.with_label_values(&labels).inc();
        self.durations.with_label_values(&[interaction]).observe(took.as_secs_f64());
    }

    /// Adds the time spent in a phase.
    pub fn phase(&self, phase: Phase, took: Duration) {
        for (histogram, of) in self.phases.iter().zip(Phase::ALL) {
            if of == phase {
                histogram.observe(took.as_secs_f64());
            }
        }
    }

    /// Counts a refusal, by its token.
    pub fn refused(&self, token: &'static str) {
        self.refusals.with_label_values(&[token]).inc();
    }

    /// Counts a request that is refused because the journal can take no record of it.
    pub fn refused_unrecorded(&self, method: &str, refusal: &Refusal) {
        self.refused(refusal.row().token);
        let labels = ["other", method_label(method), ExchangeOutcome::Refused.label()];
        self.requests.with_label_values(&labels).inc();
    }

    /// Counts a handshake that has ended.
    pub fn handshake(&self, result: HandshakeResult) {
        self.handshakes.with_label_values(&[result.label()]).inc();
    }

    /// Counts a connection that could not be accepted.
    pub fn accept_error(&self) {
        self.accept_errors.inc();
    }

    /// Counts a connection that was closed because this limit was reached.
    pub fn connection_refused(&self, limit: ConnectionLimit) {
        self.connections_refused.with_label_values(&[limit.label()]).inc();
    }

    /// Counts a connection that ended with an error.
    pub fn connection_error(&self, fault: ConnectionFault) {
        self.connection_errors.with_label_values(&[fault.label()]).inc();
    }

    /// Counts a connection opened to a provider.
    pub fn provider_connection(&self) {
        self.provider_connections.inc();
    }

    /// Counts a request that is sent to a provider again.
    pub fn provider_retry(&self) {
        self.provider_retries.inc();
    }

    /// Counts an opening of the circuit of a practice's system.
    pub fn provider_circuit_opened(&self) {
        self.provider_circuits_opened.inc();
    }

    /// Sets the largest numbers of connections and of exchanges under way.
    pub fn limits(&self, connections_max: usize, in_flight_max: usize) {
        self.connections_max.set(i64::try_from(connections_max).unwrap_or(i64::MAX));
        self.in_flight_max.set(i64::try_from(in_flight_max).unwrap_or(i64::MAX));
    }

    /// Counts a provider's answer that is passed on, by the class of its status.
    pub fn provider_response(&self, interaction: &Interaction, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).checked_sub(1);
        if let Some(class) = class.and_then(|at| STATUS_CLASSES.get(at)) {
            self.provider_responses.with_label_values(&[*class, interaction.short_id()]).inc();
        }
    }

    /// Counts an answer that its provider broke off.
    pub fn provider_answer_cut(&self) {
        self.provider_answers_cut.inc();
    }

    /// Counts spans that were to be exported.
    pub fn spans(&self, fate: SpanFate, count: u64) {
        self.spans.with_label_values(&[fate.label()]).inc_by(count);
    }

    /// Counts a load that has ended; `result` holds its time as Unix time in seconds if it succeeded.
    pub fn reload(&self, result: Result<i64, ()>) {
        match result {
            Ok(now_s) => {
                self.reloads.with_label_values(&["ok"]).inc();
                self.reloaded.set(now_s);
            }
            Err(()) => self.reloads.with_label_values(&["failed"]).inc(),
        }
        self.reload_succeeded.set(result.is_ok().into());
    }

    /// Replaces the expiry dates of the last trust generation with those of a new one.
    ///
    /// Each holds the use of a file, true for a revocation list, the file's name, and a Unix time in seconds.
    pub fn expiries(&self, dates: impl Iterator<Item = (&'static str, bool, String, i64)>) {
        self.expiry.reset();
        self.crl_due.reset();
        // Of several dates of one file, the earliest counts.
        let mut first: BTreeMap<_, i64> = BTreeMap::new();
        for (used_as, is_crl, file, at_s) in dates {
            let held = first.entry((is_crl, used_as, file)).or_insert(at_s);
            *held = at_s.min(*held);
        }
        for ((is_crl, used_as, file), at_s) in first {
            let gauge = if is_crl { &self.crl_due } else { &self.expiry };
            let label = gauge.with_label_values(&[used_as, &file]);
            #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
            label.set(at_s as f64);
        }
    }

    /// Keeps a slow exchange with a trace id as an example of its duration.
    pub fn example(
        &self,
        interaction: Option<&'static Interaction>,
        took: Duration,
        trace_id: impl FnOnce() -> Option<String>,
    ) {
        let interaction = interaction.map_or("other", Interaction::short_id);
        self.exemplars.keep(interaction, REQUEST_S, took, trace_id);
    }

    /// Returns the metrics in the format of `OpenMetrics`, with examples of slow exchanges.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let durations = name("http_request_duration_seconds");
        openmetrics::text(&self.registry.gather(), &durations, &self.exemplars)
    }

    /// Returns the metrics in Prometheus' text format, and its content type.
    #[must_use]
    pub fn text(&self) -> (String, &'static str) {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather());
        (text.unwrap_or_default(), prometheus::TEXT_FORMAT)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

// The constructors below take constants only; the first test that makes a `Metrics` finds a name that
// Prometheus would refuse.

fn name(name: &str) -> String {
    format!("spine_proxy_{name}")
}

#[expect(clippy::expect_used, reason = "constant arguments, checked by every test")]
fn counters(of: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name(of), help), labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constant arguments, checked by every test")]
fn counter(of: &str, help: &str) -> IntCounter {
    IntCounter::new(name(of), help).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constant arguments, checked by every test")]
fn gauge(of: &str, help: &str) -> IntGauge {
    IntGauge::new(name(of), help).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constant arguments, checked by every test")]
fn gauges(of: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name(of), help), labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constant arguments, checked by every test")]
fn floats(of: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name(of), help), labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constant arguments, checked by every test")]
fn histogram(of: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name(of), help).buckets(buckets.to_vec());
    HistogramVec::new(options, labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constant arguments, checked by every test")]
fn build_info() -> IntGaugeVec {
    let options = Opts::new(name("build_info"), "Version of this build; the value is always 1");
    let info = IntGaugeVec::new(options, &["version"]).expect("a legal metric");
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    info
}
