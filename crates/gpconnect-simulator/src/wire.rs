//! Responses with faults, written byte by byte on the bare stream.
//!
//! An HTTP server cannot send invalid HTTP. So the server reads the request and, if its response has
//! faults, hands over the connection: the response is written here, and the server gets the stream
//! back if it is still usable. All faults take this path, even those that the server could produce.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::faults::{BodyDelivery, ContentType, Faults, Framing, RequestOutcome};

/// Bytes sent in place of an HTTP response.
const GARBAGE: &[u8] = b"\x00\x01\xfe this is not HTTP\r\n\r\n";
/// Line in the head that is not a header.
const JUNK_LINE: &[u8] = b"this line of the head has no colon\r\n";
/// Interim response sent before the final one.
const CONTINUE: &[u8] = b"HTTP/1.1 102 Processing\r\n\r\n";

/// A stream that carries HTTP, with access to the TCP socket below it.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A response with the faults to apply to it.
pub(super) struct FaultyResponse {
    faults: Faults,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// True if no body follows the head, whatever the head announces.
    bodyless: bool,
    /// True if the client wants to reuse the connection.
    keep_alive: bool,
}

/// State of the connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterResponse {
    /// Ready for the next request.
    Reusable,
    Closed,
    /// Closed after the client has closed it; until then its bytes are discarded, so that the
    /// response is not lost.
    Lingering,
    Reset,
}

/// A stream that records if the client sends anything during the response.
struct WireStream<W> {
    wire: W,
    has_more_input: bool,
}

