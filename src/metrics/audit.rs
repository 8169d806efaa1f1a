//! What is counted of the audit journal: how it is, and where its chain stands.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, IntCounter, IntGauge};

use super::{counter, gauge, histogram};

/// The journal's counters and gauges.
#[derive(Debug)]
pub struct AuditMetrics {
    /// Whether it can be written.
    pub healthy: IntGauge,
    /// Writes that failed.
    pub write_failures: IntCounter,
    /// Times it was found not to be what was written.
    pub damaged: IntCounter,
    /// Exchanges a crash has left open.
    pub unfinished: IntCounter,
    free: IntGauge,
    syncs: Histogram,
    seq: IntGauge,
    head: IntGauge,
}

/// Seconds.
const SYNC_S: &[f64] = &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

impl AuditMetrics {
    pub(super) fn new() -> Self {
        let syncs = "From asking the disk to keep the audit journal's last lines to its word";
        Self {
            healthy: gauge("audit_healthy", "1 while the audit journal can be written"),
            write_failures: counter(
                "audit_write_failures_total",
                "Writes of the audit journal that failed; they are tried again",
            ),
            damaged: counter(
                "audit_damaged_total",
                "Times the audit journal was found cut, deleted or not as it was written",
            ),
            unfinished: counter(
                "audit_unfinished_total",
                "Exchanges that a crash has left open, found at the start",
            ),
            free: gauge(
                "audit_disk_free_bytes",
                "Free space on the file system of the audit journal, in bytes",
            ),
            syncs: histogram("audit_sync_duration_seconds", syncs, SYNC_S, &[])
                .with_label_values::<&str>(&[]),
            seq: gauge("audit_sequence", "Number of the audit journal's line when last told"),
            head: gauge(
                "audit_head",
                "The first 48 bits of the audit journal's chain after that line",
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

    /// Sets the free space of the file system, in bytes.
    pub fn free(&self, bytes: u64) {
        self.free.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A write failed.
    pub fn failed(&self) {
        self.write_failures.inc();
        self.healthy.set(0);
    }

    /// The disk has kept what it was given.
    pub fn synced(&self, took: Duration) {
        self.syncs.observe(took.as_secs_f64());
    }

    /// Where the chain stands: a line's number, and the first 48 bits after it.
    pub fn head(&self, seq: u64, head: u64) {
        self.seq.set(i64::try_from(seq).unwrap_or(i64::MAX));
        self.head.set(i64::try_from(head).unwrap_or(i64::MAX));
    }
}
