//! `check`: loads the configuration and everything it names, and prints what would be served.

use std::path::Path;

use super::{Failure, Prepared, say};
use crate::config::Config;

/// Checks a configuration, and prints what would be served and what an operator should look at.
///
/// # Errors
/// The first thing that is wrong; with `strict`, also the number of warnings, if there are any.
pub fn run(config: &Path, strict: bool) -> Result<(), Failure> {
    let prepared = Prepared::load(config, 1)?;
    say(prepared.summary().trim_end());
    let warnings = prepared.warnings();
    for warning in &warnings {
        say(format_args!("warning: {warning}"));
    }
    if strict && !warnings.is_empty() {
        let count = warnings.len();
        return Err(Failure::Configuration(anyhow::anyhow!("{count} warnings, with --strict")));
    }
    Ok(())
}

/// Prints the JSON Schema of the configuration.
pub fn schema() {
    say(format_args!("{:#}", schemars::schema_for!(Config).as_value()));
}
