//! SSP and Security: who may connect, and how. The suite plays the consumer in the one and the
//! proxy in the other; whoever stands in front of the client has to answer alike.

use rustls::CipherSuite;

use super::case::{
    Case, Feature, Given, Row, bad_request, case, ok, one, refused, row, status, turned_away,
};
use super::request::{Hello, Request, ask};
use super::rig::Scene;

pub(super) const SSP: Feature = Feature { name: "SSP", scenarios: 13, cases: 36, list: ssp };
pub(super) const SECURITY: Feature =
    Feature { name: "Security", scenarios: 11, cases: 18, list: security };

/// Curl's names for what a client of ours can offer.
const SUITES: [(&str, CipherSuite); 2] = [
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
];
/// No suite has this number: curl does not even know the name.
const NONE: u16 = 0xabcd;
const NULL_MD5: u16 = 0x0001;
const AES128_SHA256: u16 = 0x003c;
const REDIRECTS: &[u16] = &[301, 302, 307, 308];
const BAD_CERTIFICATE: &[u16] = &[495, 496];

fn metadata(_: &Scene) -> Request {
    ask("rest:read:metadata-1", "/metadata")
}

fn hello(name: &'static str, hello: Hello) -> Row {
    let request = move |scene: &Scene| metadata(scene).hello(hello);
    match hello {
        Hello::Plain => row(name, Given::Nothing, request, turned_away(REDIRECTS)),
        Hello::Bare(_) => row(name, Given::Nothing, request, turned_away(&[])),
        Hello::Usual | Hello::Suite(_) => {
            row(name, Given::Nothing, request, ok().kind("CapabilityStatement"))
        }
    }
}

fn certificate(name: &'static str) -> Row {
    let request = move |scene: &Scene| metadata(scene).certificate(name);
    let expect = if name == "none" { status(&[496]) } else { turned_away(BAD_CERTIFICATE) };
    row(name, Given::Nothing, request, expect)
}

/// Refused by the proxy at the level of HTTP, so that the consumer can read why.
fn said(row: Row, status_and_token: (&'static [u16], &'static str)) -> Row {
    let (statuses, token) = status_and_token;
    let why = "the proxy finishes the handshake and says what is wrong with the certificate";
    row.proxied(status(statuses).token(token), why)
}

/// The beginning and end that both features have, but for their names.
struct Names {
    plain: &'static str,
    valid: &'static str,
    unlike: [&'static str; 5],
    cipher: &'static str,
    nonexistent: &'static str,
    insecure: &'static str,
    secure: &'static str,
}

const CERTIFICATES: [(&str, (&[u16], &str)); 5] = [
    ("stranger", (&[495], "certificate_unknown")),
    ("foreign", (&[495], "certificate_invalid")),
    ("revoked", (&[495], "certificate_revoked")),
    ("expired", (&[495], "certificate_expired")),
    ("none", (&[496], "certificate_missing")),
];

fn common(names: &Names) -> Vec<Case> {
    let suites = SUITES.map(|(name, suite)| hello(name, Hello::Suite(suite)));
    let mut cases = vec![
        one(names.plain, hello("http", Hello::Plain)),
        one(names.valid, hello("hub", Hello::Usual)),
    ];
    let unlike = names.unlike.into_iter().zip(CERTIFICATES);
    cases.extend(
        unlike.map(|(scenario, (name, told))| one(scenario, said(certificate(name), told))),
    );
    cases.extend([
        case(names.cipher, suites.into()).but_not(6),
        one(names.nonexistent, hello("ABC-DEF", Hello::Bare(NONE))),
        one(names.insecure, hello("NULL-MD5", Hello::Bare(NULL_MD5))),
        one(names.secure, hello("AES128-SHA256", Hello::Bare(AES128_SHA256))),
    ]);
    cases
}

fn ssp() -> Vec<Case> {
    let mut cases = common(&Names {
        plain: "SSP - Non-SSL to SSL",
        valid: "SSP - Consumer Client Certificate - Valid",
        unlike: [
            "SSP - Consumer Client Certificate - Invalid - FQDN",
            "SSP - Consumer Client Certificate - Invalid - Authority",
            "SSP - Consumer Client Certificate - Invalid - Revoked",
            "SSP - Consumer Client Certificate - Invalid - Expired",
            "SSP - Consumer Client Certificate - Invalid - Missing",
        ],
        cipher: "SSP - Connect with valid Cipher",
        nonexistent: "SSP - Connect with invalid nonexistent Cipher",
        insecure: "SSP - Connect with invalid insecure Cipher",
        secure: "SSP - Connect with invalid secure Cipher",
    });
    let nobody = |scene: &Scene| metadata(scene).set("ssp-to", "123456789123");
    cases.extend([
        case("SSP - CORS", Vec::new()).but_not(17),
        one(
            "SSP - To ASID - Invalid",
            row("123456789123", Given::Nothing, nobody, bad_request())
                .proxied(refused("receiver_unknown"), "the proxy looks the receiver up"),
        ),
    ]);
    cases
}

fn security() -> Vec<Case> {
    let mut cases = common(&Names {
        plain: "Security - Non-SSL to SSL",
        valid: "Security - SSP Client Certificate - Valid",
        unlike: [
            "Security - SSP Client Certificate - Invalid - FQDN",
            "Security - SSP Client Certificate - Invalid - Authority",
            "Security - SSP Client Certificate - Invalid - Revoked",
            "Security - SSP Client Certificate - Invalid - Expired",
            "Security - SSP Client Certificate - Invalid - Missing",
        ],
        cipher: "Security - Connect with valid Cipher",
        nonexistent: "Security - Connect with invalid nonexistent Cipher",
        insecure: "Security - Connect with invalid insecure Cipher",
        secure: "Security - Connect with invalid secure Cipher",
    });
    // The suite has Expired before FQDN here.
    let expired = cases.remove(5);
    cases.insert(2, expired);
    cases
}
