//! Refusals as FHIR `OperationOutcome`s, in JSON or XML.

use std::fmt::Write as _;

use super::{BodyFamily, Refusal};

/// Spec: profile of an `OperationOutcome` that GP Connect consumers validate.
const PROFILE: &str = "https://fhir.nhs.uk/STU3/StructureDefinition/GPConnect-OperationOutcome-1";
/// Spec: code system that the profile fixes.
const SPINE_CODES: &str = "https://fhir.nhs.uk/STU3/CodeSystem/Spine-ErrorOrWarningCode-1";
/// Observed: code system that the live proxy uses for every interaction, despite its name.
const LEGACY: &str = "http://fhir.nhs.net/ValueSet/gpconnect-schedule-response-code-1-0";
/// Observed: code system that the live proxy uses in its 405.
const METHOD: &str = "https://fhir.nhs.uk/StructureDefinition/spine-operationoutcome-1";

/// Encoding of a FHIR resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FhirFormat {
    /// JSON, as `application/fhir+json`.
    #[default]
    Json,
    /// XML, as `application/fhir+xml`.
    Xml,
}

impl FhirFormat {
    /// Spec: `_format` overrides `Accept`, which overrides `Content-Type`; JSON is the default.
    ///
    /// `accept` yields the values of all `Accept` lines.
    #[must_use]
    pub fn negotiate<'a>(
        query: Option<&str>,
        accept: impl IntoIterator<Item = &'a str>,
        content: Option<&str>,
    ) -> Self {
        let parameter =
            query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("_format="));
        let parameter = parameter.and_then(Self::named);
        let accepted = || Self::accepted(accept);
        parameter.or_else(accepted).or_else(|| content.and_then(Self::named)).unwrap_or_default()
    }

    /// Returns the encoding that `Accept` prefers; `None` if it prefers neither.
    ///
    /// Spec: RFC 9110 §12.5.1. The most specific range decides for each encoding; of equal weights, the first
    /// named wins. An encoding that is not mentioned ranks above one of weight zero.
    fn accepted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        const NOT_ACCEPTABLE: f32 = -1.0;
        let (mut json, mut xml) = ((0, 0.0), (0, 0.0));
        let mut first = None;
        let ranges = lines.into_iter().flat_map(|line| line.split(','));
        for range in ranges.take(ACCEPT_RANGES_MAX) {
            let mut parts = range.split(';');
            let kind = parts.next().unwrap_or_default().trim();
            let weight = parts.find_map(weight).unwrap_or(1.0);
            let weight = if weight > 0.0 { weight } else { NOT_ACCEPTABLE };
            let named = Self::named(kind);
            first = first.or(named);
            // Specificity of the range; zero if it does not match.
            let (for_json, for_xml) = match (named, kind) {
                (Some(Self::Json), _) => (3, 0),
                (Some(Self::Xml), _) => (0, 3),
                (None, "application/*") => (2, 2),
                (None, "*/*" | "*") => (1, 1),
                (None, _) => (0, 0),
            };
            for (best, specific) in [(&mut json, for_json), (&mut xml, for_xml)] {
                if specific > 0 && (specific, weight) > *best {
                    *best = (specific, weight);
                }
            }
        }
        if json.1 > xml.1 {
            Some(Self::Json)
        } else if xml.1 > json.1 {
            Some(Self::Xml)
        } else {
            first
        }
    }

    /// Returns the encoding that a media type or short name means; the first one named wins.
    fn named(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        match (text.find("json"), text.find("xml")) {
            (Some(json), Some(xml)) if xml < json => Some(Self::Xml),
            (Some(_), _) => Some(Self::Json),
            (None, Some(_)) => Some(Self::Xml),
            (None, None) => None,
        }
    }

    /// Returns the media type. Spec: with an explicit charset, without a space before it.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/fhir+json;charset=utf-8",
            Self::Xml => "application/fhir+xml;charset=utf-8",
        }
    }
}

/// Limit: media ranges of `Accept` that are considered.
const ACCEPT_RANGES_MAX: usize = 32;

/// Reads a weight such as `q=0.5`; `None` if it is not from 0 to 1.
fn weight(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    let weight = name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().ok())??;
    (0.0..=1.0).contains(&weight).then_some(weight)
}

