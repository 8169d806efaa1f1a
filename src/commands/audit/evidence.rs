//! `audit verify`, `audit prove`, `audit check` and `audit key`: what the journal proves, and to whom.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use audit_journal::note::{CheckpointSigner, VerifierKey};
use audit_journal::{
    ChainHead, CheckedLine, CheckpointProof, ExchangeProof, Verdict, Verified, VerifyWith, prove,
    verify, verify_copies,
};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::fault;
use super::verify_report::VerifyReport;
use crate::commands::output::{print, print_pretty_json};
use crate::failure::Failure;

/// Journals to verify, and what to compare them with.
#[derive(Debug, Args)]
pub struct VerifyTask {
    /// Folder of a journal; may be given several times.
    #[arg(required = true)]
    journal: Vec<PathBuf>,
    /// Public key of the journal, as `audit key` prints it. May be given several times.
    #[arg(long)]
    key: Vec<VerifierKey>,
    /// Public key of a witness that must have seen every line. May be given several times.
    #[arg(long)]
    witness: Vec<VerifierKey>,
    /// File with checkpoints that were kept elsewhere. May be given several times.
    #[arg(long)]
    checkpoints: Vec<PathBuf>,
    /// Chain value of a line that was kept elsewhere: its number, a colon and 64 hexadecimal digits, as in a
    /// receipt. May be given several times.
    #[arg(long)]
    head: Vec<ChainHead>,
    /// Verifies copies of one journal's lines instead: files or folders of files, with lines in any order and
    /// repeated.
    #[arg(long)]
    copies: bool,
    /// Prints the result as JSON, also if something cannot be read.
    #[arg(long)]
    json: bool,
}

/// Exchange to prove.
#[derive(Debug, Args)]
pub struct ProveTask {
    /// Folder of the journal.
    journal: PathBuf,
    /// Id of the exchange.
    #[arg(long)]
    id: String,
}

/// Proof to check.
#[derive(Debug, Args)]
pub struct CheckTask {
    /// File with the proof of an exchange.
    file: PathBuf,
    /// Public key of the journal or of a witness. May be given several times.
    #[arg(long)]
    key: Vec<VerifierKey>,
}

/// Task on the key that signs checkpoints.
#[derive(Debug, Subcommand)]
pub enum KeyTask {
    /// Makes a private key, writes it to a new file with owner-only access, and prints the public key.
    New(KeyFile),
    /// Prints the public key of a private key.
    Show(KeyFile),
}

/// Private key, and the journal that it signs.
#[derive(Debug, Args)]
pub struct KeyFile {
    /// File of the private key (Ed25519, PKCS#8 PEM).
    file: PathBuf,
    /// Name of the journal, as in audit.checkpoints.origin.
    #[arg(long)]
    origin: String,
}

/// Runs a task on the key.
///
/// # Errors
/// Returns an error if the key cannot be read or written.
pub(super) fn key(wanted: &KeyTask) -> Result<(), Failure> {
    let (KeyTask::New(KeyFile { file, origin }) | KeyTask::Show(KeyFile { file, origin })) = wanted;
    let unusable = |error| {
        Failure::configuration(anyhow::Error::new(error).context(file.display().to_string()))
    };
    let pem = match wanted {
        KeyTask::New(_) => CheckpointSigner::generate_pem().map_err(unusable)?,
        KeyTask::Show(_) => std::fs::read_to_string(file).map_err(|error| at(file, error))?,
    };
    let signer = CheckpointSigner::from_pkcs8_pem(&pem, origin).map_err(unusable)?;
    if let KeyTask::New(_) = wanted {
        let mut options = OpenOptions::new();
        let created = options.write(true).create_new(true).mode(0o600).open(file);
        let mut created = created.map_err(|error| at(file, error))?;
        created.write_all(pem.as_bytes()).map_err(|error| at(file, error))?;
    }
    print(signer.verifier());
    Ok(())
}

fn at(path: &Path, error: std::io::Error) -> Failure {
    Failure::environment(anyhow::Error::new(error).context(path.display().to_string()))
}

