//! The lines of the journal, as they are written.
//!
//! Written by hand: most of a line is identifiers that need no escape, and a serialiser that looks
//! at each character of every name and value costs as much as the decisions it records. What a line
//! says is composed where it happens; its number and its link come when its turn does.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use uuid::Uuid;

use super::chain::{self, Link};
use super::index;
use super::object::Object;
use super::read::{Torn, Unfinished};
use super::{EndedBy, Told};
use crate::claims::Claims;
use crate::interaction::Interaction;
use crate::spine::{Asid, CertificateName, OdsCode, masked};

/// Limit: bytes kept of one claim.
const CLAIM_BYTES_MAX: usize = 256;
/// What a line usually takes.
const LINE_BYTES: usize = 1024;

/// One line about an exchange, but for its number and its link.
#[derive(Debug)]
pub(super) struct Line {
    /// Its members, from the time on.
    pub(super) members: Vec<u8>,
    pub(super) posted: Posted,
}

/// What is known of a line besides its members.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posted {
    /// Of its members.
    pub(super) bytes: usize,
    pub(super) id: Uuid,
    /// By what it is found: the id's key, and the trace id's.
    pub(super) keys: [Option<u64>; 2],
    pub(super) step: Step,
}

/// Which line of an exchange it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The first of two: it holds the claims.
    Opened,
    /// The second of two.
    Closed,
    /// The only one, of an exchange that was never opened.
    Only,
}

/// Who asks whom for what, as text: the same in both lines.
#[derive(Debug)]
pub(super) struct Who {
    id: Uuid,
    keys: [Option<u64>; 2],
    members: Vec<u8>,
    /// Spec: the SSP logs the user and system claims.
    claims: Vec<u8>,
}

impl Who {
    pub(super) const fn new(id: Uuid) -> Self {
        Self { id, keys: [None; 2], members: Vec::new(), claims: Vec::new() }
    }

    pub(super) const fn id(&self) -> Uuid {
        self.id
    }

    /// What the head says, as far as it is well formed.
    pub(super) fn heard(
        &mut self,
        method: &Method,
        trace_id: Option<&str>,
        from: Option<&Asid>,
        interaction: Option<&'static Interaction>,
    ) {
        self.members.clear();
        self.members.reserve(LINE_BYTES / 2);
        let mut buffer = Uuid::encode_buffer();
        let id: &str = self.id.hyphenated().encode_lower(&mut buffer);
        self.keys = [Some(index::key(id)), trace_id.map(index::key)];
        let mut line = Object::goes_on(&mut self.members);
        line.text("id", id);
        line.optional("trace_id", trace_id);
        line.optional("from", from.map(Asid::as_str));
        line.optional("interaction", interaction.map(|interaction| interaction.id));
        line.text("method", known(method));
    }

    /// Whether anything was heard of it.
    pub(super) const fn is_heard(&self) -> bool {
        !self.members.is_empty()
    }

    /// What is settled once it is known, or once it will not be.
    pub(super) fn settles(
        &mut self,
        to: Option<&Asid>,
        ods: Option<&OdsCode>,
        certificate: Option<&CertificateName>,
        told: Option<Told>,
    ) {
        let mut line = Object::goes_on(&mut self.members);
        line.optional("to", to.map(Asid::as_str));
        line.optional("ods", ods.map(OdsCode::as_str));
        line.optional("certificate", certificate.map(CertificateName::as_str));
        if let Some(Told { origin, age_s }) = told {
            line.text("directory", origin);
            if let Some(age_s) = age_s {
                line.number("directory_age_s", age_s);
            }
        }
    }

    /// The claims, from this list and no others.
    pub(super) fn claims(&mut self, said: &Claims) {
        let text = |text| masked(text, CLAIM_BYTES_MAX);
        self.claims.reserve(LINE_BYTES / 2);
        Object::goes_on(&mut self.claims).object("claims", |claims| {
            claims.text("organisation", said.organisation.as_str());
            claims.text("issuer", &text(&said.issuer));
            claims.text("subject", &text(&said.subject));
            claims.text("reason", &text(&said.reason));
            claims.text("scope", &text(&said.scope));
            for (name, said) in [
                ("user_id", &said.user_id),
                ("role_profile_id", &said.role_profile_id),
                ("user_name", &said.user_name),
                ("device", &said.device),
                ("device_model", &said.device_model),
                ("device_version", &said.device_version),
            ] {
                claims.optional(name, said.as_deref().map(text).as_deref());
            }
        });
    }

    /// The first of two lines.
    pub(super) fn opened(&self, time: Timestamp) -> Line {
        self.line(Step::Opened, "opened", time, None)
    }

    /// The last line, or the only one.
    pub(super) fn closed(&self, step: Step, time: Timestamp, end: &End) -> Line {
        self.line(step, "closed", time, Some(end))
    }

    fn line(&self, step: Step, event: &'static str, time: Timestamp, end: Option<&End>) -> Line {
        let mut members = Vec::with_capacity(LINE_BYTES);
        let mut line = Object::goes_on(&mut members);
        line.time(time);
        line.text("event", event);
        line.raw(&self.members);
        if step != Step::Closed {
            line.raw(&self.claims);
        }
        if let Some(end) = end {
            end.write(&mut line);
        }
        let posted = Posted { bytes: members.len(), id: self.id, keys: self.keys, step };
        Line { members, posted }
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
        last.append(out, |line| {
            line.time(Timestamp::now());
            line.text("event", event);
            self.members(line, begin);
        });
    }

    fn members(&self, line: &mut Object<'_>, begin: impl Fn(&mut Object<'_>, Option<u64>)) {
        match self {
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
        }
    }
}

/// The last line that was written: its number and the chain's value after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) seq: u64,
    pub(super) link: Link,
}

impl Last {
    /// Appends a line about an exchange, by its members.
    pub(super) fn line(&mut self, members: &[u8], out: &mut Vec<u8>) {
        self.append(out, |line| line.raw(members));
    }

    fn append(&mut self, out: &mut Vec<u8>, members: impl FnOnce(&mut Object<'_>)) {
        let start = out.len();
        self.seq += 1;
        let mut line = Object::open(out);
        line.number("seq", self.seq);
        members(&mut line);
        // The chain's member ends the line.
        self.link = self.link.next(out.get(start..).unwrap_or_default());
        self.link.end(out);
    }
}

/// The members of a line as it stands in the journal, its number and its link left out.
pub(super) fn members(line: &[u8]) -> Option<&[u8]> {
    let (body, _) = chain::split(line)?;
    let rest = body.strip_prefix(b"{\"seq\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest.get(digits..)
}

/// Methods outside the known ones are not repeated: the token was chosen by whoever sent it.
fn known(method: &Method) -> &str {
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
