//! The program under valgrind, which counts the instructions that it executes.
//!
//! Unlike time, instructions do not depend on the machine's load: the cost of a request can be compared with
//! that of another request, or of the same request at another commit.

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

use super::process::{GatewayProcess, serve_with_log_level};
use super::raw_connection::RawConnection;
use super::request::{Answer, TestRequest, read_answer};
use super::test_bed::TestBed;

/// The program under callgrind, with a consumer's connection to it.
pub struct InstructionCounter {
    served: GatewayProcess,
    counts: PathBuf,
    /// Number of counts that callgrind has written so far.
    dumps: usize,
    connection: Option<RawConnection<TlsStream<TcpStream>>>,
}

/// Returns whether valgrind is installed.
pub fn is_installed() -> bool {
    let mut valgrind = Command::new("valgrind");
    let ran = valgrind.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

impl InstructionCounter {
    /// Starts the program over the test bed's files.
    pub fn start(bed: &TestBed) -> Self {
        Self::start_program(&crate::program(), bed)
    }

    /// Starts another build of the program over the test bed's files.
    pub fn start_program(program: &Path, bed: &TestBed) -> Self {
        let counts = bed.path("instructions");
        let mut command = Command::new("valgrind");
        command
            .args(["--quiet", "--tool=callgrind"])
            .arg(format!("--callgrind-out-file={}", counts.display()))
            .arg(format!("--vgdb-prefix={}", bed.path("vgdb").display()))
            .arg(program);
        let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
        let served = serve_with_log_level(command, bed, &text, "info");
        Self { served, counts, dumps: 0, connection: None }
    }

    /// Sends a request `rounds` times and returns the smallest count, as the others include background work of
    /// the program.
    pub async fn smallest_count(
        &mut self,
        bed: &TestBed,
        call: &TestRequest,
        rounds: usize,
    ) -> u64 {
        let mut least = u64::MAX;
        for _ in 0..rounds {
            self.control("zero");
            least = least.min(self.count(bed, &call.bytes()).await.0);
        }
        least
    }

    /// Sends a request and returns the instructions from the last count to the last byte of the answer,
    /// background work of the program included.
    pub async fn count(&mut self, bed: &TestBed, request: &[u8]) -> (u64, Answer) {
        let mut wire = match self.connection.take() {
            Some(wire) => wire,
            None => {
                let mut wire = self.connect(bed).await;
                // The first request of a connection costs more.
                send(&mut wire, &TestRequest::slots().bytes()).await;
                self.dump();
                wire
            }
        };
        let answer = send(&mut wire, request).await;
        if answer.header("connection") != Some("close") {
            self.connection = Some(wire);
        }
        (self.dump(), answer)
    }

    /// Sends a request over HTTP/2 on a new connection and returns its instructions and its status.
    pub async fn count_http2(&mut self, bed: &TestBed, call: &TestRequest) -> (u64, u16) {
        let stream = self.dial(bed, b"h2").await;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut status = 0;
        for call in [&TestRequest::slots(), call] {
            self.control("zero");
            let response = sender.send_request(call.request()).await.unwrap();
            status = response.status().as_u16();
            response.into_body().collect().await.unwrap();
        }
        (self.dump(), status)
    }

    async fn connect(&self, bed: &TestBed) -> RawConnection<TlsStream<TcpStream>> {
        RawConnection::new(self.dial(bed, b"http/1.1").await)
    }

    async fn dial(&self, bed: &TestBed, protocol: &[u8]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.served.address).await.unwrap();
        let connector = TlsConnector::from(bed.consumer_tls("hub", protocol));
        let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
        connector.connect(name, stream).await.unwrap()
    }

    fn control(&self, command: &str) {
        let prefix = self.counts.with_file_name("vgdb");
        let status = Command::new("vgdb")
            .arg(format!("--vgdb-prefix={}", prefix.display()))
            .args([&format!("--pid={}", self.served.child.id()), "--max-invoke-ms=1", command])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "vgdb failed");
    }

    /// Returns the last count as callgrind wrote it, by function.
    pub fn last_dump(&self) -> String {
        let counts = format!("{}.{}", self.counts.display(), self.dumps);
        std::fs::read_to_string(counts).unwrap()
    }

    /// Makes callgrind write its count and begin a new one; returns the instructions.
    fn dump(&mut self) -> u64 {
        self.control("dump");
        self.dumps += 1;
        let counts = self.last_dump();
        let total = counts.lines().find_map(|line| line.strip_prefix("summary: ")).unwrap();
        total.trim().parse().unwrap()
    }
}

async fn send(wire: &mut RawConnection<TlsStream<TcpStream>>, request: &[u8]) -> Answer {
    // The gateway may answer and close before the whole request is written.
    drop(wire.stream.write_all(request).await);
    drop(wire.stream.flush().await);
    read_answer(wire).await.expect("an answer")
}
