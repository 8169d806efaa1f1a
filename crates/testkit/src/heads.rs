//! Heads of requests and answers, each as large as a limit allows in one respect.

use base64_simd::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::provider;
use super::request::TestRequest;
use super::test_bed::ROOT;

/// A request whose head is as large as a limit allows in one respect, and the refusal to expect, if any.
pub struct FilledHead {
    pub description: &'static str,
    pub call: TestRequest,
    pub refusal: Option<&'static str>,
}

/// Bytes that can be added to a valid request's head within its limit of 64 KiB.
const ROOM: usize = 62 * 1024;
/// Bytes that can be added to a target within its limit of 32 KiB.
const TARGET: usize = 32 * 1024 - 300;
/// Header lines that can be added to a valid request within its limit of 100.
const LINES: usize = 92;
/// Bytes, before encoding, that can be added to the claims of a token within its limit of 8 KiB.
const CLAIMS: usize = 4500;

/// Returns a request for each respect in which a head can be large.
pub fn filled_requests() -> Vec<FilledHead> {
    let targets = targets().into_iter();
    targets.chain(lists()).chain(lines()).chain(tokens()).collect()
}

/// Bytes that can be added to an answer's head within its limit of 128 KiB.
const ANSWER: usize = 120 * 1024;
/// Header lines that can be added to an answer within their limit of 128.
const ANSWER_LINES: usize = 120;

/// Returns a provider's answers, each with a large head in one respect. All are forwarded.
pub fn filled_answers() -> Vec<(&'static str, Vec<u8>)> {
    let one = |line: &str| provider::answer("200 OK", line, "{}");
    let list = |name: &str, text: &str| one(&format!("{name}: {}\r\n", fill(text, ANSWER)));
    let each = ANSWER / ANSWER_LINES - 16;
    let lines = |line: &dyn Fn(usize) -> String| {
        let lines = (0..ANSWER_LINES).map(|at| format!("{}\r\n", line(at)));
        one(&lines.collect::<String>())
    };
    let chunked = |body: String| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{body}").into_bytes()
    };
    let trailers: String = (0..64).map(|at| format!("x-{at}: {}\r\n", "v".repeat(200))).collect();
    let interims = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "a".repeat(7000));
    vec![
        ("names in Connection", list("Connection", "a,")),
        ("lines of Connection", lines(&|_| format!("Connection: {}", fill("a,", each)))),
        ("proxies in Via", list("Via", "1.1 a,")),
        ("cookies", lines(&|_| format!("Set-Cookie: {}", fill("a=b; ", each)))),
        ("a long header", list("X-Long", "v")),
        ("header lines", lines(&|at| format!("x-{at}: "))),
        ("long header lines", lines(&|at| format!("x-{at}: {}", "v".repeat(each)))),
        ("long header names", lines(&|at| format!("x-{at}-{}: v", "n".repeat(each)))),
        // The number of chunks has no limit, and each costs instructions.
        ("a thousand chunks of one byte", chunked("1\r\na\r\n".repeat(1000) + "0\r\n\r\n")),
        ("trailers", chunked(format!("1\r\na\r\n0\r\n{trailers}\r\n"))),
        ("interim answers", [interims.repeat(15).into_bytes(), one("")].concat()),
    ]
}

fn passes(description: &'static str, call: TestRequest) -> FilledHead {
    FilledHead { description, call, refusal: None }
}

fn refused(description: &'static str, refusal: &'static str, call: TestRequest) -> FilledHead {
    FilledHead { description, call, refusal: Some(refusal) }
}

/// Repeats a text as often as it fits into `room` bytes.
fn fill(text: &str, room: usize) -> String {
    text.repeat(room / text.len())
}

fn targets() -> Vec<FilledHead> {
    let at = |target: String| TestRequest::slots().target(&target);
    let host = "/https://provider.example.nhs.uk";
    let query = |text: &str| at(format!("/{ROOT}/Slot?{}", fill(text, TARGET)));
    vec![
        refused("slashes", "target_unregistered", at(format!("{host}{}Slot", fill("/", TARGET)))),
        refused(
            "path segments",
            "target_unregistered",
            at(format!("{host}{}/Slot", fill("/a", TARGET))),
        ),
        refused(
            "escapes in the path",
            "target_unregistered",
            at(format!("{host}/{}/Slot", fill("%20", TARGET))),
        ),
        refused(
            "a path of digits",
            "target_unregistered",
            at(format!("{host}/{}/Slot", fill("943 476 5919-".replace(' ', "-").as_str(), TARGET))),
        ),
        refused(
            "slashes after the root",
            "target_not_receivers",
            at(format!("/{ROOT}{}Slot", fill("/", TARGET))),
        ),
        passes("query parameters", query("a&")),
        passes("escapes in the query", query("%7C")),
        passes("almost _format", query("_format&")),
    ]
}

