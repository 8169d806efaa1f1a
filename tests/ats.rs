//! The public GP Connect Automated Test Suite, as far as it concerns a Spine Secure Proxy: every
//! scenario of its feature files by name, with the rows of its examples.
//!
//! Each row runs twice: DIRECT, the client in the proxy's place against the simulator, and
//! THROUGH THE PROXY, the client in a consumer's place in front of the gateway. Where the two
//! answer differently, the row says so and why. Scenarios that cannot be tested are in [`CANNOT`].
#![expect(clippy::too_many_lines, reason = "the cases are tables")]

use gpconnect_simulator::pki::KeyKind;

mod amend;
mod book;
mod cancel;
mod case;
mod encode;
mod fhir;
mod hello;
mod http;
mod jwt;
mod location;
mod lookup;
mod organization;
mod patient;
mod practitioner;
mod put;
mod read;
mod register;
mod request;
mod resources;
mod retrieve;
mod rig;
mod slots;
mod tls;

use case::{Feature, Given};
use rig::{Leg, Rig};

/// Every feature file, in the suite's order.
const FEATURES: [Feature; 19] = [
    tls::SSP,
    tls::SECURITY,
    http::FEATURE,
    jwt::FEATURE,
    fhir::FEATURE,
    slots::FEATURE,
    book::FEATURE,
    retrieve::FEATURE,
    amend::FEATURE,
    cancel::FEATURE,
    read::FEATURE,
    register::FEATURE,
    patient::SEARCH,
    patient::READ,
    organization::SEARCH,
    organization::READ,
    practitioner::SEARCH,
    practitioner::READ,
    location::FEATURE,
];

const CIPHERS: &str = "CBC and DHE suites: rustls has neither, on purpose";
const CORS: &str = "OPTIONS: SSP wants 200 and Http wants anything but 200 of one and the same \
     request; and Access-Control-Request-Method is a header of requests, not of answers";

/// What cannot be had of us: scenario, rows, the reason.
const CANNOT: [(&str, usize, &str); 3] = [
    ("SSP - Connect with valid Cipher", 6, CIPHERS),
    ("Security - Connect with valid Cipher", 6, CIPHERS),
    ("SSP - CORS", 17, CORS),
];

/// Plays all rows of a feature on one leg; all that fail are told together.
async fn play(name: &str, leg: Leg) {
    let feature = FEATURES.iter().find(|feature| feature.name == name).unwrap();
    let cases = (feature.list)();
    let rows = || cases.iter().flat_map(|case| &case.rows);
    let newcomers = rows().filter(|row| row.given == Given::Newcomer).count();
    let ciphers = ["SSP", "Security"].contains(&name);
    let key = if ciphers { KeyKind::Rsa } else { KeyKind::Ecdsa };
    let rig = Rig::start(leg, newcomers, key).await;
    let mut failures = Vec::new();
    for case in &cases {
        for row in &case.rows {
            let faults = match rig.prepare(row.given).await {
                Ok(scene) => {
                    let heard = rig.send(&(row.request)(&scene)).await;
                    let expect = if leg == Leg::Direct { &row.direct } else { &row.proxied };
                    expect.judge(&heard, &scene)
                }
                Err(missing) => vec![format!("{:?} could not be had: {missing}", row.given)],
            };
            if !faults.is_empty() {
                let faults = faults.join("; ");
                failures
                    .push(format!("{name} / {} / {} / {leg:?}: {faults}", case.scenario, row.name));
            }
        }
    }
    let (failed, all) = (failures.len(), rows().count());
    assert!(failures.is_empty(), "{failed} of {all} rows failed:\n{}", failures.join("\n"));
}

/// How much of a feature is covered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) feature: &'static str,
    pub(crate) scenarios: usize,
    pub(crate) cases: usize,
    /// Cases that are played, on each leg.
    pub(crate) covered: usize,
    /// Of these, the ones that the proxy answers itself, differently from a provider.
    pub(crate) differing: usize,
}

/// Counts what is covered of each feature.
pub(crate) fn tally() -> Vec<Tally> {
    let count = |feature: &Feature| {
        let cases = (feature.list)();
        let rows = || cases.iter().flat_map(|case| &case.rows);
        Tally {
            feature: feature.name,
            scenarios: cases.len(),
            cases: cases.iter().map(|case| case.rows.len() + case.cannot).sum(),
            covered: rows().count(),
            differing: rows().filter(|row| row.why.is_some()).count(),
        }
    };
    FEATURES.iter().map(count).collect()
}

