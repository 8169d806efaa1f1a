//! Control interface of a running simulator: JSON under `/_simulator/`.
//!
//! [`control_routes`] is the table of its operations. Requests are dispatched by it, and
//! `docs/test/simulator-openapi.json` is generated from it.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::Value;

use super::faults::FaultWordsError;
use super::scripts::{Script, ScriptsByPractice};
use super::{BookedAppointment, DiskStoreError, SimulatedProvider, day};
use messages::{
    ClockReading, ClockSetting, ForgottenRequests, KeptPart, ListedRequest, PracticeScripts,
    ResetPractices,
};
use spine_types::OdsCode;

mod messages;
mod route;

pub use messages::{ControlFault, ControlParameters};
pub use route::ControlRoute;

/// Path prefix of every control request.
pub(super) const PATH_PREFIX: &str = "/_simulator/";

/// Returns true if requests to a practice at this base path would reach the control interface instead.
#[must_use]
pub fn is_control_path(base_path: &str) -> bool {
    format!("{base_path}/").starts_with(PATH_PREFIX)
}

/// Refusal of a control request.
#[derive(Debug)]
pub(super) struct ControlError {
    status: StatusCode,
    sentence: String,
    /// Methods that the path allows, if that is what the request got wrong.
    allow: Option<HeaderValue>,
}

/// Returns every operation of the control interface.
#[must_use]
pub fn control_routes() -> Vec<ControlRoute> {
    vec![
        ControlRoute::new("listRequests", Method::GET, "requests", list_requests)
            .takes(&["last", "ods"])
            .does("Returns the requests that arrived, oldest first: at most 100, with at most 8 MiB of bodies."),
        ControlRoute::new("forgetRequests", Method::DELETE, "requests", forget_requests)
            .does("Forgets the requests that arrived."),
        ControlRoute::new("listBookings", Method::GET, "bookings", list_bookings)
            .takes(&["ods"])
            .does("Returns every appointment, whatever its state."),
        ControlRoute::new("reset", Method::POST, "reset", reset).takes(&["ods", "keep"]).does(
            "Restores the initial data, removes scripts, sets the real time and forgets requests, except what `keep` \
             names. With `ods`, restores one practice and removes its scripts, and leaves the clock and the requests.",
        ),
        ControlRoute::new("getClock", Method::GET, "clock", get_clock)
            .does("Returns the time of the practices' clock."),
        ControlRoute::with_body("setClock", Method::PUT, "clock", set_clock).does(
            "Sets the practices' clock, which runs on from there. The days that are then within the booking period get \
             slots too. Tokens are always checked against the real clock.",
        ),
        ControlRoute::new("listScripts", Method::GET, "scripts", list_scripts)
            .does("Returns the scripts of every practice that has any."),
        ControlRoute::with_body("replaceScripts", Method::PUT, "scripts/{ods}", replace_scripts)
            .does("Replaces the scripts of a practice; an empty list removes them. Returns the scripts of every practice."),
        ControlRoute::with_body("addScript", Method::POST, "scripts/{ods}", add_script)
            .does("Puts a script before those of a practice. Returns the scripts of every practice."),
    ]
}

/// Answers one control request.
pub(super) fn answer(provider: &SimulatedProvider, head: &Parts, body: &[u8]) -> Response<Bytes> {
    match carry_out(provider, head, body) {
        Ok(value) => json_response(&value),
        Err(error) => error.into_response(),
    }
}

fn carry_out(
    provider: &SimulatedProvider,
    head: &Parts,
    body: &[u8],
) -> Result<Value, ControlError> {
    let path = head.uri.path().strip_prefix(PATH_PREFIX).unwrap_or_default();
    let path = path.strip_suffix('/').unwrap_or(path);
    let routes = control_routes();
    let of_path: Vec<_> =
        routes.iter().filter_map(|route| Some((route, route.ods_in(path)?))).collect();
    let Some((route, ods)) = of_path.iter().find(|(route, _)| route.method == head.method) else {
        return Err(match of_path.as_slice() {
            [] => unknown_path(path, &routes),
            some => method_not_allowed(path, head, some.iter().map(|(route, _)| *route)),
        });
    };
    let mut parameters = ControlParameters::parse(head, route.query, provider)?;
    if !ods.is_empty() {
        parameters.ods = Some(practice_code(provider, ods)?);
    }
    route.perform(provider, &parameters, body)
}

