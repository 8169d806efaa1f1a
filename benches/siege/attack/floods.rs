//! Who comes in numbers: silent connections, handshakes, requests with Range lines, requests beyond a
//! quota and to whom nobody answers.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Attacker;
use testkit::TestRequest;
use testkit::raw_connection::RawConnection;
use testkit::request::read_answer;

/// Range lines in a request, each of many ranges.
const RANGE_LINES: usize = 60;

/// Waits for the other side to have had enough.
pub(super) async fn silence(mut stream: TcpStream) {
    let mut unread = [0; 64];
    while stream.read(&mut unread).await.is_ok_and(|count| count > 0) {}
}

/// The handshake is done: that is all. Reset, so that no port waits for its last packets.
pub(super) fn handshake(stream: &TlsStream<TcpStream>) {
    let (socket, _) = stream.get_ref();
    socket.set_zero_linger().unwrap_or_default();
}

/// Requests that ask for overlapping ranges, as fast as they are answered.
pub(super) async fn ranges(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    let ranges: Vec<_> = (0..30).map(|from| format!("{from}-")).collect();
    let value = format!("bytes={}", ranges.join(","));
    let mut call = attacker.call(TestRequest::slots());
    for _ in 0..RANGE_LINES {
        call = call.with("Range", &value);
    }
    let bytes = call.bytes();
    let mut wire = RawConnection::new(stream);
    while wire.stream.write_all(&bytes).await.is_ok() && read_answer(&mut wire).await.is_some() {
        attacker.sent(1);
    }
}

/// A connection that asks nothing, until the other side has had enough.
pub(super) async fn waiting(mut stream: TlsStream<TcpStream>) {
    let mut unread = [0; 64];
    while stream.read(&mut unread).await.is_ok_and(|count| count > 0) {}
}

/// Requests as fast as they are answered.
pub(super) async fn requests(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    let bytes = attacker.call(TestRequest::slots()).bytes();
    let mut wire = RawConnection::new(stream);
    while wire.stream.write_all(&bytes).await.is_ok() && read_answer(&mut wire).await.is_some() {
        attacker.sent(1);
    }
}

/// Requests with a path of slashes under the practice's root, as fast as they are answered.
pub(super) async fn slashes(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    let mut call = attacker.call(TestRequest::slots());
    call.target = call.target.replace("/Slot?", &format!("{}Slot?", "/".repeat(32_000)));
    let bytes = call.bytes();
    let mut wire = RawConnection::new(stream);
    while wire.stream.write_all(&bytes).await.is_ok() && read_answer(&mut wire).await.is_some() {
        attacker.sent(1);
    }
}

/// Requests at ten times the quota, whatever is answered: 50 a second each.
pub(super) async fn over_quota(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    let bytes = attacker.call(TestRequest::slots()).bytes();
    let mut wire = RawConnection::new(stream);
    let mut beat = tokio::time::interval(Duration::from_millis(20));
    loop {
        beat.tick().await;
        if wire.stream.write_all(&bytes).await.is_err() || read_answer(&mut wire).await.is_none() {
            return;
        }
        attacker.sent(1);
    }
}

/// Requests to a practice that never answers, one after the other; who is refused comes again a little
/// later.
pub(super) async fn hanging(attacker: &Attacker, stream: TlsStream<TcpStream>) {
    let mut call = attacker.call(TestRequest::slots());
    call.target.push_str("&hang=1");
    let bytes = call.bytes();
    let mut wire = RawConnection::new(stream);
    while wire.stream.write_all(&bytes).await.is_ok() {
        attacker.sent(1);
        if read_answer(&mut wire).await.is_none() {
            return;
        }
        tokio::time::sleep(super::AGAIN).await;
    }
}
