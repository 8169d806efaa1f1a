//! Senders by ASID, and owners of receivers' systems: from the cache, else from live sources that can be
//! searched by ASID.

use std::sync::Arc;

use super::cache::{Age, AgeMark, AnswerStamp, CachedSender};
use super::lookups::{LookupCaller, LookupFault, LookupHandle, LookupQuestion, WaitUntil};
use super::payer::Payer;
use super::sources::{Certainty, DirectoryAnswer, LiveSources};
use super::{ConcurrentChange, Directory, DirectoryState, SourcesInForce};
use crate::metrics::LookupResult;
use crate::refusal::Refusal;
use crate::registry::Sender;
use spine_types::{Asid, OdsCode};

impl Directory {
    /// Returns a sender from the cache or the live sources; `None` if it is not registered.
    ///
    /// # Errors
    /// Returns a refusal if no source answers or the payer's budget is used up.
    pub(super) async fn live_sender(
        &self,
        in_force: &SourcesInForce,
        sources: &Arc<LiveSources>,
        asid: &Asid,
        payer: Payer<'_>,
    ) -> Result<Option<Arc<Sender>>, Refusal> {
        let shared = &self.shared;
        let question = LookupQuestion::sender(asid);
        let cached = shared.usable_sender(asid);
        match &cached {
            Some((Age::Fresh, cached)) => {
                self.count(LookupResult::Hit);
                return Ok(Some(Arc::clone(&cached.sender)));
            }
            Some(_) => {}
            None => match shared.cache.absence(&question, shared.now_s()) {
                Some(Certainty::Confirmed) => {
                    self.count(LookupResult::Absent);
                    return Ok(None);
                }
                Some(Certainty::Unconfirmed) => return Err(Refusal::DirectoryUnavailable),
                None => self.count(LookupResult::Miss),
            },
        }
        let is_uncached = cached.is_none();
        let begin = |is_first: bool| {
            let caller = LookupCaller::Request { payer, is_charged: is_uncached && is_first };
            self.look_up_sender(in_force, sources, asid, caller)
        };
        let ended = shared.lookups.wait(&question, WaitUntil::End, begin).await;
        // Read again: another look-up may have ended meanwhile.
        let absence = shared.cache.absence(&question, shared.now_s());
        match (shared.usable_sender(asid), absence, ended) {
            (Some((_, now)), _, Ok(())) => Ok(Some(now.sender)),
            (Some((_, stale)), _, Err(_)) => {
                self.count(LookupResult::StaleError);
                Ok(Some(stale.sender))
            }
            // Only what the directory has said refuses a sender for good.
            (None, Some(Certainty::Confirmed), _) => Ok(None),
            (None, Some(Certainty::Unconfirmed) | None, Ok(())) => {
                Err(Refusal::DirectoryUnavailable)
            }
            (None, Some(Certainty::Unconfirmed) | None, Err(fault)) => Err(fault.into()),
        }
    }

    /// Begins or joins the look-up of a sender.
    fn look_up_sender(
        &self,
        in_force: &SourcesInForce,
        sources: &Arc<LiveSources>,
        asid: &Asid,
        caller: LookupCaller<'_>,
    ) -> Result<LookupHandle, LookupFault> {
        let start = self.shared.start(in_force);
        let (shared, sources) = (Arc::clone(&self.shared), Arc::clone(sources));
        let wanted = asid.clone();
        let is_cached = || self.shared.cache.senders.contains_key(asid);
        let question = LookupQuestion::sender(asid);
        self.shared.lookups.begin_or_join(&question, caller, is_cached, |task| async move {
            let patience = shared.deadlines.waiting;
            let mut look_up =
                sources.begin(&task.waiters, patience, &shared.metrics, &shared.sharing);
            let cache = &shared.cache;
            match look_up.sender(&wanted).await? {
                DirectoryAnswer::Found((origin, sender)) => {
                    let (answered_s, number) = (shared.now_s(), cache.next_answer());
                    let stamp = AnswerStamp { answered_s, origin, mark: AgeMark::None, number };
                    cache.insert_sender(CachedSender { sender: Arc::new(sender), stamp });
                    match shared.change_since(&start) {
                        ConcurrentChange::Nothing => {}
                        ConcurrentChange::Flushed => cache.flush_sender(&wanted, shared.now_s()),
                        ConcurrentChange::Replaced => {
                            cache.senders.invalidate(&wanted);
                            return Err(LookupFault::NoAnswer);
                        }
                    }
                }
                // Security: a sender that is no longer registered is removed at once.
                DirectoryAnswer::Absent(certainty) => {
                    if certainty == Certainty::Confirmed {
                        cache.senders.invalidate(&wanted);
                    }
                    shared.store_absence(&LookupQuestion::sender(&wanted), certainty, &start)?;
                }
            }
            Ok(())
        })
    }

    /// Returns the practice that owns the system with this ASID; only a hint that chooses which practice
    /// to look up.
    ///
    /// # Errors
    /// Returns a refusal if no source answers or the payer's budget is used up.
    pub(super) async fn live_owner(
        &self,
        in_force: &SourcesInForce,
        sources: &Arc<LiveSources>,
        asid: &Asid,
        payer: Payer<'_>,
    ) -> Result<Option<OdsCode>, Refusal> {
        let shared = &self.shared;
        let question = LookupQuestion::owner(asid);
        if shared.cache.absence(&question, shared.now_s()).is_some() {
            self.count(LookupResult::Absent);
            return Ok(None);
        }
        self.count(LookupResult::Miss);
        let begin = |is_first: bool| {
            let start = self.shared.start(in_force);
            let (shared, sources) = (Arc::clone(&self.shared), Arc::clone(sources));
            let wanted = asid.clone();
            let caller = LookupCaller::Request { payer, is_charged: is_first };
            let is_cached = || self.shared.cache.owners.contains_key(asid);
            self.shared.lookups.begin_or_join(&question, caller, is_cached, |task| async move {
                let patience = shared.deadlines.waiting;
                let mut look_up =
                    sources.begin(&task.waiters, patience, &shared.metrics, &shared.sharing);
                match look_up.owner(&wanted).await? {
                    Some(ods) => {
                        shared.cache.owners.insert(wanted, ods);
                        Ok(())
                    }
                    None => {
                        let question = LookupQuestion::owner(&wanted);
                        shared.store_absence(&question, Certainty::Confirmed, &start)
                    }
                }
            })
        };
        shared.lookups.wait(&question, WaitUntil::End, begin).await?;
        let owner = shared.cache.owners.get(asid);
        let is_absent = shared.cache.absence(&question, shared.now_s()).is_some();
        if owner.is_some() || is_absent { Ok(owner) } else { Err(Refusal::DirectoryUnavailable) }
    }
}

impl DirectoryState {
    /// Returns a cached sender that may be served, with its age class.
    fn usable_sender(&self, asid: &Asid) -> Option<(Age, CachedSender)> {
        let cached = self.cache.senders.get(asid)?;
        let age = self.rules().sender_age(&cached.stamp);
        (age < Age::Dead).then_some((age, cached))
    }
}
