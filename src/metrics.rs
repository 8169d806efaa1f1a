//! Counters and histograms, under `spine_proxy_`. Labels are closed sets; no ASID, ODS code or text
//! from a request is ever one.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::interaction::{self, Interaction};
use crate::refusal;

mod audit;
mod directory;

pub use audit::AuditMetrics;
pub use directory::{
    Conflict, DirectoryMetrics, ForcedLookupResult, LookupResult, LookupTrigger, Oddity,
};

/// How an exchange ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeOutcome {
    /// A provider's answer was passed on whole.
    Answered,
    /// The gateway said no.
    Refused,
    /// It ended before its answer was complete.
    Aborted,
}

impl ExchangeOutcome {
    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
        }
    }
}

/// Where time is spent, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Handshake with a consumer.
    Tls,
    /// Decisions, which wait for nothing.
    Policy,
    /// Waiting for a place: the consumer's quota where it is shared, then the practice.
    Queue,
    /// Waiting for the directory.
    Directory,
    /// Waiting until the audit line is on disk.
    Audit,
    /// From asking a provider to its response head.
    Provider,
    /// Waiting for the end of a read's empty body, or from the response head to the last byte of the answer.
    Body,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 7] = [
        Self::Tls,
        Self::Policy,
        Self::Queue,
        Self::Directory,
        Self::Audit,
        Self::Provider,
        Self::Body,
    ];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Policy => "policy",
            Self::Queue => "queue",
            Self::Directory => "directory",
            Self::Audit => "audit",
            Self::Provider => "provider",
            Self::Body => "body",
        }
    }
}

/// Everything the gateway counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
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
    /// Exchanges between their head and their last byte.
    pub in_flight: IntGauge,
    /// Consumer connections open.
    pub connections: IntGauge,
    /// Requests that wait for a place with a practice's system.
    pub provider_waiting: IntGauge,
    /// How much load is shed: 0 is none, 3 is everything.
    pub shedding: IntGauge,
    /// Whether consumers' quotas are shared with other gateways.
    pub quotas_shared: IntGauge,
    /// Bytes that the configuration lets us take at the worst.
    pub memory_bound: IntGauge,
    /// Number of alarms in force: faults of files, and ends that have passed.
    pub alarms: IntGauge,
    /// Whether lab switches may be used.
    pub lab: IntGauge,
    /// How the audit journal is.
    pub audit: AuditMetrics,
    /// Look-ups, questions, refreshes and oddities.
    pub directory: DirectoryMetrics,
    expiry: GaugeVec,
    crl_due: GaugeVec,
    reloaded: IntGauge,
}

/// Seconds: the buckets of the OpenTelemetry HTTP conventions, and two for slow providers.
const REQUEST_S: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0];
/// Seconds: from a decision's microseconds to a provider's half minute.
const PHASE_S: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

