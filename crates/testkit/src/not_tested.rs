//! Tests that cannot test for want of a program. The test harness captures what passing tests print, so it is
//! said on standard error itself, and the suite ends with one line: how many there were, and what is missing.
//!
//! cargo-nextest captures standard error too and runs each test in a process of its own: there each line gives
//! the number so far, on the standard error of cargo-nextest (a terminal or a pipe: in a file it would be
//! written over).

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

/// Counts the lines of its input, one for each test, and says so when this process has ended.
const COUNT: &str = r#"
trap '' INT TERM
count=0 all= verb=is
while read -r what; do
    count=$((count + 1))
    case "$all, " in
        *", $what, "*) ;;
        ", ") all=", $what" ;;
        *) all="$all, $what" verb=are ;;
    esac
done
echo "$count not tested: ${all#, } $verb missing" >&2
"#;

static COUNTER: LazyLock<Mutex<Option<ChildStdin>>> = LazyLock::new(|| {
    let mut shell = Command::new("/bin/sh");
    let shell = shell.args(["-c", COUNT]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    Mutex::new(shell.ok().and_then(|shell| shell.stdin))
});

/// A test cannot test for want of this: it says so, and in CI fails.
pub fn missing(what: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!in_ci, "{what} is missing");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let said = match std::env::var_os("NEXTEST_RUN_ID") {
        None => counted(test, what),
        Some(run) => told(&run.to_string_lossy(), test, what),
    };
    said.unwrap_or_default();
}

fn counted(test: &str, what: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "NOT TESTED: {test}: {what} is missing")?;
    match COUNTER.lock().unwrap().as_mut() {
        Some(counter) => writeln!(counter, "{what}"),
        None => Ok(()),
    }
}

fn told(run: &str, test: &str, what: &str) -> std::io::Result<()> {
    let list = crate::program().with_file_name(format!("not-tested-{run}"));
    writeln!(OpenOptions::new().create(true).append(true).open(&list)?, "{what}")?;
    let all = std::fs::read_to_string(list)?;
    let programs: Vec<_> = all.lines().collect::<BTreeSet<_>>().into_iter().collect();
    let verb = if programs.len() == 1 { "is" } else { "are" };
    let (count, programs) = (all.lines().count(), programs.join(", "));
    let runner = format!("/proc/{}/fd/2", std::os::unix::process::parent_id());
    let mut runner = OpenOptions::new().append(true).open(runner)?;
    let line =
        format!("NOT TESTED: {test}\n{count} not tested so far: {programs} {verb} missing\n");
    runner.write_all(line.as_bytes())
}
