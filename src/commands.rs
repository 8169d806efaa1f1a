//! The commands of the program, one module each. No other module knows all of the configuration, the
//! simulator and the terminal.

use std::io::Write as _;

pub mod audit;
#[cfg(feature = "lab")]
pub mod certs;
pub mod check;
#[cfg(feature = "lab")]
pub mod demo;
pub mod lookup;
mod memory;
mod prepare;
mod reload;
pub mod serve;
#[cfg(feature = "lab")]
mod server_tls;
#[cfg(feature = "lab")]
pub mod simulate;
mod sockets;
pub mod token;
mod warnings;

pub use prepare::Prepared;

/// Error of a command, by the exit code that it leads to.
#[derive(Debug, thiserror::Error)]
pub enum CommandFailure {
    /// The arguments, the configuration or a file it names is wrong: exit code 78.
    #[error("{0:#}")]
    Configuration(anyhow::Error),
    /// The environment failed, or the command found what it checks for to be wrong: exit code 1.
    #[error("{0:#}")]
    Environment(anyhow::Error),
}

impl CommandFailure {
    pub(crate) fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self::Configuration(error.into())
    }

    pub(crate) fn environment(error: impl Into<anyhow::Error>) -> Self {
        Self::Environment(error.into())
    }
}

/// An error of the system that nobody has named as the configuration's is the environment's.
impl From<std::io::Error> for CommandFailure {
    fn from(error: std::io::Error) -> Self {
        Self::environment(error)
    }
}

/// Prints a line to standard output; an error, such as a closed pipe, is ignored.
pub(crate) fn print(text: impl std::fmt::Display) {
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}
