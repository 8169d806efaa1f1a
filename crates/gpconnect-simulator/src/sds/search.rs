//! Parser of requests to the directory, with the rules and quirks of the real service.

use http::HeaderMap;

use super::refusal::SdsRefusal;

/// Identifier system of ODS codes, in requests and in answers.
pub(super) const ORGANISATION: &str = "https://fhir.nhs.uk/Id/ods-organization-code";
/// Identifier system of interaction ids, in requests and in answers.
pub(super) const INTERACTION: &str = "https://fhir.nhs.uk/Id/nhsServiceInteractionId";
/// Identifier system of party keys, in requests and in answers.
pub(super) const PARTY_KEY: &str = "https://fhir.nhs.uk/Id/nhsMhsPartyKey";
const UUID_PATTERN: &str =
    "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// Type of resource that a request searches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SdsResourceType {
    /// The accredited systems.
    Device,
    /// The message handling systems.
    Endpoint,
}

/// A valid request to the directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SdsSearch {
    pub(super) kind: SdsResourceType,
    pub(super) organisation: Clause,
    pub(super) interaction: Clause,
    pub(super) party_key: Clause,
    pub(super) manufacturer: Clause,
}

/// Condition on an attribute, compared by the rules of the directory's schema; without a value, none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Clause {
    Exact(Option<String>),
    AnyCase(Option<String>),
}

impl Clause {
    pub(super) fn value(&self) -> Option<&str> {
        match self {
            Self::Exact(value) | Self::AnyCase(value) => value.as_deref(),
        }
    }
}

impl SdsResourceType {
    /// Returns the type for a path after the base path, which is compared case-sensitively.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/Device" => Some(Self::Device),
            "/Endpoint" => Some(Self::Endpoint),
            _ => None,
        }
    }

    /// Returns the identifier systems that a parameter accepts; `None` if it is not allowed.
    fn systems(self, parameter: &str) -> Option<&'static [&'static str]> {
        match (parameter, self) {
            ("organization", _) | ("manufacturing-organization", Self::Device) => {
                Some(&[ORGANISATION])
            }
            ("identifier", _) => Some(&[INTERACTION, PARTY_KEY]),
            _ => None,
        }
    }

    /// Returns true if SDS accepts this combination of parameters.
    fn is_valid_combination(self, organisation: bool, interaction: bool, party_key: bool) -> bool {
        match self {
            Self::Device => organisation && interaction,
            Self::Endpoint => {
                [organisation, interaction, party_key].into_iter().filter(|given| *given).count()
                    >= 2
            }
        }
    }
}

impl SdsSearch {
    /// Parses a query string.
    pub(super) fn parse(kind: SdsResourceType, query: &str) -> Result<Self, SdsRefusal> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<(String, String)> =
            pairs.map(|pair| judge(kind, pair)).collect::<Result<_, _>>()?;
        let last = |parameter: &str, system: &str| {
            let mut backwards = pairs.iter().rev().filter(|(name, _)| name == parameter);
            backwards.find_map(|(_, value)| Some(of_system(value, system)?.to_owned()))
        };
        let search = Self {
            kind,
            organisation: Clause::Exact(last("organization", ORGANISATION)),
            interaction: Clause::Exact(last("identifier", INTERACTION)),
            party_key: Clause::AnyCase(last("identifier", PARTY_KEY)),
            manufacturer: Clause::AnyCase(last("manufacturing-organization", ORGANISATION)),
        };
        search.judge_combination()?;
        Ok(search)
    }

    fn judge_combination(&self) -> Result<(), SdsRefusal> {
        let is_given = |clause: &Clause| clause.value().is_some();
        let (organisation, interaction) =
            (is_given(&self.organisation), is_given(&self.interaction));
        if self.kind.is_valid_combination(organisation, interaction, is_given(&self.party_key)) {
            return Ok(());
        }
        Err(match self.kind {
            SdsResourceType::Device if organisation => invalid("identifier", &[INTERACTION]),
            SdsResourceType::Device => invalid("organization", &[ORGANISATION]),
            SdsResourceType::Endpoint => SdsRefusal::bad_request(
                "Missing or invalid query parameters. Should one of following combinations: \
                 two or three of organization, interaction and party key",
            ),
        })
    }

    /// Fails if a value would make the LDAP filter malformed.
    ///
    /// Values that add clauses to the filter are not simulated: they fail too.
    pub(super) fn judge_filter(&self) -> Result<(), SdsRefusal> {
        let clauses = [&self.organisation, &self.interaction, &self.party_key, &self.manufacturer];
        let mut values = clauses.into_iter().filter_map(Clause::value);
        if values.any(|value| value.contains(['(', ')', '\\'])) {
            return Err(SdsRefusal::internal_error("malformed filter"));
        }
        Ok(())
    }
}

/// Returns the decoded name and value of a parameter, or a refusal if it is not allowed.
fn judge(kind: SdsResourceType, pair: &str) -> Result<(String, String), SdsRefusal> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let decoded = |text: &str| unescaped(&text.replace('+', " "));
    let name = String::from_utf8_lossy(&decoded(name)).into_owned();
    let systems = kind
        .systems(&name)
        .ok_or_else(|| SdsRefusal::bad_request(&format!("Illegal query parameter '{name}'")))?;
    let value = String::from_utf8(decoded(value)).map_err(|fault| {
        SdsRefusal::internal_error(format!("'utf-8' codec can't decode: {fault}"))
    })?;
    let prefixed =
        |system: &&str| value.strip_prefix(*system).is_some_and(|rest| rest.starts_with('|'));
    if !systems.iter().any(prefixed) {
        return Err(invalid(&name, systems));
    }
    Ok((name, value))
}

fn invalid(parameter: &str, systems: &[&str]) -> SdsRefusal {
    let forms: Vec<String> =
        systems.iter().map(|system| format!("'{parameter}={system}|value'")).collect();
    SdsRefusal::bad_request(&format!(
        "Missing or invalid '{parameter}' query parameter. Should be {}",
        forms.join(", ")
    ))
}

/// Returns the value after `system|`, or `None` if it is empty; LDAP ignores spaces around it.
fn of_system<'a>(value: &'a str, system: &str) -> Option<&'a str> {
    let rest = value.strip_prefix(system)?.strip_prefix('|')?.trim();
    (!rest.is_empty()).then_some(rest)
}

/// Decodes percent escapes; a broken one stays as it is.
pub(super) fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match (first, escape(tail)) {
            (b'%', Some((byte, tail))) => {
                out.push(byte);
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn escape(tail: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = tail.split_at_checked(2)?;
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    let byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    Some((byte, rest))
}

/// Returns the correlation id as sent, if any; fails unless it is a UUID.
pub(super) fn correlation(headers: &HeaderMap) -> Result<Option<String>, SdsRefusal> {
    match joined(headers, "x-correlation-id") {
        Some(sent) if is_uuid(&sent) => Ok(Some(sent)),
        Some(sent) if !sent.is_empty() => Err(SdsRefusal::bad_request(&format!(
            "Invalid X-Correlation-ID header. Should be an UUIDv4 matching regex '{UUID_PATTERN}'"
        ))),
        _ => Ok(None),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Returns all values of a header, joined by commas, or `None` if it is absent.
pub(super) fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}
