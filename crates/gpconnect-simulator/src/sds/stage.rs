//! Shared support for the directory's tests: three organisations, and functions to query them.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use serde_json::Value;

use super::faults::SdsDelivery;
use super::{BASE_PATH, MessageHandler, Records, SdsDirectory};

pub(super) const SLOTS: &str = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
pub(super) const BOOK: &str = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";
pub(super) const ROOT: &str = "https://gp.example.test/Z99001/STU3/1/gpconnect";

/// A practice, a portal at the same organisation, and an organisation with odd records.
pub(super) fn records() -> Records {
    let mut practice =
        Records::practice("Z99001", "200000099001", "Z99001-990001", ROOT, &[SLOTS, BOOK]);
    practice.accredited[0].manufacturer = Some("ZZ901".to_owned());
    let portal =
        Records::consumer("Z99001", "200000099002", "Z99009-990009", "portal.test", &[SLOTS]);
    let mut odd = Records::practice("Z99004", "200000099004", "Z99004-4", ROOT, &[SLOTS]);
    odd.accredited[0].clients.push("Z99005".to_owned());
    odd.handlers[0].addresses.push("https://two.example.test".to_owned());
    odd.handlers.push(MessageHandler {
        ods: "Z99004".to_owned(),
        interaction: BOOK.to_owned(),
        ..MessageHandler::default()
    });
    practice.and(portal).and(odd)
}

pub(super) fn sandbox() -> Arc<SdsDirectory> {
    SdsDirectory::new(records(), None)
}

/// Returns a path and query with the short names of systems spelled out: `org`, `ia`, `pk` and `manu`.
pub(super) fn target(short: &str) -> String {
    let id = "https://fhir.nhs.uk/Id";
    let long = short
        .replace("org=", &format!("organization={id}/ods-organization-code%7C"))
        .replace("ia=", &format!("identifier={id}/nhsServiceInteractionId%7C"))
        .replace("pk=", &format!("identifier={id}/nhsMhsPartyKey|"))
        .replace("manu=", &format!("manufacturing-organization={id}/ods-organization-code|"))
        .replace("SLOTS", SLOTS)
        .replace("BOOK", BOOK);
    format!("{BASE_PATH}{long}")
}

pub(super) struct SdsStageAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    /// Parsed body; null if the text is not JSON.
    pub(super) body: Value,
    pub(super) delivery: SdsDelivery,
}

pub(super) fn send(
    sds: &SdsDirectory,
    method: &Method,
    target: &str,
    headers: &[(&str, &str)],
) -> SdsStageAnswer {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    let reply = sds.answer(method, target, &headers);
    let (head, body) = reply.response.into_parts();
    SdsStageAnswer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        text: String::from_utf8(body.into()).unwrap(),
        delivery: reply.delivery,
    }
}

pub(super) fn get(sds: &SdsDirectory, short: &str, headers: &[(&str, &str)]) -> SdsStageAnswer {
    send(sds, &Method::GET, &target(short), headers)
}
