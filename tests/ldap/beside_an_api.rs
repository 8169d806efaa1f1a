//! The server as the second source, behind the FHIR API.

use gpconnect_simulator::sds::{Records, SdsFault};
use spine_proxy::directory::Directory;
use spine_proxy::refusal::Refusal;

use super::{ODS, Ours, ROOT, SLOT, gp};
use testkit::sds::Registry;
use testkit::slapd::Slapd;

/// The FHIR API first, then this server.
async fn beside_an_api(ours: &Ours, slapd: &Slapd, records: Records) -> (Registry, Directory) {
    let (folder, port) = (ours.folder.path().display(), slapd.port());
    let more = format!(
        "deadlines = {{ attempt = \"300ms\", waiting = \"2s\", circuit-open = \"100ms\" }}\n\
         sds-ldap = {{ url = \"ldaps://localhost:{port}\", dial = \"127.0.0.1:{port}\", tls = {{ \
         certificate = {{ chain = \"{folder}/ours.pem\", key = \"{folder}/ours.key\" }}, \
         authorities = [\"{folder}/ca.pem\"], crl = \"none\" }} }}"
    );
    let registry = Registry::new(records, &more).await;
    let directory = registry.directory("");
    (registry, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_source_answers_where_the_first_does_not() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    for trouble in [
        SdsFault::Status(503),
        SdsFault::NoResponse,
        SdsFault::TooManyRequests(None),
        SdsFault::Status(401),
    ] {
        let (registry, directory) = beside_an_api(&ours, &slapd, gp()).await;
        registry.sds.set(None, trouble.clone());
        let found = registry.practice(&directory, ODS, SLOT).await;
        assert_eq!(found.unwrap().root.as_str(), ROOT, "{trouble:?}");
        let series = |source, outcome| {
            registry.counted(&format!(
                "directory_source_queries_total{{outcome=\"{outcome}\",question=\"handlers\",source=\"{source}\"}}"
            ))
        };
        registry.rests(&directory).await;
        assert_eq!(series("sds-ldap", "found"), 2, "{trouble:?}");
        assert_eq!(series("sds-api", "found"), 0, "{trouble:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_of_ours_is_not_put_to_the_second_source() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, gp()).await;
    registry.sds.set(None, SdsFault::Status(400));
    let refused = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_of_the_api_is_settled_by_the_server_behind_it() {
    let ours = Ours::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, Records::default()).await;
    let found = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT, "the API was falsely empty");
    let refused = registry.practice(&directory, "Z99009", SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown, "both say so");
    assert_eq!(registry.asked(), 2, "and the API is not asked twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_are_gone_what_was_seen_is_served() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let (mut registry, directory) = beside_an_api(&ours, &slapd, gp()).await;
    registry.practice(&directory, ODS, SLOT).await.unwrap();
    registry.rests(&directory).await;
    registry.closes().await;
    slapd.stop();
    registry.later_s(2 * 60 * 60);
    assert!(registry.practice(&directory, ODS, SLOT).await.is_ok());
    let refused = registry.practice(&directory, "Z99009", SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_tells_half_is_no_better_than_one_that_tells_nothing() {
    let ours = Ours::new();
    let mut records = gp();
    // The API has a 500 of its own for systems with two clients, and for good.
    records.accredited[0].clients = vec!["Z99001".to_owned(), "Z99005".to_owned()];
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, records).await;
    let found = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_one_though_the_second_source_is_gone() {
    let ours = Ours::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let mut half = gp();
    half.accredited.clear();
    let (registry, _) = beside_an_api(&ours, &slapd, half).await;
    slapd.stop();
    // The API knows of handlers and of no system: a fall-back stands in for no answer, and this is one.
    let fall_back = format!(
        "[[provider]]\nods = \"{ODS}\"\nasid = \"918999198111\"\nparty-key = \"Z99001-2\"\n\
         cpa-id = \"S1\"\nroot = \"{ROOT}\"\ninteractions = [\"appointments\"]\n\
         used = \"when-sources-fail\"\n"
    );
    let directory = registry.directory(&fall_back);
    for _ in 0..2 {
        let refused = registry.practice(&directory, ODS, SLOT).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
    registry.sds.set(None, SdsFault::Status(503));
    let directory = registry.directory(&fall_back);
    let found = registry.practice(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().asid.as_str(), "918999198111", "no source answers at all");
}
