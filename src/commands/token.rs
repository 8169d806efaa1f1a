//! `token`: mints the bearer token a consumer would send, for an invented user.

use super::{CommandFailure, print};
use crate::claims;
use crate::interaction;
use crate::spine::OdsCode;

/// What the token is for.
#[derive(Debug, clap::Args)]
pub struct TokenOptions {
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
pub fn run(wanted: &TokenOptions) -> Result<(), CommandFailure> {
    let ods: OdsCode = wanted.ods.parse().map_err(CommandFailure::configuration)?;
    let interaction = interaction::by_id(&wanted.interaction).ok_or_else(|| {
        CommandFailure::Configuration(anyhow::anyhow!(
            "{:?} is no known interaction",
            wanted.interaction
        ))
    })?;
    let now_s = jiff::Timestamp::now().as_second();
    print(claims::mint(&claims::specimen(&wanted.audience, &ods, interaction.scope, now_s)));
    Ok(())
}
