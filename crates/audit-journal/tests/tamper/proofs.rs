//! Proofs of single exchanges.

use audit_journal::note::SignedNote;
use audit_journal::tree::{TreeHash, verify_consistency};
use audit_journal::{ExchangeProof, ProofError, consistency, prove};

use crate::fixture::*;

// Proofs of single exchanges.

fn proof(journal: &TestJournal, segment: usize) -> ExchangeProof {
    let proof = prove(&journal.path(), &journal.id(segment)).unwrap();
    // As it is handed over.
    serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap()
}

#[tokio::test]
async fn an_exchange_of_any_segment_is_proven_to_others() {
    let journal = TestJournal::written().await;
    for segment in [0, 4, LAST] {
        let proof = proof(&journal, segment);
        assert_eq!(proof.lines.len(), 2);
        let checked = proof.check(&[journal.key()]).unwrap();
        for (line, checked) in proof.lines.iter().zip(checked) {
            assert_eq!((checked.seq, &*checked.origin), (seq(&line.line), ORIGIN));
            let times: Vec<_> = checked.signed.iter().map(|(_, at_s)| at_s.is_some()).collect();
            assert_eq!(times, [false, true], "the gateway and its clock");
            assert!(checked.size >= checked.seq);
        }
        // Somebody else's key has signed nothing, in this name or in another.
        for name in [ORIGIN, "gw2.example.nhs.uk/audit/1"] {
            let checked = proof.check(&[other_signer(name).verifier().clone()]).unwrap();
            assert!(checked.iter().all(|line| line.signed.is_empty()));
        }
    }
}

#[tokio::test]
async fn an_exchange_is_proven_after_older_segments_were_deleted() {
    let journal = TestJournal::written().await;
    let id = journal.id(0);
    for _ in 0..3 {
        journal.remove_segment(0, true);
    }
    journal.goes_on_signed().await;
    for segment in [1, 4, 5] {
        let checked = proof(&journal, segment).check(&[journal.key()]).unwrap();
        assert!(checked.iter().all(|line| line.signed.len() == 2));
    }
    assert!(matches!(prove(&journal.path(), &id), Err(ProofError::NotFound)));
}

#[tokio::test]
async fn an_exchange_is_not_proven_before_a_checkpoint_covers_it() {
    let journal = TestJournal::written().await;
    remove_notes(&journal.path(), |size| size > 45);
    let id = journal.id(LAST);
    assert!(matches!(prove(&journal.path(), &id), Err(ProofError::NotCovered(seq)) if seq > 45));
    proof(&journal, 4);
    journal.goes_on_signed().await;
    proof(&journal, LAST);
    assert!(matches!(prove(&journal.path(), "no such id"), Err(ProofError::NotFound)));
}

/// Asserts that a change makes a proof false or malformed, with this text.
#[track_caller]
fn expect_false(journal: &TestJournal, says: &str, change: impl FnOnce(&mut ExchangeProof)) {
    let mut proof = proof(journal, 4);
    change(&mut proof);
    let error = proof.check(&[journal.key()]).unwrap_err();
    assert!(matches!(error, ProofError::False { .. } | ProofError::Malformed { .. }));
    assert!(error.to_string().contains(says), "{error}");
}

#[tokio::test]
async fn a_proof_that_was_changed_is_false() {
    let journal = TestJournal::written().await;
    let journal = &journal;
    expect_false(journal, "the line was changed", |proof| falsify(&mut proof.lines[0].line));
    let hash = |proof: &str| proof.lines().nth(3).unwrap().to_owned();
    let zero = TreeHash::from([0; 32]).to_string();
    let not_in = "line 1 of the proof is FALSE: the line is not in the tree of the checkpoint";
    expect_false(journal, not_in, |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen(&hash(proof), &zero, 1);
    });
    expect_false(journal, not_in, |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen(&format!("{}\n", hash(proof)), "", 1);
    });
    expect_false(journal, not_in, |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen("\n\n", &format!("\n{zero}\n\n"), 1);
    });
    expect_false(journal, "its index is not that of the line", |proof| {
        let proof = &mut proof.lines[0].proof;
        *proof = proof.replacen("index ", "index 1", 1);
    });
    // The checkpoint of another journal, and a wrong signature of this one.
    let head = other_head(journal.size());
    let note =
        |text: &str, note: &SignedNote| format!("{}\n\n{note}", text.split_once("\n\n").unwrap().0);
    expect_false(journal, "the line is not in the tree", |proof| {
        let proof = &mut proof.lines[1].proof;
        *proof = note(proof, &signed(&journal.signer(), head, EARLY_S));
    });
    expect_false(journal, "line 2 of the proof is FALSE: a signature of the checkpoint", |proof| {
        let proof = &mut proof.lines[1].proof;
        let (_, old) = proof.split_once("\n\n").unwrap();
        *proof = note(proof, &with_a_wrong_signature(&old.parse().unwrap()));
    });
}

