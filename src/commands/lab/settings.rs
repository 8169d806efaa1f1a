//! Settings of `lab`: consumers and practices of a complete environment.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spine_types::interaction::AllowedInteractions;
use spine_types::{Asid, OdsCode, ServiceRoot};

/// Configuration of a lab: a complete environment on this machine, for tests.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct LabSettings {
    /// Address of the proxy's consumer port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Address of the proxy's admin port; port 0 takes a free one.
    pub admin: SocketAddr,
    /// Address at which the simulated practices answer without TLS, with their control interface; port 0 takes a
    /// free one.
    pub control: SocketAddr,
    /// Directory service that practices are looked up in.
    pub directory: LabDirectory,
    /// Consumers; without any, those of the demonstration.
    #[serde(rename = "consumer")]
    pub consumers: Vec<LabConsumer>,
    /// Practices; without any, those of the demonstration.
    #[serde(rename = "practice")]
    pub practices: Vec<LabPractice>,
    /// Settings of the proxy, as in its configuration file, that replace those of the lab.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub proxy: toml::Table,
}

/// Names of the lab's other certificates and keys, beside those to be refused with.
const RESERVED: [&str; 5] = ["ca", "crl", "server", "gateway", "sds"];
/// Names of the certificates to be refused with.
pub(super) const REFUSED_CERTIFICATES: [&str; 6] =
    ["stranger", "expired", "not-yet-valid", "revoked", "wrong-name", "without-sub-authority"];

/// Kind of directory service that practices are looked up in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LabDirectory {
    /// Stand-in for the SDS FHIR API.
    #[default]
    SdsApi,
    /// `slapd` with the same records, which must be installed.
    SdsLdap,
    /// The proxy's directory file alone, without a directory service.
    File,
}

/// Consumer of a lab, with a certificate of its own.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LabConsumer {
    /// Name, also of the files of its certificate and key: letters, digits and hyphens.
    pub name: String,
    /// ASID of its system.
    #[schemars(with = "String")]
    pub asid: Asid,
    /// ODS code of its organisation.
    #[schemars(with = "String")]
    pub ods: OdsCode,
    /// Groups of interactions, or single ids, that it is registered for.
    #[serde(default = "interactions")]
    pub interactions: Vec<String>,
    /// True if every practice has agreed to share with it.
    #[serde(default = "yes")]
    pub agreed: bool,
}

/// Practice of a lab, whose system is simulated.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LabPractice {
    /// Name of the practice.
    pub name: String,
    /// ODS code of the practice.
    #[schemars(with = "String")]
    pub ods: OdsCode,
    /// ASID of its system.
    #[schemars(with = "String")]
    pub asid: Asid,
    /// Host of its service root; practices may share one.
    #[serde(default = "host")]
    pub host: String,
    /// Path of its service root, which no other practice has; `/{ODS}/STU3/1/gpconnect` if not set.
    pub path: Option<String>,
    /// File with its initial contents; without it, the simulator's own are used.
    pub seed: Option<PathBuf>,
    /// False if the directory lists it but its system does not answer; no practice that answers then has its host.
    #[serde(default = "yes")]
    pub answers: bool,
}

fn interactions() -> Vec<String> {
    ["appointments", "foundations"].map(str::to_owned).to_vec()
}

const fn yes() -> bool {
    true
}

fn host() -> String {
    "gp.example.nhs.uk".to_owned()
}

impl Default for LabSettings {
    /// Returns settings without consumers and practices, at free ports of the loopback address.
    fn default() -> Self {
        let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self {
            address: free,
            admin: free,
            control: free,
            directory: LabDirectory::default(),
            consumers: Vec::new(),
            practices: Vec::new(),
            proxy: toml::Table::new(),
        }
    }
}

impl LabConsumer {
    /// Returns the name in its certificate.
    pub(super) fn certificate_name(&self) -> String {
        format!("{}.example.nhs.uk", self.name)
    }
}

impl LabPractice {
    /// Returns the path of its service root.
    pub(super) fn path(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("/{}/STU3/1/gpconnect", self.ods))
    }

    /// Returns its service root.
    pub(super) fn root(&self) -> String {
        format!("https://{}{}", self.host, self.path())
    }
}

impl LabSettings {
    /// Reads a configuration file; paths in it are relative to its folder.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or two of its members cannot be told apart.
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let settings: Self = crate::commands::read_toml(path, |settings: &mut Self| {
            settings.practices.iter_mut().flat_map(|practice| &mut practice.seed).collect()
        })?;
        let settings = settings.or_demonstration();
        settings.check().with_context(|| path.display().to_string())?;
        Ok(settings)
    }

    fn check(&self) -> anyhow::Result<()> {
        let name = |consumer: &LabConsumer| consumer.name.to_ascii_lowercase();
        distinct("consumer.name", self.consumers.iter().map(name))?;
        for (section, key, own) in
            [("listener", "addresses", "address"), ("admin", "address", "admin")]
        {
            let section_of = self.proxy.get(section).and_then(toml::Value::as_table);
            let is_there = section_of.is_some_and(|section| section.contains_key(key));
            ensure!(!is_there, "proxy.{section}.{key}: set {own} instead");
        }
        distinct("practice.ods", self.practices.iter().map(|practice| practice.ods.to_string()))?;
        distinct("practice.path", self.practices.iter().map(LabPractice::path))?;
        let asids = self.consumers.iter().map(|consumer| &consumer.asid);
        let asids = asids.chain(self.practices.iter().map(|practice| &practice.asid));
        distinct("asid", asids.map(ToString::to_string))?;
        for consumer in &self.consumers {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            let name = &consumer.name;
            ensure!(
                !name.is_empty() && name.bytes().all(is_plain),
                "consumer.name: {name:?} has characters other than letters, digits and hyphens"
            );
            let names = consumer.interactions.iter().map(String::as_str);
            AllowedInteractions::from_names(names)
                .map_err(|why| anyhow::anyhow!("consumer {name}: interactions: {why}"))?;
            ensure!(
                !RESERVED.iter().chain(&REFUSED_CERTIFICATES).any(|reserved| reserved == name),
                "consumer.name: {name:?} is the name of another certificate of the lab"
            );
        }
        for practice in &self.practices {
            let (ods, host) = (&practice.ods, &practice.host);
            let answering = self.practices.iter().filter(|other| other.answers);
            ensure!(
                practice.answers || answering.into_iter().all(|other| other.host != *host),
                "practice {ods}: its system does not answer, but another practice's at the same host {host} does"
            );
            let is_of_host = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
            };
            ensure!(
                !host.is_empty() && host.bytes().all(is_of_host),
                "practice {ods}: host {host:?} is no DNS name in small letters, without a port"
            );
            let path = practice.path();
            ensure!(
                path.starts_with('/') && !path.ends_with('/'),
                "practice {ods}: path {path:?} does not begin with a slash, or ends with one"
            );
            ensure!(
                !gpconnect_simulator::is_control_path(&path),
                "practice {ods}: path {path:?} is that of the control interface"
            );
            let root = practice.root();
            root.parse::<ServiceRoot>().with_context(|| format!("practice {ods}: {root}"))?;
        }
        Ok(())
    }
}

/// Returns an error if two values are the same.
fn distinct(key: &str, values: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for value in values {
        ensure!(!seen.contains(&value), "{key}: {value:?} is there twice");
        seen.insert(value);
    }
    Ok(())
}
