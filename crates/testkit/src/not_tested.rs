//! Reports of tests that were skipped because a program is missing.
//!
//! The test harness captures the output of passing tests, so reports go to standard error directly. At the end
//! one line gives their number and the missing programs.
//!
//! cargo-nextest runs each test in a separate process and captures standard error too. There each report goes
//! to the standard error of cargo-nextest, with the number so far. In a file that would be overwritten: it has
//! to be a terminal or a pipe.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

/// Shell script that counts the lines of its input, one for each skipped test, and prints the total when this
/// process has ended.
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

/// Reports that this test is skipped because a program is missing.
///
/// # Panics
///
/// If `CI` is `true`.
pub fn report_missing(what: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!in_ci, "{what} is missing");
    report_not_installable(what);
}

/// Reports that this test is skipped because of a program that `.ci/run` cannot install, which a document says.
pub fn report_not_installable(what: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let reported = match std::env::var_os("NEXTEST_RUN_ID") {
        None => report_to_harness(test, what),
        Some(run) => report_to_nextest(&run.to_string_lossy(), test, what),
    };
    reported.unwrap_or_default();
}

fn report_to_harness(test: &str, what: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "NOT TESTED: {test}: {what} is missing")?;
    match COUNTER.lock().unwrap().as_mut() {
        Some(counter) => writeln!(counter, "{what}"),
        None => Ok(()),
    }
}

fn report_to_nextest(run: &str, test: &str, what: &str) -> std::io::Result<()> {
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
