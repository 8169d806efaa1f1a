//! .NET: the Automated Test Suite, the appointment checker, the NRL reference implementation.

use super::*;

/// The suite's claims in the suite's order; the audience and scope vary.
fn suite_token(audience: &str, scope: &str) -> String {
    let iat = now_s() - 2;
    let exp = iat + 300;
    token_of(&format!(
        r#"{{"iss":"https://ConsumerSystemURL","sub":"1","aud":"{audience}","exp":{exp},"iat":{iat},"reason_for_request":"directcare","requesting_device":{{"resourceType":"Device","id":"1","identifier":[{{"system":"Web Interface","value":"GP Connect Demonstrator"}}],"model":"v1","version":"1.1"}},"requesting_organization":{{"resourceType":"Organization","id":"1","identifier":[{{"system":"https://fhir.nhs.uk/Id/ods-organization-code","value":"GPCA0001"}}],"name":"GP Connect Assurance"}},"requesting_practitioner":{{"resourceType":"Practitioner","id":"1","name":[{{"family":"Demonstrator","given":["GPConnect"],"prefix":["Mr"]}}],"identifier":[{{"system":"https://fhir.nhs.uk/Id/sds-user-id","value":"GCASDS0001"}},{{"system":"https://fhir.nhs.uk/Id/sds-role-profile-id","value":"112233445566"}},{{"system":"https://consumersupplier.com/Id/user-guid","value":"98ed4f78-814d-4266-8d5b-cde742f3093c"}}]}},"requested_scope":"{scope}"}}"#
    ))
}

const SUITE: &str = "audience = [\"token-url\"]\nerrors = \"gpconnect\"";

async fn suite_bed() -> TestBed {
    let organisation = "ods = \"A00001\"\non-behalf-of = [\"GPCA0001\"]";
    bed_of("lab = true", SUITE, |text| text.replace("ods = \"A00001\"", organisation)).await
}

/// The suite's headers in the suite's order; `rest` is what follows `Authorization`.
fn suite(request: &str, to: &str, interaction: &str, token: &str, rest: &str) -> String {
    head(&format!(
        "{request} HTTP/1.1
         Ssp-TraceID: {TRACE}
         Ssp-From: 200000000359
         Ssp-To: {to}
         Accept: application/fhir+json
         Ssp-InteractionId: {REST}:{interaction}
         Authorization: Bearer {token}
         {rest}
         Connection: Keep-Alive"
    ))
}

const SUITE_SLOTS: &str = "/Slot?start=ge2026-11-23T00%3A00%3A00%2B00%3A00&end=le2026-11-30T00%3A00%3A00%2B00%3A00\
     &status=free&_include=Slot%3Aschedule&_include%3Arecurse=Schedule%3Aactor%3APractitioner\
     &searchFilter=https%3A%2F%2Ffhir.nhs.uk%2FId%2Fods-organization-code%7CGPCA0001";

