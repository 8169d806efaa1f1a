//! FHIR resources as JSON: builders for those of the simulator, and access to those it receives.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::SimulatedPractice;
use super::local_time::{self, TimePeriod};
use super::people::{InventedPerson, Registration};
use super::seed::{Clinician, SeedLocation, Session};
use super::state::{SlotState, StoredSlot};

pub(super) const NHS_NUMBER: &str = "https://fhir.nhs.uk/Id/nhs-number";
pub(super) const ODS_CODE: &str = "https://fhir.nhs.uk/Id/ods-organization-code";
pub(super) const SDS_USER: &str = "https://fhir.nhs.uk/Id/sds-user-id";
const SDS_PROFILE: &str = "https://fhir.nhs.uk/Id/sds-role-profile-id";
const JOB_ROLES: &str = "https://fhir.nhs.uk/STU3/CodeSystem/CareConnect-SDSJobRoleName-1";
pub(super) const DELIVERY_CHANNEL: &str = "Extension-GPConnect-DeliveryChannel-2";
pub(super) const PRACTITIONER_ROLE: &str = "Extension-GPConnect-PractitionerRole-1";
pub(super) const BOOKING_ORGANISATION: &str = "Extension-GPConnect-BookingOrganisation-1";
pub(super) const ORGANISATION_TYPE: &str =
    "https://fhir.nhs.uk/STU3/CodeSystem/GPConnect-OrganisationType-1";
pub(super) const CANCELLATION_REASON: &str = "Extension-GPConnect-AppointmentCancellationReason-1";

/// Returns the URL of a profile or an extension.
pub(super) fn profile(name: &str) -> String {
    format!("https://fhir.nhs.uk/STU3/StructureDefinition/{name}")
}

/// Returns the string at a JSON pointer.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

/// Returns the list at a JSON pointer, or an empty one.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Returns the extension with this name, if there is one.
pub(super) fn extension<'a>(resource: &'a Value, name: &str) -> Option<&'a Value> {
    let url = profile(name);
    items(resource, "/extension")
        .iter()
        .find(|extension| text(extension, "/url") == Some(url.as_str()))
}

/// Returns the id in a relative reference to this kind of resource, if it is one.
pub(super) fn referred<'a>(reference: &'a str, kind: &str) -> Option<&'a str> {
    reference.strip_prefix(kind)?.strip_prefix('/').filter(|id| !id.contains('/'))
}

/// Returns a resource with its type, id, version and profile, and the fields of `rest`.
fn versioned(kind: &str, id: u32, version: u32, profile_name: &str, rest: Value) -> Value {
    let mut resource = json!({
        "resourceType": kind,
        "id": id.to_string(),
        "meta": { "versionId": version.to_string(), "profile": [profile(profile_name)] },
    });
    if let (Some(fields), Value::Object(rest)) = (resource.as_object_mut(), rest) {
        fields.extend(rest);
    }
    resource
}

/// Spec: a searchset has neither `total` nor `link`.
pub(super) fn bundle(resources: impl IntoIterator<Item = Value>) -> Value {
    let entries: Vec<Value> =
        resources.into_iter().map(|resource| json!({ "resource": resource })).collect();
    let mut bundle = json!({
        "resourceType": "Bundle",
        "meta": { "profile": [profile("GPConnect-Searchset-Bundle-1")] },
        "type": "searchset",
    });
    // FHIR has no empty lists.
    if let (Some(fields), false) = (bundle.as_object_mut(), entries.is_empty()) {
        fields.insert("entry".to_owned(), entries.into());
    }
    bundle
}

pub(super) fn organisation(practice: &SimulatedPractice, id: u32) -> Value {
    let rest = json!({
        "identifier": [{ "system": ODS_CODE, "value": practice.ods }],
        "name": practice.name,
        "telecom": [{ "system": "phone", "value": "01632 960100", "use": "work" }],
        "address": [{ "line": ["1 Example Street"], "city": "Exampleton", "postalCode": "ZZ99 3CZ" }],
    });
    versioned("Organization", id, 1, "CareConnect-GPC-Organization-1", rest)
}

pub(super) fn location(place: &SeedLocation, id: u32, organisation: u32) -> Value {
    let rest = json!({
        "status": "active",
        "name": place.name,
        "telecom": [{ "system": "phone", "value": place.phone, "use": "work" }],
        "address": { "line": [place.line], "city": place.city, "postalCode": place.postal_code },
        "managingOrganization": { "reference": format!("Organization/{organisation}") },
    });
    versioned("Location", id, 1, "CareConnect-GPC-Location-1", rest)
}

