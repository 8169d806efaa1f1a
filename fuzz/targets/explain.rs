//! Inputs of `explain`, as people paste them. Whatever the input is, it is read to a request whose head has an end, or
//! to an error that shows neither a token nor an NHS number. And a text that is quoted for a shell or for JSON is
//! read as it was.

use serde_json::json;
use spine_proxy::fuzzing::{Validator, explained_request};
use spine_types::masked;

pub(crate) fn check(data: &[u8]) {
    match explained_request(data) {
        Ok(Some(request)) => {
            let mut validator = Validator::new();
            let scan = validator.scan(&request);
            assert!(scan.fault.is_some() || validator.heads() > 0, "{request:?}");
        }
        Ok(None) => {}
        Err(why) => {
            assert_eq!(masked(&why, usize::MAX), why);
            assert!(!why.contains("eyJ"), "{why}");
        }
    }
    let text = String::from_utf8_lossy(data);
    let quoted = text.replace('\'', r"'\''");
    let command = format!("curl https://h --request-target '{quoted}' -H 'A: b'");
    reads(&command, &format!("GET {text} HTTP/1.1\r\n"), "\r\nA: b\r\n\r\n");
    let request =
        json!({"method": "GET", "url": "https://h", "headers": [{"name": "A", "value": text}]});
    reads(&request.to_string(), "GET / HTTP/1.1\r\n", &format!("\r\nA: {text}\r\n\r\n"));
}

fn reads(input: &str, start: &str, end: &str) {
    let request = explained_request(input.as_bytes()).unwrap().unwrap();
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with(start) && request.ends_with(end), "{input:?}: {request:?}");
}
