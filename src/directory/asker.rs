//! The caller of a look-up, and the account that the look-up is charged to.

use std::sync::Arc;

use super::now_s;
use crate::spine::Asid;

/// Caller of a look-up, and the time of the request.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Account of the look-ups that the request causes.
    pub payer: Payer<'a>,
    /// Seconds since 1970, UTC.
    pub now_s: i64,
}

/// Account that look-ups are charged to: the budget for what is not held, and the turns at a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer<'a> {
    /// A verified certificate whose consumer is not identified yet, by its fingerprint.
    Certificate(&'a str),
    /// An identified consumer.
    Consumer(&'a Asid),
    /// An operator who has a look-up explained.
    Operator,
}

/// A [`Payer`] that can be kept; cheap to clone.
pub(super) type LookupAccount = Arc<str>;

impl Payer<'_> {
    /// An account of its own for every payer.
    pub(super) fn account(self) -> LookupAccount {
        match self {
            Self::Certificate(fingerprint) => format!("certificate {fingerprint}").into(),
            Self::Consumer(asid) => format!("consumer {}", asid.as_str()).into(),
            Self::Operator => "operator".into(),
        }
    }
}

impl Caller<'_> {
    /// The clock, which has gone on since the asker read it: an answer that came meanwhile is not
    /// one from the future.
    pub(super) fn by_now_s(&self) -> i64 {
        self.now_s.max(now_s())
    }
}
