//! Standard output of the commands.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use anyhow::anyhow;
use serde::Serialize;
use spine_types::{is_unprintable, masked, printable};

use crate::failure::Failure;

/// First error of writing to standard output.
static FAULT: OnceLock<String> = OnceLock::new();

/// Prints a line, or lines, to standard output without unprintable characters; [`result`] returns an error.
pub(crate) fn print(text: impl Display) {
    note(writeln!(io::stdout(), "{}", printable(&text.to_string())));
}

/// Prints JSON as a line, or lines, to standard output; unprintable characters in its texts are escaped.
/// [`result`] returns an error.
pub(super) fn print_json(json: impl Display) {
    let mut text = json.to_string();
    if text.contains(|one| is_unprintable(one) && one != '\n') {
        let escaped = |one: char| match is_unprintable(one) && one != '\n' {
            true => format!("\\u{:04x}", u32::from(one)),
            false => one.to_string(),
        };
        text = text.chars().map(escaped).collect();
    }
    note(writeln!(io::stdout(), "{text}"));
}

/// Prints a value as JSON with a line for each member, as [`print_json`] does.
///
/// # Errors
/// Returns an error if the value cannot be written as JSON.
pub(super) fn print_pretty_json(value: &impl Serialize) -> Result<(), Failure> {
    print_json(serde_json::to_string_pretty(value).map_err(Failure::environment)?);
    Ok(())
}

/// Prints a line, or lines, to standard error without unprintable characters and NHS numbers; an error is ignored.
pub fn print_error(text: impl Display) {
    let text = text.to_string();
    let text = masked(&text, usize::MAX);
    writeln!(io::stderr(), "{}", printable(&text)).unwrap_or_default();
}

/// Prints a line that has the sequences of a terminal to standard output; [`result`] returns an error.
#[cfg(feature = "lab")]
pub(super) fn print_styled(line: &str) {
    note(writeln!(io::stdout(), "{line}"));
}

/// Prints bytes to standard output; [`result`] returns an error.
pub(super) fn print_bytes(bytes: &[u8]) {
    note(io::stdout().write_all(bytes));
}

/// Notes an error of writing to standard output; returns true if there was none.
///
/// A closed pipe is not noted: its reader has what it wanted.
pub(super) fn note(written: io::Result<()>) -> bool {
    let Err(error) = written else { return true };
    if error.kind() != io::ErrorKind::BrokenPipe {
        FAULT.get_or_init(|| error.to_string());
    }
    false
}

/// Returns the result of everything that was printed.
///
/// # Errors
/// Returns an error if something could not be written to standard output, unless its reader has closed it.
pub fn result() -> Result<(), Failure> {
    note(io::stdout().flush());
    match FAULT.get() {
        None => Ok(()),
        Some(why) => Err(Failure::Environment(anyhow!("cannot write to standard output: {why}"))),
    }
}
