//! Network side of the simulator: HTTP/1.1 with or without TLS, one task for each connection.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, SERVER};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::control::{self, ControlError};
use super::faults::{FaultWordsError, Faults, SIMULATE};
use super::peer::{self, PeerRefusal};
use super::reply::{ReplyFault, SpineErrorCode};
use super::wire::{FaultyResponse, Wire};
use super::{SimulatedProvider, WithoutTls, fault_response};
use spine_types::CertificateName;

/// Limit: bytes of a request's body.
const BODY_MAX: usize = 1024 * 1024;
/// Limit: concurrent connections; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Options of [`SimulatedProvider::serve`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// TLS settings: the server's certificate, and the client certificates that TLS accepts; `None` for
    /// plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Names of which a client's certificate must have one, as a DNS name or, without any DNS name, as
    /// the common name. An empty list admits every client that TLS accepts.
    ///
    /// A client with another certificate is answered 495, one without a certificate 496.
    pub peers: Vec<CertificateName>,
    /// True to serve the control interface under `/_simulator/`.
    pub control: bool,
}

impl Default for ServeOptions {
    /// Returns settings for plain HTTP, every client, and the control interface.
    fn default() -> Self {
        Self { tls: None, peers: Vec::new(), control: true }
    }
}

/// State of a connection that its requests share.
struct ConnectionFacts<'a> {
    /// Result of the check of the client's certificate.
    admission: Result<(), PeerRefusal>,
    options: &'a ServeOptions,
    /// Takes the connection from the HTTP server, with the faulty response to write on it.
    takeover: mpsc::Sender<FaultyResponse>,
}

impl SimulatedProvider {
    /// Accepts connections until `stop` resolves, then closes those that are open.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        options: ServeOptions,
        stop: impl Future<Output = ()>,
    ) {
        let options = Arc::new(options);
        let serve = |stream| Arc::clone(&self).serve_connection(stream, Arc::clone(&options));
        accept(&listener, stop, serve).await;
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, options: Arc<ServeOptions>) {
        if let Some(tls) = &options.tls {
            let acceptor = TlsAcceptor::from(Arc::clone(tls));
            let Some(stream) = accept_tls(stream, &acceptor).await else { return };
            let admission = peer::judge(stream.get_ref().1.peer_certificates(), &options.peers);
            self.serve_http(stream, admission, &options).await;
        } else if stream.set_nodelay(true).is_ok() {
            self.serve_http(stream, peer::judge(None, &options.peers), &options).await;
        }
    }

    /// Answers the requests of a connection until it ends, through the HTTP server or, for responses
    /// with faults, directly on the stream.
    async fn serve_http<W: Wire>(
        &self,
        mut wire: W,
        admission: Result<(), PeerRefusal>,
        options: &ServeOptions,
    ) {
        let (takeover, mut takeovers) = mpsc::channel(1);
        let facts = ConnectionFacts { admission, options, takeover };
        loop {
            let service = service_fn(|request| self.exchange(&facts, request));
            let Some(taken) = serve_requests(wire, service, takeovers.recv()).await else { return };
            let Some(faulty) = taken.output else { return };
            let Some(reusable) = faulty.write(taken.wire, taken.has_unread).await else { return };
            wire = reusable;
        }
    }

    /// Reads a whole request and answers it.
    ///
    /// A response with faults takes the connection from the HTTP server; the future then never ends.
    async fn exchange(
        &self,
        facts: &ConnectionFacts<'_>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, BodyReadError> {
        let (mut head, mut body) = request.into_parts();
        if facts.options.tls.is_none() {
            head.extensions.insert(WithoutTls);
        }
        let (faults, mut response) = match self.answer_request(facts, &head, &mut body).await {
            Err(error) => {
                let fault = ReplyFault::new(error.code().ok_or(error)?, error.to_string());
                let number = self.remember(&head, b"", self.clock.now());
                self.note_status(number, fault.status());
                (Faults::default(), fault_response(&head, fault))
            }
            Ok(answered) => answered,
        };
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("spine-proxy-simulator"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if faults.is_empty() {
            return Ok(response.map(Full::new));
        }
        drop(facts.takeover.send(FaultyResponse::new(&head, faults, response)).await);
        std::future::pending().await
    }

    async fn answer_request(
        &self,
        facts: &ConnectionFacts<'_>,
        head: &Parts,
        body: &mut Incoming,
    ) -> Result<(Faults, Response<Bytes>), BodyReadError> {
        if let Err(refusal) = facts.admission {
            let (status, diagnostics) = refusal.status_and_diagnostics();
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
            return Ok((
                Faults::default(),
                fault_response(head, ReplyFault::simulated(status, diagnostics)),
            ));
        }
        if facts.options.control && head.uri.path().starts_with(control::PATH_PREFIX) {
            let response = match read(body).await {
                Ok(body) => control::answer(self, head, &body),
                Err(error) => {
                    let status = ReplyFault::new(error.code().ok_or(error)?, "").status();
                    ControlError::new(status, error.to_string()).into_response()
                }
            };
            return Ok((Faults::default(), response));
        }
        let faults = self.faults_of(head);
        let early = faults.as_ref().is_ok_and(|faults| faults.early);
        let body = if early { Bytes::new() } else { read(body).await? };
        Ok(self.answer_with(faults, head, &body))
    }

    /// Returns the faults for a request: those of its `X-Simulate` header, or else of a script.
    fn faults_of(&self, head: &Parts) -> Result<Faults, FaultWordsError> {
        let mut values = head.headers.get_all(SIMULATE).iter().peekable();
        if values.peek().is_none() {
            let found = self.find(head.uri.path());
            return Ok(found.map_or_else(Faults::default, |(practice, _)| {
                self.scripts.faults_for(&practice.settings.ods, head)
            }));
        }
        let texts: Result<Vec<&str>, _> = values.map(HeaderValue::to_str).collect();
        texts.map_err(|_| FaultWordsError::new("X-Simulate is not plain text"))?.join(";").parse()
    }

    /// Remembers a request, and carries it out unless its faults prevent that.
    fn answer_with(
        &self,
        faults: Result<Faults, FaultWordsError>,
        head: &Parts,
        body: &[u8],
    ) -> (Faults, Response<Bytes>) {
        let now = self.clock.now();
        let number = self.remember(head, body, now);
        let (faults, response) = match faults {
            Ok(faults) => {
                let performed = faults.performs_request().then(|| self.carry_out(head, body, now));
                // Without either, the faults suppress the response, and this one is not sent.
                let response = faults.replacement(head).or(performed).unwrap_or_default();
                (faults, response)
            }
            Err(error) => {
                let fault = ReplyFault::bad_request(format!("X-Simulate: {error}"));
                (Faults::default(), fault_response(head, fault))
            }
        };
        if faults.sends_response() {
            self.note_status(number, response.status());
        }
        (faults, response)
    }
}

