//! What happens to a proxy in an hour: reloads, new certificates, an SDS that is gone for a while, a
//! provider that misbehaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gpconnect_simulator::pki::{IssuedCertificate, Leaf};
use gpconnect_simulator::sds::Records;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, sleep_until, timeout};

use crate::load::Load;
use crate::support::program::Program;
use testkit::TestBed;
use testkit::provider::{ProviderAction, Received, answer};
use testkit::sds::{BOOK, READ, Registry, SLOTS};
use testkit::test_bed::{ODS, ROOT, TO, chain, crypto, key, roots};

/// Chain and key in one file, so that both change at once.
pub(crate) const SERVER: &str = "server-both.pem";
/// What is held of the directory grows old within an outage.
const FRESHNESS: &str = "freshness = { provider = \"3s\", provider-stale = \"4s\" }";
/// Seconds: between reloads; between certificates; between outages, and how long one lasts.
const RELOADS: u64 = 10;
const CERTIFICATES: u64 = 60;
const OUTAGES: u64 = 40;
const OUTAGE: u64 = 8;
/// Limit: how long the SDS may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// What was done, for the report.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) reloads: AtomicU64,
    pub(crate) certificates: AtomicU64,
    pub(crate) outages: AtomicU64,
}

/// An SDS that knows the practice.
pub(crate) async fn registry() -> Registry {
    let practice = Records::practice(ODS, TO, "A20047-1000001", ROOT, &[SLOTS, BOOK, READ]);
    Registry::new(practice, FRESHNESS).await
}

/// One answer in ten is not what it should be.
pub(crate) fn script() -> impl FnMut(&Received) -> ProviderAction + Send + 'static {
    let usual = answer(
        "200 OK",
        "Content-Type: application/fhir+json\r\n",
        &format!("{{\"text\":\"{}\"}}", "x".repeat(4_000)),
    );
    let mut number = 0_u64;
    move |request| {
        number += 1;
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"text\":".to_vec();
        match number % 40 {
            0 => ProviderAction::WriteAndReset(short),
            10 => {
                ProviderAction::Drip(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n".to_vec(), 20)
            }
            20 => ProviderAction::WriteAndClose(short),
            30 => ProviderAction::Close,
            _ if request.start.contains("pour=1") => ProviderAction::Pour(
                b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n".to_vec(),
                400_000,
            ),
            _ => ProviderAction::Write(usual.clone()),
        }
    }
}

/// Disturbs, second by second, until `end`; the SDS is there again then.
pub(crate) async fn disturbs(
    (bed, program, load): (Arc<TestBed>, Arc<Program>, Arc<Load>),
    mut registry: Registry,
    done: Arc<Done>,
    end: Instant,
) -> Registry {
    let begin = Instant::now();
    for second in 1.. {
        let now = begin + Duration::from_secs(second);
        if now > end {
            break;
        }
        sleep_until(now).await;
        if second % OUTAGES == OUTAGES / 2 {
            timeout(GONE, registry.stop()).await.expect("the SDS is gone");
            done.outages.fetch_add(1, Ordering::Relaxed);
        }
        if second % OUTAGES == OUTAGES / 2 + OUTAGE {
            registry.start().await;
        }
        if second % CERTIFICATES == CERTIFICATES / 2 {
            renews(&bed, &load);
            done.certificates.fetch_add(1, Ordering::Relaxed);
        }
        if second % RELOADS == RELOADS / 2 {
            program.signal("HUP");
            done.reloads.fetch_add(1, Ordering::Relaxed);
        }
    }
    registry
}

/// A new certificate for the proxy, and one for the consumer, from the same authority.
fn renews(bed: &TestBed, load: &Load) {
    let names = ["ssp.example.nhs.uk", "localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    let server = Leaf { names, ..Leaf::named("ssp.example.nhs.uk") };
    let server = bed.pki.issue(&server).unwrap();
    bed.replace(SERVER, &(server.chain + &server.key));
    let hub = bed.pki.issue(&Leaf::named("hub.example.nhs.uk")).unwrap();
    *load.tls.lock().unwrap() = consumer_tls(&roots(&bed.pki), &hub);
}

/// TLS of the consumer with this certificate, for HTTP/1.1 and HTTP/2.
pub(crate) fn consumer_tls(
    roots: &RootCertStore,
    issued: &IssuedCertificate,
) -> [Arc<ClientConfig>; 2] {
    [&b"http/1.1"[..], b"h2"].map(|protocol| {
        let mut config = ClientConfig::builder_with_provider(crypto())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain(issued), key(issued))
            .unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    })
}
