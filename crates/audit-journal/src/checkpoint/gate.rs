//! Decision on whether a journal may be signed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::JournalObserver;

/// State of the signing of a journal's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningState {
    /// No key was given.
    Off,
    /// The journal is not compared yet with this number of copies and witnesses, which do not answer: nothing
    /// is signed.
    Waiting(usize),
    /// Checkpoints are signed.
    On,
    /// The journal contradicts an earlier checkpoint or has no tree, as the text says: nothing is signed.
    Refused(String),
}

/// State of the signing, which the comparisons at a start change: nothing is signed before all of them agree.
#[derive(Debug)]
pub(crate) struct SigningGate {
    state: Mutex<SigningState>,
    observer: Arc<dyn JournalObserver>,
}

impl SigningGate {
    /// Creates the state of a journal that is compared with this number of places.
    pub(crate) fn new(comparisons: usize, observer: Arc<dyn JournalObserver>) -> Self {
        let gate = Self { state: Mutex::new(SigningState::Waiting(comparisons)), observer };
        gate.observer.signing(false);
        gate
    }

    /// Creates the state of a journal without a key.
    pub(crate) fn off(observer: Arc<dyn JournalObserver>) -> Self {
        Self { state: Mutex::new(SigningState::Off), observer }
    }

    fn locked(&self) -> MutexGuard<'_, SigningState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> SigningState {
        self.locked().clone()
    }

    /// Counts a place whose checkpoints agree with the journal; signing begins with the last of them.
    pub(crate) fn agreed(&self) {
        let mut state = self.locked();
        if let SigningState::Waiting(left) = &mut *state {
            *left = left.saturating_sub(1);
            if *left == 0 {
                *state = SigningState::On;
                self.observer.signing(true);
                tracing::info!("the audit journal agrees with all its checkpoints, and is signed");
            }
        }
    }

    /// Stops signing for good.
    ///
    /// Security: two histories signed by one key would convict the key's owner, who did nothing wrong.
    pub(crate) fn refuse(&self, reason: String) {
        tracing::error!(
            reason,
            "the audit journal is not signed any more: keep it and its checkpoints, find out what \
             happened, and begin a new journal under a new audit.checkpoints.origin; requests are \
             served and recorded as before"
        );
        self.observer.signing(false);
        let mut state = self.locked();
        // The first reason stays: later ones may follow from it.
        if !matches!(*state, SigningState::Refused(_)) {
            *state = SigningState::Refused(reason);
        }
    }
}