/// Family of bodies that a consumer's refusals have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorFamily {
    /// Each refusal has its own family, as with the live proxy.
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
    /// Returns the resource's text in an encoding.
    #[must_use]
    pub fn text(&self, format: FhirFormat) -> String {
        match format {
            FhirFormat::Json => self.json(),
            FhirFormat::Xml => self.xml(),
        }
    }

    fn parts(&self) -> OutcomeParts {
        let row = self.refusal.row();
        let text = self.refusal.to_string();
        let status = row.status.to_string();
        let family = match self.errors {
            ErrorFamily::Documented => row.family,
            ErrorFamily::Gpconnect => BodyFamily::GpConnect,
        };
        let (profile, id, severity, system, code, display, diagnostics) = match family {
            BodyFamily::Spine => (None, true, "error", LEGACY, status, text.clone(), Some(text)),
            BodyFamily::SpineMethod => (None, false, "fatal", METHOD, status, text, None),
            BodyFamily::GpConnect => {
                let display = display(row.code).to_owned();
                (
                    Some(PROFILE),
                    true,
                    "error",
                    SPINE_CODES,
                    row.code.to_owned(),
                    display,
                    Some(text),
                )
            }
        };
        let id = id.then(|| self.id.to_owned());
        OutcomeParts { id, profile, severity, issue: row.issue, system, code, display, diagnostics }
    }

    fn json(&self) -> String {
        let parts = self.parts();
        let mut out = String::from("{\"resourceType\":\"OperationOutcome\"");
        if let Some(id) = &parts.id {
            push(&mut out, format_args!(",\"id\":{}", quoted(id)));
        }
        if let Some(profile) = parts.profile {
            push(&mut out, format_args!(",\"meta\":{{\"profile\":[{}]}}", quoted(profile)));
        }
        push(
            &mut out,
            format_args!(
                ",\"issue\":[{{\"code\":{},\"severity\":{},\"details\":{{\"coding\":[{{\"code\":{},\"display\":{},\"system\":{}}}]}}",
                quoted(parts.issue),
                quoted(parts.severity),
                quoted(&parts.code),
                quoted(&parts.display),
                quoted(parts.system),
            ),
        );
        if let Some(diagnostics) = &parts.diagnostics {
            push(&mut out, format_args!(",\"diagnostics\":{}", quoted(diagnostics)));
        }
        out.push_str("}]}");
        out
    }

    fn xml(&self) -> String {
        let parts = self.parts();
        let mut out = String::from("<OperationOutcome xmlns=\"http://hl7.org/fhir\">");
        if let Some(id) = &parts.id {
            push(&mut out, format_args!("<id value=\"{}\"/>", escaped(id)));
        }
        if let Some(profile) = parts.profile {
            push(&mut out, format_args!("<meta><profile value=\"{}\"/></meta>", escaped(profile)));
        }
        push(
            &mut out,
            format_args!(
                "<issue><severity value=\"{}\"/><code value=\"{}\"/><details><coding><system value=\"{}\"/><code value=\"{}\"/><display value=\"{}\"/></coding></details>",
                escaped(parts.severity),
                escaped(parts.issue),
                escaped(parts.system),
                escaped(&parts.code),
                escaped(&parts.display),
            ),
        );
        if let Some(diagnostics) = &parts.diagnostics {
            push(&mut out, format_args!("<diagnostics value=\"{}\"/>", escaped(diagnostics)));
        }
        out.push_str("</issue></OperationOutcome>");
        out
    }
}

struct OutcomeParts {
    id: Option<String>,
    profile: Option<&'static str>,
    severity: &'static str,
    issue: &'static str,
    system: &'static str,
    code: String,
    display: String,
    diagnostics: Option<String>,
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

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    out.write_fmt(text).unwrap_or_default();
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
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

    fn text(refusal: &Refusal, format: FhirFormat, errors: ErrorFamily) -> String {
        OperationOutcome { refusal, id: "10960df2-29d1-4e71-823c-c0bb9d723012", errors }
            .text(format)
    }

