//! Sequence of the demonstration: booking sessions, then one wrong request of each kind.

use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use http::Method;
use jiff::Timestamp;

use super::super::call::CallAnswer;
use super::super::lab::{HUB, HUB_ODS, Lab, ListedPractice, NIGHT, NIGHT_ODS};
use super::super::print;
use super::consumer::DemoConsumer;
use crate::claims;
use crate::outbound::ServiceAnswer;
use crate::tls::KeyPair;
use gpconnect_simulator as simulator;
use spine_types::interaction;

mod sessions;
mod wrong;

const FHIR: &str = "urn:nhs:names:services:gpconnect:fhir:";

/// Demonstration in its environment.
pub(super) struct Play<'a> {
    lab: &'a Lab,
    /// File that every answered resource is written to.
    record: Option<Mutex<File>>,
}

/// Request that is correct except for what is changed on purpose.
struct DemoRequest<'a> {
    practice: &'a ListedPractice,
    interaction: &'a str,
    path: String,
    body: String,
    extra: Vec<(&'static str, String)>,
    actor: &'a str,
    from: &'a str,
    ods: &'a str,
    /// Name of a header that is left out, or empty.
    without: &'a str,
    /// Audience instead of the practice's service root.
    audience: Option<&'a str>,
    /// Method instead of the interaction's own.
    method: Option<Method>,
    /// Service root in the target instead of the practice's own.
    root: Option<String>,
    /// True if the target names the practice by its ODS code, so that the proxy finds the root.
    by_code: bool,
}

/// Limit: characters of a line with a refusal's text; a longer word has a line of its own.
const LINE_MAX: usize = 92;

impl<'a> DemoRequest<'a> {
    fn new(practice: &'a ListedPractice, interaction: &'a str, path: impl Into<String>) -> Self {
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
            by_code: false,
        }
    }

    /// Returns this request as sent by the out-of-hours service.
    fn at_night(self) -> Self {
        Self { actor: "night", from: NIGHT, ods: NIGHT_ODS, ..self }
    }
}

impl<'a> Play<'a> {
    pub(super) fn new(lab: &'a Lab, record: Option<File>) -> Self {
        Self { lab, record: record.map(Mutex::new) }
    }

    /// Runs everything; returns the number of steps that were not answered as expected.
    pub(super) async fn all(&self) -> anyhow::Result<usize> {
        print(
            "Booking sessions through the proxy, as consumers over mutual TLS. Before a practice answers, the proxy",
        );
        print(
            "has checked: certificate, ASID, interaction, token, receiver, service root, audience, agreement.",
        );
        let sessions = self.sessions().await;
        print("\nOne wrong request of each kind");
        Ok(sessions + self.wrong_requests().await?)
    }

    /// Sends one request and expects the provider's answer with this status.
    async fn step(
        &self,
        what: &str,
        ask: &DemoRequest<'_>,
        status: u16,
    ) -> anyhow::Result<CallAnswer> {
        print(format_args!("-> {what}"));
        let heard = self.send(ask).await?;
        anyhow::ensure!(
            heard.status == status && heard.refusal().is_none(),
            "expected {status} from the provider, got {} {}",
            heard.status,
            String::from_utf8_lossy(&heard.body)
        );
        print(format_args!("<- {} from {}", heard.status, ask.practice.name));
        Ok(heard)
    }

    async fn wrong_requests(&self) -> anyhow::Result<usize> {
        let mut failed = 0;
        let requests = wrong::requests(self.lab.directory());
        for (what, ask, token) in requests {
            let heard = self.send_quietly(&ask).await?;
            let refusal = heard.refusal().map(|refusal| refusal.token);
            let right = refusal.as_deref() == Some(token);
            let sign = if right { "ok" } else { "WRONG" };
            failed += usize::from(!right);
            print(format_args!(
                "{sign:>6}  {what}: {} {}",
                heard.status.as_u16(),
                refusal.as_deref().unwrap_or("-")
            ));
            for line in wrapped(&heard.reason().unwrap_or_default()) {
                print(format_args!("        {line}"));
            }
        }
        Ok(failed)
    }

    async fn send(&self, ask: &DemoRequest<'_>) -> anyhow::Result<CallAnswer> {
        print(format_args!(
            "   {} /{}{}",
            method(ask),
            if ask.by_code {
                format!("{}/STU3/1/gpconnect", ask.practice.ods)
            } else {
                ask.practice.root()
            },
            ask.path.split('?').next().unwrap_or_default()
        ));
        self.send_quietly(ask).await
    }

    async fn send_quietly(&self, ask: &DemoRequest<'_>) -> anyhow::Result<CallAnswer> {
        let root = ask.practice.root();
        let id = id(ask);
        let scope = interaction::by_id(&id).map_or("", |interaction| interaction.scope);
        let audience = ask.audience.unwrap_or(&root);
        let now_s = Timestamp::now().as_second();
        let token =
            claims::mint(&claims::example_claims(audience, &ask.ods.parse()?, scope, now_s));
        let trace_id = uuid::Uuid::new_v4();
        let mut headers = vec![
            ("Ssp-TraceID", trace_id.to_string()),
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
        let target = match ask.by_code {
            true => format!("/{}/STU3/1/gpconnect{}", ask.practice.ods, ask.path),
            false => format!("/{}{}", ask.root.as_ref().unwrap_or(&root), ask.path),
        };
        let actor = self.actor(ask.actor)?;
        let ServiceAnswer { status, headers, body } =
            actor.call(method(ask), target, &headers, &ask.body).await?;
        let body = body.map_err(anyhow::Error::msg)?;
        let heard = CallAnswer { status, headers, body, trace_id };
        self.keep(&heard)?;
        Ok(heard)
    }

    fn keep(&self, heard: &CallAnswer) -> anyhow::Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writeln!(record, "{}", heard.json())?)
    }

    fn actor(&self, name: &str) -> anyhow::Result<DemoConsumer> {
        let file = |ending: &str| self.lab.file(&format!("{name}.{ending}"));
        let certificate =
            (!name.is_empty()).then(|| KeyPair { chain: file("pem"), key: file("key") });
        DemoConsumer::new(self.lab.address(), self.lab.file("ca.pem"), certificate.as_ref())
    }
}

fn id(ask: &DemoRequest<'_>) -> String {
    let kind = if ask.interaction.starts_with("operation:") { "" } else { "rest:" };
    format!("{FHIR}{kind}{}", ask.interaction)
}

fn method(ask: &DemoRequest<'_>) -> Method {
    let id = id(ask);
    let usual = interaction::by_id(&id).map_or(Method::GET, |known| known.method.clone());
    ask.method.clone().unwrap_or(usual)
}

/// Returns the first and last day of the fortnight that is searched.
fn dates() -> (jiff::civil::Date, jiff::civil::Date) {
    let today = simulator::day(Timestamp::now());
    (today, today.saturating_add(jiff::Span::new().days(13)))
}

/// Breaks a text into lines of at most [`LINE_MAX`] characters, at spaces.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < LINE_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
