//! What a server's records say of a practice and its system.

use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;
use spine_types::interaction;
use spine_types::{Asid, OdsCode, PartyKey};

use super::{ASID, BOOK, HUB, KEY, ODS, Ours, ROOT, SLOT, asid, gp, hub, named, ods};
use testkit::sds::{PAYER, by_asid, by_practice};
use testkit::slapd::{FIXTURES, Setup, Slapd};

#[tokio::test]
async fn a_practice_is_found_in_two_steps_and_the_rest_of_it_in_a_third() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let asking = ours.asks(slapd.port());
    let found = asking.practice(ODS, SLOT).await.unwrap();
    assert_eq!((found.ods.as_str(), found.asid.as_str()), (ODS, ASID));
    assert_eq!((found.party_key.as_str(), found.root.as_str()), (KEY, ROOT));
    assert_eq!(found.cpa_id.as_str(), "f00000000000000slot1");
    assert_eq!((&*found.address, &*found.host), ("gp.example.test:443", "gp.example.test"));
    let expected = [
        format!("(&(objectClass=nhsMhs)(nhsIDCode={ODS})(nhsMhsSvcIA={SLOT}))"),
        format!("(&(objectClass=nhsAs)(nhsIDCode={ODS})(nhsMHSPartyKey={KEY}))"),
        format!("(&(objectClass=nhsMhs)(nhsIDCode={ODS})(nhsMHSPartyKey={KEY}))"),
    ];
    // The log has what is compared without regard to case in lower case.
    let asked = slapd.asked(3).await;
    assert_eq!(
        asked,
        expected.map(|filter| filter.replace(&format!("={KEY})"), "=z99001-990001)"))
    );
    // Whoever asks for another interaction waits for the third question and puts none.
    let book = asking.practice(ODS, BOOK).await.unwrap();
    assert_eq!((book.asid.as_str(), book.cpa_id.as_str()), (ASID, "f00000000000000book1"));
    assert_eq!(asking.questions("handlers", "found"), 2);
    assert_eq!(asking.questions("systems", "found"), 1);
}

#[tokio::test]
async fn a_portal_at_the_practice_is_never_its_provider() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let portal = "200000099002";
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap().asid.as_str(), ASID);
    for hint in [None, Some(ODS)] {
        let refused = asking.system(portal, hint).await.unwrap_err();
        assert_eq!(refused, Refusal::ReceiverUnknown, "{hint:?}");
        let fresh = ours.asks(slapd.port());
        let refused = fresh.system(portal, hint).await.unwrap_err();
        assert_eq!(refused, Refusal::ReceiverUnknown, "{hint:?}");
    }
    let (practice, to) = (ods(ODS), asid(portal));
    let receiver = &by_practice(&practice, Some(&to));
    // One registration needs no choosing; whether `Ssp-To` agrees is judged elsewhere.
    let found = asking.directory.provider(receiver, named(SLOT), PAYER).await.unwrap();
    assert_eq!(found.asid.as_str(), ASID);
}

