//! Store of one practice: its data, and the changes to it.
//!
//! The store answers queries and commits changes. The interactions decide what may be read and
//! changed, and only propose changes. A change is on disk before it is visible.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::Value;

use super::disk::{DiskStore, DiskStoreError};
use super::local_time::{self, TimePeriod};
use super::people::InventedPerson;
use super::seed::Session;
use super::state::{Booking, Change, Patient, SlotState, StoredSlot, StoredState};
use super::{SimulatedPractice, fhir};

/// All data of one practice.
pub(super) struct Store {
    practice: SimulatedPractice,
    /// Practitioners, organisations and locations: these never change.
    resources: BTreeMap<(&'static str, u32), Value>,
    state: StoredState,
    disk: Option<Arc<DiskStore>>,
}

/// Id of the practice's own organisation.
pub(super) const ORGANISATION: u32 = 1;
/// Limit: days for which there are slots.
///
/// Setting the clock adds days; beyond the limit, the earliest days outside the seed's weeks lose
/// the slots that were never booked.
const DAYS_MAX: usize = 1000;

impl Store {
    /// Opens a practice with its data on disk, or with its initial data.
    ///
    /// # Errors
    /// Returns an error if the disk cannot be read or written, or the store was made with another
    /// seed.
    pub(super) fn open(
        practice: SimulatedPractice,
        disk: Option<Arc<DiskStore>>,
        now: Timestamp,
    ) -> Result<Self, DiskStoreError> {
        let seed = Arc::clone(&practice.seed);
        let state = match &disk {
            Some(disk) => disk.load(&practice.ods)?,
            None => StoredState::default(),
        };
        let mut resources = BTreeMap::new();
        let organisation = fhir::organisation(&practice, ORGANISATION);
        resources.insert(("Organization", ORGANISATION), organisation);
        for (id, place) in (1..).zip(&seed.locations) {
            resources.insert(("Location", id), fhir::location(place, id, ORGANISATION));
        }
        for (id, clinician) in (1..).zip(&seed.practitioners) {
            resources.insert(("Practitioner", id), fhir::practitioner(clinician, id));
        }
        let mut store = Self { practice, resources, state, disk };
        match &store.state.seed {
            None => store.commit(store.initial_changes(now))?,
            Some(made_with) if *made_with == seed.text => {}
            Some(_) => {
                return Err(DiskStoreError::new(format!(
                    "the store of {} was made with another seed: restore that seed, or remove the store",
                    store.practice.ods
                )));
            }
        }
        store.extend_slots(now)?;
        Ok(store)
    }

    /// Deletes all data and restores the initial data.
    pub(super) fn reset(&mut self, now: Timestamp) -> Result<(), DiskStoreError> {
        if let Some(disk) = &self.disk {
            disk.clear(&self.practice.ods)?;
        }
        self.state = StoredState::default();
        self.commit(self.initial_changes(now))?;
        self.extend_slots(now)
    }

    /// Returns the changes that store the initial patients and the seed's text.
    fn initial_changes(&self, now: Timestamp) -> Vec<Change> {
        let patients = self
            .practice
            .seed
            .people()
            .into_iter()
            .filter(|person| person.registration.has_practice_record());
        let change = |(id, person): (u32, InventedPerson)| {
            let resource = fhir::patient(id, &person, ORGANISATION, now);
            let InventedPerson { nhs_number, registration, .. } = person;
            Change::Patient(id, Patient { nhs_number, registration, resource })
        };
        let mut changes: Vec<Change> = (1..).zip(patients).map(change).collect();
        changes.push(Change::Seed(self.practice.seed.text.clone()));
        changes
    }

    /// Adds the slots of the days that the seed's weeks newly reach at `now`.
    pub(super) fn extend_slots(&mut self, now: Timestamp) -> Result<(), DiskStoreError> {
        let wanted: Vec<Date> = self.practice.seed.days(local_time::day(now)).collect();
        let exists = |day: &&Date| self.state.days.contains(*day);
        // The clock may have been set back and forth.
        let days: Vec<Date> = wanted.iter().filter(|day| !exists(day)).copied().collect();
        let excess = (self.state.days.len() + days.len()).saturating_sub(DAYS_MAX);
        let others = self.state.days.iter().filter(|day| !wanted.contains(day));
        let removals = self.state.removal_of(&others.take(excess).copied().collect());
        let slots = days.iter().flat_map(|day| self.practice.seed.slots(*day));
        let slots = (next_id(&self.state.slots)..).zip(slots);
        let mut changes: Vec<Change> = slots.map(|(id, slot)| Change::Slot(id, slot)).collect();
        changes.extend(days.into_iter().map(Change::Day));
        changes.extend(removals);
        self.commit(changes)
    }

    /// Commits changes, to disk first: all of them, or none.
    pub(super) fn commit(&mut self, changes: Vec<Change>) -> Result<(), DiskStoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        if let Some(disk) = &self.disk {
            disk.write(&self.practice.ods, &changes)?;
        }
        for change in changes {
            self.state.apply(change);
        }
        Ok(())
    }

