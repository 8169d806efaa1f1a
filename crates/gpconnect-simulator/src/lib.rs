//! Simulator of a GP Connect provider: practices with their own patients, slots and appointments.
//!
//! A request is checked by its headers and its token, then by its interaction. An interaction only
//! proposes changes; the store commits them, to disk first. Resources are JSON inside; the edges also
//! read and write XML, and inject the faults that a test requests. From the project, the crate uses only
//! the Spine identifiers and the catalogue of interactions. [`sds`] simulates the directory in the
//! same way.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use spine_types::interaction::{self, Interaction};
use spine_types::{Asid, OdsCode};

mod appointments;
mod booking;
mod change;
mod clock;
mod codes;
mod control;
mod disk;
mod faults;
mod fhir;
mod format;
mod foundations;
#[cfg(test)]
mod invalid_bodies;
mod json;
mod local_time;
#[cfg(test)]
mod loopback;
mod markup;
mod parameters;
mod peer;
mod people;
pub mod pki;
mod profile_rules;
#[cfg(test)]
mod profiles;
mod register;
mod reply;
mod scripts;
pub mod sds;
mod seed;
mod serving;
mod shape;
mod slots;
mod state;
mod store;
mod token;
mod wire;
mod xml;
#[cfg(test)]
mod stage;

use clock::Clock;
use disk::DiskStore;
use format::ResourceFormat;
use parameters::Parameters;
use reply::{InteractionResult, ReplyFault, SpineErrorCode};
use scripts::Scripts;
use store::Store;

pub use control::{ControlFault, ControlParameters, ControlRoute, control_routes, is_control_path};
pub use disk::DiskStoreError;
pub use faults::{FaultWordsError, Faults};
pub use local_time::day;
pub use people::{InventedPerson, Registration, people};
pub use scripts::Script;
pub use seed::{Seed, SeedError};
pub use serving::ServeOptions;

/// A practice to be simulated.
#[derive(Debug, Clone)]
pub struct SimulatedPractice {
    /// ODS code of the practice.
    pub ods: OdsCode,
    /// ASID of the practice's system, which requests must carry in `Ssp-To`.
    pub asid: Asid,
    /// Name of the practice.
    pub name: String,
    /// Path of its service root, without a final slash: `/A20047/STU3/1/gpconnect`.
    pub base_path: String,
    /// True if GP Connect is switched off: the practice answers 403 to all but reads of its capability
    /// statement.
    pub switched_off: bool,
    /// Initial data of the practice.
    pub seed: Arc<Seed>,
}

impl SimulatedPractice {
    /// Returns a practice with GP Connect switched on and the built-in seed.
    #[must_use]
    pub fn new(ods: OdsCode, asid: Asid, name: &str, base_path: &str) -> Self {
        let (name, base_path) = (name.to_owned(), base_path.to_owned());
        Self { ods, asid, name, base_path, switched_off: false, seed: Arc::default() }
    }
}

/// Several practices behind one listener, distinguished by their base paths.
pub struct SimulatedProvider {
    practices: Vec<PracticeStore>,
    received: Mutex<VecDeque<ReceivedRequest>>,
    request_count: AtomicU64,
    scripts: Scripts,
    clock: Clock,
}

/// A request as it arrived, recorded so that tests can check what was sent to the provider.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// The request's method.
    pub method: Method,
    /// The request's target, as sent.
    pub target: String,
    /// The request's headers, in the order they came.
    pub headers: HeaderMap,
    /// Whole body of the request.
    pub body: Bytes,
    /// Time of arrival, by the simulator's clock.
    pub at: Timestamp,
    /// Practice with the base path that the target begins with, if there is one.
    pub ods: Option<OdsCode>,
    /// Status of the response, or `None` if there was none.
    pub status: Option<StatusCode>,
    number: u64,
}

/// An appointment of a practice.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BookedAppointment {
    /// ODS code of the practice.
    pub ods: OdsCode,
    /// Resource of the type `Appointment`.
    #[schemars(with = "Map<String, Value>")]
    pub appointment: Value,
}

/// A practice and its store; the store stays locked while an interaction is performed and committed.
struct PracticeStore {
    settings: SimulatedPractice,
    store: Mutex<Store>,
}

