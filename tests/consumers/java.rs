//! Java: the GPC consumer adaptor, HAPI, the toolkit workbench.

use super::*;

const GPC: &str = "urn:nhs:names:services:gpconnect";
const ALL: &str = "allowed = [\"appointments\", \"foundations\", \"structured\", \"documents\"]";

/// The adaptor relays its caller's headers as they are and adds what is absent.
fn relayed(request: &str, interaction: &str, token: &str, rest: &str) -> String {
    head(&format!(
        "{request} HTTP/1.1
         accept: application/fhir+json
         Ssp-From: 200000000359
         Ssp-InteractionID: {GPC}:{interaction}
         Ssp-TraceID: {TRACE}
         Authorization: Bearer {token}
         {rest}
         Ssp-To: 918999198993
         host: ssp.example.nhs.uk"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpc_consumer_reads_records_and_documents_where_they_are_allowed() {
    let bed = bed_with(ALL, "").await;
    let structured = format!("{}/structured", test_bed::ROOT);
    let body = "{\"resourceType\":\"Parameters\"}";
    let claims_of = |root: &str| token(&claims(root, PATIENT_READ));
    let rest = format!("Content-Type: application/fhir+json\ncontent-length: {}", body.len());
    let head = relayed(
        &format!("POST /{structured}/Patient/$gpc.getstructuredrecord"),
        "fhir:operation:gpc.getstructuredrecord-1",
        &claims_of(&structured),
        &rest,
    );
    let asked = format!("POST {BASE}/structured/Patient/$gpc.getstructuredrecord");
    answered(&bed, &format!("{head}{body}"), &asked).await;
    let documents = format!("{}/documents", test_bed::ROOT);
    for (path, interaction) in [
        ("/Patient?identifier=https://fhir.nhs.uk/Id/nhs-number%7C9690937286", "search:patient-1"),
        (
            "/Patient/2/DocumentReference?_include=DocumentReference%3Asubject%3APatient\
             &_revinclude%3Arecurse=PractitionerRole%3Apractitioner&created=ge2026-01-01",
            "search:documentreference-1",
        ),
        ("/Binary/07a6483f-732b-461e-86b6-edb665c45510", "read:binary-1"),
    ] {
        let request = format!("GET /{documents}{path}");
        let interaction = format!("documents:fhir:rest:{interaction}");
        let text = relayed(&request, &interaction, &claims_of(&documents), "X-Caller: adaptor");
        answered(&bed, &text, &format!("GET {BASE}/documents{path}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpc_consumer_migrates_a_record_where_that_is_allowed() {
    let allowed = "allowed = [\"structured\", \"migrate\"]";
    let bed = bed_of(allowed, "", |text| {
        let id =
            format!("[\"structured\", \"{GPC}:fhir:operation:gpc.migratestructuredrecord-1\"]");
        let text = text.replace("[\"structured\"]", &id);
        text.replace("\"structured\", \"documents\"]", "\"structured\", \"migrate\"]")
    })
    .await;
    let root = format!("{}/structured", test_bed::ROOT);
    let others = json!({
        "reason_for_request": "migration", "requested_scope": "patient/*.read conf/R"
    });
    let body = "{\"resourceType\":\"Parameters\"}";
    let head = relayed(
        &format!("POST /{root}/Patient/$gpc.migratestructuredrecord"),
        "fhir:operation:gpc.migratestructuredrecord-1",
        &token(&claims_with(&root, PATIENT_READ, others)),
        &format!("Content-Type: application/fhir+json\ncontent-length: {}", body.len()),
    );
    let asked = format!("POST {BASE}/structured/Patient/$gpc.migratestructuredrecord");
    answered(&bed, &format!("{head}{body}"), &asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpc_consumers_interactions_are_not_forwarded_unless_allowed() {
    let bed = strict().await;
    let root = format!("{}/documents", test_bed::ROOT);
    let request = format!("GET /{root}/Binary/1");
    let token = token(&claims(&root, PATIENT_READ));
    let text = relayed(&request, "documents:fhir:rest:read:binary-1", &token, "X-Caller: a");
    refused(&bed, &text, "interaction_not_allowed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpc_consumers_test_values_are_refused() {
    let bed = bed_with(ALL, "").await;
    let root = format!("{}/documents", test_bed::ROOT);
    let request = format!("GET /{root}/Binary/1");
    let text = relayed(&request, "documents:fhir:rest:read:binary-1", "anytoken", "X-Caller: a");
    refused(&bed, &text, "token_malformed").await;
    let any = text.replace("Ssp-From: 200000000359", "Ssp-From: any");
    refused(&bed, &any, "from_invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_before_us_cannot_speak_for_the_consumer() {
    let bed = bed_with(ALL, "").await;
    let root = format!("{}/documents", test_bed::ROOT);
    let token = token(&claims(&root, PATIENT_READ));
    let rest = "Forwarded: for=\"10.0.0.1\";host=evil
                X-Forwarded-For: 10.0.0.1
                X-Forwarded-Host: evil
                X-Forwarded-Proto: http
                X-Forwarded-Port: 80";
    let request = format!("GET /{root}/Binary/1");
    let text = relayed(&request, "documents:fhir:rest:read:binary-1", &token, rest);
    answered(&bed, &text, &format!("GET {BASE}/documents/Binary/1")).await;
}

/// HAPI on Apache's client, which collapses the slashes.
fn hapi(path: &str, interactions: &str, token: &str) -> String {
    head(&format!(
        "GET /https:/provider.example.nhs.uk/A20047/STU3/1/gpconnect{path} HTTP/1.1
         Ssp-TraceID: {TRACE}
         Ssp-From: 200000000359
         Ssp-To: 918999198993
         {interactions}
         Authorization: Bearer {token}
         Accept-Charset: utf-8
         Accept: application/fhir+json;q=1.0, application/json+fhir;q=0.9
         User-Agent: HAPI-FHIR/5.3.0 (FHIR Client; FHIR 3.0.2/DSTU3; apache)
         Accept-Encoding: gzip
         Host: ssp.example.nhs.uk
         Connection: Keep-Alive"
    ))
}

const ADAPTOR: &str = "https://demo.gov.uk/gpc-adaptor";

#[tokio::test(flavor = "multi_thread")]
async fn the_gpconnect_adaptor_collapses_the_slashes_and_is_understood() {
    let bed = bed_with("", &format!("audience = [\"{ADAPTOR}\"]")).await;
    let query = "/Slot?start=ge2026-11-23&end=le2026-11-30&status=free&_include=Slot%3Aschedule";
    let interaction = format!("Ssp-InteractionID: {REST}:search:slot-1");
    let text = hapi(query, &interaction, &token(&claims(ADAPTOR, ORGANISATION_READ)));
    answered(&bed, &text, &format!("GET {BASE}{query}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpconnect_adaptor_names_two_interactions_and_is_refused() {
    let bed = bed_with("", &format!("audience = [\"{ADAPTOR}\"]")).await;
    let both = format!(
        "Ssp-InteractionID: {REST}:read:patient-1
         Ssp-InteractionID: {REST}:search:patient_appointments-1"
    );
    let text = hapi("/Patient/2/Appointment", &both, &token(&claims(ADAPTOR, PATIENT_READ)));
    refused(&bed, &text, "interaction_id_repeated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpconnect_adaptor_sends_one_scope_for_everything_and_is_refused_where_it_is_another() {
    let bed = bed_with(ALL, &format!("audience = [\"{ADAPTOR}\"]")).await;
    let token = token(&claims(ADAPTOR, ORGANISATION_READ));
    let search = "/Patient?identifier=https://fhir.nhs.uk/Id/nhs-number%7C9690937286";
    let interaction = format!("Ssp-InteractionID: {REST}:search:patient-1");
    refused(&bed, &hapi(search, &interaction, &token), "scope_mismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gpconnect_adaptors_old_token_has_its_times_as_text_and_is_refused() {
    let bed = bed_with("", "audience = [\"token-url\"]").await;
    let (iat, exp) = (now_s().to_string(), (now_s() + 300).to_string());
    let text_times = json!({"iat": iat, "exp": exp});
    let token = token(&claims_with(TOKEN_URL, ORGANISATION_READ, text_times));
    let interaction = format!("Ssp-InteractionID: {REST}:search:slot-1");
    refused(&bed, &hapi("/Slot?status=free", &interaction, &token), "claim_invalid").await;
}

/// The workbench writes to a socket: a host without a port, framing on every request.
fn workbench(request: &str, interaction: &str, token: &str, framing: &str) -> String {
    head(&format!(
        "{request} HTTP/1.1
         Host: ssp.example.nhs.uk
         Server: NHS Digital ITK Test Platform
         Content-type: application/fhir+json
         {framing}
         Connection: close
         Ssp-TraceID: {TRACE}
         Ssp-From: 200000000359
         Ssp-To: 918999198993
         Ssp-InteractionID: {interaction}
         Authorization: Bearer {token}"
    ))
}

/// Its token's payload is indented; Postman's has CRLF.
fn indented(scope: &str) -> String {
    let claims = claims("https://ssp.example.nhs.uk/", scope);
    token_of(&serde_json::to_string_pretty(&claims).unwrap().replace('\n', "\r\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workbench_frames_its_gets_and_ends_its_side_before_the_answer() {
    let bed = bed_with("", "audience = [\"proxy-base\"]").await;
    let token = indented(ORGANISATION_READ);
    let query = "/Slot?schedule.actor%3Ahealthcareservice=918999198999&start=ge2026-11-23T09:00:00+00:00\
                 &start=le2026-11-30T09:00:00+00:00&status=free";
    let interaction = format!("{REST}:search:slot-1");
    for (framing, body) in [("Content-Length: 0", ""), ("Transfer-Encoding: chunked", "0\r\n\r\n")]
    {
        let request = format!("GET /{}{query}", test_bed::ROOT);
        let text = workbench(&request, &interaction, &token, framing);
        let mut line = connect(&bed).await;
        say(&mut line, &format!("{text}{body}")).await;
        line.stream.shutdown().await.unwrap();
        let mut answer = read_answer(&mut line).await.expect("an answer after the half-close");
        let close = answer.headers.iter().position(|(name, _)| name == "connection");
        let (_, close) = answer.headers.remove(close.expect("the end is announced"));
        assert_eq!(close, "close");
        is_the_providers(&answer);
        assert!(!line.read_more().await, "and then the connection ends");
        reached(&bed, &text, &format!("GET {BASE}{query}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workbench_counts_characters_and_the_provider_gets_what_was_counted() {
    let bed = bed_with("", "audience = [\"proxy-base\"]").await;
    let body = "{\"description\":\"Zo\u{eb}\"}";
    let counted = body.chars().count();
    let request = format!("POST /{}/Appointment", test_bed::ROOT);
    let framing = format!("Content-Length: {counted}");
    let interaction = format!("{REST}:create:appointment-1");
    let text = workbench(&request, &interaction, &indented(PATIENT_WRITE), &framing);
    let answer = ask(&bed, &format!("{text}{body}")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, BODY));
    let received = bed.provider.received();
    assert_eq!(received.len(), 1, "the byte too many is no request");
    assert_eq!(received[0].body, &body.as_bytes()[..counted]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workbench_names_no_provider_or_an_address_and_is_refused() {
    let bed = bed_with("", "audience = [\"proxy-base\"]").await;
    let token = indented(ORGANISATION_READ);
    let interaction = format!("{REST}:search:slot-1");
    for request in [
        "GET /Slot?schedule.actor%3Ahealthcareservice=1&start=ge2026-11-23&start=le2026-11-30",
        "PUT /Appointment",
        "GET /https://127.0.0.1:4433/A20047/STU3/1/gpconnect/Slot",
    ] {
        let text = workbench(request, &interaction, &token, "Content-Length: 0");
        let answer = refused(&bed, &text, "target_malformed").await;
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_urgent_care_profiles_own_ids_scopes_and_audience_are_refused() {
    let bed = strict().await;
    let request = format!("GET /{}/Slot?status=free", test_bed::ROOT);
    let foreign = "urn:nhs:names:services:careconnect:fhir:rest:search:slot";
    let ours = format!("{REST}:search:slot-1");
    let nowhere = token(&claims("notanendpoint", ORGANISATION_READ));
    for (interaction, token, why) in [
        (foreign, indented(ORGANISATION_READ), "interaction_unknown"),
        (&ours, indented("organization/slot.read"), "scope_mismatch"),
        (&ours, nowhere, "audience_mismatch"),
    ] {
        let text = workbench(&request, interaction, &token, "Content-Length: 0");
        refused(&bed, &text, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workbenchs_proxy_scripts_write_the_whole_url_into_the_request_line() {
    let bed = bed_with("", "audience = [\"proxy-base\"]").await;
    let token = indented(ORGANISATION_READ);
    let request = format!("GET https://ssp.example.nhs.uk/{}/Slot?status=free", test_bed::ROOT);
    let text = workbench(&request, &format!("{REST}:search:slot-1"), &token, "Content-Length: 0");
    let answer = ask(&bed, &text).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, BODY));
    reached(&bed, &text, &format!("GET {BASE}/Slot?status=free"));
}
