//! Resolution of a provider's name: DNS answers, and the addresses that are dialled.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use spine_proxy::config::Config;
use tokio::net::TcpStream;

use testkit::dns::{Dns, DnsResponse};
use testkit::provider::answer;
use testkit::test_bed::{CONFIG, ROOT};
use testkit::{Answer, ProviderAction, TestBed, TestRequest};

const NAME: &str = "provider.example.nhs.uk";

/// A test bed whose provider is found by asking this server.
struct Named {
    bed: TestBed,
    dns: Dns,
    host: String,
}

impl Named {
    async fn new(says: DnsResponse) -> Self {
        let dns = Dns::start(says).await;
        let servers = format!("nameservers = [\"{}\"]", dns.address);
        let bed = TestBed::with(|files| {
            files.edit("spine-proxy.toml", |text| {
                let lines = text.lines().filter(|line| !line.starts_with("hosts"));
                lines.collect::<Vec<_>>().join("\n")
            });
            files.set("provider", &servers);
            files.add(
                "[provider.deadlines]\nconnect = \"5s\"\n[throttle]\npractice-failures-max = 100",
            );
        })
        .await;
        let host = format!("{NAME}:{}", bed.provider.address.port());
        let directory = bed.text("directory.toml").replace(NAME, &host);
        let directory = directory.lines().filter(|line| !line.starts_with("dial"));
        bed.replace("directory.toml", &directory.collect::<Vec<_>>().join("\n"));
        bed.server.reload().await.unwrap();
        Self { bed, dns, host }
    }

    async fn hears(&self) -> Answer {
        let call = TestRequest::slots();
        let target = call.target.replace(NAME, &self.host);
        let call = call.target(&target).claim("aud", json!(ROOT.replace(NAME, &self.host)));
        self.bed.send(call.with("Connection", "close")).await
    }
}

fn addresses(of: &[&str]) -> DnsResponse {
    DnsResponse::Addresses(of.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect())
}

/// An address where connections neither succeed nor fail, once the backlog is full.
async fn black_hole(port: u16) -> (socket2::Socket, Vec<TcpStream>) {
    let address: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    // The backlog takes one connection more than its length.
    for _ in 0..1 {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    (socket, waiting)
}

/// G19.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_does_not_answer_is_not_waited_for_alone() {
    let named = Named::new(addresses(&["127.0.0.2", "127.0.0.1"])).await;
    let hole = black_hole(named.bed.provider.address.port()).await;
    assert_eq!(named.hears().await.status, 200);
    drop(hole);
    // One address where nothing listens, and one that may not be dialled.
    let named = Named::new(addresses(&["10.0.0.1", "127.0.0.3", "127.0.0.1"])).await;
    assert_eq!(named.hears().await.status, 200);
}

/// G18: no name, no address, no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_an_address_is_not_reached() {
    for says in [DnsResponse::NoSuchName, DnsResponse::Failed, addresses(&[])] {
        let named = Named::new(says.clone()).await;
        let answer = named.hears().await;
        assert_eq!(answer.token(), Some("provider_not_reached"), "{says:?}: {answer:?}");
        assert_eq!(named.bed.provider.accepted_connections(), 0);
    }
    let named = Named::new(DnsResponse::Silence).await;
    let token = named.hears().await.token().unwrap().to_owned();
    assert!(token.starts_with("provider_not_reached"), "{token}");
}

/// C19: wherever a name leads, an address outside the networks is not dialled.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_outside_the_networks() {
    for address in [
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fc00::1",
        "fe80::1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::ffff:169.254.169.254",
    ] {
        let named = Named::new(addresses(&[address])).await;
        let answer = named.hears().await;
        assert_eq!(answer.token(), Some("provider_not_reached"), "{address}: {answer:?}");
        assert_eq!(named.bed.provider.accepted_connections(), 0);
    }
    // An allowed address may be written as an IPv4-mapped address.
    let named = Named::new(addresses(&["::ffff:127.0.0.1"])).await;
    assert_eq!(named.hears().await.status, 200);
}

/// G18: a record that lives no time does not make a question of every connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_used_for_a_while_however_short_it_lives() {
    let named = Named::new(addresses(&["127.0.0.1"])).await;
    named.bed.provider.set_action(ProviderAction::WriteAndClose(answer("200 OK", "", "{}")));
    assert_eq!(named.hears().await.status, 200);
    let asked = named.dns.query_count();
    named.dns.set_response(DnsResponse::Failed);
    for _ in 0..5 {
        assert_eq!(named.hears().await.status, 200);
    }
    assert_eq!(named.bed.provider.connections(), 6);
    assert_eq!(named.dns.query_count(), asked);
}

/// G18: a name server that fails, or falls silent, once a name is known; and a name that is withdrawn.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_addresses_of_a_name_are_used_while_dns_fails() {
    let named = Named::new(addresses(&["127.0.0.1"])).await;
    named.bed.provider.set_action(ProviderAction::WriteAndClose(answer("200 OK", "", "{}")));
    assert_eq!(named.hears().await.status, 200);
    let asked_anew = async |says| {
        named.dns.set_response(says);
        let asked = named.dns.query_count();
        loop {
            let answer = named.hears().await;
            if named.dns.query_count() > asked {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    assert_eq!(asked_anew(DnsResponse::Silence).await.status, 200);
    assert_eq!(asked_anew(DnsResponse::Failed).await.status, 200);
    assert_eq!(asked_anew(DnsResponse::NoSuchName).await.token(), Some("provider_not_reached"));
    assert_eq!(asked_anew(DnsResponse::Failed).await.token(), Some("provider_not_reached"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_address_applies_to_a_host_in_any_case() {
    let bed = TestBed::with(|files| {
        files.edit("spine-proxy.toml", |text| {
            text.replace(&format!("\"{NAME}\" ="), "\"PROVIDER.Example.nhs.uk\" =")
        });
        files.edit("directory.toml", |text| {
            let lines = text.lines().filter(|line| !line.starts_with("dial"));
            lines.collect::<Vec<_>>().join("\n")
        });
    })
    .await;
    assert!(bed.text("spine-proxy.toml").contains("PROVIDER.Example.nhs.uk"));
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    let named = "Provider.example.NHS.uk";
    bed.replace("directory.toml", &bed.text("directory.toml").replace(NAME, named));
    bed.server.reload().await.unwrap();
    let root = ROOT.replace(NAME, named);
    let call = TestRequest::slots().target(&format!("/{root}/Slot")).claim("aud", json!(root));
    assert_eq!(bed.send(call).await.status, 200);
}

#[test]
fn a_host_listed_twice_in_different_cases_is_an_error() {
    let hosts = "hosts = { \"a.nhs.uk\" = \"10.0.0.1:443\", \"A.nhs.uk\" = \"10.0.0.2:443\" }";
    let text = CONFIG.replace("[provider]\n", &format!("[provider]\n{hosts}\n"));
    let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err().to_string();
    assert!(refused.contains("a.nhs.uk is listed twice"), "{refused}");
}
