//! `man` and `completions`: what a package installs beside the program, generated from its arguments.

use std::path::Path;

use anyhow::Context as _;
use clap_complete::Shell;

use super::output::print_bytes;
use crate::failure::Failure;

/// Writes a man page for the program and for each of its commands into a folder, which is created if it does not
/// exist.
///
/// # Errors
/// Returns an error if the folder or a page cannot be written.
pub fn man(program: clap::Command, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(program, folder))
        .with_context(|| format!("cannot write man pages into {}", folder.display()))
        .map_err(Failure::Environment)
}

/// Prints a shell's completions for the program.
pub fn completions(mut program: clap::Command, shell: Shell) {
    let name = program.get_name().to_owned();
    // Printed at once: the generator panics if its output cannot be written.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut text);
    print_bytes(&text);
}
