use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::RegistrationCache;
use super::*;
use crate::directory::sources::AccreditedSystem;
use spine_types::interaction::by_id;

const NOW_S: i64 = 1_800_000_000;
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
static DEFAULTS: LazyLock<Freshness> = LazyLock::new(Freshness::default);

fn interaction(name: &str) -> &'static Interaction {
    by_id(&format!("urn:nhs:names:services:gpconnect:fhir:rest:{name}")).unwrap()
}

fn slots() -> &'static Interaction {
    interaction("search:slot-1")
}

fn booking() -> &'static Interaction {
    interaction("create:appointment-1")
}

/// The default rules, so many seconds after the first answer.
fn after(seconds: i64) -> FreshnessRules<'static> {
    FreshnessRules { freshness: &DEFAULTS, now_s: NOW_S + seconds }
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

fn cached() -> CachedPractice {
    CachedPractice::default().after_found(slots(), &found(vec![one()]), after(0), 1)
}

fn sender_stamp() -> AnswerStamp {
    AnswerStamp { answered_s: NOW_S, origin: Origin::SdsLdap, mark: AgeMark::None, number: 1 }
}

#[test]
fn an_answer_ages_as_the_settings_say() {
    let practice = cached();
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
        let age = practice.age(slots(), after(minutes * MINUTE));
        assert_eq!(age, Some(expected), "after {minutes} minutes");
    }
    assert_eq!(practice.age(interaction("read:patient-1"), after(0)), None);
}

#[test]
fn a_sender_is_never_stale_and_an_hour_later_dead() {
    for (age_s, expected) in [
        (-1, Age::Dead),
        (0, Age::Fresh),
        (299, Age::Fresh),
        (300, Age::Old),
        (3599, Age::Old),
        (3600, Age::Dead),
        (86_400, Age::Dead),
    ] {
        assert_eq!(after(age_s).sender_age(&sender_stamp()), expected, "after {age_s} s");
    }
    let freshness = Freshness { sender_max: Duration::from_secs(60), ..Freshness::default() };
    let rules = FreshnessRules { freshness: &freshness, now_s: NOW_S + 59 };
    assert_eq!(rules.sender_age(&sender_stamp()), Age::Fresh, "a short `sender-max` shortens both");
    let rules = FreshnessRules { now_s: NOW_S + 60, ..rules };
    assert_eq!(rules.sender_age(&sender_stamp()), Age::Dead);
}

#[test]
fn a_marked_entry_is_older_than_it_is_and_never_younger() {
    let limits = after(0).provider_limits();
    for (mark, young, old) in [
        (AgeMark::None, Age::Fresh, Age::Old),
        (AgeMark::Loaded, Age::Stale, Age::Old),
        (AgeMark::Flushed { from_s: NOW_S }, Age::Old, Age::Old),
    ] {
        let stamp = AnswerStamp { mark, ..sender_stamp() };
        assert_eq!(stamp.age(limits, NOW_S), young);
        assert_eq!(stamp.age(limits, NOW_S + 61 * MINUTE), old);
        assert_eq!(stamp.age(limits, NOW_S + 24 * HOUR), Age::Dead);
    }
}

#[test]
fn an_answer_of_another_gateway_is_newer_if_it_is_by_more_than_clocks_differ() {
    let practice = cached();
    let marked = |mark| {
        let rows = practice.rows.iter().cloned().map(|mut row| {
            row.stamp.mark = mark;
            row
        });
        practice.with(rows.collect())
    };
    let flushed = practice.flushed(NOW_S + MINUTE);
    let doubted = practice.after_absent(slots(), after(MINUTE), 2);
    for (practice, newer_from_s) in [
        (&practice, 6),
        (&doubted, MINUTE + 6),
        (&flushed, MINUTE + 6),
        (&marked(AgeMark::Loaded), 0),
        // The answer by which the practice has moved is of this time too.
        (&marked(AgeMark::Flushed { from_s: NOW_S + MINUTE }), MINUTE),
    ] {
        let is_newer = |seconds| practice.is_before(slots(), NOW_S + seconds);
        assert_eq!((is_newer(newer_from_s - 1), is_newer(newer_from_s)), (false, true));
    }
    assert!(CachedPractice::default().is_before(slots(), NOW_S), "nothing is known");
}

