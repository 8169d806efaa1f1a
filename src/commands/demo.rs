//! `demo`: sets up a complete environment on loopback, and runs booking sessions through it.
//!
//! It consists of a throwaway PKI, simulated practices on four suppliers' hosts, a directory service and the
//! proxy. The demonstration runs the sessions that the specification illustrates, then one wrong request of
//! each kind; then it stays up to be tried.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::call::client::{CallNotes, ConnectionOptions, TestParties};
use super::lab::{Lab, LabDirectory, LabSettings, PRACTICES, within_temporary};
use super::play::{Judgement, Play, PlaySettings, Screen, Tone, counts};
use super::print;
use crate::config::{Log, LogFormat, LogLevel};
use crate::failure::Failure;

/// Options of the demonstration.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Ends after the sessions; exit code 0 only if every step was answered as expected.
    #[arg(long)]
    once: bool,
    /// Looks practices up in slapd, which must be installed, instead of a simulated SDS API.
    #[arg(long)]
    ldap: bool,
    /// Writes every answered resource to this file, one JSON document per line.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Runs the demonstration.
///
/// # Errors
/// Returns an error if the environment cannot be set up, or with `--once` if a step was not answered as
/// expected.
pub fn run(wanted: &DemoOptions) -> Result<(), Failure> {
    crate::log::start(&Log { format: LogFormat::Human, level: LogLevel::Error });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    within_temporary("demo", |folder| runtime.block_on(played(folder, wanted)))
}

async fn played(folder: &Path, wanted: &DemoOptions) -> Result<(), Failure> {
    let directory = if wanted.ldap { LabDirectory::SdsLdap } else { LabDirectory::SdsApi };
    let settings = LabSettings { directory, ..LabSettings::demonstration() };
    let lab = Lab::set_up(folder, settings).await?;
    let mut stop = signal(SignalKind::terminate())?;
    let record = wanted.record.as_ref().map(std::fs::File::create).transpose();
    let play = play(&lab)?.recording(record?);
    let mut cases = Vec::new();
    tokio::select! {
        () = play.all(&mut cases) => {}
        _ = tokio::signal::ctrl_c() => return Ok(()),
        _ = stop.recv() => return Ok(()),
    }
    let (failed, ..) = counts(&cases);
    if wanted.once {
        lab.take_down().await;
        return match failed {
            0 => Ok(()),
            failed => Err(Failure::Environment(anyhow::anyhow!(
                "{failed} steps were not answered as expected"
            ))),
        };
    }
    print(invitation(&lab, folder)?);
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = stop.recv() => {}
    }
    lab.take_down().await;
    Ok(())
}

/// Creates the play of a lab.
fn play(lab: &Lab) -> Result<Play, Failure> {
    let screen = Screen::stdout();
    screen.line(
        Tone::Plain,
        "Sessions through the proxy, as consumers over mutual TLS. Before a practice answers, the proxy has \
         checked: certificate, ASID, interaction, token, receiver, service root, audience, agreement.",
    );
    let parties: TestParties =
        serde_json::from_value(lab.description()).map_err(Failure::environment)?;
    let consumer = parties.consumer(None).map_err(Failure::Environment)?;
    let [practice, ..] = &PRACTICES;
    let ods = practice.ods.parse().map_err(Failure::environment)?;
    let base = ConnectionOptions::of_parties(&parties, consumer).caller(&ods, CallNotes::None)?;
    let settings = PlaySettings { judgement: Judgement::Own, books: true, screen };
    Ok(Play::new(base, parties, settings))
}

/// Returns commands to try next, which work as printed while the demonstration runs.
fn invitation(lab: &Lab, folder: &Path) -> Result<String, Failure> {
    let program = std::env::current_exe()?;
    let (program, file) = (program.display(), folder.join("lab.json"));
    std::fs::write(&file, lab.description().to_string())?;
    let (file, folder) = (file.display(), folder.display());
    let (address, admin) = (lab.address(), lab.admin());
    let [practice, ..] = &PRACTICES;
    let (root, asid, ods) = (practice.root(), practice.asid, practice.ods);
    let call = |arguments: &str| format!("{program} call {arguments} --lab {file}");
    let [slots, by_root, curl, clinic] = [
        &format!("slots {ods}"),
        &format!("metadata {ods} --root {root} --to {asid} --verbose"),
        &format!("metadata {ods} --curl"),
        &format!("slots {ods} --consumer clinic"),
    ]
    .map(|arguments| call(arguments));
    Ok(format!(
        "\nThe proxy is still running. Try it yourself; Ctrl-C ends it and removes {folder}.\n\n\
         # Free slots at {}, as a consumer with token and headers\n{slots}\n\n\
         # The same practice by its service root, with both sides shown\n{by_root}\n\n\
         # The curl command for a request\n{curl}\n\n\
         # A consumer without an agreement: 403\n{clinic}\n\n\
         # No client certificate: 496\ncurl -i --path-as-is --cacert {folder}/ca.pem 'https://{address}/{root}/metadata'\n\n\
         # A look-up of this practice, and the directory cache\n{program} lookup --config {folder}/spine-proxy.toml {ods}\ncurl -H \"Authorization: Bearer $(cat {folder}/admin.token)\" http://{admin}/directory\n\n\
         # What was refused and why, in the console: log in with the token from {folder}/admin.token\nhttp://{admin}/console\n\n\
         # Metrics, readiness, audit journal\ncurl http://{admin}/metrics\ncurl http://{admin}/readyz\n{program} audit query {folder}/audit\n{program} audit verify {folder}/audit\n",
        practice.name,
    ))
}
