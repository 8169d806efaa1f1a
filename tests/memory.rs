//! Memory: bodies are streamed, not kept, and the program never takes more memory than its configuration
//! allows. Measured on the program as a separate process.

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use testkit::frames::{self, END_HEADERS, END_STREAM, HEADERS, SETTINGS};
use testkit::process::{GatewayProcess, serve, serve_with_log_level};
use testkit::provider::answer;
use testkit::raw_connection::RawConnection;
use testkit::{ProviderAction, TestBed, TestRequest};

const BODY: usize = 150 << 20;
const GROWTH_MAX_KIB: u64 = 32 << 10;

async fn connect(
    served: &GatewayProcess,
    bed: &TestBed,
    protocol: &[u8],
) -> RawConnection<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(served.address).await.unwrap();
    let connector = TlsConnector::from(bed.consumer_tls("hub", protocol));
    let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
    RawConnection::new(connector.connect(name, stream).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_passes_in_little_memory_either_way() {
    let bed = TestBed::new().await;
    let served = serve(&bed);
    let mut wire = connect(&served, &bed, b"http/1.1").await;
    wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
    let mut first = wire.head().await.unwrap();
    wire.body(&mut first, false).await;
    assert!(first.start.contains(" 200 "), "{first:?}");
    let before = served.peak_kib();

    let length = BODY.to_string();
    bed.provider.set_action(ProviderAction::Pour(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into(),
        BODY,
    ));
    wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 200 "));
    assert_eq!(wire.drain(BODY).await, BODY);
    let down = served.peak_kib() - before;

    bed.provider.set_action(ProviderAction::DiscardBody(BODY, answer("201 Created", "", "{}")));
    let head = TestRequest::book()
        .without_content_length()
        .body(b"")
        .with("Content-Length", &length)
        .bytes();
    wire.stream.write_all(&head).await.unwrap();
    let block = vec![b' '; 1 << 20];
    for _ in 0..BODY / block.len() {
        wire.stream.write_all(&block).await.unwrap();
    }
    wire.stream.flush().await.unwrap();
    assert!(wire.head().await.unwrap().start.contains(" 201 "));
    let both = served.peak_kib() - before;
    assert!(both < GROWTH_MAX_KIB, "grew by {down} KiB, then {both} KiB, from {before} KiB");
}

/// Memory of a connection at rest, which has carried a request. In a build without optimisation, as the tests'
/// is, futures are larger than in a release.
const IDLE_KIB_MAX: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_at_rest_does_not_hold_the_room_of_a_request() {
    let bed = TestBed::with(|files| {
        files.add("[listener.limits]\nidle = \"10m\"");
        // The sessions of others are no part of a connection.
        files.set("tls", "sessions-max = 1");
    })
    .await;
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let served = serve_with_log_level(program, &bed, &text, "info");
    let mut held = Vec::new();
    let mut resident = Vec::new();
    for count in [100, 600] {
        while held.len() < count {
            let mut wire = connect(&served, &bed, b"http/1.1").await;
            for _ in 0..2 {
                wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
                let mut answer = wire.head().await.unwrap();
                wire.body(&mut answer, false).await;
                assert!(answer.start.contains(" 200 "), "{answer:?}");
            }
            held.push(wire);
        }
        resident.push(served.resident_kib());
    }
    let each = (resident[1] - resident[0]) / 500;
    assert!(each < IDLE_KIB_MAX, "{each} KiB each: {resident:?}");
}

/// A search for slots as a head and a window that is shut: the answer stays with the proxy.
fn shut(stream: u32) -> Vec<u8> {
    let block = frames::block(&TestRequest::slots(), &[]);
    frames::frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

/// F6, F7, G15, B5: everything held open at once, each as full as it gets.
#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_below_what_the_configuration_allows() {
    let bed = TestBed::with(|files| {
        files.add("[listener.limits]\nconnections-max = 80\nin-hand-max = 60\nwrite-stall = \"60s\"\nhead = \"60s\"");
        files.add("[throttle]\npractice-exchanges-max = 40\npractice-consumer-max = 40\nwait = \"60s\"");
    })
    .await;
    let served = serve(&bed);
    let bound = served.metric("memory_bound_bytes").await;
    assert!((96 << 20..512 << 20).contains(&bound), "{bound}");
    bed.provider.set_action(ProviderAction::Pour(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").into(),
        BODY,
    ));
    let mut held = Vec::new();
    // Answers that the consumer does not read, over both versions of HTTP.
    for _ in 0..20 {
        let mut wire = connect(&served, &bed, b"http/1.1").await;
        wire.stream.write_all(&TestRequest::slots().bytes()).await.unwrap();
        held.push(wire);
    }
    for window in [0, 1, 0, 1] {
        let mut wire = connect(&served, &bed, b"h2").await;
        let no_window = frames::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, window]);
        let asked: Vec<u8> = (0..10).flat_map(|n| shut(2 * n + 1)).collect();
        let bytes = [frames::PREFACE, &no_window, &asked].concat();
        wire.stream.write_all(&bytes).await.unwrap();
        held.push(wire);
    }
    bed.provider.wait_for_requests(40).await;
    // Heads as large as they may be, that do not end.
    let head = String::from_utf8(TestRequest::slots().bytes()).unwrap();
    let head = head.replacen("\r\n\r\n", &format!("\r\nX-Big: {}", "a".repeat(120_000)), 1);
    while held.len() < 79 {
        let mut wire = connect(&served, &bed, b"http/1.1").await;
        wire.stream.write_all(head.as_bytes()).await.unwrap();
        wire.stream.flush().await.unwrap();
        held.push(wire);
    }
    // A further request is served, or refused for want of memory.
    let call = TestRequest::slots().set("Ssp-To", "1");
    assert!(matches!(call.send_to(&bed, served.address).await.status, 400 | 503));
    let peak = served.peak_kib() * 1024;
    assert!(peak < bound, "{peak} of {bound} bytes");
}

