//! Trace contexts in the headers `traceparent` and `tracestate`.
//!
//! Spec: W3C Trace Context, level 1.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// Header with trace id, span id and flags.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Header with what tracing systems add to a trace context.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Limit: bytes of `tracestate`, its lines joined by commas.
const STATE_BYTES_MAX: usize = 512;
/// Limit: members of `tracestate`.
const STATE_MEMBERS_MAX: usize = 32;
/// Size of `traceparent` in version 00, and of its known part in later ones, in bytes.
const PARENT_BYTES: usize = 55;

/// Trace context that a request came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceivedContext {
    pub(crate) trace_id: [u8; 16],
    pub(crate) parent_id: [u8; 8],
    pub(crate) is_sampled: bool,
    /// True if `tracestate` may be passed on.
    pub(crate) has_valid_state: bool,
}

impl ReceivedContext {
    /// Reads the context; `None` if there is none, several, or a malformed one.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let context = Self::parse(value.as_bytes())?;
        Some(Self { has_valid_state: is_valid_state(headers), ..context })
    }

    /// Spec: section 3.2. A version that is not known is read as far as version 00 goes.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(PARENT_BYTES)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let [version] = lower_hex(parts.next()?)?;
        let trace_id: [u8; 16] = lower_hex(parts.next()?)?;
        let parent_id: [u8; 8] = lower_hex(parts.next()?)?;
        let [flags] = lower_hex(parts.next()?)?;
        let ends_well = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|byte| *byte == b'-'),
        };
        let is_valid = ends_well && parts.next().is_none() && trace_id != [0; 16];
        (is_valid && parent_id != [0; 8]).then_some(Self {
            trace_id,
            parent_id,
            is_sampled: flags & 1 == 1,
            has_valid_state: false,
        })
    }
}

/// Decodes hexadecimal in lower case, of exactly `N` bytes.
fn lower_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Returns true if `tracestate` is well formed and within its limits.
///
/// Spec: section 3.3.
fn is_valid_state(headers: &HeaderMap) -> bool {
    let (mut bytes, mut members) = (0, 0);
    for line in headers.get_all(&TRACESTATE) {
        bytes += line.len() + usize::from(bytes > 0);
        if bytes > STATE_BYTES_MAX {
            return false;
        }
        for member in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            members += usize::from(!member.is_empty());
            if !member.is_empty() && !is_state_member(member) {
                return false;
            }
        }
    }
    members <= STATE_MEMBERS_MAX
}

fn is_state_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = member.split_at(at);
    let value = value.get(1..).unwrap_or_default();
    let is_key_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let is_value_byte = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    let begins_well = key.first().is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins_well
        && key.len() <= 256
        && key.iter().all(is_key_byte)
        && key.iter().filter(|byte| **byte == b'@').count() <= 1
        && (1..=256).contains(&value.len())
        && value.iter().all(is_value_byte)
}

/// Returns a random span id, which is never zero.
pub(super) fn random_span_id() -> [u8; 8] {
    // The fixed bits of a UUID are in both halves at different places.
    let (high, low) = Uuid::new_v4().as_u64_pair();
    (high ^ low).max(1).to_be_bytes()
}

/// Trace context that a provider gets: the span of the request to it is the parent of its own.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingContext {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) is_sampled: bool,
    pub(super) passes_state: bool,
}

impl OutgoingContext {
    /// Replaces the trace context in the headers of a request, which are the consumer's.
    pub fn write(&self, headers: &mut HeaderMap) {
        let trace_id = u128::from_be_bytes(self.trace_id);
        let span_id = u64::from_be_bytes(self.span_id);
        let flags = u8::from(self.is_sampled);
        let parent = format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}");
        match HeaderValue::try_from(parent) {
            Ok(parent) => drop(headers.insert(TRACEPARENT, parent)),
            Err(_) => drop(headers.remove(TRACEPARENT)),
        }
        if !self.passes_state {
            headers.remove(TRACESTATE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn read(lines: &[(&'static str, &str)]) -> Option<ReceivedContext> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        ReceivedContext::read(&headers)
    }

    fn parent(value: &str) -> Option<ReceivedContext> {
        read(&[("traceparent", value)])
    }

    #[test]
    fn a_well_formed_context_is_read() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let context = parent(&format!("00-{TRACE}-{PARENT}-{flags}")).unwrap();
            assert_eq!(
                u128::from_be_bytes(context.trace_id),
                u128::from_str_radix(TRACE, 16).unwrap()
            );
            assert_eq!(context.parent_id, [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
            assert_eq!(context.is_sampled, is_sampled, "{flags}");
        }
        // A later version may have more at its end.
        for later in ["", "-", "-what-ever"] {
            assert!(parent(&format!("cc-{TRACE}-{PARENT}-01{later}")).is_some(), "{later}");
        }
    }

    #[test]
    fn a_malformed_context_is_none() {
        let zeros = "0".repeat(32);
        for malformed in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}-01.what"),
            format!("cc-{TRACE}-{PARENT}-01.what"),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}-0x"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}{PARENT}--01"),
            format!("00-{}-{PARENT}0-01", &TRACE[1..]),
            format!("00_{TRACE}_{PARENT}_01"),
            format!("00-{TRACE}-{PARENT}-01").replace('7', "\u{e9}"),
        ] {
            assert_eq!(parent(&malformed), None, "{malformed}");
        }
        let good = format!("00-{TRACE}-{PARENT}-01");
        assert_eq!(read(&[("traceparent", &good), ("traceparent", &good)]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_state_is_passed_on_if_it_is_well_formed_and_within_its_limits() {
        let good = format!("00-{TRACE}-{PARENT}-01");
        let passes = |lines: &[&str]| {
            let mut all = vec![("traceparent", &*good)];
            all.extend(lines.iter().map(|line| ("tracestate", *line)));
            read(&all).unwrap().has_valid_state
        };
        let many = |count: usize| vec!["a=1"; count].join(",");
        let long = |bytes: usize| format!("a={},b={}", "x".repeat(256), "y".repeat(bytes - 261));
        for valid in ["", "a=1", "a=1, b=2 ,, ", "0tenant@system=v al", &many(32), &long(512)] {
            assert!(passes(&[valid]), "{valid}");
        }
        assert!(passes(&["a=1", "b=2"]) && passes(&[]));
        for invalid in ["a", "=1", "a=", "A=1", "a=1=2", "a@b@c=1", "_a=1", "a=\u{e9}", &many(33)] {
            assert!(!passes(&[invalid]), "{invalid}");
        }
        assert!(!passes(&[&long(513)]) && !passes(&[&many(16), &many(17)]));
        assert!(!passes(&[&long(300), &long(300)]));
    }
}
