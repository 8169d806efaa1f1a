//! Test kit of spine-proxy: a gateway with a provider, a directory and a PKI of its own, all on free ports
//! of loopback ([`Stage`]), and requests that are valid but for what a test changes ([`Call`]).
//!
//! Tests and benches share it. Its functions panic where something fails: a test that cannot go on says so.

#![expect(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::must_use_candidate,
    reason = "a test that cannot go on says so by panicking; names say what helpers do"
)]

use std::path::PathBuf;

pub mod authority;
pub mod call;
pub mod disk;
pub mod dns;
pub mod fake_ldap;
pub mod files;
pub mod frames;
pub mod heads;
pub mod not_tested;
pub mod process;
pub mod provider;
pub mod redis;
pub mod repository;
pub mod sds;
pub mod slapd;
pub mod stage;
pub mod swept;
pub mod valgrind;
pub mod way;
pub mod wire;

pub use call::{Answer, Call};
pub use not_tested::missing;
pub use provider::{Act, Received};
pub use stage::Stage;

/// Returns the path of the program under test: `spine-proxy`, beside the folder of this test or bench.
pub fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.ancestors().find(|folder| folder.ends_with("deps")).unwrap();
    folder.with_file_name("spine-proxy")
}
