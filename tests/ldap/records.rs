//! Practices and their systems in the records of an LDAP server.

use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;
use spine_types::interaction;
use spine_types::{Asid, OdsCode, PartyKey};

use super::{ASID, BOOK, HUB, KEY, LdapPki, ODS, ROOT, SLOT, asid, gp, hub, named, ods};
use testkit::sds::{PAYER, by_asid, by_practice};
use testkit::slapd::{FIXTURES, SlapdProcess, SlapdSettings};

#[tokio::test]
async fn a_practice_is_found_in_two_steps_and_the_rest_of_it_in_a_third() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let directory = ours.directory(slapd.port());
    let found = directory.look_up(ODS, SLOT).await.unwrap();
    assert_eq!((found.ods.as_str(), found.asid.as_str()), (ODS, ASID));
    assert_eq!((found.party_key.as_str(), found.root.as_str()), (KEY, ROOT));
    assert_eq!(found.cpa_id.as_str(), "f00000000000000slot1");
    assert_eq!((&*found.address, &*found.host), ("gp.example.test:443", "gp.example.test"));
    let expected = [
        format!("(&(objectClass=nhsMhs)(nhsIDCode={ODS})(nhsMhsSvcIA={SLOT}))"),
        format!("(&(objectClass=nhsAs)(nhsIDCode={ODS})(nhsMHSPartyKey={KEY}))"),
        format!("(&(objectClass=nhsMhs)(nhsIDCode={ODS})(nhsMHSPartyKey={KEY}))"),
    ];
    // slapd logs the values of case-insensitive attributes in lower case.
    let asked = slapd.wait_for_filters(3).await;
    assert_eq!(
        asked,
        expected.map(|filter| filter.replace(&format!("={KEY})"), "=z99001-990001)"))
    );
    // A look-up of another interaction waits for the third query and sends none.
    let book = directory.look_up(ODS, BOOK).await.unwrap();
    assert_eq!((book.asid.as_str(), book.cpa_id.as_str()), (ASID, "f00000000000000book1"));
    assert_eq!(directory.query_count("handlers", "found"), 2);
    assert_eq!(directory.query_count("systems", "found"), 1);
}

#[tokio::test]
async fn a_portal_at_the_practice_is_never_its_provider() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let portal = "200000099002";
    let directory = ours.directory(slapd.port());
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap().asid.as_str(), ASID);
    for hint in [None, Some(ODS)] {
        let refused = directory.system(portal, hint).await.unwrap_err();
        assert_eq!(refused, Refusal::ReceiverUnknown, "{hint:?}");
        let fresh = ours.directory(slapd.port());
        let refused = fresh.system(portal, hint).await.unwrap_err();
        assert_eq!(refused, Refusal::ReceiverUnknown, "{hint:?}");
    }
    let (practice, to) = (ods(ODS), asid(portal));
    let receiver = &by_practice(&practice, Some(&to));
    // With one registration there is no choice; another check compares it with `Ssp-To`.
    let found = directory.directory.provider(receiver, named(SLOT), PAYER).await.unwrap();
    assert_eq!(found.asid.as_str(), ASID);
}

