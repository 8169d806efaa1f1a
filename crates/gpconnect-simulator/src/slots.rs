//! The search for free slots.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan};

use super::local_time::{self, TimePeriod};
use super::parameters::{DateBound, Parameters};
use super::reply::{InteractionResult, ReplyFault, ResourceReply};
use super::seed::Session;
use super::state::{SlotState, StoredSlot};
use super::store::Store;
use super::{Call, fhir};

/// Limit: calendar days between the two ends of a search.
const DAYS_MAX: i64 = 14;

/// Spec: `GET /Slot?status=free&start=ge…&end=le…&_include=Slot:schedule`.
pub(super) fn search(store: &Store, call: &Call<'_>) -> InteractionResult {
    let parameters = &call.parameters;
    let range = range(parameters)?;
    let filters = Filters::of(parameters);
    let mut free: Vec<SessionSlot<'_>> = store
        .slots()
        .iter()
        .filter(|(_, slot)| slot.state == SlotState::Free && slot.start > call.now)
        .filter(|(_, slot)| range.start <= slot.start && slot.end <= range.end)
        .filter_map(|(id, slot)| SessionSlot::of(store, *id, slot))
        .filter(|offered| offered.is_released(call.now))
        .filter(|offered| filters.may_book(offered.session))
        .collect();
    free.sort_by_key(|offered| (offered.slot.schedule, offered.slot.start, offered.id));

    let schedules: BTreeSet<u32> = free.iter().map(|offered| offered.slot.schedule).collect();
    let included =
        |actor: &str| parameters.contains("_include:recurse", &format!("Schedule:actor:{actor}"));
    let mut actors = BTreeSet::new();
    for SessionSlot { session, .. } in &free {
        if included("Practitioner") {
            actors.insert(("Practitioner", session.practitioner));
        }
        if included("Location") {
            actors.insert(("Location", session.location));
        }
    }

    let mut found: Vec<_> = free
        .iter()
        .map(|SessionSlot { id, slot, session }| fhir::slot(*id, slot, session))
        .collect();
    found.extend(
        schedules
            .iter()
            .filter_map(|id| Some(fhir::schedule(*id, store.session(*id)?, store.period_of(*id)?))),
    );
    found.extend(
        actors.iter().filter_map(|(kind, id)| store.resource_by_number(kind, *id)).cloned(),
    );
    // Spec: the organisation is included with any slot, even if not requested.
    found.extend(store.organisation().filter(|_| !free.is_empty()).cloned());
    Ok(ResourceReply::plain(fhir::bundle(found)))
}

/// A slot with its id and the session that it belongs to.
#[derive(Clone, Copy)]
pub(super) struct SessionSlot<'a> {
    pub(super) id: u32,
    pub(super) slot: &'a StoredSlot,
    pub(super) session: &'a Session,
}

impl<'a> SessionSlot<'a> {
    /// Returns the slot with its session, or `None` if its schedule has no session.
    pub(super) fn of(store: &'a Store, id: u32, slot: &'a StoredSlot) -> Option<Self> {
        Some(Self { id, slot, session: store.session(slot.schedule)? })
    }

    /// Returns true if the slot may be offered to consumers at `now`.
    pub(super) fn is_released(&self, now: Timestamp) -> bool {
        let released = self.session.released_days_before.is_none_or(|days| {
            let first = local_time::day(self.slot.start).saturating_sub(i32::from(days).days());
            first <= local_time::day(now)
        });
        self.session.bookable && released
    }
}

/// Organisations, by ODS code and by type, for which a consumer searches or books slots.
pub(super) struct Filters<'a> {
    pub(super) organisations: Vec<&'a str>,
    pub(super) types: Vec<&'a str>,
}

impl<'a> Filters<'a> {
    /// Spec: search filters of other systems are ignored.
    fn of(parameters: &'a Parameters) -> Self {
        let all = parameters.all("searchFilter");
        let of = |system: &str| {
            let parts = all.iter().filter_map(|filter| filter.split_once('|'));
            parts.filter(|(named, _)| *named == system).map(|(_, code)| code).collect()
        };
        Self { organisations: of(fhir::ODS_CODE), types: of(fhir::ORGANISATION_TYPE) }
    }

    /// Spec: a restricted session is offered only to its organisations and types of organisation.
    pub(super) fn may_book(&self, session: &Session) -> bool {
        let of_type = session.organisation_types.iter().any(|kind| self.types.contains(&&**kind));
        let of_code =
            session.organisations.iter().any(|ods| self.organisations.contains(&ods.as_str()));
        (session.organisation_types.is_empty() || of_type)
            && (session.organisations.is_empty() || of_code)
    }
}

