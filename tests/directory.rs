//! The directory over the SDS FHIR API: what it asks, what it believes, how long.

use std::sync::Arc;
use std::time::Duration;

use spine_proxy::directory::{Asker, Directory, Receiver};
use spine_proxy::refusal::Refusal;
use spine_proxy::simulator::sds::{Asked, Records, Trouble};

use crate::support::sds::{BOOK, KEY, READ, Registry, SLOTS, asid, interaction, ods};
use crate::support::stage::now_s;

const ROOT: &str = "https://gp.example.nhs.uk/A20047/STU3/1/gpconnect";
const NEW_ROOT: &str = "https://other.example.nhs.uk/A20047/STU3/1/gpconnect";

fn practice() -> Records {
    Records::practice("A20047", "918999198993", "A20047-1000001", ROOT, &[SLOTS, BOOK, READ])
}

fn moved() -> Records {
    Records::practice("A20047", "918999198777", "A20047-2000002", NEW_ROOT, &[SLOTS, BOOK, READ])
}

/// Nobody waits long for what does not come.
const HASTE: &str = r#"deadlines = { attempt = "300ms", waiting = "700ms", spare = "100ms" }"#;

const CONFLICT: &str = "directory_conflicts_total{kind=\"receiver\",result=\"stands\"}";

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

