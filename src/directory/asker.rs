//! The caller of a look-up, and the account that the look-up is charged to.

use std::sync::Arc;

use super::now_s;
use spine_types::Asid;

/// Caller of a look-up and the time of its request.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Account that the request's look-ups are charged to.
    pub payer: Payer<'a>,
    /// Time of the request in seconds since 1970, UTC.
    pub now_s: i64,
}

/// Account that look-ups are charged to: its budget for uncached look-ups and its turns at a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer<'a> {
    /// Fingerprint of a verified certificate whose consumer is not identified yet.
    Certificate(&'a str),
    /// ASID of an identified consumer.
    Consumer(&'a Asid),
    /// Operator who runs `spine-proxy lookup`.
    Operator,
}

/// Owned form of a [`Payer`]; cheap to clone.
pub(super) type LookupAccount = Arc<str>;

impl Payer<'_> {
    /// Returns the account, distinct for every payer.
    pub(super) fn account(self) -> LookupAccount {
        match self {
            Self::Certificate(fingerprint) => format!("certificate {fingerprint}").into(),
            Self::Consumer(asid) => format!("consumer {}", asid.as_str()).into(),
            Self::Operator => "operator".into(),
        }
    }
}

impl Caller<'_> {
    /// Returns the current time in seconds since 1970, at least the request's: an answer that arrived
    /// after the request began must not seem to come from the future.
    pub(super) fn by_now_s(&self) -> i64 {
        self.now_s.max(now_s())
    }
}
