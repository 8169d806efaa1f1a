//! Initial data of a practice, parsed from TOML.

use jiff::civil::{Date, Time, Weekday};
use jiff::{SignedDuration, ToSpan};
use serde::Deserialize;

use super::codes::{GENDERS, ORGANISATION_TYPES, ROLES};
use super::local_time;
use super::markup::is_char;
use super::people::{InventedPerson, is_nhs_number};
use super::state::{Channel, StoredSlot};
use spine_types::OdsCode;

/// Initial data of a practice: locations, practitioners, sessions and people.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Seed {
    /// Weeks ahead for which there are slots, from 1 to 26.
    pub(super) weeks: u8,
    #[serde(rename = "location")]
    pub(super) locations: Vec<SeedLocation>,
    #[serde(rename = "practitioner")]
    pub(super) practitioners: Vec<Clinician>,
    #[serde(rename = "session")]
    pub(super) sessions: Vec<Session>,
    /// People of the practice; an empty list stands for the built-in people.
    #[serde(rename = "person", default)]
    people: Vec<InventedPerson>,
    /// Source text, compared with that of the store: a store made with another seed is refused.
    #[serde(skip)]
    pub(super) text: String,
}

/// A place where patients are seen.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SeedLocation {
    pub(super) name: String,
    pub(super) line: String,
    pub(super) city: String,
    pub(super) postal_code: String,
    pub(super) phone: String,
}

/// A practitioner who sees patients.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Clinician {
    pub(super) family: String,
    pub(super) given: String,
    pub(super) prefix: String,
    pub(super) sds_user_id: String,
    #[serde(default)]
    pub(super) role_profiles: Vec<String>,
}

/// One practitioner at one place, the same hours each day: a `Schedule`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Session {
    /// Number of the practitioner in this file, from one.
    pub(super) practitioner: u32,
    /// Number of the location in this file, from one.
    pub(super) location: u32,
    /// Code of the practitioner's role.
    pub(super) role: String,
    /// Delivery channels of the slots, in rotation.
    channels: Vec<Channel>,
    pub(super) service_category: String,
    pub(super) service_type: String,
    #[serde(default = "weekdays")]
    days: Vec<Day>,
    from: Time,
    to: Time,
    minutes: u16,
    /// Types of organisation that it is offered to; an empty list stands for all.
    #[serde(default)]
    pub(super) organisation_types: Vec<String>,
    /// Organisations that it is offered to; an empty list stands for all.
    #[serde(default)]
    pub(super) organisations: Vec<OdsCode>,
    /// Embargo: number of days before its own day on which a slot is first offered.
    pub(super) released_days_before: Option<u16>,
    /// True if consumers may book its slots.
    #[serde(default = "yes")]
    pub(super) bookable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

const fn yes() -> bool {
    true
}

fn weekdays() -> Vec<Day> {
    vec![Day::Monday, Day::Tuesday, Day::Wednesday, Day::Thursday, Day::Friday]
}

