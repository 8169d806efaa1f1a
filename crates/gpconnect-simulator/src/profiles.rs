//! Tests that every resource that the simulator answers with satisfies its GP Connect profile.

use serde_json::{Value, json};

use super::codes::{GENDERS, ROLES};
use super::fhir::{items, profile, text};
use super::people;
use super::stage::{Stage, booking_of, of_type};

/// A profile, as far as it narrows what FHIR allows.
struct Profile {
    kind: &'static str,
    name: &'static str,
    /// Required elements, as JSON pointers; `*` stands for every item of a list.
    required: &'static [&'static str],
    forbidden: &'static [&'static str],
    /// Extensions on the resource itself.
    extensions: &'static [&'static str],
    /// Elements with codes, and the codes allowed.
    codes: &'static [(&'static str, &'static [&'static str])],
}

const CHANNELS: &[&str] = &["In-person", "Telephone", "Video"];

const PROFILES: [Profile; 9] = [
    Profile {
        kind: "Appointment",
        name: "GPConnect-Appointment-1",
        required: &[
            "/id",
            "/meta/versionId",
            "/status",
            "/description",
            "/start",
            "/end",
            "/slot/*/reference",
            "/participant/*/actor/reference",
            "/participant/*/status",
            "/created",
        ],
        forbidden: &[
            "/appointmentType",
            "/indication",
            "/supportingInformation",
            "/incomingReferral",
            "/requestedPeriod",
            "/reason",
            "/specialty",
            "/identifier/*/use",
            "/identifier/*/type",
            "/identifier/*/period",
            "/identifier/*/assigner",
        ],
        extensions: &[
            "Extension-GPConnect-BookingOrganisation-1",
            "Extension-GPConnect-DeliveryChannel-2",
            "Extension-GPConnect-PractitionerRole-1",
            "Extension-GPConnect-AppointmentCancellationReason-1",
        ],
        codes: &[("/status", &["booked", "cancelled"])],
    },
    Profile {
        kind: "Slot",
        name: "GPConnect-Slot-1",
        required: &[
            "/id",
            "/meta/versionId",
            "/schedule/reference",
            "/status",
            "/start",
            "/end",
            "/serviceType/*/text",
        ],
        forbidden: &["/serviceCategory", "/appointmentType", "/specialty"],
        extensions: &["Extension-GPConnect-DeliveryChannel-2"],
        codes: &[("/status", &["free"]), ("/extension/*/valueCode", CHANNELS)],
    },
    Profile {
        kind: "Schedule",
        name: "GPConnect-Schedule-1",
        required: &["/id", "/meta/versionId", "/actor/*/reference", "/planningHorizon/start"],
        forbidden: &["/active", "/serviceType", "/specialty"],
        extensions: &["Extension-GPConnect-PractitionerRole-1"],
        codes: &[("/extension/*/valueCodeableConcept/coding/*/code", &ROLES)],
    },
    Profile {
        kind: "Patient",
        name: "CareConnect-GPC-Patient-1",
        required: &[
            "/id",
            "/meta/versionId",
            "/identifier/*/system",
            "/identifier/*/value",
            "/name/*/family",
            "/birthDate",
            "/gender",
        ],
        forbidden: &["/animal", "/photo", "/link"],
        extensions: &[
            "Extension-CareConnect-GPC-RegistrationDetails-1",
            "Extension-CareConnect-GPC-NHSCommunication-1",
        ],
        codes: &[("/gender", &GENDERS)],
    },
    Profile {
        kind: "Practitioner",
        name: "CareConnect-GPC-Practitioner-1",
        required: &[
            "/id",
            "/meta/versionId",
            "/identifier/*/system",
            "/identifier/*/value",
            "/name/*/family",
        ],
        forbidden: &["/photo", "/qualification"],
        extensions: &[],
        codes: &[(
            "/identifier/*/system",
            &["https://fhir.nhs.uk/Id/sds-user-id", "https://fhir.nhs.uk/Id/sds-role-profile-id"],
        )],
    },
    Profile {
        kind: "Organization",
        name: "CareConnect-GPC-Organization-1",
        required: &[
            "/identifier/*/system",
            "/identifier/*/value",
            "/name",
            "/telecom/*/system",
            "/telecom/*/value",
        ],
        forbidden: &[],
        extensions: &[],
        codes: &[
            ("/identifier/*/system", &["https://fhir.nhs.uk/Id/ods-organization-code"]),
            ("/telecom/*/system", &["phone", "fax", "email", "pager", "url", "sms", "other"]),
        ],
    },
    Profile {
        kind: "Location",
        name: "CareConnect-GPC-Location-1",
        required: &[
            "/id",
            "/meta/versionId",
            "/name",
            "/address",
            "/managingOrganization/reference",
        ],
        forbidden: &["/position", "/endpoint"],
        extensions: &[],
        codes: &[("/status", &["active", "suspended", "inactive"])],
    },
    Profile {
        kind: "Bundle",
        name: "GPConnect-Searchset-Bundle-1",
        required: &["/type"],
        forbidden: &[
            "/total",
            "/link",
            "/signature",
            "/entry/*/search",
            "/entry/*/request",
            "/entry/*/response",
        ],
        extensions: &[],
        codes: &[("/type", &["searchset"])],
    },
    Profile {
        kind: "OperationOutcome",
        name: "GPConnect-OperationOutcome-1",
        required: &[
            "/issue/*/severity",
            "/issue/*/code",
            "/issue/*/details/coding/*/system",
            "/issue/*/details/coding/*/code",
            "/issue/*/details/coding/*/display",
            "/issue/*/diagnostics",
        ],
        forbidden: &["/issue/*/location", "/issue/*/expression"],
        extensions: &[],
        codes: &[
            ("/issue/*/severity", &["error"]),
            (
                "/issue/*/code",
                &[
                    "invalid",
                    "value",
                    "business-rule",
                    "forbidden",
                    "not-found",
                    "duplicate",
                    "conflict",
                    "processing",
                    "not-supported",
                    "too-long",
                ],
            ),
            (
                "/issue/*/details/coding/*/system",
                &["https://fhir.nhs.uk/STU3/CodeSystem/Spine-ErrorOrWarningCode-1"],
            ),
        ],
    },
];