/// Checks the parameters; returns the period in which a slot must lie.
fn range(parameters: &Parameters) -> Result<TimePeriod, ReplyFault> {
    let (status, start, end) =
        (parameters.one("status")?, parameters.one("start")?, parameters.one("end")?);
    if !parameters.contains("_include", "Slot:schedule") {
        return Err(ReplyFault::bad_request("parameter _include=Slot:schedule is missing"));
    }
    if status != "free" {
        return Err(ReplyFault::parameter("status must be free"));
    }
    let (start, end) = (DateBound::parse(start, "ge")?, DateBound::parse(end, "le")?);
    // Calendar days are counted: two weeks are two weeks even if the clocks change.
    let days = start.day().duration_until(end.day()).as_hours() / 24;
    if !(0..=DAYS_MAX).contains(&days) || end.range_end() < start.range_start() {
        return Err(ReplyFault::parameter("the range is negative or longer than two weeks"));
    }
    Ok(TimePeriod { start: start.range_start(), end: end.range_end() })
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
    fn slots_come_with_the_requested_resources() {
        let stage = Stage::new();
        let day = format!("{INCLUDED}&start=ge2026-03-26&end=le2026-03-26");
        assert_eq!(found(&stage, &day).2, [51, 5, 0, 0, 1]);
        let with_practitioner = format!("{day}&_include:recurse=Schedule:actor:Practitioner");
        assert_eq!(found(&stage, &with_practitioner).2, [51, 5, 3, 0, 1]);
        let all = format!(
            "{with_practitioner}&_include:recurse=Schedule%3Aactor%3ALocation\
             &_include:recurse=Location:managingOrganization&searchFilter=a%7Cb&unknown=1"
        );
        assert_eq!(found(&stage, &all).2, [51, 5, 3, 2, 1]);
        let weekend = format!("{INCLUDED}&start=ge2026-03-28&end=le2026-03-29");
        assert_eq!(found(&stage, &weekend), (200, String::new(), [0; 5]));
    }

    #[test]
    fn a_restricted_slot_is_offered_only_to_its_organisations() {
        let stage = Stage::new();
        let types =
            "searchFilter=https://fhir.nhs.uk/STU3/CodeSystem/GPConnect-OrganisationType-1%7C";
        let codes = "searchFilter=https://fhir.nhs.uk/Id/ods-organization-code%7C";
        // Open to all: 48 a day. Only for urgent care: 3; for A00001: 3; for A00001 as a practice: 3.
        for (filters, count) in [
            (String::new(), 48),
            (format!("&{types}urgent-care"), 51),
            (format!("&{types}gp-practice"), 48),
            (format!("&{codes}A00001"), 51),
            (format!("&{codes}B82617"), 48),
            (format!("&{codes}A00001&{types}urgent-care"), 54),
            (format!("&{codes}A00001&{types}gp-practice"), 54),
            (format!("&{codes}B82617&{types}gp-practice"), 48),
            ("&searchFilter=https://else.example/%7CA00001".to_owned(), 48),
        ] {
            let query = format!("{INCLUDED}&start=ge2026-04-01&end=le2026-04-01{filters}");
            assert_eq!(found(&stage, &query).2[0], count, "{filters}");
        }
    }

    #[test]
    fn a_slot_under_embargo_is_offered_once_it_is_released() {
        let stage = Stage::new();
        let count =
            |day: &str| found(&stage, &format!("{INCLUDED}&start=ge{day}&end=le{day}")).2[0];
        // Today is the 25th: the slots of the 27th are released, those of the 30th not yet.
        assert_eq!((count("2026-03-26"), count("2026-03-27"), count("2026-03-30")), (51, 51, 48));
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
        assert_eq!(count(&format!("{start}&end=le2026-03-26")), 51);
        assert_eq!(
            count("start=ge2026-03-20&end=le2026-03-26"),
            51,
            "a range may begin in the past"
        );
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
        let search = "search:slot-1";
        let path = format!("/Slot?{INCLUDED}&start=ge2026-03-26&end=le2026-03-26");
        let (_, _, body) = stage.call_at("2026-03-26T11:40:00Z", search, &path, b"");
        assert_eq!(of_type(&body, "Slot").len(), 2 + 15);
        let slot = stage.free_slots().remove(0);
        let body = booking_of(&[&slot], "1").to_string();
        let create = "create:appointment-1";
        let late = stage.call_at("2026-03-26T09:00:00Z", create, "/Appointment", body.as_bytes());
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
