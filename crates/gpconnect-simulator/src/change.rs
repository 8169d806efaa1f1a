//! Changes of an appointment: amending its texts, or cancelling it.
//!
//! The consumer sends the whole resource back; a difference from the stored one that is not allowed
//! is refused, not ignored.

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::held::{Booking, Change, SlotState};
use super::reply::{InteractionResult, ReplyFault, ResourceReply, SpineErrorCode, rule};
use super::store::Store;
use super::{Call, appointments, fhir, form, judged, local_time};

/// Spec: `PUT /Appointment/[id]` with the interaction that amends.
pub(super) fn amend(store: &Store, call: &Call<'_>) -> InteractionResult {
    let (id, sent) = judge(store, call, call.unjudged()?)?;
    let kept = appointments::find(store, call.id)?.1;
    let reason = fhir::extension(&sent, fhir::CANCELLATION_REASON);
    rule(reason.is_none(), "an amended appointment has no reason for a cancellation")?;
    rule(status(&kept.resource) == Some("booked"), "the appointment has been cancelled")?;
    rule(status(&sent) == Some("booked"), "an amended appointment stays booked")?;
    let free = ["description", "comment"];
    rule(
        same(&sent, &kept.resource, &free),
        "only the description and the comment may be changed",
    )?;
    let mut resource = kept.resource.clone();
    for name in free {
        set(&mut resource, name, sent.get(name).cloned());
    }
    Ok(keep(id, kept, resource, Vec::new()))
}

/// Spec: `PUT /Appointment/[id]` with the interaction that cancels; the slots are free again by
/// the time it is answered.
pub(super) fn cancel(store: &Store, call: &Call<'_>) -> InteractionResult {
    // An empty reason is invalid FHIR too, but the test suite expects `INVALID_PARAMETER` for it.
    let unjudged = call.unjudged()?;
    let reason = fhir::extension(&unjudged, fhir::CANCELLATION_REASON);
    let empty = reason.is_some_and(|known| fhir::text(known, "/valueString") == Some(""));
    if empty {
        return Err(ReplyFault::parameter("the reason of the cancellation is empty"));
    }
    let (id, mut sent) = judge(store, call, unjudged)?;
    let kept = appointments::find(store, call.id)?.1;
    rule(status(&sent) == Some("cancelled"), "a cancelled appointment has that status")?;
    let reason = take_reason(&mut sent);
    let mut resource = kept.resource.clone();
    take_reason(&mut resource);
    rule(same(&sent, &resource, &["status"]), "only the status and the reason may be changed")?;
    let reason = reason
        .filter(|known| fhir::text(known, "/valueString").is_some_and(|why| !why.trim().is_empty()))
        .ok_or_else(|| {
            ReplyFault::parameter("the reason of the cancellation is missing or empty")
        })?;

    // A second cancellation may come after somebody else has booked the slot.
    let freed = match status(&resource) {
        Some("booked") => store.marked(&kept.slots, SlotState::Free),
        _ => Vec::new(),
    };
    set(&mut resource, "status", Some(json!("cancelled")));
    if let Some(extensions) = resource.pointer_mut("/extension").and_then(Value::as_array_mut) {
        extensions.push(reason);
    }
    Ok(keep(id, kept, resource, freed))
}

/// Checks the rules that both changes share; returns the id and the sent resource.
fn judge(store: &Store, call: &Call<'_>, sent: Value) -> Result<(u32, Value), ReplyFault> {
    let (id, kept) = appointments::find(store, call.id)?;
    let sent = judged(sent)?;
    form::judge_form(&sent)?;
    let named = sent.get("id").and_then(Value::as_str);
    rule(named == Some(call.id), "the id of the resource is not that of the path")?;
    judge_version(call.headers, kept)?;
    rule(kept.start > call.now, "the appointment has begun")?;
    Ok((id, Value::Object(sent)))
}

/// Spec: a version other than the current one is a conflict. Requests without `If-Match` are
/// accepted, as real providers do.
fn judge_version(headers: &HeaderMap, kept: &Booking) -> Result<(), ReplyFault> {
    let Some(sent) = headers.get("if-match") else { return Ok(()) };
    let current = format!("\"{}\"", kept.version);
    let sent = sent.to_str().unwrap_or_default().trim();
    if sent == "*" || sent.strip_prefix("W/").unwrap_or(sent) == current {
        return Ok(());
    }
    let diagnostics = format!("the current version is W/{current}");
    Err(ReplyFault::new(SpineErrorCode::ConstraintViolation, diagnostics))
}

