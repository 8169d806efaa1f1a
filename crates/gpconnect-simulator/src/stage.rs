//! Shared support for the simulator's tests: two practices, a fixed clock, and a consumer that sends
//! requests without a network.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use super::{SimulatedPractice, SimulatedProvider};
use spine_types::interaction;

pub(super) const ASID: &str = "200000000360";
pub(super) const BASE: &str = "/A20047/STU3/1/gpconnect";
const OTHER_ASID: &str = "200000000361";
const OTHER_BASE: &str = "/A20047/STU3/1/gpconnect/branch";
/// A Wednesday; the clocks go forward on the Sunday of the same week.
pub(super) const NOW: &str = "2026-03-25T10:30:00Z";

pub(super) type StageAnswer = (u16, HeaderMap, Value);

#[derive(Clone)]
pub(super) struct Stage {
    pub(super) provider: Arc<SimulatedProvider>,
    base: &'static str,
    asid: &'static str,
}

pub(super) fn practices() -> Vec<SimulatedPractice> {
    [("A20047", ASID, BASE), ("B82617", OTHER_ASID, OTHER_BASE)]
        .map(|(ods, asid, base)| {
            let name = format!("Practice {ods}");
            SimulatedPractice::new(ods.parse().unwrap(), asid.parse().unwrap(), &name, base)
        })
        .into()
}

pub(super) fn now() -> Timestamp {
    NOW.parse().unwrap()
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::of(SimulatedProvider::new(practices(), now()))
    }

    pub(super) fn of(provider: SimulatedProvider) -> Self {
        Self { provider: Arc::new(provider), base: BASE, asid: ASID }
    }

    /// Returns a stage for the second practice of the same provider.
    pub(super) fn elsewhere(&self) -> Self {
        Self { base: OTHER_BASE, asid: OTHER_ASID, ..self.clone() }
    }

    /// Sends a request as it is, without the headers of an interaction.
    pub(super) fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> StageAnswer {
        parsed(self.provider.answer(&request_head(method, path, headers), body, now()))
    }

    /// Performs an interaction, named by the end of its id, at another time than the stage's.
    pub(super) fn call_at(&self, at: &str, short: &str, path: &str, body: &[u8]) -> StageAnswer {
        let head = self.interaction_head(short, path, &[]);
        parsed(self.provider.answer(&head, body, at.parse().unwrap()))
    }

    /// Performs an interaction, named by the end of its id, with additional headers.
    pub(super) fn call(
        &self,
        short: &str,
        path: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> StageAnswer {
        parsed(self.call_unparsed(short, path, more, body))
    }

    /// Performs an interaction and returns the unparsed response.
    pub(super) fn call_unparsed(
        &self,
        short: &str,
        path: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> Response<Bytes> {
        self.provider.answer(&self.interaction_head(short, path, more), body, now())
    }

    /// Returns the head of a valid request of an interaction, with its method.
    fn interaction_head(&self, short: &str, path: &str, more: &[(&str, &str)]) -> Parts {
        let kind = if short.starts_with("operation:") { "fhir:" } else { "fhir:rest:" };
        let id = format!("urn:nhs:names:services:gpconnect:{kind}{short}");
        let method = interaction::by_id(&id).unwrap().method.clone();
        request_head(method, &format!("{}{path}", self.base), &self.headers(&id, more))
    }

    /// Returns the headers of a valid request; leaks some strings, which is acceptable in a test.
    fn headers<'a>(&self, id: &str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut headers = vec![
            ("Ssp-TraceID", "09a01679-2564-0fb4-5129-aecc81ea2706"),
            ("Ssp-From", "200000000359"),
            ("Ssp-To", self.asid),
            ("Ssp-InteractionID", &*id.to_owned().leak()),
            ("Authorization", &*format!("Bearer {}", token(id)).leak()),
            ("Content-Type", "application/fhir+json"),
        ];
        headers.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        headers.extend(more);
        headers
    }

    pub(super) fn get(&self, short: &str, path: &str) -> StageAnswer {
        self.call(short, path, &[], b"")
    }

    pub(super) fn book(&self, body: &Value) -> StageAnswer {
        let bytes = body.to_string();
        self.call("create:appointment-1", "/Appointment", &[], bytes.as_bytes())
    }

    pub(super) fn put(&self, verb: &str, id: &str, tag: Option<&str>, body: &Value) -> StageAnswer {
        let short = format!("{verb}:appointment-1");
        let tag: Vec<_> = tag.map(|tag| ("If-Match", tag)).into_iter().collect();
        let path = format!("/Appointment/{id}");
        self.call(&short, &path, &tag, body.to_string().as_bytes())
    }

    pub(super) fn retrieve(&self, patient: &str) -> StageAnswer {
        let path = format!("/Patient/{patient}/Appointment?start=ge2026-03-25&start=le2026-06-30");
        self.get("search:patient_appointments-1", &path)
    }

    /// Returns all free slots of the fortnight after the stage's day.
    pub(super) fn free_slots(&self) -> Vec<Value> {
        let path = "/Slot?status=free&start=ge2026-03-26&end=le2026-04-09&_include=Slot:schedule";
        let (status, _, bundle) = self.get("search:slot-1", path);
        assert_eq!(status, 200, "{bundle}");
        of_type(&bundle, "Slot")
    }

    pub(super) fn patient_by(nhs_number: &str) -> String {
        format!("/Patient?identifier=https://fhir.nhs.uk/Id/nhs-number%7C{nhs_number}")
    }

    /// Returns the appointment as a consumer sends it to cancel it.
    pub(super) fn cancelled(appointment: &Value, reason: &str) -> Value {
        let mut changed = appointment.clone();
        changed["status"] = json!("cancelled");
        changed["extension"].as_array_mut().unwrap().push(json!({
            "url": "https://fhir.nhs.uk/STU3/StructureDefinition/Extension-GPConnect-AppointmentCancellationReason-1",
            "valueString": reason,
        }));
        changed
    }
}

