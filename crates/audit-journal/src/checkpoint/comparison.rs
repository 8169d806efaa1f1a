//! Comparison of a journal with its checkpoints at a start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::CheckpointSettings;
use super::files::{checkpoint_files, read_notes};
use crate::note::{Checkpoint, SignedNote, VerifierKey};
use crate::proof::Leaves;
use crate::recovery::RecoveredState;
use crate::tree::{Frontier, TreeHead};

/// Returns the newest checkpoint in a folder that one of these keys has signed.
fn newest(folder: &Path, keys: &[VerifierKey]) -> io::Result<Option<TreeHead>> {
    for path in checkpoint_files(folder)?.iter().rev() {
        // Security: an older checkpoint in the file of a later segment must not pass for the newest.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(first) = name.split('.').next().and_then(|first| first.parse::<u64>().ok()) else {
            continue;
        };
        let mut claims = Vec::new();
        read_notes(path, |note| {
            if let Ok(checkpoint) = note.text().parse::<Checkpoint>()
                && checkpoint.size >= first
                && keys.iter().any(|key| key.name() == checkpoint.origin())
            {
                claims.push((checkpoint.head(), note));
            }
        })?;
        // From the largest down: a signature takes longer to verify than a file to read.
        claims.sort_by_key(|(head, _)| head.size);
        let is_signed =
            |note: &SignedNote| keys.iter().any(|key| matches!(note.verified_by(key), Ok(Some(_))));
        let found = claims.iter().rev().position(|(_, note)| is_signed(note));
        let forged = found.unwrap_or(claims.len());
        let found = found.and_then(|at| claims.iter().rev().nth(at)).map(|(head, _)| *head);
        if forged > 0 {
            tracing::error!(
                file = %path.display(),
                checkpoints = forged,
                "checkpoints in the name of this audit journal are not signed with its key: they \
                 are forged or belong to an older key, and are ignored"
            );
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Limit: time to read the checkpoints in one folder at a start.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Returns the newest checkpoint in a folder, as [`newest`] does; an error if the folder does not answer in
/// time, such as one on another machine.
fn newest_in_time(folder: &Path, keys: &[VerifierKey]) -> io::Result<Option<TreeHead>> {
    let (done, wait) = mpsc::sync_channel(1);
    let (path, keys) = (folder.to_owned(), keys.to_vec());
    let read = move || done.try_send(newest(&path, &keys)).unwrap_or_default();
    std::thread::Builder::new().name("checkpoints".to_owned()).spawn(read)?;
    wait.recv_timeout(READ_WITHIN).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Compares a journal with the newest checkpoints beside it and in its copies; returns why it must not be
/// signed, `None` if it may be.
pub(super) fn contradiction(
    settings: &CheckpointSettings,
    folder: &Path,
    found: &RecoveredState,
) -> Option<String> {
    let Some(tree) = &found.tree else {
        return Some(format!(
            "the journal in {} is damaged, with lines missing, or an older version wrote it \
             without a tree: move it away, keep it, and begin a new one",
            folder.display()
        ));
    };
    let keys = settings.verifiers();
    for place in std::iter::once(folder).chain(settings.copies.iter().map(PathBuf::as_path)) {
        match newest_in_time(place, &keys) {
            Ok(Some(head)) => {
                if let Some(reason) = contradiction_to(head, place, folder, tree) {
                    return Some(reason);
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(
                    folder = %place.display(),
                    %error,
                    "a folder with checkpoints of the audit journal cannot be read: the journal \
                     is signed without being compared with them"
                );
            }
        }
    }
    None
}

/// Compares a journal with one checkpoint, found in `place`. `tree` is the tree over all of the journal's
/// lines, as its last segment states it.
fn contradiction_to(
    head: TreeHead,
    place: &Path,
    folder: &Path,
    tree: &Frontier,
) -> Option<String> {
    let (at, from) = (folder.display(), place.display());
    let (size, lines) = (head.size, tree.size());
    if size > lines {
        return Some(format!(
            "the journal in {at} ends with line {lines}, but a checkpoint in {from} covers {size} \
             lines: its end was removed, or an older copy took its place"
        ));
    }
    match Leaves::trees(folder, size, lines) {
        Err(error) => Some(format!("the journal in {at} cannot be read: {error}")),
        Ok(Some((then, now))) if then.root() == head.root && now == *tree => None,
        Ok(Some((then, _))) if then.root() == head.root => Some(format!(
            "the last segment of the journal in {at} states another tree than that of the lines \
             before it: somebody wrote to it"
        )),
        Ok(Some(_) | None) => Some(format!(
            "the first {size} lines of the journal in {at} are not those of a checkpoint in \
             {from}: they were rewritten, or another journal was signed with this key"
        )),
    }
}
