//! TLS towards servers: providers and the directory's live sources.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ProviderLeg;
use super::chain::{self, ChainVerifier};
use super::files::{CertificateUse, TrustError};
use super::loader::{LegFiles, Loader};
use crate::refusal::CertificateFault;

/// Returns the TLS client settings towards providers for one trust generation.
///
/// Each generation has its own session store: no session outlives the trust that it was verified under.
pub(super) fn config(
    leg: &ProviderLeg,
    crypto: &Arc<CryptoProvider>,
    loader: &mut Loader,
) -> Result<ClientConfig, TrustError> {
    let ours = loader.key("provider-tls", &leg.certificate, crypto, CertificateUse::Client)?;
    let files = LegFiles {
        leg: "provider-tls",
        authorities: &leg.authorities,
        crl: &leg.crl,
        expired: leg.crl_expired,
        rollback: leg.crl_rollback,
        used_as: CertificateUse::ProviderCrl,
    };
    let chains = loader.verifier(&files, crypto)?;
    let verifier = ServerVerifier { chains, cn_fallback: leg.cn_fallback };
    let mut config = verifier
        .builder(crypto)
        .map_err(|error| TrustError::new(&leg.certificate.chain, error))?
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from((*ours).clone())));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Verifier of server certificates.
///
/// Spec: NHS endpoint certificates carry the host name in their CN. Only names in the SAN count, unless
/// `cn_fallback` is set and the SAN has no DNS name: then the only CN must equal the host name.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) chains: Arc<ChainVerifier>,
    pub(super) cn_fallback: bool,
}

impl ServerVerifier {
    /// Returns a builder of TLS client settings that use this verifier.
    pub(super) fn builder(
        self,
        crypto: &Arc<CryptoProvider>,
    ) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, rustls::Error>
    {
        Ok(ClientConfig::builder_with_provider(Arc::clone(crypto))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self)))
    }

    fn judge(
        &self,
        presented: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now_s: i64,
    ) -> Result<(), CertificateFault> {
        // Security: the name is checked last, on a chain that is otherwise valid.
        let accepted = self.chains.verify(presented, KeyUsage::server_auth(), now_s)?;
        let leaf = presented.first().ok_or(CertificateFault::Malformed)?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(|_| CertificateFault::Malformed)?;
        if end_entity.verify_is_valid_for_subject_name(name).is_ok() {
            return Ok(());
        }
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| CertificateFault::Malformed)?;
        let common = chain::only_common_name(&parsed);
        let is_named = common.is_some_and(|common| common.eq_ignore_ascii_case(&name.to_str()));
        if self.cn_fallback && !accepted.constrained && is_named {
            tracing::warn!(
                server = %name.to_str(),
                "the certificate of this server has no DNS name in its SAN and was accepted by its \
                 CN (cn-fallback)"
            );
            return Ok(());
        }
        Err(CertificateFault::Name(name.to_str().into()))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match self.judge(&presented, name, now_s) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(fault) => Err(CertificateError::Other(OtherError(Arc::new(fault))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.chains.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.chains.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.algorithms.supported_schemes()
    }
}
