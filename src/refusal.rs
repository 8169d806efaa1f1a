//! Every refusal, grouped by what it is about. Status, token and body family of each are in [`table`].
//!
//! `Display` is the reason as the consumer reads it; what to do about it is in [`mod@remedy`]. Details for
//! operators go to the log where the refusal is made. A refusal never holds what the consumer sent, except
//! identifiers that have been parsed; all facts that it may derive from a request are in [`derived`].

use http::Method;
use http::header::HeaderName;

use spine_types::interaction::{self, Interaction, InteractionFault};
use spine_types::target::TargetFault;
use spine_types::{Asid, CpaId, ServiceRoot, SspHeader};

mod certificate;
mod derived;
mod every;
mod judged;
mod outcome;
mod remedy;
mod table;

pub use certificate::CertificateFault;
pub use derived::{
    AudienceLikeness, ClockDifference, PathLikeness, RootDifference, TimeUnit, TokenForm,
    ValueLikeness,
};
pub use every::every;
pub use judged::{JudgedStep, JudgedSteps, StepOutcome, shown};
pub use outcome::{ErrorFamily, OperationOutcome};
pub use remedy::{Remedy, remedy};
pub use table::{BodyFamily, RefusalRow, former_tokens, token_names};

use derived::{nearest_note, note};

/// Certainty with which a failed request reached the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The request was not sent completely: it may be repeated.
    NotSent,
    /// A complete write may have been received: its outcome is unknown.
    Unknown,
    /// A complete read may have been received; it changes nothing.
    Read,
}

impl Reached {
    /// Returns the word for logs: `not sent`, `unknown` or `read`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotSent => "not sent",
            Self::Unknown => "unknown",
            Self::Read => "read",
        }
    }
}

/// Remaining quota of a consumer.
///
/// Spec: the headers are named in the implementation guide of the Spine Secure Proxy; the last is in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaLeft {
    /// Maximum number of requests in a burst.
    pub limit: u32,
    /// Number of requests that are left of the burst.
    pub remaining: u32,
    /// Seconds until the whole burst is available again.
    pub reset_s: u32,
}

impl QuotaLeft {
    /// Returns the names and values of the quota headers.
    #[must_use]
    pub fn headers(&self) -> [(&'static HeaderName, u32); 3] {
        static LIMIT: HeaderName = HeaderName::from_static("x-rate-limit-limit");
        static REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");
        static RESET: HeaderName = HeaderName::from_static("x-rate-limit-reset");
        [(&LIMIT, self.limit), (&REMAINING, self.remaining), (&RESET, self.reset_s)]
    }
}

/// Reason for which the gateway refuses a request, grouped by what it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message describes it, in the consumer's words")]
pub enum Refusal {
    #[error("the audit trail cannot take another record; the request was not sent")]
    AuditUnavailable,

    #[error("the proxy has as many requests in hand as it may; the request was not sent")]
    GatewayFull,
    #[error("this port speaks HTTPS")]
    PlainHttp,
    #[error("no client certificate was presented")]
    CertificateMissing,
    #[error("the client certificate is not valid here: {0}")]
    CertificateInvalid(CertificateFault),
    #[error("the client certificate is outside its dates: {0}")]
    CertificateExpired(CertificateFault),
    #[error("the client certificate has been revoked: {0}")]
    CertificateRevoked(CertificateFault),
    #[error("the revocation status of the client certificate is not known: {0}")]
    CertificateStatusUnknown(CertificateFault),
    #[error("no registered consumer has the name in the client certificate")]
    CertificateUnknown,

    #[error("the request head is not well-formed HTTP")]
    HeadMalformed,
    #[error("the version of HTTP is not one spoken here")]
    VersionUnknown,
    #[error("405: Method Not Allowed")]
    MethodNotAllowed,
    #[error("the request method is not known")]
    MethodUnknown,
    #[error("the request needs exactly one valid Host")]
    HostInvalid,
    #[error("the Host is not one of this proxy's names")]
    HostNotOurs,
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("the request target does not name a provider: {0}")]
    TargetMalformed(TargetFault),
    #[error("the request head is too large")]
    HeadTooLarge,
    #[error("a header name holds an underscore")]
    HeaderUnderscore,
    #[error("the request has come through this proxy before")]
    LoopDetected,
    #[error("the Connection header names a header that may not be dropped")]
    ConnectionNamesHeader,
    #[error("the framing of the request is ambiguous")]
    FramingAmbiguous,
    #[error("the transfer coding is not known")]
    TransferCodingUnknown,
    #[error("the expectation is not known")]
    ExpectationUnknown,
    #[error("a GET request may not have a body")]
    BodyOnGet,
    #[error("{} header missing", .0.name())]
    HeaderMissing(SspHeader),
    #[error("{} header present more than once", .0.name())]
    HeaderRepeated(SspHeader),
    #[error("{} must be {}{}", header.name(), header.form(), note(likeness.as_ref()))]
    HeaderInvalid { header: SspHeader, likeness: Option<ValueLikeness> },

