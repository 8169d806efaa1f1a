//! Booking: checks a sent appointment and stores it.
//!
//! The resource is checked completely before the state of its slots, so that a slot is refused as
//! taken only to a consumer that could have booked it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::local_time::{self, TimePeriod};
use super::profile_rules::{judge_appointment, judge_organisation};
use super::reply::{InteractionResult, ReplyFault, ResourceReply, SpineErrorCode, require};
use super::slots::SessionSlot;
use super::state::{Booking, Change, SlotState};
use super::store::{Store, number};
use super::{Call, fhir};

/// Spec: `POST /Appointment`, which books adjacent slots for a patient.
pub(super) fn create(store: &Store, call: &Call<'_>) -> InteractionResult {
    let sent = call.resource()?;
    judge_appointment(&sent)?;
    require(!sent.contains_key("id"), "a new appointment must not have an id")?;
    let sent = Value::Object(sent);
    require(
        fhir::text(&sent, "/status") == Some("booked"),
        "the status of a new appointment must be booked",
    )?;
    let reason = fhir::extension(&sent, fhir::CANCELLATION_REASON);
    require(reason.is_none(), "a new appointment must not have a cancellation reason")?;
    let organisation = judge_organisation(&sent)?;

    let slots = find_slots(store, &sent)?;
    let period = judge_times(&sent, &slots, call.now)?;
    let first = *slots.first().ok_or_else(|| ReplyFault::resource("there is no slot"))?;
    let patient = judge_participants(store, &sent, first)?;
    require(first.is_released(call.now), "the slot is not offered to consumers")?;
    require(organisation.may_book(first.session), "the slot is reserved for other organisations")?;
    if slots.iter().any(|offered| offered.slot.state == SlotState::Busy) {
        return Err(ReplyFault::new(
            SpineErrorCode::DuplicateRejected,
            "the slot is no longer free",
        ));
    }

    let slots: Vec<u32> = slots.iter().map(|slot| slot.id).collect();
    let id = store.next_booking();
    let resource = completed(sent.clone(), id, period, first);
    let mut changes = store.changes_to_state(&slots, SlotState::Busy);
    let start = period.start;
    let booking = Booking { patient, slots, start, version: 1, resource: resource.clone() };
    changes.push(Change::Booking(id, booking));
    let location = format!("Appointment/{id}/_history/1");
    Ok(ResourceReply::created(resource, location).with_changes(changes))
}

/// Returns the requested slots, free or not; they must be adjacent and of one schedule.
fn find_slots<'a>(store: &'a Store, sent: &Value) -> Result<Vec<SessionSlot<'a>>, ReplyFault> {
    let find = |reference: &Value| {
        let id = number(fhir::referred(fhir::text(reference, "/reference")?, "Slot")?)?;
        SessionSlot::of(store, id, store.slots().get(&id)?)
    };
    let slots: Option<Vec<_>> = fhir::items(sent, "/slot").iter().map(find).collect();
    let slots = slots.ok_or_else(|| {
        ReplyFault::resource("a slot reference does not name a slot of this practice")
    })?;
    require(!slots.is_empty(), "an appointment must have at least one slot")?;
    let adjacent = slots.iter().zip(slots.iter().skip(1)).all(|(before, after)| {
        let (before, after) = (before.slot, after.slot);
        before.end == after.start
            && before.schedule == after.schedule
            && before.channel == after.channel
    });
    require(adjacent, "the slots are not adjacent slots of one schedule and delivery channel")?;
    Ok(slots)
}

