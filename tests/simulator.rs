//! The provider simulator as a program: its output, and the state that it keeps.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use spine_proxy::claims;
use spine_types::interaction;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

mod control;

const PROGRAM: &str = env!("CARGO_BIN_EXE_spine-proxy");
const BASE: &str = "/A20047/STU3/1/gpconnect";
const ASID: &str = "918999198993";
const CONSUMERS: usize = 50;
const SLOTS: usize = 20;
/// Bookings that are heard of before the simulator is killed.
const BEFORE: usize = 7;

/// The program, and what it said before it answered anybody.
struct Simulated {
    process: Child,
    said: Vec<String>,
}

impl Simulated {
    fn start(config: &Path, lines: usize) -> Self {
        Self::start_by(Command::new(PROGRAM), config, lines)
    }

    /// Starts the program by a command for it.
    fn start_by(mut program: Command, config: &Path, lines: usize) -> Self {
        let mut process = program
            .args(["simulate", "provider", "--config"])
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let told = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = told.take(lines).map(Result::unwrap).collect();
        Self { process, said }
    }
}

impl Drop for Simulated {
    /// Ends it by SIGKILL, without any cleanup.
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A port that stays reserved.
fn reserved() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// Writes the configuration of a simulator with a store, and returns its path.
fn with_store(folder: &Path, port: u16) -> PathBuf {
    let config = folder.join("simulator.toml");
    let text = format!(
        "address = \"127.0.0.1:{port}\"\nstore = \"provider.redb\"\n[[practice]]\nods = \"A20047\"\n\
         asid = \"{ASID}\"\nname = \"Harbour Street Surgery\"\nbase-path = \"{BASE}\"\n"
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// Returns an answer, or `None` if the connection failed before a complete one.
async fn say(port: u16, head: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let length = body.len();
    let text = format!(
        "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    let id = match head.split_once(' ')? {
        ("POST", _) => "urn:nhs:names:services:gpconnect:fhir:rest:create:appointment-1",
        _ => "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1",
    };
    let scope = interaction::by_id(id)?.scope;
    let now_s = jiff::Timestamp::now().as_second();
    let root = format!("http://127.0.0.1:{port}{BASE}");
    let token = claims::mint(&claims::example_claims(&root, &"A00001".parse().ok()?, scope, now_s));
    let headers = format!(
        "Ssp-TraceID: t\r\nSsp-From: 200000000359\r\nSsp-To: {ASID}\r\nSsp-InteractionID: {id}\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/fhir+json\r\n\r\n"
    );
    stream.write_all(format!("{text}{headers}{body}").as_bytes()).await.ok()?;
    let mut told = Vec::new();
    stream.read_to_end(&mut told).await.ok()?;
    let told = String::from_utf8(told).ok()?;
    let (head, body) = told.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

async fn bookings(port: u16) -> Option<Vec<Value>> {
    let (_, all) = say(port, "GET /_simulator/bookings", "").await?;
    let all = all.as_array()?.iter();
    Some(all.map(|booking| booking["appointment"].clone()).collect())
}

fn booking(slot: &Value, consumer: usize) -> Value {
    let profile = |name: &str| format!("https://fhir.nhs.uk/STU3/StructureDefinition/{name}");
    json!({
        "resourceType": "Appointment",
        "meta": { "profile": [profile("GPConnect-Appointment-1")] },
        "contained": [{
            "resourceType": "Organization",
            "id": "1",
            "meta": { "profile": [profile("CareConnect-GPC-Organization-1")] },
            "identifier": [{
                "system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": "A00001",
            }],
            "name": "Hub",
            "telecom": [{ "system": "phone", "value": "0300 000 0000" }],
        }],
        "extension": [{
            "url": profile("Extension-GPConnect-BookingOrganisation-1"),
            "valueReference": { "reference": "#1" },
        }],
        "status": "booked",
        "description": "A race",
        "comment": format!("consumer {consumer}"),
        "start": slot["start"],
        "end": slot["end"],
        "slot": [{ "reference": format!("Slot/{}", slot["id"].as_str().unwrap()) }],
        "created": "2026-03-25T10:00:00+00:00",
        "participant": [
            { "actor": { "reference": "Patient/1" }, "status": "accepted" },
            { "actor": { "reference": "Location/1" }, "status": "accepted" },
        ],
    })
}

/// One consumer wants one of the slots, whichever it can have; answers which appointment it has.
async fn wants(
    port: u16,
    slots: Arc<[Value]>,
    me: usize,
    heard: Arc<AtomicUsize>,
) -> Option<String> {
    let mine = format!("consumer {me}");
    for turn in 0..SLOTS {
        let body = booking(&slots[(me + turn) % SLOTS], me).to_string();
        loop {
            match say(port, &format!("POST {BASE}/Appointment"), &body).await {
                Some((201, booked)) => {
                    heard.fetch_add(1, Ordering::AcqRel);
                    return Some(booked["id"].as_str().unwrap().to_owned());
                }
                Some((409, _)) => break,
                Some((status, told)) => panic!("{status}: {told}"),
                // It is being killed: what has become of the booking is asked before it is repeated.
                None => {
                    let known = loop {
                        match bookings(port).await {
                            Some(known) => break known,
                            None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                        }
                    };
                    if let Some(kept) = known.iter().find(|kept| kept["comment"] == *mine) {
                        return Some(kept["id"].as_str().unwrap().to_owned());
                    }
                }
            }
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_consumers_race_for_twenty_slots_and_none_is_lost_when_the_provider_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (_reserved, port) = reserved();
    let config = with_store(folder.path(), port);
    let simulated = Simulated::start(&config, 1);
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let until = today.saturating_add(jiff::Span::new().days(13));
    let search =
        format!("GET {BASE}/Slot?status=free&start=ge{today}&end=le{until}&_include=Slot:schedule");
    let (status, found) = say(port, &search, "").await.unwrap();
    assert_eq!(status, 200, "{found}");
    let entries = found["entry"].as_array().unwrap().iter().map(|entry| entry["resource"].clone());
    let ours = entries.filter(|resource| resource["schedule"]["reference"] == "Schedule/1");
    let slots: Arc<[Value]> = ours.take(SLOTS).collect();
    assert_eq!(slots.len(), SLOTS);

    let heard = Arc::new(AtomicUsize::new(0));
    let race = |me| tokio::spawn(wants(port, Arc::clone(&slots), me, Arc::clone(&heard)));
    let race: Vec<_> = (0..CONSUMERS).map(race).collect();
    while heard.load(Ordering::Acquire) < BEFORE {
        tokio::task::yield_now().await;
    }
    drop(simulated);
    let simulated = Simulated::start(&config, 1);
    let mut have = HashSet::new();
    for consumer in race {
        have.extend(consumer.await.unwrap());
    }
    drop(simulated);

    let _simulated = Simulated::start(&config, 1);
    let kept = bookings(port).await.unwrap();
    assert_eq!((have.len(), kept.len()), (SLOTS, SLOTS), "who has one, and what is kept");
    let of = |pointer: &str| {
        let all = kept.iter().map(|kept| kept.pointer(pointer).unwrap().as_str().unwrap());
        all.map(str::to_owned).collect::<HashSet<_>>()
    };
    assert_eq!(of("/id"), have);
    assert_eq!(of("/slot/0/reference").len(), SLOTS, "no slot twice");
    assert_eq!(of("/comment").len(), SLOTS, "nobody has two");
    let (_, free) = say(port, &search, "").await.unwrap();
    let mut free = free["entry"].as_array().unwrap().iter().map(|entry| &entry["resource"]);
    let taken: HashSet<&Value> = slots.iter().map(|slot| &slot["id"]).collect();
    let is_taken = |one: &Value| one["resourceType"] == "Slot" && taken.contains(&one["id"]);
    assert!(!free.any(is_taken), "a slot that is taken is not offered");
}

#[test]
fn the_example_says_where_each_practice_is_and_ends_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("certs");
    assert!(Command::new(PROGRAM).arg("certs").arg(&certs).output().unwrap().status.success());
    let deploy = folder.path().join("deploy");
    std::fs::create_dir(&deploy).unwrap();
    let text = std::fs::read_to_string("deploy/simulator.toml").unwrap();
    assert!(text.contains("127.0.0.1:9443"));
    let config = deploy.join("simulator.toml");
    std::fs::write(&config, text.replace("127.0.0.1:9443", "127.0.0.1:0")).unwrap();
    let mut simulated = Simulated::start(&config, 3);
    for (line, ods) in simulated.said.iter().zip(["A20047", "B82617", "C81004"]) {
        assert!(line.starts_with(ods) && line.contains(": https://127.0.0.1:"), "{line}");
    }
    let pid = simulated.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(simulated.process.wait().unwrap().code(), Some(0));
}

#[test]
fn an_unusable_configuration_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let practice = format!(
        "[[practice]]\nods = \"A20047\"\nasid = \"{ASID}\"\nname = \"x\"\nbase-path = \"{BASE}\"\n"
    );
    std::fs::write(folder.path().join("bad.toml"), "weeks = 6\n").unwrap();
    for (text, why) in [
        (practice.replace("ods", "code"), "unknown field `code`"),
        (practice.replace("918999198993", "1"), "asid"),
        (practice.replace(BASE, "A20047"), "must begin with a slash"),
        (practice.replace(BASE, "/_simulator/A"), "is that of the control interface"),
        (format!("{practice}{practice}"), "is configured twice"),
        (format!("{practice}seed = \"none.toml\"\n"), "none.toml"),
        (format!("{practice}seed = \"bad.toml\"\n"), "missing field `location`"),
        (format!("store = \"nowhere/x.redb\"\n{practice}"), "nowhere/x.redb"),
        (
            format!("[tls]\ncertificate = {{ chain = \"no.pem\", key = \"no.key\" }}\n{practice}"),
            "no.pem",
        ),
    ] {
        let config = folder.path().join("simulator.toml");
        std::fs::write(&config, &text).unwrap();
        let ended = Command::new(PROGRAM)
            .args(["simulate", "provider", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(78), "{text}: {said}");
        assert!(said.contains(why), "{text}: {said}");
    }
}
