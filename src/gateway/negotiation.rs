//! Encoding of a refusal, chosen by the head of its request.

/// Encoding of a FHIR resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FhirFormat {
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
    pub(super) fn negotiate<'a>(
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
    pub(super) const fn content_type(self) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;

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
