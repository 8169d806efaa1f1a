//! The store of one practice, and what is in it to begin with.
//!
//! The store answers questions and takes changes; what may be asked and changed is decided by the
//! interactions.

use std::collections::BTreeMap;

use jiff::civil::{Date, Weekday};
use jiff::{Timestamp, ToSpan};
use serde_json::Value;

use super::people::people;
use super::{Practice, fhir, local_time};

/// Everything a practice knows.
pub(super) struct Store {
    /// Patients, practitioners, organisations and locations: these never change.
    resources: BTreeMap<(&'static str, u32), Value>,
    pub(super) schedules: BTreeMap<u32, Schedule>,
    pub(super) slots: BTreeMap<u32, Slot>,
    pub(super) bookings: BTreeMap<u32, Booking>,
}

/// A practitioner's surgery at a location.
pub(super) struct Schedule {
    pub(super) practitioner: u32,
    pub(super) location: u32,
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

/// A stretch of a schedule that one patient may have.
pub(super) struct Slot {
    pub(super) schedule: u32,
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    pub(super) state: SlotState,
    pub(super) version: u32,
}

/// Whether a slot may be booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    Free,
    Busy,
}

/// An appointment, whatever has become of it.
pub(super) struct Booking {
    pub(super) patient: u32,
    pub(super) slots: Vec<u32>,
    pub(super) start: Timestamp,
    pub(super) version: u32,
    pub(super) resource: Value,
}

const DAYS: usize = 14;
const SLOTS_PER_DAY: i64 = 18;
const SLOT_MINUTES: i64 = 10;
const ORGANISATION: u32 = 1;
const LOCATION: u32 = 1;

impl Store {
    /// A practice as it is before anybody has booked.
    pub(super) fn seeded(practice: &Practice, now: Timestamp) -> Self {
        let mut store = Self {
            resources: BTreeMap::new(),
            schedules: BTreeMap::new(),
            slots: BTreeMap::new(),
            bookings: BTreeMap::new(),
        };
        store.put("Organization", ORGANISATION, fhir::organisation(practice, ORGANISATION));
        store.put("Location", LOCATION, fhir::location(practice, LOCATION, ORGANISATION));
        for (id, (family, given)) in (1..).zip([("Blackwood", "Alison"), ("Okafor", "David")]) {
            store.put("Practitioner", id, fhir::practitioner(id, family, given));
        }
        let here = people().into_iter().filter(|person| person.standing.is_here());
        for (id, person) in (1..).zip(here) {
            store.put("Patient", id, fhir::patient(id, &person, ORGANISATION));
        }
        for practitioner in [1, 2] {
            store.open_schedule(practitioner, now);
        }
        store
    }

    fn put(&mut self, kind: &'static str, id: u32, resource: Value) {
        self.resources.insert((kind, id), resource);
    }

    /// Gives a practitioner a schedule with free slots on each of the next weekdays.
    fn open_schedule(&mut self, practitioner: u32, now: Timestamp) {
        let days: Vec<Date> = weekdays_after(local_time::day(now)).take(DAYS).collect();
        let schedule = practitioner;
        let mut slots = days.iter().flat_map(|day| slots_of(*day, schedule)).peekable();
        let start = slots.peek().map_or(now, |slot| slot.start);
        let mut end = start;
        for slot in slots {
            end = slot.end;
            self.slots.insert(next_id(&self.slots), slot);
        }
        let opened = Schedule { practitioner, location: LOCATION, start, end };
        self.schedules.insert(schedule, opened);
    }

    /// A patient, practitioner, organisation or location by its id as sent.
    pub(super) fn resource(&self, kind: &'static str, id: &str) -> Option<&Value> {
        self.resources.get(&(kind, number(id)?))
    }

    /// The same, by the number of its id.
    pub(super) fn known(&self, kind: &'static str, id: u32) -> Option<&Value> {
        self.resources.get(&(kind, id))
    }

    /// All resources of a kind that have this identifier.
    pub(super) fn identified(&self, kind: &str, system: &str, value: &str) -> Vec<&Value> {
        let of_kind = self.resources.iter().filter(|((known, _), _)| *known == kind);
        of_kind
            .map(|(_, resource)| resource)
            .filter(|resource| {
                fhir::items(resource, "/identifier").iter().any(|identifier| {
                    fhir::text(identifier, "/system") == Some(system)
                        && fhir::text(identifier, "/value") == Some(value)
                })
            })
            .collect()
    }

    /// The organisation itself.
    pub(super) fn organisation(&self) -> Option<&Value> {
        self.known("Organization", ORGANISATION)
    }

    /// Gives slots a new state; each that had another gets a new version.
    pub(super) fn mark(&mut self, slots: &[u32], state: SlotState) {
        for id in slots {
            if let Some(slot) = self.slots.get_mut(id).filter(|slot| slot.state != state) {
                slot.state = state;
                slot.version += 1;
            }
        }
    }

    /// The id that the next appointment gets.
    pub(super) fn next_booking(&self) -> u32 {
        next_id(&self.bookings)
    }
}

fn next_id<T>(map: &BTreeMap<u32, T>) -> u32 {
    map.last_key_value().map_or(1, |(last, _)| last + 1)
}

/// Ids are counted here; the same number written another way is another id, and unknown.
pub(super) fn number(id: &str) -> Option<u32> {
    id.parse().ok().filter(|number: &u32| number.to_string() == id)
}

fn weekdays_after(today: Date) -> impl Iterator<Item = Date> {
    let days = today.series(1.day()).skip(1);
    days.filter(|day| !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday))
}

/// The slots of one morning, from nine o'clock on the practice's clock.
fn slots_of(day: Date, schedule: u32) -> impl Iterator<Item = Slot> {
    let opens = local_time::instant(day, 9, 0).into_iter();
    opens.flat_map(move |opens| {
        (0..SLOTS_PER_DAY).filter_map(move |at| {
            let start = opens.checked_add((at * SLOT_MINUTES).minutes()).ok()?;
            let end = start.checked_add(SLOT_MINUTES.minutes()).ok()?;
            Some(Slot { schedule, start, end, state: SlotState::Free, version: 1 })
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::stage::{now, practices};
    use super::*;

    #[test]
    fn a_practice_opens_on_the_next_fourteen_weekdays() {
        let store = Store::seeded(&practices()[0], now());
        assert_eq!(store.slots.len(), 2 * 14 * 18);
        let days: BTreeSet<Date> =
            store.slots.values().map(|slot| local_time::day(slot.start)).collect();
        assert_eq!(days.len(), 14);
        assert_eq!(days.first().unwrap().to_string(), "2026-03-26");
        assert_eq!(days.last().unwrap().to_string(), "2026-04-14");
        assert!(days.iter().all(|day| day.weekday().to_monday_one_offset() <= 5));
        for slot in store.slots.values() {
            let hour = local_time::local(slot.start).hour();
            assert!((9..12).contains(&hour) && slot.start.duration_until(slot.end).as_mins() == 10);
        }
    }

    #[test]
    fn an_id_is_written_one_way() {
        assert_eq!(number("12"), Some(12));
        for other in ["", "+12", "012", " 12", "12a", "8888888888"] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
