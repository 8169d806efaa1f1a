//! Tests of whole sessions with a practice.

use std::sync::Barrier;

use serde_json::json;

use super::stage::{ASID, BASE, Stage, booking_of, claims, code_of, now, practices, token_of};
use super::*;

#[test]
fn a_session_reads_back_its_changes() {
    let stage = Stage::new();
    let slot = stage.free_slots().remove(0);
    let (status, _, found) =
        stage.get("search:patient-1", &Stage::patient_by(&people()[1].nhs_number));
    assert_eq!((status, found["entry"][0]["resource"]["id"].clone()), (200, json!("2")));

    let (status, headers, booked) = stage.book(&booking_of(&[&slot], "2"));
    assert_eq!(status, 201, "{booked}");
    assert_eq!(headers["location"], "Appointment/1/_history/1");
    assert_eq!(headers["etag"], "W/\"1\"");
    assert!(!stage.free_slots().iter().any(|free| free["id"] == slot["id"]));
    let (_, _, retrieved) = stage.retrieve("2");
    assert_eq!(retrieved["entry"][0]["resource"], booked);

    let mut amended = booked;
    amended["description"] = json!("amended");
    let (status, headers, amended) = stage.put("update", "1", Some("W/\"1\""), &amended);
    assert_eq!((status, &headers["etag"]), (200, &"W/\"2\"".parse().unwrap()), "{amended}");
    let (status, headers, read) = stage.get("read:appointment-1", "/Appointment/1");
    assert_eq!((status, read["description"].clone()), (200, json!("amended")));
    assert_eq!((&headers["etag"], &read), (&"W/\"2\"".parse().unwrap(), &amended));

    let cancelled = Stage::cancelled(&read, "patient asked");
    let (status, _, cancelled) = stage.put("cancel", "1", Some("W/\"2\""), &cancelled);
    assert_eq!((status, cancelled["meta"]["versionId"].clone()), (200, json!("3")), "{cancelled}");
    assert!(stage.free_slots().iter().any(|free| free["id"] == slot["id"]));
    assert_eq!(stage.retrieve("2").2["entry"][0]["resource"]["status"], "cancelled");
}

#[test]
fn only_one_of_concurrent_bookings_of_a_slot_succeeds() {
    let stage = Stage::new();
    for slot in stage.free_slots().iter().take(20) {
        let body = booking_of(&[slot], "1");
        let start = Barrier::new(4);
        let mut statuses: Vec<u16> = std::thread::scope(|scope| {
            let book = || {
                start.wait();
                stage.book(&body).0
            };
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(book)).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409]);
    }
}

#[test]
fn every_request_needs_its_headers_and_its_interaction() {
    let stage = Stage::new();
    let id = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1";
    let bearer = format!("Bearer {}", token_of(&claims(id)));
    let all = [
        ("Ssp-TraceID", "t"),
        ("Ssp-From", "200000000359"),
        ("Ssp-To", ASID),
        ("Ssp-InteractionID", id),
        ("Authorization", &*bearer),
    ];
    let outcome = |path: &str, headers: &[(&str, &str)]| {
        let (status, _, body) = stage.send(Method::GET, path, headers, b"");
        let code = body.pointer("/issue/0/details/coding/0/code").cloned();
        (status, code.unwrap_or_default())
    };
    let here = format!("{BASE}/metadata");
    assert_eq!(outcome(&here, &all).0, 200);
    for (left_out, (name, _)) in all.iter().enumerate() {
        let mut some = all.to_vec();
        some[left_out].1 = " ";
        assert_eq!(outcome(&here, &some), (400, json!("BAD_REQUEST")), "{name} blank");
        some.remove(left_out);
        assert_eq!(outcome(&here, &some), (400, json!("BAD_REQUEST")), "{name} missing");
    }
    let mut other = all;
    other[2].1 = "200000000999";
    let (_, _, body) = stage.send(Method::GET, &here, &other, b"");
    assert_eq!(body["issue"][0]["diagnostics"], "Ssp-To header does not match ASID of system");
    assert_eq!(outcome(&format!("{BASE}/Slot"), &all), (400, json!("BAD_REQUEST")));
    assert_eq!(outcome(&format!("{BASE}/Metadata"), &all), (400, json!("BAD_REQUEST")));
    assert_eq!(stage.send(Method::DELETE, &here, &all, b"").0, 400);
    for path in ["/elsewhere/metadata", &format!("{BASE}X/metadata"), BASE] {
        assert_eq!(outcome(path, &all), (404, json!("NO_RECORD_FOUND")), "{path}");
    }
    other[2] = ("Ssp-To", ASID);
    other[3].1 = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-2";
    assert_eq!(outcome(&here, &other), (400, json!("BAD_REQUEST")));
}

