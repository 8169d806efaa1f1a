//! Refusals as FHIR `OperationOutcome`s, in JSON or XML.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BodyFamily, Refusal};

/// Spec: profile of an `OperationOutcome` that GP Connect consumers validate.
const PROFILE: &str = "https://fhir.nhs.uk/STU3/StructureDefinition/GPConnect-OperationOutcome-1";
/// Spec: code system that the profile fixes.
const SPINE_CODES: &str = "https://fhir.nhs.uk/STU3/CodeSystem/Spine-ErrorOrWarningCode-1";
/// Observed: code system that the national Spine Secure Proxy uses for every interaction, despite its name.
const LEGACY: &str = "http://fhir.nhs.net/ValueSet/gpconnect-schedule-response-code-1-0";
/// Observed: code system that the national Spine Secure Proxy uses in its 405.
const METHOD: &str = "https://fhir.nhs.uk/StructureDefinition/spine-operationoutcome-1";

/// Family of bodies that a consumer's refusals have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorFamily {
    /// Each refusal has its own family, as with the national Spine Secure Proxy.
    #[default]
    Documented,
    /// All refusals are GP Connect `OperationOutcome`s, as the public test suite expects.
    Gpconnect,
}

/// Contents of an `OperationOutcome` to write.
#[derive(Debug, Clone, Copy)]
pub struct OperationOutcome<'a> {
    /// Refusal that the resource describes.
    pub refusal: &'a Refusal,
    /// Id of the exchange, a UUID, which becomes the resource's id.
    pub id: &'a str,
    /// Family of bodies for this consumer.
    pub errors: ErrorFamily,
}

impl OperationOutcome<'_> {
    /// Returns the resource in JSON.
    #[must_use]
    pub fn json(&self) -> String {
        // The resource has no map and no fallible field: serialising it cannot fail.
        serde_json::to_string(&self.resource()).unwrap_or_default()
    }

    /// Returns the resource in XML.
    #[must_use]
    pub fn xml(&self) -> String {
        let OutcomeResource { id, meta, issue: [issue], .. } = self.resource();
        let OutcomeIssue { details: OutcomeDetails { coding: [coding], text }, .. } = &issue;
        let mut out = String::from("<OperationOutcome xmlns=\"http://hl7.org/fhir\">");
        element(&mut out, "id", id);
        if let Some(OutcomeMeta { profile: [profile] }) = meta {
            out.push_str("<meta>");
            element(&mut out, "profile", profile);
            out.push_str("</meta>");
        }
        out.push_str("<issue>");
        element(&mut out, "severity", issue.severity);
        element(&mut out, "code", issue.code);
        out.push_str("<details><coding>");
        element(&mut out, "system", coding.system);
        element(&mut out, "code", &coding.code);
        element(&mut out, "display", &coding.display);
        out.push_str("</coding>");
        if let Some(text) = text {
            element(&mut out, "text", text);
        }
        out.push_str("</details>");
        if let Some(diagnostics) = &issue.diagnostics {
            element(&mut out, "diagnostics", diagnostics);
        }
        out.push_str("</issue></OperationOutcome>");
        out
    }

    fn resource(&self) -> OutcomeResource<'_> {
        let row = self.refusal.row();
        let (text, explanation) = (self.refusal.to_string(), self.refusal.explanation());
        let family = match self.errors {
            ErrorFamily::Documented => row.family,
            ErrorFamily::Gpconnect => BodyFamily::GpConnect,
        };
        let status = row.status.to_string();
        let (profile, severity, coding, plain, diagnostics) = match family {
            BodyFamily::Spine => {
                let coding = OutcomeCoding { code: status, display: text.clone(), system: LEGACY };
                (None, "error", coding, Some(explanation), Some(text))
            }
            BodyFamily::SpineMethod => {
                let coding = OutcomeCoding { code: status, display: text, system: METHOD };
                (None, "fatal", coding, Some(explanation), None)
            }
            BodyFamily::GpConnect => {
                let (code, display) = (row.code.to_owned(), display(row.code).to_owned());
                let coding = OutcomeCoding { code, display, system: SPINE_CODES };
                let diagnostics = match row.family {
                    BodyFamily::GpConnect => explanation,
                    BodyFamily::Spine | BodyFamily::SpineMethod => format!("{text}: {explanation}"),
                };
                (Some(PROFILE), "error", coding, None, Some(diagnostics))
            }
        };
        let details = OutcomeDetails { coding: [coding], text: plain };
        OutcomeResource {
            resource_type: "OperationOutcome",
            id: self.id,
            meta: profile.map(|profile| OutcomeMeta { profile: [profile] }),
            issue: [OutcomeIssue { code: row.issue, severity, details, diagnostics }],
        }
    }
}

