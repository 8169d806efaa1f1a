//! Formatting of the journal's lines.
//!
//! Done by hand: most of a line is identifiers that need no escape, and a serialiser that looks at each
//! character of every name and value costs as much as the decisions it records.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::chain::{self, ChainValue};
use super::object::Object;
use super::read::{TornTail, UnfinishedExchange};
use super::record_fields::{self, Field, QueuedLine, Step};
use super::{EndedBy, RegistrationOrigin, index};
use spine_types::Asid;

/// End of an exchange, as its closed line records it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExchangeEnd {
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
    pub(super) queue: Duration,
    pub(super) directory: Duration,
    pub(super) audit: Duration,
    pub(super) provider: Duration,
    pub(super) body: Duration,
}

impl ExchangeEnd {
    fn write(&self, line: &mut Object<'_>) {
        if let Some(status) = self.status {
            line.number("status", status.into());
        }
        line.label("outcome", self.outcome);
        if let Some(refusal) = self.refusal {
            line.label("refusal", refusal);
        }
        line.label("ended_by", self.ended_by.label());
        line.label("ended_in", self.ended_in);
        line.truth("sent_whole", self.sent_whole);
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        line.number("duration_us", micros(self.duration));
        line.number("policy_us", micros(self.policy));
        line.number("queue_us", micros(self.queue));
        line.number("directory_us", micros(self.directory));
        line.number("audit_us", micros(self.audit));
        line.number("provider_us", micros(self.provider));
        line.number("body_us", micros(self.body));
    }
}

/// Line that the journal writes about itself.
#[derive(Debug)]
pub(super) enum JournalNote<'a> {
    /// First line of a segment. It holds the chain's value before it, so that a segment can be verified
    /// without those before, and the number of the oldest exchange still open.
    Segment { oldest_open: Option<u64> },
    /// First line after a start, which is also the first of a segment.
    Started { oldest_open: Option<u64>, torn: Option<&'a TornTail> },
    /// An exchange that was opened before the last start and never closed.
    Unfinished(&'a UnfinishedExchange),
    /// Number of refusals, by token, that have no line of their own: of one consumer, or of callers that were
    /// not identified.
    Unrecorded { from: Option<&'a Asid>, refusals: &'a BTreeMap<&'static str, u64> },
    /// Last line before a clean end.
    Stopped,
}

impl JournalNote<'_> {
    /// Appends the note as a line.
    pub(super) fn write(&self, last: &mut LastLine, out: &mut Vec<u8>) {
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
            Self::Unrecorded { .. } => "unrecorded",
            Self::Stopped => "stopped",
        };
        last.append(out, |line| {
            line.time(Timestamp::now());
            line.label("event", event);
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
            Self::Unrecorded { from, refusals } => {
                if let Some(from) = from {
                    line.text("from", from.as_str());
                }
                line.object("refusals", |object| {
                    for (token, count) in *refusals {
                        object.number(token, *count);
                    }
                });
            }
            Self::Stopped => {}
        }
    }
}

/// Number of the last line, and the chain's value after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LastLine {
    pub(super) seq: u64,
    pub(super) link: ChainValue,
}

impl LastLine {
    /// Appends a line about an exchange, with the texts in `fields`.
    ///
    /// Returns the index keys of the exchange's id and of its trace id.
    pub(super) fn exchange(
        &mut self,
        posted: &QueuedLine,
        fields: &[u8],
        out: &mut Vec<u8>,
    ) -> [Option<u64>; 2] {
        let QueuedLine { known, step, end, .. } = posted;
        let (at, event) = match end {
            Some(end) => (known.after(end.duration), "closed"),
            None => (known.opened_at, "opened"),
        };
        let mut buffer = Uuid::encode_buffer();
        let id: &str = known.id.hyphenated().encode_lower(&mut buffer);
        let mut keys = [Some(index::key(id.as_bytes())), None];
        self.append(out, |line| {
            line.time(at);
            line.label("event", event);
            line.text("id", id);
            for (field, text) in record_fields::texts(fields).filter(|(field, _)| !field.is_claim())
            {
                if field == Field::TRACE_ID {
                    keys[1] = Some(index::key(text));
                }
                line.text(field.name(), text);
            }
            if let Some(interaction) = known.interaction {
                line.label("interaction", interaction.id);
            }
            line.label("method", known.method);
            if let Some(RegistrationOrigin { origin, age_s }) = known.origin {
                line.label("directory", origin);
                if let Some(age_s) = age_s {
                    line.number("directory_age_s", age_s);
                }
            }
            if *step == Step::First {
                claims(line, fields);
            }
            if let Some(end) = end {
                end.write(line);
            }
        });
        keys
    }

    /// Appends a line with these members, which were formatted before.
    pub(super) fn line(&mut self, members: &[u8], out: &mut Vec<u8>) {
        self.append(out, |line| line.raw(members));
    }

    fn append(&mut self, out: &mut Vec<u8>, members: impl FnOnce(&mut Object<'_>)) {
        let start = out.len();
        self.seq += 1;
        let mut line = Object::open(out);
        line.number("seq", self.seq);
        members(&mut line);
        // The chain's member ends the line. `out` only grows, so the line begins within it.
        let (_, line) = out.split_at(start);
        self.link = self.link.next(line);
        self.link.end(out);
    }
}

/// Returns the members of a line of the journal without its number and chain value; `None` if it is no such
/// line.
pub(super) fn members(line: &[u8]) -> Option<&[u8]> {
    let (body, _) = chain::split(line)?;
    let rest = body.strip_prefix(b"{\"seq\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    rest.get(digits..)
}

fn claims(line: &mut Object<'_>, fields: &[u8]) {
    let mut claims = record_fields::texts(fields).filter(|(field, _)| field.is_claim()).peekable();
    if claims.peek().is_some() {
        line.object("claims", |object| {
            claims.for_each(|(field, text)| object.text(field.name(), text));
        });
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
