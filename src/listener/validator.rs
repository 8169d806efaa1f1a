//! Validates an HTTP/1.1 connection byte by byte: each head is judged whole before the parser sees it, and
//! each body is followed to its end.
//!
//! A parser silently decides what two parsers could read in two ways: a length beside a coding, a length
//! given twice, a line that ends without its carriage return. Once it hands over a request, the bytes are
//! gone. So they are judged here, and refused.

use std::mem::MaybeUninit;

use memchr::{memchr, memchr_iter};

use crate::refusal::Refusal;
use crate::request::CONNECTION_NAMES_MAX;
use spine_types::UrlFault;
use spine_types::target::TargetFault;

/// Validator of one connection's bytes.
#[derive(Debug)]
pub struct Validator {
    state: ValidatorState,
    heads: usize,
}

/// Reason why no more bytes can be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputFault {
    /// A head that must be refused.
    Head(Refusal),
    /// A body whose framing is broken, while its request is under way.
    Body,
}

/// Result of scanning some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct ScanResult {
    /// Number of bytes that may be passed on; the rest is an incomplete head.
    pub passed: usize,
    /// Reason why nothing after them may be passed on, if there is one.
    pub fault: Option<InputFault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValidatorState {
    /// In a head: `seen` bytes are in complete lines, `looked` bytes have been searched for a line feed.
    Head { seen: usize, looked: usize },
    /// In a body with this many bytes to come.
    Sized(u64),
    /// In a chunked body.
    Chunked(ChunkedState),
}

/// Position in a chunked body, as in RFC 9112 §7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkedState {
    Size {
        digits: u8,
        size: u64,
    },
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a line that is a trailer, or the last.
    Trailers,
    Trailer,
    TrailerEnd,
    LastEnd,
}

/// Limit: bytes of a whole head. hyper's own limit lies above.
pub const HEAD_BYTES_MAX: usize = 124 * 1024;
/// Limit: bytes of a head without a line's end at its start: the target is too long.
const FIRST_LINE_BYTES_MAX: usize = 64 * 1024;
/// Limit: number of header lines.
const HEADERS_MAX: usize = 128;
/// Limit: digits of a `Content-Length` after leading zeros, so that a signed 64-bit integer of any parser holds it.
const LENGTH_DIGITS_MAX: usize = 18;
/// Limit: bytes of a length, with leading zeros.
const LENGTH_BYTES_MAX: usize = 64;
/// Limit: hexadecimal digits of a chunk's size.
const SIZE_DIGITS_MAX: u8 = 15;

