//! Outcome of the reloads that were requested, such as by SIGHUP: the server writes it, the admin port shows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Limit: faults of a reload that are kept.
const FAULTS_MAX: usize = 50;

/// Numbers and outcome of the requested reloads of this process. Cheap to clone.
///
/// A caller that has changed files and then reads `started` can wait for the reload with the next number, which
/// reads them.
#[derive(Debug, Clone, Default)]
pub struct RequestedReloads(Arc<Mutex<ReloadStatus>>);

/// State of the requested reloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Id of the process.
    pub pid: u32,
    /// Number of the last reload that has begun; 0 if there was none.
    pub started: u64,
    /// Number of the last reload that has ended.
    pub finished: u64,
    /// Faults of the last reload that has ended; what they concern keeps its last good state.
    pub faults: Vec<String>,
}

impl RequestedReloads {
    /// Notes that a reload begins; returns its number.
    pub(crate) fn begin(&self) -> u64 {
        let mut status = self.locked();
        status.started += 1;
        status.started
    }

    /// Notes that the reload of this number has ended, with these faults.
    pub(crate) fn end(&self, number: u64, faults: &[String]) {
        let mut status = self.locked();
        status.finished = number;
        status.faults = faults.iter().take(FAULTS_MAX).cloned().collect();
    }

    /// Returns the state now.
    #[must_use]
    pub fn status(&self) -> ReloadStatus {
        ReloadStatus { pid: std::process::id(), ..self.locked().clone() }
    }

    fn locked(&self) -> MutexGuard<'_, ReloadStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
