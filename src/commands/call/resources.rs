//! FHIR resources as the demonstration's consumers read and write them.

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::super::lab::HUB_ODS;

pub(super) fn resources(bundle: &Value, kind: &str) -> Vec<Value> {
    let entries = bundle.get("entry").and_then(Value::as_array).cloned().unwrap_or_default();
    let resources = entries.into_iter().filter_map(|entry| entry.get("resource").cloned());
    resources.filter(|resource| text(resource, "resourceType") == kind).collect()
}

pub(super) fn first(bundle: &Value, kind: &str) -> anyhow::Result<Value> {
    resources(bundle, kind).into_iter().next().with_context(|| format!("no {kind} in the answer"))
}

pub(super) fn text(resource: &Value, member: &str) -> String {
    resource.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(super) fn set(resource: &mut Value, member: &str, value: Value) {
    if let Some(members) = resource.as_object_mut() {
        members.insert(member.to_owned(), value);
    }
}

const PROFILES: &str = "https://fhir.nhs.uk/STU3/StructureDefinition/";

pub(super) fn profile(name: &str) -> String {
    format!("{PROFILES}{name}")
}

pub(super) fn booking(slot: &Value, patient: &Value, location: &Value) -> Value {
    let participant = |kind: &str, resource: &Value| json!({"actor": {"reference": format!("{kind}/{}", text(resource, "id"))}, "status": "accepted"});
    json!({
        "resourceType": "Appointment",
        "meta": {"profile": [profile("GPConnect-Appointment-1")]},
        "contained": [{
            "resourceType": "Organization",
            "id": "1",
            "meta": {"profile": [profile("CareConnect-GPC-Organization-1")]},
            "identifier": [{"system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": HUB_ODS}],
            "name": "Urgent care hub",
            "telecom": [{"system": "phone", "value": "0300 000 0000"}]
        }],
        "extension": [{
            "url": profile("Extension-GPConnect-BookingOrganisation-1"),
            "valueReference": {"reference": "#1"}
        }],
        "status": "booked",
        "description": "Follow-up after a call to the hub",
        "start": text(slot, "start"),
        "end": text(slot, "end"),
        "slot": [{"reference": format!("Slot/{}", text(slot, "id"))}],
        "created": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
        "participant": [participant("Patient", patient), participant("Location", location)]
    })
}

pub(super) fn cancelled(mut appointment: Value) -> Value {
    set(&mut appointment, "status", json!("cancelled"));
    let reason = json!({
        "url": profile("Extension-GPConnect-AppointmentCancellationReason-1"),
        "valueString": "The patient feels better"
    });
    match appointment.get_mut("extension").and_then(Value::as_array_mut) {
        Some(extensions) => extensions.push(reason),
        None => set(&mut appointment, "extension", json!([reason])),
    }
    appointment
}
