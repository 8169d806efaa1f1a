//! Tampering with a journal: the verdict of a verification, and the alarm of the next start.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by panicking that it fails"
)]

mod checkpoints;
mod copies;
mod fixture;
mod lines;
mod proofs;
