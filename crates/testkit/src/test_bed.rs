//! A gateway with a provider, a directory and a PKI, all on free ports of loopback.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use gpconnect_simulator::pki::{IssuedCertificate, Leaf, Pki};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::Value;
use spine_proxy::metrics::Metrics;
use spine_proxy::server::Prepared;
use spine_proxy::server::Server;

use super::agreement::Agreement;
use super::files::Files;
use super::leak_check::LeakCheckedFolder;
use super::provider::Provider;
use super::raw_connection::RawConnection;
use super::request::{Answer, TestRequest};

/// ASID of the consumer that is registered for every interaction.
pub const HUB: &str = "200000000359";
pub const HUB_ODS: &str = "A00001";
/// ASID of a consumer that is registered for the search for slots alone and has no agreement.
pub const CLINIC: &str = "200000000360";
pub const CLINIC_ODS: &str = "A00002";
/// ASID of the practice that most tests use.
pub const TO: &str = "918999198993";
pub const ODS: &str = "A20047";
pub const ROOT: &str = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect";
/// ASID of a second practice on the same host.
pub const OTHER_TO: &str = "918999198994";
pub const OTHER_ROOT: &str = "https://provider.example.nhs.uk/B82617/STU3/1/gpconnect";
/// ASID of a practice that has no agreement with any consumer.
pub const APART_TO: &str = "918999198995";
pub const APART_ROOT: &str = "https://provider.example.nhs.uk/C81004/STU3/1/gpconnect";

pub const CONFIG: &str = r#"
[listener]
addresses = ["127.0.0.1:0"]
names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"]
workers = 1
proxy-name = "spine-proxy"

[tls]
certificates = [{ chain = "server.pem", key = "server.key" }]
authorities = ["ca.pem"]
crl = ["crl.pem"]

[provider]
networks = ["127.0.0.0/8"]

[provider-tls]
certificate = { chain = "gateway.pem", key = "gateway.key" }
authorities = ["ca.pem"]
crl = ["crl.pem"]

[directory]
file = "directory.toml"

[audit]
journal = "audit"

[admin]
address = "127.0.0.1:0"
"#;

pub const DIRECTORY: &str = r#"
[[consumer]]
name = "Hub"
asids = ["200000000359"]
certificate-names = ["hub.example.nhs.uk"]
ods = "A00001"
interactions = ["appointments", "foundations", "structured", "documents"]

[[consumer]]
name = "Clinic"
asids = ["200000000360"]
certificate-names = ["clinic.example.nhs.uk"]
ods = "A00002"
interactions = ["urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1"]

[[provider]]
ods = "A20047"
asid = "918999198993"
party-key = "A20047-1000001"
cpa-id = "S000000000001"
root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect"
interactions = ["appointments", "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1", "urn:nhs:names:services:gpconnect:fhir:rest:search:patient-1", "urn:nhs:names:services:gpconnect:fhir:rest:read:patient-1", "urn:nhs:names:services:gpconnect:fhir:operation:gpc.registerpatient-1"]
dial = "@provider@"

[[provider]]
ods = "A20047"
asid = "918999198993"
party-key = "A20047-1000001"
cpa-id = "S000000000002"
root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/structured"
interactions = ["structured"]
dial = "@provider@"

[[provider]]
ods = "A20047"
asid = "918999198993"
party-key = "A20047-1000001"
cpa-id = "S000000000003"
root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/documents"
interactions = ["documents"]
dial = "@provider@"

[[provider]]
ods = "B82617"
asid = "918999198994"
party-key = "B82617-1000001"
cpa-id = "S000000000004"
root = "https://provider.example.nhs.uk/B82617/STU3/1/gpconnect"
interactions = ["appointments", "foundations"]
dial = "@provider@"

[[provider]]
ods = "C81004"
asid = "918999198995"
party-key = "C81004-1000001"
cpa-id = "S000000000005"
root = "https://provider.example.nhs.uk/C81004/STU3/1/gpconnect"
interactions = ["appointments", "foundations"]
dial = "@provider@"

[[agreement]]
from = ["200000000359"]
to = ["918999198993", "918999198994"]
"#;

/// A running gateway and its surroundings. Each test has its own.
pub struct TestBed {
    pub folder: LeakCheckedFolder,
    pub pki: Pki,
    pub issued: HashMap<&'static str, IssuedCertificate>,
    pub provider: Provider,
    pub server: Server,
    /// Comparisons of answers with `explain`.
    pub agreement: Agreement,
}