#[test]
fn practices_have_separate_appointments() {
    let stage = Stage::new();
    let slot = stage.free_slots().remove(0);
    let body = booking_of(&[&slot], "1");
    assert_eq!(stage.book(&body).0, 201);
    let elsewhere = stage.elsewhere();
    assert_eq!(elsewhere.get("read:appointment-1", "/Appointment/1").0, 404);
    assert_eq!(elsewhere.book(&body).0, 201);
    assert_eq!(elsewhere.book(&body).0, 409);
}

#[test]
fn requests_are_remembered_up_to_a_limit() {
    let stage = Stage::new();
    for n in 0..RECEIVED_MAX + 3 {
        stage.get("read:metadata-1", &format!("/metadata?n={n}"));
    }
    let received = stage.provider.received();
    assert_eq!(received.len(), RECEIVED_MAX);
    assert_eq!(received[0].target, format!("{BASE}/metadata?n=3"));
    assert_eq!(received[0].headers["ssp-to"], ASID);
}

#[test]
fn interactions_and_formats_that_are_not_simulated_are_refused() {
    let stage = Stage::new();
    let path = "/Patient/$gpc.getstructuredrecord";
    let id = "operation:gpc.getstructuredrecord-1";
    let (status, _, body) = stage.call(id, path, &[], b"{}");
    assert!(status == 400 || status == 501, "{body}");
    let other = [("Content-Type", "text/plain")];
    let create = "create:appointment-1";
    assert_eq!(stage.call(create, "/Appointment", &other, b"x").0, 415);
}

#[test]
fn a_session_can_use_xml() {
    let stage = Stage::new();
    let slot = stage.free_slots().remove(0);
    let (xml, format) = ("application/fhir+xml", ResourceFormat::Xml);
    let body = format.write(&booking_of(&[&slot], "2"));
    let create = "create:appointment-1";
    let headers =
        [("Content-Type", xml), ("Accept-Encoding", "gzip"), ("Host", "gp.example.nhs.uk")];
    let response = stage.call_unparsed(create, "/Appointment", &headers, body.as_bytes());
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["content-type"], "application/fhir+xml;charset=utf-8");
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let location = format!("https://gp.example.nhs.uk{BASE}/Appointment/1/_history/1");
    assert_eq!(response.headers()["location"], location);
    let mut plain = Vec::new();
    let mut unpacked = flate2::read::GzDecoder::new(response.body().as_ref());
    std::io::Read::read_to_end(&mut unpacked, &mut plain).unwrap();
    let booked = format.read(&plain).unwrap();
    assert_eq!(stage.get("read:appointment-1", "/Appointment/1").2, booked);
    let path = "/Appointment/1?_format=application%2Ffhir%2Bxml";
    let read = "read:appointment-1";
    let response = stage.call_unparsed(read, path, &[], b"");
    assert_eq!(format.read(response.body()).unwrap(), booked);
    let missing = stage.call_unparsed(read, "/Appointment/2", &[("Accept", xml)], b"");
    assert_eq!(missing.status(), 404);
    assert!(missing.body().starts_with(b"<?xml"), "{missing:?}");
    let turtle = stage.call_unparsed(read, "/Appointment/1", &[("Accept", "text/turtle")], b"");
    assert_eq!(turtle.status(), 415);
}

#[test]
fn a_practice_that_is_switched_off_returns_only_its_capability_statement() {
    let mut switched_off = practices();
    switched_off[0].switched_off = true;
    let stage = Stage::of(SimulatedProvider::new(switched_off, now()));
    assert_eq!(stage.get("read:metadata-1", "/metadata").0, 200);
    let (status, _, body) = stage.get("read:patient-1", "/Patient/1");
    assert_eq!((status, code_of(&body)), (403, "ACCESS_DENIED"));
    assert_eq!(stage.elsewhere().get("read:patient-1", "/Patient/1").0, 200);
}

#[test]
fn data_survive_a_restart_until_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("provider.redb");
    let open = || Stage::of(SimulatedProvider::open(practices(), Some(&file), now()).unwrap());
    let stage = open();
    let slot = stage.free_slots().remove(0);
    let (status, _, booked) = stage.book(&booking_of(&[&slot], "1"));
    assert_eq!(status, 201, "{booked}");
    let free = stage.free_slots();
    drop(stage);
    let stage = open();
    assert_eq!(stage.free_slots(), free);
    assert_eq!(stage.get("read:appointment-1", "/Appointment/1").2, booked);
    assert_eq!(stage.book(&booking_of(&[&slot], "1")).0, 409);
    assert_eq!(stage.provider.bookings(None).len(), 1);
    let other = "B82617".parse().unwrap();
    assert_eq!(stage.provider.reset(Some(&other), now()).unwrap(), 1);
    assert_eq!(stage.provider.bookings(None).len(), 1);
    assert_eq!(stage.provider.reset(None, now()).unwrap(), 2);
    assert_eq!(stage.free_slots().len(), free.len() + 1);
    drop(stage);
    assert_eq!(open().get("read:appointment-1", "/Appointment/1").0, 404);
}
