//! The stage: a gateway, a provider that does what it is told, a directory, a throwaway PKI, all on
//! port 0; and a call: a valid request, minus or plus one thing.

pub(crate) mod authority;
pub(crate) mod call;
pub(crate) mod disk;
pub(crate) mod dns;
#[cfg(feature = "ldap")]
pub(crate) mod fake_ldap;
pub(crate) mod files;
pub(crate) mod frames;
pub(crate) mod heads;
pub(crate) mod not_tested;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod redis;
pub(crate) mod repository;
pub(crate) mod sds;
#[cfg(feature = "ldap")]
pub(crate) mod slapd;
pub(crate) mod stage;
pub(crate) mod swept;
pub(crate) mod valgrind;
pub(crate) mod way;
pub(crate) mod wire;

pub(crate) use call::{Answer, Call};
pub(crate) use not_tested::missing;
pub(crate) use provider::{Act, Received};
pub(crate) use stage::Stage;
