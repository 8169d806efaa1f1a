//! Rules by which records of any source become registrations.
//!
//! Spec: message handlers are looked up first, then accredited systems by party key. An empty answer is not
//! always an absence, and several answers are never decided by their order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::guarded::RateLimitedSource;
use super::source::{
    AccreditedSystem, Handler, HandlersOf, LookupPart, QueryOptions, SourceFault, SystemsOf,
};
use super::steps::Steps;
use crate::breaker::AttemptResult;
use crate::metrics::{Metrics, Oddity};
use crate::registry::{Origin, ProviderRegistration, Sender};
use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, OdsCode, PartyKey, ServiceRoot};

/// Resolver of registrations over the live sources, in the order in which they are asked.
#[derive(Debug)]
pub(super) struct SourceResolver {
    pub(super) sources: Vec<RateLimitedSource>,
    /// Number of times the sources' URLs had changed; look-ups compare it to notice a change.
    pub(super) number: u64,
    metrics: Arc<Metrics>,
}

/// Time from which an empty answer is not believed.
///
/// Spec: the API's own search gives up after three seconds and then answers as if nothing was found.
const EMPTY_BELIEVED: Duration = Duration::from_millis(2500);

/// URL of each live source.
pub(super) type SourceUrls = BTreeMap<Origin, String>;

/// Answer of the live sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DirectoryAnswer<T> {
    Found(T),
    /// Absence of any registration; unconfirmed if the search may have failed.
    Absent {
        confirmed: bool,
    },
}

/// Registrations of a practice for one interaction, with their source and systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundRegistrations {
    pub(super) origin: Origin,
    pub(super) providers: Vec<Arc<ProviderRegistration>>,
    /// Systems behind the party keys; needed to look up their other interactions.
    pub(super) systems: Vec<AccreditedSystem>,
}

impl SourceResolver {
    pub(super) fn new(sources: Vec<RateLimitedSource>, number: u64, metrics: Arc<Metrics>) -> Self {
        Self { sources, number, metrics }
    }

    /// Looks up a practice's registrations for one interaction: two queries, more only in doubt.
    ///
    /// # Errors
    /// Returns the last source's fault if no source gives a usable answer.
    pub(super) async fn practice(
        &self,
        ods: &OdsCode,
        interaction: &'static Interaction,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<DirectoryAnswer<FoundRegistrations>, SourceFault> {
        let asked = HandlersOf { ods: Some(ods), interaction: Some(interaction), party_key: None };
        let mut sources = self.sources.as_slice();
        // True once a source has returned handlers without systems: an absence is then not confirmed.
        let mut half = false;
        loop {
            let (guarded, handlers) = match self.certain(sources, &asked, how, steps).await {
                Ok((guarded, DirectoryAnswer::Found(handlers))) => (guarded, handlers),
                Ok((_, DirectoryAnswer::Absent { confirmed })) => {
                    return Ok(DirectoryAnswer::Absent { confirmed: confirmed && !half });
                }
                Err(_) if half => return Ok(DirectoryAnswer::Absent { confirmed: false }),
                Err(fault) => return Err(fault),
            };
            let found = self.found((ods, interaction), (guarded, &handlers), how, steps).await;
            let origin = guarded.source.origin();
            let at = sources.iter().position(|source| source.source.origin() == origin);
            sources = at.and_then(|at| sources.get(at + 1..)).unwrap_or_default();
            match found {
                // A source that fails half-way counts as one that fails at once: try the next.
                Err(fault) if !sources.is_empty() && !matches!(fault, SourceFault::OurFault(_)) => {
                }
                Ok(DirectoryAnswer::Absent { .. }) if !sources.is_empty() => half = true,
                found => return found,
            }
        }
    }