/// Reads a whole body, of at most 1 MiB and within 30 s.
async fn read(body: &mut Incoming) -> Result<Bytes, BodyReadError> {
    let whole = tokio::time::timeout(HEAD_DEADLINE, Limited::new(body, BODY_MAX).collect());
    match whole.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(fault)) if fault.is::<LengthLimitError>() => Err(BodyReadError::TooLong),
        Ok(Err(_)) => Err(BodyReadError::ConnectionLost),
        Err(_) => Err(BodyReadError::TooSlow),
    }
}

/// A connection that was taken from the HTTP server.
pub(super) struct TakenConnection<W, T> {
    wire: W,
    /// True if bytes after the answered requests have already been read from the stream.
    has_unread: bool,
    /// Output of the future that ended the service.
    output: T,
}

/// Answers requests until the connection ends or `taken` resolves.
///
/// If `taken` resolves, returns the connection. Earlier responses are then written completely, unless
/// the client pipelines requests and does not read.
pub(super) async fn serve_requests<W, S, B, T>(
    wire: W,
    service: S,
    taken: impl Future<Output = T>,
) -> Option<TakenConnection<W, T>>
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(wire), service);
    tokio::select! {
        biased;
        output = taken => {
            let parts = connection.into_parts();
            let has_unread = !parts.read_buf.is_empty();
            Some(TakenConnection { wire: parts.io.into_inner(), has_unread, output })
        }
        served = &mut connection => {
            if let Err(fault) = served {
                tracing::debug!(%fault, "a connection to the simulator ended with an error");
            }
            None
        }
    }
}

