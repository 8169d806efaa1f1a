//! May this consumer ask this of that provider? The last decision hands out a [`Permit`].
//!
//! Pure: facts in, verdict out. Nothing here waits, looks anything up or reads a clock.

use std::collections::HashSet;
use std::sync::Arc;

use http::uri::PathAndQuery;

use crate::claims::{Audience, Claims};
use crate::consumers::Consumer;
use crate::interaction::Interaction;
use crate::refusal::{MismatchedSide, Refusal};
use crate::spine::{Asid, CpaId, OdsCode, PartyKey, ServiceRoot};
use crate::target::{Receiver, Target};

/// A provider's registration for one capability of one practice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRegistration {
    /// The practice.
    pub ods: OdsCode,
    /// ASID of the practice's system.
    pub asid: Asid,
    /// Party key of its message handling system.
    pub party_key: PartyKey,
    /// Contract id, which the endpoint refusal quotes.
    pub cpa_id: CpaId,
    /// The registered service root.
    pub root: ServiceRoot,
    /// The interactions it is registered to process there.
    pub interactions: Vec<&'static Interaction>,
    /// `host:port` to dial: the root's own, unless the directory names another.
    pub address: Arc<str>,
    /// The root's host, whose certificate is asked for wherever it is dialled.
    pub host: Arc<str>,
}

impl ProviderRegistration {
    /// A registration that is dialled at its root's own address.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one for each member of the record")]
    pub fn new(
        ods: OdsCode,
        asid: Asid,
        party_key: PartyKey,
        cpa_id: CpaId,
        root: ServiceRoot,
        interactions: Vec<&'static Interaction>,
    ) -> Self {
        let address = format!("{}:{}", root.host(), root.port()).into();
        let host = root.host().into();
        Self { ods, asid, party_key, cpa_id, root, interactions, address, host }
    }

    /// Whether it is registered to process this interaction.
    #[must_use]
    pub fn serves(&self, interaction: &Interaction) -> bool {
        self.interactions.iter().any(|held| held.id == interaction.id)
    }

    /// The registered root and the interaction's template: what a refusal may print.
    #[must_use]
    pub fn printable_url(&self, interaction: &Interaction) -> String {
        let root = self.root.as_str();
        format!("{}{}", root.strip_suffix('/').unwrap_or(root), interaction.template())
    }
}

/// Which sender may talk to which receiver.
#[derive(Debug, Clone, Default)]
pub struct Agreements {
    /// Pairs of ASIDs.
    pub pairs: HashSet<(Asid, Asid)>,
    /// Senders that may talk to every practice.
    pub everywhere: HashSet<Asid>,
}

impl Agreements {
    fn hold(&self, from: &Asid, to: &Asid) -> bool {
        self.everywhere.contains(from) || self.pairs.contains(&(from.clone(), to.clone()))
    }
}

/// An audience accepted besides the registered service root, by name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OtherAudience {
    /// `https://authorize.fhir.nhs.net/token`, with and without a final slash.
    TokenUrl,
    /// The service root and one final slash (or without the one it has).
    TrailingSlash,
    /// The URL of the request itself, without its query.
    RequestUrl,
    /// The base URL of this proxy, with and without a final slash.
    ProxyBase,
    /// The base URL of this proxy, a slash and the service root.
    ProxyAndRoot,
    /// An array that holds the one string.
    OneInArray,
    /// This string and no other.
    #[serde(untagged)]
    Named(String),
}

/// What is asked, by whom and under what terms: all that the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Who asks.
    pub consumer: &'a Consumer,
    /// The receiver that the request names.
    pub receiver: &'a Receiver,
    /// The target as parsed.
    pub target: &'a Target<'a>,
    /// What is asked.
    pub interaction: &'static Interaction,
    /// On whose behalf.
    pub claims: &'a Claims<'a>,
    /// Audiences this consumer may use besides the root.
    pub audiences: &'a [OtherAudience],
    /// Base URLs of this proxy, without a final slash.
    pub bases: &'a [String],
}

/// Leave to forward one request to one provider. Only [`authorise`] makes one.
///
/// ```compile_fail,E0451
/// use std::sync::Arc;
/// use http::uri::PathAndQuery;
/// use spine_proxy::interaction::Interaction;
/// use spine_proxy::policy::{Permit, Provider};
///
/// fn forge(
///     provider: Arc<Provider>,
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
    /// Where the request may go.
    #[must_use]
    pub const fn provider(&self) -> &Arc<ProviderRegistration> {
        &self.provider
    }

    /// What it may ask.
    #[must_use]
    pub const fn interaction(&self) -> &'static Interaction {
        self.interaction
    }

    /// What the provider's request line says: the registered root's path and, byte for byte, what
    /// the consumer sent after it.
    #[must_use]
    pub const fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }
}

