//! Catalogue of interactions, and the check that a request matches the one it names.
//!
//! Interactions are data: this module knows nothing about appointments.

use std::fmt;

use http::Method;

use PathSegment::{Id, Word};

mod name;

pub use name::{NameFault, named, nearest};

/// Group of interactions that are allowed, registered and configured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InteractionGroup {
    /// Appointment Management, with six interactions.
    Appointments,
    /// Foundations, the other interactions of a booking session.
    Foundations,
    /// Access Record Structured, for patients' records.
    Structured,
    /// Access Document, for patients' documents.
    Documents,
    /// Migration of whole records and documents between practices.
    Migrate,
}

impl InteractionGroup {
    /// All groups, in the order of the catalogue.
    pub const ALL: [Self; 5] =
        [Self::Appointments, Self::Foundations, Self::Structured, Self::Documents, Self::Migrate];

    /// Returns the group's name in the configuration and in directory files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Appointments => "appointments",
            Self::Foundations => "foundations",
            Self::Structured => "structured",
            Self::Documents => "documents",
            Self::Migrate => "migrate",
        }
    }
}

/// Segment of a path template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSegment {
    /// Exactly this word.
    Word(&'static str),
    /// Logical id of a FHIR resource.
    Id,
}

/// Effect of a request on the provider's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The request only reads, and may be repeated.
    Reads,
    /// The request writes, and must not be repeated.
    Writes,
}

/// Interaction as the specification defines it.
#[derive(Debug, PartialEq, Eq)]
pub struct Interaction {
    /// Id of the interaction, compared byte for byte.
    pub id: &'static str,
    /// Group that it belongs to.
    pub group: InteractionGroup,
    /// Path of its capability after `/{ODS}/STU3/1/` in form (b) of a target.
    pub capability: &'static str,
    /// HTTP method, the only one allowed.
    pub method: Method,
    /// Path template after the service root.
    pub path: &'static [PathSegment],
    /// Scope that the token must name first.
    pub scope: &'static str,
}

impl Effect {
    /// Returns the greatest effect that a request with this method may have.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        if *method == Method::GET { Self::Reads } else { Self::Writes }
    }
}

impl Interaction {
    /// Returns the effect, which decides whether the request may be repeated.
    #[must_use]
    pub fn effect(&self) -> Effect {
        Effect::of(&self.method)
    }

    /// Returns the path template as text without ids, such as `/Patient/[id]/Appointment`.
    #[must_use]
    pub fn template(&self) -> String {
        let step = |segment: &PathSegment| match segment {
            Word(word) => format!("/{word}"),
            Id => "/[id]".to_owned(),
        };
        self.path.iter().map(step).collect()
    }

    /// Returns true if the whole of `path` matches this interaction's template.
    #[must_use]
    pub fn is_path(&self, path: &str) -> bool {
        self.start_in(path) == Some(0)
    }

    /// Returns the byte offset in `path` at which this interaction's template begins; `None` if `path` does
    /// not end with it.
    #[must_use]
    pub fn start_in(&self, path: &str) -> Option<usize> {
        let mut start = path.len();
        for segment in self.path.iter().rev() {
            let head = path.get(..start)?;
            let slash = head.rfind('/')?;
            let found = head.get(slash + 1..)?;
            let fits = match segment {
                Word(word) => found == *word,
                Id => is_id(found),
            };
            if !fits {
                return None;
            }
            start = slash;
        }
        Some(start)
    }

    /// Returns the id without the part that all ids begin with, such as `fhir:rest:search:slot-1`.
    #[must_use]
    pub fn short_id(&self) -> &'static str {
        self.id.strip_prefix(PREFIX).unwrap_or(self.id)
    }

    /// Returns true if the interaction moves whole records between practices.
    #[must_use]
    pub fn migrates(&self) -> bool {
        self.group == InteractionGroup::Migrate
    }
}

