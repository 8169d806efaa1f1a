//! Control interface of a running simulator: JSON under `/_simulator/`.
//!
//! - `GET requests[?last=N][&ods=]`: requests received, oldest first; `DELETE requests` forgets them.
//! - `GET bookings[?ods=]`: every appointment.
//! - `POST reset[?keep=scripts,clock,requests]`: restores the initial data, removes scripts, sets the real time and
//!   forgets requests; `keep` names what stays. `POST reset?ods=` restores one practice and removes its scripts.
//! - `GET clock`, `PUT clock` with `{"now": "2026-03-25T10:30:00Z"}`, or `{"now": null}` for the
//!   real time.
//! - `GET scripts`, `PUT scripts/{ODS}` with a list of scripts; an empty list removes them. `POST scripts/{ODS}`
//!   with one script puts it before those that are there.
//!
//! An invalid request is answered with `{"error": "a sentence"}`.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::faults::FaultWordsError;
use super::scripts::Script;
use super::{DiskStoreError, ReceivedRequest, SimulatedProvider, day};
use spine_types::OdsCode;

/// Path prefix of every control request.
pub(super) const PATH_PREFIX: &str = "/_simulator/";

/// Status and explanation of a control request that is refused.
struct ControlError(StatusCode, String);

/// The body of `PUT clock`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockSetting {
    #[serde(deserialize_with = "present_or_null")]
    now: Option<Timestamp>,
}

/// Query parameters of a control request.
#[derive(Default)]
struct ControlQuery {
    last: Option<usize>,
    ods: Option<OdsCode>,
    keep: Vec<KeptPart>,
}

/// Part of the state that a reset may keep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeptPart {
    Scripts,
    Clock,
    Requests,
}

impl KeptPart {
    fn parse(text: &str) -> Result<Self, ControlError> {
        match text {
            "scripts" => Ok(Self::Scripts),
            "clock" => Ok(Self::Clock),
            "requests" => Ok(Self::Requests),
            _ => Err(bad_request("keep is a list of scripts, clock and requests, with commas")),
        }
    }
}

