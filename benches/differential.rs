//! The hostile catalogue through this proxy, nginx and `HAProxy`: the same bytes, in front of one
//! provider that remembers what reached it.
//!
//! `cargo bench --bench differential`. All on loopback; nginx and `HAProxy` are used if they are
//! installed. Ends with 1 if this proxy forwarded what it must not, or not what it must.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints what it saw, and says by panicking that it cannot go on"
)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

#[path = "../tests/hostile/http1.rs"]
mod http1;
#[path = "differential/proxies.rs"]
mod proxies;
#[path = "differential/report.rs"]
mod report;
#[expect(dead_code, reason = "shared with the tests and the other benches")]
mod support;

use http1::{Row, Then};
use proxies::Proxy;
use report::{Heard, Outcome, Played};
use testkit::TestBed;
use testkit::raw_connection::RawConnection;
use testkit::request::{Answer, read_answer};

/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two looks at a provider that may still be reading.
const LOOK: Duration = Duration::from_millis(40);
/// Limit: such looks.
const LOOKS_MAX: usize = 10;

#[tokio::main]
async fn main() -> ExitCode {
    let bed = TestBed::new().await;
    let proxies = proxies::all(&bed).await;
    let mut played = Vec::new();
    for row in http1::rows().into_iter().chain(http1::legitimate()) {
        let mut outcomes = Vec::new();
        for proxy in &proxies {
            outcomes.push(play(&bed, proxy, &row).await);
        }
        played.push(Played { id: row.id, what: row.what, then: row.then, outcomes });
    }
    report::table(&proxies, &played);
    report::totals(&proxies, &played);
    report::compact(&proxies, &played);
    match report::broken_promises(&played) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// One input on a connection of its own.
async fn play(bed: &TestBed, proxy: &Proxy, row: &Row) -> Outcome {
    let asked = bed.provider.received().len();
    let heard = hears(bed, proxy.address, row).await;
    let mut whole = 0;
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(LOOK).await;
        let now = bed.provider.received().split_off(asked);
        let now = now.iter().filter(|request| request.complete).count();
        if std::mem::replace(&mut whole, now) == now {
            break;
        }
    }
    Outcome { whole, heard }
}

async fn hears(bed: &TestBed, address: SocketAddr, row: &Row) -> Heard {
    let stream = TcpStream::connect(address).await.expect("it accepts");
    let connector = TlsConnector::from(bed.consumer_tls("hub", b"http/1.1"));
    let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
    let stream = connector.connect(name, stream).await.expect("it shakes hands");
    let (reader, mut writer) = tokio::io::split(stream);
    let mut wire = RawConnection::new(reader);
    // An answer may come, and the connection end, before all is written.
    let writing = async {
        drop(writer.write_all(&row.bytes).await);
        drop(writer.flush().await);
        std::future::pending::<()>().await;
    };
    let hearing = async {
        let count = if let Then::Passes(count) = row.then { count } else { 1 };
        for _ in 0..count {
            match answer(&mut wire).await {
                Some(answer) if answer.status == 200 => {}
                Some(answer) => return Heard::Status(answer.status),
                None => return Heard::Closed,
            }
        }
        Heard::Status(200)
    };
    let both = async {
        tokio::select! {
            heard = hearing => heard,
            () = writing => Heard::Nothing,
        }
    };
    timeout(ANSWER, both).await.unwrap_or(Heard::Nothing)
}

/// The next answer that is final.
async fn answer<S: tokio::io::AsyncRead + Unpin>(wire: &mut RawConnection<S>) -> Option<Answer> {
    loop {
        let answer = read_answer(wire).await?;
        if answer.status >= 200 {
            return Some(answer);
        }
    }
}
