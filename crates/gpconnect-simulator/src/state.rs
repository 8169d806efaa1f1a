//! Data of a practice, and the changes to it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::local_time;
use super::people::Registration;

/// Changeable data of a practice, stored on disk.
#[derive(Debug, Default)]
pub(super) struct StoredState {
    pub(super) slots: BTreeMap<u32, StoredSlot>,
    pub(super) bookings: BTreeMap<u32, Booking>,
    pub(super) patients: BTreeMap<u32, Patient>,
    /// Days for which there are slots.
    pub(super) days: BTreeSet<Date>,
    /// Source text of the seed that the data were made from; `None` for a new store.
    pub(super) seed: Option<String>,
}

/// A slot of a schedule, for one patient.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredSlot {
    pub(super) schedule: u32,
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    pub(super) channel: Channel,
    pub(super) state: SlotState,
    pub(super) version: u32,
}

/// Availability of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SlotState {
    Free,
    Busy,
}

/// An appointment, booked or cancelled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Booking {
    pub(super) patient: u32,
    pub(super) slots: Vec<u32>,
    pub(super) start: Timestamp,
    pub(super) version: u32,
    pub(super) resource: Value,
}

/// A patient of the practice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Patient {
    pub(super) nhs_number: String,
    #[serde(rename = "standing")]
    pub(super) registration: Registration,
    pub(super) resource: Value,
}

/// One change to the data of a practice.
#[derive(Debug)]
pub(super) enum Change {
    Slot(u32, StoredSlot),
    Booking(u32, Booking),
    Patient(u32, Patient),
    Day(Date),
    Seed(String),
    /// Removal of a slot.
    RemoveSlot(u32),
    /// Removal of a day.
    RemoveDay(Date),
}

/// Delivery channel of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(super) enum Channel {
    #[serde(rename = "In-person")]
    InPerson,
    Telephone,
    Video,
}

impl StoredSlot {
    /// Returns a free slot of a schedule, in its first version.
    pub(super) const fn free(
        schedule: u32,
        start: Timestamp,
        end: Timestamp,
        channel: Channel,
    ) -> Self {
        Self { schedule, start, end, channel, state: SlotState::Free, version: 1 }
    }
}

impl Channel {
    /// Returns the code of the channel.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::InPerson => "In-person",
            Self::Telephone => "Telephone",
            Self::Video => "Video",
        }
    }
}

impl StoredState {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Slot(id, slot) => drop(self.slots.insert(id, slot)),
            Change::Booking(id, booking) => drop(self.bookings.insert(id, booking)),
            Change::Patient(id, patient) => drop(self.patients.insert(id, patient)),
            Change::Day(day) => drop(self.days.insert(day)),
            Change::Seed(text) => self.seed = Some(text),
            Change::RemoveSlot(id) => drop(self.slots.remove(&id)),
            Change::RemoveDay(day) => drop(self.days.remove(&day)),
        }
    }

    /// Returns the changes that remove these days and those of their slots that were never booked.
    pub(super) fn removal_of(&self, days: &BTreeSet<Date>) -> Vec<Change> {
        if days.is_empty() {
            return Vec::new();
        }
        let booked: BTreeSet<u32> =
            self.bookings.values().flat_map(|booking| booking.slots.iter().copied()).collect();
        let slots = self.slots.iter().filter(|(id, slot)| {
            !booked.contains(id) && days.contains(&local_time::day(slot.start))
        });
        let slots = slots.map(|(id, _)| Change::RemoveSlot(*id));
        slots.chain(days.iter().copied().map(Change::RemoveDay)).collect()
    }
}
