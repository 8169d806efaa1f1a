//! Control interface of the simulator, every operation of it, judged by its description in `OpenAPI`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use gpconnect_simulator::{ServeOptions, SimulatedPractice, SimulatedProvider};
use serde_json::{Value, json};
use testkit::disk::FaultyDisk;
use testkit::raw_connection::{Message, RawConnection};
use testkit::{report_missing, repository};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::{ASID, BASE, Simulated, booking, reserved, say, with_store};
use crate::openapi::control::description;

/// Bytes beyond the limit of a body.
const TOO_LONG: usize = 1024 * 1024 + 1;
const CREATE: &str = "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1";

/// The description, and what was seen of the operations in it.
struct Judge {
    description: Value,
    /// Operations and statuses that were seen, as `GET /clock 200`.
    seen: BTreeSet<String>,
    /// Values with their schemas, for the validator.
    cases: Vec<Value>,
}

/// A simulator's control interface, called over the network.
struct ControlClient<'a> {
    address: SocketAddr,
    judge: &'a mut Judge,
}

impl Judge {
    fn new() -> Self {
        let mut judge =
            Self { description: description(), seen: BTreeSet::new(), cases: Vec::new() };
        let schemas = judge.description["components"]["schemas"].as_object().unwrap().clone();
        for (name, schema) in &schemas {
            for example in schema["examples"].as_array().into_iter().flatten() {
                judge.add(&format!("example of {name}"), schema, example, true);
            }
        }
        // The validator knows formats, and required members.
        for invalid in [json!({ "now": "soon", "set": true }), json!({ "set": true }), json!([])] {
            judge.add("an invalid clock", &schemas["ClockReading"], &invalid, false);
        }
        judge
    }

    fn add(&mut self, name: &str, schema: &Value, value: &Value, valid: bool) {
        self.cases.push(json!({ "name": name, "schema": schema, "value": value, "valid": valid }));
    }

    /// Returns the path of the description that a path belongs to, with its operations by method.
    fn path(&self, path: &str) -> Option<(String, Value)> {
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let sent = parts(path);
        let is_same = |known: &str| {
            let known = parts(known);
            known.len() == sent.len()
                && known.iter().zip(&sent).all(|(known, sent)| known == "{ods}" || known == sent)
        };
        let mut all = self.description["paths"].as_object().unwrap().iter();
        all.find(|(known, _)| is_same(known)).map(|(known, item)| (known.clone(), item.clone()))
    }

    /// Finds the schema of an answer, and notes the answer.
    fn note(&mut self, method: &str, target: &str, status: u16, answer: &Value) {
        let name = format!("{method} {target} {status}");
        let path = target.split('?').next().unwrap();
        let fault = json!({ "$ref": "#/components/schemas/ControlFault" });
        let Some((known, item)) = self.path(path) else {
            assert_eq!(status, 404, "{name}: {answer}");
            return self.add(&name, &fault, answer, true);
        };
        let operation = &item[method.to_lowercase()];
        if operation.is_null() {
            assert_eq!(status, 405, "{name}: {answer}");
            return self.add(&name, &fault, answer, true);
        }
        let mut response = &operation["responses"][status.to_string()];
        assert!(!response.is_null(), "{name} is not in the description: {answer}");
        if let Some(reference) = response["$ref"].as_str() {
            response = self.description.pointer(reference.trim_start_matches('#')).unwrap();
        }
        let schema = response["content"]["application/json"]["schema"].clone();
        assert!(schema.is_object(), "{name}");
        self.seen.insert(format!("{method} {known} {status}"));
        self.add(&name, &schema, answer, true);
    }

    /// Notes a body that was sent, which the description allows or forbids.
    fn note_sent(&mut self, method: &str, target: &str, body: &Value, valid: bool) {
        let (_, item) = self.path(target).unwrap();
        let body_of = &item[method.to_lowercase()]["requestBody"];
        let schema = body_of["content"]["application/json"]["schema"].clone();
        self.add(&format!("body of {method} {target}"), &schema, body, valid);
    }