fn unknown_path(path: &str, routes: &[ControlRoute]) -> ControlError {
    let mut known: Vec<_> = routes.iter().map(|route| route.path).collect();
    known.dedup();
    let sentence = format!("unknown path {path}; known are {}", known.join(", "));
    ControlError::new(StatusCode::NOT_FOUND, sentence)
}

fn method_not_allowed<'a>(
    path: &str,
    head: &Parts,
    routes: impl Iterator<Item = &'a ControlRoute>,
) -> ControlError {
    let sentence = format!("{path} does not allow the method {}", head.method);
    let methods: Vec<_> = routes.map(|route| route.method.as_str()).collect();
    let allow = HeaderValue::from_str(&methods.join(", ")).ok();
    ControlError { allow, ..ControlError::new(StatusCode::METHOD_NOT_ALLOWED, sentence) }
}

fn list_requests(
    provider: &SimulatedProvider,
    parameters: &ControlParameters,
) -> Result<Vec<ListedRequest>, ControlError> {
    let mut received = provider.received();
    received.retain(|received| parameters.ods.is_none() || received.ods == parameters.ods);
    let first = received.len().saturating_sub(parameters.last.unwrap_or(received.len()));
    Ok(received.iter().skip(first).map(ListedRequest::from).collect())
}

fn forget_requests(
    provider: &SimulatedProvider,
    _: &ControlParameters,
) -> Result<ForgottenRequests, ControlError> {
    Ok(ForgottenRequests { forgotten: provider.forget() })
}

fn list_bookings(
    provider: &SimulatedProvider,
    parameters: &ControlParameters,
) -> Result<Vec<BookedAppointment>, ControlError> {
    Ok(provider.bookings(parameters.ods.as_ref()))
}

/// Restores the initial state of one practice, or of everything but what is kept.
fn reset(
    provider: &SimulatedProvider,
    parameters: &ControlParameters,
) -> Result<ResetPractices, ControlError> {
    let ods = parameters.ods.as_ref();
    let kept = |part| parameters.keep.contains(&part);
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
    Ok(ResetPractices { reset: provider.reset(ods, provider.clock.now())? })
}

fn get_clock(
    provider: &SimulatedProvider,
    _: &ControlParameters,
) -> Result<ClockReading, ControlError> {
    Ok(ClockReading { now: provider.clock.now(), set: provider.clock.is_set() })
}

fn set_clock(
    provider: &SimulatedProvider,
    parameters: &ControlParameters,
    setting: ClockSetting,
) -> Result<ClockReading, ControlError> {
    if setting.now.is_some_and(|now| !(1972..9000).contains(&day(now).year())) {
        return Err(bad_request("the clock can only be set to the years 1972 to 8999"));
    }
    provider.clock.set(setting.now);
    get_clock(provider, parameters)
}

fn list_scripts(
    provider: &SimulatedProvider,
    _: &ControlParameters,
) -> Result<ScriptsByPractice, ControlError> {
    Ok(provider.scripts.all())
}

fn replace_scripts(
    provider: &SimulatedProvider,
    parameters: &ControlParameters,
    scripts: PracticeScripts,
) -> Result<ScriptsByPractice, ControlError> {
    provider.scripts.replace(parameters.practice()?, scripts.0)?;
    Ok(provider.scripts.all())
}

fn add_script(
    provider: &SimulatedProvider,
    parameters: &ControlParameters,
    script: Script,
) -> Result<ScriptsByPractice, ControlError> {
    provider.scripts.add(parameters.practice()?, script)?;
    Ok(provider.scripts.all())
}

/// Parses the code of a simulated practice; fails with 404 if there is no such practice.
fn practice_code(provider: &SimulatedProvider, text: &str) -> Result<OdsCode, ControlError> {
    let ods = OdsCode::from_any_case(text).ok().filter(|ods| provider.has_practice(ods));
    ods.ok_or_else(|| {
        let sentence = format!("there is no simulated practice with the ODS code {text}");
        ControlError::new(StatusCode::NOT_FOUND, sentence)
    })
}

