//! An open Spine Secure Proxy for GP Connect Appointment Management.
//!
//! A request walks through one function, [`gateway`], top to bottom. Each step takes values and
//! returns a value or a [`refusal::Refusal`]. Steps that decide cannot wait; steps that wait do not
//! decide. The last decision hands out a [`policy::Permit`], and only a permit opens the door to a
//! provider. What happened is written to an [`audit::Entry`] that no step can read and that closes
//! itself when dropped.
//!
//! The modules, in the order in which a request meets them:

pub mod commands;
pub mod config;

pub mod listener;
pub mod tls;
pub mod gateway;

pub mod consumers;
pub mod request;
pub mod target;
pub mod interaction;
pub mod claims;
pub mod policy;
pub mod throttle;
pub mod breaker;

pub mod directory;
pub mod forward;
pub mod audit;

pub mod refusal;
pub mod spine;
pub mod metrics;
pub mod admin;

pub mod simulator;

#[doc(hidden)]
pub mod fuzzing;
