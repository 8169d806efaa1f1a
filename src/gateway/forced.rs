//! Lab: refusals that a test forces by a header. Not part of a build without the feature `lab`.

use http::HeaderMap;

use super::DecisionRules;
use crate::refusal::{Refusal, every};

/// Header with the token of a refusal.
const HEADER: &str = "x-spine-proxy-refuse";

/// Refuses with the refusal that the request names, if `lab = true`; one of each token is known.
///
/// # Errors
/// Returns that refusal.
pub(super) fn refuse(rules: &DecisionRules, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(wanted) = headers.get(HEADER).filter(|_| rules.lab) else { return Ok(()) };
    let is_wanted = |refusal: &Refusal| wanted.as_bytes() == refusal.row().token.as_bytes();
    match every().into_iter().find(is_wanted) {
        Some(refusal) => Err(refusal),
        None => {
            tracing::warn!("{HEADER} names no refusal, and the request is answered as usual");
            Ok(())
        }
    }
}
