//! Names by which people write an interaction on a command line.

use std::fmt;

use super::{CATALOGUE, GPCONNECT, Interaction, PREFIX};

/// Words for interactions whose id does not end in the word that people use.
const WORDS: [(&str, &str); 8] = [
    ("slots", "fhir:rest:search:slot-1"),
    ("book", "fhir:rest:create:appointment-1"),
    ("amend", "fhir:rest:update:appointment-1"),
    ("cancel", "fhir:rest:cancel:appointment-1"),
    ("register", "fhir:operation:gpc.registerpatient-1"),
    ("patients", "fhir:rest:search:patient-1"),
    ("documents", "documents:fhir:rest:search:documentreference-1"),
    ("structured", "fhir:operation:gpc.getstructuredrecord-1"),
];
/// Version that ends every id, and that a name may leave out.
const VERSION: &str = "-1";
/// Limit: bytes of a text for which the nearest interaction is looked for; the longest id has 79.
const COMPARED_BYTES_MAX: usize = 128;
/// Similarity, from 0 to 1, from which an interaction is named as the nearest.
const SIMILARITY_MIN: f64 = 0.7;

/// Error returned when a name does not stand for exactly one interaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameFault {
    /// Several interactions end in it.
    Ambiguous {
        /// Name as it was written.
        name: String,
        /// Interactions that end in it, in the order of the catalogue.
        candidates: Vec<&'static Interaction>,
    },
    /// No interaction ends in it.
    Unknown {
        /// Name as it was written.
        name: String,
        /// Interaction with the most similar name, if one is similar.
        nearest: Option<&'static Interaction>,
    },
}

/// Finds the interaction that a name stands for, in either case.
///
/// A name is an id, the id without `urn:nhs:names:services:gpconnect:`, a word such as `book`, or the end of one
/// id after a `:`, `.` or `_`, with or without `-1`.
///
/// Of several interactions with the same end, the one of the capability that appointments belong to is meant,
/// if it is alone in that: `metadata` is not that of the structured record.
///
/// # Errors
/// Returns the candidates if there are several, or the nearest interaction if there is none.
pub fn named(name: &str) -> Result<&'static Interaction, NameFault> {
    let is_id = |known: &&Interaction| {
        known.id.eq_ignore_ascii_case(name) || known.short_id().eq_ignore_ascii_case(name)
    };
    if let Some(exact) = CATALOGUE.iter().find(is_id).or_else(|| by_word(name)) {
        return Ok(exact);
    }
    let candidates: Vec<_> = CATALOGUE.iter().filter(|known| ends(known.id, name)).collect();
    let is_usual = |known: &&Interaction| known.capability == GPCONNECT;
    let usual: Vec<_> = candidates.iter().copied().filter(is_usual).collect();
    match (&candidates[..], &usual[..]) {
        ([only], _) | (_, [only]) => Ok(only),
        ([], _) => Err(NameFault::Unknown { name: name.to_owned(), nearest: nearest(name) }),
        _ => Err(NameFault::Ambiguous { name: name.to_owned(), candidates }),
    }
}

fn by_word(name: &str) -> Option<&'static Interaction> {
    let (_, short) = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(name))?;
    CATALOGUE.iter().find(|known| known.short_id() == *short)
}

/// Returns true if an id ends in the name, and the part before the name ends in a separator.
fn ends(id: &str, name: &str) -> bool {
    let id = if name.ends_with(VERSION) { id } else { id.strip_suffix(VERSION).unwrap_or(id) };
    let Some(start) = id.len().checked_sub(name.len()) else { return false };
    let (before, end) = (id.get(..start), id.get(start..));
    !name.is_empty()
        && end.is_some_and(|end| end.eq_ignore_ascii_case(name))
        && before.is_some_and(|before| before.ends_with([':', '.', '_']))
}

/// Returns the interaction whose id, or an end of it, or a word for it, is most similar to a text; `None` if none
/// is similar.
#[must_use]
pub fn nearest(text: &str) -> Option<&'static Interaction> {
    if text.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let text = text.to_ascii_lowercase();
    // What all ids begin with makes any two similar, and may be what is missing.
    let text = text.strip_prefix(PREFIX).unwrap_or(&text);
    let words = WORDS.iter().filter_map(|(word, _)| Some((*word, by_word(word)?)));
    let ids = CATALOGUE.iter().flat_map(|known| ends_of(known).map(move |end| (end, known)));
    let rated = words
        .chain(ids)
        .map(|(name, known)| (strsim::normalized_damerau_levenshtein(name, text), known));
    let (similarity, nearest) = rated.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (similarity >= SIMILARITY_MIN).then_some(nearest)
}

/// Returns the short id and its ends after each colon, without the version and with it.
fn ends_of(known: &Interaction) -> impl Iterator<Item = &'static str> {
    let short = known.short_id();
    let after_colons = short.match_indices(':').filter_map(|(at, _)| short.get(at + 1..));
    let all = after_colons.chain([short]);
    all.flat_map(|end| [end, end.strip_suffix(VERSION).unwrap_or(end)])
}

