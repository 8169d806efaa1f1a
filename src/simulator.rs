//! A stand-in for a GP Connect provider: practices with patients, slots and appointments of their
//! own.
//!
//! It is small, but honest: what it stores it returns, a slot that is taken answers 409, and so
//! does an amendment that was made from an old version. It speaks JSON only and forgets everything
//! when it is dropped. It knows the nouns of the Spine and the catalogue of interactions, and
//! nothing else of this crate. [`sds`] stands in for the directory in the same way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use jiff::Timestamp;

use crate::interaction::{self, Interaction};
use crate::spine::{Asid, OdsCode};

mod appointments;
mod booking;
mod change;
mod clock;
mod control;
mod faults;
mod fhir;
mod foundations;
mod local_time;
mod parameters;
mod peer;
mod people;
mod practice;
mod reply;
mod scripts;
pub mod sds;
mod serving;
mod slots;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod stage;
mod wire;

use clock::Clock;
use parameters::Parameters;
use practice::Store;
use reply::{Answer, Fault, Kind};
use scripts::Scripts;

pub use faults::{Faults, Unclear};
pub use people::{Person, Standing, people};
pub use scripts::Script;
pub use serving::Serving;

/// A practice to be simulated.
#[derive(Debug, Clone)]
pub struct Practice {
    /// Code of the organisation.
    pub ods: OdsCode,
    /// Number of its system: what `Ssp-To` has to say.
    pub asid: Asid,
    /// Name of the organisation.
    pub name: String,
    /// Path of its service root, without a final slash: `/A20047/STU3/1/gpconnect`.
    pub base_path: String,
}

/// Several practices behind one listener, told apart by their base paths.
pub struct Provider {
    surgeries: Vec<Surgery>,
    received: Mutex<VecDeque<Received>>,
    arrived: AtomicU64,
    scripts: Scripts,
    clock: Clock,
}

/// A request as it arrived, kept for those who test what is sent to a provider.
#[derive(Debug, Clone)]
pub struct Received {
    /// The request's method.
    pub method: Method,
    /// The request's target, as sent.
    pub target: String,
    /// The request's headers, in the order they came.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// When it arrived.
    pub at: Timestamp,
    /// The practice it was meant for, if there is one.
    pub ods: Option<OdsCode>,
    /// The status it was answered with, once it was answered with any.
    pub status: Option<StatusCode>,
    number: u64,
}

/// A practice and its store. One call is judged and carried out under one lock.
struct Surgery {
    practice: Practice,
    asid: Asid,
    base_path: String,
    store: Mutex<Store>,
}

/// A request that has passed the rules common to all interactions.
struct Call<'a> {
    interaction: &'static Interaction,
    id: &'a str,
    parameters: Parameters,
    headers: &'a HeaderMap,
    body: &'a [u8],
    now: Timestamp,
}

/// Limit: requests that are remembered for [`Provider::received`].
const RECEIVED_MAX: usize = 100;

impl Provider {
    /// Fills each practice: patients, practitioners, and free slots from the day after `now` on.
    #[must_use]
    pub fn new(practices: Vec<Practice>, now: Timestamp) -> Self {
        let mut surgeries: Vec<Surgery> = practices
            .into_iter()
            .map(|practice| Surgery {
                store: Mutex::new(Store::seeded(&practice, now)),
                asid: practice.asid.clone(),
                base_path: practice.base_path.clone(),
                practice,
            })
            .collect();
        surgeries.sort_by_key(|surgery| std::cmp::Reverse(surgery.base_path.len()));
        Self {
            surgeries,
            received: Mutex::default(),
            arrived: AtomicU64::default(),
            scripts: Scripts::default(),
            clock: Clock::default(),
        }
    }

    /// Answers one request; `now` is when it arrived.
    #[must_use]
    pub fn answer(&self, head: &Parts, body: &[u8], now: Timestamp) -> Response<Bytes> {
        let number = self.remember(head, body, now);
        let response = self.carry_out(head, body, now);
        self.told(number, response.status());
        response
    }

    /// Answers one request, whether or not it is remembered.
    fn carry_out(&self, head: &Parts, body: &[u8], now: Timestamp) -> Response<Bytes> {
        let reply = self.reply(head, body, now).unwrap_or_else(Fault::into_reply);
        let minimal = head.headers.get_all("prefer").iter().any(|value| value == "return=minimal");
        reply.into_response(minimal && head.method != Method::GET)
    }

