//! Mistakes that consumers make: the answer alone names the reason and what to do about it, and repeats nothing
//! that was sent in a query, a token, a body or an id in a path.
#![expect(clippy::print_stdout, reason = "each row's answer is shown where one fails")]

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::documents::holds;
use testkit::authority::TestAuthority;
use testkit::files::Files;
use testkit::raw_connection::RawConnection;
use testkit::request::{Answer, read_answer};
use testkit::test_bed::{CLINIC_ODS, ODS, OTHER_ROOT, OTHER_TO, ROOT, now_s};
use testkit::{TestBed, TestRequest};

const PAGE: &str = include_str!("../docs/integrate/mistakes.md");
const HELP: &str = "https://ssp.example.nhs.uk/docs/refusals.html";

/// Invented NHS numbers with valid check digits, one for each place of a request.
const QUERY: &str = "9990000018";
const PATH: &str = "9990000026";
const CLAIM: &str = "9990000042";
const BODY: &str = "9990000050";

/// A mistake, and the answer to it.
struct Mistake {
    /// The mistake, as the page names it.
    what: &'static str,
    sent: TestRequest,
    token: &'static str,
    /// Words of the answer that name the reason.
    reason: &'static str,
    /// Words of the answer that name what to do.
    remedy: &'static str,
}

/// A sent value that a text must not repeat.
fn unsaid(sent: &TestRequest) -> Vec<String> {
    let mut unsaid = [QUERY, PATH, CLAIM, BODY].map(str::to_owned).to_vec();
    for claim in ["iss", "sub", "patient", "reason_for_request"] {
        let value = sent.claims[claim].as_str().unwrap_or_default();
        unsaid.extend((value != "directcare").then(|| value.to_owned()));
    }
    unsaid.extend(sent.target.split_once('?').map(|(_, query)| query.to_owned()));
    unsaid.push("eyJ".to_owned());
    unsaid.retain(|text| text.len() > 2);
    unsaid
}

fn slots() -> TestRequest {
    TestRequest::slots()
}