impl Validator {
    /// Returns the state at the start of a connection.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: HEAD, heads: 0 }
    }

    /// Returns the number of heads passed so far.
    #[must_use]
    pub const fn heads(&self) -> usize {
        self.heads
    }

    /// Returns true if the last body has ended.
    #[must_use]
    pub const fn is_between_messages(&self) -> bool {
        matches!(self.state, ValidatorState::Head { .. })
    }

    /// Scans the bytes that have not been passed on yet: those kept back last time, and those received since.
    pub fn scan(&mut self, bytes: &[u8]) -> ScanResult {
        let mut passed = 0;
        loop {
            // A step passes at most the bytes it is given.
            let (_, rest) = bytes.split_at(passed);
            let step = match self.state {
                ValidatorState::Head { seen, looked } => self.head(rest, seen, looked),
                ValidatorState::Sized(left) => Ok(self.sized(rest, left)),
                ValidatorState::Chunked(at) => self.chunked(rest, at),
            };
            match step {
                Ok(0) => return ScanResult { passed, fault: None },
                Ok(step) => passed += step,
                Err(fault) => return ScanResult { passed, fault: Some(fault) },
            }
        }
    }

    /// Passes a head whole, or not at all.
    fn head(
        &mut self,
        bytes: &[u8],
        mut seen: usize,
        mut looked: usize,
    ) -> Result<usize, InputFault> {
        // A head is given again with more bytes until it is whole, so that both positions lie within it.
        while let Some(at) = memchr(b'\n', bytes.split_at(looked).1) {
            let end = looked + at + 1;
            let (head, _) = bytes.split_at(end);
            let (_, line) = head.split_at(seen);
            check_size(seen, end - 1)?;
            match line {
                // Spec: RFC 9112 §2.2. One empty line before a head is accepted.
                b"\r\n" if seen == 0 => {}
                b"\r\n" if bytes.starts_with(b"\r\n\r\n") => return Err(MALFORMED),
                b"\r\n" => {
                    self.state = check_head(head).map_err(InputFault::Head)?;
                    self.heads += 1;
                    return Ok(end);
                }
                // Security: a bare line feed ends a line for some parsers and not for others.
                [.., b'\r', b'\n'] => {}
                _ => return Err(MALFORMED),
            }
            (seen, looked) = (end, end);
        }
        // No byte is searched twice, in whatever pieces a head comes.
        self.state = ValidatorState::Head { seen, looked: bytes.len() };
        check_size(seen, bytes.len())?;
        Ok(0)
    }

    fn sized(&mut self, bytes: &[u8], left: u64) -> usize {
        let (step, left) = take(bytes, left);
        self.state = if left == 0 { HEAD } else { ValidatorState::Sized(left) };
        step
    }

    fn chunked(&mut self, bytes: &[u8], at: ChunkedState) -> Result<usize, InputFault> {
        if let ChunkedState::Data(left) = at {
            let (step, left) = take(bytes, left);
            let next = if left == 0 { ChunkedState::DataCr } else { ChunkedState::Data(left) };
            self.state = ValidatorState::Chunked(next);
            return Ok(step);
        }
        let Some(byte) = bytes.first() else { return Ok(0) };
        self.state = match at.after(*byte).ok_or(InputFault::Body)? {
            Some(next) => ValidatorState::Chunked(next),
            None => HEAD,
        };
        Ok(1)
    }
}

impl Default for Validator {
    fn default() -> Self {
        Self::new()
    }
}

const HEAD: ValidatorState = ValidatorState::Head { seen: 0, looked: 0 };
const MALFORMED: InputFault = InputFault::Head(Refusal::HeadMalformed);

/// Judges the size of a head of which `seen` bytes are in complete lines and `bytes` have come.
///
/// A line that has ended is judged as it was before its end came, since a head may come in pieces.
const fn check_size(seen: usize, bytes: usize) -> Result<(), InputFault> {
    match (seen, bytes) {
        (0..=2, FIRST_LINE_BYTES_MAX..) => Err(InputFault::Head(Refusal::TargetTooLong)),
        (_, HEAD_BYTES_MAX..) => Err(InputFault::Head(Refusal::HeadTooLarge)),
        _ => Ok(()),
    }
}

/// Returns how many of the bytes belong to the rest of a body, and how much is left after them.
fn take(bytes: &[u8], left: u64) -> (usize, u64) {
    let step = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (step, left.saturating_sub(u64::try_from(step).unwrap_or(u64::MAX)))
}

impl ChunkedState {
    const START: Self = Self::Size { digits: 0, size: 0 };

    /// Returns the state after this byte: `None` if it may not stand here, `Some(None)` if it was the body's
    /// last.
    #[expect(clippy::option_option, reason = "refused, ended, or going on")]
    fn after(self, byte: u8) -> Option<Option<Self>> {
        let next = match (self, byte) {
            (Self::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                if digits == SIZE_DIGITS_MAX {
                    return None;
                }
                Self::Size { digits: digits + 1, size: size * 16 + u64::from(digit) }
            }
            (Self::Size { digits: 0, .. }, _) => return None,
            (Self::Size { size, .. }, b'\r') => Self::SizeEnd(size),
            (Self::Size { size, .. }, b' ' | b'\t' | b';') => Self::Extension(size),
            (Self::Extension(size), b'\r') => Self::SizeEnd(size),
            // Security: as in a head, a bare line feed ends nothing.
            (Self::Extension(_), b'\n') => return None,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeEnd(0), b'\n') => Self::Trailers,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::START,
            (Self::Trailers, b'\r') => Self::LastEnd,
            (Self::Trailer, b'\r') => Self::TrailerEnd,
            (Self::Trailers | Self::Trailer, b'\n') => return None,
            (Self::Trailers | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerEnd, b'\n') => Self::Trailers,
            (Self::LastEnd, b'\n') => return Some(None),
            _ => return None,
        };
        Some(Some(next))
    }
}

