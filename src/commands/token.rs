//! `token`: prints a bearer token as a consumer would send it, for an invented user.

use super::print;
use crate::claims;
use crate::failure::Failure;
use spine_types::OdsCode;
use spine_types::interaction::{self, Interaction};

/// Contents of the token.
#[derive(Debug, clap::Args)]
pub struct TokenOptions {
    /// Service root of the provider, the token's audience.
    #[arg(long)]
    pub audience: String,
    /// ODS code of the consumer's organisation.
    #[arg(long)]
    pub ods: String,
    /// Interaction, which decides the token's scope: an id, the end of one, or a word such as book.
    #[arg(long, default_value = "slots", value_parser = interaction::named)]
    pub interaction: &'static Interaction,
}

/// Prints a token that is valid for five minutes from now.
///
/// # Errors
/// Returns an error if the ODS code is malformed.
pub fn run(wanted: &TokenOptions) -> Result<(), Failure> {
    let ods: OdsCode = wanted.ods.parse().map_err(Failure::configuration)?;
    let now_s = jiff::Timestamp::now().as_second();
    print(claims::mint(&claims::example_claims(
        &wanted.audience,
        &ods,
        wanted.interaction.scope,
        now_s,
    )));
    Ok(())
}
