//! Invented people: patients of every practice, and people only in the national register.

use serde::{Deserialize, Serialize};

/// An invented person for tests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct InventedPerson {
    /// NHS number from the range reserved for tests.
    pub nhs_number: String,
    /// Family name of the person.
    pub family: String,
    /// Given name of the person.
    pub given: String,
    /// FHIR administrative gender.
    pub gender: String,
    /// Birth date as `yyyy-MM-dd`.
    pub birth_date: String,
    /// Registration at the practice and in the national register.
    #[serde(rename = "standing")]
    pub registration: Registration,
}

/// Registration of a person at the practice and in the simulated national register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Registration {
    /// A patient of the practice.
    Registered,
    /// A temporary patient of the practice.
    Temporary,
    /// A patient of the practice who has left.
    Inactive,
    /// A patient of the practice who has died: no search finds them.
    Deceased,
    /// A patient of the practice with a sensitive record: no search finds them.
    Sensitive,
    /// A person only in the national register, who can be registered at the practice.
    Unregistered,
    /// A person who has died, according to the national register.
    DeceasedElsewhere,
    /// A person with a sensitive record, according to the national register.
    SensitiveElsewhere,
    /// An NHS number that has been replaced by another, according to the national register.
    Superseded,
}

/// Family name, given name, gender, birth date and registration of a person.
type PersonRow = (&'static str, &'static str, &'static str, &'static str, Registration);

#[rustfmt::skip]
const PEOPLE: [PersonRow; 14] = [
    ("Testwell", "Mary", "female", "1951-02-14", Registration::Registered),
    ("Samplefield", "Arun", "male", "1984-11-30", Registration::Registered),
    ("Mockridge", "Robin", "other", "2012-06-05", Registration::Registered),
    ("Tempest", "Olive", "female", "1990-04-01", Registration::Temporary),
    ("Leftwich", "George", "male", "1975-09-19", Registration::Inactive),
    ("Lateman", "Edith", "female", "1930-01-20", Registration::Deceased),
    ("Hiddleston", "Peter", "male", "1988-08-08", Registration::Sensitive),
    ("Newcombe", "Grace", "female", "1999-12-31", Registration::Unregistered),
    ("Arrivall", "Hugo", "male", "1967-03-03", Registration::Unregistered),
    ("Incomer", "Ivy", "female", "2001-07-17", Registration::Unregistered),
    ("Gonely", "Frank", "male", "1941-05-09", Registration::DeceasedElsewhere),
    ("Veilham", "Nora", "female", "1979-10-10", Registration::SensitiveElsewhere),
    ("Oldnumber", "Max", "male", "1963-02-02", Registration::Superseded),
    ("Settler", "June", "female", "1993-06-21", Registration::Unregistered),
];

/// Returns all invented people, patients first, in the order of their ids.
#[must_use]
pub fn people() -> Vec<InventedPerson> {
    let with_number = PEOPLE.iter().zip(nhs_numbers());
    let person = |(row, nhs_number): (&PersonRow, String)| InventedPerson {
        nhs_number,
        family: row.0.to_owned(),
        given: row.1.to_owned(),
        gender: row.2.to_owned(),
        birth_date: row.3.to_owned(),
        registration: row.4,
    };
    with_number.map(person).collect()
}

impl Registration {
    /// Returns true if consumers can find the person at the practice.
    #[must_use]
    pub const fn is_visible_to_consumers(self) -> bool {
        matches!(self, Self::Registered | Self::Temporary)
    }

    /// Returns true if the practice has a record of the person.
    #[must_use]
    pub const fn has_practice_record(self) -> bool {
        matches!(
            self,
            Self::Registered | Self::Temporary | Self::Inactive | Self::Deceased | Self::Sensitive
        )
    }
}

/// Returns NHS numbers from the range reserved for tests, each with its check digit.
fn nhs_numbers() -> impl Iterator<Item = String> {
    let bodies = (999_000_001..999_999_999_u32).map(|body| body.to_string());
    bodies.filter_map(|body| Some(format!("{body}{}", check_digit(&body)?)))
}

/// Returns true if the text is an NHS number: ten digits, the last of which checks the others.
pub(super) fn is_nhs_number(text: &str) -> bool {
    let split = text.split_at_checked(9).filter(|_| text.len() == 10);
    split.is_some_and(|(body, last)| {
        check_digit(body).is_some_and(|digit| last == digit.to_string())
    })
}

/// Spec: modulus 11 with the weights ten to two; returns `None` if the check digit would be ten.
fn check_digit(body: &str) -> Option<u32> {
    let digits: Option<Vec<u32>> = body.chars().map(|digit| digit.to_digit(10)).collect();
    let sum: u32 = digits?.iter().zip((2..=10).rev()).map(|(digit, weight)| digit * weight).sum();
    match 11 - sum % 11 {
        11 => Some(0),
        10 => None,
        digit => Some(digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nhs_numbers_have_a_check_digit() {
        assert!(is_nhs_number("9434765919"));
        assert!(is_nhs_number("9476719931"));
        for bad in ["9434765918", "943476591", "94347659190", "943476591x", "", "éééééé"] {
            assert!(!is_nhs_number(bad), "{bad}");
        }
        let people = people();
        assert!(people.iter().all(|person| is_nhs_number(&person.nhs_number)));
        assert!(people.iter().all(|person| person.nhs_number.starts_with("999")));
        let here =
            people.iter().take_while(|person| person.registration.has_practice_record()).count();
        assert!(people.iter().skip(here).all(|person| !person.registration.has_practice_record()));
    }
}