impl FaultyResponse {
    /// Returns the faulty response to a request; faults that suppress the response ignore `response`.
    pub(super) fn new(head: &Parts, faults: Faults, response: Response<Bytes>) -> Self {
        let (parts, body) = response.into_parts();
        let status = parts.status;
        let bodyless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let connection = head.headers.get_all(CONNECTION).iter();
        let wants_close = connection
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case("close"));
        Self {
            keep_alive: head.version == Version::HTTP_11 && !wants_close,
            bodyless: bodyless || head.method == Method::HEAD,
            headers: parts.headers,
            faults,
            status,
            body,
        }
    }

    /// Writes the response; returns the stream if it can be used again.
    ///
    /// With `has_unread` it cannot, because bytes after the request have already been read from it.
    pub(super) async fn write<W: Wire>(self, wire: W, has_unread: bool) -> Option<W> {
        let mut stream = WireStream { wire, has_more_input: has_unread };
        let end = match self.send(&mut stream).await {
            Ok(AfterResponse::Reusable) if stream.has_more_input => AfterResponse::Closed,
            Ok(end) => end,
            Err(fault) => {
                tracing::debug!(
                    %fault,
                    "a client of the simulator closed its connection before the end of the response"
                );
                return None;
            }
        };
        match end {
            AfterResponse::Reusable => return Some(stream.wire),
            AfterResponse::Closed => drop(stream.wire.shutdown().await),
            AfterResponse::Lingering => {
                drop(stream.wire.shutdown().await);
                stream.wait_for_close().await;
            }
            AfterResponse::Reset => drop(stream.wire.socket().set_zero_linger()),
        }
        None
    }

    async fn send<W: Wire>(&self, stream: &mut WireStream<W>) -> io::Result<AfterResponse> {
        for _ in 0..self.faults.continues {
            stream.write(CONTINUE).await?;
        }
        stream.wait(self.faults.delay).await?;
        match self.faults.outcome {
            RequestOutcome::Reset | RequestOutcome::ResetAfter => return Ok(AfterResponse::Reset),
            RequestOutcome::Stall | RequestOutcome::StallAfter => {
                stream.wait_for_close().await;
                return Ok(AfterResponse::Closed);
            }
            RequestOutcome::Garbage => {
                stream.write(GARBAGE).await?;
                return Ok(AfterResponse::Closed);
            }
            RequestOutcome::Performed
            | RequestOutcome::Status(_)
            | RequestOutcome::StatusAfter(_)
            | RequestOutcome::Html => {}
        }
        stream.write(&self.head()).await?;
        stream.wait(self.faults.delay_body).await?;
        let body = self.framed_body();
        match self.faults.delivery {
            BodyDelivery::Drip(pause) => {
                for byte in body {
                    stream.wait(pause).await?;
                    stream.write(&[byte]).await?;
                }
            }
            BodyDelivery::Whole | BodyDelivery::Cut(_) => stream.write(&body).await?,
            BodyDelivery::Half => {
                stream.write(&body).await?;
                stream.wait_for_close().await;
            }
        }
        Ok(self.end())
    }

    fn end(&self) -> AfterResponse {
        let has_true_framing = match self.faults.framing {
            Framing::Length | Framing::Chunked => true,
            Framing::Claimed(_) | Framing::BadChunk => false,
        };
        let is_whole = match self.faults.delivery {
            BodyDelivery::Whole | BodyDelivery::Drip(_) => true,
            BodyDelivery::Cut(_) | BodyDelivery::Half => false,
        };
        let final_head = !self.status.is_informational() && !self.faults.head_junk;
        if self.faults.early {
            AfterResponse::Lingering
        } else if has_true_framing
            && is_whole
            && final_head
            && self.keep_alive
            && !self.faults.close
        {
            AfterResponse::Reusable
        } else {
            AfterResponse::Closed
        }
    }

    fn head(&self) -> Vec<u8> {
        let reason = self.status.canonical_reason().unwrap_or("Simulated");
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_u16()).into_bytes();
        if self.faults.head_junk {
            head.extend_from_slice(JUNK_LINE);
        }
        let mut line = |name: &HeaderName, value: &[u8]| {
            for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        };
        for (name, value) in self.headers.iter().filter(|(name, _)| **name != CONTENT_TYPE) {
            line(name, value.as_bytes());
        }
        let kind = match &self.faults.content_type {
            ContentType::Right => self.headers.get(CONTENT_TYPE),
            ContentType::Missing => None,
            ContentType::Other(kind) => Some(kind),
        };
        if let Some(kind) = kind {
            line(&CONTENT_TYPE, kind.as_bytes());
        }
        if let Some((name, value)) = self.framing_header() {
            line(&name, value.as_bytes());
        }
        if self.faults.close || self.faults.early || !self.keep_alive {
            line(&CONNECTION, b"close");
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Returns the header that frames the body, if any.
    fn framing_header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self.faults.framing {
            Framing::Claimed(bytes) => Some((CONTENT_LENGTH, bytes.into())),
            Framing::Length | Framing::Chunked | Framing::BadChunk if self.has_no_body() => None,
            Framing::Length => Some((CONTENT_LENGTH, self.body.len().into())),
            Framing::Chunked | Framing::BadChunk => {
                Some((TRANSFER_ENCODING, HeaderValue::from_static("chunked")))
            }
        }
    }

    /// Spec: RFC 9110, section 8.6: responses 1xx and 204 have neither a length nor a body.
    fn has_no_body(&self) -> bool {
        self.status.is_informational() || self.status == StatusCode::NO_CONTENT
    }

    /// Returns the bytes of the body as they are sent, including chunk framing.
    fn framed_body(&self) -> Vec<u8> {
        if self.bodyless {
            return Vec::new();
        }
        let (one, two) = self.body.split_at(self.body.len() / 2);
        let cut = match self.faults.delivery {
            BodyDelivery::Cut(bytes) => self.body.get(..bytes),
            BodyDelivery::Half => Some(one),
            BodyDelivery::Whole | BodyDelivery::Drip(_) => None,
        };
        match (self.faults.framing, cut) {
            (Framing::Length | Framing::Claimed(_), cut) => cut.unwrap_or(&self.body).to_vec(),
            (Framing::Chunked | Framing::BadChunk, Some(cut)) => chunk(cut),
            (Framing::Chunked, None) => [&chunk(one)[..], &chunk(two), b"0\r\n\r\n"].concat(),
            (Framing::BadChunk, None) => {
                [&chunk(one)[..], b"zz\r\n", two, b"\r\n0\r\n\r\n"].concat()
            }
        }
    }
}

/// Returns one chunk, or nothing for no bytes, because an empty chunk would end the body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return Vec::new();
    }
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

