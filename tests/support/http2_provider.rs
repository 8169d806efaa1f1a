//! A provider that speaks HTTP/2 in frames, and does what it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::frames::{self, ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS};
use super::wire::Wire;

/// What it does once a request on this stream has ended.
#[derive(Debug, Clone)]
pub(crate) enum Move {
    /// Writes these bytes and goes on.
    Write(Vec<u8>),
    /// Writes these bytes and closes.
    WriteAndClose(Vec<u8>),
}

type Script = Box<dyn FnMut(u32) -> Move + Send>;

/// The provider.
#[derive(Clone)]
pub(crate) struct Http2Provider {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Mutex<Script>,
    /// Streams whose request came whole, and the bytes of its body.
    received: Mutex<Vec<(u32, Vec<u8>)>>,
    connections: Mutex<usize>,
}

/// A whole answer on a stream, as frames.
pub(crate) fn answer(stream: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(stream, &[("content-length", &body.len().to_string())]);
    bytes.extend(frames::frame(DATA, END_STREAM, stream, body));
    bytes
}

/// An answer's head: 200, and these fields.
pub(crate) fn head(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x88];
    for (name, value) in fields {
        block.extend(frames::field(name, value));
    }
    frames::frame(HEADERS, END_HEADERS, stream, &block)
}

impl Http2Provider {
    pub(crate) async fn start(tls: &ServerConfig) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = Arc::new(tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Mutex::new(Box::new(|stream| Move::Write(answer(stream, b"{}")))),
            received: Mutex::default(),
            connections: Mutex::new(0),
        });
        let provider = Self { address, state };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (provider, tls) = (serving.clone(), Arc::clone(&tls));
                tokio::spawn(async move { provider.connection(stream, tls).await });
            }
        });
        provider
    }

    /// From now on, does as the script says.
    pub(crate) fn plays(&self, script: impl FnMut(u32) -> Move + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// Requests that came whole: their streams and bodies.
    pub(crate) fn received(&self) -> Vec<(u32, Vec<u8>)> {
        self.state.received.lock().unwrap().clone()
    }

    /// Connections that finished their handshake.
    pub(crate) fn connections(&self) -> usize {
        *self.state.connections.lock().unwrap()
    }

    async fn connection(&self, stream: TcpStream, tls: Arc<ServerConfig>) -> Option<()> {
        let mut wire = Wire::new(TlsAcceptor::from(tls).accept(stream).await.ok()?);
        *self.state.connections.lock().unwrap() += 1;
        wire.stream.write_all(&frames::frame(SETTINGS, 0, 0, &[])).await.ok()?;
        while wire.unread.len() < frames::PREFACE.len() {
            wire.more().await.then_some(())?;
        }
        wire.unread.drain(..frames::PREFACE.len());
        let mut bodies = std::collections::HashMap::<u32, Vec<u8>>::new();
        loop {
            wire.stream.flush().await.ok()?;
            let frame = wire.frame().await?;
            let reply = match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => frames::frame(SETTINGS, ACK, 0, &[]),
                PING if frame.flags & ACK == 0 => frames::frame(PING, ACK, 0, &frame.payload),
                _ => Vec::new(),
            };
            wire.stream.write_all(&reply).await.ok()?;
            if frame.kind == DATA {
                bodies.entry(frame.stream).or_default().extend(&frame.payload);
            }
            if !frame.ends_stream() {
                continue;
            }
            let body = bodies.remove(&frame.stream).unwrap_or_default();
            self.state.received.lock().unwrap().push((frame.stream, body));
            let next = (self.state.script.lock().unwrap())(frame.stream);
            match next {
                Move::Write(bytes) => wire.stream.write_all(&bytes).await.ok()?,
                Move::WriteAndClose(bytes) => {
                    wire.stream.write_all(&bytes).await.ok()?;
                    wire.stream.shutdown().await.ok()?;
                    while wire.more().await {}
                    return None;
                }
            }
        }
    }
}
