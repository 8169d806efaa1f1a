//! Views of the traffic, the configuration and the files for machines, in JSON.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::AdminState;
use crate::traffic::{ConsumerView, ExchangeSummary, PracticeView};
use spine_types::Asid;

/// Practice with the state of its system's circuit breaker.
#[derive(Debug, Serialize)]
pub(super) struct ProviderView {
    #[serde(flatten)]
    pub(super) practice: PracticeView,
    /// Seconds for which the circuit has been open after failures; absent while it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) circuit_open_s: Option<u64>,
}

/// Certificate or revocation list that was loaded from a file.
#[derive(Debug, Serialize)]
pub(super) struct FileExpiry {
    /// Use of the file.
    #[serde(rename = "use")]
    pub(super) used_as: &'static str,
    pub(super) file: PathBuf,
    /// Time at which the certificate ends or the list is overdue.
    pub(super) ends: Timestamp,
    /// Whole days until then; negative once it has passed.
    pub(super) days_left: i64,
}

/// Last exchanges, newest first.
#[derive(Debug, Serialize)]
pub(super) struct LastExchanges {
    /// Those that were not refused.
    pub(super) exchanges: Vec<Arc<ExchangeSummary>>,
    /// Refusals of identified consumers.
    pub(super) refusals: Vec<Arc<ExchangeSummary>>,
    /// Refusals of other callers.
    pub(super) unidentified: Vec<Arc<ExchangeSummary>>,
}

const DAY_S: i64 = 24 * 60 * 60;

impl AdminState {
    /// Returns the practices with traffic.
    pub(super) fn providers(&self) -> Vec<ProviderView> {
        let circuits: HashMap<Asid, Duration> = self.live.load().throttle.open_circuits();
        let practices = self.trail.traffic().practices(Timestamp::now().as_second());
        let state = |practice: PracticeView| ProviderView {
            circuit_open_s: practice
                .asid
                .as_ref()
                .and_then(|asid| circuits.get(asid))
                .map(Duration::as_secs),
            practice,
        };
        practices.into_iter().map(state).collect()
    }

    /// Returns the consumers with traffic.
    pub(super) fn consumers(&self) -> Vec<ConsumerView> {
        self.trail.traffic().consumers(Timestamp::now().as_second())
    }

    /// Returns the last exchanges.
    pub(super) fn last_exchanges(&self) -> LastExchanges {
        let traffic = self.trail.traffic();
        let (refusals, unidentified) = traffic.refusals();
        LastExchanges { exchanges: traffic.exchanges(), refusals, unidentified }
    }

    /// Returns the certificates and lists in use, those that end first first.
    pub(super) fn expiries(&self) -> Vec<FileExpiry> {
        let (live, now_s) = (self.live.load(), Timestamp::now().as_second());
        let view = |expiry: &crate::tls::Expiry| FileExpiry {
            used_as: expiry.used_as.label(),
            file: expiry.path.clone(),
            ends: Timestamp::from_second(expiry.at_s).unwrap_or(Timestamp::MAX),
            days_left: (expiry.at_s - now_s).div_euclid(DAY_S),
        };
        let mut expiries: Vec<_> = live.alarms.expiries().iter().map(view).collect();
        expiries.sort_by_key(|expiry| expiry.ends);
        expiries
    }
}
