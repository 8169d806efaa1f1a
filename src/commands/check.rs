//! `check`: loads the configuration and every file it names, and prints what would be served.

use std::path::Path;

use clap::ValueEnum;
use schemars::schema_for;

use super::output::{print, print_pretty_json};
use crate::config::Config;
use crate::failure::Failure;
use crate::registry::DirectoryFile;
use crate::server::{CheckReport, Prepared};

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
        print(format_args!("warning: {}", warning.text));
    }
    judge(warnings.len(), strict)
}

/// Checks a configuration, and prints the result as JSON, also if there is a fault.
///
/// # Errors
/// Returns an error as [`run`] does.
pub fn run_json(config: &Path, strict: bool) -> Result<(), Failure> {
    match Prepared::load(config, 1) {
        Ok(prepared) => {
            print_pretty_json(&CheckReport::served(&prepared, strict))?;
            judge(prepared.warnings().len(), strict)
        }
        Err(failure) => {
            print_pretty_json(&CheckReport::failed(config, &failure))?;
            Err(failure)
        }
    }
}

/// Returns an error if there are warnings and `strict` does not allow them.
fn judge(warnings: usize, strict: bool) -> Result<(), Failure> {
    if strict && warnings > 0 {
        return Err(Failure::Configuration(anyhow::anyhow!(
            "{warnings} warnings, which --strict does not allow"
        )));
    }
    Ok(())
}

/// File format that a JSON Schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// The configuration file.
    Configuration,
    /// The directory file.
    Directory,
    /// The file of `simulate provider`.
    #[cfg(feature = "lab")]
    Simulator,
    /// The file of `lab`.
    #[cfg(feature = "lab")]
    Lab,
}

/// Prints the JSON Schema of a file format.
pub fn schema(of: SchemaOf) {
    let schema = match of {
        SchemaOf::Configuration => schema_for!(Config),
        SchemaOf::Directory => DirectoryFile::schema(),
        #[cfg(feature = "lab")]
        SchemaOf::Simulator => super::simulate::schema(),
        #[cfg(feature = "lab")]
        SchemaOf::Lab => super::lab::schema(),
    };
    print(format_args!("{:#}", schema.as_value()));
}
