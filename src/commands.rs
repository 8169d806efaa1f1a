//! The commands: thin, one file each. Only here does anything know the configuration, the simulator
//! and the terminal.

use std::io::Write as _;

pub mod audit;
pub mod certs;
pub mod check;
pub mod demo;
pub mod lookup;
mod memory;
mod prepare;
mod reload;
pub mod serve;
mod server_tls;
pub mod simulate;
mod sockets;
pub mod token;
mod warnings;

pub use prepare::Prepared;

/// Why a command failed: decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum CommandFailure {
    /// What was asked for cannot be had as written: exit code 78.
    #[error("{0:#}")]
    Configuration(anyhow::Error),
    /// The world did not play along: exit code 1.
    #[error("{0:#}")]
    World(anyhow::Error),
}

impl CommandFailure {
    pub(crate) fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self::Configuration(error.into())
    }

    pub(crate) fn world(error: impl Into<anyhow::Error>) -> Self {
        Self::World(error.into())
    }
}

/// Prints a line; a reader that has gone away is no failure.
pub(crate) fn print(text: impl std::fmt::Display) {
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}
