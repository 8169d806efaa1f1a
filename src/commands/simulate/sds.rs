//! `simulate sds`: serves a stand-in for the SDS FHIR API, for gateways that look practices up in it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::super::signals::StopSignals;
use super::super::{print, server_tls};
use crate::failure::Failure;
use crate::tls::KeyPair;
use gpconnect_simulator::sds::{BASE_PATH, Records, SdsDirectory, SdsRate};
use spine_types::interaction::AllowedInteractions;
use spine_types::{Asid, OdsCode};

/// Configuration of the stand-in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SdsSettings {
    /// Address to listen on.
    address: SocketAddr,
    /// File with the key that a query must carry; without it, none is asked for.
    key_file: Option<PathBuf>,
    /// Its own certificate; like the real one, it requests none of its clients.
    certificate: KeyPair,
    /// Maximum number of queries per second; without it, there is no limit.
    per_second: Option<NonZeroU32>,
    /// Number of queries that are answered at once after a pause: `per-second` if absent.
    burst: Option<NonZeroU32>,
    #[serde(rename = "practice")]
    practices: Vec<RegisteredPractice>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RegisteredPractice {
    ods: OdsCode,
    asid: Asid,
    party_key: String,
    /// Service root of its system.
    root: String,
}

/// Runs the stand-in until SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the configuration cannot be used or the address cannot be bound.
pub(super) fn run(config: &Path) -> Result<(), Failure> {
    let settings = SdsSettings::load(config).map_err(Failure::Configuration)?;
    let tls = settings.tls().map_err(Failure::Configuration)?;
    let key = settings.key().map_err(Failure::Configuration)?;
    let rate = settings.rate().map_err(Failure::Configuration)?;
    let sds = SdsDirectory::new(settings.records().map_err(Failure::Configuration)?, key);
    sds.set_rate(rate);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut signals = StopSignals::new()?;
        let listener = TcpListener::bind(settings.address)
            .await
            .with_context(|| format!("cannot listen on {}", settings.address))
            .map_err(Failure::Environment)?;
        print(format_args!("SDS FHIR API: https://{}{BASE_PATH}", listener.local_addr()?));
        let told = async move { signals.received().await };
        sds.serve(listener, tls, told).await;
        Ok(())
    })
}

impl SdsSettings {
    fn load(path: &Path) -> anyhow::Result<Self> {
        super::super::read_toml(path, |settings: &mut Self| {
            let KeyPair { chain, key } = &mut settings.certificate;
            [chain, key].into_iter().chain(&mut settings.key_file).collect()
        })
    }

    fn tls(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let at = |path: &Path| path.display().to_string();
        let KeyPair { chain, key } = &self.certificate;
        let certificates = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect)
            .with_context(|| at(chain))?;
        let private = PrivateKeyDer::from_pem_file(key).with_context(|| at(key))?;
        server_tls::config(certificates, private, None).with_context(|| at(chain))
    }

    fn key(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.key_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(text.trim_end().to_owned()))
    }

    fn rate(&self) -> anyhow::Result<Option<SdsRate>> {
        anyhow::ensure!(
            self.burst.is_none() || self.per_second.is_some(),
            "`burst` has no effect without `per-second`"
        );
        let burst = |per_second| self.burst.unwrap_or(per_second);
        Ok(self.per_second.map(|per_second| SdsRate { per_second, burst: burst(per_second) }))
    }

    /// Returns the records of all practices, each with the interactions that a gateway forwards by default.
    fn records(&self) -> anyhow::Result<Records> {
        let groups = AllowedInteractions::from_names(AllowedInteractions::DEFAULT)
            .map_err(anyhow::Error::msg)?;
        let interactions: Vec<&str> = groups.iter().map(|interaction| interaction.id).collect();
        Ok(self.practices.iter().fold(Records::default(), |records, registered| {
            let RegisteredPractice { ods, asid, party_key, root } = registered;
            let (ods, asid) = (ods.to_string(), asid.to_string());
            records.and(Records::practice(&ods, &asid, party_key, root, &interactions))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the rate limit of a configuration with these lines, as queries per second and burst.
    fn rate(lines: &str) -> Result<Option<(u32, u32)>, String> {
        let text = format!(
            "address = \"127.0.0.1:0\"\n{lines}\npractice = []\n\
             certificate = {{ chain = \"sds.pem\", key = \"sds.key\" }}"
        );
        let settings: SdsSettings = toml::from_str(&text).map_err(|error| error.to_string())?;
        let rate = settings.rate().map_err(|error| error.to_string())?;
        Ok(rate.map(|SdsRate { per_second, burst }| (per_second.get(), burst.get())))
    }

    #[test]
    fn the_rate_limit_is_optional_and_its_burst_too() {
        assert_eq!(rate(""), Ok(None));
        assert_eq!(rate("per-second = 5"), Ok(Some((5, 5))));
        assert_eq!(rate("per-second = 5\nburst = 1"), Ok(Some((5, 1))));
        assert!(rate("per-second = 0").is_err());
        let alone = rate("burst = 1").unwrap_err();
        assert_eq!(alone, "`burst` has no effect without `per-second`");
    }
}