    /// Looks up the systems behind handlers, at the source that returned the handlers.
    async fn found(
        &self,
        (ods, interaction): (&OdsCode, &'static Interaction),
        (guarded, handlers): (&RateLimitedSource, &[Handler]),
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<DirectoryAnswer<FoundRegistrations>, SourceFault> {
        let how = QueryOptions { part: LookupPart::Second, ..how };
        let origin = guarded.source.origin();
        let mut found = FoundRegistrations { origin, providers: Vec::new(), systems: Vec::new() };
        for party_key in distinct(handlers.iter().map(|handler| &handler.party_key)) {
            let asked = SystemsOf::Practice { ods, interaction, party_key };
            let mut systems = self.systems(guarded, &asked, how, steps).await?;
            if systems.is_empty() && guarded.source.may_be_falsely_empty() {
                self.metrics.directory.suspect_empty();
                systems = self
                    .systems(guarded, &asked, QueryOptions { anew: true, ..how }, steps)
                    .await?;
            }
            found.systems.append(&mut systems);
        }
        found.providers = self.join(ods, handlers, &found.systems, steps);
        if found.providers.is_empty() {
            // Handlers without systems may be a change in progress.
            return Ok(DirectoryAnswer::Absent { confirmed: false });
        }
        Ok(DirectoryAnswer::Found(found))
    }

    /// Looks up these systems' other interactions at this practice, with one query per party key.
    ///
    /// Returns `None` if a query fails or returns no handlers.
    pub(super) async fn rest(
        &self,
        ods: &OdsCode,
        found: &FoundRegistrations,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Option<Vec<Arc<ProviderRegistration>>> {
        let guarded = self.of(found.origin).ok()?;
        let how = QueryOptions { part: LookupPart::Rest, ..how };
        let mut providers = Vec::new();
        for party_key in distinct(found.systems.iter().map(|system| &system.party_key)) {
            let asked =
                HandlersOf { ods: Some(ods), interaction: None, party_key: Some(party_key) };
            let (handlers, _) = self.handlers(guarded, &asked, how, steps).await.ok()?;
            if handlers.is_empty() {
                return None;
            }
            providers.extend(self.join(ods, &handlers, &found.systems, steps));
        }
        Some(providers)
    }

    /// Looks up the sender with this ASID and its certificate names, at sources searchable by ASID.
    pub(super) async fn sender(
        &self,
        asid: &Asid,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<DirectoryAnswer<(Origin, Sender)>, SourceFault> {
        let mut last = SourceFault::Unsupported;
        for guarded in self.sources.iter().filter(|guarded| guarded.source.knows_asids()) {
            match self.sender_from(guarded, asid, how, steps).await {
                Ok(DirectoryAnswer::Found(sender)) => {
                    return Ok(DirectoryAnswer::Found((guarded.source.origin(), sender)));
                }
                Ok(DirectoryAnswer::Absent { confirmed }) => {
                    return Ok(DirectoryAnswer::Absent { confirmed });
                }
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn sender_from(
        &self,
        guarded: &RateLimitedSource,
        asid: &Asid,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<DirectoryAnswer<Sender>, SourceFault> {
        let mut systems = self.systems(guarded, &SystemsOf::Asid(asid), how, steps).await?;
        let (Some(system), true) = (systems.pop(), systems.is_empty()) else {
            return Ok(DirectoryAnswer::Absent { confirmed: systems.is_empty() });
        };
        let Some(ods) = system.ods else {
            return Err(SourceFault::Malformed("a system record has no organisation".to_owned()));
        };
        let party_key = Some(&system.party_key);
        let asked = HandlersOf { ods: None, interaction: None, party_key };
        let (handlers, _) = self.handlers(guarded, &asked, how, steps).await?;
        let mut names: Vec<CertificateName> = Vec::new();
        for name in handlers.into_iter().filter_map(|handler| handler.fqdn) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let (on_behalf_of, interactions) = (Vec::new(), system.interactions);
        Ok(DirectoryAnswer::Found(Sender {
            asid: asid.clone(),
            names,
            ods,
            on_behalf_of,
            interactions,
        }))
    }

    /// Looks up the practice that owns the system with this ASID; only a hint that chooses which
    /// practice to look up.
    pub(super) async fn owner(
        &self,
        asid: &Asid,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<Option<OdsCode>, SourceFault> {
        let mut last = SourceFault::Unsupported;
        for guarded in self.sources.iter().filter(|guarded| guarded.source.knows_asids()) {
            match self.systems(guarded, &SystemsOf::Asid(asid), how, steps).await {
                Ok(systems) => return Ok(systems.into_iter().next().and_then(|system| system.ods)),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// Returns the handlers of the first source that answers.
    ///
    /// An empty answer that may be a failed search leads to the next source; if none decides, the query is
    /// repeated past all caches.
    async fn certain<'a>(
        &self,
        sources: &'a [RateLimitedSource],
        asked: &HandlersOf<'_>,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<(&'a RateLimitedSource, DirectoryAnswer<Vec<Handler>>), SourceFault> {
        let mut last = SourceFault::CircuitOpen;
        let mut doubted = None;
        for guarded in sources {
            let doubtful = guarded.source.may_be_falsely_empty();
            match self.handlers(guarded, asked, how, steps).await {
                Ok((handlers, _)) if !handlers.is_empty() => {
                    return Ok((guarded, DirectoryAnswer::Found(handlers)));
                }
                Ok(_) if !doubtful => {
                    return Ok((guarded, DirectoryAnswer::Absent { confirmed: true }));
                }
                Ok((_, took)) => {
                    self.metrics.directory.suspect_empty();
                    doubted = Some((guarded, took >= EMPTY_BELIEVED));
                }
                Err(fault @ SourceFault::OurFault(_)) => return Err(fault),
                Err(fault) => last = fault,
            }
        }
        let Some((guarded, first_was_slow)) = doubted else { return Err(last) };
        let again = self.handlers(guarded, asked, QueryOptions { anew: true, ..how }, steps).await;
        match again {
            Ok((handlers, _)) if !handlers.is_empty() => {
                Ok((guarded, DirectoryAnswer::Found(handlers)))
            }
            Ok((_, took)) => {
                let slow = first_was_slow || took >= EMPTY_BELIEVED;
                Ok((guarded, DirectoryAnswer::Absent { confirmed: !slow }))
            }
            Err(_) => Ok((guarded, DirectoryAnswer::Absent { confirmed: false })),
        }
    }

    /// Queries one source for handlers; returns them with the time that the answer took.
    async fn handlers(
        &self,
        guarded: &RateLimitedSource,
        asked: &HandlersOf<'_>,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<(Vec<Handler>, Duration), SourceFault> {
        let answer = guarded.source.handlers(asked, how);
        let (answer, took) = self.ask((guarded, "handlers"), how, steps, answer).await?;
        Ok((fitting(answer, |handler| asked.fits(handler))?, took))
    }

    async fn systems(
        &self,
        guarded: &RateLimitedSource,
        asked: &SystemsOf<'_>,
        how: QueryOptions<'_>,
        steps: &mut Steps,
    ) -> Result<Vec<AccreditedSystem>, SourceFault> {
        let answer = guarded.source.systems(asked, how);
        let (answer, _) = self.ask((guarded, "systems"), how, steps, answer).await?;
        match asked {
            // LDAP returns a party key's systems whatever their interactions.
            SystemsOf::Practice { .. } => {
                Ok(answer.into_iter().filter(|system| asked.fits(system)).collect())
            }
            SystemsOf::Asid(_) => fitting(answer, |system| asked.fits(system)),
        }
    }

    /// Sends one query when its turn has come, unless the source's circuit is open; counts and logs the
    /// outcome.
    async fn ask<T>(
        &self,
        (guarded, question): (&RateLimitedSource, &'static str),
        how: QueryOptions<'_>,
        steps: &mut Steps,
        answer: impl Future<Output = Result<Vec<T>, SourceFault>>,
    ) -> Result<(Vec<T>, Duration), SourceFault> {
        let source = guarded.source.origin().label();
        let Ok(admitted) = guarded.breaker.admits() else {
            steps.add(source, question, "circuit open", Duration::ZERO);
            return Err(SourceFault::CircuitOpen);
        };
        let waits = Instant::now();
        let turn = guarded.pacer.turn(how).await;
        let began = Instant::now();
        self.metrics.directory.waited(source, began - waits);
        let answer = match turn {
            Ok(_held) => answer.await,
            Err(fault) => Err(fault),
        };
        let took = began.elapsed();
        let outcome = match &answer {
            Ok(rows) if rows.is_empty() => "absent",
            Ok(_) => "found",
            Err(fault) => fault.label(),
        };
        match &answer {
            Ok(_) => {}
            Err(SourceFault::Paced) => {
                tracing::debug!(
                    source, question, id = %how.id,
                    "directory query not sent, or cut short by the look-up's deadline"
                );
            }
            Err(fault) => {
                tracing::warn!(
                    source, question, id = %how.id, %fault,
                    "a directory source gave no usable answer; another source or a cached answer is used \
                     if there is one"
                );
            }
        }
        let verdict = answer.as_ref().map_or_else(SourceFault::verdict, |_| AttemptResult::Well);
        guarded.breaker.learn(admitted, verdict);
        self.metrics.directory.asked(source, question, outcome, took);
        self.metrics.directory.open(source, guarded.breaker.is_open());
        steps.add(source, question, outcome, took);
        answer.map(|rows| (rows, took))
    }

    /// Joins handlers and systems by party key into one registration per interaction, root and system.
    fn join(
        &self,
        ods: &OdsCode,
        handlers: &[Handler],
        systems: &[AccreditedSystem],
        steps: &mut Steps,
    ) -> Vec<Arc<ProviderRegistration>> {
        let mut providers: Vec<Arc<ProviderRegistration>> = Vec::new();
        for handler in handlers {
            let Some(interaction) = handler.interaction else { continue };
            let Some(root) = self.root(ods, handler, steps) else { continue };
            // Only quoted in a refusal, so a missing value is no fault.
            let cpa_id = handler.cpa_id.clone().or_else(|| "unknown".parse().ok());
            let Some(cpa_id) = cpa_id else { continue };
            let registered = |system: &&AccreditedSystem| {
                let key = system.party_key.as_str();
                key.eq_ignore_ascii_case(handler.party_key.as_str())
                    && system.interactions.iter().any(|held| held.id == interaction.id)
            };
            for system in systems.iter().filter(registered) {
                let provider = ProviderRegistration::new(
                    ods.clone(),
                    system.asid.clone(),
                    handler.party_key.clone(),
                    cpa_id.clone(),
                    root.clone(),
                    vec![interaction],
                );
                // Duplicate records count as one registration.
                let same = |held: &Arc<ProviderRegistration>| {
                    held.asid == provider.asid
                        && held.root == provider.root
                        && held.serves(interaction)
                };
                if !providers.iter().any(same) {
                    providers.push(Arc::new(provider));
                }
            }
        }
        providers
    }

    /// Parses a handler's address as a service root; counts irregularities.
    ///
    /// Security: an address that is not `https` with a host name is ignored, whatever the directory says.
    fn root(&self, ods: &OdsCode, handler: &Handler, steps: &mut Steps) -> Option<ServiceRoot> {
        let text = handler.address.as_deref().map(str::trim).unwrap_or_default();
        let root = match text.parse::<ServiceRoot>() {
            Ok(root) => root,
            Err(fault) => {
                let odd = if text.is_empty() { Oddity::NoAddress } else { Oddity::BadAddress };
                self.odd(odd, ods, steps);
                tracing::warn!(
                    %ods, %fault,
                    "the directory has no usable address for a message handler of this practice; the \
                     record is ignored"
                );
                return None;
            }
        };
        if text.ends_with('/') {
            self.odd(Oddity::TrailingSlash, ods, steps);
        }
        let named = |name: &CertificateName| name.as_str().eq_ignore_ascii_case(root.host());
        if !handler.fqdn.as_ref().is_none_or(named) {
            self.odd(Oddity::OtherHost, ods, steps);
        }
        Some(root)
    }

    fn odd(&self, oddity: Oddity, ods: &OdsCode, steps: &mut Steps) {
        self.metrics.directory.oddity(oddity);
        tracing::debug!(%ods, oddity = oddity.label(), "a directory record is irregular");
        steps.odd(oddity.label());
    }

    fn of(&self, origin: Origin) -> Result<&RateLimitedSource, SourceFault> {
        let same = |guarded: &&RateLimitedSource| guarded.source.origin() == origin;
        self.sources.iter().find(same).ok_or(SourceFault::Unsupported)
    }

    /// Returns true if a source can look up senders.
    pub(super) fn knows_senders(&self) -> bool {
        self.sources.iter().any(|guarded| guarded.source.knows_asids())
    }
}

/// Returns the rows that match the query.
///
/// # Errors
/// Returns a fault if there are rows but none matches: that is not an absence.
fn fitting<T>(rows: Vec<T>, fits: impl Fn(&T) -> bool) -> Result<Vec<T>, SourceFault> {
    let answered = !rows.is_empty();
    let rows: Vec<T> = rows.into_iter().filter(fits).collect();
    if answered && rows.is_empty() {
        return Err(SourceFault::Malformed("no record matches the query".to_owned()));
    }
    Ok(rows)
}

fn distinct<'a>(keys: impl Iterator<Item = &'a PartyKey>) -> Vec<&'a PartyKey> {
    let mut distinct: Vec<&PartyKey> = Vec::new();
    for key in keys {
        if !distinct.iter().any(|held| held.as_str().eq_ignore_ascii_case(key.as_str())) {
            distinct.push(key);
        }
    }
    distinct
}