    /// Returns the schedule with this number, if there is one.
    pub(super) fn session(&self, number: u32) -> Option<&Session> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        self.practice.seed.sessions.get(at)
    }

    /// Returns the start of a schedule's first slot and the end of its last.
    pub(super) fn period_of(&self, schedule: u32) -> Option<TimePeriod> {
        let slots = || self.state.slots.values().filter(|slot| slot.schedule == schedule);
        let start = slots().map(|slot| slot.start).min()?;
        let end = slots().map(|slot| slot.end).max()?;
        Some(TimePeriod { start, end })
    }

    pub(super) const fn slots(&self) -> &BTreeMap<u32, StoredSlot> {
        &self.state.slots
    }

    pub(super) const fn bookings(&self) -> &BTreeMap<u32, Booking> {
        &self.state.bookings
    }

    /// Returns a practitioner, organisation, location or patient by its id as sent.
    pub(super) fn resource(&self, kind: &'static str, id: &str) -> Option<&Value> {
        self.resource_by_number(kind, number(id)?)
    }

    /// Returns a practitioner, organisation, location or patient by its number.
    ///
    /// Patients who have left, have died or are sensitive are not found.
    pub(super) fn resource_by_number(&self, kind: &'static str, id: u32) -> Option<&Value> {
        if kind != "Patient" {
            return self.resources.get(&(kind, id));
        }
        let patient = self.state.patients.get(&id)?;
        patient.registration.is_visible_to_consumers().then_some(&patient.resource)
    }

    /// Returns all resources of a kind that have this identifier.
    pub(super) fn find_by_identifier(&self, kind: &str, system: &str, value: &str) -> Vec<&Value> {
        let fixed = self.resources.iter().filter(|((own, _), _)| *own == kind);
        let fixed = fixed.map(|(_, resource)| resource);
        let patients = self.state.patients.values();
        let patients = patients.filter(|patient| patient.registration.is_visible_to_consumers());
        let patients = patients.filter(|_| kind == "Patient").map(|patient| &patient.resource);
        fixed
            .chain(patients)
            .filter(|resource| {
                fhir::items(resource, "/identifier").iter().any(|identifier| {
                    fhir::text(identifier, "/system") == Some(system)
                        && fhir::text(identifier, "/value") == Some(value)
                })
            })
            .collect()
    }

    /// Returns true if a patient with this NHS number can be found at the practice.
    pub(super) fn is_patient(&self, nhs_number: &str) -> bool {
        let mut patients = self.state.patients.values();
        patients.any(|patient| {
            patient.nhs_number == nhs_number && patient.registration.is_visible_to_consumers()
        })
    }

    /// Returns the person with this NHS number in the simulated national register.
    pub(super) fn in_national_register(&self, nhs_number: &str) -> Option<InventedPerson> {
        self.practice.seed.people().into_iter().find(|person| person.nhs_number == nhs_number)
    }

    /// Returns the practice's own organisation.
    pub(super) fn organisation(&self) -> Option<&Value> {
        self.resource_by_number("Organization", ORGANISATION)
    }

    /// Returns the changes that give these slots a state; a slot in another state gets a new version.
    pub(super) fn changes_to_state(&self, slots: &[u32], state: SlotState) -> Vec<Change> {
        let changes = slots.iter().filter_map(|id| {
            let slot = self.state.slots.get(id).filter(|slot| slot.state != state)?;
            let version = slot.version + 1;
            Some(Change::Slot(*id, StoredSlot { state, version, ..slot.clone() }))
        });
        changes.collect()
    }

    /// Returns the id for the next appointment.
    pub(super) fn next_booking(&self) -> u32 {
        next_id(&self.state.bookings)
    }

    /// Returns the id for the next patient.
    pub(super) fn next_patient(&self) -> u32 {
        next_id(&self.state.patients)
    }
}

fn next_id<T>(map: &BTreeMap<u32, T>) -> u32 {
    map.last_key_value().map_or(1, |(last, _)| last + 1)
}

/// Parses an id; a number in another form, such as `01`, is not an id.
pub(super) fn number(id: &str) -> Option<u32> {
    id.parse().ok().filter(|number: &u32| number.to_string() == id)
}

#[cfg(test)]
mod tests {
    use super::super::stage::{now, practices};
    use super::*;

    #[test]
    fn each_day_adds_slots_at_the_end_of_the_weeks() {
        let mut store = Store::open(practices().remove(0), None, now()).unwrap();
        let before = store.slots().len();
        store.extend_slots(now()).unwrap();
        assert_eq!(store.slots().len(), before);
        let tomorrow: Timestamp = "2026-03-26T00:00:01Z".parse().unwrap();
        store.extend_slots(tomorrow).unwrap();
        assert!(store.slots().len() > before);
        let last = store.slots().values().map(|slot| slot.start).max().unwrap();
        assert_eq!(local_time::day(last).to_string(), "2026-05-07");
    }

    #[test]
    fn any_clock_setting_has_slots_and_their_number_is_limited() {
        let mut store = Store::open(practices().remove(0), None, now()).unwrap();
        let one = store.slots().len();
        for at in ["2025-11-22T10:00:00Z", "9999-12-30T00:00:00Z", "2031-01-01T00:00:00Z"] {
            store.extend_slots(at.parse().unwrap()).unwrap();
            assert!(store.slots().len() <= one * 5, "{at}");
        }
        let count = store.slots().len();
        let day = |at: &StoredSlot| local_time::day(at.start).to_string();
        assert!(store.slots().values().any(|slot| day(slot) == "2025-11-24"));
        assert!(store.slots().values().any(|slot| day(slot) == "2031-01-02"));
        store.extend_slots(now()).unwrap();
        assert_eq!(store.slots().len(), count);
        let mut year = 2100;
        while year < 2140 {
            store.extend_slots(format!("{year}-06-01T00:00:00Z").parse().unwrap()).unwrap();
            year += 1;
            let last = store.slots().values().map(|slot| slot.start).max().unwrap();
            assert!(last.to_string() > format!("{}-07", year - 1), "{year}");
            assert!(store.state.days.len() <= DAYS_MAX);
        }
        store.extend_slots(now()).unwrap();
        assert!(store.slots().values().any(|slot| day(slot) == "2026-03-26"));
    }

    #[test]
    fn an_id_has_only_one_spelling() {
        assert_eq!(number("12"), Some(12));
        for other in ["", "+12", "012", " 12", "12a", "8888888888"] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
