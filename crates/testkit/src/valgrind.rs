//! The real program under valgrind, which counts the instructions that it executes.
//!
//! Instructions do not depend on the machine's load, as time does: what a request costs can be compared
//! with what another costs, and with what the same request cost at another commit.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::call::{Answer, Call, hear};
use super::process::{Served, serve_at};
use super::stage::Stage;
use super::wire::Wire;

/// The program, its instructions counted, and a consumer's connection to it.
pub struct Counted {
    served: Served,
    counts: PathBuf,
    /// Counts written so far.
    written: usize,
    connection: Option<Wire<TlsStream<TcpStream>>>,
}

/// Whether valgrind is installed.
pub fn is_installed() -> bool {
    let mut valgrind = Command::new("valgrind");
    let ran = valgrind.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

impl Counted {
    /// Starts the program over the stage's files.
    pub fn start(stage: &Stage) -> Self {
        Self::start_program(&crate::program(), stage)
    }

    /// Starts this program, of another commit perhaps, over the stage's files.
    pub fn start_program(program: &Path, stage: &Stage) -> Self {
        let counts = stage.path("instructions");
        let mut command = Command::new("valgrind");
        command
            .args(["--quiet", "--tool=callgrind"])
            .arg(format!("--callgrind-out-file={}", counts.display()))
            .arg(format!("--vgdb-prefix={}", stage.path("vgdb").display()))
            .arg(program);
        let text = stage.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
        let served = serve_at(command, stage, &text, "info");
        Self { served, counts, written: 0, connection: None }
    }

    /// Sends a request so often, and returns the least of its counts: what the program does by itself is in
    /// the others.
    pub async fn least(&mut self, stage: &Stage, call: &Call, rounds: usize) -> u64 {
        let mut least = u64::MAX;
        for _ in 0..rounds {
            self.order("zero");
            least = least.min(self.count(stage, &call.bytes()).await.0);
        }
        least
    }

    /// Sends a request and returns the instructions up to the last byte of its answer, since the last
    /// count: what the program does by itself in between is among them.
    pub async fn count(&mut self, stage: &Stage, request: &[u8]) -> (u64, Answer) {
        let mut wire = match self.connection.take() {
            Some(wire) => wire,
            None => {
                let mut wire = self.connect(stage).await;
                // The first request of a connection costs more.
                ask(&mut wire, &Call::slots().bytes()).await;
                self.written();
                wire
            }
        };
        let answer = ask(&mut wire, request).await;
        if answer.header("connection") != Some("close") {
            self.connection = Some(wire);
        }
        (self.written(), answer)
    }

    /// Sends a request over HTTP/2, on a connection of its own, and returns as much.
    pub async fn count_http2(&mut self, stage: &Stage, call: &Call) -> (u64, u16) {
        let stream = self.dial(stage, b"h2").await;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut status = 0;
        for call in [&Call::slots(), call] {
            self.order("zero");
            let response = sender.send_request(call.request()).await.unwrap();
            status = response.status().as_u16();
            response.into_body().collect().await.unwrap();
        }
        (self.written(), status)
    }

    async fn connect(&self, stage: &Stage) -> Wire<TlsStream<TcpStream>> {
        Wire::new(self.dial(stage, b"http/1.1").await)
    }

    async fn dial(&self, stage: &Stage, protocol: &[u8]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.served.1).await.unwrap();
        let connector = TlsConnector::from(stage.consumer_tls("hub", protocol));
        let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
        connector.connect(name, stream).await.unwrap()
    }

    fn order(&self, order: &str) {
        let prefix = self.counts.with_file_name("vgdb");
        let ordered = Command::new("vgdb")
            .arg(format!("--vgdb-prefix={}", prefix.display()))
            .args([&format!("--pid={}", self.served.0.id()), "--max-invoke-ms=1", order])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(ordered.unwrap().success(), "valgrind does not take orders");
    }

    /// The last count as callgrind writes it: by function.
    pub fn last(&self) -> String {
        let counts = format!("{}.{}", self.counts.display(), self.written);
        std::fs::read_to_string(counts).unwrap()
    }

    /// Has the count written, which begins it anew.
    fn written(&mut self) -> u64 {
        self.order("dump");
        self.written += 1;
        let counts = self.last();
        let total = counts.lines().find_map(|line| line.strip_prefix("summary: ")).unwrap();
        total.trim().parse().unwrap()
    }
}

async fn ask(wire: &mut Wire<TlsStream<TcpStream>>, request: &[u8]) -> Answer {
    // An answer may come, and the connection end, before all is written.
    drop(wire.stream.write_all(request).await);
    drop(wire.stream.flush().await);
    hear(wire).await.expect("an answer")
}
