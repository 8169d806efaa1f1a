//! Bodies pass through; they do not stay. Measured on the program itself, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::provider::answer;
use crate::support::wire::Wire;
use crate::support::{Act, Call, Stage};

const BODY: usize = 150 << 20;
const GROWTH_MAX_KIB: u64 = 32 << 10;

/// The program, ended with the test.
struct Program {
    child: Child,
    address: std::net::SocketAddr,
}

impl Program {
    /// Serves the stage's files beside the stage's own gateway.
    fn start(stage: &Stage) -> Self {
        let config = stage.text("spine-proxy.toml").replace("audit.jsonl", "program.jsonl");
        std::fs::write(stage.path("program.toml"), config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
            .args(["serve", "--config"])
            .arg(stage.path("program.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("\"message\":\"listening\"")).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = line["address"].as_str().unwrap().parse().unwrap();
        // Somebody must read the rest, or the program would wait for room to write.
        std::thread::spawn(move || lines.count());
        Self { child, address }
    }

    /// The most memory it has had so far.
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    async fn connect(&self, stage: &Stage) -> Wire<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(stage.consumer_tls("hub", b"http/1.1"));
        let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
        Wire::new(connector.connect(name, stream).await.unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_passes_in_little_memory_either_way() {
    let stage = Stage::new().await;
    let program = Program::start(&stage);
    let mut wire = program.connect(&stage).await;
    wire.stream.write_all(&Call::slots().bytes()).await.unwrap();
    let mut first = wire.head().await.unwrap();
    wire.body(&mut first, false).await;
    assert!(first.start.contains(" 200 "), "{first:?}");
    let before = program.peak_kib();

    let length = BODY.to_string();
    stage.provider.does(Act::Pour(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into(),
        BODY,
    ));
    wire.stream.write_all(&Call::slots().bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    assert_eq!(wire.drain(BODY).await, BODY);
    let down = program.peak_kib() - before;

    stage.provider.does(Act::Swallow(BODY, answer("201 Created", "", "{}")));
    let head = Call::book().unframed().body(b"").with("Content-Length", &length).bytes();
    wire.stream.write_all(&head).await.unwrap();
    let block = vec![b' '; 1 << 20];
    for _ in 0..BODY / block.len() {
        wire.stream.write_all(&block).await.unwrap();
    }
    wire.stream.flush().await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 201 "));
    let both = program.peak_kib() - before;
    assert!(both < GROWTH_MAX_KIB, "grew by {down} KiB, then {both} KiB, from {before} KiB");
}
