//! Who sends: a consumer's system and the names of its certificates.

use gpconnect_simulator::sds::Records;
use spine_proxy::refusal::Refusal;

use super::{ASID, BOOK, HUB, ODS, Ours, SLOT, asid, gp, hub};
use testkit::fake_ldap::Act;
use testkit::slapd::FIXTURES;
use testkit::stage::{self, now_s};
use testkit::{Call, Stage};

#[tokio::test]
async fn a_sender_is_its_system_and_the_names_of_its_party_keys_handlers() {
    let ours = Ours::new();
    let second =
        Records::consumer("Z99012", "200000099012", "z99010-990010", "B.Example.test", &[]);
    let mut records = hub().and(second);
    records.accredited.truncate(1);
    records.accredited[0].interactions.extend([BOOK.to_owned(), "urn:nhs:names:other".to_owned()]);
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let told = ours.asks(slapd.port()).sender(HUB).await.unwrap();
    let mut names = told.names.clone();
    names.sort();
    // The handlers are whoever's has the key, whatever the key's case and the name's.
    assert_eq!(names, ["b.example.test", "hub.example.test"]);
    assert_eq!((told.asid.as_str(), told.ods.as_str()), (HUB, "Z99010"));
    assert_eq!(told.interactions, [SLOT, BOOK]);
    let Some(slapd) = ours.slapd(FIXTURES) else { return };
    let told = ours.asks(slapd.port()).sender("200000099002").await.unwrap();
    assert_eq!((told.ods.as_str(), told.interactions), (ODS, vec![SLOT, BOOK]));
    assert_eq!(told.names, ["portal.example.test"]);
}

#[tokio::test]
async fn a_sender_without_handlers_has_no_names() {
    let ours = Ours::new();
    let mut records = hub();
    records.handlers.clear();
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let told = ours.asks(slapd.port()).sender(HUB).await.unwrap();
    assert_eq!((told.names.len(), told.interactions), (0, vec![SLOT]));
}

#[tokio::test]
async fn a_sender_nobody_has_registered_is_unknown() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(hub().to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let nobody = "200000099999";
    for _ in 0..2 {
        let refused = asking.sender(nobody).await.unwrap_err();
        assert_eq!(refused, Refusal::SenderUnknown(asid(nobody)));
    }
    assert_eq!(asking.questions("systems", "absent"), 1, "an absence is believed for a while");
}

#[tokio::test]
async fn the_file_goes_before_the_server() {
    let ours = Ours::new();
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
    let asking = ours.asks_with(slapd.port(), &pinned, |text| text);
    let told = asking.sender(HUB).await.unwrap();
    assert_eq!((told.ods.as_str(), told.interactions), ("Z99099", vec![BOOK]));
    assert_eq!(told.names, ["pinned.example.test"]);
    assert_eq!(asking.questions("systems", "found"), 0);
    // Who is not in the file is asked for.
    assert_eq!(asking.sender(ASID).await.unwrap().ods, ODS);
}

#[tokio::test]
async fn whom_the_file_denies_the_server_does_not_help() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let deny = format!("[[deny]]\nasids = [\"{HUB}\", \"{ASID}\"]\n");
    let asking = ours.asks_with(slapd.port(), &deny, |text| text);
    for denied in [HUB, ASID] {
        let refused = asking.sender(denied).await.unwrap_err();
        assert_eq!(refused, Refusal::SenderUnknown(asid(denied)));
    }
    for hint in [None, Some(ODS)] {
        assert_eq!(asking.system(ASID, hint).await.unwrap_err(), Refusal::ReceiverUnknown);
    }
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    let deny = format!("[[deny]]\nods = [\"{ODS}\"]\n");
    let asking = ours.asks_with(slapd.port(), &deny, |text| text);
    assert_eq!(asking.practice(ODS, SLOT).await.unwrap_err(), Refusal::PracticeUnknown);
    assert_eq!(asking.system(ASID, None).await.unwrap_err(), Refusal::ReceiverUnknown);
    assert!(asking.sender(HUB).await.is_ok());
}

#[tokio::test]
async fn a_sender_that_is_gone_is_refused_five_minutes_later() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().and(hub()).to_ldif()) else { return };
    let asking = ours.asks(slapd.port());
    let began_s = now_s();
    assert!(asking.sender(HUB).await.is_ok());
    slapd.restart_with(&gp().to_ldif());
    let gone = Refusal::SenderUnknown(asid(HUB));
    assert!(asking.is(began_s + 299).sender_now(HUB).await.is_ok());
    assert_eq!(asking.is(began_s + 330).sender_now(HUB).await.unwrap_err(), gone);
    slapd.stop();
    assert_eq!(asking.sender(HUB).await.unwrap_err(), gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_a_day_old_authorises_no_sender() {
    let ours = Ours::new();
    let server = ours.fake().await;
    server.does(Act::Answer(Vec::new(), 51));
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
        let asking = ours.asks(server.address.port());
        asking.directory.load(&ours.folder.path().join("held.json")).unwrap();
        let told = asking.sender(HUB).await;
        assert_eq!(told.is_ok(), served, "after {age_s} s: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_sds_alone_knows_is_served_under_its_registered_name() {
    let ours = Ours::new();
    let root = "https://provider.example.nhs.uk/A20047/STU3/1/gpconnect";
    let records = Records::practice("A20047", "918999198993", "A20047-1", root, &[SLOT, BOOK]);
    let hub = Records::consumer("A00001", stage::HUB, "A00001-1", "hub.example.nhs.uk", &[SLOT]);
    let Some(slapd) = ours.slapd(records.and(hub).to_ldif()) else { return };
    let (folder, port) = (ours.folder.path().display(), slapd.port());
    let stage = Stage::with(|files| {
        files.add(&format!(
            "[directory.sds-ldap]\nurl = \"ldaps://localhost:{port}\"\ndial = \"127.0.0.1:{port}\"\n\
             tls = {{ certificate = {{ chain = \"{folder}/ours.pem\", key = \"{folder}/ours.key\" }}, \
             authorities = [\"{folder}/ca.pem\"], crl = \"none\" }}"
        ));
        let to = "\nto = \"every-practice\"\n";
        files.put("directory.toml", &format!("[[agreement]]\nfrom = [\"{}\"]{to}", stage::HUB));
    })
    .await;
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    stage.refuses(Call::slots().certificate("clinic"), "certificate_not_senders").await;
    stage.refuses(Call::book(), "sender_not_registered").await;
    let nobody = "200000000777";
    stage.refuses(Call::slots().set("Ssp-From", nobody), "sender_unknown").await;
    // Nobody is known to have its names: it is not told whose ASID exists.
    let stranger = |from| Call::slots().certificate("stranger").set("Ssp-From", from);
    let mut heard = Vec::new();
    for from in [stage::HUB, nobody] {
        let answer = stage.refuses(stranger(from), "certificate_not_senders").await;
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        heard.push(answer.text().replace(&id, "id").replace(from, "asid"));
    }
    assert_eq!(heard[0], heard[1]);
}
