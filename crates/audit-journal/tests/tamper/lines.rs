//! Changes of lines, segments, indexes and whole folders.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use audit_journal::tree::{Frontier, TreeHash};
use audit_journal::{
    ChainHead,
    Verdict::{Contradiction, NotProven, Proven},
    VerifyWith, prove,
};
use redb::{Database, TableDefinition};

use crate::fixture::*;

#[tokio::test]
async fn an_untouched_journal_is_proven_by_its_key_over_restarts() {
    let journal = TestJournal::new();
    for _ in 0..3 {
        journal.goes_on_signed_with(12).await;
    }
    let found = journal.by_key();
    expect(&found, Proven, "");
    assert!(found.segments > 8 && found.lines > 72, "{found:?}");
    assert_eq!(found.proof.lines, found.lines);
    expect(&journal.by_copies(), Proven, "");
    expect(&journal.verified(&VerifyWith::default()), NotProven, "");
    assert_eq!(journal.damages.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_written_journal_has_the_segments_that_the_tests_speak_of() {
    let journal = TestJournal::written().await;
    let counts: Vec<_> = journal.segments().iter().map(|segment| lines(segment).len()).collect();
    assert!(counts.len() == LAST + 1 && counts[LAST] > 4 && counts[LAST - 1] > 6, "{counts:?}");
    expect(&journal.by_key(), Proven, "");
    journal.goes_on_signed().await;
    expect(&journal.by_copies(), Proven, "");
}

// A line.

#[tokio::test]
async fn a_byte_changed_in_a_line_is_found_by_verification() {
    let journal = TestJournal::written().await;
    journal.change_lines(1, |lines| falsify(&mut lines[2]));
    let says = "line 3: seq 12 is not as it was written";
    expect(&journal.by_key(), Contradiction, says);
    expect(&journal.by_copies(), Contradiction, says);
    expect(&journal.verified(&VerifyWith::default()), Contradiction, says);
    // A start reads the last segment only.
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Contradiction, says);
}

#[tokio::test]
async fn a_byte_changed_in_the_last_segment_is_found_by_the_next_start_too() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| falsify(&mut lines[2]));
    expect(&journal.by_key(), Contradiction, "is not as it was written");
    expect(&journal.by_copies(), Contradiction, "is not as it was written");
    // The chain values, and so the tree, are still those that were signed.
    journal.goes_on_signed().await;
    assert_eq!(journal.damages.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_chain_value_changed_in_the_last_segment_stops_the_signing() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| {
        let value = link(&lines[2]).to_string();
        lines[2] = lines[2].replace(&value, &"0".repeat(64));
    });
    expect(&journal.by_key(), Contradiction, "is not as it was written");
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
    journal.goes_on_unsigned("they were rewritten").await;
    assert!(journal.damages.0.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_removed_line_is_missing() {
    let journal = TestJournal::written().await;
    journal.change_lines(1, |lines| drop(lines.remove(2)));
    expect(&journal.by_key(), Contradiction, "seq 12 is missing before it");
    expect(&journal.by_copies(), Contradiction, "seq 12 is missing before it");
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Contradiction, "seq 12 is missing before it");
}

#[tokio::test]
async fn a_line_removed_from_the_last_segment_stops_the_signing() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| drop(lines.remove(2)));
    expect(&journal.by_key(), Contradiction, "is missing before it");
    expect(&journal.by_copies(), Contradiction, "is missing before it");
    journal.goes_on_unsigned("is damaged").await;
}

#[tokio::test]
async fn two_swapped_lines_are_displaced() {
    let journal = TestJournal::written().await;
    journal.change_lines(1, |lines| lines.swap(2, 3));
    expect(&journal.by_key(), Contradiction, "seq 12 was moved behind seq 13");
    expect(&journal.by_copies(), Contradiction, "seq 12 was moved behind seq 13");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn two_lines_swapped_in_the_last_segment_stop_the_signing() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| lines.swap(2, 3));
    expect(&journal.by_key(), Contradiction, "was moved behind");
    expect(&journal.by_copies(), Contradiction, "was moved behind");
    journal.goes_on_unsigned("is damaged").await;
}

#[tokio::test]
async fn a_segment_whose_end_is_cut_misses_lines() {
    let journal = TestJournal::written().await;
    let path = &journal.segments()[1];
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() - 700]).unwrap();
    let found = journal.by_key();
    expect(&found, Contradiction, "seq 17 to 18 are missing before it");
    assert!(faults(&found).contains("bytes of an incomplete line that no start recorded"));
    expect(&journal.by_copies(), Contradiction, "seq 17 to 18 are missing before it");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_last_segment_whose_end_is_cut_contradicts_the_checkpoints() {
    let journal = TestJournal::written().await;
    let (path, size) = (&journal.segments()[LAST], journal.size());
    let text = fs::read(path).unwrap();
    fs::write(path, &text[..text.len() - 700]).unwrap();
    let says = format!("a checkpoint of {size} lines is signed, but the journal ends with");
    expect(&journal.by_key(), Contradiction, &says);
    expect(&journal.by_copies(), Contradiction, &says);
    journal.goes_on_unsigned("its end was removed").await;
    // The lines that were added since do not hide it.
    journal.goes_on_unsigned("they were rewritten").await;
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
}

