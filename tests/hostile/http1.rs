//! The hostile catalogue as bytes of HTTP/1.1: what a consumer may write, and what must become of
//! it. Any proxy can be given the same bytes.

use spine_proxy::claims;

use testkit::{TestRequest, test_bed};

/// What must become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Refused with this token.
    Refused(&'static str),
    /// The same, and the connection ends: nobody could tell where the next request begins.
    RefusedAndClosed(&'static str),
    /// Its head may be under way, but no whole request ever reaches a provider.
    Broken,
    /// So many requests reach the provider whole, and are answered.
    Passes(usize),
}

impl std::fmt::Display for Then {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(token) => write!(out, "refused: `{token}`"),
            Self::RefusedAndClosed(token) => write!(out, "refused, connection closed: `{token}`"),
            Self::Broken => out.write_str("no whole request reaches the provider"),
            Self::Passes(1) => out.write_str("forwarded"),
            Self::Passes(count) => write!(out, "{count} requests, each judged by itself"),
        }
    }
}

/// One input.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its number in the catalogue; nothing for what is no attack.
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) then: Then,
}

use Then::{Broken, Passes, Refused, RefusedAndClosed};

const ODS_SYSTEM: &str = "https://fhir.nhs.uk/Id/ods-organization-code";
const TARGET: &str = "/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot";
const AMBIGUOUS: Then = RefusedAndClosed("framing_ambiguous");
const MALFORMED: Then = RefusedAndClosed("head_malformed");
const TARGET_MALFORMED: Then = Refused("target_malformed");

fn row(id: &'static str, what: &'static str, then: Then, bytes: impl Into<Vec<u8>>) -> Row {
    Row { id, what, bytes: bytes.into(), then }
}

/// A call's bytes as text, its last empty line left out.
fn head(call: &TestRequest) -> String {
    let bytes = call.bytes();
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    text.strip_suffix("\r\n").unwrap().to_owned()
}