/// Checks the times of an appointment; returns the period of its slots.
fn judge_times(
    sent: &Value,
    slots: &[SessionSlot<'_>],
    now: Timestamp,
) -> Result<TimePeriod, ReplyFault> {
    let bounds = slots.first().zip(slots.last());
    let bounds = bounds.map(|(first, last)| (first.slot.start, last.slot.end));
    let time = |name: &str| fhir::text(sent, name).and_then(|text| text.parse::<Timestamp>().ok());
    let named = time("/start").zip(time("/end"));
    require(named.is_some() && named == bounds, "start and end are not those of the slots")?;
    require(time("/created").is_some(), "created is missing or not a time")?;
    let (start, end) = named.ok_or_else(|| ReplyFault::resource("start and end are missing"))?;
    require(start > now, "the appointment would begin in the past")?;
    let minutes = sent.get("minutesDuration");
    let expected = json!(start.duration_until(end).as_mins());
    require(
        minutes.is_none_or(|given| *given == expected),
        "minutesDuration is not that of the slots",
    )?;
    Ok(TimePeriod { start, end })
}

/// Checks the participants; returns the patient's id.
fn judge_participants(
    store: &Store,
    sent: &Value,
    booked: SessionSlot<'_>,
) -> Result<u32, ReplyFault> {
    let SessionSlot { slot, session, .. } = booked;
    let (mut patient, mut has_location) = (None, false);
    for participant in fhir::items(sent, "/participant") {
        let reference = fhir::text(participant, "/actor/reference").unwrap_or_default();
        let id = |kind: &str| fhir::referred(reference, kind).and_then(number);
        if let Some(found) =
            id("Patient").filter(|id| store.resource_by_number("Patient", *id).is_some())
        {
            require(patient.is_none_or(|other| other == found), "there is more than one patient")?;
            patient = Some(found);
        } else if id("Location") == Some(session.location) {
            has_location = true;
        } else {
            let is_practitioner = id("Practitioner") == Some(session.practitioner);
            require(
                is_practitioner,
                "a participant is not of this practice or not of the slot's schedule",
            )?;
        }
    }
    require(has_location, "no participant is the location of the slot")?;
    let same =
        |name: &str, ours: &Value| fhir::extension(sent, name).is_none_or(|theirs| theirs == ours);
    let channel = same(fhir::DELIVERY_CHANNEL, &fhir::delivery_channel(slot));
    require(channel, "the delivery channel is not that of the slot")?;
    let role = same(fhir::PRACTITIONER_ROLE, &fhir::practitioner_role(session));
    require(role, "the practitioner role is not that of the schedule")?;
    patient.ok_or_else(|| ReplyFault::resource("no participant is a patient"))
}

/// Returns the appointment to store: the sent one, completed from its slot and schedule.
fn completed(mut sent: Value, id: u32, period: TimePeriod, booked: SessionSlot<'_>) -> Value {
    let SessionSlot { slot, session, .. } = booked;
    let mut extensions = fhir::items(&sent, "/extension").to_vec();
    for (name, ours) in [
        (fhir::DELIVERY_CHANNEL, fhir::delivery_channel(slot)),
        (fhir::PRACTITIONER_ROLE, fhir::practitioner_role(session)),
    ] {
        if fhir::extension(&sent, name).is_none() {
            extensions.push(ours);
        }
    }
    let created = fhir::text(&sent, "/created").and_then(|text| text.parse().ok());
    if let Some(fields) = sent.as_object_mut() {
        let profile = fhir::profile("GPConnect-Appointment-1");
        let elements = [
            ("id", json!(id.to_string())),
            ("meta", json!({ "versionId": "1", "profile": [profile] })),
            ("extension", extensions.into()),
            ("serviceCategory", json!({ "text": session.service_category })),
            ("serviceType", json!([{ "text": session.service_type }])),
            ("start", json!(local_time::text(period.start))),
            ("end", json!(local_time::text(period.end))),
            ("created", json!(created.map(local_time::text))),
        ];
        fields.extend(elements.map(|(name, value)| (name.to_owned(), value)));
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, booking_of, code_of};
    use super::*;

    /// Sets the value at a place, or removes it if the value is null.
    fn with(mut body: Value, place: &str, value: Value) -> Value {
        let (parent, last) = place.rsplit_once('/').unwrap();
        let parent = body.pointer_mut(parent).unwrap();
        if let Some(fields) = parent.as_object_mut() {
            fields.retain(|name, _| name != last);
            fields.extend((!value.is_null()).then_some((last.to_owned(), value)));
        } else if let Some(list) = parent.as_array_mut() {
            let at: usize = last.parse().unwrap();
            list.splice(at..=at, (!value.is_null()).then_some(value));
        }
        body
    }

    #[test]
    fn an_appointment_is_completed_from_its_slot() {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        let mut body = booking_of(&[&slot], "3");
        body["start"] = json!("2026-03-26T10:00:00+01:00");
        body["created"] = json!("2026-03-25T10:00:00.123Z");
        let (status, _, booked) = stage.book(&body);
        assert_eq!(status, 201, "{booked}");
        assert_eq!(booked["start"], slot["start"]);
        assert_eq!(booked["created"], "2026-03-25T10:00:00+00:00");
        assert_eq!(
            fhir::extension(&booked, fhir::DELIVERY_CHANNEL).unwrap()["valueCode"],
            "In-person"
        );
        assert!(fhir::extension(&booked, fhir::PRACTITIONER_ROLE).is_some());
        assert_eq!(booked["serviceType"][0]["text"], "General GP Appointment");
        assert_eq!(booked["contained"], body["contained"]);
    }

    #[test]
    fn an_extension_must_be_of_the_profile_and_given_once() {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        let url = |name: &str| fhir::profile(name);
        for extra in [
            json!({ "url": "https://else.example/", "valueString": "x" }),
            json!({ "url": url(fhir::CANCELLATION_REASON), "valueString": "x" }),
            json!({ "url": url(fhir::BOOKING_ORGANISATION), "valueReference": { "reference": "#1" } }),
            json!({ "url": url(fhir::DELIVERY_CHANNEL), "valueCode": "Video" }),
        ] {
            let mut body = booking_of(&[&slot], "1");
            body["extension"].as_array_mut().unwrap().push(extra.clone());
            assert_eq!(stage.book(&body).0, 422, "{extra}");
        }
        let mut body = booking_of(&[&slot], "1");
        let channel = json!({ "url": url(fhir::DELIVERY_CHANNEL), "valueCode": "In-person" });
        body["extension"].as_array_mut().unwrap().push(channel);
        assert_eq!(stage.book(&body).0, 201);
    }

    #[test]
    fn adjacent_slots_make_one_appointment() {
        let stage = Stage::new();
        let slots = stage.free_slots();
        let (status, _, body) = stage.book(&booking_of(&[&slots[0], &slots[1]], "1"));
        assert_eq!(status, 201, "{body}");
        assert_eq!(stage.free_slots().len(), slots.len() - 2);
        for pair in [[&slots[2], &slots[4]], [&slots[4], &slots[3]], [&slots[5], &slots[5]]] {
            assert_eq!(stage.book(&booking_of(&pair, "1")).0, 422);
        }
    }

    #[test]
    fn a_taken_slot_is_a_duplicate() {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        assert_eq!(stage.book(&booking_of(&[&slot], "1")).0, 201);
        let (status, _, body) = stage.book(&booking_of(&[&slot], "2"));
        assert_eq!((status, code_of(&body)), (409, "DUPLICATE_REJECTED"));
        assert_eq!(body["issue"][0]["code"], "duplicate");
    }

    #[test]
    fn a_consumer_can_prefer_a_response_without_a_body() {
        let stage = Stage::new();
        let body = booking_of(&[&stage.free_slots()[0]], "1").to_string();
        let prefer = [("Prefer", "return=minimal"), ("Content-Type", "application/fhir+json")];
        let create = "create:appointment-1";
        let (status, headers, body) = stage.call(create, "/Appointment", &prefer, body.as_bytes());
        assert_eq!((status, body), (201, Value::Null));
        assert_eq!(headers["etag"], "W/\"1\"");
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of every invalid booking")]
    fn a_booking_that_breaks_a_rule_is_refused_and_changes_nothing() {
        let stage = Stage::new();
        let slots = stage.free_slots();
        let good = booking_of(&[&slots[0]], "1");
        let extension = |name: &str| json!({ "url": fhir::profile(name), "valueCode": "Video" });
        for (place, value) in [
            ("/resourceType", json!("Bundle")),
            ("/id", json!("7")),
            ("/meta", Value::Null),
            ("/meta/profile", json!([])),
            ("/status", Value::Null),
            ("/status", json!("pending")),
            ("/description", Value::Null),
            ("/description", json!(" ")),
            ("/description", json!("x".repeat(101))),
            ("/comment", json!("x".repeat(501))),
            ("/comment", json!(7)),
            ("/identifier", json!([{ "use": "usual", "system": "x", "value": "1" }])),
            ("/participant/0/status", json!("bogus")),
            (
                "/participant",
                json!([good["participant"][0], good["participant"][0], good["participant"][1]]),
            ),
            ("/contained", json!([good["contained"][0], good["contained"][0]])),
            ("/implicitRules", json!("https://else.example/")),
            ("/text", json!({ "status": "generated" })),
            (
                "/text",
                json!({ "status": "generated", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\"><script>x</script></div>" }),
            ),
            (
                "/text",
                json!({ "status": "generated", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\"><p onclick=\"x\">x</p></div>" }),
            ),
            ("/contained/0/telecom/0/system", json!("bogus")),
            ("/contained/0/meta", Value::Null),
            ("/contained/0/type", json!([{ "text": "urgent-care" }])),
            (
                "/contained/0/type",
                json!([{ "coding": [{ "system": fhir::ORGANISATION_TYPE, "code": "banana" }] }]),
            ),
            ("/description", json!(format!("x{}", " ".repeat(100)))),
            ("/created", Value::Null),
            ("/created", json!("yesterday")),
            ("/start", Value::Null),
            ("/start", json!("2026-03-26T09:00:01+00:00")),
            ("/end", Value::Null),
            ("/end", json!("2026-03-26T09:20:00+00:00")),
            ("/slot", Value::Null),
            ("/slot", json!([])),
            ("/slot/0/reference", json!("Slot/hello")),
            ("/slot/0/reference", json!("Slot/45555g55555")),
            ("/slot/0/reference", json!("Slot/99999")),
            ("/slot/0/reference", json!("https://p.nhs.uk/Slot/1")),
            ("/participant", Value::Null),
            ("/participant/0", Value::Null),
            ("/participant/1", Value::Null),
            ("/participant/0/status", Value::Null),
            ("/participant/0/actor", Value::Null),
            ("/participant/0/actor/reference", json!("Patient/99")),
            ("/participant/0/actor/reference", json!("https://p.nhs.uk/Patient/1")),
            ("/participant/1/actor/reference", json!("Location/2")),
            ("/participant/1/actor/reference", json!("Practitioner/1")),
            ("/contained", Value::Null),
            ("/contained/0/id", json!("2")),
            ("/contained/0/name", Value::Null),
            ("/contained/0/telecom", Value::Null),
            ("/contained/0/telecom/0/system", json!("email")),
            ("/contained/0/identifier", Value::Null),
            ("/contained/0/identifier/0/system", json!("urn:x")),
            ("/contained/0/identifier/0/value", Value::Null),
            ("/extension", Value::Null),
            ("/extension/0/valueReference/reference", json!("Organization/1")),
            ("/extension/0", extension(fhir::DELIVERY_CHANNEL)),
            ("/minutesDuration", json!(20)),
            ("/reason", json!([])),
            ("/specialty", json!([])),
            ("/invented", json!("x")),
        ] {
            let (status, _, body) = stage.book(&with(good.clone(), place, value.clone()));
            assert_eq!((status, code_of(&body)), (422, "INVALID_RESOURCE"), "{place} {value}");
            assert!(body["issue"][0]["diagnostics"].is_string());
        }
        let mut channel = good.clone();
        channel["extension"].as_array_mut().unwrap().push(extension(fhir::DELIVERY_CHANNEL));
        assert_eq!(stage.book(&channel).0, 422);
        for text in ["", "{", "[]", "null", "{\"resourceType\":\"Appointment\"", "\u{feff}{}"] {
            let create = "create:appointment-1";
            let (status, _, body) = stage.call(create, "/Appointment", &[], text.as_bytes());
            assert_eq!((status, code_of(&body)), (422, "INVALID_RESOURCE"), "{text}");
        }
        assert_eq!(stage.free_slots(), slots);
        assert_eq!(stage.book(&good).2["id"], "1");
    }
}