#[tokio::test(flavor = "multi_thread")]
async fn the_test_suite_searches_for_slots_with_the_token_url_as_audience() {
    let bed = suite_bed().await;
    for audience in [TOKEN_URL, "https://authorize.fhir.nhs.net/token/"] {
        let token = suite_token(audience, ORGANISATION_READ);
        let request = format!("GET /{}{SUITE_SLOTS}", test_bed::ROOT);
        let text =
            suite(&request, test_bed::TO, "search:slot-1", &token, "Host: ssp.example.nhs.uk");
        let received = answered(&bed, &text, &format!("GET {BASE}{SUITE_SLOTS}")).await;
        assert!(received.headers.iter().any(|(name, _)| name == "Ssp-InteractionId"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_suite_repeats_a_request_with_the_same_trace_id_and_token() {
    let bed = suite_bed().await;
    let token = suite_token(TOKEN_URL, ORGANISATION_READ);
    let request = format!("GET /{}/metadata", test_bed::ROOT);
    let text = suite(&request, test_bed::TO, "read:metadata-1", &token, "Host: ssp.example.nhs.uk");
    for _ in 0..2 {
        answered(&bed, &text, &format!("GET {BASE}/metadata")).await;
    }
    assert_eq!(bed.provider.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_suite_books_once_it_has_been_told_to_continue() {
    let bed = suite_bed().await;
    let token = suite_token(TOKEN_URL, PATIENT_WRITE);
    let body = r#"{"resourceType":"Appointment"}"#;
    let rest = format!(
        "Prefer: return=representation
         Content-Type: application/fhir+json; charset=utf-8
         Host: ssp.example.nhs.uk
         Content-Length: {}
         Expect: 100-continue",
        body.len()
    );
    let request = format!("POST /{}/Appointment", test_bed::ROOT);
    let text = suite(&request, test_bed::TO, "create:appointment-1", &token, &rest);
    let mut line = connect(&bed).await;
    say(&mut line, &text).await;
    let word = line.head().await.unwrap();
    assert_eq!(word.start, "HTTP/1.1 100 Continue");
    assert!(word.headers.is_empty());
    say(&mut line, body).await;
    is_the_providers(&read_answer(&mut line).await.unwrap());
    reached(&bed, &format!("{text}{body}"), &format!("POST {BASE}/Appointment"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_suite_is_told_of_other_methods_in_its_own_family() {
    let bed = suite_bed().await;
    let token = suite_token(TOKEN_URL, ORGANISATION_READ);
    for method in ["OPTIONS", "DELETE", "PATCH"] {
        let request = format!("{method} /{}/metadata", test_bed::ROOT);
        let rest = "Host: ssp.example.nhs.uk\nContent-Length: 0";
        let text = suite(&request, test_bed::TO, "read:metadata-1", &token, rest);
        let answer = refused(&bed, &text, "method_not_allowed").await;
        passes_the_suites_check(&answer);
        assert_eq!(answer.header("allow"), None, "the suite dies on a header of several values");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_suites_negative_scenarios_get_outcomes_it_can_read() {
    let bed = suite_bed().await;
    let host = "Host: ssp.example.nhs.uk";
    let token = suite_token(TOKEN_URL, ORGANISATION_READ);
    let metadata = format!("GET /{}/metadata", test_bed::ROOT);
    let good = suite(&metadata, test_bed::TO, "read:metadata-1", &token, host);
    let without = |name: &str| {
        let keeps = |line: &&str| !line.starts_with(name);
        good.split_inclusive("\r\n").filter(keeps).collect::<String>()
    };
    let trailing = suite(&metadata, test_bed::TO, "search:organization-1 ", &token, host);
    let stranger = suite(&metadata, "123456789123", "read:metadata-1", &token, host);
    let followed = suite("GET /Practitioner/1", test_bed::TO, "read:metadata-1", &token, host);
    let plain = "GET /http://provider.example.nhs.uk:80/A20047/STU3/1/gpconnect/metadata";
    let plain = suite(plain, test_bed::TO, "read:metadata-1", &token, host);
    for (text, token) in [
        (without("Ssp-TraceID"), "trace_id_missing"),
        (without("Ssp-From"), "from_missing"),
        (without("Ssp-To"), "to_missing"),
        (without("Ssp-InteractionId"), "interaction_id_missing"),
        // .NET drops an unencoded token: no header is left.
        (without("Authorization"), "token_missing"),
        (trailing, "interaction_path"),
        (stranger, "receiver_unknown"),
        (followed, "target_malformed"),
        (plain, "target_malformed"),
    ] {
        passes_the_suites_check(&refused(&bed, &text, token).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_suite_is_refused_by_a_proxy_that_makes_no_allowance_for_it() {
    let bed = bed_of("", "", |text| {
        text.replace("ods = \"A00001\"", "ods = \"A00001\"\non-behalf-of = [\"GPCA0001\"]")
    })
    .await;
    let token = suite_token(TOKEN_URL, ORGANISATION_READ);
    let request = format!("GET /{}/metadata", test_bed::ROOT);
    let text = suite(&request, test_bed::TO, "read:metadata-1", &token, "Host: ssp.example.nhs.uk");
    refused(&bed, &text, "audience_mismatch").await;
}

/// The suite's step "the response should be a `OperationOutcome` resource".
fn passes_the_suites_check(answer: &Answer) {
    let json = answer.json();
    assert!(json["meta"]["profile"][0].is_string(), "{json}");
    for issue in json["issue"].as_array().unwrap() {
        assert_eq!(issue["severity"], "error");
        assert!(issue["code"].is_string());
        let coding = issue["details"]["coding"].as_array().unwrap();
        assert_eq!(coding.len(), 1);
        assert!(coding[0]["code"].is_string() && coding[0]["display"].is_string());
    }
}

fn checker(path: &str, interaction: &str, token: &str) -> String {
    head(&format!(
        "GET /{}{path} HTTP/1.1
         Host: ssp.example.nhs.uk
         Accept: application/fhir+json
         Cache-Control: no-cache
         Ssp-From: 200000000359
         Ssp-To: 918999198993
         Ssp-InteractionID: {REST}:{interaction}
         Ssp-TraceID: {TRACE}
         Authorization: Bearer {token}
         Accept-Encoding: gzip, deflate
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        test_bed::ROOT
    ))
}

fn checker_token(audience: &str) -> String {
    const USER: &str = "0f1c7f3e-0f5b-4a57-9d13-1f4a3b6a2f55";
    token(&claims_with(
        audience,
        ORGANISATION_READ,
        json!({
            "iss": "https://appointmentchecker.example.nhs.uk",
            "sub": USER,
            "requesting_practitioner": {
                "resourceType": "Practitioner",
                "id": USER,
                "identifier": [
                    {"system": "https://fhir.nhs.uk/Id/sds-user-id", "value": "UNK"},
                    {"system": "https://fhir.nhs.uk/Id/sds-role-profile-id", "value": "UNK"},
                    {"system": "https://fhir.nhs.uk/Id/email-address", "value": "iris@example.nhs.uk"},
                    {"system": "https://fhir.nhs.uk/Id/nhsmail-sid", "value": "S-1-5-21-0"}
                ],
                "name": [{"family": "Invented", "given": ["Iris"]}]
            }
        }),
    ))
}

const CHECKER_SLOTS: &str = "status=free&_include=Slot%3aschedule\
     &_include%3Arecurse=Schedule%3aactor%3aPractitioner&_include%3Arecurse=Schedule%3aactor%3aLocation\
     &_include%3Arecurse=Location%3amanagingOrganization&start=ge2026-11-23&end=le2026-11-30\
     &searchFilter=https%3a%2f%2ffhir.nhs.uk%2fId%2fods-organization-code%7cA20047\
     &searchFilter=https%3a%2f%2ffhir.nhs.uk%2fSTU3%2fCodeSystem%2fGPConnect-OrganisationType-1%7cgp-practice";

#[tokio::test(flavor = "multi_thread")]
async fn the_appointment_checker_asks_for_metadata_and_slots_on_one_connection() {
    let bed = strict().await;
    let mut line = connect(&bed).await;
    let token = checker_token(test_bed::ROOT);
    let text = checker("/metadata", "read:metadata-1", &token);
    say(&mut line, &text).await;
    is_the_providers(&read_answer(&mut line).await.unwrap());
    reached(&bed, &text, &format!("GET {BASE}/metadata"));
    // .NET 9 encodes the key twice; the old sibling adds a filter without a code.
    let later = CHECKER_SLOTS.replace("_include%3Arecurse", "_include%253arecurse");
    let sibling = CHECKER_SLOTS.replace("%7cA20047", "%7c");
    for query in [CHECKER_SLOTS, &later, &sibling] {
        let text = checker(&format!("/Slot?{query}"), "search:slot-1", &token);
        say(&mut line, &text).await;
        is_the_providers(&read_answer(&mut line).await.unwrap());
        reached(&bed, &text, &format!("GET {BASE}/Slot?{query}"));
    }
    assert_eq!(bed.provider.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_appointment_checker_keeps_its_connection_after_a_refusal_and_can_show_it() {
    let bed = strict().await;
    let mut line = connect(&bed).await;
    let wrong = checker("/metadata", "read:metadata-1", &checker_token(TOKEN_URL));
    // Three tries with the same headers, then another practice.
    for _ in 0..3 {
        say(&mut line, &wrong).await;
        let answer = read_answer(&mut line).await.unwrap();
        assert_eq!(answer.token(), Some("audience_mismatch"));
        assert!(answer.json()["issue"][0]["details"]["coding"][0]["display"].is_string());
    }
    say(&mut line, &checker("/metadata", "read:metadata-1", &checker_token(test_bed::ROOT))).await;
    is_the_providers(&read_answer(&mut line).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_appointment_checkers_old_page_names_an_interaction_without_a_version() {
    let bed = bed_with("", "audience = [\"token-url\"]").await;
    let token = token(&claims(TOKEN_URL, ORGANISATION_READ));
    let text = checker("/metadata", "read:metadata", &token)
        .replace("Accept: application/fhir+json", "Accept: application/json+fhir");
    let answer = refused(&bed, &text, "interaction_unknown").await;
    assert_eq!(answer.header("content-type"), Some("application/fhir+json;charset=utf-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nrl_implementation_encodes_the_whole_url_and_is_refused() {
    let bed = bed_with("", "audience = [\"proxy-base\"]").await;
    let token = token(&claims("https://ssp.example.nhs.uk", PATIENT_READ));
    for target in [
        "/nrls-ri/SSP/http%3A%2F%2Flocalhost%3A55448%2Fprovider%2FA20047%2FSlot",
        "/https%3A%2F%2Fprovider.example.nhs.uk%2FA20047%2FSTU3%2F1%2Fgpconnect%2FSlot",
        "/p1.nhs.uk/X.pdf",
    ] {
        let text = head(&format!(
            "GET {target} HTTP/1.1
             Accept: application/pdf
             Authorization: Bearer {token}
             Ssp-From: 200000000359
             Ssp-To: 918999198993
             Ssp-InteractionID: urn:nhs:names:services:nrl:DocumentReference.content.read
             Ssp-TraceID: {TRACE}
             Host: ssp.example.nhs.uk"
        ));
        refused(&bed, &text, "target_malformed").await;
    }
}