/// FHIR resource; the order of its fields is that of the national Spine Secure Proxy.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutcomeResource<'a> {
    resource_type: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<OutcomeMeta>,
    issue: [OutcomeIssue; 1],
}

#[derive(Serialize)]
struct OutcomeMeta {
    profile: [&'static str; 1],
}

#[derive(Serialize)]
struct OutcomeIssue {
    code: &'static str,
    severity: &'static str,
    details: OutcomeDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    diagnostics: Option<String>,
}

#[derive(Serialize)]
struct OutcomeDetails {
    coding: [OutcomeCoding; 1],
    /// Reason and remedy, where display and diagnostics are those of the national Spine Secure Proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Serialize)]
struct OutcomeCoding {
    code: String,
    display: String,
    system: &'static str,
}

/// Spec: display texts of the Spine codes that this gateway uses.
fn display(code: &str) -> &'static str {
    match code {
        "ACCESS_DENIED" => "Access denied",
        "INVALID_RESOURCE" => "Submitted resource is not valid.",
        "NOT_IMPLEMENTED" => "FHIR resource or operation not implemented at server",
        "INTERNAL_SERVER_ERROR" => "Unexpected internal server error.",
        _ => "Submitted request is malformed/invalid.",
    }
}

/// Appends an empty element with a `value`, the form of primitives in FHIR's XML.
fn element(out: &mut String, name: &str, value: &str) {
    out.push_str(&format!("<{name} value=\"{}\"/>", escaped(value)));
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Spec: XML 1.0 §2.2. These are not allowed in a document, not even as character references.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(refusal: &Refusal, errors: ErrorFamily) -> OperationOutcome<'_> {
        OperationOutcome { refusal, id: "10960df2-29d1-4e71-823c-c0bb9d723012", errors }
    }

    #[test]
    fn the_documented_refusal_is_the_live_proxys_payload_with_plain_words() {
        let refusal = Refusal::SenderUnknown("100000000001".parse().unwrap());
        assert_eq!(
            outcome(&refusal, ErrorFamily::Documented).json(),
            r#"{"resourceType":"OperationOutcome","id":"10960df2-29d1-4e71-823c-c0bb9d723012","issue":[{"code":"forbidden","severity":"error","details":{"coding":[{"code":"403","display":"ASID_CHECK_FAILED_MESSAGESENDER_100000000001","system":"http://fhir.nhs.net/ValueSet/gpconnect-schedule-response-code-1-0"}],"text":"Ssp-From is not the ASID of a known consumer. Correct Ssp-From, or have it added to the directory."},"diagnostics":"ASID_CHECK_FAILED_MESSAGESENDER_100000000001"}]}"#
        );
    }

    #[test]
    fn every_refusal_is_well_formed_in_both_encodings_and_families() {
        for refusal in super::super::every() {
            for errors in [ErrorFamily::Documented, ErrorFamily::Gpconnect] {
                let json = outcome(&refusal, errors).json();
                let value: serde_json::Value = serde_json::from_str(&json).unwrap();
                let issue = &value["issue"][0];
                assert_eq!(issue["details"]["coding"].as_array().unwrap().len(), 1);
                if errors == ErrorFamily::Gpconnect {
                    assert_eq!(value["meta"]["profile"][0], PROFILE);
                    assert_eq!(issue["severity"], "error");
                }
                let xml = outcome(&refusal, errors).xml();
                assert!(xml.starts_with("<OperationOutcome xmlns=\"http://hl7.org/fhir\">"));
                assert!(xml.ends_with("</OperationOutcome>"));
                assert_eq!(xml.matches("<coding>").count(), 1);
            }
        }
    }
}
