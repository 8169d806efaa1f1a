//! Checks of a request's head, as HTTP and as a request to a Spine Secure Proxy.
//!
//! Hyper parses the head and is more tolerant than this proxy. Requests that hyper accepts and this proxy
//! does not are refused here, before anything is looked up. Framing that hyper would repair by itself is
//! checked earlier, on the bytes, by the listener's validator.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Version};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::refusal::{Refusal, ValueLikeness};
use spine_types::interaction::{self, AllowedInteractions, Interaction};
use spine_types::target::{Receiver, Target};
use spine_types::{Asid, SspHeader, TraceId};

/// Limit: names that `Connection` and `TE` list together, empty ones included.
///
/// Each is compared several times, also with each header that is forwarded; real programs send at most three.
pub(crate) const CONNECTION_NAMES_MAX: usize = 32;

/// Rules for a request's head, from the configuration.
#[derive(Debug, Clone)]
pub struct HeadRules {
    /// Host names and addresses under which consumers know this proxy, in lower case.
    pub names: Vec<String>,
    /// Name of this proxy in `Via`, by which it recognises a loop.
    pub proxy: String,
    /// Maximum size of the request target, in bytes.
    pub target_bytes_max: usize,
    /// Maximum size of all header names and values together, in bytes.
    pub head_bytes_max: usize,
    /// Maximum number of header lines.
    pub headers_max: usize,
}

/// Form that a trace id may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TraceIdRule {
    /// Spec: a UUID, in either case.
    #[default]
    Uuid,
    /// Lab: any text of 1 to 64 letters, digits and hyphens.
    Any,
}

/// The four `Ssp-` headers, each read as far as possible, so that refused requests can be recorded too.
#[derive(Debug)]
pub struct SspHeaders<'a> {
    /// Value of `Ssp-TraceID`, or its fault.
    pub trace_id: Result<TraceId, Refusal>,
    /// Value of `Ssp-From`, or its fault.
    pub from: Result<Asid, Refusal>,
    /// Value of `Ssp-To`, or its fault.
    pub to: Result<Asid, Refusal>,
    /// Value of `Ssp-InteractionID` as sent, or its fault.
    pub interaction_id: Result<&'a str, Refusal>,
}

impl<'a> SspHeaders<'a> {
    /// Reads all four headers; one that is missing, repeated or malformed becomes its refusal.
    #[must_use]
    pub fn read(headers: &'a HeaderMap) -> Self {
        Self {
            trace_id: identifier(headers, SspHeader::TraceId),
            from: identifier(headers, SspHeader::From),
            to: identifier(headers, SspHeader::To),
            interaction_id: one(headers, SspHeader::InteractionId),
        }
    }

    /// Returns the trace id, if it has the form that this consumer's may have.
    ///
    /// # Errors
    /// Returns the refusal of a trace id that is missing, repeated or malformed.
    pub fn trace_id(&self, rule: TraceIdRule) -> Result<&TraceId, Refusal> {
        let trace_id = self.trace_id.as_ref().map_err(Refusal::clone)?;
        if rule == TraceIdRule::Uuid && !trace_id.is_uuid() {
            return Err(invalid(SspHeader::TraceId, trace_id.as_str()));
        }
        Ok(trace_id)
    }

    /// Returns the receiver that `Ssp-To` and the target name.
    ///
    /// # Errors
    /// Returns the refusal of an `Ssp-To` that is repeated or malformed, or missing where it is needed.
    pub fn receiver(&self, target: &Target<'_>) -> Result<Receiver, Refusal> {
        match (target, self.to.clone()) {
            (Target::Url(_), to) => {
                Ok(Receiver::System { asid: to?, hint: target.practice_hint() })
            }
            (Target::Practice(practice), Err(Refusal::HeaderMissing(_))) => {
                Ok(Receiver::Practice { ods: practice.ods.clone(), asid: None })
            }
            (Target::Practice(practice), to) => {
                Ok(Receiver::Practice { ods: practice.ods.clone(), asid: Some(to?) })
            }
        }
    }