/// Judges a whole head, and returns the state for what follows it.
fn check_head(head: &[u8]) -> Result<ValidatorState, Refusal> {
    let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut lines) {
        Ok(httparse::Status::Complete(end)) if end == head.len() => {}
        Ok(_) => return Err(Refusal::HeadMalformed),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) if names_a_version(head) => {
            return Err(Refusal::VersionUnknown);
        }
        Err(_) => return Err(Refusal::HeadMalformed),
    }
    check_target(request.path.unwrap_or_default())?;
    let mut length = None;
    let mut is_coded = false;
    let mut named = 0;
    for header in request.headers.iter() {
        // hyper would answer such a header by itself.
        if header.name.len() > usize::from(u16::MAX) {
            return Err(Refusal::HeadTooLarge);
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            if length.replace(digits(header.value)?).is_some() {
                return Err(Refusal::FramingAmbiguous);
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if std::mem::replace(&mut is_coded, true) || request.version != Some(1) {
                return Err(Refusal::FramingAmbiguous);
            }
            check_coding(header.value)?;
        } else if header.name.eq_ignore_ascii_case("connection")
            || header.name.eq_ignore_ascii_case("te")
        {
            named += 1 + memchr_iter(b',', header.value).count();
            if named > CONNECTION_NAMES_MAX {
                return Err(Refusal::HeadTooLarge);
            }
        }
    }
    match (is_coded, length) {
        (true, Some(_)) => Err(Refusal::FramingAmbiguous),
        (true, None) => Ok(ValidatorState::Chunked(ChunkedState::START)),
        (false, None | Some(0)) => Ok(HEAD),
        (false, Some(length)) => Ok(ValidatorState::Sized(length)),
    }
}

/// Returns true if the first line is one of HTTP, of whatever version.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').find(|line| line.len() > 1).unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let version = words.next().is_some_and(|word| word.starts_with(b"HTTP/"));
    version && words.next().is_none()
}

/// Refuses targets that hyper's own types would not take, or not take whole.
fn check_target(target: &str) -> Result<(), Refusal> {
    // Security: `http::Uri` silently drops a fragment, and filters of a search with it.
    if memchr(b'#', target.as_bytes()).is_some() {
        return Err(Refusal::TargetMalformed(TargetFault::Fragment));
    }
    match http::Uri::try_from(target) {
        Ok(_) => Ok(()),
        Err(_) if target.len() > usize::from(u16::MAX) - 1 => Err(Refusal::TargetTooLong),
        Err(_) if target.contains('?') => {
            Err(Refusal::TargetMalformed(TargetFault::Url(UrlFault::QueryByte)))
        }
        Err(_) => Err(Refusal::TargetMalformed(TargetFault::Url(UrlFault::PathByte))),
    }
}

fn digits(value: &[u8]) -> Result<u64, Refusal> {
    if value.len() > LENGTH_BYTES_MAX {
        return Err(Refusal::FramingAmbiguous);
    }
    let text = std::str::from_utf8(value).ok().filter(|text| {
        let significant = text.trim_start_matches('0');
        significant.len() <= LENGTH_DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit())
    });
    text.and_then(|text| text.parse().ok()).ok_or(Refusal::FramingAmbiguous)
}

