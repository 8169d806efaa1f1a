//! Mismatches between certificate, `Ssp-From`, `Ssp-To`, target and JWT organisation, and the refusal's
//! token for each.

use serde_json::{Value, json};

use testkit::test_bed::{CLINIC, CLINIC_ODS, HUB, OTHER_ROOT, OTHER_TO};
use testkit::{TestBed, TestRequest};

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
fn with(parts: &[Part]) -> TestRequest {
    parts.iter().fold(TestRequest::slots(), |call, part| match part {
        Certificate => call.certificate("clinic"),
        From => call.set("Ssp-From", CLINIC),
        To => call.set("Ssp-To", OTHER_TO),
        Target => call.target(&format!("/{OTHER_ROOT}/Slot?status=free")),
        Organisation => call.claim("requesting_organization", organisation(CLINIC_ODS)),
    })
}

/// A request in which one part is unknown.
fn nobodys(part: Part) -> TestRequest {
    let call = TestRequest::slots();
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

/// The diagonal: an unknown part has its own token.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_part_has_its_own_token() {
    let bed = TestBed::new().await;
    for (part, token) in [
        (Certificate, "certificate_unknown"),
        (From, "sender_unknown"),
        (To, "receiver_unknown"),
        (Target, "target_unregistered"),
        (Organisation, "organisation_unknown"),
    ] {
        bed.expect_refusal(nobodys(part), token).await;
    }
}

/// Off the diagonal: the sending side is judged by what two of its three parts agree on, the
/// receiving side by what target and audience agree on, and a caller whose own side does not fit
/// learns nothing about the other.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_fit_each_other_say_which_is_odd() {
    let bed = TestBed::new().await;
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
        bed.expect_refusal(with(parts), token).await;
    }
}

/// An answer, but for the ids and times in it.
async fn hears(bed: &TestBed, call: TestRequest) -> (u16, Option<String>, String) {
    let answer = bed.send(call).await;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    (answer.status, answer.token().map(str::to_owned), answer.text().replace(&id, "id"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_the_same_whether_or_not_an_asid_exists() {
    let bed = TestBed::new().await;
    for version in [|call: TestRequest| call, TestRequest::http2] {
        let stranger =
            |from| version(TestRequest::slots().certificate("stranger").set("Ssp-From", from));
        let due = hears(&bed, stranger(HUB)).await;
        assert_eq!((due.0, due.1.as_deref()), (495, Some("certificate_unknown")));
        for from in [CLINIC, "200000009999", "000000000000"] {
            assert_eq!(hears(&bed, stranger(from)).await, due, "{from}");
        }
    }
}