// Segments.

#[tokio::test]
async fn a_middle_segment_that_is_gone_is_missing() {
    let journal = TestJournal::written().await;
    journal.remove_segment(2, true);
    expect(&journal.by_key(), Contradiction, "seq 19 to 27 are missing before it");
    expect(&journal.by_copies(), Contradiction, "seq 19 to 27 are missing before it");
    journal.goes_on_signed().await;
    expect(&journal.by_key(), Contradiction, "seq 19 to 27 are missing before it");
}

#[tokio::test]
async fn first_segments_that_are_gone_leave_the_rest_proven() {
    let journal = TestJournal::written().await;
    for _ in 0..3 {
        journal.remove_segment(0, false);
    }
    let found = journal.by_copies();
    expect(&found, Proven, "");
    assert!(found.first == Some(28) && found.proof.before_first > 0, "{found:?}");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn last_segments_that_are_gone_with_their_checkpoints_are_known_to_the_copies() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    for last in [LAST, LAST - 1] {
        journal.remove_segment(last, true);
    }
    expect(&journal.by_key(), Proven, "");
    let says = format!("a checkpoint of {size} lines is signed, but the journal ends with");
    expect(&journal.by_copies(), Contradiction, &says);
    journal.goes_on_unsigned("its end was removed").await;
    expect(&journal.by_copies(), Contradiction, "is signed");
}

#[tokio::test]
async fn a_tail_that_is_cut_with_its_checkpoints_is_known_to_the_copies() {
    let journal = TestJournal::written().await;
    journal.change_lines(LAST, |lines| lines.truncate(3));
    let size = journal.size();
    remove_notes(&journal.path(), |noted| noted > size);
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert!(found.proof.lines > 0 && found.proof.lines < size, "{:?}", found.proof);
    expect(&journal.by_copies(), Contradiction, "it was cut");
    journal.goes_on_unsigned("its end was removed").await;
    journal.goes_on_unsigned("they were rewritten").await;
}

#[tokio::test]
async fn a_tail_that_is_cut_with_all_its_checkpoints_goes_unnoticed() {
    let journal = TestJournal::written().await;
    let elsewhere = journal.folder.path().join("elsewhere");
    copy_folder(&journal.copies(), &elsewhere);
    journal.change_lines(LAST, |lines| lines.truncate(3));
    let size = journal.size();
    for folder in [journal.path(), journal.copies()] {
        remove_notes(&folder, |noted| noted > size);
    }
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
    expect(&journal.by_copies(), Proven, "");
    // Only somebody else can tell.
    let found = journal.verified(&journal.with_key(files(&elsewhere)));
    expect(&found, Contradiction, "the journal was rewritten after seq");
}

// A chain that was made anew.

/// Changes a line of a segment and rebuilds the journal.
fn rewrite(journal: &TestJournal, segment: usize) {
    journal.rebuild(|segments| falsify(&mut segments[segment][2]));
}

#[tokio::test]
async fn a_rebuilt_chain_contradicts_the_checkpoints_left_beside_it() {
    let journal = TestJournal::written().await;
    rewrite(&journal, 4);
    expect(&journal.by_key(), Contradiction, "the journal was rewritten after seq 3");
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq 3");
    journal.goes_on_unsigned("they were rewritten").await;
    expect(&journal.by_key(), Contradiction, "the journal was rewritten after seq 3");
}

#[tokio::test]
async fn a_rebuilt_chain_without_its_checkpoints_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    rewrite(&journal, 4);
    remove_notes(&journal.path(), |_| true);
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert_eq!(found.proof.lines, 0);
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq 3");
    journal.goes_on_unsigned("they were rewritten").await;
}

#[tokio::test]
async fn a_rebuilt_chain_that_lacks_a_line_contradicts_the_checkpoints() {
    let journal = TestJournal::written().await;
    journal.rebuild(|segments| drop(segments[4].drain(2..4)));
    expect(&journal.by_key(), Contradiction, "the journal was rewritten after seq");
    remove_notes(&journal.path(), |_| true);
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
    journal.goes_on_unsigned("its end was removed").await;
}

