//! Inputs of `explain`, recognised by their form.

use std::io::Read as _;
use std::path::Path;

use uuid::Uuid;

use super::wire::WireRequest;
use super::{curl, har, usage};
use crate::failure::Failure;

/// Limit: bytes of an input; a HAR holds the answers of a session too.
const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Request to explain, as it was given.
#[derive(Debug)]
pub(super) enum ExplainInput {
    /// Bytes of a request.
    Bytes(WireRequest),
    /// Id of an exchange or trace id, whose record is in the journal.
    Record(String),
}

impl ExplainInput {
    /// Reads an input: a curl command, `-`, a file, or an id.
    ///
    /// # Errors
    /// Returns an error if it is none of these or cannot be read.
    pub(super) fn read(input: &str, entry: Option<usize>) -> Result<Self, Failure> {
        if is_curl(input) {
            return Self::of_text(input.as_bytes(), entry);
        }
        if input == "-" {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut bytes);
            read.map_err(|why| usage(format_args!("cannot read standard input: {why}")))?;
            return Self::of_text(&bytes, entry);
        }
        let path = Path::new(input);
        if !path.exists() && input.parse::<Uuid>().is_ok() {
            return Ok(Self::Record(input.to_owned()));
        }
        let cannot =
            |why: &dyn std::fmt::Display| usage(format_args!("cannot read {input}: {why}"));
        let size = std::fs::metadata(path).map_err(|why| cannot(&why))?.len();
        if size > INPUT_BYTES_MAX {
            return Err(cannot(&"it is larger than 64 MiB"));
        }
        let bytes = std::fs::read(path).map_err(|why| cannot(&why))?;
        Self::of_text(&bytes, entry)
    }

    /// Recognises the content of a file or of standard input.
    fn of_text(bytes: &[u8], entry: Option<usize>) -> Result<Self, Failure> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let read = match text.get(..1) {
            _ if is_curl(text) => curl::request(text),
            Some("{") => har::request(text, entry),
            Some(_) => Ok(raw(bytes)),
            None => Err("it is empty".to_owned()),
        };
        read.map(Self::Bytes)
            .map_err(|why| usage(format_args!("the request cannot be read: {why}")))
    }
}

fn is_curl(text: &str) -> bool {
    text.strip_prefix("curl").is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

/// Returns the bytes of a request. If no line ends with a carriage return, as an editor saves it, they are added.
fn raw(bytes: &[u8]) -> WireRequest {
    let mut request = WireRequest { bytes: bytes.to_vec(), ..WireRequest::default() };
    if bytes.contains(&b'\r') {
        return request;
    }
    let end = bytes.windows(2).position(|two| two == b"\n\n").unwrap_or(bytes.len());
    let (head, body) = bytes.split_at_checked(end).unwrap_or((bytes, b""));
    let lines = head.trim_ascii_end().split(|byte| *byte == b'\n');
    request.bytes = lines.flat_map(|line| [line, b"\r\n"].concat()).collect();
    request.bytes.extend_from_slice(b"\r\n");
    request.bytes.extend_from_slice(body.get(2..).unwrap_or_default());
    request.notes.push("lines of the head end with a line feed alone; read as CR LF".to_owned());
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_an_editor_saved_has_its_carriage_returns_back() {
        for (saved, bytes) in [
            ("GET / HTTP/1.1\nHost: h\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
            ("GET / HTTP/1.1\nHost: h\n\nbo\ndy\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\nbo\ndy\n"),
            ("GET / HTTP/1.1\r\nHost: h\n\n", "GET / HTTP/1.1\r\nHost: h\n\n"),
        ] {
            assert_eq!(String::from_utf8(raw(saved.as_bytes()).bytes).unwrap(), bytes);
        }
    }

    #[test]
    fn an_input_is_recognised_by_its_form() {
        let id = "0197f2a4-6a0c-7c3e-9f0e-3d6d3c1b2a10";
        assert!(matches!(ExplainInput::read(id, None), Ok(ExplainInput::Record(_))));
        assert!(matches!(ExplainInput::read("curl https://h", None), Ok(ExplainInput::Bytes(_))));
        assert!(matches!(ExplainInput::read("/nowhere/at.all", None), Err(Failure::Usage(_))));
    }
}