/// Returns the values at a place; `*` stands for every item of a list, which may be missing.
fn at<'a>(value: &'a Value, place: &str) -> Vec<Option<&'a Value>> {
    match place.split_once("/*") {
        None => vec![value.pointer(place)],
        Some((list, rest)) => items(value, list).iter().flat_map(|item| at(item, rest)).collect(),
    }
}

/// Returns the deviations of a resource from its profile.
fn faults(resource: &Value) -> Vec<String> {
    let kind = text(resource, "/resourceType").unwrap_or_default();
    if kind == "CapabilityStatement" {
        return Vec::new();
    }
    let Some(expected) = PROFILES.iter().find(|profile| profile.kind == kind) else {
        return vec![format!("{kind:?} has no profile")];
    };
    let mut faults = Vec::new();
    let named = items(resource, "/meta/profile");
    if named != [json!(profile(expected.name))] {
        faults.push(format!("{kind}: profile {named:?}"));
    }
    for place in expected.required {
        let list = place.split_once("/*").map(|(list, _)| list);
        let empty = list.is_some_and(|list| items(resource, list).is_empty());
        let optional = *place == "/identifier/*/system" && kind == "Appointment";
        if (empty && !optional) || at(resource, place).contains(&None) {
            faults.push(format!("{kind}: {place} is missing"));
        }
    }
    for place in expected.forbidden {
        if at(resource, place).iter().any(Option::is_some) {
            faults.push(format!("{kind}: {place} is forbidden"));
        }
    }
    for extension in items(resource, "/extension") {
        let url = text(extension, "/url").unwrap_or_default();
        if !expected.extensions.iter().any(|name| profile(name) == url) {
            faults.push(format!("{kind}: extension {url}"));
        }
    }
    for (place, codes) in expected.codes {
        for code in at(resource, place).into_iter().flatten() {
            if !code.as_str().is_some_and(|code| codes.contains(&code)) {
                faults.push(format!("{kind}: {place} is {code}"));
            }
        }
    }
    let inner = items(resource, "/entry").iter().filter_map(|entry| entry.get("resource"));
    let inner = inner.chain(items(resource, "/contained"));
    faults.extend(inner.flat_map(self::faults));
    faults
}

