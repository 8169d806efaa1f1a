//! Instructions of the program for one request: of the usual ones, of those that are refused at each step, of
//! the steps themselves by the names of their functions, and by the way in which a head is filled.
//!
//! `cargo bench --bench instructions` prints a table; `-- --parent` builds the parent commit too, in a folder of
//! its own below Cargo's target folder, and ends with 1 if any count has grown by more than a tenth since
//! (`-- --parent COMMIT`: since another commit). `-- --save FILE` keeps the counts, and `-- --compare FILE` compares
//! with what was kept. `-- --short` leaves the heads that are filled out, `-- --traces` turns traces on. It needs
//! valgrind; `--parent` needs git.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use serde_json::json;

#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use testkit::heads::filled_requests;
use testkit::test_bed::OTHER_ROOT;
use testkit::valgrind::{self, InstructionCounter};
use testkit::{TestBed, TestRequest};

/// Use made of the counts.
#[derive(Debug, Parser)]
struct Options {
    /// Write them to this file.
    #[arg(long)]
    save: Option<PathBuf>,
    /// Compare them with those in this file.
    #[arg(long)]
    compare: Option<PathBuf>,
    /// Compare them with those of this commit, which is built.
    #[arg(long, num_args = 0..=1, default_missing_value = "HEAD^", conflicts_with = "compare")]
    parent: Option<String>,
    /// Leave out the heads that are filled.
    #[arg(long)]
    short: bool,
    /// Count with traces of every request; their export, in batches later, is not counted.
    #[arg(long)]
    traces: bool,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Counts by the kind of request, or by a step of the usual one.
type Counts = BTreeMap<String, u64>;

/// Instructions by the names of functions, each with those of what it calls.
type Functions = HashMap<String, u64>;

/// The usual request.
const USUAL: &str = "usual";
/// Each is counted so often, and the least is taken.
const ROUNDS: usize = 5;
/// Limit: growth, in percent, that is no regression.
const GROWTH_MAX_PERCENT: u64 = 10;

/// Traces to a receiver that is not there, and is not asked for as long as requests are counted.
const TRACES: &str =
    "[traces]\nendpoint = \"http://127.0.0.1:9/v1/traces\"\nratio = 1.0\ndelay = \"60s\"";

/// Steps of a request, and the functions by which each is entered.
const STEPS: [(&str, &[&str]); 4] = [
    ("usual, step head", &["listener::validator::Validator::scan", "request::SspRequest::parse"]),
    ("usual, step token", &["claims::check"]),
    ("usual, step decisions", &["policy::authorise"]),
    (
        "usual, step record",
        &[
            "audit::entry::Entry::set_headers",
            "audit::record::RecordedClaims::of",
            "audit::entry::Entry as core::ops::drop::Drop>::drop",
        ],
    ),
];

/// Functions that run by the clock and not for a request: they are not counted.
const BACKGROUND: [&str; 2] = [
    "commands::reload::Reloader::watch::{{closure}}",
    "throttle::pressure::ResidentMemoryFile::bytes",
];

fn main() -> ExitCode {
    let options = Options::parse();
    if !valgrind::is_installed() {
        eprintln!("valgrind is missing: nothing was counted");
        return ExitCode::FAILURE;
    }
    let parent = options.parent.as_deref().map(build);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let before = match (&parent, &options.compare) {
        (Some(program), _) => runtime.block_on(counts(program, options.short, "")),
        (None, Some(file)) => read(file),
        (None, None) => Counts::new(),
    };
    let own = Path::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let section = if options.traces { TRACES } else { "" };
    let counts = runtime.block_on(counts(own, options.short, section));
    let usual = counts[USUAL];
    println!("| request | instructions | usual requests | before | growth |");
    println!("|---|---|---|---|---|");
    let mut failed = false;
    for (way, count) in &counts {
        let hundredths = count * 100 / usual;
        let known = before.get(way).map(|before| {
            failed |= count * 100 > before * (100 + GROWTH_MAX_PERCENT);
            let growth = (i128::from(*count) - i128::from(*before)) * 100 / i128::from(*before);
            format!("{before} | {growth:+} %")
        });
        let known = known.unwrap_or_else(|| "| ".to_owned());
        println!("| {way} | {count} | {}.{:02} | {known} |", hundredths / 100, hundredths % 100);
    }
    for (step, functions) in STEPS.iter().filter(|(step, _)| !counts.contains_key(*step)) {
        failed = true;
        println!("\n**NOT COUNTED: {step}: the program has no function {functions:?} any more.**");
    }
    if let Some(file) = &options.save {
        std::fs::write(file, serde_json::to_string_pretty(&counts).unwrap()).unwrap();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read(file: &Path) -> Counts {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

async fn counts(program: &Path, is_short: bool, section: &str) -> Counts {
    let bed = TestBed::with(|files| files.add(section)).await;
    let mut counted = InstructionCounter::start_program(program, &bed);
    let heads = filled_requests().into_iter().filter(|_| !is_short);
    let heads = heads.map(|head| (format!("head filled: {}", head.description), head.call));
    let apart = apart().map(|(name, call)| (name.to_owned(), call));
    let calls: Vec<_> = apart.into_iter().chain(heads).collect();
    let mut counts = Counts::new();
    // Not the rounds of one after the other: a connection is ended after many refusals in a row.
    for _ in 0..ROUNDS {
        let mut keep = |name: &str, count: u64| {
            let least = counts.entry(name.to_owned()).or_insert(count);
            *least = count.min(*least);
        };
        for (name, call) in &calls {
            let (all, functions) = count(&mut counted, &bed, call).await;
            keep(name, all);
            for (step, names) in STEPS.iter().filter(|_| name == USUAL) {
                keep(step, sum(&functions, names));
            }
        }
    }
    counts.retain(|_, count| *count > 0);
    counts
}

/// Counts the instructions of one request, and those of each function.
async fn count(
    counted: &mut InstructionCounter,
    bed: &TestBed,
    call: &TestRequest,
) -> (u64, Functions) {
    let all = counted.smallest_count(bed, call, 1).await;
    let functions = functions(&counted.last_dump());
    (all - sum(&functions, &BACKGROUND), functions)
}

/// Instructions of the functions whose names end so.
fn sum(functions: &Functions, names: &[&str]) -> u64 {
    let named = |name: &str| names.iter().any(|end| name.ends_with(end));
    functions.iter().filter(|(name, _)| named(name)).map(|(_, count)| count).sum()
}

/// The usual requests, and those that end at one step after the other.
fn apart() -> [(&'static str, TestRequest); 6] {
    let interaction = "urn:nhs:names:services:gpconnect:fhir:operation:gpc.getstructuredrecord-1";
    [
        (USUAL, TestRequest::slots()),
        ("usual, a write", TestRequest::book()),
        ("refused for its head", TestRequest::slots().without("Ssp-TraceID")),
        ("refused for its interaction", TestRequest::slots().set("Ssp-InteractionID", interaction)),
        ("refused for its token", TestRequest::slots().claim("reason_for_request", json!("audit"))),
        ("refused for its audience", TestRequest::slots().claim("aud", json!(OTHER_ROOT))),
    ]
}

/// The instructions of each function that was called, with those of what it called, from a count as callgrind
/// writes it: the callee, the number of its calls, and then their instructions at the end of a line.
fn functions(count: &str) -> Functions {
    let (mut names, mut functions) = (HashMap::new(), Functions::new());
    let (mut callee, mut is_call) = (String::new(), false);
    for line in count.lines() {
        if let Some((is_callee, named)) = function(line) {
            // A name stands there once; then its number stands for it.
            let (number, name) = named.split_once(' ').unwrap_or((named, ""));
            let known = names.entry(number).or_insert(name);
            if is_callee {
                known.clone_into(&mut callee);
            }
        } else if is_call {
            let instructions: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *functions.entry(callee.clone()).or_default() += instructions;
        }
        is_call = line.starts_with("calls=");
    }
    functions
}

/// A function as callgrind names it, and whether it is one that is called.
fn function(line: &str) -> Option<(bool, &str)> {
    let callee = line.strip_prefix("cfn=").map(|name| (true, name));
    callee.or_else(|| line.strip_prefix("fn=").map(|name| (false, name)))
}

/// Builds the program of another commit as this bench is built, in a folder that is kept for the next time.
fn build(commit: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.ancestors().nth(3).unwrap().join("parent");
    let tree = Tree::checked_out(folder.join("tree"), commit);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    cargo.args(["build", "--profile", "bench", "--bin", "spine-proxy", "--locked"]);
    cargo.args(["--config", "profile.bench.strip=false"]).arg("--target-dir").arg(&folder);
    let built = cargo.current_dir(&tree.0).status().expect("cargo starts");
    assert!(built.success(), "{commit} does not build");
    folder.join("release").join("spine-proxy")
}

/// A work tree of a commit, removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn checked_out(path: PathBuf, commit: &str) -> Self {
        let tree = Self(path);
        // One may be left of a run that was killed.
        tree.remove();
        let added =
            git(["worktree", "add", "--quiet", "--detach"], [tree.0.as_os_str(), commit.as_ref()]);
        assert!(added, "git does not check out {commit}");
        tree
    }

    fn remove(&self) {
        if self.0.exists() {
            git(["worktree", "remove", "--force", "--force"], [self.0.as_os_str()]);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.remove();
    }
}

fn git<const N: usize>(command: [&str; 4], arguments: [&OsStr; N]) -> bool {
    let mut git = Command::new("git");
    git.current_dir(env!("CARGO_MANIFEST_DIR")).args(command).args(arguments);
    git.status().is_ok_and(|status| status.success())
}
