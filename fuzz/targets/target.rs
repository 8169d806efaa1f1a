//! The grammar of the request target. What is accepted has no dot segment, backslash, control or raw
//! non-ASCII in its path, in no spelling; its host is a name of letters, digits and hyphens and never
//! an address; and its path and query are the end of what was sent, byte for byte.

use std::net::IpAddr;

use spine_types::target::Target;

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = Target::parse(text) else { return };
    let (path, query) = (target.path(), target.query());
    let tail = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    assert!(text.ends_with(&tail), "{text:?} became {tail:?}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{path:?}");
    let plain = decoded(path);
    assert!(!plain.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'), "{path:?}");
    let mut segments = plain.split(|byte| *byte == b'/');
    assert!(!segments.any(|segment| matches!(segment, b"." | b"..")), "{path:?}");
    assert_eq!(count(path.as_bytes()), count(&plain), "an escape of {path:?} is a slash");
    match &target {
        Target::Url(url) => is_named(url.authority),
        Target::Practice(practice) => {
            let ods = &practice.ods;
            let named = text.get(1..=ods.as_str().len());
            assert!(
                named.is_some_and(|named| named.eq_ignore_ascii_case(ods.as_str())),
                "{text:?}"
            );
        }
    }
    assert!(target.printable(path.len()).len() <= 256);
}

/// The path as a provider may read it.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = path.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                assert_eq!(digits.len(), 2, "{path:?}");
                u8::from_str_radix(&digits, 16).expect("an escape")
            }
            _ => byte,
        });
    }
    plain
}

fn count(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

fn is_named(authority: &str) {
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    assert!(port.parse::<u16>().is_ok_and(|port| port > 0), "{authority:?}");
    assert!(host.parse::<IpAddr>().is_err(), "{authority:?}");
    let mut labels = host.split('.');
    let is_label = |label: &str| {
        let hyphen = label.starts_with('-') || label.ends_with('-');
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && letters && !hyphen
    };
    assert!(labels.all(is_label), "{authority:?}");
    // What resolvers of the old kind take for an address ends in a number.
    let last = host.rsplit('.').next().unwrap_or_default();
    assert!(!last.starts_with(|first: char| first.is_ascii_digit()), "{authority:?}");
}
