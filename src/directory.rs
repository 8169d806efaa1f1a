//! One question, one answer: who is this sender, where is this practice?
//!
//! Sources are dumb; freshness and the choice among several answers live here alone. Entries are
//! kept per practice and per sender, not per question, and each remembers when its source answered.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::future::Cache;
use tokio::runtime::Handle;

use crate::consumers::Sender;
use crate::interaction::Interaction;
use crate::metrics::{Lookup, Metrics};
use crate::policy::{Agreements, Provider};
use crate::refusal::Refusal;
use crate::spine::{Asid, CertificateName, InnerUrl, OdsCode};

mod file;
mod shelf;

pub use file::{File, FileError};

use shelf::{Asked, Key, Look, Shelf};

/// How long an answer of a source is used.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Freshness {
    /// A provider is served without asking again.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub provider: Duration,
    /// After that, a provider is served while it is asked for again.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub provider_stale: Duration,
    /// A sender is served without asking again; never longer, since a stale authorisation fails
    /// open.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub sender: Duration,
    /// An absence is believed.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub absent: Duration,
    /// Between two forced refreshes of one practice.
    #[serde(with = "crate::spine::period")]
    #[schemars(with = "String")]
    pub forced: Duration,
    /// Practices held.
    pub practices_max: u64,
    /// Absences held.
    pub absent_max: u64,
}

impl Default for Freshness {
    /// Spec: none gives a number; 15 minutes is what the national adaptors use.
    fn default() -> Self {
        Self {
            provider: Duration::from_secs(15 * 60),
            provider_stale: Duration::from_secs(45 * 60),
            sender: Duration::from_secs(5 * 60),
            absent: Duration::from_secs(60),
            forced: Duration::from_secs(30),
            practices_max: 20_000,
            absent_max: 10_000,
        }
    }
}

/// All that is registered for one practice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Practice {
    /// One for each service root.
    pub providers: Vec<Arc<Provider>>,
}

/// The directory: cheap to clone, shared by all workers.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    file: ArcSwap<File>,
    senders: Shelf<Asid, Sender>,
    practices: Shelf<OdsCode, Practice>,
    forced: Cache<OdsCode, ()>,
    metrics: Arc<Metrics>,
    tasks: Handle,
}

/// What a request asks the directory about its receiver.
#[derive(Debug, Clone, Copy)]
pub enum Receiver<'a> {
    /// Form (a): the system of this ASID.
    System(&'a Asid),
    /// Form (b): the system of this practice; `Ssp-To` chooses among several.
    Practice(&'a OdsCode, Option<&'a Asid>),
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Directory").field("held", &self.held()).finish_non_exhaustive()
    }
}

impl Directory {
    /// A directory over a file. `tasks` runs the look-ups, so that a consumer who hangs up cancels
    /// none that others wait for.
    #[must_use]
    pub fn new(file: File, freshness: &Freshness, metrics: Arc<Metrics>, tasks: Handle) -> Self {
        let negative = (freshness.absent, freshness.absent_max);
        let positive = |fresh, stale| (fresh, stale, freshness.practices_max);
        Self {
            shared: Arc::new(Shared {
                file: ArcSwap::from_pointee(file),
                senders: Shelf::new(positive(freshness.sender, Duration::ZERO), negative),
                practices: Shelf::new(
                    positive(freshness.provider, freshness.provider_stale),
                    negative,
                ),
                forced: Cache::builder()
                    .max_capacity(freshness.practices_max)
                    .time_to_live(freshness.forced)
                    .build(),
                metrics,
                tasks,
            }),
        }
    }

    /// Puts a new file in force. What was held from the old one is not asked again.
    pub fn replace(&self, mut file: File) {
        file.generation = self.shared.file.load().generation + 1;
        self.shared.file.store(Arc::new(file));
    }

    /// The agreements in force.
    #[must_use]
    pub fn agreements(&self) -> Arc<Agreements> {
        Arc::clone(&self.shared.file.load().agreements)
    }

    /// Whether any sender has one of these names: tells a stranger from a consumer in error.
    #[must_use]
    pub fn knows_any(&self, names: &[CertificateName]) -> bool {
        let file = self.shared.file.load();
        names.iter().any(|name| file.names.contains_key(name))
    }

    /// Whether a sender with one of these names is registered for this organisation.
    #[must_use]
    pub fn are_names_of(&self, names: &[CertificateName], ods: &OdsCode) -> bool {
        let file = self.shared.file.load();
        names.iter().any(|name| file.names.get(name).is_some_and(|held| held.contains(ods)))
    }