#[test]
fn an_entry_is_used_by_its_age_and_by_what_confirms_it() {
    let (practice, read, write) = (cached(), RegistrationUse::Confirmed, RegistrationUse::Trusted);
    let old = |refresh, unanswered| Usability::Old { refresh, unanswered };
    let doubted = practice.after_absent(slots(), after(20 * MINUTE), 2);
    for (practice, intended, seconds, expected) in [
        (&practice, read, 0, Usability::Fresh),
        (&practice, write, 0, Usability::Fresh),
        (&practice, read, 20 * MINUTE, Usability::Stale { refresh: true }),
        (&practice, write, 20 * MINUTE, old(true, OldEntryUse::Served)),
        (&practice, read, 2 * HOUR, old(true, OldEntryUse::Served)),
        (&practice, write, 2 * HOUR, old(true, OldEntryUse::TooOld)),
        (&practice, read, 12 * HOUR, Usability::Missing),
        (&doubted, read, 20 * MINUTE + 59, Usability::Stale { refresh: false }),
        (&doubted, write, 20 * MINUTE + 59, old(false, OldEntryUse::Doubted)),
        (&doubted, read, 21 * MINUTE, Usability::Stale { refresh: true }),
    ] {
        let usability = practice.usability(slots(), intended, after(seconds));
        assert_eq!(usability, expected, "{intended:?} after {seconds} s");
    }
    assert_eq!(practice.usability(booking(), read, after(0)), Usability::Missing);
}

#[test]
fn one_denial_is_doubted_and_a_second_a_minute_later_believed() {
    let doubted = cached().after_absent(slots(), after(10), 2);
    assert_eq!(doubted.rows.len(), 1);
    assert!(doubted.rests(slots(), after(69)), "and not asked about meanwhile");
    assert!(!doubted.rests(slots(), after(70)));
    assert_eq!(doubted.after_absent(slots(), after(69), 3).rows.len(), 1);
    assert!(doubted.after_absent(slots(), after(70), 3).rows.is_empty());
    let again = doubted.after_found(slots(), &found(vec![one()]), after(70), 3);
    assert_eq!(again.rows[0].doubt, None, "a good answer ends the doubt");
}

#[test]
fn an_answer_that_becomes_ambiguous_does_not_replace_a_good_one_at_once() {
    let both = found(vec![one(), other()]);
    let kept = cached().after_found(slots(), &both, after(10), 2);
    assert_eq!(kept.rows.len(), 1);
    let fresh = CachedPractice::default().after_found(slots(), &both, after(0), 1);
    assert_eq!(fresh.rows.len(), 2);
    assert_eq!(fresh.age(slots(), after(31)), Some(Age::Stale), "asked again soon");
}

#[test]
fn when_a_practice_moves_its_old_registrations_are_refreshed_first() {
    let both = [one(), provider("918999198993", "K-10001", booking())];
    let old = cached().after_others(&found(vec![one()]), &both, after(0), 1);
    assert_eq!(old.rows.len(), 2);
    let new = old.after_found(slots(), &found(vec![other()]), after(10), 2);
    assert_eq!(new.rows_for(slots()).count(), 1);
    assert_eq!(new.age(slots(), after(10)), Some(Age::Fresh));
    assert_eq!(new.age(booking(), after(10)), Some(Age::Old));
}

#[test]
fn an_interaction_that_its_system_no_longer_has_is_doubted() {
    let both = [one(), provider("918999198993", "K-10001", booking())];
    let old = cached().after_others(&found(vec![one()]), &both, after(0), 1);
    let now = old.after_found(slots(), &found(vec![one()]), after(900), 2);
    let now = now.after_others(&found(vec![one()]), &[one()], after(900), 2);
    let doubted_s = |row: &CachedRegistration| row.doubt.map(|doubt| doubt.first_s);
    assert!(now.rows_for(booking()).all(|row| doubted_s(row) == Some(NOW_S + 900)));
    assert!(now.rows_for(slots()).all(|row| row.doubt.is_none()));
}

#[test]
fn the_other_interactions_of_one_system_do_not_hide_another_system() {
    let theirs = found(vec![provider("918999198777", "K-20002", booking())]);
    let practice = CachedPractice::default().after_found(booking(), &theirs, after(0), 1);
    let ours = [one(), provider("918999198993", "K-10001", booking())];
    let practice = practice.after_found(slots(), &found(vec![one()]), after(0), 2);
    let practice = practice.after_others(&found(vec![one()]), &ours, after(0), 2);
    assert_eq!(practice.rows_for(booking()).count(), 2, "two systems are an ambiguity");
}

#[test]
fn a_practice_in_use_is_due_before_it_grows_stale_and_at_most_once_a_minute() {
    let cache = RegistrationCache::new(Freshness::default());
    let ods = "A20047".parse().unwrap();
    let (answered, practice) = (found(vec![one()]), CachedPractice::default());
    let practice = practice.after_found(slots(), &answered, after(0), 1);
    cache.insert_practice(&ods, practice);
    assert_eq!(cache.take_due(NOW_S + 13 * MINUTE), None, "nobody uses it");
    cache.practice(&ods).used(NOW_S);
    assert_eq!(cache.take_due(NOW_S + 11 * MINUTE), None, "not yet");
    assert_eq!(cache.take_due(NOW_S + 13 * MINUTE), Some((ods, slots())));
    assert_eq!(cache.take_due(NOW_S + 13 * MINUTE + 59), None);
    assert!(cache.take_due(NOW_S + 14 * MINUTE).is_some(), "the refresh failed");
    assert_eq!(cache.take_due(NOW_S + 61 * MINUTE), None, "not used for an hour");
}