    /// What arrived last, oldest first, at most 100 requests.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.received).iter().cloned().collect()
    }

    /// Answers with the number that [`Provider::told`] needs.
    fn remember(&self, head: &Parts, body: &[u8], now: Timestamp) -> u64 {
        let number = self.arrived.fetch_add(1, Ordering::Relaxed);
        let mut received = lock(&self.received);
        if received.len() >= RECEIVED_MAX {
            received.pop_front();
        }
        received.push_back(Received {
            method: head.method.clone(),
            target: head.uri.to_string(),
            headers: head.headers.clone(),
            body: Bytes::copy_from_slice(body),
            at: now,
            ods: self.find(head.uri.path()).map(|(surgery, _)| surgery.practice.ods.clone()),
            status: None,
            number,
        });
        number
    }

    fn reply(&self, head: &Parts, body: &[u8], now: Timestamp) -> Answer {
        let (surgery, rest) = self
            .find(head.uri.path())
            .ok_or_else(|| Fault::new(Kind::NoRecordFound, "no practice has this path"))?;
        let interaction = surgery.judge(head, rest)?;
        judge_content_type(head)?;
        let call = Call {
            interaction,
            id: rest.split('/').nth(2).unwrap_or_default(),
            parameters: Parameters::parse(head.uri.query().unwrap_or_default())?,
            headers: &head.headers,
            body,
            now,
        };
        perform(&mut lock(&surgery.store), &call)
    }

    /// The practice whose base path is the longest beginning of `path`, and what follows it.
    fn find<'a>(&self, path: &'a str) -> Option<(&Surgery, &'a str)> {
        self.surgeries.iter().find_map(|surgery| {
            let rest = path.strip_prefix(surgery.base_path.as_str())?;
            rest.starts_with('/').then_some((surgery, rest))
        })
    }

    /// Notes what a remembered request was answered with.
    fn told(&self, number: u64, status: StatusCode) {
        let mut received = lock(&self.received);
        if let Some(found) = received.iter_mut().find(|received| received.number == number) {
            found.status = Some(status);
        }
    }

    /// Forgets what arrived; answers with how many requests that were.
    fn forget(&self) -> usize {
        std::mem::take(&mut *lock(&self.received)).len()
    }

    /// Lets something go wrong with a share of a practice's calls, besides what already does.
    pub fn script(&self, ods: &OdsCode, script: Script) -> Result<(), Unclear> {
        if !self.knows(ods) {
            return Err(Unclear::new(format!("no practice is called {ods}")));
        }
        self.scripts.add(ods, script)
    }

    /// Gives a practice, or all of them, the data it had to begin with, counted from `now`; answers
    /// with how many practices that were.
    pub fn reset(&self, ods: Option<&OdsCode>, now: Timestamp) -> usize {
        let meant: Vec<_> = self.surgeries.iter().filter(|known| known.is_meant(ods)).collect();
        for surgery in &meant {
            *lock(&surgery.store) = Store::seeded(&surgery.practice, now);
        }
        meant.len()
    }

    /// Every appointment of a practice, or of all: a list of `{ods, appointment}`.
    #[must_use]
    pub fn bookings(&self, ods: Option<&OdsCode>) -> serde_json::Value {
        let mut found = Vec::new();
        for surgery in self.surgeries.iter().filter(|surgery| surgery.is_meant(ods)) {
            let ods = &surgery.practice.ods;
            found.extend(
                lock(&surgery.store).bookings.values().map(
                    |booking| serde_json::json!({ "ods": ods, "appointment": booking.resource }),
                ),
            );
        }
        found.into()
    }

    fn knows(&self, ods: &OdsCode) -> bool {
        self.surgeries.iter().any(|surgery| surgery.practice.ods == *ods)
    }
}

impl Surgery {
    fn is_meant(&self, ods: Option<&OdsCode>) -> bool {
        ods.is_none_or(|ods| *ods == self.practice.ods)
    }

