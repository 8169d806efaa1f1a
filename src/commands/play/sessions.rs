//! Sessions, after the illustrations of the specification.

use serde_json::{Value, json};

use super::super::call::client::{
    CallAnswer, CallRequest, Caller, NewBooking, SearchDays, TargetForm, TestPatient, TestPractice,
    cancelled, earliest, first, location, patient_query, profile, resources, set, slots_query,
    text,
};
use super::{COLUMNS, CaseEnd, Judgement, Play, PlayedCase, Tone, described};
use jiff::Timestamp;

/// Content of a session.
#[derive(Debug, Clone, Copy)]
enum SessionKind {
    Reads,
    Simple,
    Federated,
    Unregistered,
    ByCode,
    Managed,
    Race,
}

/// Sessions in the order in which they are played, each with the sentence that is true if it passes.
const SESSIONS: [(SessionKind, &str); 7] = [
    (SessionKind::Reads, "Capabilities, free slots and a patient are read"),
    (SessionKind::Simple, "A slot is booked for a patient of the practice"),
    (SessionKind::Federated, "The earliest slot of several practices is booked"),
    (
        SessionKind::Unregistered,
        "A patient who is not registered there is registered and booked for",
    ),
    (
        SessionKind::ByCode,
        "A practice is named by its ODS code, and the proxy finds its service root",
    ),
    (SessionKind::Managed, "An appointment is listed, read, amended and cancelled"),
    (SessionKind::Race, "Of two consumers that race for one slot, one gets it"),
];

/// Free slot and its location.
struct FreeSlot {
    slot: Value,
    location: Value,
}

impl SessionKind {
    const fn books(self) -> bool {
        !matches!(self, Self::Reads)
    }
}

impl Play {
    /// Plays all sessions.
    pub(super) async fn sessions(&self, cases: &mut Vec<PlayedCase>) {
        for (number, (kind, name)) in SESSIONS.into_iter().enumerate() {
            self.screen().line(Tone::Heading, format_args!("\n{}. {name}", number + 1));
            let case = self.case("sessions", name, self.session(kind)).await;
            self.show_end(&case);
            cases.push(case);
        }
    }

    async fn session(&self, kind: SessionKind) -> Result<(), CaseEnd> {
        if kind.books() && !self.settings.books {
            return Err(CaseEnd::NotPlayed("it books appointments, see --book".to_owned()));
        }
        match kind {
            SessionKind::Reads => self.reads().await,
            SessionKind::Simple => self.simple().await,
            SessionKind::Federated => self.federated().await,
            SessionKind::Unregistered => self.unregistered().await,
            SessionKind::ByCode => self.by_code().await,
            SessionKind::Managed => Box::pin(self.managed()).await,
            SessionKind::Race => Box::pin(self.race()).await,
        }
    }

    async fn reads(&self) -> Result<(), CaseEnd> {
        let caller = self.caller(self.practice(0)?);
        self.metadata(&caller).await?;
        let found = self.search(&caller).await?.json();
        for slot in resources(&found, "Slot") {
            let is_whole = ["start", "end"].iter().all(|member| !text(&slot, member).is_empty())
                && slot.pointer("/schedule/reference").is_some()
                && text(&slot, "status") == "free";
            if !is_whole {
                let wanted = "slots that are free, with start, end and schedule";
                return Err(CaseEnd::unexpected(wanted, "one that is not"));
            }
        }
        match self.patient("registered") {
            Some(_) => self.registered(&caller).await.map(drop),
            None => {
                self.note("no patient is sought: none is given");
                Ok(())
            }
        }
    }

    async fn simple(&self) -> Result<(), CaseEnd> {
        let caller = self.caller(self.practice(0)?);
        let free = self.free(&caller).await?;
        let patient = self.registered(&caller).await?;
        self.booked(&caller, &free, &patient).await.map(drop)
    }

