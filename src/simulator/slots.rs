//! The search for free slots.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::parameters::{Bound, Parameters};
use super::practice::{Slot, SlotState, Store};
use super::reply::{Answer, Fault, Reply};
use super::{Call, fhir};

/// Limit: calendar days between the two ends of a search.
const DAYS_MAX: i64 = 14;

/// Spec: `GET /Slot?status=free&start=ge…&end=le…&_include=Slot:schedule`.
pub(super) fn search(store: &Store, call: &Call<'_>) -> Answer {
    let asked = &call.parameters;
    let range = range(asked)?;
    let free: Vec<(u32, &Slot)> = store
        .slots
        .iter()
        .filter(|(_, slot)| slot.state == SlotState::Free && slot.start > call.now)
        .filter(|(_, slot)| range.0 <= slot.start && slot.end <= range.1)
        .map(|(id, slot)| (*id, slot))
        .collect();

    let schedule_ids: BTreeSet<u32> = free.iter().map(|(_, slot)| slot.schedule).collect();
    let schedules: Vec<_> =
        schedule_ids.iter().filter_map(|id| Some((*id, store.schedules.get(id)?))).collect();
    let included =
        |actor: &str| asked.holds("_include:recurse", &format!("Schedule:actor:{actor}"));
    let mut actors = BTreeSet::new();
    for (_, schedule) in &schedules {
        if included("Practitioner") {
            actors.insert(("Practitioner", schedule.practitioner));
        }
        if included("Location") {
            actors.insert(("Location", schedule.location));
        }
    }

    let mut found: Vec<_> = free.iter().map(|(id, slot)| fhir::slot(*id, slot)).collect();
    found.extend(schedules.iter().map(|(id, schedule)| fhir::schedule(*id, schedule)));
    found.extend(actors.iter().filter_map(|(kind, id)| store.known(kind, *id)).cloned());
    // Spec: the organisation comes with any slot, whether it was asked for or not.
    found.extend(store.organisation().filter(|_| !free.is_empty()).cloned());
    Ok(Reply::plain(fhir::bundle(found)))
}

