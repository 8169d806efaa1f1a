//! A gateway with a live directory: outages, practices that move, and the admin port.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gpconnect_simulator::sds::{Records, SdsFault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use testkit::link::LinkFault;
use testkit::sds::{BOOK, PAYER, READ, Registry, SLOTS, by_practice, interaction};
use testkit::{Answer, ProviderAction, TestBed, TestRequest};

/// An invented practice by number: its ODS code, ASID and root.
struct Practice(String, String, String);

fn practice(number: usize) -> Practice {
    let ods = format!("P{number:05}");
    let root = format!("https://provider.example.nhs.uk/{ods}/STU3/1/gpconnect");
    Practice(ods, format!("9181{number:08}"), root)
}

fn records(count: usize) -> Records {
    (0..count).map(practice).fold(Records::default(), |records, Practice(ods, asid, root)| {
        let key = format!("{ods}-1000001");
        records.and(Records::practice(&ods, &asid, &key, &root, &[SLOTS, BOOK, READ]))
    })
}

/// Returns a request in form (a) or (b), alternately.
fn call(number: usize, turn: usize) -> TestRequest {
    let Practice(ods, asid, root) = practice(number);
    let call = if turn % 4 < 2 { TestRequest::slots() } else { TestRequest::book() };
    let path = if turn % 4 < 2 { "/Slot?status=free" } else { "/Appointment" };
    let call = call.claim("aud", root.clone().into());
    if turn.is_multiple_of(2) {
        call.target(&format!("/{root}{path}")).set("Ssp-To", &asid)
    } else {
        call.target(&format!("/{ods}/STU3/1/gpconnect{path}")).without("Ssp-To")
    }
}

const SHORT: &str =
    r#"deadlines = { attempt = "300ms", waiting = "700ms", circuit-open = "100ms" }"#;
const SEEN: usize = 12;

/// Sends requests for cached practices until `stop` is set. Returns their number.
fn load(bed: &Arc<TestBed>, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    let (bed, stop) = (Arc::clone(bed), Arc::clone(stop));
    let served = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        let mut turn = 0;
        while !stop.load(Ordering::Acquire) || turn < 60 {
            let answer = bed.send(call(turn % SEEN, turn)).await;
            assert_eq!(answer.status, 200, "turn {turn}: {answer:?}");
            served.fetch_add(1, Ordering::Relaxed);
            turn += 1;
        }
        served.load(Ordering::Relaxed)
    })
}

