//! The play: a booking session, then one wrong request of each kind.

use anyhow::Context as _;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::say;
use super::consumer::{Consumer, Heard};
use super::world::{CLINIC, CLINIC_ODS, CLOSED, HUB, HUB_ODS, Listed, PRACTICES, World};
use crate::claims;
use crate::interaction;
use crate::simulator;

const REST: &str = "urn:nhs:names:services:gpconnect:fhir:rest:";

/// The play, with its actors.
pub(super) struct Play<'a> {
    world: &'a World,
}

/// A request, right in everything that is not said to be otherwise.
struct Ask<'a> {
    practice: &'a Listed,
    interaction: &'a str,
    path: String,
    body: String,
    extra: Vec<(&'static str, String)>,
    actor: &'a str,
    from: &'a str,
    ods: &'a str,
    /// Header left out, or audience changed, or method changed.
    without: &'a str,
    audience: Option<&'a str>,
    method: Option<Method>,
    root: Option<String>,
}

impl<'a> Ask<'a> {
    fn new(practice: &'a Listed, interaction: &'a str, path: impl Into<String>) -> Self {
        Self {
            practice,
            interaction,
            path: path.into(),
            body: String::new(),
            extra: Vec::new(),
            actor: "hub",
            from: HUB,
            ods: HUB_ODS,
            without: "",
            audience: None,
            method: None,
            root: None,
        }
    }
}

impl<'a> Play<'a> {
    pub(super) const fn new(world: &'a World) -> Self {
        Self { world }
    }

    /// Plays everything; answers how many steps did not go as they should.
    pub(super) async fn all(&self) -> anyhow::Result<usize> {
        say("A booking session, through the proxy, as a consumer over mutual TLS");
        let session = self.session().await;
        if let Err(error) = &session {
            say(format_args!("   the session broke off: {error:#}"));
        }
        say("\nOne wrong request of each kind");
        let wrong = self.wrong_requests().await?;
        Ok(wrong + usize::from(session.is_err()))
    }

    async fn session(&self) -> anyhow::Result<()> {
        let [practice, ..] = &PRACTICES;
        let (today, until) = dates();
        let search = format!(
            "/Slot?status=free&start=ge{today}&end=le{until}&_include=Slot:schedule&_include:recurse=Schedule:actor:Location"
        );
        let slots = self
            .step("search for free slots", &Ask::new(practice, "search:slot-1", &search), 200)
            .await?;
        let slot = first(&slots.json(), "Slot")?;
        say(format_args!("   a slot at {} is free", text(&slot, "start")));

        let nhs = first_patient()?;
        let find =
            format!("/Patient?identifier=https%3A%2F%2Ffhir.nhs.uk%2FId%2Fnhs-number%7C{nhs}");
        let found = self
            .step("find the patient", &Ask::new(practice, "search:patient-1", find), 200)
            .await?;
        let patient = first(&found.json(), "Patient")?;

        let mut book = Ask::new(practice, "create:appointment-1", "/Appointment");
        book.body = booking(&slot, &patient, &first(&slots.json(), "Location")?).to_string();
        let booked = self.step("book", &book, 201).await?;
        let id = text(&booked.json(), "id");

        self.step("book the same slot again: it is taken", &book, 409).await?;

        let list = format!(
            "/Patient/{}/Appointment?start=ge{today}&start=le{until}",
            text(&patient, "id")
        );
        self.step(
            "retrieve the patient's appointments",
            &Ask::new(practice, "search:patient_appointments-1", list),
            200,
        )
        .await?;

        let at = format!("/Appointment/{id}");
        let mut amend = Ask::new(practice, "update:appointment-1", &at);
        let mut resource = booked.json();
        set(&mut resource, "description", json!("Amended: the patient uses a wheelchair"));
        amend.body = resource.to_string();
        amend.extra = vec![("If-Match", booked.header("etag").to_owned())];
        let amended = self.step("amend it, from the version just read", &amend, 200).await?;
        self.step("amend from the old version: refused", &amend, 409).await?;

        let read =
            self.step("read it", &Ask::new(practice, "read:appointment-1", &at), 200).await?;
        say(format_args!("   description: {}", text(&read.json(), "description")));

        let mut cancel = Ask::new(practice, "cancel:appointment-1", &at);
        cancel.body = cancelled(amended.json()).to_string();
        cancel.extra = vec![("If-Match", amended.header("etag").to_owned())];
        self.step("cancel it", &cancel, 200).await?;

        let again =
            self.step("search again", &Ask::new(practice, "search:slot-1", &search), 200).await?;
        let wanted = text(&slot, "id");
        let free = resources(&again.json(), "Slot").iter().any(|slot| text(slot, "id") == wanted);
        anyhow::ensure!(free, "the slot is not free again");
        say("   the slot is free again");

        for other in PRACTICES.iter().skip(1) {
            let ask = Ask::new(other, "read:metadata-1", "/metadata");
            self.step(&format!("ask {}, at {}", other.name, other.host()), &ask, 200).await?;
        }
        Ok(())
    }

