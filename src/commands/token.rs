//! `token`: prints a bearer token as a consumer would send it, for an invented user.

use super::print;
use crate::claims;
use crate::failure::Failure;
use spine_types::OdsCode;
use spine_types::interaction;

/// Contents of the token.
#[derive(Debug, clap::Args)]
pub struct TokenOptions {
    /// Service root of the provider, the token's audience.
    #[arg(long)]
    pub audience: String,
    /// ODS code of the consumer's organisation.
    #[arg(long)]
    pub ods: String,
    /// Id of the interaction, which decides the token's scope.
    #[arg(long, default_value = "urn:nhs:names:services:gpconnect:fhir:rest:search:slot-1")]
    pub interaction: String,
}

/// Prints a token that is valid for five minutes from now.
///
/// # Errors
/// Returns an error if the ODS code is malformed or the interaction is unknown.
pub fn run(wanted: &TokenOptions) -> Result<(), Failure> {
    let ods: OdsCode = wanted.ods.parse().map_err(Failure::configuration)?;
    let interaction = interaction::by_id(&wanted.interaction).ok_or_else(|| {
        Failure::Configuration(anyhow::anyhow!(
            "{:?} is not the id of a known interaction",
            wanted.interaction
        ))
    })?;
    let now_s = jiff::Timestamp::now().as_second();
    print(claims::mint(&claims::example_claims(&wanted.audience, &ods, interaction.scope, now_s)));
    Ok(())
}