async fn assert_all_served(bed: TestBed) -> TestBed {
    let bed = Arc::new(bed);
    let stop = Arc::new(AtomicBool::new(true));
    let loads: Vec<_> = (0..3).map(|_| load(&bed, &stop)).collect();
    for load in loads {
        assert!(load.await.unwrap() >= 60);
    }
    Arc::into_inner(bed).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_directory_under_load_fails_no_cached_practice() {
    // No entry is fresh, so every request needs the directory. The gateway restarts during the outage.
    let more = format!(
        "{SHORT}\nsnapshot = \"held.json\"\nmisses-per-minute = 1000\n\
         freshness = {{ provider = \"0s\", provider-stale = \"45m\" }}"
    );
    let mut registry = Registry::new(records(SEEN + 1), &more).await;
    let bed = registry.test_bed().await;
    bed.provider.set_action(ProviderAction::ok());
    let bed = assert_all_served(bed).await;
    registry.stop().await;
    let bed = assert_all_served(bed).await.restart().await;
    let bed = assert_all_served(bed).await;
    let unseen = bed.expect_refusal(call(SEEN, 0), "directory_unavailable").await;
    assert_eq!(unseen.status, 503);
    assert_eq!(unseen.header("retry-after"), Some("1"));
    assert_eq!(unseen.json()["issue"][0]["code"], "transient");
    let ready = admin(&bed, "GET", "/readyz", "").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    assert!(ready.contains("the newest answer of a source is "), "{ready}");
    registry.start().await;
    while bed.send(call(SEEN, 0)).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_all_served(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_cannot_be_reached_is_looked_up_anew_for_the_next_request() {
    let registry = Registry::new(Records::default(), "").await;
    let bed = registry.test_bed().await;
    let Practice(ods, asid, root) = practice(0);
    let left = root.replace("provider.example.nhs.uk", "nobody.invalid");
    registry.sds.replace(Records::practice(&ods, &asid, "N-1", &left, &[SLOTS, BOOK, READ]));
    let code = ods.parse().unwrap();
    let directory = &bed.server.directory;
    directory.provider(&by_practice(&code, None), interaction(SLOTS), PAYER).await.unwrap();
    registry.wait_until_idle(directory).await;
    // The cached entry is still fresh: only the failed request causes another look-up.
    registry.sds.replace(records(1));
    let by_code = call(0, 1).claim("aud", left.clone().into());
    assert_eq!(bed.send(by_code.clone()).await.token(), Some("provider_not_reached"));
    while !String::from_iter(bed.server.directory.cache_json()).contains(&root) {
        assert_ne!(bed.send(by_code.clone()).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_leaves_during_a_look_up_is_cancelled_but_the_look_up_is_not() {
    let more = "deadlines = { attempt = \"10m\", waiting = \"10m\" }";
    let registry = Registry::new(records(1), more).await;
    let bed =
        registry.test_bed_with(|files| files.add("[throttle]\nconsumer-exchanges-max = 1")).await;
    registry.sds.set(None, SdsFault::HeldBack);
    tokio::select! {
        answer = bed.send(call(0, 0).http2()) => panic!("{answer:?}"),
        () = registry.wait_for_queries(1) => {}
    }
    let record = bed.wait_for_closed_line(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    assert_eq!(record["ended_in"], "directory");
    registry.sds.clear();
    while !String::from_iter(bed.server.directory.cache_json()).contains("P00000") {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.send(call(0, 0)).await.status, 200, "the consumer's place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_that_moves_is_served_at_its_new_root_and_refused_at_its_old() {
    let registry = Registry::new(records(1), "").await;
    let bed = registry.test_bed().await;
    assert_eq!(bed.send(call(0, 0)).await.status, 200);
    let Practice(ods, _, root) = practice(0);
    let new_root = root.replace("/STU3", "/v2/STU3");
    let new = Records::practice(&ods, "918199999999", "N-2", &new_root, &[SLOTS, BOOK, READ]);
    registry.sds.replace(new);
    let moved = TestRequest::slots()
        .target(&format!("/{new_root}/Slot?status=free"))
        .claim("aud", new_root.clone().into())
        .set("Ssp-To", "918199999999");
    // Neither the path nor a source identifies the practice of this root. By ODS code it is found.
    bed.expect_refusal(moved.clone(), "receiver_not_found").await;
    let by_code = call(0, 1).set("Ssp-To", "918199999999").claim("aud", new_root.into());
    assert_eq!(bed.send(by_code).await.status, 200);
    bed.expect_refusal(moved, "receiver_not_found").await;
    bed.expect_refusal(call(0, 0), "receiver_not_found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_root_of_a_known_system_is_looked_up_before_it_is_refused() {
    let registry = Registry::new(records(1), "").await;
    let bed = registry.test_bed().await;
    assert_eq!(bed.send(call(0, 0)).await.status, 200);
    let Practice(ods, asid, root) = practice(0);
    let new_root = root.replace("gpconnect", "gpconnect-two");
    let key = format!("{ods}-1000001");
    registry.sds.replace(Records::practice(&ods, &asid, &key, &new_root, &[SLOTS, BOOK, READ]));
    let moved = TestRequest::slots()
        .target(&format!("/{new_root}/Slot?status=free"))
        .claim("aud", new_root.into())
        .set("Ssp-To", &asid);
    assert_eq!(bed.send(moved.clone()).await.status, 200, "the first request with the new root");
    let answer = bed.send(call(0, 0)).await;
    assert_eq!(answer.token(), Some("receiver_not_targets"), "{answer:?}");
    assert_eq!(bed.send(moved).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_is_refused_with_retry_after() {
    let registry = Registry::new(records(1), "misses-per-minute = 2").await;
    let bed = registry.test_bed().await;
    for number in [1, 2] {
        bed.expect_refusal(call(number, 1), "practice_unknown").await;
    }
    let answer = bed.expect_refusal(call(3, 1), "lookups_exceeded").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_for_look_ups_belongs_to_the_consumer_not_to_its_certificate() {
    let registry = Registry::new(records(1), "misses-per-minute = 2").await;
    let bed = registry.test_bed_with(|files| {
        files.edit("directory.toml", |text| {
            text.replace(
                "asids = [\"200000000359\"]",
                "asids = [\"200000000359\", \"200000000361\"]",
            )
        });
    });
    let bed = bed.await;
    bed.expect_refusal(call(1, 1), "practice_unknown").await;
    bed.expect_refusal(call(2, 1).certificate("hub-cn"), "practice_unknown").await;
    for certificate in ["hub", "hub-cn"] {
        bed.expect_refusal(call(3, 1).certificate(certificate), "lookups_exceeded").await;
    }
    let of_another = call(3, 1).set("Ssp-From", "200000000361");
    bed.expect_refusal(of_another, "practice_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_has_only_the_duration_of_a_look_up() {
    let registry = Registry::new(records(1), "").await;
    let bed = registry.test_bed().await;
    assert_eq!(bed.send(call(0, 0)).await.status, 200);
    let record = bed.wait_for_closed_line(1).await;
    assert!(record["directory_us"].as_u64().unwrap() > 0);
    assert_eq!(record["ods"], "P00000");
    assert_eq!(record["directory"], "sds-api");
    assert!(record["directory_age_s"].as_u64().unwrap() < 60);
}

/// Token for the admin port.
const TOKEN: &str = "an-invented-token-of-thirty-two-bytes-or-more";

async fn admin(bed: &TestBed, method: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(bed.server.admin).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_shows_and_flushes_the_cache_only_with_the_token() {
    let registry = Registry::new(records(1), "").await;
    let token = registry.folder.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let mut bed = registry.test_bed().await;
    let config = bed.text("spine-proxy.toml");
    let with_token = format!("[admin]\ntoken-file = \"{}\"\n", token.display());
    bed.replace("spine-proxy.toml", &config.replace("[admin]\n", &with_token));
    bed = bed.restart().await;
    assert_eq!(bed.send(call(0, 0)).await.status, 200);
    let known = format!("Authorization: Bearer {TOKEN}\r\n");
    let held = admin(&bed, "GET", "/directory", &known).await;
    for part in ["\"ods\":\"P00000\"", "\"state\":\"fresh\"", "\"source\":\"sds-api\""] {
        assert!(held.contains(part), "{part}: {held}");
    }
    let wrong = format!("Authorization: Bearer {}\r\n", TOKEN.replace('-', "_"));
    for headers in ["", wrong.as_str(), "Authorization: x\r\n"] {
        for (method, path) in [("POST", "/directory/flush"), ("GET", "/directory")] {
            let refused = admin(&bed, method, path, headers).await;
            assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
            assert!(!refused.contains("P00000"), "{refused}");
        }
    }
    for (path, status, part) in [
        ("/directory/flush?ods=p00000", 200, "1 marked"),
        ("/directory/flush?ods=P99999", 200, "0 marked"),
        ("/directory/flush?ods=*", 400, "ods=CODE"),
        ("/directory/flush", 200, "1 marked"),
    ] {
        let answer = admin(&bed, "POST", path, &known).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
    }
    std::fs::write(&token, format!("another-{TOKEN}\n")).unwrap();
    let refused = admin(&bed, "POST", "/directory/flush", &known).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let known = format!("Authorization: Bearer another-{TOKEN}\r\n");
    let answer = admin(&bed, "POST", "/directory/flush", &known).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let held = admin(&bed, "GET", "/directory", &known).await;
    assert!(held.contains("\"state\":\"flushed\""), "{held}");
    let asked = registry.query_count();
    assert_eq!(bed.send(call(0, 0)).await.status, 200);
    assert!(registry.query_count() > asked);
}

fn lookup(bed: &TestBed, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .arg("lookup")
        .arg("--config")
        .arg(bed.path("spine-proxy.toml"))
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_explains_its_answer() {
    let registry = Registry::new(records(2), "").await;
    let bed = registry.test_bed().await;
    let (code, text) = lookup(&bed, &["p00000"]);
    assert_eq!(code, 0, "{text}");
    for part in [
        "practice    P00000",
        "asked       sds-api for handlers: found in ",
        "asked       sds-api for systems: found in ",
        "sds-api     ASID 918100000000 party key P00000-1000001 at https://provider.example.nhs.uk/P00000/",
        "also has    2 other interactions",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    registry.sds.set(Some("P00001"), SdsFault::Status(500));
    registry.sds.set(Some("P00002"), SdsFault::Status(500));
    let fall_back = r#"
        [[provider]]
        ods = "P00002"
        asid = "918100000002"
        party-key = "P00002-1000001"
        cpa-id = "S000000000002"
        root = "https://provider.example.nhs.uk/P00002/STU3/1/gpconnect"
        interactions = ["appointments"]
        used = "when-sources-fail"
    "#;
    bed.replace("directory.toml", &(bed.text("directory.toml") + fall_back));
    let (code, text) = lookup(&bed, &["P00002"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("file        ASID 918100000002"), "{text}");
    for (arguments, exit, part) in [
        (["Z00000", "rest:search:slot-1"], 1, "nothing is registered"),
        (["P00000", "rest:read:patient-1"], 1, "nothing is registered"),
        (["P00001", "rest:search:slot-1"], 1, "no answer: not available: 500"),
        (["*", "rest:search:slot-1"], 78, "is not an ODS code"),
        (["P00000", "nonsense"], 2, "is no interaction"),
    ] {
        let (code, text) = lookup(&bed, &arguments);
        assert_eq!(code, exit, "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_sources_and_those_without_senders() {
    let registry = Registry::new(records(1), "").await;
    let bed = registry.test_bed().await;
    let output = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .args(["check", "--config"])
        .arg(bed.path("spine-proxy.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("live sources    sds-api (cannot identify consumers"), "{text}");
}

/// The key appears in no answer and no output.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_api_key_is_not_an_absence_and_is_not_logged() {
    let registry = Registry::new(records(1), SHORT).await;
    std::fs::write(registry.folder.path().join("key"), "another-key").unwrap();
    let bed = registry.test_bed().await;
    let answer: Answer = bed.expect_refusal(call(0, 0), "directory_unavailable").await;
    assert!(!answer.text().contains("another-key"));
    let (code, text) = lookup(&bed, &["P00000"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not accept our credentials") && !text.contains("another-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_could_alter_a_query_does_not_reach_the_directory() {
    let registry = Registry::new(records(1), "").await;
    let bed = registry.test_bed().await;
    for bad in ["*", ")(", "P00000)(uid=*", "P0*", "%2a", "%00", "P00000%00"] {
        let target = call(0, 1).target(&format!("/{bad}/STU3/1/gpconnect/Slot?status=free"));
        let hint = call(0, 0).set("Ssp-To", "918199999999").target(&format!(
            "/https://provider.example.nhs.uk/{bad}/STU3/1/gpconnect/Slot?status=free"
        ));
        let from = call(0, 0).set("Ssp-From", bad);
        let to = call(0, 0).set("Ssp-To", bad);
        let organisation = serde_json::json!({
            "resourceType": "Organization",
            "identifier": [{
                "system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": bad,
            }],
        });
        let organisation = call(0, 0).claim("requesting_organization", organisation);
        for call in [target, hint, from, to, organisation] {
            let answer = bed.send(call).await;
            assert!((400..404).contains(&answer.status), "{bad}: {answer:?}");
        }
    }
    assert_eq!(registry.query_count(), 0);
    let lower = call(0, 1).target("/p00000/STU3/1/gpconnect/Slot?status=free");
    assert_eq!(bed.send(lower).await.status, 200);
    assert!(registry.sds.received().iter().all(|asked| asked.query.contains("%7CP00000")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_link_to_the_directory_fails_no_cached_practice() {
    let more = format!("{SHORT}\nfreshness = {{ provider = \"0s\", provider-stale = \"45m\" }}");
    let late = LinkFault::Latency(Duration::from_millis(10));
    for (mishap, gets_through) in [
        (late, true),
        (LinkFault::Slice(7), true),
        (LinkFault::Reset, false),
        (LinkFault::HalfClose, false),
        (LinkFault::BlackHole, false),
    ] {
        let mut registry = Registry::new(records(2), &more).await;
        let way = registry.add_link();
        let bed = registry.test_bed().await;
        bed.provider.set_action(ProviderAction::ok());
        for turn in 0..5 {
            assert_eq!(bed.send(call(0, turn)).await.status, 200, "seen");
        }
        way.set_fault(mishap);
        for turn in 0..5 {
            let answer = bed.send(call(0, turn)).await;
            assert_eq!(answer.status, 200, "{mishap:?}: {answer:?}");
        }
        let unseen = bed.send(call(1, 0)).await;
        match gets_through {
            true => assert_eq!(unseen.status, 200, "{mishap:?}: {unseen:?}"),
            false => assert_eq!(unseen.token(), Some("directory_unavailable"), "{mishap:?}"),
        }
        way.set_fault(LinkFault::None);
        while bed.send(call(1, 0)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
