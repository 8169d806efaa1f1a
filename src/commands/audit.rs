//! `audit`: is the journal what was written, and what does it say?

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, say};
use crate::audit::{self, Head, Verified};

/// What is wanted of the journal.
#[derive(Debug, Subcommand)]
pub enum Wanted {
    /// Check every line's number and link; exit code 1 if the journal is not what was written.
    Verify {
        /// The journal's folder.
        journal: PathBuf,
        /// A head of the chain that was told elsewhere: a line's number, a colon and 12 or more of its
        /// hexadecimal digits. May be given several times.
        #[arg(long)]
        head: Vec<Head>,
    },
}

/// Does what is wanted.
///
/// # Errors
/// The journal cannot be read, or is not what was written.
pub fn run(wanted: Wanted) -> Result<(), Failure> {
    match wanted {
        Wanted::Verify { journal, head } => {
            let found = audit::verify(&journal, &head).map_err(|error| {
                Failure::world(anyhow::Error::new(error).context(journal.display().to_string()))
            })?;
            tell(&found, head.len());
            if found.is_sound() {
                return Ok(());
            }
            Err(Failure::world(anyhow::anyhow!("the journal is not what was written")))
        }
    }
}

fn tell(found: &Verified, heads: usize) {
    let Verified { segments, lines, first, last, unfinished, open, torn, ends_torn, .. } = found;
    let (Some(first), Some((last, link))) = (first, last) else {
        say("no line in this journal");
        return found.faults.iter().for_each(say);
    };
    say(format_args!("{lines} lines, numbers {first} to {last}, in {segments} segments"));
    say(format_args!("head: {last}:{link}"));
    if *first > 1 {
        say(format_args!("begins with number {first}: what came before is not here"));
    }
    for place in torn {
        say(format_args!("torn by a crash, and found at the next start: {place}"));
    }
    if *ends_torn {
        say("ends in half a line: it is being written, or a crash has torn it");
    }
    for exchange in unfinished {
        let (id, seq) = (exchange.id(), exchange.seq);
        say(format_args!("unfinished: {id}, opened with number {seq} before a crash"));
    }
    for exchange in open {
        let (id, seq) = (exchange.id(), exchange.seq);
        say(format_args!("open at the end: {id}, opened with number {seq}"));
    }
    found.faults.iter().for_each(|fault| say(format_args!("FAULT: {fault}")));
    if found.more_faults > 0 {
        say(format_args!("and {} more faults", found.more_faults));
    }
    match (found.is_sound(), heads) {
        (false, _) => {}
        (true, 0) => say("sound; without --head nothing shows that its end was not cut or written anew"),
        (true, heads) => say(format_args!("sound, and {heads} heads told elsewhere fit")),
    }
}
