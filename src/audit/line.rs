//! The lines of the journal, as they are written.
//!
//! Written by hand: most of a line is identifiers that need no escape, and a serialiser that looks
//! at each character of every name and value costs as much as the decisions it records.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use uuid::Uuid;

use super::chain::Link;
use super::read::{Torn, Unfinished};
use super::{Asid, CertificateName, EndedBy, Interaction, OdsCode, Told};

/// Limit: bytes kept of one claim.
pub(super) const CLAIM_BYTES_MAX: usize = 256;

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) time: Timestamp,
    pub(super) who: Arc<Who>,
    pub(super) part: Part,
}

/// Which line of an exchange it is.
#[derive(Debug)]
pub(super) enum Part {
    /// The first of two: it holds the claims.
    Opened,
    /// The second of two.
    Closed(End),
    /// The only one, of an exchange that was never opened.
    Only(End),
}

/// Who asked whom for what: the same in both lines.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) id: Uuid,
    pub(super) trace_id: Option<String>,
    pub(super) from: Option<Asid>,
    pub(super) to: Option<Asid>,
    pub(super) ods: Option<OdsCode>,
    pub(super) interaction: Option<&'static Interaction>,
    pub(super) method: Method,
    pub(super) certificate: Option<CertificateName>,
    pub(super) claims: Option<RecordedClaims>,
    pub(super) told: Option<Told>,
}

impl Who {
    pub(super) const fn new(id: Uuid, method: Method) -> Self {
        Self {
            id,
            trace_id: None,
            from: None,
            to: None,
            ods: None,
            interaction: None,
            method,
            certificate: None,
            claims: None,
            told: None,
        }
    }

    fn write(&self, line: &mut Object<'_>) {
        line.text("id", self.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        line.optional("trace_id", self.trace_id.as_deref());
        line.optional("from", self.from.as_ref().map(Asid::as_str));
        line.optional("to", self.to.as_ref().map(Asid::as_str));
        line.optional("ods", self.ods.as_ref().map(OdsCode::as_str));
        line.optional("interaction", self.interaction.map(|interaction| interaction.id));
        line.text("method", method(&self.method));
        line.optional("certificate", self.certificate.as_ref().map(CertificateName::as_str));
        if let Some(Told { origin, age_s }) = self.told {
            line.text("directory", origin);
            if let Some(age_s) = age_s {
                line.number("directory_age_s", age_s);
            }
        }
    }
}

/// Spec: the SSP logs the user and system claims. This is the whole list.
#[derive(Debug, Clone)]
pub(super) struct RecordedClaims {
    pub(super) organisation: OdsCode,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) reason: String,
    pub(super) scope: String,
    pub(super) user_id: Option<String>,
    pub(super) role_profile_id: Option<String>,
    pub(super) user_name: Option<String>,
    pub(super) device: Option<String>,
    pub(super) device_model: Option<String>,
    pub(super) device_version: Option<String>,
}

impl RecordedClaims {
    fn write(&self, claims: &mut Object<'_>) {
        claims.text("organisation", self.organisation.as_str());
        claims.text("issuer", &self.issuer);
        claims.text("subject", &self.subject);
        claims.text("reason", &self.reason);
        claims.text("scope", &self.scope);
        claims.optional("user_id", self.user_id.as_deref());
        claims.optional("role_profile_id", self.role_profile_id.as_deref());
        claims.optional("user_name", self.user_name.as_deref());
        claims.optional("device", self.device.as_deref());
        claims.optional("device_model", self.device_model.as_deref());
        claims.optional("device_version", self.device_version.as_deref());
    }
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) status: Option<u16>,
    pub(super) outcome: &'static str,
    pub(super) refusal: Option<&'static str>,
    pub(super) ended_by: EndedBy,
    pub(super) ended_in: &'static str,
    pub(super) sent_whole: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration: Duration,
    pub(super) policy: Duration,
    pub(super) directory: Duration,
    pub(super) audit: Duration,
    pub(super) provider: Duration,
}

impl End {
    fn write(&self, line: &mut Object<'_>) {
        if let Some(status) = self.status {
            line.number("status", status.into());
        }
        line.text("outcome", self.outcome);
        line.optional("refusal", self.refusal);
        line.text("ended_by", self.ended_by.label());
        line.text("ended_in", self.ended_in);
        line.truth("sent_whole", self.sent_whole);
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        line.number("duration_us", micros(self.duration));
        line.number("policy_us", micros(self.policy));
        line.number("directory_us", micros(self.directory));
        line.number("audit_us", micros(self.audit));
        line.number("provider_us", micros(self.provider));
    }
}

impl Line {
    /// Appends the line.
    pub(super) fn write(&self, last: &mut Last, out: &mut Vec<u8>) {
        let said = self.who.claims.as_ref();
        let (event, said, end) = match &self.part {
            Part::Opened => ("opened", said, None),
            Part::Closed(end) => ("closed", None, Some(end)),
            Part::Only(end) => ("closed", said, Some(end)),
        };
        last.append(out, self.time, event, |line| {
            self.who.write(line);
            if let Some(claims) = said {
                line.object("claims", |object| claims.write(object));
            }
            if let Some(end) = end {
                end.write(line);
            }
        });
    }
}