/// Whether the sender may initiate this interaction, on behalf of the token's organisation.
pub fn may_send(facts: &RequestFacts<'_>) -> Result<(), Refusal> {
    let sender = facts.consumer.sender();
    if !sender.interactions.iter().any(|held| held.id == facts.interaction.id) {
        return Err(Refusal::SenderNotRegistered(sender.asid.clone()));
    }
    let organisation = &facts.claims.organisation;
    if sender.ods != *organisation && !sender.on_behalf_of.contains(organisation) {
        return Err(Refusal::OrganisationMismatch);
    }
    Ok(())
}

/// Whether the receiver may be asked this: the target is its registered root and the whole rest is
/// the interaction's path, the audience is the root, and an agreement exists.
pub fn authorise(
    agreements: &Agreements,
    facts: &RequestFacts<'_>,
    provider: &Arc<ProviderRegistration>,
) -> Result<Permit, Refusal> {
    let path_and_query = forwarded(facts, provider)?;
    judge_audience(facts, provider)?;
    let from = &facts.consumer.sender().asid;
    if !agreements.hold(from, &provider.asid) {
        return Err(Refusal::NoAgreement { from: from.clone(), to: provider.asid.clone() });
    }
    Ok(Permit { provider: Arc::clone(provider), interaction: facts.interaction, path_and_query })
}

/// Spec: the SSP refuses a target that is not the registered endpoint, as text.
///
/// Security: roots nest, so the rest is the template and nothing between.
fn forwarded(
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
            rest.ok_or(Refusal::InteractionPath)?
        }
    };
    let base = provider.root.base_path();
    let text = match facts.target.query() {
        Some(query) => format!("{base}{rest}?{query}"),
        None => format!("{base}{rest}"),
    };
    // Both parts have passed the grammar, which is the stricter of the two.
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

/// Whether the target lies under the token's audience and not under the receiver's root: then those
/// two agree, and `Ssp-To` is odd.
fn audience_is_targets(facts: &RequestFacts<'_>, provider: &ProviderRegistration) -> bool {
    let (Audience::One(audience), Target::Url(url)) = (&facts.claims.audience, facts.target) else {
        return false;
    };
    provider.root.rest_of(url).is_none()
        && audience.parse::<ServiceRoot>().is_ok_and(|root| root.rest_of(url).is_some())
}

/// Spec: `aud` is the registered service root, character for character.
fn judge_audience(
    facts: &RequestFacts<'_>,
    provider: &ProviderRegistration,
) -> Result<(), Refusal> {
    let root = provider.root.as_str();
    let accepted = match &facts.claims.audience {
        Audience::One(audience) => audience == root || is_other(facts, provider, audience),
        Audience::OneInArray(audience) => {
            facts.audiences.contains(&OtherAudience::OneInArray)
                && (audience == root || is_other(facts, provider, audience))
        }
    };
    if accepted { Ok(()) } else { Err(Refusal::AudienceMismatch) }
}

fn is_other(facts: &RequestFacts<'_>, provider: &ProviderRegistration, audience: &str) -> bool {
    let root = provider.root.as_str();
    let bare = audience.strip_suffix('/').unwrap_or(audience);
    if let Target::Practice(practice) = facts.target {
        // In form (b) this proxy is the practice's root as far as the consumer can see.
        let ours = |base: &String| {
            let capability = facts.interaction.capability;
            bare == format!("{base}/{}/STU3/1/{capability}", practice.ods)
        };
        if audience == bare && facts.bases.iter().any(ours) {
            return true;
        }
    }
    facts.audiences.iter().any(|other| match other {
        OtherAudience::TokenUrl => bare == "https://authorize.fhir.nhs.net/token",
        OtherAudience::TrailingSlash => bare == root.strip_suffix('/').unwrap_or(root),
        OtherAudience::RequestUrl => match facts.target {
            Target::Url(url) => audience == format!("https://{}{}", url.authority, url.path),
            Target::Practice(_) => false,
        },
        OtherAudience::ProxyBase => facts.bases.iter().any(|base| base == bare),
        OtherAudience::ProxyAndRoot => {
            facts.bases.iter().any(|base| audience == format!("{base}/{root}"))
        }
        OtherAudience::Named(named) => audience == named,
        OtherAudience::OneInArray => false,
    })
}
