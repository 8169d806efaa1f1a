//! The admin port: authentication, and its independence of the proxy's load.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use spine_proxy::config::Config;
use spine_proxy::server::Prepared;

use serde_json::Value;

use testkit::process::serve_with_log_level;
use testkit::test_bed::CONFIG;
use testkit::{ProviderAction, TestBed, TestRequest};

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

/// Reads a view with the token.
fn view(bed: &TestBed, path: &str) -> Value {
    let headers = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    let answer = ask(bed.server.admin, path, &headers);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/json"), "{answer}");
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn practices_and_consumers_are_shown_with_what_became_of_their_requests() {
    let bed = with_token().await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    bed.expect_refusal(TestRequest::slots().without("Authorization"), "token_missing").await;
    let unknown = TestRequest::slots().target("/Z99999/STU3/1/gpconnect/Slot").without("Ssp-To");
    bed.expect_refusal(unknown, "practice_unknown").await;
    assert_eq!(bed.wait_for_closed_line(3).await["ods"], "Z99999");
    bed.provider.set_action(ProviderAction::Close);
    assert_eq!(bed.send(TestRequest::book()).await.token(), Some("outcome_unknown"));
    bed.wait_until_idle().await;
    let providers = view(&bed, "/providers");
    assert_eq!(providers.as_array().unwrap().len(), 1, "a name alone makes no practice");
    let practice = &providers[0];
    assert_eq!(
        (&practice["ods"], &practice["requests"], &practice["failures"]),
        (&"A20047".into(), &2.into(), &1.into())
    );
    let error = &practice["last_error"];
    assert_eq!((&error["refusal"], &error["status"]), (&"outcome_unknown".into(), &502.into()));
    let cause = error["cause"].as_str().unwrap();
    assert!(cause.starts_with("the connection failed before the answer: "), "{cause}");
    assert!(practice["last_success"].is_string() && practice["p50_ms"].is_u64(), "{practice}");
    assert!(practice.get("circuit_open_s").is_none(), "{practice}");
    let consumers = view(&bed, "/consumers");
    let consumer = &consumers[0];
    assert_eq!(
        (&consumer["requests"], &consumer["refusals"]["token_missing"]),
        (&4.into(), &1.into())
    );
    assert_eq!(consumer["certificate"]["sha256"].as_str().unwrap().len(), 64);
    assert!(consumer["quota"][1].as_u64().unwrap() > 0, "{consumer}");
    let last = view(&bed, "/exchanges");
    assert_eq!(last["exchanges"][0]["interaction"], "fhir:rest:search:slot-1");
    let refusals = last["refusals"].as_array().unwrap();
    let refusals: Vec<_> = refusals.iter().map(|refusal| &refusal["refusal"]).collect();
    assert_eq!(refusals, ["outcome_unknown", "practice_unknown", "token_missing"]);
    assert_eq!(last["refusals"][1]["ods"], "Z99999");
    let certificates = view(&bed, "/certificates");
    assert!(certificates.as_array().unwrap().iter().any(|of| of["use"] == "server"));
    for path in ["/providers", "/consumers", "/exchanges", "/certificates", "/config"] {
        let refused = ask(bed.server.admin, path, "Host: localhost\r\n");
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    }
}

#[tokio::test]
async fn an_open_circuit_is_shown_with_its_practice() {
    let bed = with_token().await;
    bed.make_provider_unreachable().await;
    for _ in 0..5 {
        bed.expect_refusal(TestRequest::slots(), "provider_not_reached").await;
    }
    bed.expect_refusal(TestRequest::slots(), "provider_circuit_open").await;
    bed.wait_until_idle().await;
    let providers = view(&bed, "/providers");
    assert!(providers[0]["circuit_open_s"].is_u64(), "{providers}");
    assert_eq!((&providers[0]["requests"], &providers[0]["failures"]), (&6.into(), &5.into()));
    let ready = ask(bed.server.admin, "/readyz", "Host: localhost\r\n");
    assert!(ready.contains("whose circuit is open after failures: 1"), "{ready}");
    let metrics = ask(bed.server.admin, "/metrics", "Host: localhost\r\n");
    assert!(metrics.contains("\nspine_proxy_provider_circuits_open 1\n"), "{metrics}");
}

#[tokio::test]
async fn metrics_are_compressed_for_a_client_that_accepts_it() {
    let bed = TestBed::new().await;
    for (accepts, is_zipped) in
        [("gzip", true), ("deflate, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false)]
    {
        let mut stream = TcpStream::connect(bed.server.admin).unwrap();
        let head = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {accepts}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let at = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..at].to_vec()).unwrap();
        assert_eq!(head.contains("content-encoding: gzip"), is_zipped, "{accepts}: {head}");
        let mut text = String::new();
        match is_zipped {
            true => flate2::read::GzDecoder::new(&answer[at + 4..]).read_to_string(&mut text),
            false => (&answer[at + 4..]).read_to_string(&mut text),
        }
        .unwrap();
        assert!(text.contains("\nspine_proxy_build_info{"), "{accepts}: {text}");
    }
}

#[tokio::test]
async fn the_configuration_in_force_is_shown_with_its_defaults_and_without_passwords() {
    let bed = TestBed::with(|files| {
        files.put("admin.token", TOKEN);
        files.set("admin", "token-file = \"admin.token\"");
        files.add("[throttle]\nconsumer-per-second = 500");
    })
    .await;
    let shown = view(&bed, "/config");
    let of = &shown["configuration"];
    assert_eq!(of["throttle"]["consumer-per-second"], 500);
    assert_eq!(of["provider"]["deadlines"]["response-head"], "20s");
    assert!(!shown.to_string().contains(TOKEN), "{shown}");
    // What a reload can change is shown as changed; what needs a restart is not.
    let text = bed.text("spine-proxy.toml");
    let changed = text.replace("consumer-per-second = 500", "consumer-per-second = 600");
    let changed = changed.replace("wait = \"1m\"", "wait = \"5s\"");
    bed.replace("spine-proxy.toml", &changed);
    bed.server.reload().await.unwrap();
    let after = view(&bed, "/config");
    assert_eq!(after["configuration"]["throttle"]["consumer-per-second"], 600);
    assert_eq!(after["configuration"]["audit"], of["audit"]);
    assert_ne!(after["sha256"], shown["sha256"]);
    assert_eq!(after["faults"], serde_json::json!([]));
    // A part that cannot be loaded is in force as it was.
    bed.replace("spine-proxy.toml", &changed.replace("\"ca.pem\"", "\"none.pem\""));
    bed.server.reload().await.unwrap_err();
    let faulty = view(&bed, "/config");
    let faults = faulty["faults"].as_array().unwrap();
    assert!(faults.iter().all(|fault| fault.as_str().unwrap().contains("none.pem")), "{faulty}");
    assert!(!faults.is_empty(), "{faulty}");
    let config = changed.replace(
        "[throttle]\n",
        "[redis]\ngateways = 1\nurl = \"redis://user:secret@127.0.0.1:6379/0\"\n[throttle]\n",
    );
    let config = Config::parse(&config, "spine-proxy.toml".as_ref()).unwrap();
    let json = config.json(&[]);
    assert!(json.contains("redis://127.0.0.1:6379/0") && !json.contains("secret"), "{json}");
}

#[tokio::test]
async fn metrics_are_in_the_format_of_openmetrics_for_a_client_that_accepts_it() {
    let bed = TestBed::new().await;
    // As Prometheus sends it.
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2\r\n";
    let answer = ask(bed.server.admin, "/metrics", &format!("Host: localhost\r\n{accept}"));
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{answer}"
    );
    assert!(answer.ends_with("\n# EOF\n"), "{answer}");
    for accept in ["text/plain", "application/openmetrics-text;q=0.1, text/plain", "*/*"] {
        let headers = format!("Host: localhost\r\nAccept: {accept}\r\n");
        let answer = ask(bed.server.admin, "/metrics", &headers);
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{accept}: {answer}");
        assert!(!answer.contains("# EOF"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_the_log_is_changed_with_the_token_alone() {
    let bed = with_token().await;
    let config = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let program = std::process::Command::new(testkit::program());
    let served = serve_with_log_level(program, &bed, &config, "info");
    let post = |level: &str, token: &str| {
        let mut stream = TcpStream::connect(served.admin).unwrap();
        let request = format!(
            "POST /log?level={level} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(post("debug", "wrong").starts_with("HTTP/1.1 403 "));
    let loud = post("loud", TOKEN);
    assert!(loud.starts_with("HTTP/1.1 400 ") && loud.contains("one of error, warn"), "{loud}");
    let debugs = || served.log.lock().unwrap().contains("\"level\":\"DEBUG\"");
    let refused = TestRequest::slots().without("Authorization");
    let refuse = || refused.send_to(&bed, served.address);
    assert_eq!(refuse().await.token(), Some("token_missing"));
    assert!(!debugs());
    assert!(post("debug", TOKEN).starts_with("HTTP/1.1 200 "));
    while !debugs() {
        assert_eq!(refuse().await.token(), Some("token_missing"));
    }
}
