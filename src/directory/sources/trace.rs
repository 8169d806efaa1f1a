//! Trace of a look-up, printed by `spine-proxy lookup`.

use std::time::Duration;

/// Queries of one look-up, and irregularities in the records.
#[derive(Debug, Clone, Default)]
pub struct LookupTrace {
    /// Queries in the order they were sent.
    pub steps: Vec<LookupStep>,
    /// Labels of irregularities found in records, each once.
    pub oddities: Vec<&'static str>,
}

/// One query to a source.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LookupStep {
    /// Label of the source: `sds-api` or `sds-ldap`.
    pub source: &'static str,
    /// Kind of records queried: `handlers` or `systems`.
    pub question: &'static str,
    /// Label of the outcome: `found`, `absent`, or a fault.
    pub outcome: &'static str,
    /// Milliseconds from sending the query to its outcome.
    pub took_ms: u128,
}

impl LookupTrace {
    pub(in crate::directory) fn add(
        &mut self,
        source: &'static str,
        question: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        self.steps.push(LookupStep { source, question, outcome, took_ms: took.as_millis() });
    }

    pub(in crate::directory) fn odd(&mut self, oddity: &'static str) {
        if !self.oddities.contains(&oddity) {
            self.oddities.push(oddity);
        }
    }
}
