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

use super::faults::{FaultWordsError, Faults, SIMULATE};
use super::peer::{self, PeerRefusal};
use super::reply::{ReplyFault, SpineErrorCode};
use super::wire::{Faulty, Wire};
use super::{Plain, SimulatedProvider, control, refusal};
use spine_types::CertificateName;

/// Limit: bytes of a request's body.
const BODY_MAX: usize = 1024 * 1024;
/// Limit: concurrent connections; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Settings of the simulator's listener.
#[derive(Debug, Clone)]
pub struct Serving {
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

impl Default for Serving {
    /// Returns settings for plain HTTP, every client, and the control interface.
    fn default() -> Self {
        Self { tls: None, peers: Vec::new(), control: true }
    }
}

/// State of a connection that its requests share.
struct ConnectionFacts<'a> {
    welcome: Result<(), PeerRefusal>,
    serving: &'a Serving,
    /// Takes the connection from the HTTP server, with the faulty response to write on it.
    take: mpsc::Sender<Faulty>,
}

impl SimulatedProvider {
    /// Accepts connections until `stop` resolves, then closes those that are open.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        serving: Serving,
        stop: impl Future<Output = ()>,
    ) {
        let serving = Arc::new(serving);
        let attend = |stream| Arc::clone(&self).serve_connection(stream, Arc::clone(&serving));
        accept(&listener, stop, attend).await;
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, serving: Arc<Serving>) {
        if let Some(tls) = &serving.tls {
            let acceptor = TlsAcceptor::from(Arc::clone(tls));
            let Some(stream) = secured(stream, &acceptor).await else { return };
            let welcome = peer::judge(stream.get_ref().1.peer_certificates(), &serving.peers);
            self.serve_http(stream, welcome, &serving).await;
        } else if stream.set_nodelay(true).is_ok() {
            self.serve_http(stream, peer::judge(None, &serving.peers), &serving).await;
        }
    }

    /// Answers the requests of a connection until it ends, through the HTTP server or, for responses
    /// with faults, directly on the stream.
    async fn serve_http<W: Wire>(
        &self,
        mut wire: W,
        welcome: Result<(), PeerRefusal>,
        serving: &Serving,
    ) {
        let (take, mut taken) = mpsc::channel(1);
        let facts = ConnectionFacts { welcome, serving, take };
        loop {
            let answer = service_fn(|request| self.exchange(&facts, request));
            let Some((freed, used, taken)) = serve_requests(wire, answer, taken.recv()).await
            else {
                return;
            };
            let Some(faulty) = taken else { return };
            let Some(again) = faulty.write(freed, used).await else { return };
            wire = again;
        }
    }

    /// Reads a whole request and answers it.
    ///
    /// A response with faults takes the connection from the HTTP server; the future then never ends.
    async fn exchange(
        &self,
        facts: &ConnectionFacts<'_>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Unread> {
        let (mut head, mut body) = request.into_parts();
        if facts.serving.tls.is_none() {
            head.extensions.insert(Plain);
        }
        let (faults, mut response) = match self.answer_at(facts, &head, &mut body).await {
            Err(unread @ (Unread::TooLong | Unread::Slow)) => {
                let fault = match unread {
                    Unread::Slow => {
                        ReplyFault::new(SpineErrorCode::TimedOut, "the body did not come in 30 s")
                    }
                    Unread::TooLong | Unread::Gone => ReplyFault::new(
                        SpineErrorCode::BodyTooLarge,
                        "the body is longer than 1 MiB",
                    ),
                };
                let number = self.remember(&head, b"", self.clock.now());
                self.note_status(number, fault.status());
                (Faults::default(), refusal(&head, fault))
            }
            answered => answered?,
        };
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("spine-proxy-simulator"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if faults.are_none() {
            return Ok(response.map(Full::new));
        }
        drop(facts.take.send(Faulty::new(&head, faults, response)).await);
        std::future::pending().await
    }

    async fn answer_at(
        &self,
        facts: &ConnectionFacts<'_>,
        head: &Parts,
        body: &mut Incoming,
    ) -> Result<(Faults, Response<Bytes>), Unread> {
        if let Err(unwelcome) = facts.welcome {
            let (status, why) = unwelcome.answer();
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
            return Ok((Faults::default(), refusal(head, ReplyFault::simulated(status, why))));
        }
        if facts.serving.control && head.uri.path().starts_with(control::BEGINNING) {
            let body = read(body).await?;
            return Ok((Faults::default(), control::follow(self, head, &body)));
        }
        let faults = self.faults_of(head);
        let early = faults.as_ref().is_ok_and(|faults| faults.early);
        let body = if early { Bytes::new() } else { read(body).await? };
        Ok(self.answer_with(faults, head, &body))
    }

    /// Returns the faults for a request: those of its `X-Simulate` header, or else of a script.
    fn faults_of(&self, head: &Parts) -> Result<Faults, FaultWordsError> {
        let mut said = head.headers.get_all(SIMULATE).iter().peekable();
        if said.peek().is_none() {
            let found = self.find(head.uri.path());
            return Ok(found.map_or_else(Faults::default, |(surgery, _)| {
                self.scripts.next(&surgery.practice.ods, head)
            }));
        }
        let texts: Result<Vec<&str>, _> = said.map(HeaderValue::to_str).collect();
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
                let performed = faults.perform().then(|| self.carry_out(head, body, now));
                let response = faults.instead(head).or(performed).unwrap_or_default();
                (faults, response)
            }
            Err(unclear) => {
                let fault = ReplyFault::bad_request(format!("X-Simulate: {unclear}"));
                (Faults::default(), refusal(head, fault))
            }
        };
        if faults.answer() {
            self.note_status(number, response.status());
        }
        (faults, response)
    }
}

