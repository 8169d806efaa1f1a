//! `demo`: sets up a complete environment on loopback, and runs booking sessions through it.
//!
//! It consists of a throwaway PKI, simulated practices on four suppliers' hosts, a directory service and the
//! proxy. The demonstration runs the sessions that the specification illustrates, then one wrong request of
//! each kind; then it stays up to be tried.

use std::path::{Path, PathBuf};
use std::time::Instant;

use audit_journal::{VerifyWith, verify};

use super::call::client::{CallNotes, ConnectionOptions, TestParties};
use super::lab::{Lab, LabDirectory, LabSettings, within_temporary};
use super::play::{Judgement, Play, PlaySettings, Screen, Tone, counts};
use super::signals::StopSignals;
use crate::config::{Log, LogFormat, LogLevel};
use crate::failure::Failure;

mod invitation;
mod live;

use live::LiveLines;

/// Options of the demonstration.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Ends after the sessions; exit code 0 only if every step was answered as expected.
    #[arg(long)]
    once: bool,
    /// Looks practices up in slapd, which must be installed, instead of a simulated SDS API.
    #[arg(long)]
    ldap: bool,
    /// Port of the proxy on 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Writes every answered resource to this file, one JSON document per line.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// Runs the demonstration.
///
/// # Errors
/// Returns an error if the environment cannot be set up, or with `--once` if a step was not answered as
/// expected or a signal came before the end.
pub fn run(wanted: &DemoOptions) -> Result<(), Failure> {
    crate::log::start(&Log { format: LogFormat::Human, level: LogLevel::Error });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // Before there are files that a signal could leave.
        let mut signals = StopSignals::with_hangup()?;
        let play = async |folder: &Path| played(folder, wanted, &mut signals).await;
        within_temporary("demo", play).await
    })
}

async fn played(
    folder: &Path,
    wanted: &DemoOptions,
    signals: &mut StopSignals,
) -> Result<(), Failure> {
    let directory = if wanted.ldap { LabDirectory::SdsLdap } else { LabDirectory::SdsApi };
    let mut settings = LabSettings { directory, ..LabSettings::demonstration() };
    settings.address.set_port(wanted.port);
    let (began, steps) = (Instant::now(), Screen::stderr());
    let progress = move |step: &str| {
        let line = format!("{:>5.1} s  {step}", began.elapsed().as_secs_f64());
        steps.line(Tone::Faint, line);
    };
    let lab = Lab::set_up_until(signals, folder, settings, &progress).await?;
    progress("ready");
    let record = wanted.record.as_ref().map(std::fs::File::create).transpose()?;
    let shown = tokio::select! {
        shown = shown(&lab, folder, wanted.once, record) => shown,
        () = signals.received() => match wanted.once {
            true => Err(Failure::Environment(anyhow::anyhow!("stopped by a signal before the end"))),
            false => Ok(()),
        },
    };
    lab.take_down(signals).await;
    shown
}

/// Plays everything, and then shows what others send, unless it is to end.
async fn shown(
    lab: &Lab,
    folder: &Path,
    is_once: bool,
    record: Option<std::fs::File>,
) -> Result<(), Failure> {
    let screen = Screen::stdout();
    let parties: TestParties =
        serde_json::from_value(lab.description()).map_err(Failure::environment)?;
    let play = play(&parties, screen)?.recording(record);
    screen.line(
        Tone::Plain,
        "Sessions through the proxy, as consumers over mutual TLS. Before a practice answers, the proxy has \
         checked: certificate, ASID, interaction, token, receiver, service root, audience, agreement.",
    );
    let (began, mut cases) = (Instant::now(), Vec::new());
    Box::pin(play.all(&mut cases)).await;
    play.summarise(&cases, began.elapsed());
    verify_journal(lab, screen).await?;
    let (failed, ..) = counts(&cases);
    match (is_once, failed) {
        (true, 0) => return Ok(()),
        (true, failed) => {
            let what = "were not answered as expected";
            return Err(Failure::Environment(anyhow::anyhow!("{failed} cases {what}")));
        }
        (false, _) => {}
    }
    let live = LiveLines::new(lab.traffic(), &parties, screen);
    invitation::show(screen, lab, &parties, folder)?;
    live.watch().await;
    Ok(())
}

/// Creates the play of a lab.
fn play(parties: &TestParties, screen: Screen) -> Result<Play, Failure> {
    let consumer = parties.consumer(None).map_err(Failure::Environment)?;
    let none = || Failure::Environment(anyhow::anyhow!("the lab has no practice"));
    let ods = &parties.practices.first().ok_or_else(none)?.ods;
    let base = ConnectionOptions::of_parties(parties, consumer).caller(ods, CallNotes::None)?;
    let settings = PlaySettings { judgement: Judgement::Own, books: true, screen };
    Ok(Play::new(base, parties.clone(), settings))
}

/// Verifies the journal of what was played, and shows the result.
async fn verify_journal(lab: &Lab, screen: Screen) -> Result<(), Failure> {
    let journal = lab.flushed_journal().await?;
    let found = verify(&journal, &VerifyWith::default())?;
    let Some(fault) = found.faults.first() else {
        let line = format!("   journal verified: its chain of {} lines is unbroken", found.lines);
        screen.line(Tone::Good, line);
        return Ok(());
    };
    Err(Failure::Environment(anyhow::anyhow!("the journal is not as it was written: {fault}")))
}