#[tokio::test(flavor = "multi_thread")]
async fn three_questions_fill_a_practice() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198993");
    assert_eq!(found.root.as_str(), ROOT);
    registry.rests(&directory).await;
    for id in [BOOK, READ, SLOTS] {
        registry.practice(&directory, "A20047", id).await.unwrap();
    }
    let asked = registry.sds.asked();
    let organisation = "organization=https://fhir.nhs.uk/Id/ods-organization-code%7CA20047";
    let interaction =
        format!("&identifier=https://fhir.nhs.uk/Id/nhsServiceInteractionId%7C{SLOTS}");
    let key = "&identifier=https://fhir.nhs.uk/Id/nhsMhsPartyKey%7CA20047-1000001";
    let seen: Vec<_> = asked.iter().map(|one| format!("{}?{}", one.path, one.query)).collect();
    assert_eq!(
        seen,
        [
            format!("/Endpoint?{organisation}{interaction}"),
            format!("/Device?{organisation}{interaction}{key}"),
            format!("/Endpoint?{organisation}{key}"),
        ]
    );
    for one in &asked {
        assert_eq!(one.headers["accept"], "application/fhir+json");
        assert_eq!(one.headers["apikey"], KEY);
        assert!(!one.headers.contains_key("cache-control"));
        assert_eq!(one.headers["x-correlation-id"], asked[0].headers["x-correlation-id"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_miss_make_three_questions() {
    let registry = Arc::new(Registry::new(practice(), "misses-per-minute = 2000").await);
    let directory = registry.directory("");
    let asking: Vec<_> = (0..1000)
        .map(|number| {
            let (registry, directory) = (Arc::clone(&registry), directory.clone());
            let id = [SLOTS, BOOK, READ][number % 3];
            tokio::spawn(async move { registry.practice(&directory, "A20047", id).await })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap().unwrap().root.as_str(), ROOT);
    }
    registry.rests(&directory).await;
    assert_eq!(registry.asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_cancels_nothing_that_others_wait_for() {
    let registry = Arc::new(Registry::new(practice(), "").await);
    let directory = registry.directory("");
    let (first, there) = (Arc::clone(&registry), directory.clone());
    let first = tokio::spawn(async move { first.practice(&there, "A20047", SLOTS).await });
    registry.has_been_asked(1).await;
    first.abort();
    registry.rests(&directory).await;
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(registry.asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_served_while_it_is_asked_for_again() {
    // Whoever waited for the source would wait for an hour.
    let patience = r#"deadlines = { attempt = "1h", waiting = "1h", background = "1h" }"#;
    let registry = Registry::new(practice(), patience).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.meets(None, Trouble::Silence);
    registry.later_s(20 * MINUTE);
    for _ in 0..100 {
        registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    }
    registry.has_been_asked(4).await;
    assert_eq!(directory.held_view().looking_up, 1);
    assert_eq!(registry.counted("directory_lookups_total{result=\"stale\"}"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_a_practice_is_served_for_half_a_day_and_no_longer() {
    let mut registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.closes().await;
    for hours in [2, 4, 6, 11] {
        registry.later_s(hours * HOUR);
        let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
        assert_eq!(found.root.as_str(), ROOT, "after {hours} hours");
    }
    assert_eq!(registry.counted("directory_lookups_total{result=\"stale_error\"}"), 4);
    registry.later_s(12 * HOUR);
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_ods_code_goes_by_fresh_answers_or_young_ones_in_an_outage() {
    let mut registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", BOOK).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(moved());
    registry.later_s(20 * MINUTE);
    let found = registry.practice(&directory, "A20047", BOOK).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT, "never to the former supplier");
    registry.rests(&directory).await;
    registry.closes().await;
    registry.later_s(59 * MINUTE);
    assert!(registry.practice(&directory, "A20047", BOOK).await.is_ok());
    registry.later_s(61 * MINUTE);
    let refused = registry.practice(&directory, "A20047", BOOK).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert!(registry.practice(&directory, "A20047", SLOTS).await.is_ok(), "a read goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_twice_and_nothing_is_fresh_where_everything_is_asked_for() {
    let never = r#"freshness = { provider = "0s", provider-stale = "0s" }"#;
    let registry = Registry::new(practice(), never).await;
    let directory = registry.directory("");
    for round in 1..=3 {
        registry.practice(&directory, "A20047", SLOTS).await.unwrap();
        registry.rests(&directory).await;
        assert_eq!(registry.asked(), 3 * round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_is_believed_when_it_is_given_twice_and_fast() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    for _ in 0..3 {
        let refused = registry.practice(&directory, "B00001", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown);
    }
    let asked = registry.sds.asked();
    assert_eq!(asked.len(), 2, "the absence is believed for a while");
    assert_eq!(asked[1].headers["cache-control"], "no-cache");
    registry.later_s(61);
    registry.practice(&directory, "B00001", SLOTS).await.unwrap_err();
    assert_eq!(registry.asked(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_out_of_a_cache_is_seen_through() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.sds.meets(None, Trouble::EmptyUnlessFresh);
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), ROOT);
    assert!(registry.counted("directory_suspect_empties_total") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_that_took_long_is_no_absence() {
    let patience = r#"deadlines = { attempt = "5s", waiting = "10s" }"#;
    let registry = Registry::new(practice(), patience).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.meets(None, Trouble::EmptyAfter(Duration::from_millis(2550)));
    registry.later_s(2 * HOUR);
    let (held, unseen) = tokio::join!(
        registry.practice(&directory, "A20047", SLOTS),
        registry.practice(&directory, "B82617", SLOTS)
    );
    assert_eq!(held.unwrap().root.as_str(), ROOT, "what is held is served");
    assert_eq!(unseen.unwrap_err(), Refusal::DirectoryUnavailable);
    let refused = registry.practice(&directory, "B82617", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    assert_eq!(registry.asked(), 3 + 2 + 2, "and nothing is asked again at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_outlives_one_empty_answer_and_falls_to_the_second() {
    let registry = Registry::new(practice(), r#"freshness = { absent = "0s" }"#).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(Records::default());
    registry.later_s(2 * HOUR);
    // The first denial is doubted, the second believed; between them lies what `absent` says.
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeNotRegistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_trouble_of_the_source_is_an_absence() {
    for trouble in [
        Trouble::TooMany(None),
        Trouble::TooMany(Some(2)),
        Trouble::Status(500),
        Trouble::Status(503),
        Trouble::Status(401),
        Trouble::Status(400),
        Trouble::Status(404),
        Trouble::Silence,
        Trouble::Cut,
        Trouble::SlowBody(Duration::from_millis(20)),
        Trouble::Body("no JSON".to_owned()),
        Trouble::Body(r#"{"resourceType":"OperationOutcome"}"#.to_owned()),
        Trouble::Body(r#"{"resourceType":"Bundle","total":2,"entry":[]}"#.to_owned()),
        Trouble::Body(
            r#"{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient"}}]}"#
                .to_owned(),
        ),
    ] {
        let registry = Registry::new(practice(), HASTE).await;
        let directory = registry.directory("");
        registry.sds.meets(None, trouble.clone());
        let refused = registry.practice(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable, "{trouble:?}");
        assert!(Refusal::DirectoryUnavailable.retry_after_s().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_one_practice_is_no_trouble_with_another() {
    let other = "https://gp.example.nhs.uk/B82617/STU3/1/gpconnect";
    let other = Records::practice("B82617", "918999198994", "B82617-1", other, &[SLOTS]);
    let registry = Registry::new(practice().and(other), HASTE).await;
    let directory = registry.directory("");
    registry.sds.meets(Some("A20047"), Trouble::Status(500));
    registry.practice(&directory, "A20047", SLOTS).await.unwrap_err();
    registry.practice(&directory, "B82617", SLOTS).await.unwrap();
    registry.sds.clear();
    while registry.practice(&directory, "A20047", SLOTS).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_spared_and_found_again() {
    let mut registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    registry.closes().await;
    for number in 0..6 {
        let code = format!("Z{number:05}");
        let refused = registry.practice(&directory, &code, SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
    assert!(directory.held_view().sources[0].spared);
    assert_eq!(registry.counted("directory_source_spared{source=\"sds-api\"}"), 1);
    registry.opens().await;
    while registry.practice(&directory, "A20047", SLOTS).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!directory.held_view().sources[0].spared);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_systems_are_an_ambiguity_that_only_the_receiver_can_settle() {
    let second = Records::practice("A20047", "918999198777", "A20047-1000001", ROOT, &[SLOTS]);
    let mut records = practice();
    records.accredited.extend(second.accredited);
    let registry = Registry::new(records, "").await;
    let directory = registry.directory("");
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::ReceiverAmbiguous);
    let (code, to) = (ods("A20047"), asid("918999198777"));
    for receiver in [Receiver::Practice(&code, Some(&to)), Receiver::System(&to, Some(&code))] {
        let found = directory.provider(receiver, interaction(SLOTS), registry.asker()).await;
        assert_eq!(found.unwrap().asid, to);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_addresses_are_an_ambiguity() {
    let mut records = practice();
    records.handlers[0].addresses.push(NEW_ROOT.to_owned());
    let registry = Registry::new(records, "").await;
    let directory = registry.directory("");
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::ReceiverAmbiguous);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_at_the_same_practice_is_not_taken_for_its_provider() {
    let portal =
        Records::consumer("A20047", "200000000999", "A20047-9999999", "p.nhs.uk", &[SLOTS]);
    let registry = Registry::new(practice().and(portal), "").await;
    let directory = registry.directory("");
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198993");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_dialled_by_nobody() {
    for (address, kind) in [
        (None, "no_address"),
        (Some("http://gp.example.nhs.uk/A20047"), "bad_address"),
        (Some("https://127.0.0.1/A20047"), "bad_address"),
        (Some("https://user@gp.example.nhs.uk/A20047"), "bad_address"),
        (Some("https://gp.example.nhs.uk/A20047?x=1"), "bad_address"),
    ] {
        let mut records = practice();
        for handler in &mut records.handlers {
            handler.addresses = address.map(str::to_owned).into_iter().collect();
        }
        let registry = Registry::new(records, "").await;
        let directory = registry.directory("");
        let refused = registry.practice(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable, "{address:?}");
        let series = format!("directory_oddities_total{{kind=\"{kind}\"}}");
        assert_eq!(registry.counted(&series), 1, "{address:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_national_system_with_hundreds_of_interactions_is_read() {
    let others = (0..478).map(|number| format!("urn:nhs:names:services:psis:X{number}"));
    let mut records = practice();
    records.accredited[0].interactions.extend(others);
    let registry = Registry::new(records, "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interaction_that_is_not_registered_is_said_to_be_that() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    let cancel = "urn:nhs:names:services:gpconnect:fhir:rest:cancel:appointment-1";
    let refused = registry.practice(&directory, "A20047", cancel).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeNotRegistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_is_found_by_the_practice_its_target_suggests_and_by_nothing_less() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let (to, stranger, code) = (asid("918999198993"), asid("918999198000"), ods("A20047"));
    let ask = |to, hint| {
        directory.provider(Receiver::System(to, hint), interaction(SLOTS), registry.asker())
    };
    assert_eq!(ask(&to, None).await.unwrap_err(), Refusal::ReceiverUnknown);
    assert_eq!(registry.asked(), 0, "the API cannot be asked for an ASID");
    assert_eq!(ask(&to, Some(&code)).await.unwrap().asid, to);
    assert_eq!(ask(&to, None).await.unwrap().asid, to, "and is known from then on");
    assert_eq!(ask(&stranger, Some(&code)).await.unwrap_err(), Refusal::ReceiverUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_that_moved_is_found_by_its_new_system_at_once_and_not_by_its_old() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let (old, new, code) = (asid("918999198993"), asid("918999198777"), ods("A20047"));
    let ask = |to, id| {
        directory.provider(Receiver::System(to, Some(&code)), interaction(id), registry.asker())
    };
    ask(&old, SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(moved());
    assert_eq!(ask(&new, SLOTS).await.unwrap().root.as_str(), NEW_ROOT);
    let last = registry.sds.asked().pop().unwrap();
    assert_eq!(last.headers["cache-control"], "no-cache");
    for id in [SLOTS, BOOK, READ] {
        assert_eq!(ask(&old, id).await.unwrap_err(), Refusal::ReceiverUnknown, "{id}");
        assert!(ask(&new, id).await.is_ok(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_look_up_is_not_forced_again_for_a_while() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let (stranger, code) = (asid("918999198000"), ods("A20047"));
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    for _ in 0..5 {
        let receiver = Receiver::System(&stranger, Some(&code));
        directory.provider(receiver, interaction(SLOTS), registry.asker()).await.unwrap_err();
        directory.refreshed(receiver, interaction(SLOTS), registry.asker()).await.unwrap();
    }
    registry.rests(&directory).await;
    assert_eq!(registry.asked(), 6);
    assert_eq!(registry.counted(CONFLICT), 5);
    assert_eq!(
        registry.counted("directory_refreshes_total{result=\"ok\",trigger=\"conflict\"}"),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_random_codes_uses_up_its_own_budget() {
    let registry = Registry::new(practice(), "misses-per-minute = 3").await;
    let directory = registry.directory("");
    for number in 0..5 {
        let refused = registry.practice(&directory, &format!("Z{number:05}"), SLOTS).await;
        let expected = if number < 3 { Refusal::PracticeUnknown } else { Refusal::LookupsExceeded };
        assert_eq!(refused.unwrap_err(), expected);
    }
    let code = ods("A20047");
    let asker = Asker { certificate: "another certificate", now_s: now_s() };
    let receiver = Receiver::Practice(&code, None);
    assert!(directory.provider(receiver, interaction(SLOTS), asker).await.is_ok());
    registry.practice(&directory, "A20047", SLOTS).await.expect("what is held costs nothing");
}

const PINNED: &str = r#"
    [[provider]]
    ods = "A20047"
    asid = "918999198111"
    party-key = "A20047-1111111"
    cpa-id = "S000000000001"
    root = "https://pinned.example.nhs.uk/A20047/STU3/1/gpconnect"
    interactions = ["appointments"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_holds_whatever_the_sources_say() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory(PINNED);
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198111");
    assert_eq!(registry.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_is_used_when_no_source_answers() {
    let mut registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198993");
    let cold = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.closes().await;
    let found = registry.practice(&cold, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.asid.as_str(), "918999198111");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_denies_is_denied_though_it_is_held() {
    let registry = Registry::new(practice(), "").await;
    for deny in ["ods = [\"A20047\"]", "asids = [\"918999198993\"]"] {
        let directory = registry.directory("");
        registry.practice(&directory, "A20047", SLOTS).await.unwrap();
        let held = registry.folder.path().join("held.json");
        directory.save(&held).unwrap();
        let directory = registry.directory(&format!("[[deny]]\n{deny}"));
        directory.load(&held).unwrap();
        let refused = registry.practice(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown, "{deny}");
        let to = asid("918999198993");
        let receiver = Receiver::System(&to, None);
        let refused = directory.provider(receiver, interaction(SLOTS), registry.asker()).await;
        assert_eq!(refused.unwrap_err(), Refusal::ReceiverUnknown, "{deny}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_survives_a_cold_start_without_growing_younger() {
    let mut registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(KEY));
    registry.closes().await;
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (age_s, served) in [(0, true), (11 * HOUR, true), (12 * HOUR, false), (-HOUR, false)] {
        let mut aged = written.clone();
        for row in aged["practices"].as_array_mut().unwrap() {
            row["answered_s"] = (now_s() - age_s).into();
        }
        std::fs::write(&path, aged.to_string()).unwrap();
        let cold = registry.directory("");
        cold.load(&path).unwrap();
        for id in [SLOTS, READ] {
            let found = registry.practice(&cold, "A20047", id).await;
            assert_eq!(found.is_ok(), served, "{id} after {age_s} s: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_none_is_said_to_be_none() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let path = registry.folder.path().join("held.json");
    assert_eq!(directory.load(&path).unwrap(), 0, "there is none yet");
    for text in ["", "{}", r#"{"version":2,"practices":[],"senders":[]}"#] {
        std::fs::write(&path, text).unwrap();
        let error = directory.load(&path).unwrap_err().to_string();
        assert!(error.contains("held.json: the directory's snapshot"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_a_snapshot_is_asked_for_again() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    let cold = registry.directory("");
    cold.load(&path).unwrap();
    registry.practice(&cold, "A20047", SLOTS).await.unwrap();
    registry.has_been_asked(6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_flushed_is_asked_for_first_and_kept_for_an_outage() {
    let mut registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(directory.flush(Some(&ods("B00001"))), 0);
    assert_eq!(directory.flush(Some(&ods("A20047"))), 1);
    registry.sds.replace(moved());
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
    registry.rests(&directory).await;
    registry.closes().await;
    assert_eq!(directory.flush(None), 1);
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
}

/// A flush, or a reload, while the source is asked for a practice for the first time.
async fn meanwhile(registry: &Registry, directory: &Directory, happens: impl FnOnce()) -> bool {
    registry.sds.meets(None, Trouble::Held);
    let asked = registry.asked();
    let waits = tokio::spawn({
        let (directory, asker) = (directory.clone(), registry.asker());
        async move {
            let code = ods("A20047");
            let receiver = Receiver::Practice(&code, None);
            directory.provider(receiver, interaction(SLOTS), asker).await.is_ok()
        }
    });
    registry.has_been_asked(asked + 1).await;
    happens();
    registry.sds.clear();
    let served = waits.await.unwrap();
    registry.rests(directory).await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_reaches_what_is_being_looked_up() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let flushed = || assert_eq!(directory.flush(None), 0, "nothing is held yet");
    assert!(meanwhile(&registry, &directory, flushed).await);
    let states = states(&directory);
    assert!(!states.is_empty() && states.iter().all(|state| state == "flushed"), "{states:?}");
    registry.sds.replace(moved());
    let found = registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    assert_eq!(found.root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_flushed_and_is_taken_back_rests_like_any_other() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(directory.flush(None), 1);
    registry.sds.replace(Records::default());
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let asked = registry.asked();
    for _ in 0..5 {
        registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    }
    registry.rests(&directory).await;
    assert_eq!(registry.asked(), asked, "nothing is asked before a second denial would count");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_said_at_another_url_is_not_held() {
    let registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    directory.replace(registry.file(""), registry.live("localhost"));
    assert!(!states(&directory).is_empty(), "the same URL is the same directory");
    directory.replace(registry.file(""), registry.live("elsewhere.example.nhs.uk"));
    assert!(states(&directory).is_empty());
    directory.load(&path).unwrap();
    assert!(states(&directory).is_empty(), "nor is it out of a snapshot");
    directory.replace(registry.file(""), registry.live("localhost"));
    directory.load(&path).unwrap();
    assert!(!states(&directory).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_is_saying_when_its_url_changes_is_not_held() {
    let registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    let replaced =
        || directory.replace(registry.file(""), registry.live("elsewhere.example.nhs.uk"));
    assert!(!meanwhile(&registry, &directory, replaced).await);
    assert!(states(&directory).is_empty());
}

fn states(directory: &Directory) -> Vec<String> {
    let held = serde_json::to_value(directory.held_view()).unwrap();
    let rows = held["practices"].as_array().unwrap();
    rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_practice_in_use_is_asked_for_before_it_grows_stale() {
    let soon = r#"freshness = { provider = "1s", provider-stale = "1h" }"#;
    let registry = Registry::new(practice(), soon).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    let keeping = tokio::spawn({
        let directory = directory.clone();
        async move { directory.keep_fresh().await }
    });
    registry.has_been_asked(6).await;
    keeping.abort();
    registry.rests(&directory).await;
    assert!(registry.counted("directory_refreshes_total{result=\"ok\",trigger=\"ahead\"}") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_answers_another_question_is_no_answer() {
    let registry = Registry::new(practice(), HASTE).await;
    let directory = registry.directory("");
    // As a cache on the way would do it that mixes up two questions.
    let other = r#"{"resourceType":"Bundle","total":1,"entry":[{"resource":{
        "resourceType":"Endpoint","address":"https://evil.example.nhs.uk/B82617",
        "managingOrganization":{"identifier":{"value":"B82617"}},
        "identifier":[{"system":"https://fhir.nhs.uk/Id/nhsMhsPartyKey","value":"B82617-1"}],
        "extension":[]}}]}"#;
    registry.sds.meets(None, Trouble::Body(other.to_owned()));
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[test]
fn no_code_that_could_break_a_question_is_a_code() {
    use spine_proxy::spine::{Asid, OdsCode, PartyKey};
    for text in ["*", ")(", "A2*", "A20047)(uid=*", "A\0B", "A20047 ", "", "A20047%7C", "é0047"] {
        assert!(OdsCode::from_any_case(text).is_err(), "{text:?}");
        assert!(text.parse::<Asid>().is_err(), "{text:?}");
        assert!(text.parse::<PartyKey>().is_err(), "{text:?}");
    }
    assert_eq!(OdsCode::from_any_case("a20047").unwrap().as_str(), "A20047");
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_come_from_the_file_where_no_source_knows_them() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    let from = asid("200000000359");
    let refused = directory.sender(&from, registry.asker()).await;
    assert_eq!(refused.unwrap_err(), Refusal::SenderUnknown(from));
    assert_eq!(registry.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_is_dead_or_denied_by_the_directory_receives_no_write() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", BOOK).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(Records::default());
    registry.later_s(5 * HOUR);
    for round in 0..2 {
        let refused = registry.practice(&directory, "A20047", BOOK).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable, "round {round}");
    }
    assert!(
        registry.practice(&directory, "A20047", SLOTS).await.is_ok(),
        "a read is served once more"
    );
    let path = registry.folder.path().join("held.json");
    directory.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut written: serde_json::Value = serde_json::from_str(&text).unwrap();
    for row in written["practices"].as_array_mut().unwrap() {
        row["answered_s"] = (now_s() - 72 * HOUR).into();
    }
    std::fs::write(&path, written.to_string()).unwrap();
    registry.later_s(0);
    let cold = registry.directory("");
    cold.load(&path).unwrap();
    for id in [BOOK, SLOTS] {
        let refused = registry.practice(&cold, "A20047", id).await;
        assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_system_is_denied_though_the_file_pins_it() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory(&format!("{PINNED}\n[[deny]]\nasids = [\"918999198111\"]"));
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_look_up_pays_for_none() {
    let registry = Arc::new(Registry::new(practice(), "misses-per-minute = 2").await);
    let directory = registry.directory("");
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let (registry, directory) = (Arc::clone(&registry), directory.clone());
            tokio::spawn(async move { registry.practice(&directory, "A20047", SLOTS).await })
        })
        .collect();
    for one in asking {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_uses_up_no_budget() {
    let mut registry = Registry::new(practice(), &format!("{HASTE}\nmisses-per-minute = 2")).await;
    let directory = registry.directory("");
    registry.closes().await;
    for _ in 0..20 {
        let refused = registry.practice(&directory, "A20047", SLOTS).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_name_the_new_system_at_once_are_served() {
    let registry = Arc::new(Registry::new(practice(), "").await);
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(moved());
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (registry, directory) = (Arc::clone(&registry), directory.clone());
            tokio::spawn(async move {
                let (new, code) = (asid("918999198777"), ods("A20047"));
                let receiver = Receiver::System(&new, Some(&code));
                directory.provider(receiver, interaction(SLOTS), registry.asker()).await
            })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap().unwrap().root.as_str(), NEW_ROOT);
    }
    registry.rests(&directory).await;
    assert!(registry.asked() <= 9, "{} questions", registry.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_read_with_its_known_habits() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.sds.meets(None, Trouble::Body(r#"{"resourceType":"Bundle","total":0}"#.to_owned()));
    let refused = registry.practice(&directory, "B82617", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown, "no entry is as good as none");
    // Systems in another case, from an older draft; blanks round a value.
    let extension = format!(
        r#"{{"url":"https://fhir.nhs.uk/StructureDefinition/Extension-SDS-NhsServiceInteractionId",
        "valueReference":{{"identifier":{{"value":"{SLOTS}"}}}}}}"#
    );
    let identifiers = r#"{"system":"https://fhir.nhs.uk/Id/NHSMHSPartyKey","value":" A20047-1000001 "},
        {"system":"https://fhir.nhs.uk/Id/nhsMHSID","value":"x"}"#;
    let endpoint = format!(
        r#"{{"resourceType":"Bundle","total":1,"entry":[{{"resource":{{"resourceType":"Endpoint",
        "address":" {ROOT} ","managingOrganization":{{"identifier":{{"value":"a20047"}}}},
        "identifier":[{identifiers}],"extension":[{extension}]}}}}]}}"#
    );
    registry.sds.meets(None, Trouble::Body(endpoint));
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    // The same text is no Device, and that is said only once it has been read as an Endpoint.
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    let asked = registry.sds.asked().pop().unwrap();
    assert_eq!(asked.path, "/Device");
    assert!(asked.query.ends_with("nhsMhsPartyKey%7CA20047-1000001"), "{}", asked.query);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_what_is_begun_is_finished_before_more_is_begun() {
    let practices = (0..60).map(|number| {
        let ods = format!("P{number:05}");
        let root = format!("https://gp.example.nhs.uk/{ods}/STU3/1/gpconnect");
        Records::practice(&ods, &format!("9181{number:08}"), &format!("{ods}-1"), &root, &[SLOTS])
    });
    let records = practices.fold(Records::default(), Records::and);
    let mut registry = Registry::new(records, "misses-per-minute = 1000").await;
    // Twenty questions fit into the time that a request waits: enough for ten practices.
    registry.pace = 4;
    let registry = Arc::new(registry);
    let directory = registry.directory("");
    let asking = (0..60).map(|number| {
        let (registry, directory) = (Arc::clone(&registry), directory.clone());
        let code = format!("P{number:05}");
        tokio::spawn(async move { registry.practice(&directory, &code, SLOTS).await })
    });
    let mut served = 0;
    for one in Vec::from_iter(asking) {
        match one.await.unwrap() {
            Ok(_) => served += 1,
            Err(refusal) => assert_eq!(refusal, Refusal::DirectoryUnavailable),
        }
    }
    assert!(served >= 9, "{served} of sixty");
    assert!(!directory.held_view().sources[0].spared, "the source did nothing wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_stands_in_for_no_answer_and_never_against_one() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.practice(&directory, "A20047", BOOK).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(Records::default());
    registry.later_s(2 * HOUR);
    // The directory says that nobody is there: the fall-back does not know better.
    let refused = registry.practice(&directory, "A20047", BOOK).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    // Nor do a flush and an outage after it make its former system good for a write.
    assert_eq!(directory.flush(None), 1);
    registry.sds.meets(None, Trouble::Status(503));
    let refused = registry.practice(&directory, "A20047", BOOK).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_for_another_interaction_or_system_says_nothing_of_this_one() {
    let registry = Registry::new(Records::default(), HASTE).await;
    registry.sds.meets(None, Trouble::Status(503));
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    let patient = "urn:nhs:names:services:gpconnect:fhir:rest:read:patient-1";
    let refused = registry.practice(&directory, "A20047", patient).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    let (other, code) = (asid("918999198222"), ods("A20047"));
    let receiver = Receiver::System(&other, Some(&code));
    let refused = directory.provider(receiver, interaction(SLOTS), registry.asker()).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_again_is_no_reason_to_say_no_for_good() {
    let registry = Registry::new(practice(), "").await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(moved());
    registry.sds.meets(None, Trouble::Status(503));
    let (new, code) = (asid("918999198777"), ods("A20047"));
    let receiver = Receiver::System(&new, Some(&code));
    let ask = || directory.provider(receiver, interaction(SLOTS), registry.asker());
    assert_eq!(ask().await.unwrap_err(), Refusal::DirectoryUnavailable);
    registry.sds.clear();
    // Asked again once the failure is forgotten, not after the while between two forced look-ups.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask().await.unwrap().root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sudden_ambiguity_is_not_believed_at_once() {
    let registry = Registry::new(practice(), r#"freshness = { provider-stale = "0s" }"#).await;
    let directory = registry.directory("");
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(practice().and(moved()));
    registry.later_s(HOUR);
    for _ in 0..3 {
        let found = registry.practice(&directory, "A20047", SLOTS).await;
        assert_eq!(found.unwrap().asid.as_str(), "918999198993");
        registry.rests(&directory).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interaction_that_moved_to_another_system_of_the_practice_is_found_there() {
    let (old, new) = ("918999198993", "918999198777");
    let root = |asid, key, root, ids: &[&str]| Records::practice("A20047", asid, key, root, ids);
    let before = root(old, "K-1", ROOT, &[SLOTS]).and(root(new, "K-2", NEW_ROOT, &[READ]));
    let registry = Registry::new(before, "").await;
    let directory = registry.directory("");
    let (to, code) = (asid(new), ods("A20047"));
    let receiver = Receiver::System(&to, Some(&code));
    let ask = |id| directory.provider(receiver, interaction(id), registry.asker());
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    ask(READ).await.unwrap();
    registry.rests(&directory).await;
    registry.sds.replace(root(new, "K-2", NEW_ROOT, &[SLOTS, READ]));
    assert_eq!(ask(SLOTS).await.unwrap().root.as_str(), NEW_ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_by_organisation_sends_nothing() {
    let registry = Registry::new(practice(), "").await;
    let consumer = r#"
        [[consumer]]
        name = "Hub"
        asids = ["200000000359"]
        certificate-names = ["hub.example.nhs.uk"]
        ods = "A00001"
        interactions = ["appointments"]
    "#;
    let from = asid("200000000359");
    let directory = registry.directory(consumer);
    assert!(directory.sender(&from, registry.asker()).await.is_ok());
    let directory = registry.directory(&format!("{consumer}\n[[deny]]\nods = [\"A00001\"]"));
    let refused = directory.sender(&from, registry.asker()).await.unwrap_err();
    assert_eq!(refused, Refusal::SenderUnknown(from));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_asked_for_again_past_every_cache() {
    let registry = Registry::new(practice(), r#"freshness = { provider-stale = "0s" }"#).await;
    let directory = registry.directory("");
    let fresh = |asked: &[Asked]| {
        asked.iter().map(|asked| asked.headers.contains_key("cache-control")).collect::<Vec<_>>()
    };
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(fresh(&registry.sds.asked()), [false; 3]);
    registry.later_s(HOUR);
    registry.practice(&directory, "A20047", SLOTS).await.unwrap();
    registry.rests(&directory).await;
    assert_eq!(fresh(&registry.sds.asked()[3..]), [true; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fall_back_is_not_for_who_has_used_up_a_budget() {
    let registry = Registry::new(practice(), "misses-per-minute = 1").await;
    let directory = registry.directory(&format!("{PINNED}used = \"when-sources-fail\""));
    registry.practice(&directory, "Z00001", SLOTS).await.unwrap_err();
    let refused = registry.practice(&directory, "A20047", SLOTS).await;
    assert_eq!(refused.unwrap_err(), Refusal::LookupsExceeded);
}
