//! `AppointmentBook`.

use serde_json::{Value, json};

use super::case::{
    Case, Expect, Feature, Formats, Given, Row, any_failure, case, created, failure,
    invalid_resource, one, refused, row, status,
};
use super::request::{Request, ask};
use super::resources::{
    ORGANISATION_TYPE, absolute, booking, booking_of, extension, profile, with, without,
    without_participant,
};
use super::rig::Scene;

pub(super) const FEATURE: Feature =
    Feature { name: "AppointmentBook", scenarios: 43, cases: 61, list };

fn send(body: Value) -> Request {
    ask("rest:create:appointment-1", "/Appointment").resource(body)
}

fn usual(scene: &Scene) -> Request {
    send(booking(scene))
}

fn booked() -> Expect {
    created().kind("Appointment").no_store()
}

/// A booking that was changed.
fn changed(
    name: &'static str,
    change: impl Fn(Value, &Scene) -> Value + 'static,
    expect: Expect,
) -> Row {
    row(name, Given::Slots, move |scene| send(change(booking(scene), scene)), expect)
}

/// A booking without what is at this place.
fn lacking(place: &'static str, expect: Expect) -> Row {
    changed(place, move |booking, _| without(booking, place), expect)
}

/// A booking with this at that place.
fn having(place: &'static str, value: Value, expect: Expect) -> Row {
    changed(place, move |booking, _| with(booking, place, value.clone()), expect)
}

/// A booking as it is, answered with something of this kind.
fn shown(what: &'static str, judge: impl Fn(&Value) -> bool + 'static) -> Row {
    row(what, Given::Slots, usual, booked().json().shows(what, judge))
}

fn invalid() -> Expect {
    invalid_resource().json()
}

fn participates(appointment: &Value, kind: &str) -> bool {
    let mut all = appointment["participant"].as_array().into_iter().flatten();
    all.any(|one| one["actor"]["reference"].as_str().is_some_and(|to| to.starts_with(kind)))
}

fn list() -> Vec<Case> {
    let formats = Formats { given: Given::Slots, request: usual, expect: booked() };
    let slot = |reference: &'static str| having("/slot/0/reference", json!(reference), invalid());
    let wrong_url = "the interaction names another path, which the proxy sees first";
    let mut cases = vec![
        one(
            "Book Appointment with invalid url for booking appointment",
            row(
                "appointmentqq/!",
                Given::Slots,
                |scene| usual(scene).path("/appointmentqq/!"),
                any_failure(),
            )
            .proxied(refused("interaction_path"), wrong_url),
        ),
        case(
            "Book appointment accept header and _format parameter to request response format",
            formats.by_both(),
        ),
        case(
            "Book appointment _format parameter only but varying request content types",
            formats.by_content_and_format(),
        ),
        case("Book appointment accept header to request response format", formats.by_accept()),
        one(
            "Book appointment prefer header set to representation",
            row(
                "representation",
                Given::Slots,
                |scene| usual(scene).set("prefer", "return=representation"),
                booked().json().filled(),
            ),
        ),
        one(
            "Book appointment prefer header set to minimal",
            row(
                "minimal",
                Given::Slots,
                |scene| usual(scene).set("prefer", "return=minimal"),
                created().empty(),
            ),
        ),
        case(
            "Book Appointment and remove manadatory resources from the appointment booking",
            ["Patient", "Location"]
                .map(|kind| {
                    let change = move |booking, _: &Scene| without_participant(booking, kind);
                    changed(kind, change, invalid_resource())
                })
                .into(),
        ),
        one(
            "Book Appointment and remove all participants",
            lacking("/participant", invalid_resource()),
        ),
        one(
            "Book appointment for patient and send extra fields in the resource",
            having("/invalidField", json!("x"), invalid()),
        ),
        case(
            "Book appointment with invalid slot reference",
            vec![
                slot("Slot/45555g55555"),
                slot("Slot/45555555##"),
                slot("Slot/hello"),
                slot("https://provider.example.nhs.uk/A11111/STU3/1/gpconnect/Slot/#12345"),
            ],
        ),
        one(
            "Book single appointment for patient and check the location reference is valid",
            shown("a location", |booked| participates(booked, "Location/")),
        ),
        one(
            "Book appointment with missing start element in appointment resource",
            lacking("/start", invalid()),
        ),
        one(
            "Book appointment with missing end element in appointment resource",
            lacking("/end", invalid()),
        ),
        one(
            "Book appointment with missing status element in appointment resource",
            lacking("/status", invalid()),
        ),
        one(
            "Book appointment with missing slot element in appointment resource",
            lacking("/slot", invalid()),
        ),
        one(
            "Book Appointment and remove identifier value from the appointment booking",
            having("/identifier", json!([{ "system": "https://example.nhs.uk/Id/x" }]), invalid()),
        ),
        one(
            "Book Appointment and remove participant status from the appointment booking",
            lacking("/participant/0/status", failure("INVALID_RESOURCE").json()),
        ),
        one(
            "Book appointment and send an invalid bundle resource",
            having("/resourceType", json!("Bundle"), invalid()),
        ),
        one(
            "Book appointment and send an invalid appointment resource",
            row("not JSON", Given::Slots, |scene| usual(scene).text("{\"x\":"), invalid()),
        ),
    ];
    cases.extend(rest());
    cases.extend(plain());
    cases
}

