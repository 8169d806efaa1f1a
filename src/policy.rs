//! Authorisation of a consumer's request to a provider; the last decision yields a [`Permit`].
//!
//! Pure functions of the given facts: no I/O, no look-ups, no clock.

use std::sync::Arc;

use http::uri::PathAndQuery;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::claims::Audience;
use crate::consumers::Consumer;
use crate::refusal::{AudienceLikeness, MismatchedSide, PathLikeness, Refusal, RootDifference};
use crate::registry::{Agreements, ProviderRegistration, Sender};
use spine_types::interaction::Interaction;
use spine_types::target::{Receiver, Target};
use spine_types::{Asid, OdsCode, ServiceRoot};

/// Token audience accepted besides the registered service root.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OtherAudience {
    /// `https://authorize.fhir.nhs.net/token`, with and without a final slash.
    TokenUrl,
    /// The service root with a final slash added or removed.
    TrailingSlash,
    /// The URL of the request, without its query.
    RequestUrl,
    /// The base URL of this proxy, with and without a final slash.
    ProxyBase,
    /// The base URL of this proxy, followed by a slash and the service root.
    ProxyAndRoot,
    /// The base URL of this proxy, followed by a slash and the URL of the request, without its query.
    ProxyAndRequestUrl,
    /// An array that contains one accepted string.
    OneInArray,
    /// Exactly this string.
    #[serde(untagged)]
    Named(String),
}

/// Facts about a request that the authorisation is based on, besides its consumer.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Receiver that the request names.
    pub receiver: &'a Receiver,
    /// Target of the request, parsed.
    pub target: &'a Target<'a>,
    /// Interaction that the request names.
    pub interaction: &'static Interaction,
    /// Audience of the request's token.
    pub audience: &'a Audience<'a>,
    /// Audiences that this consumer may use besides the service root.
    pub audiences: &'a [OtherAudience],
    /// Base URLs of this proxy, without a final slash.
    pub bases: &'a [String],
}

/// Permission to forward one request to one provider; only [`authorise`] creates one.
///
/// ```compile_fail,E0451
/// use std::sync::Arc;
/// use http::uri::PathAndQuery;
/// use spine_proxy::interaction::Interaction;
/// use spine_proxy::policy::Permit;
/// use spine_proxy::registry::ProviderRegistration;
///
/// fn forge(
///     provider: Arc<ProviderRegistration>,
///     interaction: &'static Interaction,
///     path_and_query: PathAndQuery,
/// ) -> Permit {
///     Permit { provider, interaction, path_and_query }
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    provider: Arc<ProviderRegistration>,
    interaction: &'static Interaction,
    path_and_query: PathAndQuery,
}

impl Permit {
    /// Returns the registration of the provider that the request may go to.
    #[must_use]
    pub const fn provider(&self) -> &Arc<ProviderRegistration> {
        &self.provider
    }

    /// Returns the interaction that is permitted.
    #[must_use]
    pub const fn interaction(&self) -> &'static Interaction {
        self.interaction
    }

    /// Returns the path and query for the provider's request line: the registered root's path and, byte
    /// for byte, what the consumer sent after it.
    #[must_use]
    pub const fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }
}

/// Checks that the sender may initiate this interaction.
///
/// # Errors
/// Returns a refusal if the interaction is not registered for the sender.
pub fn check_registered(sender: &Sender, interaction: &Interaction) -> Result<(), Refusal> {
    match sender.interactions.iter().any(|held| held.id == interaction.id) {
        true => Ok(()),
        false => Err(Refusal::SenderNotRegistered(sender.asid.clone())),
    }
}

/// Checks that the sender may send on behalf of the token's organisation.
///
/// # Errors
/// Returns a refusal if the token names an organisation that is not the sender's.
pub fn check_organisation(sender: &Sender, organisation: &OdsCode) -> Result<(), Refusal> {
    match sender.ods == *organisation || sender.on_behalf_of.contains(organisation) {
        true => Ok(()),
        false => Err(Refusal::OrganisationMismatch),
    }
}

/// Checks target, audience and agreement, and returns the permit to forward the consumer's request.
///
/// The target must be the provider's registered service root followed by the interaction's path and nothing
/// else; the token's audience must be the root or an accepted alternative.
///
/// # Errors
/// Returns the refusal of the first check that fails.
pub fn authorise(
    agreements: &Agreements,
    consumer: &Consumer,
    facts: &RequestFacts<'_>,
    provider: &Arc<ProviderRegistration>,
) -> Result<Permit, Refusal> {
    let path_and_query = forwarded(facts, provider)?;
    check_audience(facts, provider)?;
    check_agreement(agreements, &consumer.sender().asid, provider)?;
    Ok(Permit { provider: Arc::clone(provider), interaction: facts.interaction, path_and_query })
}

