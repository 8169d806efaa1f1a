//! Python: httpx, requests and old tokens.

use super::*;

const ALL: &str = "allowed = [\"appointments\", \"foundations\", \"structured\", \"documents\"]";
const RECORD: &str = "urn:nhs:names:services:gpconnect:fhir:operation:gpc.getstructuredrecord-1";
const BODY_SENT: &str = r#"{"resourceType": "Parameters", "parameter": []}"#;

/// A directory whose structured root ends in a slash, as some of the Spine's do.
fn slashed(text: &str) -> String {
    let root = "gpconnect/structured\"";
    assert!(text.contains(root));
    text.replace(root, "gpconnect/structured/\"")
}

fn xhuma(root: &str, token: &str) -> String {
    let head = head(&format!(
        "POST /{root}/Patient/$gpc.getstructuredrecord HTTP/1.1
         Host: ssp.example.nhs.uk
         Accept-Encoding: gzip, deflate
         Connection: keep-alive
         User-Agent: python-httpx/0.28.1
         Ssp-TraceID: {TRACE}
         Ssp-From: 200000002574
         Ssp-To: 918999198993
         Ssp-InteractionID: {RECORD}
         Authorization: Bearer {token}
         accept: application/fhir+json
         Content-Type: application/fhir+json
         Content-Length: {}",
        BODY_SENT.len()
    ));
    format!("{head}{BODY_SENT}")
}

#[tokio::test(flavor = "multi_thread")]
async fn xhuma_doubles_the_slash_of_a_root_that_has_one() {
    let bed = bed_of(ALL, "", |text| {
        slashed(&text).replace("[\"200000000359\"]", "[\"200000000359\", \"200000002574\"]")
    })
    .await;
    let root = format!("{}/structured/", test_bed::ROOT);
    let name = "Invented, Iris";
    let mut claims = claims_with(&root, PATIENT_READ, json!({"sub": name}));
    claims["requesting_practitioner"]["id"] = name.into();
    let text = xhuma(&root, &token(&claims));
    assert!(text.contains("/structured//Patient/"));
    let asked = format!("POST {BASE}/structured/Patient/$gpc.getstructuredrecord");
    answered(&bed, &text, &asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xhumas_double_slash_is_refused_where_the_registered_root_has_none() {
    let bed = bed_of(ALL, "", |text| {
        text.replace("[\"200000000359\"]", "[\"200000000359\", \"200000002574\"]")
    })
    .await;
    let root = format!("{}/structured/", test_bed::ROOT);
    let text = xhuma(&root, &token(&claims(&root, PATIENT_READ)));
    refused(&bed, &text, "target_not_receivers").await;
}

fn requests(target: &str, interaction: &str, token: &str) -> String {
    let head = head(&format!(
        "POST /{target} HTTP/1.1
         Host: ssp.example.nhs.uk
         User-Agent: python-requests/2.32.3
         Accept-Encoding: gzip, deflate
         accept: application/fhir+json
         Connection: keep-alive
         Ssp-TraceID: {TRACE}
         Ssp-From: 200000000359
         Ssp-To: 918999198993
         Ssp-InteractionID: {interaction}
         Authorization: Bearer {token}
         Content-Type: application/fhir+json
         Content-Length: {}",
        BODY_SENT.len()
    ));
    format!("{head}{BODY_SENT}")
}

/// The documents root of another supplier, which the programme holds as a constant.
const CONSTANT: &str = "https://orange.testlab.nhs.uk/B82617/STU3/1/gpconnect/documents/fhir";

#[tokio::test(flavor = "multi_thread")]
async fn direct_care_api_joins_without_a_slash_and_needs_a_root_that_has_one() {
    let leniences = format!("audience = [\"{CONSTANT}\"]");
    let token = token(&claims(CONSTANT, PATIENT_READ));
    let joined = |root: &str| format!("{root}Patient/$gpc.getstructuredrecord");
    let with = bed_of(ALL, &leniences, |text| slashed(&text)).await;
    let text = requests(&joined(&format!("{}/structured/", test_bed::ROOT)), RECORD, &token);
    let asked = format!("POST {BASE}/structured/Patient/$gpc.getstructuredrecord");
    answered(&with, &text, &asked).await;
    let without = bed_with(ALL, &leniences).await;
    let text = requests(&joined(&format!("{}/structured", test_bed::ROOT)), RECORD, &token);
    refused(&without, &text, "interaction_path").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_care_apis_constant_audience_is_refused_unless_named() {
    let bed = bed_with(ALL, "").await;
    let target = format!("{}/structured/Patient/$gpc.getstructuredrecord", test_bed::ROOT);
    let text = requests(&target, RECORD, &token(&claims(CONSTANT, PATIENT_READ)));
    refused(&bed, &text, "audience_mismatch").await;
}

fn pygpconnect(interaction: &str, authorization: &str) -> String {
    head(&format!(
        "GET /{}/metadata HTTP/1.1
         Host: ssp.example.nhs.uk
         User-Agent: python-requests/2.19.1
         Accept-Encoding: gzip, deflate
         Accept: application/json+fhir
         Connection: keep-alive
         Ssp-TraceID: {TRACE}
         Ssp-From: 200000000359
         Ssp-To: 918999198993
         Ssp-InteractionID: {REST}:{interaction}
         Authorization: {authorization}",
        test_bed::ROOT
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn pygpconnects_interactions_and_tokens_are_refused() {
    let bed = strict().await;
    let record = json!({"requested_record": {"resourceType": "Organization"}});
    let token = token(&claims_with(test_bed::ROOT, ORGANISATION_READ, record));
    let signed = format!("{token}5b3rM7hVf0oE5L2lq2hXnq0mC1u4r2p2v3kX0a1bJ9c");
    let printed = format!("Bearer b'{signed}'");
    for (interaction, authorization, why) in [
        ("read:metadata", format!("Bearer {token}"), "interaction_unknown"),
        ("read:metadata-1", printed, "token_malformed"),
        ("read:metadata-1", format!("Bearer {signed}"), "token_signed"),
    ] {
        refused(&bed, &pygpconnect(interaction, &authorization), why).await;
    }
    let text = pygpconnect("read:metadata-1", &format!("Bearer {token}"));
    answered(&bed, &text, &format!("GET {BASE}/metadata")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pygpconnects_third_part_is_overlooked_in_a_lab() {
    let bed = bed_with("lab = true", "signature = \"ignored\"").await;
    let token = token(&claims(test_bed::ROOT, ORGANISATION_READ));
    let text = pygpconnect("read:metadata-1", &format!("Bearer {token}5b3rM7hVf0oE5L2lq2hXnq0"));
    answered(&bed, &text, &format!("GET {BASE}/metadata")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clinical_data_gateway_spells_one_header_its_own_way_and_one_interaction_wrongly() {
    let bed = bed_with(ALL, "").await;
    let root = format!("{}/structured", test_bed::ROOT);
    let target = format!("{root}/Patient/$gpc.getstructuredrecord");
    let token = token(&claims(&root, PATIENT_READ));
    let spelt = |interaction: &str| {
        requests(&target, interaction, &token)
            .replace("Ssp-InteractionID", "Ssp-InteractionId")
            .replace(": application/fhir+json", ": application/fhir+json; charset=utf-8")
    };
    let asked = format!("POST {BASE}/structured/Patient/$gpc.getstructuredrecord");
    answered(&bed, &spelt(RECORD), &asked).await;
    let wrong = RECORD.replace(":fhir:operation", ":structured:fhir:operation");
    refused(&bed, &spelt(&wrong), "interaction_unknown").await;
}
