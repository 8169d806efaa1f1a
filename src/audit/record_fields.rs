//! Fields of a record on their way to the journal's thread.
//!
//! The task that serves a request formats no line: it hands over the fields as they are. The thread formats
//! lines of them, many at a time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::RegistrationOrigin;
use super::line::ExchangeEnd;
use crate::claims::Claims;
use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, OdsCode, masked};

/// Limit: bytes kept of one claim.
const CLAIM_BYTES_MAX: usize = 256;
/// Initial capacity, in bytes, for the texts of an exchange.
const FIELDS_BYTES: usize = 512;

/// Name of a text in a line, as an index into [`NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field(u8);

impl Field {
    pub(super) const TRACE_ID: Self = Self(0);
    pub(super) const FROM: Self = Self(1);
    pub(super) const TO: Self = Self(2);
    pub(super) const ODS: Self = Self(3);
    pub(super) const CERTIFICATE: Self = Self(4);
    pub(super) const CERTIFICATE_FAULT: Self = Self(5);

    /// Returns true if the text is a claim.
    ///
    /// Spec: the SSP logs the user and system claims.
    pub(super) const fn is_claim(self) -> bool {
        self.0 > Self::CERTIFICATE_FAULT.0
    }

    /// Returns the member's name.
    pub(super) fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or_default()
    }
}

const NAMES: [&str; 17] = [
    "trace_id",
    "from",
    "to",
    "ods",
    "certificate",
    "certificate_fault",
    "organisation",
    "issuer",
    "subject",
    "reason",
    "scope",
    "user_id",
    "role_profile_id",
    "user_name",
    "device",
    "device_model",
    "device_version",
];

/// Texts of a record, one after another: for each its field, its length in two bytes, and its bytes.
#[derive(Debug, Default)]
pub(super) struct RecordFields(Vec<u8>);

impl RecordFields {
    /// Adds a text that is fit to be recorded.
    pub(super) fn note(&mut self, field: Field, text: &str) {
        // No text comes near this length.
        let Ok(length) = u16::try_from(text.len()) else { return };
        if self.0.is_empty() {
            self.0.reserve(FIELDS_BYTES);
        }
        let [high, low] = length.to_be_bytes();
        self.0.extend_from_slice(&[field.0, high, low]);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn optional(&mut self, field: Field, text: Option<&str>) {
        if let Some(text) = text {
            self.note(field, text);
        }
    }

    /// Adds the claims: this list and no others.
    pub(super) fn claims(&mut self, said: &Claims<'_>) {
        let claims = [
            Some(said.organisation.as_str()),
            Some(&said.issuer),
            Some(&said.subject),
            Some(&said.reason),
            Some(&said.scope),
            said.user_id.as_deref(),
            said.role_profile_id.as_deref(),
            said.user_name.as_deref(),
            said.device.as_deref(),
            said.device_model.as_deref(),
            said.device_version.as_deref(),
        ];
        for (said, field) in claims.into_iter().zip(Field::CERTIFICATE_FAULT.0 + 1..) {
            // Security: anything may stand in a claim.
            self.optional(Field(field), said.map(|said| masked(said, CLAIM_BYTES_MAX)).as_deref());
        }
    }

    /// Adds receiver, practice and certificate name; absent values stay absent.
    pub(super) fn sides(
        &mut self,
        to: Option<&Asid>,
        ods: Option<&OdsCode>,
        certificate: Option<&CertificateName>,
    ) {
        self.optional(Field::TO, to.map(Asid::as_str));
        self.optional(Field::ODS, ods.map(OdsCode::as_str));
        self.optional(Field::CERTIFICATE, certificate.map(CertificateName::as_str));
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns the texts of a fields.
pub(super) fn texts(mut fields: &[u8]) -> impl Iterator<Item = (Field, &[u8])> {
    std::iter::from_fn(move || {
        let [field, high, low, rest @ ..] = fields else { return None };
        let length = u16::from_be_bytes([*high, *low]).into();
        let (text, rest) = rest.split_at_checked(length)?;
        fields = rest;
        Some((Field(*field), text))
    })
}

/// Fields of an exchange other than its texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExchangeFacts {
    pub(super) id: Uuid,
    pub(super) opened_at: Timestamp,
    pub(super) method: &'static str,
    pub(super) interaction: Option<&'static Interaction>,
    pub(super) origin: Option<RegistrationOrigin>,
}

impl ExchangeFacts {
    /// Returns the time this long after the exchange was opened.
    pub(super) fn after(&self, duration: Duration) -> Timestamp {
        let duration = SignedDuration::try_from(duration).unwrap_or_default();
        self.opened_at.saturating_add(duration).unwrap_or(self.opened_at)
    }
}

/// A queued line of an exchange; its texts are kept separately.
#[derive(Debug)]
pub(super) struct QueuedLine {
    pub(super) known: ExchangeFacts,
    pub(super) step: Step,
    /// Length of its texts, in bytes.
    pub(super) bytes: usize,
    /// End of the exchange, once it has ended.
    pub(super) end: Option<ExchangeEnd>,
}

/// Position of a line among those of its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The first line: it holds the claims. It is the only one if the end is known.
    First,
    /// The second line.
    Second,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_they_were_noted() {
        let mut fields = RecordFields::default();
        fields.note(Field::TRACE_ID, "a");
        fields.optional(Field::FROM, None);
        fields.note(Field::ODS, "");
        fields.note(Field::TO, "é");
        let read: Vec<_> = texts(fields.bytes()).collect();
        assert_eq!(
            read,
            [
                (Field::TRACE_ID, "a".as_bytes()),
                (Field::ODS, "".as_bytes()),
                (Field::TO, "é".as_bytes()),
            ]
        );
        let names: Vec<_> = read.iter().map(|(field, _)| field.name()).collect();
        assert_eq!(names, ["trace_id", "ods", "to"]);
    }
}
