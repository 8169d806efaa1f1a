//! PROXY protocol headers of load balancers: whose are believed, what they change, and what is closed.
//!
//! The load balancer has 127.0.0.1, other clients 127.0.0.2.

use std::net::{Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use testkit::process::{GatewayProcess, serve_with_log_level};
use testkit::raw_connection::RawConnection;
use testkit::report_missing;
use testkit::request::{Answer, read_answer};
use testkit::{TestBed, TestRequest};

const BALANCER: &str = "127.0.0.1";
const ELSEWHERE: &str = "127.0.0.2";
const CONSUMER: &str = "192.0.2.17:50422";
const CONSUMER_V6: &str = "[2001:db8::17]:50422";
const V1: &[u8] = b"PROXY TCP4 192.0.2.17 198.51.100.2 50422 443\r\n";
const V1_V6: &[u8] = b"PROXY TCP6 2001:db8::17 2001:db8::2 50422 443\r\n";
const PORTS: [u8; 4] = [0xc4, 0xf6, 0x01, 0xbb];

/// Returns a header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, rest].concat()
}

/// Returns a header of version 2 for TCP over IPv4, with further fields.
fn v2_v4(source: [u8; 4], fields: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&source[..], &[198, 51, 100, 2], &PORTS, fields].concat())
}

/// Returns a header of version 2 for TCP over IPv6.
fn v2_v6(source: &str) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    v2(0x21, 0x21, &[&source.octets()[..], &source.octets(), &PORTS].concat())
}

/// Starts a gateway that believes 127.0.0.1, with limits.
async fn behind_balancer(limits: &str) -> TestBed {
    TestBed::with(|files| {
        files.set("listener", "proxy-protocol-from = [\"127.0.0.1/32\", \"2001:db8:1::/48\"]");
        files.add(&format!("[listener.limits]\n{limits}"));
    })
    .await
}

/// Manner in which a header is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// In one segment with the first bytes of TLS.
    WithTls,
    /// Byte by byte, and TLS after it.
    ByteByByte,
}

