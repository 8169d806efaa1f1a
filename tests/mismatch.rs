//! Certificate, `Ssp-From`, `Ssp-To`, target and JWT organisation: which of them do not fit, and
//! the token that says so.

use serde_json::{Value, json};

use testkit::stage::{CLINIC, CLINIC_ODS, HUB, OTHER_ROOT, OTHER_TO};
use testkit::{Call, Stage};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Part {
    Certificate,
    From,
    To,
    Target,
    Organisation,
}

use Part::{Certificate, From, Organisation, Target, To};

/// A call in which these parts are the other party's.
fn with(parts: &[Part]) -> Call {
    parts.iter().fold(Call::slots(), |call, part| match part {
        Certificate => call.certificate("clinic"),
        From => call.set("Ssp-From", CLINIC),
        To => call.set("Ssp-To", OTHER_TO),
        Target => call.target(&format!("/{OTHER_ROOT}/Slot?status=free")),
        Organisation => call.claim("requesting_organization", organisation(CLINIC_ODS)),
    })
}

/// A call in which one part is nobody's.
fn nobodys(part: Part) -> Call {
    let call = Call::slots();
    match part {
        Certificate => call.certificate("stranger"),
        From => call.set("Ssp-From", "200000009999"),
        To => call.set("Ssp-To", "918999199999"),
        Target => call.target("/https://stray.example.nhs.uk/A20047/STU3/1/gpconnect/Slot"),
        Organisation => call.claim("requesting_organization", organisation("Z99999")),
    }
}

fn organisation(ods: &str) -> Value {
    json!({
        "resourceType": "Organization",
        "identifier": [{"system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": ods}],
        "name": "Invented"
    })
}

/// The diagonal: a part that is nobody's has a token of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_nobodys_says_which() {
    let stage = Stage::new().await;
    for (part, token) in [
        (Certificate, "certificate_unknown"),
        (From, "sender_unknown"),
        (To, "receiver_unknown"),
        (Target, "target_unregistered"),
        (Organisation, "organisation_unknown"),
    ] {
        stage.refuses(nobodys(part), token).await;
    }
}

/// Off the diagonal: the sending side is judged by what two of its three parts agree on, the
/// receiving side by what target and audience agree on, and a caller whose own side does not fit
/// learns nothing about the other.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_fit_each_other_say_which_is_odd() {
    let stage = Stage::new().await;
    for (parts, token) in [
        (&[Certificate][..], "certificate_not_senders"),
        (&[From], "sender_not_certificates"),
        (&[Organisation], "organisation_mismatch"),
        (&[To], "receiver_not_targets"),
        (&[Target], "target_not_receivers"),
        (&[To, Target], "audience_mismatch"),
        // Two of three agree with each other, so the third is odd.
        (&[Certificate, From], "organisation_mismatch"),
        (&[Certificate, Organisation], "sender_not_certificates"),
        (&[From, Organisation], "certificate_not_senders"),
        // Both sides: the sender's comes first, and alone.
        (&[Certificate, To], "certificate_not_senders"),
        (&[Certificate, Target], "certificate_not_senders"),
        (&[From, To], "sender_not_certificates"),
        (&[From, Target], "sender_not_certificates"),
        (&[Organisation, To], "organisation_mismatch"),
        (&[Organisation, Target], "organisation_mismatch"),
        // All three of the sender's: another consumer, whole, without an agreement.
        (&[Certificate, From, Organisation], "no_agreement"),
    ] {
        stage.refuses(with(parts), token).await;
    }
}

/// An answer, but for the ids and times in it.
async fn hears(stage: &Stage, call: Call) -> (u16, Option<String>, String) {
    let answer = stage.hears(call).await;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    (answer.status, answer.token().map(str::to_owned), answer.text().replace(&id, "id"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_the_same_whether_or_not_an_asid_exists() {
    let stage = Stage::new().await;
    for version in [|call: Call| call, Call::http2] {
        let stranger = |from| version(Call::slots().certificate("stranger").set("Ssp-From", from));
        let due = hears(&stage, stranger(HUB)).await;
        assert_eq!((due.0, due.1.as_deref()), (495, Some("certificate_unknown")));
        for from in [CLINIC, "200000009999", "000000000000"] {
            assert_eq!(hears(&stage, stranger(from)).await, due, "{from}");
        }
    }
}
