//! Senders: a consumer's system and the names in its certificates.

use std::sync::Arc;

use gpconnect_simulator::sds::Records;
use spine_proxy::metrics::Metrics;
use spine_proxy::refusal::Refusal;

use super::{ASID, BOOK, HUB, LdapPki, ODS, SLOT, asid, gp, hub};
use testkit::fake_ldap::LdapAction;
use testkit::sds::{PAYER, TestClock};
use testkit::slapd::FIXTURES;
use testkit::test_bed::{self, now_s};
use testkit::{TestBed, TestRequest};

#[tokio::test]
async fn a_senders_names_come_from_the_handlers_of_its_party_key() {
    let ours = LdapPki::new();
    let second =
        Records::consumer("Z99012", "200000099012", "z99010-990010", "B.Example.test", &[]);
    let mut records = hub().and(second);
    records.accredited.truncate(1);
    records.accredited[0].interactions.extend([BOOK.to_owned(), "urn:nhs:names:other".to_owned()]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let told = ours.directory(slapd.port()).sender(HUB).await.unwrap();
    let mut names = told.names.clone();
    names.sort();
    // Every handler with the party key counts; keys and names are compared without regard to case.
    assert_eq!(names, ["b.example.test", "hub.example.test"]);
    assert_eq!((told.asid.as_str(), told.ods.as_str()), (HUB, "Z99010"));
    assert_eq!(told.interactions, [SLOT, BOOK]);
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let told = ours.directory(slapd.port()).sender("200000099002").await.unwrap();
    assert_eq!((told.ods.as_str(), told.interactions), (ODS, vec![SLOT, BOOK]));
    assert_eq!(told.names, ["portal.example.test"]);
}

#[tokio::test]
async fn a_sender_without_handlers_has_no_names() {
    let ours = LdapPki::new();
    let mut records = hub();
    records.handlers.clear();
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let told = ours.directory(slapd.port()).sender(HUB).await.unwrap();
    assert_eq!((told.names.len(), told.interactions), (0, vec![SLOT]));
}

#[tokio::test]
async fn an_unregistered_sender_is_unknown() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(hub().to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    let nobody = "200000099999";
    for _ in 0..2 {
        let refused = directory.sender(nobody).await.unwrap_err();
        assert_eq!(refused, Refusal::SenderUnknown(asid(nobody)));
    }
    assert_eq!(directory.query_count("systems", "absent"), 1, "an absence is believed for a while");
}

#[tokio::test]
async fn the_file_takes_precedence_over_the_server() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let pinned = format!(
        r#"
[[consumer]]
name = "Hub"
asids = ["{HUB}"]
certificate-names = ["pinned.example.test"]
ods = "Z99099"
interactions = ["{BOOK}"]
"#
    );
    let directory = ours.directory_with(slapd.port(), &pinned, |text| text);
    let told = directory.sender(HUB).await.unwrap();
    assert_eq!((told.ods.as_str(), told.interactions), ("Z99099", vec![BOOK]));
    assert_eq!(told.names, ["pinned.example.test"]);
    assert_eq!(directory.query_count("systems", "found"), 0);
    // A sender that is not in the file is looked up at the server.
    assert_eq!(directory.sender(ASID).await.unwrap().ods, ODS);
}

#[tokio::test]
async fn a_sender_denied_by_the_file_is_refused() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let deny = format!("[[deny]]\nasids = [\"{HUB}\", \"{ASID}\"]\n");
    let directory = ours.directory_with(slapd.port(), &deny, |text| text);
    for denied in [HUB, ASID] {
        let refused = directory.sender(denied).await.unwrap_err();
        assert_eq!(refused, Refusal::SenderUnknown(asid(denied)));
    }
    for hint in [None, Some(ODS)] {
        assert_eq!(directory.system(ASID, hint).await.unwrap_err(), Refusal::ReceiverUnknown);
    }
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    let deny = format!("[[deny]]\nods = [\"{ODS}\"]\n");
    let directory = ours.directory_with(slapd.port(), &deny, |text| text);
    assert_eq!(directory.look_up(ODS, SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    assert_eq!(directory.system(ASID, None).await.unwrap_err(), Refusal::ReceiverUnknown);
    assert!(directory.sender(HUB).await.is_ok());
}

#[tokio::test]
async fn a_removed_sender_is_refused_after_five_minutes() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let directory = ours.directory(slapd.port());
    let began_s = now_s();
    assert!(directory.sender(HUB).await.is_ok());
    slapd.restart_with(&gp().to_ldif());
    let gone = Refusal::SenderUnknown(asid(HUB));
    assert!(directory.set_clock_s(began_s + 299).sender_now(HUB).await.is_ok());
    assert_eq!(directory.set_clock_s(began_s + 330).sender_now(HUB).await.unwrap_err(), gone);
    slapd.stop();
    assert_eq!(directory.sender(HUB).await.unwrap_err(), gone);
}