/// Set of interactions that this gateway forwards.
#[derive(Clone, PartialEq, Eq)]
pub struct AllowedInteractions([bool; COUNT]);

impl AllowedInteractions {
    /// Names of the groups that are allowed by default.
    pub const DEFAULT: [&str; 2] =
        [InteractionGroup::Appointments.name(), InteractionGroup::Foundations.name()];

    /// Builds the set from names of groups and ids of interactions.
    ///
    /// # Errors
    /// Returns a text that quotes the first name that is neither.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut allowed = [false; COUNT];
        for name in names {
            let mut known = false;
            for (slot, interaction) in allowed.iter_mut().zip(&CATALOGUE) {
                if interaction.group.name() == name || interaction.id == name {
                    (*slot, known) = (true, true);
                }
            }
            if !known {
                return Err(format!(
                    "{name:?} is neither a group ({}) nor the id of a known interaction",
                    InteractionGroup::ALL.map(InteractionGroup::name).join(", ")
                ));
            }
        }
        Ok(Self(allowed))
    }

    /// Iterates over the allowed interactions, in the order of the catalogue.
    pub fn iter(&self) -> impl Iterator<Item = &'static Interaction> {
        CATALOGUE
            .iter()
            .zip(self.0)
            .filter_map(|(interaction, allowed)| allowed.then_some(interaction))
    }

    /// Returns true if an interaction is allowed.
    #[must_use]
    pub fn holds(&self, interaction: &Interaction) -> bool {
        self.iter().any(|allowed| allowed.id == interaction.id)
    }
}

impl fmt::Debug for AllowedInteractions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter().map(|interaction| interaction.id)).finish()
    }
}

/// Reason why a request is not the interaction that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InteractionFault {
    /// The catalogue has no such id.
    Unknown,
    /// The configuration does not allow it.
    NotAllowed(&'static Interaction),
    /// The interaction has another method.
    Method(&'static Interaction),
    /// The path does not end as the interaction's does.
    Path(&'static Interaction),
}

/// Finds the interaction that a request names, and checks that its method and path match it.
///
/// `path` is the whole path of the target, which must end with the interaction's template. The part before it
/// is checked later, against the directory.
///
/// # Errors
/// Returns the fault if the interaction is unknown, not allowed or does not match.
pub fn find(
    allowed: &AllowedInteractions,
    id: &str,
    method: &Method,
    path: &str,
) -> Result<&'static Interaction, InteractionFault> {
    let interaction = by_id(id).ok_or(InteractionFault::Unknown)?;
    if !allowed.holds(interaction) {
        return Err(InteractionFault::NotAllowed(interaction));
    }
    if interaction.method != method {
        return Err(InteractionFault::Method(interaction));
    }
    if interaction.start_in(path).is_none() {
        return Err(InteractionFault::Path(interaction));
    }
    Ok(interaction)
}

/// Returns the interaction with this id, whether allowed or not.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Interaction> {
    let short = id.strip_prefix(PREFIX)?;
    CATALOGUE.iter().find(|interaction| interaction.id.strip_prefix(PREFIX) == Some(short))
}

/// Security: `/Patient/`, `/Patient/$everything` and `/Patient/_history` are other interactions than reading
/// one patient, and the right to one gives no right to the others.
///
/// Spec: data type `id` of FHIR STU3.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

const PREFIX: &str = "urn:nhs:names:services:gpconnect:";
const GPCONNECT: &str = "gpconnect";
const STRUCTURED: &str = "gpconnect/structured";
const DOCUMENTS: &str = "gpconnect/documents";
const ORG_READ: &str = "organization/*.read";
const PATIENT_READ: &str = "patient/*.read";
const PATIENT_WRITE: &str = "patient/*.write";

