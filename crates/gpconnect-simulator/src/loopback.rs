//! Shared support for network tests: a simulator on loopback, and a client that reads byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::stage::{ASID, BASE, claims, now, practices, token_of};
use super::{ServeOptions, SimulatedProvider};

/// Maximum wait for bytes or the end of a connection, long enough for a busy machine.
const RECEIVE_DEADLINE: Duration = Duration::from_secs(30);
/// Time for which a connection must stay silent to count as silent.
const SILENCE: Duration = Duration::from_millis(50);

/// A simulator that serves on loopback.
pub(super) struct LoopbackSimulator {
    pub(super) provider: Arc<SimulatedProvider>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl LoopbackSimulator {
    pub(super) async fn open(options: ServeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = Arc::new(SimulatedProvider::new(practices(), now()));
        provider.clock.set(Some(now()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(Arc::clone(&provider).serve(listener, options, async {
            drop(stopped.await);
        }));
        Self { provider, address, stop, serving }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `text` on a new connection and returns everything received until the connection ends.
    pub(super) async fn send(&self, text: &str) -> String {
        send_and_receive(&mut self.connect().await, text).await
    }

    /// Stops the simulator, which stalled responses must not delay.
    pub(super) async fn close(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(RECEIVE_DEADLINE, self.serving).await.unwrap().unwrap();
    }
}

/// Sends `text` and returns everything received until the connection ends.
pub(super) async fn send_and_receive(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    text: &str,
) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    tokio::time::timeout(RECEIVE_DEADLINE, stream.read_to_end(&mut received))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&received).into_owned()
}

/// Reads up to and including `end`.
pub(super) async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut received = String::new();
    while !received.ends_with(end) {
        let byte = tokio::time::timeout(RECEIVE_DEADLINE, stream.read_u8()).await.unwrap().unwrap();
        received.push(char::from(byte));
    }
    received
}

/// Returns true if nothing arrives and the connection does not end.
pub(super) async fn stays_silent(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    tokio::time::timeout(SILENCE, stream.read_u8()).await.is_err()
}

/// Returns a request for the first practice, with additional header lines.
///
/// It has `Connection: close` unless those lines have a `Connection` header.
pub(super) fn get(path: &str, more: &str) -> String {
    let close = if more.contains("Connection: ") { "" } else { "Connection: close\r\n" };
    format!("GET {BASE}{path} HTTP/1.1\r\n{}{close}{more}\r\n", headers("read:metadata-1"))
}

/// Returns a booking request with this body, on a connection that stays open.
pub(super) fn post(body: &str, more: &str) -> String {
    let length = body.len();
    format!(
        "POST {BASE}/Appointment HTTP/1.1\r\n{}Content-Type: application/fhir+json\r\nContent-Length: {length}\r\n{more}\r\n{body}",
        headers("create:appointment-1")
    )
}

fn headers(short: &str) -> String {
    let id = format!("urn:nhs:names:services:gpconnect:fhir:rest:{short}");
    let token = token_of(&claims(&id));
    format!(
        "Host: localhost\r\nSsp-TraceID: t\r\nSsp-From: 200000000359\r\nSsp-To: {ASID}\r\n\
         Ssp-InteractionID: {id}\r\n\
         Authorization: Bearer {token}\r\n"
    )
}

/// Returns the body of a response as JSON.
pub(super) fn body_of(response: &str) -> Value {
    serde_json::from_str(response.split_once("\r\n\r\n").unwrap().1).unwrap()
}
