//! Table of the FHIR STU3 elements that GP Connect's appointments need, in the order of XML.
//!
//! Left out are a device's UDI and notes, signatures, timings, sampled data, the values that only
//! conformance resources use, and a capability statement's messages and documents.

use super::{Element, ElementKind, ElementPlace, Primitive, Shape};

/// Known types of resource, by name.
#[rustfmt::skip]
pub(super) static RESOURCES: &[(&str, &Shape)] = &[
    ("Appointment", &APPOINTMENT), ("Bundle", &BUNDLE),
    ("CapabilityStatement", &CAPABILITY_STATEMENT), ("Device", &DEVICE),
    ("Location", &LOCATION),
    ("OperationOutcome", &OPERATION_OUTCOME), ("Organization", &ORGANIZATION),
    ("Parameters", &PARAMETERS), ("Patient", &PATIENT), ("Practitioner", &PRACTITIONER),
    ("Schedule", &SCHEDULE), ("Slot", &SLOT),
];

const fn one(name: &'static str, kind: ElementKind) -> Element {
    Element { name, kind, place: ElementPlace::Single, choice: None }
}

const fn many(name: &'static str, kind: ElementKind) -> Element {
    Element { name, kind, place: ElementPlace::List, choice: None }
}

const fn attribute(name: &'static str, kind: ElementKind) -> Element {
    Element { name, kind, place: ElementPlace::Attribute, choice: None }
}

const fn either(choice: &'static str, name: &'static str, kind: ElementKind) -> Element {
    Element { name, kind, place: ElementPlace::Single, choice: Some(choice) }
}

const fn value(name: &'static str, kind: ElementKind) -> Element {
    either("value", name, kind)
}

const fn of(shape: &'static Shape) -> ElementKind {
    ElementKind::Complex(shape)
}

const ANY_RESOURCE: ElementKind = ElementKind::Resource;
const MARKUP: ElementKind = ElementKind::Markup;
const BASE64: ElementKind = ElementKind::Plain(Primitive::Base64);
const BOOLEAN: ElementKind = ElementKind::Plain(Primitive::Boolean);
const CODE: ElementKind = ElementKind::Plain(Primitive::Code);
const DATE: ElementKind = ElementKind::Plain(Primitive::Date);
const DATE_TIME: ElementKind = ElementKind::Plain(Primitive::DateTime);
const DECIMAL: ElementKind = ElementKind::Plain(Primitive::Decimal);
const ID: ElementKind = ElementKind::Plain(Primitive::Id);
const INSTANT: ElementKind = ElementKind::Plain(Primitive::Instant);
const INTEGER: ElementKind = ElementKind::Plain(Primitive::Integer);
const POSITIVE: ElementKind = ElementKind::Plain(Primitive::Positive);
const TEXT: ElementKind = ElementKind::Plain(Primitive::Text);
const TIME: ElementKind = ElementKind::Plain(Primitive::Time);
const UNSIGNED: ElementKind = ElementKind::Plain(Primitive::Unsigned);
const URI: ElementKind = ElementKind::Plain(Primitive::Uri);

/// Id and extensions, which every element may have, and the only elements of a primitive value.
pub(in super::super) static ELEMENT: Shape = Shape(&[&IDENTIFIED]);

static IDENTIFIED: [Element; 2] = [attribute("id", TEXT), many("extension", of(&EXTENSION))];

static BACKBONE: [Element; 3] = [
    attribute("id", TEXT),
    many("extension", of(&EXTENSION)),
    many("modifierExtension", of(&EXTENSION)),
];

static RESOURCE: [Element; 4] =
    [one("id", ID), one("meta", of(&META)), one("implicitRules", URI), one("language", CODE)];

static DOMAIN_RESOURCE: [Element; 8] = [
    one("id", ID),
    one("meta", of(&META)),
    one("implicitRules", URI),
    one("language", CODE),
    one("text", of(&NARRATIVE)),
    many("contained", ANY_RESOURCE),
    many("extension", of(&EXTENSION)),
    many("modifierExtension", of(&EXTENSION)),
];

