//! Tests with invalid bodies: each is answered with an `OperationOutcome`, never with a server error.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::format::ResourceFormat;
use super::stage::{Stage, booking_of};
use super::{Registration, people};

/// A request that has a body.
struct RequestWithBody {
    /// End of the interaction's id.
    interaction: &'static str,
    path: String,
    /// A valid body.
    body: Value,
}

/// Returns every request that has a body, with a valid one.
fn requests_with_body(stage: &Stage) -> [RequestWithBody; 4] {
    let slots = stage.free_slots();
    let booking = booking_of(&[&slots[0]], "1");
    let (status, _, booked) = stage.book(&booking_of(&[&slots[1]], "2"));
    assert_eq!(status, 201);
    let id = booked["id"].as_str().unwrap().to_owned();
    let newcomer = people()
        .into_iter()
        .find(|person| person.registration == Registration::Unregistered)
        .unwrap();
    let registration = json!({
        "resourceType": "Parameters",
        "parameter": [{ "name": "registerPatient", "resource": {
            "resourceType": "Patient",
            "meta": { "profile": [super::fhir::profile("CareConnect-GPC-Patient-1")] },
            "identifier": [{ "system": super::fhir::NHS_NUMBER, "value": newcomer.nhs_number }],
            "name": [{ "use": "official", "family": newcomer.family }],
            "birthDate": newcomer.birth_date,
        } }],
    });
    let cancelled = Stage::cancelled(&booked, "patient asked");
    let path = format!("/Appointment/{id}");
    let register = "/Patient/$gpc.registerpatient";
    [
        ("create:appointment-1", "/Appointment", booking),
        ("update:appointment-1", &path, booked),
        ("cancel:appointment-1", &path, cancelled),
        ("operation:gpc.registerpatient-1", register, registration),
    ]
    .map(|(interaction, path, body)| RequestWithBody {
        interaction,
        path: path.to_owned(),
        body,
    })
}

/// Sends a body with every such request and checks each response.
fn send_everywhere(stage: &Stage, format: ResourceFormat, body: &[u8]) {
    for request in requests_with_body(stage) {
        send_and_check(stage, &request, format, body);
    }
}

/// Sends a request with another body and checks the response.
fn send_and_check(stage: &Stage, request: &RequestWithBody, format: ResourceFormat, body: &[u8]) {
    let RequestWithBody { interaction, path, .. } = request;
    let headers = [("Content-Type", format.content_type())];
    let response = stage.call_unparsed(interaction, path, &headers, body);
    let status = response.status().as_u16();
    assert!(status < 500, "{interaction}: {status} for {}", String::from_utf8_lossy(body));
    let resource = format.read(response.body()).unwrap();
    assert_eq!(super::shape::fault(&resource), None);
    let is_outcome = resource["resourceType"] == "OperationOutcome";
    assert_eq!(is_outcome, status >= 400, "{interaction}: {status}");
}