/// Returns true if two appointments are equal, apart from the elements in `but` and those that the
/// practice fills in.
fn same(sent: &Value, kept: &Value, but: &[&str]) -> bool {
    let mut left = [sent.clone(), kept.clone()];
    let missing = |name: &&str| sent.get(*name).is_none();
    let filled_in = ["serviceCategory", "serviceType"];
    for resource in &mut left {
        let ignored = ["meta", "text"].into_iter().chain(but.iter().copied());
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
    let [sent, kept] = left;
    sent == kept
}

/// Removes the cancellation reason from an appointment's extensions and returns it.
fn take_reason(resource: &mut Value) -> Option<Value> {
    let url = fhir::profile(fhir::CANCELLATION_REASON);
    let extensions = resource.pointer_mut("/extension")?.as_array_mut()?;
    let at = extensions.iter().position(|known| fhir::text(known, "/url") == Some(&*url))?;
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
fn keep(id: u32, kept: &Booking, mut resource: Value, mut changes: Vec<Change>) -> ResourceReply {
    let version = kept.version + 1;
    if let Some(meta) = resource.pointer_mut("/meta") {
        set(meta, "versionId", Some(json!(version.to_string())));
    }
    let kept = Booking { version, resource: resource.clone(), ..kept.clone() };
    changes.push(Change::Booking(id, kept));
    ResourceReply::resource(resource).with(changes)
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
    fn a_stale_version_is_a_conflict_and_no_version_is_not() {
        let (stage, first) = booked();
        let changed = with(&first, "comment", Some(json!("first")));
        assert_eq!(stage.put("update", "1", Some("W/\"1\""), &changed).0, 200);
        let cancelled = Stage::cancelled(&changed, "why");
        for (verb, body) in [("update", &changed), ("cancel", &cancelled)] {
            for stale in ["W/\"1\"", "\"1\"", "2", "W/\"3\"", ""] {
                let (status, _, told) = stage.put(verb, "1", Some(stale), body);
                assert_eq!((status, code_of(&told)), (409, "FHIR_CONSTRAINT_VIOLATION"), "{stale}");
                assert_eq!(told["issue"][0]["code"], "conflict");
            }
        }
        let (status, headers, _) = stage.put("update", "1", None, &with(&first, "comment", None));
        assert_eq!((status, &headers["etag"]), (200, &"W/\"3\"".parse().unwrap()));
        assert_eq!(stage.get("read:appointment-1", "/Appointment/1").2.get("comment"), None);
    }

    #[test]
    fn an_amendment_may_change_only_words() {
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
            let (status, _, told) = stage.put("update", "1", None, &with(&first, name, value));
            assert_eq!((status, code_of(&told)), (422, "INVALID_RESOURCE"), "{name}");
        }
        let mut reasoned = Stage::cancelled(&first, "why");
        set(&mut reasoned, "status", Some(json!("booked")));
        assert_eq!(stage.put("update", "1", None, &reasoned).0, 422);
        assert_eq!(stage.get("read:appointment-1", "/Appointment/1").2, first);
        assert_eq!(stage.put("update", "1", None, &with(&first, "serviceType", None)).0, 200);
    }

    #[test]
    fn an_appointment_that_is_not_there_cannot_be_changed() {
        let (stage, first) = booked();
        for verb in ["update", "cancel"] {
            let (status, _, told) =
                stage.put(verb, "2", None, &with(&first, "id", Some(json!("2"))));
            assert_eq!((status, code_of(&told)), (404, "NO_RECORD_FOUND"));
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
            let (status, _, told) = stage.put("cancel", "1", Some("W/\"1\""), &body);
            assert_eq!((status, code_of(&told)), (422, code), "{body}");
        }
        assert_eq!(stage.put("cancel", "1", Some("W/\"1\""), &good).0, 200);
        let amended = stage.put("update", "1", None, &first);
        assert_eq!((amended.0, code_of(&amended.2)), (422, "INVALID_RESOURCE"));
    }

    #[test]
    fn a_second_cancellation_does_not_free_what_others_booked() {
        let (stage, first) = booked();
        let slot = stage.free_slots();
        assert_eq!(stage.put("cancel", "1", None, &Stage::cancelled(&first, "why")).0, 200);
        let freed = stage.free_slots();
        assert_eq!(freed.len(), slot.len() + 1);
        assert_eq!(freed[0]["meta"]["versionId"], "3");
        let mut again = booking_of(&[&freed[0]], "2");
        again["description"] = json!("another patient");
        assert_eq!(stage.book(&again).2["id"], "2");
        let (status, headers, told) =
            stage.put("cancel", "1", Some("W/\"2\""), &Stage::cancelled(&first, "really"));
        assert_eq!((status, &headers["etag"]), (200, &"W/\"3\"".parse().unwrap()));
        let reasons =
            fhir::items(&told, "/extension").iter().filter(|e| e["valueString"] == "really");
        assert_eq!(reasons.count(), 1);
        assert_eq!(stage.free_slots().len(), slot.len());
    }

    #[test]
    fn what_has_begun_cannot_be_changed() {
        let (stage, first) = booked();
        let body = first.to_string();
        let amend = (http::Method::PUT, "update:appointment-1");
        let told = stage.ask_at("2026-03-26T09:00:00Z", amend, "/Appointment/1", body.as_bytes());
        assert_eq!((told.0, code_of(&told.2)), (422, "INVALID_RESOURCE"));
    }
}
