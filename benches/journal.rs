//! Ten million records: how long a search takes, and how much memory.
//!
//! `cargo bench --bench journal`, `-- --records 1000000 --folder target/journal --keep`. Writes a journal
//! through the trail that requests go through, then asks the program. A record is two lines here, as
//! those of most forwarded exchanges are; the journal is removed afterwards unless it is to be kept.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::io::{BufRead as _, BufReader};
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use audit_journal::note::CheckpointSigner;
use audit_journal::{LineFilter, MemberFilter, SearchMethod, search};
use clap::Parser;
use http::{HeaderMap, HeaderValue, Method};
use spine_proxy::audit::{AuditSettings, CheckpointConfig, Trail};
use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::Refusal;
use spine_proxy::request::SspHeaders;

/// A journal, and what is asked of it.
#[derive(Debug, Parser)]
struct Options {
    /// How many records it holds.
    #[arg(long, default_value_t = 10_000_000)]
    records: u64,
    /// Where it is written; a folder of its own.
    #[arg(long, default_value = "target/journal")]
    folder: PathBuf,
    /// Leave it there, and use it if it is there.
    #[arg(long)]
    keep: bool,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How many records may be on their way to the disk.
const OPEN_MAX: usize = 10_000;

#[tokio::main]
async fn main() {
    let options = Options::parse();
    if !options.folder.exists() {
        let pem = CheckpointSigner::generate_pem().unwrap();
        std::fs::write(key_file(&options.folder), pem).unwrap();
        write(&options).await;
    }
    let folder = options.folder.to_str().unwrap();
    let trace_id = trace_id(options.records / 3);
    println!("| asked of {} | lines | seconds | memory, MiB |", size(&options.folder));
    println!("|---|---|---|---|");
    let query = |arguments: &[&'static str]| [&["query", folder], arguments].concat();
    let by_id = [query(&["--json", "--trace-id"]), vec![&*trace_id]].concat();
    ask("a trace id", &by_id);
    ask(
        "a trace id that is not there",
        &query(&["--trace-id", "ffffffff-ffff-4fff-8fff-ffffffffffff"]),
    );
    ask("a trace id, every line read", &[by_id, vec!["--scan"]].concat());
    ask(
        "a refusal, every thousandth record",
        &query(&["--refusal", "host_not_ours", "--limit", "1000000"]),
    );
    let signer = signer(&options.folder);
    let key = signer.verifier().to_string();
    ask("verify, with the key", &["verify", folder, "--key", &key]);
    let id = id_of(&options.folder, &trace_id);
    ask("prove one exchange", &["prove", folder, "--id", &id]);
    if !options.keep {
        std::fs::remove_dir_all(&options.folder).unwrap();
    }
}

/// Name of the journal in its checkpoints.
const ORIGIN: &str = "bench.example.nhs.uk/audit/1";

/// Key of the journal, in a file beside it.
fn key_file(folder: &Path) -> PathBuf {
    folder.with_extension("key")
}

fn signer(folder: &Path) -> CheckpointSigner {
    let pem = std::fs::read_to_string(key_file(folder)).unwrap();
    CheckpointSigner::from_pkcs8_pem(&pem, ORIGIN).unwrap()
}

/// Returns the id of an exchange with this trace id.
fn id_of(folder: &Path, trace_id: &str) -> String {
    let mut found = None;
    let members = vec![MemberFilter::equal("trace_id", trace_id)];
    let filter = LineFilter { members, ..LineFilter::default() };
    search(folder, &filter, SearchMethod::Indexed, |line| {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        found = line.get("id").unwrap().as_str().map(str::to_owned);
        ControlFlow::Break(())
    })
    .unwrap();
    found.unwrap()
}

async fn write(options: &Options) {
    let mut settings = AuditSettings::new(options.folder.clone());
    settings.unverified_per_second = NonZeroU32::MAX;
    settings.checkpoints = Some(CheckpointConfig {
        origin: ORIGIN.to_owned(),
        keys: vec![key_file(&options.folder)],
        every: std::time::Duration::from_secs(10),
        copies: Vec::new(),
        witnesses: Vec::new(),
        receipts: false,
    });
    let trail =
        Trail::start(&settings, OPEN_MAX, serde_json::Map::new(), Arc::new(Metrics::new()), None)
            .unwrap();
    let started = Instant::now();
    for number in 0..options.records {
        let refusal = match number % 1000 {
            0 => Refusal::HostNotOurs,
            _ => Refusal::HeadTooLarge,
        };
        for _ in 0..2 {
            record(&trail, &trace_id(number), &refusal).await;
        }
    }
    trail.finish().await;
    println!("{} records written in {:.0} s", options.records, started.elapsed().as_secs_f64());
}

async fn record(trail: &Trail, trace_id: &str, refusal: &Refusal) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("ssp-traceid", trace_id),
        ("ssp-from", "200000000359"),
        ("ssp-to", "918999198993"),
        ("ssp-interactionid", "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1"),
    ] {
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    }
    let mut entry = loop {
        match trail.open(&Method::GET, jiff::Timestamp::now()) {
            Ok(entry) => break entry,
            // There is no more room before the disk has caught up.
            Err(_) => drop(trail.flush().await),
        }
    };
    entry.set_headers(&SspHeaders::read(&headers));
    entry.refused(refusal);
}

/// Spread, so that neighbours in the journal are none in a table.
fn trace_id(number: u64) -> String {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:08x}-{:04x}-4000-8000-{number:012x}", spread >> 32, spread & 0xffff)
}

fn size(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata());
    let bytes: u64 = entries.map(|metadata| metadata.unwrap().len()).sum();
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// Runs the program; says how many lines it printed, how long it took and the most memory it had.
fn ask(what: &str, arguments: &[&str]) {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .arg("audit")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let watch = std::thread::spawn(move || {
        let mut most = 0;
        while let Some(kib) = peak_kib(&status) {
            most = kib.max(most);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        most
    });
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().count();
    child.wait().unwrap();
    let (took, kib) = (started.elapsed().as_secs_f64(), watch.join().unwrap());
    println!("| {what} | {lines} | {took:.2} | {} |", kib / 1024);
}

fn peak_kib(status: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(status).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
