//! Signed notes and checkpoints: statements about the journal's tree that others can check and countersign.
//!
//! The formats are those of C2SP: `signed-note`, `tlog-checkpoint` and the Ed25519 form of `tlog-cosignature`.
//! A checkpoint names a tree's size and root. Its own log signs it twice with one key: plainly, and with a
//! time. Witnesses add cosignatures of their own.

use std::fmt;
use std::str::FromStr;

use base64_simd::STANDARD;

use crate::tree::{TreeHash, TreeHead};

mod key;

pub use key::{CheckpointSigner, SignatureKind, VerifierKey};

/// Statement that the tree of a journal had a root at a size.
///
/// Written as the text of a note: three lines with the origin, the size and the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root hash of the tree at this size.
    pub root: TreeHash,
}

impl Checkpoint {
    /// Creates a checkpoint; fails if the origin is empty or has control characters.
    pub fn new(origin: &str, head: TreeHead) -> Result<Self, NoteError> {
        if origin.is_empty() || origin.contains(is_control) {
            return Err(NoteError::Checkpoint);
        }
        Ok(Self { origin: origin.to_owned(), size: head.size, root: head.root })
    }

    /// Returns the name of the journal.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the size and root of the tree.
    #[must_use]
    pub const fn head(&self) -> TreeHead {
        TreeHead { size: self.size, root: self.root }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}\n{}\n{}\n", self.origin, self.size, self.root)
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    /// Reads the text of a note; further lines are allowed and ignored.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let text = text.strip_suffix('\n').ok_or(NoteError::Checkpoint)?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Checkpoint);
        };
        if lines.any(str::is_empty) {
            return Err(NoteError::Checkpoint);
        }
        // Security: a number has one spelling only.
        let number = size.parse().ok().filter(|number: &u64| number.to_string() == size);
        let size = number.ok_or(NoteError::Checkpoint)?;
        let root = root.parse().map_err(|_| NoteError::Checkpoint)?;
        Self::new(origin, TreeHead { size, root })
    }
}

/// Text with at least one signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl SignedNote {
    /// Maximum length of a note in bytes, signatures included.
    pub const BYTES_MAX: usize = 16 * 1024;
    /// Maximum number of signatures of a note.
    pub const SIGNATURES_MAX: usize = 32;

    /// Creates a note.
    ///
    /// Fails if the text does not end in a newline or has other control characters, without signatures, or
    /// above the limits.
    pub fn new(text: &str, signatures: Vec<NoteSignature>) -> Result<Self, NoteError> {
        let note = Self { text: text.to_owned(), signatures };
        note.check()?;
        Ok(note)
    }

    /// Returns the text that the signatures are for.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the signatures, in order.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Adds signatures after those of the note; leaves the note as it was if that would be above the limits.
    pub fn add_signatures(&mut self, more: Vec<NoteSignature>) -> Result<(), NoteError> {
        let before = self.signatures.len();
        self.signatures.extend(more);
        let checked = self.check();
        if checked.is_err() {
            self.signatures.truncate(before);
        }
        checked
    }

    /// Returns what the signature made with this key says, or `None` if the note has no signature of the key.
    ///
    /// Fails if a signature with the name and id of the key is wrong: such a note must be rejected, whatever
    /// other signatures it has. Of several signatures made with the key all are verified, and the first counts.
    pub fn verified_by(&self, key: &VerifierKey) -> Result<Option<SignatureTime>, NoteError> {
        let mut first = None;
        let by_key = |line: &&NoteSignature| line.name == key.name() && line.id == key.id();
        for line in self.signatures.iter().filter(by_key) {
            let wrong = || NoteError::WrongSignature(key.name().to_owned());
            let time = key.verify(&self.text, &line.bytes).ok_or_else(wrong)?;
            first.get_or_insert(time);
        }
        Ok(first)
    }

    fn check(&self) -> Result<(), NoteError> {
        if !self.text.ends_with('\n') || self.text.chars().any(|c| c != '\n' && is_control(c)) {
            return Err(NoteError::Format);
        }
        // Security: the signed bytes of a cosignature must not be taken for a note.
        if self.text.split('\n').next() == Some(COSIGNATURE) {
            return Err(NoteError::ReservedName);
        }
        if self.signatures.is_empty() {
            return Err(NoteError::Format);
        }
        let small = self.signatures.len() <= Self::SIGNATURES_MAX
            && self.to_string().len() <= Self::BYTES_MAX;
        if small { Ok(()) } else { Err(NoteError::TooLarge) }
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

impl FromStr for SignedNote {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        if note.len() > Self::BYTES_MAX {
            return Err(NoteError::TooLarge);
        }
        // The text may have empty lines: the last one is the end of it.
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteError::Format)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Format)?;
        let signatures = lines.split('\n').map(str::parse).collect::<Result<_, _>>()?;
        Self::new(&format!("{text}\n"), signatures)
    }
}