/// Error returned when a seed is invalid.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Text that is not TOML, or has unknown keys or values.
    #[error(transparent)]
    Form(#[from] toml::de::Error),
    /// Session, by its number from one, with an invalid reference, time, role or restriction.
    #[error("session {0}: {1}")]
    Session(usize, &'static str),
    /// Text that is blank, or has characters that XML does not allow.
    #[error("the text {0} is blank or has a character that XML does not allow")]
    Text(String),
    /// Person, by their number from one, with an invalid NHS number, gender or birth date.
    #[error("person {0}: {1}")]
    Person(usize, &'static str),
    /// Number of weeks outside 1 to 26.
    #[error("weeks must be from 1 to 26")]
    Weeks,
}

/// Limit: minimum length of a slot, in minutes.
const MINUTES_MIN: u16 = 5;

impl Seed {
    /// Parses a seed from TOML.
    ///
    /// # Errors
    /// Returns an error if the text is not TOML, has unknown keys, or has an invalid session, person,
    /// text or number of weeks.
    pub fn parse(text: &str) -> Result<Self, SeedError> {
        let seed = Self { text: text.to_owned(), ..toml::from_str(text)? };
        if !(1..=26).contains(&seed.weeks) {
            return Err(SeedError::Weeks);
        }
        let texts = seed.texts();
        if let Some(text) = texts.iter().find(|text| !is_text(text)) {
            return Err(SeedError::Text(format!("{text:?}")));
        }
        for (at, session) in (1..).zip(&seed.sessions) {
            let exists = |number: u32, count: usize| {
                number > 0 && usize::try_from(number).is_ok_and(|number| number <= count)
            };
            for (is_valid, fault) in [
                (exists(session.practitioner, seed.practitioners.len()), "no such practitioner"),
                (exists(session.location, seed.locations.len()), "no such location"),
                (session.from < session.to, "it ends before it begins"),
                (session.minutes >= MINUTES_MIN, "a slot has at least five minutes"),
                (
                    session.from.duration_until(session.to).as_mins() >= i64::from(session.minutes),
                    "it is shorter than a slot",
                ),
                (!session.channels.is_empty(), "it has no channel"),
                (is_whole(session.from) && is_whole(session.to), "its times are not whole minutes"),
                (ROLES.contains(&&*session.role), "no such role"),
                (
                    session
                        .organisation_types
                        .iter()
                        .all(|kind| ORGANISATION_TYPES.contains(&&**kind)),
                    "no such type of organisation",
                ),
            ] {
                if !is_valid {
                    return Err(SeedError::Session(at, fault));
                }
            }
        }
        for (at, person) in seed.people.iter().enumerate() {
            let mut before = seed.people.iter().take(at);
            for (is_valid, fault) in [
                (is_nhs_number(&person.nhs_number), "the check digit of the NHS number is wrong"),
                (
                    !before.any(|other| other.nhs_number == person.nhs_number),
                    "the NHS number is given twice",
                ),
                (GENDERS.contains(&&*person.gender), "no such gender"),
                (person.birth_date.parse::<Date>().is_ok(), "the birth date is not a date"),
            ] {
                if !is_valid {
                    return Err(SeedError::Person(at + 1, fault));
                }
            }
        }
        Ok(seed)
    }

    /// Returns the texts of the seed that appear in resources.
    fn texts(&self) -> Vec<&String> {
        let places = self.locations.iter();
        let places =
            places.flat_map(|one| [&one.name, &one.line, &one.city, &one.postal_code, &one.phone]);
        let clinicians = self.practitioners.iter();
        let clinicians = clinicians.flat_map(|one| {
            let named = [&one.family, &one.given, &one.prefix, &one.sds_user_id];
            named.into_iter().chain(&one.role_profiles)
        });
        let people = self.people.iter().flat_map(|one| [&one.family, &one.given]);
        let sessions =
            self.sessions.iter().flat_map(|one| [&one.service_category, &one.service_type]);
        places.chain(clinicians).chain(people).chain(sessions).collect()
    }

    /// Returns the people with a record at the practice or in the national register.
    pub(super) fn people(&self) -> Vec<InventedPerson> {
        if self.people.is_empty() { super::people() } else { self.people.clone() }
    }

    /// Returns the days after `today` that have slots.
    pub(super) fn days(&self, today: Date) -> impl Iterator<Item = Date> {
        let last = today.saturating_add(i32::from(self.weeks).weeks());
        today.series(1.day()).skip(1).take_while(move |day| *day <= last)
    }

    /// Returns the slots of all sessions on a day.
    pub(super) fn slots(&self, day: Date) -> impl Iterator<Item = StoredSlot> {
        (1..).zip(&self.sessions).flat_map(move |(number, session)| session.slots(number, day))
    }
}

impl Session {
    /// Returns the slots of a day for the schedule with this number, in the practice's local time.
    fn slots(&self, schedule: u32, day: Date) -> impl Iterator<Item = StoredSlot> {
        let is_on = self.days.iter().any(|own| own.is(day.weekday()));
        let at = |time: Time| local_time::instant(day, time.hour(), time.minute());
        let hours = at(self.from).zip(at(self.to)).filter(|_| is_on);
        let length = SignedDuration::from_mins(i64::from(self.minutes));
        // Slots count elapsed time: local time skips or repeats an hour when the clocks change.
        hours.into_iter().flat_map(move |(opens, closes)| {
            let starts =
                std::iter::successors(Some(opens), move |start| start.checked_add(length).ok());
            starts.zip(self.channels.iter().cycle()).map_while(move |(start, channel)| {
                let end = start.checked_add(length).ok().filter(|end| *end <= closes)?;
                Some(StoredSlot::free(schedule, start, end, *channel))
            })
        })
    }
}

fn is_text(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().all(is_char)
}

fn is_whole(time: Time) -> bool {
    time.second() == 0 && time.subsec_nanosecond() == 0
}

impl Day {
    fn is(self, weekday: Weekday) -> bool {
        let ours = match self {
            Self::Monday => Weekday::Monday,
            Self::Tuesday => Weekday::Tuesday,
            Self::Wednesday => Weekday::Wednesday,
            Self::Thursday => Weekday::Thursday,
            Self::Friday => Weekday::Friday,
            Self::Saturday => Weekday::Saturday,
            Self::Sunday => Weekday::Sunday,
        };
        ours == weekday
    }
}

impl Default for Seed {
    /// Returns the built-in seed of the simulator.
    fn default() -> Self {
        Self::parse(include_str!("seed.toml")).unwrap_or_else(|_| Self {
            weeks: 1,
            locations: Vec::new(),
            practitioners: Vec::new(),
            sessions: Vec::new(),
            people: Vec::new(),
            text: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_built_in_seed_has_six_weeks_of_weekdays() {
        let seed = Seed::parse(include_str!("seed.toml")).unwrap();
        let today: Date = "2026-03-25".parse().unwrap();
        let slots: Vec<StoredSlot> = seed.days(today).flat_map(|day| seed.slots(day)).collect();
        let days: BTreeSet<Date> = slots.iter().map(|slot| local_time::day(slot.start)).collect();
        assert_eq!(days.len(), 30);
        assert_eq!(days.first().unwrap().to_string(), "2026-03-26");
        assert_eq!(days.last().unwrap().to_string(), "2026-05-06");
        assert!(days.iter().all(|day| day.weekday().to_monday_one_offset() <= 5));
        assert_eq!(slots.len(), 30 * (18 + 18 + 6 + 6 + 3 * 5));
        for slot in &slots {
            let hour = local_time::local(slot.start).hour();
            assert!((9..18).contains(&hour) && slot.start.duration_until(slot.end).as_mins() == 10);
        }
    }

    #[test]
    fn slots_neither_overlap_nor_run_backwards_when_the_clocks_change() {
        let text = include_str!("seed.toml");
        let (before, rest) = text.split_once("[[session]]").unwrap();
        let (first, _) = rest.split_once("\n\n").unwrap();
        let night = first.replace("09:00:00", "00:40:00").replace("12:00:00", "03:00:00");
        let seed =
            Seed::parse(&format!("{before}[[session]]{night}\ndays = [\"sunday\"]\n")).unwrap();
        for (day, count) in [("2026-03-22", 14), ("2026-03-29", 8), ("2026-10-25", 20)] {
            let slots: Vec<StoredSlot> = seed.slots(day.parse().unwrap()).collect();
            assert_eq!(slots.len(), count, "{day}");
            for (slot, next) in slots.iter().zip(slots.iter().skip(1)) {
                assert_eq!(slot.start.duration_until(slot.end).as_mins(), 10, "{day}");
                assert_eq!(slot.end, next.start, "{day}");
            }
        }
    }

    #[test]
    fn an_invalid_seed_is_refused_with_the_reason() {
        let good = include_str!("seed.toml");
        for (old, new, why) in [
            ("weeks = 6", "weeks = 0", "weeks must be from 1 to 26"),
            ("practitioner = 3", "practitioner = 4", "session 4: no such practitioner"),
            ("location = 2", "location = 0", "session 4: no such location"),
            ("minutes = 10", "minutes = 1", "session 1: a slot has at least five minutes"),
            ("to = \"12:00:00\"", "to = \"08:00:00\"", "session 1: it ends before it begins"),
            ("\"In-person\"", "\"By post\"", "unknown variant"),
            ("weeks = 6", "weeks = 6\nyears = 1", "unknown field"),
            ("09:00:00", "09:00:30", "session 1: its times are not whole minutes"),
            ("minutes = 10", "minutes = 200", "session 1: it is shorter than a slot"),
            ("\"Blackwood\"", "\" \"", "the text \" \" is blank"),
            ("\"Exampleton\"", "\"\\u0001\"", "that XML does not allow"),
            ("\"R0260\"", "\"R9\"", "session 1: no such role"),
            ("\"urgent-care\"", "\"a-friend\"", "session 5: no such type of organisation"),
        ] {
            let error = Seed::parse(&good.replacen(old, new, 1)).unwrap_err().to_string();
            assert!(error.contains(why), "{new}: {error}");
        }
        let person = "[[person]]\nnhs-number = \"9990000018\"\nfamily = \"Newly\"\ngiven = \"Ann\"\n\
            gender = \"female\"\nbirth-date = \"1980-01-01\"\nstanding = \"registered\"\n";
        let number = super::super::people()[0].nhs_number.clone();
        let person = person.replace("9990000018", &number);
        assert!(Seed::parse(&format!("{good}\n{person}")).is_ok());
        for (old, new, why) in [
            (number.as_str(), "9434765918", "person 1: the check digit"),
            ("female", "banana", "person 1: no such gender"),
            ("1980-01-01", "1980-02-30", "person 1: the birth date"),
            ("registered", "famous", "unknown variant"),
        ] {
            let error = Seed::parse(&format!("{good}\n{}", person.replace(old, new))).unwrap_err();
            assert!(error.to_string().contains(why), "{new}: {error}");
        }
        let twice = Seed::parse(&format!("{good}\n{person}\n{person}")).unwrap_err();
        assert_eq!(twice.to_string(), "person 2: the NHS number is given twice");
    }
}