    async fn federated(&self) -> Result<(), CaseEnd> {
        let practices: Vec<_> = self.parties.practices.iter().filter(|one| one.answers).collect();
        if practices.len() < 2 {
            return Err(CaseEnd::NotPlayed("it needs two practices".to_owned()));
        }
        let mut found: Vec<(&TestPractice, FreeSlot)> = Vec::new();
        for practice in practices {
            if let Some(free) = self.free_if_any(&self.caller(practice)).await? {
                found.push((practice, free));
            }
        }
        let start = |free: &FreeSlot| text(&free.slot, "start").parse::<Timestamp>().ok();
        let earliest = found.into_iter().min_by_key(|(_, free)| start(free));
        let (practice, free) = earliest.ok_or_else(no_slot)?;
        self.note(format_args!("the earliest is at {}", practice.name));
        let caller = self.caller(practice);
        let patient = self.registered(&caller).await?;
        self.booked(&caller, &free, &patient).await.map(drop)
    }

    async fn unregistered(&self) -> Result<(), CaseEnd> {
        let missing = || "it needs a person who is registered nowhere".to_owned();
        let person = self.patient("unregistered").ok_or_else(|| CaseEnd::NotPlayed(missing()))?;
        let caller = self.caller(self.practice(1)?);
        let free = self.free(&caller).await?;
        if self.found(&caller, person).await?.is_some() {
            let why = "the person is registered there already".to_owned();
            return Err(CaseEnd::NotPlayed(why));
        }
        self.note("no patient with that NHS number is known there");
        let register = CallRequest::named("register", None)?;
        let body = Some(registration(person).to_string());
        let register = CallRequest { body, ..register };
        let registered = self.step("register the patient", &caller, &register, OK_BUNDLE).await?;
        let patient = text(&first(&registered.json(), "Patient")?, "id");
        self.booked(&caller, &free, &patient).await.map(drop)
    }

    async fn by_code(&self) -> Result<(), CaseEnd> {
        if self.is_at_provider() || self.settings.judgement == Judgement::Specification {
            return Err(CaseEnd::NotPlayed(super::OWN_RULE.to_owned()));
        }
        let caller = self.caller(self.practice(2)?);
        let caller = Caller { form: TargetForm::Code, to: None, ..caller };
        self.metadata(&caller).await?;
        let free = self.free(&caller).await?;
        let patient = self.patient("temporary").or_else(|| self.patient("registered"));
        let patient = patient.ok_or_else(no_patient)?;
        let patient = self.found(&caller, patient).await?.ok_or_else(not_found)?;
        self.booked(&caller, &free, &patient).await.map(drop)
    }

    async fn managed(&self) -> Result<(), CaseEnd> {
        let caller = self.caller(self.practice(0)?);
        let free = self.free(&caller).await?;
        let patient = self.registered(&caller).await?;
        let booked = self.booked(&caller, &free, &patient).await?.json();
        let id = text(&booked, "id");
        let days = SearchDays::fortnight(None)?;
        let list = CallRequest::named("appointments", Some(&patient))?;
        let list = list.with_query(&days.appointments_query());
        let listed = self.step("list the patient's appointments", &caller, &list, OK_BUNDLE);
        let listed = resources(&listed.await?.json(), "Appointment");
        if !listed.iter().any(|one| text(one, "id") == id) {
            return Err(CaseEnd::unexpected("the new appointment among them", "others only"));
        }
        let read = CallRequest::named("read:appointment", Some(&id))?;
        let found = self.step("read the new one", &caller, &read, OK_APPOINTMENT).await?;

        let mut resource = found.json();
        let description = format!("{}, amended", self.booked.description);
        set(&mut resource, "description", json!(description));
        let amend = CallRequest::named("amend", Some(&id))?.changing(&found, &resource)?;
        let what = "amend it, from the version just read";
        let amended = self.step(what, &caller, &amend, OK_APPOINTMENT).await?;
        let what = "amend from the old version: refused";
        self.step(what, &caller, &amend, (409, "OperationOutcome")).await?;

        let resource = cancelled(amended.json(), "The patient feels better");
        let cancel = CallRequest::named("cancel", Some(&id))?.changing(&amended, &resource)?;
        self.step("cancel it", &caller, &cancel, OK_APPOINTMENT).await?;
        let gone = self.step("read it", &caller, &read, OK_APPOINTMENT).await?.json();
        self.expect("status", &gone, "cancelled")?;
        let found = self.search(&caller).await?.json();
        let is_free = |one: &Value| text(one, "id") == text(&free.slot, "id");
        if !resources(&found, "Slot").iter().any(is_free) {
            return Err(CaseEnd::unexpected("the slot among the free ones", "others only"));
        }
        self.note("the slot is free again");
        Ok(())
    }

