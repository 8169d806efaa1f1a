//! Redis as a gateway reaches it: TLS, users, reloads, and settings that cannot be used.

use gpconnect_simulator::pki::{Leaf, Pki};
use spine_proxy::config::Config;
use testkit::process::GatewayProcess;
use testkit::redis::{PASSWORD, Redis};
use testkit::test_bed::now_s;
use testkit::{TestBed, TestRequest};

/// Starts Redis with TLS, for clients of the test bed's authority.
async fn redis_with_tls(bed: &TestBed) -> Option<Redis> {
    let issued = bed.pki.issue(&Leaf::named("localhost")).unwrap();
    bed.replace("redis.pem", &issued.chain);
    bed.replace("redis.key", &issued.key);
    bed.replace("redis.password", PASSWORD);
    Redis::start_tls(bed.folder.path()).await
}

/// Starts a gateway with these lines in its section `[redis]`.
fn serve(bed: &TestBed, lines: &str) -> GatewayProcess {
    let config = bed.text("spine-proxy.toml").replace("\"audit\"", "\"own\"");
    let config = format!("{config}\n{}", section(lines));
    testkit::process::serve_with_log_level(
        std::process::Command::new(testkit::program()),
        bed,
        &config,
        "info",
    )
}

fn section(lines: &str) -> String {
    format!("[redis]\nwait = \"5s\"\ngateways = 2\npassword-file = \"redis.password\"\n{lines}\n")
}

async fn ask(bed: &TestBed, served: &GatewayProcess) {
    assert_eq!(TestRequest::slots().send_to(bed, served.address).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_by_tls_with_our_certificate_and_user() {
    let bed = TestBed::new().await;
    let Some(redis) = redis_with_tls(&bed).await else { return };
    let port = redis.address.port();
    let ours = "certificate = { chain = \"gateway.pem\", key = \"gateway.key\" }";
    let served = serve(
        &bed,
        &format!(
            "url = \"rediss://gateway@localhost:{port}/0\"\n\
             tls = {{ {ours}, authorities = [\"ca.pem\"], crl = [\"crl.pem\"] }}"
        ),
    );
    ask(&bed, &served).await;
    assert_eq!(served.metric("redis_up").await, 1, "{}", served.log.lock().unwrap());
    let certificates = testkit::process::get(served.admin, "/metrics").await;
    assert!(certificates.contains("use=\"redis\"") && certificates.contains("use=\"redis_crl\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_certificate_is_not_the_one_expected_is_not_used() {
    let bed = TestBed::new().await;
    let Some(redis) = redis_with_tls(&bed).await else { return };
    let port = redis.address.port();
    bed.replace("other.pem", &Pki::new(now_s()).unwrap().authority());
    let ours = "certificate = { chain = \"gateway.pem\", key = \"gateway.key\" }";
    for (host, tls) in [
        ("localhost", format!("{ours}, authorities = [\"other.pem\"]")),
        ("127.0.0.1", format!("{ours}, authorities = [\"ca.pem\"]")),
        ("localhost", "authorities = [\"ca.pem\"]".to_owned()),
    ] {
        let url = format!("url = \"rediss://{host}:{port}\"\ntls = {{ {tls}, crl = \"none\" }}");
        let served = serve(&bed, &url);
        ask(&bed, &served).await;
        assert_eq!(served.metric("redis_up").await, 0, "{host} {tls}");
        let log = served.log.lock().unwrap().clone();
        assert!(log.contains("Redis cannot be used: this gateway goes on alone"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_puts_another_redis_in_force_or_none() {
    let bed = TestBed::new().await;
    let folder = bed.folder.path();
    let (Some(first), Some(second)) = (Redis::start(folder).await, Redis::start(folder).await)
    else {
        return;
    };
    bed.replace("redis.password", PASSWORD);
    let config = bed.text("spine-proxy.toml");
    let quotas = "KEYS spine-proxy:quota:*";
    for (redis, other) in [(&first, &second), (&second, &first)] {
        let lines = section(&format!("url = \"redis://{}\"", redis.address));
        bed.replace("spine-proxy.toml", &format!("{config}\n{lines}"));
        bed.server.reload().await.unwrap();
        assert_eq!(bed.metric("redis_up"), 1);
        // What was drawn from the other server is spent first.
        while redis.commands(quotas).await == "*0\r\n" {
            assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
        }
        other.commands("FLUSHALL").await;
    }
    bed.replace("spine-proxy.toml", &config);
    bed.server.reload().await.unwrap();
    assert_eq!(bed.metric("redis_up"), 0);
    second.commands("FLUSHALL").await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    assert_eq!(second.commands(quotas).await, "*0\r\n");
    assert_eq!(bed.metric("alarms"), 0, "none is configured");
}

#[test]
fn settings_of_redis_that_cannot_be_used_are_refused_with_the_key() {
    let example = include_str!("../deploy/spine-proxy.toml");
    let tls = "tls = { authorities = [\"ca.pem\"], crl = \"none\" }\n";
    for (lines, said) in [
        ("[redis]\nurl = \"redis://h:1\"\n".to_owned(), "missing field `gateways`"),
        ("[redis]\nurl = \"redis://h:1\"\ngateways = 0\n".to_owned(), "nonzero"),
        (
            "[redis]\nurl = \"http://h:1\"\ngateways = 2\n".to_owned(),
            "redis.url: it must begin with redis://",
        ),
        (
            "[redis]\nurl = \"unix:///redis\"\ngateways = 2\n".to_owned(),
            "redis.url: it must begin with redis://",
        ),
        ("[redis]\nurl = \"rediss://h:1\"\ngateways = 2\n".to_owned(), "redis.tls: it is missing"),
        (
            format!("[redis]\nurl = \"redis://h:1\"\ngateways = 2\n{tls}"),
            "redis.tls: the URL must begin with rediss://",
        ),
        ("[redis]\nurl = \"redis://0.0.0.0:1\"\ngateways = 2\n".to_owned(), "redis.url: "),
        (
            "[throttle]\nshared = { url = \"redis://h:1\" }\n".to_owned(),
            "this key has moved: write a section [redis]",
        ),
    ] {
        let text = match lines.strip_prefix("[throttle]\n") {
            Some(line) => example.replacen("[throttle]\n", &format!("[throttle]\n{line}"), 1),
            None => format!("{example}\n{lines}"),
        };
        assert_ne!(text, example);
        let refused = Config::parse(&text, "spine-proxy.toml".as_ref()).unwrap_err().to_string();
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

#[tokio::test]
async fn a_short_key_of_directory_answers_is_refused() {
    let bed = TestBed::new().await;
    let config = bed.text("spine-proxy.toml");
    bed.replace("answers.key", "short");
    let lines =
        "[redis]\nurl = \"redis://127.0.0.1:1\"\ngateways = 2\nkey-file = \"answers.key\"\n";
    bed.replace("spine-proxy.toml", &format!("{config}\n{lines}"));
    let refused = bed.server.reload().await.unwrap_err().to_string();
    assert!(
        refused.contains("answers.key") && refused.contains("fewer than 32 bytes"),
        "{refused}"
    );
}