#[tokio::test]
async fn what_a_practice_is_not_registered_for_is_told_from_a_practice_that_is_not_there() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    let patient = "urn:nhs:names:services:gpconnect:fhir:rest:read:patient-1";
    let refused = asking.practice(ODS, patient).await.unwrap_err();
    assert_eq!(refused, Refusal::PracticeNotRegistered);
    assert_eq!(asking.practice("Z00000", SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    let asked = asking.questions("handlers", "absent");
    assert_eq!(asking.practice("Z00000", SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    assert_eq!(asking.questions("handlers", "absent"), asked, "an absence is believed for a while");
}

#[tokio::test]
async fn an_asid_keeps_its_leading_zeros() {
    let ours = Ours::new();
    let zeros = "000000000001";
    let records = Records::practice("Z99003", zeros, "Z99003-990003", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice("Z99003", SLOT).await.unwrap().asid.as_str(), zeros);
    assert_eq!(asking.system(zeros, None).await.unwrap().asid.as_str(), zeros);
    assert_eq!(asking.sender(zeros).await.unwrap().asid, zeros);
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let sender = ours.asks(slapd.port()).sender("000000099003").await.unwrap();
    assert_eq!((sender.asid.as_str(), sender.ods.as_str()), ("000000099003", "Z9Z9Z"));
}

#[tokio::test]
async fn a_code_is_in_upper_case_whoever_writes_it() {
    let ours = Ours::new();
    let consumer = Records::consumer("z99010", HUB, "Z99010-990010", "hub.example.test", &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(consumer).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice("z99001", SLOT).await.unwrap().ods.as_str(), ODS);
    assert_eq!(asking.sender(HUB).await.unwrap().ods, "Z99010");
    let asked = slapd.asked(2).await;
    assert!(asked[0].contains("(nhsIDCode=Z99001)"), "{asked:?}");
}

#[test]
fn nothing_that_breaks_out_of_a_filter_is_an_identifier() {
    for bad in ["*", "Z9*", ")(", ")(objectClass=*", "\0", "Z99001\0", r"\2a", "(", ")", "a b"] {
        assert!(bad.parse::<OdsCode>().is_err(), "{bad:?}");
        assert!(OdsCode::from_any_case(bad).is_err(), "{bad:?}");
        assert!(bad.parse::<Asid>().is_err(), "{bad:?}");
        assert!(format!("20000009900{bad}").parse::<Asid>().is_err(), "{bad:?}");
        assert!(bad.parse::<PartyKey>().is_err(), "{bad:?}");
        assert!(interaction::by_id(bad).is_none(), "{bad:?}");
        assert!(interaction::by_id(&format!("{SLOT}{bad}")).is_none(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_party_key_that_breaks_out_of_a_filter_is_never_asked_for() {
    let ours = Ours::new();
    let key = "*)(objectClass=*";
    let records = Records::practice(ODS, ASID, key, ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let unavailable = Refusal::DirectoryUnavailable;
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), unavailable);
    assert_eq!(asking.sender(ASID).await.unwrap_err(), unavailable);
    assert_eq!(asking.questions("handlers", "malformed"), 1);
    assert_eq!(asking.questions("systems", "malformed"), 1);
    let asked = slapd.asked(2).await;
    assert!(asked.iter().all(|filter| !filter.contains("PartyKey")), "{asked:?}");
}

#[tokio::test]
async fn attributes_are_known_in_whatever_case_the_server_spells_them() {
    let ours = Ours::new();
    let shout: fn(&str) -> String = str::to_ascii_uppercase;
    for spell in [shout, str::to_ascii_lowercase] {
        let mut setup = Setup::new(&ours.pki, FIXTURES);
        let quoted = setup.schema.split('\'').enumerate();
        // Every second piece stands between quotes: names, and descriptions, which are nobody's.
        let spelt = quoted.map(|(at, piece)| if at % 2 == 1 { spell(piece) } else { piece.into() });
        setup.schema = spelt.collect::<Vec<_>>().join("'");
        let Some(slapd) = Slapd::start(&setup) else { return };
        let asking = ours.asks(slapd.port());
        assert_eq!(asking.practice(ODS, SLOT).await.unwrap().root.as_str(), ROOT);
        assert_eq!(asking.sender("200000099002").await.unwrap().names, ["portal.example.test"]);
    }
}

#[tokio::test]
async fn two_addresses_are_an_ambiguity_that_no_asid_settles() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let asking = ours.asks(slapd.port());
    let (practice, to) = (ods("Z99004"), asid("200000099004"));
    for receiver in [
        &by_practice(&practice, None),
        &by_practice(&practice, Some(&to)),
        &by_asid(&to, Some(&practice)),
        &by_asid(&to, None),
    ] {
        let refused = asking.directory.provider(receiver, named(SLOT), PAYER).await;
        assert_eq!(refused.unwrap_err(), Refusal::ReceiverAmbiguous, "{receiver:?}");
    }
}

#[tokio::test]
async fn among_two_systems_of_a_practice_the_asid_settles_it() {
    let ours = Ours::new();
    let root = "https://other.example.test/Z99001/STU3/1/gpconnect";
    let other = Records::practice(ODS, "200000099002", "Z99001-990002", root, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(other).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), Refusal::ReceiverAmbiguous);
    assert_eq!(asking.practice(ODS, BOOK).await.unwrap().root.as_str(), ROOT);
    assert_eq!(asking.system("200000099002", None).await.unwrap().root.as_str(), root);
    let (practice, to) = (ods(ODS), asid(ASID));
    let receiver = &by_practice(&practice, Some(&to));
    let found = asking.directory.provider(receiver, named(SLOT), PAYER).await.unwrap();
    assert_eq!(found.root.as_str(), ROOT);
}

#[tokio::test]
async fn a_system_of_two_clients_is_found() {
    let ours = Ours::new();
    let mut records = gp();
    records.accredited[0].clients.push("Z99005".to_owned());
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap().asid.as_str(), ASID);
    assert_eq!(asking.sender(ASID).await.unwrap().ods, ODS);
}

#[tokio::test]
async fn a_system_is_found_by_its_asid_and_a_hint_only_says_where_to_look_first() {
    let ours = Ours::new();
    let other = Records::practice("Z99002", "200000099002", "Z99002-1", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(other).and(hub()).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let found = asking.system(ASID, None).await.unwrap();
    assert_eq!((found.ods.as_str(), found.root.as_str()), (ODS, ROOT));
    assert_eq!(slapd.asked(1).await[0], format!("(&(objectClass=nhsAs)(uniqueIdentifier={ASID}))"));
    // What is known of an ASID goes before a hint.
    assert_eq!(asking.system(ASID, Some("Z99002")).await.unwrap().ods.as_str(), ODS);
    let fresh = ours.asks(slapd.port());
    let found = fresh.system(ASID, Some("Z99002")).await.unwrap();
    assert_eq!(found.ods.as_str(), ODS, "a hint that is wrong is not the last word");
    let fresh = ours.asks(slapd.port());
    assert_eq!(fresh.system("200000099999", None).await.unwrap_err(), Refusal::ReceiverUnknown);
    // A consumer is somebody, and not a receiver.
    assert_eq!(fresh.system(HUB, None).await.unwrap_err(), Refusal::ReceiverUnknown);
}

#[tokio::test]
async fn a_practice_that_changed_its_system_is_not_refused_for_what_is_held() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    assert!(asking.practice(ODS, SLOT).await.is_ok());
    slapd.asked(3).await;
    let (new, root) = ("200000099077", "https://new.example.test/Z99001/STU3/1/gpconnect");
    let moved = Records::practice(ODS, new, "Z99001-770077", root, &[SLOT]);
    slapd.restart_with(&moved.to_ldif());
    assert_eq!(asking.system(new, Some(ODS)).await.unwrap().root.as_str(), root);
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap().asid.as_str(), new);
}
