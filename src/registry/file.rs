//! Directory file: consumers, providers, agreements and denials, validated as a whole.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;

use super::{Agreements, ProviderRegistration, Sender};
use spine_types::interaction::{AllowedInteractions, Interaction};
use spine_types::{Asid, CertificateName, CpaId, OdsCode, PartyKey, ServiceRoot};

/// Error returned when a directory file cannot be used; names the file, and the line if known.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct DirectoryFileError {
    path: PathBuf,
    why: String,
}

/// Presence of live sources besides the directory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherSources {
    /// The file alone: agreements may name only consumers and providers of the file.
    None,
    /// Live sources exist: agreements may also name ASIDs that are not in the file.
    Live,
}

/// Content of a directory file, indexed for look-ups.
#[derive(Debug, Default)]
pub struct DirectoryFile {
    pub(crate) agreements: Arc<Agreements>,
    pub(crate) names: HashMap<CertificateName, HashSet<OdsCode>>,
    pub(crate) organisations: HashSet<OdsCode>,
    pub(crate) roots: HashSet<String>,
    pub(crate) practice_of: HashMap<Asid, OdsCode>,
    senders: HashMap<Asid, Arc<Sender>>,
    pins: HashMap<OdsCode, Vec<Arc<ProviderRegistration>>>,
    fallbacks: HashMap<OdsCode, Vec<Arc<ProviderRegistration>>>,
    denied: HashSet<Asid>,
    denied_practices: HashSet<OdsCode>,
    sha256: String,
}

/// Numbers of what a directory file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DirectoryCounts {
    /// Number of consumers' systems.
    pub consumers: usize,
    /// Number of practices whose registration overrides live sources.
    pub practices: usize,
    /// Number of agreements.
    pub agreements: usize,
    /// Number of practices whose registration is used when no live source answers.
    pub fallbacks: usize,
    /// Number of systems and practices that are denied.
    pub denied: usize,
}

