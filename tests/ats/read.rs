//! `AppointmentRead`.

use serde_json::{Value, json};

use super::case::{
    Case, Expect, Feature, Formats, Given, Row, case, ok, one, refused, row, status,
};
use super::request::{Request, ask};
use super::resources::{ODS_CODE, extension, profile, with};
use super::rig::Scene;

pub(super) const FEATURE: Feature =
    Feature { name: "AppointmentRead", scenarios: 12, cases: 21, list };

fn of(id: &str) -> Request {
    ask("rest:read:appointment-1", format!("/Appointment/{id}"))
}

fn usual(scene: &Scene) -> Request {
    of(scene.id())
}

fn found() -> Expect {
    ok().kind("Appointment").etag().no_store()
}

fn unknown(id: &'static str) -> Row {
    row(id, Given::Nothing, move |_| of(id), status(&[404]).json().no_store())
}

fn shown(what: &'static str, judge: impl Fn(&Value) -> bool + 'static) -> Row {
    row(what, Given::Booked, usual, found().shows(what, judge))
}

fn list() -> Vec<Case> {
    let formats = Formats { given: Given::Booked, request: usual, expect: found() };
    let blank = unknown("").proxied(
        refused("interaction_path").json(),
        "a path without an id is not this interaction's, and the proxy sees it first",
    );
    vec![
        case(
            "Read appointment invalid appointment id",
            vec![unknown("Invalid4321"), unknown("8888888888"), blank],
        ),
        case(
            "Read appointment using the _format parameter to request response format",
            formats.by_format(),
        ),
        case(
            "Read appointment using the _format parameter and accept header to request response format",
            formats.by_both(),
        ),
        case(
            "Read appointment ensure response appointments contain the manadatory elements",
            formats.by_accept(),
        ),
        one(
            "Read appointment valid response check caching headers exist",
            row("booked", Given::Booked, usual, found()),
        ),
        one("Read appointment invalid response check caching headers exist", unknown("555555")),
        case(
            "plain: a booked appointment is read",
            vec![
                row(
                    "booked",
                    Given::Booked,
                    usual,
                    found().says("what was booked", |heard, scene| heard.json() == scene.booked),
                ),
                row(
                    "version",
                    Given::Booked,
                    usual,
                    found()
                        .says("its version", |heard, scene| heard.header("etag") == scene.etag()),
                ),
            ],
        ),
        one(
            "plain: a cancelled appointment is read",
            row(
                "cancelled",
                Given::Cancelled,
                usual,
                found().shows("the status", |one| one["status"] == "cancelled"),
            ),
        ),
        one(
            "plain: another organisation than the one that booked reads it",
            another_organisation(),
        ),
        case(
            "plain: the extensions are there",
            vec![
                shown("channel", |one| {
                    extension(one, "Extension-GPConnect-DeliveryChannel-2").is_some()
                }),
                shown("role", |one| {
                    extension(one, "Extension-GPConnect-PractitionerRole-1").is_some()
                }),
            ],
        ),
        one(
            "plain: the profile is told",
            shown("profile", |one| one["meta"]["profile"][0] == profile("GPConnect-Appointment-1")),
        ),
        one("plain: no reason is told", shown("no reason", |one| one.get("reason").is_none())),
    ]
}

/// A token for an organisation that did not book.
fn another_organisation() -> Row {
    let request = |scene: &Scene| {
        let request = usual(scene);
        let others = json!([{ "system": ODS_CODE, "value": "A00009" }]);
        let organisation = with(request.claimed("requesting_organization"), "/identifier", others);
        request.claim("requesting_organization", organisation)
    };
    row("A00009", Given::Booked, request, found()).proxied(
        status(&[403]).token("organisation_unknown"),
        "the proxy lets a sender speak only for the organisations it is registered for",
    )
}
