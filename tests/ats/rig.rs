//! The rig: one simulator and one gateway in front of it, and a client on either leg.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gpconnect_simulator::pki::{IssuedCertificate, KeyKind, Leaf};
use gpconnect_simulator::{
    InventedPerson, Registration, ServeOptions, SimulatedPractice, SimulatedProvider, people,
};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateRevocationListDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::case::{Format, Given, XML};
use super::hello;
use super::request::{Hello, Request, ask};
use super::resources::{booking, cancelled};
use testkit::TestBed;
use testkit::test_bed::{self, HUB, HUB_ODS};

const HOST: &str = "provider.example.nhs.uk";

/// Where the client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    /// In the proxy's place, with the proxy's certificate.
    Direct,
    /// In a consumer's place, in front of the proxy.
    Proxied,
}

pub(super) struct Rig {
    bed: TestBed,
    simulator: SocketAddr,
    leg: Leg,
    practices: Vec<SimulatedPractice>,
    line: RefCell<Option<SendRequest<Full<Bytes>>>>,
    slots: RefCell<Option<Vec<Open>>>,
    offered: RefCell<Vec<String>>,
    newcomers: RefCell<Vec<(usize, InventedPerson)>>,
    today: Date,
    _running: DropGuard,
}

/// A free slot, and who is there.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) slot: Value,
    pub(super) actors: Vec<String>,
}