    /// Every operation with each of its statuses.
    fn described(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for (path, item) in self.description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    all.insert(format!("{} {path} {status}", method.to_uppercase()));
                }
            }
        }
        all
    }

    /// Validates all values by an independent implementation of JSON Schema.
    fn validate(&self) {
        let python = repository::root().join("target/openapi/bin/python");
        if !python.exists() {
            return report_missing("jsonschema of Python (.ci/run installs it)");
        }
        let mut validator = Command::new(python)
            .args(["-c", include_str!("control.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let given = json!({ "components": self.description["components"], "cases": self.cases });
        validator.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
        let output = validator.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

impl ControlClient<'_> {
    /// Sends a request whose head ends with `headers`, and returns the final answer.
    async fn send(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Message {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut connection = RawConnection::new(stream);
        let head = format!(
            "{method} /_simulator{target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        connection.stream.write_all(head.as_bytes()).await.unwrap();
        connection.stream.write_all(body).await.unwrap();
        let mut answer = connection.head().await.unwrap();
        if answer.start.starts_with("HTTP/1.1 100 ") {
            // The simulator waits for the body, and now until its time is over.
            tokio::time::pause();
            answer = connection.head().await.unwrap();
            tokio::time::resume();
        }
        connection.body(&mut answer, false).await;
        answer
    }

    fn judge(&mut self, method: &str, target: &str, answer: &Message) -> (u16, Value) {
        assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {target}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {target}");
        let status = answer.start.split(' ').nth(1).unwrap().parse().unwrap();
        let value = serde_json::from_slice(&answer.body).unwrap();
        self.judge.note(method, target, status, &value);
        (status, value)
    }

    async fn call(&mut self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let length = format!("Content-Length: {}\r\n", body.len());
        let answer = self.send(method, target, &length, body.as_bytes()).await;
        self.judge(method, target, &answer)
    }

    /// Calls an operation, and asserts its status.
    async fn expect(&mut self, status: u16, method: &str, target: &str, body: &str) -> Value {
        let (answered, value) = self.call(method, target, body).await;
        assert_eq!(answered, status, "{method} {target} {body}: {value}");
        value
    }

    /// Sends a JSON body that the description allows and that is accepted.
    async fn accepts(&mut self, method: &str, target: &str, body: &Value) -> Value {
        self.judge.note_sent(method, target, body, true);
        self.expect(200, method, target, &body.to_string()).await
    }

    /// Sends a JSON body that is refused, also by the description if it is `described`.
    async fn refuses(&mut self, method: &str, target: &str, body: &Value, described: bool) {
        if described {
            self.judge.note_sent(method, target, body, false);
        }
        self.expect(400, method, target, &body.to_string()).await;
    }
}

/// Starts a simulator of two practices in this process.
async fn start() -> SocketAddr {
    let practice = |ods: &str, base: &str| {
        SimulatedPractice::new(ods.parse().unwrap(), ASID.parse().unwrap(), "A practice", base)
    };
    let practices = vec![practice("A20047", BASE), practice("B82617", "/B82617/STU3/1/gpconnect")];
    let provider = Arc::new(SimulatedProvider::new(practices, jiff::Timestamp::now()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(provider.serve(listener, ServeOptions::default(), std::future::pending()));
    address
}

/// Sends the practices requests of every kind that a list shows, and books an appointment.
async fn use_practices(address: SocketAddr) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let until = today.saturating_add(jiff::Span::new().days(13));
    let search =
        format!("GET {BASE}/Slot?status=free&start=ge{today}&end=le{until}&_include=Slot:schedule");
    let (status, found) = say(address.port(), &search, "").await.unwrap();
    assert_eq!(status, 200, "{found}");
    let slots = found["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]);
    let slot = slots.clone().find(|one| one["schedule"]["reference"] == "Schedule/1").unwrap();
    let body = booking(slot, 1).to_string();
    let booked = say(address.port(), &format!("POST {BASE}/Appointment"), &body).await.unwrap();
    assert_eq!(booked.0, 201, "{}", booked.1);
    // No practice; bytes that are not text, in the header and in the body; no answer.
    let requests: [&[u8]; 3] = [
        b"GET /elsewhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /B82617/STU3/1/gpconnect/Appointment HTTP/1.1\r\nHost: x\r\nX-Bytes: \xff\r\n\
          Connection: close\r\nContent-Length: 2\r\n\r\n\xff{",
        b"GET /elsewhere HTTP/1.1\r\nHost: x\r\nX-Simulate: reset\r\n\r\n",
    ];
    for request in requests {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        // The last of them is reset.
        let mut connection = RawConnection::new(stream);
        while connection.read_more().await {}
    }
}

async fn lists(control: &mut ControlClient<'_>) {
    use_practices(control.address).await;
    let all = control.expect(200, "GET", "/requests", "").await;
    let all = all.as_array().unwrap();
    let statuses: Vec<_> = all.iter().map(|one| one["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(200), Some(201), Some(404), Some(400), None]);
    assert_eq!((&all[0]["ods"], &all[2]["ods"]), (&json!("A20047"), &Value::Null));
    assert!(all[1]["body"].is_string() && all[1]["body-base64"].is_null());
    assert_eq!((&all[3]["body-base64"], &all[3]["body"]), (&json!("/3s="), &Value::Null));
    for (query, count) in [
        ("last=0", 0),
        ("last=2", 2),
        (&format!("last={}", usize::MAX), 5),
        ("ods=A20047", 2),
        ("ods=b82617&last=9", 1),
        ("last=1&ods=a20047", 1),
        ("l%61st=%31", 1),
    ] {
        let listed = control.expect(200, "GET", &format!("/requests?{query}"), "").await;
        assert_eq!(listed.as_array().unwrap().len(), count, "{query}");
    }
    for (query, count) in [("", 1), ("?ods=a20047", 1), ("?ods=B82617", 0)] {
        let listed = control.expect(200, "GET", &format!("/bookings{query}"), "").await;
        assert_eq!(listed.as_array().unwrap().len(), count, "{query}");
    }
    let forgotten = control.expect(200, "DELETE", "/requests", "").await;
    assert_eq!(forgotten, json!({ "forgotten": 5 }));
}

async fn sets_the_clock(control: &mut ControlClient<'_>) {
    assert_eq!(control.expect(200, "GET", "/clock", "").await["set"], false);
    for now in ["2026-03-25T10:30:00Z", "1972-01-02T00:00:00.5+00:00", "8999-06-01T12:00:00+01:00"]
    {
        assert_eq!(control.accepts("PUT", "/clock", &json!({ "now": now })).await["set"], true);
    }
    assert_eq!(control.accepts("PUT", "/clock", &json!({ "now": null })).await["set"], false);
    for body in [
        json!({}),
        json!([]),
        json!({ "now": 5 }),
        json!({ "now": "soon" }),
        json!({ "now": null, "then": 1 }),
    ] {
        control.refuses("PUT", "/clock", &body, true).await;
    }
    for out_of_range in ["1971-12-31T00:00:00Z", "9000-06-01T00:00:00Z"] {
        control.refuses("PUT", "/clock", &json!({ "now": out_of_range }), false).await;
    }
}

async fn sets_scripts(control: &mut ControlClient<'_>) {
    let whole = json!({
        "share": "10%", "times": 4_294_967_295_u32, "methods": ["POST", "PUT"], "interactions": [CREATE],
        "faults": "delay=2s; stall-after",
    });
    let least = json!({ "faults": "none" });
    for script in [&whole, &least, &json!({ "share": 0, "times": null, "faults": "stall" })] {
        control.accepts("POST", "/scripts/a20047", script).await;
    }
    let set = control.expect(200, "GET", "/scripts", "").await;
    let of_practice = set["A20047"].as_array().unwrap();
    assert_eq!((of_practice.len(), &of_practice[2]["share"]), (3, &json!(10)));
    let invalid = [
        (json!({}), true),
        (json!([]), true),
        (json!({ "faults": 1 }), true),
        (json!({ "faults": "x".repeat(1025) }), true),
        (json!({ "faults": "slow" }), false),
        (json!({ "faults": "stall; reset" }), false),
        (json!({ "faults": "stall", "method": "POST" }), true),
        (json!({ "faults": "stall", "share": 101 }), true),
        (json!({ "faults": "stall", "share": -1 }), true),
        (json!({ "faults": "stall", "share": "101%" }), true),
        (json!({ "faults": "stall", "share": "10" }), true),
        (json!({ "faults": "stall", "times": 0 }), true),
        (json!({ "faults": "stall", "times": 4_294_967_296_u64 }), false),
        (json!({ "faults": "stall", "methods": ["post"] }), true),
        (json!({ "faults": "stall", "methods": vec!["GET"; 11] }), true),
        (json!({ "faults": "stall", "interactions": "x" }), true),
        (json!({ "faults": "stall", "interactions": ["urn:x"] }), false),
        (json!({ "faults": "stall", "interactions": vec![CREATE; 101] }), true),
    ];
    for (script, described) in invalid {
        control.refuses("POST", "/scripts/A20047", &script, described).await;
        control.refuses("PUT", "/scripts/A20047", &json!([least, script]), described).await;
    }
    control.refuses("PUT", "/scripts/A20047", &json!(vec![&least; 21]), true).await;
    assert_eq!(control.expect(200, "GET", "/scripts", "").await, set, "a refusal changes nothing");
    control.accepts("PUT", "/scripts/B82617", &json!(vec![&least; 20])).await;
    control.refuses("POST", "/scripts/B82617", &least, false).await;
    control.accepts("PUT", "/scripts/A20047", &json!([whole, least])).await;
    let left = control.accepts("PUT", "/scripts/B82617", &json!([])).await;
    assert_eq!(left.as_object().unwrap().keys().collect::<Vec<_>>(), ["A20047"]);
}

async fn resets(control: &mut ControlClient<'_>) {
    for keep in ["scripts", "clock", "requests", "scripts,clock", "scripts%2Cclock,requests"] {
        let reset = control.expect(200, "POST", &format!("/reset?keep={keep}"), "").await;
        assert_eq!(reset, json!({ "reset": 2 }), "{keep}");
    }
    let reset = control.expect(200, "POST", "/reset?ods=a20047&keep=scripts", "").await;
    assert_eq!(reset, json!({ "reset": 1 }));
    assert_eq!(control.expect(200, "GET", "/scripts", "").await, json!({}));
    control.expect(200, "POST", "/reset", "").await;
    assert_eq!(control.expect(200, "GET", "/bookings", "").await, json!([]));
}

/// Calls every operation wrongly, in each way that does not depend on it.
async fn refuses_invalid_requests(control: &mut ControlClient<'_>) {
    let described = control.judge.described();
    let operations = described.iter().filter_map(|operation| operation.strip_suffix(" 200"));
    for operation in operations {
        let (method, path) = operation.split_once(' ').unwrap();
        let target = path.replace("{ods}", "A20047");
        for query in ["next=1", "next", "last=%2"] {
            control.expect(400, method, &format!("{target}?{query}"), "{}").await;
        }
        let length = format!("Content-Length: {TOO_LONG}\r\n");
        let answer = control.send(method, &target, &length, &[b' '; TOO_LONG]).await;
        assert_eq!(control.judge(method, &target, &answer).0, 413);
        let waits = "Content-Length: 9\r\nExpect: 100-continue\r\n";
        let answer = control.send(method, &target, waits, b"").await;
        assert_eq!(control.judge(method, &target, &answer).0, 408);
    }
    for body in ["", "{", "null", "{}", "\"\"", "[1]", "\u{1}", "{\"now\": null} {}"] {
        for (method, target) in
            [("PUT", "/clock"), ("PUT", "/scripts/A20047"), ("POST", "/scripts/A20047")]
        {
            control.expect(400, method, target, body).await;
        }
    }
    for last in ["-1", "1.5", "x", "", "18446744073709551616"] {
        control.expect(400, "GET", &format!("/requests?last={last}"), "").await;
    }
    for query in ["last=1&last=1", "keep=clock", "ods=A20047&ods=A20047"] {
        control.expect(400, "GET", &format!("/requests?{query}"), "").await;
    }
    for keep in ["", "everything", "scripts,", "Scripts", "clock&keep=scripts"] {
        control.expect(400, "POST", &format!("/reset?keep={keep}"), "").await;
    }
    for ods in ["Z99999", "", "A2", "%C3%A9", "9990000018"] {
        for (method, target) in
            [("GET", "/requests?ods="), ("GET", "/bookings?ods="), ("POST", "/reset?ods=")]
        {
            control.expect(404, method, &format!("{target}{ods}"), "").await;
        }
    }
    for method in ["PUT", "POST"] {
        control.expect(404, method, "/scripts/Z99999", "[]").await;
    }
    assert_eq!(
        control.expect(200, "GET", "/requests", "").await,
        json!([]),
        "none of these is a practice's"
    );
}

async fn refuses_paths_and_methods_that_it_does_not_have(control: &mut ControlClient<'_>) {
    for path in ["/", "/elsewhere", "/requests/1", "/clock/now", "/Requests", "/scripts/A20047/1"] {
        for method in ["GET", "PUT", "PATCH"] {
            let (status, _) = control.call(method, path, "").await;
            assert_eq!(status, 404, "{method} {path}");
        }
    }
    let paths = control.judge.description["paths"].as_object().unwrap().clone();
    for (path, item) in &paths {
        let target = path.replace("{ods}", "A20047");
        let operations = item.as_object().unwrap();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY"] {
            if operations.contains_key(&method.to_lowercase()) {
                continue;
            }
            let answer = control.send(method, &target, "", b"").await;
            assert_eq!(control.judge(method, &target, &answer).0, 405);
            let allowed = answer.header("allow").unwrap().split(", ").map(str::to_lowercase);
            assert_eq!(allowed.collect::<BTreeSet<_>>(), operations.keys().cloned().collect());
        }
    }
}

/// Resets a simulator whose disk fails; returns false if the disk cannot be made to fail here.
async fn cannot_reset_without_a_disk(judge: &mut Judge) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = FaultyDisk::new(folder.path().join("disk")) else { return false };
    let (_reserved, port) = reserved();
    let config = with_store(folder.path(), port);
    let _simulated = Simulated::start_by(disk.command(), &config, 1);
    let mut control = ControlClient { address: ([127, 0, 0, 1], port).into(), judge };
    control.expect(200, "POST", "/reset", "").await;
    disk.set_fault("eio");
    control.expect(500, "POST", "/reset", "").await;
    true
}

#[tokio::test]
async fn every_answer_of_the_control_interface_is_as_its_description_says() {
    let mut judge = Judge::new();
    let mut control = ControlClient { address: start().await, judge: &mut judge };
    lists(&mut control).await;
    sets_the_clock(&mut control).await;
    sets_scripts(&mut control).await;
    resets(&mut control).await;
    refuses_invalid_requests(&mut control).await;
    refuses_paths_and_methods_that_it_does_not_have(&mut control).await;
    let mut described = judge.described();
    if !cannot_reset_without_a_disk(&mut judge).await {
        described.remove("POST /reset 500");
    }
    assert_eq!(judge.seen, described, "operations and statuses, seen and described");
    judge.validate();
}