/// Reads a whole body, of at most 1 MiB and within 30 s.
async fn read(body: &mut Incoming) -> Result<Bytes, Unread> {
    let whole = tokio::time::timeout(HEAD_DEADLINE, Limited::new(body, BODY_MAX).collect());
    match whole.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(fault)) if fault.is::<LengthLimitError>() => Err(Unread::TooLong),
        Ok(Err(_)) => Err(Unread::Gone),
        Err(_) => Err(Unread::Slow),
    }
}

/// Answers requests until the connection ends or `taken` resolves.
///
/// If `taken` resolves, returns the stream, true if bytes beyond the answered requests have been read
/// from it, and the output of `taken`. Earlier responses are then written completely, unless the
/// client pipelines requests and does not read.
pub(super) async fn serve_requests<W, S, B, T>(
    wire: W,
    answer: S,
    taken: impl Future<Output = T>,
) -> Option<(W, bool, T)>
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
        .serve_connection(TokioIo::new(wire), answer);
    tokio::select! {
        biased;
        taken = taken => {
            let parts = connection.into_parts();
            Some((parts.io.into_inner(), !parts.read_buf.is_empty(), taken))
        }
        served = &mut connection => {
            if let Err(fault) = served {
                tracing::debug!(%fault, "a connection to the simulator ended with an error");
            }
            None
        }
    }
}

