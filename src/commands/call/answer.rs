//! Answers to requests of `call`, and their explanation in plain words.

use anyhow::anyhow;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use spine_types::masked;
use uuid::Uuid;

use crate::failure::Failure;

/// Limit: text of an answer that an error repeats, in bytes.
const REASON_BYTES_MAX: usize = 1000;
/// Limit: name, token or id that an error repeats, in bytes.
const NAME_BYTES_MAX: usize = 100;
/// Limit: body that is read as JSON, in bytes. Values may take twenty times as much memory.
const JSON_BYTES_MAX: usize = 8 << 20;
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Complete answer to a request.
pub(in crate::commands) struct CallAnswer {
    pub(in crate::commands) status: StatusCode,
    pub(in crate::commands) headers: HeaderMap,
    pub(in crate::commands) body: Bytes,
    pub(in crate::commands) trace_id: Uuid,
}

/// Refusal by a proxy, as its `Proxy-Status` names it, masked and cut.
pub(in crate::commands) struct NamedRefusal {
    /// Name of the proxy.
    pub(in crate::commands) proxy: String,
    /// Token of the refusal.
    pub(in crate::commands) token: String,
}

impl CallAnswer {
    /// Returns the body as JSON; null if it is none, or too large to be read.
    pub(in crate::commands) fn json(&self) -> Value {
        match self.body.len() <= JSON_BYTES_MAX {
            true => serde_json::from_slice(&self.body).unwrap_or_default(),
            false => Value::Null,
        }
    }

    /// Returns the value of a header, or an empty text.
    pub(in crate::commands) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns the refusal if the proxy itself answered.
    ///
    /// Spec: RFC 9209, section 2: the last member is of the proxy that is nearest to the client.
    pub(in crate::commands) fn refusal(&self) -> Option<NamedRefusal> {
        let lines = self.headers.get_all(PROXY_STATUS).iter().map(HeaderValue::as_bytes);
        let lines: Vec<_> = lines.collect();
        let members: sfv::List = sfv::Parser::new(&lines.join(&b", "[..])).parse().ok()?;
        let sfv::ListEntry::Item(item) = members.last()? else { return None };
        let text = |item: &sfv::BareItem| {
            let token = item.as_token().map(sfv::TokenRef::as_str);
            let text = token.or_else(|| Some(item.as_string()?.as_str()))?;
            Some(masked(text, NAME_BYTES_MAX).into_owned())
        };
        item.params.get("error")?;
        let token = text(item.params.get("details")?)?;
        Some(NamedRefusal { proxy: text(&item.bare_item)?, token })
    }

    /// Returns what an OperationOutcome says in plain words, masked; `None` if it says nothing.
    ///
    /// Plain words are in `details.text` where the refusal has a payload that the live SSP documents.
    pub(in crate::commands) fn reason(&self) -> Option<String> {
        let outcome = self.json();
        let places = ["details/text", "diagnostics", "details/coding/0/display"];
        let mut places = places.iter().map(|place| format!("/issue/0/{place}"));
        let said = places.find_map(|place| Some(outcome.pointer(&place)?.as_str()?.to_owned()))?;
        Some(masked(&said, REASON_BYTES_MAX).into_owned())
    }

    /// Returns the diagnostics of an OperationOutcome, then its plain words if they are apart, masked; of one with
    /// neither, the display text of its code.
    #[cfg(feature = "lab")]
    pub(in crate::commands) fn said(&self) -> Vec<String> {
        let outcome = self.json();
        let at = |place: &str| outcome.pointer(&format!("/issue/0/{place}"))?.as_str();
        let own: Vec<_> = ["diagnostics", "details/text"].into_iter().filter_map(at).collect();
        let all =
            if own.is_empty() { at("details/coding/0/display").into_iter().collect() } else { own };
        all.into_iter().map(|said| masked(said, REASON_BYTES_MAX).into_owned()).collect()
    }

    /// Returns true if the status is the expected one, or a success if none is named.
    pub(super) fn is_expected(&self, expected: Option<u16>) -> bool {
        expected.map_or(self.status.is_success(), |expected| self.status == expected)
    }

    /// Returns an error that explains the answer.
    pub(super) fn failure(&self, expected: Option<u16>) -> Failure {
        let status = reason(self.status);
        let expected = expected.map(|status| format!(", not {status}")).unwrap_or_default();
        let outcome = self.json();
        let part = |pointer: &str| outcome.pointer(pointer).and_then(Value::as_str);
        let code = part("/issue/0/details/coding/0/code");
        let said = self.reason().map(|said| ("reason", said));
        let mut rows = Vec::new();
        let first = match self.refusal() {
            Some(NamedRefusal { proxy, token }) => {
                rows.push(("token", token));
                rows.extend(said);
                let id = part("/id").map(|id| masked(id, NAME_BYTES_MAX).into_owned());
                rows.extend(id.map(|id| ("exchange", id)));
                format!("the proxy {proxy} refused the request: {status}{expected}")
            }
            None => {
                rows.extend(code.map(|code| ("code", masked(code, REASON_BYTES_MAX).into_owned())));
                rows.extend(said);
                format!("the practice's system answered {status}{expected}")
            }
        };
        rows.push(("trace id", self.trace_id.to_string()));
        let rows = rows.iter().map(|(name, value)| format!("\n  {name:<9} {value}"));
        Failure::Environment(anyhow!("{first}{}", rows.collect::<String>()))
    }
}

/// Returns a status with its phrase.
pub(in crate::commands) fn reason(status: StatusCode) -> String {
    let phrase = status.canonical_reason().map(|phrase| format!(" {phrase}"));
    format!("{}{}", status.as_u16(), phrase.unwrap_or_default())
}