#[tokio::test]
async fn a_proof_of_another_line_is_false_and_half_a_proof_is_none() {
    let journal = TestJournal::written().await;
    expect_false(&journal, "its index is not that of the line", |proof| {
        let other = proof.lines[1].proof.clone();
        proof.lines[0].proof = other;
    });
    expect_false(&journal, "it is no line of a journal", |proof| {
        proof.lines[0].line.pop();
    });
    expect_false(&journal, "it has no proof", |proof| {
        let proof = &mut proof.lines[0].proof;
        proof.truncate(proof.len() / 4);
    });
    expect_false(&journal, "it has no proof", |proof| {
        proof.lines[0].proof.pop();
    });
    let text = serde_json::to_string(&proof(&journal, 4)).unwrap();
    for end in [0, 1, text.len() / 2, text.len() - 1] {
        assert!(serde_json::from_str::<ExchangeProof>(&text[..end]).is_err());
    }
}

#[tokio::test]
async fn a_proof_without_lines_proves_nothing() {
    let journal = TestJournal::written().await;
    let none: ExchangeProof = serde_json::from_str("{\"lines\":[]}").unwrap();
    none.check(&[journal.key()]).unwrap_err();
}

// Proofs that a checkpoint extends another one.

#[tokio::test]
async fn a_checkpoint_is_proven_to_extend_any_earlier_one_from_the_start_and_from_the_last_proof() {
    let journal = TestJournal::written().await;
    let last = journal.size();
    let mut known = None;
    for (old, size) in [(1, 2), (2, 9), (9, 10), (10, 45), (45, last)] {
        let whole = consistency(&journal.path(), old, size, None).unwrap().unwrap();
        let proof = consistency(&journal.path(), old, size, known.as_ref()).unwrap().unwrap();
        assert_eq!(proof.hashes, whole.hashes);
        assert!(verify_consistency(&journal.head(old), &journal.head(size), &proof.hashes));
        assert_eq!(proof.end.size(), size);
        known = Some(proof.end);
    }
    // One that is not of the old size is not used.
    let proof = consistency(&journal.path(), 9, last, known.as_ref()).unwrap().unwrap();
    assert!(verify_consistency(&journal.head(9), &journal.head(last), &proof.hashes));
}

#[tokio::test]
async fn a_checkpoint_is_not_proven_to_extend_another_over_a_missing_segment() {
    let journal = TestJournal::written().await;
    let firsts: Vec<_> = journal.segments().iter().map(|path| seq(&lines(path)[0])).collect();
    let (last, old) = (journal.size(), firsts[4] - 1);
    let known = consistency(&journal.path(), 1, old, None).unwrap().unwrap().end;
    let heads = [journal.head(old), journal.head(last)];
    journal.remove_segment(3, false);
    // The first segment that is needed is there, or the one after it.
    assert!(consistency(&journal.path(), firsts[2], last, None).unwrap().is_none());
    // Later lines do not stand in for the missing ones.
    assert!(consistency(&journal.path(), firsts[2], firsts[3] + 1, None).unwrap().is_none());
    for known in [None, Some(&known)] {
        let proof = consistency(&journal.path(), old, last, known).unwrap().unwrap();
        assert!(verify_consistency(&heads[0], &heads[1], &proof.hashes));
    }
    journal.remove_segment(4, false);
    assert!(consistency(&journal.path(), old, last, Some(&known)).unwrap().is_none());
}