fn request_head(method: Method, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn parsed(response: Response<Bytes>) -> StageAnswer {
    let (head, body) = response.into_parts();
    (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap_or_default())
}

/// Returns the claims of a valid token, issued now because tokens are checked by the real clock.
pub(super) fn claims(id: &str) -> Value {
    let iat = Timestamp::now().as_second();
    let scope = interaction::by_id(id).map_or("organization/*.read", |known| known.scope);
    json!({
        "iss": "https://consumer.example.nhs.uk/",
        "sub": "1",
        "aud": "https://provider.example.nhs.uk/",
        "iat": iat,
        "exp": iat + 300,
        "reason_for_request": "directcare",
        "requested_scope": scope,
        "requesting_device": {
            "resourceType": "Device",
            "identifier": [{ "system": "https://consumer.example.nhs.uk/devices", "value": "1" }],
            "model": "m",
            "version": "1",
        },
        "requesting_organization": {
            "resourceType": "Organization",
            "id": "1",
            "identifier": [{ "system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": "A00001" }],
            "name": "Hub",
        },
        "requesting_practitioner": {
            "resourceType": "Practitioner",
            "id": "1",
            "identifier": [{ "system": "https://fhir.nhs.uk/Id/sds-user-id", "value": "111222333444" }],
            "name": [{ "family": "Testname", "given": ["Ann"] }],
        },
    })
}

/// Returns an unsigned token with these claims.
pub(super) fn token_of(claims: &Value) -> String {
    let part = |text: &str| base64_simd::URL_SAFE_NO_PAD.encode_to_string(text);
    format!("{}.{}.", part(r#"{"alg":"none","typ":"JWT"}"#), part(&claims.to_string()))
}

fn token(id: &str) -> String {
    token_of(&claims(id))
}

/// Returns the resources of one type in a bundle.
pub(super) fn of_type(bundle: &Value, kind: &str) -> Vec<Value> {
    let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
    let resources = entries.into_iter().map(|entry| entry["resource"].clone());
    resources.filter(|resource| resource["resourceType"] == kind).collect()
}

/// Returns the code of an OperationOutcome.
pub(super) fn code_of(body: &Value) -> &str {
    body.pointer("/issue/0/details/coding/0/code").and_then(Value::as_str).unwrap_or_default()
}

/// Returns a valid booking of these slots for this patient.
pub(super) fn booking_of(slots: &[&Value], patient: &str) -> Value {
    let references: Vec<Value> = slots
        .iter()
        .map(|slot| json!({ "reference": format!("Slot/{}", slot["id"].as_str().unwrap()) }))
        .collect();
    json!({
        "resourceType": "Appointment",
        "meta": { "profile": ["https://fhir.nhs.uk/STU3/StructureDefinition/GPConnect-Appointment-1"] },
        "contained": [{
            "resourceType": "Organization",
            "id": "1",
            "meta": { "profile": ["https://fhir.nhs.uk/STU3/StructureDefinition/CareConnect-GPC-Organization-1"] },
            "identifier": [{ "system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": "A00001" }],
            "name": "Booking Org",
            "telecom": [{ "system": "phone", "value": "0300 303 5678" }],
        }],
        "extension": [{
            "url": "https://fhir.nhs.uk/STU3/StructureDefinition/Extension-GPConnect-BookingOrganisation-1",
            "valueReference": { "reference": "#1" },
        }],
        "status": "booked",
        "description": "text",
        "start": slots[0]["start"],
        "end": slots[slots.len() - 1]["end"],
        "slot": references,
        "created": "2026-03-25T10:29:41+00:00",
        "participant": [
            { "actor": { "reference": format!("Patient/{patient}") }, "status": "accepted" },
            { "actor": { "reference": "Location/1" }, "status": "accepted" },
        ],
    })
}

/// Returns a server with a certificate of its own, and a client that trusts it.
pub(super) fn tls() -> (Arc<ServerConfig>, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server), TlsConnector::from(Arc::new(client)))
}