#[tokio::test]
async fn an_unregistered_interaction_differs_from_an_unknown_practice() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    assert!(directory.look_up(ODS, SLOT).await.is_ok());
    let patient = "urn:nhs:names:services:gpconnect:fhir:rest:read:patient-1";
    let refused = directory.look_up(ODS, patient).await.unwrap_err();
    assert_eq!(refused, Refusal::PracticeNotRegistered);
    assert_eq!(directory.look_up("Z00000", SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    let asked = directory.query_count("handlers", "absent");
    assert_eq!(directory.look_up("Z00000", SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    assert_eq!(
        directory.query_count("handlers", "absent"),
        asked,
        "an absence is believed for a while"
    );
}

#[tokio::test]
async fn an_asid_keeps_its_leading_zeros() {
    let ours = LdapPki::new();
    let zeros = "000000000001";
    let records = Records::practice("Z99003", zeros, "Z99003-990003", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    assert_eq!(directory.look_up("Z99003", SLOT).await.unwrap().asid.as_str(), zeros);
    assert_eq!(directory.system(zeros, None).await.unwrap().asid.as_str(), zeros);
    assert_eq!(directory.sender(zeros).await.unwrap().asid, zeros);
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let sender = ours.directory(slapd.port()).sender("000000099003").await.unwrap();
    assert_eq!((sender.asid.as_str(), sender.ods.as_str()), ("000000099003", "Z9Z9Z"));
}

#[tokio::test]
async fn an_ods_code_is_converted_to_upper_case() {
    let ours = LdapPki::new();
    let consumer = Records::consumer("z99010", HUB, "Z99010-990010", "hub.example.test", &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(consumer).to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    assert_eq!(directory.look_up("z99001", SLOT).await.unwrap().ods.as_str(), ODS);
    assert_eq!(directory.sender(HUB).await.unwrap().ods, "Z99010");
    let asked = slapd.wait_for_filters(2).await;
    assert!(asked[0].contains("(nhsIDCode=Z99001)"), "{asked:?}");
}

#[test]
fn identifiers_that_could_alter_a_filter_are_rejected() {
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
async fn a_party_key_that_could_alter_a_filter_is_not_queried() {
    let ours = LdapPki::new();
    let key = "*)(objectClass=*";
    let records = Records::practice(ODS, ASID, key, ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    let unavailable = Refusal::DirectoryUnavailable;
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap_err(), unavailable);
    assert_eq!(directory.sender(ASID).await.unwrap_err(), unavailable);
    assert_eq!(directory.query_count("handlers", "malformed"), 1);
    assert_eq!(directory.query_count("systems", "malformed"), 1);
    let asked = slapd.wait_for_filters(2).await;
    assert!(asked.iter().all(|filter| !filter.contains("PartyKey")), "{asked:?}");
}

#[tokio::test]
async fn attribute_names_are_compared_without_regard_to_case() {
    let ours = LdapPki::new();
    let shout: fn(&str) -> String = str::to_ascii_uppercase;
    for spell in [shout, str::to_ascii_lowercase] {
        let mut setup = SlapdSettings::new(&ours.pki, FIXTURES);
        let quoted = setup.schema.split('\'').enumerate();
        // Every second piece is in quotes: names and descriptions.
        let spelt = quoted.map(|(at, piece)| if at % 2 == 1 { spell(piece) } else { piece.into() });
        setup.schema = spelt.collect::<Vec<_>>().join("'");
        let Some(slapd) = SlapdProcess::start(&setup) else { return };
        let directory = ours.directory(slapd.port());
        assert_eq!(directory.look_up(ODS, SLOT).await.unwrap().root.as_str(), ROOT);
        assert_eq!(directory.sender("200000099002").await.unwrap().names, ["portal.example.test"]);
    }
}

#[tokio::test]
async fn two_addresses_are_ambiguous_even_with_an_asid() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let directory = ours.directory(slapd.port());
    let (practice, to) = (ods("Z99004"), asid("200000099004"));
    for receiver in [
        &by_practice(&practice, None),
        &by_practice(&practice, Some(&to)),
        &by_asid(&to, Some(&practice)),
        &by_asid(&to, None),
    ] {
        let refused = directory.directory.provider(receiver, named(SLOT), PAYER).await;
        assert_eq!(refused.unwrap_err(), Refusal::ReceiverAmbiguous, "{receiver:?}");
    }
}

#[tokio::test]
async fn an_asid_chooses_between_two_systems_of_a_practice() {
    let ours = LdapPki::new();
    let root = "https://other.example.test/Z99001/STU3/1/gpconnect";
    let other = Records::practice(ODS, "200000099002", "Z99001-990002", root, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(other).to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap_err(), Refusal::ReceiverAmbiguous);
    assert_eq!(directory.look_up(ODS, BOOK).await.unwrap().root.as_str(), ROOT);
    assert_eq!(directory.system("200000099002", None).await.unwrap().root.as_str(), root);
    let (practice, to) = (ods(ODS), asid(ASID));
    let receiver = &by_practice(&practice, Some(&to));
    let found = directory.directory.provider(receiver, named(SLOT), PAYER).await.unwrap();
    assert_eq!(found.root.as_str(), ROOT);
}

#[tokio::test]
async fn a_system_of_two_clients_is_found() {
    let ours = LdapPki::new();
    let mut records = gp();
    records.accredited[0].clients.push("Z99005".to_owned());
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap().asid.as_str(), ASID);
    assert_eq!(directory.sender(ASID).await.unwrap().ods, ODS);
}

#[tokio::test]
async fn a_system_is_found_by_its_asid_and_a_hint_only_sets_the_order() {
    let ours = LdapPki::new();
    let other = Records::practice("Z99002", "200000099002", "Z99002-1", ROOT, &[SLOT]);
    let Some(slapd) = ours.slapd(gp().and(other).and(hub()).to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    let found = directory.system(ASID, None).await.unwrap();
    assert_eq!((found.ods.as_str(), found.root.as_str()), (ODS, ROOT));
    assert_eq!(
        slapd.wait_for_filters(1).await[0],
        format!("(&(objectClass=nhsAs)(uniqueIdentifier={ASID}))")
    );
    // A cached practice of the ASID takes precedence over a hint.
    assert_eq!(directory.system(ASID, Some("Z99002")).await.unwrap().ods.as_str(), ODS);
    let fresh = ours.directory(slapd.port());
    let found = fresh.system(ASID, Some("Z99002")).await.unwrap();
    assert_eq!(found.ods.as_str(), ODS, "a hint that is wrong is not the last word");
    let fresh = ours.directory(slapd.port());
    assert_eq!(fresh.system("200000099999", None).await.unwrap_err(), Refusal::ReceiverUnknown);
    // A consumer is a known system, but no receiver.
    assert_eq!(fresh.system(HUB, None).await.unwrap_err(), Refusal::ReceiverUnknown);
}

#[tokio::test]
async fn a_practice_that_changed_its_system_is_not_refused_because_of_the_cache() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    assert!(directory.look_up(ODS, SLOT).await.is_ok());
    slapd.wait_for_filters(3).await;
    let (new, root) = ("200000099077", "https://new.example.test/Z99001/STU3/1/gpconnect");
    let moved = Records::practice(ODS, new, "Z99001-770077", root, &[SLOT]);
    slapd.restart_with(&moved.to_ldif());
    assert_eq!(directory.system(new, Some(ODS)).await.unwrap().root.as_str(), root);
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap().asid.as_str(), new);
}
