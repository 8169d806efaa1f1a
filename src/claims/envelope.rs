//! Token as it is sent: one header with three parts, of which the first states that the token is unsigned.

use base64_simd::URL_SAFE_NO_PAD;
use http::header::{self, HeaderMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::strict::{JsonText, members};
use crate::refusal::{Refusal, TokenForm};

/// Limit: bytes of the `Authorization` header, checked before anything is decoded.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Treatment of a token's third part, the signature, if it is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signature {
    /// Spec: the signature must be empty.
    #[default]
    Refused,
    /// Lab: the signature and the header are ignored.
    Ignored,
}

/// Returns the payload of a request's token, decoded.
///
/// # Errors
/// Returns the refusal if there is no token, or its header or encoding is not allowed; claims are not checked
/// here.
pub fn payload(headers: &HeaderMap, signature: Signature) -> Result<String, Refusal> {
    decode(bearer(headers)?, signature)
}

pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::TokenMissing)?;
    if values.next().is_some() {
        return Err(Refusal::TokenRepeated);
    }
    if value.len() > TOKEN_BYTES_MAX {
        return Err(Refusal::TokenTooLong);
    }
    let text = value.to_str().map_err(|_| Refusal::AuthorizationMalformed)?;
    let (scheme, token) = cut(text, b' ').ok_or(Refusal::AuthorizationMalformed)?;
    // Spec: RFC 9110 §11.4, one space or more.
    let token = token.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || cut(token, b' ').is_some() {
        return Err(Refusal::AuthorizationMalformed);
    }
    Ok(token)
}

/// Splits a text at the first `at`, with a vectorised search, since a token is the longest text of a request.
fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let end = memchr::memchr(at, text.as_bytes())?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// Decodes the second part of a token whose first part states `alg: none`.
fn decode(token: &str, signature: Signature) -> Result<String, Refusal> {
    let TokenParts { head, payload, signature: sent } = TokenParts::of(token)?;
    if signature == Signature::Refused {
        check_unsigned(sent)?;
        check_algorithm(&head)?;
    }
    decode_payload(payload)
}

const ENCODING: Refusal = Refusal::TokenMalformed(TokenForm::Encoding);

/// Parts of a token, the first decoded.
pub(super) struct TokenParts<'a> {
    pub(super) head: Vec<u8>,
    pub(super) payload: &'a str,
    pub(super) signature: &'a str,
}

impl<'a> TokenParts<'a> {
    /// Splits a token at its full stops.
    pub(super) fn of(token: &'a str) -> Result<Self, Refusal> {
        let (head, rest) = cut(token, b'.').ok_or(Refusal::TokenMalformed(TokenForm::Parts))?;
        let (payload, signature) =
            cut(rest, b'.').ok_or(Refusal::TokenMalformed(TokenForm::NoFinalStop))?;
        if cut(signature, b'.').is_some() {
            return Err(Refusal::TokenMalformed(TokenForm::Parts));
        }
        let head = URL_SAFE_NO_PAD.decode_to_vec(head).map_err(|_| ENCODING)?;
        Ok(Self { head, payload, signature })
    }
}

/// Spec: GP Connect tokens have no signature.
pub(super) fn check_unsigned(signature: &str) -> Result<(), Refusal> {
    if signature.is_empty() { Ok(()) } else { Err(Refusal::TokenSigned) }
}

pub(super) fn check_algorithm(head: &[u8]) -> Result<(), Refusal> {
    let head = std::str::from_utf8(head).map_err(|_| Refusal::TokenAlgorithm)?;
    let TokenHead { alg: JsonText(alg), typ: JsonText(typ) } =
        serde_json::from_str(head).map_err(|_| Refusal::TokenAlgorithm)?;
    if alg == "none" && typ == "JWT" { Ok(()) } else { Err(Refusal::TokenAlgorithm) }
}

pub(super) fn decode_payload(payload: &str) -> Result<String, Refusal> {
    let payload = URL_SAFE_NO_PAD.decode_to_vec(payload).map_err(|_| ENCODING)?;
    String::from_utf8(payload).map_err(|_| Refusal::TokenClaims)
}

#[derive(Default)]
struct TokenHead<'a> {
    alg: JsonText<'a>,
    typ: JsonText<'a>,
}

members!(TokenHead, is_open: false, alg: "alg", typ: "typ");
