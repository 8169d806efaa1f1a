//! Requests in HTTP archives (HAR), as browsers and test tools save them.

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Deserializer, Value};

use super::wire::{HttpsUrl, RequestParts, WireRequest};

/// Limit: bytes of one request in a HAR.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// HAR, one of its entries, or one request, as far as it is read.
#[derive(Deserialize)]
struct Archive<'a> {
    #[serde(borrow)]
    log: Option<ArchiveLog<'a>>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

/// Log of a HAR; its entries are not read yet, since there may be many.
#[derive(Deserialize)]
struct ArchiveLog<'a> {
    #[serde(borrow)]
    entries: &'a RawValue,
}

/// Request of an entry. Its members may have any type, so that the one at fault can be named.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchiveRequest {
    #[serde(default)]
    method: Value,
    #[serde(default)]
    url: Value,
    #[serde(default)]
    http_version: Value,
    #[serde(default)]
    headers: Value,
    #[serde(default)]
    post_data: Value,
}

/// Returns the request of a HAR, of a list of entries, of an entry or a request alone; entries are numbered from 1.
///
/// # Errors
/// Returns a text if there is no such entry, or it has no request. It repeats nothing of the input.
pub(super) fn request(text: &str, number: Option<usize>) -> Result<WireRequest, String> {
    if text.starts_with('[') {
        return entry(text, number);
    }
    let archive: Archive<'_> = serde_json::from_str(text).map_err(|why| fault(&why))?;
    match (archive.log, number) {
        (Some(log), _) => entry(log.entries.get(), number),
        (None, Some(_)) => Err("--entry needs a whole HAR, with log.entries".to_owned()),
        (None, None) => composed(archive.request.map_or(text, RawValue::get)),
    }
}

/// Returns the request of one of these entries.
fn entry(entries: &str, number: Option<usize>) -> Result<WireRequest, String> {
    let choice = EntryChoice { index: number.unwrap_or(1).checked_sub(1), found: None, count: 0 };
    let mut json = Deserializer::from_str(entries);
    let choice = json.deserialize_seq(choice).map_err(|why| fault(&why))?;
    match (choice.found, choice.count, number) {
        (_, count, None) if count != 1 => {
            Err(format!("the HAR has {count} entries: choose one with --entry"))
        }
        (Some(found), _, _) => {
            let found: Archive<'_> =
                serde_json::from_str(found.get()).map_err(|why| fault(&why))?;
            composed(found.request.ok_or("the entry has no request")?.get())
        }
        (None, count, _) => Err(format!("the HAR has {count} entries, and none of this number")),
    }
}

/// Entry of a list that is chosen by its index; the others are counted and not kept.
struct EntryChoice<'a> {
    /// Index from 0; `None` for no entry.
    index: Option<usize>,
    found: Option<&'a RawValue>,
    count: usize,
}

impl<'de> Visitor<'de> for EntryChoice<'de> {
    type Value = Self;

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self, A::Error> {
        loop {
            if self.index == Some(self.count) {
                let Some(entry) = list.next_element()? else { return Ok(self) };
                self.found = Some(entry);
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(self);
            }
            self.count += 1;
        }
    }
}

fn composed(request: &str) -> Result<WireRequest, String> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err("the request of the entry is larger than 4 MiB".to_owned());
    }
    let request: ArchiveRequest = serde_json::from_str(request).map_err(|why| fault(&why))?;
    let (Some(method), Some(url), Some(headers)) =
        (request.method.as_str(), request.url.as_str(), request.headers.as_array())
    else {
        return Err("the entry has no request with method, url and headers".to_owned());
    };
    let url = HttpsUrl::parse(url)?;
    let line = format!("{method} {} HTTP/1.1", url.target);
    let mut parts = RequestParts { line, ..RequestParts::default() };
    for (header, number) in headers.iter().zip(1..) {
        let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(name), Some(value)) = (text("name"), text("value")) else {
            return Err(format!("header {number} of the request has no text as name or value"));
        };
        // HTTP/2 has these instead of a first line.
        if !name.starts_with(':') {
            parts.headers.push((name, value));
        }
    }
    if !parts.has("host") {
        parts.headers.insert(0, ("Host".to_owned(), url.host.to_owned()));
    }
    let body =
        request.post_data.get("text").and_then(Value::as_str).filter(|body| !body.is_empty());
    if let Some(body) = body
        && !parts.has("content-length")
        && !parts.has("transfer-encoding")
    {
        parts.headers.push(("Content-Length".to_owned(), body.len().to_string()));
    }
    parts.body = body.map(|body| body.as_bytes().to_vec());
    let mut notes = Vec::new();
    if request.http_version.as_str().is_some_and(|version| version.contains(['2', '3'])) {
        notes.push("judged as over HTTP/1.1".to_owned());
    }
    Ok(WireRequest { bytes: parts.bytes(), certificate: None, notes })
}

/// Returns a text about JSON that cannot be read. That of the parser may repeat values.
fn fault(why: &serde_json::Error) -> String {
    let what = if why.is_data() { "not a HAR" } else { "not JSON" };
    format!("{what}, at line {}, column {} of it or its part", why.line(), why.column())
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
        let whole = format!(r#"{{"log":{{"entries":[0,{ENTRY}]}}}}"#);
        let alone = &ENTRY[r#"{"request":"#.len()..ENTRY.len() - 1];
        for (text, entry) in [
            (ENTRY, None),
            (alone, None),
            (&whole, Some(2)),
            (&format!("[{ENTRY}]"), None),
            (&format!("[0,{ENTRY}]"), Some(2)),
        ] {
            let read = request(text, entry).unwrap();
            assert_eq!(String::from_utf8(read.bytes).unwrap(), due);
            assert_eq!(read.notes.len(), 1);
        }
        for (text, entry) in [
            (&*whole, None),
            (&whole, Some(0)),
            (&whole, Some(1)),
            (&whole, Some(3)),
            (ENTRY, Some(1)),
            ("{}", None),
            ("{", None),
            ("[]", None),
            ("[0]", None),
        ] {
            assert!(request(text, entry).is_err(), "{entry:?}");
        }
    }

    #[test]
    fn the_member_at_fault_is_named_and_its_value_is_not() {
        for (was, is, fault) in [
            ("https://h", "http://9990000018", "not https"),
            ("\"POST\"", "[\"9990000018\"]", "method, url and headers"),
            ("[{", "[{\"name\":\"9990000018\"},{", "header 1 of the request has no text"),
            ("\"value\":\"1\"", "\"value\":9990000018", "header 2 of the request has no text"),
            ("{\"request\"", "{\"log\":\"9990000018\",\"request\"", "not a HAR, at line 1"),
            ("}}}", "}}}}", "not JSON, at line 3"),
        ] {
            let found = request(&ENTRY.replace(was, is), None).unwrap_err();
            assert!(found.contains(fault) && !found.contains("999"), "{found}");
        }
        let large = ENTRY.replace("{}", &"x".repeat(5 << 20));
        assert!(request(&large, None).unwrap_err().contains("larger than 4 MiB"));
    }

    #[test]
    fn a_chunked_body_is_chunked_and_a_password_is_not_sent() {
        let chunked =
            ENTRY.replace("Ssp-To\",\"value\":\"1", "transfer-encoding\",\"value\":\"chunked");
        let read = request(&chunked.replace("https://h", "https://me:pw@h"), None).unwrap();
        let text = String::from_utf8(read.bytes).unwrap();
        assert!(text.ends_with("\r\n\r\n2\r\n{}\r\n0\r\n\r\n") && !text.contains("pw"), "{text}");
    }
}
