//! Interpretation of a source's answers: a practice, an absence, or no answer.

use std::time::Duration;

use gpconnect_simulator::sds::{Records, SdsFault};
use spine_proxy::refusal::Refusal;

use super::{HOUR, ROOT, SHORT, practice};
use testkit::sds::{BOOK, KEY, READ, Registry, SLOTS};

#[tokio::test(flavor = "multi_thread")]
async fn three_queries_fill_a_practice() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198993");
    assert_eq!(found.root.as_str(), ROOT);
    registry.wait_until_idle(&directory).await;
    for id in [BOOK, READ, SLOTS] {
        registry.look_up(&directory, "A20047", id).await.unwrap();
    }
    let asked = registry.sds.received();
    let organisation = "organization=https://fhir.nhs.uk/Id/ods-organization-code%7CA20047";
    let interaction =
        format!("&identifier=https://fhir.nhs.uk/Id/nhsServiceInteractionId%7C{SLOTS}");
    let key = "&identifier=https://fhir.nhs.uk/Id/nhsMhsPartyKey%7CA20047-1000001";
    let seen: Vec<_> = asked.iter().map(|one| format!("{}?{}", one.path, one.query)).collect();
    assert_eq!(
        seen,
        [
            format!("/Endpoint?{organisation}{interaction}"),
            format!("/Device?{organisation}{interaction}{key}"),
            format!("/Endpoint?{organisation}{key}"),
        ]
    );
    for one in &asked {
        assert_eq!(one.headers["accept"], "application/fhir+json");
        assert_eq!(one.headers["apikey"], KEY);
        assert!(!one.headers.contains_key("cache-control"));
        assert_eq!(one.headers["x-correlation-id"], asked[0].headers["x-correlation-id"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_is_cached_after_two_quick_empty_answers() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    for _ in 0..3 {
        let refused = registry.look_up(&directory, "B00001", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown);
    }
    let asked = registry.sds.received();
    assert_eq!(asked.len(), 2, "the absence is cached");
    assert_eq!(asked[1].headers["cache-control"], "no-cache");
    registry.set_clock_ahead_s(61);
    registry.look_up(&directory, "B00001", SLOTS).await.unwrap_err();
    assert_eq!(registry.query_count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_from_a_stale_cache_is_checked_by_a_fresh_query() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.sds.set(None, SdsFault::EmptyUnlessFresh);
    let found = registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), ROOT);
    assert!(registry.metric("directory_suspect_empties_total") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_empty_answer_is_not_an_absence() {
    let patience = r#"deadlines = { attempt = "5s", waiting = "10s" }"#;
    let registry = Registry::new(practice(), patience).await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.sds.set(None, SdsFault::EmptyAfter(Duration::from_millis(2550)));
    registry.set_clock_ahead_s(2 * HOUR);
    let (held, unseen) = tokio::join!(
        registry.look_up(&directory, "A20047", SLOTS),
        registry.look_up(&directory, "B82617", SLOTS)
    );
    assert_eq!(held.unwrap().root.as_str(), ROOT, "a cached entry is served");
    assert_eq!(unseen.unwrap_err(), Refusal::DirectoryUnavailable);
    let refused = registry.look_up(&directory, "B82617", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert_eq!(registry.query_count(), 3 + 2 + 2, "and no query is repeated at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_source_is_not_an_absence() {
    for trouble in [
        SdsFault::TooManyRequests(None),
        SdsFault::TooManyRequests(Some(2)),
        SdsFault::Status(500),
        SdsFault::Status(503),
        SdsFault::Status(401),
        SdsFault::Status(400),
        SdsFault::Status(404),
        SdsFault::NoResponse,
        SdsFault::Cut,
        SdsFault::SlowBody(Duration::from_millis(20)),
        SdsFault::Body("no JSON".to_owned()),
        SdsFault::Body(r#"{"resourceType":"OperationOutcome"}"#.to_owned()),
        SdsFault::Body(r#"{"resourceType":"Bundle","total":2,"entry":[]}"#.to_owned()),
        SdsFault::Body(
            r#"{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient"}}]}"#
                .to_owned(),
        ),
    ] {
        let registry = Registry::new(practice(), SHORT).await;
        let directory = registry.directory("");
        registry.sds.set(None, trouble.clone());
        let refused = registry.look_up(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable, "{trouble:?}");
        assert!(Refusal::DirectoryUnavailable.retry_after_s().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_for_one_practice_does_not_affect_another() {
    let other = "https://gp.example.nhs.uk/B82617/STU3/1/gpconnect";
    let other = Records::practice("B82617", "918999198994", "B82617-1", other, &[SLOTS]);
    let registry = Registry::new(practice().and(other), SHORT).await;
    let directory = registry.directory("");
    registry.sds.set(Some("A20047"), SdsFault::Status(500));
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap_err();
    registry.look_up(&directory, "B82617", SLOTS).await.unwrap();
    registry.sds.clear();
    while registry.look_up(&directory, "A20047", SLOTS).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_rejected_without_opening_the_circuit() {
    let registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    let long = format!("{{\"resourceType\":\"Bundle\",\"text\":\"{}\"}}", "x".repeat(3 << 20));
    registry.sds.set(None, SdsFault::Body(long));
    for number in 0..20 {
        let practice = format!("Z{number:05}");
        registry.look_up(&directory, &practice, SLOTS).await.unwrap_err();
    }
    assert!(!directory.sources_view().sources[0].circuit_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_circuit_of_a_source_that_fails_opens_and_closes_again() {
    let mut registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    registry.stop().await;
    for number in 0..6 {
        let code = format!("Z{number:05}");
        let refused = registry.look_up(&directory, &code, SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
    assert!(directory.sources_view().sources[0].circuit_open);
    assert_eq!(registry.metric("directory_source_circuit_open{source=\"sds-api\"}"), 1);
    registry.start().await;
    while registry.look_up(&directory, "A20047", SLOTS).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!directory.sources_view().sources[0].circuit_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_address_is_not_used() {
    for (address, kind) in [
        (None, "no_address"),
        (Some("http://gp.example.nhs.uk/A20047"), "bad_address"),
        (Some("https://127.0.0.1/A20047"), "bad_address"),
        (Some("https://user@gp.example.nhs.uk/A20047"), "bad_address"),
        (Some("https://gp.example.nhs.uk/A20047?x=1"), "bad_address"),
    ] {
        let mut records = practice();
        for handler in &mut records.handlers {
            handler.addresses = address.map(str::to_owned).into_iter().collect();
        }
        let registry = Registry::new(records, "").await;
        let directory = registry.directory("");
        let refused = registry.look_up(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable, "{address:?}");
        let series = format!("directory_oddities_total{{kind=\"{kind}\"}}");
        assert_eq!(registry.metric(&series), 1, "{address:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_national_system_with_hundreds_of_interactions_is_read() {
    let others = (0..478).map(|number| format!("urn:nhs:names:services:psis:X{number}"));
    let mut records = practice();
    records.accredited[0].interactions.extend(others);
    let registry = Registry::new(records, "").await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unregistered_interaction_has_its_own_refusal() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.look_up(&directory, "A20047", SLOTS).await.unwrap();
    let cancel = "urn:nhs:names:services:gpconnect:fhir:rest:cancel:appointment-1";
    let refused = registry.look_up(&directory, "A20047", cancel).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeNotRegistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_another_practice_is_rejected() {
    let registry = Registry::new(practice(), SHORT).await;
    let directory = registry.directory("");
    // An intermediate cache that confuses two queries would answer like this.
    let other = r#"{"resourceType":"Bundle","total":1,"entry":[{"resource":{
        "resourceType":"Endpoint","address":"https://evil.example.nhs.uk/B82617",
        "managingOrganization":{"identifier":{"value":"B82617"}},
        "identifier":[{"system":"https://fhir.nhs.uk/Id/nhsMhsPartyKey","value":"B82617-1"}],
        "extension":[]}}]}"#;
    registry.sds.set(None, SdsFault::Body(other.to_owned()));
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[test]
fn identifiers_that_could_alter_a_query_are_rejected() {
    use spine_types::{Asid, OdsCode, PartyKey};
    for text in ["*", ")(", "A2*", "A20047)(uid=*", "A\0B", "A20047 ", "", "A20047%7C", "é0047"] {
        assert!(OdsCode::from_any_case(text).is_err(), "{text:?}");
        assert!(text.parse::<Asid>().is_err(), "{text:?}");
        assert!(text.parse::<PartyKey>().is_err(), "{text:?}");
    }
    assert_eq!(OdsCode::from_any_case("a20047").unwrap().as_str(), "A20047");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_with_known_deviations_is_read() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.sds.set(None, SdsFault::Body(r#"{"resourceType":"Bundle","total":0}"#.to_owned()));
    let refused = registry.look_up(&directory, "B82617", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown, "a bundle without `entry` is empty");
    // Identifier systems in another case, as in an older draft, and spaces around a value.
    let extension = format!(
        r#"{{"url":"https://fhir.nhs.uk/StructureDefinition/Extension-SDS-NhsServiceInteractionId",
        "valueReference":{{"identifier":{{"value":"{SLOTS}"}}}}}}"#
    );
    let identifiers = r#"{"system":"https://fhir.nhs.uk/Id/NHSMHSPartyKey","value":" A20047-1000001 "},
        {"system":"https://fhir.nhs.uk/Id/nhsMHSID","value":"x"}"#;
    let endpoint = format!(
        r#"{{"resourceType":"Bundle","total":1,"entry":[{{"resource":{{"resourceType":"Endpoint",
        "address":" {ROOT} ","managingOrganization":{{"identifier":{{"value":"a20047"}}}},
        "identifier":[{identifiers}],"extension":[{extension}]}}}}]}}"#
    );
    registry.sds.set(None, SdsFault::Body(endpoint));
    let refused = registry.look_up(&directory, "A20047", SLOTS).await;
    // The same body is no Device, so the look-up fails, but only after it was accepted as an Endpoint.
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    let asked = registry.sds.received().pop().unwrap();
    assert_eq!(asked.path, "/Device");
    assert!(asked.query.ends_with("nhsMhsPartyKey%7CA20047-1000001"), "{}", asked.query);
}