/// Spawns `attend` for each connection until `stop` resolves, then aborts the tasks still running.
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
pub(super) async fn secured(
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
#[derive(Debug, thiserror::Error)]
enum Unread {
    /// Connection lost, so that no response is possible.
    #[error("the body of the request did not arrive")]
    Gone,
    #[error("the body of the request is too long")]
    TooLong,
    #[error("the body of the request came too slowly")]
    Slow,
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::AsyncWriteExt as _;
    use tokio_rustls::TlsConnector;

    use super::super::lab::{Lab, body_of, get, heard, heard_to};
    use super::super::stage::{BASE, code_of, tls};
    use super::*;

    #[tokio::test]
    async fn answers_name_the_simulator_and_may_not_be_stored() {
        let (server, connector) = tls();
        let lab = Lab::open(Serving { tls: Some(server), ..Serving::default() }).await;
        let mut stream =
            connector.connect("localhost".try_into().unwrap(), lab.connect().await).await.unwrap();
        let told = heard(&mut stream, &get("/metadata", "Connection: close\r\n")).await;
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
        assert!(told.contains("server: spine-proxy-simulator\r\n"), "{told}");
        assert!(told.contains("cache-control: no-store\r\n"), "{told}");
        lab.close().await;
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_not_read() {
        let lab = Lab::open(Serving::default()).await;
        let length = BODY_MAX + 1;
        let head = format!(
            "POST {BASE}/Appointment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut stream = lab.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // The response may arrive, and the connection close, before the whole body is sent.
        drop(stream.write_all(&vec![b' '; length]).await);
        let told = heard_to(&mut stream, "\r\n\r\n").await;
        assert!(told.starts_with("HTTP/1.1 413 "), "{told}");
        assert!(told.contains("cache-control: no-store\r\n"), "{told}");
        lab.close().await;
    }

    #[tokio::test]
    async fn a_word_that_is_unknown_is_refused_and_nothing_is_done() {
        let lab = Lab::open(Serving::default()).await;
        for said in ["slow", "", "cut=1; cut=1", "close\r\nX-Simulate: reset", "\u{e9}"] {
            let told = lab.say(&get("/metadata", &format!("X-Simulate: {said}\r\n"))).await;
            assert!(told.starts_with("HTTP/1.1 400 "), "{said}: {told}");
            assert_eq!(code_of(&body_of(&told)), "BAD_REQUEST");
        }
        let told = lab.say(&get("/metadata", "X-Simulate: slow\r\n")).await;
        assert!(told.contains("the words are none; delay=<duration>; "), "{told}");
        assert_eq!(lab.provider.received().len(), 6);
        lab.close().await;
    }

    #[tokio::test]
    async fn a_call_that_says_what_is_to_go_wrong_is_not_counted_by_scripts() {
        let lab = Lab::open(Serving::default()).await;
        let ods = "A20047".parse().unwrap();
        let faults: Faults = "status=503".parse().unwrap();
        let script = super::super::Script {
            share: 50,
            methods: Vec::new(),
            interactions: Vec::new(),
            faults,
        };
        lab.provider.script(&ods, script.clone()).unwrap();
        assert!(lab.provider.script(&"Z99999".parse().unwrap(), script).is_err());
        let mut statuses = Vec::new();
        for said in ["", "X-Simulate: none\r\n", "X-Simulate: status=500\r\n", "", "", ""] {
            let told = lab.say(&get("/metadata", said)).await;
            statuses.push(told.split(' ').nth(1).unwrap().to_owned());
        }
        assert_eq!(statuses, ["200", "200", "500", "503", "200", "503"]);
        let kept: Vec<_> = lab.provider.received().iter().filter_map(|one| one.status).collect();
        assert_eq!(kept.len(), 6);
        assert_eq!(kept[3], 503);
        lab.close().await;
    }

    #[tokio::test]
    async fn the_simulator_is_steered_on_the_same_listener_if_it_may_be() {
        let clock = r#"{"now":"2030-01-01T12:00:00Z"}"#;
        let put = format!(
            "PUT /_simulator/clock HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{clock}",
            clock.len()
        );
        let list = "GET /_simulator/requests HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                    X-Simulate: reset\r\n\r\n";
        let lab = Lab::open(Serving::default()).await;
        assert!(lab.say(&put).await.starts_with("HTTP/1.1 200 "));
        lab.say(&get("/metadata", "X-Simulate: status-after=500\r\n")).await;
        let listed = body_of(&lab.say(list).await);
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed[0]["status"], 500);
        // The clock that was set runs on.
        assert!(listed[0]["time"].as_str().unwrap().starts_with("2030-01-01T12:"), "{listed}");
        lab.close().await;

        let lab = Lab::open(Serving { control: false, ..Serving::default() }).await;
        let told = lab.say(&put).await;
        assert!(told.starts_with("HTTP/1.1 404 "), "{told}");
        assert_eq!(body_of(&told)["resourceType"], "OperationOutcome");
        lab.close().await;
    }

    /// Returns a server that accepts certificates of one authority and clients without one, and a
    /// function that makes such clients.
    fn guarded() -> (Arc<ServerConfig>, impl Fn(Option<&str>) -> TlsConnector) {
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
    async fn only_a_peer_with_one_of_the_names_is_answered() {
        let (server, client) = guarded();
        let peers = vec!["proxy.test".parse().unwrap(), "spare.test".parse().unwrap()];
        let lab = Lab::open(Serving { tls: Some(server), peers, control: true }).await;
        for (name, status) in [(Some("Proxy.test"), 200), (Some("other.test"), 495), (None, 496)] {
            let stream = lab.connect().await;
            let connector = client(name);
            let mut stream =
                connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            let steer = "GET /_simulator/clock HTTP/1.1\r\nHost: x\r\n\r\n";
            let asked = format!("{steer}{}", get("/metadata", "Connection: close\r\n"));
            let told = heard(&mut stream, &asked).await;
            let expected = format!("HTTP/1.1 {status} ");
            assert_eq!(told.matches(&expected).count(), 2, "{name:?}: {told}");
            assert_eq!(told.contains("OperationOutcome"), status != 200);
        }
        lab.close().await;
    }

    #[tokio::test]
    async fn nobody_is_a_peer_without_tls() {
        let peers = vec!["proxy.test".parse().unwrap()];
        let lab = Lab::open(Serving { peers, ..Serving::default() }).await;
        let told = lab.say(&get("/metadata", "")).await;
        assert!(told.starts_with("HTTP/1.1 496 "), "{told}");
        assert!(lab.provider.received().is_empty());
        lab.close().await;
    }
}
