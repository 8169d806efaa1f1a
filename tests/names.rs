//! From a provider's name to its address: what DNS may say, and what is dialled then.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use spine_proxy::config::Config;
use tokio::net::TcpStream;

use testkit::dns::{Dns, Says};
use testkit::provider::answer;
use testkit::stage::{CONFIG, ROOT};
use testkit::{Act, Answer, Call, Stage};

const NAME: &str = "provider.example.nhs.uk";

/// A stage whose provider is found by asking this server.
struct Named {
    stage: Stage,
    dns: Dns,
    host: String,
}

impl Named {
    async fn new(says: Says) -> Self {
        let dns = Dns::start(says).await;
        let servers = format!("nameservers = [\"{}\"]", dns.address);
        let stage = Stage::with(|files| {
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
        let host = format!("{NAME}:{}", stage.provider.address.port());
        let directory = stage.text("directory.toml").replace(NAME, &host);
        let directory = directory.lines().filter(|line| !line.starts_with("dial"));
        stage.replace("directory.toml", &directory.collect::<Vec<_>>().join("\n"));
        stage.server.reload().await.unwrap();
        Self { stage, dns, host }
    }

    async fn hears(&self) -> Answer {
        let call = Call::slots();
        let target = call.target.replace(NAME, &self.host);
        let call = call.target(&target).claim("aud", json!(ROOT.replace(NAME, &self.host)));
        self.stage.hears(call.with("Connection", "close")).await
    }
}

fn addresses(of: &[&str]) -> Says {
    Says::Addresses(of.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect())
}

/// An address where nothing is ever accepted and nobody says so, once its backlog is full.
async fn black_hole(port: u16) -> (socket2::Socket, Vec<TcpStream>) {
    let address: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    // The backlog takes one more than it is told.
    for _ in 0..1 {
        waiting.push(TcpStream::connect(address).await.unwrap());
    }
    (socket, waiting)
}

/// G19.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_does_not_answer_is_not_waited_for_alone() {
    let named = Named::new(addresses(&["127.0.0.2", "127.0.0.1"])).await;
    let hole = black_hole(named.stage.provider.address.port()).await;
    assert_eq!(named.hears().await.status, 200);
    drop(hole);
    // One where nobody listens, and one that may not be dialled.
    let named = Named::new(addresses(&["10.0.0.1", "127.0.0.3", "127.0.0.1"])).await;
    assert_eq!(named.hears().await.status, 200);
}

/// G18: no name, no address, no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_an_address_is_not_reached() {
    for says in [Says::NoSuchName, Says::Failed, addresses(&[])] {
        let named = Named::new(says.clone()).await;
        let answer = named.hears().await;
        assert_eq!(answer.token(), Some("provider_not_reached"), "{says:?}: {answer:?}");
        assert_eq!(named.stage.provider.dialled(), 0);
    }
    let named = Named::new(Says::Nothing).await;
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
        assert_eq!(named.stage.provider.dialled(), 0);
    }
    // What is allowed may be written as a mapped address; it is the same one.
    let named = Named::new(addresses(&["::ffff:127.0.0.1"])).await;
    assert_eq!(named.hears().await.status, 200);
}

/// G18: a record that lives no time does not make a question of every connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_used_for_a_while_however_short_it_lives() {
    let named = Named::new(addresses(&["127.0.0.1"])).await;
    named.stage.provider.does(Act::WriteAndClose(answer("200 OK", "", "{}")));
    assert_eq!(named.hears().await.status, 200);
    let asked = named.dns.asked();
    named.dns.says(Says::Failed);
    for _ in 0..5 {
        assert_eq!(named.hears().await.status, 200);
    }
    assert_eq!(named.stage.provider.connections(), 6);
    assert_eq!(named.dns.asked(), asked);
}

/// G18: a name server that fails, or falls silent, once a name is known; and a name that is withdrawn.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_where_it_last_did_while_nobody_can_be_asked() {
    let named = Named::new(addresses(&["127.0.0.1"])).await;
    named.stage.provider.does(Act::WriteAndClose(answer("200 OK", "", "{}")));
    assert_eq!(named.hears().await.status, 200);
    let asked_anew = async |says| {
        named.dns.says(says);
        let asked = named.dns.asked();
        loop {
            let answer = named.hears().await;
            if named.dns.asked() > asked {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    assert_eq!(asked_anew(Says::Nothing).await.status, 200);
    assert_eq!(asked_anew(Says::Failed).await.status, 200);
    assert_eq!(asked_anew(Says::NoSuchName).await.token(), Some("provider_not_reached"));
    assert_eq!(asked_anew(Says::Failed).await.token(), Some("provider_not_reached"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_dialled_where_the_configuration_says_whatever_its_case() {
    let stage = Stage::with(|files| {
        files.edit("spine-proxy.toml", |text| {
            text.replace(&format!("\"{NAME}\" ="), "\"PROVIDER.Example.nhs.uk\" =")
        });
        files.edit("directory.toml", |text| {
            let lines = text.lines().filter(|line| !line.starts_with("dial"));
            lines.collect::<Vec<_>>().join("\n")
        });
    })
    .await;
    assert!(stage.text("spine-proxy.toml").contains("PROVIDER.Example.nhs.uk"));
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    let named = "Provider.example.NHS.uk";
    stage.replace("directory.toml", &stage.text("directory.toml").replace(NAME, named));
    stage.server.reload().await.unwrap();
    let root = ROOT.replace(NAME, named);
    let call = Call::slots().target(&format!("/{root}/Slot")).claim("aud", json!(root));
    assert_eq!(stage.hears(call).await.status, 200);
}

#[test]
fn a_host_listed_twice_in_different_cases_is_an_error() {
    let hosts = "hosts = { \"a.nhs.uk\" = \"10.0.0.1:443\", \"A.nhs.uk\" = \"10.0.0.2:443\" }";
    let text = CONFIG.replace("[provider]\n", &format!("[provider]\n{hosts}\n"));
    let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err().to_string();
    assert!(refused.contains("a.nhs.uk is listed twice"), "{refused}");
}
