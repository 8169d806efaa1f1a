//! A consumer's request, valid until a test changes a part of it, and its answer.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::Value;
use spine_proxy::claims;
use spine_types::interaction;
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::raw_connection::RawConnection;
use super::test_bed::{self, TestBed};

const REST: &str = "urn:nhs:names:services:gpconnect:fhir:rest:";

/// A request to the gateway, valid unless a test changes it.
#[derive(Debug, Clone)]
pub struct TestRequest {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub certificate: &'static str,
    pub claims: Value,
    pub token: Option<String>,
    pub version: Version,
    adds_content_length: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

impl TestRequest {
    /// A valid search for slots.
    pub fn slots() -> Self {
        Self::to("search:slot-1", "GET", "/Slot?status=free&start=ge2026-11-23&end=le2026-11-30")
    }

    /// A booking, valid in all that the gateway checks.
    pub fn book() -> Self {
        let mut call = Self::to("create:appointment-1", "POST", "/Appointment");
        call.body = br#"{"resourceType":"Appointment"}"#.to_vec();
        call.with("Content-Type", "application/fhir+json;charset=utf-8")
    }

    /// A valid request for an interaction, to a path below the practice's service root.
    pub fn to(interaction: &str, method: &str, path: &str) -> Self {
        let id = match interaction.starts_with("urn:") {
            true => interaction.to_owned(),
            false => format!("{REST}{interaction}"),
        };
        let known = interaction::by_id(&id);
        let root = match known.map_or("gpconnect", |known| known.capability) {
            "gpconnect/structured" => format!("{}/structured", test_bed::ROOT),
            "gpconnect/documents" => format!("{}/documents", test_bed::ROOT),
            _ => test_bed::ROOT.to_owned(),
        };
        let scope = known.map_or("patient/*.read", |known| known.scope);
        let organisation = test_bed::HUB_ODS.parse().unwrap();
        let headers = [
            ("Host", "ssp.example.nhs.uk"),
            ("Ssp-TraceID", "09a01679-2564-4fb4-9129-aecc81ea2706"),
            ("Ssp-From", test_bed::HUB),
            ("Ssp-To", test_bed::TO),
            ("Ssp-InteractionID", &id),
            ("Accept", "application/fhir+json"),
        ];
        Self {
            method: method.to_owned(),
            target: format!("/{root}{path}"),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            body: Vec::new(),
            certificate: "hub",
            claims: claims::example_claims(&root, &organisation, scope, test_bed::now_s()),
            token: None,
            version: Version::Http1,
            adds_content_length: true,
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
        if name == "Authorization" {
            self.token = Some(String::new());
        }
        self
    }

    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }

    pub fn target(mut self, target: &str) -> Self {
        self.target = target.to_owned();
        self
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub fn claim(mut self, name: &str, value: Value) -> Self {
        if value.is_null() {
            self.claims.as_object_mut().unwrap().remove(name);
        } else {
            self.claims[name] = value;
        }
        self
    }

    /// Sets the whole value of `Authorization`; empty for no header.
    pub fn token(mut self, value: &str) -> Self {
        self.token = Some(value.to_owned());
        self
    }

    pub fn certificate(mut self, name: &'static str) -> Self {
        self.certificate = name;
        self
    }

    pub fn http2(mut self) -> Self {
        self.version = Version::Http2;
        self
    }

    /// Omits the `Content-Length` that is otherwise added for a body.
    pub fn without_content_length(mut self) -> Self {
        self.adds_content_length = false;
        self
    }

    fn all_headers(&self) -> Vec<(String, String)> {
        let mut headers = self.headers.clone();
        match &self.token {
            Some(token) if token.is_empty() => {}
            Some(token) => headers.push(("Authorization".to_owned(), token.clone())),
            None => {
                let token = format!("Bearer {}", claims::mint(&self.claims));
                headers.push(("Authorization".to_owned(), token));
            }
        }
        headers
    }

    /// Returns the head and body as bytes of HTTP/1.1.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in self.all_headers() {
            text.extend(format!("{name}: ").into_bytes());
            text.extend(value.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
            text.extend(b"\r\n");
        }
        if self.adds_content_length && !self.body.is_empty() {
            text.extend(format!("Content-Length: {}\r\n", self.body.len()).into_bytes());
        }
        text.extend(b"\r\n");
        text.extend(&self.body);
        text
    }

    pub async fn connect(&self, bed: &TestBed) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_to(bed, bed.address()).await
    }

    pub async fn connect_to(
        &self,
        bed: &TestBed,
        address: std::net::SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let protocol: &[u8] = match self.version {
            Version::Http1 => b"http/1.1",
            Version::Http2 => b"h2",
        };
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(bed.consumer_tls(self.certificate, protocol));
        connector.connect(ServerName::try_from("ssp.example.nhs.uk").unwrap(), stream).await
    }

    pub async fn send(&self, bed: &TestBed) -> Answer {
        self.send_to(bed, bed.address()).await
    }

