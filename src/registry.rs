//! Registrations: consumers' and providers' systems, agreements between them, and the directory file.
//!
//! Live sources return the same types; how long their answers are used is the directory's business.

use std::collections::HashSet;
use std::sync::Arc;

use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, CpaId, OdsCode, PartyKey, ServiceRoot};

mod file;

pub use file::{DirectoryCounts, DirectoryFile, DirectoryFileError, OtherSources};

/// Source of a registration, as shown in the journal and to operators.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The directory file.
    File,
    /// The SDS FHIR API.
    SdsApi,
    /// The Spine Directory Service over LDAP.
    SdsLdap,
}

impl Origin {
    /// Returns the name: `file`, `sds-api` or `sds-ldap`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::SdsApi => "sds-api",
            Self::SdsLdap => "sds-ldap",
        }
    }
}

/// Directory entry of a system that may send requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// ASID of the system.
    pub asid: Asid,
    /// Names of which its certificate must have one; several senders may share a name.
    pub names: Vec<CertificateName>,
    /// Organisation that the system is registered for.
    pub ods: OdsCode,
    /// Other organisations that its tokens may name.
    pub on_behalf_of: Vec<OdsCode>,
    /// Interactions that it may initiate.
    pub interactions: Vec<&'static Interaction>,
}

/// Registration of a provider's system at one practice, for some interactions under one service root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRegistration {
    /// ODS code of the practice.
    pub ods: OdsCode,
    /// ASID of the practice's system.
    pub asid: Asid,
    /// Party key of the practice's message handling system.
    pub party_key: PartyKey,
    /// Contract id (CPA id), quoted in refusals of a target.
    pub cpa_id: CpaId,
    /// Registered service root.
    pub root: ServiceRoot,
    /// Interactions registered under the service root.
    pub interactions: Vec<&'static Interaction>,
    /// `host:port` to connect to: the root's own, unless the directory file names another.
    pub address: Arc<str>,
    /// Host of the root, which the provider's certificate must name whatever `address` is.
    pub host: Arc<str>,
}

impl ProviderRegistration {
    /// Returns a registration whose address is that of its service root.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one argument for each field of the record")]
    pub fn new(
        ods: OdsCode,
        asid: Asid,
        party_key: PartyKey,
        cpa_id: CpaId,
        root: ServiceRoot,
        interactions: Vec<&'static Interaction>,
    ) -> Self {
        let address = format!("{}:{}", root.host(), root.port()).into();
        let host = root.host().into();
        Self { ods, asid, party_key, cpa_id, root, interactions, address, host }
    }

    /// Returns true if the interaction is registered here.
    #[must_use]
    pub fn serves(&self, interaction: &Interaction) -> bool {
        self.interactions.iter().any(|held| held.id == interaction.id)
    }

    /// Returns the service root and the interaction's path template, safe to print in a refusal.
    #[must_use]
    pub fn printable_url(&self, interaction: &Interaction) -> String {
        let root = self.root.as_str();
        format!("{}{}", root.strip_suffix('/').unwrap_or(root), interaction.template())
    }
}

/// Agreements: pairs of consumer and provider that may exchange data.
#[derive(Debug, Clone, Default)]
pub struct Agreements {
    /// ASIDs of consumer and provider of each agreement.
    pub pairs: HashSet<(Asid, Asid)>,
    /// Consumers with an agreement with every practice.
    pub everywhere: HashSet<Asid>,
}

impl Agreements {
    /// Returns true if this consumer and this provider may exchange data.
    #[must_use]
    pub fn hold(&self, from: &Asid, to: &Asid) -> bool {
        self.everywhere.contains(from) || self.pairs.contains(&(from.clone(), to.clone()))
    }
}
