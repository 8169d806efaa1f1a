//! A relay of hyper alone: TLS on both sides, kept connections, no checks, no record. It shows the
//! part of a request's cost that is the library's.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use gpconnect_simulator::pki::IssuedCertificate;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use testkit::test_bed::{chain, crypto, key};

/// Name of the practices' system, and the part of a target that it does not see.
const HOST_NAME: &str = "provider.example.nhs.uk";
const PREFIX: &str = "/https://provider.example.nhs.uk";

type Fault = Box<dyn std::error::Error + Send + Sync>;

thread_local! {
    static IDLE: RefCell<Vec<SendRequest<Incoming>>> = const { RefCell::new(Vec::new()) };
}

/// An answer's body, whose connection is kept for the next request once it has ended.
struct Answer {
    body: Incoming,
    sender: Option<SendRequest<Incoming>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            IDLE.with_borrow_mut(|idle| idle.extend(self.sender.take()));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves until it is ended.
pub(crate) async fn serve(folder: &Path, address: SocketAddr, provider: SocketAddr) {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let issued = |name: &str| IssuedCertificate {
        chain: read(&format!("{name}.pem")),
        key: read(&format!("{name}.key")),
        serial: 0,
    };
    let (server, gateway) = (issued("server"), issued("gateway"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(read("ca.pem").as_bytes()).unwrap()).unwrap();
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), crypto());
    let mut tls = ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain(&server), key(&server))
        .unwrap();
    tls.session_storage = ServerSessionMemoryCache::new(20_000);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let tls = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain(&gateway), key(&gateway))
        .unwrap();
    let upstream = Arc::new((TlsConnector::from(Arc::new(tls)), provider));
    let listener = TcpListener::bind(address).await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream.set_nodelay(true));
        let (acceptor, upstream) = (acceptor.clone(), Arc::clone(&upstream));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let relay = service_fn(|request| relay(request, &upstream));
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), relay).await);
        });
    }
}

async fn relay(
    mut request: Request<Incoming>,
    upstream: &(TlsConnector, SocketAddr),
) -> Result<Response<Answer>, Fault> {
    let path = request.uri().path_and_query().and_then(|path| path.as_str().strip_prefix(PREFIX));
    *request.uri_mut() = path.ok_or("another target")?.parse()?;
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().insert(HOST, HeaderValue::from_static(HOST_NAME));
    let mut sender = sender(upstream).await?;
    let (mut head, body) = sender.send_request(request).await?.into_parts();
    head.headers.remove(CONNECTION);
    Ok(Response::from_parts(head, Answer { body, sender: Some(sender) }))
}

async fn sender(upstream: &(TlsConnector, SocketAddr)) -> Result<SendRequest<Incoming>, Fault> {
    while let Some(mut sender) = IDLE.with_borrow_mut(Vec::pop) {
        if sender.ready().await.is_ok() {
            return Ok(sender);
        }
    }
    let stream = TcpStream::connect(upstream.1).await?;
    stream.set_nodelay(true)?;
    let stream = upstream.0.connect(ServerName::try_from(HOST_NAME)?, stream).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The arguments by which the bench is told to be this relay.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, hide = true, requires = "relay_folder", requires = "relay_provider")]
    pub(crate) relay_address: Option<SocketAddr>,
    #[arg(long, hide = true)]
    pub(crate) relay_folder: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub(crate) relay_provider: Option<SocketAddr>,
}