/// What the journal says of itself.
#[derive(Debug)]
pub(super) enum Note<'a> {
    /// The first line of a segment. It says where the chain stood, so that a segment can be verified
    /// without those before it, and which is the oldest exchange still open.
    Segment { oldest_open: Option<u64> },
    /// The first line after a start, and of a segment.
    Started { oldest_open: Option<u64>, torn: Option<&'a Torn> },
    /// An exchange that was opened before the last start and never closed.
    Unfinished(&'a Unfinished),
    /// Refusals that have no line of their own: their number by token.
    Unrecorded(&'a BTreeMap<&'static str, u64>),
    /// The last line before a clean end.
    Stopped,
}

impl Note<'_> {
    /// Appends the line.
    pub(super) fn write(&self, last: &mut Last, out: &mut Vec<u8>) {
        let previous = last.link.to_string();
        let begin = |line: &mut Object<'_>, oldest_open: Option<u64>| {
            line.text("previous", &previous);
            if let Some(seq) = oldest_open {
                line.number("oldest_open", seq);
            }
        };
        let event = match self {
            Self::Segment { .. } => "segment",
            Self::Started { .. } => "started",
            Self::Unfinished(_) => "unfinished",
            Self::Unrecorded(_) => "unrecorded",
            Self::Stopped => "stopped",
        };
        last.append(out, Timestamp::now(), event, |line| match self {
            Self::Segment { oldest_open } => begin(line, *oldest_open),
            Self::Started { oldest_open, torn } => {
                begin(line, *oldest_open);
                line.text("version", env!("CARGO_PKG_VERSION"));
                if let Some(torn) = torn {
                    line.object("torn", |object| {
                        object.text("segment", &torn.segment);
                        object.number("bytes", torn.bytes);
                        object.text("sha256", &torn.sha256);
                        object.text("text", &torn.text);
                    });
                }
            }
            Self::Unfinished(exchange) => {
                line.number("opened_seq", exchange.seq);
                for (name, value) in exchange.members() {
                    line.optional(name, value);
                }
            }
            Self::Unrecorded(counts) => line.object("refusals", |object| {
                for (token, count) in *counts {
                    object.number(token, *count);
                }
            }),
            Self::Stopped => {}
        });
    }
}

/// The last line that was written: its number and the chain's value after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) seq: u64,
    pub(super) link: Link,
}

impl Last {
    /// Before the first line.
    pub(super) const NONE: Self = Self { seq: 0, link: Link::ORIGIN };

    fn append(
        &mut self,
        out: &mut Vec<u8>,
        time: Timestamp,
        event: &'static str,
        members: impl FnOnce(&mut Object<'_>),
    ) {
        let start = out.len();
        self.seq += 1;
        let mut line = Object::open(out);
        line.number("seq", self.seq);
        line.text("time", &time.to_string());
        line.text("event", event);
        members(&mut line);
        // The chain's member ends the line.
        self.link = self.link.next(out.get(start..).unwrap_or_default());
        self.link.end(out);
    }
}

/// A JSON object under construction. Names are constants that need no escape.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    const fn open(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    fn name(&mut self, name: &'static str) {
        self.out.extend([self.separator, b'"']);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.separator = b',';
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        self.out.push(b'"');
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        // Folded, not searched: without an early end it is one pass of wide instructions.
        if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
            self.out.extend_from_slice(text.as_bytes());
        } else {
            // Security: a line is plain ASCII, so that nothing in it can play tricks on whoever reads
            // it, by control characters or by the direction of writing.
            for unit in text.encode_utf16() {
                match u8::try_from(unit) {
                    Ok(byte) if is_plain(byte) => self.out.push(byte),
                    // A vector always takes it.
                    _ => write!(self.out, "\\u{unit:04x}").unwrap_or_default(),
                }
            }
        }
        self.out.push(b'"');
    }

    fn optional(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        // A vector always takes it.
        write!(self.out, "{number}").unwrap_or_default();
    }

    fn truth(&mut self, name: &'static str, truth: bool) {
        self.name(name);
        self.out.extend_from_slice(if truth { b"true" } else { b"false" });
    }

    fn object(&mut self, name: &'static str, members: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        let mut object = Object::open(self.out);
        members(&mut object);
        object.close();
    }

    fn close(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

/// Methods outside the known ones are not repeated: the token was chosen by whoever sent it.
fn method(method: &Method) -> &str {
    const KNOWN: [Method; 9] = [
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
    if KNOWN.contains(method) { method.as_str() } else { "_OTHER" }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(texts in prop::collection::vec(any::<String>(), 3)) {
            let mut out = Vec::new();
            let mut line = Object::open(&mut out);
            line.text("a", &texts[0]);
            line.object("b", |object| object.text("c", &texts[1]));
            line.object("d", |_| ());
            line.number("e", 7);
            line.truth("f", true);
            line.optional("g", None);
            line.text("h", &texts[2]);
            line.close();
            prop_assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~')));
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let meant = serde_json::json!({
                "a": texts[0], "b": {"c": texts[1]}, "d": {}, "e": 7, "f": true, "h": texts[2],
            });
            prop_assert_eq!(read, meant);
        }
    }
}
