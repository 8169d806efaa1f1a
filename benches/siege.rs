//! A well-behaved consumer while others attack: what it notices.
//!
//! `cargo bench --bench siege`, `-- --seconds 10 --only resets`. All on loopback. The attackers are
//! a process of their own with the lowest priority, so that they show what the proxy gives away and
//! not who wins the machine's cores; they come from 127.0.0.2 and on. Ends with 1 if the consumer
//! was refused something or waited in vain; with `--strict` also if it had to wait more than twice
//! as long as it does in peace.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};

#[path = "siege/attack.rs"]
mod attack;
#[path = "siege/consumer.rs"]
mod consumer;
#[path = "siege/report.rs"]
mod report;
#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use attack::{Attack, Orders};
use consumer::Consumer;
use report::Siege;
use support::program::Program;
use testkit::TestBed;
use testkit::authority::TestAuthority;
use testkit::provider::{ProviderAction, answer};
use testkit::test_bed::CLINIC;

/// A consumer under siege.
#[derive(Debug, Parser)]
struct Options {
    /// How long each phase is measured: in peace, then under attack.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Requests a second of the well-behaved consumer.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Loopback addresses the attackers come from.
    #[arg(long, default_value_t = 5)]
    addresses: u8,
    /// These attacks alone.
    #[arg(long, value_enum)]
    only: Vec<Attack>,
    /// Fail on a median or a ninetieth percentile more than twice that of peace.
    #[arg(long)]
    strict: bool,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
    /// This process attacks.
    #[arg(long, value_enum, hide = true)]
    attack: Option<Attack>,
    #[arg(long, hide = true)]
    at: Option<SocketAddr>,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

/// Before an attack is measured, it has so long to unfold.
const UNFOLDS: Duration = Duration::from_secs(3);
/// After an attack, the proxy has so many times [`LOOK`] to be rid of it.
const LOOKS_MAX: usize = 150;
const LOOK: Duration = Duration::from_millis(100);
/// Connections of the well-behaved consumer, and one of an operator who looks.
const OWN_CONNECTIONS: u64 = 13;
/// Requests a second of the other consumer.
const QUOTA: u32 = 100;
/// Descriptors that the largest attack takes in one process.
const DESCRIPTORS_MIN: u64 = 8_000;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let (Some(attack), Some(at), Some(folder)) = (options.attack, options.at, &options.folder) {
        let Options { addresses, seconds, .. } = options;
        let folder = folder.clone();
        attack::run(Orders { attack, at, folder, addresses, seconds_max: seconds }).await;
        return ExitCode::SUCCESS;
    }
    if descriptors_max() < DESCRIPTORS_MIN {
        println!(
            "**At least {DESCRIPTORS_MIN} descriptors are needed: run `ulimit -n 20000` first.**"
        );
        return ExitCode::FAILURE;
    }
    let bed = Arc::new(bed().await);
    let program = Program::start(&bed, |text| text.replace("workers = 1\n", ""));
    let mut consumer = Consumer::new(&bed, program.address());
    // Connections, sessions and caches are there before the first figure.
    consumer.measure(options.rate, Duration::from_secs(2)).await;
    report::head(&options);
    let every = || Attack::value_variants().to_vec();
    let attacks = if options.only.is_empty() { every() } else { options.only.clone() };
    let mut sieges = Vec::new();
    for attack in attacks {
        let siege = besiege(&options, &bed, &program, &mut consumer, attack).await;
        siege.print();
        sieges.push(siege);
    }
    report::verdict(&sieges, &options)
}

/// Where one of the practices gives much to whoever asks for it, and another consumer is registered
/// for all that the first is.
async fn bed() -> TestBed {
    let bed = TestBed::with(|files| {
        files.edit("directory.toml", |text| {
            let slots = "[\"urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1\"]";
            assert!(text.contains(slots));
            let text = text.replacen(slots, "[\"appointments\", \"foundations\"]", 1);
            let agreement = "from = [\"200000000359\"]";
            text.replace(agreement, &format!("from = [\"200000000359\", \"{CLINIC}\"]"))
        });
        files.add(&format!("[throttle.consumers.\"{CLINIC}\"]\nper-second = {QUOTA}"));
    })
    .await;
    for (name, authorities) in [("forged", 7), ("forged-long", 120)] {
        let mut forger = TestAuthority::root("Made-up authority 0");
        for number in 1..authorities {
            forger = forger.intermediate(&format!("Made-up authority {number}"), None);
        }
        let issued = forger.issue("hub.example.nhs.uk");
        bed.replace(&format!("{name}.pem"), &issued.chain);
        bed.replace(&format!("{name}.key"), &issued.key);
    }
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(2_000));
    let usual = answer("200 OK", "Content-Type: application/fhir+json\r\n", &body);
    bed.provider.set_script(move |request| {
        if request.start.contains("pour=1") {
            ProviderAction::Pour(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n".to_vec(),
                4_000_000,
            )
        } else if request.start.contains("hang=1") {
            ProviderAction::Silence
        } else {
            ProviderAction::Write(usual.clone())
        }
    });
    bed
}

async fn besiege(
    options: &Options,
    bed: &TestBed,
    program: &Program,
    consumer: &mut Consumer,
    attack: Attack,
) -> Siege {
    let period = Duration::from_secs(options.seconds);
    let quiet = consumer.measure(options.rate, period).await;
    let before = program.metrics().await;
    let mut attackers = attackers(options, bed, program.address(), attack);
    tokio::time::sleep(UNFOLDS).await;
    let held = program.metrics().await.sum("connections", "");
    let under = consumer.measure(options.rate, period).await;
    let after = program.metrics().await;
    drop(attackers.stdin.take());
    let said = tokio::task::spawn_blocking(move || attackers.wait_with_output());
    let said = said.await.unwrap().map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    for _ in 0..LOOKS_MAX {
        if program.metrics().await.sum("connections", "") <= OWN_CONNECTIONS {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    Siege { attack, said, held, counted: report::counted(&before, &after), quiet, under }
}

/// This program again, with the lowest priority. It ends with its standard input, or soon by itself.
fn attackers(options: &Options, bed: &TestBed, at: SocketAddr, attack: Attack) -> Child {
    let seconds = UNFOLDS.as_secs() + options.seconds + 20;
    let name = attack.to_possible_value().unwrap();
    std::process::Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe().unwrap())
        .args(["--attack", name.get_name(), "--at", &at.to_string()])
        .args(["--addresses", &options.addresses.to_string(), "--seconds", &seconds.to_string()])
        .arg("--folder")
        .arg(bed.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nice starts")
}

fn descriptors_max() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(u64::MAX)
}
