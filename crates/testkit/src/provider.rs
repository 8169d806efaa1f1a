//! A provider whose answers a test sets, and which keeps the requests that it received.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::raw_connection::{Message, RawConnection};

/// A request as the provider received it.
pub type Received = Message;

/// Reaction of the provider to a request.
#[derive(Debug, Clone)]
pub enum ProviderAction {
    /// Writes these bytes and keeps the connection.
    Write(Vec<u8>),
    /// Writes these bytes and closes.
    WriteAndClose(Vec<u8>),
    /// Never answers, and keeps the connection.
    Silence,
    /// Closes as soon as it has read the head.
    CloseAfterHead,
    /// Writes these bytes as soon as it has read the head, and closes.
    WriteAfterHead(Vec<u8>),
    /// Writes these bytes as soon as it has read the head, and reads on.
    WriteEarly(Vec<u8>),
    /// Reads the body once it is notified, then writes these bytes.
    ReadWhenNotified(Arc<Notify>, Vec<u8>),
    /// Closes once it has read the whole request.
    Close,
    /// Writes these bytes and ends its side of TCP, but not of TLS.
    WriteAndBreakOff(Vec<u8>),
    /// Writes these bytes and resets the connection.
    WriteAndReset(Vec<u8>),
    /// Writes these bytes and nothing more, and keeps the connection open.
    WriteAndStall(Vec<u8>),
    /// Writes these bytes again and again, without end.
    WriteForever(Vec<u8>),
    /// Writes these bytes once it is notified.
    WriteWhenNotified(Arc<Notify>, Vec<u8>),
    /// Answers with this head and then this many bytes, one at a time with a pause before each.
    Drip(Vec<u8>, usize),
    /// Answers with this head and then this many bytes, in blocks.
    Pour(Vec<u8>, usize),
    /// Reads this many bytes of body and discards them, then writes these bytes.
    DiscardBody(usize, Vec<u8>),
}

/// Pause before each byte of a body under [`ProviderAction::Drip`].
pub const DRIP: Duration = Duration::from_millis(20);

static BLOCK: [u8; 65_536] = [b'x'; 65_536];

impl ProviderAction {
    /// Answers with this status line, header lines and body.
    pub fn answer(status: &str, headers: &str, body: &str) -> Self {
        Self::Write(answer(status, headers, body))
    }

    /// Answers `200 OK` with a short JSON body.
    pub fn ok() -> Self {
        Self::answer("200 OK", "Content-Type: application/fhir+json\r\n", r#"{"ok":true}"#)
    }
}

pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into()
}

type Script = Box<dyn FnMut(&Received) -> ProviderAction + Send>;

/// A running provider.
#[derive(Clone)]
pub struct Provider {
    pub address: SocketAddr,
    state: Arc<ProviderState>,
}

struct ProviderState {
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    connections: Mutex<usize>,
    closes_after_handshake: AtomicBool,
    dialled: watch::Sender<usize>,
    seen: watch::Sender<usize>,
    ended: watch::Sender<usize>,
}

/// Maximum number of requests that are kept, as a bench sends without end.
const RECEIVED_MAX: usize = 20_000;

impl ProviderState {
    fn keep(&self, request: Received) {
        let mut received = self.received.lock().unwrap();
        if received.len() < RECEIVED_MAX {
            received.push(request);
        }
    }
}