    #[test]
    fn the_documented_refusal_is_the_live_proxys_payload() {
        let refusal = Refusal::SenderUnknown("100000000001".parse().unwrap());
        assert_eq!(
            text(&refusal, FhirFormat::Json, ErrorFamily::Documented),
            r#"{"resourceType":"OperationOutcome","id":"10960df2-29d1-4e71-823c-c0bb9d723012","issue":[{"code":"forbidden","severity":"error","details":{"coding":[{"code":"403","display":"ASID_CHECK_FAILED_MESSAGESENDER_100000000001","system":"http://fhir.nhs.net/ValueSet/gpconnect-schedule-response-code-1-0"}]},"diagnostics":"ASID_CHECK_FAILED_MESSAGESENDER_100000000001"}]}"#
        );
    }

    #[test]
    fn every_refusal_is_well_formed_in_both_encodings_and_families() {
        for refusal in super::super::every() {
            for errors in [ErrorFamily::Documented, ErrorFamily::Gpconnect] {
                let json = text(&refusal, FhirFormat::Json, errors);
                let value: serde_json::Value = serde_json::from_str(&json).unwrap();
                let issue = &value["issue"][0];
                assert_eq!(issue["details"]["coding"].as_array().unwrap().len(), 1);
                if errors == ErrorFamily::Gpconnect {
                    assert_eq!(value["meta"]["profile"][0], PROFILE);
                    assert_eq!(issue["severity"], "error");
                }
                let xml = text(&refusal, FhirFormat::Xml, errors);
                assert!(xml.starts_with("<OperationOutcome xmlns=\"http://hl7.org/fhir\">"));
                assert!(xml.ends_with("</OperationOutcome>"));
                assert_eq!(xml.matches("<coding>").count(), 1);
            }
        }
    }

    #[test]
    fn the_parameter_wins_over_accept_and_accept_over_content_type() {
        let xml = Some("application/fhir+xml");
        let json = Some("application/fhir+json;charset=utf-8");
        assert_eq!(FhirFormat::negotiate(None, None, None), FhirFormat::Json);
        assert_eq!(FhirFormat::negotiate(None, xml, json), FhirFormat::Xml);
        assert_eq!(FhirFormat::negotiate(None, Some("*/*"), xml), FhirFormat::Xml);
        let query = Some("a=b&_format=application%2Ffhir%2Bjson");
        assert_eq!(FhirFormat::negotiate(query, xml, xml), FhirFormat::Json);
        assert_eq!(FhirFormat::negotiate(Some("_format=xml"), json, None), FhirFormat::Xml);
    }

    #[test]
    fn the_weights_of_accept_count() {
        use FhirFormat::{Json, Xml};
        for (accept, content, due) in [
            (&["application/fhir+xml;q=0.5, application/fhir+json"][..], None, Json),
            (&["application/fhir+json;q=0.1,application/fhir+xml;q=0.2"], None, Xml),
            (&["application/fhir+xml;q=0"], None, Json),
            (&["application/fhir+xml; Q=0.000, */*"], Some("application/fhir+xml"), Json),
            (&["application/json;q=0, */*;q=0.1"], None, Xml),
            (&["application/json;q=0, application/*"], None, Xml),
            (&["*/*;q=0.9, application/fhir+xml;q=0.8"], None, Json),
            (&["application/fhir+xml;q=0.5"], None, Xml),
            (&["application/fhir+xml, application/fhir+json"], None, Xml),
            (&["application/fhir+json, application/fhir+xml;q=1"], None, Json),
            (&["application/fhir+xml;q=0.5", "application/fhir+json;q=0.6"], None, Json),
            (&["*/*"], Some("application/fhir+xml"), Xml),
            (&["text/html"], Some("application/fhir+xml"), Xml),
            (&["application/fhir+xml;q=x"], None, Xml),
            (&["application/fhir+xml;q=nan;q=2"], None, Xml),
            (&["application/fhir+json;charset=utf-8;q=0.3, application/xml;q=0.4"], None, Xml),
            (&["application/json;q=0, application/xml;q=0"], None, Json),
            (&["", ",;,q=0"], None, Json),
        ] {
            let accept = accept.iter().copied();
            assert_eq!(FhirFormat::negotiate(None, accept.clone(), content), due, "{accept:?}");
        }
    }
}