fn rest() -> Vec<Case> {
    let again = |scene: &Scene| send(booking_of(&scene.slots[..1], "Patient/2"));
    vec![
        one(
            "Book appointment valid response check caching headers exist",
            row("booked", Given::Slots, usual, booked()),
        ),
        one(
            "Book appointment invalid response check caching headers exist",
            lacking("/start", invalid().no_store()),
        ),
        one(
            "Book appointment with name removed from booking organization",
            lacking("/contained/0/name", invalid()),
        ),
        one(
            "Book appointment with telecom removed from booking organization",
            lacking("/contained/0/telecom", invalid()),
        ),
        one(
            "Book appointment re-using an already booked slot",
            row("taken", Given::Booked, again, status(&[409]).code("DUPLICATE_REJECTED").json()),
        ),
        one(
            "Book appointment and send a reason in the appointment",
            having("/reason", json!([{ "text": "a reason" }]), invalid()),
        ),
        one(
            "Book appointment with typeCode in appointment resource",
            having("/appointmentType", json!({ "coding": [{ "code": "FOLLOWUP" }] }), invalid()),
        ),
        one(
            "Book single appointment for patient with invalid reference",
            changed(
                "absolute",
                |booking, scene| absolute(booking, "/participant/0/actor/reference", scene),
                invalid(),
            ),
        ),
    ]
}

fn plain() -> Vec<Case> {
    let channel = |name: &'static str| {
        let expect = booked().shows("the slot's channel", move |booked| {
            let told = extension(booked, "Extension-GPConnect-DeliveryChannel-2");
            told.is_some_and(|told| told["valueCode"] == name)
        });
        row(name, Given::Channel(name), usual, expect)
    };
    let patient = |reference: &'static str| {
        let request = move |scene: &Scene| send(booking_of(&scene.slots[..1], reference));
        row(reference, Given::Slots, request, booked())
    };
    let both = |scene: &Scene| send(booking_of(&scene.slots, "Patient/1"));
    let kind = json!({ "coding": [{ "system": ORGANISATION_TYPE, "code": "urgent-care" }] });
    let long = |place: &'static str, length: usize, expect: Expect| {
        having(place, json!("x".repeat(length)), expect)
    };
    vec![
        one("plain: a slot is booked", row("booked", Given::Slots, usual, booked())),
        one(
            "plain: adjacent slots are booked as one appointment",
            row(
                "two",
                Given::Slots,
                both,
                booked().shows("two slots", |booked| {
                    booked["slot"].as_array().is_some_and(|slots| slots.len() == 2)
                }),
            ),
        ),
        case(
            "plain: slots of each channel are booked",
            vec![channel("In-person"), channel("Telephone"), channel("Video")],
        ),
        case("plain: each patient may have one", vec![patient("Patient/2"), patient("Patient/4")]),
        one(
            "plain: the practitioner need not be named",
            changed("no practitioner", |one, _| without_participant(one, "Practitioner"), booked()),
        ),
        one(
            "plain: the role of the practitioner is told",
            shown("a role", |one| {
                extension(one, "Extension-GPConnect-PractitionerRole-1").is_some()
            }),
        ),
        one(
            "plain: the kind of service is told",
            shown("a service", |one| one["serviceType"][0]["text"].is_string()),
        ),
        one(
            "plain: the profile and the version are told",
            shown("meta", |one| {
                one["meta"]["versionId"].is_string()
                    && one["meta"]["profile"][0] == profile("GPConnect-Appointment-1")
            }),
        ),
        one("plain: an id is given", shown("an id", |one| one["id"].is_string())),
        one("plain: no reason is told", shown("no reason", |one| one.get("reason").is_none())),
        one("plain: a booking has no id", having("/id", json!("7"), invalid())),
        case(
            "plain: words have their lengths",
            vec![
                long("/description", 100, booked()),
                long("/description", 101, invalid()),
                long("/comment", 500, booked()),
                long("/comment", 501, invalid()),
            ],
        ),
        one("plain: a comment is kept", having("/comment", json!("Ring twice"), booked())),
        one(
            "plain: the organisation may have a type",
            having("/contained/0/type", json!([kind]), booked()),
        ),
        one(
            "plain: what the service is called may be sent",
            having("/serviceCategory", json!({ "text": "General GP Surgery" }), booked()),
        ),
        case(
            "plain: start and end are those of the slots",
            vec![
                changed(
                    "end",
                    |one, scene| with(one, "/end", scene.slots[1].slot["end"].clone()),
                    invalid(),
                ),
                changed(
                    "start",
                    |one, scene| with(one, "/start", scene.slots[1].slot["start"].clone()),
                    invalid(),
                ),
            ],
        ),
    ]
}
