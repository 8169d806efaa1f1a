//! Requests of consumers by interaction, and the requests that find out what they need.

use anyhow::{Context as _, anyhow};
use http::HeaderValue;
use http::uri::PathAndQuery;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::{Value, json};
use spine_types::interaction::{self, Interaction, PathSegment};

use super::answer::CallAnswer;
use super::exchange::{CallRequest, Caller};
use super::resources::{NewBooking, cancelled, first, location, resources, set, text};
use super::{CallContent, usage};
use crate::failure::Failure;

/// Spec: longest period that a search may have, in days after the first.
const DAYS_AFTER_FIRST: i8 = 13;
/// Description of a booking without another.
const DESCRIPTION: &str = "Test booking, made with spine-proxy call";
/// Spec: longest logical id, in bytes (FHIR, type `id`).
const ID_BYTES_MAX: usize = 64;
/// Time zone of practices.
const LONDON: &str = "GMT0BST,M3.5.0/1,M10.5.0";

/// Composes a request; sends the requests that it depends on.
pub(super) async fn request(
    caller: &Caller,
    interaction: &'static Interaction,
    id: Option<&str>,
    content: &CallContent,
) -> Result<CallRequest, Failure> {
    let is = |word: &str| interaction::named(word) == Ok(interaction);
    let composer = Composer { caller, content };
    if content.data.is_none() && is("book") {
        return composer.book(interaction).await;
    }
    if content.data.is_none() && (is("amend") || is("cancel")) {
        return composer.change(interaction, id, is("cancel")).await;
    }
    let found = match (&content.patient, id) {
        (Some(number), None) if is("appointments") => Some(composer.patient(number).await?),
        _ => None,
    };
    let query = match &content.query {
        Some(query) => Some(query.clone()),
        None if is("slots") => Some(slots_query(caller, &composer.days()?)),
        None if is("appointments") => Some(composer.days()?.appointments_query()),
        None if is("patients") => {
            let number = content.patient.as_ref().ok_or_else(|| usage("--patient is needed"))?;
            Some(patient_query(number))
        }
        None => None,
    };
    let request = plain(interaction, found.as_deref().or(id))?;
    let request = query.into_iter().fold(request, |request, query| request.with_query(&query));
    if request.path.parse::<PathAndQuery>().is_err() {
        return Err(usage(
            "--query has characters that a URL may not have: encode them, a space as %20",
        ));
    }
    Ok(CallRequest { body: body(content)?, ..request })
}

impl CallRequest {
    /// Returns the request of the interaction that a word names, without query and body.
    pub(in crate::commands) fn named(word: &str, id: Option<&str>) -> Result<Self, Failure> {
        plain(interaction::named(word).map_err(Failure::environment)?, id)
    }

    /// Returns the request with a query, which is encoded.
    pub(in crate::commands) fn with_query(self, query: &str) -> Self {
        Self { path: format!("{}?{query}", self.path), ..self }
    }

    /// Returns the request that changes a resource to `resource`, from the version in an answer.
    pub(in crate::commands) fn changing(
        self,
        read: &CallAnswer,
        resource: &Value,
    ) -> Result<Self, Failure> {
        let version = match read.header("etag") {
            "" => {
                let resource = read.json();
                let version = resource.pointer("/meta/versionId").and_then(Value::as_str);
                version.map(|version| format!("W/\"{version}\""))
            }
            etag => Some(etag.to_owned()),
        };
        let if_match = version.map(HeaderValue::try_from).transpose();
        let if_match = if_match.map_err(Failure::environment)?;
        Ok(Self { body: Some(resource.to_string()), if_match, ..self })
    }
}

/// Returns the request of an interaction without query and body.
fn plain(interaction: &'static Interaction, id: Option<&str>) -> Result<CallRequest, Failure> {
    let has_id = interaction.path.contains(&PathSegment::Id);
    let id = match (has_id, id) {
        (true, None) => return Err(usage(format_args!("{} needs an ID", interaction.short_id()))),
        (false, Some(_)) => {
            return Err(usage(format_args!("{} takes no ID", interaction.short_id())));
        }
        (_, id) => id.unwrap_or_default(),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if has_id && id.is_empty()
        || id.len() > ID_BYTES_MAX
        || !id.bytes().all(is_plain)
        || matches!(id, "." | "..")
    {
        return Err(usage("an ID has 1 to 64 letters, digits, hyphens and full stops"));
    }
    let segment = |segment: &PathSegment| match segment {
        PathSegment::Word(word) => format!("/{word}"),
        PathSegment::Id => format!("/{id}"),
    };
    let path = interaction.path.iter().map(segment).collect();
    let (body, if_match, headers, method, target) = (None, None, Vec::new(), None, None);
    Ok(CallRequest { interaction, path, body, if_match, headers, method, target })
}

/// Reads the body that the user gives.
fn body(content: &CallContent) -> Result<Option<String>, Failure> {
    let Some(data) = &content.data else { return Ok(None) };
    let Some(path) = data.strip_prefix('@') else { return Ok(Some(data.clone())) };
    let read = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    read.map(Some).map_err(Failure::Configuration)
}

/// Composer of the requests that depend on others.
struct Composer<'a> {
    caller: &'a Caller,
    content: &'a CallContent,
}

