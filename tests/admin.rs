//! The admin port: authentication, and its independence of the proxy's load.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use spine_proxy::config::Config;
use spine_proxy::server::Prepared;

use testkit::TestBed;
use testkit::test_bed::CONFIG;

/// An admin token.
const TOKEN: &str = "an-invented-token-of-thirty-two-bytes-or-more";
/// Connections that the admin port serves at once.
const PLACES: usize = 64;

/// Sends a request and reads its answer, in this thread: the runtime it is called in does nothing
/// meanwhile.
fn ask(admin: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{headers}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

async fn with_token() -> TestBed {
    TestBed::with(|files| {
        files.put("admin.token", TOKEN);
        files.set("admin", "token-file = \"admin.token\"\nnames = [\"ops.example.nhs.uk\"]");
    })
    .await
}

/// One thread for everything but the admin port, and it is kept busy.
#[tokio::test]
async fn probes_are_answered_while_every_other_thread_is_busy() {
    let bed = TestBed::new().await;
    for path in ["/livez", "/readyz"] {
        let answer = ask(bed.server.admin, path, "Host: localhost\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_sends_nothing_makes_room_for_a_probe() {
    let bed = TestBed::new().await;
    let silent: Vec<_> =
        (0..PLACES).map(|_| TcpStream::connect(bed.server.admin).unwrap()).collect();
    let answer = ask(bed.server.admin, "/livez", "Host: localhost\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // The oldest was closed for it, and no other.
    let [oldest, .., newest] = silent.as_slice() else { panic!("too few") };
    assert_eq!((&*oldest).read(&mut [0]).unwrap_or_default(), 0);
    newest.set_nonblocking(true).unwrap();
    let open = (&*newest).read(&mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_connection_that_does_not_read_makes_room_for_a_probe() {
    let bed = TestBed::new().await;
    // More answers than the sockets' buffers hold.
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    let stalled: Vec<_> = (0..PLACES)
        .map(|_| {
            let mut stream = TcpStream::connect(bed.server.admin).unwrap();
            stream.write_all(pipelined.as_bytes()).unwrap();
            stream
        })
        .collect();
    let answer = ask(bed.server.admin, "/readyz", "Host: localhost\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(stalled);
}

#[tokio::test]
async fn a_host_that_is_not_the_gateways_is_refused() {
    let bed = with_token().await;
    for (path, headers, status) in [
        ("/livez", "Host: localhost:9090\r\n", 200),
        ("/livez", "Host: 127.0.0.1\r\n", 200),
        ("/livez", "Host: 10.1.2.3:9090\r\n", 200),
        ("/livez", "Host: [::1]:9090\r\n", 200),
        ("/livez", "Host: OPS.example.nhs.uk:9090\r\n", 200),
        ("http://localhost/livez", "Host: localhost\r\n", 200),
        ("/livez", "Host: rebound.example.test\r\n", 421),
        ("/livez", "Host: rebound.example.test:9090\r\n", 421),
        ("/livez", "Host: localhost.example.test\r\n", 421),
        ("/livez", "Host: x@localhost\r\n", 421),
        ("/livez", "Host: \r\n", 421),
        ("/livez", "", 421),
        ("/livez", "Host: localhost\r\nHost: rebound.example.test\r\n", 421),
        ("http://rebound.example.test/livez", "Host: localhost\r\n", 421),
        ("/metrics", "Host: rebound.example.test\r\n", 421),
    ] {
        let answer = ask(bed.server.admin, path, headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {answer}");
        assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn the_directory_is_read_with_the_token_alone() {
    let bed = with_token().await;
    let refused = ask(bed.server.admin, "/directory", "Host: localhost\r\n");
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let headers = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    let answer = ask(bed.server.admin, "/directory", &headers);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\"practices\":[]"), "{answer}");
}

#[tokio::test]
async fn a_token_that_can_be_guessed_is_refused() {
    let bed = with_token().await;
    bed.replace("admin.token", &TOKEN[..31]);
    let Err(refused) = Prepared::load(&bed.path("spine-proxy.toml"), 1) else {
        panic!("31 bytes are enough")
    };
    let refused = refused.to_string();
    assert!(refused.contains("admin.token-file"), "{refused}");
    assert!(refused.contains("31 bytes") && refused.contains("32 or more"), "{refused}");
    assert!(!refused.contains(&TOKEN[..31]), "{refused}");
    let headers = format!("Host: localhost\r\nAuthorization: Bearer {}\r\n", &TOKEN[..31]);
    let refused = ask(bed.server.admin, "/directory", &headers);
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
}

#[test]
fn an_admin_address_that_others_can_reach_is_warned_of() {
    for (address, warned) in [
        ("127.0.0.1:9090", false),
        ("127.1.2.3:9090", false),
        ("[::1]:9090", false),
        ("[::ffff:127.0.0.1]:9090", false),
        ("0.0.0.0:9090", true),
        ("[::]:9090", true),
        ("10.1.2.3:9090", true),
    ] {
        let text = CONFIG.replace(
            "[admin]\naddress = \"127.0.0.1:0\"",
            &format!("[admin]\naddress = \"{address}\""),
        );
        let config = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap();
        let warnings = config.admin.warnings();
        assert_eq!(!warnings.is_empty(), warned, "{address}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains("admin.address")), "{warnings:?}");
    }
}