fn json_response(value: &Value) -> Response<Bytes> {
    let mut response = Response::new(value.to_string().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn bad_request(sentence: impl Into<String>) -> ControlError {
    ControlError::new(StatusCode::BAD_REQUEST, sentence)
}

impl ControlError {
    pub(super) fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into(), allow: None }
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let fault = ControlFault { error: self.sentence };
        let mut response = json_response(&serde_json::to_value(fault).unwrap_or_default());
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.allow.map(|allow| (ALLOW, allow)));
        response
    }
}

impl From<FaultWordsError> for ControlError {
    fn from(error: FaultWordsError) -> Self {
        bad_request(error.to_string())
    }
}

impl From<DiskStoreError> for ControlError {
    fn from(error: DiskStoreError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use jiff::Timestamp;
    use serde_json::json;

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

    /// Number of practices with scripts, of requests and of bookings, and whether the clock is set.
    fn state(stage: &Stage) -> (usize, usize, usize, bool) {
        let listed = |path| call(stage, "GET", path, "").1.as_array().unwrap().len();
        let scripts = call(stage, "GET", "scripts", "").1.as_object().unwrap().len();
        let clock = call(stage, "GET", "clock", "").1["set"] == true;
        (scripts, listed("requests"), listed("bookings"), clock)
    }

    /// Returns a stage with a script and a booking at both practices, three requests, and a clock that is set.
    fn used_stage() -> Stage {
        let stage = Stage::new();
        let set = format!(r#"{{"now":"{NOW}"}}"#);
        assert_eq!(call(&stage, "PUT", "clock", &set).0, 200);
        let booking = booking_of(&[&stage.free_slots()[0]], "1");
        for (stage, ods) in [(&stage, "A20047"), (&stage.elsewhere(), "B82617")] {
            let script = r#"{"times": 1, "share": "10%", "faults": "stall"}"#;
            assert_eq!(call(stage, "POST", &format!("scripts/{ods}"), script).0, 200);
            assert_eq!(stage.book(&booking).0, 201);
        }
        assert_eq!(state(&stage), (2, 3, 2, true));
        stage
    }

    #[test]
    fn a_reset_restores_all_but_what_it_keeps() {
        for (kept, scripts, requests, clock) in [
            ("", 0, 0, false),
            ("keep=scripts", 2, 0, false),
            ("keep=clock", 0, 0, true),
            ("keep=requests", 0, 3, false),
            ("keep=scripts,clock", 2, 0, true),
            ("keep=requests,scripts", 2, 3, false),
            ("keep=clock,requests", 0, 3, true),
            ("keep=scripts,clock,requests", 2, 3, true),
            ("keep=clock%2Cscripts,clock", 2, 0, true),
        ] {
            let stage = used_stage();
            let reset = call(&stage, "POST", &format!("reset?{kept}"), "");
            assert_eq!(reset, (200, json!({ "reset": 2 })), "{kept}");
            assert_eq!(state(&stage), (scripts, requests, 0, clock), "{kept}");
            // The clock and the requests of all practices stay when one of them is reset.
            let stage = used_stage();
            let reset = call(&stage, "POST", &format!("reset?ods=A20047&{kept}"), "");
            assert_eq!(reset, (200, json!({ "reset": 1 })), "{kept}");
            assert_eq!(state(&stage), (1 + scripts / 2, 3, 1, true), "{kept}");
        }
        let stage = used_stage();
        for invalid in
            ["keep=everything", "keep=", "keep", "keep=scripts,", "keep=clock&keep=scripts"]
        {
            assert_eq!(call(&stage, "POST", &format!("reset?{invalid}"), "").0, 400, "{invalid}");
        }
        assert_eq!(state(&stage), (2, 3, 2, true));
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
            ("GET", "clock?ods=A20047", 400),
            ("GET", "requests?last=%2", 400),
            ("GET", "requests?last=1&last=2", 400),
        ] {
            let (status, response) = call(&stage, method, path, "");
            assert_eq!(status, expected, "{method} {path}: {response}");
            assert!(response["error"].is_string());
        }
    }
}
