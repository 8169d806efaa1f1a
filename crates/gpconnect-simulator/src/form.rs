//! Profile rules for every appointment that a consumer sends.

use serde_json::{Map, Value};

use super::reply::{ReplyFault, rule};
use super::slots::Filters;
use super::{codes, fhir};

/// Elements that an appointment may have; `reason` and `specialty` are not among them.
#[rustfmt::skip]
const ELEMENTS: [&str; 20] = [
    "resourceType", "id", "meta", "language", "text", "contained", "extension",
    "identifier", "status", "serviceCategory", "serviceType", "priority", "description", "start",
    "end", "minutesDuration", "slot", "created", "comment", "participant",
];
const IDENTIFIER: [&str; 4] = ["id", "extension", "system", "value"];
const TAKES_PART: [&str; 4] = ["accepted", "declined", "tentative", "needs-action"];
const CONTACTS: [&str; 7] = ["phone", "fax", "email", "pager", "url", "sms", "other"];
const EXTENSIONS: [&str; 4] = [
    fhir::BOOKING_ORGANISATION,
    fhir::DELIVERY_CHANNEL,
    fhir::PRACTITIONER_ROLE,
    fhir::CANCELLATION_REASON,
];
const DESCRIPTION_MAX: usize = 100;
const COMMENT_MAX: usize = 500;

/// Checks the rules for every appointment that is sent, new or changed.
pub(super) fn judge_form(sent: &Map<String, Value>) -> Result<(), ReplyFault> {
    let known = |name: &String| ELEMENTS.contains(&name.as_str());
    if let Some(unknown) = sent.keys().find(|name| !known(name)) {
        return Err(ReplyFault::resource(format!("an appointment has no element {unknown} here")));
    }
    let field = |name: &str| sent.get(name).and_then(Value::as_str);
    rule(field("resourceType") == Some("Appointment"), "the resource is not an appointment")?;
    let profiles = sent.get("meta").map(|meta| fhir::items(meta, "/profile")).unwrap_or_default();
    let wanted = fhir::profile("GPConnect-Appointment-1");
    rule(
        profiles.iter().any(|named| *named == wanted),
        "the profile of an appointment is missing",
    )?;
    let of = |name: &str| sent.get(name).and_then(Value::as_array).into_iter().flatten();
    let plain = |known: &Value| {
        let parts = known.as_object().into_iter().flat_map(Map::keys);
        fhir::text(known, "/value").is_some()
            && parts.into_iter().all(|part| IDENTIFIER.contains(&&**part))
    };
    rule(of("identifier").all(plain), "an identifier has no value, or more than system and value")?;
    let status = |known: &Value| {
        fhir::text(known, "/status").is_some_and(|status| TAKES_PART.contains(&status))
    };
    rule(of("participant").all(status), "a participant has no status, or none that FHIR knows")?;
    let mut actors: Vec<_> =
        of("participant").map(|one| fhir::text(one, "/actor/reference")).collect();
    actors.sort_unstable();
    rule(
        actors.is_sorted_by(|one, other| one < other),
        "somebody takes part twice, or nobody does",
    )?;
    rule(of("contained").count() == 1, "more is contained than the booking organisation")?;
    let narrative = sent.get("text").is_none_or(|text| fhir::text(text, "/div").is_some());
    rule(narrative, "a narrative has no div")?;
    let url = |known: &Value| fhir::text(known, "/url").map(str::to_owned);
    let mut urls: Vec<_> = of("extension").map(url).collect();
    let ours = EXTENSIONS.map(|name| Some(fhir::profile(name)));
    rule(urls.iter().all(|url| ours.contains(url)), "an extension is not one of an appointment")?;
    urls.sort_unstable();
    rule(urls.is_sorted_by(|one, other| one < other), "an extension is there twice")?;
    let short = |name: &str, most: usize| {
        let text = field(name).filter(|text| !text.trim().is_empty());
        text.is_some_and(|text| text.chars().count() <= most)
    };
    rule(
        short("description", DESCRIPTION_MAX),
        "the description is missing or longer than 100 characters",
    )?;
    rule(
        !sent.contains_key("comment") || short("comment", COMMENT_MAX),
        "the comment is empty or longer than 500 characters",
    )
}

/// Spec: the booking organisation is contained, and has a phone number; returns its codes and type.
pub(super) fn judge_organisation(sent: &Value) -> Result<Filters<'_>, ReplyFault> {
    let extension = fhir::extension(sent, fhir::BOOKING_ORGANISATION);
    let local = extension
        .and_then(|known| fhir::text(known, "/valueReference/reference"))
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
    rule(named, "the booking organisation has no name")?;
    rule(has("/telecom", "phone"), "the booking organisation has no phone number")?;
    rule(has("/identifier", fhir::ODS_CODE), "the booking organisation has no ODS code")?;
    let wanted = fhir::profile("CareConnect-GPC-Organization-1");
    let profiles = fhir::items(organisation, "/meta/profile");
    rule(profiles.iter().any(|named| *named == wanted), "the booking organisation has no profile")?;
    let systems = fhir::items(organisation, "/telecom").iter();
    let mut systems = systems.map(|known| fhir::text(known, "/system").unwrap_or_default());
    rule(systems.all(|system| CONTACTS.contains(&system)), "a telecom has no system FHIR knows")?;
    let identifiers = fhir::items(organisation, "/identifier").iter();
    let codes = identifiers.filter(|known| fhir::text(known, "/system") == Some(fhir::ODS_CODE));
    Ok(Filters {
        organisations: codes.filter_map(|known| fhir::text(known, "/value")).collect(),
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
    rule(kind.is_some(), "the booking organisation is of no type that is known here")?;
    Ok(kind)
}