fn mistake(
    what: &'static str,
    token: &'static str,
    sent: TestRequest,
    [reason, remedy]: [&'static str; 2],
) -> Mistake {
    Mistake { what, sent, token, reason, remedy }
}

fn mistakes() -> Vec<Mistake> {
    let mut all = headers();
    all.extend(audiences());
    all.extend(token_times());
    all.extend(tokens());
    all.extend(certificates());
    all.extend(interactions());
    all.extend(practices());
    all.extend(targets());
    all
}

fn headers() -> Vec<Mistake> {
    let to = |value| slots().set("Ssp-To", value);
    vec![
        mistake(
            "no `Ssp-To`",
            "to_missing",
            slots().without("Ssp-To"),
            ["Ssp-To header missing", "Send Ssp-To. It is optional only with a target by ODS code"],
        ),
        mistake(
            "an ODS code in `Ssp-To`",
            "to_invalid",
            to(ODS),
            ["Ssp-To must be twelve digits; this looks like an ODS code", "Send an ASID in Ssp-To"],
        ),
        mistake(
            "an unknown ASID in `Ssp-To`",
            "receiver_unknown",
            to("918999198000"),
            [
                "Ssp-To is not the ASID of a known provider",
                "Look up the practice's ASID in the Spine Directory Service again",
            ],
        ),
        mistake(
            "a trace id that is no UUID",
            "trace_id_invalid",
            slots().set("Ssp-TraceID", "request-1"),
            ["Ssp-TraceID must be a UUID", "Send a UUID"],
        ),
        mistake(
            "the `Host` of another server",
            "host_not_ours",
            slots().set("Host", "evil.example.nhs.uk"),
            ["the Host is not one of this proxy's names", "such as those in its certificate"],
        ),
    ]
}

fn audiences() -> Vec<Mistake> {
    let aud = |value: &str| slots().claim("aud", json!(value));
    let root = "JWT claim aud must be https://provider.example.nhs.uk/A20047/STU3/1/gpconnect, \
                character for character; ";
    assert!(root.contains(ROOT));
    vec![
        mistake(
            "`aud` with a final slash",
            "audience_mismatch",
            aud(&format!("{ROOT}/")),
            ["this one differs by a slash at its end", "Set aud to the registered service root"],
        ),
        mistake(
            "`aud` is the URL of the token endpoint",
            "audience_mismatch",
            aud("https://authorize.fhir.nhs.net/token"),
            ["this is the URL of the token endpoint", root],
        ),
        mistake(
            "`aud` is the whole URL of the request",
            "audience_mismatch",
            aud(&format!("{ROOT}/Slot")),
            ["this is the URL of the request, with the path after the service root", root],
        ),
        mistake(
            "`aud` is the URL of the proxy and the root",
            "audience_mismatch",
            aud(&format!("https://ssp.example.nhs.uk/{ROOT}")),
            ["this begins with the URL of this proxy", root],
        ),
        mistake(
            "`aud` is another URL of the proxy and the root",
            "audience_mismatch",
            aud(&format!("https://10.0.0.1:8443/{ROOT}")),
            ["this has another URL before the service root", root],
        ),
        mistake(
            "`aud` is the root with a port",
            "audience_mismatch",
            aud(&ROOT.replace("nhs.uk/", "nhs.uk:443/")),
            ["the port differs from that of the registered service root", root],
        ),
        mistake(
            "`aud` is the root of another practice",
            "audience_mismatch",
            aud(OTHER_ROOT),
            ["this looks like another service root", root],
        ),
    ]
}

fn token_times() -> Vec<Mistake> {
    let claim = |name: &str, value: Value| slots().claim(name, value);
    let times = |iat_s: i64, exp_s: i64| claim("iat", json!(iat_s)).claim("exp", json!(exp_s));
    let now_s = now_s();
    vec![
        mistake(
            "a token that has expired",
            "token_expired",
            times(now_s - 712, now_s - 412),
            [" s ago by this proxy's clock", "Create a token for each request; check your clock"],
        ),
        mistake(
            "`exp` is `iat` + 600",
            "token_lifetime",
            times(now_s, now_s + 600),
            ["exp must be iat plus 300 seconds", "Set exp to iat + 300"],
        ),
        mistake(
            "times in milliseconds",
            "token_from_future",
            times(now_s * 1000, now_s * 1000 + 300),
            ["iat is more than a day ahead of this proxy's clock", "iat and exp are in seconds"],
        ),
        mistake(
            "times in milliseconds, five minutes apart",
            "token_lifetime",
            times(now_s * 1000, now_s * 1000 + 300_000),
            [
                "a time looks like milliseconds or a smaller unit",
                "both in whole seconds since 1970",
            ],
        ),
        mistake(
            "times with a fraction",
            "claim_invalid",
            claim("iat", json!(1_800_000_000.5)).claim("exp", json!(1_800_000_300.5)),
            [
                "JWT claim iat must be a JSON number, the whole seconds since 1970",
                "Correct the claim",
            ],
        ),
    ]
}

fn tokens() -> Vec<Mistake> {
    let claim = |name: &str, value: Value| slots().claim(name, value);
    let minted = spine_proxy::claims::mint(&planted(slots()).claims);
    vec![
        mistake(
            "no `requesting_device`",
            "claim_missing",
            claim("requesting_device", Value::Null),
            ["JWT claim requesting_device missing or empty", "Add the claim"],
        ),
        mistake(
            "no full stop at the end of the token",
            "token_malformed",
            slots().token(&format!("Bearer {}", minted.trim_end_matches('.'))),
            ["the full stop at its end is missing", "the token ends in a full stop"],
        ),
        mistake(
            "`sub` is not the practitioner's id",
            "claim_invalid",
            claim("sub", json!(CLAIM)),
            ["JWT claim sub must equal requesting_practitioner.id", "Correct the claim"],
        ),
        mistake(
            "a scope of another interaction",
            "scope_mismatch",
            claim("requested_scope", json!("patient/*.write")),
            [
                "requested_scope must be organization/*.read for fhir:rest:search:slot-1",
                "Request the scope of the interaction",
            ],
        ),
        mistake(
            "`Authorization: Basic`",
            "authorization_malformed",
            slots().token("Basic Y29uc3VtZXI6c2VjcmV0"),
            [
                "Authorization header is not Bearer with one token",
                "Send Bearer, one or more spaces",
            ],
        ),
        mistake(
            "the ODS code of another organisation",
            "organisation_mismatch",
            claim("requesting_organization", organisation(CLINIC_ODS)),
            [
                "requesting_organization is not the sender's organisation",
                "Set requesting_organization to the ODS code of the sender",
            ],
        ),
    ]
}

fn organisation(ods: &str) -> Value {
    let system = "https://fhir.nhs.uk/Id/ods-organization-code";
    json!({"resourceType": "Organization", "identifier": [{"system": system, "value": ods}]})
}

fn certificates() -> Vec<Mistake> {
    let with = |certificate| slots().certificate(certificate);
    vec![
        mistake(
            "no client certificate",
            "certificate_missing",
            with("none"),
            ["no client certificate was presented", "Configure your TLS stack to present"],
        ),
        mistake(
            "the certificate of another system",
            "certificate_not_senders",
            with("clinic"),
            [
                "the certificate is not that of the consumer in Ssp-From",
                "Present the certificate that is registered for Ssp-From, or correct Ssp-From",
            ],
        ),
        mistake(
            "a certificate that is registered for nobody",
            "certificate_unknown",
            with("stranger"),
            ["no registered consumer has the name", "have its name added to the directory"],
        ),
        mistake(
            "a certificate of another authority",
            "certificate_invalid",
            with("elsewhere"),
            [
                "no accepted authority has issued it; its issuer is CN=Elsewhere",
                "Its authority must be one that this proxy accepts",
            ],
        ),
        mistake(
            "a certificate of an authority with the name of an accepted one and another key",
            "certificate_invalid",
            with("foreign"),
            [
                "a signature in its chain is not its issuer's",
                "Its authority must be one that this proxy accepts",
            ],
        ),
        mistake(
            "a chain without the sub authority",
            "certificate_invalid",
            with("alone"),
            [
                "no accepted authority has issued it; its issuer is CN=Throwaway sub authority",
                "Send the whole chain, leaf first",
            ],
        ),
    ]
}

fn interactions() -> Vec<Mistake> {
    let id = |short: &str| format!("urn:nhs:names:services:gpconnect:{short}");
    let named = |short: &str| slots().set("Ssp-InteractionID", &id(short));
    let migrate = "fhir:operation:gpc.migratestructuredrecord-1";
    vec![
        mistake(
            "the interaction of another path",
            "interaction_path",
            named("fhir:rest:search:patient-1"),
            [
                "the path must end with /Patient for fhir:rest:search:patient-1; the path is that of \
                 fhir:rest:search:slot-1",
                "Correct the path, or the interaction id",
            ],
        ),
        mistake(
            "an interaction id without its `-1`",
            "interaction_unknown",
            named("fhir:rest:search:slot"),
            [
                "the interaction id is not known; the nearest is \
                 urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1",
                "including its -1",
            ],
        ),
        mistake(
            "an interaction that this proxy does not forward",
            "interaction_not_allowed",
            TestRequest::to(&id(migrate), "POST", "/Patient/$gpc.migratestructuredrecord"),
            [
                "this proxy does not forward fhir:operation:gpc.migratestructuredrecord-1",
                "ask the operators of this proxy to allow this one",
            ],
        ),
    ]
}

fn practices() -> Vec<Mistake> {
    let by_practice = |ods: &str| slots().target(&format!("/{ods}/STU3/1/gpconnect/Slot?a=b"));
    let nobodys = "/https://provider.example.nhs.uk/Z99999/STU3/1/gpconnect/Slot?a=b";
    vec![
        mistake(
            "the service root of an unknown practice",
            "target_unregistered",
            slots().target(nobodys),
            [
                "the target is under no registered service root",
                "Begin the target with a service root exactly as registered",
            ],
        ),
        mistake(
            "the ODS code of an unknown practice",
            "practice_unknown",
            by_practice("Z99999"),
            ["no provider is registered for this practice", "Check the ODS code in the target"],
        ),
        mistake(
            "an ODS code with the `Ssp-To` of another practice",
            "receiver_not_practices",
            by_practice(ODS).set("Ssp-To", OTHER_TO),
            [
                "Ssp-To is not the ASID of the practice in the request target",
                "correct one, or omit Ssp-To",
            ],
        ),
    ]
}

fn targets() -> Vec<Mistake> {
    let metadata = |path: &str| TestRequest::to("read:metadata-1", "GET", path);
    let to = |target: &str| slots().target(target);
    let port = ROOT.replace(".uk/", ".uk:443/");
    let encoded = ROOT.replace(':', "%3A").replace('/', "%2F");
    vec![
        mistake(
            "`/metadata/`",
            "interaction_path",
            metadata("/metadata/"),
            [
                "the path must end with /metadata for fhir:rest:read:metadata-1; the path ends in a slash",
                "Correct the path",
            ],
        ),
        mistake(
            "`//metadata`",
            "target_not_receivers",
            metadata("//metadata"),
            [
                "the target is not the service root of the system in Ssp-To; there is a slash too many",
                "Begin the target with the service root that the directory has for Ssp-To",
            ],
        ),
        mistake(
            "`http://` in the target",
            "target_malformed",
            to(&format!("/{}/Slot", ROOT.replace("https", "http"))),
            ["the URL does not begin with https://", "Send one slash, then https://"],
        ),
        mistake(
            "only `/Slot`",
            "target_malformed",
            to("/Slot?a=b"),
            [
                "it begins neither with /https:// and a service root nor with",
                "Send one slash, then",
            ],
        ),
        mistake(
            "the URL in the target percent-encoded",
            "target_malformed",
            to(&format!("/{encoded}%2FSlot?a=b")),
            ["the URL in it is percent-encoded: send it raw", "Send one slash, then https://"],
        ),
        mistake(
            "a port in the service root",
            "target_unregistered",
            to(&format!("/{port}/Slot?a=b")),
            [
                "the port differs from that of the registered service root",
                "Begin the target with a service root exactly as registered",
            ],
        ),
        mistake(
            "`OPTIONS`",
            "method_not_allowed",
            slots().method("OPTIONS"),
            ["the method is not allowed", "Use GET, POST or PUT"],
        ),
    ]
}

/// Adds an invented NHS number to the query, the headers and the token.
fn planted(sent: TestRequest) -> TestRequest {
    let joint = if sent.target.contains('?') { '&' } else { '?' };
    let target = format!("{}{joint}identifier={QUERY}", sent.target);
    sent.target(&target)
        .with("X-Patient", CLAIM)
        .claim("iss", json!(format!("https://consumer.example.nhs.uk/{CLAIM}")))
        .claim("patient", json!(CLAIM))
}

/// The reason and the remedy in an answer, in plain words.
fn explanation(answer: &Answer) -> String {
    let issue = &answer.json()["issue"][0];
    let plain = [&issue["details"]["text"], &issue["diagnostics"]];
    plain.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
}

fn prepare(files: &mut Files) {
    files.set("listener", &format!("help-url = \"{HELP}\""));
}

async fn bed() -> TestBed {
    let mut bed = TestBed::with(prepare).await;
    let mut alone =
        bed.pki.issue(&gpconnect_simulator::pki::Leaf::named("hub.example.nhs.uk")).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let (leaf, above) = alone.chain.split_once(end).unwrap();
    assert!(above.contains(end), "a sub authority has issued it");
    alone.chain = format!("{leaf}{end}");
    bed.issued.insert("alone", alone);
    bed.issued.insert("elsewhere", TestAuthority::root("Elsewhere").issue("hub.example.nhs.uk"));
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_mistake_names_reason_and_remedy_and_repeats_nothing() {
    let bed = bed().await;
    let mut page = String::new();
    for Mistake { what, sent, token, reason, remedy } in mistakes() {
        let sent = planted(sent);
        let answer = bed.expect_refusal(sent.clone(), token).await;
        let text = explanation(&answer);
        println!("{what}: {} {token}: {text}", answer.status);
        for words in [reason, remedy] {
            assert!(text.contains(words), "{what}: {words:?} is not in {text:?}");
        }
        let link = format!("<{HELP}#{token}>; rel=\"help\"");
        assert_eq!(answer.header("link"), Some(&*link), "{what}");
        let said = format!("{:?} {}", answer.headers, answer.text());
        for unsaid in unsaid(&sent) {
            assert!(!said.contains(&unsaid), "{what}: {unsaid:?} is in {said}");
        }
        page.push_str(&row(what, &answer.status.to_string(), token, &text));
    }
    page.push_str(&without_tls(&bed).await);
    page.push_str(&old_tls(&bed).await);
    assert!(bed.provider.received().is_empty());
    let heading = "| mistake | status | token | answer |\n|---|---|---|---|\n";
    let (before, rest) = PAGE.split_once("<!-- mistakes -->\n").expect("the opening marker");
    let (_, after) = rest.split_once("<!-- /mistakes -->").expect("the closing marker");
    let generated = format!("{before}<!-- mistakes -->\n{heading}{page}<!-- /mistakes -->{after}");
    holds("docs/integrate/mistakes.md", &generated);
}

/// A row of the page. The seconds since a token has expired are those of the moment.
fn row(what: &str, status: &str, token: &str, text: &str) -> String {
    let text = match text.split_once(" s ago ") {
        Some((before, after)) => {
            let (before, seconds) = before.rsplit_once(' ').unwrap();
            assert!(seconds.parse::<u32>().unwrap() >= 412, "{seconds}");
            format!("{before} 412 s ago {after}")
        }
        None => text.to_owned(),
    };
    let token = format!("[`{token}`](refusals.md#{token})");
    format!("| {what} | {status} | {token} | {} |\n", text.replace('<', "&lt;"))
}

/// A request without TLS.
async fn without_tls(bed: &TestBed) -> String {
    let mut wire = RawConnection::new(TcpStream::connect(bed.address()).await.unwrap());
    wire.stream.write_all(&planted(slots()).bytes()).await.unwrap();
    let answer = read_answer(&mut wire).await.unwrap();
    assert_eq!((answer.status, answer.token()), (497, Some("plain_http")));
    let text = explanation(&answer);
    assert_eq!(text, "this port speaks HTTPS. Use HTTPS on this port.");
    assert!(!answer.text().contains(QUERY));
    row("`http://` to this proxy", "497", "plain_http", &text)
}

/// A `ClientHello` of TLS 1.1, which offers no later version. There is no answer but TLS's own: the alert.
async fn old_tls(bed: &TestBed) -> String {
    const VERSION_1_1: [u8; 2] = [3, 2];
    let suites = [0, 2, 0xc0, 0x13];
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let length = u8::try_from(extensions.len()).unwrap();
    let hello =
        [&VERSION_1_1[..], &[7; 32], &[0], &suites, &[1, 0], &[0, length], extensions].concat();
    let length = u8::try_from(hello.len()).unwrap();
    let mut stream = TcpStream::connect(bed.address()).await.unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat();
    stream.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    // RFC 8446, section 6: a fatal alert, `protocol_version`.
    let [21, 3, _, 0, 2, 2, 70] = *answer else { panic!("{answer:?}") };
    "| TLS 1.1 | none | none | No HTTP answer: the TLS alert 70, `protocol_version`. Use TLS 1.2 or 1.3. |\n"
        .to_owned()
}

/// The facts that a text derives from a value hold no part of it, whatever it is.
#[tokio::test(flavor = "multi_thread")]
async fn no_derived_fact_repeats_a_number_that_was_sent() {
    let bed = bed().await;
    let id = |rest: &str| format!("urn:nhs:names:services:gpconnect:fhir:rest:{rest}");
    let patient = || TestRequest::to("read:patient-1", "GET", &format!("/Patient/{PATH}"));
    let number: i64 = CLAIM.parse().unwrap();
    let now_s = now_s();
    let times =
        |iat_s: i64, exp_s: i64| slots().claim("iat", json!(iat_s)).claim("exp", json!(exp_s));
    let root = format!("/{ROOT}");
    for (sent, token) in [
        (patient().set("Ssp-TraceID", CLAIM), "trace_id_invalid"),
        (patient().set("Ssp-To", CLAIM), "to_invalid"),
        (
            patient().set("Ssp-InteractionID", &id(&format!("read:patient-{CLAIM}"))),
            "interaction_unknown",
        ),
        (patient().set("Ssp-InteractionID", &id("search:slot-1")), "interaction_path"),
        (slots().target(&format!("{root}/{PATH}/Slot/")), "interaction_path"),
        (slots().target(&format!("{root}/{PATH}/Slot")), "target_not_receivers"),
        (slots().target(&format!("{root}//{PATH}//Slot")), "target_not_receivers"),
        (slots().target(&format!("/{ODS}/STU3/1/gpconnect//{PATH}/Slot")), "interaction_path"),
        (slots().claim("aud", json!(format!("{ROOT}/{CLAIM}"))), "audience_mismatch"),
        (slots().claim("aud", json!([CLAIM])), "audience_mismatch"),
        (slots().claim("requested_scope", json!(CLAIM)), "scope_mismatch"),
        (slots().claim("sub", json!(CLAIM)), "claim_invalid"),
        (slots().claim("reason_for_request", json!(CLAIM)), "claim_invalid"),
        (slots().claim("requesting_organization", organisation(CLAIM)), "claim_invalid"),
        (times(now_s, now_s + number), "token_lifetime"),
        (times(now_s - number - 300, now_s - number), "token_expired"),
        (times(now_s + number, now_s + number + 300), "token_from_future"),
        (slots().token(&format!("Bearer {CLAIM}.{CLAIM}")), "token_malformed"),
        (slots().token(&format!("Basic {CLAIM}")), "authorization_malformed"),
        (TestRequest::book().method("PATCH").body(BODY.as_bytes()), "method_not_allowed"),
    ] {
        let answer = bed.expect_refusal(planted(sent.clone()), token).await;
        let said = format!("{:?} {}", answer.headers, answer.text());
        for unsaid in [QUERY, PATH, CLAIM, BODY] {
            assert!(!said.contains(unsaid), "{unsaid:?} is in {said}");
        }
        // The difference of two times is a number too.
        let text = explanation(&answer);
        let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
        assert!(digits.is_some_and(|digits| digits < 10), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_to_the_page_about_refusals_is_that_of_the_last_reload() {
    let bed = TestBed::new().await;
    let sent = || slots().without("Ssp-To");
    assert_eq!(bed.expect_refusal(sent(), "to_missing").await.header("link"), None);
    let text = bed.text("spine-proxy.toml");
    let help = format!("[listener]\nhelp-url = \"{HELP}\"\n");
    bed.replace("spine-proxy.toml", &text.replace("[listener]\n", &help));
    bed.server.reload().await.unwrap();
    let link = format!("<{HELP}#to_missing>; rel=\"help\"");
    for sent in [sent(), sent().http2(), sent().set("Accept", "application/fhir+xml")] {
        let answer = bed.expect_refusal(sent, "to_missing").await;
        assert_eq!(answer.header("link"), Some(&*link));
    }
    assert_eq!(
        bed.send(slots()).await.header("link"),
        None,
        "of a provider's answer it says nothing"
    );
    for (url, why) in [
        ("http://ssp.example.nhs.uk/", "the URL does not begin with https:// in lower case"),
        ("https://ssp.example.nhs.uk/a?b", "it must not have a query"),
        ("https://ssp.example.nhs.uk/a#b", "the path holds a character that is not allowed"),
        ("https://ssp.example.nhs.uk/a>b", "the path holds a character that is not allowed"),
        ("", "the URL does not begin with https:// in lower case"),
    ] {
        bed.replace("spine-proxy.toml", &bed.text("spine-proxy.toml").replace(HELP, url));
        let refused = bed.server.reload().await.unwrap_err().to_string();
        assert!(refused.contains("listener.help-url") && refused.contains(why), "{refused}");
        bed.replace("spine-proxy.toml", &text.replace("[listener]\n", &help));
    }
}