    /// Whether any sender is registered for this organisation.
    #[must_use]
    pub fn knows_organisation(&self, ods: &OdsCode) -> bool {
        self.shared.file.load().organisations.contains(ods)
    }

    /// Whether a URL lies under any registered service root.
    #[must_use]
    pub fn knows_root_of(&self, url: &InnerUrl<'_>) -> bool {
        let file = self.shared.file.load();
        let ends = url.path.match_indices('/').map(|(at, _)| at).chain([url.path.len()]);
        ends.filter_map(|end| url.path.get(..end))
            .any(|path| file.roots.contains(&format!("https://{}{path}", url.authority)))
    }

    /// The sender of this ASID.
    pub async fn sender(&self, asid: &Asid, now_s: i64) -> Result<Arc<Sender>, Refusal> {
        let found = self.ask(|shared| &shared.senders, asid, File::sender, now_s).await?;
        found.ok_or_else(|| Refusal::SenderUnknown(asid.clone()))
    }

    /// The receiver's registration for this interaction.
    pub async fn provider(
        &self,
        receiver: Receiver<'_>,
        interaction: &Interaction,
        now_s: i64,
    ) -> Result<Arc<Provider>, Refusal> {
        let ods = self.practice_of(receiver).ok_or(Refusal::ReceiverUnknown)?;
        let practice = self.ask(|shared| &shared.practices, &ods, File::practice, now_s).await?;
        choose(practice.as_deref(), receiver, interaction)
    }

    /// The same, asked of the source anew, if this practice has not been forced lately: a practice
    /// that moved supplier must not be refused out of our cache.
    pub async fn refreshed(
        &self,
        receiver: Receiver<'_>,
        interaction: &Interaction,
        now_s: i64,
    ) -> Option<Arc<Provider>> {
        let ods = self.practice_of(receiver)?;
        if !self.shared.forced.entry(ods.clone()).or_insert(()).await.is_fresh() {
            return None;
        }
        let generation = self.shared.file.load().generation;
        self.shared.practices.forget(&(generation, ods)).await;
        self.provider(receiver, interaction, now_s).await.ok()
    }

    /// Practices and senders held, absences included.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.shared.practices.held() + self.shared.senders.held()
    }

    fn practice_of(&self, receiver: Receiver<'_>) -> Option<OdsCode> {
        match receiver {
            Receiver::Practice(ods, _) => Some(ods.clone()),
            Receiver::System(asid) => self.shared.file.load().practice_of.get(asid).cloned(),
        }
    }

    async fn ask<K: Key, V: Send + Sync + 'static>(
        &self,
        shelf: fn(&Shared) -> &Shelf<K, V>,
        key: &K,
        source: fn(&File, &K) -> Option<V>,
        now_s: i64,
    ) -> Result<Option<Arc<V>>, Refusal> {
        let file = self.shared.file.load();
        let key = (file.generation, key.clone());
        let metrics = &self.shared.metrics;
        match shelf(&self.shared).look(&key, now_s).await {
            Look::Fresh(found) => {
                metrics.directory(Lookup::Hit);
                Ok(Some(found))
            }
            Look::Absent => {
                metrics.directory(Lookup::Absent);
                Ok(None)
            }
            Look::Stale(found) => {
                metrics.directory(Lookup::Stale);
                let (shared, file) = (Arc::clone(&self.shared), Arc::clone(&file));
                self.shared.tasks.spawn(async move {
                    let asked = Asked { file: &file, source, now_s, metrics: &shared.metrics };
                    shelf(&shared).refresh(&key, asked).await;
                });
                Ok(Some(found))
            }
            Look::Nothing => {
                metrics.directory(Lookup::Miss);
                let (shared, file) = (Arc::clone(&self.shared), Arc::clone(&file));
                let load = self.shared.tasks.spawn(async move {
                    let asked = Asked { file: &file, source, now_s, metrics: &shared.metrics };
                    shelf(&shared).load(key, asked).await
                });
                load.await.map_err(|_| Refusal::DirectoryUnavailable)
            }
        }
    }
}

