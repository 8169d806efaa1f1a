//! JavaScript: the demonstrator's web application, axios, Node's fetch; and odd audiences.

use super::*;

/// The demonstrator's headers, as a browser sends them.
fn browser(request: &str, interaction: &str, token: &str, rest: &str) -> String {
    head(&format!(
        "{request} HTTP/1.1
         Host: ssp.example.nhs.uk
         Connection: keep-alive
         Accept: application/fhir+json
         Authorization: Bearer {token}
         Ssp-From: 200000000359
         Ssp-InteractionID: {REST}:{interaction}
         Ssp-To: 918999198993
         Ssp-TraceID: {TRACE}
         User-Agent: Mozilla/5.0 (X11; Linux x86_64)
         Accept-Encoding: gzip, deflate, br
         Accept-Language: en-GB,en;q=0.9
         {rest}"
    ))
}

const LEGACY_AUDIENCE: &str = "audience = [\"token-url\"]";

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstrators_page_searches_books_amends_and_cancels() {
    let bed = bed_with("", LEGACY_AUDIENCE).await;
    let query = "/Slot?start=ge2026-11-23T00:00:00%2B00:00&end=le2026-11-30T00:00:00%2B00:00\
         &status=free&_include=Slot:schedule&_include:recurse=Schedule:actor:Practitioner\
         &_include:recurse=Schedule:actor:Location\
         &searchFilter=https://fhir.nhs.uk/STU3/CodeSystem/GPConnect-OrganisationType-1%7Curgent-care\
         &searchFilter=https://fhir.nhs.uk/Id/ods-organization-code%7CA20047";
    let of = |scope: &str| token(&claims(TOKEN_URL, scope));
    let referer = "Referer: https://demonstrator.example.nhs.uk/";
    let request = format!("GET /{}{query}", test_bed::ROOT);
    let text = browser(&request, "search:slot-1", &of(ORGANISATION_READ), referer);
    answered(&bed, &text, &format!("GET {BASE}{query}")).await;
    let body = r#"{"resourceType":"Appointment"}"#;
    for (method, path, interaction) in [
        ("POST", "/Appointment", "create:appointment-1"),
        ("PUT", "/Appointment/9", "update:appointment-1"),
        ("PUT", "/Appointment/9", "cancel:appointment-1"),
    ] {
        let rest = format!(
            "Prefer: return=representation
             If-Match: W/\"1\"
             Content-Type: application/fhir+json
             Content-Length: {}",
            body.len()
        );
        let request = format!("{method} /{}{path}", test_bed::ROOT);
        let head = browser(&request, interaction, &of(PATIENT_WRITE), &rest);
        answered(&bed, &format!("{head}{body}"), &format!("{method} {BASE}{path}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstrators_preflight_gets_the_405() {
    let bed = bed_with("", LEGACY_AUDIENCE).await;
    let text = head(&format!(
        "OPTIONS /{}/Slot?status=free HTTP/1.1
         Host: ssp.example.nhs.uk
         Connection: keep-alive
         Accept: */*
         Access-Control-Request-Method: GET
         Access-Control-Request-Headers: authorization,ssp-from,ssp-interactionid,ssp-to,ssp-traceid
         Origin: https://demonstrator.example.nhs.uk
         Sec-Fetch-Mode: cors",
        test_bed::ROOT
    ));
    refused(&bed, &text, "method_not_allowed").await;
    // A browser shows no certificate with a preflight.
    let mut line =
        RawConnection::new(TestRequest::slots().certificate("none").connect(&bed).await.unwrap());
    say(&mut line, &text).await;
    let answer = read_answer(&mut line).await.unwrap();
    assert_eq!((answer.status, answer.token()), (496, Some("certificate_missing")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstrators_placeholder_for_an_organisation_is_refused() {
    let bed = bed_with("", LEGACY_AUDIENCE).await;
    let mut claims = claims(TOKEN_URL, ORGANISATION_READ);
    claims["requesting_organization"]["identifier"][0]["value"] = "[ODSCode]".into();
    let request = format!("GET /{}/Slot?status=free", test_bed::ROOT);
    let text = browser(&request, "search:slot-1", &token(&claims), "DNT: 1");
    refused(&bed, &text, "claim_invalid").await;
}

fn axios(request: &str, interaction: &str, token: &str) -> String {
    head(&format!(
        "{request} HTTP/1.1
         Accept: application/fhir+json
         Ssp-TraceID: {TRACE}
         Ssp-From: 200000000359
         Ssp-To: 918999198993
         Ssp-InteractionID: {REST}:{interaction}
         Authorization: Bearer {token}
         User-Agent: axios/1.7.9
         Accept-Encoding: gzip, compress, deflate, br
         Host: ssp.example.nhs.uk
         Connection: keep-alive"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn axios_writes_arrays_with_brackets_and_they_reach_the_provider() {
    let bed = strict().await;
    let token = token(&claims(test_bed::ROOT, ORGANISATION_READ));
    for query in [
        "/Slot?status=free&_include%5B%5D=Slot:schedule&_include%5B%5D=Schedule:actor&start=ge2026-11-23T09:00:00%2B00:00",
        "/Slot?status=free&_include[]=Slot:schedule&_include[]=Schedule:actor&searchFilter=https:%2F%2Ffhir.nhs.uk%2FId%2Fods-organization-code%7CA20047",
    ] {
        let text = axios(&format!("GET /{}{query}", test_bed::ROOT), "search:slot-1", &token);
        answered(&bed, &text, &format!("GET {BASE}{query}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn axios_with_an_opaque_or_signed_token_is_refused() {
    let bed = strict().await;
    let request = format!("GET /{}/Slot?status=free", test_bed::ROOT);
    let payload = claims(test_bed::ROOT, ORGANISATION_READ).to_string();
    let head = URL_SAFE_NO_PAD.encode_to_string(br#"{"alg":"RS512","typ":"JWT","kid":"test-1"}"#);
    let signed = format!("{head}.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode_to_string(payload));
    for (token, why) in
        [("demo-jwt-token-1764000000000", "token_malformed"), (&signed, "token_signed")]
    {
        refused(&bed, &axios(&request, "search:slot-1", token), why).await;
    }
    let lab = bed_with("lab = true", "signature = \"ignored\"").await;
    let text = axios(&request, "search:slot-1", &signed);
    answered(&lab, &text, &format!("GET {BASE}/Slot?status=free")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_fetch_writes_names_in_lower_case_and_pipes_as_they_are() {
    let bed = strict().await;
    let token = token(&claims(test_bed::ROOT, ORGANISATION_READ));
    let query = "/Slot?status=free&_include:recurse=Schedule:actor:Location\
                 &searchFilter=https://fhir.nhs.uk/Id/ods-organization-code|A20047&start=ge2026-11-23T09:00:00+00:00!$";
    let text = head(&format!(
        "GET /{}{query} HTTP/1.1
         host: ssp.example.nhs.uk
         connection: keep-alive
         accept: {FHIR}
         authorization: Bearer {token}
         ssp-from: 200000000359
         ssp-interactionid: {REST}:search:slot-1
         ssp-to: 918999198993
         ssp-traceid: {TRACE}
         accept-language: *
         sec-fetch-mode: cors
         user-agent: node
         accept-encoding: gzip, deflate",
        test_bed::ROOT
    ));
    answered(&bed, &text, &format!("GET {BASE}{query}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_is_accepted_only_from_a_consumer_that_may_use_it() {
    let path = "/Patient/9/Appointment";
    let query = "?start=ge2026-11-23&start=le2026-11-30";
    let request_url = format!("{}{path}", test_bed::ROOT);
    let proxied = format!("https://ssp.example.nhs.uk/{}", test_bed::ROOT);
    let through_proxy = format!("https://ssp.example.nhs.uk/{request_url}");
    let slashed = format!("{}/", test_bed::ROOT);
    for (word, audience, issuer) in [
        ("request-url", request_url.as_str(), "https://consumer.example.nhs.uk/"),
        ("proxy-and-request-url", &through_proxy, "https://migrator.example.org/"),
        // Its issuer is its ASID.
        ("proxy-and-root", &proxied, "200000000359"),
        ("proxy-base", "https://ssp.example.nhs.uk/", "https://consumer.example.nhs.uk/"),
        ("trailing-slash", &slashed, "https://consumer.example.nhs.uk/"),
    ] {
        let token = token(&claims_with(audience, PATIENT_READ, json!({"iss": issuer})));
        let request = format!("GET /{}{path}{query}", test_bed::ROOT);
        let text = axios(&request, "search:patient_appointments-1", &token);
        let lenient = bed_with("", &format!("audience = [\"{word}\"]")).await;
        answered(&lenient, &text, &format!("GET {BASE}{path}{query}")).await;
        refused(&strict().await, &text, "audience_mismatch").await;
    }
}
