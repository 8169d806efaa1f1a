//! `AppointmentCancel`.

use serde_json::{Value, json};

use super::case::{
    Case, Feature, Formats, Given, Row, case, failure, invalid_parameter, invalid_resource, ok,
    one, row, status,
};
use super::put::{Put, done};
use super::request::ask;
use super::resources::{absolute, amended, cancelled, extension, with_reason};
use super::rig::Scene;

pub(super) const FEATURE: Feature =
    Feature { name: "AppointmentCancel", scenarios: 27, cases: 44, list };

const REASON: &str = "Extension-GPConnect-AppointmentCancellationReason-1";

const PUT: Put = Put { interaction: "rest:cancel:appointment-1", usual: cancelled };

fn no_reason(name: &'static str) -> Row {
    let request = |scene: &Scene| {
        let silent = with_reason(cancelled(&scene.booked), "valueString", Value::Null);
        PUT.send(scene, silent)
    };
    row(name, Given::Booked, request, invalid_parameter().no_store())
}

fn another_url(url: &'static str) -> Row {
    PUT.changed(url, move |one, _| with_reason(one, "url", json!(url)), invalid_resource())
}

fn list() -> Vec<Case> {
    let formats =
        Formats { given: Given::Booked, request: |scene: &Scene| PUT.usual(scene), expect: done() };
    let one_more = json!({ "actor": { "reference": "Location/2" }, "status": "accepted" });
    let mut cases = vec![
        one(
            "I perform a successful cancel appointment and amend the comment",
            PUT.having("/comment", json!("Other words"), invalid_resource()),
        ),
        one(
            "I perform cancel appointment and update the description",
            PUT.having("/description", json!("Other words"), invalid_resource()),
        ),
        one(
            "I perform cancel appointment and add participants",
            PUT.changed(
                "participant",
                move |mut one, _| {
                    one["participant"].as_array_mut().unwrap().push(one_more.clone());
                    one
                },
                invalid_resource(),
            ),
        ),
        one(
            "I perform cancel appointment and update the type text",
            PUT.having("/appointmentType", json!({ "text": "other" }), invalid_resource()),
        ),
        case(
            "Cancel appointment using the _format parameter to request response format",
            formats.by_format(),
        ),
        case(
            "Cancel appointment using the accept header to request response format",
            formats.by_accept(),
        ),
        case(
            "Cancel appointment using the accept header and _format parameter to request response format",
            formats.by_both(),
        ),
        case(
            "Cancel appointment using the accept header and _format parameter and content-type to request response format",
            formats.by_all(),
        ),
        case(
            "Cancel appointment invalid cancellation extension url",
            vec![
                another_url("https://fhir.nhs.uk/STU3/StructureDefinition/elsewhere-1"),
                another_url("incorrectUrl"),
            ],
        ),
        one("Cancel appointment missing cancellation extension reason", no_reason("no reason")),
        one(
            "Cancel appointment verify resource is updated when an valid ETag value is provided",
            PUT.asked("current", |request, scene| request.set("if-match", &scene.etag()), done()),
        ),
        one(
            "Cancel appointment verify resource is not updated when an out of date ETag value is provided",
            PUT.asked(
                "stale",
                |request, _| request.set("if-match", "invalidEtag"),
                status(&[409]).code("FHIR_CONSTRAINT_VIOLATION"),
            ),
        ),
        one(
            "Cancel appointment prefer header set to representation",
            PUT.asked(
                "representation",
                |request, _| request.set("prefer", "return=representation"),
                done().filled(),
            ),
        ),
        one(
            "Cancel appointment prefer header set to minimal",
            PUT.asked(
                "minimal",
                |request, _| request.set("prefer", "return=minimal"),
                ok().empty(),
            ),
        ),
        one(
            "Cancel appointment valid response check caching headers exist",
            PUT.asked("cancelled", |request, _| request, done()),
        ),
        one(
            "Cancel appointment invalid response check caching headers exist",
            no_reason("no reason"),
        ),
        one("Amend a cancelled appointment", amendment()),
        one(
            "I cancel appointment for patient with absoulute reference",
            PUT.changed(
                "slot",
                |one, scene| absolute(one, "/slot/0/reference", scene),
                failure("INVALID_RESOURCE"),
            ),
        ),
        one(
            "I perform cancel appointment with participants with absoulte references",
            PUT.changed(
                "participant",
                |one, scene| absolute(one, "/participant/0/actor/reference", scene),
                invalid_resource(),
            ),
        ),
    ];
    cases.extend(plain());
    cases
}

/// An amendment of what has been cancelled.
fn amendment() -> Row {
    let request = |scene: &Scene| {
        let path = format!("/Appointment/{}", scene.id());
        ask("rest:update:appointment-1", path).resource(amended(&scene.booked))
    };
    row("cancelled", Given::Cancelled, request, failure("INVALID_RESOURCE"))
}

fn plain() -> Vec<Case> {
    let because = |reason: &'static str| {
        let expect = done().shows("the reason", move |one| {
            extension(one, REASON).is_some_and(|told| told["valueString"] == reason)
        });
        PUT.changed(reason, move |one, _| with_reason(one, "valueString", json!(reason)), expect)
    };
    let kept = |place: &'static str| {
        done().says("what it had", move |heard, scene| {
            heard.json().pointer(place) == scene.booked.pointer(place)
        })
    };
    let asis = |name: &'static str, expect| PUT.asked(name, |request, _| request, expect);
    vec![
        one(
            "plain: it is cancelled",
            asis("status", done().shows("the status", |one| one["status"] == "cancelled")),
        ),
        case(
            "plain: the reason is kept",
            vec![because("Not needed any more"), because("Caf\u{e9} closed & \"that\"")],
        ),
        one(
            "plain: it gets another version",
            asis(
                "version",
                done()
                    .says("the next version", |heard, scene| heard.header("etag") != scene.etag()),
            ),
        ),
        case(
            "plain: the rest stays",
            vec![
                asis("slot", kept("/slot")),
                asis("participant", kept("/participant")),
                asis("description", kept("/description")),
            ],
        ),
        case(
            "plain: a cancellation has the status",
            vec![
                PUT.having("/status", json!("booked"), invalid_resource()),
                PUT.having("/status", json!("noshow"), invalid_resource()),
            ],
        ),
        one(
            "plain: an empty reason is none",
            PUT.changed(
                "empty",
                |one, _| with_reason(one, "valueString", json!(" ")),
                invalid_parameter(),
            ),
        ),
        one(
            "plain: a body that is no resource is invalid",
            PUT.asked("not JSON", |request, _| request.text("{\"x\":"), invalid_resource()),
        ),
        one("plain: the version need not be named", asis("no If-Match", done())),
    ]
}