/// Answers one control request.
pub(super) fn answer(provider: &SimulatedProvider, head: &Parts, body: &[u8]) -> Response<Bytes> {
    let (status, value) = match carry_out(provider, head, body) {
        Ok(value) => (StatusCode::OK, value),
        Err(ControlError(status, sentence)) => (status, json!({ "error": sentence })),
    };
    let mut response = Response::new(value.to_string().into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn carry_out(
    provider: &SimulatedProvider,
    head: &Parts,
    body: &[u8],
) -> Result<Value, ControlError> {
    let path = head.uri.path().strip_prefix(PATH_PREFIX).unwrap_or_default();
    let query = head.uri.query().unwrap_or_default();
    let (section, rest) = path.split_once('/').unwrap_or((path, ""));
    match (head.method.as_str(), section, rest) {
        ("GET", "requests", "") => {
            Ok(requests(provider, &ControlQuery::parse(query, &["last", "ods"], provider)?))
        }
        ("DELETE", "requests", "") => {
            ControlQuery::parse(query, &[], provider)?;
            Ok(json!({ "forgotten": provider.forget() }))
        }
        ("GET", "bookings", "") => {
            Ok(provider.bookings(ControlQuery::parse(query, &["ods"], provider)?.ods.as_ref()))
        }
        ("POST", "reset", "") => {
            reset(provider, &ControlQuery::parse(query, &["ods", "keep"], provider)?)
        }
        ("GET", "clock", "") => Ok(clock(provider)),
        ("PUT", "clock", "") => {
            let now = parse_body::<ClockSetting>(body)?.now;
            if now.is_some_and(|now| !(1972..9000).contains(&day(now).year())) {
                return Err(bad_request("the clock can only be set to the years 1972 to 8999"));
            }
            provider.clock.set(now);
            Ok(clock(provider))
        }
        ("GET", "scripts", "") => Ok(json!(provider.scripts.all())),
        ("PUT", "scripts", ods) if !ods.is_empty() => {
            let ods = practice_code(provider, ods)?;
            provider.scripts.replace(&ods, parse_body::<Vec<Script>>(body)?)?;
            Ok(json!(provider.scripts.all()))
        }
        ("POST", "scripts", ods) if !ods.is_empty() => {
            provider.scripts.add(&practice_code(provider, ods)?, parse_body::<Script>(body)?)?;
            Ok(json!(provider.scripts.all()))
        }
        (_, "requests" | "bookings" | "reset" | "clock", "") | (_, "scripts", _) => {
            let sentence = format!("{path} does not allow the method {}", head.method);
            Err(ControlError(StatusCode::METHOD_NOT_ALLOWED, sentence))
        }
        _ => Err(ControlError(
            StatusCode::NOT_FOUND,
            format!("unknown path {path}; known are requests, bookings, reset, clock and scripts"),
        )),
    }
}

/// Restores the initial state of one practice, or of everything but what is kept.
fn reset(provider: &SimulatedProvider, query: &ControlQuery) -> Result<Value, ControlError> {
    let ods = query.ods.as_ref();
    let kept = |part| query.keep.contains(&part);
    if !kept(KeptPart::Scripts) {
        provider.scripts.remove(ods);
    }
    // The clock and the list of requests are those of all practices.
    if ods.is_none() && !kept(KeptPart::Clock) {
        provider.clock.set(None);
    }
    if ods.is_none() && !kept(KeptPart::Requests) {
        provider.forget();
    }
    let reset = provider.reset(ods, provider.clock.now());
    let fault =
        |why: DiskStoreError| ControlError(StatusCode::INTERNAL_SERVER_ERROR, why.to_string());
    Ok(json!({ "reset": reset.map_err(fault)? }))
}

fn clock(provider: &SimulatedProvider) -> Value {
    json!({ "now": provider.clock.now(), "set": provider.clock.is_set() })
}

fn requests(provider: &SimulatedProvider, query: &ControlQuery) -> Value {
    let mut received = provider.received();
    received.retain(|received| query.ods.is_none() || received.ods == query.ods);
    let first = received.len().saturating_sub(query.last.unwrap_or(received.len()));
    received.iter().skip(first).map(request).collect()
}

fn request(received: &ReceivedRequest) -> Value {
    let headers: Vec<Value> = received
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let mut entry = json!({
        "time": received.at,
        "ods": received.ods,
        "method": received.method.as_str(),
        "target": received.target,
        "headers": headers,
        "status": received.status.map(|status| status.as_u16()),
    });
    let (name, text) = match std::str::from_utf8(&received.body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body-base64", base64_simd::STANDARD.encode_to_string(&received.body)),
    };
    if let Some(fields) = entry.as_object_mut() {
        fields.insert(name.to_owned(), text.into());
    }
    entry
}

impl ControlQuery {
    fn parse(
        query: &str,
        names: &[&str],
        provider: &SimulatedProvider,
    ) -> Result<Self, ControlError> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "ods" if names.contains(&name) => {
                    parsed.ods = Some(practice_code(provider, value)?);
                }
                "last" if names.contains(&name) => {
                    let number = value
                        .parse()
                        .map_err(|_| bad_request("last must be a number of requests"))?;
                    parsed.last = Some(number);
                }
                "keep" if names.contains(&name) => {
                    parsed.keep =
                        value.split(',').map(KeptPart::parse).collect::<Result<_, _>>()?;
                }
                _ => return Err(bad_request(format!("unknown query parameter {name}"))),
            }
        }
        Ok(parsed)
    }
}

/// Parses the code of a simulated practice; fails with 404 if there is no such practice.
fn practice_code(provider: &SimulatedProvider, text: &str) -> Result<OdsCode, ControlError> {
    let ods = OdsCode::from_any_case(text).ok().filter(|ods| provider.has_practice(ods));
    ods.ok_or_else(|| {
        ControlError(
            StatusCode::NOT_FOUND,
            format!("there is no simulated practice with the ODS code {text}"),
        )
    })
}

