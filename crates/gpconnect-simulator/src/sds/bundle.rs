//! Conversion of records to FHIR resources, and the Bundle around them.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::records::{Accredited, MessageHandler, Records};
use super::refusal::SdsRefusal;
use super::search::{INTERACTION, ORGANISATION, PARTY_KEY, SdsResourceType, SdsSearch};

/// Default media type of answers.
pub(super) const FHIR_JSON: &str = "application/fhir+json";
/// Media type of answers to clients that do not accept [`FHIR_JSON`].
pub(super) const JSON: &str = "application/json";

const INTERACTION_EXTENSION: &str =
    "https://fhir.nhs.uk/StructureDefinition/Extension-SDS-NhsServiceInteractionId";
const MANUFACTURER_EXTENSION: &str =
    "https://fhir.nhs.uk/StructureDefinition/Extension-SDS-ManufacturingOrganisation";

/// Returns a random upper-case UUID, as SDS assigns to each resource of each answer.
pub(super) fn random_id() -> String {
    Uuid::new_v4().to_string().to_ascii_uppercase()
}

/// Returns a response with status 200 and this body.
pub(super) fn response(
    body: &Value,
    media: &'static str,
    correlation: Option<&str>,
) -> Response<Bytes> {
    let mut response = Response::new(format!("{body:#}").into());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    if let Some(value) = correlation.and_then(|id| HeaderValue::from_str(id).ok()) {
        response.headers_mut().insert("X-Correlation-ID", value);
    }
    response
}

/// Returns the only Bundle of an answer: SDS does not page.
pub(super) fn bundle(resources: Vec<Value>, url: &str) -> Value {
    let base = url.split('?').next().unwrap_or_default();
    let total = resources.len();
    let entries: Vec<Value> = resources
        .into_iter()
        .map(|resource| {
            let id = resource.get("id").and_then(Value::as_str).unwrap_or_default();
            json!({
                "fullUrl": format!("{base}/{id}"),
                "resource": resource,
                "search": { "mode": "match" },
            })
        })
        .collect();
    json!({
        "resourceType": "Bundle",
        "id": random_id(),
        "type": "searchset",
        "total": total,
        "link": [{ "relation": "self", "url": url }],
        "entry": entries,
    })
}

impl Records {
    /// Returns the resources that match a request.
    pub(super) fn find(&self, search: &SdsSearch) -> Result<Vec<Value>, SdsRefusal> {
        match search.kind {
            SdsResourceType::Device => self.systems(search).map(Accredited::device).collect(),
            SdsResourceType::Endpoint => {
                let found = self.handlers(search).map(MessageHandler::endpoints);
                Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
            }
        }
    }
}

impl Accredited {
    fn device(&self) -> Result<Value, SdsRefusal> {
        if self.clients.len() > 1 {
            return Err(SdsRefusal::internal_error(
                "LDAP returned more than 1 'nhsAsClient' attribute",
            ));
        }
        let identifiers = [
            identifier("https://fhir.nhs.uk/Id/nhsSpineASID", &self.asid),
            identifier(PARTY_KEY, &self.party_key),
        ];
        let manufacturer = self.manufacturer.as_deref().unwrap_or_default();
        let interactions = self.interactions.iter();
        let extensions = [extension(MANUFACTURER_EXTENSION, ORGANISATION, manufacturer)]
            .into_iter()
            .chain(interactions.map(|id| extension(INTERACTION_EXTENSION, INTERACTION, id)));
        let mut device = begin("Device");
        put(&mut device, "identifier", array(identifiers));
        put(&mut device, "extension", array(extensions));
        put(&mut device, "owner", self.clients.first().and_then(|client| organisation(client)));
        Ok(Value::Object(device))
    }
}

impl MessageHandler {
    /// Returns one Endpoint for each address, or one without an address if there is none.
    fn endpoints(&self) -> Result<Vec<Value>, SdsRefusal> {
        if !self.interaction.contains(':') {
            return Err(SdsRefusal::internal_error(format!(
                "Invalid service interaction: {}",
                self.interaction
            )));
        }
        if self.addresses.is_empty() {
            return Ok(vec![self.endpoint("")]);
        }
        Ok(self.addresses.iter().map(|address| self.endpoint(address)).collect())
    }