/// The tally as docs/test/suite.md has it.
pub(crate) fn table() -> String {
    let head = "| feature | scenarios | cases | covered | direct | through the proxy |\n\
                |---|---|---|---|---|---|\n";
    let line = |name: &str, counts: [usize; 4], differing: usize| {
        let [scenarios, cases, covered, direct] = counts;
        let proxied = match differing {
            0 => covered.to_string(),
            some => format!("{covered}, {some} of them answered by the proxy itself"),
        };
        format!("| {name} | {scenarios} | {cases} | {covered} | {direct} | {proxied} |\n")
    };
    let tally = tally();
    let lines = tally.iter().map(|one| {
        line(one.feature, [one.scenarios, one.cases, one.covered, one.covered], one.differing)
    });
    let sum = |of: fn(&Tally) -> usize| tally.iter().map(of).sum::<usize>();
    let covered = sum(|one| one.covered);
    let counts = [sum(|one| one.scenarios), sum(|one| one.cases), covered, covered];
    let total = line("total", counts, sum(|one| one.differing));
    format!("{head}{}{total}", lines.collect::<String>())
}

#[test]
fn every_scenario_and_case_of_the_suite_is_here() {
    for (feature, counted) in FEATURES.iter().zip(tally()) {
        let told = (feature.scenarios, feature.cases);
        assert_eq!((counted.scenarios, counted.cases), told, "{}", feature.name);
    }
    let table = table();
    assert_eq!(table.lines().count(), FEATURES.len() + 3, "{table}");
    let page = std::fs::read_to_string("docs/test/suite.md").unwrap();
    assert!(page.contains(&table), "the table of docs/test/suite.md is another one:\n{table}");
    for (scenario, rows, why) in CANNOT {
        let line = format!("| {scenario} | {rows} | {why} |");
        assert!(page.contains(&line), "docs/test/suite.md lacks: {line}");
    }
}

#[test]
fn no_scenario_is_here_twice() {
    for feature in &FEATURES {
        let mut names: Vec<_> = (feature.list)().iter().map(|case| case.scenario).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{}", feature.name);
    }
}

#[test]
fn what_cannot_be_had_has_its_reason() {
    let cases = FEATURES.iter().flat_map(|feature| (feature.list)());
    let cannot: Vec<_> = cases.filter(|case| case.cannot > 0).collect();
    assert_eq!(cannot.len(), CANNOT.len());
    for (scenario, rows, why) in CANNOT {
        let case = cannot.iter().find(|case| case.scenario == scenario);
        assert_eq!(case.map(|case| case.cannot), Some(rows), "{scenario}");
        assert!(!why.is_empty());
    }
}

#[tokio::test]
async fn ssp_direct() {
    play("SSP", Leg::Direct).await;
}

#[tokio::test]
async fn ssp_through_the_proxy() {
    play("SSP", Leg::Proxied).await;
}

#[tokio::test]
async fn security_direct() {
    play("Security", Leg::Direct).await;
}

#[tokio::test]
async fn security_through_the_proxy() {
    play("Security", Leg::Proxied).await;
}

#[tokio::test]
async fn http_direct() {
    play("Http", Leg::Direct).await;
}

#[tokio::test]
async fn http_through_the_proxy() {
    play("Http", Leg::Proxied).await;
}

#[tokio::test]
async fn jwt_direct() {
    play("JWT", Leg::Direct).await;
}

#[tokio::test]
async fn jwt_through_the_proxy() {
    play("JWT", Leg::Proxied).await;
}

#[tokio::test]
async fn fhir_direct() {
    play("FHIR", Leg::Direct).await;
}

#[tokio::test]
async fn fhir_through_the_proxy() {
    play("FHIR", Leg::Proxied).await;
}

#[tokio::test]
async fn search_for_free_slots_direct() {
    play("SearchForFreeSlots", Leg::Direct).await;
}

#[tokio::test]
async fn search_for_free_slots_through_the_proxy() {
    play("SearchForFreeSlots", Leg::Proxied).await;
}

#[tokio::test]
async fn appointment_book_direct() {
    play("AppointmentBook", Leg::Direct).await;
}

#[tokio::test]
async fn appointment_book_through_the_proxy() {
    play("AppointmentBook", Leg::Proxied).await;
}

