//! The simulator on the network: TLS, HTTP/1.1, one task for each connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, SERVER};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Provider;
use super::reply::{Fault, Kind};

/// Limit: bytes of a request's body.
const BODY_MAX: usize = 1024 * 1024;
/// Limit: connections at one time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(30);

impl Provider {
    /// Accepts connections until `stop` resolves, and then closes those that are open.
    ///
    /// `tls` decides whose certificates are accepted.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        stop: impl Future<Output = ()>,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let attend = |stream| Arc::clone(&self).attend(stream, acceptor.clone());
        accept(&listener, stop, attend).await;
    }

    async fn attend(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let Some(stream) = secured(stream, &acceptor).await else { return };
        let answer = service_fn(|request| Self::exchange(&self, request));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .serve_connection(TokioIo::new(stream), answer);
        if let Err(fault) = served.await {
            tracing::debug!(%fault, "a connection to the simulator ended badly");
        }
    }

    /// Reads the whole of a request and answers it.
    async fn exchange(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Unread> {
        let (head, body) = request.into_parts();
        let mut response = match Limited::new(body, BODY_MAX).collect().await {
            Ok(body) => self.answer(&head, &body.to_bytes(), Timestamp::now()),
            Err(fault) if fault.is::<LengthLimitError>() => {
                Fault::new(Kind::BodyTooLarge, "the body is longer than 1 MiB")
                    .into_reply()
                    .into_response(super::format::Format::Json, false, false)
            }
            Err(_) => return Err(Unread),
        };
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("spine-proxy-simulator"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response.map(Full::new))
    }
}

/// Hands each connection to `attend` until `stop` resolves, and then ends those that are attended.
pub(super) async fn accept<A>(
    listener: &TcpListener,
    stop: impl Future<Output = ()>,
    attend: impl Fn(TcpStream) -> A,
) where
    A: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(attend(stream));
            }
            Err(fault) => {
                tracing::warn!(%fault, "the simulator cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The connection after its handshake; nothing if that failed.
pub(super) async fn secured(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> Option<TlsStream<TcpStream>> {
    let plain = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream));
    match (plain, handshake.await) {
        (Ok(()), Ok(Ok(stream))) => Some(stream),
        (plain, shaken) => {
            tracing::debug!(?plain, ?shaken, "a handshake with the simulator failed");
            None
        }
    }
}

/// A request whose body did not arrive: there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request did not arrive")]
struct Unread;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::super::stage::{ASID, BASE, now, practices, tls};
    use super::*;

    async fn exchange(text: &str, body: usize) -> String {
        let (server, connector) = tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let provider = Arc::new(Provider::new(practices(), now()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(provider.serve(listener, server, async {
            drop(stopped.await);
        }));
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        // The answer may come, and the connection go, before all of the body is sent.
        drop(stream.write_all(&vec![b' '; body]).await);
        let mut told = vec![0; 4096];
        let mut length = 0;
        while !told[..length].windows(4).any(|four| four == b"\r\n\r\n") {
            let read = stream.read(&mut told[length..]).await.unwrap_or_default();
            assert!(read > 0, "{}", String::from_utf8_lossy(&told[..length]));
            length += read;
        }
        stop.send(()).unwrap();
        serving.await.unwrap();
        String::from_utf8_lossy(&told[..length]).to_ascii_lowercase()
    }

    #[tokio::test]
    async fn answers_name_the_simulator_and_may_not_be_stored() {
        let id = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1";
        let told = exchange(
            &format!(
                "GET {BASE}/metadata HTTP/1.1\r\nHost: localhost\r\nSsp-TraceID: t\r\n\
                 Ssp-From: 200000000359\r\nSsp-To: {ASID}\r\nSsp-InteractionID: {id}\r\n\
                 Authorization: Bearer x\r\n\r\n"
            ),
            0,
        )
        .await;
        assert!(told.starts_with("http/1.1 200 ok\r\n"), "{told}");
        assert!(told.contains("server: spine-proxy-simulator\r\n"), "{told}");
        assert!(told.contains("cache-control: no-store\r\n"), "{told}");
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_not_read() {
        let length = BODY_MAX + 1;
        let head = format!(
            "POST {BASE}/Appointment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        );
        let told = exchange(&head, length).await;
        assert!(told.starts_with("http/1.1 413 "), "{told}");
        assert!(told.contains("cache-control: no-store\r\n"), "{told}");
    }
}