/// Requests with one long header whose value is a list.
fn lists() -> Vec<FilledHead> {
    let with = |name: &str, text: &str| TestRequest::slots().set(name, &fill(text, ROOM));
    vec![
        refused("names in Connection", "head_too_large", with("Connection", "a,")),
        passes("ranges in Accept", with("Accept", "a/b,")),
        passes("weights in Accept", with("Accept", "*/*;q=0.1,")),
        passes("parameters in Accept", with("Accept", ";a=b")),
        passes("types in Content-Type", with("Content-Type", "xm jso ")),
        refused("proxies in Via", "head_too_large", with("Via", "1.1 a,")),
        refused("spaces in Via", "head_too_large", with("Via", "1.1    ,")),
        passes("elements in Forwarded", with("Forwarded", "for=a,")),
        passes("cookies", with("Cookie", "a=b; ")),
        passes("tags in If-None-Match", with("If-None-Match", "\"a\",")),
        passes("codings in Accept-Encoding", with("Accept-Encoding", "a,")),
        refused("names in TE", "head_too_large", with("TE", "a,")),
        refused("noughts in Content-Length", "framing_ambiguous", with("Content-Length", "0")),
        refused("expectations", "expectation_unknown", with("Expect", "100-continue,")),
        refused("a long host", "host_not_ours", with("Host", "a")),
        refused("a long trace id", "trace_id_invalid", with("Ssp-TraceID", "a")),
        refused("a long sender", "from_invalid", with("Ssp-From", "1")),
        refused("a long receiver", "to_invalid", with("Ssp-To", "1")),
        refused("a long interaction id", "interaction_unknown", with("Ssp-InteractionID", "urn:")),
    ]
}

/// Requests with as many header lines as allowed.
fn lines() -> Vec<FilledHead> {
    let each = ROOM / LINES;
    let lines = |line: &dyn Fn(usize) -> (String, String)| {
        (0..LINES)
            .map(line)
            .fold(TestRequest::slots(), |call, (name, value)| call.with(&name, &value))
    };
    let long = |at: usize| format!("x-{at:02}-{}", "n".repeat(each / 2));
    let named = (0..16).map(|at| format!("x-{at}")).collect::<Vec<_>>().join(",");
    vec![
        passes("header lines", lines(&|at| (format!("x-{at}"), String::new()))),
        passes("long header lines", lines(&|at| (format!("x-{at}"), "v".repeat(each - 8)))),
        passes("long header names", lines(&|at| (long(at), "v".repeat(each / 2 - 8)))),
        passes("one header repeated", lines(&|_| ("x-same".to_owned(), "v".repeat(each - 8)))),
        passes("lines of cookies", lines(&|_| ("Cookie".to_owned(), fill("a=b; ", each - 8)))),
        passes("lines of Accept", lines(&|_| ("Accept".to_owned(), fill("a/b,", each - 8)))),
        refused(
            "lines of Via",
            "head_too_large",
            lines(&|_| ("Via".to_owned(), fill("1.1 a,", each - 8))),
        ),
        passes(
            "header lines and names in Connection",
            lines(&|at| (format!("x-{at}"), "v".repeat(each - 8))).set("Connection", &named),
        ),
        refused(
            "lines of Connection",
            "head_too_large",
            lines(&|_| ("Connection".to_owned(), fill("a,", each - 16))),
        ),
    ]
}

fn tokens() -> Vec<FilledHead> {
    let slots = TestRequest::slots;
    let text = |text: &str| Value::from(fill(text, CLAIMS));
    let nested = |open: &str, close: &str| {
        let depth = 100;
        let one = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let many = vec![one.as_str(); CLAIMS / one.len()].join(",");
        with_members(&slots(), &format!("\"extra\":[{many}]"))
    };
    let identifiers: Vec<Value> = vec![json!({}); CLAIMS / 3];
    let person = |identifier: Vec<Value>, name: Value| json!({"resourceType": "Practitioner", "id": "1", "identifier": identifier, "name": name});
    let names: Vec<Value> = vec![json!({}); CLAIMS / 3];
    vec![
        passes("arrays in a token", nested("[", "]")),
        passes("objects in a token", nested("{\"a\":", "}")),
        passes("members of a token", with_members(&slots(), &members())),
        passes("text in a token", slots().claim("iss", text("a"))),
        passes(
            "escapes in a token",
            with_members(&slots(), &format!("\"extra\":\"{}\"", fill("\\u0061", CLAIMS))),
        ),
        passes("digits in a token", slots().claim("iss", text("943-476-591 "))),
        passes("nearly NHS numbers in a token", slots().claim("iss", text("943 476 "))),
        passes(
            "identifiers in a token",
            slots().claim("requesting_practitioner", person(identifiers.clone(), json!([]))),
        ),
        passes(
            "names in a token",
            slots().claim("requesting_practitioner", person(Vec::new(), Value::from(names))),
        ),
        refused(
            "a resource that is none, and its text",
            "claim_resource",
            slots().claim("requesting_practitioner", json!([identifiers])),
        ),
        refused(
            "a token that is too long",
            "token_too_long",
            slots().token(&format!("Bearer {}", "a".repeat(ROOM))),
        ),
        refused(
            "dots in a token",
            "token_malformed",
            slots().token(&format!("Bearer {}", ".".repeat(8000))),
        ),
    ]
}

/// Adds members, as JSON text, to the claims of a request's token.
fn with_members(call: &TestRequest, members: &str) -> TestRequest {
    let claims = call.claims.to_string();
    let claims = claims.strip_suffix('}').unwrap();
    let head = URL_SAFE_NO_PAD.encode_to_string(br#"{"alg":"none","typ":"JWT"}"#);
    let claims = URL_SAFE_NO_PAD.encode_to_string(format!("{claims},{members}}}"));
    call.clone().token(&format!("Bearer {head}.{claims}."))
}

fn members() -> String {
    (0..CLAIMS / 9).map(|at| format!("\"{at:04}\":1")).collect::<Vec<_>>().join(",")
}