    /// Returns the interaction that the header names, if the catalogue has it; only then may it be logged.
    #[must_use]
    pub fn interaction(&self) -> Option<&'static Interaction> {
        self.interaction_id.as_ref().ok().and_then(|id| interaction::by_id(id))
    }
}

/// Reads the readable part of a head that was refused on its bytes: the method, the target, and the headers
/// that the refusal's format and record depend on.
///
/// Security: the result must not be used for any decision about the request.
#[must_use]
pub fn readable(head: &[u8]) -> Parts {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    parts.method = method.unwrap_or_else(unreadable);
    parts.uri = words.next().and_then(|word| word.try_into().ok()).unwrap_or_default();
    for line in lines.take_while(|line| !line.is_empty()).take(READABLE_LINES_MAX) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let Some(name) =
            readable_names().into_iter().find(|known| name.eq_ignore_ascii_case(known.as_ref()))
        else {
            continue;
        };
        if let Ok(value) = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii())
        {
            parts.headers.append(name.clone(), value);
        }
    }
    parts
}

/// Returns the method `-`, for a head whose method cannot be read.
fn unreadable() -> Method {
    Method::from_bytes(b"-").unwrap_or_default()
}

/// Limit: lines of a refused head that are read.
const READABLE_LINES_MAX: usize = 128;
/// Returns the names of the headers that are read from a refused head.
fn readable_names() -> [&'static HeaderName; 6] {
    let [trace_id, from, to, interaction_id] =
        [SspHeader::TraceId, SspHeader::From, SspHeader::To, SspHeader::InteractionId]
            .map(field_name);
    [&header::ACCEPT, &header::CONTENT_TYPE, trace_id, from, to, interaction_id]
}

/// Request whose head obeys HTTP and the Spine's header rules.
#[derive(Debug)]
pub struct SspRequest<'a> {
    /// ASID of the consumer, not verified yet.
    pub from: &'a Asid,
    /// Receiver that the request names; form (b) of the target may leave out its ASID.
    pub receiver: Receiver,
    /// Id of the interaction, as sent.
    pub interaction_id: &'a str,
    /// Target of the request, parsed.
    pub target: Target<'a>,
}

impl<'a> SspRequest<'a> {
    /// Checks a head in the order in which a consumer would correct it: method, host, size, body, headers,
    /// target.
    ///
    /// # Errors
    /// Returns the refusal for the first fault found.
    pub fn parse(
        head: &'a Parts,
        headers: &'a SspHeaders<'_>,
        rules: &HeadRules,
        trace_ids: TraceIdRule,
    ) -> Result<Self, Refusal> {
        for check in &HEAD_CHECKS {
            check.judge(head, rules)?;
        }
        headers.trace_id(trace_ids)?;
        let from = headers.from.as_ref().map_err(Refusal::clone)?;
        let target = target(head)?;
        let receiver = headers.receiver(&target)?;
        let interaction_id = headers.interaction_id.as_ref().map_err(Refusal::clone)?;
        Ok(Self { from, receiver, interaction_id, target })
    }

    /// Returns the interaction that the request names.
    ///
    /// # Errors
    /// Returns the refusal if it is unknown, not allowed, or has another method or path.
    pub fn interaction(
        &self,
        allowed: &AllowedInteractions,
        method: &Method,
    ) -> Result<&'static Interaction, Refusal> {
        interaction(allowed, self.interaction_id, method, self.target.path())
    }
}

/// Returns the interaction with this id, if the method and path of the request are its own.
///
/// # Errors
/// Returns the refusal if it is unknown, not allowed, or has another method or path.
pub fn interaction(
    allowed: &AllowedInteractions,
    id: &str,
    method: &Method,
    path: &str,
) -> Result<&'static Interaction, Refusal> {
    interaction::find(allowed, id, method, path)
        .map_err(|fault| Refusal::of_interaction(fault, id, method, path))
}

/// Parses the target of a request.
///
/// # Errors
/// Returns the refusal of a target that has none of the accepted forms.
pub fn target(head: &Parts) -> Result<Target<'_>, Refusal> {
    Target::parse(target_text(head)).map_err(Refusal::TargetMalformed)
}

