//! Profile rules for every appointment that a consumer sends.

use serde_json::{Map, Value};

use super::reply::{ReplyFault, require};
use super::slots::Filters;
use super::{codes, fhir};

/// Elements that an appointment may have; `reason` and `specialty` are not among them.
#[rustfmt::skip]
const ELEMENTS: [&str; 20] = [
    "resourceType", "id", "meta", "language", "text", "contained", "extension",
    "identifier", "status", "serviceCategory", "serviceType", "priority", "description", "start",
    "end", "minutesDuration", "slot", "created", "comment", "participant",
];
const IDENTIFIER_ELEMENTS: [&str; 4] = ["id", "extension", "system", "value"];
const PARTICIPATION_STATUSES: [&str; 4] = ["accepted", "declined", "tentative", "needs-action"];
const CONTACT_SYSTEMS: [&str; 7] = ["phone", "fax", "email", "pager", "url", "sms", "other"];
const EXTENSIONS: [&str; 4] = [
    fhir::BOOKING_ORGANISATION,
    fhir::DELIVERY_CHANNEL,
    fhir::PRACTITIONER_ROLE,
    fhir::CANCELLATION_REASON,
];
const DESCRIPTION_MAX: usize = 100;
const COMMENT_MAX: usize = 500;

/// Checks the rules for every appointment that is sent, new or changed.
pub(super) fn judge_appointment(sent: &Map<String, Value>) -> Result<(), ReplyFault> {
    let is_allowed = |name: &String| ELEMENTS.contains(&name.as_str());
    if let Some(unknown) = sent.keys().find(|name| !is_allowed(name)) {
        return Err(ReplyFault::resource(format!(
            "the element {unknown} is not allowed in an appointment"
        )));
    }
    let field = |name: &str| sent.get(name).and_then(Value::as_str);
    require(field("resourceType") == Some("Appointment"), "the resource is not an appointment")?;
    let profiles = sent.get("meta").map(|meta| fhir::items(meta, "/profile")).unwrap_or_default();
    let wanted = fhir::profile("GPConnect-Appointment-1");
    require(
        profiles.iter().any(|named| *named == wanted),
        "the profile of an appointment is missing",
    )?;
    let of = |name: &str| sent.get(name).and_then(Value::as_array).into_iter().flatten();
    let is_plain = |entry: &Value| {
        let parts = entry.as_object().into_iter().flat_map(Map::keys);
        fhir::text(entry, "/value").is_some()
            && parts.into_iter().all(|part| IDENTIFIER_ELEMENTS.contains(&&**part))
    };
    require(
        of("identifier").all(is_plain),
        "an identifier has no value, or an element that is not allowed",
    )?;
    let status = |entry: &Value| {
        fhir::text(entry, "/status").is_some_and(|status| PARTICIPATION_STATUSES.contains(&status))
    };
    require(
        of("participant").all(status),
        "a participant has no status, or one that is not a code of FHIR",
    )?;
    let mut actors: Vec<_> =
        of("participant").map(|one| fhir::text(one, "/actor/reference")).collect();
    actors.sort_unstable();
    require(actors.is_sorted_by(|one, other| one < other), "a participant is repeated")?;
    require(
        of("contained").count() == 1,
        "an appointment must contain exactly one resource, the booking organisation",
    )?;
    let narrative = sent.get("text").is_none_or(|text| fhir::text(text, "/div").is_some());
    require(narrative, "a narrative has no div")?;
    let url = |entry: &Value| fhir::text(entry, "/url").map(str::to_owned);
    let mut urls: Vec<_> = of("extension").map(url).collect();
    let allowed = EXTENSIONS.map(|name| Some(fhir::profile(name)));
    require(
        urls.iter().all(|url| allowed.contains(url)),
        "an extension is not allowed in an appointment",
    )?;
    urls.sort_unstable();
    require(urls.is_sorted_by(|one, other| one < other), "an extension is repeated")?;
    judge_texts(sent)
}

/// Checks the description, which is required, and the comment.
fn judge_texts(sent: &Map<String, Value>) -> Result<(), ReplyFault> {
    let field = |name: &str| sent.get(name).and_then(Value::as_str);
    let is_short = |name: &str, max: usize| {
        let text = field(name).filter(|text| !text.trim().is_empty());
        text.is_some_and(|text| text.chars().count() <= max)
    };
    require(
        is_short("description", DESCRIPTION_MAX),
        "the description is missing or longer than 100 characters",
    )?;
    require(
        !sent.contains_key("comment") || is_short("comment", COMMENT_MAX),
        "the comment is empty or longer than 500 characters",
    )
}

/// Spec: the booking organisation is contained, and has a phone number; returns its codes and type.
pub(super) fn judge_organisation(sent: &Value) -> Result<Filters<'_>, ReplyFault> {
    let extension = fhir::extension(sent, fhir::BOOKING_ORGANISATION);
    let local = extension
        .and_then(|entry| fhir::text(entry, "/valueReference/reference"))
        .and_then(|reference| reference.strip_prefix('#'));
    let contained = fhir::items(sent, "/contained").iter().find(|resource| {
        fhir::text(resource, "/resourceType") == Some("Organization")
            && local.is_some_and(|id| fhir::text(resource, "/id") == Some(id))
    });
    let organisation = contained
        .ok_or_else(|| ReplyFault::resource("the booking organisation is not contained"))?;
    let has = |list: &str, system: &str| {
        fhir::items(organisation, list).iter().any(|item| {
            fhir::text(item, "/system") == Some(system)
                && fhir::text(item, "/value").is_some_and(|value| !value.trim().is_empty())
        })
    };
    let named = fhir::text(organisation, "/name").is_some_and(|name| !name.trim().is_empty());
    require(named, "the booking organisation has no name")?;
    require(has("/telecom", "phone"), "the booking organisation has no phone number")?;
    require(has("/identifier", fhir::ODS_CODE), "the booking organisation has no ODS code")?;
    let wanted = fhir::profile("CareConnect-GPC-Organization-1");
    let profiles = fhir::items(organisation, "/meta/profile");
    require(
        profiles.iter().any(|named| *named == wanted),
        "the booking organisation has no profile",
    )?;
    let systems = fhir::items(organisation, "/telecom").iter();
    let mut systems = systems.map(|entry| fhir::text(entry, "/system").unwrap_or_default());
    require(
        systems.all(|system| CONTACT_SYSTEMS.contains(&system)),
        "a telecom has no system, or one that is not a code of FHIR",
    )?;
    let identifiers = fhir::items(organisation, "/identifier").iter();
    let codes = identifiers.filter(|entry| fhir::text(entry, "/system") == Some(fhir::ODS_CODE));
    Ok(Filters {
        organisations: codes.filter_map(|entry| fhir::text(entry, "/value")).collect(),
        types: organisation_type(organisation)?.into_iter().collect(),
    })
}

/// Spec: the booking organisation has at most one type, the one that was searched with.
fn organisation_type(organisation: &Value) -> Result<Option<&str>, ReplyFault> {
    let types = fhir::items(organisation, "/type");
    let mut codings = types.iter().flat_map(|kind| fhir::items(kind, "/coding"));
    let kind = match (types, codings.next(), codings.next()) {
        ([], ..) => return Ok(None),
        ([_], Some(coding), None)
            if fhir::text(coding, "/system") == Some(fhir::ORGANISATION_TYPE) =>
        {
            fhir::text(coding, "/code").filter(|code| codes::ORGANISATION_TYPES.contains(code))
        }
        _ => None,
    };
    require(kind.is_some(), "the type of the booking organisation is unknown")?;
    Ok(kind)
}
