//! Registration of a request's receiver: which practice to look up, and which of its registrations fits.

use std::sync::Arc;

use super::cache::RegistrationUse;
use super::lookups::LookupFault;
use super::payer::Payer;
use super::practice::{PracticeQuestion, PracticeRequest};
use super::{Directory, SourcesInForce};
use crate::metrics::{Conflict, ForcedLookupResult, LookupResult};
use crate::refusal::Refusal;
use crate::registry::ProviderRegistration;
use spine_types::interaction::{Effect, Interaction};
use spine_types::target::Receiver;
use spine_types::{Asid, OdsCode};

/// Receiver and interaction whose registration is wanted.
#[derive(Debug, Clone, Copy)]
struct RegistrationQuery<'a> {
    receiver: &'a Receiver,
    interaction: &'static Interaction,
}

impl Directory {
    /// Returns the receiver's registration for this interaction.
    ///
    /// # Errors
    /// Returns a refusal if there is no such registration or more than one, if no source answers, or if
    /// the consumer's look-up budget is used up.
    pub async fn provider(
        &self,
        receiver: &Receiver,
        interaction: &'static Interaction,
        payer: Payer<'_>,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let in_force = self.shared.in_force.load_full();
        let wanted = RegistrationQuery { receiver, interaction };
        let ods = self.practice_of(&in_force, receiver, payer).await?;
        let chosen = self.provider_at(&in_force, &ods, wanted, payer).await;
        if chosen.as_ref().err() != Some(&Refusal::ReceiverUnknown) {
            return chosen;
        }
        let chosen = match self.elsewhere(&in_force, receiver, &ods, payer).await? {
            Some(other) => self.provider_at(&in_force, &other, wanted, payer).await,
            None => chosen,
        };
        match chosen {
            Err(Refusal::ReceiverUnknown) => Err(in_force.lacks_receiver()),
            chosen => chosen,
        }
    }

    async fn provider_at(
        &self,
        in_force: &SourcesInForce,
        ods: &OdsCode,
        wanted: RegistrationQuery<'_>,
        payer: Payer<'_>,
    ) -> Result<Arc<ProviderRegistration>, Refusal> {
        let RegistrationQuery { receiver, interaction } = wanted;
        let found = match &in_force.sources {
            None => self.listed(in_force, ods),
            Some(sources) => {
                let question = PracticeQuestion { in_force, sources, ods, interaction };
                self.registrations(question, receiver, payer).await?
            }
        };
        let chosen = choose(&found, receiver, interaction);
        // The practice may have moved to another system since the entry was cached.
        let ours_may_be_old = match &chosen {
            Ok(_) => false,
            Err(Refusal::ReceiverNotRegistered(_)) => {
                found.iter().any(|provider| provider.serves(interaction))
            }
            Err(
                Refusal::ReceiverUnknown
                | Refusal::ReceiverNotPractices
                | Refusal::ReceiverAmbiguous,
            ) => !found.is_empty(),
            Err(_) => false,
        };
        if !ours_may_be_old {
            return chosen;
        }
        let again = match self.forced(in_force, ods, interaction, payer).await? {
            Some(found) => choose(&found, receiver, interaction),
            None => chosen,
        };
        let settled = ForcedLookupResult::when(again.is_ok());
        self.shared.metrics.directory.conflict(Conflict::Receiver, settled);
        again
    }

    /// Looks up the receiver's registration past the cache, at most once in 30 s for one practice.
    ///
    /// Keeps a practice that has changed supplier from being refused because of a cached entry. Returns
    /// `None` if there is no live source or no single registration is found.
    ///
    /// # Errors
    /// Returns a refusal if no source answers or the consumer's look-up budget is used up.
    pub async fn refreshed(
        &self,
        receiver: &Receiver,
        interaction: &'static Interaction,
        payer: Payer<'_>,
    ) -> Result<Option<Arc<ProviderRegistration>>, Refusal> {
        let in_force = self.shared.in_force.load_full();
        let Ok(ods) = self.practice_of(&in_force, receiver, payer).await else { return Ok(None) };
        let found = self.forced(&in_force, &ods, interaction, payer).await?;
        Ok(found.and_then(|found| choose(&found, receiver, interaction).ok()))
    }

    /// Returns the practice to look up for a receiver; follows the target's hint if no source knows it.
    async fn practice_of(
        &self,
        in_force: &SourcesInForce,
        receiver: &Receiver,
        payer: Payer<'_>,
    ) -> Result<OdsCode, Refusal> {
        let (asid, hint) = match receiver {
            Receiver::Practice { ods, .. } => {
                let denied = in_force.file.denies_practice(ods);
                return if denied { Err(Refusal::PracticeUnknown) } else { Ok(ods.clone()) };
            }
            Receiver::System { asid, hint } => (asid, hint.as_ref()),
        };
        let known = in_force.file.practice_of.get(asid).cloned();
        // Owners learnt from earlier requests only choose which practice to look up. If no source can be
        // searched by ASID they would decide the answer, which must not depend on earlier requests.
        let held =
            || in_force.can_be_searched().then(|| self.shared.cache.owners.get(asid)).flatten();
        let ods = match (known.or_else(held), hint, &in_force.sources) {
            (Some(known), _, _) => known,
            (None, Some(hint), Some(_)) => hint.clone(),
            (None, None, Some(sources)) if sources.knows_senders() => {
                let owner = self.live_owner(in_force, sources, asid, payer).await?;
                owner.ok_or(Refusal::ReceiverUnknown)?
            }
            (None, _, _) => return Err(in_force.lacks_receiver()),
        };
        if in_force.file.denies(asid) || in_force.file.denies_practice(&ods) {
            return Err(Refusal::ReceiverUnknown);
        }
        Ok(ods)
    }

