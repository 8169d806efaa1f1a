//! Connection options of `call`: from the command line, from a file, and from the description of a lab.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use spine_types::{Asid, OdsCode};

use super::exchange::{CallNotes, Caller, TargetForm};
use super::parties::{TestConsumer, TestParties};
use super::usage;
use crate::commands::read_toml;
use crate::failure::Failure;
use crate::outbound::ServiceUrl;
use crate::tls::{self, KeyPair};

/// Files that complete the connection options.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(in crate::commands) struct ConnectionSource {
    /// TOML file with the options of this group by their names; paths in it are relative to its folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File with the line of JSON that `lab` prints, instead of the options of this group.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub(in crate::commands) lab: Option<PathBuf>,
    /// Name of the lab's consumer that sends the request, by default the first.
    #[arg(long, value_name = "NAME", requires = "lab")]
    pub(in crate::commands) consumer: Option<String>,
}

/// Options of a connection to a proxy.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[command(next_help_heading = "Connection")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(in crate::commands) struct ConnectionOptions {
    /// URL of the proxy, such as `https://ssp.example.nhs.uk`.
    #[arg(long, value_name = "URL")]
    pub(in crate::commands) proxy: Option<String>,
    /// PEM file with the consumer's certificate chain, leaf first; without it, none is presented.
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) certificate: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) key: Option<PathBuf>,
    /// PEM file with the authorities that issue the proxy's certificate.
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) authorities: Option<PathBuf>,
    /// ASID of the consumer.
    #[arg(long)]
    pub(in crate::commands) asid: Option<Asid>,
    /// ODS code of the consumer's organisation.
    #[arg(long, value_name = "ODS")]
    pub(in crate::commands) consumer_ods: Option<OdsCode>,
    /// ASID of the practice's system.
    #[arg(long, value_name = "ASID")]
    pub(in crate::commands) to: Option<Asid>,
    /// Service root of the practice's system: the target then has it instead of the ODS code.
    #[arg(long, value_name = "URL")]
    pub(in crate::commands) root: Option<String>,
}

impl ConnectionOptions {
    /// Completes the options from a file.
    pub(in crate::commands) fn completed(self, source: &ConnectionSource) -> Result<Self, Failure> {
        let rest = match (&source.config, &source.lab) {
            (Some(path), _) => Self::load(path),
            (None, Some(path)) => Self::of_lab(path, source.consumer.as_deref()),
            (None, None) => Ok(Self::default()),
        };
        let rest = rest.map_err(Failure::Configuration)?;
        // A certificate and its key belong together.
        let (certificate, key) = match self.certificate {
            Some(_) => (self.certificate, self.key),
            None => (rest.certificate, self.key.or(rest.key)),
        };
        Ok(Self {
            proxy: self.proxy.or(rest.proxy),
            certificate,
            key,
            authorities: self.authorities.or(rest.authorities),
            asid: self.asid.or(rest.asid),
            consumer_ods: self.consumer_ods.or(rest.consumer_ods),
            to: self.to.or(rest.to),
            root: self.root.or(rest.root),
        })
    }

    fn load(path: &Path) -> anyhow::Result<Self> {
        read_toml(path, |options: &mut Self| {
            let files = [&mut options.certificate, &mut options.key, &mut options.authorities];
            files.into_iter().flatten().collect()
        })
    }

    /// Reads the description of a lab.
    fn of_lab(path: &Path, consumer: Option<&str>) -> anyhow::Result<Self> {
        let lab = TestParties::load(path)?;
        Ok(Self::of_parties(&lab, lab.consumer(consumer)?))
    }

    /// Returns the options with which a consumer calls a proxy.
    pub(in crate::commands) fn of_parties(parties: &TestParties, consumer: &TestConsumer) -> Self {
        Self {
            proxy: Some(parties.proxy.url.clone()),
            certificate: consumer.certificate.clone(),
            key: consumer.key.clone(),
            authorities: Some(parties.authority.clone()),
            asid: Some(consumer.asid.clone()),
            consumer_ods: Some(consumer.ods.clone()),
            to: None,
            root: None,
        }
    }

    /// Returns a caller of a practice.
    pub(in crate::commands) fn caller(
        self,
        practice: &OdsCode,
        notes: CallNotes,
    ) -> Result<Caller, Failure> {
        let needed = |name: &str| usage(format_args!("--{name} is needed, or a --config with it"));
        let proxy = self.proxy.ok_or_else(|| needed("proxy"))?;
        let server = ServiceUrl::parse(&proxy)
            .and_then(|url| match (url.is_https || url.is_loopback(), url.path.as_str()) {
                (true, "/") => Ok(url),
                (true, _) => Err("must have no path"),
                (false, _) => Err("must begin with https://"),
            })
            .map_err(|why| usage(format_args!("--proxy {proxy}: {why}")))?;
        let certificate = match (self.certificate, self.key) {
            (Some(chain), Some(key)) => Some(KeyPair { chain, key }),
            (None, None) => None,
            (Some(_), None) => return Err(needed("key")),
            (None, Some(_)) => return Err(needed("certificate")),
        };
        if self.root.is_some() && self.to.is_none() {
            return Err(usage("--root needs --to: the receiver is optional only without --root"));
        }
        let authorities = self.authorities.ok_or_else(|| needed("authorities"))?;
        let tls = tls::client(std::slice::from_ref(&authorities), certificate.as_ref());
        Ok(Caller {
            server,
            tls: tls.map_err(Failure::configuration)?,
            authorities,
            certificate,
            asid: self.asid.ok_or_else(|| needed("asid"))?,
            consumer: self.consumer_ods.ok_or_else(|| needed("consumer-ods"))?,
            practice: practice.clone(),
            to: self.to,
            form: self.root.map_or(TargetForm::Code, TargetForm::Root),
            notes,
        })
    }
}