    #[error("too many requests with this certificate")]
    CertificateRateLimited,
    #[error("too many look-ups of practices or systems that were not known here")]
    LookupsExceeded,
    #[error("ASID_CHECK_FAILED_MESSAGESENDER_{0}")]
    SenderUnknown(Asid),
    #[error("the directory is not available; the request was not sent")]
    DirectoryUnavailable,
    #[error("ASID_CHECK_FAILED_MESSAGESENDER_{0}")]
    CertificateNotSenders(Asid),
    #[error("ASID_CHECK_FAILED_MESSAGESENDER_{0}")]
    SenderNotCertificates(Asid),
    #[error("the proxy is overloaded; the request was not sent")]
    Overloaded,
    #[error("the quota of this consumer is used up")]
    QuotaExceeded { allowance: QuotaLeft, retry_after_s: u32 },
    #[error("this consumer has as many requests under way as it may; this one was not sent")]
    ConsumerBusy,

    #[error("the interaction id is not known{}", nearest_note(*.nearest))]
    InteractionUnknown { nearest: Option<&'static Interaction> },
    #[error("this proxy does not forward {}", .0.short_id())]
    InteractionNotAllowed(&'static Interaction),
    #[error("the method must be {} for {}", .0.method, .0.short_id())]
    InteractionMethod(&'static Interaction),
    #[error(
        "the path must end with {} for {}{}",
        interaction.template(), interaction.short_id(), note(likeness.as_ref())
    )]
    InteractionPath { interaction: &'static Interaction, likeness: Option<PathLikeness> },

    #[error("Authorization header missing")]
    TokenMissing,
    #[error("Authorization header present more than once")]
    TokenRepeated,
    #[error("Authorization header is not Bearer with one token")]
    AuthorizationMalformed,
    #[error("the bearer token is too long")]
    TokenTooLong,
    #[error("the bearer token {0}")]
    TokenMalformed(TokenForm),
    #[error("the bearer token is signed; GP Connect tokens are not")]
    TokenSigned,
    #[error("the bearer token's header is not {{\"alg\":\"none\",\"typ\":\"JWT\"}}")]
    TokenAlgorithm,
    #[error(
        "the bearer token's claims are not a JSON object, or a claim is repeated, in another case \
         or of the wrong type"
    )]
    TokenClaims,
    #[error("JWT claim {0} missing or empty")]
    ClaimMissing(&'static str),
    #[error("JWT claim {claim} must {rule}")]
    ClaimInvalid { claim: &'static str, rule: &'static str },
    #[error("JWT claim {claim} is not a FHIR resource of type {resource_type}")]
    ClaimResource { claim: &'static str, resource_type: &'static str },
    #[error("JWT claim exp must be iat plus 300 seconds{}", note(unit.difference().as_ref()))]
    TokenLifetime { unit: TimeUnit },
    #[error("the bearer token expired {ago} ago by this proxy's clock")]
    TokenExpired { ago: ClockDifference },
    #[error("JWT claim iat is {ahead} ahead of this proxy's clock")]
    TokenFromFuture { ahead: ClockDifference },
    #[error("JWT claim requested_scope must be {} for {}", .0.scope, .0.short_id())]
    ScopeMismatch(&'static Interaction),

    #[error("ASID_CHECK_FAILED_MESSAGESENDER_{0}")]
    SenderNotRegistered(Asid),
    #[error("JWT claim requesting_organization is not the sender's organisation")]
    OrganisationMismatch,
    #[error("JWT claim requesting_organization is no registered consumer's organisation")]
    OrganisationUnknown,
    #[error("Ssp-To is not the ASID of a known provider")]
    ReceiverUnknown,
    #[error(
        "no practice that the target names has this Ssp-To, and the directory cannot be searched for an ASID"
    )]
    ReceiverNotFound,
    #[error("no provider is registered for this practice")]
    PracticeUnknown,
    #[error("PARTYKEY_INTERACTION_CHECK_FAILED_MESSAGERECEIVER_{0}")]
    ReceiverNotRegistered(Asid),
    #[error("the practice is not registered for this interaction")]
    PracticeNotRegistered,
    #[error("the directory holds more than one provider for this practice and interaction")]
    ReceiverAmbiguous,
    #[error("Ssp-To is not the ASID of the practice in the request target")]
    ReceiverNotPractices,
    #[error("ENDPOINT_{root}_CPAID_{cpa}_VARIES_FROM_TARGETURL_{url}")]
    TargetVaries { root: ServiceRoot, cpa: CpaId, url: String, odd: MismatchedSide },
    #[error("JWT claim aud must be {root}, character for character{}", note(likeness.as_ref()))]
    AudienceMismatch { root: ServiceRoot, likeness: Option<AudienceLikeness> },
    #[error("FOT_CHECK_FAILED_MESSAGESENDER_{from}_MESSAGERECEIVER_{to}")]
    NoAgreement { from: Asid, to: Asid },

