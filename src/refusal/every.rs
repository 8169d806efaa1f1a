//! List with one example of each refusal, for tables, metrics and tests.

use super::{
    CertificateFault, ClockDifference, MismatchedSide, QuotaLeft, Reached, Refusal, TimeUnit,
    TokenForm,
};
use spine_types::SspHeader;
use spine_types::interaction::CATALOGUE;
use spine_types::target::TargetFault;
use spine_types::{Asid, CpaId, ServiceRoot};

/// Returns one refusal for each row of the table, for tables, metrics and tests.
#[must_use]
#[expect(clippy::too_many_lines, reason = "the list has one line for each refusal")]
pub fn every() -> Vec<Refusal> {
    let asid = |digits: &str| digits.parse::<Asid>().ok();
    let (Some(from), Some(to)) = (asid("200000000359"), asid("918999198993")) else {
        return Vec::new();
    };
    let root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect".parse::<ServiceRoot>();
    let (Ok(root), Ok(cpa)) = (root, "S000000000001".parse::<CpaId>()) else {
        return Vec::new();
    };
    let Some(interaction) = CATALOGUE.first() else { return Vec::new() };
    let ago = ClockDifference::between(0, 0);
    let headers = [SspHeader::TraceId, SspHeader::From, SspHeader::To, SspHeader::InteractionId];
    let url = format!("{root}/Appointment");
    let reached = [Reached::NotSent, Reached::Unknown, Reached::Read];
    let mut all = vec![
        Refusal::AuditUnavailable,
        Refusal::GatewayFull,
        Refusal::PlainHttp,
        Refusal::CertificateMissing,
        Refusal::CertificateInvalid(CertificateFault::UnknownIssuer("CN=Example CA".into())),
        Refusal::CertificateExpired(CertificateFault::Expired),
        Refusal::CertificateRevoked(CertificateFault::Revoked("CN=Example CA".into())),
        Refusal::CertificateStatusUnknown(CertificateFault::NoList("CN=Example CA".into())),
        Refusal::CertificateUnknown,
        Refusal::HeadMalformed,
        Refusal::VersionUnknown,
        Refusal::MethodNotAllowed,
        Refusal::MethodUnknown,
        Refusal::HostInvalid,
        Refusal::HostNotOurs,
        Refusal::TargetTooLong,
        Refusal::TargetMalformed(TargetFault::Form),
        Refusal::HeadTooLarge,
        Refusal::HeaderUnderscore,
        Refusal::LoopDetected,
        Refusal::ConnectionNamesHeader,
        Refusal::FramingAmbiguous,
        Refusal::TransferCodingUnknown,
        Refusal::ExpectationUnknown,
        Refusal::BodyOnGet,
    ];
    all.extend(headers.map(Refusal::HeaderMissing));
    all.extend(headers.map(Refusal::HeaderRepeated));
    all.extend(headers.map(|header| Refusal::HeaderInvalid { header, likeness: None }));
    all.extend([
        Refusal::CertificateRateLimited,
        Refusal::SenderUnknown(from.clone()),
        Refusal::LookupsExceeded,
        Refusal::DirectoryUnavailable,
        Refusal::CertificateNotSenders(from.clone()),
        Refusal::SenderNotCertificates(from.clone()),
        Refusal::Overloaded,
        Refusal::QuotaExceeded { allowance: QuotaLeft::default(), retry_after_s: 1 },
        Refusal::ConsumerBusy,
        Refusal::InteractionUnknown { nearest: None },
        Refusal::InteractionNotAllowed(interaction),
        Refusal::InteractionMethod(interaction),
        Refusal::InteractionPath { interaction, likeness: None },
        Refusal::TokenMissing,
        Refusal::TokenRepeated,
        Refusal::AuthorizationMalformed,
        Refusal::TokenTooLong,
        Refusal::TokenMalformed(TokenForm::Parts),
        Refusal::TokenSigned,
        Refusal::TokenAlgorithm,
        Refusal::TokenClaims,
        Refusal::ClaimMissing("iss"),
        Refusal::ClaimInvalid { claim: "reason_for_request", rule: "be directcare" },
        Refusal::ClaimResource { claim: "requesting_device", resource_type: "Device" },
        Refusal::TokenLifetime { unit: TimeUnit::Second },
        Refusal::TokenExpired { ago },
        Refusal::TokenFromFuture { ahead: ago },
        Refusal::ScopeMismatch(interaction),
        Refusal::SenderNotRegistered(from.clone()),
        Refusal::OrganisationMismatch,
        Refusal::OrganisationUnknown,
        Refusal::ReceiverUnknown,
        Refusal::ReceiverNotFound,
        Refusal::PracticeUnknown,
        Refusal::ReceiverNotRegistered(to.clone()),
        Refusal::PracticeNotRegistered,
        Refusal::ReceiverAmbiguous,
        Refusal::ReceiverNotPractices,
    ]);
    let odd = [MismatchedSide::Target, MismatchedSide::Receiver, MismatchedSide::UnknownTarget];
    all.extend(odd.map(|odd| Refusal::TargetVaries {
        url: root.to_string(),
        root: root.clone(),
        cpa: cpa.clone(),
        odd,
    }));
    all.extend([
        Refusal::AudienceMismatch { root, likeness: None },
        Refusal::NoAgreement { from, to },
        Refusal::ProviderBusy,
        Refusal::ProviderCircuitOpen { retry_after_s: 1 },
    ]);
    all.extend(reached.map(|reached| Refusal::ProviderFailed { url: url.clone(), reached }));
    all.extend(reached.map(|reached| Refusal::ProviderTimedOut { reached }));
    all.extend([Refusal::BodyTimedOut, Refusal::BodyCut, Refusal::ConsumerGone, Refusal::Internal]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_its_own() {
        let all = every();
        let mut tokens: Vec<_> = all.iter().map(|refusal| refusal.row().token).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), all.len());
    }

    #[test]
    fn an_unknown_outcome_never_says_when_to_try_again() {
        for refusal in every() {
            if refusal.row().token.starts_with("outcome_unknown") {
                assert_eq!(refusal.retry_after_s(), None);
            }
        }
    }
}