/// Elements `value[x]` for a value of any type, one of which may be given.
#[rustfmt::skip]
static VALUES: [Element; 35] = [
    value("valueBase64Binary", BASE64), value("valueBoolean", BOOLEAN), value("valueCode", CODE),
    value("valueDate", DATE), value("valueDateTime", DATE_TIME), value("valueDecimal", DECIMAL),
    value("valueId", ID), value("valueInstant", INSTANT), value("valueInteger", INTEGER),
    value("valueMarkdown", TEXT), value("valueOid", URI), value("valuePositiveInt", POSITIVE),
    value("valueString", TEXT), value("valueTime", TIME), value("valueUnsignedInt", UNSIGNED),
    value("valueUri", URI), value("valueAddress", of(&ADDRESS)), value("valueAge", of(&QUANTITY)),
    value("valueAnnotation", of(&ANNOTATION)), value("valueAttachment", of(&ATTACHMENT)),
    value("valueCodeableConcept", of(&CODEABLE_CONCEPT)), value("valueCoding", of(&CODING)),
    value("valueContactPoint", of(&CONTACT_POINT)), value("valueCount", of(&QUANTITY)),
    value("valueDistance", of(&QUANTITY)), value("valueDuration", of(&QUANTITY)),
    value("valueHumanName", of(&HUMAN_NAME)), value("valueIdentifier", of(&IDENTIFIER)),
    value("valueMoney", of(&QUANTITY)), value("valuePeriod", of(&PERIOD)),
    value("valueQuantity", of(&QUANTITY)), value("valueRange", of(&RANGE)),
    value("valueRatio", of(&RATIO)), value("valueReference", of(&REFERENCE)),
    value("valueMeta", of(&META)),
];

static EXTENSION: Shape = Shape(&[&IDENTIFIED, &[attribute("url", URI)], &VALUES]);

