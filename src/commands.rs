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
pub mod manual;
pub mod reload;
pub mod serve;
#[cfg(feature = "lab")]
mod server_tls;
#[cfg(feature = "lab")]
pub mod simulate;
pub mod token;

/// Prints a line to standard output; an error, such as a closed pipe, is ignored.
pub(crate) fn print(text: impl std::fmt::Display) {
    writeln!(std::io::stdout(), "{text}").unwrap_or_default();
}
