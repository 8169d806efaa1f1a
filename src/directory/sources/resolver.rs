//! Rules by which records of any source become registrations.
//!
//! Spec: message handlers are looked up first, then accredited systems by party key. An empty answer is not
//! always an absence, and several answers are never decided by their order.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::query::{AccreditedSystem, Handler, HandlersOf, QueryOptions, SourceFault, SystemsOf};
use super::queue::LookupWaiters;
use super::trace::LookupTrace;
use super::{LiveSource, LiveSources};
use crate::breaker::AttemptResult;
use crate::metrics::{Metrics, Oddity, QueryKind, QueryOutcome};
use crate::registry::{Origin, ProviderRegistration, Sender};
use crate::sharing::Sharing;
use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, OdsCode, PartyKey, ServiceRoot};

/// Look-up at the live sources: its deadline, the callers that wait for it, and the trace of its queries.
#[derive(Debug)]
pub(in crate::directory) struct SourceLookup<'a> {
    sources: &'a [LiveSource],
    metrics: &'a Metrics,
    sharing: &'a Sharing,
    waiters: &'a Arc<LookupWaiters>,
    /// Time at which the look-up is given up.
    pub(in crate::directory) deadline: Instant,
    /// True to bypass HTTP caches on the way.
    pub(in crate::directory) past_caches: bool,
    id: Uuid,
    /// Queries sent so far.
    pub(in crate::directory) trace: LookupTrace,
}

/// Time from which an empty answer is not believed.
///
/// Spec: the API's own search gives up after three seconds and then answers as if nothing was found.
const EMPTY_BELIEVED: Duration = Duration::from_millis(2500);

/// Certainty of an absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::directory) enum Certainty {
    /// The directory has nothing registered.
    Confirmed,
    /// The search may have failed: not repeated at once, and no ground for a final refusal.
    Unconfirmed,
}

impl Certainty {
    const fn when(is_confirmed: bool) -> Self {
        if is_confirmed { Self::Confirmed } else { Self::Unconfirmed }
    }
}

/// Answer of the live sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::directory) enum DirectoryAnswer<T> {
    Found(T),
    /// Absence of any registration.
    Absent(Certainty),
}

/// Registrations of a practice for one interaction, with their source and systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::directory) struct FoundRegistrations {
    pub(in crate::directory) origin: Origin,
    pub(in crate::directory) providers: Vec<Arc<ProviderRegistration>>,
    /// Systems behind the party keys; needed to look up their other interactions.
    pub(in crate::directory) systems: Vec<AccreditedSystem>,
}

/// Handlers, and the source that returned them.
struct HandlersFrom<'a> {
    source: &'a LiveSource,
    handlers: DirectoryAnswer<Vec<Handler>>,
}

impl LiveSources {
    /// Begins a look-up for these callers, to be given up at the deadline.
    pub(in crate::directory) fn begin<'a>(
        &'a self,
        waiters: &'a Arc<LookupWaiters>,
        patience: Duration,
        metrics: &'a Metrics,
        sharing: &'a Sharing,
    ) -> SourceLookup<'a> {
        SourceLookup {
            sources: &self.sources,
            metrics,
            sharing,
            waiters,
            deadline: Instant::now() + patience,
            past_caches: false,
            id: Uuid::new_v4(),
            trace: LookupTrace::default(),
        }
    }
}

