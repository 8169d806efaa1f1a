//! `AppointmentRetrieve`.

use jiff::ToSpan as _;
use serde_json::Value;

use super::case::{
    Case, Expect, Feature, Formats, Given, Row, bad_request, case, invalid_parameter, ok, one,
    refused, row, status,
};
use super::request::{Request, ask, escaped};
use super::resources::{extension, profile};
use super::rig::{Scene, resources};

pub(super) const FEATURE: Feature =
    Feature { name: "AppointmentRetrieve", scenarios: 21, cases: 47, list };

fn of(patient: &str, start: &str, end: &str) -> Request {
    ask("rest:search:patient_appointments-1", format!("/Patient/{patient}/Appointment"))
        .query("start", start)
        .query("start", end)
}

/// Two weeks from today, of patient 1.
fn usual(scene: &Scene) -> Request {
    let end = scene.today + 14.days();
    of("1", &format!("ge{}", scene.today), &format!("le{end}"))
}

fn found() -> Expect {
    ok().kind("Bundle").no_store()
}

/// The appointment that was made for this row is among them.
fn finds() -> Expect {
    found().json().says("the appointment", |heard, scene| {
        heard.resources("Appointment").iter().any(|one| one["id"] == scene.id())
    })
}

fn every(what: &'static str, judge: impl Fn(&Value) -> bool + 'static) -> Expect {
    finds().shows(what, move |bundle| resources(bundle, "Appointment").iter().all(&judge))
}

fn invalid() -> Expect {
    invalid_parameter().json()
}

/// A range of these patterns, with these prefixes.
fn ranged(start: &'static str, end: &'static str) -> Row {
    let request = move |scene: &Scene| {
        let noon = |day: jiff::civil::Date| day.at(12, 0, 0, 0).in_tz("Europe/London").unwrap();
        let start = noon(scene.today).strftime(start).to_string();
        let end = noon(scene.today + 14.days()).strftime(end).to_string();
        of("1", &start, &end)
    };
    row(format!("{start} {end}"), Given::Nothing, request, invalid())
}

/// The same, days on both sides.
fn prefixed(start: &'static str, end: &'static str) -> Row {
    let request = move |scene: &Scene| {
        let last = scene.today + 14.days();
        of("1", &format!("{start}{}", scene.today), &format!("{end}{last}"))
    };
    row(format!("{start} {end}"), Given::Nothing, request, invalid())
}

fn fixed(start: &'static str, end: &'static str) -> Row {
    row(format!("{start} {end}"), Given::Nothing, move |_| of("1", start, end), invalid())
}

fn alone(start: &'static str) -> Row {
    let path = format!("/Patient/1/Appointment?start={}", escaped(start));
    let request = move |_: &Scene| ask("rest:search:patient_appointments-1", path.clone());
    row(start, Given::Nothing, request, invalid())
}

