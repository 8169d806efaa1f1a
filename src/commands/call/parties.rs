//! Systems and people that test requests are made with, as `lab` describes them in JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;
use spine_types::{Asid, OdsCode};

use crate::tls::KeyPair;

/// Systems and people that test requests are made with.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::commands) struct TestParties {
    pub(in crate::commands) proxy: TestProxy,
    /// PEM file with the authorities of the proxy's certificate.
    pub(in crate::commands) authority: PathBuf,
    /// Consumers, of which the first is the main one.
    pub(in crate::commands) consumers: Vec<TestConsumer>,
    /// Certificates that must be refused, by the reason.
    #[serde(default)]
    pub(in crate::commands) refused_certificates: BTreeMap<String, CertificateFiles>,
    #[serde(default)]
    pub(in crate::commands) practices: Vec<TestPractice>,
    #[serde(default)]
    pub(in crate::commands) patients: Vec<TestPatient>,
}

/// Proxy that requests are sent to.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::commands) struct TestProxy {
    pub(in crate::commands) url: String,
}

/// Files of a certificate.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::commands) struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// Consumer that sends requests.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::commands) struct TestConsumer {
    pub(in crate::commands) name: String,
    pub(in crate::commands) asid: Asid,
    pub(in crate::commands) ods: OdsCode,
    /// PEM file with its certificate chain, leaf first.
    pub(in crate::commands) certificate: Option<PathBuf>,
    /// PEM file with the certificate's key.
    pub(in crate::commands) key: Option<PathBuf>,
    /// Groups of interactions, or single ids, that it is registered for.
    #[serde(default)]
    pub(in crate::commands) interactions: Vec<String>,
    /// True if the practices have agreed to share with it.
    #[serde(default = "yes")]
    pub(in crate::commands) agreed: bool,
}

/// Practice that requests are for.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::commands) struct TestPractice {
    pub(in crate::commands) name: String,
    pub(in crate::commands) ods: OdsCode,
    pub(in crate::commands) asid: Asid,
    pub(in crate::commands) root: String,
    /// False if it is registered but its system does not answer.
    #[serde(default = "yes")]
    pub(in crate::commands) answers: bool,
}

/// Invented person who is booked for.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::commands) struct TestPatient {
    pub(in crate::commands) nhs_number: String,
    #[serde(default)]
    pub(in crate::commands) family: String,
    #[serde(default)]
    pub(in crate::commands) given: String,
    #[serde(default)]
    pub(in crate::commands) gender: String,
    #[serde(default)]
    pub(in crate::commands) birth_date: String,
    /// Registration at the practices, such as `registered`.
    pub(in crate::commands) registration: String,
}

const fn yes() -> bool {
    true
}

impl TestParties {
    /// Reads a description; paths in it are relative to its folder.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not such a description.
    pub(in crate::commands) fn load(path: &Path) -> anyhow::Result<Self> {
        let written = std::fs::read_to_string(path);
        let written = written.with_context(|| format!("cannot read {}", path.display()))?;
        let read = serde_json::from_str(&written);
        let fault = || format!("{} is not the description of a lab", path.display());
        let mut parties: Self = read.with_context(fault)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in parties.files_mut() {
            *file = folder.join(&file);
        }
        Ok(parties)
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        let mut files = vec![&mut self.authority];
        for consumer in &mut self.consumers {
            files.extend(consumer.certificate.as_mut());
            files.extend(consumer.key.as_mut());
        }
        for refused in self.refused_certificates.values_mut() {
            files.extend([&mut refused.certificate, &mut refused.key]);
        }
        files
    }

    /// Returns the consumer with a name, or the first.
    ///
    /// # Errors
    /// Returns an error if there is no such consumer.
    pub(in crate::commands) fn consumer(
        &self,
        name: Option<&str>,
    ) -> anyhow::Result<&TestConsumer> {
        let is_wanted = |one: &&TestConsumer| name.is_none_or(|name| one.name == name);
        self.consumers.iter().find(is_wanted).context("the lab has no such consumer")
    }
}

impl TestConsumer {
    /// Returns its certificate with the key, if it has one.
    pub(in crate::commands) fn key_pair(&self) -> Option<KeyPair> {
        Some(KeyPair { chain: self.certificate.clone()?, key: self.key.clone()? })
    }
}

impl TestPatient {
    /// Returns a patient of the practices with an NHS number.
    pub(in crate::commands) fn registered(nhs_number: &str) -> Self {
        Self {
            nhs_number: nhs_number.to_owned(),
            family: String::new(),
            given: String::new(),
            gender: String::new(),
            birth_date: String::new(),
            registration: "registered".to_owned(),
        }
    }
}

impl CertificateFiles {
    /// Returns the certificate with the key.
    pub(in crate::commands) fn key_pair(&self) -> KeyPair {
        KeyPair { chain: self.certificate.clone(), key: self.key.clone() }
    }
}
