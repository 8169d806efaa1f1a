//! `lookup`: looks a practice up in the directory as a request would, and prints each step and the result.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};

use super::print;
use crate::directory::{Directory, DirectoryContext, Explanation, FoundNow};
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::server::Prepared;
use spine_types::OdsCode;
use spine_types::interaction::{self, Interaction};

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
}

/// Looks a practice up and prints how the directory came to its answer.
///
/// # Errors
/// Returns an error if the configuration cannot be used, no source answers, or not exactly one system is
/// registered for the interaction.
pub fn run(wanted: &LookupOptions) -> Result<(), Failure> {
    let ods = OdsCode::from_any_case(wanted.ods.trim())
        .with_context(|| format!("{:?} is not an ODS code", wanted.ods))
        .map_err(Failure::Configuration)?;
    let interaction = wanted.interaction;
    let Prepared { config, directory, live, .. } = Prepared::load(&wanted.config, 1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let context = DirectoryContext::new(Arc::new(Metrics::new()));
        let settings = &config.directory;
        let directory = Directory::new(directory, live, settings, context);
        if let Some(path) = &settings.snapshot {
            directory.load(path).map_err(Failure::environment)?;
        }
        print(format_args!("practice    {ods}\ninteraction {}", interaction.id));
        print_explanation(directory.explain(&ods, interaction).await, interaction)
    })
}

fn print_explanation(explained: Explanation, interaction: &Interaction) -> Result<(), Failure> {
    for cached in &explained.cached {
        print(format_args!("in snapshot {cached}"));
    }
    for step in &explained.trace.steps {
        let took_ms = step.took.as_millis();
        print(format_args!(
            "asked       {} for {}: {} in {took_ms} ms",
            step.source, step.question, step.outcome
        ));
    }
    for oddity in &explained.trace.oddities {
        print(format_args!("unusual     {oddity}"));
    }
    let found =
        explained.answer.map_err(|why| Failure::Environment(anyhow!("no answer: {why}")))?;
    let Some(FoundNow { origin, providers }) = found else {
        return Err(Failure::Environment(anyhow!(
            "nothing is registered for this practice and interaction"
        )));
    };
    let serving = providers.iter().filter(|provider| provider.serves(interaction));
    let systems = serving.clone().count();
    for provider in serving {
        print(format_args!(
            "{:<11} ASID {} party key {} at {}",
            origin.label(),
            provider.asid,
            provider.party_key,
            provider.root
        ));
    }
    let mut others: Vec<&str> = providers
        .iter()
        .flat_map(|provider| provider.interactions.iter().map(|other| other.id))
        .filter(|id| *id != interaction.id)
        .collect();
    others.sort_unstable();
    others.dedup();
    print(format_args!("also has    {} other interactions", others.len()));
    match systems {
        0 => Err(Failure::Environment(anyhow!(
            "this practice is not registered for this interaction"
        ))),
        1 => Ok(()),
        _ => Err(Failure::Environment(anyhow!(
            "{systems} systems are registered: a request must choose one with Ssp-To"
        ))),
    }
}