    fn endpoint(&self, address: &str) -> Value {
        let identifiers = [
            ("https://fhir.nhs.uk/Id/nhsMhsFQDN", self.fqdn.as_deref().unwrap_or_default()),
            (PARTY_KEY, &self.party_key),
            ("https://fhir.nhs.uk/Id/nhsMhsCPAId", self.cpa_id.as_deref().unwrap_or_default()),
            ("https://fhir.nhs.uk/Id/nhsMHSId", &self.id),
        ];
        let identifiers = identifiers.map(|(system, value)| identifier(system, value));
        let extensions = [extension(INTERACTION_EXTENSION, INTERACTION, &self.interaction)];
        let mut endpoint = begin("Endpoint");
        put(&mut endpoint, "status", Some(json!("active")));
        put(&mut endpoint, "connectionType", Some(connection_type()));
        put(&mut endpoint, "payloadType", Some(payload_type()));
        put(&mut endpoint, "address", (!address.is_empty()).then(|| json!(address)));
        put(&mut endpoint, "managingOrganization", organisation(&self.ods));
        put(&mut endpoint, "identifier", array(identifiers));
        put(&mut endpoint, "extension", array(extensions));
        Value::Object(endpoint)
    }
}

fn begin(kind: &str) -> Map<String, Value> {
    let mut resource = Map::new();
    put(&mut resource, "resourceType", Some(json!(kind)));
    put(&mut resource, "id", Some(json!(random_id())));
    resource
}

fn put(resource: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        resource.insert(name.to_owned(), value);
    }
}

/// Returns the items that are present as an array, or `None` if there are none.
fn array(items: impl IntoIterator<Item = Option<Value>>) -> Option<Value> {
    let items: Vec<Value> = items.into_iter().flatten().collect();
    (!items.is_empty()).then_some(Value::Array(items))
}

fn identifier(system: &str, value: &str) -> Option<Value> {
    (!value.is_empty()).then(|| json!({ "system": system, "value": value }))
}

fn organisation(code: &str) -> Option<Value> {
    Some(json!({ "identifier": identifier(ORGANISATION, code)? }))
}

fn extension(url: &str, system: &str, value: &str) -> Option<Value> {
    Some(json!({ "url": url, "valueReference": { "identifier": identifier(system, value)? } }))
}

fn connection_type() -> Value {
    json!({
        "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
        "code": "hl7-fhir-msg",
        "display": "HL7 FHIR Messaging",
    })
}

fn payload_type() -> Value {
    json!([{ "coding": [{
        "system": "http://terminology.hl7.org/CodeSystem/endpoint-payload-type",
        "code": "any",
        "display": "Any",
    }] }])
}

#[cfg(test)]
mod tests {
    use super::super::stage::{ROOT, SLOTS, get, sandbox};
    use super::*;

    /// Returns the only entry of an answer, with its random ids checked and removed.
    fn entry(short: &str) -> Value {
        let host = [("host", "sds.test")];
        let mut body = get(&sandbox(), short, &host).body;
        let base = "https://sds.test/spine-directory/FHIR/R4";
        let members: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        assert_eq!(members, ["entry", "id", "link", "resourceType", "total", "type"]);
        assert_eq!((&body["total"], &body["type"]), (&json!(1), &json!("searchset")));
        let kind = body["entry"][0]["resource"]["resourceType"].as_str().unwrap().to_owned();
        let url = format!(
            "{base}/{kind}?organization=https://fhir.nhs.uk/Id/ods-organization-code|Z99001\
             &identifier=https://fhir.nhs.uk/Id/nhsServiceInteractionId|{SLOTS}"
        );
        let link = &body["link"][0];
        assert_eq!(link["relation"], "self");
        assert!(link["url"].as_str().unwrap().starts_with(&url), "{link}");
        let mut entry = body["entry"][0].take();
        let id = entry["resource"].as_object_mut().unwrap().remove("id").unwrap();
        let id = id.as_str().unwrap();
        assert_eq!(id.len(), 36);
        let full_url = entry.as_object_mut().unwrap().remove("fullUrl").unwrap();
        assert_eq!(full_url, format!("{base}/{kind}/{id}"));
        entry
    }