#[tokio::test]
async fn appointment_retrieve_direct() {
    play("AppointmentRetrieve", Leg::Direct).await;
}

#[tokio::test]
async fn appointment_retrieve_through_the_proxy() {
    play("AppointmentRetrieve", Leg::Proxied).await;
}

#[tokio::test]
async fn appointment_amend_direct() {
    play("AppointmentAmend", Leg::Direct).await;
}

#[tokio::test]
async fn appointment_amend_through_the_proxy() {
    play("AppointmentAmend", Leg::Proxied).await;
}

#[tokio::test]
async fn appointment_cancel_direct() {
    play("AppointmentCancel", Leg::Direct).await;
}

#[tokio::test]
async fn appointment_cancel_through_the_proxy() {
    play("AppointmentCancel", Leg::Proxied).await;
}

#[tokio::test]
async fn appointment_read_direct() {
    play("AppointmentRead", Leg::Direct).await;
}

#[tokio::test]
async fn appointment_read_through_the_proxy() {
    play("AppointmentRead", Leg::Proxied).await;
}

#[tokio::test]
async fn patient_register_direct() {
    play("PatientRegister", Leg::Direct).await;
}

#[tokio::test]
async fn patient_register_through_the_proxy() {
    play("PatientRegister", Leg::Proxied).await;
}

#[tokio::test]
async fn patient_search_direct() {
    play("PatientSearch", Leg::Direct).await;
}

#[tokio::test]
async fn patient_search_through_the_proxy() {
    play("PatientSearch", Leg::Proxied).await;
}

#[tokio::test]
async fn patient_read_direct() {
    play("PatientRead", Leg::Direct).await;
}

#[tokio::test]
async fn patient_read_through_the_proxy() {
    play("PatientRead", Leg::Proxied).await;
}

#[tokio::test]
async fn organization_search_direct() {
    play("OrganizationSearch", Leg::Direct).await;
}

#[tokio::test]
async fn organization_search_through_the_proxy() {
    play("OrganizationSearch", Leg::Proxied).await;
}

#[tokio::test]
async fn organization_read_direct() {
    play("OrganizationRead", Leg::Direct).await;
}

#[tokio::test]
async fn organization_read_through_the_proxy() {
    play("OrganizationRead", Leg::Proxied).await;
}

#[tokio::test]
async fn practitioner_search_direct() {
    play("PractitionerSearch", Leg::Direct).await;
}

#[tokio::test]
async fn practitioner_search_through_the_proxy() {
    play("PractitionerSearch", Leg::Proxied).await;
}

#[tokio::test]
async fn practitioner_read_direct() {
    play("PractitionerRead", Leg::Direct).await;
}

#[tokio::test]
async fn practitioner_read_through_the_proxy() {
    play("PractitionerRead", Leg::Proxied).await;
}

#[tokio::test]
async fn location_read_direct() {
    play("LocationRead", Leg::Direct).await;
}

#[tokio::test]
async fn location_read_through_the_proxy() {
    play("LocationRead", Leg::Proxied).await;
}

/// Not of the suite: a harness asks the provider behind the proxy to fail, and hears what a consumer
/// would. Whether the booking was made all the same is seen by making it again.
#[tokio::test]
async fn what_is_asked_to_go_wrong_goes_wrong_behind_the_proxy() {
    let rig = Rig::start(Leg::Proxied, 0, KeyKind::Ecdsa).await;
    for (words, status, made) in [
        ("none", 201, true),
        ("no-content-length", 201, true),
        ("delay=20ms; close", 201, true),
        ("status=503", 503, false),
        ("status-after=500", 500, true),
        ("html", 502, false),
        ("garbage", 502, false),
        ("reset", 502, false),
        ("reset-after", 502, true),
        ("continue=3", 201, true),
        ("early; status=409", 409, false),
        ("nonsense", 400, false),
    ] {
        let scene = rig.prepare(Given::Slots).await.unwrap();
        let book = || {
            request::ask("rest:create:appointment-1", "/Appointment")
                .resource(resources::booking(&scene))
        };
        let heard = rig.send(&book().set("x-simulate", words)).await.unwrap();
        assert_eq!(heard.status, status, "{words}: {heard:?}");
        let again = rig.send(&book()).await.unwrap();
        assert_eq!(again.status, if made { 409 } else { 201 }, "{words}: {again:?}");
    }
}