impl Metrics {
    /// Registers every series at zero, so that an alert on an absent one is never needed.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one line a series: it is a list")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let phases =
            histogram("phase_duration_seconds", "Time spent in a phase", PHASE_S, &["phase"]);
        let metrics = Self {
            requests: counters(
                "http_requests_total",
                "Exchanges, by how they ended",
                &["interaction", "method", "outcome"],
            ),
            durations: histogram(
                "http_request_duration_seconds",
                "From a request's head to its last byte",
                REQUEST_S,
                &["interaction"],
            ),
            phases: Phase::ALL.map(|phase| phases.with_label_values(&[phase.label()])),
            refusals: counters("refusals_total", "Refusals, by token", &["token"]),
            audit: AuditMetrics::new(),
            directory: DirectoryMetrics::new(),
            reloads: counters(
                "reloads_total",
                "Reloads of configuration, trust and directory",
                &["result"],
            ),
            handshakes: counters("tls_handshakes_total", "Handshakes with consumers", &["result"]),
            accept_errors: counter("accept_errors_total", "Connections that could not be accepted"),
            connection_errors: counters(
                "connection_errors_total",
                "Connections that ended in an error before or between requests",
                &["reason"],
            ),
            connections_refused: counters(
                "connections_refused_total",
                "Connections closed before their handshake, by the share that was used up",
                &["share"],
            ),
            provider_connections: counter(
                "provider_connections_total",
                "Connections opened to providers",
            ),
            provider_retries: counter(
                "provider_retries_total",
                "Requests sent again on a fresh connection",
            ),
            provider_circuits_opened: counter(
                "provider_circuits_opened_total",
                "Times that the circuit of a practice's system opened, after failures",
            ),
            in_flight: gauge("http_requests_in_flight", "Exchanges between head and last byte"),
            connections: gauge("connections", "Consumer connections open"),
            provider_waiting: gauge(
                "provider_waiting_requests",
                "Requests that wait for a place with a practice's system",
            ),
            shedding: gauge("shedding_level", "How much load is shed: 0 is none, 3 is everything"),
            quotas_shared: gauge(
                "quotas_shared",
                "1 while consumers' quotas are shared with other gateways",
            ),
            memory_bound: gauge(
                "memory_bound_bytes",
                "Memory that the configuration allows at the worst",
            ),
            alarms: gauge(
                "alarms",
                "Faults of certificates, lists and configuration that an operator must see to; /readyz \
                 names them",
            ),
            lab: gauge("lab", "1 where switches that are not for live patient data may be used"),
            expiry: floats(
                "certificate_not_after_timestamp_seconds",
                "End of a certificate",
                &["use", "file"],
            ),
            crl_due: floats(
                "crl_next_update_timestamp_seconds",
                "When a revocation list's successor is due",
                &["use", "file"],
            ),
            reloaded: gauge("last_reload_success_timestamp_seconds", "Last successful load"),
            registry,
        };
        metrics.register(&phases);
        metrics.touch();
        metrics
    }

    fn register(&self, phases: &HistogramVec) {
        let all: [Box<dyn Collector>; 25] = [
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
            Box::new(self.quotas_shared.clone()),
            Box::new(self.memory_bound.clone()),
            Box::new(self.alarms.clone()),
            Box::new(self.lab.clone()),
            Box::new(self.expiry.clone()),
            Box::new(self.crl_due.clone()),
            Box::new(self.reloaded.clone()),
            Box::new(build_info()),
            Box::new(prometheus::process_collector::ProcessCollector::for_self()),
        ];
        for one in all.into_iter().chain(self.audit.collectors()).chain(self.directory.collectors())
        {
            // Names are constants and each is registered once, so this cannot fail.
            if let Err(error) = self.registry.register(one) {
                tracing::error!(%error, "a metric is registered twice");
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
        for result in
            ["ok", "no_certificate", "bad_certificate", "plain_http", "failed", "timed_out"]
        {
            self.handshakes.with_label_values(&[result]);
        }
        for reason in [
            "head_timed_out",
            "write_stalled",
            "flooded",
            "overstayed",
            "reset",
            "cut",
            "no_slot",
            "other",
        ] {
            self.connection_errors.with_label_values(&[reason]);
        }
        for share in [
            "handshakes",
            "address_connections",
            "address_handshakes",
            "address_rate",
            "certificate_connections",
        ] {
            self.connections_refused.with_label_values(&[share]);
        }
        for interaction in &interaction::CATALOGUE {
            for outcome in
                [ExchangeOutcome::Answered, ExchangeOutcome::Refused, ExchangeOutcome::Aborted]
            {
                let labels = [interaction.id, interaction.method.as_str(), outcome.label()];
                self.requests.with_label_values(&labels);
            }
            self.durations.with_label_values(&[interaction.id]);
        }
    }

    /// An exchange has ended.
    pub fn exchange(
        &self,
        interaction: Option<&'static Interaction>,
        method: &str,
        outcome: ExchangeOutcome,
        took: Duration,
    ) {
        let interaction = interaction.map_or("other", |interaction| interaction.id);
        let method = match method {
            "GET" | "POST" | "PUT" => method,
            _ => "_OTHER",
        };
        self.requests.with_label_values(&[interaction, method, outcome.label()]).inc();
        self.durations.with_label_values(&[interaction]).observe(took.as_secs_f64());
    }

    /// Time was spent.
    pub fn phase(&self, phase: Phase, took: Duration) {
        for (histogram, of) in self.phases.iter().zip(Phase::ALL) {
            if of == phase {
                histogram.observe(took.as_secs_f64());
            }
        }
    }

    /// The gateway said no.
    pub fn refused(&self, token: &'static str) {
        self.refusals.with_label_values(&[token]).inc();
    }

    /// A handshake ended; `result` is one of `ok`, `no_certificate`, `bad_certificate`, `plain_http`,
    /// `failed`, `timed_out`.
    pub fn handshake(&self, result: &'static str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    /// A connection could not be accepted.
    pub fn accept_error(&self) {
        self.accept_errors.inc();
    }

    /// A connection was closed before its handshake, for want of this share.
    pub fn connection_refused(&self, share: &'static str) {
        self.connections_refused.with_label_values(&[share]).inc();
    }

    /// A connection ended otherwise than it should.
    pub fn connection_error(&self, reason: &'static str) {
        self.connection_errors.with_label_values(&[reason]).inc();
    }

    /// A connection to a provider was opened.
    pub fn provider_connection(&self) {
        self.provider_connections.inc();
    }

    /// A request was sent again.
    pub fn provider_retry(&self) {
        self.provider_retries.inc();
    }

    /// Counts a circuit of a practice's system that opens.
    pub fn provider_circuit_opened(&self) {
        self.provider_circuits_opened.inc();
    }

    /// A reload ended.
    pub fn reload(&self, result: Result<i64, ()>) {
        match result {
            Ok(now_s) => {
                self.reloads.with_label_values(&["ok"]).inc();
                self.reloaded.set(now_s);
            }
            Err(()) => self.reloads.with_label_values(&["failed"]).inc(),
        }
    }

    /// The dates of a new trust generation replace those of the last.
    pub fn expiries(&self, dates: impl Iterator<Item = (&'static str, bool, String, i64)>) {
        self.expiry.reset();
        self.crl_due.reset();
        // A file that holds several is as good as its first end.
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

    /// The Prometheus text exposition, and its content type.
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

// The constructors below take constants alone; a name Prometheus would refuse is found by the first
// test that makes a `Metrics`.

fn name(name: &str) -> String {
    format!("spine_proxy_{name}")
}

#[expect(clippy::expect_used, reason = "constants, and every test makes them")]
fn counters(of: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name(of), help), labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constants, and every test makes them")]
fn counter(of: &str, help: &str) -> IntCounter {
    IntCounter::new(name(of), help).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constants, and every test makes them")]
fn gauge(of: &str, help: &str) -> IntGauge {
    IntGauge::new(name(of), help).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constants, and every test makes them")]
fn gauges(of: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name(of), help), labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constants, and every test makes them")]
fn floats(of: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name(of), help), labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constants, and every test makes them")]
fn histogram(of: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name(of), help).buckets(buckets.to_vec());
    HistogramVec::new(options, labels).expect("a legal metric")
}

#[expect(clippy::expect_used, reason = "constants, and every test makes them")]
fn build_info() -> IntGaugeVec {
    let options = Opts::new(name("build_info"), "Which build this is");
    let info = IntGaugeVec::new(options, &["version"]).expect("a legal metric");
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    info
}
