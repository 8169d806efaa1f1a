//! How long a new revocation list takes to be felt: from its file's rename to the refusal of a request
//! on a connection that was there before.
//!
//! `cargo bench --bench revocation`. Ends with 1 if it ever takes a second.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use support::call::hear;
use support::program::Program;
use support::wire::Wire;
use support::{Call, Stage};

const ROUNDS: usize = 10;
const LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut took = runtime.block_on(async {
        let stage = Stage::new().await;
        let program = Program::start(&stage, |text| text);
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            took.push(round(&stage, &program).await);
        }
        took
    });
    took.sort();
    let [least, median, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| took[at].as_millis());
    println!(
        "From a new list to the refusal, {ROUNDS} rounds: {least} ms at least, {median} ms in the middle, {most} ms at most."
    );
    if took[ROUNDS - 1] < LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes a consumer's certificate back while it asks on one connection, and gives it again.
async fn round(stage: &Stage, program: &Program) -> Duration {
    let list = |revoked: &[u64]| stage.pki.revocation_lists(revoked, 30).unwrap();
    stage.replace("crl.pem", &list(&[]));
    let call = Call::slots();
    let mut wire = loop {
        let mut wire = connect(stage, program).await;
        if ask(&mut wire, &call).await == 200 {
            break wire;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // What was there before has settled.
    tokio::time::sleep(LIMIT).await;
    let began = Instant::now();
    stage.replace("crl.pem", &list(&[stage.issued["hub"].serial]));
    while ask(&mut wire, &call).await == 200 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

async fn connect(
    stage: &Stage,
    program: &Program,
) -> Wire<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(program.address()).await.unwrap();
    let connector = TlsConnector::from(stage.consumer_tls("hub", b"http/1.1"));
    let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
    Wire::new(connector.connect(name, stream).await.unwrap())
}

async fn ask(wire: &mut Wire<tokio_rustls::client::TlsStream<TcpStream>>, call: &Call) -> u16 {
    wire.stream.write_all(&call.bytes()).await.unwrap();
    hear(wire).await.expect("an answer").status
}