#[rustfmt::skip]
static META: Shape = Shape(&[&IDENTIFIED, &[
    one("versionId", ID), one("lastUpdated", INSTANT), many("profile", URI),
    many("security", of(&CODING)), many("tag", of(&CODING)),
]]);
#[rustfmt::skip]
static NARRATIVE: Shape = Shape(&[&IDENTIFIED, &[one("status", CODE), one("div", MARKUP)]]);
#[rustfmt::skip]
static IDENTIFIER: Shape = Shape(&[&IDENTIFIED, &[
    one("use", CODE), one("type", of(&CODEABLE_CONCEPT)), one("system", URI), one("value", TEXT),
    one("period", of(&PERIOD)), one("assigner", of(&REFERENCE)),
]]);
#[rustfmt::skip]
static HUMAN_NAME: Shape = Shape(&[&IDENTIFIED, &[
    one("use", CODE), one("text", TEXT), one("family", TEXT), many("given", TEXT),
    many("prefix", TEXT), many("suffix", TEXT), one("period", of(&PERIOD)),
]]);
#[rustfmt::skip]
static CONTACT_POINT: Shape = Shape(&[&IDENTIFIED, &[
    one("system", CODE), one("value", TEXT), one("use", CODE), one("rank", POSITIVE),
    one("period", of(&PERIOD)),
]]);
#[rustfmt::skip]
static ADDRESS: Shape = Shape(&[&IDENTIFIED, &[
    one("use", CODE), one("type", CODE), one("text", TEXT), many("line", TEXT), one("city", TEXT),
    one("district", TEXT), one("state", TEXT), one("postalCode", TEXT), one("country", TEXT),
    one("period", of(&PERIOD)),
]]);
#[rustfmt::skip]
static REFERENCE: Shape = Shape(&[&IDENTIFIED, &[
    one("reference", TEXT), one("identifier", of(&IDENTIFIER)), one("display", TEXT),
]]);
#[rustfmt::skip]
static CODEABLE_CONCEPT: Shape = Shape(&[&IDENTIFIED, &[
    many("coding", of(&CODING)), one("text", TEXT),
]]);
#[rustfmt::skip]
static CODING: Shape = Shape(&[&IDENTIFIED, &[
    one("system", URI), one("version", TEXT), one("code", CODE), one("display", TEXT),
    one("userSelected", BOOLEAN),
]]);
#[rustfmt::skip]
static PERIOD: Shape = Shape(&[&IDENTIFIED, &[one("start", DATE_TIME), one("end", DATE_TIME)]]);
#[rustfmt::skip]
static RANGE: Shape = Shape(&[&IDENTIFIED, &[one("low", of(&QUANTITY)), one("high", of(&QUANTITY))]]);
#[rustfmt::skip]
static RATIO: Shape = Shape(&[&IDENTIFIED, &[
    one("numerator", of(&QUANTITY)), one("denominator", of(&QUANTITY)),
]]);
#[rustfmt::skip]
static ATTACHMENT: Shape = Shape(&[&IDENTIFIED, &[
    one("contentType", CODE), one("language", CODE), one("data", BASE64), one("url", URI),
    one("size", UNSIGNED), one("hash", BASE64), one("title", TEXT), one("creation", DATE_TIME),
]]);
#[rustfmt::skip]
static QUANTITY: Shape = Shape(&[&IDENTIFIED, &[
    one("value", DECIMAL), one("comparator", CODE), one("unit", TEXT), one("system", URI),
    one("code", CODE),
]]);
#[rustfmt::skip]
static ANNOTATION: Shape = Shape(&[&IDENTIFIED, &[
    either("author", "authorReference", of(&REFERENCE)), either("author", "authorString", TEXT),
    one("time", DATE_TIME), one("text", TEXT),
]]);
#[rustfmt::skip]
static CONTACT_DETAIL: Shape = Shape(&[&IDENTIFIED, &[
    one("name", TEXT), many("telecom", of(&CONTACT_POINT)),
]]);
#[rustfmt::skip]
static USAGE_CONTEXT: Shape = Shape(&[&IDENTIFIED, &[
    one("code", of(&CODING)), either("value", "valueCodeableConcept", of(&CODEABLE_CONCEPT)),
    either("value", "valueQuantity", of(&QUANTITY)), either("value", "valueRange", of(&RANGE)),
]]);
#[rustfmt::skip]
static BUNDLE_LINK: Shape = Shape(&[&BACKBONE, &[one("relation", TEXT), one("url", URI)]]);
#[rustfmt::skip]
static BUNDLE_ENTRY: Shape = Shape(&[&BACKBONE, &[
    many("link", of(&BUNDLE_LINK)), one("fullUrl", URI), one("resource", ANY_RESOURCE),
    one("search", of(&BUNDLE_SEARCH)), one("request", of(&BUNDLE_REQUEST)),
    one("response", of(&BUNDLE_RESPONSE)),
]]);
#[rustfmt::skip]
static BUNDLE_SEARCH: Shape = Shape(&[&BACKBONE, &[one("mode", CODE), one("score", DECIMAL)]]);
#[rustfmt::skip]
static BUNDLE_REQUEST: Shape = Shape(&[&BACKBONE, &[
    one("method", CODE), one("url", URI), one("ifNoneMatch", TEXT), one("ifModifiedSince", INSTANT),
    one("ifMatch", TEXT), one("ifNoneExist", TEXT),
]]);
#[rustfmt::skip]
static BUNDLE_RESPONSE: Shape = Shape(&[&BACKBONE, &[
    one("status", TEXT), one("location", URI), one("etag", TEXT), one("lastModified", INSTANT),
    one("outcome", ANY_RESOURCE),
]]);
#[rustfmt::skip]
static APPOINTMENT_PARTICIPANT: Shape = Shape(&[&BACKBONE, &[
    many("type", of(&CODEABLE_CONCEPT)), one("actor", of(&REFERENCE)), one("required", CODE),
    one("status", CODE),
]]);
#[rustfmt::skip]
static PATIENT_CONTACT: Shape = Shape(&[&BACKBONE, &[
    many("relationship", of(&CODEABLE_CONCEPT)), one("name", of(&HUMAN_NAME)),
    many("telecom", of(&CONTACT_POINT)), one("address", of(&ADDRESS)), one("gender", CODE),
    one("organization", of(&REFERENCE)), one("period", of(&PERIOD)),
]]);
#[rustfmt::skip]
static PATIENT_ANIMAL: Shape = Shape(&[&BACKBONE, &[
    one("species", of(&CODEABLE_CONCEPT)), one("breed", of(&CODEABLE_CONCEPT)),
    one("genderStatus", of(&CODEABLE_CONCEPT)),
]]);
#[rustfmt::skip]
static PATIENT_COMMUNICATION: Shape = Shape(&[&BACKBONE, &[
    one("language", of(&CODEABLE_CONCEPT)), one("preferred", BOOLEAN),
]]);
#[rustfmt::skip]
static PATIENT_LINK: Shape = Shape(&[&BACKBONE, &[one("other", of(&REFERENCE)), one("type", CODE)]]);
#[rustfmt::skip]
static PRACTITIONER_QUALIFICATION: Shape = Shape(&[&BACKBONE, &[
    many("identifier", of(&IDENTIFIER)), one("code", of(&CODEABLE_CONCEPT)),
    one("period", of(&PERIOD)), one("issuer", of(&REFERENCE)),
]]);
#[rustfmt::skip]
static ORGANIZATION_CONTACT: Shape = Shape(&[&BACKBONE, &[
    one("purpose", of(&CODEABLE_CONCEPT)), one("name", of(&HUMAN_NAME)),
    many("telecom", of(&CONTACT_POINT)), one("address", of(&ADDRESS)),
]]);
#[rustfmt::skip]
static LOCATION_POSITION: Shape = Shape(&[&BACKBONE, &[
    one("longitude", DECIMAL), one("latitude", DECIMAL), one("altitude", DECIMAL),
]]);
#[rustfmt::skip]
static OPERATION_OUTCOME_ISSUE: Shape = Shape(&[&BACKBONE, &[
    one("severity", CODE), one("code", CODE), one("details", of(&CODEABLE_CONCEPT)),
    one("diagnostics", TEXT), many("location", TEXT), many("expression", TEXT),
]]);
#[rustfmt::skip]
static CAPABILITY_SOFTWARE: Shape = Shape(&[&BACKBONE, &[
    one("name", TEXT), one("version", TEXT), one("releaseDate", DATE_TIME),
]]);
#[rustfmt::skip]
static CAPABILITY_IMPLEMENTATION: Shape = Shape(&[&BACKBONE, &[
    one("description", TEXT), one("url", URI),
]]);
#[rustfmt::skip]
static CAPABILITY_REST: Shape = Shape(&[&BACKBONE, &[
    one("mode", CODE), one("documentation", TEXT), one("security", of(&CAPABILITY_SECURITY)),
    many("resource", of(&CAPABILITY_RESOURCE)), many("interaction", of(&CAPABILITY_INTERACTION)),
    many("searchParam", of(&CAPABILITY_SEARCH_PARAM)), many("operation", of(&CAPABILITY_OPERATION)),
    many("compartment", URI),
]]);
#[rustfmt::skip]
static CAPABILITY_SECURITY: Shape = Shape(&[&BACKBONE, &[
    one("cors", BOOLEAN), many("service", of(&CODEABLE_CONCEPT)), one("description", TEXT),
    many("certificate", of(&CAPABILITY_CERTIFICATE)),
]]);
#[rustfmt::skip]
static CAPABILITY_CERTIFICATE: Shape = Shape(&[&BACKBONE, &[
    one("type", CODE), one("blob", BASE64),
]]);
#[rustfmt::skip]
static CAPABILITY_RESOURCE: Shape = Shape(&[&BACKBONE, &[
    one("type", CODE), one("profile", of(&REFERENCE)), one("documentation", TEXT),
    many("interaction", of(&CAPABILITY_INTERACTION)), one("versioning", CODE),
    one("readHistory", BOOLEAN), one("updateCreate", BOOLEAN), one("conditionalCreate", BOOLEAN),
    one("conditionalRead", CODE), one("conditionalUpdate", BOOLEAN), one("conditionalDelete", CODE),
    many("referencePolicy", CODE), many("searchInclude", TEXT), many("searchRevInclude", TEXT),
    many("searchParam", of(&CAPABILITY_SEARCH_PARAM)),
]]);
#[rustfmt::skip]
static CAPABILITY_INTERACTION: Shape = Shape(&[&BACKBONE, &[
    one("code", CODE), one("documentation", TEXT),
]]);
#[rustfmt::skip]
static CAPABILITY_SEARCH_PARAM: Shape = Shape(&[&BACKBONE, &[
    one("name", TEXT), one("definition", URI), one("type", CODE), one("documentation", TEXT),
]]);
#[rustfmt::skip]
static CAPABILITY_OPERATION: Shape = Shape(&[&BACKBONE, &[
    one("name", TEXT), one("definition", of(&REFERENCE)),
]]);
#[rustfmt::skip]
static PARAMETERS_PARAMETER: Shape = Shape(&[
    &BACKBONE, &[one("name", TEXT)], &VALUES,
    &[one("resource", ANY_RESOURCE), many("part", of(&PARAMETERS_PARAMETER))],
]);
#[rustfmt::skip]
static APPOINTMENT: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("status", CODE),
    one("serviceCategory", of(&CODEABLE_CONCEPT)), many("serviceType", of(&CODEABLE_CONCEPT)),
    many("specialty", of(&CODEABLE_CONCEPT)), one("appointmentType", of(&CODEABLE_CONCEPT)),
    many("reason", of(&CODEABLE_CONCEPT)), many("indication", of(&REFERENCE)),
    one("priority", UNSIGNED), one("description", TEXT),
    many("supportingInformation", of(&REFERENCE)), one("start", INSTANT), one("end", INSTANT),
    one("minutesDuration", POSITIVE), many("slot", of(&REFERENCE)), one("created", DATE_TIME),
    one("comment", TEXT), many("incomingReferral", of(&REFERENCE)),
    many("participant", of(&APPOINTMENT_PARTICIPANT)), many("requestedPeriod", of(&PERIOD)),
]]);
#[rustfmt::skip]
static BUNDLE: Shape = Shape(&[&RESOURCE, &[
    one("identifier", of(&IDENTIFIER)), one("type", CODE), one("total", UNSIGNED),
    many("link", of(&BUNDLE_LINK)), many("entry", of(&BUNDLE_ENTRY)),
]]);
#[rustfmt::skip]
static CAPABILITY_STATEMENT: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    one("url", URI), one("version", TEXT), one("name", TEXT), one("title", TEXT),
    one("status", CODE), one("experimental", BOOLEAN), one("date", DATE_TIME),
    one("publisher", TEXT), many("contact", of(&CONTACT_DETAIL)), one("description", TEXT),
    many("useContext", of(&USAGE_CONTEXT)), many("jurisdiction", of(&CODEABLE_CONCEPT)),
    one("purpose", TEXT), one("copyright", TEXT), one("kind", CODE), many("instantiates", URI),
    one("software", of(&CAPABILITY_SOFTWARE)),
    one("implementation", of(&CAPABILITY_IMPLEMENTATION)), one("fhirVersion", ID),
    one("acceptUnknown", CODE), many("format", CODE), many("patchFormat", CODE),
    many("implementationGuide", URI), many("profile", of(&REFERENCE)),
    many("rest", of(&CAPABILITY_REST)),
]]);
#[rustfmt::skip]
static LOCATION: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("status", CODE), one("operationalStatus", of(&CODING)),
    one("name", TEXT), many("alias", TEXT), one("description", TEXT), one("mode", CODE),
    one("type", of(&CODEABLE_CONCEPT)), many("telecom", of(&CONTACT_POINT)),
    one("address", of(&ADDRESS)), one("physicalType", of(&CODEABLE_CONCEPT)),
    one("position", of(&LOCATION_POSITION)), one("managingOrganization", of(&REFERENCE)),
    one("partOf", of(&REFERENCE)), many("endpoint", of(&REFERENCE)),
]]);
#[rustfmt::skip]
static OPERATION_OUTCOME: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("issue", of(&OPERATION_OUTCOME_ISSUE)),
]]);
#[rustfmt::skip]
static ORGANIZATION: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("active", BOOLEAN),
    many("type", of(&CODEABLE_CONCEPT)), one("name", TEXT), many("alias", TEXT),
    many("telecom", of(&CONTACT_POINT)), many("address", of(&ADDRESS)),
    one("partOf", of(&REFERENCE)), many("contact", of(&ORGANIZATION_CONTACT)),
    many("endpoint", of(&REFERENCE)),
]]);
#[rustfmt::skip]
static PARAMETERS: Shape = Shape(&[&RESOURCE, &[many("parameter", of(&PARAMETERS_PARAMETER))]]);
#[rustfmt::skip]
static PATIENT: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("active", BOOLEAN), many("name", of(&HUMAN_NAME)),
    many("telecom", of(&CONTACT_POINT)), one("gender", CODE), one("birthDate", DATE),
    either("deceased", "deceasedBoolean", BOOLEAN),
    either("deceased", "deceasedDateTime", DATE_TIME), many("address", of(&ADDRESS)),
    one("maritalStatus", of(&CODEABLE_CONCEPT)),
    either("multipleBirth", "multipleBirthBoolean", BOOLEAN),
    either("multipleBirth", "multipleBirthInteger", INTEGER), many("photo", of(&ATTACHMENT)),
    many("contact", of(&PATIENT_CONTACT)), one("animal", of(&PATIENT_ANIMAL)),
    many("communication", of(&PATIENT_COMMUNICATION)), many("generalPractitioner", of(&REFERENCE)),
    one("managingOrganization", of(&REFERENCE)), many("link", of(&PATIENT_LINK)),
]]);
#[rustfmt::skip]
static PRACTITIONER: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("active", BOOLEAN), many("name", of(&HUMAN_NAME)),
    many("telecom", of(&CONTACT_POINT)), many("address", of(&ADDRESS)), one("gender", CODE),
    one("birthDate", DATE), many("photo", of(&ATTACHMENT)),
    many("qualification", of(&PRACTITIONER_QUALIFICATION)),
    many("communication", of(&CODEABLE_CONCEPT)),
]]);
#[rustfmt::skip]
static DEVICE: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("status", CODE), one("type", of(&CODEABLE_CONCEPT)),
    one("lotNumber", TEXT), one("manufacturer", TEXT), one("manufactureDate", DATE_TIME),
    one("expirationDate", DATE_TIME), one("model", TEXT), one("version", TEXT),
    one("patient", of(&REFERENCE)), one("owner", of(&REFERENCE)),
    many("contact", of(&CONTACT_POINT)), one("location", of(&REFERENCE)), one("url", URI),
    many("safety", of(&CODEABLE_CONCEPT)),
]]);
#[rustfmt::skip]
static SCHEDULE: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("active", BOOLEAN),
    one("serviceCategory", of(&CODEABLE_CONCEPT)), many("serviceType", of(&CODEABLE_CONCEPT)),
    many("specialty", of(&CODEABLE_CONCEPT)), many("actor", of(&REFERENCE)),
    one("planningHorizon", of(&PERIOD)), one("comment", TEXT),
]]);
#[rustfmt::skip]
static SLOT: Shape = Shape(&[&DOMAIN_RESOURCE, &[
    many("identifier", of(&IDENTIFIER)), one("serviceCategory", of(&CODEABLE_CONCEPT)),
    many("serviceType", of(&CODEABLE_CONCEPT)), many("specialty", of(&CODEABLE_CONCEPT)),
    one("appointmentType", of(&CODEABLE_CONCEPT)), one("schedule", of(&REFERENCE)),
    one("status", CODE), one("start", INSTANT), one("end", INSTANT), one("overbooked", BOOLEAN),
    one("comment", TEXT),
]]);