impl fmt::Display for NameFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous { name, candidates } => {
                let ids: Vec<_> = candidates.iter().map(|known| known.short_id()).collect();
                write!(out, "{name:?} may be any of {}", ids.join(", "))
            }
            Self::Unknown { name, nearest: Some(nearest) } => {
                write!(out, "{name:?} is no interaction; the nearest is {}", nearest.short_id())
            }
            Self::Unknown { name, nearest: None } => {
                let words: Vec<_> = WORDS.iter().map(|(word, _)| *word).collect();
                write!(
                    out,
                    "{name:?} is no interaction; write an id without {PREFIX}, an end of it such as \
                     search:slot or metadata, or one of {}",
                    words.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for NameFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_id_a_word_or_an_end_that_fits_one_interaction() {
        for (name, short) in [
            ("urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1", "fhir:rest:search:slot-1"),
            ("fhir:rest:search:slot-1", "fhir:rest:search:slot-1"),
            ("rest:search:slot-1", "fhir:rest:search:slot-1"),
            ("search:slot", "fhir:rest:search:slot-1"),
            ("slot-1", "fhir:rest:search:slot-1"),
            ("Slots", "fhir:rest:search:slot-1"),
            ("book", "fhir:rest:create:appointment-1"),
            ("create:appointment-1", "fhir:rest:create:appointment-1"),
            ("cancel", "fhir:rest:cancel:appointment-1"),
            ("amend", "fhir:rest:update:appointment-1"),
            ("read:appointment", "fhir:rest:read:appointment-1"),
            ("appointments", "fhir:rest:search:patient_appointments-1"),
            ("metadata", "fhir:rest:read:metadata-1"),
            ("rest:read:metadata-1", "fhir:rest:read:metadata-1"),
            ("structured:fhir:rest:read:metadata", "structured:fhir:rest:read:metadata-1"),
            ("search:patient", "fhir:rest:search:patient-1"),
            ("documents:fhir:rest:search:patient-1", "documents:fhir:rest:search:patient-1"),
            ("registerpatient", "fhir:operation:gpc.registerpatient-1"),
            ("location", "fhir:rest:read:location-1"),
        ] {
            assert_eq!(named(name).map(Interaction::short_id), Ok(short), "{name}");
        }
    }

    #[test]
    fn every_id_and_every_word_names_itself() {
        for known in &CATALOGUE {
            assert_eq!(named(known.id), Ok(known));
            assert_eq!(named(known.short_id()), Ok(known));
        }
        for (word, short) in WORDS {
            assert_eq!(named(word).map(Interaction::short_id), Ok(short), "{word}");
        }
    }

    #[test]
    fn an_end_of_several_interactions_is_refused_with_all_of_them() {
        let said = named("appointment").unwrap_err().to_string();
        for kind in ["read", "create", "update", "cancel"] {
            assert!(said.contains(&format!("fhir:rest:{kind}:appointment-1")), "{said}");
        }
        assert!(!said.contains("slot"), "{said}");
        assert!(named("patient").unwrap_err().to_string().contains("read:patient-1"));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_one() {
        for (name, nearest) in [
            ("serach:slot", "search:slot-1"),
            ("metdata", "read:metadata-1"),
            ("boook", "create:appointment-1"),
            ("fhir:rest:search:slot-2", "search:slot-1"),
            ("urn:nhs:names:services:gpconnect:fhir:rest:search:slots-1", "search:slot-1"),
        ] {
            let said = named(name).unwrap_err().to_string();
            assert!(said.contains("the nearest is") && said.contains(nearest), "{said}");
        }
        for name in ["", "-1", "ppointment-1", "urn:x", "9000000009"] {
            let fault = named(name).unwrap_err();
            assert!(matches!(fault, NameFault::Unknown { .. }), "{name}: {fault}");
        }
        assert!(named("urn:x").unwrap_err().to_string().contains("slots, book"));
    }

    #[test]
    fn the_nearest_interaction_is_that_of_a_slip_and_of_no_other_text() {
        let slots = CATALOGUE[0].id;
        for slip in [
            slots.strip_suffix("-1").unwrap(),
            &slots.replace("slot", "Slot"),
            &slots.replace("-1", "-2"),
            &slots.to_uppercase(),
            CATALOGUE[0].short_id(),
        ] {
            assert_eq!(nearest(slip).map(|known| known.id), Some(slots), "{slip}");
        }
        for other in [
            "",
            "x",
            "9990000018",
            "urn:nhs:names:services:nrls:fhir:rest:search:documentreference",
        ] {
            assert_eq!(nearest(other), None, "{other}");
        }
        assert_eq!(nearest(&slots.repeat(3)), None);
    }
}
