//! The console of the admin port: its pages, who may see them, and that people with any browser can use them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use spine_proxy::metrics::ExchangeOutcome;
use spine_proxy::traffic::{DecisionReached, ExchangeSummary};
use spine_types::interaction;
use uuid::Uuid;

use testkit::chromium::{self, Chromium};
use testkit::leak_check::find_leak;
use testkit::repository::root;
use testkit::test_bed::row;
use testkit::{ProviderAction, TestBed, TestRequest, report_missing};

/// An admin token.
const TOKEN: &str = "an-invented-token-of-thirty-two-bytes-or-more";
/// Trace id of the requests that a test sends unless it sets another.
const TRACE_ID: &str = "09a01679-2564-4fb4-9129-aecc81ea2706";
const PAGES: [&str; 7] = [
    "/console",
    "/console/practices",
    "/console/consumers",
    "/console/directory",
    "/console/certificates",
    "/console/exchanges",
    "/console/trace",
];
/// Streams of events that may be open at once.
const STREAMS_MAX: usize = 4;

/// Sends a request with this head and body, and returns the connection.
fn send(bed: &TestBed, start: &str, headers: &str, body: &str) -> TcpStream {
    let port = bed.server.admin.port();
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    let head = format!(
        "{start} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream
}

/// Returns the head and the body of an answer; every answer has the headers that protect a browser.
fn ask(bed: &TestBed, start: &str, headers: &str, body: &str) -> (String, String) {
    let mut answer = String::new();
    send(bed, start, headers, body).read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    for header in [
        "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
         img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: same-origin",
        "x-frame-options: deny",
        "cache-control: no-store",
    ] {
        assert!(head.contains(header), "{start}: {header}: {head}");
    }
    (head, body.to_owned())
}

/// Returns the text of a page.
fn page(bed: &TestBed, path: &str) -> String {
    let (head, body) = ask(bed, &format!("GET {path}"), "", "");
    assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{path}: {head}");
    assert!(body.starts_with("<!DOCTYPE html><html lang=\"en-GB\">"), "{path}: {body}");
    assert!(!body.contains(" style=") && !body.contains("<script>"), "{path}: {body}");
    body
}

fn contains(page: &str, texts: &[&str]) {
    for text in texts {
        let main = page.split_once("<main").map_or(page, |(_, main)| main);
        assert!(page.contains(text), "{text:?} is not in {main}");
    }
}

async fn with_token() -> TestBed {
    TestBed::with(|files| {
        files.put("admin.token", TOKEN);
        files.set("admin", "token-file = \"admin.token\"");
    })
    .await
}

/// Sends requests that are answered, refused and broken off.
async fn traffic(bed: &TestBed) {
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    bed.expect_refusal(TestRequest::slots().without("Authorization"), "token_missing").await;
    bed.expect_refusal(TestRequest::slots().certificate("none"), "certificate_missing").await;
    bed.provider.set_action(ProviderAction::Close);
    let book = TestRequest::book().set("Ssp-TraceID", "6d2e1c54-8a3f-4c1e-9a51-0d6f2b7e9c10");
    assert_eq!(bed.send(book).await.token(), Some("outcome_unknown"));
    bed.provider.set_action(ProviderAction::ok());
    bed.wait_until_idle().await;
    bed.server.trail.flush().await.unwrap();
}

#[tokio::test]
async fn every_page_of_the_console_says_what_has_happened() {
    let bed = TestBed::new().await;
    traffic(&bed).await;
    let overview = page(&bed, "/console");
    contains(
        &overview,
        &["Ready", "There are no alarms.", "rest:search:slot-1", "outcome_unknown"],
    );
    contains(&overview, &["rest:search:slot-1, by minute over the last hour: 3 in all, at most "]);
    contains(&overview, &["Not an NHS service", env!("CARGO_PKG_VERSION")]);
    let practices = page(&bed, "/console/practices");
    contains(&practices, &["A20047", "Failing", "the connection failed before the answer: "]);
    contains(&practices, &["href=\"/console/trace?id=6d2e1c54-8a3f-4c1e-9a51-0d6f2b7e9c10\""]);
    let consumers = page(&bed, "/console/consumers");
    contains(
        &consumers,
        &["200000000359", "token_missing</span>: 1", "hub.example.nhs.uk", "left"],
    );
    let directory = page(&bed, "/console/directory");
    contains(&directory, &["A20047", "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect"]);
    contains(&directory, &["in force", "There is no live source", "in the cache: 3"]);
    let consumers = page(&bed, "/console/directory?kind=consumers");
    contains(&consumers, &["clinic.example.nhs.uk", "in the cache: 2"]);
    let certificates = page(&bed, "/console/certificates");
    contains(&certificates, &["Our certificate towards consumers", "server.pem", " days left"]);
    let exchanges = page(&bed, "/console/exchanges");
    contains(&exchanges, &["Refusals of callers that were not identified", "certificate_missing"]);
}

#[tokio::test]
async fn a_gateway_that_is_not_ready_says_why_and_what_is_overdue() {
    let bed = TestBed::new().await;
    let overdue = bed.pki.revocation_lists(&[], -1).unwrap();
    bed.replace("crl.pem", &overdue);
    bed.server.reload().await.unwrap_or_default();
    let overview = page(&bed, "/console");
    contains(&overview, &["Alarms: ", "revocation list overdue"]);
    contains(&page(&bed, "/console/certificates"), &["Overdue by 1 day"]);
}

#[tokio::test]
async fn a_refusal_is_explained_with_what_to_do() {
    let bed = TestBed::new().await;
    traffic(&bed).await;
    let exchanges = page(&bed, "/console/exchanges");
    let (identified, rest) = exchanges.split_once("not identified").unwrap();
    contains(
        identified,
        &["Authorization header missing", "Send Authorization: Bearer &lt;token&gt;."],
    );
    contains(identified, &["it may have been carried out", "Do not repeat. Read the patient"]);
    assert!(!identified.contains("certificate_missing"));
    contains(rest, &["no client certificate was presented", "present its certificate"]);
}

#[tokio::test]
async fn the_story_of_one_exchange_is_found_by_its_trace_id_and_by_its_own_id() {
    let bed = TestBed::new().await;
    bed.provider.set_action(ProviderAction::Close);
    assert_eq!(bed.send(TestRequest::book()).await.token(), Some("outcome_unknown"));
    bed.wait_until_idle().await;
    let lines = bed.exchange_lines().await;
    let id = lines[0]["id"].as_str().unwrap();
    for asked in [TRACE_ID, id, &TRACE_ID.to_ascii_uppercase()] {
        let story = page(&bed, &format!("/console/trace?id={asked}"));
        contains(&story, &[id, TRACE_ID, "rest:create:appointment-1", "hub.example.nhs.uk"]);
        contains(
            &story,
            &["Registered in file", "Forwarded", "the whole request", "body of 30 bytes"],
        );
        contains(&story, &["Refused", "outcome_unknown", "What to do: Do not repeat."]);
        contains(&story, &["Waiting for the practice", "organisation A00001"]);
        for line in &lines {
            contains(&story, &[line["chain"].as_str().unwrap()]);
        }
        // Who the user is stays in the journal.
        for claim in ["subject", "user_name", "user_id"] {
            let value = lines[0]["claims"][claim].as_str().unwrap();
            assert!(value.len() < 3 || !story.contains(value), "{claim}");
        }
    }
    // A trace id that the journal has masked is found by its own value.
    let masked = TestRequest::slots().set("Ssp-TraceID", "9434765919-x");
    bed.send(masked).await;
    bed.wait_for_closed_line(2).await;
    contains(&page(&bed, "/console/trace?id=9434765919-x"), &["Refused", "trace_id_invalid"]);
    let none = page(&bed, &format!("/console/trace?id={}", Uuid::nil()));
    contains(&none, &["The journal has no line with this id."]);
}

#[tokio::test]
async fn a_story_has_at_most_fifty_lines() {
    let bed = TestBed::new().await;
    for _ in 0..60 {
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    }
    bed.wait_until_idle().await;
    bed.server.trail.flush().await.unwrap();
    let story = page(&bed, &format!("/console/trace?id={TRACE_ID}"));
    assert_eq!(story.matches("<h2>Exchange").count(), 50);
    contains(&story, &["There are more lines than the 50 shown"]);
}

#[tokio::test]
async fn text_from_outside_is_shown_and_never_becomes_part_of_a_page() {
    const HOSTILE: &str = "<script>alert(1)</script>\"'&";
    let mut bed = TestBed::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut named = rcgen::CertificateParams::new(Vec::new()).unwrap();
    named.distinguished_name.push(rcgen::DnType::CommonName, HOSTILE);
    let chain = named.self_signed(&key).unwrap().pem();
    let issued = bed.issued.get_mut("stranger").unwrap();
    (issued.chain, issued.key) = (chain, key.serialize_pem());
    bed.expect_refusal(TestRequest::slots().certificate("stranger"), "certificate_invalid").await;
    let mut failed = summary(Timestamp::now(), "A20047", Some("provider_not_reached"));
    failed.cause = Some(format!("the practice says {HOSTILE}"));
    failed.trace_id = Some(HOSTILE.to_owned());
    bed.server.trail.traffic().add(failed, None);
    let shown = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;";
    let asked = "%3Cscript%3Ealert(1)%3C/script%3E%22'%26";
    let story = format!("/console/trace?id={asked}");
    for path in ["/console/practices", "/console/exchanges", &story] {
        let page = page(&bed, path);
        assert!(page.contains(shown), "{path}: {page}");
        assert!(!page.contains("<script>alert") && !page.contains("\"'&"), "{path}: {page}");
    }
    let story = page(&bed, &format!("/console/trace?id={TRACE_ID}"));
    contains(&story, &["its issuer is CN=&lt;script&gt;alert(1)"]);
    assert!(!story.contains("<script>alert"), "{story}");
    contains(&page(&bed, "/console/practices"), &["the practice says &lt;script"]);
    let hostile = page(&bed, &format!("/console/practices?ods={asked}&page={asked}"));
    contains(&hostile, &["&lt;SCRIPT&gt;"]);
}

#[tokio::test]
async fn no_page_holds_a_token_a_query_or_a_patients_number() {
    const NUMBER: &str = "9990000018";
    let bed = TestBed::new().await;
    let call = TestRequest::to("read:patient-1", "GET", &format!("/Patient/{NUMBER}"));
    let target = format!("{}?identifier={NUMBER}", call.target);
    bed.send(call.target(&target)).await;
    bed.send(TestRequest::book().body(format!("{{\"n\":\"{NUMBER}\"}}").as_bytes())).await;
    bed.send(TestRequest::slots().set("Ssp-TraceID", NUMBER)).await;
    bed.send(TestRequest::slots().token(&format!("Bearer {NUMBER}.{NUMBER}."))).await;
    bed.send(TestRequest::slots().set("Ssp-From", NUMBER)).await;
    bed.wait_until_idle().await;
    bed.server.trail.flush().await.unwrap();
    let story = format!("/console/trace?id={TRACE_ID}");
    for path in PAGES.into_iter().chain([story.as_str()]) {
        let page = page(&bed, path);
        assert_eq!(find_leak(&page), None, "{path}");
        assert!(!page.contains("ge2026-11-23") && !page.contains("identifier="), "{path}");
    }
}

#[tokio::test]
async fn a_console_with_a_token_is_seen_after_a_log_in_alone() {
    let bed = with_token().await;
    for path in PAGES.into_iter().chain(["/console/events", "/console/login"]) {
        let (head, body) = ask(&bed, &format!("GET {path}"), "", "");
        assert!(head.starts_with("http/1.1 403 "), "{path}: {head}");
        contains(&body, &["<form method=\"post\" action=\"/console/login\">"]);
        assert!(!body.contains("A20047"), "{path}");
    }
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert!(ask(&bed, "GET /console", &bearer, "").0.starts_with("http/1.1 200 "));
    let form = format!("token={TOKEN}");
    let (head, _) = ask(&bed, "POST /console/login", "", &form);
    assert!(head.starts_with("http/1.1 303 ") && head.contains("location: /console"), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    contains(cookie, &["; path=/console;", "max-age=28800", "httponly", "samesite=strict"]);
    let pair = cookie.split(';').next().unwrap();
    let cookie = format!("Cookie: {pair}\r\n");
    for path in PAGES {
        let (head, _) = ask(&bed, &format!("GET {path}"), &cookie, "");
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
    }
    // A session lets nobody do what needs the token itself, and ends when the token is another.
    let mut flush = String::new();
    send(&bed, "POST /directory/flush", &cookie, "").read_to_string(&mut flush).unwrap();
    assert!(flush.starts_with("HTTP/1.1 403 "), "{flush}");
    bed.replace("admin.token", &TOKEN.replace("invented", "other"));
    assert!(ask(&bed, "GET /console", &cookie, "").0.starts_with("http/1.1 403 "));
}

#[tokio::test]
async fn a_log_in_with_a_wrong_token_or_from_another_site_begins_no_session() {
    let bed = with_token().await;
    let right = format!("token={TOKEN}");
    let long = format!("token={}", "x".repeat(5000));
    for (headers, form, status) in [
        ("", "token=wrong", 403),
        ("", "", 403),
        ("", &*long, 413),
        ("Sec-Fetch-Site: cross-site\r\n", &*right, 403),
        ("Origin: http://other.example.test\r\n", &*right, 403),
        ("Origin: null\r\n", &*right, 403),
    ] {
        let (head, _) = ask(&bed, "POST /console/login", headers, form);
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{headers}{form}: {head}");
        assert!(!head.contains("set-cookie"), "{head}");
    }
    let (head, body) = ask(&bed, "POST /console/login", "", "token=wrong");
    assert!(head.starts_with("http/1.1 403 "));
    contains(&body, &["role=\"alert\">The token is not right."]);
}

/// While two wrong tokens are being answered, others are turned away.
#[tokio::test]
async fn tokens_are_not_guessed_quickly() {
    let bed = with_token().await;
    let guesses: Vec<_> =
        (0..12).map(|_| send(&bed, "POST /console/login", "", "token=wrong")).collect();
    let mut statuses: Vec<_> = guesses
        .into_iter()
        .map(|mut guess| {
            let mut answer = String::new();
            guess.read_to_string(&mut answer).unwrap();
            answer["HTTP/1.1 ".len()..][..3].to_owned()
        })
        .collect();
    statuses.sort();
    statuses.dedup();
    assert_eq!(statuses, ["403", "503"]);
}

#[tokio::test]
async fn a_port_that_other_machines_reach_shows_no_console_without_a_token() {
    let bed = TestBed::with(|files| {
        files.edit("spine-proxy.toml", |text| {
            text.replace("[admin]\naddress = \"127.0.0.1:0\"", "[admin]\naddress = \"0.0.0.0:0\"")
        });
    })
    .await;
    for path in PAGES {
        let (head, body) = ask(&bed, &format!("GET {path}"), "", "");
        assert!(head.starts_with("http/1.1 403 "), "{path}: {head}");
        contains(&body, &["admin.token-file is not set"]);
    }
}

#[tokio::test]
async fn other_paths_and_methods_of_the_console_are_answered_with_the_same_headers() {
    let bed = TestBed::new().await;
    for (start, status) in [
        ("GET /console/none", 404),
        ("GET /console/", 200),
        ("HEAD /console", 200),
        ("GET /console/console.css", 200),
        ("GET /console/console.js", 200),
        ("POST /console", 405),
        ("DELETE /console/login", 405),
        ("POST /console/login", 403),
    ] {
        let (head, _) = ask(&bed, start, "", "");
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{start}: {head}");
    }
    let (_, css) = ask(&bed, "GET /console/console.css", "", "");
    assert!(!css.contains("@font-face") && !css.contains("url("), "{css}");
}

#[tokio::test]
async fn a_page_of_another_site_may_link_to_the_console_and_not_include_it() {
    let bed = TestBed::new().await;
    for (site, mode, status) in [
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
        ("cross-site", "navigate", 200),
        ("cross-site", "no-cors", 403),
        ("cross-site", "cors", 403),
        ("same-site", "no-cors", 403),
    ] {
        let headers = format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: {mode}\r\n");
        for path in ["/console/trace?id=1", "/console"] {
            let (head, _) = ask(&bed, &format!("GET {path}"), &headers, "");
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{site} {mode}: {head}");
        }
    }
    // A frame is a navigation too.
    for (dest, status) in [("document", 200), ("iframe", 403), ("object", 403)] {
        let headers = format!(
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: {dest}\r\n"
        );
        let (head, _) = ask(&bed, "GET /console/trace?id=1", &headers, "");
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{dest}: {head}");
    }
}

#[tokio::test]
async fn a_page_is_told_to_refresh_itself_by_few_streams() {
    let bed = TestBed::new().await;
    let open = |bed: &TestBed| {
        let mut stream = send(bed, "GET /console/events", "", "");
        let mut text = String::new();
        let mut part = [0; 1024];
        while !text.contains("\n\n\r\n") && !text.contains("update themselves") {
            let read = stream.read(&mut part).unwrap();
            assert_ne!(read, 0, "{text}");
            text.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
        (stream, text)
    };
    let mut streams: Vec<_> = (0..STREAMS_MAX).map(|_| open(&bed)).collect();
    for (_, text) in &streams {
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("text/event-stream"), "{text}");
        assert!(text.contains("event: tick\ndata: 0\n\n"), "{text}");
    }
    let (_, refused) = open(&bed);
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    // A browser that goes away leaves its place.
    drop(streams.pop());
    while !open(&bed).1.starts_with("HTTP/1.1 200 ") {
        std::thread::yield_now();
    }
}

/// Exchange of a practice, answered or refused.
fn summary(time: Timestamp, ods: &str, refusal: Option<&'static str>) -> ExchangeSummary {
    let is_provider = refusal.is_some_and(|token| token.starts_with("provider_"));
    ExchangeSummary {
        time,
        id: Uuid::from_u128(u128::try_from(time.as_millisecond()).unwrap()),
        trace_id: Some(TRACE_ID.to_owned()),
        from: Some("200000000359".parse().unwrap()),
        reached: DecisionReached::Permitted,
        ods: Some(ods.parse().unwrap()),
        to: Some("918999198993".parse().unwrap()),
        interaction: interaction::CATALOGUE.iter().find(|of| of.short_id().ends_with("slot-1")),
        method: "GET",
        status: Some(refusal.map_or(200, |token| row(token).status)),
        outcome: match refusal {
            Some(_) => ExchangeOutcome::Refused,
            None => ExchangeOutcome::Answered,
        },
        refusal,
        cause: is_provider.then(|| "connection refused (os error 111)".to_owned()),
        duration_us: 41_300,
        has_failed: is_provider,
        has_answer: refusal.is_none(),
        quota: None,
    }
}

#[tokio::test]
async fn a_table_has_two_hundred_rows_and_those_with_trouble_come_first() {
    let bed = TestBed::new().await;
    let now = Timestamp::now();
    for number in 0..450 {
        let refusal = (number == 449).then_some("provider_not_reached");
        bed.server.trail.traffic().add(summary(now, &format!("P{number:05}"), refusal), None);
    }
    let rows = |page: &str| page.matches("<tr><th scope=\"row\">").count();
    let first = page(&bed, "/console/practices");
    assert_eq!(rows(&first), 200);
    assert!(first.find("P00449").unwrap() < first.find("P00000").unwrap());
    contains(&first, &["href=\"/console/practices?page=2\"", "Part 1 of 3"]);
    assert_eq!(rows(&page(&bed, "/console/practices?page=3")), 50);
    assert_eq!(rows(&page(&bed, "/console/practices?page=4")), 0);
    let found = page(&bed, "/console/practices?ods=p0000");
    assert_eq!(rows(&found), 10);
    contains(&found, &["value=\"P0000\""]);
}

#[tokio::test]
async fn a_practice_with_an_open_circuit_is_marked() {
    let bed = TestBed::new().await;
    bed.make_provider_unreachable().await;
    for _ in 0..5 {
        bed.expect_refusal(TestRequest::slots(), "provider_not_reached").await;
    }
    bed.wait_until_idle().await;
    contains(&page(&bed, "/console/practices"), &["Circuit open", "A20047", "(os error 111)"]);
    contains(&page(&bed, "/console"), &["Open circuits of practices</dt><dd>1<"]);
}

/// Fills the last hour with exchanges of some practices.
fn last_hour(bed: &TestBed) {
    let now = Timestamp::now();
    for minute in (1..60).rev() {
        let at = now - SignedDuration::from_mins(minute);
        for number in 0..(20 + (minute * 7) % 23) {
            let ods = ["A20047", "B82617", "C81004"][usize::try_from(number % 3).unwrap()];
            let refusal = match number {
                3 if minute % 9 == 0 => Some("claim_missing"),
                4 if minute % 5 == 0 && ods == "B82617" => Some("provider_not_reached"),
                _ => None,
            };
            bed.server.trail.traffic().add(summary(at, ods, refusal), None);
        }
    }
}

/// Pictures for the documents, by page; `UPDATE_DOCS=1` writes them.
const PICTURES: [(&str, &str, u32); 4] = [
    ("overview", "/console", 1150),
    ("practices", "/console/practices", 760),
    ("exchanges", "/console/exchanges", 780),
    ("trace", "/console/trace?id=6d2e1c54-8a3f-4c1e-9a51-0d6f2b7e9c10", 1080),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_accessible_at_any_width_with_and_without_scripts() {
    let bed = TestBed::new().await;
    last_hour(&bed);
    traffic(&bed).await;
    let Some(mut browser) = Chromium::start(bed.folder.path()) else {
        return report_missing("chromium");
    };
    if !chromium::axe().exists() {
        return report_missing("axe-core (.ci/run downloads it)");
    }
    let admin = bed.server.admin;
    let story = format!("/console/trace?id={TRACE_ID}");
    for scripts in [false, true] {
        for path in PAGES.into_iter().chain([&*story, "/console/none", "/console/login"]) {
            browser.run_scripts(scripts);
            browser.open(&format!("http://{admin}{path}"));
            // The page's own script has run or not; axe is one too.
            browser.run_scripts(true);
            if scripts {
                browser.evaluate("document.getElementById('updates')?.click()");
            }
            for width in [1280, 320] {
                browser.resize(width, 800);
                let violations = browser.violations();
                assert!(violations.is_empty(), "{path} at {width}: {violations:#?}");
                let wide = browser.evaluate("document.documentElement.scrollWidth");
                assert!(wide.as_u64().unwrap() <= width.into(), "{path} is {wide} wide at {width}");
            }
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        for (name, path, height) in PICTURES {
            browser.resize(1280, height);
            browser.open(&format!("http://{admin}{path}"));
            let file = root().join(format!("docs/operate/console/{name}.png"));
            std::fs::write(file, browser.screenshot()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_refreshes_itself_until_it_is_paused() {
    let bed = TestBed::new().await;
    let Some(mut browser) = Chromium::start(bed.folder.path()) else {
        return report_missing("chromium");
    };
    browser.open(&format!("http://{}/console/practices", bed.server.admin));
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    // Three events later the page has refreshed itself, or never will.
    let practice = browser.evaluate(
        "new Promise(resolve => { let ticks = 0; new EventSource('/console/events').addEventListener('tick', () => { \
         if (++ticks > 3) resolve('nothing'); }); const look = () => { const text = document.getElementById('main').innerText; \
         if (text.includes('A20047')) resolve(document.getElementById('updates').textContent); }; \
         new MutationObserver(look).observe(document.getElementById('main'), {childList: true}); look(); })",
    );
    assert_eq!(practice, "Pause updates");
    let paused = "document.getElementById('updates').click(); document.getElementById('updates-state').textContent";
    assert_eq!(browser.evaluate(paused), "Updates are paused.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_through_the_form() {
    let bed = with_token().await;
    let Some(mut browser) = Chromium::start(bed.folder.path()) else {
        return report_missing("chromium");
    };
    browser.open(&format!("http://{}/console/practices", bed.server.admin));
    assert_eq!(browser.evaluate("document.querySelector('h1').textContent"), "Log in");
    if chromium::axe().exists() {
        assert_eq!(browser.violations(), Vec::<String>::new());
    }
    browser.evaluate(&format!("document.getElementById('token').value = '{TOKEN}'"));
    browser.click_through("button");
    assert_eq!(browser.evaluate("document.querySelector('h1').textContent"), "Overview");
    assert_eq!(browser.evaluate("document.cookie"), "", "no script reads the cookie");
}