#[test]
fn a_body_of_any_kind_is_answered_with_an_outcome() {
    let deep = |open: &str, close: &str| open.repeat(20_000) + &close.repeat(20_000);
    let stage = Stage::new();
    for (format, body) in [
        (ResourceFormat::Json, String::new()),
        (ResourceFormat::Json, "null".to_owned()),
        (ResourceFormat::Json, "[]".to_owned()),
        (ResourceFormat::Json, "{}".to_owned()),
        (ResourceFormat::Json, "{\"resourceType\":7}".to_owned()),
        (ResourceFormat::Json, "{\"resourceType\":\"Bundle\",\"type\":\"document\"}".to_owned()),
        (
            ResourceFormat::Json,
            "{\"resourceType\":\"Appointment\",\"resourceType\":\"Slot\"}".to_owned(),
        ),
        (ResourceFormat::Json, deep("[", "]")),
        (ResourceFormat::Json, deep("{\"contained\":[", "]}")),
        (ResourceFormat::Json, format!("{{\"resourceType\":\"{}\"}}", "x".repeat(500_000))),
        (ResourceFormat::Json, "9".repeat(100_000)),
        (ResourceFormat::Xml, String::new()),
        (ResourceFormat::Xml, "<Appointment/>".to_owned()),
        (ResourceFormat::Xml, "<Appointment xmlns=\"http://hl7.org/fhir\"/>".to_owned()),
        (ResourceFormat::Xml, "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>".to_owned()),
        (ResourceFormat::Xml, deep("<contained>", "</contained>")),
        (
            ResourceFormat::Xml,
            format!("<Appointment xmlns=\"http://hl7.org/fhir\">{}", "<a/>".repeat(100_000)),
        ),
        (ResourceFormat::Xml, "{\"resourceType\":\"Appointment\"}".to_owned()),
    ] {
        send_everywhere(&stage, format, body.as_bytes());
    }
    let long = vec![b' '; 1024 * 1024];
    send_everywhere(&stage, ResourceFormat::Json, &long);
    send_everywhere(&stage, ResourceFormat::Xml, &[0xff, 0xfe, 0, 0]);
}

/// Replays the fuzzer's seeds and findings; the first byte chooses the request and the format.
#[test]
fn every_seed_of_the_fuzzer_is_answered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/provider_body");
    let mut seeds = 0;
    for seed in std::fs::read_dir(folder).unwrap() {
        let seed = std::fs::read(seed.unwrap().path()).unwrap();
        let (choice, body) = seed.split_first().unwrap();
        let stage = Stage::new();
        let request = &requests_with_body(&stage)[usize::from(choice & 3)];
        let format = if choice & 4 == 0 { ResourceFormat::Json } else { ResourceFormat::Xml };
        send_and_check(&stage, request, format, body);
        seeds += 1;
    }
    assert!(seeds >= 5);
}

/// Replaces the value with this number, counted in depth, if there are that many.
fn replace_value(value: &mut Value, mut at: usize, new: &Value) {
    fn visit(value: &mut Value, at: &mut usize, new: &Value) -> bool {
        if *at == 0 {
            *value = new.clone();
            return true;
        }
        *at -= 1;
        match value {
            Value::Object(fields) => fields.values_mut().any(|field| visit(field, at, new)),
            Value::Array(list) => list.iter_mut().any(|item| visit(item, at, new)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    visit(value, &mut at, new);
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[]])),
        Just(json!({ "reference": "Patient/1" })),
        Just(json!("Slot/1")),
        Just(json!("2026-02-30T25:00:00+01:00")),
        Just(json!("9999-12-31T23:59:59+00:00")),
        Just(json!("-9999-01-01")),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,40}".prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_body_with_one_value_replaced_is_answered(
        choice in 0_usize..4,
        at in 0_usize..90,
        new in any_value(),
        xml in any::<bool>(),
    ) {
        let stage = Stage::new();
        let request = &mut requests_with_body(&stage)[choice];
        replace_value(&mut request.body, at, &new);
        let format = if xml { ResourceFormat::Xml } else { ResourceFormat::Json };
        send_and_check(&stage, request, format, format.write(&request.body).as_bytes());
    }

    #[test]
    fn a_valid_body_that_is_cut_or_damaged_is_answered(
        choice in 0_usize..4,
        cut in 0_usize..3000,
        damaged in 0_usize..3000,
        byte in any::<u8>(),
        xml in any::<bool>(),
    ) {
        let stage = Stage::new();
        let request = &requests_with_body(&stage)[choice];
        let format = if xml { ResourceFormat::Xml } else { ResourceFormat::Json };
        let mut bytes = format.write(&request.body).into_bytes();
        if let Some(at) = bytes.get_mut(damaged) {
            *at = byte;
        }
        if cut % 2 == 0 {
            bytes.truncate(cut);
        }
        send_and_check(&stage, request, format, &bytes);
    }
}