/// A request that has passed the checks common to all interactions.
struct Call<'a> {
    interaction: &'static Interaction,
    id: &'a str,
    parameters: Parameters,
    headers: &'a HeaderMap,
    body: &'a [u8],
    /// Format of the body; `None` without a `Content-Type`.
    body_format: Option<ResourceFormat>,
    now: Timestamp,
}

impl Call<'_> {
    /// Parses the body without checking that it is a FHIR resource.
    fn parsed_body(&self) -> Result<Value, ReplyFault> {
        let missing =
            || ReplyFault::new(SpineErrorCode::UnsupportedMediaType, "Content-Type is missing");
        self.body_format.ok_or_else(missing)?.read(self.body)
    }

    /// Parses the body and checks that it is a FHIR resource.
    fn resource(&self) -> Result<Map<String, Value>, ReplyFault> {
        checked_resource(self.parsed_body()?)
    }
}

/// Returns the value as a FHIR resource, or a fault that names its first flaw.
fn checked_resource(sent: Value) -> Result<Map<String, Value>, ReplyFault> {
    match (shape::fault(&sent), sent) {
        (None, Value::Object(resource)) => Ok(resource),
        (Some(fault), _) => Err(ReplyFault::resource(fault)),
        (None, _) => Err(ReplyFault::resource("the body is not a resource")),
    }
}

