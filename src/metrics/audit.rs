//! Metrics of the audit journal: its health and its checkpoints.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::{CheckpointKeeper, counter, counters, gauge, histogram};

/// Metrics of the audit journal.
#[derive(Debug)]
pub struct AuditMetrics {
    /// Set to 1 while the journal can be written, else to 0.
    pub healthy: IntGauge,
    /// Number of writes that failed.
    pub write_failures: IntCounter,
    /// Number of times that the journal was found not to be as it was written.
    pub damaged: IntCounter,
    /// Number of exchanges that a crash left open.
    pub unfinished: IntCounter,
    free: IntGauge,
    reserve: IntGauge,
    size: IntGauge,
    segments: IntGauge,
    syncs: Histogram,
    /// Set to 1 while checkpoints are signed, else to 0.
    pub signing: IntGauge,
    /// Set to 1 if checkpoints are to be signed, else to 0.
    pub signing_configured: IntGauge,
    /// Time of the last checkpoint, in seconds since 1970.
    pub checkpoint_s: IntGauge,
    checkpoint_failures: IntCounterVec,
}

/// Buckets in seconds for the duration of a sync.
const SYNC_S: &[f64] = &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

impl AuditMetrics {
    pub(super) fn new() -> Self {
        let checkpoint_failures = counters(
            "audit_checkpoint_failures_total",
            "Checkpoints of the audit journal that could not be kept in a place, or that a witness \
             did not countersign",
            &["place"],
        );
        for keeper in CheckpointKeeper::ALL {
            checkpoint_failures.with_label_values(&[keeper.label()]);
        }
        let syncs = "Time taken to sync the audit journal's lines to disk, in seconds";
        Self {
            healthy: gauge("audit_healthy", "1 while the audit journal can be written"),
            write_failures: counter(
                "audit_write_failures_total",
                "Writes of the audit journal that failed, and are tried again",
            ),
            damaged: counter(
                "audit_damaged_total",
                "Times that the audit journal was found cut, deleted or not as it was written",
            ),
            unfinished: counter(
                "audit_unfinished_total",
                "Exchanges that a crash left open, found at the start",
            ),
            free: gauge(
                "audit_disk_free_bytes",
                "Free space on the file system of the audit journal, in bytes",
            ),
            reserve: gauge(
                "audit_disk_reserve_bytes",
                "Free space below which new requests are refused, as audit.disk-reserve has it, in \
                 bytes",
            ),
            size: gauge("audit_size_bytes", "Size of the audit journal's segments, in bytes"),
            segments: gauge("audit_segments", "Segments of the audit journal"),
            syncs: histogram("audit_sync_duration_seconds", syncs, SYNC_S, &[])
                .with_label_values::<&str>(&[]),
            signing: gauge("audit_signing", "1 while checkpoints of the audit journal are signed"),
            signing_configured: gauge(
                "audit_signing_configured",
                "1 if checkpoints of the audit journal are to be signed, as audit.checkpoints has it",
            ),
            checkpoint_s: gauge(
                "audit_checkpoint_timestamp_seconds",
                "Time of the last signed checkpoint of the audit journal",
            ),
            checkpoint_failures,
        }
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.healthy.clone()),
            Box::new(self.write_failures.clone()),
            Box::new(self.damaged.clone()),
            Box::new(self.unfinished.clone()),
            Box::new(self.free.clone()),
            Box::new(self.reserve.clone()),
            Box::new(self.size.clone()),
            Box::new(self.segments.clone()),
            Box::new(self.syncs.clone()),
            Box::new(self.signing.clone()),
            Box::new(self.signing_configured.clone()),
            Box::new(self.checkpoint_s.clone()),
            Box::new(self.checkpoint_failures.clone()),
        ]
    }

    /// Sets the free space on the journal's file system, in bytes.
    pub fn free(&self, bytes: u64) {
        self.free.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the free space below which requests are refused, in bytes.
    pub fn reserve(&self, bytes: u64) {
        self.reserve.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the number of the journal's segments and their size in bytes.
    pub fn holds(&self, segments: u64, bytes: u64) {
        self.segments.set(i64::try_from(segments).unwrap_or(i64::MAX));
        self.size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts a failed write, and marks the journal as not healthy.
    pub fn failed(&self) {
        self.write_failures.inc();
        self.healthy.set(0);
    }

    /// Records the duration of a sync.
    pub fn synced(&self, took: Duration) {
        self.syncs.observe(took.as_secs_f64());
    }

    /// Counts a checkpoint that could not be kept in a place, or was not countersigned there.
    pub fn checkpoint_failed(&self, place: CheckpointKeeper) {
        self.checkpoint_failures.with_label_values(&[place.label()]).inc();
    }
}
