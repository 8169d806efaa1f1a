//! Targets: the three forms are forwarded byte for byte, hostile ones are refused.
#![expect(clippy::print_stdout, reason = "a row that fails is named by the last line printed")]

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use testkit::test_bed;
use testkit::{Answer, Received, TestBed, TestRequest};

const HOST: &str = "provider.example.nhs.uk";
/// A query with everything that an intermediary might normalise.
const QUERY: &str = "?status=free&a=x|y&b=%3a&c=%7C&d=1+2&e=$x&e=2&e=3&f=%2F%zz&g=[1]{2}'\
                     &_include=Slot%3aschedule&_include%253arecurse=Schedule%3Aactor&_include%5B%5D=z&h&=";
const SLOT: &str = "/A20047/STU3/1/gpconnect/Slot";

fn slots_at(target: &str) -> TestRequest {
    TestRequest::slots().target(target)
}

fn last(bed: &TestBed) -> Received {
    bed.provider.received().pop().unwrap()
}

/// Asserts that a request was sent under a registered service root.
fn assert_registered(received: &Received) {
    let hosts = received.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    let hosts: Vec<_> = hosts.map(|(_, value)| value.as_str()).collect();
    assert_eq!(hosts, [HOST]);
    let path = received.start.strip_prefix("GET ").unwrap().strip_suffix(" HTTP/1.1").unwrap();
    let rest = path.strip_prefix(SLOT).unwrap_or_else(|| panic!("{path}"));
    assert!(rest.is_empty() || rest.starts_with('?'), "{path}");
    assert!(!path.contains('#'), "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_forms_reach_the_provider_byte_for_byte() {
    let bed = TestBed::new().await;
    let url = format!("https://{HOST}{SLOT}{QUERY}");
    let collapsed = format!("https:/{HOST}{SLOT}{QUERY}");
    let absolute = format!("https://ssp.example.nhs.uk/{url}");
    let absolute_practice = format!("https://ssp.example.nhs.uk{SLOT}{QUERY}");
    for call in [
        slots_at(&format!("/{url}")),
        slots_at(&format!("/{url}")).http2(),
        slots_at(&format!("/{collapsed}")),
        slots_at(&format!("/{collapsed}")).http2(),
        slots_at(&format!("{SLOT}{QUERY}")),
        slots_at(&format!("{SLOT}{QUERY}")).http2(),
        slots_at(&format!("{SLOT}{QUERY}")).without("Ssp-To"),
        slots_at(&format!("{SLOT}{QUERY}")).without("Ssp-To").http2(),
        slots_at(&format!("/a20047/STU3/1/gpconnect/Slot{QUERY}")),
        slots_at(&absolute),
        slots_at(&absolute_practice),
        slots_at(&absolute_practice).without("Ssp-To"),
    ] {
        println!("{call:?}");
        let answer = bed.send(call).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let received = last(&bed);
        assert_eq!(received.start, format!("GET {SLOT}{QUERY} HTTP/1.1"));
        assert_registered(&received);
        assert_eq!(received.header("ssp-to"), Some(test_bed::TO));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_but_legal_paths_are_not_tidied() {
    let bed = TestBed::new().await;
    for id in ["A-1.b", "...", "Invalid4321", &"a".repeat(64)] {
        let path = format!("/Appointment/{id}");
        let call = TestRequest::to("read:appointment-1", "GET", &path);
        let practice = call.clone().target(&format!("/A20047/STU3/1/gpconnect{path}"));
        for call in [call.clone(), call.http2(), practice.clone(), practice.http2()] {
            println!("{call:?}");
            assert_eq!(bed.send(call).await.status, 200, "{id}");
            let start = format!("GET /A20047/STU3/1/gpconnect{path} HTTP/1.1");
            assert_eq!(last(&bed).start, start);
        }
    }
    // A path without an id is another interaction: a search, a history, an operation.
    for id in ["", "$x", "_history", "a%20b", "%7C", "a+b", "(1)", &"a".repeat(65)] {
        let call = TestRequest::to("read:appointment-1", "GET", &format!("/Appointment/{id}"));
        bed.expect_refusal(call, "interaction_path").await;
    }
    let register = "urn:nhs:names:services:gpconnect:fhir:operation:gpc.registerpatient-1";
    let call = TestRequest::to(register, "POST", "/Patient/$gpc.registerpatient").body(b"{}");
    assert_eq!(bed.send(call).await.status, 200);
    let start = "POST /A20047/STU3/1/gpconnect/Patient/$gpc.registerpatient HTTP/1.1";
    assert_eq!(last(&bed).start, start);
    let query = format!("{SLOT}?a={}", "a".repeat(30 * 1024));
    for call in [slots_at(&query), slots_at(&query).http2()] {
        assert_eq!(bed.send(call).await.status, 200, "30 KiB");
        assert_eq!(last(&bed).start, format!("GET {query} HTTP/1.1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_names_the_practices_own_receiver_or_none() {
    let bed = TestBed::new().await;
    for call in [slots_at(SLOT).set("Ssp-To", test_bed::OTHER_TO), slots_at(SLOT).http2()] {
        let call = call.set("Ssp-To", test_bed::OTHER_TO);
        bed.expect_refusal(call, "receiver_not_practices").await;
    }
    let other = slots_at("/B82617/STU3/1/gpconnect/Slot").claim("aud", json!(test_bed::OTHER_ROOT));
    bed.expect_refusal(other.clone(), "receiver_not_practices").await;
    assert_eq!(bed.send(other.without("Ssp-To")).await.status, 200);
    assert_eq!(last(&bed).header("ssp-to"), Some(test_bed::OTHER_TO));
}

/// C1 to C7: the request line and `Host`.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_not_addressed_to_this_proxy_is_refused() {
    let bed = TestBed::new().await;
    let url = format!("https://{HOST}{SLOT}");
    let host = |host: &str| TestRequest::slots().set("Host", host);
    for (call, token) in [
        (TestRequest::slots().without("Host"), "host_invalid"),
        (host(""), "host_invalid"),
        (TestRequest::slots().with("Host", "ssp.example.nhs.uk"), "host_invalid"),
        (host("u:p@ssp.example.nhs.uk"), "host_invalid"),
        (host("a/b?c"), "host_invalid"),
        (host("ssp.example.nhs.uk:99999"), "host_invalid"),
        (host("ssp.example.nhs.uk, evil.nhs.uk"), "host_invalid"),
        (host("provider.example.nhs.uk"), "host_not_ours"),
        (host("evil.nhs.uk").http2(), "host_not_ours"),
        (host("ssp.example.nhs.uk."), "host_not_ours"),
        (slots_at(&format!("https://evil.nhs.uk/{url}")), "host_invalid"),
        (slots_at(&url), "host_invalid"),
        (slots_at(&url).set("Host", HOST), "host_not_ours"),
        (slots_at(&format!("https://u@ssp.example.nhs.uk/{url}")), "host_invalid"),
        (slots_at(&format!("http://ssp.example.nhs.uk/{url}")), "host_not_ours"),
        (slots_at("evil.nhs.uk:443"), "host_invalid"),
        (slots_at("*"), "target_malformed"),
        (slots_at("*").method("OPTIONS"), "method_not_allowed"),
        (slots_at("evil.nhs.uk:443").method("CONNECT"), "method_not_allowed"),
        (TestRequest::slots().method("TRACE"), "method_not_allowed"),
        (TestRequest::slots().method("TRACK"), "method_unknown"),
        (TestRequest::slots().method("get"), "method_unknown"),
        (TestRequest::slots().method("FOO!BAR"), "method_unknown"),
    ] {
        println!("{token}: {} {} {:?}", call.method, call.target, call.headers[0]);
        bed.expect_refusal(call, token).await;
    }
}

/// C8 to C18: what follows.
const HOSTILE: &[(&str, &str)] = &[
    ("target_malformed", "/https://good@evil.nhs.uk/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk:443@evil.nhs.uk/Slot"),
    ("target_malformed", "/https:\\\\evil.nhs.uk/Slot"),
    ("target_malformed", "/https:///evil.nhs.uk/Slot"),
    ("target_malformed", "/HTTPS://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/Https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/http://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https%3A%2F%2Fprovider.example.nhs.uk%2FA20047%2FSlot"),
    ("target_malformed", "//evil.nhs.uk/Slot"),
    ("target_malformed", "/ftp://evil.nhs.uk/Slot"),
    ("target_malformed", "/file:///etc/passwd"),
    ("target_malformed", "/https://[::1]/Slot"),
    ("target_malformed", "/https://[::ffff:169.254.169.254]/Slot"),
    ("target_malformed", "/https://[fe80::1%25eth0]/Slot"),
    ("target_malformed", "/https://127.0.0.1/Slot"),
    ("target_malformed", "/https://127.1/Slot"),
    ("target_malformed", "/https://0x7f.1/Slot"),
    ("target_malformed", "/https://2130706433/Slot"),
    ("target_malformed", "/https://169.254.169.254/latest/meta-data/Slot"),
    ("target_malformed", "/https://①②⑦.①/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk./A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https://*.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https://good_host.nhs.uk/Slot"),
    ("target_malformed", "/https://provider..nhs.uk/Slot"),
    ("target_malformed", "/https://bücher.example/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk:/A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk:0/A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk:0443/A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk:65536/A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://provider.example.nhs.uk:443/A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://provider.example.nhs.uk:22/A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://PROVIDER.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://xn--bcher-kva.example/A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https:/evil.nhs.uk/Slot"),
    ("target_unregistered", "/https://evil.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://ssp.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnectevil/Slot"),
    ("target_unregistered", "/https://provider.example.nhs.uk/A20047evil/STU3/1/gpconnect/Slot"),
    ("target_not_receivers", "/https://provider.example.nhs.uk/B82617/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://provider.example.nhs.uk/a20047/STU3/1/gpconnect/Slot"),
    ("target_not_receivers", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect//Slot"),
    ("target_not_receivers", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/admin/Slot"),
    ("target_unregistered", "/https://provider.example.nhs.uk//A20047/STU3/1/gpconnect/Slot"),
    ("target_unregistered", "/https://provider.example.nhs.uk/Slot"),
    ("interaction_path", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot/"),
    ("interaction_path", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Sl%6ft"),
    ("interaction_path", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/slot"),
    ("interaction_path", "/https://provider.example.nhs.uk"),
    ("interaction_path", "/https://provider.example.nhs.uk?x=/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/x/../A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/./A20047/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/%2e%2e/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/.%2E/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/..;/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect%2fSlot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect%5cSlot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot%00"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot%0d%0aX:1"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect%252fSlot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot%zz"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot%23frag"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/é/Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect\\Slot"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot;a=b"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot?a=\\"),
    ("target_malformed", "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot?a=é"),
    ("target_malformed", "/A20047/STU3/1/gpconnect/../gpconnect/Slot"),
    ("target_malformed", "/A20047/STU3/1/gpconnect/%2e%2e/Slot"),
    ("target_malformed", "/A20047/STU3/1/gpconnectevil/Slot"),
    ("target_malformed", "/A20047/STU3/1/structured/Slot"),
    ("target_malformed", "/9434765919/STU3/1/gpconnect/Slot"),
    ("target_malformed", "/A20047%2f/STU3/1/gpconnect/Slot"),
    ("interaction_path", "/A20047/STU3/1/gpconnect//Slot"),
    ("interaction_path", "/A20047/STU3/1/gpconnect/structured/Slot"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_target_reaches_no_provider() {
    let bed = TestBed::new().await;
    let label = format!("/https://{}.nhs.uk/Slot", "a".repeat(64));
    let name = format!("/https://{}nhs.uk/Slot", "a.".repeat(130));
    let long = [("target_malformed", &*label), ("target_malformed", &*name)];
    for (token, target) in HOSTILE.iter().copied().chain(long) {
        println!("{token}: {target}");
        bed.expect_refusal(slots_at(target), token).await;
        bed.expect_refusal(slots_at(target).http2(), token).await;
    }
    assert_eq!(bed.provider.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_the_parser_rejects_reaches_no_provider() {
    let bed = TestBed::new().await;
    for target in [
        "",
        "A20047/STU3/1/gpconnect/Slot",
        "/A20047/STU3/1/gpconnect/Slot x",
        "/A20047/STU3/1/gpconnect/\u{1}/Slot",
        "/A20047/STU3/1/gpconnect/<Slot>",
        "/A20047/STU3/1/gpconnect/Slot?a=\"",
        "ssp.example.nhs.uk/A20047/STU3/1/gpconnect/Slot",
    ] {
        println!("{target:?}");
        assert_eq!(bed.send(slots_at(target)).await.status, 400);
    }
    assert_eq!(bed.provider.connections(), 0);
}

/// C17.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_with_a_fragment_is_refused_and_not_cut() {
    let bed = TestBed::new().await;
    for end in ["#", "#frag", "?a=b#frag", "#?a=b", "?a=b#frag/Slot", "?a=b&c=d#&e=f", "?a=%23#"] {
        for start in [SLOT.to_owned(), format!("/https://{HOST}{SLOT}")] {
            let answer =
                bed.expect_refusal(slots_at(&format!("{start}{end}")), "target_malformed").await;
            assert!(answer.text().contains("holds a # that is not escaped"), "{answer:?}");
        }
    }
    assert_eq!(bed.send(slots_at(&format!("{SLOT}?a=%23"))).await.status, 200);
}

/// C26.
#[tokio::test(flavor = "multi_thread")]
async fn an_interaction_is_known_byte_for_byte() {
    let bed = TestBed::new().await;
    let known = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
    for id in [
        known.to_uppercase(),
        known.replace(":slot", ": slot"),
        known.replace("slot-1", "Slot-1"),
        format!("{known}%20"),
        format!("{known},{known}"),
        format!("{known}{}", "x".repeat(4096)),
    ] {
        let call = TestRequest::slots().set("Ssp-InteractionID", &id);
        bed.expect_refusal(call.clone(), "interaction_unknown").await;
        bed.expect_refusal(call.http2(), "interaction_unknown").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_never_reaches_a_root_nested_in_its_own() {
    let allowed = r#"allowed = ["appointments", "foundations", "structured", "documents"]"#;
    let bed = TestBed::with(|files| files.prepend(allowed)).await;
    let urn = |rest: &str| format!("urn:nhs:names:services:gpconnect:{rest}");
    let capabilities = ["gpconnect", "gpconnect/structured", "gpconnect/documents"];
    for (interaction, own, path) in [
        ("fhir:rest:read:metadata-1", "gpconnect", "/metadata"),
        ("structured:fhir:rest:read:metadata-1", "gpconnect/structured", "/metadata"),
        ("documents:fhir:rest:read:metadata-1", "gpconnect/documents", "/metadata"),
        ("fhir:rest:search:patient-1", "gpconnect", "/Patient"),
        ("documents:fhir:rest:search:patient-1", "gpconnect/documents", "/Patient"),
    ] {
        for capability in capabilities {
            let practice = format!("/A20047/STU3/1/{capability}");
            let root = format!("https://{HOST}{practice}");
            for audience in [format!("https://{HOST}/A20047/STU3/1/{own}"), root.clone()] {
                let call =
                    TestRequest::to(&urn(interaction), "GET", path).claim("aud", json!(audience));
                let embedded = call.clone().target(&format!("/{root}{path}"));
                let by_practice = call.target(&format!("{practice}{path}"));
                println!("{interaction} at {capability} for {audience}");
                if capability == own {
                    for call in [embedded, by_practice] {
                        assert_eq!(bed.send(call).await.status, 200);
                        let start = format!("GET {practice}{path} HTTP/1.1");
                        assert_eq!(last(&bed).start, start);
                    }
                } else {
                    // Under the receiver's own root it is the target that goes too far.
                    let token = match audience == root && !capability.starts_with(own) {
                        true => "receiver_not_targets",
                        false => "target_not_receivers",
                    };
                    bed.expect_refusal(embedded.http2(), token).await;
                    bed.expect_refusal(by_practice, "interaction_path").await;
                }
            }
        }
    }
}

/// Legal targets, legal ones with something put in, and anything at all.
fn targets() -> impl Strategy<Value = String> {
    let start = prop_oneof![
        Just(format!("/https://{HOST}{SLOT}")),
        Just(format!("/https:/{HOST}{SLOT}")),
        Just(SLOT.to_owned()),
        Just(format!("https://ssp.example.nhs.uk{SLOT}")),
    ];
    let query = prop_oneof![Just(String::new()), "\\?[!$-;=?-\\[\\]-~]{0,40}"];
    let legal = (start, query).prop_map(|(start, query)| start + &query).boxed();
    let hostile = "[/?#@:;%\\\\.|& \\[\\]]{1,3}|%2[eEfF]|/\\.\\./|@evil\\.uk|//|\\PC{1,4}";
    let bent = (legal.clone(), any::<prop::sample::Index>(), hostile);
    let bent = bent.prop_map(|(mut target, at, piece)| {
        target.insert_str(at.index(target.len() + 1), &piece);
        target
    });
    prop_oneof![2 => legal, 4 => bent, 1 => "/[!-~]{0,60}", 1 => "/https:/{0,3}[!-~]{0,60}"]
}

#[test]
fn a_provider_gets_requests_only_under_its_registered_root() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bed = runtime.block_on(TestBed::new());
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&targets(), |target| {
            let asked = bed.provider.received().len();
            let answer: Answer = runtime.block_on(bed.send(slots_at(&target)));
            let received = bed.provider.received().split_off(asked);
            prop_assert_eq!(received.len(), usize::from(answer.status == 200));
            received.iter().for_each(assert_registered);
            Ok(())
        })
        .unwrap();
    let asked = bed.provider.received().len();
    assert!((8..56).contains(&asked), "{asked} of 64 were legal");
}
