//! The appointment that an exchange is about, so that its record meets the booking at the practice.

use http::HeaderMap;
use http::header::LOCATION;

use spine_types::interaction::{Interaction, PathSegment};
use spine_types::masked;

/// Name of the resource whose ids are recorded, as a segment of a path.
const APPOINTMENT: &str = "Appointment";
/// Limit: characters of a logical id and of a version.
///
/// Source: FHIR STU3, data type `id`.
const ID_BYTES_MAX: usize = 64;

/// Returns the appointment of a successful answer, as in `Appointment/148/_history/2`; `None` if neither
/// `Location` nor the path of the target names one.
///
/// `Location` comes first, since it names the version too. Both belong to the practice; nothing in them but
/// the two ids is recorded, and no id that could be an NHS number.
pub(super) fn named(of: &Interaction, headers: &HeaderMap, path: &str) -> Option<String> {
    if !of.path.contains(&PathSegment::Word(APPOINTMENT)) {
        return None;
    }
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    location.and_then(reference).or_else(|| reference(path))
}

/// Reads a path or URL that ends in `Appointment/[id]`, with `/_history/[version]` or without.
fn reference(text: &str) -> Option<String> {
    let mut segments = text.rsplit('/');
    let (last, before) = (segments.next()?, segments.next()?);
    let (id, version) = match before {
        "_history" => (segments.next()?, Some(last)),
        _ => (last, None),
    };
    let kind = if version.is_some() { segments.next()? } else { before };
    if kind != APPOINTMENT || !is_id(id) || !version.is_none_or(is_id) {
        return None;
    }
    let named = match version {
        Some(version) => format!("{kind}/{id}/_history/{version}"),
        None => format!("{kind}/{id}"),
    };
    // Security: a practice's system could use NHS numbers as ids.
    (masked(&named, usize::MAX) == named).then_some(named)
}

fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appointment_is_named_by_its_ids_alone() {
        for (text, expected) in [
            ("Appointment/148", Some("Appointment/148")),
            ("/Appointment/148/_history/2", Some("Appointment/148/_history/2")),
            (
                "https://p.nhs.uk/x/Appointment/a-b.C/_history/9",
                Some("Appointment/a-b.C/_history/9"),
            ),
            ("https://p.nhs.uk/x/Appointment/148?a=b", None),
            ("https://p.nhs.uk/x/Appointment/148#a", None),
            ("/Appointment/148/_history/", None),
            ("/Appointment/", None),
            ("/Appointment", None),
            ("/Patient/148", None),
            ("/Patient/148/_history/Appointment", None),
            ("/Appointment/_history/2", None),
            ("/Appointment/14%208", None),
            ("/Appointment/9434765919", None),
            ("/Appointment/1/_history/943-476-5919", None),
            ("", None),
        ] {
            assert_eq!(reference(text).as_deref(), expected, "{text}");
        }
        let longest = "1a".repeat(32);
        assert!(reference(&format!("Appointment/{longest}")).is_some());
        assert!(reference(&format!("Appointment/{longest}a")).is_none());
    }

    #[test]
    fn only_interactions_with_appointments_name_one() {
        let mut headers = HeaderMap::new();
        let find = |id| spine_types::interaction::by_id(id).unwrap();
        let create = find("urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1");
        let slots = find("urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1");
        assert_eq!(named(create, &headers, "/root/Appointment"), None);
        assert_eq!(
            named(create, &headers, "/root/Appointment/1"),
            Some("Appointment/1".to_owned())
        );
        headers.insert(LOCATION, "Appointment/2/_history/1".parse().unwrap());
        let booked = named(create, &headers, "/root/Appointment");
        assert_eq!(booked, Some("Appointment/2/_history/1".to_owned()));
        assert_eq!(named(slots, &headers, "/root/Slot"), None);
    }
}
