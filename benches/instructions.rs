//! Instructions of the program for one request, by the way in which its head is filled.
//!
//! `cargo bench --bench instructions` prints a table; `-- --save FILE` keeps the counts, and
//! `-- --compare FILE` compares with what was kept, at the parent commit for instance, and ends with 1 if any
//! has grown by more than a tenth. It needs valgrind.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use support::heads::filled;
use support::valgrind::{self, Counted};
use support::{Call, Stage};

/// Use made of the counts.
#[derive(Debug, Parser)]
struct Options {
    /// Write them to this file.
    #[arg(long)]
    save: Option<PathBuf>,
    /// Compare them with those in this file.
    #[arg(long)]
    compare: Option<PathBuf>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Counts by the way in which a head is filled.
type Counts = BTreeMap<String, u64>;

/// The usual request among the ways.
const USUAL: &str = "usual";
/// Each is counted so often, and the least is taken.
const ROUNDS: usize = 3;
/// Limit: growth, in percent, that is no regression.
const GROWTH_MAX_PERCENT: u64 = 10;

fn main() -> ExitCode {
    let options = Options::parse();
    if !valgrind::is_installed() {
        eprintln!("valgrind is missing: nothing was counted");
        return ExitCode::FAILURE;
    }
    let before = options.compare.as_deref().map(read).unwrap_or_default();
    let counts = tokio::runtime::Runtime::new().unwrap().block_on(counts());
    let usual = counts[USUAL];
    println!("| head | instructions | usual requests | before | growth |");
    println!("|---|---|---|---|---|");
    let mut grown = false;
    for (way, count) in &counts {
        let tenths = count * 10 / usual;
        let known = before.get(way).map(|before| {
            grown |= count * 100 > before * (100 + GROWTH_MAX_PERCENT);
            let growth = (i128::from(*count) - i128::from(*before)) * 100 / i128::from(*before);
            format!("{before} | {growth:+} %")
        });
        let known = known.unwrap_or_else(|| "| ".to_owned());
        println!("| {way} | {count} | {}.{} | {known} |", tenths / 10, tenths % 10);
    }
    if let Some(file) = &options.save {
        std::fs::write(file, serde_json::to_string_pretty(&counts).unwrap()).unwrap();
    }
    if grown { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read(file: &Path) -> Counts {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

async fn counts() -> Counts {
    let stage = Stage::new().await;
    let mut counted = Counted::start(&stage);
    let usual = counted.least(&stage, &Call::slots(), ROUNDS).await;
    let mut counts = Counts::from([(USUAL.to_owned(), usual)]);
    for head in filled() {
        let least = counted.least(&stage, &head.call, ROUNDS).await;
        counts.insert(head.way.to_owned(), least);
    }
    counts
}
