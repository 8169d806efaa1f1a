//! Tests of behaviour from outside: one file for each behaviour, with real TLS on both sides.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod admin;
mod architecture;
mod ats;
mod audit;
mod balancers;
mod balp;
mod bytes;
mod call;
mod certs;
mod commands;
mod conform;
mod connections;
mod console;
mod consumers;
mod cut;
mod demo;
mod deploy;
mod directory;
mod drain;
mod durability;
mod evidence;
mod examples;
mod explain;
mod faults;
mod forced;
mod flush;
mod foreign;
mod framing;
mod fuzz;
mod heads;
mod headers;
mod hostile;
mod http2;
mod install;
mod instructions;
mod language;
#[cfg(feature = "ldap")]
mod ldap;
mod json;
mod kept;
mod lab;
mod lifecycle;
mod manager;
mod memory;
mod mismatch;
mod mistakes;
mod monitoring;
mod names;
mod openapi;
mod outages;
mod pace;
mod places;
mod postman;
mod privacy;
mod documents;
mod refusal_bodies;
mod reload;
mod refusals;
mod revocation;
mod session;
mod sharing;
mod shipping;
mod signals;
mod simulator;
mod circuit;
mod targets;
mod throttle;
mod tokens;
#[cfg(feature = "otel")]
mod traces;
mod trust;
mod warnings;
mod writes;