    /// Returns another practice that may own the receiver's system, if `tried` was only a guess (from the
    /// target's hint or an earlier look-up).
    async fn elsewhere(
        &self,
        in_force: &SourcesInForce,
        receiver: &Receiver,
        tried: &OdsCode,
        payer: Payer<'_>,
    ) -> Result<Option<OdsCode>, Refusal> {
        let (Receiver::System { asid, hint }, Some(sources)) = (receiver, &in_force.sources) else {
            return Ok(None);
        };
        let other = match hint.as_ref().filter(|hint| *hint != tried) {
            Some(hint) => Some(hint.clone()),
            None if sources.knows_senders() => {
                self.live_owner(in_force, sources, asid, payer).await?
            }
            None => None,
        };
        Ok(other.filter(|other| other != tried && !in_force.file.denies_practice(other)))
    }

    /// Returns the file's registrations of a practice, for a directory without live sources.
    fn listed(&self, in_force: &SourcesInForce, ods: &OdsCode) -> Vec<Arc<ProviderRegistration>> {
        let pins = in_force.file.pins(ods);
        self.count(if pins.is_empty() { LookupResult::Absent } else { LookupResult::Pinned });
        in_force.file.undenied(pins)
    }

    /// Returns a practice's registrations for one interaction: pins of the file, else cached or live
    /// ones, else the file's fall-backs.
    async fn registrations(
        &self,
        question: PracticeQuestion<'_>,
        receiver: &Receiver,
        payer: Payer<'_>,
    ) -> Result<Vec<Arc<ProviderRegistration>>, Refusal> {
        let PracticeQuestion { in_force, ods, interaction, .. } = question;
        let file = &in_force.file;
        let pins = file.pins(ods);
        if pins.iter().any(|pin| pin.serves(interaction)) {
            self.count(LookupResult::Pinned);
            return Ok(file.undenied(pins));
        }
        let intended = intended_use(receiver, interaction);
        let fault = match self.live_practice(PracticeRequest { question, intended, payer }).await {
            Ok(found) => return Ok(file.undenied(&found)),
            Err(fault) => fault,
        };
        let fallbacks = file.undenied(file.fallbacks(ods));
        let fits = |fallback: &Arc<ProviderRegistration>| {
            fallback.serves(interaction) && may_be(receiver, &fallback.asid)
        };
        match fault {
            // Security: a fall-back replaces a missing answer, never overrules one.
            LookupFault::NoAnswer | LookupFault::NoTurn if fallbacks.iter().any(fits) => {
                Ok(fallbacks)
            }
            LookupFault::NoAnswer
            | LookupFault::NoTurn
            | LookupFault::Doubtful
            | LookupFault::OverBudget => Err(fault.into()),
        }
    }
}

/// Returns the one registration that fits the receiver and interaction.
///
/// # Errors
/// Returns a refusal if none fits, or several do.
fn choose(
    providers: &[Arc<ProviderRegistration>],
    receiver: &Receiver,
    interaction: &Interaction,
) -> Result<Arc<ProviderRegistration>, Refusal> {
    let registered = |provider: &&Arc<ProviderRegistration>| provider.serves(interaction);
    let (mut fitting, none): (Vec<_>, _) = match receiver {
        Receiver::System { asid, .. } => {
            let system = providers.iter().filter(|provider| provider.asid == *asid);
            let none = match system.clone().next() {
                Some(_) => Refusal::ReceiverNotRegistered(asid.clone()),
                None => Refusal::ReceiverUnknown,
            };
            (system.filter(registered).collect(), none)
        }
        Receiver::Practice { .. } if providers.is_empty() => return Err(Refusal::PracticeUnknown),
        Receiver::Practice { asid: to, .. } => {
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

/// Returns true if a receiver may be the system of this ASID.
fn may_be(receiver: &Receiver, other: &Asid) -> bool {
    match receiver {
        Receiver::System { asid, .. } => asid == other,
        Receiver::Practice { .. } => true,
    }
}

/// Returns the intended use of a registration for a request.
///
/// A write to a practice by ODS code (form (b)) names no service root that could confirm ours, so it must
/// not rely on an old one.
fn intended_use(receiver: &Receiver, interaction: &Interaction) -> RegistrationUse {
    match (receiver, interaction.effect()) {
        (Receiver::Practice { .. }, Effect::Writes) => RegistrationUse::Trusted,
        (Receiver::Practice { .. }, Effect::Reads) | (Receiver::System { .. }, _) => {
            RegistrationUse::Confirmed
        }
    }
}
