//! Requests in HTTP archives (HAR), as browsers and test tools save them.

use serde_json::Value;

use super::wire::{RequestParts, WireRequest, split_url};

/// Returns the request of a HAR's entry, or of an entry alone; entries are numbered from 1.
///
/// # Errors
/// Returns a text if there is no such entry, or it has no request.
pub(super) fn request(text: &str, entry: Option<usize>) -> Result<WireRequest, String> {
    let har: Value = serde_json::from_str(text).map_err(|why| format!("not JSON: {why}"))?;
    let entries = har.pointer("/log/entries").and_then(Value::as_array);
    let found = match (entries, entry) {
        (Some(entries), None) if entries.len() == 1 => entries.first(),
        (Some(entries), None) => {
            return Err(format!("the HAR has {} entries: choose one with --entry", entries.len()));
        }
        (Some(entries), Some(number)) => number.checked_sub(1).and_then(|at| entries.get(at)),
        (None, None) => Some(&har),
        (None, Some(_)) => return Err("--entry needs a whole HAR, with log.entries".to_owned()),
    };
    let found = found.ok_or("the HAR has no such entry")?;
    let request = found.get("request").unwrap_or(found);
    composed(request)
        .ok_or_else(|| "the entry has no request with method, url and headers".to_owned())
}

fn composed(request: &Value) -> Option<WireRequest> {
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let url = text(request, "url")?;
    let (host, target) = split_url(&url)?;
    let mut parts = RequestParts { method: text(request, "method")?, target, ..Default::default() };
    for header in request.get("headers")?.as_array()? {
        let (name, value) = (text(header, "name")?, text(header, "value")?);
        // HTTP/2 has these instead of a first line.
        if !name.starts_with(':') {
            parts.headers.push((name, value));
        }
    }
    if !parts.has("host") {
        parts.headers.insert(0, ("Host".to_owned(), host.to_owned()));
    }
    let body = request.get("postData").and_then(|data| text(data, "text")).unwrap_or_default();
    parts.body = body.into_bytes();
    let mut notes = Vec::new();
    let version = text(request, "httpVersion").unwrap_or_default().to_ascii_lowercase();
    if version.contains('2') || version.contains('3') {
        notes.push("judged as over HTTP/1.1".to_owned());
    }
    Some(WireRequest { bytes: parts.bytes(), certificate: None, notes })
}

#[cfg(test)]
mod tests {
    use super::request;

    const ENTRY: &str = r#"{"request":{"method":"POST","url":"https://h:8443/https://p.uk/A?b=c#d",
        "httpVersion":"h2","headers":[{"name":":authority","value":"h"},{"name":"Ssp-To","value":"1"}],
        "postData":{"text":"{}"}}}"#;

    #[test]
    fn an_entry_becomes_a_request() {
        let due = "POST /https://p.uk/A?b=c HTTP/1.1\r\nHost: h:8443\r\nSsp-To: 1\r\n\
            Content-Length: 2\r\n\r\n{}";
        let whole = format!(r#"{{"log":{{"entries":[{ENTRY},{ENTRY}]}}}}"#);
        for (text, entry) in [(ENTRY, None), (&whole, Some(2))] {
            let read = request(text, entry).unwrap();
            assert_eq!(String::from_utf8(read.bytes).unwrap(), due);
            assert_eq!(read.notes.len(), 1);
        }
        for (text, entry) in [
            (&*whole, None),
            (&whole, Some(0)),
            (&whole, Some(3)),
            (ENTRY, Some(1)),
            ("{}", None),
            ("{", None),
        ] {
            assert!(request(text, entry).is_err(), "{entry:?}");
        }
    }
}
