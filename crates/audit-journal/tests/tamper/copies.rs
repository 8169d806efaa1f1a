//! Lines as a log shipper leaves them.

use audit_journal::tree::Frontier;
use audit_journal::{
    ChainHead,
    Verdict::{Contradiction, NotProven, Proven},
    VerifyWith, verify_copies,
};

use crate::fixture::*;

// Shipped copies.

#[tokio::test]
async fn shipped_lines_in_any_order_and_more_than_once_are_proven() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    let count = lines.len();
    lines.extend_from_within(10..30);
    let mut shuffled: Vec<_> = (0..lines.len()).collect();
    shuffled.sort_by_key(|at| (at * 37) % 101);
    let shuffled: Vec<_> = shuffled.into_iter().map(|at| lines[at].clone()).collect();
    let files: Vec<_> = (0..)
        .zip(shuffled.chunks(20))
        .map(|(at, part)| journal.ship(&format!("part-{at}"), part))
        .collect();
    let found = journal.by_shipped(&files);
    expect(&found, Proven, "");
    assert_eq!((found.lines, found.other_lines), (u64::try_from(count).unwrap(), 0));
    let with = VerifyWith { keys: vec![journal.key()], ..VerifyWith::default() };
    expect(&verify_copies(&files, &with).unwrap(), NotProven, "");
}

#[tokio::test]
async fn a_line_missing_from_shipped_copies_is_reported() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    lines.remove(20);
    expect(
        &journal.by_shipped(&[journal.ship("part", &lines)]),
        Contradiction,
        "seq 21 is missing",
    );
    let mut lines = journal.lines();
    lines.truncate(40);
    expect(&journal.by_shipped(&[journal.ship("part", &lines)]), Contradiction, "it was cut");
}

/// Returns another line with the number of the line at a position, chained to the one before.
fn another(lines: &[String], at: usize) -> String {
    let mut line = lines[11].clone();
    falsify(&mut line);
    let before = &lines[at - 1];
    let mut last = ChainHead { seq: seq(before), link: link(before) };
    chained(&line, &mut last, &mut Frontier::new())
}

#[tokio::test]
async fn a_shipped_line_that_was_numbered_anew_before_it_was_on_disk_is_no_fault() {
    let journal = TestJournal::written().await;
    // A start, whose number was that of a line that a power cut took from the journal, but not from the copies.
    let (lines, at) = (journal.lines(), 29);
    assert_eq!(value(&lines[at])["event"], "started");
    let early = [&lines[..at], &[another(&lines, at)]].concat();
    let shipped = [journal.ship("early", &early), journal.ship("late", &lines[at..])];
    let found = journal.by_shipped(&shipped);
    expect(&found, Proven, "");
    assert_eq!(found.other_lines, 1);
}

#[tokio::test]
async fn a_forged_duplicate_among_shipped_lines_does_not_displace_the_real_one() {
    let journal = TestJournal::written().await;
    let lines = journal.lines();
    let mut unchained = lines[11].clone();
    falsify(&mut unchained);
    for forged in [unchained, another(&lines, 11)] {
        let shipped = [journal.ship("forged", &[forged]), journal.ship("part", &lines)];
        let found = journal.by_shipped(&shipped);
        expect(&found, Proven, "");
        assert_eq!(found.other_lines, 1);
    }
}

#[tokio::test]
async fn a_forged_line_in_the_place_of_a_shipped_one_is_reported() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    lines[11] = another(&lines, 11);
    let found = journal.by_shipped(&[journal.ship("part", &lines)]);
    expect(&found, Contradiction, "seq 13 is not as it was written");
}

#[tokio::test]
async fn checkpoints_shipped_among_the_lines_are_no_fault() {
    let journal = TestJournal::written().await;
    let mut lines = journal.lines();
    lines.insert(20, stored(&notes(&journal.path())[0].1));
    let found = journal.by_shipped(&[journal.ship("part", &lines)]);
    expect(&found, Proven, "");
}
