//! Test kit of spine-proxy: a gateway with a provider, a directory and a PKI of its own, all on free ports
//! of loopback ([`TestBed`]), and requests that are valid except for the parts a test changes ([`TestRequest`]).
//!
//! Tests and benches share it. Its functions panic on failure, so that the test fails there.

#![expect(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::must_use_candidate,
    reason = "helpers fail a test by panicking; their names describe them"
)]

use std::path::PathBuf;

pub mod agreement;
pub mod authority;
pub mod chromium;
pub mod disk;
pub mod dns;
pub mod fake_ldap;
pub mod files;
pub mod frames;
pub mod heads;
pub mod leak_check;
pub mod link;
pub mod not_tested;
pub mod process;
pub mod provider;
pub mod raw_connection;
pub mod redis;
pub mod repository;
pub mod request;
pub mod sds;
pub mod slapd;
pub mod test_bed;
pub mod valgrind;

pub use not_tested::{report_missing, report_not_installable};
pub use provider::{ProviderAction, Received};
pub use request::{Answer, TestRequest};
pub use test_bed::TestBed;

/// Returns the path of the program under test: `spine-proxy`, beside the folder of this test or bench.
pub fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.ancestors().find(|folder| folder.ends_with("deps")).unwrap();
    folder.with_file_name("spine-proxy")
}
