//! Wait for the second file of a key and its certificate, which are replaced one after the other.

use std::time::Duration;

use tokio::time::Instant;

/// Wait for a key or certificate whose other half has been replaced already.
///
/// While it lasts, the last good pair stays in force, and no fault is reported.
#[derive(Debug, Default)]
pub(super) struct PairWait {
    /// End of the wait; `None` if nothing is waited for.
    end: Option<Instant>,
}

impl PairWait {
    /// Limit: time for which the second file is waited for. certbot, cert-manager and `scp` write both within
    /// a second.
    pub(super) const MAX: Duration = Duration::from_secs(5);

    /// Returns once the wait is over; never if nothing is waited for.
    pub(super) async fn is_over(&self) {
        match self.end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    }

    /// Returns true if a load that finds a key without its certificate may wait, or wait on.
    pub(super) fn may_wait(&self) -> bool {
        self.end.is_none_or(|end| Instant::now() < end)
    }

    /// Notes that a load waits for the second file; an earlier wait goes on.
    pub(super) fn begin(&mut self) {
        self.end.get_or_insert_with(|| Instant::now() + Self::MAX);
    }

    /// Notes that nothing is waited for: a load has ended, with or without faults.
    pub(super) const fn end(&mut self) {
        self.end = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_file_is_waited_for_from_the_first_fault_and_no_longer_than_the_limit() {
        let mut wait = PairWait::default();
        assert!(wait.may_wait());
        let begun = Instant::now();
        wait.begin();
        tokio::time::advance(PairWait::MAX / 2).await;
        assert!(wait.may_wait());
        // Another file has changed meanwhile: the wait is not prolonged.
        wait.begin();
        wait.is_over().await;
        assert_eq!(begun.elapsed(), PairWait::MAX);
        assert!(!wait.may_wait(), "the fault is reported");
        wait.end();
        assert!(wait.may_wait(), "the next pair");
        let over = tokio::time::timeout(Duration::from_secs(3600), wait.is_over()).await;
        assert!(over.is_err(), "nothing is waited for");
    }
}
