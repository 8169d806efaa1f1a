//! Checkpoints that are forged, replaced, cut or in doubt: their keys, times, witnesses and files.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use audit_journal::note::{Checkpoint, CheckpointSigner, SignedNote, VerifierKey};
use audit_journal::{
    CheckpointSettings, Journal, SigningState,
    Verdict::{Contradiction, NotProven, Proven},
    Verified, VerifyWith, prove,
};

use crate::fixture::*;

// Checkpoints.

/// Puts a note into the folder, and gives it by file; returns what is found each time.
fn with_note(journal: &TestJournal, note: &SignedNote) -> [Verified; 2] {
    let given = journal.verified(&journal.with_key(vec![journal.note_file(note)]));
    let last = note_files(&journal.path()).pop().unwrap();
    store(&last, std::slice::from_ref(note));
    [given, journal.by_key()]
}

#[tokio::test]
async fn a_checkpoint_signed_by_another_key_is_ignored_and_counted() {
    let journal = TestJournal::written().await;
    let note = signed(&other_signer(ORIGIN), other_head(journal.size()), EARLY_S);
    for found in with_note(&journal, &note) {
        expect(&found, Proven, "");
        assert_eq!(found.proof.ignored, BTreeMap::from([(ORIGIN.to_owned(), 1)]));
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_checkpoint_with_a_changed_signature_is_forged() {
    let journal = TestJournal::written().await;
    let note = with_a_wrong_signature(&journal.note(journal.size(), EARLY_S));
    let says =
        format!("a checkpoint of {} lines has a wrong signature of {ORIGIN}", journal.size());
    for found in with_note(&journal, &note) {
        expect(&found, Contradiction, &says);
        assert_eq!(found.proof.lines, journal.size(), "the others prove the lines");
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_checkpoint_of_another_journal_is_ignored_and_counted() {
    let journal = TestJournal::written().await;
    let origin = "gw2.example.nhs.uk/audit/1";
    let other = CheckpointSigner::from_pkcs8_pem(&journal.pems[0], origin).unwrap();
    let note = signed(&other, other_head(journal.size()), EARLY_S);
    for found in with_note(&journal, &note) {
        expect(&found, Proven, "");
        assert_eq!(found.proof.ignored, BTreeMap::from([(origin.to_owned(), 1)]));
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_checkpoint_that_proves_nothing_does_not_stand_in_the_way_of_a_proof() {
    let journal = TestJournal::written().await;
    let (id, first) = (journal.id(1), note_files(&journal.path()).remove(0));
    let size = seq(&lines(&journal.segments()[1])[8]);
    let forged = signed(&other_signer(ORIGIN), other_head(size - 1), EARLY_S);
    let other = signed(&other_signer("gw2.example.nhs.uk/audit/1"), other_head(size - 1), EARLY_S);
    for note in [forged, other] {
        let journal = journal.cloned();
        store(&journal.path().join(first.file_name().unwrap()), &[note]);
        let checked = prove(&journal.path(), &id).unwrap().check(&[journal.key()]).unwrap();
        assert!(checked.iter().all(|line| line.signed.len() == 2), "{checked:?}");
    }
}

#[tokio::test]
async fn two_signed_checkpoints_of_one_size_that_disagree_are_shown() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    let note = signed(&journal.signer(), other_head(size), EARLY_S);
    let says = format!("two signed checkpoints of {size} lines disagree");
    for found in with_note(&journal, &note) {
        expect(&found, Contradiction, &says);
        let (_, right) = notes(&journal.path())[0].clone();
        assert!(faults(&found).contains(note.text()) && !faults(&found).contains(right.text()));
    }
    journal.goes_on_unsigned("or another journal was signed with this key").await;
}

// Time.

#[tokio::test]
async fn a_clock_that_was_set_back_between_checkpoints_is_reported() {
    let journal = TestJournal::written().await;
    let times =
        [(29, EARLY_S), (37, EARLY_S + 60), (45, EARLY_S + 30), (journal.size(), EARLY_S + 90)];
    journal.set_notes(&times.map(|(size, at_s)| journal.note(size, at_s)));
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert_eq!((found.proof.clock_set_back, found.proof.gaps), (vec![45], Vec::new()));
    assert_eq!(found.proof.lines, journal.size());
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_long_silence_between_checkpoints_is_reported_unless_the_journal_was_closed() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    // The journal was started anew with line 30.
    for (after, before, is_silent) in [(37, 45, true), (29, 37, false)] {
        let late = EARLY_S + 3600;
        let mut times = vec![(9, EARLY_S), (after, EARLY_S), (before, late), (size, late)];
        times.dedup();
        journal.set_notes(
            &times.iter().map(|(size, at_s)| journal.note(*size, *at_s)).collect::<Vec<_>>(),
        );
        let found = journal.by_key();
        expect(&found, if is_silent { NotProven } else { Proven }, "");
        let gaps: Vec<_> = found.proof.gaps.iter().map(|gap| (gap.after, gap.times)).collect();
        let expected = (after, (EARLY_S, late));
        assert_eq!(gaps, is_silent.then_some(expected).into_iter().collect::<Vec<_>>());
    }
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_silence_that_checkpoints_of_one_size_fill_is_none_in_whatever_order_they_are_read() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    let idle: Vec<_> = (0..6).map(|at| journal.note(size, EARLY_S + 600 * at)).collect();
    journal.set_notes(&idle);
    store(&note_files(&journal.path())[0], &[journal.note(size - 1, EARLY_S)]);
    expect(&journal.by_key(), Proven, "");
    // The newest was kept elsewhere too, and is read before the others.
    let kept = journal.note_file(&idle[5]);
    let found = journal.verified(&journal.with_key(vec![kept]));
    assert_eq!(found.proof.gaps, Vec::new());
    expect(&found, Proven, "");
}

#[tokio::test]
async fn a_checkpoint_whose_time_was_removed_proves_no_time() {
    let journal = TestJournal::written().await;
    let note = journal.note(journal.size(), EARLY_S);
    let (text, last) = (note.to_string(), note.signatures()[1].to_string());
    journal.set_notes(&[text.replace(&format!("{last}\n"), "").parse().unwrap()]);
    let found = journal.by_key();
    assert_eq!((found.proof.lines, found.proof.times), (journal.size(), None));
    expect(&found, NotProven, "");
    journal.goes_on_signed().await;
}

// Keys.

#[tokio::test]
async fn a_rotated_key_proves_the_lines_with_either_and_with_both() {
    let (old, new) = (0, 1);
    let mut journal = TestJournal::with_keys(Vec::from(
        [0; 2].map(|_| CheckpointSigner::generate_pem().unwrap()),
    ));
    let pems = journal.pems.clone();
    journal.pems = vec![pems[old].clone()];
    journal.goes_on_signed_with(6).await;
    journal.pems = pems.clone();
    journal.goes_on_signed_with(6).await;
    let rotated = journal.size();
    journal.pems = vec![pems[new].clone()];
    journal.goes_on_signed_with(6).await;
    journal.pems = pems;
    let keys: Vec<_> = journal.signers().iter().map(|signer| signer.verifier().clone()).collect();
    for (given, proven, verdict) in [
        (vec![&keys[old]], rotated, NotProven),
        (vec![&keys[new]], journal.size(), Proven),
        (vec![&keys[old], &keys[new]], journal.size(), Proven),
    ] {
        let given: Vec<VerifierKey> = given.into_iter().cloned().collect();
        let keys = given.iter().map(ToString::to_string).collect();
        for checkpoints in [Vec::new(), files(&journal.copies())] {
            let with = VerifyWith { keys: given.clone(), checkpoints, ..VerifyWith::default() };
            let found = journal.verified(&with);
            expect(&found, verdict, "");
            assert_eq!((found.proof.lines, &found.proof.keys), (proven, &keys));
            assert_eq!(found.proof.ignored.contains_key(ORIGIN), given.len() == 1);
        }
    }
    let kept: Vec<_> = journal.pems.drain(..).collect();
    journal.pems = vec![kept[new].clone()];
    journal.goes_on_signed().await;
}

// Witnesses.

#[tokio::test]
async fn a_witness_that_was_asked_for_must_have_seen_the_last_line() {
    let journal = TestJournal::written().await;
    let witness = other_signer("trust.example/w1");
    let with = VerifyWith {
        witnesses: vec![witness.verifier().as_cosigner()],
        ..journal.with_key(Vec::new())
    };
    let seen = |found: &Verified| {
        found.proof.witnessed.values().map(|seen| (seen.lines, seen.at_s)).collect::<Vec<_>>()
    };
    let found = journal.verified(&with);
    expect(&found, NotProven, "");
    assert_eq!(seen(&found), [(0, 0)]);
    // Seen up to an earlier line; a signature by another key in its name; seen to the end.
    let kept = notes(&journal.path());
    let (early, late) = (&kept[4], kept.last().unwrap());
    let impostor = other_signer("trust.example/w1");
    for (signer, (size, note), verdict, lines) in [
        (&witness, early, NotProven, early.0),
        (&impostor, late, NotProven, early.0),
        (&witness, late, Proven, journal.size()),
    ] {
        let mut note = note.clone();
        note.add_signatures(vec![cosignature(signer, &note, EARLY_S + size)]).unwrap();
        store(&note_files(&journal.path())[0], &[note]);
        let found = journal.verified(&with);
        expect(&found, verdict, "");
        assert_eq!(seen(&found), [(lines, EARLY_S + lines)]);
    }
    journal.goes_on_signed().await;
    expect(&journal.verified(&with), NotProven, "");
}

#[tokio::test]
async fn a_witness_is_kept_beside_the_checkpoint_that_it_signed() {
    let journal = TestJournal::written().await;
    let witness = other_signer("trust.example/w1");
    let open = journal.open();
    let newest = open.checkpoints().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    open.keep_cosigned(&newest, vec![cosignature(&witness, &newest.note, EARLY_S)]);
    open.stop().await;
    let with = VerifyWith {
        witnesses: vec![witness.verifier().as_cosigner()],
        ..journal.with_key(Vec::new())
    };
    for with in [VerifyWith { checkpoints: files(&journal.copies()), ..with.clone() }, with] {
        let found = journal.verified(&with);
        expect(&found, NotProven, "");
        assert_eq!(found.proof.witnessed["trust.example/w1"].lines, newest.checkpoint.size);
    }
}

// Files with checkpoints.

#[tokio::test]
async fn a_checkpoint_that_a_crash_cut_does_not_hide_later_ones() {
    let journal = TestJournal::written().await;
    let open = journal.open();
    let newest = open.checkpoints().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    let file = journal.path().join(format!("{:020}{CHECKPOINTS}", journal.size()));
    until(|| fs::read(&file).is_ok_and(|text| text.ends_with(b"\n"))).await;
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    // Another checkpoint in this file, besides the one of the end.
    open.keep_cosigned(&newest, vec![cosignature(&other_signer("w1"), &newest.note, EARLY_S)]);
    open.stop().await;
    let found = journal.by_key();
    expect(&found, Proven, "");
    assert_eq!(found.proof.unreadable, 1);
    expect(&journal.by_copies(), Proven, "");
    // The last line of the file may be the one that is cut.
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() - 9]).unwrap();
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert_eq!((found.proof.unreadable, found.proof.lines), (2, newest.checkpoint.size));
    expect(&journal.by_copies(), Proven, "");
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Proven, "");
}

#[tokio::test]
async fn a_first_line_that_is_no_checkpoint_does_not_hide_later_ones() {
    let journal = TestJournal::written().await;
    for first in [&b"\n"[..], b"\0\0\0\n", b"\xff\xfe\n", b"[]\n"] {
        let journal = journal.cloned();
        let file = note_files(&journal.path()).pop().unwrap();
        let text = [first, &fs::read(&file).unwrap()].concat();
        fs::write(&file, text).unwrap();
        expect(&journal.by_key(), Proven, "");
        expect(&journal.by_copies(), Proven, "");
        journal.goes_on_signed().await;
    }
}

#[tokio::test]
async fn a_file_that_holds_no_checkpoints_does_not_hide_a_restored_backup() {
    let backup = TestJournal::written().await;
    let newer = backup.cloned();
    newer.goes_on_signed().await;
    let junk = format!("{:020}{CHECKPOINTS}", u64::MAX);
    for text in [&b"junk"[..], b"\xff\xfe\n", b"{}\n"] {
        let journal = newer.cloned();
        replace_folder(&journal.path(), &backup.path());
        fs::write(journal.copies().join(&junk), text).unwrap();
        expect(&journal.by_copies(), Contradiction, "it was cut");
        journal.goes_on_unsigned("an older copy took its place").await;
    }
}

#[tokio::test]
async fn an_old_checkpoint_in_a_later_file_does_not_hide_a_restored_backup() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    replace_folder(&journal.path(), &backup.path());
    let old = backup.note(9, EARLY_S);
    store(&journal.copies().join(format!("{:020}{CHECKPOINTS}", u64::MAX)), &[old]);
    expect(&journal.by_copies(), Contradiction, "it was cut");
    journal.goes_on_unsigned("an older copy took its place").await;
}

// Comparison at a start.

#[tokio::test]
async fn nothing_is_signed_before_an_unreadable_copy_was_compared() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    let away = journal.folder.path().join("away");
    for is_restored in [false, true] {
        if is_restored {
            replace_folder(&journal.path(), &backup.path());
        }
        // As a mount that is broken.
        fs::rename(journal.copies(), &away).unwrap();
        fs::write(journal.copies(), "").unwrap();
        let notes = notes(&journal.path()).len();
        let open = journal.open();
        assert_eq!(open.signing(), SigningState::Waiting(1));
        open.flush().await.unwrap();
        fs::remove_file(journal.copies()).unwrap();
        fs::rename(&away, journal.copies()).unwrap();
        until(|| !matches!(open.signing(), SigningState::Waiting(_))).await;
        assert_eq!(open.signing() == SigningState::On, !is_restored, "{:?}", open.signing());
        open.stop().await;
        assert_eq!(self::notes(&journal.path()).len() > notes, !is_restored);
    }
}

