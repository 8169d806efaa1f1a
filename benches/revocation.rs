//! How long a new revocation list takes to be felt: from its file's rename to the refusal of a request
//! on a connection that was there before; what thousands of lists cost at rest; and what a handshake
//! costs whoever presents how many certificates.
//!
//! `cargo bench --bench revocation`. Ends with 1 if a list ever takes a second.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
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

use support::program::Program;
use testkit::authority::{CrlSpec, TestAuthority};
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;
use testkit::{TestBed, TestRequest};

const ROUNDS: usize = 10;
const LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut took = runtime.block_on(async {
        let bed = TestBed::new().await;
        let program = Program::start(&bed, |text| text);
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            took.push(round(&bed, &program).await);
        }
        took
    });
    runtime.block_on(costs());
    took.sort();
    let [least, median, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| took[at].as_millis());
    println!(
        "From a new list to the refusal, {ROUNDS} rounds: {least} ms at least, {median} ms in the middle, {most} ms at most."
    );
    if took[ROUNDS - 1] < LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Lists in the folder: as many parts as the largest published number has.
const LISTS: u64 = 4519;
const HANDSHAKES: u32 = 300;

/// Prints the processor time at rest with a folder of lists, and of handshakes.
async fn costs() {
    let root = TestAuthority::root("Parted root");
    let mut bed = TestBed::with(|files| files.edit("ca.pem", |own| own + &root.pem())).await;
    let folder = bed.path("lists");
    std::fs::create_dir(&folder).unwrap();
    for number in 1..=LISTS {
        let point = format!("http://crl.example.nhs.uk/crlc{number}.crl");
        let list =
            root.revocation_list(CrlSpec::number(1).revoking(&[number, number + 1]).point(&point));
        std::fs::write(folder.join(format!("crlc{number}.pem")), list).unwrap();
    }
    let started = Instant::now();
    let program = Program::start(&bed, |text| {
        text.replace("crl = [\"crl.pem\"]", "crl = [\"crl.pem\", \"lists\"]")
    });
    println!("A start with {LISTS} lists on two legs takes {} ms.", started.elapsed().as_millis());
    tokio::time::sleep(LIMIT).await;
    let (before, at) = (program.cpu(), Instant::now());
    tokio::time::sleep(10 * LIMIT).await;
    let share = 100.0 * (program.cpu() - before).as_secs_f64() / at.elapsed().as_secs_f64();
    println!("At rest they take {share:.2} % of a core.");
    for (name, authorities) in [("7 made-up", 7), ("120 made-up", 120)] {
        let mut forger = TestAuthority::root("Made-up authority 0");
        for number in 1..authorities {
            forger = forger.intermediate(&format!("Made-up authority {number}"), None);
        }
        bed.issued.insert(name, forger.issue("hub.example.nhs.uk"));
    }
    for certificate in ["none", "hub", "7 made-up", "120 made-up"] {
        let before = program.cpu();
        for _ in 0..HANDSHAKES {
            let mut tls = (*bed.consumer_tls(certificate, b"http/1.1")).clone();
            tls.resumption = rustls::client::Resumption::disabled();
            let connector = TlsConnector::from(std::sync::Arc::new(tls));
            let stream = TcpStream::connect(program.address()).await.unwrap();
            let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
            let mut wire = RawConnection::new(connector.connect(name, stream).await.unwrap());
            wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
            read_answer(&mut wire).await.expect("an answer");
        }
        let each = (program.cpu() - before) / HANDSHAKES;
        println!(
            "A handshake and a request with certificate {certificate}: {} us.",
            each.as_micros()
        );
    }
}

/// Takes a consumer's certificate back while it asks on one connection, and gives it again.
async fn round(bed: &TestBed, program: &Program) -> Duration {
    let list = |revoked: &[u64]| bed.pki.revocation_lists(revoked, 30).unwrap();
    bed.replace("crl.pem", &list(&[]));
    let call = TestRequest::slots();
    let mut wire = loop {
        let mut wire = connect(bed, program).await;
        if ask(&mut wire, &call).await == 200 {
            break wire;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // What was there before has settled.
    tokio::time::sleep(LIMIT).await;
    let began = Instant::now();
    bed.replace("crl.pem", &list(&[bed.issued["hub"].serial]));
    while ask(&mut wire, &call).await == 200 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

async fn connect(
    bed: &TestBed,
    program: &Program,
) -> RawConnection<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(program.address()).await.unwrap();
    let connector = TlsConnector::from(bed.consumer_tls("hub", b"http/1.1"));
    let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
    RawConnection::new(connector.connect(name, stream).await.unwrap())
}

async fn ask(
    wire: &mut RawConnection<tokio_rustls::client::TlsStream<TcpStream>>,
    call: &TestRequest,
) -> u16 {
    wire.stream.write_all(&call.bytes()).await.unwrap();
    read_answer(wire).await.expect("an answer").status
}