fn list() -> Vec<Case> {
    let unknown = |id: &'static str| {
        let request = move |_: &Scene| of(id, "ge2030-03-30", "le2030-04-30");
        row(id, Given::Nothing, request, status(&[404]).json())
    };
    let scoped = |scope: &'static str| {
        let request = move |scene: &Scene| usual(scene).scope(scope);
        row(scope, Given::Nothing, request, bad_request().json())
            .proxied(refused("scope_mismatch").json(), "the proxy reads the token first")
    };
    let formats = Formats { given: Given::Booked, request: usual, expect: found() };
    let trailing = |scene: &Scene| usual(scene).named("rest:search:organization-1 ");
    let mut cases = vec![
        case(
            "Appointment retrieve fail due to invalid patient logical id",
            vec![unknown("null"), unknown("dd")],
        ),
        case(
            "Appointment retrieve accept header and _format parameter to request response format",
            formats.by_both(),
        ),
        case("Appointment retrieve accept header to request response format", formats.by_accept()),
        case(
            "Appointment retrieve _format parameter only to request response format",
            formats.by_format(),
        ),
        case(
            "Appointment retrieve invalid date format",
            vec![
                ranged("ge%Y-%m-%d", "le%Y"),
                ranged("ge%Y-%m-%d", "le%Y-%m"),
                ranged("ge%Y-%m-%d", "le%Y-%m-%dT%H:%M:%S"),
                ranged("ge%Y-%m-%d", "le%Y-%m-%dT%H:%M:%SZ"),
                ranged("ge%Y", "le%Y-%m-%d"),
                ranged("ge%Y-%m", "le%Y-%m-%d"),
                ranged("ge%Y-%m-%dT%H:%M:%S", "le%Y-%m-%d"),
                ranged("ge%Y-%m-%dT%H:%M:%SZ", "le%Y-%m-%d"),
            ],
        ),
        case(
            "Appointment retrieve invalid date prefix",
            vec![
                prefixed("ge", "lt"),
                prefixed("ge", "gt"),
                prefixed("ge", "eq"),
                prefixed("ge", "ge"),
                prefixed("lt", "le"),
                prefixed("gt", "le"),
                prefixed("eqs", "le"),
                prefixed("le", "le"),
                prefixed("random123", "random123"),
            ],
        ),
        case(
            "Appointment retrieve with only one start parameter",
            vec![alone("le2030-03-03"), alone("ge2030-03-03")],
        ),
        case(
            "Appointment retreive with date parameters in the past",
            vec![fixed("ge2010-02-03", "le2010-03-03"), fixed("ge2010-03-03", "le2030-03-30")],
        ),
        one(
            "Appointment retreive with end date before start date",
            fixed("ge2030-03-03", "le2030-01-01"),
        ),
        one(
            "Appointment retrieve bundle valid resources returned in the response",
            row(
                "booked",
                Given::Booked,
                usual,
                every("participants", |one| {
                    one["participant"].as_array().is_some_and(|all| all.len() >= 2)
                }),
            ),
        ),
        case(
            "Appointment retrieve JWT patient type request invalid",
            vec![scoped("organization/*.write"), scoped("patient/*.write")],
        ),
        one(
            "Appointment retrieve sending additional valid parameters in the request",
            row(
                "_sort",
                Given::Nothing,
                |_| of("1", "ge2030-03-03", "le2030-03-30").query("_sort", "date"),
                found().json(),
            ),
        ),
        one(
            "Appointment retrieve valid response check caching headers exist",
            row("two weeks", Given::Nothing, usual, found()),
        ),
        one(
            "Appointment retrieve invalid response check caching headers exist",
            row("another interaction", Given::Nothing, trailing, bad_request().json().no_store())
                .proxied(
                    refused("interaction_path").json().no_store(),
                    "the interaction names another path, which the proxy sees first",
                ),
        ),
        one(
            "Appointment retrieve and response should contain valid booking orgainzation",
            row(
                "booked",
                Given::Booked,
                usual,
                every("an organisation", |one| {
                    extension(one, "Extension-GPConnect-BookingOrganisation-1").is_some()
                        && one["contained"][0]["resourceType"] == "Organization"
                }),
            ),
        ),
    ];
    cases.extend(plain());
    cases
}

fn plain() -> Vec<Case> {
    let nothing = found().json().shows("nothing", |bundle| bundle.get("entry").is_none());
    let searchset = found().shows("a searchset", |bundle| bundle["type"] == "searchset");
    let far = |_: &Scene| of("2", "ge2040-01-01", "le2040-02-01");
    let today =
        |scene: &Scene| of("3", &format!("ge{}", scene.today), &format!("le{}", scene.today));
    let stopped = finds().says("the appointment cancelled", |heard, scene| {
        let all = heard.resources("Appointment");
        all.iter().any(|one| one["id"] == scene.id() && one["status"] == "cancelled")
    });
    vec![
        case(
            "plain: none are none",
            vec![
                row("far away", Given::Nothing, far, nothing.clone()),
                row("today", Given::Nothing, today, nothing),
            ],
        ),
        one("plain: the bundle is a searchset", row("booked", Given::Booked, usual, searchset)),
        one("plain: an appointment is found", row("booked", Given::Booked, usual, finds())),
        one(
            "plain: a cancelled one is found too",
            row("cancelled", Given::Cancelled, usual, stopped),
        ),
        one(
            "plain: no reason is told",
            row(
                "booked",
                Given::Booked,
                usual,
                every("no reason", |one| one.get("reason").is_none()),
            ),
        ),
        case(
            "plain: each appointment is whole",
            vec![
                row(
                    "version",
                    Given::Booked,
                    usual,
                    every("a version", |one| {
                        one["meta"]["versionId"].is_string()
                            && one["meta"]["profile"][0] == profile("GPConnect-Appointment-1")
                    }),
                ),
                row(
                    "channel",
                    Given::Booked,
                    usual,
                    every("a channel", |one| {
                        extension(one, "Extension-GPConnect-DeliveryChannel-2").is_some()
                    }),
                ),
            ],
        ),
    ]
}
