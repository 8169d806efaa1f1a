//! `check`: loads the configuration and every file it names, and prints what would be served.

use std::path::Path;

use super::print;
use crate::config::Config;
use crate::failure::Failure;
use crate::server::Prepared;

/// Checks a configuration, and prints what would be served, with warnings for the operator.
///
/// # Errors
/// Returns the first fault of the configuration or a file; with `strict`, also an error if there are
/// warnings.
pub fn run(config: &Path, strict: bool) -> Result<(), Failure> {
    let prepared = Prepared::load(config, 1)?;
    print(prepared.summary().trim_end());
    let warnings = prepared.warnings();
    for warning in &warnings {
        print(format_args!("warning: {warning}"));
    }
    if strict && !warnings.is_empty() {
        let count = warnings.len();
        return Err(Failure::Configuration(anyhow::anyhow!(
            "{count} warnings, which --strict does not allow"
        )));
    }
    Ok(())
}

/// Prints the JSON Schema of the configuration.
pub fn schema() {
    print(format_args!("{:#}", schemars::schema_for!(Config).as_value()));
}