    /// Spec: the four headers and a token on every request; the interaction named is the one made.
    fn judge(&self, head: &Parts, rest: &str) -> Result<&'static Interaction, Fault> {
        header(&head.headers, "Ssp-TraceID")?;
        header(&head.headers, "Ssp-From")?;
        if header(&head.headers, "Ssp-To")? != self.asid.as_str() {
            return Err(Fault::bad_request("Ssp-To header does not match ASID of system"));
        }
        let named = header(&head.headers, "Ssp-InteractionID")?;
        header(&head.headers, "Authorization")?;
        interaction::by_id(named)
            .filter(|known| known.method == head.method && known.is_path(rest))
            .ok_or_else(|| Fault::bad_request("InteractionID header does not match request"))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Fault> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    value
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Fault::bad_request(format!("{name} header missing")))
}

/// A body that says it is something else than JSON is not looked at.
fn judge_content_type(head: &Parts) -> Result<(), Fault> {
    let named = head.headers.get("content-type").and_then(|value| value.to_str().ok());
    let media = named.and_then(|text| text.split(';').next()).unwrap_or("json").trim();
    let json = media.to_ascii_lowercase().ends_with("json");
    if json || head.method == Method::GET {
        Ok(())
    } else {
        Err(Fault::new(Kind::UnsupportedMediaType, "only application/fhir+json is spoken here"))
    }
}

fn perform(store: &mut Store, call: &Call<'_>) -> Answer {
    let short = call.interaction.id.strip_prefix("urn:nhs:names:services:gpconnect:fhir:");
    match short.unwrap_or_default() {
        "rest:search:slot-1" => slots::search(store, call),
        "rest:create:appointment-1" => booking::create(store, call),
        "rest:read:appointment-1" => appointments::read(store, call),
        "rest:search:patient_appointments-1" => appointments::of_patient(store, call),
        "rest:update:appointment-1" => change::amend(store, call),
        "rest:cancel:appointment-1" => change::cancel(store, call),
        "rest:read:metadata-1" => Ok(foundations::metadata()),
        "rest:read:patient-1" => foundations::read(store, call, "Patient"),
        "rest:read:practitioner-1" => foundations::read(store, call, "Practitioner"),
        "rest:read:organization-1" => foundations::read(store, call, "Organization"),
        "rest:read:location-1" => foundations::read(store, call, "Location"),
        "rest:search:patient-1" => foundations::search(store, call, "Patient"),
        "rest:search:practitioner-1" => foundations::search(store, call, "Practitioner"),
        "rest:search:organization-1" => foundations::search(store, call, "Organization"),
        _ => Err(Fault::new(Kind::NotImplemented, "the simulator does not answer this yet")),
    }
}

