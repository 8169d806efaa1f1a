//! Keys that verify and sign notes.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ED25519, ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair, UnparsedPublicKey,
};
use base64_simd::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

use super::{COSIGNATURE, Checkpoint, NoteError, NoteSignature, SignatureTime, check_name};

/// Kind of a key, which decides what its signatures are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureKind {
    /// Ed25519 over the text of the note, type 0x01: the log itself.
    Log,
    /// Ed25519 over a time and the text of the note, type 0x04: a witness, or the log's own clock.
    Cosigner,
}

impl SignatureKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Log => 1,
            Self::Cosigner => 4,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Log, Self::Cosigner].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Public key with the name of its owner, as somebody who verifies notes is given it.
///
/// Written as name, key id in hexadecimal digits, and type and key in base64, joined by plus signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    kind: SignatureKind,
    pub(super) public: [u8; ED25519_PUBLIC_KEY_LEN],
}

impl VerifierKey {
    /// Creates a key; fails if the name is empty or has spaces, control characters or plus signs.
    pub fn new(name: &str, kind: SignatureKind, public: [u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self::with_id(name, kind, public))
    }

    fn with_id(name: &str, kind: SignatureKind, public: [u8; 32]) -> Self {
        let hashed = [name.as_bytes(), &[b'\n', kind.byte()], &public].concat();
        let mut id = [0; 4];
        for (byte, hash) in id.iter_mut().zip(digest(&SHA256, &hashed).as_ref()) {
            *byte = *hash;
        }
        Self { name: name.to_owned(), id, kind, public }
    }

    /// Returns the key of the same name and owner that verifies cosignatures.
    #[must_use]
    pub fn as_cosigner(&self) -> Self {
        Self::with_id(&self.name, SignatureKind::Cosigner, self.public)
    }

    /// Returns the name of the owner.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id by which signature lines refer to the key.
    #[must_use]
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// Returns the kind of the key.
    #[must_use]
    pub const fn kind(&self) -> SignatureKind {
        self.kind
    }

    /// Returns what a signature of the text says, or `None` if it is wrong.
    pub(super) fn verify(&self, text: &str, bytes: &[u8]) -> Option<SignatureTime> {
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        match self.kind {
            SignatureKind::Log => {
                key.verify(text.as_bytes(), bytes).ok()?;
                Some(SignatureTime { seconds: None })
            }
            SignatureKind::Cosigner => {
                let (seconds, signature) = bytes.split_first_chunk()?;
                let seconds = u64::from_be_bytes(*seconds);
                key.verify(cosigned(text, seconds).as_bytes(), signature).ok()?;
                (seconds <= SECONDS_MAX).then_some(SignatureTime { seconds: Some(seconds) })
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id);
        let bytes = [&[self.kind.byte()], self.public.as_slice()].concat();
        write!(out, "{}+{id:08x}+{}", self.name, STANDARD.encode_to_string(bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        // The base64 may have plus signs too.
        let (name, rest) = text.split_once('+').ok_or(NoteError::VerifierKey)?;
        let (_, base64) = rest.split_once('+').ok_or(NoteError::VerifierKey)?;
        let bytes = STANDARD.decode_to_vec(base64).map_err(|_| NoteError::VerifierKey)?;
        let (kind, public) = bytes.split_first().ok_or(NoteError::VerifierKey)?;
        let kind = SignatureKind::from_byte(*kind).ok_or(NoteError::SignatureKind(*kind))?;
        let public = public.try_into().map_err(|_| NoteError::VerifierKey)?;
        let key = Self::new(name, kind, public)?;
        // All but the id is what was read, so that a difference is one of the id.
        if key.to_string() == text { Ok(key) } else { Err(NoteError::KeyId) }
    }
}

/// Private key of a log, which signs the log's checkpoints.
pub struct CheckpointSigner {
    pub(super) keys: Ed25519KeyPair,
    verifier: VerifierKey,
}

impl CheckpointSigner {
    /// Creates a signer from a private key in PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// Fails for other keys, and for a name that cannot be that of a key or that is `cosignature/v1`.
    pub fn from_pkcs8_pem(pem: &str, name: &str) -> Result<Self, NoteError> {
        // Security: the same key signs both notes and cosignatures, and only their first lines tell them apart.
        if name == COSIGNATURE {
            return Err(NoteError::ReservedName);
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|_| NoteError::PrivateKey)?;
        let keys = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der());
        let keys = keys.map_err(|_| NoteError::PrivateKey)?;
        let public = keys.public_key().as_ref().try_into().map_err(|_| NoteError::PrivateKey)?;
        let verifier = VerifierKey::new(name, SignatureKind::Log, public)?;
        Ok(Self { keys, verifier })
    }

    /// Returns a new private key in PKCS#8 PEM.
    pub fn generate_pem() -> Result<String, NoteError> {
        let keys = Ed25519KeyPair::generate().map_err(|_| NoteError::Library)?;
        let der = keys.to_pkcs8v1().map_err(|_| NoteError::Library)?;
        Ok(to_pem(der.as_ref()))
    }

    /// Returns the public key, as the key of a log.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs the text of a checkpoint twice: as the log, and as a cosigner at this time in seconds since 1970.
    ///
    /// Fails for a text that is not exactly a [`Checkpoint`], and for a time above 2^63 - 1.
    pub fn sign(&self, text: &str, now_s: u64) -> Result<Vec<NoteSignature>, NoteError> {
        if text.parse::<Checkpoint>()?.to_string() != text {
            return Err(NoteError::Checkpoint);
        }
        if now_s > SECONDS_MAX {
            return Err(NoteError::Time);
        }
        let log = self.signature(text)?;
        let cosigner = [now_s.to_be_bytes().to_vec(), self.signature(&cosigned(text, now_s))?];
        Ok(vec![line(&self.verifier, log), line(&self.verifier.as_cosigner(), cosigner.concat())])
    }

    pub(super) fn signature(&self, message: &str) -> Result<Vec<u8>, NoteError> {
        let signature = self.keys.try_sign(message.as_bytes()).map_err(|_| NoteError::Library)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for CheckpointSigner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CheckpointSigner")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

/// Returns the signature line of a key.
pub(super) fn line(key: &VerifierKey, bytes: Vec<u8>) -> NoteSignature {
    NoteSignature { name: key.name.clone(), id: key.id, bytes }
}

/// Returns what a cosigner signs.
pub(super) fn cosigned(text: &str, seconds: u64) -> String {
    format!("{COSIGNATURE}\ntime {seconds}\n{text}")
}

/// Puts the bytes of an Ed25519 key into PEM; they are 48, and so exactly one line of base64.
pub(super) fn to_pem(der: &[u8]) -> String {
    const LABEL: &str = "PRIVATE KEY";
    format!("-----BEGIN {LABEL}-----\n{}\n-----END {LABEL}-----\n", STANDARD.encode_to_string(der))
}

/// Maximum time of a cosignature in seconds since 1970.
pub(super) const SECONDS_MAX: u64 = u64::MAX >> 1;