/// Check of one part of a request's head, which depends on no other check.
#[derive(Debug, Clone, Copy)]
pub struct HeadCheck {
    /// Part of the head that is checked.
    pub name: &'static str,
    /// Condition that the part must meet.
    pub expected: &'static str,
    check: fn(&Parts, &HeadRules) -> Result<(), Refusal>,
}

impl HeadCheck {
    /// Checks this part of a head.
    ///
    /// # Errors
    /// Returns the refusal for the fault found.
    pub fn judge(&self, head: &Parts, rules: &HeadRules) -> Result<(), Refusal> {
        (self.check)(head, rules)
    }
}

/// Checks of a head, in the order in which they are made.
pub const HEAD_CHECKS: [HeadCheck; 8] = [
    HeadCheck {
        name: "method",
        expected: "GET, POST or PUT",
        check: |head, _| check_method(&head.method),
    },
    HeadCheck {
        name: "Host",
        expected: "one Host, a name of this proxy",
        check: |head, rules| check_host(head, &rules.names),
    },
    HeadCheck { name: "size of the head", expected: "within the limits", check: check_size },
    HeadCheck {
        name: "Content-Length",
        expected: "none or 0 with GET",
        check: |head, _| check_length(head),
    },
    HeadCheck {
        name: "header names",
        expected: "no underscore",
        check: |head, _| check_names(&head.headers),
    },
    HeadCheck {
        name: "Via",
        expected: "not this proxy",
        check: |head, rules| check_via(&head.headers, &rules.proxy),
    },
    HeadCheck {
        name: "Connection",
        expected: "no end-to-end header",
        check: |head, _| check_connection(&head.headers),
    },
    HeadCheck {
        name: "Expect",
        expected: "none, or 100-continue",
        check: |head, _| check_expectation(&head.headers),
    },
];

/// Returns the target in origin-form; an absolute-form target has been checked to name this proxy before.
fn target_text(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str)
}

/// Returns the name of a method that HTTP itself defines; `None` for any other.
#[must_use]
pub fn known(method: &Method) -> Option<&'static str> {
    static KNOWN: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
        Method::HEAD,
        Method::TRACE,
        Method::CONNECT,
    ];
    KNOWN.iter().find(|known| *known == method).map(Method::as_str)
}

/// Spec: GET, POST and PUT are allowed; HTTP's other methods are known and not allowed.
fn check_method(method: &Method) -> Result<(), Refusal> {
    match known(method) {
        Some("GET" | "POST" | "PUT") => Ok(()),
        Some(_) => Err(Refusal::MethodNotAllowed),
        None => Err(Refusal::MethodUnknown),
    }
}

/// Checks that there is one `Host` (or `:authority`), equal if both are sent, and that it names this proxy,
/// with or without a port.
fn check_host(head: &Parts, names: &[String]) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.to_str().map_err(|_| Refusal::HostInvalid)?),
        (None, None) => None,
        _ => return Err(Refusal::HostInvalid),
    };
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let named = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(Refusal::HostInvalid);
        }
        (Some(authority), Some(_)) => authority,
        (Some(authority), None) if head.version == Version::HTTP_2 => authority,
        (None, Some(host)) => host,
        (Some(_) | None, None) => return Err(Refusal::HostInvalid),
    };
    if head.uri.scheme_str().is_some_and(|scheme| scheme != "https") {
        return Err(Refusal::HostNotOurs);
    }
    let name = without_port(named).ok_or(Refusal::HostInvalid)?;
    let ours = names.iter().any(|ours| ours.eq_ignore_ascii_case(name));
    if ours { Ok(()) } else { Err(Refusal::HostNotOurs) }
}

/// Returns the host of `host[:port]`, without the brackets of an IPv6 address; `None` if malformed.
fn without_port(named: &str) -> Option<&str> {
    let (name, port) = match named.strip_prefix('[') {
        Some(rest) => {
            let (address, tail) = rest.split_once(']')?;
            (address, tail)
        }
        None => named.find(':').map_or(Some((named, "")), |at| named.split_at_checked(at))?,
    };
    let port_is_legal = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    (port_is_legal && !name.is_empty() && name.bytes().all(legal)).then_some(name)
}

