//! Bodies to the provider simulator, JSON and XML: whatever comes, the answer is no fault of its own.
//!
//! The first byte chooses the call and the form; the rest is the body.
#![no_main]

use std::sync::LazyLock;

use http::{Method, Request};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use spine_proxy::simulator::{Practice, Provider};
use spine_proxy::{claims, interaction};

const ASID: &str = "918999198993";
const BASE: &str = "/A20047/STU3/1/gpconnect";

const CALLS: [(Method, &str, &str); 4] = [
    (Method::POST, "rest:create:appointment-1", "/Appointment"),
    (Method::PUT, "rest:update:appointment-1", "/Appointment/1"),
    (Method::PUT, "rest:cancel:appointment-1", "/Appointment/1"),
    (Method::POST, "operation:gpc.registerpatient-1", "/Patient/$gpc.registerpatient"),
];

static PROVIDER: LazyLock<Provider> = LazyLock::new(|| {
    let practice =
        Practice::new("A20047".parse().unwrap(), ASID.parse().unwrap(), "Harbour Street", BASE);
    let provider = Provider::new(vec![practice], Timestamp::now());
    let booking = include_bytes!("../seeds/provider_body/booking.json");
    let status = ask(&provider, 0, &booking[1..]);
    assert!(status < 500);
    provider
});

fn ask(provider: &Provider, which: u8, body: &[u8]) -> u16 {
    let (method, short, path) = &CALLS[usize::from(which & 3)];
    let id = format!("urn:nhs:names:services:gpconnect:fhir:{short}");
    let scope = interaction::by_id(&id).unwrap().scope;
    let now = Timestamp::now();
    let organisation = "A00001".parse().unwrap();
    let token = claims::mint(&claims::specimen("https://x", &organisation, scope, now.as_second()));
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
    provider.answer(&head, body, now).status().as_u16()
}

fuzz_target!(|data: &[u8]| {
    let Some((which, body)) = data.split_first() else { return };
    let status = ask(&PROVIDER, *which, body);
    assert!(status < 500, "{status}");
});
