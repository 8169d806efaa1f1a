//! Consumers and practices of the demonstration, which are also those of a lab that names none.

use super::settings::{LabConsumer, LabPractice, LabSettings};

/// ASID of the urgent care hub, the main consumer.
const HUB: &str = "200000000359";
const HUB_ODS: &str = "A00001";
/// ASID of the walk-in clinic, a consumer without an agreement and with one interaction.
const CLINIC: &str = "200000000360";
const CLINIC_ODS: &str = "A00002";
/// ASID of the out-of-hours service, a consumer registered and agreed with like the hub.
const NIGHT: &str = "200000000362";
const NIGHT_ODS: &str = "A00003";

/// Practice as the directory lists it.
struct ListedPractice {
    name: &'static str,
    ods: &'static str,
    asid: &'static str,
    supplier: usize,
    path: &'static str,
}

/// Hosts of the suppliers, one for each of the four principal kinds of GP system.
const SUPPLIERS: [&str; 4] = [
    "gpconnect.first-supplier.example.nhs.uk",
    "api.second-supplier.example.nhs.uk",
    "spine.third-supplier.example.nhs.uk",
    "gp.fourth-supplier.example.nhs.uk",
];

/// Practices of the demonstration; some share a host, and each supplier writes service roots in its own way.
const PRACTICES: [ListedPractice; 5] = [
    listed("Harbour Street Surgery", "A20047", "918999198993", 0, "/A20047/STU3/1/gpconnect"),
    listed("Mill Lane Practice", "B82617", "918999198994", 0, "/B82617/STU3/1/gpconnect"),
    listed(
        "Castle Hill Medical Centre",
        "C81004",
        "918999198995",
        1,
        "/gpc/C81004/STU3/1/gpconnect",
    ),
    listed("The Orchard Surgery", "D83012", "918999198996", 2, "/D83012/STU3/1/GPConnect"),
    listed("Riverside Health Centre", "E84066", "918999198997", 3, "/E84066/STU3/1/gpconnect/fhir"),
];

/// Practice that the directory lists but whose system does not answer.
const CLOSED: ListedPractice =
    listed("Closed for Good Surgery", "F85001", "918999198998", 4, "/F85001/STU3/1/gpconnect");
const NOBODY: &str = "gp.gone-supplier.example.nhs.uk";

const fn listed(
    name: &'static str,
    ods: &'static str,
    asid: &'static str,
    supplier: usize,
    path: &'static str,
) -> ListedPractice {
    ListedPractice { name, ods, asid, supplier, path }
}

impl ListedPractice {
    fn host(&self) -> &'static str {
        SUPPLIERS.get(self.supplier).copied().unwrap_or(NOBODY)
    }
}

impl LabSettings {
    /// Returns the settings with the consumers and practices of the demonstration where they have none.
    pub(super) fn or_demonstration(mut self) -> Self {
        if self.consumers.is_empty() {
            self.consumers = consumers();
        }
        if self.practices.is_empty() {
            self.practices = PRACTICES.iter().chain([&CLOSED]).filter_map(lab_practice).collect();
        }
        self
    }

    /// Returns the settings of the demonstration.
    pub(in crate::commands) fn demonstration() -> Self {
        Self::default().or_demonstration()
    }
}

fn consumers() -> Vec<LabConsumer> {
    let slots = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1";
    let all = &["appointments", "foundations"][..];
    let rows = [
        ("hub", HUB, HUB_ODS, all, true),
        ("clinic", CLINIC, CLINIC_ODS, &[slots], false),
        ("night", NIGHT, NIGHT_ODS, all, true),
    ];
    let consumer = |(name, asid, ods, interactions, agreed): (&str, &str, &str, &[&str], bool)| {
        Some(LabConsumer {
            name: name.to_owned(),
            asid: asid.parse().ok()?,
            ods: ods.parse().ok()?,
            interactions: interactions.iter().map(|id| (*id).to_owned()).collect(),
            agreed,
        })
    };
    rows.into_iter().filter_map(consumer).collect()
}

fn lab_practice(listed: &ListedPractice) -> Option<LabPractice> {
    Some(LabPractice {
        name: listed.name.to_owned(),
        ods: listed.ods.parse().ok()?,
        asid: listed.asid.parse().ok()?,
        host: listed.host().to_owned(),
        path: Some(listed.path.to_owned()),
        seed: None,
        answers: listed.supplier < SUPPLIERS.len(),
    })
}
