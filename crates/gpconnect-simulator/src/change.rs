//! Changes of an appointment: amending its texts, or cancelling it.
//!
//! The consumer sends the whole resource back; a difference from the stored one that is not allowed
//! is refused, not ignored.

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::reply::{InteractionResult, ReplyFault, ResourceReply, SpineErrorCode, require};
use super::state::{Booking, Change, SlotState};
use super::store::Store;
use super::{Call, appointments, checked_resource, fhir, local_time, profile_rules};

/// Spec: `PUT /Appointment/[id]` with the interaction that amends.
pub(super) fn amend(store: &Store, call: &Call<'_>) -> InteractionResult {
    let (id, sent) = judge(store, call, call.parsed_body()?)?;
    let stored = appointments::find(store, call.id)?.1;
    let reason = fhir::extension(&sent, fhir::CANCELLATION_REASON);
    require(reason.is_none(), "an amended appointment must not have a cancellation reason")?;
    require(status(&stored.resource) == Some("booked"), "the appointment has been cancelled")?;
    require(
        status(&sent) == Some("booked"),
        "the status of an amended appointment must be booked",
    )?;
    let changeable = ["description", "comment"];
    require(
        are_equal_except(&sent, &stored.resource, &changeable),
        "only the description and the comment may be changed",
    )?;
    let mut resource = stored.resource.clone();
    for name in changeable {
        set(&mut resource, name, sent.get(name).cloned());
    }
    Ok(store_next_version(id, stored, resource, Vec::new()))
}

/// Spec: `PUT /Appointment/[id]` with the interaction that cancels; the slots are free again by
/// the time it is answered.
pub(super) fn cancel(store: &Store, call: &Call<'_>) -> InteractionResult {
    // An empty reason is invalid FHIR too, but the test suite expects `INVALID_PARAMETER` for it.
    let body = call.parsed_body()?;
    let reason = fhir::extension(&body, fhir::CANCELLATION_REASON);
    let is_empty =
        reason.is_some_and(|extension| fhir::text(extension, "/valueString") == Some(""));
    if is_empty {
        return Err(ReplyFault::parameter("the reason of the cancellation is empty"));
    }
    let (id, mut sent) = judge(store, call, body)?;
    let stored = appointments::find(store, call.id)?.1;
    require(
        status(&sent) == Some("cancelled"),
        "the status of a cancelled appointment must be cancelled",
    )?;
    let reason = take_reason(&mut sent);
    let mut resource = stored.resource.clone();
    take_reason(&mut resource);
    require(
        are_equal_except(&sent, &resource, &["status"]),
        "only the status and the reason may be changed",
    )?;
    let reason = reason
        .filter(|extension| {
            fhir::text(extension, "/valueString").is_some_and(|why| !why.trim().is_empty())
        })
        .ok_or_else(|| {
            ReplyFault::parameter("the reason of the cancellation is missing or empty")
        })?;

    // A second cancellation may arrive after another patient was booked into the slot.
    let freed = match status(&resource) {
        Some("booked") => store.changes_to_state(&stored.slots, SlotState::Free),
        _ => Vec::new(),
    };
    set(&mut resource, "status", Some(json!("cancelled")));
    if let Some(extensions) = resource.pointer_mut("/extension").and_then(Value::as_array_mut) {
        extensions.push(reason);
    }
    Ok(store_next_version(id, stored, resource, freed))
}

/// Checks the rules that both changes share; returns the id and the sent resource.
fn judge(store: &Store, call: &Call<'_>, sent: Value) -> Result<(u32, Value), ReplyFault> {
    let (id, stored) = appointments::find(store, call.id)?;
    let sent = checked_resource(sent)?;
    profile_rules::judge_appointment(&sent)?;
    let named = sent.get("id").and_then(Value::as_str);
    require(named == Some(call.id), "the id of the resource is not that of the path")?;
    judge_version(call.headers, stored)?;
    require(stored.start > call.now, "the appointment has already begun")?;
    Ok((id, Value::Object(sent)))
}

/// Spec: a version other than the current one is a conflict. Requests without `If-Match` are
/// accepted, as real providers do.
fn judge_version(headers: &HeaderMap, stored: &Booking) -> Result<(), ReplyFault> {
    let Some(sent) = headers.get("if-match") else { return Ok(()) };
    let current = format!("\"{}\"", stored.version);
    let sent = sent.to_str().unwrap_or_default().trim();
    if sent == "*" || sent.strip_prefix("W/").unwrap_or(sent) == current {
        return Ok(());
    }
    let diagnostics = format!("the current version is W/{current}");
    Err(ReplyFault::new(SpineErrorCode::ConstraintViolation, diagnostics))
}