impl TestBed {
    /// Starts a gateway with the usual files.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a gateway whose files are changed before.
    pub async fn with(change: impl FnOnce(&mut Files)) -> Self {
        let folder = LeakCheckedFolder(tempfile::tempdir().unwrap());
        let pki = Pki::new(now_s()).unwrap();
        let mut files = Files::default();
        let mut issued = HashMap::new();
        for (name, leaf) in leaves() {
            let certificate = pki.issue(&leaf).unwrap();
            files.put(&format!("{name}.pem"), &certificate.chain);
            files.put(&format!("{name}.key"), &certificate.key);
            issued.insert(name, certificate);
        }
        let foreign = Pki::new(now_s()).unwrap();
        issued.insert("foreign", foreign.issue(&Leaf::named("hub.example.nhs.uk")).unwrap());
        let revoked = [issued["revoked"].serial];
        files.put("ca.pem", &pki.authority());
        files.put("crl.pem", &pki.revocation_lists(&revoked, 30).unwrap());
        let provider = Provider::start(provider_tls(&pki, &issued["provider"])).await;
        files.put("spine-proxy.toml", CONFIG);
        let address = provider.address.to_string();
        files.put("directory.toml", &DIRECTORY.replace("@provider@", &address));
        files
            .set("provider", &format!("hosts = {{ \"provider.example.nhs.uk\" = \"{address}\" }}"));
        change(&mut files);
        files.relax_limits();
        files.write(folder.path());
        let config = folder.path().join("spine-proxy.toml");
        let prepared = Prepared::load(&config, 1).unwrap_or_else(|failure| panic!("{failure}"));
        let server = Server::start(prepared, Some(config)).unwrap();
        let agreement = Agreement::new(folder.path());
        Self { folder, pki, issued, provider, server, agreement }
    }

    /// Stops the gateway and starts another over the same files.
    pub async fn restart(self) -> Self {
        let Self { folder, pki, issued, provider, server, .. } = self;
        server.stop().await;
        let config = folder.path().join("spine-proxy.toml");
        let prepared = Prepared::load(&config, 1).unwrap_or_else(|failure| panic!("{failure}"));
        let server = Server::start(prepared, Some(config)).unwrap();
        let agreement = Agreement::new(folder.path());
        Self { folder, pki, issued, provider, server, agreement }
    }

    /// Sends a request and returns its answer.
    pub async fn send(&self, call: TestRequest) -> Answer {
        call.send(self).await
    }

    /// Sends a request and asserts that it is refused with this token: by the answer, by the record, and by
    /// no request at the provider.
    pub async fn expect_refusal(&self, call: TestRequest, token: &str) -> Answer {
        let received = self.provider.received().len();
        let lines = self.exchange_lines().await.len();
        let answer = call.send(self).await;
        assert_eq!(answer.token(), Some(token), "{answer:?}");
        let row = row(token);
        assert_eq!(answer.status, row.status);
        answer.assert_refusal_form();
        let lines = self.exchange_lines().await.split_off(lines);
        let closed: Vec<_> = lines.iter().filter(|line| line["event"] == "closed").collect();
        assert_eq!(closed.len(), 1, "{token}: {lines:?}");
        assert_eq!(closed[0]["refusal"], token);
        assert_eq!(closed[0]["status"], row.status);
        assert_eq!(closed[0]["outcome"], "refused");
        assert_eq!(lines.len(), 1, "{token}: a refused request leaves one line: {lines:?}");
        assert_eq!(self.provider.received().len(), received, "{token}: the provider was asked");
        answer
    }