/// Asserts that the resource satisfies FHIR and its profile.
fn assert_valid(resource: &Value) {
    assert_eq!(faults(resource), Vec::<String>::new(), "{resource:#}");
    assert_eq!(super::shape::fault(resource), None, "{resource:#}");
}

#[test]
fn every_resource_of_the_seed_satisfies_its_profile() {
    let stage = Stage::new();
    let filters = "searchFilter=https://fhir.nhs.uk/Id/ods-organization-code%7CA00001\
        &searchFilter=https://fhir.nhs.uk/STU3/CodeSystem/GPConnect-OrganisationType-1%7Curgent-care\
        &searchFilter=https://fhir.nhs.uk/STU3/CodeSystem/GPConnect-OrganisationType-1%7Cgp-practice";
    let mut slots = 0;
    for (first, last) in
        [("2026-03-26", "2026-04-09"), ("2026-04-10", "2026-04-24"), ("2026-04-25", "2026-05-06")]
    {
        let path = format!(
            "/Slot?status=free&start=ge{first}&end=le{last}&_include=Slot:schedule&{filters}\
             &_include:recurse=Schedule:actor:Practitioner&_include:recurse=Schedule:actor:Location\
             &_include:recurse=Location:managingOrganization"
        );
        let (status, _, bundle) = stage.get("search:slot-1", &path);
        assert_eq!(status, 200);
        slots += of_type(&bundle, "Slot").len();
        assert_valid(&bundle);
    }
    assert!(slots > 1500, "{slots}");
    for person in people() {
        let (status, _, found) =
            stage.get("search:patient-1", &Stage::patient_by(&person.nhs_number));
        assert_eq!(status, 200);
        assert_valid(&found);
    }
    for (short, path) in [
        ("read:patient-1", "/Patient/1"),
        ("read:practitioner-1", "/Practitioner/2"),
        ("read:organization-1", "/Organization/1"),
        ("read:location-1", "/Location/2"),
        ("read:metadata-1", "/metadata"),
    ] {
        let (status, _, read) = stage.get(short, path);
        assert_eq!(status, 200, "{path}");
        assert_valid(&read);
    }
}

#[test]
fn every_booked_or_cancelled_appointment_satisfies_its_profile() {
    let stage = Stage::new();
    let slots = stage.free_slots();
    for (at, slot) in slots.iter().take(40).enumerate() {
        let schedule = text(slot, "/schedule/reference").unwrap();
        let locations = ["Schedule/4", "Schedule/7", "Schedule/8"];
        let mut body = booking_of(&[slot], &(at % 4 + 1).to_string());
        let location = if locations.contains(&schedule) { "Location/2" } else { "Location/1" };
        body["participant"][1]["actor"]["reference"] = json!(location);
        let (status, _, booked) = stage.book(&body);
        assert_eq!(status, 201, "{booked}");
        assert_valid(&booked);
        let id = text(&booked, "/id").unwrap();
        let (status, _, cancelled) =
            stage.put("cancel", id, None, &Stage::cancelled(&booked, "patient asked"));
        assert_eq!(status, 200, "{cancelled}");
        assert_valid(&cancelled);
    }
    for patient in ["1", "2", "3", "4"] {
        let (status, _, found) = stage.retrieve(patient);
        assert_eq!(status, 200);
        assert!(!of_type(&found, "Appointment").is_empty());
        assert_valid(&found);
    }
}

#[test]
fn every_fault_satisfies_its_profile() {
    let stage = Stage::new();
    for (short, path) in [
        ("read:patient-1", "/Patient/99"),
        ("read:practitioner-1", "/Practitioner/99"),
        ("read:organization-1", "/Organization/99"),
        ("read:location-1", "/Location/99"),
        ("read:appointment-1", "/Appointment/99"),
        ("search:slot-1", "/Slot?status=free"),
        ("search:patient-1", "/Patient?identifier=x"),
        ("search:patient-1", "/Patient?identifier=https://fhir.nhs.uk/Id/nhs-number%7C1"),
        ("search:patient-1", "/Patient?identifier=https://x.example/%7C1"),
        ("read:metadata-1", "/metadatas"),
    ] {
        let (status, _, response) = stage.get(short, path);
        assert!(status >= 400, "{path}");
        assert_valid(&response);
    }
}
