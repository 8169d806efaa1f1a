//! `conform`: plays sessions and wrong requests against another Spine Secure Proxy or a provider, and judges the
//! answers by the specification.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use spine_types::OdsCode;

use super::call::client::{
    CallNotes, Caller, ConnectionOptions, ConnectionSource, TargetForm, TestConsumer, TestParties,
    TestPatient, TestPractice, TestProxy,
};
use super::call::usage;
use super::play::{Judgement, Play, PlaySettings, PlayedCase, Screen, counts};
use super::signals::StopSignals;
use crate::failure::Failure;
use crate::outbound::ServiceUrl;

mod junit;

use junit::JunitReport;

/// Options of a conformance run.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, mut_arg("proxy", |argument| argument.long("against").help(AGAINST)))]
pub struct ConformOptions {
    /// Party that is judged.
    #[arg(long = "as", value_enum, default_value = "ssp", value_name = "PARTY")]
    party: JudgedParty,
    /// Books appointments, which are cancelled at the end; without it, only reads are sent.
    #[arg(long)]
    book: bool,
    /// Judges what the specification leaves open too, by the rules of spine-proxy.
    #[arg(long)]
    all: bool,
    /// Writes the results to this file as JUnit XML; - is standard output, and everything else then goes to
    /// standard error.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    source: ConnectionSource,
    #[command(flatten)]
    connection: ConnectionOptions,
    /// ODS code of the practice, in either case.
    #[arg(long, value_name = "ODS", value_parser = OdsCode::from_any_case, help_heading = PARTIES)]
    practice: Option<OdsCode>,
    /// NHS number of a test patient who is registered at the practice.
    #[arg(long, value_name = "NHS-NUMBER", help_heading = PARTIES)]
    patient: Option<String>,
}

/// Party that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum JudgedParty {
    /// A Spine Secure Proxy.
    Ssp,
    /// The system of a practice, called without a proxy.
    Provider,
}

/// Limit: time for which booked appointments are cancelled at the end.
const CLEAN_UP_MAX: Duration = Duration::from_secs(300);

const PARTIES: &str = "Practice";
const AGAINST: &str = "URL of the proxy, or of a provider or its service root, such as \
                       `https://ssp.example.nhs.uk`";
const AFTER_HELP: &str = "\
Exit codes: 0 if every case that was played has passed, 1 if one has failed, 2 if the arguments are wrong.

Examples:
  spine-proxy conform --lab lab.json --against https://ssp.test.example --book --junit results.xml
  spine-proxy conform --against https://ssp.test.example --config call.toml --practice A20047 \\
    --to 918999198993 --root https://gp.test.example/A20047/STU3/1/gpconnect --patient 9000000009
  spine-proxy conform --as provider --against https://gp.test.example/A20047/STU3/1/gpconnect \\
    --config call.toml --practice A20047 --to 918999198993 --patient 9000000009";

/// Plays the cases, prints them, and writes them to the JUnit file.
///
/// # Errors
/// Returns an error if an option is missing or cannot be used, or a case has failed.
pub fn run(wanted: &ConformOptions) -> Result<(), Failure> {
    let is_junit_printed = wanted.junit.as_deref() == Some(Path::new("-"));
    let screen = if is_junit_printed { Screen::stderr() } else { Screen::stdout() };
    let (base, parties) = wanted.parties()?;
    let judgement = if wanted.all { Judgement::All } else { Judgement::Specification };
    let report = JunitReport::new(vec![
        ("against", base.server.authority.clone()),
        (
            "as",
            wanted.party.to_possible_value().map(|of| of.get_name().to_owned()).unwrap_or_default(),
        ),
        ("books", wanted.book.to_string()),
        ("all", wanted.all.to_string()),
        ("version", crate::VERSION.to_owned()),
    ]);
    let play = Play::new(base, parties, PlaySettings { judgement, books: wanted.book, screen });
    if let Some(path) = wanted.junit.as_deref().filter(|_| !is_junit_printed) {
        // Before anything is sent: a result that cannot be written would be lost.
        super::written(path, "").map_err(|why| Failure::Configuration(why.into()))?;
    }
    play.introduce();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = Instant::now();
    let (cases, is_whole) = runtime.block_on(Box::pin(played(&play)))?;
    play.summarise(&cases, began.elapsed());
    let xml = report.xml(&cases, began.elapsed());
    match &wanted.junit {
        Some(_) if is_junit_printed => super::print(xml.trim_end()),
        Some(path) => super::written(path, &xml)?,
        None => {}
    }
    let (failed, passed, _) = counts(&cases);
    let wrong = match (failed, is_whole) {
        (_, false) => anyhow::anyhow!("stopped by a signal"),
        (0, true) if passed > 0 => return Ok(()),
        (0, true) => anyhow::anyhow!("no case could be played"),
        (failed, true) => {
            let all = failed + passed;
            anyhow::anyhow!("{failed} of {all} cases were not answered as expected")
        }
    };
    Err(Failure::Environment(wrong))
}