impl Provider {
    pub async fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ProviderState {
            script: Mutex::new(Box::new(|_| ProviderAction::ok())),
            received: Mutex::default(),
            connections: Mutex::new(0),
            closes_after_handshake: AtomicBool::new(false),
            dialled: watch::Sender::new(0),
            seen: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        });
        let provider = Self { address, state };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (provider, tls) = (serving.clone(), Arc::clone(&tls));
                provider.state.dialled.send_modify(|dialled| *dialled += 1);
                tokio::spawn(async move {
                    provider.connection(stream, tls).await;
                    provider.state.ended.send_modify(|ended| *ended += 1);
                });
            }
        });
        provider
    }

    /// Sets the reaction to every request.
    pub fn set_action(&self, action: ProviderAction) {
        self.set_script(move |_| action.clone());
    }

    /// Sets a function that chooses the reaction to each request.
    pub fn set_script(&self, script: impl FnMut(&Received) -> ProviderAction + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// Returns the requests received so far, in order, those with an incomplete body included.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Number of connections that completed their handshake.
    pub fn connections(&self) -> usize {
        *self.state.connections.lock().unwrap()
    }

    /// Returns once `count` requests have been received.
    pub async fn wait_for_requests(&self, count: usize) {
        self.state.seen.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    /// Number of connections accepted, those without a complete handshake included.
    pub fn accepted_connections(&self) -> usize {
        *self.state.dialled.borrow()
    }

    /// Makes the provider close every connection after its handshake.
    pub fn close_after_handshake(&self) {
        self.state.closes_after_handshake.store(true, Ordering::Release);
    }

    /// Returns once `count` connections have ended on both sides.
    pub async fn wait_for_closed_connections(&self, count: usize) {
        self.state.ended.subscribe().wait_for(|ended| *ended >= count).await.unwrap();
    }

    async fn connection(&self, stream: TcpStream, tls: Arc<ServerConfig>) {
        // Otherwise an answer on a new connection waits for the peer's acknowledgement of the handshake.
        stream.set_nodelay(true).unwrap();
        let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
        *self.state.connections.lock().unwrap() += 1;
        if self.state.closes_after_handshake.load(Ordering::Acquire) {
            return;
        }
        let mut wire = RawConnection::new(stream);
        while let Some(mut request) = wire.head().await {
            let action = (self.state.script.lock().unwrap())(&request);
            if let ProviderAction::ReadWhenNotified(notify, _) = &action {
                notify.notified().await;
            }
            let reads_head_only = matches!(
                action,
                ProviderAction::DiscardBody(..)
                    | ProviderAction::CloseAfterHead
                    | ProviderAction::WriteAfterHead(_)
                    | ProviderAction::WriteEarly(_)
            );
            if !reads_head_only {
                wire.body(&mut request, false).await;
            }
            self.state.keep(request);
            self.state.seen.send_modify(|seen| *seen += 1);
            // Bytes that the socket did not accept yet stay in the TLS buffer until they are flushed.
            if !Self::perform(&mut wire, action).await || wire.stream.flush().await.is_err() {
                return;
            }
        }
    }

    /// Performs an action. Returns whether the connection is kept.
    async fn perform(
        wire: &mut RawConnection<TlsStream<TcpStream>>,
        action: ProviderAction,
    ) -> bool {
        match action {
            ProviderAction::Write(bytes) | ProviderAction::ReadWhenNotified(_, bytes) => {
                wire.stream.write_all(&bytes).await.is_ok()
            }
            ProviderAction::WriteAndClose(bytes) | ProviderAction::WriteAfterHead(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.shutdown().await);
                while wire.read_more().await {}
                false
            }
            ProviderAction::Silence => {
                while wire.read_more().await {}
                false
            }
            ProviderAction::CloseAfterHead | ProviderAction::Close => false,
            ProviderAction::WriteAndBreakOff(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.flush().await);
                false
            }
            ProviderAction::WriteAndReset(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.flush().await);
                let (socket, _) = wire.stream.get_ref();
                socket.set_zero_linger().unwrap();
                false
            }
            ProviderAction::WriteAndStall(bytes) | ProviderAction::WriteEarly(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.flush().await);
                while wire.read_more().await {}
                false
            }
            ProviderAction::WriteForever(bytes) => {
                while wire.stream.write_all(&bytes).await.is_ok() {}
                false
            }
            ProviderAction::WriteWhenNotified(notify, bytes) => {
                notify.notified().await;
                wire.stream.write_all(&bytes).await.is_ok()
            }
            ProviderAction::Drip(head, count) => drip(wire, &head, count).await,
            ProviderAction::Pour(head, mut left) => {
                let mut ok = wire.stream.write_all(&head).await.is_ok();
                while ok && left > 0 {
                    let now = left.min(BLOCK.len());
                    ok = wire.stream.write_all(&BLOCK[..now]).await.is_ok();
                    left -= now;
                }
                ok
            }
            ProviderAction::DiscardBody(length, bytes) => {
                let seen = wire.drain(length).await;
                assert_eq!(seen, length, "the whole body arrived");
                wire.stream.write_all(&bytes).await.is_ok()
            }
        }
    }
}

/// Writes a head and then `count` bytes, one at a time with a pause before each.
async fn drip(wire: &mut RawConnection<TlsStream<TcpStream>>, head: &[u8], count: usize) -> bool {
    let mut ok = wire.stream.write_all(head).await.is_ok();
    for _ in 0..count {
        tokio::time::sleep(DRIP).await;
        ok = ok && wire.stream.write_all(b"x").await.is_ok();
        ok = ok && wire.stream.flush().await.is_ok();
    }
    ok
}
