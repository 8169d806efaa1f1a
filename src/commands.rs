//! The commands of the program, one module each. No other module knows all of the configuration, the
//! simulator and the terminal.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

pub mod audit;
pub mod call;
#[cfg(feature = "lab")]
pub mod certs;
pub mod check;
#[cfg(feature = "lab")]
pub mod conform;
#[cfg(feature = "lab")]
pub mod demo;
pub mod explain;
#[cfg(feature = "lab")]
pub mod lab;
pub mod lookup;
pub mod manual;
pub mod output;
#[cfg(feature = "lab")]
mod play;
pub mod reload;
pub mod serve;
#[cfg(feature = "lab")]
mod server_tls;
mod signals;
#[cfg(feature = "lab")]
pub mod simulate;
pub mod token;

pub(crate) use output::print;

#[cfg(feature = "lab")]
use crate::failure::Failure;

/// Writes a file for people and other programs.
#[cfg(feature = "lab")]
fn written(path: &Path, text: &str) -> Result<(), Failure> {
    let cannot = || format!("cannot write {}", path.display());
    std::fs::write(path, text).with_context(cannot).map_err(Failure::Environment)
}

/// Reads a TOML file, and takes the paths that `paths_mut` returns as relative to its folder.
fn read_toml<T: serde::de::DeserializeOwned>(
    path: &Path,
    paths_mut: impl FnOnce(&mut T) -> Vec<&mut PathBuf>,
) -> anyhow::Result<T> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut settings = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for file in paths_mut(&mut settings) {
        *file = folder.join(&file);
    }
    Ok(settings)
}
