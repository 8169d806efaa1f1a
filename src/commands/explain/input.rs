//! Inputs of `explain`, recognised by their form.

use std::io::Read;
use std::path::Path;

use uuid::Uuid;

use super::wire::WireRequest;
use super::{curl, har, raw, usage};
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
    /// Reads an input: `-`, a file, or the text itself.
    ///
    /// # Errors
    /// Returns an error if it has none of the known forms or cannot be read. It repeats nothing of the input.
    pub(super) fn read(input: &str, entry: Option<usize>) -> Result<Self, Failure> {
        let path = Path::new(input);
        let (bytes, what) = if input == "-" {
            (read_limited(std::io::stdin().lock()), "standard input")
        } else if path.exists() {
            (std::fs::File::open(path).and_then(read_limited), "the file")
        } else {
            (Ok(input.as_bytes().to_vec()), "the argument")
        };
        let bytes = bytes.map_err(|why| usage(format_args!("cannot read {what}: {why}")))?;
        Self::recognised(bytes, entry).map_err(|why| {
            let no_file = if what == "the argument" { "; and no file has this name" } else { "" };
            usage(format_args!("the request cannot be read: {why}{no_file}"))
        })
    }

    /// Recognises an input by its first line or its first character.
    ///
    /// # Errors
    /// Returns a text about an input that has no known form or cannot be read. It repeats nothing of the input.
    pub(super) fn recognised(bytes: Vec<u8>, entry: Option<usize>) -> Result<Self, String> {
        let bytes = in_utf8(bytes);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        let read = if text.is_empty() {
            Err("it is empty".to_owned())
        } else if let Some(id) = id(text) {
            return Ok(Self::Record(id));
        } else if text.starts_with(['{', '[']) {
            return har::request(text, entry).map(Self::Bytes);
        } else if let Some(command) = curl_command(text) {
            curl::request(command)
        } else if let Some(request) = raw::request(&bytes) {
            request
        } else {
            Err("it is neither a curl command, a HAR, an HTTP request nor an id of the journal; \
                 browsers copy a request as cURL (bash)"
                .to_owned())
        };
        match entry {
            Some(_) if read.is_ok() => {
                Err("it is not a HAR, of which --entry chooses one entry".to_owned())
            }
            Some(_) | None => read.map(Self::Bytes),
        }
    }
}

/// Reads all of a file or stream, whose size need not be known.
///
/// # Errors
/// Returns an error if it cannot be read or is too large.
pub(super) fn read_limited(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= INPUT_BYTES_MAX => Ok(bytes),
        Ok(_) | Err(_) => Err(std::io::Error::other("it is larger than 64 MiB")),
    }
}

/// Returns text in UTF-8 without a byte order mark, from UTF-16 as PowerShell writes it too.
fn in_utf8(mut bytes: Vec<u8>) -> Vec<u8> {
    let utf16 = |unit: fn([u8; 2]) -> u16, skipped: usize| {
        let pairs = bytes.get(skipped..).unwrap_or_default().as_chunks().0;
        let units = pairs.iter().map(|pair| unit(*pair));
        let text =
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER));
        text.collect::<String>().into_bytes()
    };
    match *bytes {
        [0xef, 0xbb, 0xbf, ..] => drop(bytes.drain(..3)),
        [0xff, 0xfe, ..] => return utf16(u16::from_le_bytes, 2),
        [0xfe, 0xff, ..] => return utf16(u16::from_be_bytes, 2),
        [1..=255, 0, ..] => return utf16(u16::from_le_bytes, 0),
        [0, 1..=255, ..] => return utf16(u16::from_be_bytes, 0),
        _ => {}
    }
    bytes
}

/// Returns an id of the journal in the form of its records; `None` if the text is neither a UUID nor begins with
/// `id:`. The case of letters is kept, as records keep that of a trace id.
fn id(text: &str) -> Option<String> {
    if let Some(id) = text.strip_prefix("id:") {
        return Some(id.to_owned());
    }
    text.parse::<Uuid>().ok()?;
    let mut id: String =
        text.trim_start_matches("urn:uuid:").chars().filter(char::is_ascii_hexdigit).collect();
    for hyphen in [8, 13, 18, 23] {
        id.insert(hyphen, '-');
    }
    Some(id)
}