fn check_size(head: &Parts, rules: &HeadRules) -> Result<(), Refusal> {
    if target_text(head).len() > rules.target_bytes_max {
        return Err(Refusal::TargetTooLong);
    }
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let bytes: usize = head.headers.iter().map(line).sum();
    if bytes > rules.head_bytes_max || head.headers.len() > rules.headers_max {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

/// Refuses a read that announces a body, before any of it arrives.
fn check_length(head: &Parts) -> Result<(), Refusal> {
    let length = head.headers.get(header::CONTENT_LENGTH);
    let is_zero = length.is_none_or(|length| length.as_bytes().iter().all(|digit| *digit == b'0'));
    if head.method == Method::GET && !is_zero { Err(Refusal::BodyOnGet) } else { Ok(()) }
}

/// Security: software that turns headers into variables reads `Ssp_To` as `Ssp-To`.
fn check_names(headers: &HeaderMap) -> Result<(), Refusal> {
    let underscore = |name: &HeaderName| name.as_str().contains('_');
    if headers.keys().any(underscore) { Err(Refusal::HeaderUnderscore) } else { Ok(()) }
}

/// Security: a registration that leads back to this proxy would cause an endless loop.
fn check_via(headers: &HeaderMap, proxy: &str) -> Result<(), Refusal> {
    let values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    for (count, hop) in values.flat_map(|value| value.split(',')).enumerate() {
        if count == PROXIES_MAX {
            return Err(Refusal::HeadTooLarge);
        }
        let received_by = hop.split_ascii_whitespace().nth(1);
        if received_by.is_some_and(|name| name.eq_ignore_ascii_case(proxy)) {
            return Err(Refusal::LoopDetected);
        }
    }
    Ok(())
}

/// Security: `Connection: ssp-from` would make the next hop drop a header that has been checked.
fn check_connection(headers: &HeaderMap) -> Result<(), Refusal> {
    for value in headers.get_all(header::CONNECTION) {
        let text = value.to_str().map_err(|_| Refusal::ConnectionNamesHeader)?;
        let mut names = text.split(',').map(|name| name.trim().to_ascii_lowercase());
        if names.any(|name| is_end_to_end(&name)) {
            return Err(Refusal::ConnectionNamesHeader);
        }
    }
    Ok(())
}

/// Limit: entries in `Via`, empty ones included.
const PROXIES_MAX: usize = 32;

/// Returns true if a header belongs to the message and not to its connection (RFC 9110 §7.6.1).
pub(crate) fn is_end_to_end(name: &str) -> bool {
    const FAMILIES: [&str; 4] = ["ssp-", "accept", "content-", "if-"];
    const SINGLE: [&str; 24] = [
        "age",
        "allow",
        "authorization",
        "cache-control",
        "cookie",
        "date",
        "etag",
        "expect",
        "expires",
        "forwarded",
        "from",
        "host",
        "last-modified",
        "location",
        "origin",
        "prefer",
        "range",
        "referer",
        "strict-transport-security",
        "traceparent",
        "tracestate",
        "user-agent",
        "vary",
        "via",
    ];
    FAMILIES.iter().any(|family| name.starts_with(family)) || SINGLE.contains(&name)
}

fn check_expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let met = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(met) {
        Ok(())
    } else {
        Err(Refusal::ExpectationUnknown)
    }
}

/// Returns the name of a header in lower case, for look-ups.
pub(crate) fn field_name(header: SspHeader) -> &'static HeaderName {
    static TRACE_ID: HeaderName = HeaderName::from_static("ssp-traceid");
    static FROM: HeaderName = HeaderName::from_static("ssp-from");
    static TO: HeaderName = HeaderName::from_static("ssp-to");
    static INTERACTION_ID: HeaderName = HeaderName::from_static("ssp-interactionid");
    match header {
        SspHeader::TraceId => &TRACE_ID,
        SspHeader::From => &FROM,
        SspHeader::To => &TO,
        SspHeader::InteractionId => &INTERACTION_ID,
    }
}