impl<'a> SourceLookup<'a> {
    /// Looks up a practice's registrations for one interaction: two queries, more only in doubt.
    ///
    /// # Errors
    /// Returns the last source's fault if no source gives a usable answer.
    pub(in crate::directory) async fn practice(
        &mut self,
        ods: &OdsCode,
        interaction: &'static Interaction,
    ) -> Result<DirectoryAnswer<FoundRegistrations>, SourceFault> {
        let asked = HandlersOf { ods: Some(ods), interaction: Some(interaction), party_key: None };
        let mut sources = self.sources;
        // True once a source has returned handlers without systems: an absence is then not confirmed.
        let mut is_incomplete = false;
        loop {
            let HandlersFrom { source, handlers } = match self.first_handlers(sources, &asked).await
            {
                Ok(answer) => answer,
                Err(_) if is_incomplete => {
                    return Ok(DirectoryAnswer::Absent(Certainty::Unconfirmed));
                }
                Err(fault) => return Err(fault),
            };
            let handlers = match handlers {
                DirectoryAnswer::Found(handlers) => handlers,
                DirectoryAnswer::Absent(_) if is_incomplete => {
                    return Ok(DirectoryAnswer::Absent(Certainty::Unconfirmed));
                }
                DirectoryAnswer::Absent(certainty) => {
                    return Ok(DirectoryAnswer::Absent(certainty));
                }
            };
            let found = self.registrations(source, &handlers, ods, interaction).await;
            let mut others = sources.iter();
            others.by_ref().find(|other| other.origin() == source.origin());
            sources = others.as_slice();
            match found {
                // A source that fails half-way counts as one that fails at once: try the next.
                Err(fault) if !sources.is_empty() && !matches!(fault, SourceFault::OurFault(_)) => {
                }
                Ok(DirectoryAnswer::Absent(_)) if !sources.is_empty() => is_incomplete = true,
                found => return found,
            }
        }
    }

    /// Looks up the systems behind handlers, at the source that returned the handlers.
    async fn registrations(
        &mut self,
        source: &LiveSource,
        handlers: &[Handler],
        ods: &OdsCode,
        interaction: &'static Interaction,
    ) -> Result<DirectoryAnswer<FoundRegistrations>, SourceFault> {
        self.waiters.found();
        let origin = source.origin();
        let mut found = FoundRegistrations { origin, providers: Vec::new(), systems: Vec::new() };
        for party_key in distinct(handlers.iter().map(|handler| &handler.party_key)) {
            let asked = SystemsOf::Practice { ods, interaction, party_key };
            let mut systems = self.systems(source, &asked, self.past_caches).await?;
            if systems.is_empty() && source.may_be_falsely_empty() {
                self.metrics.directory.suspect_empty();
                systems = self.systems(source, &asked, true).await?;
            }
            found.systems.append(&mut systems);
        }
        found.providers = self.join(ods, handlers, &found.systems);
        if found.providers.is_empty() {
            // Handlers without systems may be a change in progress.
            return Ok(DirectoryAnswer::Absent(Certainty::Unconfirmed));
        }
        Ok(DirectoryAnswer::Found(found))
    }

    /// Looks up these systems' other interactions at this practice, with one query per party key.
    ///
    /// Returns `None` if a query fails or returns no handlers.
    pub(in crate::directory) async fn other_interactions(
        &mut self,
        ods: &OdsCode,
        found: &FoundRegistrations,
    ) -> Option<Vec<Arc<ProviderRegistration>>> {
        let source = self.sources.iter().find(|source| source.origin() == found.origin)?;
        let mut providers = Vec::new();
        for party_key in distinct(found.systems.iter().map(|system| &system.party_key)) {
            let asked =
                HandlersOf { ods: Some(ods), interaction: None, party_key: Some(party_key) };
            let (handlers, _) = self.handlers(source, &asked, self.past_caches).await.ok()?;
            if handlers.is_empty() {
                return None;
            }
            providers.extend(self.join(ods, &handlers, &found.systems));
        }
        Some(providers)
    }