/// Limit: requests kept for [`SimulatedProvider::received`].
const RECEIVED_MAX: usize = 100;
/// Limit: total bytes of the bodies kept for [`SimulatedProvider::received`].
const RECEIVED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl SimulatedProvider {
    /// Opens practices with patients, practitioners and free slots from the day after `now`.
    ///
    /// With a file, the data already in it are kept, and each change is on disk before the request
    /// that makes it is answered.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or written, or was made with another seed.
    pub fn open(
        practices: Vec<SimulatedPractice>,
        file: Option<&Path>,
        now: Timestamp,
    ) -> Result<Self, DiskStoreError> {
        let disk = file.map(DiskStore::open).transpose()?.map(Arc::new);
        let open = |practice: SimulatedPractice| {
            let store = Store::open(practice.clone(), disk.clone(), now)?;
            Ok(PracticeStore { settings: practice, store: Mutex::new(store) })
        };
        let mut practices = practices.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        practices.sort_by_key(|practice| std::cmp::Reverse(practice.settings.base_path.len()));
        Ok(Self::with_practices(practices))
    }

    /// Opens practices in memory; their data are lost when the provider is dropped.
    #[must_use]
    pub fn new(practices: Vec<SimulatedPractice>, now: Timestamp) -> Self {
        // Only a file can fail.
        Self::open(practices, None, now).unwrap_or_else(|_| Self::with_practices(Vec::new()))
    }

    fn with_practices(practices: Vec<PracticeStore>) -> Self {
        Self {
            practices,
            received: Mutex::default(),
            request_count: AtomicU64::default(),
            scripts: Scripts::default(),
            clock: Clock::default(),
        }
    }

    /// Resets one practice, or all, to the initial data; returns the number of practices reset.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn reset(&self, ods: Option<&OdsCode>, now: Timestamp) -> Result<usize, DiskStoreError> {
        let mut count = 0;
        for practice in self.practices.iter().filter(|practice| practice.is_of(ods)) {
            lock(&practice.store).reset(now)?;
            count += 1;
        }
        Ok(count)
    }

    /// Returns every appointment of one practice, or of all.
    #[must_use]
    pub fn bookings(&self, ods: Option<&OdsCode>) -> Vec<BookedAppointment> {
        let mut booked = Vec::new();
        for practice in self.practices.iter().filter(|practice| practice.is_of(ods)) {
            booked.extend(lock(&practice.store).bookings().values().map(|booking| {
                let ods = practice.settings.ods.clone();
                BookedAppointment { ods, appointment: booking.resource.clone() }
            }));
        }
        booked
    }

    /// Answers one request that arrived at `now`, and remembers it.
    #[must_use]
    pub fn answer(&self, head: &Parts, body: &[u8], now: Timestamp) -> Response<Bytes> {
        let number = self.remember(head, body, now);
        let response = self.carry_out(head, body, now);
        self.note_status(number, response.status());
        response
    }

    /// Answers one request without remembering it.
    fn carry_out(&self, head: &Parts, body: &[u8], now: Timestamp) -> Response<Bytes> {
        let parameters = Parameters::parse(head.uri.query().unwrap_or_default());
        let accepted = format::response_format(&head.headers, parameters.as_ref().ok());
        let format = accepted.as_ref().copied().unwrap_or(ResourceFormat::Json);
        let reply = accepted.and_then(|_| self.reply(head, parameters?, body, now));
        let reply = reply.unwrap_or_else(ReplyFault::into_reply);
        let reply = reply.with_service_root(|| self.service_root(head));
        let minimal = head.method != Method::GET && prefers_minimal(&head.headers);
        format.response(reply, minimal, format::accepts_gzip(&head.headers))
    }

    /// Returns the service root as the request names it, or `None` without a `Host` header.
    fn service_root(&self, head: &Parts) -> Option<String> {
        let host = head.headers.get("host")?.to_str().ok()?;
        let (practice, _) = self.find(head.uri.path())?;
        let scheme = if head.extensions.get::<WithoutTls>().is_some() { "http" } else { "https" };
        Some(format!("{scheme}://{host}{}", practice.settings.base_path))
    }

    /// Returns the latest requests, oldest first: at most 100, with at most 8 MiB of bodies.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedRequest> {
        lock(&self.received).iter().cloned().collect()
    }

    /// Remembers a request; returns its number for [`SimulatedProvider::note_status`].
    fn remember(&self, head: &Parts, body: &[u8], now: Timestamp) -> u64 {
        let number = self.request_count.fetch_add(1, Ordering::Relaxed);
        let mut received = lock(&self.received);
        let bytes =
            |all: &VecDeque<ReceivedRequest>| all.iter().map(|one| one.body.len()).sum::<usize>();
        while received.len() >= RECEIVED_MAX
            || (!received.is_empty() && bytes(&received) + body.len() > RECEIVED_BYTES_MAX)
        {
            received.pop_front();
        }
        received.push_back(ReceivedRequest {
            method: head.method.clone(),
            target: head.uri.to_string(),
            headers: head.headers.clone(),
            body: Bytes::copy_from_slice(body),
            at: now,
            ods: self.find(head.uri.path()).map(|(practice, _)| practice.settings.ods.clone()),
            status: None,
            number,
        });
        number
    }

    /// Records the response status of a remembered request.
    fn note_status(&self, number: u64, status: StatusCode) {
        let mut received = lock(&self.received);
        if let Some(found) = received.iter_mut().find(|received| received.number == number) {
            found.status = Some(status);
        }
    }

    /// Forgets the remembered requests; returns their number.
    fn forget(&self) -> usize {
        std::mem::take(&mut *lock(&self.received)).len()
    }

    /// Adds a script of faults for a share of a practice's requests, after the scripts it already has.
    ///
    /// # Errors
    /// Returns an error if the practice is unknown, the script is invalid, or the practice already has
    /// 20 scripts.
    pub fn script(&self, ods: &OdsCode, script: Script) -> Result<(), FaultWordsError> {
        if !self.has_practice(ods) {
            return Err(FaultWordsError::new(format!(
                "there is no simulated practice with the ODS code {ods}"
            )));
        }
        self.scripts.add(ods, script)
    }

    fn has_practice(&self, ods: &OdsCode) -> bool {
        self.practices.iter().any(|practice| practice.settings.ods == *ods)
    }

    fn reply(
        &self,
        head: &Parts,
        parameters: Parameters,
        body: &[u8],
        now: Timestamp,
    ) -> InteractionResult {
        let (practice, rest) = self.find(head.uri.path()).ok_or_else(|| {
            ReplyFault::new(SpineErrorCode::NoRecordFound, "no practice has this path")
        })?;
        let interaction = practice.judge(head, rest)?;
        token::judge(&head.headers, interaction, Timestamp::now())?;
        if practice.settings.switched_off && !interaction.id.ends_with("rest:read:metadata-1") {
            return Err(ReplyFault::new(
                SpineErrorCode::AccessDenied,
                "GP Connect is switched off at this practice",
            ));
        }
        let call = Call {
            interaction,
            id: rest.split('/').nth(2).unwrap_or_default(),
            parameters,
            headers: &head.headers,
            body,
            body_format: format::request_format(&head.headers)?,
            now,
        };
        let mut store = lock(&practice.store);
        store.extend_slots(now).map_err(|error| store_fault(&error))?;
        let mut reply = perform(&store, &call)?;
        store.commit(reply.take_changes()).map_err(|error| store_fault(&error))?;
        Ok(reply)
    }

    /// Returns the practice with the longest base path that is a prefix of `path`, and the rest of the path.
    fn find<'a>(&self, path: &'a str) -> Option<(&PracticeStore, &'a str)> {
        self.practices.iter().find_map(|practice| {
            let rest = path.strip_prefix(practice.settings.base_path.as_str())?;
            rest.starts_with('/').then_some((practice, rest))
        })
    }
}

