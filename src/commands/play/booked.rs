//! Appointments that a play has booked, and their cancellation at its end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::super::call::client::{CallRequest, Caller, SearchDays, cancelled, resources, text};
use super::{CaseEnd, Play, PlayedCase, Tone, described};

/// Patients that appointments were booked for, at each practice.
pub(super) struct Booked {
    /// Description of every appointment that this run books.
    pub(super) description: String,
    patients: Mutex<Vec<BookedPatient>>,
}

/// Patient that appointments were booked for.
#[derive(Clone)]
struct BookedPatient {
    caller: Caller,
    /// Logical id of the patient at the practice.
    patient: String,
    /// Logical ids of the appointments whose booking was answered.
    appointments: Vec<String>,
}

impl Default for Booked {
    fn default() -> Self {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let run = run.get(..8).unwrap_or_default();
        let description = format!("Test booking of spine-proxy, run {run}");
        Self { description, patients: Mutex::default() }
    }
}

impl Booked {
    /// Notes that a booking for a patient is about to be sent.
    pub(super) fn begins(&self, caller: &Caller, patient: &str) {
        let mut patients = self.patients.lock().unwrap_or_else(PoisonError::into_inner);
        if !patients.iter().any(|one| one.is(caller, patient)) {
            let (caller, patient) = (caller.clone(), patient.to_owned());
            patients.push(BookedPatient { caller, patient, appointments: Vec::new() });
        }
    }

    /// Notes the logical id of an appointment that was booked for a patient.
    pub(super) fn is_booked(&self, caller: &Caller, patient: &str, appointment: &str) {
        let mut patients = self.patients.lock().unwrap_or_else(PoisonError::into_inner);
        let of = patients.iter_mut().find(|one| one.is(caller, patient));
        if let Some(of) = of.filter(|_| !appointment.is_empty()) {
            of.appointments.push(appointment.to_owned());
        }
    }

    fn taken(&self) -> Vec<BookedPatient> {
        std::mem::take(&mut *self.patients.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl BookedPatient {
    fn is(&self, caller: &Caller, patient: &str) -> bool {
        self.caller.practice == caller.practice && self.patient == patient
    }
}

impl Play {
    /// Cancels every appointment that was booked and is not cancelled yet, for as long as `within`; `None` if nothing
    /// was booked.
    ///
    /// An appointment whose booking was not answered is found among those of its patient.
    pub(in crate::commands) async fn clean_up(&self, within: Duration) -> Option<PlayedCase> {
        let booked = self.booked.taken();
        if booked.is_empty() {
            return None;
        }
        self.screen().line(Tone::Heading, "\nCancelling what was booked");
        let name = "Every appointment that was booked is cancelled";
        let cancelled = async {
            let late = |_| self.left(&format!("not everything was cancelled within {within:?}"));
            tokio::time::timeout(within, self.cancel_all(&booked)).await.map_err(late)?
        };
        let case = self.case("clean-up", name, cancelled).await;
        self.show_end(&case);
        Some(case)
    }

    async fn cancel_all(&self, booked: &[BookedPatient]) -> Result<(), CaseEnd> {
        let (mut count, mut faults) = (0, Vec::new());
        for BookedPatient { caller, patient, appointments } in booked {
            let mut ids = appointments.clone();
            match self.unanswered(caller, patient).await {
                Ok(more) => ids.extend(more),
                Err(end) => faults.push(fault(caller, "the patient's appointments", end)),
            }
            ids.sort();
            ids.dedup();
            for id in &ids {
                match cancel(caller, id).await {
                    Ok(is_changed) => count += usize::from(is_changed),
                    Err(end) => faults.push(fault(caller, &format!("appointment {id}"), end)),
                }
            }
        }
        self.screen().line(Tone::Good, format_args!("<- {count} cancelled"));
        if faults.is_empty() {
            return Ok(());
        }
        Err(self.left(&faults.join("; ")))
    }

    /// Returns the end of a clean-up that may have left appointments.
    fn left(&self, why: &str) -> CaseEnd {
        let description = &self.booked.description;
        let received = format!("{why}. Look for {description:?} there.");
        CaseEnd::unexpected("no booked appointment is left", received)
    }

    /// Returns the logical ids of this run's appointments among those of a patient.
    async fn unanswered(&self, caller: &Caller, patient: &str) -> Result<Vec<String>, CaseEnd> {
        let days = SearchDays::fortnight(None)?;
        let list = CallRequest::named("appointments", Some(patient))?;
        let list = list.with_query(&days.appointments_query());
        let listed = Box::pin(caller.send(&list)).await?;
        if !listed.status.is_success() {
            return Err(CaseEnd::unexpected("200", described(&listed)));
        }
        let is_ours = |one: &Value| text(one, "description").starts_with(&self.booked.description);
        let of_run = resources(&listed.json(), "Appointment").into_iter().filter(is_ours);
        Ok(of_run.map(|appointment| text(&appointment, "id")).collect())
    }
}

/// Cancels an appointment; returns false if it is cancelled already.
async fn cancel(caller: &Caller, id: &str) -> Result<bool, CaseEnd> {
    let read = CallRequest::named("read:appointment", Some(id))?;
    let read = Box::pin(caller.send(&read)).await?;
    if !read.status.is_success() {
        return Err(CaseEnd::unexpected("200", described(&read)));
    }
    if text(&read.json(), "status") == "cancelled" {
        return Ok(false);
    }
    let resource = cancelled(read.json(), "Test booking");
    let cancel = CallRequest::named("cancel", Some(id))?.changing(&read, &resource)?;
    let answer = Box::pin(caller.send(&cancel)).await?;
    match answer.status.is_success() {
        true => Ok(true),
        false => Err(CaseEnd::unexpected("200", described(&answer))),
    }
}

/// Returns in words why an appointment may be left at a practice.
fn fault(caller: &Caller, what: &str, end: CaseEnd) -> String {
    let received = match end {
        CaseEnd::Unexpected(answer) => answer.received,
        CaseEnd::NotPlayed(why) => why,
    };
    format!("{what} at {}: {received}", caller.practice)
}