    /// Looks up the sender with this ASID and its certificate names, at sources searchable by ASID.
    ///
    /// # Errors
    /// Returns the last source's fault if no source gives a usable answer.
    pub(in crate::directory) async fn sender(
        &mut self,
        asid: &Asid,
    ) -> Result<DirectoryAnswer<(Origin, Sender)>, SourceFault> {
        let mut last = SourceFault::Unsupported;
        for source in self.sources.iter().filter(|source| source.knows_asids()) {
            match self.sender_from(source, asid).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn sender_from(
        &mut self,
        source: &LiveSource,
        asid: &Asid,
    ) -> Result<DirectoryAnswer<(Origin, Sender)>, SourceFault> {
        let mut systems = self.systems(source, &SystemsOf::Asid(asid), false).await?;
        let (Some(system), true) = (systems.pop(), systems.is_empty()) else {
            return Ok(DirectoryAnswer::Absent(Certainty::when(systems.is_empty())));
        };
        let Some(ods) = system.ods else {
            return Err(SourceFault::Malformed("a system record has no organisation".to_owned()));
        };
        self.waiters.found();
        let party_key = Some(&system.party_key);
        let asked = HandlersOf { ods: None, interaction: None, party_key };
        let (handlers, _) = self.handlers(source, &asked, false).await?;
        let mut names: Vec<CertificateName> = Vec::new();
        for name in handlers.into_iter().filter_map(|handler| handler.fqdn) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let (on_behalf_of, interactions) = (Vec::new(), system.interactions);
        let sender = Sender { asid: asid.clone(), names, ods, on_behalf_of, interactions };
        Ok(DirectoryAnswer::Found((source.origin(), sender)))
    }

    /// Looks up the practice that owns the system with this ASID; only a hint that chooses which
    /// practice to look up.
    ///
    /// # Errors
    /// Returns the last source's fault if no source gives a usable answer.
    pub(in crate::directory) async fn owner(
        &mut self,
        asid: &Asid,
    ) -> Result<Option<OdsCode>, SourceFault> {
        let mut last = SourceFault::Unsupported;
        for source in self.sources.iter().filter(|source| source.knows_asids()) {
            match self.systems(source, &SystemsOf::Asid(asid), false).await {
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
    async fn first_handlers(
        &mut self,
        sources: &'a [LiveSource],
        asked: &HandlersOf<'_>,
    ) -> Result<HandlersFrom<'a>, SourceFault> {
        let mut last = SourceFault::CircuitOpen;
        let mut doubted = None;
        for source in sources {
            match self.handlers(source, asked, self.past_caches).await {
                Ok((handlers, _)) if !handlers.is_empty() => {
                    return Ok(HandlersFrom { source, handlers: DirectoryAnswer::Found(handlers) });
                }
                Ok(_) if !source.may_be_falsely_empty() => {
                    let handlers = DirectoryAnswer::Absent(Certainty::Confirmed);
                    return Ok(HandlersFrom { source, handlers });
                }
                Ok((_, took)) => {
                    self.metrics.directory.suspect_empty();
                    doubted = Some((source, took >= EMPTY_BELIEVED));
                }
                Err(fault @ SourceFault::OurFault(_)) => return Err(fault),
                Err(fault) => last = fault,
            }
        }
        let Some((source, first_was_slow)) = doubted else { return Err(last) };
        let handlers = match self.handlers(source, asked, true).await {
            Ok((handlers, _)) if !handlers.is_empty() => DirectoryAnswer::Found(handlers),
            Ok((_, took)) => {
                DirectoryAnswer::Absent(Certainty::when(!first_was_slow && took < EMPTY_BELIEVED))
            }
            Err(_) => DirectoryAnswer::Absent(Certainty::Unconfirmed),
        };
        Ok(HandlersFrom { source, handlers })
    }

    /// Queries one source for handlers; returns them with the time that the answer took.
    async fn handlers(
        &mut self,
        source: &LiveSource,
        asked: &HandlersOf<'_>,
        past_caches: bool,
    ) -> Result<(Vec<Handler>, Duration), SourceFault> {
        let answer = source.client.handlers(asked, self.options(past_caches));
        let (answer, took) = self.ask(source, QueryKind::Handlers, answer).await?;
        Ok((fitting(answer, |handler| asked.fits(handler))?, took))
    }

    async fn systems(
        &mut self,
        source: &LiveSource,
        asked: &SystemsOf<'_>,
        past_caches: bool,
    ) -> Result<Vec<AccreditedSystem>, SourceFault> {
        let answer = source.client.systems(asked, self.options(past_caches));
        let (answer, _) = self.ask(source, QueryKind::Systems, answer).await?;
        match asked {
            // LDAP returns a party key's systems whatever their interactions.
            SystemsOf::Practice { .. } => {
                Ok(answer.into_iter().filter(|system| asked.fits(system)).collect())
            }
            SystemsOf::Asid(_) => fitting(answer, |system| asked.fits(system)),
        }
    }

    const fn options(&self, past_caches: bool) -> QueryOptions {
        QueryOptions { deadline: self.deadline, past_caches, id: self.id }
    }

    /// Sends one query when its turn has come, unless the source's circuit is open; counts and logs the
    /// outcome.
    async fn ask<T>(
        &mut self,
        source: &LiveSource,
        kind: QueryKind,
        answer: impl Future<Output = Result<Vec<T>, SourceFault>>,
    ) -> Result<(Vec<T>, Duration), SourceFault> {
        let (label, question) = (source.origin().label(), kind.label());
        let Ok(admitted) = source.breaker.admits() else {
            self.metrics.directory.not_asked(label, kind, QueryOutcome::CircuitOpen);
            self.trace.add(label, question, QueryOutcome::CircuitOpen.label(), Duration::ZERO);
            return Err(SourceFault::CircuitOpen);
        };
        let waits = Instant::now();
        let turn = source.queue.turn(self.waiters, self.sharing, self.deadline).await;
        let began = Instant::now();
        self.metrics.directory.waited(label, began - waits);
        let answer = match turn {
            Ok(_until_answered) => answer.await,
            Err(fault) => Err(fault),
        };
        let took = began.elapsed();
        let outcome = match &answer {
            Ok(rows) if rows.is_empty() => QueryOutcome::Absent,
            Ok(_) => QueryOutcome::Found,
            Err(fault) => fault.outcome(),
        };
        match &answer {
            Ok(_) => {}
            Err(SourceFault::NoTurn) => {
                tracing::debug!(
                    source = label, question, id = %self.id,
                    "a directory query got no turn, or too little time, before the look-up's deadline"
                );
            }
            Err(fault) => {
                tracing::warn!(
                    source = label, question, id = %self.id, %fault,
                    "a directory source gave no usable answer; another source or a cached answer is used \
                     if there is one"
                );
            }
        }
        let verdict =
            answer.as_ref().map_or_else(SourceFault::verdict, |_| AttemptResult::Succeeded);
        let was_open = source.breaker.is_open();
        source.breaker.learn(admitted, verdict);
        let is_open = source.breaker.is_open();
        log_circuit(label, was_open, is_open);
        self.metrics.directory.asked(label, kind, outcome, took);
        self.metrics.directory.open(label, is_open);
        self.trace.add(label, question, outcome.label(), took);
        answer.map(|rows| (rows, took))
    }

    /// Joins handlers and systems by party key into one registration per interaction, root and system.
    fn join(
        &mut self,
        ods: &OdsCode,
        handlers: &[Handler],
        systems: &[AccreditedSystem],
    ) -> Vec<Arc<ProviderRegistration>> {
        let mut providers: Vec<Arc<ProviderRegistration>> = Vec::new();
        for handler in handlers {
            let Some(interaction) = handler.interaction else { continue };
            let Some(root) = self.root(ods, handler) else { continue };
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
    fn root(&mut self, ods: &OdsCode, handler: &Handler) -> Option<ServiceRoot> {
        let text = handler.address.as_deref().map(str::trim).unwrap_or_default();
        let root = match text.parse::<ServiceRoot>() {
            Ok(root) => root,
            Err(fault) => {
                let odd = if text.is_empty() { Oddity::NoAddress } else { Oddity::BadAddress };
                self.odd(odd, ods);
                tracing::warn!(
                    %ods, %fault,
                    "the directory has no usable address for a message handler of this practice; the \
                     record is ignored"
                );
                return None;
            }
        };
        if text.ends_with('/') {
            self.odd(Oddity::TrailingSlash, ods);
        }
        let named = |name: &CertificateName| name.as_str().eq_ignore_ascii_case(root.host());
        if !handler.fqdn.as_ref().is_none_or(named) {
            self.odd(Oddity::OtherHost, ods);
        }
        Some(root)
    }

    fn odd(&mut self, oddity: Oddity, ods: &OdsCode) {
        self.metrics.directory.oddity(oddity);
        tracing::debug!(%ods, oddity = oddity.label(), "a directory record is irregular");
        self.trace.odd(oddity.label());
    }
}

/// Logs that the circuit of a source has opened or closed.
fn log_circuit(source: &'static str, was_open: bool, is_open: bool) {
    match (was_open, is_open) {
        (false, true) => tracing::warn!(
            source,
            "circuit opened: the directory source has failed too often and is not queried for a while; cached \
             answers are used as directory.freshness says"
        ),
        (true, false) => {
            tracing::info!(source, "circuit closed: the directory source answers again");
        }
        (false, false) | (true, true) => {}
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