    #[error("the provider is busy; the request was not sent")]
    ProviderBusy,
    #[error(
        "the provider has failed too often of late and its circuit is open; the request was not sent"
    )]
    ProviderCircuitOpen { retry_after_s: u32 },
    #[error("ERROR_COMMUNICATING_TO_ENDPOINT_URL_{url}{}", advice(*.reached))]
    ProviderFailed { url: String, reached: Reached },
    #[error("the provider did not answer in time{}", advice(*.reached))]
    ProviderTimedOut { reached: Reached },
    #[error("the request body did not arrive in time; the request was not sent")]
    BodyTimedOut,
    #[error("the request body ended early; the request was not sent")]
    BodyCut,
    #[error("the consumer hung up before the request was sent")]
    ConsumerGone,
    #[error("the proxy failed")]
    Internal,
}

/// Value that is probably wrong when a target does not belong to the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MismatchedSide {
    /// The target, which belongs to another registration.
    Target,
    /// `Ssp-To`, since target and audience agree with each other.
    Receiver,
    /// The target, which belongs to no registration.
    UnknownTarget,
}

/// Returns the advice for the consumer after a failed write; empty for a read.
const fn advice(reached: Reached) -> &'static str {
    match reached {
        Reached::Read => "",
        Reached::NotSent => " (the request was not sent and may be repeated)",
        Reached::Unknown => {
            " (the outcome is unknown: read the patient's appointments before booking again)"
        }
    }
}

impl Refusal {
    /// Returns the refusal of a request that does not match the interaction it names: the id, method and path
    /// are those of the request.
    #[must_use]
    pub fn of_interaction(fault: InteractionFault, id: &str, method: &Method, path: &str) -> Self {
        match fault {
            InteractionFault::Unknown => {
                Self::InteractionUnknown { nearest: interaction::nearest(id) }
            }
            InteractionFault::NotAllowed(interaction) => Self::InteractionNotAllowed(interaction),
            InteractionFault::Method(interaction) => Self::InteractionMethod(interaction),
            InteractionFault::Path(interaction) => {
                Self::InteractionPath { interaction, likeness: PathLikeness::of(method, path) }
            }
        }
    }

    /// Returns true if the connection ends after this refusal.
    ///
    /// It ends if no other request on it could be answered differently, if the start of the next request is
    /// uncertain, or to slow a flood down by new handshakes.
    #[must_use]
    pub const fn ends_connection(&self) -> bool {
        let is_last = matches!(
            self,
            Self::HeadMalformed
                | Self::VersionUnknown
                | Self::FramingAmbiguous
                | Self::TransferCodingUnknown
                | Self::CertificateRateLimited
        );
        // With 414 and 431, the head may not have been read to its end.
        is_last || matches!(self.row().status, 414 | 431 | 495..=497)
    }

    /// Returns true if nothing was sent because the provider could not be reached.
    #[must_use]
    pub const fn is_unreached(&self) -> bool {
        matches!(
            self,
            Self::ProviderFailed { reached: Reached::NotSent, .. }
                | Self::ProviderTimedOut { reached: Reached::NotSent }
        )
    }

    /// Returns true if a write may have been carried out.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::ProviderFailed { reached: Reached::Unknown, .. }
                | Self::ProviderTimedOut { reached: Reached::Unknown }
        )
    }

    /// Returns true unless the reason passes with time alone.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        !matches!(self, Self::CertificateExpired(CertificateFault::NotYetValid))
    }

    /// Returns the fault of the client certificate, if that is the reason.
    #[must_use]
    pub const fn certificate_fault(&self) -> Option<&CertificateFault> {
        if let Self::CertificateInvalid(fault)
        | Self::CertificateExpired(fault)
        | Self::CertificateRevoked(fault)
        | Self::CertificateStatusUnknown(fault) = self
        {
            return Some(fault);
        }
        None
    }

    /// Returns the remaining quota, if its exhaustion is the reason.
    #[must_use]
    pub const fn allowance(&self) -> Option<QuotaLeft> {
        if let Self::QuotaExceeded { allowance, .. } = self { Some(*allowance) } else { None }
    }

    /// Returns the seconds after which the same request may be sent again, if that is known to be safe.
    #[must_use]
    pub const fn retry_after_s(&self) -> Option<u32> {
        if let Self::ProviderCircuitOpen { retry_after_s }
        | Self::QuotaExceeded { retry_after_s, .. } = self
        {
            return Some(*retry_after_s);
        }
        let safe = matches!(
            self,
            Self::AuditUnavailable
                | Self::GatewayFull
                | Self::DirectoryUnavailable
                | Self::ProviderBusy
                | Self::CertificateRateLimited
                | Self::LookupsExceeded
                | Self::Overloaded
                | Self::ConsumerBusy
        );
        if safe || self.is_unreached() { Some(1) } else { None }
    }
}
