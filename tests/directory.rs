//! The directory over the SDS FHIR API: its queries, the answers it accepts, and how long it caches them.

use gpconnect_simulator::sds::Records;

use testkit::sds::{BOOK, READ, SLOTS};

mod answers;
mod budgets;
mod file;
mod held;
#[cfg(feature = "redis")]
mod shared;
mod snapshot;
mod systems;

const ROOT: &str = "https://gp.example.nhs.uk/A20047/STU3/1/gpconnect";
const NEW_ROOT: &str = "https://other.example.nhs.uk/A20047/STU3/1/gpconnect";

fn practice() -> Records {
    Records::practice("A20047", "918999198993", "A20047-1000001", ROOT, &[SLOTS, BOOK, READ])
}

fn moved() -> Records {
    Records::practice("A20047", "918999198777", "A20047-2000002", NEW_ROOT, &[SLOTS, BOOK, READ])
}

/// Short deadlines, for tests in which a source does not answer.
const SHORT: &str =
    r#"deadlines = { attempt = "300ms", waiting = "700ms", circuit-open = "100ms" }"#;
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

const PINNED: &str = r#"
    [[provider]]
    ods = "A20047"
    asid = "918999198111"
    party-key = "A20047-1111111"
    cpa-id = "S000000000001"
    root = "https://pinned.example.nhs.uk/A20047/STU3/1/gpconnect"
    interactions = ["appointments"]
"#;