    /// Returns the lines of the journal that are about exchanges.
    pub async fn exchange_lines(&self) -> Vec<Value> {
        self.server.trail.flush().await.unwrap();
        let text = self.journal("audit");
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["event"] == "opened" || line["event"] == "closed")
            .collect()
    }

    /// Returns the text of a journal, its segments in order.
    pub fn journal(&self, name: &str) -> String {
        journal(&self.path(name))
    }

    /// Returns the `count`th line about the end of an exchange, once there are so many.
    pub async fn wait_for_closed_line(&self, count: usize) -> Value {
        loop {
            let lines = self.exchange_lines().await;
            let mut closed: Vec<_> =
                lines.into_iter().filter(|line| line["event"] == "closed").collect();
            if closed.len() >= count {
                return closed.swap_remove(count - 1);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the gateway's deadline for idle connections to pass this many times, by opening as many
    /// connections, one after another, until the gateway closes them.
    pub async fn wait_idle_deadlines(&self, idle_times: usize) {
        for _ in 0..idle_times {
            let mut idle = RawConnection::new(TestRequest::slots().connect(self).await.unwrap());
            assert!(!idle.read_more().await, "an idle connection is closed without bytes");
        }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file atomically.
    pub fn replace(&self, name: &str, text: &str) {
        let aside = self.path("aside");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(&aside, self.path(name)).unwrap();
    }

    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.server.addresses[0]
    }

    /// Changes the address of all practices in the directory file and reloads.
    pub async fn set_provider_address(&self, address: std::net::SocketAddr) {
        let moved = |line: &str| match line.starts_with("dial = ") {
            true => format!("dial = \"{address}\"\n"),
            false => format!("{line}\n"),
        };
        let directory: String = self.text("directory.toml").lines().map(moved).collect();
        self.replace("directory.toml", &directory);
        self.server.reload().await.unwrap();
    }

    /// Changes the address of all practices to one where nothing listens.
    pub async fn make_provider_unreachable(&self) {
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        self.set_provider_address(address).await;
    }

    /// Starts a provider with another certificate and changes the address of all practices to it.
    pub async fn replace_provider(&self, leaf: &Leaf) -> Provider {
        self.replace_provider_issued(&self.pki.issue(leaf).unwrap()).await
    }

    /// Starts a provider with an issued certificate and changes the address of all practices to it.
    pub async fn replace_provider_issued(&self, issued: &IssuedCertificate) -> Provider {
        let provider = Provider::start(provider_tls(&self.pki, issued)).await;
        self.set_provider_address(provider.address).await;
        provider
    }

    /// Returns the value of a metric by its name without `spine_proxy_`, and with its labels.
    pub fn metric(&self, series: &str) -> u64 {
        metric(&self.server.metrics, series)
    }

    /// Returns once no request is in flight and no connection open.
    pub async fn wait_until_idle(&self) {
        wait_until_idle(&self.server.metrics).await;
    }

    /// Returns the TLS configuration of a consumer with this certificate; `none` is a consumer without one.
    pub fn consumer_tls(&self, certificate: &str, protocol: &[u8]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&self.pki));
        let mut config = match self.issued.get(certificate) {
            None => builder.with_no_client_auth(),
            Some(issued) => builder.with_client_auth_cert(chain(issued), key(issued)).unwrap(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }
}

/// Returns the text of a journal, its segments in order.
pub fn journal(folder: &Path) -> String {
    let mut text = String::new();
    for segment in segments(folder) {
        text.push_str(&std::fs::read_to_string(segment).unwrap());
        // The rest of a line that a crash cut off becomes a separate line.
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

/// Returns the paths of a journal's segments, in order.
pub fn segments(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // A segment's name is a number; files with checkpoints have the same ending.
    let is_segment = |path: &std::path::PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap();
        let stem = name.strip_suffix(".jsonl");
        stem.is_some_and(|stem| stem.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut segments: Vec<_> = entries.filter(is_segment).collect();
    segments.sort();
    segments
}

/// Returns the value of a metric, or 0 if there is none.
pub fn metric(metrics: &Metrics, series: &str) -> u64 {
    let (text, _) = metrics.text();
    let prefix = format!("spine_proxy_{series} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
    value.map_or(0, |value| value.parse().unwrap())
}

pub async fn wait_until_idle(metrics: &Metrics) {
    while metric(metrics, "http_requests_in_flight") + metric(metrics, "connections") > 0 {
        tokio::task::yield_now().await;
    }
}

pub fn row(token: &str) -> spine_proxy::refusal::RefusalRow {
    let rows = spine_proxy::refusal::every().into_iter().map(|refusal| refusal.row());
    rows.into_iter().find(|row| row.token == token).unwrap_or_else(|| panic!("no token {token}"))
}

pub fn now_s() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn leaves() -> Vec<(&'static str, Leaf)> {
    let names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    vec![
        ("server", Leaf { names, ..Leaf::named("ssp.example.nhs.uk") }),
        ("gateway", Leaf::named("gateway.ssp.example.nhs.uk")),
        ("provider", Leaf::named("provider.example.nhs.uk")),
        ("hub", Leaf::named("hub.example.nhs.uk")),
        ("hub-cn", Leaf { names: Vec::new(), ..Leaf::named("hub.example.nhs.uk") }),
        ("clinic", Leaf::named("clinic.example.nhs.uk")),
        ("stranger", Leaf::named("stranger.example.nhs.uk")),
        ("expired", Leaf { days: (-9, -1), ..Leaf::named("hub.example.nhs.uk") }),
        ("revoked", Leaf::named("hub.example.nhs.uk")),
    ]
}

pub fn crypto() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub fn roots(pki: &Pki) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.authority().as_bytes()).unwrap()).unwrap();
    roots
}

pub fn chain(issued: &IssuedCertificate) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(issued.chain.as_bytes()).map(Result::unwrap).collect()
}

pub fn key(issued: &IssuedCertificate) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap()
}

/// Returns the TLS configuration of a provider, which requires a client certificate.
pub fn provider_tls(pki: &Pki, issued: &IssuedCertificate) -> Arc<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pki)), crypto());
    let config = ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain(issued), key(issued))
        .unwrap();
    Arc::new(config)
}

/// Returns the TLS configuration of a server that requires no client certificate.
pub fn server_tls(issued: &IssuedCertificate) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(issued), key(issued))
        .unwrap();
    Arc::new(config)
}