    /// Sends the request over HTTP/1.1 and returns its complete answer, or `None` if the connection fails.
    pub async fn try_send_to(
        &self,
        bed: &TestBed,
        address: std::net::SocketAddr,
    ) -> Option<Answer> {
        let mut wire = RawConnection::new(self.connect_to(bed, address).await.ok()?);
        wire.stream.write_all(&self.bytes()).await.ok()?;
        wire.stream.flush().await.ok()?;
        read_answer(&mut wire).await.filter(|answer| answer.complete)
    }

    /// Sends the request to a gateway at another address and returns its answer.
    pub async fn send_to(&self, bed: &TestBed, address: std::net::SocketAddr) -> Answer {
        let stream = self.connect_to(bed, address).await.unwrap();
        let answer = match self.version {
            Version::Http1 => {
                let mut wire = RawConnection::new(stream);
                // The gateway may answer and close before the whole request is written.
                drop(wire.stream.write_all(&self.bytes()).await);
                drop(wire.stream.flush().await);
                read_answer(&mut wire).await.expect("an answer")
            }
            Version::Http2 => self.send_http2(stream).await,
        };
        if address == bed.address() {
            Box::pin(bed.agreement.compare(bed, self, &answer)).await;
        }
        answer
    }

    /// Returns the request as a value of the `http` crate.
    pub fn request(&self) -> http::Request<Full<Bytes>> {
        let host = self.headers.iter().find(|(name, _)| name == "Host").unwrap().1.clone();
        let uri = http::Uri::builder()
            .scheme("https")
            .authority(host)
            .path_and_query(self.target.as_str())
            .build()
            .unwrap();
        let mut request = http::Request::builder().method(self.method.as_str()).uri(uri);
        for (name, value) in self.all_headers() {
            if name != "Host" {
                let bytes: Vec<_> =
                    value.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
                request = request.header(name, http::HeaderValue::from_bytes(&bytes).unwrap());
            }
        }
        let body = Full::new(Bytes::from(self.body.clone()));
        request.body(body).unwrap()
    }

    async fn send_http2(&self, stream: TlsStream<TcpStream>) -> Answer {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(self.request()).await.unwrap();
        let (head, body) = response.into_parts();
        let headers = head.headers.iter().map(|(name, value)| {
            let value = value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
            (name.to_string(), value)
        });
        let headers = headers.collect();
        let body = body.collect().await;
        let complete = body.is_ok();
        let body = body.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        Answer { status: head.status.as_u16(), headers, body, complete }
    }
}

/// Reads an answer, or returns `None` if the stream ends before its head.
pub async fn read_answer<S: AsyncRead + Unpin>(wire: &mut RawConnection<S>) -> Option<Answer> {
    let mut message = wire.head().await?;
    let status: u16 = message.start.split(' ').nth(1)?.parse().ok()?;
    if matches!(status, 100..=199 | 204 | 304) {
        message.complete = true;
    } else {
        wire.body(&mut message, true).await;
    }
    let (headers, body, complete) = (message.headers, message.body, message.complete);
    Some(Answer { status, headers, body, complete })
}

/// Returns whether a header is one that the gateway adds to every forwarded answer: the id of the exchange, and
/// the rest of the consumer's quota.
pub fn is_gateways_header(name: &str) -> bool {
    let quota = ["x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset"];
    name == "spine-proxy-exchange" || quota.contains(&name)
}

/// The gateway's answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub complete: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Returns the refusal's token, if the gateway itself answered.
    pub fn token(&self) -> Option<&str> {
        self.header("proxy-status")?.split("details=\"").nth(1)?.strip_suffix('"')
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the names of the headers in order, without those that every forwarded answer has.
    pub fn header_names(&self) -> Vec<String> {
        let names = self.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
        let mut names: Vec<_> = names.filter(|name| !is_gateways_header(name)).collect();
        names.sort();
        names
    }

    /// Asserts that headers and body have the form that every refusal has.
    pub fn assert_refusal_form(&self) {
        assert!(self.complete);
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert!(self.header("strict-transport-security").is_some());
        let known = ["cache-control", "content-length", "content-type", "date", "proxy-status"];
        let optional = ["connection", "link", "retry-after", "strict-transport-security"];
        let exchange = self.header("spine-proxy-exchange").expect("the id of the exchange");
        assert!(self.text().contains(exchange) || self.body.is_empty(), "another id in the body");
        for name in self.header_names() {
            assert!(known.contains(&&*name) || optional.contains(&&*name), "unexpected {name}");
        }
        let mut names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), self.headers.len(), "a header is repeated");
        let kind = self.header("content-type").unwrap();
        match kind {
            "application/fhir+json;charset=utf-8" => {
                assert_eq!(self.json()["resourceType"], "OperationOutcome");
                let coding = self.json()["issue"][0]["details"]["coding"].clone();
                assert_eq!(coding.as_array().unwrap().len(), 1);
            }
            _ => {
                assert_eq!(kind, "application/fhir+xml;charset=utf-8");
                assert!(self.text().starts_with("<OperationOutcome"));
            }
        }
    }
}