#[tokio::test]
async fn a_chain_rebuilt_behind_the_last_checkpoint_goes_unnoticed() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    for folder in [journal.path(), journal.copies()] {
        remove_notes(&folder, |noted| noted == size);
    }
    rewrite(&journal, LAST);
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
}

// The folder.

#[tokio::test]
async fn an_emptied_folder_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    let size = journal.size();
    empty_folder(&journal.path());
    expect(&journal.by_key(), NotProven, "");
    let says = format!("a checkpoint of {size} lines is signed, but the journal ends with seq 0");
    expect(&journal.by_copies(), Contradiction, &says);
    journal.goes_on_unsigned("its end was removed").await;
    expect(&journal.by_copies(), Contradiction, "rewritten");
}

#[tokio::test]
async fn an_emptied_folder_without_copies_is_a_new_journal() {
    let journal = TestJournal::written().await;
    let kept = journal.note_file(&journal.note(journal.size(), EARLY_S));
    empty_folder(&journal.path());
    empty_folder(&journal.copies());
    expect(&journal.by_copies(), NotProven, "");
    journal.goes_on_signed().await;
    // Nothing that is left says that there was another journal; what somebody else kept does.
    expect(&journal.by_copies(), Proven, "");
    expect(&journal.verified(&journal.with_key(vec![kept])), Contradiction, "it was cut");
}

#[tokio::test]
async fn a_restored_backup_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    replace_folder(&journal.path(), &backup.path());
    expect(&journal.by_key(), Proven, "");
    expect(&journal.by_copies(), Contradiction, "it was cut");
    journal.goes_on_unsigned("an older copy took its place").await;
}

#[tokio::test]
async fn a_restored_backup_that_went_on_contradicts_the_copies() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    replace_folder(&journal.path(), &backup.path());
    journal.goes_on_unsigned("an older copy took its place").await;
    let found = journal.by_key();
    expect(&found, NotProven, "");
    assert!(found.proof.lines > 0, "the lines of the backup are proven");
    expect(&journal.by_copies(), Contradiction, "the journal was rewritten after seq");
    journal.goes_on_unsigned("they were rewritten").await;
}

#[tokio::test]
async fn a_restored_backup_that_went_on_without_copies_disagrees_with_what_others_kept() {
    let journal = TestJournal::written().await;
    let backup = journal.cloned();
    journal.goes_on_signed().await;
    let kept = journal.note_file(&journal.note(journal.size(), EARLY_S));
    replace_folder(&journal.path(), &backup.path());
    empty_folder(&journal.copies());
    journal.goes_on_signed().await;
    expect(&journal.by_copies(), Proven, "");
    let found = journal.verified(&journal.with_key(vec![kept]));
    expect(&found, Contradiction, "two signed checkpoints");
}

#[tokio::test]
async fn a_backup_restored_over_newer_segments_leaves_a_gap() {
    let journal = TestJournal::new();
    journal.goes_on_signed_with(6).await;
    let backup = journal.cloned();
    // The segment that was the last one when the backup was made went on growing.
    let last = backup.segments().pop().unwrap();
    change_file(&last, |lines| lines.truncate(2));
    journal.goes_on_signed_with(6).await;
    copy_folder(&backup.path(), &journal.path());
    expect(&journal.by_key(), Contradiction, "missing before it");
    expect(&journal.by_copies(), Contradiction, "missing before it");
    journal.goes_on_signed().await;
}

#[tokio::test]
async fn a_cloned_machine_is_convicted_by_two_notes() {
    let one = TestJournal::written().await;
    let other = one.cloned();
    // Each is a journal without a fault, and neither start can know of the other.
    one.goes_on_signed().await;
    other.goes_on_signed().await;
    for (journal, clone) in [(&one, &other), (&other, &one)] {
        expect(&journal.by_copies(), Proven, "");
        let size = journal.size();
        let given = journal.with_key(files(&clone.copies()));
        let found = journal.verified(&given);
        let says = format!("two signed checkpoints of {size} lines disagree");
        expect(&found, Contradiction, &says);
        for journal in [&one, &other] {
            let (_, last) = notes(&journal.path()).pop().unwrap();
            assert!(faults(&found).contains(last.text()), "both notes are shown");
        }
    }
    // One that shares its copies with a clone that has gone further is told at its next start.
    other.goes_on_signed().await;
    copy_folder(&other.copies(), &one.copies());
    one.goes_on_unsigned("its end was removed, or an older copy took its place").await;
}

// The index.

