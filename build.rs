//! Sets `SPINE_PROXY_COMMIT`, the commit that the program says it was built from.
//!
//! It is the environment variable of that name, which packages and container images set; else what git says of
//! this source tree; else `unknown`. Nothing else is read, so equal sources and commits give equal builds.

use std::path::PathBuf;
use std::process::Command;

const VARIABLE: &str = "SPINE_PROXY_COMMIT";
/// Number of hexadecimal digits of the commit.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let given = std::env::var_os(VARIABLE).and_then(|commit| commit.into_string().ok());
    let commit = given.filter(|commit| is_plain(commit)).or_else(|| {
        // What git prints for a commit changes with these files.
        for file in moving_files() {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        from_git()
    });
    println!("cargo::rustc-env={VARIABLE}={}", commit.as_deref().unwrap_or("unknown"));
}

/// Returns true for a text that can be shown as a commit: 1 to 64 letters, digits, `.`, `_`, `-` and `+`.
fn is_plain(commit: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
    (1..=64).contains(&commit.len()) && commit.bytes().all(is_plain)
}

/// Returns the commit, if git keeps this file: an unpacked archive may lie in the tree of another project.
fn from_git() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])?;
    is_plain(&commit).then_some(commit)
}

/// Returns the files of git that change with the commit in use, as far as they exist.
fn moving_files() -> Vec<PathBuf> {
    let paths = ["HEAD", "logs/HEAD"].map(|name| git(&["rev-parse", "--git-path", name]));
    paths.into_iter().flatten().map(PathBuf::from).filter(|path| path.exists()).collect()
}

/// Runs git and returns what it prints; `None` if it fails or is not there.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