/// Returns true if two appointments are equal, apart from the elements in `ignored` and those that the
/// practice fills in.
fn are_equal_except(sent: &Value, stored: &Value, ignored: &[&str]) -> bool {
    let mut left = [sent.clone(), stored.clone()];
    let missing = |name: &&str| sent.get(*name).is_none();
    let filled_in = ["serviceCategory", "serviceType"];
    for resource in &mut left {
        let ignored = ["meta", "text"].into_iter().chain(ignored.iter().copied());
        for name in ignored.chain(filled_in.into_iter().filter(missing)) {
            set(resource, name, None);
        }
        for name in ["start", "end", "created"] {
            let time = resource.get(name).and_then(Value::as_str);
            let time = time.and_then(|text| text.parse::<Timestamp>().ok());
            if let Some(time) = time {
                set(resource, name, Some(json!(local_time::text(time))));
            }
        }
    }
    let [sent, stored] = left;
    sent == stored
}

/// Removes the cancellation reason from an appointment's extensions and returns it.
fn take_reason(resource: &mut Value) -> Option<Value> {
    let url = fhir::profile(fhir::CANCELLATION_REASON);
    let extensions = resource.pointer_mut("/extension")?.as_array_mut()?;
    let at =
        extensions.iter().position(|extension| fhir::text(extension, "/url") == Some(&*url))?;
    Some(extensions.remove(at))
}

fn status(resource: &Value) -> Option<&str> {
    fhir::text(resource, "/status")
}

/// Sets an element, or removes it if `value` is `None`.
fn set(resource: &mut Value, name: &str, value: Option<Value>) {
    if let Some(fields) = resource.as_object_mut() {
        match value {
            Some(value) => fields.insert(name.to_owned(), value),
            None => fields.remove(name),
        };
    }
}

