//! A gateway over a live directory: outages nobody notices, practices that move, operators who look.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gpconnect_simulator::sds::{Records, SdsFault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use testkit::sds::{BOOK, PAYER, READ, Registry, SLOTS, by_practice, interaction};
use testkit::way::Mishap;
use testkit::{Act, Answer, Call, Stage};

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

/// Form (a) or (b), by turns.
fn call(number: usize, turn: usize) -> Call {
    let Practice(ods, asid, root) = practice(number);
    let call = if turn % 4 < 2 { Call::slots() } else { Call::book() };
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

/// Sends calls for practices that have been seen until it is told to stop; answers how many.
fn load(stage: &Arc<Stage>, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    let (stage, stop) = (Arc::clone(stage), Arc::clone(stop));
    let served = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        let mut turn = 0;
        while !stop.load(Ordering::Acquire) || turn < 60 {
            let answer = stage.hears(call(turn % SEEN, turn)).await;
            assert_eq!(answer.status, 200, "turn {turn}: {answer:?}");
            served.fetch_add(1, Ordering::Relaxed);
            turn += 1;
        }
        served.load(Ordering::Relaxed)
    })
}

async fn is_loaded(stage: Stage) -> Stage {
    let stage = Arc::new(stage);
    let stop = Arc::new(AtomicBool::new(true));
    let loads: Vec<_> = (0..3).map(|_| load(&stage, &stop)).collect();
    for load in loads {
        assert!(load.await.unwrap() >= 60);
    }
    Arc::into_inner(stage).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_directory_under_load_fails_nobody_who_has_been_seen() {
    // Nothing is fresh, so that every request feels the outage; in between lies a restart.
    let more = format!(
        "{SHORT}\nsnapshot = \"held.json\"\nmisses-per-minute = 1000\n\
         freshness = {{ provider = \"0s\", provider-stale = \"45m\" }}"
    );
    let mut registry = Registry::new(records(SEEN + 1), &more).await;
    let stage = registry.stage().await;
    stage.provider.does(Act::ok());
    let stage = is_loaded(stage).await;
    registry.closes().await;
    let stage = is_loaded(stage).await.restarts().await;
    let stage = is_loaded(stage).await;
    let unseen = stage.refuses(call(SEEN, 0), "directory_unavailable").await;
    assert_eq!(unseen.status, 503);
    assert_eq!(unseen.header("retry-after"), Some("1"));
    assert_eq!(unseen.json()["issue"][0]["code"], "transient");
    let ready = admin(&stage, "GET", "/readyz", "").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    assert!(ready.contains("newest answer of a directory source: "), "{ready}");
    registry.opens().await;
    while stage.hears(call(SEEN, 0)).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    is_loaded(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_cannot_be_reached_is_looked_up_anew_for_the_next_request() {
    let registry = Registry::new(Records::default(), "").await;
    let stage = registry.stage().await;
    let Practice(ods, asid, root) = practice(0);
    let left = root.replace("provider.example.nhs.uk", "nobody.invalid");
    registry.sds.replace(Records::practice(&ods, &asid, "N-1", &left, &[SLOTS, BOOK, READ]));
    let code = ods.parse().unwrap();
    let directory = &stage.server.directory;
    directory.provider(&by_practice(&code, None), interaction(SLOTS), PAYER).await.unwrap();
    registry.rests(directory).await;
    // What is held is as fresh as before: nothing but the next request says that it is wrong.
    registry.sds.replace(records(1));
    let by_code = call(0, 1).claim("aud", left.clone().into());
    assert_eq!(stage.hears(by_code.clone()).await.token(), Some("provider_not_reached"));
    while !String::from_iter(stage.server.directory.cache_json()).contains(&root) {
        assert_ne!(stage.hears(by_code.clone()).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_consumer_hangs_up_during_a_look_up_is_given_up_and_the_look_up_is_not() {
    let more = "deadlines = { attempt = \"10m\", waiting = \"10m\" }";
    let registry = Registry::new(records(1), more).await;
    let stage =
        registry.stage_with(|files| files.add("[throttle]\nconsumer-exchanges-max = 1")).await;
    registry.sds.set(None, SdsFault::HeldBack);
    tokio::select! {
        answer = stage.hears(call(0, 0).http2()) => panic!("{answer:?}"),
        () = registry.has_been_asked(1) => {}
    }
    let record = stage.closed(1).await;
    assert_eq!((&record["outcome"], &record["ended_by"]), (&"aborted".into(), &"consumer".into()));
    assert_eq!(record["ended_in"], "directory");
    registry.sds.clear();
    while !String::from_iter(stage.server.directory.cache_json()).contains("P00000") {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.hears(call(0, 0)).await.status, 200, "the consumer's place is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_that_moves_is_served_at_its_new_root_and_refused_at_its_old() {
    let registry = Registry::new(records(1), "").await;
    let stage = registry.stage().await;
    assert_eq!(stage.hears(call(0, 0)).await.status, 200);
    let Practice(ods, _, root) = practice(0);
    let new_root = root.replace("/STU3", "/v2/STU3");
    let new = Records::practice(&ods, "918199999999", "N-2", &new_root, &[SLOTS, BOOK, READ]);
    registry.sds.replace(new);
    let moved = Call::slots()
        .target(&format!("/{new_root}/Slot?status=free"))
        .claim("aud", new_root.clone().into())
        .set("Ssp-To", "918199999999");
    // The path no longer tells whose root it is, nor does any source: by ODS code, whoever asked before.
    stage.refuses(moved.clone(), "receiver_not_found").await;
    let by_code = call(0, 1).set("Ssp-To", "918199999999").claim("aud", new_root.into());
    assert_eq!(stage.hears(by_code).await.status, 200);
    stage.refuses(moved, "receiver_not_found").await;
    stage.refuses(call(0, 0), "receiver_not_found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_changes_under_the_same_system_is_asked_for_before_it_is_refused() {
    let registry = Registry::new(records(1), "").await;
    let stage = registry.stage().await;
    assert_eq!(stage.hears(call(0, 0)).await.status, 200);
    let Practice(ods, asid, root) = practice(0);
    let new_root = root.replace("gpconnect", "gpconnect-two");
    let key = format!("{ods}-1000001");
    registry.sds.replace(Records::practice(&ods, &asid, &key, &new_root, &[SLOTS, BOOK, READ]));
    let moved = Call::slots()
        .target(&format!("/{new_root}/Slot?status=free"))
        .claim("aud", new_root.into())
        .set("Ssp-To", &asid);
    assert_eq!(stage.hears(moved.clone()).await.status, 200, "the first request with the new root");
    let answer = stage.hears(call(0, 0)).await;
    assert_eq!(answer.token(), Some("receiver_not_targets"), "{answer:?}");
    assert_eq!(stage.hears(moved).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_is_told_to_slow_down() {
    let registry = Registry::new(records(1), "misses-per-minute = 2").await;
    let stage = registry.stage().await;
    for number in [1, 2] {
        stage.refuses(call(number, 1), "practice_unknown").await;
    }
    let answer = stage.refuses(call(3, 1), "lookups_exceeded").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_for_look_ups_is_an_identified_consumers_not_its_certificates() {
    let registry = Registry::new(records(1), "misses-per-minute = 2").await;
    let stage = registry.stage_with(|files| {
        files.edit("directory.toml", |text| {
            text.replace(
                "asids = [\"200000000359\"]",
                "asids = [\"200000000359\", \"200000000361\"]",
            )
        });
    });
    let stage = stage.await;
    stage.refuses(call(1, 1), "practice_unknown").await;
    stage.refuses(call(2, 1).certificate("hub-cn"), "practice_unknown").await;
    for certificate in ["hub", "hub-cn"] {
        stage.refuses(call(3, 1).certificate(certificate), "lookups_exceeded").await;
    }
    let of_another = call(3, 1).set("Ssp-From", "200000000361");
    stage.refuses(of_another, "practice_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_says_nothing_of_a_look_up_but_how_long_it_took() {
    let registry = Registry::new(records(1), "").await;
    let stage = registry.stage().await;
    assert_eq!(stage.hears(call(0, 0)).await.status, 200);
    let record = stage.closed(1).await;
    assert!(record["directory_us"].as_u64().unwrap() > 0);
    assert_eq!(record["ods"], "P00000");
    assert_eq!(record["directory"], "sds-api");
    assert!(record["directory_age_s"].as_u64().unwrap() < 60);
}

/// An admin token.
const TOKEN: &str = "an-invented-token-of-thirty-two-bytes-or-more";

async fn admin(stage: &Stage, method: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(stage.server.admin).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_is_held_and_flush_it_with_the_token_alone() {
    let registry = Registry::new(records(1), "").await;
    let token = registry.folder.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let mut stage = registry.stage().await;
    let config = stage.text("spine-proxy.toml");
    let with_token = format!("[admin]\ntoken-file = \"{}\"\n", token.display());
    stage.replace("spine-proxy.toml", &config.replace("[admin]\n", &with_token));
    stage = stage.restarts().await;
    assert_eq!(stage.hears(call(0, 0)).await.status, 200);
    let known = format!("Authorization: Bearer {TOKEN}\r\n");
    let held = admin(&stage, "GET", "/directory", &known).await;
    for part in ["\"ods\":\"P00000\"", "\"state\":\"fresh\"", "\"source\":\"sds-api\""] {
        assert!(held.contains(part), "{part}: {held}");
    }
    let wrong = format!("Authorization: Bearer {}\r\n", TOKEN.replace('-', "_"));
    for headers in ["", wrong.as_str(), "Authorization: x\r\n"] {
        for (method, path) in [("POST", "/directory/flush"), ("GET", "/directory")] {
            let refused = admin(&stage, method, path, headers).await;
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
        let answer = admin(&stage, "POST", path, &known).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
    }
    std::fs::write(&token, format!("another-{TOKEN}\n")).unwrap();
    let refused = admin(&stage, "POST", "/directory/flush", &known).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let known = format!("Authorization: Bearer another-{TOKEN}\r\n");
    let answer = admin(&stage, "POST", "/directory/flush", &known).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let held = admin(&stage, "GET", "/directory", &known).await;
    assert!(held.contains("\"state\":\"flushed\""), "{held}");
    let asked = registry.asked();
    assert_eq!(stage.hears(call(0, 0)).await.status, 200);
    assert!(registry.asked() > asked);
}

fn lookup(stage: &Stage, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .arg("lookup")
        .arg("--config")
        .arg(stage.path("spine-proxy.toml"))
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_tells_how_an_answer_comes_about() {
    let registry = Registry::new(records(2), SHORT).await;
    let stage = registry.stage().await;
    let (code, text) = lookup(&stage, &["p00000"]);
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
    stage.replace("directory.toml", &(stage.text("directory.toml") + fall_back));
    let (code, text) = lookup(&stage, &["P00002"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("file        ASID 918100000002"), "{text}");
    for (arguments, exit, part) in [
        (["Z00000", "rest:search:slot-1"], 1, "nothing is registered"),
        (["P00000", "rest:read:patient-1"], 1, "nothing is registered"),
        (["P00001", "rest:search:slot-1"], 1, "no answer: not available: 500"),
        (["*", "rest:search:slot-1"], 78, "is not an ODS code"),
        (["P00000", "nonsense"], 78, "is not an interaction of the catalogue"),
    ] {
        let (code, text) = lookup(&stage, &arguments);
        assert_eq!(code, exit, "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_who_is_asked_and_who_cannot_tell_who_sends() {
    let registry = Registry::new(records(1), "").await;
    let stage = registry.stage().await;
    let output = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .args(["check", "--config"])
        .arg(stage.path("spine-proxy.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("live sources    sds-api (cannot identify consumers"), "{text}");
}

/// Nothing of the key reaches an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_no_absence_and_shows_nowhere() {
    let registry = Registry::new(records(1), SHORT).await;
    std::fs::write(registry.folder.path().join("key"), "another-key").unwrap();
    let stage = registry.stage().await;
    let answer: Answer = stage.refuses(call(0, 0), "directory_unavailable").await;
    assert!(!answer.text().contains("another-key"));
    let (code, text) = lookup(&stage, &["P00000"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not accept our credentials") && !text.contains("another-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_could_break_a_question_reaches_the_directory() {
    let registry = Registry::new(records(1), "").await;
    let stage = registry.stage().await;
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
            let answer = stage.hears(call).await;
            assert!((400..404).contains(&answer.status), "{bad}: {answer:?}");
        }
    }
    assert_eq!(registry.asked(), 0);
    let lower = call(0, 1).target("/p00000/STU3/1/gpconnect/Slot?status=free");
    assert_eq!(stage.hears(lower).await.status, 200);
    assert!(registry.sds.received().iter().all(|asked| asked.query.contains("%7CP00000")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mishap_on_the_way_to_the_directory_fails_nobody_who_has_been_seen() {
    let more = format!("{SHORT}\nfreshness = {{ provider = \"0s\", provider-stale = \"45m\" }}");
    let late = Mishap::Latency(Duration::from_millis(10));
    for (mishap, gets_through) in [
        (late, true),
        (Mishap::Slice(7), true),
        (Mishap::Reset, false),
        (Mishap::HalfClose, false),
        (Mishap::BlackHole, false),
    ] {
        let mut registry = Registry::new(records(2), &more).await;
        let way = registry.by_way();
        let stage = registry.stage().await;
        stage.provider.does(Act::ok());
        for turn in 0..5 {
            assert_eq!(stage.hears(call(0, turn)).await.status, 200, "seen");
        }
        way.has(mishap);
        for turn in 0..5 {
            let answer = stage.hears(call(0, turn)).await;
            assert_eq!(answer.status, 200, "{mishap:?}: {answer:?}");
        }
        let unseen = stage.hears(call(1, 0)).await;
        match gets_through {
            true => assert_eq!(unseen.status, 200, "{mishap:?}: {unseen:?}"),
            false => assert_eq!(unseen.token(), Some("directory_unavailable"), "{mishap:?}"),
        }
        way.has(Mishap::None);
        while stage.hears(call(1, 0)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