/// Plays all cases, and cancels what was booked; returns false with them if a signal has ended it.
///
/// A run that has not come to its end has a case that says so.
async fn played(play: &Play) -> Result<(Vec<PlayedCase>, bool), Failure> {
    let mut signals = StopSignals::new()?;
    let mut cases = Vec::new();
    let is_whole = tokio::select! {
        () = play.all(&mut cases) => true,
        () = signals.received() => false,
    };
    if !is_whole {
        cases.push(play.interrupted());
    }
    cases.extend(play.clean_up(CLEAN_UP_MAX).await);
    Ok((cases, is_whole))
}

impl ConformOptions {
    /// Returns the main consumer as it calls the practice, and all systems and people.
    fn parties(&self) -> Result<(Caller, TestParties), Failure> {
        let mut options = self.connection.clone().completed(&self.source)?;
        let against = options.proxy.take().ok_or_else(|| needed("against"))?;
        let wrong = |why: &str| usage(format_args!("--against {against}: {why}"));
        const SCHEME: &str = "must begin with https://, or with http:// for a loopback address";
        if !["https://", "http://"].iter().any(|scheme| against.starts_with(scheme)) {
            return Err(wrong(SCHEME));
        }
        let url = ServiceUrl::parse(&against).map_err(wrong)?;
        let is_provider = self.party == JudgedParty::Provider;
        match (is_provider, url.path.as_str()) {
            (_, "/") => {}
            (true, _) => {
                let root = against.trim_end_matches('/').to_owned();
                options.root = Some(options.root.unwrap_or(root));
            }
            (false, _) => return Err(wrong("must have no path")),
        }
        if !url.is_https && !url.is_loopback() {
            return Err(wrong(SCHEME));
        }
        let scheme = if url.is_https { "https" } else { "http" };
        options.proxy = Some(format!("{scheme}://{}", url.authority));
        let parties = match &self.source.lab {
            Some(path) => self.of_lab(path, options.root.take())?,
            None => self.of_options(&mut options)?,
        };
        options.to = None;
        let practice = parties.practices.iter().find(|practice| practice.answers);
        let practice = practice.ok_or_else(|| needed("practice"))?;
        let form = if is_provider { TargetForm::Provider } else { TargetForm::Root };
        let form = form(practice.root.clone());
        let base = Caller { form, ..options.caller(&practice.ods, CallNotes::None)? };
        Ok((base, parties))
    }

    /// Returns the one consumer, practice and patient that the options name.
    fn of_options(&self, options: &mut ConnectionOptions) -> Result<TestParties, Failure> {
        let practice = self.practice.clone().ok_or_else(|| needed("practice"))?;
        let consumer = TestConsumer {
            name: "consumer".to_owned(),
            asid: options.asid.clone().ok_or_else(|| needed("asid"))?,
            ods: options.consumer_ods.clone().ok_or_else(|| needed("consumer-ods"))?,
            certificate: options.certificate.clone(),
            key: options.key.clone(),
            interactions: Vec::new(),
            agreed: true,
        };
        let practice = TestPractice {
            name: practice.to_string(),
            ods: practice,
            asid: options.to.take().ok_or_else(|| needed("to"))?,
            root: options.root.take().ok_or_else(|| needed("root"))?,
            answers: true,
        };
        Ok(TestParties {
            proxy: TestProxy { url: options.proxy.clone().unwrap_or_default() },
            authority: options.authorities.clone().ok_or_else(|| needed("authorities"))?,
            consumers: vec![consumer],
            refused_certificates: BTreeMap::new(),
            practices: vec![practice],
            patients: self.patient.iter().map(|one| TestPatient::registered(one)).collect(),
        })
    }

    /// Reads the description of a lab, with the practice and the patient of the options first.
    fn of_lab(&self, path: &Path, root: Option<String>) -> Result<TestParties, Failure> {
        let mut parties = TestParties::load(path).map_err(Failure::Configuration)?;
        if let Some(ods) = &self.practice {
            parties.practices.sort_by_key(|practice| practice.ods != *ods);
            let is_there = parties.practices.first().is_some_and(|practice| practice.ods == *ods);
            if !is_there {
                return Err(usage(format_args!("--practice {ods}: the lab has no such practice")));
            }
        }
        if let (Some(root), Some(practice)) = (root, parties.practices.first_mut()) {
            practice.root = root;
        }
        let patient = self.patient.iter().map(|one| TestPatient::registered(one));
        parties.patients.splice(0..0, patient);
        Ok(parties)
    }
}

fn needed(name: &str) -> Failure {
    usage(format_args!("--{name} is needed, or a --config or --lab file with it"))
}
