//! Identifiers of the Spine, which hold only valid text.
//!
//! Each is parsed once, when it enters the program. Nothing here decides, waits or reads a clock.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

mod header;
pub mod interaction;
mod limits;
mod mask;
mod root;
pub mod target;
mod units;

pub use header::SspHeader;
pub use limits::{COUNT_MAX, LimitValue, check_range};
pub use mask::{is_unprintable, masked, printable};
pub use root::{InnerUrl, ServiceRoot, UrlFault};
pub(crate) use root::{check_path, check_query};
pub use units::{period, size};

/// Error returned when a text is not a valid identifier; states the rule that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(Malformed($rule)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $rule })
            }
        }
    };
}

identifier! {
    /// Accredited System ID, the number by which the Spine knows one system at one organisation.
    Asid, "an ASID is twelve digits", |text| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

identifier! {
    /// ODS code of an organisation, upper case.
    ///
    /// Spec: codes in use have three to eight characters. Nine are accepted, ten are not, so that no NHS
    /// number is an ODS code.
    OdsCode, "an ODS code is three to nine capital letters and digits",
    |text| (3..=9).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

identifier! {
    /// Party key of a provider's message handling system, such as `T99999-9999999`.
    PartyKey, "a party key is one to fifty letters, digits and hyphens",
    |text| (1..=50).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

identifier! {
    /// Contract (CPA) id of a registered endpoint, which the refusal of a wrong target quotes.
    CpaId, "a CPA id is one to fifty letters, digits, colons, hyphens and underscores",
    |text| (1..=50).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b))
}

identifier! {
    /// Interaction id as the directory holds it: a URN of at most 200 visible ASCII characters.
    InteractionId, "an interaction id is a URN of at most 200 visible characters",
    |text| text.len() <= 200 && text.starts_with("urn:") && text.bytes().all(|b| b.is_ascii_graphic())
}

identifier! {
    /// Id that a consumer gives a request in `Ssp-TraceID`, kept as sent.
    ///
    /// [`TraceId::is_uuid`] checks for the form that the specification requires.
    TraceId, "a trace id is one to sixty-four letters, digits and hyphens",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

identifier! {
    /// Host name in a certificate, in lower case.
    CertificateName, "a certificate name is a host name in lower case",
    |text| (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._*".contains(&b))
}

impl OdsCode {
    /// Parses a code in upper or lower case.
    ///
    /// # Errors
    /// Returns an error if the text is not an ODS code.
    pub fn from_any_case(text: &str) -> Result<Self, Malformed> {
        text.to_ascii_uppercase().parse()
    }
}

impl TraceId {
    /// Returns true if the id is a UUID, as the specification requires, in either case, as consumers send it.
    #[must_use]
    pub fn is_uuid(&self) -> bool {
        is_uuid(&self.0)
    }
}

/// Returns true for the text of a UUID, in either case.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

impl TraceId {
    /// Returns the id for records and logs: a UUID unchanged, anything else with NHS numbers masked.
    #[must_use]
    pub fn printable(&self) -> Cow<'_, str> {
        if self.is_uuid() { Cow::Borrowed(&self.0) } else { masked(&self.0, 64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asid_is_twelve_digits_and_nothing_else() {
        assert!("200000000359".parse::<Asid>().is_ok());
        assert!("000000000001".parse::<Asid>().is_ok());
        for bad in
            ["", "20000000035", "2000000003590", "20000000035a", " 00000000359", "２00000000359"]
        {
            assert!(bad.parse::<Asid>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_nhs_number_is_never_an_ods_code() {
        assert!("9434765919".parse::<OdsCode>().is_err());
        assert!("A20047".parse::<OdsCode>().is_ok());
        assert!("a20047".parse::<OdsCode>().is_err());
        assert_eq!(OdsCode::from_any_case("a20047").unwrap().as_str(), "A20047");
    }

    #[test]
    fn a_trace_id_may_be_a_uuid_in_either_case() {
        let uuid = |text: &str| text.parse::<TraceId>().unwrap().is_uuid();
        assert!(uuid("09a01679-2564-0fb4-5129-aecc81ea2706"));
        assert!(uuid("C013F113-6FDA-442C-9FCE-AA1DB0A7D327"));
        assert!(!uuid("09a01679-2564-0fb4-5129-aecc81ea270"));
        assert!(!uuid("09a0167912564-0fb4-5129-aecc81ea2706"));
    }
}
