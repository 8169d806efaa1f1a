//! Open Spine Secure Proxy for GP Connect Appointment Management.
//!
//! One function of [`gateway`] handles a request from its head to its answer. Each step takes values and
//! returns a value or a [`refusal::Refusal`]. Modules that decide do no I/O and read no clock. The
//! last decision returns a [`policy::Permit`], without which no request can be forwarded. Every exchange is
//! recorded through an [`audit::Entry`], which no step can read and which closes its record when dropped.
//!
//! The modules, by layer:

pub mod commands;
pub mod server;
pub mod log;
pub mod failure;
pub mod config;

pub mod listener;
pub mod tls;
pub mod gateway;

pub mod consumers;
pub mod request;
pub mod claims;
pub mod policy;
pub mod throttle;
pub mod sharing;
pub mod breaker;

pub mod registry;
pub mod directory;
pub mod forward;
pub mod audit;
pub mod traffic;
pub mod traces;

pub mod refusal;
pub mod hex;
pub mod outbound;
pub mod reloads;
pub mod metrics;
pub mod admin;

#[cfg(feature = "lab")]
#[doc(hidden)]
pub mod fuzzing;

/// Commit that the program was built from, or `unknown`.
pub const COMMIT: &str = env!("SPINE_PROXY_COMMIT");
/// Version of the program and the commit that it was built from, such as `0.2.0 (0123456789ab)`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SPINE_PROXY_COMMIT"), ")");