/// Returns the reply and the changes that store the appointment as its next version.
fn store_next_version(
    id: u32,
    stored: &Booking,
    mut resource: Value,
    mut changes: Vec<Change>,
) -> ResourceReply {
    let version = stored.version + 1;
    if let Some(meta) = resource.pointer_mut("/meta") {
        set(meta, "versionId", Some(json!(version.to_string())));
    }
    let booking = Booking { version, resource: resource.clone(), ..stored.clone() };
    changes.push(Change::Booking(id, booking));
    ResourceReply::resource(resource).with_changes(changes)
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, booking_of, code_of};
    use super::*;

    fn booked() -> (Stage, Value) {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        let (status, _, body) = stage.book(&booking_of(&[&slot], "1"));
        assert_eq!(status, 201, "{body}");
        (stage, body)
    }

    fn with(appointment: &Value, name: &str, value: Option<Value>) -> Value {
        let mut changed = appointment.clone();
        set(&mut changed, name, value);
        changed
    }

    #[test]
    fn a_stale_version_is_a_conflict_and_a_missing_version_is_accepted() {
        let (stage, first) = booked();
        let changed = with(&first, "comment", Some(json!("first")));
        assert_eq!(stage.put("update", "1", Some("W/\"1\""), &changed).0, 200);
        let cancelled = Stage::cancelled(&changed, "why");
        for (verb, body) in [("update", &changed), ("cancel", &cancelled)] {
            for stale in ["W/\"1\"", "\"1\"", "2", "W/\"3\"", ""] {
                let (status, _, response) = stage.put(verb, "1", Some(stale), body);
                assert_eq!(
                    (status, code_of(&response)),
                    (409, "FHIR_CONSTRAINT_VIOLATION"),
                    "{stale}"
                );
                assert_eq!(response["issue"][0]["code"], "conflict");
            }
        }
        let (status, headers, _) = stage.put("update", "1", None, &with(&first, "comment", None));
        assert_eq!((status, &headers["etag"]), (200, &"W/\"3\"".parse().unwrap()));
        assert_eq!(stage.get("read:appointment-1", "/Appointment/1").2.get("comment"), None);
    }

    #[test]
    fn an_amendment_may_change_only_description_and_comment() {
        let (stage, first) = booked();
        for (name, value) in [
            ("description", None),
            ("description", Some(json!("x".repeat(101)))),
            ("comment", Some(json!("x".repeat(501)))),
            ("status", Some(json!("cancelled"))),
            ("id", Some(json!("2"))),
            ("id", None),
            ("start", Some(json!("2026-03-26T09:10:00+00:00"))),
            ("slot", Some(json!([{ "reference": "Slot/9" }]))),
            ("participant", Some(json!([]))),
            ("contained", None),
            ("extension", Some(json!([]))),
            ("serviceType", Some(json!([{ "text": "other" }]))),
            ("priority", Some(json!(1))),
            ("meta", None),
            ("invented", Some(json!(1))),
        ] {
            let (status, _, response) = stage.put("update", "1", None, &with(&first, name, value));
            assert_eq!((status, code_of(&response)), (422, "INVALID_RESOURCE"), "{name}");
        }
        let mut reasoned = Stage::cancelled(&first, "why");
        set(&mut reasoned, "status", Some(json!("booked")));
        assert_eq!(stage.put("update", "1", None, &reasoned).0, 422);
        assert_eq!(stage.get("read:appointment-1", "/Appointment/1").2, first);
        assert_eq!(stage.put("update", "1", None, &with(&first, "serviceType", None)).0, 200);
    }

    #[test]
    fn an_unknown_appointment_cannot_be_changed() {
        let (stage, first) = booked();
        for verb in ["update", "cancel"] {
            let (status, _, response) =
                stage.put(verb, "2", None, &with(&first, "id", Some(json!("2"))));
            assert_eq!((status, code_of(&response)), (404, "NO_RECORD_FOUND"));
            assert_eq!(stage.put(verb, "1", None, &json!([])).0, 422);
        }
    }

    #[test]
    fn a_cancellation_needs_a_reason_and_changes_nothing_else() {
        let (stage, first) = booked();
        let good = Stage::cancelled(&first, "why");
        let mut elsewhere = good.clone();
        let last = first["extension"].as_array().unwrap().len();
        elsewhere["extension"][last]["url"] = json!("https://fhir.nhs.uk/elsewhere");
        for (body, code) in [
            (Stage::cancelled(&first, ""), "INVALID_PARAMETER"),
            (Stage::cancelled(&first, " "), "INVALID_PARAMETER"),
            (with(&first, "status", Some(json!("cancelled"))), "INVALID_PARAMETER"),
            (elsewhere, "INVALID_RESOURCE"),
            (with(&good, "status", Some(json!("booked"))), "INVALID_RESOURCE"),
            (with(&good, "description", Some(json!("other"))), "INVALID_RESOURCE"),
            (with(&good, "comment", Some(json!("other"))), "INVALID_RESOURCE"),
            (with(&good, "participant", Some(json!([]))), "INVALID_RESOURCE"),
            (with(&good, "appointmentType", Some(json!({}))), "INVALID_RESOURCE"),
        ] {
            let (status, _, response) = stage.put("cancel", "1", Some("W/\"1\""), &body);
            assert_eq!((status, code_of(&response)), (422, code), "{body}");
        }
        assert_eq!(stage.put("cancel", "1", Some("W/\"1\""), &good).0, 200);
        let amended = stage.put("update", "1", None, &first);
        assert_eq!((amended.0, code_of(&amended.2)), (422, "INVALID_RESOURCE"));
    }

    #[test]
    fn a_second_cancellation_does_not_free_a_slot_booked_since() {
        let (stage, first) = booked();
        let slot = stage.free_slots();
        assert_eq!(stage.put("cancel", "1", None, &Stage::cancelled(&first, "why")).0, 200);
        let freed = stage.free_slots();
        assert_eq!(freed.len(), slot.len() + 1);
        assert_eq!(freed[0]["meta"]["versionId"], "3");
        let mut again = booking_of(&[&freed[0]], "2");
        again["description"] = json!("another patient");
        assert_eq!(stage.book(&again).2["id"], "2");
        let (status, headers, response) =
            stage.put("cancel", "1", Some("W/\"2\""), &Stage::cancelled(&first, "really"));
        assert_eq!((status, &headers["etag"]), (200, &"W/\"3\"".parse().unwrap()));
        let reasons =
            fhir::items(&response, "/extension").iter().filter(|e| e["valueString"] == "really");
        assert_eq!(reasons.count(), 1);
        assert_eq!(stage.free_slots().len(), slot.len());
    }

    #[test]
    fn an_appointment_that_has_begun_cannot_be_changed() {
        let (stage, first) = booked();
        let body = first.to_string();
        let amend = "update:appointment-1";
        let (status, _, response) =
            stage.call_at("2026-03-26T09:00:00Z", amend, "/Appointment/1", body.as_bytes());
        assert_eq!((status, code_of(&response)), (422, "INVALID_RESOURCE"));
    }
}
