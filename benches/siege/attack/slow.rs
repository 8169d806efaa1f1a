//! Who takes its time: a head, a body, a read.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::Attacker;
use testkit::TestRequest;

/// Between two bytes.
const BYTE: Duration = Duration::from_secs(1);
/// The smallest receive buffer asked for; the kernel has a least of its own.
pub(super) const WINDOW: u32 = 1024;

/// One byte of a head a second.
pub(super) async fn head(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    drip(attacker, stream, &attacker.call(TestRequest::slots()).bytes()).await;
}

/// A booking's head at once, then one byte of its body a second.
pub(super) async fn body(attacker: &Attacker, mut stream: TlsStream<TcpStream>) {
    let call = attacker
        .call(TestRequest::book())
        .without_content_length()
        .body(b"")
        .with("Content-Length", "10000");
    if stream.write_all(&call.bytes()).await.is_ok() {
        drip(attacker, stream, &[b' '; 10_000]).await;
    }
}

/// Writes until the other side has had enough.
async fn drip(attacker: &Attacker, mut stream: TlsStream<TcpStream>, bytes: &[u8]) {
    let mut unread = [0; 4096];
    for byte in bytes.chunks(1) {
        let written = async {
            stream.write_all(byte).await?;
            stream.flush().await
        };
        if written.await.is_err() {
            return;
        }
        attacker.sent(1);
        match timeout(BYTE, stream.read(&mut unread)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => sleep(BYTE).await,
            Err(_) => {}
        }
    }
}

/// A request for much, and nothing of the answer is ever read. The other side ends it some day, and
/// that is all that is waited for.
pub(super) async fn read(attacker: &Attacker, mut stream: TlsStream<TcpStream>) {
    let mut call = attacker.call(TestRequest::slots());
    call.target.push_str("&pour=1");
    if stream.write_all(&call.bytes()).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    attacker.sent(1);
    let (socket, _) = stream.get_ref();
    while !is_over(socket) {
        sleep(BYTE).await;
    }
}

/// Whether a connection was reset, without reading from it.
fn is_over(socket: &TcpStream) -> bool {
    socket.take_error().is_ok_and(|error| error.is_some())
}