impl Composer<'_> {
    /// Sends a request that another one depends on.
    async fn ask(&self, request: CallRequest) -> Result<CallAnswer, Failure> {
        let answer = self.caller.send(&request).await?;
        if answer.is_expected(None) { Ok(answer) } else { Err(answer.failure(None)) }
    }

    async fn book(&self, interaction: &'static Interaction) -> Result<CallRequest, Failure> {
        let (Some(number), true) =
            (&self.content.patient, self.content.earliest || self.content.slot.is_some())
        else {
            return Err(usage("book needs --patient with --earliest or --slot, or --data"));
        };
        let patient = self.patient(number).await?;
        let query = slots_query(self.caller, &self.days()?);
        let search = CallRequest::named("slots", None)?.with_query(&query);
        let found = self.ask(search).await?.json();
        let slot = self.chosen(&found)?;
        let location = location(&found, &slot)
            .ok_or_else(|| Failure::Environment(anyhow!("the slot has no location")))?;
        let booking = NewBooking {
            ods: self.caller.consumer.as_str(),
            organisation: "Invented organisation",
            description: self.content.description.as_deref().unwrap_or(DESCRIPTION),
            slot: &slot,
            patient: &patient,
            location: &location,
        };
        let body = Some(booking.resource().to_string());
        Ok(CallRequest { body, ..plain(interaction, None)? })
    }

    /// Returns the slot to book.
    fn chosen(&self, found: &Value) -> Result<Value, Failure> {
        let slots = resources(found, "Slot");
        let chosen = match &self.content.slot {
            Some(id) => slots.into_iter().find(|slot| text(slot, "id") == *id),
            None => earliest(slots, Timestamp::now()),
        };
        chosen.ok_or_else(|| Failure::Environment(anyhow!("no such slot is free")))
    }

    /// Composes the request that cancels or amends an appointment, from its current version.
    async fn change(
        &self,
        interaction: &'static Interaction,
        id: Option<&str>,
        cancels: bool,
    ) -> Result<CallRequest, Failure> {
        let request = plain(interaction, id)?;
        let description = match (cancels, &self.content.description) {
            (false, None) => return Err(usage("amend needs --description or --data")),
            (_, description) => description,
        };
        let read = self.ask(CallRequest::named("read:appointment", id)?).await?;
        let mut resource = read.json();
        if text(&resource, "status") == "cancelled" {
            return Err(Failure::Environment(anyhow!("this appointment is cancelled already")));
        }
        let resource = match (cancels, description) {
            (true, _) => cancelled(resource, &self.content.reason),
            (false, description) => {
                set(&mut resource, "description", json!(description));
                resource
            }
        };
        request.changing(&read, &resource)
    }

    /// Returns the logical id of the patient with an NHS number.
    async fn patient(&self, number: &str) -> Result<String, Failure> {
        let search = CallRequest::named("patients", None)?.with_query(&patient_query(number));
        let found = self.ask(search).await?.json();
        first(&found, "Patient").map(|patient| text(&patient, "id")).map_err(|_| {
            let practice = &self.caller.practice;
            Failure::Environment(anyhow!(
                "no patient with this NHS number is known at {practice}; \"call register {practice} --data @FILE\" \
                 registers one"
            ))
        })
    }

    /// Returns the days to search.
    fn days(&self) -> Result<SearchDays, Failure> {
        let days = SearchDays::fortnight(self.content.start)?;
        Ok(SearchDays { until: self.content.end.unwrap_or(days.until), ..days })
    }
}

/// First and last day of a search.
pub(in crate::commands) struct SearchDays {
    from: Date,
    until: Date,
}

impl SearchDays {
    /// Returns the longest period that begins on a day, or today.
    pub(in crate::commands) fn fortnight(from: Option<Date>) -> Result<Self, Failure> {
        let zone = TimeZone::posix(LONDON).map_err(Failure::environment)?;
        let from = from.unwrap_or_else(|| Timestamp::now().to_zoned(zone).date());
        Ok(Self { from, until: from.saturating_add(Span::new().days(DAYS_AFTER_FIRST)) })
    }

    /// Returns the query for a patient's appointments.
    pub(in crate::commands) fn appointments_query(&self) -> String {
        format!("start=ge{}&start=le{}", self.from, self.until)
    }
}

/// Returns the query for free slots, as the organisation of a consumer.
pub(in crate::commands) fn slots_query(caller: &Caller, days: &SearchDays) -> String {
    let organisation = format!("https://fhir.nhs.uk/Id/ods-organization-code|{}", caller.consumer);
    format!(
        "status=free&start=ge{}&end=le{}&_include=Slot:schedule\
         &_include:recurse=Schedule:actor:Practitioner&_include:recurse=Schedule:actor:Location\
         &searchFilter={}",
        days.from,
        days.until,
        encoded(&organisation)
    )
}

/// Returns the slot that begins first after `now`; a provider may offer those of earlier today too.
pub(in crate::commands) fn earliest(slots: Vec<Value>, now: Timestamp) -> Option<Value> {
    let starts =
        slots.into_iter().filter_map(|slot| Some((text(&slot, "start").parse().ok()?, slot)));
    let later = starts.filter(|(start, _): &(Timestamp, Value)| *start > now);
    later.min_by_key(|(start, _)| *start).map(|(_, slot)| slot)
}

/// Returns the query for the patient with an NHS number.
pub(in crate::commands) fn patient_query(number: &str) -> String {
    format!("identifier={}", encoded(&format!("https://fhir.nhs.uk/Id/nhs-number|{number}")))
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_slot_is_the_first_that_has_not_begun() {
        let now = "2026-03-29T00:30:00Z".parse().unwrap();
        let slots = |starts: &[&str]| -> Vec<Value> {
            starts.iter().map(|start| json!({ "start": start })).collect()
        };
        // The first is at 00:20 in UTC, the second at 01:00, the third at 00:50.
        let all =
            ["2026-03-29T00:20:00+00:00", "2026-03-29T02:00:00+01:00", "2026-03-29T01:50:00+01:00"];
        assert_eq!(earliest(slots(&all), now), Some(json!({ "start": all[2] })));
        assert_eq!(earliest(slots(&["2026-03-29T00:30:00+00:00", "soon"]), now), None);
    }
}
