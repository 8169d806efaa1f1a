//! Requests drawn from a quota that gateways share.
//!
//! A gateway does not ask for each request: it draws some of a consumer's quota at once, spends that, and
//! discards what is left after a second. While Redis cannot be used, each gateway keeps to the quota by itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::quota::{ConsumerQuota, QuotaTerms};
use crate::refusal::{QuotaLeft, Refusal};
use crate::sharing::{MissingRate, RateDraw, RateGrant, Sharing};
use spine_types::Asid;

/// Requests drawn for one consumer from a shared quota.
#[derive(Debug, Default)]
pub(super) struct QuotaLease {
    state: Mutex<Drawn>,
    /// Lock held by the task that asks for more.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Drawn {
    requests: u32,
    /// Number of requests last asked for.
    size: u32,
    /// Number of requests left to all gateways.
    left: u32,
    until: Option<Instant>,
    /// Time until which the quota is known to be exhausted.
    none_until: Option<Instant>,
}

/// Time for which drawn requests may be spent.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// Part of a quota that may be drawn at once: one in so many.
const PARTS: u32 = 20;
/// Limit: requests that may be drawn at once.
const DRAWN_MAX: u32 = 1000;

/// Takes one request from a consumer's shared quota; `None` while Redis cannot be used.
pub(super) async fn take_shared(
    sharing: &Sharing,
    consumer: &Asid,
    account: &ConsumerQuota,
) -> Option<Result<QuotaLeft, Refusal>> {
    let (lease, terms) = (&account.lease, &account.terms);
    if let Some(drawn) = lease.take_from_lease(terms) {
        return Some(drawn);
    }
    if !sharing.is_asked() {
        return None;
    }
    // Those before may each have drawn only one request: then this one goes alone.
    let _asking = tokio::time::timeout(sharing.wait()?, lease.asking.lock()).await.ok()?;
    // The task that asked before may have drawn enough.
    if let Some(drawn) = lease.take_from_lease(terms) {
        return Some(drawn);
    }
    let draw = RateDraw {
        key: &format!("spine-proxy:quota:{consumer}"),
        interval: Duration::from_micros(u64::from((1_000_000 / terms.per_second.get()).max(1))),
        burst: terms.burst,
        wanted: lease.wants(terms),
        ahead: Duration::ZERO,
        missing: MissingRate::Unused,
    };
    let grant = sharing.draw(&draw).await?;
    Some(lease.fill_lease(terms, &grant))
}

impl QuotaLease {
    /// Takes one of the drawn requests, or refuses if the quota is known to be exhausted; `None` if neither
    /// is so.
    fn take_from_lease(&self, terms: &QuotaTerms) -> Option<Result<QuotaLeft, Refusal>> {
        let now = Instant::now();
        let mut drawn = self.state();
        if drawn.requests > 0 && drawn.until.is_some_and(|until| now < until) {
            drawn.requests -= 1;
            return Some(Ok(terms.allowance(drawn.requests.saturating_add(drawn.left))));
        }
        let none_for = drawn.none_until.map(|until| until.saturating_duration_since(now));
        let none_for = none_for.filter(|none_for| !none_for.is_zero())?;
        Some(Err(terms.exceeded(seconds(none_for))))
    }

    /// Returns how many requests to draw: twice as many as last time if all of those were spent, else half as
    /// many, since requests that are not spent are lost.
    fn wants(&self, terms: &QuotaTerms) -> u32 {
        let mut drawn = self.state();
        let most = terms.burst.min(terms.per_second).get() / PARTS;
        let size = if drawn.requests == 0 { drawn.size.saturating_mul(2) } else { drawn.size / 2 };
        drawn.size = size.clamp(1, most.clamp(1, DRAWN_MAX));
        drawn.size
    }

    /// Stores the granted requests, of which the caller takes one.
    fn fill_lease(&self, terms: &QuotaTerms, grant: &RateGrant) -> Result<QuotaLeft, Refusal> {
        let &RateGrant { granted, left, wait } = grant;
        let now = Instant::now();
        let mut drawn = self.state();
        drawn.left = left;
        drawn.requests = granted.saturating_sub(1);
        drawn.until = Some(now + GOOD_FOR);
        drawn.none_until = (granted == 0).then_some(now + wait);
        match granted {
            0 => Err(terms.exceeded(seconds(wait))),
            _ => Ok(terms.allowance(drawn.requests.saturating_add(left))),
        }
    }

    fn state(&self) -> MutexGuard<'_, Drawn> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whole seconds, rounded up so that a retry after them is not refused again.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
}
