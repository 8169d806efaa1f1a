//! Account that look-ups are charged to.

use std::sync::Arc;

use spine_types::Asid;

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
