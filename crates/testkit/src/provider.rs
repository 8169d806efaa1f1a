//! A provider that does what it is told and remembers what it was sent.

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

use super::wire::{Message, Wire};

/// A request as it reached the provider.
pub type Received = Message;

/// What the provider does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Writes these bytes and keeps the connection.
    Write(Vec<u8>),
    /// Writes these bytes and closes.
    WriteAndClose(Vec<u8>),
    /// Says nothing, ever.
    Silence,
    /// Closes as soon as it has read the head.
    CloseAfterHead,
    /// Writes these bytes as soon as it has read the head, and closes.
    WriteAfterHead(Vec<u8>),
    /// Writes these bytes as soon as it has read the head, and reads on.
    WriteEarly(Vec<u8>),
    /// Reads the body once it is told to, then writes these bytes.
    ReadWhenTold(Arc<Notify>, Vec<u8>),
    /// Closes once it has read the body too.
    Close,
    /// Writes these bytes and ends its side of TCP, but not of TLS.
    WriteAndBreakOff(Vec<u8>),
    /// Writes these bytes and resets the connection.
    WriteAndReset(Vec<u8>),
    /// Writes these bytes and no more, the connection open.
    WriteAndStall(Vec<u8>),
    /// Writes these bytes again and again.
    WriteForever(Vec<u8>),
    /// Writes these bytes once it is told to.
    WriteWhenTold(Arc<Notify>, Vec<u8>),
    /// Answers with this head and then this many bytes, one at a time with a pause before each.
    Drip(Vec<u8>, usize),
    /// Answers with this head and then this many bytes, made up as they go.
    Pour(Vec<u8>, usize),
    /// Reads this many bytes of body without keeping them, then answers.
    Swallow(usize, Vec<u8>),
}

/// Between two bytes of a body that drips.
pub const DRIP: Duration = Duration::from_millis(20);

static BLOCK: [u8; 65_536] = [b'x'; 65_536];

impl Act {
    /// A whole answer.
    pub fn answer(status: &str, headers: &str, body: &str) -> Self {
        Self::Write(answer(status, headers, body))
    }

    /// The usual answer.
    pub fn ok() -> Self {
        Self::answer("200 OK", "Content-Type: application/fhir+json\r\n", r#"{"ok":true}"#)
    }
}

pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into()
}

type Script = Box<dyn FnMut(&Received) -> Act + Send>;

/// The provider.
#[derive(Clone)]
pub struct Provider {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    connections: Mutex<usize>,
    deaf: AtomicBool,
    dialled: watch::Sender<usize>,
    seen: watch::Sender<usize>,
    ended: watch::Sender<usize>,
}

/// Limit: requests it remembers. A bench sends without end.
const RECEIVED_MAX: usize = 20_000;

impl State {
    fn remembers(&self, request: Received) {
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
        let state = Arc::new(State {
            script: Mutex::new(Box::new(|_| Act::ok())),
            received: Mutex::default(),
            connections: Mutex::new(0),
            deaf: AtomicBool::new(false),
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

    /// From now on, does this.
    pub fn does(&self, act: Act) {
        self.plays(move |_| act.clone());
    }

    /// From now on, does as the script says.
    pub fn plays(&self, script: impl FnMut(&Received) -> Act + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// Everything received so far, in order. A request whose body never came is here too.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Connections that finished their handshake.
    pub fn connections(&self) -> usize {
        *self.state.connections.lock().unwrap()
    }

    /// Returns once `count` requests have been received.
    pub async fn has_received(&self, count: usize) {
        self.state.seen.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    /// Connections that were begun, whatever became of them.
    pub fn dialled(&self) -> usize {
        *self.state.dialled.borrow()
    }

    /// From now on, closes every connection once its handshake is done.
    pub fn is_deaf(&self) {
        self.state.deaf.store(true, Ordering::Release);
    }

    /// Returns once `count` connections have ended on both sides.
    pub async fn has_ended(&self, count: usize) {
        self.state.ended.subscribe().wait_for(|ended| *ended >= count).await.unwrap();
    }

    async fn connection(&self, stream: TcpStream, tls: Arc<ServerConfig>) {
        // Else an answer on a new connection waits for the other side's acknowledgement of TLS.
        stream.set_nodelay(true).unwrap();
        let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
        *self.state.connections.lock().unwrap() += 1;
        if self.state.deaf.load(Ordering::Acquire) {
            return;
        }
        let mut wire = Wire::new(stream);
        while let Some(mut request) = wire.head().await {
            let act = (self.state.script.lock().unwrap())(&request);
            if let Act::ReadWhenTold(told, _) = &act {
                told.notified().await;
            }
            let swallows = matches!(
                act,
                Act::Swallow(..)
                    | Act::CloseAfterHead
                    | Act::WriteAfterHead(_)
                    | Act::WriteEarly(_)
            );
            if !swallows {
                wire.body(&mut request, false).await;
            }
            self.state.remembers(request);
            self.state.seen.send_modify(|seen| *seen += 1);
            // TLS keeps what the socket would not take: a body's tail, for want of this.
            if !Self::act(&mut wire, act).await || wire.stream.flush().await.is_err() {
                return;
            }
        }
    }

    /// Answers whether the connection is kept.
    async fn act(wire: &mut Wire<TlsStream<TcpStream>>, act: Act) -> bool {
        match act {
            Act::Write(bytes) | Act::ReadWhenTold(_, bytes) => {
                wire.stream.write_all(&bytes).await.is_ok()
            }
            Act::WriteAndClose(bytes) | Act::WriteAfterHead(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.shutdown().await);
                while wire.more().await {}
                false
            }
            Act::Silence => {
                while wire.more().await {}
                false
            }
            Act::CloseAfterHead | Act::Close => false,
            Act::WriteAndBreakOff(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.flush().await);
                false
            }
            Act::WriteAndReset(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.flush().await);
                let (socket, _) = wire.stream.get_ref();
                socket.set_zero_linger().unwrap();
                false
            }
            Act::WriteAndStall(bytes) | Act::WriteEarly(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.flush().await);
                while wire.more().await {}
                false
            }
            Act::WriteForever(bytes) => {
                while wire.stream.write_all(&bytes).await.is_ok() {}
                false
            }
            Act::WriteWhenTold(told, bytes) => {
                told.notified().await;
                wire.stream.write_all(&bytes).await.is_ok()
            }
            Act::Drip(head, count) => drip(wire, &head, count).await,
            Act::Pour(head, mut left) => {
                let mut ok = wire.stream.write_all(&head).await.is_ok();
                while ok && left > 0 {
                    let now = left.min(BLOCK.len());
                    ok = wire.stream.write_all(&BLOCK[..now]).await.is_ok();
                    left -= now;
                }
                ok
            }
            Act::Swallow(length, bytes) => {
                let seen = wire.drain(length).await;
                assert_eq!(seen, length, "the whole body arrived");
                wire.stream.write_all(&bytes).await.is_ok()
            }
        }
    }
}

/// Writes a head and then so many bytes, one at a time with a pause before each.
async fn drip(wire: &mut Wire<TlsStream<TcpStream>>, head: &[u8], count: usize) -> bool {
    let mut ok = wire.stream.write_all(head).await.is_ok();
    for _ in 0..count {
        tokio::time::sleep(DRIP).await;
        ok = ok && wire.stream.write_all(b"x").await.is_ok();
        ok = ok && wire.stream.flush().await.is_ok();
    }
    ok
}
