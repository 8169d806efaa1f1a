//! `simulate provider`: serves simulated practices on a listener of their own, for tests against them; and the
//! other simulated systems.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::server_tls::{self, ClientAuthorities};
use super::signals::StopSignals;
use super::{print, read_toml};
use crate::config::{Log, LogFormat, LogLevel};
use crate::failure::Failure;
use crate::tls::KeyPair;
use gpconnect_simulator::{Seed, ServeOptions, SimulatedPractice, SimulatedProvider};
use spine_types::{Asid, CertificateName, OdsCode};

mod sds;

/// System to simulate.
#[derive(Debug, clap::Subcommand)]
pub enum SimulateOptions {
    /// Simulates a GP Connect provider: practices with patients, slots and appointments.
    Provider {
        /// Path of the simulator's configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Keeps all state in memory, whatever the configuration says, and loses it at the end.
        #[arg(long)]
        memory: bool,
    },
    /// Simulates the SDS FHIR API: the registrations of practices.
    Sds {
        /// Path of the stand-in's configuration file.
        #[arg(long)]
        config: PathBuf,
    },
}

/// Configuration of a simulated provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ProviderSettings {
    /// Address to listen on. Not meant for an open network, though it holds no real person and no secret.
    #[serde(default = "address")]
    address: SocketAddr,
    /// File or folder that keeps the state; without it, state is kept in memory.
    store: Option<PathBuf>,
    /// True if it may be controlled under `/_simulator/`; by default only on loopback.
    control: Option<bool>,
    /// TLS settings; without them, it speaks plain HTTP.
    tls: Option<SimulatorTls>,
    /// Practices that it stands for.
    #[serde(rename = "practice")]
    practices: Vec<SimulatedProviders>,
}

/// TLS settings of a simulated provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SimulatorTls {
    /// Its certificate, as `{ chain = "…", key = "…" }`.
    certificate: KeyPair,
    /// Authorities that issue the proxy's certificate; without any, no client certificate is requested.
    #[serde(default)]
    authorities: Vec<PathBuf>,
    /// Revocation lists for the proxy's certificate; without any, revocation is not checked.
    #[serde(default)]
    crl: Vec<PathBuf>,
    /// Names, of which the proxy's certificate must have one.
    #[serde(default)]
    peers: Vec<CertificateName>,
}

/// A simulated practice.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SimulatedProviders {
    /// ODS code of the practice.
    ods: OdsCode,
    /// ASID of the practice's system.
    asid: Asid,
    /// Name of the practice.
    name: String,
    /// Path of its service root, without a final slash.
    base_path: String,
    /// True if it answers everything but its capability statement with 403.
    #[serde(default)]
    switched_off: bool,
    /// File with the initial contents; without it, the simulator's own are used.
    seed: Option<PathBuf>,
}

const fn address() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9443)
}

/// Returns the JSON Schema of the simulator's configuration file.
#[must_use]
pub fn schema() -> Schema {
    schema_for!(ProviderSettings)
}

/// Runs a simulator until SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the configuration cannot be used, the store cannot be opened or the address cannot be
/// bound.
pub fn run(wanted: SimulateOptions) -> Result<(), Failure> {
    crate::log::start(&Log { format: LogFormat::Human, level: LogLevel::Info });
    match wanted {
        SimulateOptions::Provider { config, memory } => provider(&config, memory),
        SimulateOptions::Sds { config } => sds::run(&config),
    }
}

fn provider(config: &Path, memory: bool) -> Result<(), Failure> {
    let settings = ProviderSettings::load(config).map_err(Failure::Configuration)?;
    let serving = settings.serving().map_err(Failure::Configuration)?;
    let practices = settings.practices().map_err(Failure::Configuration)?;
    let store = settings.store.as_deref().filter(|_| !memory);
    let provider = SimulatedProvider::open(practices, store, Timestamp::now())
        .map_err(Failure::configuration)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(settings.serve(Arc::new(provider), serving))
}

impl ProviderSettings {
    fn load(path: &Path) -> anyhow::Result<Self> {
        read_toml(path, Self::paths_mut)
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        let mut paths: Vec<&mut PathBuf> = self.store.iter_mut().collect();
        if let Some(tls) = &mut self.tls {
            paths.extend([&mut tls.certificate.chain, &mut tls.certificate.key]);
            paths.extend(&mut tls.authorities);
            paths.extend(&mut tls.crl);
        }
        paths.extend(self.practices.iter_mut().filter_map(|practice| practice.seed.as_mut()));
        paths
    }