/// Checks that there is an agreement between consumer and provider.
///
/// # Errors
/// Returns a refusal if there is none.
pub fn check_agreement(
    agreements: &Agreements,
    from: &Asid,
    provider: &ProviderRegistration,
) -> Result<(), Refusal> {
    match agreements.hold(from, &provider.asid) {
        true => Ok(()),
        false => Err(Refusal::NoAgreement { from: from.clone(), to: provider.asid.clone() }),
    }
}

/// Checks the target, and returns the path and query to send to the provider.
///
/// Spec: the SSP refuses a target that does not begin with the registered endpoint, compared as text.
/// Security: service roots can nest, so the rest must match the interaction's template exactly.
///
/// # Errors
/// Returns a refusal if the target is not the provider's service root and the interaction's path.
pub fn forwarded(
    facts: &RequestFacts<'_>,
    provider: &ProviderRegistration,
) -> Result<PathAndQuery, Refusal> {
    let interaction = facts.interaction;
    let rest = match facts.target {
        Target::Url(url) => {
            let rest = provider.root.rest_of(url).filter(|rest| interaction.is_path(rest));
            rest.ok_or_else(|| varies(facts, provider))?
        }
        Target::Practice(practice) => {
            if matches!(facts.receiver, Receiver::Practice { asid: Some(to), .. } if *to != provider.asid)
            {
                return Err(Refusal::ReceiverNotPractices);
            }
            let rest = practice.path.strip_prefix(interaction.capability);
            let rest = rest.filter(|rest| interaction.is_path(rest));
            let likeness = PathLikeness::of_slashes(practice.path);
            rest.ok_or(Refusal::InteractionPath { interaction, likeness })?
        }
    };
    let base = provider.root.base_path();
    let text = match facts.target.query() {
        Some(query) => format!("{base}{rest}?{query}"),
        None => format!("{base}{rest}"),
    };
    // Cannot fail: both parts have passed a grammar that is stricter than this one.
    PathAndQuery::try_from(text).map_err(|_| Refusal::Internal)
}

fn varies(facts: &RequestFacts<'_>, provider: &ProviderRegistration) -> Refusal {
    let start = facts.interaction.start_in(facts.target.path()).unwrap_or_default();
    Refusal::TargetVaries {
        root: provider.root.clone(),
        cpa: provider.cpa_id.clone(),
        url: facts.target.printable(start),
        odd: if audience_is_targets(facts, provider) {
            MismatchedSide::Receiver
        } else {
            MismatchedSide::Target
        },
    }
}

/// Returns true if the target lies under the token's audience but not under the receiver's root.
///
/// Target and audience agree then, so that `Ssp-To` is the side that does not fit.
fn audience_is_targets(facts: &RequestFacts<'_>, provider: &ProviderRegistration) -> bool {
    let (Audience::One(audience), Target::Url(url)) = (facts.audience, facts.target) else {
        return false;
    };
    provider.root.rest_of(url).is_none()
        && audience.parse::<ServiceRoot>().is_ok_and(|root| root.rest_of(url).is_some())
}

/// Checks the token's audience. Spec: `aud` is the registered service root, character for character.
///
/// # Errors
/// Returns a refusal if the audience is neither the root nor an accepted alternative.
pub fn check_audience(
    facts: &RequestFacts<'_>,
    provider: &ProviderRegistration,
) -> Result<(), Refusal> {
    let urls =
        AudienceUrls { root: &provider.root, target: Some(facts.target), bases: facts.bases };
    let accepted = match facts.audience {
        Audience::One(audience) => urls.is_root(audience) || is_other(facts, &urls, audience),
        Audience::OneInArray(audience) => {
            facts.audiences.contains(&OtherAudience::OneInArray)
                && (urls.is_root(audience) || is_other(facts, &urls, audience))
        }
    };
    if accepted { Ok(()) } else { Err(urls.mismatch(facts.audience)) }
}