pub(super) fn practitioner(clinician: &Clinician, id: u32) -> Value {
    let Clinician { family, given, prefix, sds_user_id, role_profiles } = clinician;
    let user = json!({ "system": SDS_USER, "value": sds_user_id });
    let profiles = role_profiles.iter().map(|id| json!({ "system": SDS_PROFILE, "value": id }));
    let identifiers: Vec<Value> = [user].into_iter().chain(profiles).collect();
    let rest = json!({
        "identifier": identifiers,
        "name": [{ "use": "usual", "family": family, "given": [given], "prefix": [prefix] }],
    });
    versioned("Practitioner", id, 1, "CareConnect-GPC-Practitioner-1", rest)
}

/// Returns a patient, registered by the organisation with this id at this time.
pub(super) fn patient(
    id: u32,
    person: &InventedPerson,
    registered_by: u32,
    registered_at: Timestamp,
) -> Value {
    let verified = json!({
        "url": profile("Extension-CareConnect-GPC-NHSNumberVerificationStatus-1"),
        "valueCodeableConcept": { "coding": [{
            "system": "https://fhir.nhs.uk/CareConnect-NHSNumberVerificationStatus-1",
            "code": "01",
            "display": "Number present and verified",
        }] },
    });
    let (kind, display) = match person.registration {
        Registration::Registered
        | Registration::Inactive
        | Registration::Deceased
        | Registration::Sensitive => ("R", "Regular"),
        Registration::Temporary
        | Registration::Unregistered
        | Registration::DeceasedElsewhere
        | Registration::SensitiveElsewhere
        | Registration::Superseded => ("T", "Temporary"),
    };
    let registered = json!({
        "url": profile("Extension-CareConnect-GPC-RegistrationDetails-1"),
        "extension": [
            { "url": "registrationPeriod", "valuePeriod": { "start": local_time::text(registered_at) } },
            { "url": "registrationType", "valueCodeableConcept": { "coding": [{
                "system": "https://fhir.nhs.uk/CareConnect-RegistrationType-1",
                "code": kind,
                "display": display,
            }] } },
        ],
    });
    let mut name = json!({ "use": "official", "family": person.family });
    if let (Some(parts), false) = (name.as_object_mut(), person.given.is_empty()) {
        parts.insert("given".to_owned(), json!([person.given]));
    }
    let rest = json!({
        "extension": [registered],
        "identifier": [{ "extension": [verified], "system": NHS_NUMBER, "value": person.nhs_number }],
        "active": true,
        "name": [name],
        "gender": person.gender,
        "birthDate": person.birth_date,
        "managingOrganization": { "reference": format!("Organization/{registered_by}") },
    });
    versioned("Patient", id, 1, "CareConnect-GPC-Patient-1", rest)
}

pub(super) fn delivery_channel(slot: &StoredSlot) -> Value {
    json!({ "url": profile(DELIVERY_CHANNEL), "valueCode": slot.channel.code() })
}

pub(super) fn practitioner_role(session: &Session) -> Value {
    let mut coding = json!({ "system": JOB_ROLES, "code": session.role });
    // The only role whose display name the specification gives.
    if let (Some(parts), "R0260") = (coding.as_object_mut(), session.role.as_str()) {
        parts.insert("display".to_owned(), json!("General Medical Practitioner"));
    }
    json!({ "url": profile(PRACTITIONER_ROLE), "valueCodeableConcept": { "coding": [coding] } })
}

pub(super) fn schedule(id: u32, session: &Session, horizon: TimePeriod) -> Value {
    let rest = json!({
        "extension": [practitioner_role(session)],
        "serviceCategory": { "text": session.service_category },
        "actor": [
            { "reference": format!("Location/{}", session.location) },
            { "reference": format!("Practitioner/{}", session.practitioner) },
        ],
        "planningHorizon": {
            "start": local_time::text(horizon.start),
            "end": local_time::text(horizon.end),
        },
    });
    versioned("Schedule", id, 1, "GPConnect-Schedule-1", rest)
}

pub(super) fn slot(id: u32, slot: &StoredSlot, session: &Session) -> Value {
    let status = match slot.state {
        SlotState::Free => "free",
        SlotState::Busy => "busy",
    };
    let rest = json!({
        "extension": [delivery_channel(slot)],
        "serviceType": [{ "text": session.service_type }],
        "schedule": { "reference": format!("Schedule/{}", slot.schedule) },
        "status": status,
        "start": local_time::text(slot.start),
        "end": local_time::text(slot.end),
    });
    versioned("Slot", id, slot.version, "GPConnect-Slot-1", rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_relative_and_names_one_resource() {
        assert_eq!(referred("Slot/12", "Slot"), Some("12"));
        for other in ["Slots/12", "Slot", "https://x/Slot/12", "Slot/12/_history/1", "/Slot/12"] {
            assert_eq!(referred(other, "Slot"), None, "{other}");
        }
    }

    #[test]
    fn a_bundle_is_a_searchset_and_no_more() {
        let fields =
            |bundle: Value| bundle.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(bundle([])), ["meta", "resourceType", "type"]);
        assert_eq!(fields(bundle([json!({})])), ["entry", "meta", "resourceType", "type"]);
    }
}
