//! Comparison of a journal with its checkpoints at a start.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{checkpoint_files, read_notes};
use crate::note::{Checkpoint, SignedNote, VerifierKey};
use crate::proof::Leaves;
use crate::read::segments;
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

/// Journal as it was found at a start, to be compared with checkpoints of it before it is signed again.
#[derive(Debug, Clone)]
pub(super) struct FoundJournal {
    folder: PathBuf,
    keys: Vec<VerifierKey>,
    /// Tree over all of its lines, as its last segment states it.
    tree: Frontier,
}

impl FoundJournal {
    /// Takes over what a start has found.
    ///
    /// # Errors
    /// Returns why a journal without a tree must not be signed.
    pub(super) fn new(
        keys: Vec<VerifierKey>,
        folder: &Path,
        found: &RecoveredState,
    ) -> Result<Self, String> {
        let tree = found.tree.clone().ok_or_else(|| {
            format!(
                "the journal in {} is damaged, with lines missing, or an older version wrote it \
                 without a tree: move it away, keep it, and begin a new one",
                folder.display()
            )
        })?;
        Ok(Self { folder: folder.to_owned(), keys, tree })
    }

    /// Compares the journal with the newest checkpoint in a folder; returns why it must not be signed, `None`
    /// if it may be.
    ///
    /// # Errors
    /// Returns an error if the folder, a file of checkpoints in it or the journal cannot be read.
    pub(super) fn contradiction(&self, place: &Path) -> io::Result<Option<String>> {
        let Some(head) = newest(place, &self.keys)? else {
            if self.tree.size() > 0 && place != self.folder {
                tracing::warn!(
                    folder = %place.display(),
                    "a folder for copies of the audit journal's checkpoints has none of this \
                     journal's: see whether it is mounted, unless it is new"
                );
            }
            return Ok(None);
        };
        if !self.begins_after(head)? {
            return self.contradiction_to(head, place);
        }
        // The lines of an old checkpoint may have been deleted; then a later one must be beside the others.
        if let Some(own) = newest(&self.folder, &self.keys)?
            && !self.begins_after(own)?
        {
            tracing::warn!(
                folder = %place.display(),
                "the newest checkpoint in a folder for copies is older than the first line of the \
                 audit journal: the journal was compared with the newest beside it instead"
            );
            return self.contradiction_to(own, &self.folder);
        }
        Ok(Some(format!(
            "the journal in {} begins after the {} lines of the newest checkpoint in {}: lines were \
             deleted that no later checkpoint follows",
            self.folder.display(),
            head.size,
            place.display()
        )))
    }

    /// Returns true if the oldest segments are gone, and all lines that a checkpoint covers with them.
    fn begins_after(&self, head: TreeHead) -> io::Result<bool> {
        let segments = segments(&self.folder)?;
        Ok(segments.first().is_some_and(|oldest| oldest.first > head.size.saturating_add(1)))
    }

    /// Compares the journal with one checkpoint, found in `place`.
    fn contradiction_to(&self, head: TreeHead, place: &Path) -> io::Result<Option<String>> {
        let Self { folder, tree, .. } = self;
        let (at, from) = (folder.display(), place.display());
        let (size, lines) = (head.size, tree.size());
        if size > lines {
            return Ok(Some(format!(
                "the journal in {at} ends with line {lines}, but a checkpoint in {from} covers {size} \
                 lines: its end was removed, or an older copy took its place"
            )));
        }
        Ok(match Leaves::trees(folder, size, lines)? {
            Some((then, now)) if then.root() == head.root && now == *tree => None,
            Some((then, _)) if then.root() == head.root => Some(format!(
                "the last segment of the journal in {at} states another tree than that of the lines \
                 before it: somebody wrote to it"
            )),
            Some(_) | None => Some(format!(
                "the first {size} lines of the journal in {at} are not those of a checkpoint in \
                 {from}: they were rewritten, or another journal was signed with this key"
            )),
        })
    }
}