/// A panic elsewhere does not take the practice down: what is in the store is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use serde_json::json;

    use super::stage::{ASID, BASE, Stage, booking_of};
    use super::*;

    #[test]
    fn a_whole_session_returns_what_it_stored() {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        let (status, _, found) =
            stage.get("search:patient-1", &Stage::patient_by(&people()[1].nhs_number));
        assert_eq!((status, found["entry"][0]["resource"]["id"].clone()), (200, json!("2")));

        let (status, headers, booked) = stage.book(&booking_of(&[&slot], "2"));
        assert_eq!(status, 201, "{booked}");
        assert_eq!(headers["location"], "Appointment/1/_history/1");
        assert_eq!(headers["etag"], "W/\"1\"");
        assert!(!stage.free_slots().iter().any(|free| free["id"] == slot["id"]));
        let (_, _, retrieved) = stage.retrieve("2");
        assert_eq!(retrieved["entry"][0]["resource"], booked);

        let mut amended = booked;
        amended["description"] = json!("amended");
        let (status, headers, amended) = stage.put("update", "1", Some("W/\"1\""), &amended);
        assert_eq!((status, &headers["etag"]), (200, &"W/\"2\"".parse().unwrap()), "{amended}");
        let (status, headers, read) = stage.get("read:appointment-1", "/Appointment/1");
        assert_eq!((status, read["description"].clone()), (200, json!("amended")));
        assert_eq!((&headers["etag"], &read), (&"W/\"2\"".parse().unwrap(), &amended));

        let cancelled = Stage::cancelled(&read, "patient asked");
        let (status, _, gone) = stage.put("cancel", "1", Some("W/\"2\""), &cancelled);
        assert_eq!((status, gone["meta"]["versionId"].clone()), (200, json!("3")), "{gone}");
        assert!(stage.free_slots().iter().any(|free| free["id"] == slot["id"]));
        assert_eq!(stage.retrieve("2").2["entry"][0]["resource"]["status"], "cancelled");
    }

    #[test]
    fn of_two_bookings_of_one_slot_one_is_made() {
        let stage = Stage::new();
        for slot in stage.free_slots().iter().take(20) {
            let body = booking_of(&[slot], "1");
            let start = Barrier::new(4);
            let mut statuses: Vec<u16> = std::thread::scope(|scope| {
                let book = || {
                    start.wait();
                    stage.book(&body).0
                };
                let runs: Vec<_> = (0..4).map(|_| scope.spawn(book)).collect();
                runs.into_iter().map(|run| run.join().unwrap()).collect()
            });
            statuses.sort_unstable();
            assert_eq!(statuses, [201, 409, 409, 409]);
        }
    }

    #[test]
    fn every_request_needs_its_headers_and_its_interaction() {
        let stage = Stage::new();
        let id = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-1";
        let all = [
            ("Ssp-TraceID", "t"),
            ("Ssp-From", "200000000359"),
            ("Ssp-To", ASID),
            ("Ssp-InteractionID", id),
            ("Authorization", "Bearer x"),
        ];
        let ask = |path: &str, headers: &[(&str, &str)]| {
            let (status, _, body) = stage.send(Method::GET, path, headers, b"");
            let code = body.pointer("/issue/0/details/coding/0/code").cloned();
            (status, code.unwrap_or_default())
        };
        let here = format!("{BASE}/metadata");
        assert_eq!(ask(&here, &all).0, 200);
        for (left_out, (name, _)) in all.iter().enumerate() {
            let mut some = all.to_vec();
            some[left_out].1 = " ";
            assert_eq!(ask(&here, &some), (400, json!("BAD_REQUEST")), "{name} blank");
            some.remove(left_out);
            assert_eq!(ask(&here, &some), (400, json!("BAD_REQUEST")), "{name} missing");
        }
        let mut other = all;
        other[2].1 = "200000000999";
        let (_, _, body) = stage.send(Method::GET, &here, &other, b"");
        assert_eq!(body["issue"][0]["diagnostics"], "Ssp-To header does not match ASID of system");
        assert_eq!(ask(&format!("{BASE}/Slot"), &all), (400, json!("BAD_REQUEST")));
        assert_eq!(ask(&format!("{BASE}/Metadata"), &all), (400, json!("BAD_REQUEST")));
        assert_eq!(stage.send(Method::DELETE, &here, &all, b"").0, 400);
        for path in ["/elsewhere/metadata", &format!("{BASE}X/metadata"), BASE] {
            assert_eq!(ask(path, &all), (404, json!("NO_RECORD_FOUND")), "{path}");
        }
        other[2] = ("Ssp-To", ASID);
        other[3].1 = "urn:nhs:names:services:gpconnect:fhir:rest:read:metadata-2";
        assert_eq!(ask(&here, &other), (400, json!("BAD_REQUEST")));
    }

    #[test]
    fn practices_keep_their_own_appointments() {
        let stage = Stage::new();
        let slot = stage.free_slots().remove(0);
        let body = booking_of(&[&slot], "1");
        assert_eq!(stage.book(&body).0, 201);
        let elsewhere = stage.elsewhere();
        assert_eq!(elsewhere.get("read:appointment-1", "/Appointment/1").0, 404);
        assert_eq!(elsewhere.book(&body).0, 201);
        assert_eq!(elsewhere.book(&body).0, 409);
    }

    #[test]
    fn what_arrived_is_remembered_up_to_a_limit() {
        let stage = Stage::new();
        for n in 0..RECEIVED_MAX + 3 {
            stage.get("read:metadata-1", &format!("/metadata?n={n}"));
        }
        let received = stage.provider.received();
        assert_eq!(received.len(), RECEIVED_MAX);
        assert_eq!(received[0].target, format!("{BASE}/metadata?n=3"));
        assert_eq!(received[0].headers["ssp-to"], ASID);
    }

    #[test]
    fn what_is_not_simulated_says_so() {
        let stage = Stage::new();
        let path = "/Patient/$gpc.registerpatient";
        let id = "operation:gpc.registerpatient-1";
        let (status, _, body) = stage.ask((Method::POST, id), path, &[], b"{}");
        assert_eq!(status, 501, "{body}");
        let xml = [("Content-Type", "application/fhir+xml")];
        assert_eq!(stage.ask((Method::POST, id), path, &xml, b"<a/>").0, 415);
    }
}