const fn row(
    (group, capability): (InteractionGroup, &'static str),
    id: &'static str,
    method: Method,
    path: &'static [PathSegment],
    scope: &'static str,
) -> Interaction {
    Interaction { id, group, capability, method, path, scope }
}

macro_rules! id {
    ($rest:literal) => {
        concat!("urn:nhs:names:services:gpconnect:", $rest)
    };
}

const A: (InteractionGroup, &str) = (InteractionGroup::Appointments, GPCONNECT);
const F: (InteractionGroup, &str) = (InteractionGroup::Foundations, GPCONNECT);
const S: (InteractionGroup, &str) = (InteractionGroup::Structured, STRUCTURED);
const D: (InteractionGroup, &str) = (InteractionGroup::Documents, DOCUMENTS);

/// Spec: every interaction that this gateway knows, from "Interaction IDs" of GP Connect 1.2.7 and 1.6.
#[rustfmt::skip]
pub static CATALOGUE: [Interaction; COUNT] = [
    row(A, id!("fhir:rest:search:slot-1"), Method::GET, &[Word("Slot")], ORG_READ),
    row(A, id!("fhir:rest:read:appointment-1"), Method::GET, &[Word("Appointment"), Id], PATIENT_READ),
    row(A, id!("fhir:rest:create:appointment-1"), Method::POST, &[Word("Appointment")], PATIENT_WRITE),
    row(A, id!("fhir:rest:update:appointment-1"), Method::PUT, &[Word("Appointment"), Id], PATIENT_WRITE),
    row(A, id!("fhir:rest:cancel:appointment-1"), Method::PUT, &[Word("Appointment"), Id], PATIENT_WRITE),
    row(A, id!("fhir:rest:search:patient_appointments-1"), Method::GET, &[Word("Patient"), Id, Word("Appointment")], PATIENT_READ),

    row(F, id!("fhir:rest:read:metadata-1"), Method::GET, &[Word("metadata")], ORG_READ),
    row(F, id!("fhir:rest:read:patient-1"), Method::GET, &[Word("Patient"), Id], PATIENT_READ),
    row(F, id!("fhir:rest:search:patient-1"), Method::GET, &[Word("Patient")], PATIENT_READ),
    row(F, id!("fhir:rest:read:practitioner-1"), Method::GET, &[Word("Practitioner"), Id], ORG_READ),
    row(F, id!("fhir:rest:search:practitioner-1"), Method::GET, &[Word("Practitioner")], ORG_READ),
    row(F, id!("fhir:rest:read:organization-1"), Method::GET, &[Word("Organization"), Id], ORG_READ),
    row(F, id!("fhir:rest:search:organization-1"), Method::GET, &[Word("Organization")], ORG_READ),
    row(F, id!("fhir:rest:read:location-1"), Method::GET, &[Word("Location"), Id], ORG_READ),
    row(F, id!("fhir:operation:gpc.registerpatient-1"), Method::POST, &[Word("Patient"), Word("$gpc.registerpatient")], PATIENT_WRITE),

    row(S, id!("fhir:operation:gpc.getstructuredrecord-1"), Method::POST, &[Word("Patient"), Word("$gpc.getstructuredrecord")], PATIENT_READ),
    row(S, id!("structured:fhir:rest:read:metadata-1"), Method::GET, &[Word("metadata")], ORG_READ),

    row(D, id!("documents:fhir:rest:read:metadata-1"), Method::GET, &[Word("metadata")], ORG_READ),
    row(D, id!("documents:fhir:rest:search:patient-1"), Method::GET, &[Word("Patient")], PATIENT_READ),
    row(D, id!("documents:fhir:rest:search:documentreference-1"), Method::GET, &[Word("Patient"), Id, Word("DocumentReference")], PATIENT_READ),
    row(D, id!("documents:fhir:rest:read:binary-1"), Method::GET, &[Word("Binary"), Id], PATIENT_READ),

    row((InteractionGroup::Migrate, STRUCTURED), id!("fhir:operation:gpc.migratestructuredrecord-1"), Method::POST, &[Word("Patient"), Word("$gpc.migratestructuredrecord")], PATIENT_READ),
    row((InteractionGroup::Migrate, DOCUMENTS), id!("documents:fhir:rest:migrate:binary-1"), Method::GET, &[Word("Binary"), Id], PATIENT_READ),
];
const COUNT: usize = 23;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(short: &str) -> &'static Interaction {
        by_id(&format!("{PREFIX}{short}")).unwrap()
    }

    #[test]
    fn the_groups_have_the_sizes_the_specification_gives() {
        let count = |group| CATALOGUE.iter().filter(|known| known.group == group).count();
        assert_eq!(InteractionGroup::ALL.map(count), [6, 9, 2, 4, 2]);
        assert_eq!(
            AllowedInteractions::from_names(AllowedInteractions::DEFAULT).unwrap().iter().count(),
            15
        );
    }

    #[test]
    fn ids_are_compared_byte_for_byte() {
        for near in [
            "urn:nhs:names:services:gpconnect:fhir:rest:search:slot",
            "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-2",
            "urn:nhs:names:services:gpconnect:fhir:rest:search:Slot-1",
            "urn:nhs:names:services:careconnect:fhir:rest:search:slot",
            "urn:nhs:names:services:gpconnect:",
            "",
        ] {
            assert!(by_id(near).is_none(), "{near}");
        }
    }

    #[test]
    fn a_template_is_found_only_at_the_end_of_a_path() {
        let appointments = of("fhir:rest:search:patient_appointments-1");
        assert_eq!(appointments.start_in("/A20047/x/Patient/7/Appointment"), Some(9));
        assert!(appointments.is_path("/Patient/7/Appointment"));
        assert!(!appointments.is_path("/x/Patient/7/Appointment"));
        assert_eq!(appointments.start_in("/Patient/7/Appointments"), None);
        assert_eq!(appointments.start_in("/Patient/7/Appointment/"), None);
        assert_eq!(appointments.start_in("Appointment"), None);
        let read = of("fhir:rest:read:appointment-1");
        assert!(read.is_path("/Appointment/Invalid4321"));
        for other in ["/Appointment/", "/Appointment/$x", "/Appointment/_history"] {
            assert!(!read.is_path(other), "{other} is another call");
        }
        assert!(
            of("fhir:operation:gpc.registerpatient-1").is_path("/Patient/$gpc.registerpatient")
        );
        assert!(
            !of("fhir:operation:gpc.registerpatient-1").is_path("/Patient/%24gpc.registerpatient")
        );
        assert_eq!(appointments.template(), "/Patient/[id]/Appointment");
    }

    #[test]
    fn a_request_must_look_like_its_interaction() {
        let allowed = AllowedInteractions::from_names(AllowedInteractions::DEFAULT).unwrap();
        let slot = CATALOGUE[0].id;
        assert!(find(&allowed, slot, &Method::GET, "/p/Slot").is_ok());
        let no = |id: &str, method, path| find(&allowed, id, &method, path).unwrap_err();
        assert_eq!(no("urn:x", Method::GET, "/p/Slot"), InteractionFault::Unknown);
        let slots = &CATALOGUE[0];
        assert_eq!(no(slot, Method::POST, "/p/Slot"), InteractionFault::Method(slots));
        assert_eq!(no(slot, Method::GET, "/p/Appointment"), InteractionFault::Path(slots));
        let binary = of("documents:fhir:rest:read:binary-1");
        let refused = no(binary.id, Method::GET, "/Binary/1");
        assert_eq!(refused, InteractionFault::NotAllowed(binary));
    }

    #[test]
    fn an_allowed_list_names_groups_or_single_ids() {
        let mixed = AllowedInteractions::from_names(["appointments", CATALOGUE[6].id]).unwrap();
        assert_eq!(mixed.iter().count(), 7);
        assert!(
            AllowedInteractions::from_names(["appointment"]).unwrap_err().contains("appointments")
        );
    }
}
