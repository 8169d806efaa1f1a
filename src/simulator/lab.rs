//! What tests of the simulator on the network have in common: a listener on loopback, and a client
//! that reads what comes, byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::stage::{ASID, BASE, claims, now, practices, token_of};
use super::{Serving, SimulatedProvider};

/// How long the end of a connection is waited for, however busy the machine is.
const EVER: Duration = Duration::from_secs(30);
/// How long it is watched that nothing comes.
const WHILE: Duration = Duration::from_millis(50);

pub(super) struct Lab {
    pub(super) provider: Arc<SimulatedProvider>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Lab {
    pub(super) async fn open(serving: Serving) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = Arc::new(SimulatedProvider::new(practices(), now()));
        provider.clock.set(Some(now()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(Arc::clone(&provider).serve(listener, serving, async {
            drop(stopped.await);
        }));
        Self { provider, address, stop, serving }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Everything that is answered until the connection ends.
    pub(super) async fn say(&self, text: &str) -> String {
        heard(&mut self.connect().await, text).await
    }

    /// Stops the simulator; what is stalled does not keep it.
    pub(super) async fn close(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(EVER, self.serving).await.unwrap().unwrap();
    }
}

/// Everything that is answered to `text` until the connection ends.
pub(super) async fn heard(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    text: &str,
) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    tokio::time::timeout(EVER, stream.read_to_end(&mut told)).await.unwrap().unwrap();
    String::from_utf8_lossy(&told).into_owned()
}

/// What comes before `end`, and that with it.
pub(super) async fn heard_to(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut told = String::new();
    while !told.ends_with(end) {
        let byte = tokio::time::timeout(EVER, stream.read_u8()).await.unwrap().unwrap();
        told.push(char::from(byte));
    }
    told
}

/// Nothing comes, and the connection does not end.
pub(super) async fn silent(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    tokio::time::timeout(WHILE, stream.read_u8()).await.is_err()
}

/// A question for what the first practice can do, with these header lines besides; it closes the
/// connection if they say nothing of that.
pub(super) fn get(path: &str, more: &str) -> String {
    let close = if more.contains("Connection: ") { "" } else { "Connection: close\r\n" };
    format!("GET {BASE}{path} HTTP/1.1\r\n{}{close}{more}\r\n", headers("read:metadata-1"))
}

/// A call with a body, on a connection that stays.
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

/// The body of an answer, as JSON.
pub(super) fn body_of(told: &str) -> Value {
    serde_json::from_str(told.split_once("\r\n\r\n").unwrap().1).unwrap()
}
