//! Codes that the profiles allow, as far as the simulator checks them.

/// Spec: codes of the types of organisation.
pub(super) const ORGANISATION_TYPES: [&str; 2] = ["gp-practice", "urgent-care"];
/// Codes of FHIR's administrative genders.
pub(super) const GENDERS: [&str; 4] = ["male", "female", "other", "unknown"];
/// Spec: the roles that a schedule's practitioner may have.
#[rustfmt::skip]
pub(super) const ROLES: [&str; 20] = [
    "R0260", "R0270", "R0410", "R0600", "R0610", "R0620", "R0680", "R0690", "R0700", "R0790", "R1290",
    "R1300", "R1310", "R1330", "R1450", "R1480", "R1550", "R1590", "R6200", "R6300",
];
