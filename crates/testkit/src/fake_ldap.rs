//! An LDAP server whose answers a test sets. It knows only the anonymous bind, the search and the unbind.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Reaction of the server to a search.
#[derive(Debug, Clone)]
pub enum LdapAction {
    /// Sends these entries and then this result code.
    Answer(Vec<Entry>, u8),
    /// Never answers, and keeps the connection.
    Silence,
    /// Sends these bytes instead of an answer.
    Bytes(Vec<u8>),
    /// Sends half of an answer and closes.
    Cut(Vec<Entry>),
    /// Sends a reference to another server instead of entries, and then success.
    Reference,
    /// Sends these entries, then a Notice of Disconnection (RFC 4511, section 4.4.1), and closes.
    AnswerAndDisconnect(Vec<Entry>),
}

impl LdapAction {
    /// Answers with a result code and no entries.
    pub const fn code(code: u8) -> Self {
        Self::Answer(Vec::new(), code)
    }
}

/// An entry: attributes and their values.
pub type Entry = Vec<(&'static str, Vec<String>)>;

type Script = Box<dyn FnMut(&str) -> LdapAction + Send>;

/// A running LDAP server with scripted answers.
#[derive(Clone)]
pub struct FakeLdap {
    pub address: SocketAddr,
    state: Arc<LdapState>,
}

struct LdapState {
    script: Mutex<Script>,
    searched: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    ended: watch::Sender<usize>,
}

impl FakeLdap {
    pub async fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(LdapState {
            script: Mutex::new(Box::new(|_| LdapAction::code(0))),
            searched: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        });
        let fake = Self { address, state };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (fake, tls) = (serving.clone(), TlsAcceptor::from(Arc::clone(&tls)));
                tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        fake.state.connections.send_modify(|count| *count += 1);
                        fake.serve(stream).await;
                        fake.state.ended.send_modify(|count| *count += 1);
                    }
                });
            }
        });
        fake
    }

    /// Sets the reaction to every search.
    pub fn set_action(&self, action: LdapAction) {
        self.set_script(move |_| action.clone());
    }

    /// Sets a function that chooses the reaction by the text of a search.
    pub fn set_script(&self, script: impl FnMut(&str) -> LdapAction + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// Number of searches so far.
    pub fn search_count(&self) -> usize {
        *self.state.searched.borrow()
    }

    /// Number of connections that completed their handshake.
    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// Returns once `count` connections have ended.
    pub async fn wait_for_closed_connections(&self, count: usize) {
        self.state.ended.subscribe().wait_for(|ended| *ended >= count).await.unwrap();
    }

    async fn serve(&self, mut stream: TlsStream<TcpStream>) {
        while let Some((id, operation, content)) = message(&mut stream).await {
            let (bytes, closes) = match operation {
                BIND => (result(id, BIND_RESPONSE, 0), false),
                SEARCH => {
                    self.state.searched.send_modify(|count| *count += 1);
                    let text = String::from_utf8_lossy(&content);
                    let action = (self.state.script.lock().unwrap())(&text);
                    encode_action(id, action)
                }
                UNBIND => return,
                _ => continue,
            };
            let sent = stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok();
            if closes || !sent {
                drop(stream.shutdown().await);
                return;
            }
        }
    }
}

/// Returns the bytes to send, and whether the connection is closed after them.
fn encode_action(id: u8, action: LdapAction) -> (Vec<u8>, bool) {
    let entries = |entries: Vec<Entry>| entries.iter().flat_map(|held| entry(id, held)).collect();
    match action {
        LdapAction::Answer(found, code) => {
            let found: Vec<u8> = entries(found);
            ([found, result(id, SEARCH_DONE, code)].concat(), false)
        }
        LdapAction::Silence => (Vec::new(), false),
        LdapAction::Bytes(bytes) => (bytes, false),
        LdapAction::Cut(found) => {
            let mut bytes: Vec<u8> = entries(found);
            let done = result(id, SEARCH_DONE, 0);
            bytes.extend_from_slice(&done[..done.len() / 2]);
            (bytes, true)
        }
        LdapAction::Reference => {
            let other = tlv(OCTETS, b"ldap://other.example.test/ou=services,o=nhs");
            let bytes = [envelope(id, &tlv(REFERENCE, &other)), result(id, SEARCH_DONE, 0)];
            (bytes.concat(), false)
        }
        LdapAction::AnswerAndDisconnect(found) => {
            let found: Vec<u8> = entries(found);
            let name = tlv(0x8a, b"1.3.6.1.4.1.1466.20036");
            let notice = [outcome(52), name].concat();
            let notice = envelope(0, &tlv(EXTENDED_RESPONSE, &notice));
            ([found, result(id, SEARCH_DONE, 0), notice].concat(), true)
        }
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const BIND: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND: u8 = 0x42;
const SEARCH: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const REFERENCE: u8 = 0x73;
const EXTENDED_RESPONSE: u8 = 0x78;

/// Reads a message. Returns its id, below 128 in tests, its operation, and the content of that.
async fn message(stream: &mut TlsStream<TcpStream>) -> Option<(u8, u8, Vec<u8>)> {
    assert_eq!(stream.read_u8().await.ok()?, SEQUENCE);
    let length = match stream.read_u8().await.ok()? {
        0x81 => stream.read_u8().await.ok()?.into(),
        0x82 => stream.read_u16().await.ok()?.into(),
        short => usize::from(short),
    };
    let mut whole = vec![0; length];
    stream.read_exact(&mut whole).await.ok()?;
    assert_eq!(whole[..2], [INTEGER, 1]);
    Some((whole[2], whole[3], whole.split_off(4)))
}

fn entry(id: u8, attributes: &Entry) -> Vec<u8> {
    let attributes = attributes.iter().map(|(name, values)| {
        let values = values.iter().map(|value| tlv(OCTETS, value.as_bytes()));
        let values = tlv(SET, &values.collect::<Vec<_>>().concat());
        tlv(SEQUENCE, &[tlv(OCTETS, name.as_bytes()), values].concat())
    });
    let attributes = tlv(SEQUENCE, &attributes.collect::<Vec<_>>().concat());
    let name = tlv(OCTETS, b"uniqueIdentifier=1,ou=Services,o=nhs");
    envelope(id, &tlv(SEARCH_ENTRY, &[name, attributes].concat()))
}

fn result(id: u8, operation: u8, code: u8) -> Vec<u8> {
    envelope(id, &tlv(operation, &outcome(code)))
}

fn outcome(code: u8) -> Vec<u8> {
    [tlv(ENUMERATED, &[code]), tlv(OCTETS, b""), tlv(OCTETS, b"")].concat()
}

/// Encodes a message of the server.
pub fn envelope(id: u8, operation: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[tlv(INTEGER, &[id]), operation.to_vec()].concat())
}

/// Encodes a tag, a length of two bytes, which BER allows for short values too, and a value.
pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, high, low], value].concat()
}
