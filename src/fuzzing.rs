//! Access for fuzz targets to private parsers and loops, as they are in use. It is not part of the public
//! interface and changes no behaviour.

use http::{HeaderMap, Request};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::commands::explain;
use crate::directory::{self, AccreditedSystem, Handler};
use crate::listener::{self, Answering, ListenerLimits, RefusedHead};
pub use crate::listener::{
    HEAD_BYTES_MAX, InputFault, PROXY_HEADER_BYTES_MAX, ProxyHeaderFault, Validator,
    proxy_header_length, proxy_header_source,
};
use crate::refusal::Refusal;
use crate::tls;
use crate::traces;
use spine_types::interaction::Interaction;
use spine_types::{Asid, CertificateName, CpaId, OdsCode, PartyKey};

/// Returns the request in an input of `explain` as bytes of HTTP/1.1; `None` for an id.
///
/// # Errors
/// Returns a text about an input that cannot be read.
pub fn explained_request(input: &[u8]) -> Result<Option<Vec<u8>>, String> {
    explain::request_bytes(input)
}

/// Registration in the Spine Directory Service, with the members that this proxy uses.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types describe the fields")]
pub struct LdapRow {
    pub asid: Option<Asid>,
    pub ods: Option<OdsCode>,
    pub party_key: PartyKey,
    pub cpa_id: Option<CpaId>,
    pub fqdn: Option<CertificateName>,
    pub interactions: Vec<&'static Interaction>,
}

/// Reads the registrations in an answer to `/Endpoint`.
///
/// # Errors
/// Returns the fault of an answer that cannot be used.
pub fn endpoints(body: &[u8]) -> Result<Vec<LdapRow>, String> {
    let row = |Handler { ods, party_key, interaction, address: _, cpa_id, fqdn }| LdapRow {
        asid: None,
        ods,
        party_key,
        cpa_id,
        fqdn,
        interactions: interaction.into_iter().collect(),
    };
    let handlers = directory::handlers(body).map_err(|fault| fault.to_string())?;
    Ok(handlers.into_iter().map(row).collect())
}

/// Reads the registrations in an answer to `/Device`.
///
/// # Errors
/// Returns the fault of an answer that cannot be used.
pub fn devices(body: &[u8]) -> Result<Vec<LdapRow>, String> {
    let row = |AccreditedSystem { asid, ods, party_key, interactions }| LdapRow {
        asid: Some(asid),
        ods,
        party_key,
        cpa_id: None,
        fqdn: None,
        interactions,
    };
    let systems = directory::systems(body).map_err(|fault| fault.to_string())?;
    Ok(systems.into_iter().map(row).collect())
}

/// Reads the revocation lists in a file, each in DER with the time of its next update, in seconds since 1970.
///
/// # Errors
/// Returns the fault of a file that cannot be used.
pub fn revocation_lists(file: Vec<u8>) -> Result<Vec<(Vec<u8>, i64)>, String> {
    tls::lists_in(file)
}

/// Serves a consumer's HTTP/1.1 connection as the listener does, with its default limits. `refuse` returns
/// the response to a head that is refused.
///
/// # Errors
/// Returns an error if the connection did not end normally.
pub async fn serve<S, B, F>(
    stream: S,
    answer: F,
    refuse: impl FnOnce(&Refusal, &[u8]) -> Vec<u8>,
) -> Result<(), Box<dyn std::error::Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    F: Fn(Request<Incoming>) -> Answering<B> + Unpin,
{
    let refuse = |head: &RefusedHead| refuse(&head.refusal, &head.bytes);
    let (limits, close) = (ListenerLimits::default(), CancellationToken::new());
    Ok(listener::serve(stream, &limits, close, answer, refuse).await?)
}

/// Trace context of a consumer that is continued.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names describe the fields")]
pub struct ContinuedContext {
    pub trace_id: [u8; 16],
    pub parent_id: [u8; 8],
    pub is_sampled: bool,
    pub passes_state: bool,
}

/// Reads the trace context of a request; `None` if there is none that is continued.
#[must_use]
pub fn continued_context(headers: &HeaderMap) -> Option<ContinuedContext> {
    let read = traces::ReceivedContext::read(headers)?;
    let traces::ReceivedContext { trace_id, parent_id, is_sampled, has_valid_state } = read;
    Some(ContinuedContext { trace_id, parent_id, is_sampled, passes_state: has_valid_state })
}