/// Writes the lines of an exchange with their proofs to standard output.
///
/// # Errors
/// Returns an error if the exchange cannot be proven.
pub(super) fn prove_exchange(wanted: &ProveTask) -> Result<(), Failure> {
    let proof = prove(&wanted.journal, &wanted.id).map_err(Failure::environment)?;
    print_pretty_json(&proof)
}

/// Checks the proof of an exchange.
///
/// # Errors
/// Returns an error if the proof is false, or no given key signed it.
pub(super) fn check(wanted: &CheckTask) -> Result<(), Failure> {
    let text = std::fs::read(&wanted.file).map_err(|error| at(&wanted.file, error))?;
    let proof: ExchangeProof = serde_json::from_slice(&text).map_err(Failure::environment)?;
    let lines = proof.check(&wanted.key).map_err(Failure::environment)?;
    let mut is_proven = !lines.is_empty();
    for CheckedLine { seq, origin, size, signed } in &lines {
        print(format_args!("line {seq} of {origin} is in the tree of its first {size} lines"));
        for (key, at_s) in signed {
            match at_s {
                Some(at_s) => print(format_args!("  signed by {key} at {}", time(*at_s))),
                None => print(format_args!("  signed by {key}")),
            }
        }
        is_proven &= !signed.is_empty();
    }
    match is_proven {
        true => print("PROVEN: every line is as it was when it was signed"),
        false => {
            return Err(not_proven(
                "NOT PROVEN: no given key signed the checkpoint; give the journal's public key \
                 with --key",
            ));
        }
    }
    Ok(())
}

fn not_proven(text: &'static str) -> Failure {
    Failure::NotProven(anyhow::anyhow!(text))
}

/// Runs a verification of one or several journals, and prints what it finds.
///
/// # Errors
/// Returns an error if a journal cannot be read, is not as it was written, or is not proven.
pub(super) fn verify_journals(wanted: VerifyTask) -> Result<(), Failure> {
    let VerifyTask { journal: journals, key, witness, checkpoints, head, copies, json } = wanted;
    let with = VerifyWith { keys: key, witnesses: witness, checkpoints, heads: head };
    let mut worst = Verdict::Proven;
    let mut report = VerifyReport::default();
    let read = verify_each(&journals, copies, &with, |journal, found| {
        worst = worst.max(found.verdict());
        if json {
            return report.add(journal, &found);
        }
        if let Some(journal) = journal.filter(|_| journals.len() > 1) {
            print(journal.display());
        }
        print_verified(&found, &with);
    });
    if json {
        print_pretty_json(&report.end(worst, &read))?;
    }
    read?;
    match worst {
        Verdict::Proven => Ok(()),
        Verdict::NotProven => Err(not_proven("not everything is proven: see above")),
        Verdict::Contradiction => Err(Failure::environment(anyhow::anyhow!(
            "the journal has been changed, cut or damaged: see the faults above"
        ))),
    }
}

/// Verifies each journal, or the copies of one, and hands over what is found.
fn verify_each(
    journals: &[PathBuf],
    copies: bool,
    with: &VerifyWith,
    mut found: impl FnMut(Option<&Path>, Verified),
) -> Result<(), Failure> {
    for path in &with.checkpoints {
        std::fs::metadata(path).map_err(|error| at(path, error))?;
    }
    if copies {
        let files = files(journals)?;
        found(None, verify_copies(&files, with).map_err(Failure::environment)?);
        return Ok(());
    }
    for journal in journals {
        found(Some(journal), verify(journal, with).map_err(|error| fault(journal, error))?);
    }
    Ok(())
}