    /// Sends one request and expects the provider's answer.
    async fn step(&self, what: &str, ask: &Ask<'_>, status: u16) -> anyhow::Result<Heard> {
        say(format_args!("\n-> {what}"));
        let heard = self.send(ask).await?;
        anyhow::ensure!(
            heard.status == status && heard.token().is_none(),
            "expected {status} from the provider, got {} {}",
            heard.status,
            String::from_utf8_lossy(&heard.body)
        );
        say(format_args!(
            "<- {} from {}; passed: certificate, ASID, interaction, token, receiver, service root, audience, agreement",
            heard.status, ask.practice.name
        ));
        Ok(heard)
    }

    async fn wrong_requests(&self) -> anyhow::Result<usize> {
        let mut failed = 0;
        for (what, ask, token) in wrong(self.world.strangers_token()) {
            let heard = self.send_quietly(&ask).await?;
            let issue = heard.json();
            let display = issue.pointer("/issue/0/details/coding/0/display");
            let display = display.and_then(Value::as_str).unwrap_or_default();
            let right = heard.token() == Some(token);
            let sign = if right { "ok" } else { "WRONG" };
            failed += usize::from(!right);
            say(format_args!(
                "{sign:>6}  {what}: {} {}",
                heard.status.as_u16(),
                heard.token().unwrap_or("-")
            ));
            say(format_args!("        {display}"));
        }
        Ok(failed)
    }

    async fn send(&self, ask: &Ask<'_>) -> anyhow::Result<Heard> {
        say(format_args!(
            "   {} /{}{}",
            method(ask),
            ask.practice.root(),
            ask.path.split('?').next().unwrap_or_default()
        ));
        self.send_quietly(ask).await
    }

    async fn send_quietly(&self, ask: &Ask<'_>) -> anyhow::Result<Heard> {
        let root = ask.practice.root();
        let id = format!("{REST}{}", ask.interaction);
        let scope = interaction::by_id(&id).map_or("", |interaction| interaction.scope);
        let audience = ask.audience.unwrap_or(&root);
        let now_s = Timestamp::now().as_second();
        let token = claims::mint(&claims::specimen(audience, &ask.ods.parse()?, scope, now_s));
        let mut headers = vec![
            ("Ssp-TraceID", uuid::Uuid::new_v4().to_string()),
            ("Ssp-From", ask.from.to_owned()),
            ("Ssp-To", ask.practice.asid.to_owned()),
            ("Ssp-InteractionID", id),
            ("Authorization", format!("Bearer {token}")),
            ("Accept", "application/fhir+json;charset=utf-8".to_owned()),
        ];
        headers.retain(|(name, _)| *name != ask.without);
        if !ask.body.is_empty() {
            headers.push(("Content-Type", "application/fhir+json;charset=utf-8".to_owned()));
        }
        headers.extend(ask.extra.iter().cloned());
        let target = format!("/{}{}", ask.root.as_ref().unwrap_or(&root), ask.path);
        self.actor(ask.actor)?.call(method(ask), &target, &headers, &ask.body).await
    }

    fn actor(&self, name: &str) -> anyhow::Result<Consumer> {
        let chain = self.world.file(&format!("{name}.pem"));
        let key = self.world.file(&format!("{name}.key"));
        let certificate = (!name.is_empty()).then_some((chain.as_path(), key.as_path()));
        Consumer::new(self.world.address(), &self.world.file("ca.pem"), certificate)
    }
}