#[tokio::test]
async fn nothing_is_signed_before_all_witnesses_have_agreed() {
    let journal = TestJournal::written().await;
    let notes = journal.all_notes();
    let mut settings = journal.settings();
    settings.checkpoints = CheckpointSettings::new(
        journal.signers(),
        Duration::from_secs(3600),
        vec![journal.copies()],
        2,
    );
    let open = Journal::open(settings, Arc::clone(&journal.damages) as _).unwrap();
    assert_eq!(open.signing(), SigningState::Waiting(2));
    let empty = open.empty_checkpoint().unwrap();
    assert!(empty.verified_by(&journal.key()).unwrap().is_some());
    assert_eq!(empty.text().parse::<Checkpoint>().unwrap().size, 0);
    open.agreed();
    open.flush().await.unwrap();
    assert_eq!((open.signing(), journal.all_notes()), (SigningState::Waiting(1), notes));
    open.agreed();
    assert_eq!(open.signing(), SigningState::On);
    open.stop().await;
    assert!(journal.all_notes() > notes);
}

#[tokio::test]
async fn a_copy_that_is_older_than_the_journals_first_line_is_no_contradiction() {
    let journal = TestJournal::written().await;
    let stale = journal.note(1, EARLY_S);
    remove_notes(&journal.copies(), |_| true);
    store(&journal.copies().join(format!("{:020}{CHECKPOINTS}", 1)), &[stale]);
    // Old segments are deleted, as they are once they are archived.
    for _ in 0..3 {
        journal.remove_segment(0, true);
    }
    let unsigned = journal.cloned();
    journal.goes_on_signed().await;
    // Without a later checkpoint beside the journal, nothing shows that its lines are those that were signed.
    remove_notes(&unsigned.path(), |_| true);
    unsigned.goes_on_unsigned("begins after the 1 lines of the newest checkpoint").await;
}

#[tokio::test]
async fn a_checkpoint_is_signed_as_soon_as_the_last_witness_has_agreed() {
    let journal = TestJournal::written().await;
    let mut settings = journal.settings();
    let every = Duration::from_secs(3600);
    settings.checkpoints = CheckpointSettings::new(journal.signers(), every, Vec::new(), 1);
    let open = Journal::open(settings, Arc::clone(&journal.damages) as _).unwrap();
    open.flush().await.unwrap();
    let mut newest = open.checkpoints();
    assert!(newest.borrow().is_none());
    open.agreed();
    // Long before the next one would be due.
    newest.wait_for(Option::is_some).await.unwrap();
    open.stop().await;
}
