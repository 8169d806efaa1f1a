//! `lookup`: looks a practice up in the directory as a request would, and prints each step and the result. The shape
//! of its JSON is described in docs/operate/running.md.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use super::output::{print, print_pretty_json};
use crate::directory::{
    Directory, DirectoryContext, Explanation, FoundNow, LookupStep, RegistrationView,
};
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::registry::ProviderRegistration;
use crate::server::{FaultEntry, Prepared};
use spine_types::interaction::{self, Interaction};
use spine_types::{OdsCode, masked};

/// Practice and interaction to look up.
#[derive(Debug, clap::Args)]
pub struct LookupOptions {
    /// Path of the configuration file.
    #[arg(long)]
    config: PathBuf,
    /// ODS code of the practice, in either case.
    ods: String,
    /// Interaction: an id, the end of one, or a word such as book.
    #[arg(default_value = "slots", value_parser = interaction::named)]
    interaction: &'static Interaction,
    /// Prints the result as JSON, also if there is a fault.
    #[arg(long)]
    json: bool,
}

/// Result of a look-up.
#[derive(Debug, Default, Serialize)]
struct LookupReport {
    /// True if the command ends with exit code 0.
    ok: bool,
    /// ODS code of the practice; `None` if what was given is none.
    practice: Option<OdsCode>,
    interaction: &'static str,
    /// Registrations of the practice in the snapshot, before the look-up.
    cached: Vec<RegistrationView>,
    queries: Vec<LookupStep>,
    /// Labels of irregularities in the records.
    oddities: Vec<&'static str>,
    /// Source that returned the registrations: `file`, `sds-api` or `sds-ldap`.
    source: Option<&'static str>,
    systems: Vec<SystemEntry>,
    /// Ids of the other interactions that the practice is registered for.
    other_interactions: Vec<&'static str>,
    faults: Vec<FaultEntry>,
}

/// System that is registered for the interaction.
#[derive(Debug, Serialize)]
struct SystemEntry {
    asid: String,
    party_key: String,
    root: String,
}

/// Looks a practice up and prints how the directory came to its answer.
///
/// # Errors
/// Returns an error if the configuration cannot be used, no source answers, or not exactly one system is
/// registered for the interaction.
pub fn run(wanted: &LookupOptions) -> Result<(), Failure> {
    let mut report = LookupReport { interaction: wanted.interaction.id, ..LookupReport::default() };
    let ended = report.look_up(wanted);
    if wanted.json {
        report.ok = ended.is_ok();
        report.faults.extend(ended.as_ref().err().map(FaultEntry::new));
        print_pretty_json(&report)?;
    } else {
        report.print();
    }
    ended
}

impl LookupReport {
    /// Looks the practice up, and takes up what is found.
    fn look_up(&mut self, wanted: &LookupOptions) -> Result<(), Failure> {
        let ods = OdsCode::from_any_case(wanted.ods.trim())
            .with_context(|| format!("{:?} is not an ODS code", masked(&wanted.ods, 100)))
            .map_err(Failure::Configuration)?;
        let ods = &*self.practice.insert(ods);
        let Prepared { config, directory, live, .. } = Prepared::load(&wanted.config, 1)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let explained = runtime.block_on(async {
            let context = DirectoryContext::new(Arc::new(Metrics::new()));
            let settings = &config.directory;
            let directory = Directory::new(directory, live, settings, context);
            if let Some(path) = &settings.snapshot {
                directory.load(path).map_err(Failure::environment)?;
            }
            Ok::<_, Failure>(directory.explain(ods, wanted.interaction).await)
        })?;
        self.take(explained, wanted.interaction).map_err(Failure::Environment)
    }

    /// Takes up what the directory found; fails unless exactly one system is registered.
    fn take(&mut self, explained: Explanation, interaction: &Interaction) -> anyhow::Result<()> {
        let Explanation { cached, trace, answer } = explained;
        (self.cached, self.queries, self.oddities) = (cached, trace.steps, trace.oddities);
        let found = answer.map_err(|why| anyhow!("no answer: {why}"))?;
        let found = found.context("nothing is registered for this practice and interaction")?;
        let FoundNow { origin, providers } = found;
        self.source = Some(origin.label());
        let serving = providers.iter().filter(|provider| provider.serves(interaction));
        self.systems = serving.map(|provider| SystemEntry::new(provider)).collect();
        let all = providers.iter().flat_map(|provider| &provider.interactions);
        self.other_interactions =
            all.map(|other| other.id).filter(|id| *id != interaction.id).collect();
        self.other_interactions.sort_unstable();
        self.other_interactions.dedup();
        match self.systems.len() {
            0 => bail!("this practice is not registered for this interaction"),
            1 => Ok(()),
            count => {
                bail!("{count} systems are registered: a request must choose one with Ssp-To")
            }
        }
    }

    /// Prints the report as text, without the faults.
    fn print(&self) {
        let Some(ods) = &self.practice else { return };
        print(format_args!("practice    {ods}\ninteraction {}", self.interaction));
        for cached in &self.cached {
            print(format_args!("in snapshot {cached}"));
        }
        for LookupStep { source, question, outcome, took_ms } in &self.queries {
            print(format_args!("asked       {source} for {question}: {outcome} in {took_ms} ms"));
        }
        for oddity in &self.oddities {
            print(format_args!("unusual     {oddity}"));
        }
        let Some(source) = self.source else { return };
        for SystemEntry { asid, party_key, root } in &self.systems {
            print(format_args!("{source:<11} ASID {asid} party key {party_key} at {root}"));
        }
        print(format_args!("also has    {} other interactions", self.other_interactions.len()));
    }
}

impl SystemEntry {
    fn new(provider: &ProviderRegistration) -> Self {
        Self {
            asid: provider.asid.to_string(),
            party_key: provider.party_key.to_string(),
            root: provider.root.to_string(),
        }
    }
}
