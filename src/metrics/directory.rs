//! Metrics of the directory: look-ups, queries, refreshes and oddities.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{
    Conflict, ForcedLookupResult, LookupResult, LookupTrigger, Oddity, QueryKind, QueryOutcome,
    SharedAnswerResult, counter, counters, gauge, gauges, histogram,
};

/// Buckets in seconds for the age of an answer: from a minute to a day.
const AGE_S: &[f64] = &[60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0];
/// Buckets in seconds for the time that a source takes: around its own limit of three.
const SOURCE_S: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 3.0, 5.0];

/// Metrics of the directory.
#[derive(Debug)]
pub struct DirectoryMetrics {
    lookups: IntCounterVec,
    questions: IntCounterVec,
    durations: HistogramVec,
    waits: HistogramVec,
    ages: Histogram,
    all_ages: HistogramVec,
    joined: IntCounter,
    refreshes: IntCounterVec,
    conflicts: IntCounterVec,
    suspects: IntCounter,
    oddities: IntCounterVec,
    shared: IntCounterVec,
    open: IntGaugeVec,
    snapshot: IntGauge,
}

impl DirectoryMetrics {
    #[expect(clippy::too_many_lines, reason = "a list with one entry for each metric")]
    pub(super) fn new() -> Self {
        let all_ages = histogram(
            "directory_served_age_seconds",
            "Age of live directory sources' answers when they are used, in seconds",
            AGE_S,
            &["kind"],
        );
        let metrics = Self {
            lookups: counters(
                "directory_lookups_total",
                "Directory look-ups, by result",
                &["result"],
            ),
            questions: counters(
                "directory_source_queries_total",
                "Queries to live directory sources, by source, question and outcome",
                &["source", "question", "outcome"],
            ),
            durations: histogram(
                "directory_source_duration_seconds",
                "Time that a live directory source took to answer, in seconds",
                SOURCE_S,
                &["source"],
            ),
            waits: histogram(
                "directory_source_wait_seconds",
                "Time that a query waited for its turn at a live directory source, in seconds",
                SOURCE_S,
                &["source"],
            ),
            ages: all_ages.with_label_values(&["provider"]),
            all_ages,
            joined: counter(
                "directory_lookups_joined_total",
                "Directory look-ups that waited for one already under way",
            ),
            refreshes: counters(
                "directory_refreshes_total",
                "Look-ups of practices at live directory sources, by cause and result",
                &["trigger", "result"],
            ),
            conflicts: counters(
                "directory_conflicts_total",
                "Requests that contradict the cached directory entry, by kind and result",
                &["kind", "result"],
            ),
            suspects: counter(
                "directory_suspect_empties_total",
                "Empty answers of directory sources that may be failed searches",
            ),
            oddities: counters(
                "directory_oddities_total",
                "Directory records that are not as they should be, by kind",
                &["kind"],
            ),
            shared: counters(
                "directory_shared_answers_total",
                "Look-ups of practices that first took the answers of other gateways, by result",
                &["result"],
            ),
            open: gauges(
                "directory_source_circuit_open",
                "1 while the circuit breaker of a live directory source is open, after failures",
                &["source"],
            ),
            snapshot: gauge(
                "directory_snapshot_timestamp_seconds",
                "Time of the directory snapshot's last write or load, as Unix time in seconds",
            ),
        };
        metrics.touch();
        metrics
    }

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 13] {
        [
            Box::new(self.lookups.clone()),
            Box::new(self.questions.clone()),
            Box::new(self.durations.clone()),
            Box::new(self.waits.clone()),
            Box::new(self.all_ages.clone()),
            Box::new(self.joined.clone()),
            Box::new(self.refreshes.clone()),
            Box::new(self.conflicts.clone()),
            Box::new(self.suspects.clone()),
            Box::new(self.oddities.clone()),
            Box::new(self.shared.clone()),
            Box::new(self.open.clone()),
            Box::new(self.snapshot.clone()),
        ]
    }

    fn touch(&self) {
        for lookup in LookupResult::ALL {
            self.lookups.with_label_values(&[lookup.label()]);
        }
        for result in SharedAnswerResult::ALL {
            self.shared.with_label_values(&[result.label()]);
        }
        for source in ["sds-api", "sds-ldap"] {
            self.durations.with_label_values(&[source]);
            self.waits.with_label_values(&[source]);
            self.open.with_label_values(&[source]);
            for (kind, outcome) in product(QueryKind::ALL, QueryOutcome::ALL) {
                self.questions.with_label_values(&[source, kind.label(), outcome.label()]);
            }
        }
        for result in ["ok", "failed"] {
            for trigger in LookupTrigger::ALL {
                self.refreshes.with_label_values(&[trigger.label(), result]);
            }
        }
        let asked = product(
            [Conflict::Receiver, Conflict::Target],
            [ForcedLookupResult::Resolved, ForcedLookupResult::Stands],
        );
        for (conflict, settled) in asked.chain([(Conflict::Unreached, ForcedLookupResult::Begun)]) {
            self.conflicts.with_label_values(&[conflict.label(), settled.label()]);
        }
        for oddity in Oddity::ALL {
            self.oddities.with_label_values(&[oddity.label()]);
        }
    }

    /// Counts a look-up, by its result.
    pub fn looked_up(&self, lookup: LookupResult) {
        self.lookups.with_label_values(&[lookup.label()]).inc();
    }

    /// Counts a query to a live source, and its duration.
    pub fn asked(
        &self,
        source: &'static str,
        kind: QueryKind,
        outcome: QueryOutcome,
        took: Duration,
    ) {
        self.not_asked(source, kind, outcome);
        self.durations.with_label_values(&[source]).observe(took.as_secs_f64());
    }

    /// Counts a query to a live source without a duration: it was not sent.
    pub fn not_asked(&self, source: &'static str, kind: QueryKind, outcome: QueryOutcome) {
        self.questions.with_label_values(&[source, kind.label(), outcome.label()]).inc();
    }

    /// Records the time for which a query waited for its turn.
    pub fn waited(&self, source: &'static str, waited: Duration) {
        self.waits.with_label_values(&[source]).observe(waited.as_secs_f64());
    }

    /// Sets whether the circuit of a live source is open.
    pub fn open(&self, source: &'static str, is_open: bool) {
        self.open.with_label_values(&[source]).set(i64::from(is_open));
    }

    /// Counts a look-up that has read other gateways' answers, by what became of them.
    pub fn shared(&self, result: SharedAnswerResult) {
        self.shared.with_label_values(&[result.label()]).inc();
    }

    /// Counts a look-up that waits for one under way.
    pub fn joined(&self) {
        self.joined.inc();
    }

    /// Counts a look-up of a practice at the live sources that has ended.
    pub fn refreshed(&self, trigger: LookupTrigger, ok: bool) {
        self.refreshes.with_label_values(&[trigger.label(), result(ok)]).inc();
    }

    /// Counts a request that contradicts the cached entry.
    pub fn conflict(&self, conflict: Conflict, settled: ForcedLookupResult) {
        self.conflicts.with_label_values(&[conflict.label(), settled.label()]).inc();
    }

    /// Counts an empty answer that is not believed at once.
    pub fn suspect_empty(&self) {
        self.suspects.inc();
    }

    /// Counts a record that is not as it should be.
    pub fn oddity(&self, oddity: Oddity) {
        self.oddities.with_label_values(&[oddity.label()]).inc();
    }

    /// Records the age in seconds of an answer that is used.
    pub fn served(&self, age_s: u64) {
        self.ages.observe(Duration::from_secs(age_s).as_secs_f64());
    }

    /// Sets the time at which the snapshot was last written or loaded, as Unix time in seconds.
    pub fn snapshot(&self, now_s: i64) {
        self.snapshot.set(now_s);
    }
}

const fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

/// Returns every pair of two lists' values.
fn product<A: Copy, B: Copy, const N: usize, const M: usize>(
    one: [A; N],
    other: [B; M],
) -> impl Iterator<Item = (A, B)> {
    one.into_iter().flat_map(move |a| other.into_iter().map(move |b| (a, b)))
}
