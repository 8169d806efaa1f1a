//! Requests of real consumers' HTTP libraries, byte for byte.

use base64_simd::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use spine_proxy::claims;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use testkit::raw_connection::{Message, RawConnection};
use testkit::request::read_answer;
use testkit::test_bed::{self, TestBed, now_s, row};
use testkit::{Answer, ProviderAction, TestRequest};

mod browsers;
mod dotnet;
mod java;
mod python;

type Line = RawConnection<TlsStream<TcpStream>>;

const TRACE: &str = "09a01679-2564-4fb4-9129-aecc81ea2706";
const FHIR: &str = "application/fhir+json";
const REST: &str = "urn:nhs:names:services:gpconnect:fhir:rest";
const TOKEN_URL: &str = "https://authorize.fhir.nhs.net/token";
const ORGANISATION_READ: &str = "organization/*.read";
const PATIENT_READ: &str = "patient/*.read";
const PATIENT_WRITE: &str = "patient/*.write";

/// The provider's body, which must arrive byte for byte.
const BODY: &str = "{\"resourceType\" : \"Bundle\",\r\n\t\"note\": \"Zo\u{eb} \\u00e9\"}\n";
const HEADERS: &str = "content-TYPE: application/fhir+json;charset=utf-8\r\n\
                       ETag: W/\"7\"\r\nCache-Control: no-store\r\n\
                       Date: Mon, 23 Nov 2026 09:00:00 GMT\r\n";
/// Names of the headers of the answer, and no more.
const NAMES: [&str; 5] = ["cache-control", "content-length", "content-type", "date", "etag"];

/// A test bed with a provider that sends [`BODY`], and these lines in the configuration of the hub.
async fn bed_with(top: &str, leniences: &str) -> TestBed {
    bed_of(top, leniences, |directory| directory).await
}

/// A test bed with a provider that sends [`BODY`], a changed configuration and a changed directory.
async fn bed_of(top: &str, leniences: &str, change: impl FnOnce(String) -> String) -> TestBed {
    let bed = TestBed::with(|files| {
        files.prepend(top);
        if !leniences.is_empty() {
            files.add(&format!("[compatibility.\"{}\"]\n{leniences}\n", test_bed::HUB));
        }
        files.edit("directory.toml", change);
    })
    .await;
    bed.provider.set_action(ProviderAction::answer("200 OK", HEADERS, BODY));
    bed
}

async fn strict() -> TestBed {
    bed_with("", "").await
}

/// The claims of the hub's user.
fn claims(audience: &str, scope: &str) -> Value {
    claims::example_claims(audience, &test_bed::HUB_ODS.parse().unwrap(), scope, now_s())
}

/// The claims, some of them replaced by these.
fn claims_with(audience: &str, scope: &str, others: Value) -> Value {
    let mut claims = claims(audience, scope);
    let Value::Object(others) = others else { panic!("claims are an object") };
    claims.as_object_mut().unwrap().extend(others);
    claims
}

fn token(claims: &Value) -> String {
    token_of(&claims.to_string())
}

/// A token with a payload written as its consumer writes it.
fn token_of(payload: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode_to_string(br#"{"alg":"none","typ":"JWT"}"#);
    format!("{head}.{}.", URL_SAFE_NO_PAD.encode_to_string(payload))
}

/// A head as bytes on the wire: one line each, indentation removed, trailing spaces kept.
fn head(text: &str) -> String {
    let lines = text.trim_start().lines().map(str::trim_start).filter(|line| !line.is_empty());
    let mut head: String = lines.flat_map(|line| [line, "\r\n"]).collect();
    head.push_str("\r\n");
    head
}

/// A connection of the hub's.
async fn connect(bed: &TestBed) -> Line {
    RawConnection::new(TestRequest::slots().connect(bed).await.unwrap())
}

async fn say(line: &mut Line, text: &str) {
    line.stream.write_all(text.as_bytes()).await.unwrap();
    line.stream.flush().await.unwrap();
}

/// Sends this over a connection of its own and hears what comes back.
async fn ask(bed: &TestBed, text: &str) -> Answer {
    let mut line = connect(bed).await;
    say(&mut line, text).await;
    read_answer(&mut line).await.expect("an answer")
}

/// Sends this and gets the provider's answer, which was asked exactly this.
async fn answered(bed: &TestBed, text: &str, request_line: &str) -> Message {
    let answer = ask(bed, text).await;
    is_the_providers(&answer);
    reached(bed, text, request_line)
}

/// Asserts that body and headers are those of the provider, with none of the gateway's.
fn is_the_providers(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?} {}", answer.text());
    assert!(answer.complete);
    assert_eq!(answer.text(), BODY);
    assert_eq!(answer.header_names(), NAMES);
    assert_eq!(answer.header("content-type"), Some("application/fhir+json;charset=utf-8"));
    assert_eq!(answer.header("etag"), Some("W/\"7\""));
    assert_eq!(answer.header("date"), Some("Mon, 23 Nov 2026 09:00:00 GMT"));
}

/// The last request the provider received is `text`: this request line, every end-to-end header as
/// spelt, the body as sent, and besides them only `Host`, `Forwarded`, `Via` and the framing.
fn reached(bed: &TestBed, text: &str, request_line: &str) -> Message {
    const HOPS: [&str; 14] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "te",
    ];
    let end_to_end = |name: &str| !HOPS.contains(&&*name.to_ascii_lowercase());
    let received = bed.provider.received().pop().expect("a request");
    assert_eq!(received.start, format!("{request_line} HTTP/1.1"));
    let (sent, body) = text.split_once("\r\n\r\n").unwrap();
    let lines = sent.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let mut sent: Vec<_> = lines.map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    sent.retain(|(name, _)| end_to_end(name));
    let mut got = received.headers.clone();
    got.retain(|(name, _)| end_to_end(name));
    sent.sort();
    got.sort();
    assert_eq!(got, sent, "the provider got other headers than were sent");
    assert_eq!(received.header("host"), Some("provider.example.nhs.uk"));
    assert_eq!(received.header("via"), Some("1.1 spine-proxy"));
    let forwarded = received.header("forwarded").unwrap();
    assert!(forwarded.starts_with("for=\"127.0.0.1:"), "{forwarded}");
    assert!(forwarded.ends_with(";by=_spine-proxy;proto=https"), "{forwarded}");
    for hop in ["expect", "connection", "keep-alive", "x-forwarded-for", "x-forwarded-host"] {
        assert_eq!(received.header(hop), None, "{hop} is one connection's own");
    }
    if request_line.starts_with("GET") {
        assert!(received.body.is_empty());
    } else {
        assert_eq!(String::from_utf8_lossy(&received.body), body);
    }
    assert!(received.complete);
    received
}

/// Sends this and is refused with this token; the provider is not asked.
async fn refused(bed: &TestBed, text: &str, token: &str) -> Answer {
    let before = bed.provider.received().len();
    let answer = ask(bed, text).await;
    assert_eq!(answer.token(), Some(token), "{answer:?} {}", answer.text());
    assert_eq!(answer.status, row(token).status);
    answer.assert_refusal_form();
    assert_eq!(bed.provider.received().len(), before, "the provider was asked");
    answer
}

/// The part of a target after the practice's root as a path.
const BASE: &str = "/A20047/STU3/1/gpconnect";