/// An event of a practice's cached entry.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The directory answers with the first system, the other, both, or neither.
    Answer(bool, bool),
    /// The directory answers for the other interactions of the first system, which has booking or not.
    Others(bool),
    Flush,
    /// So many seconds pass; a clock may be set back.
    Wait(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(one, other)| Event::Answer(one, other)),
        any::<bool>().prop_map(Event::Others),
        Just(Event::Flush),
        (-HOUR..13 * HOUR).prop_map(Event::Wait),
        (0..90_i64).prop_map(Event::Wait),
    ]
}

/// Applies an event; returns the entry and the time afterwards.
fn apply(
    practice: &CachedPractice,
    event: Event,
    now_s: i64,
    number: u64,
) -> (CachedPractice, i64) {
    let rules = FreshnessRules { freshness: &DEFAULTS, now_s };
    let same = || practice.with(practice.rows.clone());
    match event {
        Event::Answer(false, false) => (practice.after_absent(slots(), rules, number), now_s),
        Event::Answer(has_one, has_other) => {
            let providers = [has_one.then(one), has_other.then(other)];
            let answer = found(providers.into_iter().flatten().collect());
            (practice.after_found(slots(), &answer, rules, number), now_s)
        }
        Event::Others(has_booking) => {
            let booking = has_booking.then(|| provider("918999198993", "K-10001", booking()));
            let others: Vec<_> = [one()].into_iter().chain(booking).collect();
            (practice.after_others(&found(vec![one()]), &others, rules, number), now_s)
        }
        Event::Flush => (practice.flushed(now_s), now_s),
        Event::Wait(seconds) => (same(), now_s + seconds),
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_of_freshness_hold(events in prop::collection::vec(event(), 1..40)) {
        let (mut practice, mut now_s) = (CachedPractice::default(), NOW_S);
        for (event, number) in events.into_iter().zip(1..) {
            let (next, next_s) = apply(&practice, event, now_s, number);
            let rules = FreshnessRules { freshness: &DEFAULTS, now_s: next_s };
            for row in &next.rows {
                let age_s = next_s - row.stamp.answered_s;
                let age = row.stamp.age(rules.provider_limits(), next_s);
                // No answer is served from the future, or once `provider-max` is over.
                prop_assert_eq!(age == Age::Dead, !(0..12 * HOUR).contains(&age_s));
                // Only an answer makes an entry younger.
                let before = practice.rows.iter().find(|old| old.provider == row.provider);
                if row.stamp.number != number {
                    prop_assert_eq!(before.map(|old| old.stamp.answered_s), Some(row.stamp.answered_s));
                }
            }
            for interaction in [slots(), booking()] {
                let confirmed = next.usability(interaction, RegistrationUse::Confirmed, rules);
                let trusted = next.usability(interaction, RegistrationUse::Trusted, rules);
                // A write by ODS code is never served what is stale or doubted without a refresh.
                let is_stale = matches!(trusted, Usability::Stale { .. });
                prop_assert!(!is_stale);
                let may_serve = trusted == Usability::Fresh
                    || matches!(trusted, Usability::Old { unanswered: OldEntryUse::Served, .. });
                prop_assert!(!(may_serve && next.is_doubted(interaction)));
                prop_assert!(!may_serve || next.age_s(interaction, next_s) < 3600);
                // What a write may use, a confirmed request may use.
                prop_assert!(confirmed != Usability::Missing || trusted == Usability::Missing);
            }
            match event {
                // One denial removes nothing that may be served; it takes a second, a minute later.
                Event::Answer(false, false) => {
                    for old in practice.rows_for(slots()) {
                        let is_kept = next.rows.iter().any(|row| row.provider == old.provider);
                        let was_doubted = old.doubt.is_some_and(|doubt| next_s - doubt.first_s >= 60);
                        let was_dead = old.stamp.age(rules.provider_limits(), next_s) == Age::Dead;
                        prop_assert_eq!(is_kept, !was_doubted && !was_dead);
                    }
                }
                // A single registration is served at once, and it alone.
                Event::Answer(has_one, has_other) if has_one != has_other => {
                    prop_assert_eq!(next.rows_for(slots()).count(), 1);
                    prop_assert_eq!(next.age(slots(), rules), Some(Age::Fresh));
                    prop_assert!(next.is_answered_after(slots(), number - 1));
                }
                Event::Flush => {
                    let ages = [slots(), booking()].map(|of| next.age(of, rules));
                    prop_assert!(ages.iter().flatten().all(|age| *age >= Age::Old));
                }
                Event::Answer(..) | Event::Others(_) | Event::Wait(_) => {}
            }
            (practice, now_s) = (next, next_s);
        }
    }
}