/// Signature line of a note, without its newline.
///
/// By itself it proves nothing: see [`SignedNote::verified_by`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl NoteSignature {
    /// Returns the name of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id of the key.
    #[must_use]
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// Returns the signature without the id; what it is made of depends on the kind of key.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.id.as_slice(), &self.bytes].concat();
        write!(out, "{DASH}{} {}", self.name, STANDARD.encode_to_string(bytes))
    }
}

impl FromStr for NoteSignature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, NoteError> {
        let rest = line.strip_prefix(DASH).ok_or(NoteError::SignatureLine)?;
        let (name, base64) = rest.split_once(' ').ok_or(NoteError::SignatureLine)?;
        check_name(name)?;
        let bytes = STANDARD.decode_to_vec(base64).map_err(|_| NoteError::SignatureLine)?;
        let (id, bytes) = bytes.split_first_chunk().ok_or(NoteError::SignatureLine)?;
        if bytes.is_empty() {
            return Err(NoteError::SignatureLine);
        }
        Ok(Self { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
    }
}

/// Time that a verified signature states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureTime {
    /// Seconds since 1970 for a cosignature, by the clock of its signer; `None` for a log's plain signature.
    pub seconds: Option<u64>,
}

/// Error returned for notes, checkpoints and keys that are malformed or do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Text that is not a verifier key.
    #[error("a verifier key is a name, 8 hexadecimal digits and 33 bytes in base64, joined by +")]
    VerifierKey,
    /// Verifier key of another signature type.
    #[error("signature type {0} is not supported: 1 (log) and 4 (cosigner) are, both with Ed25519")]
    SignatureKind(u8),
    /// Verifier key with an id of another name or key.
    #[error("the 8 hexadecimal digits of the verifier key do not belong to its name and key")]
    KeyId,
    /// Name that a key cannot have.
    #[error("a key's name has at least one character and no space, control character or +")]
    KeyName,
    /// Origin or name that is set aside for cosignatures.
    #[error("{COSIGNATURE} cannot be the name of a journal")]
    ReservedName,
    /// Text that is not a private key.
    #[error("a signing key is an unencrypted Ed25519 private key in PKCS#8 PEM (PRIVATE KEY)")]
    PrivateKey,
    /// Text that is not a signed note.
    #[error("a note is text, an empty line and signature lines, without other control characters")]
    Format,
    /// Line of a note that is not a signature.
    #[error("a signature line is a dash (U+2014), a name and a signature in base64")]
    SignatureLine,
    /// Note above the limits.
    #[error(
        "a note has at most {} bytes and {} signatures",
        SignedNote::BYTES_MAX,
        SignedNote::SIGNATURES_MAX
    )]
    TooLarge,
    /// Signature that is wrong, though it has the name and id of the key.
    #[error("the signature of {0} is wrong")]
    WrongSignature(String),
    /// Text that is not a checkpoint.
    #[error("a checkpoint is three lines: origin, size and root")]
    Checkpoint,
    /// Time that a cosignature cannot state.
    #[error("a cosignature's time is below 2^63 seconds")]
    Time,
    /// Failure of the cryptographic library.
    #[error("the cryptographic library failed to make a key or signature")]
    Library,
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let wrong = |c: char| c == '+' || c.is_whitespace() || is_control(c);
    if name.is_empty() || name.contains(wrong) { Err(NoteError::KeyName) } else { Ok(()) }
}

