//! Appointments that a play has booked.

use std::sync::{Mutex, PoisonError};

use super::super::call::client::Caller;

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
}

impl BookedPatient {
    fn is(&self, caller: &Caller, patient: &str) -> bool {
        self.caller.practice == caller.practice && self.patient == patient
    }
}
