//! Requests as bytes of HTTP/1.1, as people copy them: with line ends of an editor, without the last empty line, as
//! HTTP/2, or as `curl -v` and `call -v` print them.

use super::super::call::TOKEN_ELSEWHERE;
use super::wire::WireRequest;

/// Returns the request of bytes whose first line has the form `METHOD TARGET HTTP/…`; `None` for others.
///
/// # Errors
/// Returns a text if the request is there only in part.
pub(super) fn request(bytes: &[u8]) -> Option<Result<WireRequest, String>> {
    if is_request_line(lines(bytes).find(|line| !line.is_empty())?) {
        return Some(Ok(repaired(bytes.to_vec())));
    }
    let sent = sent_lines(bytes);
    let is_request = is_request_line(lines(&sent).next()?);
    let token = TOKEN_ELSEWHERE.as_bytes();
    is_request.then(|| match sent.windows(token.len()).any(|part| part == token) {
        true => {
            Err("the token is not in what call -v prints: call --curl prints it all".to_owned())
        }
        false => Ok(repaired(sent)),
    })
}

/// Returns the lines of bytes, without spaces at both ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)
}

fn is_request_line(line: &[u8]) -> bool {
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    line.first().is_some_and(u8::is_ascii_alphabetic)
        && last.len() < line.len()
        && last.starts_with(b"HTTP/")
}

/// Returns the head that `curl -v` prints, from its lines that begin with `> `.
fn sent_lines(bytes: &[u8]) -> Vec<u8> {
    let sent = lines(bytes).filter_map(|line| line.strip_prefix(b">"));
    let head = sent.map(<[u8]>::trim_ascii).take_while(|line| !line.is_empty());
    head.flat_map(|line| [line, b"\r\n"].concat()).collect()
}

/// Returns a request whose head is as a client sent it, with notes on what was changed.
fn repaired(mut bytes: Vec<u8>) -> WireRequest {
    let mut notes = Vec::new();
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or_default();
    let body = bytes.split_off(end_of_head(&bytes, start));
    let mut head = bytes;
    if !head.contains(&b'\r') {
        let begun = head.split_off(start);
        head = begun.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]);
        notes.push("lines of the head end with a line feed alone; read as CR LF".to_owned());
    }
    if !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
        head.truncate(head.trim_ascii_end().len());
        head.extend_from_slice(b"\r\n\r\n");
        notes.push("the empty line after the head is missing; added".to_owned());
    }
    for version in ["HTTP/2", "HTTP/2.0", "HTTP/3"] {
        let old = format!(" {version}\r\n").into_bytes();
        let at = head.windows(old.len()).position(|part| part == old);
        if let Some(at) = at.filter(|at| head.iter().take(*at).all(|byte| *byte != b'\n')) {
            head.splice(at..at + old.len(), *b" HTTP/1.1\r\n");
            notes.push("judged as over HTTP/1.1".to_owned());
        }
    }
    head.extend(body);
    WireRequest { bytes: head, certificate: None, notes }
}

/// Returns the end of the empty line after a head that begins at `start`, or of the bytes if there is none.
fn end_of_head(bytes: &[u8], start: usize) -> usize {
    let mut end = start;
    for line in bytes.get(start..).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        if matches!(line, b"\n" | b"\r\n") {
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::request;

    #[test]
    fn a_request_that_was_copied_is_as_it_was_sent() {
        const SENT: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for (saved, bytes, notes) in [
            (SENT, SENT, 0),
            ("GET / HTTP/1.1\nHost: h\n", SENT, 2),
            ("GET / HTTP/1.1\r\nHost: h", SENT, 1),
            ("GET / HTTP/1.1\r\nHost: h\r\n", SENT, 1),
            ("GET / HTTP/2\r\nHost: h\r\n\r\n", SENT, 1),
            ("GET / HTTP/2.0\nHost: h\n\n", SENT, 2),
            ("GET / HTTP/3\r\nHost: h\r\n\r\nGET / HTTP/2", &format!("{SENT}GET / HTTP/2"), 1),
            ("GET / HTTP/1.1\nHost: h\n\nbo\r\ndy\n", &format!("{SENT}bo\r\ndy\n"), 1),
            ("GET / HTTP/1.1\r\nHost: h\n\n", "GET / HTTP/1.1\r\nHost: h\n\n", 0),
            ("\n\nGET / HTTP/1.1\nHost: h\n\n", SENT, 1),
            ("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", &format!("\r\n{SENT}"), 0),
            ("GET / HTTP/9.9\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", 0),
            ("GET /HTTP/2 HTTP/1.1\r\n\r\n", "GET /HTTP/2 HTTP/1.1\r\n\r\n", 0),
            ("* Connected\n> GET / HTTP/1.1\n> Host: h\n>\n< HTTP/1.1 200 OK\n> x\n", SENT, 1),
            ("> GET / HTTP/2\r\n> Host: h\r\n> \r\n* done\r\n", SENT, 2),
        ] {
            let read = request(saved.as_bytes()).unwrap().unwrap();
            assert_eq!(String::from_utf8(read.bytes).unwrap(), bytes, "{saved:?}");
            assert_eq!(read.notes.len(), notes, "{saved:?}: {:?}", read.notes);
        }
        for text in ["", "\n", "GET /", "HTTP/1.1 200 OK", "> x", "\"GET / HTTP/1.1\"", ":path: /"]
        {
            assert!(request(text.as_bytes()).is_none(), "{text}");
        }
        let in_part = b"> GET / HTTP/1.1\n> authorization: Bearer (see below)\n";
        assert!(request(in_part).unwrap().unwrap_err().contains("--curl"));
    }
}