/// Connects from an address of IPv4, to the port of `to`.
async fn dialled(from: &str, to: SocketAddr) -> TcpStream {
    let to = SocketAddr::from(([127, 0, 0, 1], to.port()));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let stream = socket.connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection of a consumer through a load balancer.
struct Relayed {
    tls: TlsStream<DuplexStream>,
    /// Address of the load balancer on its connection to the gateway.
    balancer: SocketAddr,
}

/// Connects from an address, with a header in front of TLS.
async fn connect(
    bed: &TestBed,
    (from, header, sent): (&str, &[u8], Sent),
    certificate: &str,
) -> std::io::Result<Relayed> {
    let mut gateway = dialled(from, bed.address()).await;
    let balancer = gateway.local_addr().unwrap();
    let (consumer, mut relay) = tokio::io::duplex(1 << 16);
    let header = header.to_vec();
    tokio::spawn(async move {
        let mut hello = vec![0; 1 << 14];
        let count = relay.read(&mut hello).await?;
        hello.truncate(count);
        if sent == Sent::WithTls {
            gateway.write_all(&[header, hello].concat()).await?;
        } else {
            for byte in header {
                gateway.write_all(&[byte]).await?;
                tokio::task::yield_now().await;
            }
            gateway.write_all(&hello).await?;
        }
        tokio::io::copy_bidirectional(&mut relay, &mut gateway).await
    });
    let connector = TlsConnector::from(bed.consumer_tls(certificate, b"http/1.1"));
    let name = "ssp.example.nhs.uk".try_into().unwrap();
    Ok(Relayed { tls: connector.connect(name, consumer).await?, balancer })
}

/// Sends a search for slots through a load balancer, with a header in front of TLS.
async fn relayed(bed: &TestBed, header: &[u8], sent: Sent) -> (Answer, SocketAddr) {
    let Relayed { tls, balancer } = connect(bed, (BALANCER, header, sent), "hub").await.unwrap();
    let mut wire = RawConnection::new(tls);
    wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
    wire.stream.flush().await.unwrap();
    (read_answer(&mut wire).await.expect("an answer"), balancer)
}

/// Sends bytes from an address and returns what comes back until the gateway closes.
async fn closed(bed: &TestBed, from: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = dialled(from, bed.address()).await;
    // The gateway may close before all is written.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    answer
}

fn handshakes(bed: &TestBed, result: &str) -> u64 {
    bed.metric(&format!("tls_handshakes_total{{result=\"{result}\"}}"))
}

/// Asserts that no exchange was recorded and no provider asked.
async fn assert_no_trace(bed: &TestBed) {
    assert!(bed.exchange_lines().await.is_empty());
    assert!(bed.provider.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_either_version_names_the_consumer_to_journal_and_provider() {
    let bed = behind_balancer("").await;
    // A checksum and a field of AWS, which are ignored.
    let fields = b"\x03\0\x04\x12\x34\x56\x78\xea\0\x05\x01vpce";
    let headers = [
        (V1.to_vec(), CONSUMER),
        (V1_V6.to_vec(), CONSUMER_V6),
        (v2_v4([192, 0, 2, 17], b""), CONSUMER),
        (v2_v4([192, 0, 2, 17], fields), CONSUMER),
        // More than the gateway reads in one step.
        (v2_v4([192, 0, 2, 17], &[&[4, 0x0f, 0][..], &[0; 0xf00]].concat()), CONSUMER),
        (v2_v6("2001:db8::17"), CONSUMER_V6),
        (v2_v6("::ffff:192.0.2.17"), CONSUMER),
    ];
    let mut count = 0;
    for (header, consumer) in headers {
        for sent in [Sent::WithTls, Sent::ByteByByte] {
            let (answer, balancer) = relayed(&bed, &header, sent).await;
            assert_eq!(answer.status, 200, "{header:?} {sent:?}");
            count += 1;
            let line = bed.wait_for_closed_line(count).await;
            assert_eq!(line["client"], consumer, "{header:?} {sent:?}");
            assert_eq!(line["balancer"], balancer.to_string(), "{header:?} {sent:?}");
            let received = bed.provider.received();
            let forwarded = received.last().unwrap().header("forwarded").unwrap().to_owned();
            assert!(forwarded.starts_with(&format!("for=\"{consumer}\";")), "{forwarded}");
        }
    }
    assert_eq!(handshakes(&bed, "ok"), u64::try_from(count).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_names_nobody_leaves_the_balancers_own_address() {
    let bed = behind_balancer("").await;
    let headers = [
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &[192, 0, 2, 17, 198, 51, 100, 2, 0xc4, 0xf6, 1, 0xbb]),
        v2(0x21, 0x00, b""),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.17 198.51.100.2 50422 443\r\n".to_vec(),
    ];
    for (number, header) in headers.iter().enumerate() {
        let (answer, balancer) = relayed(&bed, header, Sent::WithTls).await;
        assert_eq!(answer.status, 200, "{header:?}");
        let line = bed.wait_for_closed_line(number + 1).await;
        assert_eq!(line["client"], balancer.to_string(), "{header:?}");
        assert!(line.get("balancer").is_none(), "{header:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_from_a_balancer_without_a_usable_header_is_closed_and_counted() {
    let bed = behind_balancer("").await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut counts = (0, 0);
    for (bytes, is_missing) in [
        (&hello[..], true),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", true),
        (b"\r\n\r\n\0\r\nQUIT\r", true),
        (&[b"PROXY ", &[b'1'; 200][..]].concat(), false),
        (&[b"PROXY TCP4 192.0.2.17 198.51.100.2 50422 4430000\r\n", &hello[..]].concat(), false),
        (&[b"PROXY TCP4 192.0.2.17 198.51.100.2 50422 443\n", &hello[..]].concat(), false),
        (&v2(0x31, 0x11, &[0; 12]), false),
        (&v2(0x21, 0x11, &[0; 11]), false),
        (&v2(0x21, 0x11, &[0; 5000]), false),
    ] {
        assert!(closed(&bed, BALANCER, bytes).await.is_empty(), "{bytes:?}");
        if is_missing {
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
        bed.wait_until_idle().await;
        let found =
            (handshakes(&bed, "proxy_header_missing"), handshakes(&bed, "proxy_header_malformed"));
        assert_eq!(found, counts, "{bytes:?}");
    }
    // A header that its sender ends in the middle.
    let mut stream = dialled(BALANCER, bed.address()).await;
    stream.write_all(&V1[..20]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    bed.wait_until_idle().await;
    assert_eq!(handshakes(&bed, "proxy_header_malformed"), counts.1 + 1);
    assert_no_trace(&bed).await;
    assert!(TestRequest::slots().connect(&bed).await.is_err(), "a consumer without a balancer");
    assert_eq!(relayed(&bed, V1, Sent::WithTls).await.0.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_come_whole_in_time_closes_the_connection() {
    let bed = behind_balancer("handshake = \"200ms\"").await;
    for start in [&b""[..], b"PROXY TCP4", &v2_v4([192, 0, 2, 17], b"")[..27]] {
        assert!(closed(&bed, BALANCER, start).await.is_empty());
    }
    // Without TLS after it, a whole header does not extend the time.
    closed(&bed, BALANCER, V1).await;
    bed.wait_until_idle().await;
    assert_eq!(handshakes(&bed, "timed_out"), 4);
    assert_no_trace(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_from_an_address_that_is_not_listed_is_not_believed() {
    let v2 = v2_v4([192, 0, 2, 17], b"");
    for (bed, from) in [(behind_balancer("").await, ELSEWHERE), (TestBed::new().await, BALANCER)] {
        for (count, header) in [V1, &v2].into_iter().enumerate() {
            let spoofed = connect(&bed, (from, header, Sent::WithTls), "hub").await;
            assert!(spoofed.is_err(), "{header:?}");
            assert!(closed(&bed, from, header).await.is_empty(), "nothing is answered");
            bed.wait_until_idle().await;
            let uninvited = handshakes(&bed, "proxy_header_uninvited");
            assert_eq!(uninvited, 2 * (u64::try_from(count).unwrap() + 1));
        }
        assert_no_trace(&bed).await;
        // The address has its own limits, and is served without a header.
        let plain = connect(&bed, (from, b"", Sent::WithTls), "hub").await.unwrap();
        let mut wire = RawConnection::new(plain.tls);
        wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
        let line = bed.wait_for_closed_line(1).await;
        assert_eq!(line["client"], plain.balancer.to_string());
        assert!(line.get("balancer").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_ipv4_holds_its_addresses_on_a_socket_of_ipv6() {
    if std::net::TcpListener::bind("[::]:0").is_err() {
        return report_missing("IPv6");
    }
    let bed = TestBed::with(|files| {
        files.set("listener", "proxy-protocol-from = [\"127.0.0.1/32\"]");
        files.edit("spine-proxy.toml", |text| {
            text.replacen("addresses = [\"127.0.0.1:0\"]", "addresses = [\"[::]:0\"]", 1)
        });
    })
    .await;
    assert!(bed.address().is_ipv6());
    assert_eq!(relayed(&bed, V1, Sent::WithTls).await.0.status, 200);
    let line = bed.wait_for_closed_line(1).await;
    assert_eq!(line["client"], CONSUMER);
    assert!(line["balancer"].as_str().unwrap().starts_with("[::ffff:127.0.0.1]:"), "{line}");
    assert!(connect(&bed, (ELSEWHERE, V1, Sent::WithTls), "hub").await.is_err());
    assert!(connect(&bed, (ELSEWHERE, b"", Sent::WithTls), "hub").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_header_on_one_connection_is_not_believed() {
    let bed = behind_balancer("").await;
    let both = [V1, &v2_v4([203, 0, 113, 9], b"")].concat();
    assert!(connect(&bed, (BALANCER, &both, Sent::WithTls), "hub").await.is_err());
    bed.wait_until_idle().await;
    assert_eq!(handshakes(&bed, "proxy_header_uninvited"), 1);
    assert_no_trace(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_one_address_apply_to_the_consumers_and_not_to_the_balancers() {
    let bed = behind_balancer("address-connections-max = 2").await;
    let open = async |last: u8| {
        let header = v2_v4([192, 0, 2, last], b"");
        connect(&bed, (BALANCER, &header, Sent::WithTls), "hub").await
    };
    let mut held = Vec::new();
    for consumer in [1, 1, 2, 2, 3, 3] {
        held.push(open(consumer).await.expect("two connections of each"));
    }
    assert!(open(1).await.is_err(), "a third of one");
    assert_eq!(bed.metric("connections_refused_total{share=\"address_connections\"}"), 1);
    held.remove(0);
    while open(1).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_one_address_applies_to_the_consumers_and_not_to_the_balancers() {
    let bed = behind_balancer("address-handshakes-per-second = 1").await;
    for last in 1..=9 {
        let header = v2_v4([192, 0, 2, last], b"");
        connect(&bed, (BALANCER, &header, Sent::WithTls), "hub").await.expect("one of each");
    }
    assert_eq!(bed.metric("connections_refused_total{share=\"address_rate\"}"), 0);
    let header = v2_v4([192, 0, 2, 200], b"");
    // More at once than one a second, however long it takes.
    let mut refused = false;
    while !refused {
        refused = connect(&bed, (BALANCER, &header, Sent::WithTls), "hub").await.is_err();
    }
    assert!(bed.metric("connections_refused_total{share=\"address_rate\"}") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_for_a_header_are_limited_and_keep_no_other_out() {
    let bed = behind_balancer("handshakes-max = 2\nhandshake = \"10m\"").await;
    let waiting = [dialled(BALANCER, bed.address()).await, dialled(BALANCER, bed.address()).await];
    while bed.metric("connections") < 2 {
        tokio::task::yield_now().await;
    }
    assert!(closed(&bed, BALANCER, b"").await.is_empty());
    assert_eq!(bed.metric("connections_refused_total{share=\"handshakes\"}"), 1);
    // Their number is not that of handshakes.
    connect(&bed, (ELSEWHERE, b"", Sent::WithTls), "hub").await.unwrap();
    drop(waiting);
    while connect(&bed, (BALANCER, V1, Sent::WithTls), "hub").await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_behind_a_balancer_is_recorded_with_the_consumers_address() {
    let bed = TestBed::with(|files| {
        files.set("listener", "proxy-protocol-from = [\"127.0.0.0/8\"]");
        files.set("tls", "reject = \"handshake\"");
    })
    .await;
    if let Ok(mut relayed) = connect(&bed, (BALANCER, V1, Sent::WithTls), "expired").await {
        // The client has finished by then, and learns it at its first read.
        drop(relayed.tls.read(&mut [0]).await);
    }
    let line = bed.wait_for_closed_line(1).await;
    assert_eq!(line["method"], "_HANDSHAKE");
    assert_eq!(line["client"], CONSUMER);
    assert!(line["balancer"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_without_tls_is_answered_behind_a_balancer_too() {
    let bed = behind_balancer("").await;
    let bytes = [V1, &TestRequest::book().bytes()].concat();
    let answer = closed(&bed, BALANCER, &bytes).await;
    assert!(answer.starts_with(b"HTTP/1.1 497 "), "{}", String::from_utf8_lossy(&answer));
}

/// Starts the program with what is in front of TLS as the balancer's, at log level `info`.
fn process(bed: &TestBed) -> GatewayProcess {
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    serve_with_log_level(Command::new(env!("CARGO_BIN_EXE_spine-proxy")), bed, &text, "info")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_a_header_has_few_lines_in_the_log_and_a_health_check_none() {
    let bed = behind_balancer("").await;
    let gateway = process(&bed);
    let counted = async |result: &str, count| {
        let series = format!("tls_handshakes_total{{result=\"{result}\"}}");
        while gateway.metric(&series).await < count {
            tokio::task::yield_now().await;
        }
    };
    // Health checks by TCP, without a header and with one.
    let mut checks = Vec::new();
    for (from, header) in
        [(BALANCER, &b""[..]), (ELSEWHERE, b""), (BALANCER, &v2(0x20, 0, b"")), (BALANCER, V1)]
    {
        let mut check = dialled(from, gateway.address).await;
        checks.push(check.local_addr().unwrap().to_string());
        check.write_all(header).await.unwrap();
    }
    counted("failed", 4).await;
    for _ in 0..20 {
        for (from, bytes) in [(BALANCER, &b"GET / HTTP/1.1\r\n\r\n"[..]), (ELSEWHERE, V1)] {
            let mut stream = dialled(from, gateway.address).await;
            drop(stream.write_all(bytes).await);
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    }
    counted("proxy_header_missing", 20).await;
    counted("proxy_header_uninvited", 20).await;
    gateway.signal("TERM");
    let path = bed.path("own.log");
    while !path.exists() {
        tokio::task::yield_now().await;
    }
    let log = std::fs::read_to_string(path).unwrap();
    for (words, address) in [
        ("no usable PROXY protocol header", "\"balancer\":\"127.0.0.1:"),
        ("a PROXY protocol header from an address", "\"client\":\"127.0.0.2:"),
    ] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(words)).collect();
        // A budget of six a minute has one more every ten seconds.
        assert!((6..20).contains(&lines.len()), "{lines:?}");
        for line in lines {
            assert!(line.contains(address), "{line}");
            assert!(line.contains("listener.proxy-protocol-from"), "{line}");
        }
    }
    assert!(checks.iter().all(|check| !log.contains(check)), "health checks: {checks:?}");
    let journal = bed.journal("own");
    assert!(!journal.contains("\"client\""), "{journal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_list_of_balancers_takes_effect_after_a_restart() {
    let bed = behind_balancer("").await;
    let gateway = process(&bed);
    bed.replace("own.toml", &bed.text("own.toml").replace("127.0.0.1/32", "127.0.0.2/32"));
    gateway.signal("HUP");
    let said = || {
        let log = gateway.log.lock().unwrap();
        let restart = log.lines().find(|line| line.contains("takes effect only after a restart"));
        restart.map(|line| line.contains("\"listener.proxy-protocol-from\""))
    };
    while said().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(said(), Some(true));
    for (from, result) in [(BALANCER, "proxy_header_missing"), (ELSEWHERE, "plain_http")] {
        let mut stream = dialled(from, gateway.address).await;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
        while gateway.metric(&format!("tls_handshakes_total{{result=\"{result}\"}}")).await < 1 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_balancers_that_is_probably_a_mistake_is_refused_or_warned_of() {
    let bed = behind_balancer("").await;
    let text = bed.text("spine-proxy.toml");
    for (networks, code, words) in [
        ("\"::ffff:10.0.0.0/104\"", 78, "write it as IPv4"),
        ("\"10.0.0.1\"", 78, "proxy-protocol-from"),
        ("\"0.0.0.0/0\"", 0, "with 0.0.0.0/0 any client can claim any address"),
        ("\"10.1.2.3/16\"", 0, "10.1.2.3/16 has host bits set and means 10.1.0.0/16"),
    ] {
        bed.replace("spine-proxy.toml", &text.replace("\"127.0.0.1/32\"", networks));
        let mut check = Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
        check.args(["check", "--config"]).arg(bed.path("spine-proxy.toml"));
        let said = check.output().unwrap();
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert_eq!(said.status.code(), Some(code), "{networks}: {text}");
        assert!(text.contains(words), "{networks}: {text}");
    }
}

/// A running `HAProxy`, killed when this is dropped.
struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts `HAProxy` in front of the gateway; returns its two addresses, of which the first sends headers of
/// version 1 and the second of version 2. Returns `None` if it is not installed.
async fn haproxy(bed: &TestBed) -> Option<(Haproxy, [SocketAddr; 2])> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut programs = folders.map(|folder| folder.join("haproxy"));
    let Some(program) = programs.find(|program| program.is_file()) else {
        report_missing("haproxy");
        return None;
    };
    let free = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = free.map(|listener| listener.local_addr().unwrap());
    let ([v1, v2], gateway) = (addresses, bed.address());
    let config = format!(
        "defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen v1
  bind {v1}
  server ssp {gateway} send-proxy
listen v2
  bind {v2}
  server ssp {gateway} send-proxy-v2 check inter 50ms
"
    );
    bed.replace("haproxy.cfg", &config);
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(bed.path("haproxy.cfg"));
    let child = Haproxy(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    for address in addresses {
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    Some((child, addresses))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_behind_haproxy_is_recorded_with_its_own_address() {
    let bed = behind_balancer("").await;
    let Some((_haproxy, addresses)) = haproxy(&bed).await else { return };
    for (number, address) in addresses.into_iter().enumerate() {
        let stream = dialled("127.0.0.3", address).await;
        let consumer = stream.local_addr().unwrap();
        let connector = TlsConnector::from(bed.consumer_tls("hub", b"http/1.1"));
        let name = "ssp.example.nhs.uk".try_into().unwrap();
        let mut wire = RawConnection::new(connector.connect(name, stream).await.unwrap());
        wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
        assert_eq!(read_answer(&mut wire).await.unwrap().status, 200);
        let line = bed.wait_for_closed_line(number + 1).await;
        assert_eq!(line["client"], consumer.to_string());
        assert!(line["balancer"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
    // Health checks and the connections by which the start was awaited.
    while handshakes(&bed, "failed") < 5 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handshakes(&bed, "proxy_header_missing"), 0);
    assert_eq!(handshakes(&bed, "proxy_header_malformed"), 0);
    assert_eq!(bed.exchange_lines().await.len(), 2, "the exchanges alone");
}
