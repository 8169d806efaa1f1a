//! Metrics of the directory: look-ups, queries, refreshes and oddities.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{counter, counters, gauge, gauges, histogram};

/// Result of a look-up in the directory.
#[derive(Debug, Clone, Copy)]
pub enum LookupResult {
    /// An entry of the directory file, which counts whatever the sources say.
    Pinned,
    /// A fresh cache entry.
    Hit,
    /// A cache entry served while it is asked for again.
    Stale,
    /// An old cache entry, refreshed before it was used.
    Refreshed,
    /// A cache entry served because no source answers.
    StaleError,
    /// A cached absence that is believed.
    Absent,
    /// A cache miss: the sources are asked.
    Miss,
}

impl LookupResult {
    const ALL: [Self; 7] = [
        Self::Pinned,
        Self::Hit,
        Self::Stale,
        Self::Refreshed,
        Self::StaleError,
        Self::Absent,
        Self::Miss,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Refreshed => "refreshed",
            Self::StaleError => "stale_error",
            Self::Absent => "absent",
            Self::Miss => "miss",
        }
    }
}

/// Cause of a practice's look-up at the live sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupTrigger {
    /// A request waits for it.
    Request,
    /// A request was served a stale entry.
    Stale,
    /// The entry will be stale soon.
    Ahead,
    /// A request contradicts the cached entry.
    Conflict,
}

impl LookupTrigger {
    const ALL: [Self; 4] = [Self::Request, Self::Stale, Self::Ahead, Self::Conflict];

    const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
            Self::Conflict => "conflict",
        }
    }
}

/// Contradiction that made a forced look-up necessary.
#[derive(Debug, Clone, Copy)]
pub enum Conflict {
    /// `Ssp-To` is none of the practice's systems.
    Receiver,
    /// The target, or the token's audience, is not where the receiver is registered.
    Target,
    /// The provider could not be reached where it is registered.
    Unreached,
}

/// Result of a forced look-up.
#[derive(Debug, Clone, Copy)]
pub enum ForcedLookupResult {
    /// The cached entry was wrong: the request goes on.
    Resolved,
    /// The cached entry was right, or nothing more is known.
    Stands,
    /// The look-up has begun, and no request waits for it.
    Begun,
}

impl Conflict {
    const ALL: [Self; 3] = [Self::Receiver, Self::Target, Self::Unreached];

    const fn label(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Target => "target",
            Self::Unreached => "unreached",
        }
    }
}

impl ForcedLookupResult {
    const fn label(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Stands => "stands",
            Self::Begun => "begun",
        }
    }

    /// Returns [`Self::Resolved`] for a request that was about to be refused and goes on, else
    /// [`Self::Stands`].
    #[must_use]
    pub const fn when(resolved: bool) -> Self {
        if resolved { Self::Resolved } else { Self::Stands }
    }
}

/// Oddity of a record in the directory.
#[derive(Debug, Clone, Copy)]
pub enum Oddity {
    /// An endpoint without an address.
    NoAddress,
    /// An address that is not `https` and a host name.
    BadAddress,
    /// An address with a final slash.
    TrailingSlash,
    /// An address on another host than the registered one.
    OtherHost,
}

impl Oddity {
    const ALL: [Self; 4] =
        [Self::NoAddress, Self::BadAddress, Self::TrailingSlash, Self::OtherHost];

    /// Returns the label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoAddress => "no_address",
            Self::BadAddress => "bad_address",
            Self::TrailingSlash => "trailing_slash",
            Self::OtherHost => "other_host",
        }
    }
}

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

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 12] {
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
            Box::new(self.open.clone()),
            Box::new(self.snapshot.clone()),
        ]
    }

    fn touch(&self) {
        for lookup in LookupResult::ALL {
            self.lookups.with_label_values(&[lookup.label()]);
        }
        for source in ["sds-api", "sds-ldap"] {
            self.durations.with_label_values(&[source]);
            self.waits.with_label_values(&[source]);
            self.open.with_label_values(&[source]);
            for question in ["handlers", "systems"] {
                self.questions.with_label_values(&[source, question, "found"]);
            }
        }
        for result in ["ok", "failed"] {
            for trigger in LookupTrigger::ALL {
                self.refreshes.with_label_values(&[trigger.label(), result]);
            }
        }
        for conflict in Conflict::ALL {
            let settled = match conflict {
                Conflict::Receiver | Conflict::Target => ForcedLookupResult::Resolved,
                Conflict::Unreached => ForcedLookupResult::Begun,
            };
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
        question: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        self.questions.with_label_values(&[source, question, outcome]).inc();
        self.durations.with_label_values(&[source]).observe(took.as_secs_f64());
    }

    /// Records the time for which a query waited for its turn.
    pub fn waited(&self, source: &'static str, waited: Duration) {
        self.waits.with_label_values(&[source]).observe(waited.as_secs_f64());
    }

    /// Sets whether the circuit of a live source is open.
    pub fn open(&self, source: &'static str, is_open: bool) {
        self.open.with_label_values(&[source]).set(i64::from(is_open));
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
