//! Booking sessions A to F, after the illustrations of the specification.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::super::super::call::{
    CallAnswer, NewBooking, cancelled, first, location, profile, resources, set, text,
};
use super::super::super::lab::{HUB_ODS, ListedPractice, PRACTICES};
use super::super::super::print;
use super::{DemoRequest, Play, dates};
use gpconnect_simulator::{InventedPerson, Registration, people};

/// Free slot and its location.
struct FreeSlot {
    slot: Value,
    location: Value,
}

impl Play<'_> {
    /// Runs all sessions; returns the number that failed.
    pub(super) async fn sessions(&self) -> usize {
        let mut failed = 0;
        let mut ended = |session: &str, how: anyhow::Result<()>| {
            if let Err(error) = how {
                print(format_args!("   session {session} failed: {error:#}"));
                failed += 1;
            }
        };
        ended("A", self.simple().await);
        ended("B", self.federated().await);
        ended("C", self.unregistered().await);
        ended("D", self.by_code().await);
        ended("E", self.managed().await);
        ended("F", self.race().await);
        failed
    }

    /// Session A: a booking for a registered patient of the practice.
    async fn simple(&self) -> anyhow::Result<()> {
        print("\nA. A simple booking");
        let [practice, ..] = &PRACTICES;
        let free = self.free(practice, false).await?.context("no slot is free")?;
        let patient = self.patient(practice, Registration::Registered, false).await?;
        let patient = patient.context("the patient is not known")?;
        self.booked(practice, &free, &patient, false).await.map(drop)
    }

    /// Session B: a booking at the practice of a federation with the earliest slot.
    async fn federated(&self) -> anyhow::Result<()> {
        print("\nB. The earliest slot of five practices at four suppliers");
        let mut earliest: Option<(&ListedPractice, FreeSlot)> = None;
        for practice in &PRACTICES {
            let Some(free) = self.free(practice, false).await? else { continue };
            let start = |free: &FreeSlot| text(&free.slot, "start");
            if earliest.as_ref().is_none_or(|(_, found)| start(&free) < start(found)) {
                earliest = Some((practice, free));
            }
        }
        let (practice, free) = earliest.context("no slot is free anywhere")?;
        print(format_args!("   the earliest is at {}", practice.name));
        let patient = self.patient(practice, Registration::Registered, false).await?;
        let patient = patient.context("the patient is not known")?;
        self.booked(practice, &free, &patient, false).await.map(drop)
    }

    /// Session C: a booking for a patient whom the practice does not know.
    async fn unregistered(&self) -> anyhow::Result<()> {
        print("\nC. A patient who is not registered there");
        let [_, practice, ..] = &PRACTICES;
        let free = self.free(practice, false).await?.context("no slot is free")?;
        let unknown = self.patient(practice, Registration::Unregistered, false).await?;
        anyhow::ensure!(unknown.is_none(), "the patient is known");
        print("   no patient with that NHS number is known there");
        let mut register = DemoRequest::new(
            practice,
            "operation:gpc.registerpatient-1",
            "/Patient/$gpc.registerpatient",
        );
        register.body = registration(&somebody(Registration::Unregistered)?).to_string();
        let registered = self.step("register the patient", &register, 200).await?;
        let patient = first(&registered.json(), "Patient")?;
        self.booked(practice, &free, &patient, false).await.map(drop)
    }

    /// Session D: a booking from end to end, with the practice named by its ODS code alone.
    async fn by_code(&self) -> anyhow::Result<()> {
        print("\nD. End to end, the practice named by its ODS code: the proxy finds its root");
        let [_, _, practice, ..] = &PRACTICES;
        let metadata = DemoRequest::new(practice, "read:metadata-1", "/metadata");
        let metadata = DemoRequest { by_code: true, ..metadata };
        self.step("ask what it can do", &metadata, 200).await?;
        let free = self.free(practice, true).await?.context("no slot is free")?;
        let patient = self.patient(practice, Registration::Temporary, true).await?;
        let patient = patient.context("the patient is not known")?;
        self.booked(practice, &free, &patient, true).await.map(drop)
    }

    /// Session E: an appointment is looked up, amended and cancelled.
    async fn managed(&self) -> anyhow::Result<()> {
        print("\nE. Managing an appointment");
        let [practice, ..] = &PRACTICES;
        let patient = self.patient(practice, Registration::Registered, false).await?;
        let patient = patient.context("the patient is not known")?;
        let (today, until) = dates();
        let list = format!(
            "/Patient/{}/Appointment?start=ge{today}&start=le{until}",
            text(&patient, "id")
        );
        let retrieve = DemoRequest::new(practice, "search:patient_appointments-1", list);
        let listed = self.step("retrieve the patient's appointments", &retrieve, 200).await?;
        let appointment = first(&listed.json(), "Appointment")?;
        let at = format!("/Appointment/{}", text(&appointment, "id"));
        let read = DemoRequest::new(practice, "read:appointment-1", &at);
        let found = self.step("read the first", &read, 200).await?;

        let mut amend = DemoRequest::new(practice, "update:appointment-1", &at);
        let mut resource = found.json();
        set(&mut resource, "description", json!("Amended: the patient uses a wheelchair"));
        amend.body = resource.to_string();
        amend.extra = vec![("If-Match", found.header("etag").to_owned())];
        let amended = self.step("amend it, from the version just read", &amend, 200).await?;
        self.step("amend from the old version: refused", &amend, 409).await?;

        let mut cancel = DemoRequest::new(practice, "cancel:appointment-1", &at);
        cancel.body = cancelled(amended.json(), "The patient feels better").to_string();
        cancel.extra = vec![("If-Match", amended.header("etag").to_owned())];
        self.step("cancel it", &cancel, 200).await?;
        let gone = self.step("read it", &read, 200).await?.json();
        print(format_args!("   it is {}", text(&gone, "status")));
        let free = self.search(practice, false).await?;
        let slot = appointment.pointer("/slot/0/reference").and_then(Value::as_str);
        let again = resources(&free.json(), "Slot")
            .iter()
            .any(|free| Some(format!("Slot/{}", text(free, "id")).as_str()) == slot);
        anyhow::ensure!(again, "the slot is not free again");
        print("   the slot is free again");
        Ok(())
    }

    /// Session F: two consumers book the same slot at the same time.
    async fn race(&self) -> anyhow::Result<()> {
        print("\nF. Two consumers race for one slot");
        let [practice, ..] = &PRACTICES;
        let free = self.free(practice, false).await?.context("no slot is free")?;
        let patient = self.patient(practice, Registration::Registered, false).await?;
        let patient = patient.context("the patient is not known")?;
        let ask = || booking_ask(practice, &free, &patient);
        let (hub, night) = (ask(), ask().at_night());
        let (hub, night) = tokio::join!(self.send(&hub), self.send(&night));
        let (hub, night) = (hub?.status.as_u16(), night?.status.as_u16());
        print(format_args!("<- {hub} to the hub, {night} to the out-of-hours service"));
        anyhow::ensure!(
            matches!((hub, night), (201, 409) | (409, 201)),
            "expected 201 for one and 409 for the other"
        );
        Ok(())
    }

    async fn search(&self, practice: &ListedPractice, by_code: bool) -> anyhow::Result<CallAnswer> {
        let (today, until) = dates();
        let search = format!(
            "/Slot?status=free&start=ge{today}&end=le{until}&_include=Slot:schedule&_include:recurse=Schedule:actor:Location"
        );
        let search = DemoRequest { by_code, ..DemoRequest::new(practice, "search:slot-1", search) };
        self.step("search for free slots", &search, 200).await
    }

    /// Returns the first free slot and its location.
    async fn free(
        &self,
        practice: &ListedPractice,
        by_code: bool,
    ) -> anyhow::Result<Option<FreeSlot>> {
        let found = self.search(practice, by_code).await?.json();
        let Some(slot) = resources(&found, "Slot").into_iter().next() else { return Ok(None) };
        let location = location(&found, &slot).context("the slot has no location")?;
        print(format_args!("   free at {}, {}", text(&slot, "start"), text(&location, "name")));
        Ok(Some(FreeSlot { slot, location }))
    }

    /// Searches for the first invented patient with this registration status, as the practice knows them.
    async fn patient(
        &self,
        practice: &ListedPractice,
        standing: Registration,
        by_code: bool,
    ) -> anyhow::Result<Option<Value>> {
        let nhs = somebody(standing)?.nhs_number;
        let find =
            format!("/Patient?identifier=https%3A%2F%2Ffhir.nhs.uk%2FId%2Fnhs-number%7C{nhs}");
        let find = DemoRequest { by_code, ..DemoRequest::new(practice, "search:patient-1", find) };
        let found = self.step("find the patient", &find, 200).await?;
        Ok(resources(&found.json(), "Patient").into_iter().next())
    }

    async fn booked(
        &self,
        practice: &ListedPractice,
        free: &FreeSlot,
        patient: &Value,
        by_code: bool,
    ) -> anyhow::Result<CallAnswer> {
        let book = DemoRequest { by_code, ..booking_ask(practice, free, patient) };
        self.step("book", &book, 201).await
    }
}

fn booking_ask<'a>(
    practice: &'a ListedPractice,
    free: &FreeSlot,
    patient: &Value,
) -> DemoRequest<'a> {
    let mut book = DemoRequest::new(practice, "create:appointment-1", "/Appointment");
    let booking = NewBooking {
        ods: HUB_ODS,
        organisation: "Urgent care hub",
        description: "Follow-up after a call to the hub",
        slot: &free.slot,
        patient: &text(patient, "id"),
        location: &free.location,
    };
    book.body = booking.resource().to_string();
    book
}

fn somebody(standing: Registration) -> anyhow::Result<InventedPerson> {
    let person = people().into_iter().find(|person| person.registration == standing);
    person.context("no invented patient has this registration status")
}

fn registration(person: &InventedPerson) -> Value {
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
