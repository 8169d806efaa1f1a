//! Metrics of the audit journal: its health, and the head of its chain.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, IntCounter, IntGauge};

use super::{counter, gauge, histogram};

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
    syncs: Histogram,
    seq: IntGauge,
    head: IntGauge,
}

/// Buckets in seconds for the duration of a sync.
const SYNC_S: &[f64] = &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

impl AuditMetrics {
    pub(super) fn new() -> Self {
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
            syncs: histogram("audit_sync_duration_seconds", syncs, SYNC_S, &[])
                .with_label_values::<&str>(&[]),
            seq: gauge(
                "audit_sequence",
                "Number of the last line of the audit journal when its head was last logged",
            ),
            head: gauge(
                "audit_head",
                "First 48 bits of the audit journal's chain after line spine_proxy_audit_sequence",
            ),
        }
    }

    pub(super) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.healthy.clone()),
            Box::new(self.write_failures.clone()),
            Box::new(self.damaged.clone()),
            Box::new(self.unfinished.clone()),
            Box::new(self.free.clone()),
            Box::new(self.syncs.clone()),
            Box::new(self.seq.clone()),
            Box::new(self.head.clone()),
        ]
    }

    /// Sets the free space on the journal's file system, in bytes.
    pub fn free(&self, bytes: u64) {
        self.free.set(i64::try_from(bytes).unwrap_or(i64::MAX));
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

    /// Sets the head of the chain: the last line's number, and the first 48 bits of the value after it.
    pub fn head(&self, seq: u64, head: u64) {
        self.seq.set(i64::try_from(seq).unwrap_or(i64::MAX));
        self.head.set(i64::try_from(head).unwrap_or(i64::MAX));
    }
}