/// Among a practice's registrations, the one that is asked for; several are an error.
fn choose(
    practice: Option<&Practice>,
    receiver: Receiver<'_>,
    interaction: &Interaction,
) -> Result<Arc<Provider>, Refusal> {
    let providers = practice.map(|practice| practice.providers.as_slice()).unwrap_or_default();
    let registered =
        |provider: &&Arc<Provider>| provider.interactions.iter().any(|id| id == interaction.id);
    let (mut fitting, none): (Vec<_>, _) = match receiver {
        Receiver::System(asid) => {
            let system = providers.iter().filter(|provider| provider.asid == *asid);
            let none = match system.clone().next() {
                Some(_) => Refusal::ReceiverNotRegistered(asid.clone()),
                None => Refusal::ReceiverUnknown,
            };
            (system.filter(registered).collect(), none)
        }
        Receiver::Practice(..) if providers.is_empty() => return Err(Refusal::PracticeUnknown),
        Receiver::Practice(_, to) => {
            let mut all: Vec<_> = providers.iter().filter(registered).collect();
            let several = all.len() > 1;
            if let (true, Some(to)) = (several, to) {
                all.retain(|provider| provider.asid == *to);
            }
            let none = match several {
                true => Refusal::ReceiverNotPractices,
                false => Refusal::PracticeNotRegistered,
            };
            (all, none)
        }
    };
    match (fitting.pop(), fitting.pop()) {
        (Some(one), None) => Ok(Arc::clone(one)),
        (None, _) => Err(none),
        (Some(_), Some(_)) => Err(Refusal::ReceiverAmbiguous),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[consumer]]
        name = "Hub"
        asids = ["200000000359"]
        certificate-names = ["hub.example.nhs.uk"]
        ods = "A00001"
        interactions = ["appointments"]

        [[provider]]
        ods = "A20047"
        asid = "918999198993"
        party-key = "A20047-1234567"
        cpa-id = "S000000000001"
        root = "https://p.example.nhs.uk/A20047/STU3/1/gpconnect"
        interactions = ["appointments"]
    "#;

    fn directory(freshness: &Freshness) -> (Directory, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let file = File::parse(FILE, "test".as_ref()).unwrap();
        (Directory::new(file, freshness, Arc::clone(&metrics), Handle::current()), metrics)
    }

    fn slot() -> &'static Interaction {
        &crate::interaction::CATALOGUE[0]
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_misses_for_one_practice_make_one_look_up() {
        let (directory, metrics) = directory(&Freshness::default());
        let to: Asid = "918999198993".parse().unwrap();
        let asked: Vec<_> = (0..1000)
            .map(|_| {
                let (directory, to) = (directory.clone(), to.clone());
                tokio::spawn(async move {
                    directory.provider(Receiver::System(&to), slot(), 1000).await.unwrap()
                })
            })
            .collect();
        for one in asked {
            assert_eq!(one.await.unwrap().asid, to);
        }
        assert_eq!(metrics.directory_source_count(), 1);
    }

    #[tokio::test]
    async fn a_stale_entry_is_served_and_asked_for_again() {
        let (directory, metrics) = directory(&Freshness::default());
        let to: Asid = "918999198993".parse().unwrap();
        for (now_s, asked) in [(1000, 1), (1899, 1), (1900, 2), (1901, 2), (999, 3)] {
            directory.provider(Receiver::System(&to), slot(), now_s).await.unwrap();
            tokio::task::yield_now().await;
            assert_eq!(metrics.directory_source_count(), asked, "at {now_s}");
        }
    }

    #[tokio::test]
    async fn a_new_file_is_in_force_at_once() {
        let (directory, _) = directory(&Freshness::default());
        let asid: Asid = "200000000359".parse().unwrap();
        assert!(directory.sender(&asid, 1000).await.is_ok());
        directory.replace(File::parse("", "test".as_ref()).unwrap());
        let refused = directory.sender(&asid, 1000).await;
        assert_eq!(refused.unwrap_err(), Refusal::SenderUnknown(asid));
    }

    #[tokio::test]
    async fn a_look_up_that_cannot_be_made_is_no_absence() {
        let stopped =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let tasks = stopped.handle().clone();
        stopped.shutdown_background();
        let file = File::parse(FILE, "test".as_ref()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let directory = Directory::new(file, &Freshness::default(), metrics, tasks);
        let ods: OdsCode = "A20047".parse().unwrap();
        let refused = directory.provider(Receiver::Practice(&ods, None), slot(), 1000).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }

    #[tokio::test]
    async fn an_absence_is_believed_for_a_while() {
        let (directory, metrics) = directory(&Freshness::default());
        let ods: OdsCode = "ZZZ".parse().unwrap();
        for _ in 0..3 {
            let refused = directory.provider(Receiver::Practice(&ods, None), slot(), 1000).await;
            assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown);
        }
        assert_eq!(metrics.directory_source_count(), 1);
    }
}
