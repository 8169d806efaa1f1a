//! `check`: loads the configuration and everything it names, and prints what would be served.

use std::path::Path;

use super::{Failure, Prepared, say};
use crate::config::Config;

/// Checks a configuration.
///
/// # Errors
/// The first thing that is wrong.
pub fn run(config: &Path) -> Result<(), Failure> {
    say(Prepared::load(config, 1)?.summary().trim_end());
    Ok(())
}

/// Prints the JSON Schema of the configuration.
pub fn schema() {
    say(format_args!("{:#}", schemars::schema_for!(Config).as_value()));
}