impl PracticeStore {
    fn is_of(&self, ods: Option<&OdsCode>) -> bool {
        ods.is_none_or(|ods| *ods == self.settings.ods)
    }

    /// Spec: every request has the four `Ssp-` headers and a token, and makes the interaction it names.
    fn judge(&self, head: &Parts, rest: &str) -> Result<&'static Interaction, ReplyFault> {
        header(&head.headers, "Ssp-TraceID")?;
        header(&head.headers, "Ssp-From")?;
        if header(&head.headers, "Ssp-To")? != self.settings.asid.as_str() {
            return Err(ReplyFault::bad_request("Ssp-To header does not match ASID of system"));
        }
        let named = header(&head.headers, "Ssp-InteractionID")?;
        header(&head.headers, "Authorization")?;
        interaction::by_id(named)
            .filter(|known| {
                known.method == head.method && (known.is_path(rest) || is_blank(known, rest))
            })
            .ok_or_else(|| ReplyFault::bad_request("InteractionID header does not match request"))
    }
}

/// Returns true if a path fits the interaction except that its id is blank.
///
/// The public test suite expects such a request to be answered as one for an unknown record.
fn is_blank(interaction: &Interaction, rest: &str) -> bool {
    rest.ends_with('/') && interaction.is_path(&format!("{rest}blank"))
}

/// Marks a request that came without TLS.
#[derive(Debug, Clone, Copy)]
struct WithoutTls;

fn prefers_minimal(headers: &HeaderMap) -> bool {
    let all = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split([',', ';'])).any(|one| one.trim() == "return=minimal")
}

/// Returns a fault as a response in the format that the request accepts.
fn fault_response(head: &Parts, fault: ReplyFault) -> Response<Bytes> {
    let parameters = Parameters::parse(head.uri.query().unwrap_or_default()).ok();
    let format =
        format::response_format(&head.headers, parameters.as_ref()).unwrap_or(ResourceFormat::Json);
    format.response(fault.into_reply(), false, false)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, ReplyFault> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().and_then(|value| value.to_str().ok()).map(str::trim);
    if values.next().is_some() {
        return Err(ReplyFault::bad_request(format!("{name} header repeated")));
    }
    value
        .filter(|text| !text.is_empty())
        .ok_or_else(|| ReplyFault::bad_request(format!("{name} header missing")))
}

fn store_fault(error: &DiskStoreError) -> ReplyFault {
    tracing::error!(
        %error,
        "the simulator's store could not be written; the request is answered with status 500"
    );
    ReplyFault::new(SpineErrorCode::Internal, "the store cannot be written")
}

/// Performs the interaction of a request; the reply carries the changes to commit.
fn perform(store: &Store, call: &Call<'_>) -> InteractionResult {
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
        "operation:gpc.registerpatient-1" => register::register(store, call),
        _ => Err(ReplyFault::new(
            SpineErrorCode::NotImplemented,
            "the simulator does not implement this interaction",
        )),
    }
}

/// Locks a mutex, also after a panic in another thread: the data behind it are still consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
