//! Strict byte grammar of the forms of a request target.
//!
//! (a) `/https://provider/…`, or `/https:/provider/…` as some HTTP stacks collapse it, is only compared with
//! a registered service root. (b) `/{ODS}/STU3/1/gpconnect/…` has the gateway look the practice up. (c) An
//! absolute-form target that names this proxy has been turned into origin-form before.
//!
//! A target is not decoded, merged, lower-cased or resolved: its rest is forwarded as sent.

use crate::{Asid, InnerUrl, OdsCode, UrlFault};

/// Fault of a request target that has none of the accepted forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// The target begins like none of the forms.
    #[error(
        "it begins neither with /https:// and a service root nor with /ODS-code/STU3/1/gpconnect/"
    )]
    Form,
    /// The URL in the target has its colon or slashes as percent escapes.
    #[error("the URL in it is percent-encoded: send it raw")]
    Encoded,
    /// The target holds a fragment, which a URL parser would cut off.
    #[error("it holds a # that is not escaped")]
    Fragment,
    /// The URL in the target has a fault.
    #[error("{0}")]
    Url(#[from] UrlFault),
}

/// Parsed target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'a> {
    /// Form (a), the provider's URL.
    Url(InnerUrl<'a>),
    /// Form (b), a practice and the path of the request.
    Practice(PracticeTarget<'a>),
}

/// Parts of a target in form (b).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PracticeTarget<'a> {
    /// ODS code of the practice.
    pub ods: OdsCode,
    /// Path after `/{ODS}/STU3/1/`, without a leading slash.
    pub path: &'a str,
    /// Query without its question mark.
    pub query: Option<&'a str>,
}

/// Receiver that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// Form (a): the system with this ASID.
    ///
    /// Security: the practice that the target suggests is unverified; it decides which practice is looked up,
    /// never which answer is believed.
    System {
        /// ASID in `Ssp-To`.
        asid: Asid,
        /// ODS code that the target suggests.
        hint: Option<OdsCode>,
    },
    /// Form (b): the system of this practice; `Ssp-To` selects one of several.
    Practice {
        /// ODS code in the target.
        ods: OdsCode,
        /// ASID in `Ssp-To`, if it was sent.
        asid: Option<Asid>,
    },
}

impl<'a> Target<'a> {
    /// Parses a target in origin-form.
    ///
    /// # Errors
    /// Returns the fault of a target that has none of the accepted forms.
    pub fn parse(target: &'a str) -> Result<Self, TargetFault> {
        if let Some(url) = target.strip_prefix("/https://") {
            return Ok(Self::Url(InnerUrl::after_scheme(url)?));
        }
        if let Some(url) = target.strip_prefix("/https:/") {
            return Ok(Self::Url(InnerUrl::after_scheme(url)?));
        }
        if target.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme)) {
            return Err(UrlFault::Scheme.into());
        }
        if is_encoded_url(target) {
            return Err(TargetFault::Encoded);
        }
        practice(target)
    }

    /// Returns the path, whose end must match the interaction.
    #[must_use]
    pub const fn path(&self) -> &'a str {
        match self {
            Self::Url(url) => url.path,
            Self::Practice(practice) => practice.path,
        }
    }

    /// Returns the query, which is forwarded byte for byte.
    #[must_use]
    pub const fn query(&self) -> Option<&'a str> {
        match self {
            Self::Url(url) => url.query,
            Self::Practice(practice) => practice.query,
        }
    }

    /// Returns the ODS code before `STU3` in a provider's URL, where the specification recommends it.
    ///
    /// Security: it is unverified and must not be relied on.
    #[must_use]
    pub fn practice_hint(&self) -> Option<OdsCode> {
        let (before, _) = self.path().split_once("/STU3/")?;
        OdsCode::from_any_case(before.rsplit('/').next()?).ok()
    }

    /// Returns the part of a mismatched target that may be shown to an operator or consumer: without query
    /// and interaction path, NHS numbers masked, at most 256 bytes.
    #[must_use]
    pub fn printable(&self, interaction_start: usize) -> String {
        let path = self.path();
        let shown = path.get(..interaction_start).unwrap_or(path);
        let text = match self {
            Self::Url(url) => format!("https://{}{shown}", url.authority),
            Self::Practice(_) => shown.to_owned(),
        };
        crate::masked(&text, PRINTED_BYTES_MAX).into_owned()
    }
}

/// Limit: bytes of a target that an answer may quote.
const PRINTED_BYTES_MAX: usize = 256;

