//! Reasons of refusals in plain words and what to do about them, from the table in `docs/integrate/refusals.md`:
//! for answers and for the console.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{BodyFamily, Refusal, RootDifference, derived::note, every};

const DOCUMENT: &str = include_str!("../../docs/integrate/refusals.md");
/// Path of the document, as the texts name it.
const PATH: &str = "docs/integrate/refusals.md";

/// Reasons whose own text is a code of the live SSP, or has a fact of one request.
const REASONS: &[(&str, &str)] = &[
    ("method_not_allowed", "the method is not allowed"),
    ("claim_missing", "a claim of the token is missing or empty"),
    ("claim_invalid", "a claim of the token does not have a value allowed here"),
    ("claim_resource", "a claim of the token is not a valid resource of its type"),
    ("interaction_not_allowed", "the interaction is not one this proxy forwards"),
    ("interaction_method", "the interaction id does not match the request method"),
    ("interaction_path", "the interaction id does not match the request path"),
    ("token_malformed", "the bearer token does not have three base64url parts, the third empty"),
    ("token_expired", "the bearer token has expired"),
    ("token_from_future", "the bearer token is from the future"),
    ("scope_mismatch", "the token's scope does not fit the interaction"),
    ("audience_mismatch", "the token's audience is not the provider's service root"),
    ("sender_unknown", "Ssp-From is not the ASID of a known consumer"),
    ("certificate_not_senders", "the certificate is not that of the consumer in Ssp-From"),
    (
        "sender_not_certificates",
        "Ssp-From names another consumer than the certificate and the token",
    ),
    ("sender_not_registered", "the consumer is not registered for this interaction"),
    ("receiver_not_registered", "the practice's system is not registered for this interaction"),
    ("target_not_receivers", "the target is not the service root of the system in Ssp-To"),
    ("receiver_not_targets", "Ssp-To is not the system at the target"),
    ("target_unregistered", "the target is under no registered service root"),
    ("no_agreement", "there is no agreement between the consumer and the practice"),
    ("provider_not_reached", "the practice's system was not reached; nothing was sent"),
    (
        "outcome_unknown",
        "the connection to the practice's system failed after a write was sent: it may have been carried out",
    ),
    ("provider_failed", "the practice's system failed before its answer to a read was complete"),
];

/// Explanation of a refusal.
#[derive(Debug, Clone)]
pub struct Remedy {
    /// Reason for the refusal.
    pub reason: String,
    /// Action of the consumer or of the operators.
    pub action: String,
}

impl Remedy {
    /// Returns the consumer's action, without what operators do.
    fn consumers_action(&self) -> &str {
        self.action.split(" Operators: ").next().unwrap_or_default()
    }
}

static REMEDIES: LazyLock<HashMap<&str, Remedy>> = LazyLock::new(|| {
    let texts = every().into_iter().map(|refusal| (refusal.row().token, refusal.to_string()));
    texts
        .map(|(token, text)| {
            let own = REASONS.iter().find(|(name, _)| *name == token);
            // What follows a colon is an example's.
            let short = text.split(": ").next().unwrap_or_default();
            let reason = own.map_or(short, |(_, reason)| reason).to_owned();
            (token, Remedy { reason, action: action(token).unwrap_or_default() })
        })
        .collect()
});

/// Returns the explanation of a refusal by its token.
#[must_use]
pub fn remedy(token: &str) -> Option<&'static Remedy> {
    REMEDIES.get(token)
}

impl Refusal {
    /// Returns the reason with its facts, in plain words.
    #[must_use]
    pub fn reason(&self) -> String {
        let row = self.row();
        let Some(remedy) = remedy(row.token) else { return self.to_string() };
        match (row.family, self) {
            (BodyFamily::GpConnect, _) => self.to_string(),
            (_, Self::TargetVaries { root, url, .. }) => {
                let difference = RootDifference::between(root, url);
                format!("{}{}", remedy.reason, note(difference.as_ref()))
            }
            (BodyFamily::Spine | BodyFamily::SpineMethod, _) => remedy.reason.clone(),
        }
    }

    /// Returns the action of the consumer; empty if there is none.
    #[must_use]
    pub fn action(&self) -> &'static str {
        remedy(self.row().token).map_or("", Remedy::consumers_action)
    }

    /// Returns the reason with its facts, and what the consumer does about it, in plain words.
    #[must_use]
    pub fn explanation(&self) -> String {
        match self.action() {
            "" => self.reason(),
            action => format!("{}. {action}", self.reason()),
        }
    }
}

/// Returns the last cell of the token's row in the document, as plain text.
fn action(token: &str) -> Option<String> {
    let begin = format!("| <a id=\"{token}\"></a>`{token}` |");
    let row = DOCUMENT.lines().find(|line| line.starts_with(&begin))?;
    let cell = row.trim_end_matches('|').rsplit(" | ").next()?;
    Some(plain(cell.trim()))
}

/// Returns Markdown without its marks; a link to a heading becomes the name of the document with the heading.
fn plain(markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        match link.split_once("](").and_then(|(words, to)| Some((words, to.split_once(')')?))) {
            Some((_, (to, after))) if to.starts_with('#') => {
                text.extend([PATH, to]);
                rest = after;
            }
            Some((words, (_, after))) => {
                text.push_str(words);
                rest = after;
            }
            None => {
                text.push('[');
                rest = link;
            }
        }
    }
    text.push_str(rest);
    text.replace("**", "").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_reason_and_an_action_in_plain_words() {
        for refusal in every() {
            let token = refusal.row().token;
            let Remedy { reason, action } = remedy(token).unwrap();
            assert!(reason.len() > 10 && !reason.contains("_MESSAGE"), "{token}: {reason}");
            assert!(
                !reason.contains("ENDPOINT_") && !reason.contains("Example"),
                "{token}: {reason}"
            );
            assert!(action.len() > 5, "{token}: {action}");
            assert!(
                !action.contains(['`', '[', '|']) && !action.contains("**"),
                "{token}: {action}"
            );
        }
        assert_eq!(
            remedy("certificate_status_unknown").unwrap().action,
            "Contact the operators of this proxy, who need the revocation list; see \
             docs/integrate/refusals.md#certificates."
        );
        assert!(remedy("outcome_unknown").unwrap().action.starts_with("Do not repeat. Read"));
        assert!(remedy("unheard_of").is_none());
    }

    #[test]
    fn every_answer_has_a_reason_and_an_action_of_the_consumer() {
        for refusal in every() {
            let text = refusal.explanation();
            let (reason, action) = text.split_once(". ").unwrap();
            assert!(reason.len() > 10 && action.ends_with('.'), "{text}");
            assert!(!text.contains("Operators") && !text.contains("  "), "{text}");
        }
    }

    #[test]
    fn reasons_are_those_of_refusals() {
        for (token, _) in REASONS {
            assert!(REMEDIES.contains_key(token), "{token}");
        }
    }

    #[test]
    fn marks_of_markdown_are_removed() {
        assert_eq!(plain("Use `a`, **b** and [c](d.md)."), "Use a, b and c.");
        assert_eq!(plain("An [open bracket"), "An [open bracket");
        assert_eq!(plain("[x](y"), "[x](y");
    }
}