impl fmt::Display for DirectoryCounts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consumers, practices, agreements, fallbacks, denied } = self;
        write!(
            out,
            "{consumers} consumer systems, {practices} practices, {agreements} agreements"
        )?;
        for (count, what) in [(fallbacks, "fall-back practices"), (denied, "denied")] {
            if *count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl DirectoryFile {
    /// Returns the SHA-256 of the file in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Returns the JSON Schema of the file.
    #[must_use]
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(DirectoryDocument)
    }

    /// Reads and validates a directory file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, is not valid TOML of this format, or contradicts
    /// itself.
    pub fn load(path: &Path, others: OtherSources) -> Result<Self, DirectoryFileError> {
        let fault = |why: String| DirectoryFileError { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        Self::parse(&text, path, others)
    }

    /// Parses and validates a directory file's text; `path` is named in errors.
    ///
    /// # Errors
    /// Returns an error if the text is not valid TOML of this format, or contradicts itself.
    pub fn parse(
        text: &str,
        path: &Path,
        others: OtherSources,
    ) -> Result<Self, DirectoryFileError> {
        let fault = |why: String| DirectoryFileError { path: path.to_owned(), why };
        let written: DirectoryDocument =
            toml::from_str(text).map_err(|error| fault(error.to_string()))?;
        let mut file = Self { sha256: crate::hex::sha256(text.as_bytes()), ..Self::default() };
        for consumer in written.consumer {
            file.add_consumer(consumer).map_err(fault)?;
        }
        for provider in written.provider {
            file.add_provider(provider).map_err(fault)?;
        }
        for deny in written.deny {
            file.denied.extend(deny.asids);
            file.denied_practices.extend(deny.ods);
        }
        file.agreements = Arc::new(file.agreements(written.agreement, others).map_err(fault)?);
        Ok(file)
    }

    /// Returns the `host:port` that each provider of the file is dialled at, with its practice.
    pub fn dialled(&self) -> impl Iterator<Item = (&OdsCode, &str)> {
        let providers = self.pins.values().chain(self.fallbacks.values()).flatten();
        providers.map(|provider| (&provider.ods, &*provider.address))
    }

    /// Returns the numbers of consumers, practices and agreements.
    #[must_use]
    pub fn counts(&self) -> DirectoryCounts {
        DirectoryCounts {
            consumers: self.senders.len(),
            practices: self.pins.len(),
            agreements: self.agreements.pairs.len() + self.agreements.everywhere.len(),
            fallbacks: self.fallbacks.len(),
            denied: self.denied.len() + self.denied_practices.len(),
        }
    }

    /// Returns every provider in the file, pins and fall-backs.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<ProviderRegistration>> {
        self.pins.values().chain(self.fallbacks.values()).flatten()
    }

    /// Returns every consumer in the file.
    pub(crate) fn senders(&self) -> impl Iterator<Item = &Arc<Sender>> {
        self.senders.values()
    }

    pub(crate) fn sender(&self, asid: &Asid) -> Option<&Arc<Sender>> {
        self.senders.get(asid)
    }

    /// Returns the practice's pins: registrations that override live sources.
    pub(crate) fn pins(&self, ods: &OdsCode) -> &[Arc<ProviderRegistration>] {
        self.pins.get(ods).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the practice's fall-backs: registrations for when no live source answers.
    pub(crate) fn fallbacks(&self, ods: &OdsCode) -> &[Arc<ProviderRegistration>] {
        self.fallbacks.get(ods).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns true if the file denies this system to send or receive, whatever live sources say.
    pub(crate) fn denies(&self, asid: &Asid) -> bool {
        self.denied.contains(asid)
    }

    /// Returns the registrations whose systems are not denied.
    pub(crate) fn undenied(
        &self,
        providers: &[Arc<ProviderRegistration>],
    ) -> Vec<Arc<ProviderRegistration>> {
        providers.iter().filter(|provider| !self.denies(&provider.asid)).cloned().collect()
    }

    /// Returns true if the file denies this practice, whatever live sources say.
    pub(crate) fn denies_practice(&self, ods: &OdsCode) -> bool {
        self.denied_practices.contains(ods)
    }

    fn add_consumer(&mut self, written: WrittenConsumer) -> Result<(), String> {
        let interactions = interactions(&written.interactions, &written.name)?;
        if written.certificate_names.is_empty() {
            return Err(format!(
                "consumer {:?} has no certificate-names: list at least one",
                written.name
            ));
        }
        for asid in written.asids {
            let sender = Sender {
                asid: asid.clone(),
                names: written.certificate_names.clone(),
                ods: written.ods.clone(),
                on_behalf_of: written.on_behalf_of.clone(),
                interactions: interactions.clone(),
            };
            if self.senders.insert(asid.clone(), Arc::new(sender)).is_some() {
                return Err(format!("consumer ASID {asid} is listed twice"));
            }
        }
        self.organisations.insert(written.ods.clone());
        self.organisations.extend(written.on_behalf_of);
        for name in written.certificate_names {
            self.names.entry(name).or_default().insert(written.ods.clone());
        }
        Ok(())
    }

    fn add_provider(&mut self, written: WrittenProvider) -> Result<(), String> {
        let interactions = interactions(&written.interactions, written.ods.as_str())?;
        let mut provider = ProviderRegistration::new(
            written.ods.clone(),
            written.asid,
            written.party_key,
            written.cpa_id,
            written.root,
            interactions,
        );
        if let Some(dial) = written.dial {
            provider.address = dial.into();
        }
        let known = self.practice_of.insert(provider.asid.clone(), written.ods.clone());
        if known.is_some_and(|ods| ods != written.ods) {
            return Err(format!("provider ASID {} belongs to two practices", provider.asid));
        }
        let practices = match written.used {
            Used::Always => &mut self.pins,
            Used::WhenSourcesFail => &mut self.fallbacks,
        };
        let practice = practices.entry(written.ods).or_default();
        for other in practice.iter().filter(|other| other.asid == provider.asid) {
            let both = |interaction: &&&Interaction| other.serves(interaction);
            if let Some(both) = provider.interactions.iter().find(both) {
                return Err(format!(
                    "provider ASID {} has two roots for {}",
                    provider.asid, both.id
                ));
            }
        }
        let root = provider.root.as_str();
        self.roots.insert(root.strip_suffix('/').unwrap_or(root).to_owned());
        practice.push(Arc::new(provider));
        Ok(())
    }

    fn agreements(
        &self,
        written: Vec<WrittenAgreement>,
        others: OtherSources,
    ) -> Result<Agreements, String> {
        let alone = others == OtherSources::None;
        let mut agreements = Agreements::default();
        for agreement in written {
            for from in agreement.from {
                if alone && !self.senders.contains_key(&from) {
                    return Err(format!(
                        "an agreement names {from}, which is not a consumer's ASID in this file"
                    ));
                }
                match &agreement.to {
                    WrittenTo::Every(Every::EveryPractice) => {
                        agreements.everywhere.insert(from);
                    }
                    WrittenTo::These(receivers) => {
                        for to in receivers {
                            if alone && !self.practice_of.contains_key(to) {
                                return Err(format!(
                                    "an agreement names {to}, which is not a provider's ASID in this file"
                                ));
                            }
                            agreements.pairs.insert((from.clone(), to.clone()));
                        }
                    }
                }
            }
        }
        Ok(agreements)
    }
}

fn interactions(names: &[String], whose: &str) -> Result<Vec<&'static Interaction>, String> {
    let allowed = AllowedInteractions::from_names(names.iter().map(String::as_str))
        .map_err(|why| format!("interactions of {whose:?}: {why}"))?;
    Ok(allowed.iter().collect())
}

/// Text of a directory file.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DirectoryDocument {
    /// Consumers and their systems.
    #[serde(default)]
    consumer: Vec<WrittenConsumer>,
    /// Registrations of providers' systems.
    #[serde(default)]
    provider: Vec<WrittenProvider>,
    /// Agreements between consumers and providers.
    #[serde(default)]
    agreement: Vec<WrittenAgreement>,
    /// Systems and practices that are denied, whatever live sources say.
    #[serde(default)]
    deny: Vec<WrittenDeny>,
}

