//! FHIR resources as a consumer reads and writes them.

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Returns the resources of one type in a bundle.
pub(in crate::commands) fn resources(bundle: &Value, kind: &str) -> Vec<Value> {
    let entries = bundle.get("entry").and_then(Value::as_array).cloned().unwrap_or_default();
    let resources = entries.into_iter().filter_map(|entry| entry.get("resource").cloned());
    resources.filter(|resource| text(resource, "resourceType") == kind).collect()
}

/// Returns the first resource of one type in a bundle.
pub(in crate::commands) fn first(bundle: &Value, kind: &str) -> anyhow::Result<Value> {
    resources(bundle, kind).into_iter().next().with_context(|| format!("no {kind} in the answer"))
}

/// Returns a text member of a resource, or an empty text.
pub(in crate::commands) fn text(resource: &Value, member: &str) -> String {
    resource.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Sets a member of a resource.
pub(in crate::commands) fn set(resource: &mut Value, member: &str, value: Value) {
    if let Some(members) = resource.as_object_mut() {
        members.insert(member.to_owned(), value);
    }
}

const PROFILES: &str = "https://fhir.nhs.uk/STU3/StructureDefinition/";

/// Returns the URL of a profile or extension.
pub(in crate::commands) fn profile(name: &str) -> String {
    format!("{PROFILES}{name}")
}

/// Appointment to book.
pub(in crate::commands) struct NewBooking<'a> {
    /// ODS code of the organisation that books.
    pub(in crate::commands) ods: &'a str,
    /// Name of the organisation that books.
    pub(in crate::commands) organisation: &'a str,
    pub(in crate::commands) description: &'a str,
    pub(in crate::commands) slot: &'a Value,
    /// Logical id of the patient.
    pub(in crate::commands) patient: &'a str,
    pub(in crate::commands) location: &'a Value,
}

impl NewBooking<'_> {
    /// Returns the resource to send, with the members that the specification requires.
    pub(in crate::commands) fn resource(&self) -> Value {
        let participant = |kind: &str, id: &str| json!({"actor": {"reference": format!("{kind}/{id}")}, "status": "accepted"});
        json!({
            "resourceType": "Appointment",
            "meta": {"profile": [profile("GPConnect-Appointment-1")]},
            "contained": [{
                "resourceType": "Organization",
                "id": "1",
                "meta": {"profile": [profile("CareConnect-GPC-Organization-1")]},
                "identifier": [{"system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": self.ods}],
                "name": self.organisation,
                "telecom": [{"system": "phone", "value": "0300 000 0000"}]
            }],
            "extension": [{
                "url": profile("Extension-GPConnect-BookingOrganisation-1"),
                "valueReference": {"reference": "#1"}
            }],
            "status": "booked",
            "description": self.description,
            "start": text(self.slot, "start"),
            "end": text(self.slot, "end"),
            "slot": [{"reference": format!("Slot/{}", text(self.slot, "id"))}],
            "created": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
            "participant": [
                participant("Patient", self.patient),
                participant("Location", &text(self.location, "id"))
            ]
        })
    }
}

/// Returns the location of a slot, from the bundle that it was found in.
pub(in crate::commands) fn location(found: &Value, slot: &Value) -> Option<Value> {
    let of = |kind: &str, reference: &str| {
        let all = resources(found, kind);
        all.into_iter().find(|known| format!("{kind}/{}", text(known, "id")) == reference)
    };
    let schedule = of("Schedule", slot.pointer("/schedule/reference")?.as_str()?)?;
    let actors = schedule.get("actor")?.as_array()?.iter();
    let mut references = actors.filter_map(|actor| actor.get("reference")?.as_str());
    references.find_map(|reference| of("Location", reference))
}

/// Returns an appointment as it is cancelled for a reason.
pub(in crate::commands) fn cancelled(mut appointment: Value, reason: &str) -> Value {
    set(&mut appointment, "status", json!("cancelled"));
    let reason = json!({
        "url": profile("Extension-GPConnect-AppointmentCancellationReason-1"),
        "valueString": reason
    });
    match appointment.get_mut("extension").and_then(Value::as_array_mut) {
        Some(extensions) => extensions.push(reason),
        None => set(&mut appointment, "extension", json!([reason])),
    }
    appointment
}
