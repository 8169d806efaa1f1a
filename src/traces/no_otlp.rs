//! Stand-in for OTLP in a build without the feature `otel`: traces cannot be configured.

use std::convert::Infallible;

use super::TracedExchange;

/// Encoder of spans, which cannot be made in this build.
#[derive(Debug)]
pub(super) struct SpanEncoder(Infallible);

impl SpanEncoder {
    /// Refuses every configuration of traces.
    ///
    /// # Errors
    /// Returns a text that names the feature which is missing.
    pub(super) fn new(_: &str) -> Result<Self, String> {
        Err("traces: this program was built without the feature otel: remove the section, or build it with \
             the feature"
            .to_owned())
    }

    pub(super) fn request(&self, _: &[TracedExchange]) -> Vec<u8> {
        match self.0 {}
    }

    pub(super) fn rejected(&self, _: &[u8]) -> u64 {
        match self.0 {}
    }
}