fn parse_body<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body)
        .map_err(|fault| bad_request(format!("the body is invalid: {fault}")))
}

/// Deserialises a field that must be present but may be null.
fn present_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    Option::deserialize(from)
}

fn bad_request(sentence: impl Into<String>) -> ControlError {
    ControlError(StatusCode::BAD_REQUEST, sentence.into())
}

impl From<FaultWordsError> for ControlError {
    fn from(error: FaultWordsError) -> Self {
        bad_request(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::stage::{BASE, NOW, Stage, booking_of, now};
    use super::*;

    fn call(stage: &Stage, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(format!("{PATH_PREFIX}{path}"));
        let (head, ()) = request.body(()).unwrap().into_parts();
        let response = answer(&stage.provider, &head, body.as_bytes());
        assert_eq!(response.headers()["content-type"], "application/json");
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    #[test]
    fn requests_are_listed_and_forgotten() {
        let stage = Stage::new();
        stage.get("read:metadata-1", "/metadata?n=1");
        stage.elsewhere().get("read:metadata-1", "/metadata");
        let more = [("X-Two", "b"), ("X-One", "a"), ("X-Two", "c")];
        stage.call("create:appointment-1", "/Appointment", &more, b"\xff{");
        let (status, all) = call(&stage, "GET", "requests", "");
        assert_eq!((status, all.as_array().unwrap().len()), (200, 3));
        assert_eq!(all[0]["target"], format!("{BASE}/metadata?n=1"));
        assert_eq!((&all[0]["body"], &all[0]["ods"]), (&json!(""), &json!("A20047")));
        assert_eq!((&all[0]["time"], &all[0]["status"]), (&json!(NOW), &json!(200)));
        let last = call(&stage, "GET", "requests?last=1", "").1;
        assert_eq!(last[0]["body-base64"], "/3s=");
        assert_eq!((&last[0]["method"], &last[0]["status"]), (&json!("POST"), &json!(422)));
        let headers = last[0]["headers"].as_array().unwrap();
        assert!(headers.contains(&json!(["x-two", "c"])), "{headers:?}");
        assert_eq!(headers[0][0], "ssp-traceid");
        let elsewhere = call(&stage, "GET", "requests?ods=b82617&last=9", "").1;
        assert_eq!(elsewhere.as_array().unwrap().len(), 1);
        assert_eq!(call(&stage, "DELETE", "requests", "").1, json!({ "forgotten": 3 }));
        assert_eq!(call(&stage, "GET", "requests", "").1, json!([]));
    }

    #[test]
    fn bookings_are_listed_and_removed_by_a_reset() {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        let booking = booking_of(&[&slot], "1");
        let (_, _, booked) = stage.book(&booking);
        stage.elsewhere().book(&booking);
        let (_, all) = call(&stage, "GET", "bookings", "");
        assert_eq!(all.as_array().unwrap().len(), 2);
        let here = call(&stage, "GET", "bookings?ods=A20047", "").1;
        assert_eq!(here, json!([{ "ods": "A20047", "appointment": booked }]));
        let set = format!(r#"{{"now":"{NOW}"}}"#);
        assert_eq!(call(&stage, "PUT", "clock", &set).0, 200);
        assert_eq!(call(&stage, "POST", "reset?ods=A20047", "").1, json!({ "reset": 1 }));
        assert_eq!(call(&stage, "GET", "bookings?ods=A20047", "").1, json!([]));
        assert_eq!(stage.book(&booking).0, 201);
        assert_eq!(stage.elsewhere().book(&booking).0, 409);
        assert_eq!(call(&stage, "POST", "reset", "").1, json!({ "reset": 2 }));
        assert_eq!(call(&stage, "GET", "bookings", "").1, json!([]));
    }

    #[test]
    fn a_reset_restores_all_but_what_it_keeps() {
        let stage = Stage::new();
        let set = format!(r#"{{"now":"{NOW}"}}"#);
        let state = || {
            let scripts = call(&stage, "GET", "scripts", "").1.as_object().unwrap().len();
            let clock = call(&stage, "GET", "clock", "").1["set"] == true;
            (scripts, clock, call(&stage, "GET", "requests", "").1.as_array().unwrap().len())
        };
        for (reset, left) in [
            ("reset", (0, false, 0)),
            ("reset?keep=scripts,clock,requests", (2, true, 1)),
            ("reset?keep=clock", (0, true, 0)),
            ("reset?ods=A20047", (1, true, 1)),
            ("reset?ods=A20047&keep=scripts", (2, true, 1)),
        ] {
            assert_eq!(call(&stage, "POST", "reset", "").0, 200);
            assert_eq!(call(&stage, "PUT", "clock", &set).0, 200);
            for ods in ["A20047", "B82617"] {
                let script = r#"{"times": 1, "share": "10%", "faults": "stall"}"#;
                assert_eq!(call(&stage, "POST", &format!("scripts/{ods}"), script).0, 200);
            }
            stage.get("read:metadata-1", "/metadata");
            assert_eq!(call(&stage, "POST", reset, "").0, 200, "{reset}");
            assert_eq!(state(), left, "{reset}");
        }
        assert_eq!(call(&stage, "POST", "reset?keep=everything", "").0, 400);
    }

    #[test]
    fn the_clock_is_set_and_restored() {
        let stage = Stage::new();
        assert_eq!(call(&stage, "GET", "clock", "").1["set"], false);
        let (status, set) = call(&stage, "PUT", "clock", &format!(r#"{{"now":"{NOW}"}}"#));
        let read: Timestamp = set["now"].as_str().unwrap().parse().unwrap();
        assert!(status == 200 && set["set"] == true && read >= now());
        for bad in ["", "{}", r#"{"now":"soon"}"#, r#"{"now":null,"then":1}"#] {
            let (status, response) = call(&stage, "PUT", "clock", bad);
            assert!(status == 400 && response["error"].is_string(), "{bad}: {response}");
        }
        assert_eq!(call(&stage, "GET", "clock", "").1["set"], true);
        assert_eq!(call(&stage, "PUT", "clock", r#"{"now":null}"#).1["set"], false);
    }

    #[test]
    fn scripts_are_set_listed_and_removed() {
        let stage = Stage::new();
        assert_eq!(call(&stage, "GET", "scripts", "").1, json!({}));
        let scripts = r#"[{"share":10,"methods":["POST"],"faults":"stall"}]"#;
        let (status, response) = call(&stage, "PUT", "scripts/a20047", scripts);
        assert_eq!((status, &response["A20047"][0]["faults"]), (200, &json!("stall")));
        assert_eq!(call(&stage, "GET", "scripts", "").1, response);
        assert_eq!(call(&stage, "PUT", "scripts/Z99999", scripts).0, 404);
        for bad in
            [r#"[{"share":10,"faults":"slow"}]"#, r#"[{"share":101,"faults":"stall"}]"#, "{}"]
        {
            let (status, response) = call(&stage, "PUT", "scripts/A20047", bad);
            assert!(status == 400 && response["error"].is_string(), "{bad}: {response}");
        }
        assert_eq!(call(&stage, "GET", "scripts", "").1, response);
        assert_eq!(call(&stage, "PUT", "scripts/A20047", "[]"), (200, json!({})));
    }

    #[test]
    fn an_invalid_request_is_refused_with_an_explanation() {
        let stage = Stage::new();
        for (method, path, expected) in [
            ("GET", "", 404),
            ("GET", "elsewhere", 404),
            ("GET", "requests/1", 404),
            ("PATCH", "requests", 405),
            ("POST", "clock", 405),
            ("PUT", "scripts", 405),
            ("GET", "requests?ods=Z99999", 404),
            ("GET", "requests?last=-1", 400),
            ("GET", "bookings?last=1", 400),
            ("DELETE", "requests?ods=A20047", 400),
            ("POST", "reset?ods=", 404),
        ] {
            let (status, response) = call(&stage, method, path, "");
            assert_eq!(status, expected, "{method} {path}: {response}");
            assert!(response["error"].is_string());
        }
    }
}
