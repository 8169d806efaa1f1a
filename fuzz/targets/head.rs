//! The validator of HTTP/1.1 byte streams. How the bytes are cut changes neither what is passed nor what is
//! refused; a head that is passed is one, whole, to another parser, and has one framing; and a body
//! ends where its head says.
//!
//! The first byte is the length of the pieces; if it is nought, all comes at once.

use spine_proxy::fuzzing::{HEAD_BYTES_MAX, InputFault, Validator};

pub(crate) fn check(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let whole = passed(bytes, bytes.len());
    if *piece > 0 {
        assert_eq!(passed(bytes, usize::from(*piece)), whole, "pieces of {piece}");
    }
    assert_eq!(followed(bytes), whole, "byte by byte");
}

/// The bytes that are passed, the heads among them, and why nothing follows.
type Passed = (Vec<u8>, usize, Option<InputFault>);

/// What comes of bytes in pieces of this length.
fn passed(bytes: &[u8], piece: usize) -> Passed {
    let (mut validator, mut held, mut out) = (Validator::new(), Vec::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        held.extend_from_slice(piece);
        let scan = validator.scan(&held);
        assert!(scan.passed <= held.len());
        out.extend(held.drain(..scan.passed));
        if scan.fault.is_some() {
            return (out, validator.heads(), scan.fault);
        }
    }
    (out, validator.heads(), None)
}

/// The same byte by byte, looking at each head and at where its body ends.
fn followed(bytes: &[u8]) -> Passed {
    let (mut validator, mut held, mut out) = (Validator::new(), Vec::new(), Vec::new());
    // Bytes of the body to come, if it has a length.
    let mut owed = Some(0);
    for byte in bytes {
        held.push(*byte);
        let heads = validator.heads();
        let scan = validator.scan(&held);
        let new: Vec<u8> = held.drain(..scan.passed).collect();
        if validator.heads() > heads {
            owed = length(&new);
        } else if let Some(owed) = &mut owed {
            *owed -= u64::try_from(new.len()).unwrap();
        }
        out.extend(new);
        if scan.fault.is_some() {
            return (out, validator.heads(), scan.fault);
        }
        if let Some(owed) = owed {
            assert_eq!(validator.is_between_messages(), owed == 0, "the end of a body");
        }
    }
    (out, validator.heads(), None)
}

/// The length of the body after this head; none if the body is chunked.
fn length(head: &[u8]) -> Option<u64> {
    assert!(head.len() <= HEAD_BYTES_MAX);
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(head), Ok(httparse::Status::Complete(head.len())));
    assert!(!request.path.unwrap().contains('#'), "a parser that knows fragments would cut it");
    let ends = head.windows(2).filter(|pair| *pair == b"\r\n").count();
    let count = |end| head.iter().filter(|byte| **byte == end).count();
    assert_eq!((count(b'\r'), count(b'\n')), (ends, ends), "half an end of a line");
    let named = |name: &str| -> Vec<&[u8]> {
        let headers = request.headers.iter();
        headers.filter(|header| header.name.eq_ignore_ascii_case(name)).map(|h| h.value).collect()
    };
    match (named("content-length").as_slice(), named("transfer-encoding").as_slice()) {
        ([], []) => Some(0),
        ([digits], []) => {
            assert!(digits.iter().all(u8::is_ascii_digit));
            Some(std::str::from_utf8(digits).unwrap().parse().unwrap())
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked") && request.version == Some(1));
            None
        }
        framings => panic!("more than one framing: {framings:?}"),
    }
}