    async fn race(&self) -> Result<(), CaseEnd> {
        let one = self.caller(self.practice(0)?);
        let other = match self.other_consumer(true) {
            Some(other) => self.as_consumer(other, &one)?,
            None => one.clone(),
        };
        let free = self.free(&one).await?;
        let patient = self.registered(&one).await?;
        let request = |caller| self.booking(caller, &free, &patient);
        let (first, second) = (request(&one)?, request(&other)?);
        self.screen().line(Tone::Plain, "-> both book it at once");
        self.booked.begins(&one, &patient);
        let (first, second) = tokio::join!(self.send(&one, &first), self.send(&other, &second));
        let (first, second) = (first?, second?);
        for answer in [&first, &second].into_iter().filter(|answer| answer.status == 201) {
            self.booked.is_booked(&one, &patient, &text(&answer.json(), "id"));
        }
        let statuses = (first.status.as_u16(), second.status.as_u16());
        self.screen().line(Tone::Good, format_args!("<- {} and {}", statuses.0, statuses.1));
        match statuses {
            (201, 409) | (409, 201) => Ok(()),
            _ => Err(CaseEnd::unexpected(
                "201 for one and 409 for the other",
                format!("{}; {}", described(&first), described(&second)),
            )),
        }
    }

    async fn metadata(&self, caller: &Caller) -> Result<(), CaseEnd> {
        let metadata = CallRequest::named("metadata", None)?;
        let wanted = (200, "CapabilityStatement");
        let answer = self.step("ask what it can do", caller, &metadata, wanted).await?;
        self.expect("fhirVersion", &answer.json(), "3.0.1")
    }

    async fn search(&self, caller: &Caller) -> Result<CallAnswer, CaseEnd> {
        let query = slots_query(caller, &SearchDays::fortnight(None)?);
        let search = CallRequest::named("slots", None)?.with_query(&query);
        let found = self.step("search for free slots", caller, &search, OK_BUNDLE).await?;
        self.expect("type", &found.json(), "searchset")?;
        Ok(found)
    }

    /// Returns the earliest free slot and its location, if there is one.
    async fn free_if_any(&self, caller: &Caller) -> Result<Option<FreeSlot>, CaseEnd> {
        let found = self.search(caller).await?.json();
        let slot = earliest(resources(&found, "Slot"), Timestamp::now());
        let Some(slot) = slot else { return Ok(None) };
        let missing = || CaseEnd::unexpected("a slot with its location", "one without");
        let location = location(&found, &slot).ok_or_else(missing)?;
        self.note(format_args!("free at {}, {}", text(&slot, "start"), text(&location, "name")));
        Ok(Some(FreeSlot { slot, location }))
    }

    async fn free(&self, caller: &Caller) -> Result<FreeSlot, CaseEnd> {
        self.free_if_any(caller).await?.ok_or_else(no_slot)
    }

    /// Returns the logical id of the registered patient at a practice.
    async fn registered(&self, caller: &Caller) -> Result<String, CaseEnd> {
        let patient = self.patient("registered").ok_or_else(no_patient)?;
        self.found(caller, patient).await?.ok_or_else(not_found)
    }

    /// Returns the logical id that a person has at a practice, if they are known there.
    async fn found(
        &self,
        caller: &Caller,
        person: &TestPatient,
    ) -> Result<Option<String>, CaseEnd> {
        let find = CallRequest::named("patients", None)?;
        let find = find.with_query(&patient_query(&person.nhs_number));
        let found = self.step("find the patient", caller, &find, OK_BUNDLE).await?;
        let found = resources(&found.json(), "Patient").into_iter().next();
        Ok(found.map(|patient| text(&patient, "id")))
    }

    fn booking(
        &self,
        caller: &Caller,
        free: &FreeSlot,
        patient: &str,
    ) -> Result<CallRequest, CaseEnd> {
        let booking = NewBooking {
            ods: caller.consumer.as_str(),
            organisation: "Invented organisation",
            description: &self.booked.description,
            slot: &free.slot,
            patient,
            location: &free.location,
        };
        let body = Some(booking.resource().to_string());
        Ok(CallRequest { body, ..CallRequest::named("book", None)? })
    }