/// What a request may be made from.
pub(super) struct Scene {
    pub(super) today: Date,
    pub(super) root: String,
    pub(super) slots: Vec<Open>,
    /// The ids of all slots that anybody was offered at first.
    pub(super) offered: Vec<String>,
    pub(super) booked: Value,
    pub(super) newcomer: Option<(usize, InventedPerson)>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Rig {
    /// `newcomers` is how many can be registered; `key` is what the servers' certificates have.
    pub(super) async fn start(leg: Leg, newcomers: usize, key: KeyKind) -> Self {
        let newly = |person: &InventedPerson| person.registration == Registration::Unregistered;
        let unregistered: Vec<InventedPerson> = people().into_iter().filter(newly).collect();
        let count = newcomers.div_ceil(unregistered.len()).max(1);
        let practices: Vec<SimulatedPractice> = (0..count).map(practice).collect();
        let bed = TestBed::with(|files| {
            files.prepend("lab = true");
            files.set("tls", "plain-http = \"close\"");
            files.add(&format!(
                "[compatibility.{HUB}]\nerrors = \"gpconnect\"\naudience = [\"token-url\"]"
            ));
        })
        .await;
        let leaf = |name: &str| bed.pki.issue(&Leaf { key, ..Leaf::named(name) }).unwrap();
        let stop = CancellationToken::new();
        let simulator = simulate(&bed, &leaf(HOST), practices.clone(), stop.clone()).await;
        bed.replace("directory.toml", &directory(&practices, simulator));
        if key == KeyKind::Rsa {
            let server = leaf("ssp.example.nhs.uk");
            bed.replace("server.pem", &server.chain);
            bed.replace("server.key", &server.key);
        }
        bed.server.reload().await.unwrap();
        let each = (0..count).flat_map(|at| unregistered.iter().map(move |one| (at, one.clone())));
        Self {
            leg,
            simulator,
            newcomers: RefCell::new(each.collect()),
            bed,
            practices,
            line: RefCell::default(),
            slots: RefCell::default(),
            offered: RefCell::default(),
            today: now().date(),
            _running: stop.drop_guard(),
        }
    }

    /// Puts there what a row needs.
    pub(super) async fn prepare(&self, given: Given) -> Result<Scene, String> {
        let mut scene = Scene {
            today: self.today,
            root: format!("https://{HOST}{}", self.practices[0].base_path),
            slots: Vec::new(),
            offered: Vec::new(),
            booked: Value::Null,
            newcomer: None,
        };
        match given {
            Given::Nothing => {}
            Given::Offer => {
                self.look_for_slots().await?;
                scene.offered = self.offered.borrow().clone();
            }
            Given::Slots => scene.slots = self.take(None).await?,
            Given::Channel(channel) => scene.slots = self.take(Some(channel)).await?,
            Given::Newcomer => {
                let newcomer = self.newcomers.borrow_mut().pop();
                scene.newcomer = Some(newcomer.ok_or("everybody is registered")?);
            }
            Given::Booked | Given::Cancelled => {
                scene.slots = self.take(None).await?;
                scene.booked = self.book(&scene).await?;
                if given == Given::Cancelled {
                    scene.booked = self.cancel(&scene).await?;
                }
            }
        }
        Ok(scene)
    }

    async fn book(&self, scene: &Scene) -> Result<Value, String> {
        let book = ask("rest:create:appointment-1", "/Appointment").resource(booking(scene));
        let heard = self.send(&book).await?;
        if heard.status == 201 { Ok(heard.json()) } else { Err(heard.gist()) }
    }

    async fn cancel(&self, scene: &Scene) -> Result<Value, String> {
        let path = format!("/Appointment/{}", scene.id());
        let body = cancelled(&scene.booked);
        let heard = self.send(&ask("rest:cancel:appointment-1", path).resource(body)).await?;
        if heard.status == 200 { Ok(heard.json()) } else { Err(heard.gist()) }
    }

    /// Two adjacent slots that no other row gets, or one of this channel.
    async fn take(&self, channel: Option<&str>) -> Result<Vec<Open>, String> {
        self.look_for_slots().await?;
        let mut pool = self.slots.borrow_mut();
        let pool = pool.as_mut().unwrap();
        if let Some(channel) = channel {
            let at = pool.iter().position(|open| open.channel() == channel);
            return Ok(vec![pool.remove(at.ok_or(format!("no free slot is {channel}"))?)]);
        }
        for at in 0..pool.len() {
            let next = pool.iter().position(|open| {
                open.slot["start"] == pool[at].slot["end"]
                    && open.slot["schedule"] == pool[at].slot["schedule"]
                    && open.channel() == pool[at].channel()
            });
            if let Some(next) = next {
                let pair = vec![pool[at].clone(), pool[next].clone()];
                pool.retain(|open| pair.iter().all(|taken| taken.slot["id"] != open.slot["id"]));
                return Ok(pair);
            }
        }
        Err("no two adjacent slots are free".to_owned())
    }

    /// Finds all free slots, the first time they are needed.
    async fn look_for_slots(&self) -> Result<(), String> {
        if self.slots.borrow().is_none() {
            let found = self.find_slots().await?;
            let ids = found.iter().map(|open| open.slot["id"].as_str().unwrap().to_owned());
            *self.offered.borrow_mut() = ids.collect();
            *self.slots.borrow_mut() = Some(found);
        }
        Ok(())
    }

    async fn find_slots(&self) -> Result<Vec<Open>, String> {
        let (from, to) = (self.today + 1.day(), self.today + 14.days());
        let query = format!("status=free&start=ge{from}&end=le{to}&_include=Slot:schedule");
        let heard = self.send(&ask("rest:search:slot-1", format!("/Slot?{query}"))).await?;
        let schedules = heard.resources("Schedule");
        let open = |slot: Value| {
            let named = slot["schedule"]["reference"].as_str()?;
            let id = named.strip_prefix("Schedule/")?;
            let schedule = schedules.iter().find(|schedule| schedule["id"] == id)?;
            let actors = schedule["actor"].as_array()?.iter();
            let actors = actors.map(|actor| actor["reference"].as_str().unwrap().to_owned());
            Some(Open { actors: actors.collect(), slot })
        };
        let found: Vec<Open> = heard.resources("Slot").into_iter().filter_map(open).collect();
        if found.is_empty() { Err(heard.gist()) } else { Ok(found) }
    }

    /// Sends a request; an error is a connection that ended without an answer.
    pub(super) async fn send(&self, request: &Request) -> Result<Heard, String> {
        match request.hello {
            Hello::Plain => return self.plain(request).await,
            Hello::Bare(suite) => return self.bare(suite).await,
            Hello::Usual | Hello::Suite(_) => {}
        }
        let usual = request.hello == Hello::Usual && request.certificate == "hub";
        let kept = self.line.borrow_mut().take().filter(|_| usual);
        let mut line = match kept {
            Some(line) => line,
            None => self.connect(request).await?,
        };
        if line.ready().await.is_err() {
            line = self.connect(request).await?;
        }
        let response = line.send_request(self.message(request)).await.map_err(text)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(text)?.to_bytes();
        if usual {
            *self.line.borrow_mut() = Some(line);
        }
        Ok(Heard { status: head.status.as_u16(), headers: head.headers, body })
    }

    fn address(&self) -> SocketAddr {
        match self.leg {
            Leg::Direct => self.simulator,
            Leg::Proxied => self.bed.address(),
        }
    }

    fn host(&self) -> &'static str {
        match self.leg {
            Leg::Direct => HOST,
            Leg::Proxied => "ssp.example.nhs.uk",
        }
    }