fn is_scheme(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|scheme| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Returns true for a target that begins with `https:` or `http:`, the colon as a percent escape.
fn is_encoded_url(target: &str) -> bool {
    let begins = |scheme: &str| {
        target.get(1..=scheme.len()).is_some_and(|text| text.eq_ignore_ascii_case(scheme))
    };
    target.starts_with('/') && (begins("https%3a") || begins("http%3a"))
}

/// Parses form (b). The path keeps its `gpconnect`, so that capabilities can be told apart.
fn practice(target: &str) -> Result<Target<'_>, TargetFault> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let (ods, rest) = path
        .strip_prefix('/')
        .and_then(|path| path.split_once("/STU3/1/"))
        .ok_or(TargetFault::Form)?;
    let ods = OdsCode::from_any_case(ods).map_err(|_| TargetFault::Form)?;
    if !rest.starts_with("gpconnect/") {
        return Err(TargetFault::Form);
    }
    crate::check_path(path)?;
    crate::check_query(query)?;
    Ok(Target::Practice(PracticeTarget { ods, path: rest, query }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(target: &str) -> InnerUrl<'_> {
        match Target::parse(target).unwrap() {
            Target::Url(url) => url,
            Target::Practice(_) => panic!("form (b)"),
        }
    }

    #[test]
    fn the_collapsed_form_means_the_same() {
        let whole = url("/https://p.nhs.uk/GP0001/STU3/1/gpconnect/Slot?a=%7C|b");
        assert_eq!(whole, url("/https:/p.nhs.uk/GP0001/STU3/1/gpconnect/Slot?a=%7C|b"));
        assert_eq!(whole.authority, "p.nhs.uk");
        assert_eq!(whole.query, Some("a=%7C|b"));
    }

    #[test]
    fn a_practice_is_named_by_its_ods_code() {
        let Target::Practice(practice) =
            Target::parse("/a20047/STU3/1/gpconnect/Slot?start=ge2026-11-23").unwrap()
        else {
            panic!("form (a)");
        };
        assert_eq!(practice.ods.as_str(), "A20047");
        assert_eq!(practice.path, "gpconnect/Slot");
        assert_eq!(practice.query, Some("start=ge2026-11-23"));
    }

    /// Rows C1 to C26 of the catalogue of hostile input that concern the target alone.
    #[test]
    fn hostile_targets_are_refused_with_their_reason() {
        use TargetFault::{Encoded, Form, Url};
        for (target, fault) in [
            ("/", Form),
            ("", Form),
            ("*", Form),
            ("/Slot?schedule.actor%3Ahealthcareservice=1", Form),
            ("/nrls-ri/SSP/http%3A%2F%2Flocalhost", Form),
            ("/https%3A%2F%2Fp.nhs.uk%2FSlot", Encoded),
            ("/HTTP%3a//p.nhs.uk/Slot", Encoded),
            ("//evil.nhs.uk/x", Form),
            ("/A20047/STU3/1/structured/Patient", Form),
            ("/A20047/STU3/2/gpconnect/Slot", Form),
            ("/A2/STU3/1/gpconnect/Slot", Form),
            ("/9434765919/STU3/1/gpconnect/Slot", Form),
            ("/../A20047/STU3/1/gpconnect/Slot", Form),
            ("/A20047/STU3/1/gpconnect", Form),
            ("/HTTPS://p.nhs.uk/x", Url(UrlFault::Scheme)),
            ("/http://p.nhs.uk/x", Url(UrlFault::Scheme)),
            ("/ftp://p.nhs.uk/x", Url(UrlFault::Scheme)),
            ("/file:///etc/passwd", Url(UrlFault::Scheme)),
            ("/javascript:alert(1)", Url(UrlFault::Scheme)),
            ("/https:p.nhs.uk/x", Url(UrlFault::Scheme)),
            ("/https:///p.nhs.uk/x", Url(UrlFault::Host)),
            ("/https:\\\\evil.uk", Url(UrlFault::Scheme)),
            ("/https://good@evil.uk/x", Url(UrlFault::Userinfo)),
            ("/https://good:443@evil.uk/x", Url(UrlFault::Userinfo)),
            ("/https://[::1]/x", Url(UrlFault::Address)),
            ("/https://127.0.0.1/x", Url(UrlFault::Address)),
            ("/https://2130706433/x", Url(UrlFault::Address)),
            ("/https://good.nhs.uk./x", Url(UrlFault::Host)),
            ("/https://good.nhs.uk:65536/x", Url(UrlFault::Port)),
            ("/https://good.nhs.uk/a/%2e%2e/b", Url(UrlFault::DotSegment)),
            ("/https://good.nhs.uk/a%2fb", Url(UrlFault::Escape)),
            ("/https://good.nhs.uk/a%0d%0ab", Url(UrlFault::Escape)),
            ("/https://good.nhs.uk/a;b", Url(UrlFault::PathByte)),
            ("/https://good.nhs.uk/Slot?a=\\", Url(UrlFault::QueryByte)),
            ("/A20047/STU3/1/gpconnect/%2e%2e/Slot", Url(UrlFault::DotSegment)),
        ] {
            assert_eq!(Target::parse(target), Err(fault), "{target}");
        }
    }

    #[test]
    fn a_printed_target_holds_no_query_no_interaction_path_and_no_nhs_number() {
        let target = Target::parse("/https://p.nhs.uk/9434765919/Patient/7?x=9434765919").unwrap();
        assert_eq!(target.printable(11), "https://p.nhs.uk/[masked]");
    }
}