/// Returns the given files, which must exist, and those in the given folders.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let is_folder = std::fs::metadata(path).map_err(|error| at(path, error))?.is_dir();
        if is_folder {
            for entry in std::fs::read_dir(path).map_err(|error| at(path, error))? {
                let file = entry.map_err(|error| at(path, error))?.path();
                files.extend(file.is_file().then_some(file));
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    Ok(files)
}

fn print_verified(found: &Verified, with: &VerifyWith) {
    let Verified { segments, lines, first, last, .. } = found;
    match (first, last) {
        (Some(first), Some(last)) => {
            let seq = last.seq;
            print(format_args!("{lines} lines, numbers {first} to {seq}, in {segments} files"));
            print(format_args!("last line: {last}"));
            if *first > 1 {
                print(format_args!(
                    "begins with number {first}: earlier segments are not in this folder"
                ));
            }
        }
        _ => print("the journal has no lines"),
    }
    print_crashes(found);
    found.faults.iter().for_each(|fault| print(format_args!("FAULT: {fault}")));
    if found.more_faults > 0 {
        print(format_args!("and {} more faults", found.more_faults));
    }
    print_proof(&found.proof, with);
    let seq = last.map_or(0, |last| last.seq);
    match found.verdict() {
        Verdict::Proven => print(format_args!("PROVEN: lines {} to {seq}", first.unwrap_or(1))),
        Verdict::NotProven if with.keys.is_empty() => {
            print("NOT PROVEN: no public key was given with --key; the chain alone is sound");
        }
        Verdict::NotProven => print(format_args!(
            "NOT PROVEN: of {seq} lines, {} are in a signed checkpoint; nothing contradicts the \
             others",
            found.proof.lines
        )),
        Verdict::Contradiction => print("CONTRADICTION: see the faults above"),
    }
}

fn print_crashes(found: &Verified) {
    for place in &found.torn {
        print(format_args!("line cut off by a crash, and recorded at the next start: {place}"));
    }
    if found.ends_torn {
        print("ends in an incomplete line: it is being written, or a crash has cut it off");
    }
    for exchange in &found.unfinished {
        let (id, seq) = (&exchange.id, exchange.seq);
        print(format_args!("unfinished: {id}, opened with number {seq} before a crash"));
    }
    for exchange in &found.open {
        let (id, seq) = (&exchange.id, exchange.seq);
        print(format_args!("open at the end: {id}, opened with number {seq}"));
    }
    if found.other_lines > 0 {
        print(format_args!(
            "{} lines in the copies are not those of the journal with their numbers: they were \
             numbered anew before they were on disk, or are forged",
            found.other_lines
        ));
    }
}

fn print_proof(proof: &CheckpointProof, with: &VerifyWith) {
    for key in &proof.keys {
        print(format_args!("signed by {key}"));
    }
    if let Some((from, to)) = proof.times {
        print(format_args!(
            "{} checkpoints agree, of {} to {} by the gateway's clock; the last one covers {} lines",
            proof.checkpoints,
            time(from),
            time(to),
            proof.lines
        ));
    }
    for (witness, seen) in &proof.witnessed {
        match seen.lines {
            0 => print(format_args!("{witness} has seen none of it")),
            lines => print(format_args!(
                "{witness} has seen the first {lines} lines, at {} by its clock",
                time(seen.at_s)
            )),
        }
    }
    if with.witnesses.is_empty() && proof.lines > 0 {
        print("by the journal's key alone: no witness was asked for with --witness");
    }
    for gap in &proof.gaps {
        print(format_args!(
            "no checkpoint from {} to {}, after line {}",
            time(gap.times.0),
            time(gap.times.1),
            gap.after
        ));
    }
    for seq in &proof.clock_set_back {
        print(format_args!(
            "the gateway's clock was set back before line {seq}: times around it are not proven"
        ));
    }
    for (origin, count) in &proof.ignored {
        print(format_args!("ignored: {count} checkpoints of {origin}, which no given key signed"));
    }
    if proof.before_first > 0 {
        let count = proof.before_first;
        print(format_args!("{count} checkpoints end before the first line, and prove nothing"));
    }
    if proof.unreadable > 0 {
        print(format_args!("{} lines of the files are no checkpoints", proof.unreadable));
    }
}

/// Returns a time in seconds since 1970 as text in UTC.
pub(super) fn time(at_s: u64) -> String {
    let at = i64::try_from(at_s).ok().and_then(|at_s| Timestamp::from_second(at_s).ok());
    at.map_or_else(|| at_s.to_string(), |at| at.to_string())
}
