//! The program under load and disturbance for as long as one likes, and what is left of it.
//!
//! `cargo bench --bench soak -- --minutes 10`. All on loopback. Searches and bookings over HTTP/1.1
//! and HTTP/2, a tenth of them given up by their consumer; a provider of whose answers a tenth are
//! slow, short, reset or none; an SDS that is gone for eight seconds of every forty; a reload every
//! ten seconds; new certificates every minute. Ends with 1 if a promise was broken.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use tokio::time::{Instant, sleep, sleep_until};

#[path = "soak/disturbance.rs"]
mod disturbance;
#[path = "soak/journal.rs"]
mod journal;
#[path = "soak/load.rs"]
mod load;
#[path = "soak/samples.rs"]
mod samples;
#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use disturbance::Done;
use journal::Journal;
use load::Load;
use samples::{Memory, Sample};
use support::program::{JOURNAL, Program};
use testkit::test_bed::roots;
use testkit::{TestBed, TestRequest};

/// A soak.
#[derive(Debug, Parser)]
struct Options {
    /// How long it takes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    minutes: u64,
    /// Requests a second.
    #[arg(long, default_value_t = 250)]
    rate: u32,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Between two lines of the table; less in a short soak.
const SAMPLE_S: u64 = 30;
/// After the load, the program has so many seconds to be calm.
const CALM_S: u64 = 45;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let registry = disturbance::registry().await;
    let bed = Arc::new(registry.test_bed().await);
    bed.provider.set_script(disturbance::script());
    let program = Arc::new(program(&bed));
    let mut journal = Journal::new(&bed.path(JOURNAL));
    let base = base(&bed, &program, &mut journal).await;
    let tls = Mutex::new(disturbance::consumer_tls(&roots(&bed.pki), &bed.issued["hub"]));
    let load = Arc::new(Load { address: program.address(), tls, heard: Mutex::default() });
    let (seconds, done) = (options.minutes * 60, Arc::new(Done::default()));
    let end = Instant::now() + Duration::from_secs(seconds);
    println!("{} minutes of {} requests a second.\n", options.minutes, options.rate);
    Sample::head();
    base.print();
    let parts = (Arc::clone(&bed), Arc::clone(&program), Arc::clone(&load));
    let disturbing = tokio::spawn(disturbance::disturbs(parts, registry, Arc::clone(&done), end));
    let loading = tokio::spawn(Arc::clone(&load).runs(options.rate, end));
    let memory = samples(&program, &mut journal, seconds).await;
    loading.await.unwrap();
    let registry = disturbing.await.unwrap();
    let last = calm(&program, &mut journal, &base, seconds).await;
    drop(registry);
    said(&program, &load, &done).await;
    samples::verdict(&memory, &journal, (&base, &last))
}

fn program(bed: &TestBed) -> Program {
    let both = bed.text("server.pem") + &bed.text("server.key");
    bed.replace(disturbance::SERVER, &both);
    let server = format!("chain = \"{0}\", key = \"{0}\"", disturbance::SERVER);
    Program::start(bed, |text| {
        let text = text.replace("workers = 1\n", "");
        // The table of a segment's ids grows with it, 5 MiB in ten minutes: a few segments, so that what
        // else grows is seen.
        let text = text.replace("[audit]\n", "[audit]\nsegment-size = \"16 MiB\"\n");
        text.replace("chain = \"server.pem\", key = \"server.key\"", &server)
    })
}

/// What it has open once it has served a request and its consumer is gone.
async fn base(bed: &TestBed, program: &Program, journal: &mut Journal) -> Sample {
    let answer = TestRequest::slots().send_to(bed, program.address()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for _ in 0..CALM_S {
        sleep(Duration::from_secs(1)).await;
        let sample = Sample::of(program, journal, 0).await;
        if sample.is_calm(sample.descriptors) {
            return sample;
        }
    }
    panic!("one request, and it does not come to rest");
}

async fn samples(program: &Program, journal: &mut Journal, seconds: u64) -> Memory {
    let (begin, mut memory) = (Instant::now(), Memory::default());
    let every = SAMPLE_S.min(seconds / 6);
    for second in 1..=seconds {
        sleep_until(begin + Duration::from_secs(second)).await;
        memory.push(program.resident_kib());
        if second % every == 0 {
            Sample::of(program, journal, second).await.print();
        }
    }
    memory
}

/// The last sample: as soon as all is calm, or when that has been waited for long enough.
async fn calm(program: &Program, journal: &mut Journal, base: &Sample, seconds: u64) -> Sample {
    let mut sample = Sample::of(program, journal, seconds).await;
    for second in 1..=CALM_S {
        if sample.is_calm(base.descriptors) {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        sample = Sample::of(program, journal, seconds + second).await;
    }
    sample.print();
    sample
}

/// What was done, what the consumers heard, what the log said.
async fn said(program: &Program, load: &Load, done: &Done) {
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let reloads = program.metrics().await.every("reloads_total");
    println!(
        "\n{} signals to reload, {} new certificates for each side, {} outages of the SDS; reloads {reloads:?}.",
        count(&done.reloads),
        count(&done.certificates),
        count(&done.outages),
    );
    let list =
        |pairs: Vec<String>| if pairs.is_empty() { "nothing".to_owned() } else { pairs.join(", ") };
    let heard = load.heard.lock().unwrap();
    let heard = heard.iter().map(|(what, count)| format!("{count} {what}")).collect();
    println!("Consumers heard: {}.", list(heard));
    let log = program.log();
    let trouble = log.trouble.iter().map(|(what, count)| format!("{count} × {what}")).collect();
    println!("The log, of {} lines, complained of: {}.", log.lines, list(trouble));
}
