//! `token`: prints a bearer token as a consumer would send it, for an invented user, or judges one claim by claim.

use std::io::Read as _;

use http::header::{self, HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::json;

use super::explain::StepReport;
use super::output::{print, print_json};
use crate::claims::{self, Audience, JudgedToken, Signature, TokenRules};
use crate::failure::Failure;
use crate::policy;
use crate::refusal::{self, Refusal};
use spine_types::interaction::{self, Interaction};
use spine_types::{OdsCode, ServiceRoot};

/// Contents of the token to print, or the token to judge.
#[derive(Debug, clap::Args)]
pub struct TokenOptions {
    /// Service root of the provider, the token's audience.
    #[arg(long, required_unless_present = "check")]
    audience: Option<String>,
    /// ODS code of the consumer's organisation, in either case.
    #[arg(long, required_unless_present = "check", value_parser = OdsCode::from_any_case)]
    ods: Option<OdsCode>,
    /// Interaction, which decides the token's scope: an id, the end of one, or a word such as book; by default
    /// slots. With --check, scope and reason are judged only if it is given.
    #[arg(long, value_parser = interaction::named)]
    interaction: Option<&'static Interaction>,
    /// Judges this token, or one on standard input (-), instead of printing one.
    #[arg(long, value_name = "TOKEN")]
    check: Option<String>,
    /// Time at which --check judges, such as 2026-11-25T09:00:00Z, by default now.
    #[arg(long, value_name = "TIME", requires = "check")]
    at: Option<Timestamp>,
    /// Prints JSON: the token with its claims and the seconds until it expires, or the result of --check.
    #[arg(long)]
    json: bool,
}

/// Limit: bytes of a token on standard input.
const INPUT_BYTES_MAX: u64 = 64 * 1024;
/// Limit: bytes that are shown of an audience.
const SHOWN_BYTES_MAX: usize = 256;
/// Interaction of a token without another.
const USUAL_INTERACTION: &str = "slots";

/// Prints a token that is valid for five minutes from now, or judges one.
///
/// # Errors
/// Returns an error if the ODS code or the audience to check is malformed, or the token would be refused.
pub fn run(wanted: &TokenOptions) -> Result<(), Failure> {
    if let Some(token) = &wanted.check {
        return check(wanted, token);
    }
    let (Some(audience), Some(ods)) = (&wanted.audience, &wanted.ods) else { return Ok(()) };
    let usual = interaction::named(USUAL_INTERACTION).map_err(Failure::environment)?;
    let scope = wanted.interaction.unwrap_or(usual).scope;
    let now_s = Timestamp::now().as_second();
    let claims = claims::example_claims(audience, ods, scope, now_s);
    let token = claims::mint(&claims);
    if wanted.json {
        let expires_in_s =
            claims.get("exp").and_then(serde_json::Value::as_i64).map(|exp| exp - now_s);
        print_json(json!({"token": token, "claims": claims, "expires_in_s": expires_in_s}));
    } else {
        print(token);
    }
    Ok(())
}

/// Judges a token and prints the result for each part and claim.
fn check(wanted: &TokenOptions, token: &str) -> Result<(), Failure> {
    let root = wanted.audience.as_deref().map(str::parse::<ServiceRoot>).transpose();
    let root =
        root.map_err(|why| usage(format_args!("--audience is not a service root: {why}")))?;
    let read = if token == "-" { Some(from_input()?) } else { None };
    let token = bare(read.as_deref().unwrap_or(token));
    if token.is_empty() {
        return Err(usage("the token is empty"));
    }
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let value = value.map_err(|_| usage("the token has characters that no header may have"))?;
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let now_s = wanted.at.unwrap_or_else(Timestamp::now).as_second();
    let rules = TokenRules {
        signature: Signature::Refused,
        clock_ahead_max: claims::CLOCK_AHEAD_MAX,
        now_s,
    };
    let judged = claims::judge(&headers, wanted.interaction, rules);
    let JudgedToken { mut steps, audience, organisation } = judged;
    if let (Some(root), Some(audience)) = (root, audience) {
        let (Audience::One(shown) | Audience::OneInArray(shown)) = &audience;
        let shown = refusal::shown(shown, SHOWN_BYTES_MAX);
        let result = policy::check_audience_alone(&audience, &root);
        steps.judge("aud is the service root", root.to_string(), Some(shown), result);
    }
    if let (Some(ods), Some(organisation)) = (&wanted.ods, organisation) {
        let is_same =
            if *ods == organisation { Ok(()) } else { Err(Refusal::OrganisationMismatch) };
        let shown = Some(organisation.to_string());
        steps.judge("organisation is the sender's", ods.to_string(), shown, is_same);
    }
    let report = StepReport::of_token(steps);
    report.print(wanted.json);
    report.result()
}

/// Returns a token without what stands before it in a header, and without a byte order mark.
fn bare(text: &str) -> &str {
    const NAME: &str = "Authorization:";
    let text = text.trim_start_matches('\u{feff}').trim();
    let value = match text.split_at_checked(NAME.len()) {
        Some((name, value)) if name.eq_ignore_ascii_case(NAME) => value.trim_start(),
        _ => text,
    };
    match value.split_once(char::is_whitespace).unwrap_or((value, "")) {
        (scheme, token) if scheme.eq_ignore_ascii_case("Bearer") => token.trim_start(),
        _ => value,
    }
}

fn from_input() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|why| usage(format_args!("cannot read standard input: {why}")))?;
    Ok(text)
}

/// Returns an error about the arguments.
fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::Usage(anyhow::anyhow!("{text}"))
}
