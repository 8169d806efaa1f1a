//! `token`: mints the bearer token a consumer would send, for an invented user.

use super::{Failure, say};
use crate::claims;
use crate::interaction;
use crate::spine::OdsCode;

/// What the token is for.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    /// Service root of the provider: the token's audience.
    #[arg(long)]
    pub audience: String,
    /// ODS code of the consumer's organisation.
    #[arg(long)]
    pub ods: String,
    /// Interaction the token is for: decides its scope.
    #[arg(long, default_value = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1")]
    pub interaction: String,
}

/// Prints a token that is good for five minutes from now.
///
/// # Errors
/// The ODS code or the interaction is not one.
pub fn run(wanted: &Wanted) -> Result<(), Failure> {
    let ods: OdsCode = wanted.ods.parse().map_err(Failure::configuration)?;
    let interaction = interaction::by_id(&wanted.interaction).ok_or_else(|| {
        Failure::Configuration(anyhow::anyhow!("{:?} is no known interaction", wanted.interaction))
    })?;
    let now_s = jiff::Timestamp::now().as_second();
    say(claims::mint(&claims::specimen(&wanted.audience, &ods, interaction.scope, now_s)));
    Ok(())
}
