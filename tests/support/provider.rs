//! A provider that does what it is told and remembers what it was sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::wire::{Message, Wire};

/// A request as it reached the provider.
pub(crate) type Received = Message;

/// What the provider does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Writes these bytes and keeps the connection.
    Write(Vec<u8>),
    /// Writes these bytes and closes.
    WriteAndClose(Vec<u8>),
    /// Says nothing, ever.
    Silence,
    /// Closes as soon as it has read the head.
    CloseAfterHead,
    /// Answers with this head and then this many bytes, made up as they go.
    Pour(Vec<u8>, usize),
    /// Reads this many bytes of body without keeping them, then answers.
    Swallow(usize, Vec<u8>),
    /// Answers with the body it was sent.
    Echo,
}

impl Act {
    /// A whole answer.
    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Self {
        Self::Write(answer(status, headers, body))
    }

    /// The usual answer.
    pub(crate) fn ok() -> Self {
        Self::answer("200 OK", "Content-Type: application/fhir+json\r\n", r#"{"ok":true}"#)
    }
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into()
}

type Script = Box<dyn FnMut(&Received) -> Act + Send>;

/// The provider.
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    connections: Mutex<usize>,
    seen: tokio::sync::watch::Sender<usize>,
}

impl Provider {
    pub(crate) async fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Mutex::new(Box::new(|_| Act::ok())),
            received: Mutex::default(),
            connections: Mutex::new(0),
            seen: tokio::sync::watch::Sender::new(0),
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

    /// From now on, does this.
    pub(crate) fn does(&self, act: Act) {
        self.plays(move |_| act.clone());
    }

    /// From now on, does as the script says.
    pub(crate) fn plays(&self, script: impl FnMut(&Received) -> Act + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// Everything received so far, in order. A request whose body never came is here too.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Connections that finished their handshake.
    pub(crate) fn connections(&self) -> usize {
        *self.state.connections.lock().unwrap()
    }

    /// Returns once `count` requests have been received.
    pub(crate) async fn has_received(&self, count: usize) {
        self.state.seen.subscribe().wait_for(|seen| *seen >= count).await.unwrap();
    }

    async fn connection(&self, stream: TcpStream, tls: Arc<ServerConfig>) {
        let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
        *self.state.connections.lock().unwrap() += 1;
        let mut wire = Wire::new(stream);
        while let Some(mut request) = wire.head().await {
            let act = (self.state.script.lock().unwrap())(&request);
            let swallows = matches!(act, Act::Swallow(..) | Act::CloseAfterHead);
            if !swallows {
                wire.body(&mut request, false).await;
            }
            let body = request.body.clone();
            self.state.received.lock().unwrap().push(request);
            self.state.seen.send_modify(|seen| *seen += 1);
            if !Self::act(&mut wire, act, &body).await {
                return;
            }
        }
    }

    /// Answers whether the connection is kept.
    async fn act(
        wire: &mut Wire<tokio_rustls::server::TlsStream<TcpStream>>,
        act: Act,
        body: &[u8],
    ) -> bool {
        match act {
            Act::Write(bytes) => wire.stream.write_all(&bytes).await.is_ok(),
            Act::WriteAndClose(bytes) => {
                drop(wire.stream.write_all(&bytes).await);
                drop(wire.stream.shutdown().await);
                false
            }
            Act::Silence => std::future::pending().await,
            Act::CloseAfterHead => false,
            Act::Pour(head, mut left) => {
                let mut ok = wire.stream.write_all(&head).await.is_ok();
                let block = vec![b'x'; 64 * 1024];
                while ok && left > 0 {
                    let now = left.min(block.len());
                    ok = wire.stream.write_all(&block[..now]).await.is_ok();
                    left -= now;
                }
                ok
            }
            Act::Swallow(length, bytes) => {
                let seen = wire.drain(length).await;
                assert_eq!(seen, length, "the whole body arrived");
                wire.stream.write_all(&bytes).await.is_ok()
            }
            Act::Echo => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                wire.stream.write_all(head.as_bytes()).await.is_ok()
                    && wire.stream.write_all(body).await.is_ok()
            }
        }
    }
}