/// Checks the audience of a token without a request: it must be `root`.
///
/// # Errors
/// Returns a refusal if it is not.
pub fn check_audience_alone(audience: &Audience<'_>, root: &ServiceRoot) -> Result<(), Refusal> {
    let urls = AudienceUrls { root, target: None, bases: &[] };
    match audience {
        Audience::One(one) if urls.is_root(one) => Ok(()),
        Audience::One(_) | Audience::OneInArray(_) => Err(urls.mismatch(audience)),
    }
}

/// URLs that an audience is compared with.
struct AudienceUrls<'a> {
    /// Registered service root.
    root: &'a ServiceRoot,
    /// Target of the request; `None` if there is no request.
    target: Option<&'a Target<'a>>,
    /// Base URLs of this proxy, without a final slash.
    bases: &'a [String],
}

impl AudienceUrls<'_> {
    fn is_root(&self, audience: &str) -> bool {
        audience == self.root.as_str()
    }

    /// Returns the URL of the request without its query; `None` in form (b).
    fn request(&self) -> Option<String> {
        match self.target? {
            Target::Url(url) => Some(format!("https://{}{}", url.authority, url.path)),
            Target::Practice(_) => None,
        }
    }

    fn mismatch(&self, audience: &Audience<'_>) -> Refusal {
        let root = self.root.clone();
        let likeness = match audience {
            Audience::One(audience) => self.likeness(audience),
            Audience::OneInArray(_) => Some(AudienceLikeness::Array),
        };
        Refusal::AudienceMismatch { root, likeness }
    }

    /// Returns the kind of an audience, if consumers are known to send that kind.
    fn likeness(&self, audience: &str) -> Option<AudienceLikeness> {
        let kinds = [
            (OtherAudience::TrailingSlash, AudienceLikeness::FinalSlash),
            (OtherAudience::TokenUrl, AudienceLikeness::TokenUrl),
            (OtherAudience::RequestUrl, AudienceLikeness::RequestUrl),
            (OtherAudience::ProxyBase, AudienceLikeness::ProxyUrl),
            (OtherAudience::ProxyAndRoot, AudienceLikeness::ProxyUrl),
            (OtherAudience::ProxyAndRequestUrl, AudienceLikeness::ProxyUrl),
        ];
        let kind = kinds.into_iter().find(|(kind, _)| kind.is(self, audience));
        kind.map(|(_, likeness)| likeness).or_else(|| {
            let root = self.root.as_str();
            let after = audience.strip_suffix(root).is_some_and(|before| before.ends_with('/'));
            let is_like_root = || {
                audience.rsplit('/').next() == root.rsplit('/').next()
                    && audience.parse::<ServiceRoot>().is_ok()
            };
            match (after, RootDifference::between(self.root, audience)) {
                (true, _) => Some(AudienceLikeness::RootAfterUrl),
                (false, Some(difference)) => Some(AudienceLikeness::Root(difference)),
                (false, None) => is_like_root().then_some(AudienceLikeness::OtherRoot),
            }
        })
    }
}

fn is_other(facts: &RequestFacts<'_>, urls: &AudienceUrls<'_>, audience: &str) -> bool {
    let bare = audience.strip_suffix('/').unwrap_or(audience);
    if let Target::Practice(practice) = facts.target {
        // In form (b) the consumer only knows this proxy's URL of the practice as its service root.
        let ours = |base: &String| {
            let capability = facts.interaction.capability;
            bare == format!("{base}/{}/STU3/1/{capability}", practice.ods)
        };
        if audience == bare && facts.bases.iter().any(ours) {
            return true;
        }
    }
    facts.audiences.iter().any(|other| other.is(urls, audience))
}

impl OtherAudience {
    /// Returns true if a token's audience is of this kind.
    fn is(&self, urls: &AudienceUrls<'_>, audience: &str) -> bool {
        let (root, bases) = (urls.root.as_str(), urls.bases);
        let bare = audience.strip_suffix('/').unwrap_or(audience);
        match self {
            Self::TokenUrl => bare == "https://authorize.fhir.nhs.net/token",
            Self::TrailingSlash => bare == root.strip_suffix('/').unwrap_or(root),
            Self::RequestUrl => urls.request().is_some_and(|url| audience == url),
            Self::ProxyBase => bases.iter().any(|base| base == bare),
            Self::ProxyAndRoot => bases.iter().any(|base| audience == format!("{base}/{root}")),
            Self::ProxyAndRequestUrl => urls
                .request()
                .is_some_and(|url| bases.iter().any(|base| audience == format!("{base}/{url}"))),
            Self::Named(named) => audience == named,
            Self::OneInArray => false,
        }
    }
}
