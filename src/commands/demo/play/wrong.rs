//! Table of wrong requests, one of each kind.

use http::Method;

use super::super::super::lab::{CLINIC, CLINIC_ODS, CLOSED, LabDirectory, PRACTICES};
use super::{DemoRequest, dates};

/// Returns the table: description of the fault, request, and token of the expected refusal.
#[expect(clippy::too_many_lines, reason = "the table has one row for each wrong request")]
pub(super) fn requests(
    directory: LabDirectory,
) -> Vec<(&'static str, DemoRequest<'static>, &'static str)> {
    // The API can be searched neither for the name of a certificate nor for an ASID: an unregistered certificate is
    // known to be none, and the receiver is sought at the other practice alone.
    let (strangers_token, other_roots_token) = match directory {
        LabDirectory::SdsApi => ("certificate_unknown", "receiver_not_found"),
        LabDirectory::SdsLdap => ("certificate_not_senders", "target_not_receivers"),
    };
    let [practice, other, ..] = &PRACTICES;
    let (today, until) = dates();
    let search = format!("/Slot?status=free&start=ge{today}&end=le{until}&_include=Slot:schedule");
    let slots = || DemoRequest::new(practice, "search:slot-1", search.clone());
    vec![
        ("no client certificate", DemoRequest { actor: "", ..slots() }, "certificate_missing"),
        (
            "a certificate that no consumer is registered with",
            DemoRequest { actor: "stranger", ..slots() },
            strangers_token,
        ),
        (
            "a method that is not allowed",
            DemoRequest { method: Some(Method::DELETE), ..slots() },
            "method_not_allowed",
        ),
        ("no Ssp-From", DemoRequest { without: "Ssp-From", ..slots() }, "from_missing"),
        ("an unknown ASID", DemoRequest { from: "200000009999", ..slots() }, "sender_unknown"),
        (
            "another consumer's ASID",
            DemoRequest { from: CLINIC, ..slots() },
            "sender_not_certificates",
        ),
        (
            "an interaction that does not fit the path",
            DemoRequest { interaction: "read:metadata-1", ..slots() },
            "interaction_path",
        ),
        ("no token", DemoRequest { without: "Authorization", ..slots() }, "token_missing"),
        (
            "an interaction the sender is not registered for",
            DemoRequest {
                actor: "clinic",
                from: CLINIC,
                ods: CLINIC_ODS,
                ..DemoRequest::new(practice, "read:metadata-1", "/metadata")
            },
            "sender_not_registered",
        ),
        (
            "a token for another organisation",
            DemoRequest { ods: CLINIC_ODS, ..slots() },
            "organisation_mismatch",
        ),
        (
            "another practice's service root",
            DemoRequest { root: Some(other.root()), ..slots() },
            other_roots_token,
        ),
        (
            "a token for another audience",
            DemoRequest { audience: Some("https://authorize.fhir.nhs.net/token"), ..slots() },
            "audience_mismatch",
        ),
        (
            "no agreement between the two",
            DemoRequest { actor: "clinic", from: CLINIC, ods: CLINIC_ODS, ..slots() },
            "no_agreement",
        ),
        (
            "a practice whose system does not answer",
            DemoRequest::new(&CLOSED, "read:metadata-1", "/metadata"),
            "provider_not_reached",
        ),
    ]
}
