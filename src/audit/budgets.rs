//! Limits on the lines that refused callers can cause, and the sums that stand for the others.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use audit_journal::{Journal, Record, RecordEvent, time_text};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Notify;

use super::AuditSettings;
use crate::tls::Peer;
use spine_types::Asid;

/// Rate limits on journal lines for refusals: refused callers must not be able to fill the disk.
#[derive(Debug)]
pub(super) struct LineBudgets {
    /// Budget of all callers without a verified certificate together.
    unverified: DefaultDirectRateLimiter,
    /// Budgets of certificates whose callers were not identified: of each, by fingerprint, and of all
    /// together.
    by_certificate: DefaultKeyedRateLimiter<String>,
    certificates: DefaultDirectRateLimiter,
    /// Budgets of consumers refused for exceeding a limit, by ASID.
    by_consumer: DefaultKeyedRateLimiter<Asid>,
}

/// Multiple of one certificate's budget that all certificates have together.
const CERTIFICATES: u32 = 5;
/// Limit: lines per second for refusals of one consumer that exceeds a limit.
const LIMIT_REFUSALS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
/// Number of certificates or consumers above which budgets without a recent refusal are dropped.
const BUDGETS_KEPT: usize = 4096;

impl LineBudgets {
    pub(super) fn new(settings: &AuditSettings) -> Self {
        let each = settings.unverified_per_second;
        let all = each.saturating_mul(NonZeroU32::MIN.saturating_add(CERTIFICATES - 1));
        Self {
            unverified: RateLimiter::direct(Quota::per_second(each)),
            by_certificate: RateLimiter::keyed(Quota::per_second(each)),
            certificates: RateLimiter::direct(Quota::per_second(all)),
            by_consumer: RateLimiter::keyed(Quota::per_second(LIMIT_REFUSALS_PER_SECOND)),
        }
    }

    /// Takes a line for the refusal of an unidentified caller from the budgets; returns false if none is
    /// left.
    pub(super) fn unidentified(&self, peer: Option<&Peer>) -> bool {
        let Some(peer) = peer else { return self.unverified.check().is_ok() };
        if self.by_certificate.len() > BUDGETS_KEPT {
            self.by_certificate.retain_recent();
        }
        self.by_certificate.check_key(&peer.fingerprint().to_owned()).is_ok()
            && self.certificates.check().is_ok()
    }

    /// Takes a line for the refusal of a consumer that exceeded a limit from its budget; returns false if
    /// none is left.
    pub(super) fn limit(&self, consumer: &Asid) -> bool {
        if self.by_consumer.len() > BUDGETS_KEPT {
            self.by_consumer.retain_recent();
        }
        self.by_consumer.check_key(consumer).is_ok()
    }
}

/// Numbers of refusals without a line of their own: of each consumer, and of callers that were not identified
/// (`None`), by token.
#[derive(Debug, Default)]
pub(super) struct UnrecordedRefusals {
    counts: Mutex<RefusalCounts>,
    added: Notify,
}

type RefusalCounts = BTreeMap<Option<Asid>, BTreeMap<&'static str, u64>>;

/// Limit: consumers whose refusals are counted separately within one second.
const CONSUMERS_MAX: usize = 1024;

/// Line with the number of refusals that have no line of their own.
#[derive(Debug, Serialize)]
struct UnrecordedLine<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a Asid>,
    refusals: &'a BTreeMap<&'static str, u64>,
}

impl UnrecordedRefusals {
    /// Counts a refusal of a consumer, or of a caller that was not identified.
    pub(super) fn add(&self, consumer: Option<Asid>, token: &'static str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Limit: above it, further consumers are counted together with unidentified callers.
        let consumer = consumer
            .filter(|one| counts.len() < CONSUMERS_MAX || counts.contains_key(&Some(one.clone())));
        *counts.entry(consumer).or_default().entry(token).or_default() += 1;
        drop(counts);
        self.added.notify_one();
    }

    /// Returns once there is something to write.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Queues a line for each consumer's sum. What the queue has no space for stays counted; returns false if
    /// there is some.
    pub(super) fn write(&self, journal: &Journal) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(entry) = counts.first_entry() {
            let Some(place) = journal.reserve() else { return false };
            let (from, refusals) = entry.remove_entry();
            let line = UnrecordedLine {
                time: time_text(Timestamp::now()),
                event: "unrecorded",
                from: from.as_ref(),
                refusals: &refusals,
            };
            match Record::new(&line) {
                Ok(record) => place.append(&record, RecordEvent::Other),
                Err(error) => {
                    tracing::error!(%error, ?refusals, "a sum of refusals could not be written to the audit journal");
                }
            }
        }
        true
    }
}