/// Accepts `chunked` alone. Other codings of HTTP are not supported, and a value that could hide a coding is
/// refused.
fn check_coding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let is_chunked = |name: &[u8]| name.trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut names = value.rsplit(|byte| *byte == b',');
    match names.next().is_some_and(is_chunked) && !names.any(is_chunked) {
        true => Err(Refusal::TransferCodingUnknown),
        false => Err(Refusal::FramingAmbiguous),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

    /// Returns what is passed of a connection whose bytes come in pieces of this size, and the fault.
    fn passed(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<InputFault>, Validator) {
        let (mut validator, mut held, mut out) = (Validator::new(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            held.extend_from_slice(piece);
            let scan = validator.scan(&held);
            out.extend(held.drain(..scan.passed));
            if scan.fault.is_some() {
                return (out, scan.fault, validator);
            }
        }
        (out, None, validator)
    }

    fn head(lines: &str) -> Option<InputFault> {
        let head = format!("POST /a HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        passed(head.as_bytes(), usize::MAX).1
    }

    #[test]
    fn a_head_is_passed_whole_or_not_at_all() {
        for piece in 1..=GET.len() {
            let (out, fault, validator) = passed(GET, piece);
            assert_eq!((out.as_slice(), fault), (GET, None));
            assert!(validator.is_between_messages());
            let (out, fault, _) = passed(&GET[..GET.len() - 1], piece);
            assert_eq!((out.as_slice(), fault), (&b""[..], None));
        }
    }

    #[test]
    fn framing_that_two_parsers_could_read_in_two_ways_is_refused() {
        use Refusal::{FramingAmbiguous, TransferCodingUnknown};
        for (lines, refusal) in [
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", FramingAmbiguous),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", FramingAmbiguous),
            ("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", FramingAmbiguous),
            ("Content-Length: 3\r\nContent-Length: 4\r\n", FramingAmbiguous),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", FramingAmbiguous),
            ("Content-Length: 3, 3\r\n", FramingAmbiguous),
            ("Content-Length: +3\r\n", FramingAmbiguous),
            ("Content-Length: -1\r\n", FramingAmbiguous),
            ("Content-Length: 0x3\r\n", FramingAmbiguous),
            ("Content-Length:\r\n", FramingAmbiguous),
            ("Content-Length: 18446744073709551616\r\n", FramingAmbiguous),
            ("Content-Length: 18446744073709551615\r\n", FramingAmbiguous),
            ("Transfer-Encoding: chunked, identity\r\n", FramingAmbiguous),
            ("Transfer-Encoding: xchunked\r\n", FramingAmbiguous),
            ("Transfer-Encoding: chunked, chunked\r\n", FramingAmbiguous),
            ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", FramingAmbiguous),
            ("Transfer-Encoding:\r\n", FramingAmbiguous),
            ("Transfer-Encoding: gzip, chunked\r\n", TransferCodingUnknown),
        ] {
            assert_eq!(head(lines), Some(InputFault::Head(refusal)), "{lines:?}");
        }
        let old = b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(passed(old, usize::MAX).1, Some(InputFault::Head(FramingAmbiguous)));
        for lines in [
            "Content-Length: 0000003\r\n",
            "Transfer-Encoding: \tchunked\r\n",
            "Transfer-Encoding: CHUNKED\r\n",
        ] {
            assert_eq!(head(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn heads_that_are_not_http_are_refused() {
        use Refusal::{HeadMalformed, HeadTooLarge, TargetTooLong, VersionUnknown};
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(70_000));
        let named = format!("GET / HTTP/1.1\r\n{}: b\r\n\r\n", "a".repeat(65_536));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(129));
        let large = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(HEAD_BYTES_MAX));
        for (bytes, refusal) in [
            ("GET / HTTP/1.1\nHost: x\n\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nHost: x\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nHost: x\r\n\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\n A: b\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nA\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", HeadMalformed),
            ("GET /\r\n\r\n", HeadMalformed),
            ("GET\t/ HTTP/1.1\r\n\r\n", HeadMalformed),
            ("GET  / HTTP/1.1\r\n\r\n", HeadMalformed),
            ("GET /a b HTTP/1.1\r\n\r\n", HeadMalformed),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", HeadMalformed),
            ("\nGET / HTTP/1.1\r\n\r\n", HeadMalformed),
            ("GET / HTTP/1.2\r\n\r\n", VersionUnknown),
            ("GET / HTTP/2.0\r\n\r\n", VersionUnknown),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VersionUnknown),
            (&long, TargetTooLong),
            (&named, HeadTooLarge),
            (&many, HeadTooLarge),
            (&large, HeadTooLarge),
        ] {
            let (out, fault, _) = passed(bytes.as_bytes(), usize::MAX);
            let shown = bytes.get(..60).unwrap_or(bytes);
            assert_eq!((out.len(), fault), (0, Some(InputFault::Head(refusal))), "{shown:?}");
        }
        let (out, fault, _) = passed(b"\r\nGET / HTTP/1.1\r\n\r\n", usize::MAX);
        assert_eq!((out.len(), fault), (20, None), "one empty line is forgiven");
        let (_, fault, _) = passed(b"GET /a?b=\"c HTTP/1.1\r\n\r\n", usize::MAX);
        let byte = Refusal::TargetMalformed(TargetFault::Url(UrlFault::QueryByte));
        assert_eq!(fault, Some(InputFault::Head(byte)));
    }

    /// hyper's own limits lie above ours only if ours hold for a head that comes all at once.
    #[test]
    fn a_limit_is_the_same_for_what_comes_at_once_and_in_pieces() {
        let line = |bytes: usize| {
            let target = "a".repeat(bytes - "GET / HTTP/1.1\r".len());
            format!("GET /{target} HTTP/1.1\r\n\r\n")
        };
        let head = |bytes: usize| {
            let value = "b".repeat(bytes - "GET / HTTP/1.1\r\nA: \r\n\r\n".len());
            format!("GET / HTTP/1.1\r\nA: {value}\r\n\r\n")
        };
        let fault = |refusal| Some(InputFault::Head(refusal));
        for (bytes, due) in [
            (line(FIRST_LINE_BYTES_MAX - 1), None),
            (line(FIRST_LINE_BYTES_MAX), fault(Refusal::TargetTooLong)),
            (head(HEAD_BYTES_MAX), None),
            (head(HEAD_BYTES_MAX + 1), fault(Refusal::HeadTooLarge)),
            (head(HEAD_BYTES_MAX + 64 * 1024), fault(Refusal::HeadTooLarge)),
        ] {
            for piece in [1021, 65_536, usize::MAX] {
                let (out, fault, _) = passed(bytes.as_bytes(), piece);
                assert_eq!(fault, due, "{} bytes by {piece}", bytes.len());
                assert_eq!(out.len(), if due.is_none() { bytes.len() } else { 0 });
            }
        }
    }

    #[test]
    fn what_follows_a_body_is_a_head_of_its_own() {
        let sized = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".to_vec();
        let chunked = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
            3 ;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nA: b\r\n\r\n"
            .to_vec();
        let smuggled = b"GET /b HTTP/1.1\r\nA: b\nc\r\n\r\n";
        for body in [sized, chunked] {
            for piece in 1..80 {
                let all = [&body[..], GET, &body, smuggled].concat();
                let (out, fault, _) = passed(&all, piece);
                assert_eq!(out, [&body[..], GET, &body].concat());
                assert_eq!(fault, Some(MALFORMED));
            }
        }
    }

    #[test]
    fn a_chunked_body_that_breaks_its_framing_ends_the_connection() {
        let head = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "g\r\n",
            "0x3\r\n",
            "+3\r\n",
            "\r\n",
            " 3\r\n",
            "3\n",
            "3;a\nabc",
            "3\r\nabcd",
            "3\r\nabc\n",
            "3\r\nabc0\r\n",
            "ffffffffffffffff\r\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\n\rX",
        ] {
            let (_, fault, _) = passed(format!("{head}{body}").as_bytes(), usize::MAX);
            assert_eq!(fault, Some(InputFault::Body), "{body:?}");
        }
    }

    proptest! {
        /// Bytes in any pieces: the same is passed, and the same is refused.
        #[test]
        fn pieces_do_not_matter(
            parts in prop::collection::vec(prop_oneof![
                Just(GET.to_vec()),
                Just(b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".to_vec()),
                Just(b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n".to_vec()),
                "[\r\n :0-9a-zA-Z]{0,12}".prop_map(String::into_bytes),
            ], 0..6),
            piece in 1_usize..40,
        ) {
            let all = parts.concat();
            let (whole, fault, _) = passed(&all, usize::MAX);
            let (pieces, cut_fault, _) = passed(&all, piece);
            prop_assert_eq!(whole, pieces);
            prop_assert_eq!(fault, cut_fault);
        }
    }
}
