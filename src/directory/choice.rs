//! Choice of one registration among those of a practice.

use std::sync::Arc;

use crate::refusal::Refusal;
use crate::registry::ProviderRegistration;
use spine_types::interaction::Interaction;
use spine_types::target::Receiver;

/// Returns the one registration that fits the receiver and interaction.
///
/// # Errors
/// Returns a refusal if none fits, or several do.
pub(super) fn choose(
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
