//! An LDAP server as the second source, after the FHIR API.

use gpconnect_simulator::sds::{Records, SdsFault};
use spine_proxy::directory::Directory;
use spine_proxy::refusal::Refusal;

use super::{LdapPki, ODS, ROOT, SLOT, gp};
use testkit::sds::Registry;
use testkit::slapd::SlapdProcess;

/// Returns a directory that queries the FHIR API first and then this LDAP server.
async fn beside_an_api(
    ours: &LdapPki,
    slapd: &SlapdProcess,
    records: Records,
) -> (Registry, Directory) {
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
async fn the_second_source_is_used_when_the_first_fails() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    for trouble in [
        SdsFault::Status(503),
        SdsFault::NoResponse,
        SdsFault::TooManyRequests(None),
        SdsFault::Status(401),
    ] {
        let (registry, directory) = beside_an_api(&ours, &slapd, gp()).await;
        registry.sds.set(None, trouble.clone());
        let found = registry.look_up(&directory, ODS, SLOT).await;
        assert_eq!(found.unwrap().root.as_str(), ROOT, "{trouble:?}");
        let series = |source, outcome| {
            registry.metric(&format!(
                "directory_source_queries_total{{outcome=\"{outcome}\",question=\"handlers\",source=\"{source}\"}}"
            ))
        };
        registry.wait_until_idle(&directory).await;
        assert_eq!(series("sds-ldap", "found"), 2, "{trouble:?}");
        assert_eq!(series("sds-api", "found"), 0, "{trouble:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_query_is_not_sent_to_the_second_source() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, gp()).await;
    registry.sds.set(None, SdsFault::Status(400));
    let refused = registry.look_up(&directory, ODS, SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_of_the_api_is_checked_at_the_ldap_server() {
    let ours = LdapPki::new();
    let Some(slapd) = ours.slapd(gp().to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, Records::default()).await;
    let found = registry.look_up(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT, "the API was falsely empty");
    let refused = registry.look_up(&directory, "Z99009", SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::PracticeUnknown, "both say so");
    assert_eq!(registry.query_count(), 2, "and the API is not asked twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_entries_are_served_when_both_sources_are_down() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let (mut registry, directory) = beside_an_api(&ours, &slapd, gp()).await;
    registry.look_up(&directory, ODS, SLOT).await.unwrap();
    registry.wait_until_idle(&directory).await;
    registry.stop().await;
    slapd.stop();
    registry.set_clock_ahead_s(2 * 60 * 60);
    assert!(registry.look_up(&directory, ODS, SLOT).await.is_ok());
    let refused = registry.look_up(&directory, "Z99009", SLOT).await;
    assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_answers_half_of_a_look_up_counts_as_failed() {
    let ours = LdapPki::new();
    let mut records = gp();
    // The API answers 500 for systems with two clients, always.
    records.accredited[0].clients = vec!["Z99001".to_owned(), "Z99005".to_owned()];
    let Some(slapd) = ours.slapd(records.to_ldif()) else { return };
    let (registry, directory) = beside_an_api(&ours, &slapd, records).await;
    let found = registry.look_up(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().root.as_str(), ROOT);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_an_answer_when_the_second_source_is_down() {
    let ours = LdapPki::new();
    let Some(mut slapd) = ours.slapd(gp().to_ldif()) else { return };
    let mut half = gp();
    half.accredited.clear();
    let (registry, _) = beside_an_api(&ours, &slapd, half).await;
    slapd.stop();
    // The API has the handlers and no system. That is an answer, so the fall-back is not used.
    let fall_back = format!(
        "[[provider]]\nods = \"{ODS}\"\nasid = \"918999198111\"\nparty-key = \"Z99001-2\"\n\
         cpa-id = \"S1\"\nroot = \"{ROOT}\"\ninteractions = [\"appointments\"]\n\
         used = \"when-sources-fail\"\n"
    );
    let directory = registry.directory(&fall_back);
    for _ in 0..2 {
        let refused = registry.look_up(&directory, ODS, SLOT).await;
        assert_eq!(refused.unwrap_err(), Refusal::DirectoryUnavailable);
    }
    registry.sds.set(None, SdsFault::Status(503));
    let directory = registry.directory(&fall_back);
    let found = registry.look_up(&directory, ODS, SLOT).await;
    assert_eq!(found.unwrap().asid.as_str(), "918999198111", "no source answers at all");
}