impl<W: Wire> WireStream<W> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await?;
        self.wire.flush().await
    }

    /// Waits; fails if the client closes the connection meanwhile.
    async fn wait(&mut self, pause: Duration) -> io::Result<()> {
        if pause.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.wait_for_close() => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Discards what the client sends until it closes the connection.
    async fn wait_for_close(&mut self) {
        let mut discarded = [0; 4096];
        while let Ok(1..) = self.wire.read(&mut discarded).await {
            self.has_more_input = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use serde_json::Value;

    use super::super::loopback::{
        LoopbackSimulator, body_of, get, post, read_until, send_and_receive, stays_silent,
    };
    use super::super::stage::{Stage, booking_of, tls};
    use super::super::{ServeOptions, SimulatedProvider};
    use super::*;

    const KEEP_ALIVE: &str = "Connection: keep-alive\r\n";

    /// Returns the head and the body of the response to a request with these fault words.
    async fn response_with(words: &str) -> (String, String) {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        let response = simulator.send(&get("/metadata", &format!("X-Simulate: {words}\r\n"))).await;
        simulator.close().await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (format!("{head}\r\n"), body.to_owned())
    }

    /// Returns the body without faults.
    async fn whole() -> String {
        let (head, body) = response_with("none").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && has_length(&head, body.len()), "{head}");
        body
    }

    fn has_length(head: &str, bytes: usize) -> bool {
        head.contains(&format!("\r\ncontent-length: {bytes}\r\n"))
    }

    /// Returns a server, and a client's stream on which a request with these fault words was sent.
    async fn connection_with(words: &str) -> (LoopbackSimulator, TcpStream) {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        let mut stream = simulator.connect().await;
        let text = get("/metadata", &format!("{KEEP_ALIVE}X-Simulate: {words}\r\n"));
        stream.write_all(text.as_bytes()).await.unwrap();
        (simulator, stream)
    }

    /// Returns the number of appointments.
    fn appointments(provider: &SimulatedProvider) -> usize {
        provider.bookings(None).len()
    }

    fn booking() -> String {
        let slot = Stage::new().free_slots().remove(0);
        booking_of(&[&slot], "1").to_string()
    }

    #[tokio::test]
    async fn a_complete_response_keeps_the_connection_open() {
        let body = whole().await;
        for words in ["delay=1ms", "delay-body=1ms", "drip=0s", "content-type=text/plain"] {
            let (simulator, mut stream) = connection_with(words).await;
            let first = read_until(&mut stream, &body).await;
            assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{words}: {first}");
            assert!(first.contains("server: spine-proxy-simulator\r\n"), "{words}: {first}");
            assert!(!first.contains("\r\nconnection: "), "{words}: {first}");
            let second = send_and_receive(&mut stream, &get("/metadata", "")).await;
            assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{words}: {second}");
            simulator.close().await;
        }
    }

    #[tokio::test]
    async fn a_dripping_body_is_complete() {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        let words = "status=500; drip=1us";
        let text = simulator.send(&get("/metadata", &format!("X-Simulate: {words}\r\n"))).await;
        assert_eq!(body_of(&text)["issue"][0]["details"]["coding"][0]["code"], {
            Value::from("INTERNAL_SERVER_ERROR")
        });
        simulator.close().await;
    }

    #[tokio::test]
    async fn length_type_and_head_are_wrong_as_requested() {
        let body = whole().await;
        let (head, received_body) = response_with("cut=10").await;
        assert!(
            has_length(&head, body.len()) && received_body == body[..10],
            "{head}{received_body}"
        );
        let (head, received_body) = response_with("cut=0").await;
        assert!(has_length(&head, body.len()) && received_body.is_empty(), "{head}{received_body}");
        for length in [7, body.len() + 9] {
            let (head, received_body) = response_with(&format!("length={length}")).await;
            assert!(has_length(&head, length) && received_body == body, "{head}{received_body}");
        }
        let (head, received_body) = response_with("no-content-type").await;
        assert!(!head.contains("content-type") && received_body == body, "{head}");
        let (head, received_body) = response_with("content-type=text/html").await;
        assert_eq!(head.matches("content-type").count(), 1);
        assert!(
            head.contains("\r\ncontent-type: text/html\r\n") && received_body == body,
            "{head}"
        );
        let (head, _) = response_with("head-junk").await;
        assert!(head.lines().nth(1).is_some_and(|line| !line.contains(':')), "{head}");
        let (head, received_body) = response_with("close").await;
        assert!(head.ends_with("\r\nconnection: close\r\n") && received_body == body, "{head}");
    }

    #[tokio::test]
    async fn chunked_bodies_are_complete_cut_or_invalid() {
        let body = whole().await;
        let (one, two) = body.split_at(body.len() / 2);
        let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
        let (head, received_body) = response_with("no-content-length").await;
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert_eq!(received_body, format!("{}{}0\r\n\r\n", chunk(one), chunk(two)));
        assert_eq!(response_with("no-content-length; cut=5").await.1, chunk(&body[..5]));
        assert_eq!(response_with("no-content-length; cut=0").await.1, "");
        let (head, received_body) = response_with("bad-chunk").await;
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(received_body, format!("{}zz\r\n{two}\r\n0\r\n\r\n", chunk(one)));
    }

    #[tokio::test]
    async fn a_fault_can_replace_the_response() {
        let (head, body) = response_with("status=503").await;
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(body.contains("OperationOutcome") && has_length(&head, body.len()), "{body}");
        let (head, _) = response_with("status=599").await;
        assert!(head.starts_with("HTTP/1.1 599 Simulated\r\n"), "{head}");
        for status in [100, 204] {
            let (head, body) = response_with(&format!("status={status}")).await;
            assert!(!head.contains("content-length") && body.is_empty(), "{head}{body}");
        }
        let (head, body) = response_with("html").await;
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: text/html\r\n"), "{head}");
        assert!(body.starts_with("<html>"), "{body}");
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        let text = simulator.send(&get("/metadata", "X-Simulate: garbage\r\n")).await;
        assert_eq!(text, String::from_utf8_lossy(GARBAGE));
        let head = get("/metadata", "X-Simulate: status=500\r\n").replacen("GET", "HEAD", 1);
        let text = simulator.send(&head).await;
        assert!(text.contains("\r\ncontent-length: ") && text.ends_with("\r\n\r\n"), "{text}");
        let text = simulator.send(&get("/metadata", "X-Simulate: continue=3; close\r\n")).await;
        let continues = String::from_utf8_lossy(CONTINUE).repeat(3);
        assert!(text.starts_with(&format!("{continues}HTTP/1.1 200 OK\r\n")), "{text}");
        simulator.close().await;
    }

    #[tokio::test]
    async fn a_stalled_response_ends_when_the_simulator_stops() {
        for words in ["stall", "stall-after", "delay=10m"] {
            let (simulator, mut stream) = connection_with(words).await;
            assert!(stays_silent(&mut stream).await, "{words}");
            simulator.close().await;
        }
        let (simulator, mut stream) = connection_with("delay-body=10m").await;
        read_until(&mut stream, "\r\n\r\n").await;
        assert!(stays_silent(&mut stream).await);
        simulator.close().await;
        let body = whole().await;
        let (simulator, mut stream) = connection_with("stall-body").await;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(has_length(&head, body.len()), "{head}");
        let half = &body[..body.len() / 2];
        assert_eq!(read_until(&mut stream, half).await, half);
        assert!(stays_silent(&mut stream).await);
        simulator.close().await;
    }

    #[tokio::test]
    async fn a_stalled_response_ends_when_the_client_disconnects() {
        for words in ["stall", "delay=10m", "delay-body=10m", "stall-body", "drip=10s"] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let (head, ()) = http::Request::new(()).into_parts();
            let response = Response::new(Bytes::from_static(b"whole"));
            let faulty = FaultyResponse::new(&head, words.parse().unwrap(), response);
            let writing = tokio::spawn(faulty.write(server, false));
            drop(client);
            assert!(writing.await.unwrap().is_none(), "{words}");
        }
    }

    #[tokio::test]
    async fn a_reset_fault_resets_the_tcp_connection() {
        let (server, connector) = tls();
        let secure =
            LoopbackSimulator::open(ServeOptions { tls: Some(server), ..ServeOptions::default() })
                .await;
        let mut stream = connector
            .connect("localhost".try_into().unwrap(), secure.connect().await)
            .await
            .unwrap();
        let text = get("/metadata", "X-Simulate: reset\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        secure.close().await;
        for words in ["reset", "reset-after", "delay=1ms; reset"] {
            let (simulator, mut stream) = connection_with(words).await;
            let fault = stream.read_u8().await.unwrap_err();
            assert_eq!(fault.kind(), ErrorKind::ConnectionReset, "{words}");
            assert_eq!(simulator.provider.received()[0].status, None);
            simulator.close().await;
        }
    }

    #[tokio::test]
    async fn a_fault_word_decides_if_the_request_is_carried_out() {
        let body = booking();
        for (words, bookings) in [
            ("status=500", 0),
            ("html", 0),
            ("garbage", 0),
            ("reset", 0),
            ("stall", 0),
            ("early", 0),
            ("status-after=500", 1),
            ("reset-after", 1),
            ("stall-after", 1),
            ("cut=1", 1),
            ("delay=10m", 1),
            ("stall-body", 1),
            ("close", 1),
        ] {
            let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
            let mut stream = simulator.connect().await;
            let text = post(&body, &format!("X-Simulate: {words}\r\n"));
            stream.write_all(text.as_bytes()).await.unwrap();
            // A request is carried out at the moment it is remembered.
            while simulator.provider.received().is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(appointments(&simulator.provider), bookings, "{words}");
            simulator.close().await;
        }
    }

    #[tokio::test]
    async fn an_early_response_does_not_wait_for_the_body() {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        for (words, status) in [("early", 413), ("early; status=401", 401)] {
            let mut stream = simulator.connect().await;
            let text = post(&"x".repeat(100_000), &format!("X-Simulate: {words}\r\n"));
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
            let head = read_until(&mut stream, "\r\n\r\n").await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
            // A client that still sends the body receives the rest of the response.
            assert!(send_and_receive(&mut stream, body).await.contains("OperationOutcome"));
        }
        simulator.close().await;
    }

    #[tokio::test]
    async fn a_connection_with_pipelined_requests_is_closed_after_a_fault() {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        let two = get("/metadata", &format!("{KEEP_ALIVE}X-Simulate: delay=1ms\r\n")).repeat(2);
        let received = send_and_receive(&mut simulator.connect().await, &two).await;
        assert_eq!(received.matches("HTTP/1.1 200 OK").count(), 1, "{received}");
        simulator.close().await;
    }
}