    fn message(&self, request: &Request) -> http::Request<Full<Bytes>> {
        let practice = &self.practices[request.practice];
        let before = match self.leg {
            Leg::Direct => String::new(),
            Leg::Proxied => format!("/https://{HOST}"),
        };
        let target = format!("{before}{}{}", practice.base_path, request.path);
        let mut message = http::Request::builder().method(request.method).uri(target);
        message = message.header("host", self.host());
        let headers = request.all_headers();
        if headers.iter().all(|(name, _)| *name != "ssp-to") {
            message = message.header("ssp-to", practice.asid.as_str());
        }
        for (name, value) in headers {
            message = message.header(name, value);
        }
        message.body(Full::new(request.body().into())).unwrap()
    }

    async fn connect(&self, request: &Request) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect(self.address()).await.map_err(text)?;
        let connector = TlsConnector::from(self.tls(request));
        let name = ServerName::try_from(self.host()).unwrap();
        let stream = connector.connect(name, stream).await.map_err(text)?;
        let (line, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(connection);
        Ok(line)
    }

    fn tls(&self, request: &Request) -> Arc<ClientConfig> {
        let certificate = match (request.certificate, self.leg) {
            ("hub", Leg::Direct) => "gateway",
            (other, _) => other,
        };
        let Hello::Suite(suite) = request.hello else {
            return self.bed.consumer_tls(certificate, b"http/1.1");
        };
        let mut crypto = rustls::crypto::aws_lc_rs::default_provider();
        crypto.cipher_suites.retain(|known| known.suite() == suite);
        let issued = &self.bed.issued[certificate];
        let config = ClientConfig::builder_with_provider(Arc::new(crypto))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(test_bed::roots(&self.bed.pki))
            .with_client_auth_cert(test_bed::chain(issued), test_bed::key(issued))
            .unwrap();
        Arc::new(config)
    }

    /// The same request in the clear.
    async fn plain(&self, request: &Request) -> Result<Heard, String> {
        let mut stream = TcpStream::connect(self.address()).await.map_err(text)?;
        let base = &self.practices[0].base_path;
        let head = format!("GET {base}{} HTTP/1.1\r\nHost: {}\r\n\r\n", request.path, self.host());
        stream.write_all(head.as_bytes()).await.map_err(text)?;
        let mut told = Vec::new();
        // What ends in a reset has told what it had to tell before.
        drop(stream.read_to_end(&mut told).await);
        let told = String::from_utf8_lossy(&told);
        let status = told.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or("no HTTP was spoken")?;
        Ok(Heard { status, headers: http::HeaderMap::new(), body: Bytes::new() })
    }

    async fn bare(&self, suite: u16) -> Result<Heard, String> {
        let mut stream = TcpStream::connect(self.address()).await.map_err(text)?;
        stream.write_all(&hello::offering(suite, self.host())).await.map_err(text)?;
        let mut record = [0; 1];
        stream.read_exact(&mut record).await.map_err(text)?;
        match record {
            [22] => Ok(Heard { status: 200, headers: http::HeaderMap::new(), body: Bytes::new() }),
            _ => Err("the hello was not taken".to_owned()),
        }
    }
}

impl Open {
    pub(super) fn channel(&self) -> &str {
        let extensions = self.slot["extension"].as_array();
        let mut codes =
            extensions.into_iter().flatten().filter_map(|one| one["valueCode"].as_str());
        codes.next().unwrap_or_default()
    }

    /// The reference to its location, or to its practitioner.
    pub(super) fn actor(&self, kind: &str) -> Option<&str> {
        self.actors.iter().map(String::as_str).find(|actor| actor.starts_with(kind))
    }
}

impl Scene {
    /// The id of the appointment that was booked.
    pub(super) fn id(&self) -> &str {
        self.booked["id"].as_str().unwrap_or("0")
    }

    pub(super) fn etag(&self) -> String {
        format!("W/\"{}\"", self.booked["meta"]["versionId"].as_str().unwrap_or_default())
    }

    pub(super) fn newcomer(&self) -> &InventedPerson {
        &self.newcomer.as_ref().unwrap().1
    }
}

impl Heard {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The word of the proxy's own refusal, or nothing.
    pub(super) fn token(&self) -> &str {
        let told = self.header("proxy-status").split("details=\"").nth(1).unwrap_or_default();
        told.trim_end_matches('"')
    }

    /// The Spine code of an `OperationOutcome`, in either format.
    pub(super) fn code(&self) -> String {
        let json = self.json();
        if let Some(code) = json.pointer("/issue/0/details/coding/0/code") {
            return code.as_str().unwrap_or_default().to_owned();
        }
        let text = self.text();
        let coding = text.split("<coding>").nth(1).unwrap_or_default();
        let code = coding.split("<code value=\"").nth(1).unwrap_or_default();
        code.split('"').next().unwrap_or_default().to_owned()
    }

