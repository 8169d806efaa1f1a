//! Reads of appointments: one by its id, or all of a patient.

use jiff::civil::Date;

use super::parameters::{DateBound, Parameters};
use super::reply::{InteractionResult, ReplyFault, ResourceReply, SpineErrorCode};
use super::state::Booking;
use super::store::{Store, number};
use super::{Call, fhir, local_time};

/// Spec: `GET /Appointment/[id]`.
pub(super) fn read(store: &Store, call: &Call<'_>) -> InteractionResult {
    let (_, booking) = find(store, call.id)?;
    Ok(ResourceReply::resource(booking.resource.clone()))
}

/// Returns the appointment with this id, and the id as a number.
pub(super) fn find<'a>(store: &'a Store, id: &str) -> Result<(u32, &'a Booking), ReplyFault> {
    number(id).and_then(|id| Some((id, store.bookings().get(&id)?))).ok_or_else(|| {
        ReplyFault::new(
            SpineErrorCode::NoRecordFound,
            "there is no such appointment at this practice",
        )
    })
}

/// Spec: `GET /Patient/[id]/Appointment?start=ge…&start=le…`, including cancelled appointments.
pub(super) fn of_patient(store: &Store, call: &Call<'_>) -> InteractionResult {
    let patient = number(call.id)
        .filter(|id| store.resource_by_number("Patient", *id).is_some())
        .ok_or_else(|| {
        ReplyFault::new(
            SpineErrorCode::PatientNotFound,
            "there is no such patient at this practice",
        )
    })?;
    let (first, last) = range(&call.parameters, local_time::day(call.now))?;
    let found = store.bookings().values().filter(|booking| {
        booking.patient == patient && (first..=last).contains(&local_time::day(booking.start))
    });
    Ok(ResourceReply::plain(fhir::bundle(found.map(|booking| booking.resource.clone()))))
}

/// Returns the first and the last requested day, sent in any order; neither may be past.
fn range(parameters: &Parameters, today: Date) -> Result<(Date, Date), ReplyFault> {
    let starts = parameters.all("start");
    let end_of = |prefix: &str| {
        let mut values = starts.iter().filter(|value| value.starts_with(prefix));
        match DateBound::parse(values.next().copied().unwrap_or_default(), prefix)? {
            DateBound::Day(day) => Ok(day),
            DateBound::Instant(_) => {
                Err(ReplyFault::parameter("start must be a date without a time"))
            }
        }
    };
    if starts.len() != 2 {
        return Err(ReplyFault::parameter("start must be given twice, with ge and with le"));
    }
    let (first, last) = (end_of("ge")?, end_of("le")?);
    if first < today {
        return Err(ReplyFault::parameter("the range begins before today"));
    }
    if last < first {
        return Err(ReplyFault::parameter("the range ends before it begins"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Stage, booking_of, code_of, of_type};

    const SHORT: &str = "search:patient_appointments-1";

    #[test]
    fn an_appointment_is_found_by_its_day() {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        assert_eq!(stage.book(&booking_of(&[&slot], "1")).0, 201);
        let count = |patient: &str, first: &str, last: &str| {
            let path =
                format!("/Patient/{patient}/Appointment?start=le{last}&start=ge{first}&_sort=x");
            let (status, _, body) = stage.get(SHORT, &path);
            assert_eq!(status, 200, "{body}");
            of_type(&body, "Appointment").len()
        };
        assert_eq!(count("1", "2026-03-25", "2026-03-25"), 0);
        assert_eq!(count("1", "2026-03-26", "2026-03-26"), 1);
        assert_eq!(count("1", "2026-03-27", "2026-12-31"), 0);
        assert_eq!(count("2", "2026-03-25", "2026-12-31"), 0);
        let late = "/Patient/1/Appointment?start=ge2026-03-26&start=le2026-03-26";
        let (_, _, body) = stage.call_at("2026-03-26T22:00:00Z", SHORT, late, b"");
        assert_eq!(
            of_type(&body, "Appointment").len(),
            1,
            "earlier appointments of today are returned"
        );
    }

    #[test]
    fn a_range_that_breaks_a_rule_is_refused() {
        let stage = Stage::new();
        for query in [
            "",
            "start=ge2026-03-25",
            "start=le2026-03-25",
            "start=ge2026-03-25&start=ge2026-03-26",
            "start=ge2026-03-25&start=le2026-03-26&start=le2026-03-27",
            "start=ge2026-03-24&start=le2026-03-26",
            "start=ge2026-03-27&start=le2026-03-26",
            "start=ge2026-03-25T00:00:00%2B00:00&start=le2026-03-26",
            "start=ge2026-03&start=le2026-04",
            "start=gt2026-03-25&start=lt2026-03-26",
        ] {
            let (status, _, body) = stage.get(SHORT, &format!("/Patient/1/Appointment?{query}"));
            assert_eq!((status, code_of(&body)), (422, "INVALID_PARAMETER"), "{query}");
        }
        let (status, _, body) = stage.retrieve("dd");
        assert_eq!((status, code_of(&body)), (404, "PATIENT_NOT_FOUND"));
    }

    #[test]
    fn an_unknown_appointment_is_not_found() {
        let stage = Stage::new();
        for id in ["1", "Invalid4321", "8888888888"] {
            let (status, _, body) = stage.get("read:appointment-1", &format!("/Appointment/{id}"));
            assert_eq!((status, code_of(&body)), (404, "NO_RECORD_FOUND"), "{id}");
        }
    }
}
