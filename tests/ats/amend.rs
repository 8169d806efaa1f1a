//! `AppointmentAmend`.

use serde_json::{Value, json};

use super::case::{
    Case, Expect, Feature, Formats, Given, case, failure, invalid_resource, ok, one, row, status,
};
use super::put::{Put, done};
use super::resources::{absolute, amended, cancelled, with};
use super::rig::Scene;

pub(super) const FEATURE: Feature =
    Feature { name: "AppointmentAmend", scenarios: 21, cases: 28, list };

const PUT: Put = Put { interaction: "rest:update:appointment-1", usual: amended };

fn list() -> Vec<Case> {
    let formats =
        Formats { given: Given::Booked, request: |scene: &Scene| PUT.usual(scene), expect: done() };
    let mut cases = vec![
        one(
            "Amend appointment and update element which cannot be updated",
            PUT.having("/priority", json!(1), failure("INVALID_RESOURCE")),
        ),
        case(
            "Amend appointment using the _format parameter to request response format",
            formats.by_format(),
        ),
        case(
            "Amend appointment using the accept header to request response format",
            formats.by_accept(),
        ),
        case(
            "Amend appointment using the _format and accept parameter to request response format",
            formats.by_both(),
        ),
        one(
            "Amend appointment prefer header set to representation",
            PUT.asked(
                "representation",
                |request, _| request.set("prefer", "return=representation"),
                done().json().filled(),
            ),
        ),
        one(
            "Amend appointment prefer header set to minimal",
            PUT.asked(
                "minimal",
                |request, _| request.set("prefer", "return=minimal"),
                ok().empty(),
            ),
        ),
        one(
            "Amend appointment send an update with an invalid if-match header",
            PUT.asked("stale", |request, _| request.set("if-match", "invalidEtag"), status(&[409])),
        ),
        one(
            "Amend appointment set etag and check etag is the same in the returned amended appointment",
            PUT.asked(
                "current",
                |request, scene| request.set("if-match", &scene.etag()),
                versioned(),
            ),
        ),
        one(
            "Amend appointment and send an invalid bundle resource",
            PUT.having("/resourceType", json!("Bundle"), invalid_resource()),
        ),
        one(
            "Amend appointment and send an invalid appointment resource",
            PUT.asked("not JSON", |request, _| request.text("{\"x\":"), invalid_resource()),
        ),
        one(
            "Amend appointment valid response check caching headers exist",
            PUT.asked("amended", |request, _| request, done()),
        ),
        one(
            "Amend appointment invalid response check caching headers exist",
            PUT.having("/resourceType", json!("Bundle"), status(&[422]).no_store()),
        ),
        one(
            "Amend appointment and update cancellation reason",
            PUT.changed(
                "a reason",
                |one, _| with(cancelled(&one), "/status", json!("booked")),
                failure("INVALID_RESOURCE"),
            ),
        ),
        one(
            "Amend appointment and update to absolute reference",
            PUT.changed(
                "slot",
                |one, scene| absolute(one, "/slot/0/reference", scene),
                invalid_resource(),
            ),
        ),
        one(
            "I perform amend appointment with participants with absoulte references",
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

/// The version in the body is the one in the head, and another than before.
fn versioned() -> Expect {
    done().says("the next version", |heard, scene| {
        let version = heard.json()["meta"]["versionId"].clone();
        heard.header("etag") == format!("W/\"{}\"", version.as_str().unwrap_or_default())
            && heard.header("etag") != scene.etag()
    })
}

fn plain() -> Vec<Case> {
    let told = |member: &'static str, text: &'static str| {
        done().shows("the new words", move |one| one[member] == text)
    };
    vec![
        case(
            "plain: words are amended",
            vec![
                PUT.having("/comment", json!("A word"), told("comment", "A word")),
                PUT.having("/description", json!("Another"), told("description", "Another")),
            ],
        ),
        one(
            "plain: the comment is taken away",
            PUT.changed(
                "/comment",
                |one, _| with(one, "/comment", Value::Null),
                done().shows("no comment", |one| one.get("comment").is_none()),
            ),
        ),
        one(
            "plain: it stays booked",
            PUT.asked(
                "booked",
                |request, _| request,
                done().shows("a booking", |one| one["status"] == "booked"),
            ),
        ),
        one(
            "plain: it gets another version",
            PUT.asked("version", |request, _| request, versioned()),
        ),
        one(
            "plain: an amendment that is cancelled is none",
            row(
                "cancelled",
                Given::Cancelled,
                |scene| {
                    let one = with(amended(&scene.booked), "/status", json!("booked"));
                    PUT.send(scene, one)
                },
                invalid_resource(),
            ),
        ),
        case(
            "plain: only words are amended",
            vec![
                PUT.having("/start", json!("2031-01-06T09:00:00+00:00"), invalid_resource()),
                PUT.having("/status", json!("cancelled"), invalid_resource()),
            ],
        ),
    ]
}
