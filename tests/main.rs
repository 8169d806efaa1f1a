//! Behaviour, through the front door: one file a behaviour, real TLS on both sides.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so by panicking"
)]

mod support;

mod architecture;
mod bytes;
mod commands;
mod deploy;
mod refusals;
mod mismatch;
mod privacy;
mod readme;
mod session;
mod trust;