    /// Whether this is a resource of the kind, in either format.
    pub(super) fn is(&self, kind: &str) -> bool {
        if self.header("content-type").starts_with(XML) {
            return root_element(&self.text()).starts_with(&format!("<{kind} "));
        }
        self.json()["resourceType"] == kind
    }

    pub(super) fn is_encoded(&self, format: Format) -> bool {
        match format {
            Format::Json => self.json().is_object(),
            Format::Xml => root_element(&self.text()).contains("xmlns=\"http://hl7.org/fhir\""),
        }
    }

    /// All resources of a kind in a bundle.
    pub(super) fn resources(&self, kind: &str) -> Vec<Value> {
        resources(&self.json(), kind)
    }

    /// The beginning of it, for whoever reads a failure.
    pub(super) fn gist(&self) -> String {
        let text: String = self.text().chars().take(300).collect();
        format!("{} {} {text}", self.status, self.token())
    }
}

/// All resources of a kind in a bundle.
pub(super) fn resources(bundle: &Value, kind: &str) -> Vec<Value> {
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    let all = entries.into_iter().map(|entry| entry["resource"].clone());
    all.filter(|resource| resource["resourceType"] == kind).collect()
}

/// The first tag of a document.
fn root_element(text: &str) -> &str {
    let start = match text.trim_start() {
        declared if declared.starts_with("<?") => declared.split_once("?>").unwrap_or_default().1,
        bare => bare,
    };
    start.trim_start().split_inclusive('>').next().unwrap_or_default()
}

/// Now, on a practice's clock.
pub(super) fn now() -> Zoned {
    Timestamp::now().to_zoned(TimeZone::get("Europe/London").unwrap())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn practice(at: usize) -> SimulatedPractice {
    let ods = format!("A{:05}", 20_047 + at);
    let asid = (918_999_198_993 + at).to_string().parse().unwrap();
    let base_path = format!("/{ods}/STU3/1/gpconnect");
    SimulatedPractice::new(ods.parse().unwrap(), asid, &format!("Surgery {at}"), &base_path)
}

/// The one place that serves the simulator.
async fn simulate(
    bed: &TestBed,
    issued: &IssuedCertificate,
    practices: Vec<SimulatedPractice>,
    stop: CancellationToken,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let provider = Arc::new(SimulatedProvider::new(practices, Timestamp::now()));
    let tls = simulator_tls(bed, issued);
    let serving = ServeOptions {
        tls: Some(tls),
        peers: vec!["gateway.ssp.example.nhs.uk".parse().unwrap()],
        control: true,
    };
    tokio::spawn(provider.serve(listener, serving, stop.cancelled_owned()));
    address
}

/// A provider demands a certificate of the Spine's authority, within its dates and not revoked.
fn simulator_tls(bed: &TestBed, issued: &IssuedCertificate) -> Arc<ServerConfig> {
    let lists = bed.text("crl.pem");
    let lists = CertificateRevocationListDer::pem_slice_iter(lists.as_bytes());
    let roots = Arc::new(test_bed::roots(&bed.pki));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, test_bed::crypto())
        .with_crls(lists.map(Result::unwrap))
        .allow_unauthenticated()
        .build();
    let config = ServerConfig::builder_with_provider(test_bed::crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(test_bed::chain(issued), test_bed::key(issued))
        .unwrap();
    Arc::new(config)
}

fn directory(practices: &[SimulatedPractice], simulator: SocketAddr) -> String {
    let listed = practices.iter().map(|practice| {
        let SimulatedPractice { ods, asid, base_path, .. } = practice;
        format!(
            "[[provider]]\nods = \"{ods}\"\nasid = \"{asid}\"\nparty-key = \"{ods}-1000001\"\n\
             cpa-id = \"S{asid}\"\nroot = \"https://{HOST}{base_path}\"\n\
             interactions = [\"appointments\", \"foundations\"]\ndial = \"{simulator}\"\n\n"
        )
    });
    let listed: String = listed.collect();
    format!(
        "[[consumer]]\nname = \"Hub\"\nasids = [\"{HUB}\"]\ncertificate-names = [\"hub.example.nhs.uk\"]\n\
         ods = \"{HUB_ODS}\"\ninteractions = [\"appointments\", \"foundations\"]\n\n{listed}\
         [[agreement]]\nfrom = [\"{HUB}\"]\nto = \"every-practice\"\n"
    )
}