/// Spawns `serve` for each connection until `stop` resolves, then aborts the tasks still running.
pub(super) async fn accept<A>(
    listener: &TcpListener,
    stop: impl Future<Output = ()>,
    serve: impl Fn(TcpStream) -> A,
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
                connections.spawn(serve(stream));
            }
            Err(fault) => {
                tracing::warn!(
                    %fault,
                    "the simulator could not accept a connection; it retries in 50 ms"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Performs the TLS handshake; returns `None` if it fails or takes longer than 10 s.
pub(super) async fn accept_tls(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> Option<TlsStream<TcpStream>> {
    let nodelay = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream));
    match (nodelay, handshake.await) {
        (Ok(()), Ok(Ok(stream))) => Some(stream),
        (nodelay, handshake) => {
            tracing::debug!(
                ?nodelay,
                ?handshake,
                "a TLS handshake with the simulator failed; the connection is closed"
            );
            None
        }
    }
}

/// Error returned when a request's body cannot be read.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum BodyReadError {
    /// Connection lost, so that no response is possible.
    #[error("the body of the request did not arrive")]
    ConnectionLost,
    #[error("the body is longer than 1 MiB")]
    TooLong,
    #[error("the body did not arrive within 30 s")]
    TooSlow,
}

impl BodyReadError {
    /// Returns the code of the response, or `None` if none is possible.
    const fn code(self) -> Option<SpineErrorCode> {
        match self {
            Self::ConnectionLost => None,
            Self::TooLong => Some(SpineErrorCode::BodyTooLarge),
            Self::TooSlow => Some(SpineErrorCode::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::AsyncWriteExt as _;
    use tokio_rustls::TlsConnector;

    use super::super::loopback::{LoopbackSimulator, body_of, get, read_until, send_and_receive};
    use super::super::stage::{BASE, code_of, tls};
    use super::*;

    #[tokio::test]
    async fn responses_name_the_simulator_and_forbid_caching() {
        let (server, connector) = tls();
        let simulator =
            LoopbackSimulator::open(ServeOptions { tls: Some(server), ..ServeOptions::default() })
                .await;
        let mut stream = connector
            .connect("localhost".try_into().unwrap(), simulator.connect().await)
            .await
            .unwrap();
        let response =
            send_and_receive(&mut stream, &get("/metadata", "Connection: close\r\n")).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("server: spine-proxy-simulator\r\n"), "{response}");
        assert!(response.contains("cache-control: no-store\r\n"), "{response}");
        simulator.close().await;
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_not_read() {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        let length = BODY_MAX + 1;
        let head = format!(
            "POST {BASE}/Appointment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut stream = simulator.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // The response may arrive, and the connection close, before the whole body is sent.
        drop(stream.write_all(&vec![b' '; length]).await);
        let response = read_until(&mut stream, "\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
        assert!(response.contains("cache-control: no-store\r\n"), "{response}");
        simulator.close().await;
    }

    #[tokio::test]
    async fn a_request_with_an_invalid_fault_word_is_refused_and_not_carried_out() {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        for words in ["slow", "", "cut=1; cut=1", "close\r\nX-Simulate: reset", "\u{e9}"] {
            let response =
                simulator.send(&get("/metadata", &format!("X-Simulate: {words}\r\n"))).await;
            assert!(response.starts_with("HTTP/1.1 400 "), "{words}: {response}");
            assert_eq!(code_of(&body_of(&response)), "BAD_REQUEST");
        }
        let response = simulator.send(&get("/metadata", "X-Simulate: slow\r\n")).await;
        assert!(response.contains("the words are none; delay=<duration>; "), "{response}");
        assert_eq!(simulator.provider.received().len(), 6);
        simulator.close().await;
    }

    #[tokio::test]
    async fn scripts_do_not_count_requests_with_faults_of_their_own() {
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        let ods = "A20047".parse().unwrap();
        let faults: Faults = "status=503".parse().unwrap();
        let script = super::super::Script {
            share: 50,
            times: None,
            methods: Vec::new(),
            interactions: Vec::new(),
            faults,
        };
        simulator.provider.script(&ods, script.clone()).unwrap();
        assert!(simulator.provider.script(&"Z99999".parse().unwrap(), script).is_err());
        let mut statuses = Vec::new();
        for header in ["", "X-Simulate: none\r\n", "X-Simulate: status=500\r\n", "", "", ""] {
            let response = simulator.send(&get("/metadata", header)).await;
            statuses.push(response.split(' ').nth(1).unwrap().to_owned());
        }
        assert_eq!(statuses, ["200", "200", "500", "503", "200", "503"]);
        let recorded: Vec<_> =
            simulator.provider.received().iter().filter_map(|request| request.status).collect();
        assert_eq!(recorded.len(), 6);
        assert_eq!(recorded[3], 503);
        simulator.close().await;
    }

    #[tokio::test]
    async fn the_control_interface_shares_the_listener_and_can_be_switched_off() {
        let clock = r#"{"now":"2030-01-01T12:00:00Z"}"#;
        let put = format!(
            "PUT /_simulator/clock HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{clock}",
            clock.len()
        );
        let list = "GET /_simulator/requests HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                    X-Simulate: reset\r\n\r\n";
        let simulator = LoopbackSimulator::open(ServeOptions::default()).await;
        assert!(simulator.send(&put).await.starts_with("HTTP/1.1 200 "));
        simulator.send(&get("/metadata", "X-Simulate: status-after=500\r\n")).await;
        let listed = body_of(&simulator.send(list).await);
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed[0]["status"], 500);
        // The clock runs on from the time that was set.
        assert!(listed[0]["time"].as_str().unwrap().starts_with("2030-01-01T12:"), "{listed}");
        simulator.close().await;

        let simulator =
            LoopbackSimulator::open(ServeOptions { control: false, ..ServeOptions::default() })
                .await;
        let response = simulator.send(&put).await;
        assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
        assert_eq!(body_of(&response)["resourceType"], "OperationOutcome");
        simulator.close().await;
    }

    /// Returns a server that accepts certificates of one authority and clients without one, and a
    /// function that makes such clients.
    fn tls_with_client_certificates() -> (Arc<ServerConfig>, impl Fn(Option<&str>) -> TlsConnector)
    {
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate: CertificateDer<'static> =
                params.self_signed(&key).unwrap().der().clone();
            (certificate, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        };
        let clients: Vec<_> =
            ["Proxy.test", "other.test"].iter().map(|name| (*name, made(name))).collect();
        let mut trusted = RootCertStore::empty();
        for (_, (certificate, _)) in &clients {
            trusted.add(certificate.clone()).unwrap();
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), crypto)
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = made("localhost");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let server = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let client = move |name: Option<&str>| {
            let config = ClientConfig::builder().with_root_certificates(roots.clone());
            let own = clients.iter().find(|(known, _)| Some(*known) == name);
            let config = match own {
                Some((_, (certificate, key))) => {
                    config.with_client_auth_cert(vec![certificate.clone()], key.clone_key())
                }
                None => Ok(config.with_no_client_auth()),
            };
            TlsConnector::from(Arc::new(config.unwrap()))
        };
        (Arc::new(server), client)
    }

    #[tokio::test]
    async fn only_a_client_with_one_of_the_expected_names_is_answered() {
        let (server, client) = tls_with_client_certificates();
        let peers = vec!["proxy.test".parse().unwrap(), "spare.test".parse().unwrap()];
        let simulator =
            LoopbackSimulator::open(ServeOptions { tls: Some(server), peers, control: true }).await;
        for (name, status) in [(Some("Proxy.test"), 200), (Some("other.test"), 495), (None, 496)] {
            let stream = simulator.connect().await;
            let connector = client(name);
            let mut stream =
                connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            let control = "GET /_simulator/clock HTTP/1.1\r\nHost: x\r\n\r\n";
            let requests = format!("{control}{}", get("/metadata", "Connection: close\r\n"));
            let response = send_and_receive(&mut stream, &requests).await;
            let expected = format!("HTTP/1.1 {status} ");
            assert_eq!(response.matches(&expected).count(), 2, "{name:?}: {response}");
            assert_eq!(response.contains("OperationOutcome"), status != 200);
        }
        simulator.close().await;
    }

    #[tokio::test]
    async fn a_client_without_tls_has_none_of_the_expected_names() {
        let peers = vec!["proxy.test".parse().unwrap()];
        let simulator =
            LoopbackSimulator::open(ServeOptions { peers, ..ServeOptions::default() }).await;
        let response = simulator.send(&get("/metadata", "")).await;
        assert!(response.starts_with("HTTP/1.1 496 "), "{response}");
        assert!(simulator.provider.received().is_empty());
        simulator.close().await;
    }
}