/// Denied systems and practices.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct WrittenDeny {
    /// ASIDs of systems that may neither send nor receive.
    asids: Vec<Asid>,
    /// ODS codes of practices that receive nothing.
    ods: Vec<OdsCode>,
}

/// Role of a provider of the file: pin or fall-back.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Used {
    /// It overrides live sources.
    #[default]
    Always,
    /// It is used when no live source answers.
    WhenSourcesFail,
}

/// A consumer with its systems.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenConsumer {
    /// Name, for texts.
    name: String,
    /// ASIDs of its systems.
    asids: Vec<Asid>,
    /// Names of which its certificate must have one.
    certificate_names: Vec<CertificateName>,
    /// ODS code of its organisation.
    ods: OdsCode,
    /// ODS codes of other organisations that its tokens may name.
    #[serde(default)]
    on_behalf_of: Vec<OdsCode>,
    /// Interactions that it may initiate, or groups of them.
    interactions: Vec<String>,
}

/// Registration of a provider's system at a practice.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenProvider {
    /// ODS code of the practice.
    ods: OdsCode,
    /// ASID of the practice's system.
    asid: Asid,
    /// Party key of the practice's message handling system.
    party_key: PartyKey,
    /// Contract id (CPA id).
    cpa_id: CpaId,
    /// Service root, an `https` URL.
    #[schemars(with = "String")]
    root: ServiceRoot,
    /// Interactions that it serves, or groups of them.
    interactions: Vec<String>,
    /// `host:port` to connect to, if it is not that of the service root.
    dial: Option<String>,
    /// Role of the registration beside live sources.
    #[serde(default)]
    used: Used,
}

/// Agreement that consumers and providers may exchange data.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenAgreement {
    /// ASIDs of consumers' systems.
    from: Vec<Asid>,
    /// ASIDs of providers' systems, or `every-practice`.
    to: WrittenTo,
}

#[derive(serde::Deserialize, JsonSchema)]
#[serde(untagged)]
enum WrittenTo {
    Every(Every),
    These(Vec<Asid>),
}

#[derive(serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Every {
    EveryPractice,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        DirectoryFile::parse(text, "d.toml".as_ref(), OtherSources::None).unwrap_err().to_string()
    }

    const PROVIDER: &str = r#"
        [[provider]]
        ods = "A20047"
        asid = "918999198993"
        party-key = "A20047-1234567"
        cpa-id = "S000000000001"
        root = "https://p.example.nhs.uk/A20047/STU3/1/gpconnect"
        interactions = ["appointments"]
    "#;

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let text = fault(&PROVIDER.replace("918999198993", "12"));
        assert!(text.starts_with("d.toml: ") && text.contains("line 4"), "{text}");
        assert!(text.contains("twelve digits"), "{text}");
        let text = fault(&PROVIDER.replace("https://p.", "https://u@p."));
        assert!(text.contains("names a user") && text.contains("line 7"), "{text}");
        let text = fault(&PROVIDER.replace("cpa-id", "cpa"));
        assert!(text.contains("unknown field `cpa`"), "{text}");
    }

    #[test]
    fn a_file_may_not_contradict_itself() {
        let twice = format!("{PROVIDER}{PROVIDER}");
        assert!(fault(&twice).contains("has two roots for"), "{}", fault(&twice));
        let moved = format!("{PROVIDER}{}", PROVIDER.replace("A20047", "B00001"));
        assert!(fault(&moved).contains("belongs to two practices"));
        let agreement = "[[agreement]]\nfrom = [\"200000000359\"]\nto = \"every-practice\"";
        assert!(fault(agreement).contains("not a consumer's ASID"));
    }
}