    fn practices(&self) -> anyhow::Result<Vec<SimulatedPractice>> {
        let practice = |simulated: &SimulatedProviders| {
            let SimulatedProviders { ods, asid, name, base_path, switched_off, seed } = simulated;
            anyhow::ensure!(
                base_path.starts_with('/') && !base_path.ends_with('/'),
                "base-path {base_path:?} must begin with a slash and must not end with one"
            );
            anyhow::ensure!(
                !gpconnect_simulator::is_control_path(base_path),
                "base-path {base_path:?} is that of the control interface"
            );
            let mut practice = SimulatedPractice::new(ods.clone(), asid.clone(), name, base_path);
            practice.switched_off = *switched_off;
            if let Some(path) = seed {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let seed = Seed::parse(&text).with_context(|| path.display().to_string())?;
                practice.seed = Arc::new(seed);
            }
            Ok(practice)
        };
        let practices = self.practices.iter().map(practice).collect::<anyhow::Result<Vec<_>>>()?;
        for (at, practice) in practices.iter().enumerate() {
            let mut others = practices.iter().skip(at + 1);
            let twin = |other: &SimulatedPractice| {
                other.ods == practice.ods || other.base_path == practice.base_path
            };
            anyhow::ensure!(
                !others.any(twin),
                "practice {} or its base-path is configured twice",
                practice.ods
            );
        }
        Ok(practices)
    }

    fn serving(&self) -> anyhow::Result<ServeOptions> {
        let tls = self.tls.as_ref().map(SimulatorTls::config).transpose()?;
        let peers = self.tls.as_ref().map(|tls| tls.peers.clone()).unwrap_or_default();
        let control = self.control.unwrap_or(self.address.ip().is_loopback());
        Ok(ServeOptions { tls, peers, control })
    }

    async fn serve(
        self,
        provider: Arc<SimulatedProvider>,
        serving: ServeOptions,
    ) -> Result<(), Failure> {
        let mut signals = StopSignals::new()?;
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("cannot listen on {}", self.address))
            .map_err(Failure::Environment)?;
        let address = listener.local_addr()?;
        let scheme = if serving.tls.is_some() { "https" } else { "http" };
        for practice in &self.practices {
            let SimulatedProviders { ods, asid, name, base_path, .. } = practice;
            print(format_args!("{ods} {name}, ASID {asid}: {scheme}://{address}{base_path}"));
        }
        let told = async move { signals.received().await };
        provider.serve(listener, serving, told).await;
        Ok(())
    }
}

impl SimulatorTls {
    fn revocation_lists(&self) -> anyhow::Result<Vec<CertificateRevocationListDer<'static>>> {
        let mut lists = Vec::new();
        for path in &self.crl {
            let read = CertificateRevocationListDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            lists.extend(read.with_context(|| path.display().to_string())?);
        }
        Ok(lists)
    }

    /// Builds the TLS configuration.
    ///
    /// Without `peers`, a client without a certificate fails the handshake; with `peers`, the simulator
    /// answers it with a reason.
    fn config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let at = |path: &Path| path.display().to_string();
        let mut roots = RootCertStore::empty();
        for path in &self.authorities {
            let authorities = CertificateDer::pem_file_iter(path).with_context(|| at(path))?;
            for authority in authorities {
                roots.add(authority.with_context(|| at(path))?).with_context(|| at(path))?;
            }
        }
        let KeyPair { chain, key } = &self.certificate;
        let certificates = CertificateDer::pem_file_iter(chain).with_context(|| at(chain))?;
        let certificates = certificates.collect::<Result<_, _>>().with_context(|| at(chain))?;
        let private = PrivateKeyDer::from_pem_file(key).with_context(|| at(key))?;
        let clients = match (roots.is_empty(), self.peers.is_empty()) {
            (true, true) => None,
            (true, false) => return Err(anyhow!("tls.peers needs tls.authorities")),
            // With names to check, a missing certificate is answered with a reason over HTTP.
            (false, must) => {
                Some(ClientAuthorities { roots, lists: self.revocation_lists()?, must })
            }
        };
        server_tls::config(certificates, private, clients).with_context(|| at(chain))
    }
}