/// Returns true for the characters that no note may have, apart from the newline.
const fn is_control(c: char) -> bool {
    c < ' '
}

/// First line of what a cosigner signs.
const COSIGNATURE: &str = "cosignature/v1";
/// Begin of a signature line: an em dash and a space.
const DASH: &str = "\u{2014} ";

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::key::{SECONDS_MAX, cosigned, line, to_pem};
    use super::*;

    /// Key pair and note of the tests of Go's golang.org/x/mod/sumdb/note.
    const GO_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_SEED: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const GO_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    /// Example of the specification of signed notes.
    const SPEC_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const SPEC_NOTE: &str = "This is an example message.\n\n\
        — example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    /// Example of the specification of cosignatures, whose keys are not known.
    const SPEC_COSIGNED: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        — witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";
    const SPEC_TIME: u64 = 1_679_315_147;

    /// Verifier keys and note for that text and time with Go's key, as Python's `cryptography` makes them.
    const SOFA_KEYS: [&str; 2] = [
        "example.com/behind-the-sofa+bed5581b+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "example.com/behind-the-sofa+86e73f82+BBpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ];
    const SOFA_NOTE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        — example.com/behind-the-sofa vtVYG5/3L9NHv4CxP0XTzEcSuWnwY/BYfHU7NnQPhQyrEuH+AqeHvF+HXNvu8ujR9RQHE17Tcer4sDE9uIi/Yx6ihwc=\n\
        — example.com/behind-the-sofa huc/ggAAAABkGFDLJeR//pqzhnEKVvEm2wWbh2RJ6oru5+cUUfm5X9NnlaGr8aSH9QE5RVZD4QGlxl2F5UpVIIi94p178KLfqPPsAA==\n";

    const UNTIMED: Result<Option<SignatureTime>, NoteError> =
        Ok(Some(SignatureTime { seconds: None }));

    const fn timed(seconds: u64) -> Result<Option<SignatureTime>, NoteError> {
        Ok(Some(SignatureTime { seconds: Some(seconds) }))
    }

    fn go_signer(name: &str) -> CheckpointSigner {
        let seed = STANDARD.decode_to_vec(GO_SEED).unwrap();
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend_from_slice(&seed[1..]);
        CheckpointSigner::from_pkcs8_pem(&to_pem(&der), name).unwrap()
    }

    fn checkpoint(origin: &str, size: u64) -> String {
        let head = TreeHead { size, root: TreeHash::leaf(&[1; 32]) };
        Checkpoint::new(origin, head).unwrap().to_string()
    }

    fn signed(signer: &CheckpointSigner, text: &str, now_s: u64) -> SignedNote {
        SignedNote::new(text, signer.sign(text, now_s).unwrap()).unwrap()
    }

    fn note(text: &str) -> Result<SignedNote, NoteError> {
        text.parse()
    }

    fn key(text: &str) -> Result<VerifierKey, NoteError> {
        text.parse()
    }

    /// Runs `openssl` if there is one; returns what it wrote.
    fn openssl(arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        let mut command = Command::new("openssl");
        let mut child = command.args(arguments).stdin(stdin).stdout(stdout).spawn().ok()?;
        child.stdin.take().unwrap().write_all(input).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{arguments:?}");
        Some(done.stdout)
    }

    #[test]
    fn notes_of_others_are_verified() {
        for (vkey, text) in [(GO_KEY, GO_NOTE), (SPEC_KEY, SPEC_NOTE)] {
            let (note, key) = (note(text).unwrap(), key(vkey).unwrap());
            assert_eq!((note.to_string(), key.to_string()), (text.to_owned(), vkey.to_owned()));
            assert_eq!(note.verified_by(&key), UNTIMED);
            assert_eq!(note.verified_by(&key.as_cosigner()), Ok(None));
        }
    }

    #[test]
    fn a_note_is_signed_as_others_sign_it() {
        let signer = go_signer("PeterNeumann");
        assert_eq!(signer.verifier().to_string(), GO_KEY);
        let text = note(GO_NOTE).unwrap().text;
        let signature = line(signer.verifier(), signer.signature(&text).unwrap());
        assert_eq!(SignedNote::new(&text, vec![signature]).unwrap().to_string(), GO_NOTE);
    }

    #[test]
    fn a_checkpoint_is_signed_and_cosigned_as_others_do() {
        let signer = go_signer("example.com/behind-the-sofa");
        let [log, cosigner] = SOFA_KEYS.map(|vkey| key(vkey).unwrap());
        assert_eq!((signer.verifier(), signer.verifier().as_cosigner()), (&log, cosigner.clone()));
        let text = note(SPEC_COSIGNED).unwrap().text;
        let signed = signed(&signer, &text, SPEC_TIME);
        assert_eq!(signed.to_string(), SOFA_NOTE);
        assert_eq!(signed.verified_by(&log), UNTIMED);
        assert_eq!(signed.verified_by(&cosigner), timed(SPEC_TIME));
    }

    #[test]
    fn the_cosigned_example_is_read() {
        let note = note(SPEC_COSIGNED).unwrap();
        assert_eq!(note.to_string(), SPEC_COSIGNED);
        let checkpoint: Checkpoint = note.text().parse().unwrap();
        assert_eq!(
            (checkpoint.origin(), checkpoint.size),
            ("example.com/behind-the-sofa", 20_852_163)
        );
        assert_eq!(checkpoint.to_string(), note.text());
        assert_eq!(checkpoint.head(), TreeHead { size: checkpoint.size, root: checkpoint.root });
        let [_, witness] = note.signatures() else { panic!("two signatures") };
        assert_eq!((witness.name(), witness.bytes().len()), ("witness.example.com/w1", 72));
        assert_eq!(witness.bytes()[..8], SPEC_TIME.to_be_bytes());
    }

    #[test]
    fn every_change_of_a_known_note_is_noticed() {
        let keys = SOFA_KEYS.map(|vkey| key(vkey).unwrap());
        for place in 0..SOFA_NOTE.len() {
            for bit in 0..8 {
                let mut bytes = SOFA_NOTE.as_bytes().to_vec();
                bytes[place] ^= 1 << bit;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                let Ok(note) = note(&text) else { continue };
                let verified =
                    keys.each_ref().map(|key| matches!(note.verified_by(key), Ok(Some(_))));
                assert_ne!(verified, [true, true], "{text}");
            }
        }
    }

    #[test]
    fn every_change_of_a_verifier_key_is_noticed() {
        for place in 0..GO_KEY.len() {
            for bit in 0..8 {
                let mut bytes = GO_KEY.as_bytes().to_vec();
                bytes[place] ^= 1 << bit;
                assert!(String::from_utf8(bytes).ok().is_none_or(|text| key(&text).is_err()));
            }
            assert!(key(&GO_KEY[..place]).is_err() && key(&GO_KEY[place + 1..]).is_err());
        }
    }

    #[test]
    fn wrong_verifier_keys_are_named() {
        let public = key(GO_KEY).unwrap().public;
        let base64 = |bytes: &[u8]| STANDARD.encode_to_string(bytes);
        for (text, error) in [
            (String::new(), NoteError::VerifierKey),
            ("PeterNeumann+c74f20a3".to_owned(), NoteError::VerifierKey),
            ("PeterNeumann+c74f20a3+?".to_owned(), NoteError::VerifierKey),
            ("PeterNeumann+c74f20a3+".to_owned(), NoteError::VerifierKey),
            (format!("{GO_KEY}AAAA"), NoteError::VerifierKey),
            (
                format!("x+c74f20a3+{}", base64(&[[6].as_slice(), &public].concat())),
                NoteError::SignatureKind(6),
            ),
            (GO_KEY.replace("c74f20a3", "c74f20a4"), NoteError::KeyId),
            (GO_KEY.replace("c74f20a3", "C74F20A3"), NoteError::KeyId),
            (GO_KEY.replace("c74f20a3", "0c74f20a3"), NoteError::KeyId),
            (GO_KEY.replace("Peter", "Paul"), NoteError::KeyId),
            (GO_KEY.replace("PeterNeumann", ""), NoteError::KeyName),
            (GO_KEY.replace("rN", "r N"), NoteError::KeyName),
        ] {
            assert_eq!(key(&text), Err(error), "{text}");
        }
        for name in ["", "a b", "a\u{a0}b", "a\u{2003}b", "a\u{85}", "a\n", "a\u{1}", "a+b"] {
            assert_eq!(VerifierKey::new(name, SignatureKind::Log, public), Err(NoteError::KeyName));
        }
        assert!(VerifierKey::new("äöü/—", SignatureKind::Log, public).is_ok());
    }

    #[test]
    fn malformed_notes_are_rejected() {
        let sign = "— PeterNeumann x08go/ZJ";
        for (text, error) in [
            (String::new(), NoteError::Format),
            ("text\n".to_owned(), NoteError::Format),
            (format!("text\n{sign}\n"), NoteError::Format),
            (format!("text\n\n{sign}"), NoteError::Format),
            (format!("\r\n\n{sign}\n"), NoteError::Format),
            (format!("te\txt\n\n{sign}\n"), NoteError::Format),
            (format!("te\0xt\n\n{sign}\n"), NoteError::Format),
            (format!("\n{sign}\n"), NoteError::Format),
            ("text\n\n".to_owned(), NoteError::Format),
            ("text\n\n\n".to_owned(), NoteError::Format),
            (format!("text\n\n{sign}\n\n"), NoteError::Format),
            (format!("text\n\n{sign}\r\n"), NoteError::SignatureLine),
            (format!("text\n\n{sign}\nx\n"), NoteError::SignatureLine),
            ("text\n\n- PeterNeumann x08go/ZJ\n".to_owned(), NoteError::SignatureLine),
            ("text\n\n—PeterNeumann x08go/ZJ\n".to_owned(), NoteError::SignatureLine),
            ("text\n\n— PeterNeumann\n".to_owned(), NoteError::SignatureLine),
            ("text\n\n— PeterNeumann \n".to_owned(), NoteError::SignatureLine),
            ("text\n\n— PeterNeumann x08go\n".to_owned(), NoteError::SignatureLine),
            ("text\n\n— PeterNeumann x08gow==\n".to_owned(), NoteError::SignatureLine),
            ("text\n\n— PeterNeumann x08go/ZJ \n".to_owned(), NoteError::SignatureLine),
            ("text\n\n— PeterNeumann x08go/ZK=\n".to_owned(), NoteError::SignatureLine),
            ("text\n\n— Peter Neumann x08go/ZJ\n".to_owned(), NoteError::SignatureLine),
            ("text\n\n—  x08go/ZJ\n".to_owned(), NoteError::KeyName),
            ("text\n\n— Peter+Neumann x08go/ZJ\n".to_owned(), NoteError::KeyName),
            ("text\n\n— Peter\u{a0}Neumann x08go/ZJ\n".to_owned(), NoteError::KeyName),
            ("text\n\n— Peter\u{7}Neumann x08go/ZJ\n".to_owned(), NoteError::KeyName),
            (format!("cosignature/v1\ntime 1\n\n{sign}\n"), NoteError::ReservedName),
        ] {
            assert_eq!(note(&text), Err(error), "{text}");
        }
        for text in ["\n", "\n\n", "a\n\n", "a\n\nb\n", "— PeterNeumann x08go/ZJ\n"] {
            let whole = format!("{text}\n{sign}\n");
            assert_eq!(note(&whole).unwrap().text(), text);
            assert_eq!(note(&whole).unwrap().to_string(), whole);
        }
    }

    #[test]
    fn notes_have_a_largest_size() {
        let line: NoteSignature = "— PeterNeumann x08go/ZJ".parse().unwrap();
        let most = vec![line.clone(); SignedNote::SIGNATURES_MAX];
        let mut full = SignedNote::new("text\n", most).unwrap();
        assert_eq!(note(&full.to_string()).as_ref(), Ok(&full));
        assert_eq!(note(&format!("{full}{line}\n")), Err(NoteError::TooLarge));
        let before = full.clone();
        assert_eq!(full.add_signatures(vec![line.clone()]), Err(NoteError::TooLarge));
        assert_eq!(full, before);

        let end = format!("\n\n{line}\n");
        let longest = format!("{}{end}", "x".repeat(SignedNote::BYTES_MAX - end.len()));
        assert!(note(&longest).is_ok());
        assert_eq!(note(&format!("x{longest}")), Err(NoteError::TooLarge));
        let text = format!("{}\n", "x".repeat(SignedNote::BYTES_MAX));
        assert_eq!(SignedNote::new(&text, vec![line.clone()]), Err(NoteError::TooLarge));

        assert_eq!(SignedNote::new("text\n", Vec::new()), Err(NoteError::Format));
        assert_eq!(SignedNote::new("text", vec![line]), Err(NoteError::Format));
    }

    #[test]
    fn a_wrong_signature_of_a_known_key_rejects_the_note() {
        let signer = go_signer("gw/1");
        let (log, clock) = (signer.verifier(), signer.verifier().as_cosigner());
        let right = signed(&signer, &checkpoint("gw/1", 7), 5);
        let wrong = Err(NoteError::WrongSignature("gw/1".to_owned()));

        // The text of another size under the same signatures.
        let other = SignedNote::new(&checkpoint("gw/1", 8), right.signatures.clone()).unwrap();
        assert_eq!(
            (other.verified_by(log), other.verified_by(&clock)),
            (wrong.clone(), wrong.clone())
        );

        // A right signature does not make up for a wrong one, in whatever order.
        let lines = [right.signatures.clone(), other_signatures(&signer)];
        for lines in [lines.concat(), lines.into_iter().rev().collect::<Vec<_>>().concat()] {
            let note = SignedNote::new(right.text(), lines).unwrap();
            assert_eq!(
                (note.verified_by(log), note.verified_by(&clock)),
                (wrong.clone(), wrong.clone())
            );
        }

        // A signature of the one kind is none of the other, and one that is cut is none at all.
        let [first, second] = right.signatures() else { panic!("two signatures") };
        for bytes in [&second.bytes[..], &second.bytes[8..], &first.bytes[1..], &first.bytes[..1]] {
            let note = SignedNote::new(right.text(), vec![line(log, bytes.to_vec())]).unwrap();
            assert_eq!(note.verified_by(log), wrong);
        }
        for bytes in [&first.bytes[..], &second.bytes[1..], &second.bytes[..8], &second.bytes[..1]]
        {
            let note = SignedNote::new(right.text(), vec![line(&clock, bytes.to_vec())]).unwrap();
            assert_eq!(note.verified_by(&clock), wrong);
        }
    }

    fn other_signatures(signer: &CheckpointSigner) -> Vec<NoteSignature> {
        signer.sign(&checkpoint("gw/1", 9), 5).unwrap()
    }

    #[test]
    fn signatures_of_unknown_keys_are_ignored() {
        let pem = CheckpointSigner::generate_pem().unwrap();
        let stranger = CheckpointSigner::from_pkcs8_pem(&pem, "gw/1").unwrap();
        let signer = go_signer("gw/1");
        let text = checkpoint("gw/1", 7);
        let mut note = signed(&signer, &text, 5);
        assert_eq!(note.verified_by(stranger.verifier()), Ok(None));
        note.add_signatures(stranger.sign(&text, 9).unwrap()).unwrap();
        assert_eq!(note.signatures().len(), 4);
        assert_eq!(note.verified_by(signer.verifier()), UNTIMED);
        assert_eq!(note.verified_by(&stranger.verifier().as_cosigner()), timed(9));
        assert_eq!(note.verified_by(go_signer("gw/2").verifier()), Ok(None));
        assert_eq!(note.to_string().parse(), Ok(note));
    }

    #[test]
    fn the_time_of_a_cosignature_is_signed() {
        let signer = go_signer("gw/1");
        let (text, clock) = (checkpoint("gw/1", 7), signer.verifier().as_cosigner());
        for now_s in [0, 1, SPEC_TIME, SECONDS_MAX] {
            assert_eq!(signed(&signer, &text, now_s).verified_by(&clock), timed(now_s));
        }
        assert_eq!(signer.sign(&text, SECONDS_MAX + 1), Err(NoteError::Time));
        let wrong = Err(NoteError::WrongSignature("gw/1".to_owned()));
        let late = SECONDS_MAX + 1;
        let signature = signer.signature(&cosigned(&text, late)).unwrap();
        let line = line(&clock, [late.to_be_bytes().to_vec(), signature].concat());
        assert_eq!(SignedNote::new(&text, vec![line]).unwrap().verified_by(&clock), wrong);
        let mut note = signed(&signer, &text, 5);
        note.signatures[1].bytes[7] ^= 1;
        assert_eq!(note.verified_by(&clock), wrong);
        // Of two, the first counts.
        let mut note = signed(&signer, &text, 5);
        note.add_signatures(signer.sign(&text, 6).unwrap()).unwrap();
        assert_eq!(note.verified_by(&clock), timed(5));
    }

    #[test]
    fn a_cosignature_is_not_taken_for_a_note() {
        let pem = CheckpointSigner::generate_pem().unwrap();
        let refused = CheckpointSigner::from_pkcs8_pem(&pem, COSIGNATURE);
        assert_eq!(refused.unwrap_err(), NoteError::ReservedName);
        let signer = go_signer("gw/1");
        let text = cosigned(&checkpoint("gw/1", 7), 5);
        let signature = line(signer.verifier(), signer.signature(&text).unwrap());
        assert_eq!(SignedNote::new(&text, vec![signature]), Err(NoteError::ReservedName));
        assert_eq!(signer.sign(&text, 5), Err(NoteError::Checkpoint));
    }

    #[test]
    fn only_exact_checkpoints_are_read_and_signed() {
        let signer = go_signer("gw/1");
        let text = checkpoint("gw/1", 7);
        let root = TreeHash::leaf(&[1; 32]);
        assert!(text.parse::<Checkpoint>().is_ok());
        for wrong in [
            String::new(),
            "\n".to_owned(),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            format!("\n{text}"),
            format!("{text}\nx\n"),
            format!("gw/1\n7\n\n{root}\n"),
            format!("\n7\n{root}\n"),
            format!("gw/1\n\n{root}\n"),
            format!("gw/1\n07\n{root}\n"),
            format!("gw/1\n+7\n{root}\n"),
            format!("gw/1\n-7\n{root}\n"),
            format!("gw/1\n 7\n{root}\n"),
            format!("gw/1\n7 \n{root}\n"),
            format!("gw/1\n0x7\n{root}\n"),
            format!("gw/1\n18446744073709551616\n{root}\n"),
            format!("gw/1\r\n7\n{root}\n"),
            format!("gw/1\n7\n{root}\r\n"),
            format!("gw/1\n7\n{root}=\n"),
            "gw/1\n7\n".to_owned(),
            "gw/1\n7\nAAAA\n".to_owned(),
        ] {
            assert_eq!(wrong.parse::<Checkpoint>(), Err(NoteError::Checkpoint), "{wrong}");
            assert_eq!(signer.sign(&wrong, 1), Err(NoteError::Checkpoint));
        }
        let extended = format!("{text}extension\n");
        assert_eq!(extended.parse::<Checkpoint>(), text.parse());
        assert_eq!(signer.sign(&extended, 1), Err(NoteError::Checkpoint));
        for origin in ["", "gw/1\n5", "a\r", "a\0"] {
            let head = TreeHead { size: 7, root };
            assert_eq!(Checkpoint::new(origin, head), Err(NoteError::Checkpoint));
        }
        for size in [0, 10, u64::MAX] {
            assert_eq!(checkpoint("a b", size).parse::<Checkpoint>().unwrap().size, size);
        }
    }

    #[test]
    fn keys_of_both_forms_are_read_and_others_refused() {
        let pem = CheckpointSigner::generate_pem().unwrap();
        let signer = CheckpointSigner::from_pkcs8_pem(&pem, "gw/1").unwrap();
        let longer = to_pem(signer.keys.to_pkcs8().unwrap().as_ref());
        let bare = pem.replace('\n', "\r\n");
        let commented = format!("# of gw/1\n{pem}\nmore\n");
        for pem in [&longer, &bare, &commented] {
            let same = CheckpointSigner::from_pkcs8_pem(pem, "gw/1").unwrap();
            assert_eq!(same.verifier(), signer.verifier());
        }
        for wrong in [
            "",
            pem.lines().next().unwrap(),
            &pem.replace("PRIVATE", "EC PRIVATE"),
            &pem.replace("MC", "MD"),
        ] {
            let refused = CheckpointSigner::from_pkcs8_pem(wrong, "gw/1");
            assert_eq!(refused.unwrap_err(), NoteError::PrivateKey);
        }
        let refused = CheckpointSigner::from_pkcs8_pem(&pem, "g w");
        assert_eq!(refused.unwrap_err(), NoteError::KeyName);
        assert_ne!(CheckpointSigner::generate_pem(), Ok(pem));
    }

    #[test]
    fn a_signer_does_not_show_its_private_key() {
        let shown = format!("{:?}", go_signer("gw/1"));
        assert!(
            shown.starts_with("CheckpointSigner { verifier: VerifierKey")
                && shown.ends_with(", .. }")
        );
        let seed = STANDARD.decode_to_vec(GO_SEED).unwrap();
        assert!(!shown.contains(&format!("{:?}", &seed[1..]).replace(['[', ']'], "")));
    }

    #[test]
    fn openssl_reads_our_keys_and_we_read_its_keys() {
        let ours = CheckpointSigner::generate_pem().unwrap();
        let Some(theirs) = openssl(&["genpkey", "-algorithm", "ed25519"], b"") else { return };
        for pem in [ours, String::from_utf8(theirs).unwrap()] {
            let signer = CheckpointSigner::from_pkcs8_pem(&pem, "gw/1").unwrap();
            let public = openssl(&["pkey", "-pubout", "-outform", "DER"], pem.as_bytes()).unwrap();
            assert!(public.ends_with(&signer.verifier().public));
            let written = openssl(&["pkey"], pem.as_bytes()).unwrap();
            assert_eq!(written, pem.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(
            text in "(\\PC|\n){0,40}",
            lines in "(— [^\\p{Z}\\p{C}+]{1,9} [A-Za-z0-9+/]{8}\n){0,3}",
        ) {
            let whole = format!("{text}\n\n{lines}");
            if let Ok(note) = note(&whole) {
                prop_assert_eq!(note.to_string(), whole);
            }
            if let Ok(checkpoint) = text.parse::<Checkpoint>() {
                prop_assert!(text.starts_with(&checkpoint.to_string()));
            }
            if let Ok(key) = key(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn a_signed_checkpoint_is_read_and_verified(
            origin in "[^\\p{Z}\\p{C}+]{1,20}",
            size in any::<u64>(),
            root in any::<[u8; 32]>(),
            now_s in 0..=SECONDS_MAX,
        ) {
            let signer = go_signer(&origin);
            let head = TreeHead { size, root: root.into() };
            let text = Checkpoint::new(&origin, head).unwrap().to_string();
            let note = note(&signed(&signer, &text, now_s).to_string()).unwrap();
            prop_assert_eq!(note.text().parse::<Checkpoint>().unwrap().head(), head);
            let read = key(&signer.verifier().to_string());
            prop_assert_eq!(read.as_ref(), Ok(signer.verifier()));
            prop_assert_eq!(note.verified_by(signer.verifier()), UNTIMED);
            prop_assert_eq!(note.verified_by(&signer.verifier().as_cosigner()), timed(now_s));
        }
    }
}