    fn interaction(id: &str) -> Value {
        json!({
            "url": "https://fhir.nhs.uk/StructureDefinition/Extension-SDS-NhsServiceInteractionId",
            "valueReference": { "identifier": {
                "system": "https://fhir.nhs.uk/Id/nhsServiceInteractionId",
                "value": id,
            } },
        })
    }

    #[test]
    fn a_device_is_mapped_as_in_spine() {
        let book = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";
        let expected = json!({
            "resource": {
                "resourceType": "Device",
                "identifier": [
                    { "system": "https://fhir.nhs.uk/Id/nhsSpineASID", "value": "200000099001" },
                    { "system": "https://fhir.nhs.uk/Id/nhsMhsPartyKey", "value": "Z99001-990001" },
                ],
                "extension": [
                    {
                        "url": "https://fhir.nhs.uk/StructureDefinition/Extension-SDS-ManufacturingOrganisation",
                        "valueReference": { "identifier": {
                            "system": "https://fhir.nhs.uk/Id/ods-organization-code",
                            "value": "ZZ901",
                        } },
                    },
                    interaction(SLOTS),
                    interaction(book),
                ],
                "owner": { "identifier": {
                    "system": "https://fhir.nhs.uk/Id/ods-organization-code",
                    "value": "Z99001",
                } },
            },
            "search": { "mode": "match" },
        });
        assert_eq!(entry("/Device?org=Z99001&ia=SLOTS&pk=Z99001-990001"), expected);
    }

    #[test]
    fn an_endpoint_is_mapped_as_in_spine() {
        let expected = json!({
            "resource": {
                "resourceType": "Endpoint",
                "status": "active",
                "connectionType": {
                    "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
                    "code": "hl7-fhir-msg",
                    "display": "HL7 FHIR Messaging",
                },
                "payloadType": [{ "coding": [{
                    "system": "http://terminology.hl7.org/CodeSystem/endpoint-payload-type",
                    "code": "any",
                    "display": "Any",
                }] }],
                "address": ROOT,
                "managingOrganization": { "identifier": {
                    "system": "https://fhir.nhs.uk/Id/ods-organization-code",
                    "value": "Z99001",
                } },
                "identifier": [
                    { "system": "https://fhir.nhs.uk/Id/nhsMhsFQDN", "value": "gp.example.test" },
                    { "system": "https://fhir.nhs.uk/Id/nhsMhsPartyKey", "value": "Z99001-990001" },
                    { "system": "https://fhir.nhs.uk/Id/nhsMhsCPAId", "value": "S200000099001A000001" },
                    { "system": "https://fhir.nhs.uk/Id/nhsMHSId", "value": "S200000099001A000001" },
                ],
                "extension": [interaction(SLOTS)],
            },
            "search": { "mode": "match" },
        });
        assert_eq!(entry("/Endpoint?org=Z99001&ia=SLOTS"), expected);
    }

    #[test]
    fn each_address_is_an_endpoint_and_so_is_a_record_without_one() {
        let entries = |short: &str| get(&sandbox(), short, &[]).body["entry"].take();
        let two = entries("/Endpoint?org=Z99004&ia=SLOTS");
        assert_eq!(two[0]["resource"]["address"], ROOT);
        assert_eq!(two[1]["resource"]["address"], "https://two.example.test");
        assert_ne!(two[0]["resource"]["id"], two[1]["resource"]["id"]);
        let bare = &entries("/Endpoint?org=Z99004&ia=BOOK")[0]["resource"];
        let members: Vec<_> = bare.as_object().unwrap().keys().collect();
        let expected = [
            "connectionType",
            "extension",
            "id",
            "managingOrganization",
            "payloadType",
            "resourceType",
            "status",
        ];
        assert_eq!(members, expected);
    }

    #[test]
    fn a_search_without_a_match_returns_an_empty_array() {
        let body = get(&sandbox(), "/Device?org=Z00000&ia=SLOTS", &[]).body;
        assert_eq!((&body["total"], &body["entry"]), (&json!(0), &json!([])));
    }
}