/// Returns a curl command that follows comments, a Markdown fence, a prompt, assignments or words such as `time`.
fn curl_command(text: &str) -> Option<&str> {
    let is_skipped =
        |line: &str| line.trim().is_empty() || line.starts_with('#') || line.starts_with("```");
    let mut rest = text;
    while is_skipped(rest.lines().next()?) {
        rest = rest.split_once('\n')?.1.trim_start();
    }
    loop {
        let word = rest.split_whitespace().next()?;
        let program = word.rsplit(['/', '\\']).next().unwrap_or(word);
        if matches!(program, "curl" | "curl.exe") {
            return Some(rest);
        }
        let is_assignment = word.split_once('=').is_some_and(|(name, _)| is_name(name));
        let is_prompt = word.ends_with(['$', '%', '>', '#']);
        if !is_assignment && !is_prompt && !matches!(word, "PS" | "time" | "sudo" | "env" | "exec")
        {
            return None;
        }
        rest = rest.trim_start().strip_prefix(word)?.trim_start();
    }
}

/// Returns true for the name of a variable.
fn is_name(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0197f2a4-6a0c-7c3e-9f0e-3d6d3c1b2a10";

    #[test]
    fn a_curl_command_is_found_behind_what_is_copied_with_it() {
        for before in [
            "",
            "\n  ",
            "$ ",
            "% ",
            "me@host:~/work$ ",
            "PS C:\\Users\\me> ",
            "C:\\Users\\me>  ",
            "time ",
            "A=b C_1=2 ",
            "# a note\n",
            "#!/bin/sh\n\n# a note\n",
            "```sh\n",
            "/usr/bin/",
        ] {
            for name in ["curl", "curl.exe"] {
                let text = format!("{before}{name} https://h\n```\n");
                assert!(curl_command(&text).unwrap().ends_with("https://h\n```\n"), "{text}");
                let read = ExplainInput::recognised(text.into_bytes(), None);
                assert!(matches!(read, Ok(ExplainInput::Bytes(_))), "{before}");
            }
        }
        for text in
            ["curly https://h", "the curl command", "=b curl x", "echo | curl x", "# curl x"]
        {
            assert!(curl_command(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_id_has_the_form_of_the_journal() {
        let braced = format!("{{{ID}}}");
        for text in
            [ID, &braced, &format!("urn:uuid:{ID}"), &ID.replace('-', ""), &format!("{ID}\n")]
        {
            let read = ExplainInput::recognised(text.as_bytes().to_vec(), None);
            assert!(matches!(read, Ok(ExplainInput::Record(id)) if id == ID), "{text}");
        }
        let upper = ID.to_uppercase();
        let read = ExplainInput::read(&upper, None);
        assert!(matches!(read, Ok(ExplainInput::Record(id)) if id == upper));
        let read = ExplainInput::read("id:any-text", None);
        assert!(matches!(read, Ok(ExplainInput::Record(id)) if id == "any-text"));
    }

    #[test]
    fn an_input_is_recognised_in_every_encoding() {
        let text = "GET /é HTTP/1.1\r\nHost: h\r\n\r\n";
        let units: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [&b"\xff\xfe"[..], &little].concat(),
            [&b"\xfe\xff"[..], &big].concat(),
            little,
            big,
        ] {
            let read = ExplainInput::recognised(bytes, None);
            let Ok(ExplainInput::Bytes(request)) = read else { panic!("{read:?}") };
            assert_eq!(String::from_utf8(request.bytes).unwrap(), text);
        }
    }

    #[test]
    fn what_has_no_known_form_is_an_error_that_repeats_nothing() {
        for text in [
            "fetch(\"https://secret\")",
            "Invoke-WebRequest https://secret",
            "wget https://secret",
            "https://secret/",
            ":authority: secret\n:path: /\n",
            "/nowhere/secret",
            "éé secret",
            "secret",
        ] {
            let why = ExplainInput::recognised(text.as_bytes().to_vec(), None).unwrap_err();
            assert!(why.contains("neither a curl command") && !why.contains("secret"), "{why}");
            let why = ExplainInput::read(text, None).unwrap_err().to_string();
            assert!(why.ends_with("no file has this name") && !why.contains("secret"), "{why}");
        }
        for text in ["curl https://h", "GET / HTTP/1.1\r\n\r\n"] {
            let why = ExplainInput::recognised(text.as_bytes().to_vec(), Some(1)).unwrap_err();
            assert!(why.contains("--entry"), "{why}");
        }
    }

    #[test]
    fn an_input_without_an_end_is_too_large() {
        let why = read_limited(std::io::repeat(b'x')).unwrap_err();
        assert_eq!(why.to_string(), "it is larger than 64 MiB");
    }
}