/// Checks the parameters and answers the instants between which a slot has to lie.
fn range(asked: &Parameters) -> Result<(Timestamp, Timestamp), Fault> {
    let (status, start, end) = (asked.one("status")?, asked.one("start")?, asked.one("end")?);
    if !asked.holds("_include", "Slot:schedule") {
        return Err(Fault::bad_request("parameter _include=Slot:schedule is missing"));
    }
    if status != "free" {
        return Err(Fault::parameter("status can only be free"));
    }
    let (start, end) = (Bound::parse(start, "ge")?, Bound::parse(end, "le")?);
    // Days are counted on the calendar: a fortnight with a change of the clocks is still one.
    let days = start.day().duration_until(end.day()).as_hours() / 24;
    if !(0..=DAYS_MAX).contains(&days) || end.last() < start.first() {
        return Err(Fault::parameter("the range is negative or longer than two weeks"));
    }
    Ok((start.first(), end.last()))
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, booking_of, code_of, of_type};

    fn found(stage: &Stage, query: &str) -> (u16, String, [usize; 5]) {
        let (status, _, body) = stage.get("search:slot-1", &format!("/Slot?{query}"));
        let kinds = ["Slot", "Schedule", "Practitioner", "Location", "Organization"];
        (status, code_of(&body).to_owned(), kinds.map(|kind| of_type(&body, kind).len()))
    }

    const INCLUDED: &str = "status=free&_include=Slot:schedule";

    #[test]
    fn slots_come_with_what_was_asked_for() {
        let stage = Stage::new();
        let day = format!("{INCLUDED}&start=ge2026-03-26&end=le2026-03-26");
        assert_eq!(found(&stage, &day).2, [36, 2, 0, 0, 1]);
        let with_practitioner = format!("{day}&_include:recurse=Schedule:actor:Practitioner");
        assert_eq!(found(&stage, &with_practitioner).2, [36, 2, 2, 0, 1]);
        let all = format!(
            "{with_practitioner}&_include:recurse=Schedule%3Aactor%3ALocation\
             &_include:recurse=Location:managingOrganization&searchFilter=a%7Cb&unknown=1"
        );
        assert_eq!(found(&stage, &all).2, [36, 2, 2, 1, 1]);
        let weekend = format!("{INCLUDED}&start=ge2026-03-28&end=le2026-03-29");
        assert_eq!(found(&stage, &weekend), (200, String::new(), [0; 5]));
    }

    #[test]
    fn slots_lie_wholly_inside_the_range() {
        let stage = Stage::new();
        let count = |range: &str| found(&stage, &format!("{INCLUDED}&{range}")).2[0];
        let start = "start=ge2026-03-26T09:00:00%2B00:00";
        assert_eq!(count(&format!("{start}&end=le2026-03-26T09:10:00%2B00:00")), 2);
        assert_eq!(count(&format!("{start}&end=le2026-03-26T09:10:00+00:00")), 2);
        assert_eq!(count(&format!("{start}&end=le2026-03-26T09:09:59%2B00:00")), 0);
        assert_eq!(
            count("start=ge2026-03-26T09:00:01%2B00:00&end=le2026-03-26T09:20:00%2B00:00"),
            2
        );
        assert_eq!(
            count("start=ge2026-03-30T09:00:00%2B01:00&end=le2026-03-30T09:10:00%2B01:00"),
            2
        );
        assert_eq!(count(&format!("{start}&end=le2026-03-26")), 36);
        assert_eq!(count("start=ge2026-03-20&end=le2026-03-26"), 36, "the past may be asked for");
    }

    #[test]
    fn summer_slots_show_summer_time() {
        let stage = Stage::new();
        let slots = stage.free_slots();
        assert_eq!(slots[0]["start"], "2026-03-26T09:00:00+00:00");
        let monday = slots.iter().find(|slot| slot["start"].as_str().unwrap() > "2026-03-30");
        assert_eq!(monday.unwrap()["start"], "2026-03-30T09:00:00+01:00");
        assert_eq!(monday.unwrap()["end"], "2026-03-30T09:10:00+01:00");
    }

    #[test]
    fn a_slot_that_has_begun_is_not_offered() {
        let stage = Stage::new();
        let id = "search:slot-1";
        let path = format!("/Slot?{INCLUDED}&start=ge2026-03-26&end=le2026-03-26");
        let (_, _, body) =
            stage.ask_at("2026-03-26T11:40:00Z", (http::Method::GET, id), &path, b"");
        assert_eq!(of_type(&body, "Slot").len(), 2);
        let slot = stage.free_slots().remove(0);
        let body = booking_of(&[&slot], "1").to_string();
        let create = (http::Method::POST, "create:appointment-1");
        let late = stage.ask_at("2026-03-26T09:00:00Z", create, "/Appointment", body.as_bytes());
        assert_eq!((late.0, code_of(&late.2)), (422, "INVALID_RESOURCE"));
    }

    #[test]
    fn searches_that_break_a_rule_are_refused() {
        let stage = Stage::new();
        let (start, end) = ("start=ge2026-03-26", "end=le2026-03-27");
        for (query, status, code) in [
            (format!("status=free&{start}&{end}"), 400, "BAD_REQUEST"),
            (format!("status=free&{start}&{end}&_include=Slot:other"), 400, "BAD_REQUEST"),
            (format!("_include=Slot:schedule&{start}&{end}"), 400, "BAD_REQUEST"),
            (format!("{INCLUDED}&{start}"), 400, "BAD_REQUEST"),
            (format!("{INCLUDED}&{end}"), 400, "BAD_REQUEST"),
            (format!("{INCLUDED}&{start}&end=%zz"), 400, "BAD_REQUEST"),
            (format!("_include=Slot:schedule&status=busy&{start}&{end}"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&{start}&{start}&{end}"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&{start}&{end}&{end}"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&start=le2026-03-26&end=ge2026-03-27"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&start=ge2026-03&{end}"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&start=&{end}"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&start=ge2026-03-26T09:00:00Z&{end}"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&{start}&end=le2026-03-25"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&{start}&end=le2026-04-10"), 422, "INVALID_PARAMETER"),
            (format!("{INCLUDED}&{start}&end=le2026-04-09"), 200, ""),
            (
                format!(
                    "{INCLUDED}&start=ge2026-03-26T23:00:00%2B00:00&end=le2026-04-09T01:00:00%2B01:00"
                ),
                200,
                "",
            ),
            (
                format!(
                    "{INCLUDED}&start=ge2026-03-26T10:00:00%2B00:00&end=le2026-03-26T09:00:00%2B00:00"
                ),
                422,
                "INVALID_PARAMETER",
            ),
        ] {
            let (got, named, _) = found(&stage, &query);
            assert_eq!((got, named.as_str()), (status, code), "{query}");
        }
    }
}