/// What is wrong, the request, the token it is refused with.
#[expect(clippy::too_many_lines, reason = "one row a wrong request: it is a table")]
fn wrong(strangers_token: &'static str) -> Vec<(&'static str, Ask<'static>, &'static str)> {
    let [practice, other, ..] = &PRACTICES;
    let (today, until) = dates();
    let search = format!("/Slot?status=free&start=ge{today}&end=le{until}&_include=Slot:schedule");
    let slots = || Ask::new(practice, "search:slot-1", search.clone());
    vec![
        ("no client certificate", Ask { actor: "", ..slots() }, "certificate_missing"),
        (
            "a certificate nobody is registered with",
            Ask { actor: "stranger", ..slots() },
            strangers_token,
        ),
        (
            "a method that is not taken",
            Ask { method: Some(Method::DELETE), ..slots() },
            "method_not_allowed",
        ),
        ("no Ssp-From", Ask { without: "Ssp-From", ..slots() }, "from_missing"),
        ("an ASID nobody has", Ask { from: "200000009999", ..slots() }, "sender_unknown"),
        ("somebody else's ASID", Ask { from: CLINIC, ..slots() }, "sender_not_certificates"),
        (
            "an interaction that does not fit the path",
            Ask { interaction: "read:metadata-1", ..slots() },
            "interaction_path",
        ),
        ("no token", Ask { without: "Authorization", ..slots() }, "token_missing"),
        (
            "an interaction the sender is not registered for",
            Ask {
                actor: "clinic",
                from: CLINIC,
                ods: CLINIC_ODS,
                ..Ask::new(practice, "read:metadata-1", "/metadata")
            },
            "sender_not_registered",
        ),
        (
            "a token for another organisation",
            Ask { ods: CLINIC_ODS, ..slots() },
            "organisation_mismatch",
        ),
        (
            "another practice's service root",
            Ask { root: Some(other.root()), ..slots() },
            "target_not_receivers",
        ),
        (
            "a token for another audience",
            Ask { audience: Some("https://authorize.fhir.nhs.net/token"), ..slots() },
            "audience_mismatch",
        ),
        (
            "no agreement between the two",
            Ask { actor: "clinic", from: CLINIC, ods: CLINIC_ODS, ..slots() },
            "no_agreement",
        ),
        (
            "a practice where nobody answers",
            Ask::new(&CLOSED, "read:metadata-1", "/metadata"),
            "provider_not_reached",
        ),
    ]
}

fn method(ask: &Ask<'_>) -> Method {
    let id = format!("{REST}{}", ask.interaction);
    let usual = interaction::by_id(&id).map_or(Method::GET, |known| known.method.clone());
    ask.method.clone().unwrap_or(usual)
}

/// The NHS number of somebody whom every practice knows.
fn first_patient() -> anyhow::Result<String> {
    let first = simulator::people().into_iter().next();
    first.map(|person| person.nhs_number).context("no patient")
}

fn dates() -> (jiff::civil::Date, jiff::civil::Date) {
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    (today, today.saturating_add(jiff::Span::new().days(13)))
}

fn resources(bundle: &Value, kind: &str) -> Vec<Value> {
    let entries = bundle.get("entry").and_then(Value::as_array).cloned().unwrap_or_default();
    let resources = entries.into_iter().filter_map(|entry| entry.get("resource").cloned());
    resources.filter(|resource| text(resource, "resourceType") == kind).collect()
}

fn first(bundle: &Value, kind: &str) -> anyhow::Result<Value> {
    resources(bundle, kind).into_iter().next().with_context(|| format!("no {kind} in the answer"))
}

fn text(resource: &Value, member: &str) -> String {
    resource.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn set(resource: &mut Value, member: &str, value: Value) {
    if let Some(members) = resource.as_object_mut() {
        members.insert(member.to_owned(), value);
    }
}

const PROFILES: &str = "https://fhir.nhs.uk/STU3/StructureDefinition/";

fn booking(slot: &Value, patient: &Value, location: &Value) -> Value {
    let participant = |kind: &str, resource: &Value| json!({"actor": {"reference": format!("{kind}/{}", text(resource, "id"))}, "status": "accepted"});
    json!({
        "resourceType": "Appointment",
        "meta": {"profile": [format!("{PROFILES}GPConnect-Appointment-1")]},
        "contained": [{
            "resourceType": "Organization",
            "id": "1",
            "meta": {"profile": [format!("{PROFILES}CareConnect-GPC-Organization-1")]},
            "identifier": [{"system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": HUB_ODS}],
            "name": "Urgent care hub",
            "telecom": [{"system": "phone", "value": "0300 000 0000"}]
        }],
        "extension": [{
            "url": format!("{PROFILES}Extension-GPConnect-BookingOrganisation-1"),
            "valueReference": {"reference": "#1"}
        }],
        "status": "booked",
        "description": "Follow-up after a call to the hub",
        "start": text(slot, "start"),
        "end": text(slot, "end"),
        "slot": [{"reference": format!("Slot/{}", text(slot, "id"))}],
        "created": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
        "participant": [participant("Patient", patient), participant("Location", location)]
    })
}

fn cancelled(mut appointment: Value) -> Value {
    set(&mut appointment, "status", json!("cancelled"));
    let reason = json!({
        "url": format!("{PROFILES}Extension-GPConnect-AppointmentCancellationReason-1"),
        "valueString": "The patient feels better"
    });
    match appointment.get_mut("extension").and_then(Value::as_array_mut) {
        Some(extensions) => extensions.push(reason),
        None => set(&mut appointment, "extension", json!([reason])),
    }
    appointment
}