fn one(headers: &HeaderMap, which: SspHeader) -> Result<&str, Refusal> {
    let mut values = headers.get_all(field_name(which)).iter();
    let value = values.next().ok_or(Refusal::HeaderMissing(which))?;
    if values.next().is_some() {
        return Err(Refusal::HeaderRepeated(which));
    }
    match value.to_str().map(str::trim) {
        Ok("") => Err(Refusal::HeaderMissing(which)),
        Ok(text) => Ok(text),
        Err(_) => Err(Refusal::HeaderInvalid { header: which, likeness: None }),
    }
}

fn identifier<T: std::str::FromStr>(headers: &HeaderMap, which: SspHeader) -> Result<T, Refusal> {
    let value = one(headers, which)?;
    value.parse().map_err(|_| invalid(which, value))
}

/// Returns the refusal of a header for its value, which it likens to another kind.
fn invalid(header: SspHeader, value: &str) -> Refusal {
    Refusal::HeaderInvalid { header, likeness: ValueLikeness::of(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> HeadRules {
        HeadRules {
            names: vec!["ssp.example.nhs.uk".into(), "127.0.0.1".into(), "::1".into()],
            proxy: "spine-proxy".into(),
            target_bytes_max: 1024,
            head_bytes_max: 2048,
            headers_max: 16,
        }
    }

    const GOOD: &[(&str, &str)] = &[
        ("Host", "ssp.example.nhs.uk"),
        ("Ssp-TraceID", "09a01679-2564-0fb4-5129-aecc81ea2706"),
        ("Ssp-From", "200000000359"),
        ("Ssp-To", "918999198993"),
        ("Ssp-InteractionID", "urn:x"),
    ];

    /// Checks a valid head from which `without` is left out and to which `with` is added.
    fn check_head(without: &str, with: &[(&str, &str)]) -> Result<(), Refusal> {
        check_head_with(Method::POST, "/https://p.nhs.uk/A/Slot", without, with)
    }

    fn check_head_with(
        method: Method,
        uri: &str,
        without: &str,
        with: &[(&str, &str)],
    ) -> Result<(), Refusal> {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in GOOD.iter().filter(|(name, _)| *name != without).chain(with) {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let headers = SspHeaders::read(&head.headers);
        SspRequest::parse(&head, &headers, &rules(), TraceIdRule::Uuid).map(drop)
    }

    #[test]
    fn a_good_head_is_taken() {
        assert_eq!(check_head("", &[]), Ok(()));
    }

    #[test]
    fn each_header_is_there_once_and_well_formed() {
        for (name, which, bad) in [
            ("Ssp-TraceID", SspHeader::TraceId, "not-a-uuid"),
            ("Ssp-From", SspHeader::From, "20000000035"),
            ("Ssp-To", SspHeader::To, "91899919899x"),
        ] {
            assert_eq!(check_head(name, &[]), Err(Refusal::HeaderMissing(which)));
            assert_eq!(check_head(name, &[(name, " ")]), Err(Refusal::HeaderMissing(which)));
            assert_eq!(check_head("", &[(name, bad)]), Err(Refusal::HeaderRepeated(which)));
            let invalid = Refusal::HeaderInvalid { header: which, likeness: None };
            assert_eq!(check_head(name, &[(name, bad)]), Err(invalid));
        }
        let likeness = Some(ValueLikeness::OdsCode);
        let invalid = Refusal::HeaderInvalid { header: SspHeader::To, likeness };
        assert_eq!(check_head("Ssp-To", &[("Ssp-To", "A20047")]), Err(invalid));
        let interaction = Err(Refusal::HeaderMissing(SspHeader::InteractionId));
        assert_eq!(check_head("Ssp-InteractionID", &[]), interaction);
        let form_b = "/A20047/STU3/1/gpconnect/Slot";
        assert_eq!(check_head_with(Method::GET, form_b, "Ssp-To", &[]), Ok(()));
    }

    #[test]
    fn a_host_is_one_and_ours_with_or_without_a_port() {
        for host in ["ssp.example.nhs.uk:443", "SSP.example.nhs.uk", "127.0.0.1:8443", "[::1]:1"] {
            assert_eq!(check_head("Host", &[("Host", host)]), Ok(()), "{host}");
        }
        for host in ["u:p@ssp.example.nhs.uk", "a/b?c", "ssp.example.nhs.uk:99999", "", "[::1"] {
            assert_eq!(check_head("Host", &[("Host", host)]), Err(Refusal::HostInvalid), "{host}");
        }
        for host in ["evil.nhs.uk", "ssp.example.nhs.uk.", "127.0.0.2"] {
            assert_eq!(check_head("Host", &[("Host", host)]), Err(Refusal::HostNotOurs), "{host}");
        }
        assert_eq!(check_head("Host", &[]), Err(Refusal::HostInvalid));
        assert_eq!(check_head("", &[("Host", "ssp.example.nhs.uk")]), Err(Refusal::HostInvalid));
    }

    #[test]
    fn absolute_form_must_name_us_and_agree_with_host() {
        let at = |uri: &str| check_head_with(Method::GET, uri, "", &[]);
        assert_eq!(at("https://ssp.example.nhs.uk/https://p.nhs.uk/A/Slot"), Ok(()));
        assert_eq!(at("https://evil.nhs.uk/A/Slot"), Err(Refusal::HostInvalid));
        assert_eq!(at("https://u@ssp.example.nhs.uk/x"), Err(Refusal::HostInvalid));
        assert_eq!(at("http://ssp.example.nhs.uk/x"), Err(Refusal::HostNotOurs));
    }

    #[test]
    fn a_read_announces_no_body() {
        let get =
            |name, value| check_head_with(Method::GET, "/https://p.uk/Slot", "", &[(name, value)]);
        assert_eq!(get("Content-Length", "0"), Ok(()));
        assert_eq!(get("Content-Length", "000"), Ok(()));
        assert_eq!(get("Transfer-Encoding", "chunked"), Ok(()));
        assert_eq!(get("Content-Length", "1"), Err(Refusal::BodyOnGet));
    }

    #[test]
    fn headers_that_could_change_hands_are_refused() {
        assert_eq!(check_head("", &[("Ssp_To", "1")]), Err(Refusal::HeaderUnderscore));
        for name in ["ssp-from", "close, Authorization", "HOST", "content-length"] {
            let refused = check_head("", &[("Connection", name)]);
            assert_eq!(refused, Err(Refusal::ConnectionNamesHeader), "{name}");
        }
        assert_eq!(
            check_head("", &[("Connection", "keep-alive, Upgrade, HTTP2-Settings")]),
            Ok(())
        );
        let via = |value| check_head("", &[("Via", "1.0 other"), ("Via", value)]);
        assert_eq!(via("1.1 fred, 1.1 nowhere.com (Apache/1.1)"), Ok(()));
        assert_eq!(via("1.1 fred,HTTP/1.1  Spine-Proxy (x)"), Err(Refusal::LoopDetected));
        assert_eq!(check_head("", &[("Expect", "100-Continue")]), Ok(()));
        assert_eq!(check_head("", &[("Expect", "junk")]), Err(Refusal::ExpectationUnknown));
    }

    #[test]
    fn sizes_have_limits() {
        let long = format!("/https://p.nhs.uk/{}", "a".repeat(1024));
        assert_eq!(check_head_with(Method::GET, &long, "", &[]), Err(Refusal::TargetTooLong));
        let big = "a".repeat(2048);
        assert_eq!(check_head("", &[("X-Big", &big)]), Err(Refusal::HeadTooLarge));
        let many: Vec<_> = (0..16).map(|_| ("X-Many", "1")).collect();
        assert_eq!(check_head("", &many), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn methods_are_taken_known_or_unknown() {
        let with = |method: &str| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            check_head_with(method, "/https://p.nhs.uk/A/Slot", "", &[])
        };
        for known in ["DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT"] {
            assert_eq!(with(known), Err(Refusal::MethodNotAllowed), "{known}");
        }
        for odd in ["get", "TRACK", "FOO!BAR"] {
            assert_eq!(with(odd), Err(Refusal::MethodUnknown), "{odd}");
        }
    }
}
