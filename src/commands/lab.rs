//! `lab`: a complete environment on this machine for tests: consumers, simulated practices, a directory service and
//! the proxy, described by one JSON document.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gpconnect_simulator::people;
use schemars::{Schema, schema_for};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::output::{self, print_json};
use super::signals::StopSignals;
use crate::config::{Log, LogFormat, LogLevel};
use crate::failure::Failure;

mod demonstration;
mod settings;
mod slapd;
mod tokens;
mod world;

use settings::REFUSED_CERTIFICATES;

pub(super) use settings::{LabDirectory, LabSettings};
pub(super) use world::Lab;

/// Options of a lab.
#[derive(Debug, Clone, clap::Args)]
pub struct LabOptions {
    /// Configuration file; without it, the consumers and practices of the demonstration, at free ports.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for all files, which must not exist or be empty, and is kept; without it, a temporary one.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Returns the JSON Schema of the lab's configuration file.
#[must_use]
pub fn schema() -> Schema {
    schema_for!(LabSettings)
}

/// Sets up a lab, prints one line of JSON that describes it, and runs until SIGTERM or SIGINT.
///
/// # Errors
/// Returns an error if the configuration cannot be used or the environment cannot be set up.
pub fn run(wanted: &LabOptions) -> Result<(), Failure> {
    crate::log::start(&Log { format: LogFormat::Human, level: LogLevel::Error });
    let settings = match &wanted.config {
        Some(path) => LabSettings::load(path).map_err(Failure::Configuration)?,
        None => LabSettings::demonstration(),
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Before there are files that a signal could leave.
        let mut signals = StopSignals::new()?;
        // The proxy reloads on SIGHUP; until it does, the signal is ignored.
        let _hangup = signal(SignalKind::hangup())?;
        match &wanted.folder {
            Some(folder) => serve(&std::path::absolute(folder)?, settings, &mut signals).await,
            None => {
                let serve = async |folder: &Path| serve(folder, settings, &mut signals).await;
                within_temporary("lab", serve).await
            }
        }
    })
}

/// Calls a function with the path of a new temporary folder, and removes the folder afterwards; if that fails, the
/// log says so.
pub(super) async fn within_temporary(
    name: &str,
    function: impl AsyncFnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let random = uuid::Uuid::new_v4().as_fields().0;
    let folder = format!("spine-proxy-{name}-{random:08x}");
    let folder = std::env::temp_dir().join(folder);
    // A folder that is there already is not ours to remove.
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))
        .map_err(Failure::Environment)?;
    let done = function(&folder).await;
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::error!(folder = %folder.display(), %error, "the temporary folder could not be removed");
    }
    done
}

async fn serve(
    folder: &Path,
    settings: LabSettings,
    signals: &mut StopSignals,
) -> Result<(), Failure> {
    let lab = Lab::set_up_until(signals, folder, settings, &|_| {}).await?;
    print_json(lab.description());
    // Nobody can use a lab that is not described.
    let described = output::result();
    if described.is_ok() {
        signals.received().await;
    }
    lab.take_down(signals).await;
    described
}

impl Lab {
    /// Returns everything that a test needs to know: addresses, files, consumers, practices and their patients.
    pub(super) fn description(&self) -> Value {
        let file = |name: &str| self.file(name).display().to_string();
        let consumers = self.settings.consumers.iter().map(|consumer| {
            json!({
                "name": consumer.name,
                "asid": consumer.asid,
                "ods": consumer.ods,
                "interactions": consumer.interactions,
                "agreed": consumer.agreed,
                "certificate": file(&format!("{}.pem", consumer.name)),
                "key": file(&format!("{}.key", consumer.name)),
            })
        });
        let practices = self.settings.practices.iter().map(|practice| {
            json!({
                "name": practice.name,
                "ods": practice.ods,
                "asid": practice.asid,
                "root": practice.root(),
                "answers": practice.answers,
                "seed": practice.seed.as_ref().map(|seed| seed.display().to_string()),
                "tokens": tokens::described(&self.folder, practice, &self.settings.consumers),
            })
        });
        let patients = people().into_iter().map(|person| {
            json!({
                "nhs_number": person.nhs_number,
                "family": person.family,
                "given": person.given,
                "gender": person.gender,
                "birth_date": person.birth_date,
                "registration": person.registration,
            })
        });
        let (address, admin) = (self.address(), self.admin());
        json!({
            "folder": self.folder.display().to_string(),
            "proxy": {
                "url": format!("https://localhost:{}", address.port()),
                "address": address,
                "configuration": file("spine-proxy.toml"),
                "journal": file("audit"),
            },
            "admin": { "url": format!("http://{admin}"), "token_file": file("admin.token") },
            "simulator": { "url": format!("http://{}/_simulator", self.control) },
            "authority": file("ca.pem"),
            "revocation_lists": file("crl.pem"),
            "consumers": consumers.collect::<Vec<_>>(),
            "refused_certificates": self.refused_certificates(),
            "practices": practices.collect::<Vec<_>>(),
            "patients": patients.collect::<Vec<_>>(),
        })
    }

    /// Returns the files of each certificate that is to be refused, by the reason.
    fn refused_certificates(&self) -> Value {
        let reasons = REFUSED_CERTIFICATES.into_iter().map(|name| {
            let file = |extension| self.file(&format!("{name}.{extension}")).display().to_string();
            (name.replace('-', "_"), json!({ "certificate": file("pem"), "key": file("key") }))
        });
        reasons.collect()
    }
}
