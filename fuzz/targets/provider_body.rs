//! Bodies to the provider simulator, JSON and XML. Whatever comes, the answer is no fault of its own, is
//! in the form that was asked for, and is an `OperationOutcome` if and only if it says no.
//!
//! The first byte chooses the call and the form; the rest is the body.

use std::sync::LazyLock;

use gpconnect_simulator::{SimulatedPractice, SimulatedProvider};
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::Value;
use spine_proxy::claims;
use spine_types::interaction;

const ASID: &str = "918999198993";
const BASE: &str = "/A20047/STU3/1/gpconnect";

const CALLS: [(Method, &str, &str); 4] = [
    (Method::POST, "rest:create:appointment-1", "/Appointment"),
    (Method::PUT, "rest:update:appointment-1", "/Appointment/1"),
    (Method::PUT, "rest:cancel:appointment-1", "/Appointment/1"),
    (Method::POST, "operation:gpc.registerpatient-1", "/Patient/$gpc.registerpatient"),
];

/// A practice with an appointment booked.
static PROVIDER: LazyLock<SimulatedProvider> = LazyLock::new(|| {
    let practice = SimulatedPractice::new(
        "A20047".parse().unwrap(),
        ASID.parse().unwrap(),
        "Harbour Street",
        BASE,
    );
    let provider = SimulatedProvider::new(vec![practice], now());
    let booking = include_bytes!("../seeds/provider_body/booking.json");
    let (status, said) = ask(&provider, 0, &booking[1..]);
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&said));
    provider
});

/// A working day on which the slots that the seeds book are free.
fn now() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

pub(crate) fn check(data: &[u8]) {
    let Some((which, body)) = data.split_first() else { return };
    let (status, said) = ask(&PROVIDER, *which, body);
    assert!(status < 500, "{status}");
    let is_outcome = if which & 4 == 0 {
        let said: Value = serde_json::from_slice(&said).expect("JSON");
        said["resourceType"] == "OperationOutcome"
    } else {
        let said = String::from_utf8(said).expect("text");
        said.contains("<OperationOutcome xmlns=")
    };
    assert_eq!(is_outcome, status >= 400, "{status}");
}

fn ask(provider: &SimulatedProvider, which: u8, body: &[u8]) -> (u16, Vec<u8>) {
    let (method, short, path) = &CALLS[usize::from(which & 3)];
    let id = format!("urn:nhs:names:services:gpconnect:fhir:{short}");
    let scope = interaction::by_id(&id).unwrap().scope;
    let organisation = "A00001".parse().unwrap();
    // Tokens are judged by the real time whatever the practice's clock says.
    let issued_s = Timestamp::now().as_second();
    let claims = claims::example_claims("https://x", &organisation, scope, issued_s);
    let token = claims::mint(&claims);
    let form = if which & 4 == 0 { "application/fhir+json" } else { "application/fhir+xml" };
    let request = Request::builder()
        .method(method.clone())
        .uri(format!("{BASE}{path}"))
        .header("Ssp-TraceID", "t")
        .header("Ssp-From", "200000000359")
        .header("Ssp-To", ASID)
        .header("Ssp-InteractionID", id)
        .header("Authorization", format!("Bearer {token}"))
        .header("Content-Type", form)
        .body(())
        .unwrap();
    let (head, ()) = request.into_parts();
    let answer = provider.answer(&head, body, now());
    (answer.status().as_u16(), answer.body().to_vec())
}
