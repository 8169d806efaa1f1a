//! Certificates: who may speak, and from when on.

use rustls::pki_types::ServerName;
use spine_proxy::commands::certs::{KeyKind, Leaf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::wire::Wire;
use crate::support::{Answer, Call, Stage, call};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_is_answered_with_its_reason_and_the_connection_closes() {
    let stage = Stage::new().await;
    for (certificate, token) in [
        ("none", "certificate_missing"),
        ("expired", "certificate_expired"),
        ("revoked", "certificate_revoked"),
        ("foreign", "certificate_invalid"),
        ("stranger", "certificate_unknown"),
    ] {
        let answer = stage.refuses(Call::slots().certificate(certificate), token).await;
        assert_eq!(answer.header("connection"), Some("close"), "{token}");
        stage.refuses(Call::slots().certificate(certificate).http2(), token).await;
    }
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_a_name_in_its_cn_alone_is_known_by_it() {
    let stage = Stage::new().await;
    assert_eq!(stage.hears(Call::slots().certificate("hub-cn")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_fails_the_handshake_where_configured() {
    let stage = Stage::with(|files| files.set("tls", "reject = \"handshake\"")).await;
    for certificate in ["none", "expired", "revoked", "foreign"] {
        let stream = Call::slots().certificate(certificate).connect(&stage).await;
        // TLS 1.3 tells the consumer only once it reads.
        if let Ok(stream) = stream {
            assert!(Wire::new(stream).head().await.is_none(), "{certificate}");
        }
    }
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

/// One keep-alive connection of the hub.
struct Kept(Wire<tokio_rustls::client::TlsStream<TcpStream>>);

impl Kept {
    async fn open(stage: &Stage) -> Self {
        Self(Wire::new(Call::slots().connect(stage).await.unwrap()))
    }

    async fn hears(&mut self, call: &Call) -> Answer {
        use tokio::io::AsyncWriteExt as _;
        self.0.stream.write_all(&call.bytes()).await.unwrap();
        call::hear(&mut self.0).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_felt_by_the_next_request_of_a_live_connection() {
    let stage = Stage::new().await;
    let mut kept = Kept::open(&stage).await;
    assert_eq!(kept.hears(&Call::slots()).await.status, 200);
    let revoked = [stage.issued["hub"].serial];
    stage.replace("crl.pem", &stage.pki.revocation_lists(&revoked, 30).unwrap());
    stage.server.reload().await.unwrap();
    assert_eq!(kept.hears(&Call::slots()).await.token(), Some("certificate_revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_does_not_outlive_a_revocation() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let stage = Stage::new().await;
        let tls = rustls::ClientConfig::builder_with_provider(crate::support::stage::crypto())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(crate::support::stage::roots(&stage.pki))
            .with_client_auth_cert(
                crate::support::stage::chain(&stage.issued["hub"]),
                crate::support::stage::key(&stage.issued["hub"]),
            )
            .unwrap();
        let connector = TlsConnector::from(std::sync::Arc::new(tls));
        let revoke = || async {
            let revoked = [stage.issued["hub"].serial];
            stage.replace("crl.pem", &stage.pki.revocation_lists(&revoked, 30).unwrap());
            stage.server.reload().await.unwrap();
        };
        for (round, token) in [(0, None), (1, None), (2, Some("certificate_revoked"))] {
            if round == 2 {
                revoke().await;
            }
            let stream = TcpStream::connect(stage.address()).await.unwrap();
            let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            let mut kept = Kept(Wire::new(stream));
            let answer = kept.hears(&Call::slots()).await;
            assert_eq!(answer.token(), token, "round {round}: {answer:?}");
            let kind = kept.0.stream.get_ref().1.handshake_kind();
            if round == 1 {
                assert_eq!(kind, Some(rustls::HandshakeKind::Resumed));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_revocation_list_denies_unless_it_is_accepted_in_writing() {
    let expired = |stage: &Stage| stage.pki.revocation_lists(&[], -1).unwrap();
    let stage = Stage::new().await;
    stage.replace("crl.pem", &expired(&stage));
    stage.server.reload().await.unwrap();
    stage.refuses(Call::slots(), "certificate_revoked").await;
    let stage = Stage::with(|files| {
        files.set("tls", "crl-expired = \"accept\"");
        files.set("provider-tls", "crl-expired = \"accept\"");
    })
    .await;
    stage.replace("crl.pem", &expired(&stage));
    stage.server.reload().await.unwrap();
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_any_file_is_seen_without_a_signal() {
    let stage = Stage::new().await;
    assert_eq!(stage.hears(Call::slots()).await.status, 200);
    let text = stage.text("directory.toml").replace("hub.example.nhs.uk", "moved.example.nhs.uk");
    stage.replace("directory.toml", &text);
    loop {
        let answer = stage.hears(Call::slots()).await;
        if answer.token() == Some("certificate_unknown") {
            break;
        }
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_last_good_one_in_force() {
    let stage = Stage::new().await;
    for (name, text) in [
        ("spine-proxy.toml", "nonsense"),
        ("directory.toml", "[[consumer]]\nname = 1"),
        ("server.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("crl.pem", "half a li"),
    ] {
        let good = stage.text(name);
        stage.replace(name, text);
        let failure = stage.server.reload().await.unwrap_err().to_string();
        assert!(failure.contains(name), "{failure}");
        assert_eq!(stage.hears(Call::slots()).await.status, 200, "{name}");
        stage.replace(name, &good);
    }
    stage.server.reload().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_certificate_answers_new_connections() {
    let stage = Stage::new().await;
    let names = vec!["ssp.example.nhs.uk".to_owned()];
    let renewed = stage.pki.issue(&Leaf { names, ..Leaf::named("ssp.example.nhs.uk") }).unwrap();
    stage.replace("server.pem", &renewed.chain);
    stage.replace("server.key", &renewed.key);
    let before = Call::slots().connect(&stage).await.unwrap();
    stage.server.reload().await.unwrap();
    let after = Call::slots().connect(&stage).await.unwrap();
    let leaf = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    assert_ne!(leaf(&before), leaf(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_chosen_by_name_and_key_type_and_the_first_is_the_default() {
    let stage = Stage::with(|files| {
        files.edit("spine-proxy.toml", |text| {
            text.replace(
                r#"certificates = [{ chain = "server.pem", key = "server.key" }]"#,
                r#"certificates = [
                    { chain = "server.pem", key = "server.key" },
                    { chain = "rsa.pem", key = "rsa.key" },
                    { chain = "second.pem", key = "second.key" },
                ]"#,
            )
        });
        // Stand-ins until the stage's own authority can issue the real ones.
        for name in ["rsa", "second"] {
            files.copy("server.pem", &format!("{name}.pem"));
            files.copy("server.key", &format!("{name}.key"));
        }
    })
    .await;
    let put = |name: &str, leaf: Leaf| {
        let issued = stage.pki.issue(&leaf).unwrap();
        stage.replace(&format!("{name}.pem"), &issued.chain);
        stage.replace(&format!("{name}.key"), &issued.key);
        crate::support::stage::chain(&issued)[0].to_vec()
    };
    let rsa = Leaf { key: KeyKind::Rsa, ..Leaf::named("ssp.example.nhs.uk") };
    let rsa = put("rsa", rsa);
    let second = put("second", Leaf::named("second.example.nhs.uk"));
    stage.server.reload().await.unwrap();
    let first = crate::support::stage::chain(&stage.issued["server"])[0].to_vec();
    let shown = |name: &'static str, schemes: Option<&'static [rustls::CipherSuite]>| {
        let stage = &stage;
        async move {
            let mut crypto = (*crate::support::stage::crypto()).clone();
            if let Some(suites) = schemes {
                crypto.cipher_suites.retain(|suite| suites.contains(&suite.suite()));
            }
            let config = rustls::ClientConfig::builder_with_provider(crypto.into())
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(std::sync::Arc::new(Anything))
                .with_no_client_auth();
            let stream = TcpStream::connect(stage.address()).await.unwrap();
            let name = ServerName::try_from(name).unwrap();
            let connector = TlsConnector::from(std::sync::Arc::new(config));
            let stream = connector.connect(name, stream).await.unwrap();
            stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
        }
    };
    const RSA: &[rustls::CipherSuite] =
        &[rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384];
    assert_eq!(shown("ssp.example.nhs.uk", None).await, first);
    assert_eq!(shown("ssp.example.nhs.uk", Some(RSA)).await, rsa);
    assert_eq!(shown("second.example.nhs.uk", None).await, second);
    assert_eq!(shown("unknown.example.nhs.uk", None).await, first);
    assert_eq!(shown("127.0.0.1", None).await, first, "no name is sent with an address");
    assert_eq!(shown("127.0.0.1", Some(RSA)).await, rsa, "key types stand side by side");
}

/// Takes any server certificate: the tests above look at which one came.
#[derive(Debug)]
struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        crate::support::stage::crypto().signature_verification_algorithms.supported_schemes()
    }
}