/// Puts other numbers of connections and requests into a configuration: terabytes, which no machine has.
fn with_too_much(text: &str, connections_max: usize) -> String {
    let section = "[listener.limits]\n";
    assert!(text.contains(section));
    let limits = format!("connections-max = {connections_max}\nstreams-max = 1000\n");
    text.replace(section, &format!("{section}{limits}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_a_reload_warn_of_a_bound_above_the_memory_there_is() {
    let bed = TestBed::new().await;
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let served = serve_with_log_level(program, &bed, &with_too_much(&text, 1_000_000), "info");
    let warned = |named: &str| {
        let words = format!("{named} allows ");
        served.log.lock().unwrap().matches(&words).count()
    };
    let (new, in_force) = ("the configuration", "the configuration in force until a restart");
    while warned(new) != 1 {
        tokio::task::yield_now().await;
    }
    let bound = served.metric("memory_bound_bytes").await;
    // Other limits are in force after a restart; both those and these are warned of.
    bed.replace("own.toml", &with_too_much(&text, 900_000));
    served.signal("HUP");
    while warned(new) != 2 || warned(in_force) != 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(served.metric("memory_bound_bytes").await, bound);
    // The number of sessions is in force at once.
    let fewer = text.replace("[tls]\n", "[tls]\nsessions-max = 1\n");
    assert_ne!(fewer, text);
    bed.replace("own.toml", &with_too_much(&fewer, 900_000));
    served.signal("HUP");
    while served.metric("memory_bound_bytes").await != bound - 2047 * 20 * 1024 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_above_the_memory_there_is_stays_warned_of_until_limits_that_fit_are_in_force() {
    let bed = TestBed::new().await;
    let text = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_spine-proxy"));
    let served = serve_with_log_level(program, &bed, &with_too_much(&text, 1_000_000), "info");
    let section = "[listener.limits]\n";
    let fits = format!("{section}connections-max = 100\nin-hand-max = 20\n");
    bed.replace("own.toml", &text.replace(section, &fits));
    served.signal("HUP");
    let words = "restart to put the new one in force, or give it more";
    while !served.log.lock().unwrap().contains(words) {
        tokio::task::yield_now().await;
    }
}
