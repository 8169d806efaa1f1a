//! Resources as a consumer writes them, and small changes to them.

use gpconnect_simulator::InventedPerson;
use serde_json::{Value, json};

use super::rig::{Open, Scene, now};
use testkit::test_bed::HUB_ODS;

pub(super) const NHS_NUMBER: &str = "https://fhir.nhs.uk/Id/nhs-number";
pub(super) const ODS_CODE: &str = "https://fhir.nhs.uk/Id/ods-organization-code";
pub(super) const SDS_USER: &str = "https://fhir.nhs.uk/Id/sds-user-id";
pub(super) const ORGANISATION_TYPE: &str =
    "https://fhir.nhs.uk/STU3/CodeSystem/GPConnect-OrganisationType-1";
const REASON: &str = "Extension-GPConnect-AppointmentCancellationReason-1";

pub(super) fn profile(name: &str) -> String {
    format!("https://fhir.nhs.uk/STU3/StructureDefinition/{name}")
}

/// A booking of the scene's first slot for patient 1.
pub(super) fn booking(scene: &Scene) -> Value {
    booking_of(&scene.slots[..1], "Patient/1")
}

/// A booking of adjacent slots.
pub(super) fn booking_of(slots: &[Open], patient: &str) -> Value {
    let (first, last) = (&slots[0], &slots[slots.len() - 1]);
    let references = slots.iter().map(|open| {
        let id = open.slot["id"].as_str().unwrap();
        json!({ "reference": format!("Slot/{id}") })
    });
    let created = now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    let participants = [Some(patient), first.actor("Location"), first.actor("Practitioner")];
    let participants = participants
        .into_iter()
        .flatten()
        .map(|reference| json!({ "actor": { "reference": reference }, "status": "accepted" }));
    json!({
        "resourceType": "Appointment",
        "meta": { "profile": [profile("GPConnect-Appointment-1")] },
        "contained": [{
            "resourceType": "Organization",
            "id": "1",
            "meta": { "profile": [profile("CareConnect-GPC-Organization-1")] },
            "identifier": [{ "system": ODS_CODE, "value": HUB_ODS }],
            "name": "Urgent care hub",
            "telecom": [{ "system": "phone", "value": "01632 960123" }],
        }],
        "extension": [{
            "url": profile("Extension-GPConnect-BookingOrganisation-1"),
            "valueReference": { "reference": "#1" },
        }],
        "status": "booked",
        "description": "Follow-up after a call to the hub",
        "start": first.slot["start"],
        "end": last.slot["end"],
        "slot": references.collect::<Vec<_>>(),
        "created": created,
        "participant": participants.collect::<Vec<_>>(),
    })
}

/// The appointment with another comment.
pub(super) fn amended(appointment: &Value) -> Value {
    with(appointment.clone(), "/comment", json!("Please ring the bell"))
}

/// The appointment cancelled, with a reason.
pub(super) fn cancelled(appointment: &Value) -> Value {
    let reason = json!({ "url": profile(REASON), "valueString": "The patient feels better" });
    let mut cancelled = with(appointment.clone(), "/status", json!("cancelled"));
    match cancelled["extension"].as_array_mut() {
        Some(extensions) => extensions.push(reason),
        None => cancelled["extension"] = json!([reason]),
    }
    cancelled
}

/// Changes or, with null, removes what the extension of this name says.
pub(super) fn with_reason(mut appointment: Value, member: &str, value: Value) -> Value {
    let url = profile(REASON);
    let extensions = appointment["extension"].as_array_mut().unwrap();
    let at = extensions.iter().position(|known| known["url"] == url).unwrap();
    extensions[at] = with(extensions[at].take(), &format!("/{member}"), value);
    appointment
}

/// What registers somebody.
pub(super) fn registration(patient: &Value) -> Value {
    json!({
        "resourceType": "Parameters",
        "parameter": [{ "name": "registerPatient", "resource": patient }],
    })
}

/// Somebody as a consumer has traced them.
pub(super) fn patient(person: &InventedPerson) -> Value {
    json!({
        "resourceType": "Patient",
        "meta": { "profile": [profile("CareConnect-GPC-Patient-1")] },
        "identifier": [{ "system": NHS_NUMBER, "value": person.nhs_number }],
        "name": [{ "use": "official", "family": person.family, "given": [person.given] }],
        "gender": person.gender,
        "birthDate": person.birth_date,
    })
}

pub(super) fn address(usage: &str) -> Value {
    json!({
        "use": usage,
        "type": "physical",
        "line": ["2 Example Street"],
        "city": "Exampleton",
        "postalCode": "ZZ99 3CZ",
    })
}

/// A telecom of this use; `email` is one for its system.
pub(super) fn telecom(usage: &str) -> Value {
    match usage {
        "email" => json!({ "system": "email", "value": "iris@example.nhs.uk", "use": "home" }),
        _ => json!({ "system": "phone", "value": "01632 960124", "use": usage }),
    }
}

pub(super) fn communication(language: &str) -> Value {
    let coding = json!({
        "system": "https://fhir.nhs.uk/STU3/CodeSystem/CareConnect-HumanLanguage-1",
        "code": language,
        "display": language,
    });
    json!({
        "url": profile("Extension-CareConnect-GPC-NHSCommunication-1"),
        "extension": [
            { "url": "language", "valueCodeableConcept": { "coding": [coding] } },
            { "url": "preferred", "valueBoolean": false },
            { "url": "interpreterRequired", "valueBoolean": false },
        ],
    })
}

/// Sets or, with null, removes what is at a place.
pub(super) fn with(mut resource: Value, place: &str, value: Value) -> Value {
    let (parent, last) = place.rsplit_once('/').unwrap();
    match resource.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(last);
            if !value.is_null() {
                fields.insert(last.to_owned(), value);
            }
        }
        Some(Value::Array(items)) => {
            let at: usize = last.parse().unwrap();
            items.splice(at..(at + 1).min(items.len()), (!value.is_null()).then_some(value));
        }
        _ => {}
    }
    resource
}

/// The resource without what is at a place.
pub(super) fn without(resource: Value, place: &str) -> Value {
    with(resource, place, Value::Null)
}

/// The booking without the participants of this kind.
pub(super) fn without_participant(mut booking: Value, kind: &str) -> Value {
    booking["participant"]
        .as_array_mut()
        .unwrap()
        .retain(|one| !one["actor"]["reference"].as_str().unwrap_or_default().starts_with(kind));
    booking
}

/// Makes the reference at a place an absolute one.
pub(super) fn absolute(resource: Value, place: &str, scene: &Scene) -> Value {
    let relative = resource.pointer(place).and_then(Value::as_str).unwrap_or_default();
    let whole = json!(format!("{}/{relative}", scene.root));
    with(resource, place, whole)
}

/// What the first extension of this name says.
pub(super) fn extension<'a>(resource: &'a Value, name: &str) -> Option<&'a Value> {
    let url = profile(name);
    resource["extension"].as_array()?.iter().find(|known| known["url"] == url)
}