fn latin(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// A search for slots with these lines besides.
fn get(lines: &str) -> Vec<u8> {
    latin(&format!("{}{lines}\r\n", head(&TestRequest::slots())))
}

/// A booking framed by these lines alone.
fn post(lines: &str, body: &str) -> Vec<u8> {
    let call = TestRequest::book().without_content_length().body(b"");
    latin(&format!("{}{lines}\r\n{body}", head(&call)))
}

fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// A search for slots with another request line.
fn line(line: &str) -> Vec<u8> {
    let head = head(&TestRequest::slots());
    let (_, rest) = head.split_once("\r\n").unwrap();
    latin(&format!("{line}\r\n{rest}\r\n"))
}

fn at(target: &str) -> Vec<u8> {
    line(&format!("GET {target} HTTP/1.1"))
}

fn host(host: &str) -> Vec<u8> {
    TestRequest::slots().set("Host", host).bytes()
}

fn token(text: &str) -> Vec<u8> {
    TestRequest::slots().token(text).bytes()
}

fn without_body(call: TestRequest) -> Vec<u8> {
    call.without_content_length().body(b"").bytes()
}

/// Every input.
pub(crate) fn rows() -> Vec<Row> {
    [framing(), heads(), hosts(), targets(), tokens(), headers()].into_iter().flatten().collect()
}

/// What may not be taken for an attack, as real consumers send it.
#[rustfmt::skip]
pub(crate) fn legitimate() -> Vec<Row> {
    let query = "status=free&a=x|y&b=%7C&c=%2f&d=https%3A%2F%2Ffhir.nhs.uk%2FId&e[]=1&f=1+2:3";
    let practice = "/A20047/STU3/1/gpconnect/Slot";
    let collapsed = "/https:/provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot";
    let absolute = format!("https://ssp.example.nhs.uk{TARGET}?{query}");
    let lower =
        head(&TestRequest::slots()).replace("Ssp-TraceID:", "ssp-traceid:").replace("Host:", "host:");
    vec![
        row("", "a search for slots", Passes(1), get("")),
        row("", "a booking", Passes(1), post("Content-Length: 2\r\n", "{}")),
        row("", "a booking in chunks", Passes(1), chunked("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")),
        row("", "a raw bar, escapes and brackets in the query", Passes(1), at(&format!("{TARGET}?{query}"))),
        row("", "the collapsed form", Passes(1), at(collapsed)),
        row("", "the practice's form", Passes(1), at(practice)),
        row("", "absolute-form that names the proxy", Passes(1), at(&absolute)),
        row("", "lower-case header names", Passes(1), latin(&format!("{lower}\r\n"))),
        row("", "no space after a colon", Passes(1), get("X-Odd:1\r\n")),
        row("", "Content-Length: 0 on a read", Passes(1), get("Content-Length: 0\r\n")),
        row("", "an empty chunked body on a read", Passes(1), {
            let mut bytes = get("Transfer-Encoding: chunked\r\n");
            bytes.extend(b"0\r\n\r\n");
            bytes
        }),
        row("", "Connection: keep-alive", Passes(1), get("Connection: keep-alive\r\n")),
        row("", "a port in Host", Passes(1), host("ssp.example.nhs.uk:443")),
        row("", "an empty line before a head", Passes(1), [b"\r\n", &*get("")].concat()),
        row("", "HTTP/1.0", Passes(1), line(&format!("GET {TARGET} HTTP/1.0"))),
        row("", "Server: on a request", Passes(1), get("Server: TKW\r\n")),
        row("", "X-Forwarded-For", Passes(1), get("X-Forwarded-For: 192.0.2.1\r\n")),
        row("", "a query of 30 KB", Passes(1), at(&format!("{TARGET}?a={}", "a".repeat(30_000)))),
    ]
}

/// A: where messages begin and end.
#[rustfmt::skip]
fn framing() -> Vec<Row> {
    let many: String = (0..10_000).map(|n| format!("X-{n}: 1\r\n")).collect();
    let smuggled = String::from_utf8(get("")).unwrap();
    let thousand = get("").repeat(100);
    vec![
        row("A1", "CL, then TE", AMBIGUOUS, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        row("A2", "TE, then CL", AMBIGUOUS, post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        row("A3", "TE and a CL that is none", AMBIGUOUS, post("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", "0\r\n\r\n")),
        row("A4", "two CL that differ", AMBIGUOUS, post("Content-Length: 2\r\nContent-Length: 3\r\n", "{} ")),
        row("A5", "two CL that agree", AMBIGUOUS, post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}")),
        row("A6", "CL: 2, 2", AMBIGUOUS, post("Content-Length: 2, 2\r\n", "{}")),
        row("A6", "CL: +2", AMBIGUOUS, post("Content-Length: +2\r\n", "{}")),
        row("A6", "CL: -1", AMBIGUOUS, post("Content-Length: -1\r\n", "{}")),
        row("A6", "CL: 0x2", AMBIGUOUS, post("Content-Length: 0x2\r\n", "{}")),
        row("A6", "CL: 2^64", AMBIGUOUS, post("Content-Length: 18446744073709551616\r\n", "{}")),
        row("A7", "CL: 2^64-1", AMBIGUOUS, post("Content-Length: 18446744073709551615\r\n", "{}")),
        row("A8", "CL: 0000002", Passes(1), post("Content-Length: 0000002\r\n", "{}")),
        row("A9", "TE: chunked, identity", AMBIGUOUS, post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n")),
        row("A9", "TE: xchunked", AMBIGUOUS, post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        row("A10", "TE: gzip, chunked", RefusedAndClosed("transfer_coding_unknown"), post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        row("A11", "TE: chunked, chunked", AMBIGUOUS, post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        row("A12", "TE twice: identity and chunked", AMBIGUOUS, post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        row("A13", "TE: CHUNKED", Passes(1), post("Transfer-Encoding: CHUNKED\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        row("A13", "TE: tab, chunked", Passes(1), post("Transfer-Encoding:\tchunked\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        row("A14", "TE: vertical tab, chunked", MALFORMED, post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        row("A14", "a space before TE's colon", MALFORMED, post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        row("A15", "Transfer_Encoding and CL", Refused("header_underscore"), post("Transfer_Encoding: chunked\r\nContent-Length: 2\r\n", "{}")),
        row("A16", "TE in HTTP/1.0", AMBIGUOUS, {
            let bytes =
                latin(&head(&TestRequest::book().without_content_length().body(b"")).replace("HTTP/1.1", "HTTP/1.0"));
            [&*bytes, b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"].concat()
        }),
        row("A17", "a chunk of size g", Broken, chunked("g\r\n{}\r\n0\r\n\r\n")),
        row("A17", "a chunk of size 0x2", Broken, chunked("0x2\r\n{}\r\n0\r\n\r\n")),
        row("A17", "a chunk of size +2", Broken, chunked("+2\r\n{}\r\n0\r\n\r\n")),
        row("A17", "a chunk size that overflows", Broken, chunked("ffffffffffffffff2\r\n{}\r\n0\r\n\r\n")),
        row("A18", "a space after a chunk's size", Passes(1), chunked("2 \r\n{}\r\n0\r\n\r\n")),
        row("A18", "a chunk extension", Passes(1), chunked("2;a=b\r\n{}\r\n0\r\n\r\n")),
        row("A18", "a chunk extension of 20 KB", Broken, chunked(&format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(20_000)))),
        row("A18", "chunk extensions of 20 KB in all", Broken, chunked(&(format!("1;{}\r\na\r\n", "a".repeat(1_000)).repeat(20) + "0\r\n\r\n"))),
        row("A19", "a bare LF after a chunk's size", Broken, chunked("2\n{}\r\n0\r\n\r\n")),
        row("A19", "a bare LF in a chunk extension", Broken, chunked("2;a\n{}\r\n0\r\n\r\n")),
        row("A19", "a bare LF after a chunk", Broken, chunked("2\r\n{}\n0\r\n\r\n")),
        row("A19", "a bare LF at the end", Broken, chunked("2\r\n{}\r\n0\r\n\n")),
        row("A20", "nothing between a chunk and the next", Broken, chunked("2\r\n{}0\r\n\r\n")),
        row("A21", "trailers that are headers", Passes(1), chunked("2\r\n{}\r\n0\r\nContent-Length: 9\r\nSsp-From: 1\r\nAuthorization: x\r\nHost: evil\r\nTransfer-Encoding: x\r\n\r\n")),
        row("A22", "10,000 trailers", Broken, chunked(&format!("2\r\n{{}}\r\n0\r\n{many}\r\n"))),
        row("A22", "a trailer of 20 KB", Broken, chunked(&format!("2\r\n{{}}\r\n0\r\nX: {}\r\n\r\n", "a".repeat(20_000)))),
        row("A25", "a read with a body", Refused("body_on_get"), [&*get("Content-Length: 2\r\n"), b"{}"].concat()),
        row("A25", "a read with a chunked body", Refused("body_on_get"), [&*get("Transfer-Encoding: chunked\r\n"), b"2\r\n{}\r\n0\r\n\r\n"].concat()),
        row("A25", "DELETE with a body", Refused("method_not_allowed"), [&*latin(&head(&TestRequest::slots().method("DELETE"))), b"Content-Length: 2\r\n\r\n{}"] .concat()),
        row("A26", "Expect: 100-continue on what is refused", Refused("to_missing"), [&*latin(&head(&TestRequest::book().without("Ssp-To").without_content_length().body(b""))), b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"] .concat()),
        row("A27", "Expect: junk", Refused("expectation_unknown"), post("Content-Length: 2\r\nExpect: junk\r\n", "{}")),
        row("A29", "a body longer than its length: a request of its own", Passes(2), post("Content-Length: 2\r\n", &format!("{{}}{smuggled}"))),
        row("A30", "100 requests at once", Passes(100), thousand),
        row("A31", "Upgrade: h2c", Passes(1), get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n")),
        row("A32", "HTTP/2's preface in HTTP/1.1", RefusedAndClosed("version_unknown"), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ]
}

/// A: heads that are not HTTP.
#[rustfmt::skip]
fn heads() -> Vec<Row> {
    let bare = head(&TestRequest::slots()).replace("\r\n", "\n") + "\n";
    let one_bare = head(&TestRequest::slots()).replacen("\r\nAccept", "\nAccept", 1) + "\r\n";
    let many: String = (0..100).map(|n| format!("X-{n}: 1\r\n")).collect();
    vec![
        row("A23", "bare LF throughout", MALFORMED, latin(&bare)),
        row("A23", "one bare LF", MALFORMED, latin(&one_bare)),
        row("A24", "a folded line", MALFORMED, get("X-Folded: a\r\n b\r\n")),
        row("A24", "a space before a name", MALFORMED, get(" X-Odd: a\r\n")),
        row("A24", "a line without a colon", MALFORMED, get("X-Odd\r\n")),
        row("A24", "an empty name", MALFORMED, get(": a\r\n")),
        row("A24", "a NUL in a value", MALFORMED, get("X-Odd: a\0b\r\n")),
        row("A24", "a bare CR in a value", MALFORMED, get("X-Odd: a\rb\r\n")),
        row("A23", "two empty lines before a head", MALFORMED, [b"\r\n\r\n", &*get("")].concat()),
        row("A33", "HTTP/0.9", MALFORMED, format!("GET {TARGET}\r\n\r\n")),
        row("A33", "HTTP/1.2", RefusedAndClosed("version_unknown"), line(&format!("GET {TARGET} HTTP/1.2"))),
        row("A33", "HTTP/2.0", RefusedAndClosed("version_unknown"), line(&format!("GET {TARGET} HTTP/2.0"))),
        row("A33", "a tab after the method", MALFORMED, line(&format!("GET\t{TARGET} HTTP/1.1"))),
        row("A33", "two spaces after the method", MALFORMED, line(&format!("GET  {TARGET} HTTP/1.1"))),
        row("A34", "a target of 70 KB", RefusedAndClosed("target_too_long"), at(&format!("{TARGET}?a={}", "a".repeat(70_000)))),
        row("A34", "a target of 40 KB", RefusedAndClosed("target_too_long"), at(&format!("{TARGET}?a={}", "a".repeat(40_000)))),
        row("A34", "over 100 headers", RefusedAndClosed("head_too_large"), get(&many)),
        row("A34", "a header of 500 KB", RefusedAndClosed("head_too_large"), get(&format!("X-Big: {}\r\n", "a".repeat(500_000)))),
    ]
}

/// C1 to C7: to whom a request is addressed.
#[rustfmt::skip]
fn hosts() -> Vec<Row> {
    let invalid = Refused("host_invalid");
    vec![
        row("C1", "no Host", invalid, TestRequest::slots().without("Host").bytes()),
        row("C1", "no Host in HTTP/1.0", invalid, {
            latin(&(head(&TestRequest::slots().without("Host")).replace("HTTP/1.1", "HTTP/1.0") + "\r\n"))
        }),
        row("C1", "an empty Host", invalid, host("")),
        row("C1", "two Hosts", invalid, get("Host: evil.nhs.uk\r\n")),
        row("C1", "the same Host twice", invalid, get("Host: ssp.example.nhs.uk\r\n")),
        row("C1", "a user in Host", invalid, host("u:p@evil")),
        row("C1", "a path in Host", invalid, host("a/b?c")),
        row("C1", "a port beyond ports", invalid, host("ssp.example.nhs.uk:99999")),
        row("C2", "a Host that is not ours", Refused("host_not_ours"), host("evil.nhs.uk")),
        row("C3", "absolute-form to another host", invalid, at(&format!("https://evil.nhs.uk{TARGET}"))),
        row("C3", "absolute-form with a user", invalid, at(&format!("https://u@ssp.example.nhs.uk{TARGET}"))),
        row("C3", "absolute-form to the provider", invalid, at(&TARGET[1..])),
        row("C4", "authority-form", invalid, at("evil.nhs.uk:443")),
        row("C4", "GET *", TARGET_MALFORMED, at("*")),
        row("C4", "OPTIONS *", Refused("method_not_allowed"), line("OPTIONS * HTTP/1.1")),
        row("C5", "CONNECT", Refused("method_not_allowed"), line("CONNECT evil.nhs.uk:443 HTTP/1.1")),
        row("C6", "TRACE", Refused("method_not_allowed"), line(&format!("TRACE {TARGET} HTTP/1.1"))),
        row("C6", "TRACK", Refused("method_unknown"), line(&format!("TRACK {TARGET} HTTP/1.1"))),
        row("C7", "get", Refused("method_unknown"), line(&format!("get {TARGET} HTTP/1.1"))),
        row("C7", "FOO!BAR", Refused("method_unknown"), line(&format!("FOO!BAR {TARGET} HTTP/1.1"))),
    ]
}

/// C8 to C18: what is asked for, and through whom.
#[rustfmt::skip]
#[expect(clippy::too_many_lines, reason = "one line an input: it is a list")]
fn targets() -> Vec<Row> {
    let malformed = |id, what, target: &str| row(id, what, TARGET_MALFORMED, at(target));
    let inner = |id, what, rest: &str| {
        let target = format!("/https://provider.example.nhs.uk/A20047/STU3/1/gpconnect/{rest}");
        row(id, what, TARGET_MALFORMED, at(&target))
    };
    let label = format!("/https://{}.nhs.uk/Slot", "a".repeat(64));
    let name = format!("/https://{}nhs.uk/Slot", "a.".repeat(130));
    vec![
        malformed("C8", "a user before the host", "/https://provider.example.nhs.uk@evil.nhs.uk/Slot"),
        malformed("C8", "a user and a port", "/https://provider.example.nhs.uk:443@evil.nhs.uk/Slot"),
        malformed("C9", "backslashes", "/https:\\\\evil.nhs.uk/Slot"),
        row("C9", "one slash and another host", Refused("target_unregistered"), at("/https:/evil.nhs.uk/A20047/STU3/1/gpconnect/Slot")),
        malformed("C9", "three slashes", "/https:///evil.nhs.uk/Slot"),
        malformed("C9", "HTTPS", "/HTTPS://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
        malformed("C9", "two slashes", "//evil.nhs.uk/Slot"),
        malformed("C9", "http", "/http://provider.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
        malformed("C9", "ftp", "/ftp://provider.example.nhs.uk/Slot"),
        malformed("C9", "file", "/file:///etc/passwd"),
        malformed("C10", "an IPv6 address", "/https://[::1]/Slot"),
        malformed("C10", "an IPv4 address", "/https://127.0.0.1/Slot"),
        malformed("C10", "a short address", "/https://127.1/Slot"),
        malformed("C10", "a hexadecimal address", "/https://0x7f.1/Slot"),
        malformed("C10", "an address as one number", "/https://2130706433/Slot"),
        malformed("C10", "a mapped address", "/https://[::ffff:169.254.169.254]/Slot"),
        malformed("C10", "an address with a zone", "/https://[fe80::1%25eth0]/Slot"),
        row("C10", "an address in circled digits", Refused("target_malformed"), [b"GET /https://\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1/Slot HTTP/1.1\r\n", head(&TestRequest::slots()).split_once("\r\n").unwrap().1.as_bytes(), b"\r\n"] .concat()),
        malformed("C11", "a final dot", "/https://provider.example.nhs.uk./A20047/STU3/1/gpconnect/Slot"),
        malformed("C11", "an asterisk", "/https://*.nhs.uk/Slot"),
        malformed("C11", "an underscore", "/https://provider_example.nhs.uk/Slot"),
        malformed("C11", "an empty label", "/https://provider..nhs.uk/Slot"),
        malformed("C11", "a label of 64", &label),
        malformed("C11", "a name of 260", &name),
        malformed("C12", "a padded port", "/https://provider.example.nhs.uk:0443/A20047/STU3/1/gpconnect/Slot"),
        malformed("C12", "an empty port", "/https://provider.example.nhs.uk:/A20047/STU3/1/gpconnect/Slot"),
        malformed("C12", "port 65536", "/https://provider.example.nhs.uk:65536/A20047/STU3/1/gpconnect/Slot"),
        malformed("C12", "port 0", "/https://provider.example.nhs.uk:0/A20047/STU3/1/gpconnect/Slot"),
        row("C12", "another port", Refused("target_unregistered"), at("/https://provider.example.nhs.uk:22/A20047/STU3/1/gpconnect/Slot")),
        row("C13", "another practice's root", Refused("target_not_receivers"), at("/https://provider.example.nhs.uk/B82617/STU3/1/gpconnect/Slot")),
        row("C14", "a path beside the root", Refused("target_unregistered"), at("/https://provider.example.nhs.uk/A20047/STU3/1/gpconnectevil/Slot")),
        inner("C15", "two dots", "../gpconnect/Slot"),
        inner("C15", "one dot", "./Slot"),
        inner("C15", "escaped dots", "%2e%2e/Slot"),
        inner("C15", "a half-escaped dot", ".%2e/Slot"),
        inner("C15", "dots and a semicolon", "..;/Slot"),
        inner("C16", "an escaped slash", "a%2fSlot"),
        inner("C16", "an escaped backslash", "a%5cSlot"),
        inner("C16", "an escaped NUL", "Slot%00"),
        inner("C16", "an escaped line end", "Slot%0d%0aSsp-From:%20200000000360"),
        inner("C16", "an escape escaped", "a%252fSlot"),
        inner("C16", "a broken escape", "Slot%zz"),
        inner("C16", "raw UTF-8", "Sl\u{c3}\u{b6}t"),
        inner("C16", "a backslash", "a\\Slot"),
        inner("C16", "a session id", "Slot;jsessionid=1"),
        row("C17", "a fragment", RefusedAndClosed("target_malformed"), at(&format!("{TARGET}#fragment"))),
        row("C17", "a fragment among the filters", RefusedAndClosed("target_malformed"), at(&format!("{TARGET}?status=free#&start=ge2026-11-23"))),
        row("C17", "a fragment in absolute-form", RefusedAndClosed("target_malformed"), at(&format!("https://ssp.example.nhs.uk{TARGET}#"))),
        row("C18", "a query of 30 KB", Passes(1), at(&format!("{TARGET}?a=|%7C%2F:{}", "a".repeat(30_000)))),
        row("C24", "a practice without an agreement", Refused("no_agreement"), {
            let root = test_bed::APART_ROOT;
            let call = TestRequest::slots().set("Ssp-To", test_bed::APART_TO).claim("aud", root.into());
            call.target(&format!("/{root}/Slot")).bytes()
        }),
        row("C25", "the Ssp-From of another", Refused("sender_not_certificates"), TestRequest::slots().set("Ssp-From", test_bed::CLINIC).bytes()),
        row("C26", "an interaction nobody knows", Refused("interaction_unknown"), TestRequest::slots().set("Ssp-InteractionID", "urn:x").bytes()),
        row("C26", "an interaction in other letters", Refused("interaction_unknown"), TestRequest::slots() .set("Ssp-InteractionID", "URN:NHS:NAMES:services:gpconnect:fhir:rest:search:slot-1") .bytes()),
        row("C26", "an interaction of 4 KB", Refused("interaction_unknown"), TestRequest::slots().set("Ssp-InteractionID", &"u".repeat(4096)).bytes()),
    ]
}

/// D: the token.
#[rustfmt::skip]
#[expect(clippy::too_many_lines, reason = "one line an input: it is a list")]
fn tokens() -> Vec<Row> {
    let good = claims::mint(&TestRequest::slots().claims);
    let [first, second, _] = [0, 1, 2].map(|n| good.split('.').nth(n).unwrap().to_owned());
    let base = |text: &str| base64_simd::URL_SAFE_NO_PAD.encode_to_string(text);
    let with_claims = |text: &str| token(&format!("Bearer {first}.{}.", base(text)));
    let with_header = |text: &str| token(&format!("Bearer {}.{second}.", base(text)));
    let text = TestRequest::slots().claims.to_string();
    let again = text.replacen('{', "{\"sub\":\"2\",\"s\\u0075b\":\"1\",", 1);
    let deep = format!("{{\"requesting_device\":{}1{}}}", "[".repeat(2000), "]".repeat(2000));
    let claims = TestRequest::slots().claims;
    let in_order = serde_json::json!([
        claims["iss"],
        claims["sub"],
        claims["aud"],
        claims["exp"],
        claims["iat"],
        claims["reason_for_request"],
        claims["requested_scope"],
        claims["requesting_device"],
        claims["requesting_organization"],
        claims["requesting_practitioner"],
    ])
    .to_string();
    let device = claims["requesting_device"].to_string();
    let device_in_order = r#"["Device",null,[],null,"Invented","1"]"#;
    let (ours, theirs) = (
        serde_json::json!({"system": ODS_SYSTEM, "value": test_bed::HUB_ODS}),
        serde_json::json!({"system": ODS_SYSTEM, "value": test_bed::CLINIC_ODS}),
    );
    let organisation = |identifiers: serde_json::Value| {
        let resource =
            serde_json::json!({"resourceType": "Organization", "identifier": identifiers});
        TestRequest::slots().claim("requesting_organization", resource).bytes()
    };
    let (algorithm, invalid) = (Refused("token_algorithm"), Refused("claim_invalid"));
    vec![
        row("D1", "no token", Refused("token_missing"), TestRequest::slots().without("Authorization").bytes()),
        row("D1", "Basic", Refused("authorization_malformed"), token("Basic dTpw")),
        row("D1", "two tokens", Refused("token_repeated"), get(&format!("Authorization: Bearer {good}\r\n"))),
        row("D1", "a token in two words", Refused("authorization_malformed"), token("Bearer a b")),
        row("D1", "two spaces before the token", Passes(1), token(&format!("Bearer   {good}"))),
        row("D1", "a tab before the token", Refused("token_malformed"), token(&format!("Bearer \t{good}"))),
        row("D2", "one part", Refused("token_malformed"), token(&format!("Bearer {first}"))),
        row("D2", "two parts", Refused("token_malformed"), token(&format!("Bearer {first}.{second}"))),
        row("D2", "four parts", Refused("token_malformed"), token(&format!("Bearer {good}."))),
        row("D2", "an empty payload", Refused("token_claims"), token(&format!("Bearer {first}.."))),
        row("D2", "padding", Refused("token_malformed"), token(&format!("Bearer {first}=.{second}."))),
        row("D2", "the other alphabet", Refused("token_malformed"), token(&format!("Bearer {first}.{second}+/."))),
        row("D3", "a token of 9 KB", Refused("token_too_long"), token(&format!("Bearer {first}.{}.", "a".repeat(9000)))),
        row("D4", "claims 2,000 deep", Refused("claim_resource"), with_claims(&deep)),
        row("D5", "hundreds of claims nobody knows", Passes(1), {
            let many: String = (0..300).map(|n| format!("\"x{n}\":{n},")).collect();
            with_claims(&text.replacen('{', &format!("{{{many}"), 1))
        }),
        row("D6", "a claim twice, once in escapes", Refused("token_claims"), with_claims(&again)),
        row("D6", "a claim beside its name in capitals", Refused("token_claims"), with_claims(&text.replacen('{', "{\"AUD\":\"https://evil.nhs.uk\",", 1))),
        row("D6", "a claim under its name in capitals", Refused("token_claims"), with_claims(&text.replace("\"requesting_organization\"", "\"Requesting_Organization\""))),
        row("D6", "a claim beside its name with a long s", Refused("token_claims"), with_claims(&text.replacen('{', "{\"i\u{17f}s\":\"https://evil.nhs.uk\",", 1))),
        row("D6", "a member of a resource in other letters", Refused("claim_resource"), with_claims(&text.replace("\"resourceType\":\"Organization\"", "\"resourceType\":\"Organization\",\"Identifier\":[]"))),
        row("D6", "claims as an array", Refused("token_claims"), with_claims(&in_order)),
        row("D6", "a resource as an array", Refused("claim_resource"), with_claims(&text.replace(&device, device_in_order))),
        row("D6", "an identifier as an array", Refused("claim_resource"), organisation(serde_json::json!([[ODS_SYSTEM, test_bed::HUB_ODS]]))),
        row("D6", "two organisations", invalid, organisation(serde_json::json!([ours, theirs]))),
        row("D6", "two organisations, ours last", invalid, organisation(serde_json::json!([theirs, ours]))),
        row("D6", "one organisation twice", invalid, organisation(serde_json::json!([ours, ours]))),
        row("D6", "an organisation in the old system beside ours", invalid, organisation(serde_json::json!([ours, {"system": "http://fhir.nhs.net/Id/ods-organization-code", "value": test_bed::CLINIC_ODS}]))),
        row("D6", "an organisation in the system's other letters beside ours", invalid, organisation(serde_json::json!([ours, {"system": "https://fhir.nhs.uk/id/ODS-organization-code", "value": test_bed::CLINIC_ODS}]))),
        row("D6", "two users", invalid, {
            let mut claims = TestRequest::slots().claims;
            let users = claims["requesting_practitioner"]["identifier"].as_array_mut().unwrap();
            let mut other = users[0].clone();
            other["value"] = "999888777666".into();
            users.push(other);
            with_claims(&claims.to_string())
        }),
        row("D6", "a user in an older system alone", Passes(1), with_claims(&text.replace("https://fhir.nhs.uk/Id/sds-user-id", "http://fhir.nhs.net/sds-user-id"))),
        row("D7", "a header as an array", algorithm, with_header(r#"["none","JWT"]"#)),
        row("D7", "none, and a third part", Refused("token_signed"), token(&format!("Bearer {good}c2ln"))),
        row("D7", "None", algorithm, with_header(r#"{"alg":"None","typ":"JWT"}"#)),
        row("D7", "nOnE", algorithm, with_header(r#"{"alg":"nOnE","typ":"JWT"}"#)),
        row("D7", "HS256 without a signature", algorithm, with_header(r#"{"alg":"HS256","typ":"JWT"}"#)),
        row("D7", "a key of its own", algorithm, with_header(r#"{"alg":"none","typ":"JWT","jku":"https://evil.nhs.uk/k"}"#)),
        row("D8", "exp as a float", Refused("claim_invalid"), TestRequest::slots().claim("exp", 1e3.into()).bytes()),
        row("D8", "exp as text", Refused("claim_invalid"), TestRequest::slots().claim("exp", "1".into()).bytes()),
        row("D8", "exp far away", Refused("token_lifetime"), TestRequest::slots().claim("exp", i64::MAX.into()).bytes()),
        row("D9", "another audience", Refused("audience_mismatch"), TestRequest::slots().claim("aud", "https://evil.nhs.uk".into()).bytes()),
        row("D9", "an array of audiences", Refused("audience_mismatch"), TestRequest::slots().claim("aud", serde_json::json!([test_bed::ROOT])).bytes()),
        row("D9", "a device that is none", Refused("claim_resource"), TestRequest::slots() .claim("requesting_device", serde_json::json!({"resourceType": "Patient"})) .bytes()),
        row("D10", "another's organisation", Refused("organisation_mismatch"), {
            let other = claims::example_claims(
                test_bed::ROOT,
                &test_bed::CLINIC_ODS.parse().unwrap(),
                "organization/*.read",
                test_bed::now_s(),
            );
            TestRequest::slots()
                .claim("requesting_organization", other["requesting_organization"].clone())
                .bytes()
        }),
    ]
}

/// E: headers.
#[rustfmt::skip]
fn headers() -> Vec<Row> {
    let twice = |name: &str, value: &str| get(&format!("{name}: {value}\r\n"));
    let odd = |value: &str| TestRequest::slots().set("Ssp-TraceID", value).bytes();
    vec![
        row("E1", "two trace ids", Refused("trace_id_repeated"), twice("Ssp-TraceID", "09a01679-2564-4fb4-9129-aecc81ea2706")),
        row("E1", "two senders", Refused("from_repeated"), twice("ssp-from", test_bed::HUB)),
        row("E1", "two receivers", Refused("to_repeated"), twice("SSP-TO", test_bed::TO)),
        row("E1", "two interactions", Refused("interaction_id_repeated"), twice("Ssp-InteractionID", "urn:x")),
        row("E2", "a trace id that is no UUID", Refused("trace_id_invalid"), odd("trace")),
        row("E2", "a trace id of 10 KB", Refused("trace_id_invalid"), odd(&"a".repeat(10_000))),
        row("E2", "an escaped line end in a trace id", Refused("trace_id_invalid"), odd("09a01679%0d%0a")),
        row("E3", "Connection: authorization", Refused("connection_names_header"), get("Connection: close, authorization\r\n")),
        row("E3", "Connection: ssp-to", Refused("connection_names_header"), get("Connection: ssp-to\r\n")),
        row("E3", "Connection: host", Refused("connection_names_header"), get("Connection: host\r\n")),
        row("E3", "Connection: content-length", Refused("connection_names_header"), post("Connection: content-length\r\nContent-Length: 2\r\n", "{}")),
        row("E4", "what only a proxy may say", Passes(1), get("X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nX-Client-Cert-CN: hub\r\n")),
        row("E6", "Ssp_To", Refused("header_underscore"), get("Ssp_To: 918999198994\r\n")),
        row("E6", "Authorization_", Refused("header_underscore"), get("Authorization_: x\r\n")),
        row("E7", "bytes above ASCII in a value", Passes(1), get("X-Odd: caf\u{e9}\u{ff}\r\n")),
        row("C5", "CONNECT with a body", Refused("method_not_allowed"), without_body(TestRequest::slots().method("CONNECT").target("evil.nhs.uk:443"))),
    ]
}
