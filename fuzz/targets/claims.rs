//! The bearer token. The claims of one that is accepted, read by another parser, keep the rules that
//! docs/integrate/request.md states, whatever else the token holds, and have no second meaning.
//!
//! The first byte chooses the interaction and the second what the rest is: the header's value, the
//! token's second part before its encoding, or members in place of those of a good token.

use std::collections::BTreeMap;

use base64_simd::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use spine_proxy::claims::{self, Audience, CLOCK_AHEAD_MAX, Claims, Signature};
use spine_proxy::refusal::Refusal;
use spine_types::OdsCode;
use spine_types::interaction::{CATALOGUE, Interaction};

const NOW_S: i64 = 1_800_000_000;
const BEARER: &str = "Bearer ";

pub(crate) fn check(data: &[u8]) {
    let [which, kind, rest @ ..] = data else { return };
    let interaction = &CATALOGUE[usize::from(*which) % CATALOGUE.len()];
    let signature = if kind & 4 == 0 { Signature::Refused } else { Signature::Ignored };
    let value = match kind & 3 {
        0 => rest.to_vec(),
        1 => token(rest).into_bytes(),
        _ => token(&otherwise(interaction, rest)).into_bytes(),
    };
    let Ok(value) = HeaderValue::from_bytes(&value) else { return };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value.clone())]);
    let organisation = claims::organisation(&headers);
    let payload = match claims::payload(&headers, signature) {
        Ok(payload) => payload,
        Err(refusal) => return repeats_nothing(&refusal),
    };
    match claims::check(&payload, interaction, NOW_S, CLOCK_AHEAD_MAX) {
        Ok(claims) => {
            assert_eq!(organisation.as_ref(), Some(&claims.organisation));
            keeps_the_rules(value.to_str().unwrap(), &claims, interaction, signature);
        }
        Err(refusal) => repeats_nothing(&refusal),
    }
}

/// The text of a refusal holds no number as long as an NHS number, and ASCII alone, whatever the token held.
fn repeats_nothing(refusal: &Refusal) {
    let text = refusal.explanation();
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
    assert!(text.is_ascii() && digits.is_some_and(|digits| digits < 10), "{text}");
}

fn token(payload: &[u8]) -> String {
    let head = URL_SAFE_NO_PAD.encode_to_string(br#"{"alg":"none","typ":"JWT"}"#);
    format!("{BEARER}{head}.{}.", URL_SAFE_NO_PAD.encode_to_string(payload))
}

/// Good claims, some of them replaced.
fn otherwise(interaction: &Interaction, members: &[u8]) -> Vec<u8> {
    let organisation: OdsCode = "A20047".parse().unwrap();
    let mut claims =
        claims::example_claims("https://p.example", &organisation, interaction.scope, NOW_S);
    if let Ok(Value::Object(members)) = serde_json::from_slice(members) {
        claims.as_object_mut().unwrap().extend(members);
    }
    claims.to_string().into_bytes()
}

/// Members as they were written: another parser, and one that no depth of nesting stops.
type Members<'a> = BTreeMap<String, &'a RawValue>;

fn members(raw: &str) -> Members<'_> {
    serde_json::from_str(raw).expect("an object")
}

fn text(members: &Members<'_>, name: &str) -> String {
    serde_json::from_str(members[name].get()).expect("text")
}

fn keeps_the_rules(
    value: &str,
    claims: &Claims<'_>,
    interaction: &Interaction,
    signature: Signature,
) {
    assert!(value.len() <= 8 * 1024);
    let parts: Vec<&str> = value[BEARER.len()..].trim_start_matches(' ').split('.').collect();
    let [head, payload, tail] = parts.as_slice() else { panic!("{} parts", parts.len()) };
    let decoded =
        |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode_to_vec(part).unwrap()).expect("text");
    if signature == Signature::Refused {
        assert!(tail.is_empty());
        let head = decoded(head);
        let head = members(&head);
        assert_eq!((text(&head, "alg"), text(&head, "typ")), ("none".into(), "JWT".into()));
        assert_eq!(head.len(), 2);
    }
    let payload = decoded(payload);
    let payload = members(&payload);
    for name in payload.keys() {
        let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name));
        assert!(known.is_none_or(|known| known == name), "{name:?}");
    }
    assert_eq!(text(&payload, "iss"), claims.issuer);
    assert!(!claims.issuer.trim().is_empty() && !claims.subject.trim().is_empty());
    let second = |name| serde_json::from_str::<i64>(payload[name].get()).expect("a number");
    let (iat, exp) = (i128::from(second("iat")), i128::from(second("exp")));
    assert_eq!(exp, iat + 300);
    assert!(i128::from(NOW_S) < exp && iat <= i128::from(NOW_S) + 300);
    assert_eq!(text(&payload, "reason_for_request"), claims.reason);
    let migration = claims.reason == "migration" && interaction.migrates();
    assert!(claims.reason == "directcare" || migration, "{:?}", claims.reason);
    assert_eq!(text(&payload, "requested_scope"), claims.scope);
    let marker = claims.scope.strip_prefix(interaction.scope).expect("its scope");
    let conf_r = marker == " conf/R" && interaction.migrates();
    assert!(matches!(marker, "" | " conf/N") || conf_r, "{:?}", claims.scope);
    match &claims.audience {
        Audience::One(one) => {
            assert!(!one.is_empty());
            assert_eq!(text(&payload, "aud"), *one);
        }
        Audience::OneInArray(one) => {
            let many: Vec<String> = serde_json::from_str(payload["aud"].get()).unwrap();
            assert_eq!(many, [one.as_ref()]);
        }
    }
    for (name, kind) in [
        ("requesting_device", "Device"),
        ("requesting_organization", "Organization"),
        ("requesting_practitioner", "Practitioner"),
    ] {
        assert_eq!(text(&members(payload[name].get()), "resourceType"), kind);
    }
    let practitioner = members(payload["requesting_practitioner"].get());
    assert_eq!(text(&practitioner, "id"), claims.subject);
    assert_eq!(text(&payload, "sub"), claims.subject);
    names_one_organisation(payload["requesting_organization"].get(), &claims.organisation);
}

fn names_one_organisation(resource: &str, code: &OdsCode) {
    let organisation = members(resource);
    let identifiers: Vec<Members<'_>> =
        serde_json::from_str(organisation["identifier"].get()).expect("objects");
    // A null names no system.
    let systems = identifiers.iter().filter_map(|identifier| {
        let system = identifier.get("system")?;
        serde_json::from_str::<String>(system.get()).ok()
    });
    let is_ods = |system: &String| system.to_ascii_lowercase().ends_with("/ods-organization-code");
    assert_eq!(systems.filter(is_ods).count(), 1, "one organisation");
    let is_ours = |identifier: &Members<'_>| {
        let value = identifier.get("value").map(|value| value.get());
        let value = value.and_then(|value| serde_json::from_str::<String>(value).ok());
        value.is_some_and(|value| value.eq_ignore_ascii_case(code.as_str()))
    };
    assert!(identifiers.iter().any(is_ours));
}

/// The claims that have a meaning here.
const KNOWN: [&str; 10] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "reason_for_request",
    "requested_scope",
    "requesting_device",
    "requesting_organization",
    "requesting_practitioner",
];