#[tokio::test]
async fn a_sender_is_refused_for_good_only_by_an_answer_whatever_the_clock_does() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let context = TestClock::context_running_back(&Arc::new(Metrics::new()));
    let directory = ours.directory_in(context, slapd.port(), "", |text| text);
    // Every answer seems to come from the future, so that it is not used.
    let refused = directory.sender(&asid(HUB), PAYER).await.unwrap_err();
    assert_eq!(refused, Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_a_day_old_authorises_no_sender() {
    let ours = LdapPki::new();
    let server = ours.fake().await;
    server.set_action(LdapAction::Answer(Vec::new(), 51));
    for (age_s, served) in [(0, true), (30 * 60, true), (60 * 60, false), (86_400, false)] {
        let sender = serde_json::json!({
            "asid": HUB, "ods": "Z99010", "names": ["hub.example.test"], "interactions": [SLOT],
            "source": "sds-ldap", "answered_s": now_s() - age_s,
        });
        let here = format!("ldaps://localhost:{}", server.address.port());
        let held = serde_json::json!({
            "version": 2, "sources": {"sds-ldap": here}, "practices": [], "senders": [sender],
        });
        ours.put("held.json", &held.to_string());
        let directory = ours.directory(server.address.port());
        directory.directory.load(&ours.folder.path().join("held.json")).unwrap();
        let told = directory.sender(HUB).await;
        assert_eq!(told.is_ok(), served, "after {age_s} s: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_known_only_to_sds_is_served_under_its_registered_name() {
    let ours = LdapPki::new();
    let root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect";
    let records = Records::practice("A20047", "918999198993", "A20047-1", root, &[SLOT, BOOK]);
    let hub = Records::consumer("A00001", test_bed::HUB, "A00001-1", "hub.example.nhs.uk", &[SLOT]);
    let Some(slapd) = ours.slapd(records.and(hub).to_ldif()) else { return };
    let (folder, port) = (ours.folder.path().display(), slapd.port());
    let bed = TestBed::with(|files| {
        files.add(&format!(
            "[directory.sds-ldap]\nurl = \"ldaps://localhost:{port}\"\ndial = \"127.0.0.1:{port}\"\n\
             tls = {{ certificate = {{ chain = \"{folder}/ours.pem\", key = \"{folder}/ours.key\" }}, \
             authorities = [\"{folder}/ca.pem\"], crl = \"none\" }}"
        ));
        let to = "\nto = \"every-practice\"\n";
        files.put("directory.toml", &format!("[[agreement]]\nfrom = [\"{}\"]{to}", test_bed::HUB));
    })
    .await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    bed.expect_refusal(TestRequest::slots().certificate("clinic"), "certificate_not_senders").await;
    bed.expect_refusal(TestRequest::book(), "sender_not_registered").await;
    let nobody = "200000000777";
    bed.expect_refusal(TestRequest::slots().set("Ssp-From", nobody), "sender_unknown").await;
    // A certificate whose names are not registered gets no hint which ASIDs exist.
    let stranger = |from| TestRequest::slots().certificate("stranger").set("Ssp-From", from);
    let mut heard = Vec::new();
    for from in [test_bed::HUB, nobody] {
        let answer = bed.expect_refusal(stranger(from), "certificate_not_senders").await;
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        heard.push(answer.text().replace(&id, "id").replace(from, "asid"));
    }
    assert_eq!(heard[0], heard[1]);
}