#[tokio::test]
async fn an_emptied_index_is_a_fault_and_is_made_anew_by_the_next_start() {
    let journal = TestJournal::written().await;
    let emptied = index(&journal.segments()[1]);
    fs::write(&emptied, "").unwrap();
    expect(&journal.by_key(), Contradiction, "the index beside it is not that of its lines");
    expect(&journal.by_copies(), Contradiction, "the index beside it is not that of its lines");
    prove(&journal.path(), &journal.id(1)).unwrap();
    journal.goes_on_signed().await;
    until(|| fs::metadata(&emptied).unwrap().len() > 0).await;
    expect(&journal.by_key(), Proven, "");
}

#[tokio::test]
async fn a_missing_index_is_no_fault_and_is_made_anew_by_the_next_start() {
    let journal = TestJournal::written().await;
    let missing = index(&journal.segments()[1]);
    fs::remove_file(&missing).unwrap();
    expect(&journal.by_key(), Proven, "");
    expect(&journal.by_copies(), Proven, "");
    prove(&journal.path(), &journal.id(1)).unwrap();
    journal.goes_on_signed().await;
    assert!(missing.exists());
    expect(&journal.by_key(), Proven, "");
}

/// Entries of an index.
const INDEX_LINES: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("lines");

/// Moves the entries of an index by this many bytes, or removes them if that is none.
fn change_index(index: &Path, by: Option<u64>) {
    let change = Database::open(index).unwrap().begin_write().unwrap();
    let mut moved = Vec::new();
    let mut lines = change.open_table(INDEX_LINES).unwrap();
    lines
        .retain(|(key, at), ()| {
            moved.extend(by.map(|by| (key, at + by)));
            false
        })
        .unwrap();
    for entry in moved {
        lines.insert(entry, ()).unwrap();
    }
    drop(lines);
    change.commit().unwrap();
}

#[tokio::test]
async fn an_index_with_wrong_entries_is_a_fault() {
    let journal = TestJournal::written().await;
    for by in [None, Some(1)] {
        let journal = journal.cloned();
        change_index(&index(&journal.segments()[1]), by);
        let says = "the index beside it is not that of its lines";
        expect(&journal.by_key(), Contradiction, says);
        expect(&journal.by_copies(), Contradiction, says);
        journal.goes_on_signed().await;
        expect(&journal.by_key(), Contradiction, says);
        fs::remove_file(index(&journal.segments()[1])).unwrap();
        journal.goes_on_signed().await;
        expect(&journal.by_key(), Proven, "");
    }
}

#[tokio::test]
async fn an_index_with_wrong_entries_hides_no_exchange_from_a_proof() {
    let journal = TestJournal::written().await;
    for by in [None, Some(1)] {
        let journal = journal.cloned();
        change_index(&index(&journal.segments()[1]), by);
        assert_eq!(prove(&journal.path(), &journal.id(1)).unwrap().lines.len(), 2, "{by:?}");
    }
}

// Trees that are not those of the lines.

#[tokio::test]
async fn a_forged_last_segment_that_states_another_tree_stops_the_signing() {
    let journal = TestJournal::written().await;
    let lines = journal.lines();
    let before = lines.last().unwrap();
    let mut last = ChainHead { seq: seq(before), link: link(before) };
    let nodes = vec![TreeHash::from([7; 32]); usize::try_from(last.seq.count_ones()).unwrap()];
    let mut tree = Frontier::from_parts(last.seq, nodes).unwrap();
    let begin = lines.iter().find(|line| value(line)["event"] == "segment").unwrap();
    let path = journal.path().join(format!("{:020}.jsonl", last.seq + 1));
    write_lines(&path, &[chained(begin, &mut last, &mut tree)]);
    expect(&journal.by_key(), Contradiction, "states another tree than that of the lines before");
    journal.goes_on_unsigned("").await;
}

#[tokio::test]
async fn a_rebuilt_chain_that_states_no_trees_contradicts_the_checkpoints() {
    let journal = TestJournal::written().await;
    rewrite(&journal, 4);
    // As if its first segments were deleted in due time.
    for _ in 0..3 {
        journal.remove_segment(0, false);
    }
    let mut last = None;
    for segment in journal.segments() {
        change_file(&segment, |lines| {
            for line in lines {
                let seq = seq(line) - 1;
                let link = value(line)["previous"].as_str().map(|hex| hex.parse().unwrap());
                let last = last.get_or_insert(ChainHead { seq, link: link.unwrap_or_default() });
                *line = replaced(line, "\"tree\":[", ']', "");
                *line = chained(&line.replace(",\"tree\":[]", ""), last, &mut Frontier::new());
            }
        });
        fs::remove_file(index(&segment)).unwrap_or_default();
    }
    expect(&journal.verified(&VerifyWith::default()), NotProven, "");
    let found = journal.by_copies();
    assert!(found.proof.before_first < 5, "{:?}", found.proof);
    expect(&found, Contradiction, "checkpoint");
    journal.goes_on_unsigned("").await;
}
