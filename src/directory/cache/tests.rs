use super::super::source::AccreditedSystem;
use super::*;
use spine_types::interaction::by_id;

const NOW_S: i64 = 1_800_000_000;
const MINUTE: i64 = 60;

fn interaction(name: &str) -> &'static Interaction {
    by_id(&format!("urn:nhs:names:services:gpconnect:fhir:rest:{name}")).unwrap()
}

fn slots() -> &'static Interaction {
    interaction("search:slot-1")
}

fn provider(asid: &str, party_key: &str, of: &'static Interaction) -> Arc<ProviderRegistration> {
    let root = format!("https://{}.nhs.uk/A20047", party_key.to_lowercase());
    Arc::new(ProviderRegistration::new(
        "A20047".parse().unwrap(),
        asid.parse().unwrap(),
        party_key.parse().unwrap(),
        "S1".parse().unwrap(),
        root.parse().unwrap(),
        vec![of],
    ))
}

fn found(providers: Vec<Arc<ProviderRegistration>>) -> FoundRegistrations {
    let system = |provider: &Arc<ProviderRegistration>| AccreditedSystem {
        asid: provider.asid.clone(),
        ods: None,
        party_key: provider.party_key.clone(),
        interactions: provider.interactions.clone(),
    };
    let systems = providers.iter().map(system).collect();
    FoundRegistrations { origin: Origin::SdsApi, providers, systems }
}

fn one() -> Arc<ProviderRegistration> {
    provider("918999198993", "K-10001", slots())
}

fn other() -> Arc<ProviderRegistration> {
    provider("918999198777", "K-20002", slots())
}

fn held(freshness: &Freshness) -> HeldPractice {
    HeldPractice::default().after_found(slots(), &found(vec![one()]), freshness, NOW_S)
}

#[test]
fn an_answer_ages_as_the_table_says() {
    let freshness = Freshness::default();
    let practice = held(&freshness);
    let age = |minutes: i64| practice.age(slots(), &freshness, NOW_S + minutes * MINUTE);
    for (minutes, expected) in [
        (-1, Age::Dead),
        (0, Age::Fresh),
        (13, Age::Fresh),
        (17, Age::Stale),
        (58, Age::Stale),
        (62, Age::Old),
        (719, Age::Old),
        (720, Age::Dead),
    ] {
        assert_eq!(age(minutes), Some(expected), "after {minutes} minutes");
    }
    assert_eq!(practice.age(interaction("read:patient-1"), &freshness, NOW_S), None);
}

#[test]
fn a_sender_is_never_stale_and_a_day_later_nobody() {
    let windows = Freshness::default().sender_windows();
    let since = Since::now(NOW_S, Origin::SdsLdap);
    for (age_s, expected) in [
        (0, Age::Fresh),
        (299, Age::Fresh),
        (300, Age::Old),
        (3599, Age::Old),
        (3600, Age::Dead),
        (86_400, Age::Dead),
    ] {
        assert_eq!(since.age(windows, NOW_S + age_s), expected, "after {age_s} s");
    }
}

#[test]
fn what_is_marked_is_older_than_it_is_and_never_younger() {
    let windows = Freshness::default().provider_windows();
    for (mark, young, old) in [
        (Mark::None, Age::Fresh, Age::Old),
        (Mark::Loaded, Age::Stale, Age::Old),
        (Mark::Flushed, Age::Old, Age::Old),
    ] {
        let since = Since { mark, ..Since::now(NOW_S, Origin::SdsApi) };
        assert_eq!(since.age(windows, NOW_S), young);
        assert_eq!(since.age(windows, NOW_S + 61 * MINUTE), old);
        assert_eq!(since.age(windows, NOW_S + 24 * 60 * MINUTE), Age::Dead);
    }
}

#[test]
fn one_denial_is_doubted_and_a_second_a_minute_later_believed() {
    let freshness = Freshness::default();
    let doubted = held(&freshness).doubting(slots(), &freshness, NOW_S + 10);
    assert_eq!(doubted.rows.len(), 1);
    assert!(doubted.rests(slots(), &freshness, NOW_S + 69), "and not asked about meanwhile");
    assert!(!doubted.rests(slots(), &freshness, NOW_S + 70));
    assert_eq!(doubted.doubting(slots(), &freshness, NOW_S + 69).rows.len(), 1);
    assert!(doubted.doubting(slots(), &freshness, NOW_S + 70).rows.is_empty());
    let again = doubted.after_found(slots(), &found(vec![one()]), &freshness, NOW_S + 70);
    assert_eq!(again.rows[0].doubted_s, None, "a good answer ends the doubt");
}

#[test]
fn an_answer_that_becomes_ambiguous_does_not_replace_a_good_one_at_once() {
    let freshness = Freshness::default();
    let both = found(vec![one(), other()]);
    let kept = held(&freshness).after_found(slots(), &both, &freshness, NOW_S + 10);
    assert_eq!(kept.rows.len(), 1);
    let fresh = HeldPractice::default().after_found(slots(), &both, &freshness, NOW_S);
    assert_eq!(fresh.rows.len(), 2);
    assert_eq!(fresh.age(slots(), &freshness, NOW_S + 31), Some(Age::Stale), "asked again soon");
}

#[test]
fn when_a_practice_moves_its_old_registrations_are_asked_for_first() {
    let freshness = Freshness::default();
    let booking = interaction("create:appointment-1");
    let old = held(&freshness).after_rest(
        &found(vec![one()]),
        &[one(), provider("918999198993", "K-10001", booking)],
        &freshness,
        NOW_S,
    );
    assert_eq!(old.rows.len(), 2);
    let new = old.after_found(slots(), &found(vec![other()]), &freshness, NOW_S + 10);
    assert_eq!(new.rows_for(slots()).count(), 1);
    assert_eq!(new.age(slots(), &freshness, NOW_S + 10), Some(Age::Fresh));
    assert_eq!(new.age(booking, &freshness, NOW_S + 10), Some(Age::Old));
}

#[test]
fn what_the_rest_no_longer_holds_is_doubted() {
    let freshness = Freshness::default();
    let booking = interaction("create:appointment-1");
    let both = [one(), provider("918999198993", "K-10001", booking)];
    let old = held(&freshness).after_rest(&found(vec![one()]), &both, &freshness, NOW_S);
    let now = old.after_found(slots(), &found(vec![one()]), &freshness, NOW_S + 900);
    let now = now.after_rest(&found(vec![one()]), &[one()], &freshness, NOW_S + 900);
    assert!(now.rows_for(booking).all(|row| row.doubted_s == Some(NOW_S + 900)));
    assert!(now.rows_for(slots()).all(|row| row.doubted_s.is_none()));
}

#[test]
fn the_rest_of_one_system_does_not_hide_another_system() {
    let freshness = Freshness::default();
    let booking = interaction("create:appointment-1");
    let theirs = provider("918999198777", "K-20002", booking);
    let held = HeldPractice::default().after_found(
        booking,
        &found(vec![Arc::clone(&theirs)]),
        &freshness,
        NOW_S,
    );
    let ours = [one(), provider("918999198993", "K-10001", booking)];
    let held = held.after_found(slots(), &found(vec![one()]), &freshness, NOW_S);
    let held = held.after_rest(&found(vec![one()]), &ours, &freshness, NOW_S);
    assert_eq!(held.rows_for(booking).count(), 2, "two systems are an ambiguity");
}