    async fn booked(
        &self,
        caller: &Caller,
        free: &FreeSlot,
        patient: &str,
    ) -> Result<CallAnswer, CaseEnd> {
        let book = self.booking(caller, free, patient)?;
        self.booked.begins(caller, patient);
        let booked = self.step("book", caller, &book, (201, "Appointment")).await?;
        let resource = booked.json();
        self.booked.is_booked(caller, patient, &text(&resource, "id"));
        self.expect("status", &resource, "booked")?;
        if text(&resource, "id").is_empty() || booked.header("etag").is_empty() {
            return Err(CaseEnd::unexpected("an id, and the version as ETag", "not both"));
        }
        Ok(booked)
    }

    /// Sends one request and expects the practice's answer: a status, and a resource of a type.
    async fn step(
        &self,
        what: &str,
        caller: &Caller,
        request: &CallRequest,
        (status, kind): (u16, &'static str),
    ) -> Result<CallAnswer, CaseEnd> {
        let path = request.path.split('?').next().unwrap_or_default();
        let prefix = caller.prefix(request.interaction);
        self.screen().line(Tone::Plain, format_args!("-> {what}"));
        let line = format!("   {} {prefix}{path}", request.method());
        if line.len() > COLUMNS {
            self.screen().line(Tone::Faint, format_args!("   {} {prefix}", request.method()));
            self.screen().line(Tone::Faint, format_args!("      {path}"));
        } else {
            self.screen().line(Tone::Faint, line);
        }
        let answer = self.send(caller, request).await?;
        let content = answer.header("content-type");
        let is_right = answer.status == status
            && answer.refusal().is_none()
            && content.starts_with("application/fhir+json")
            && text(&answer.json(), "resourceType") == kind;
        if !is_right {
            let wanted = format!("{status} with a {kind} in FHIR JSON from the practice");
            return Err(CaseEnd::unexpected(
                format!("to {what}: {wanted}"),
                format!("{}, Content-Type {content:?}", described(&answer)),
            ));
        }
        let practices = self.parties.practices.iter();
        let mut named = practices.filter(|practice| practice.ods == caller.practice);
        let name = named.next().map_or(caller.practice.as_str(), |practice| &practice.name);
        self.screen().line(Tone::Good, format_args!("<- {status} from {name}"));
        Ok(answer)
    }

    /// Expects a member of a resource to have a value, and shows it.
    fn expect(&self, member: &str, resource: &Value, value: &str) -> Result<(), CaseEnd> {
        let found = text(resource, member);
        if found != value {
            let received = if found.is_empty() { "none".to_owned() } else { found };
            return Err(CaseEnd::unexpected(format!("{member} {value}"), received));
        }
        self.note(format_args!("{member} {value}"));
        Ok(())
    }

    fn note(&self, text: impl std::fmt::Display) {
        self.screen().line(Tone::Plain, format_args!("   {text}"));
    }
}

const OK_BUNDLE: (u16, &str) = (200, "Bundle");
const OK_APPOINTMENT: (u16, &str) = (200, "Appointment");

fn no_slot() -> CaseEnd {
    CaseEnd::unexpected("a free slot in the next fortnight", "none")
}

fn no_patient() -> CaseEnd {
    CaseEnd::NotPlayed("it needs a registered patient".to_owned())
}

fn not_found() -> CaseEnd {
    CaseEnd::unexpected("the patient in the bundle", "no patient")
}

fn registration(person: &TestPatient) -> Value {
    json!({
        "resourceType": "Parameters",
        "parameter": [{ "name": "registerPatient", "resource": {
            "resourceType": "Patient",
            "meta": { "profile": [profile("CareConnect-GPC-Patient-1")] },
            "identifier": [{
                "system": "https://fhir.nhs.uk/Id/nhs-number",
                "value": person.nhs_number,
            }],
            "name": [{ "use": "official", "family": person.family, "given": [person.given] }],
            "gender": person.gender,
            "birthDate": person.birth_date,
        } }],
    })
}
