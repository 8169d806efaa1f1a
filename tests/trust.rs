//! Certificates: who may speak, and from when on.

use gpconnect_simulator::pki::{KeyKind, Leaf};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use testkit::authority::{Authority, List, Wish};
use testkit::wire::Wire;
use testkit::{Answer, Call, Stage, call};

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

/// A stage that trusts this authority too, with lists of it and of whoever is below it.
async fn trusting(root: &Authority, others: &[&Authority], audit: &str) -> Stage {
    Stage::with(|files| {
        files.edit("ca.pem", |own| own + &root.pem());
        for authority in std::iter::once(&root).chain(others) {
            files.edit("crl.pem", |own| own + &authority.list(List::number(1)));
        }
        files.set("audit", audit);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_long_or_out_of_order_is_refused_before_a_path_is_built() {
    let root = Authority::root("Deep root");
    let mut subs = vec![root.below("Sub 0", None)];
    for number in 1..8 {
        subs.push(subs[number - 1].below(&format!("Sub {number}"), None));
    }
    let below: Vec<_> = subs.iter().collect();
    let mut stage = trusting(&root, &below, "").await;
    // With the leaf, seven authorities make eight certificates; webpki takes six below an anchor.
    stage.issued.insert("deep", subs[4].issue("hub.example.nhs.uk"));
    stage.issued.insert("long", subs[7].issue("hub.example.nhs.uk"));
    let mut large = stage.pki.issue(&Leaf::named("hub.example.nhs.uk")).unwrap();
    let names = (0..1000).map(|n| format!("n{n}.example.nhs.uk")).collect();
    large.chain.push_str(&stage.pki.issue(&Leaf { names, ..Leaf::named("x") }).unwrap().chain);
    stage.issued.insert("large", large);
    let mut strewn = stage.pki.issue(&Leaf::named("hub.example.nhs.uk")).unwrap();
    strewn.chain.push_str(&stage.issued["clinic"].chain);
    stage.issued.insert("strewn", strewn);
    // Made-up authorities of one name, each issued by the next: a search could take any order.
    let forger = Authority::root("Same");
    let made_up: String = (0..6).map(|_| forger.below("Same", None).pem()).collect();
    let mut same = forger.issue("hub.example.nhs.uk");
    same.chain.push_str(&made_up);
    stage.issued.insert("same", same);
    assert_eq!(stage.hears(Call::slots().certificate("deep")).await.status, 200);
    for (certificate, words) in [
        ("long", "more than 8 certificates"),
        ("large", "more than 8 certificates or 16 KiB"),
        ("strewn", "must be issued by the one sent after it"),
        ("same", "under a name of its own"),
    ] {
        let call = Call::slots().certificate(certificate);
        let answer = stage.refuses(call, "certificate_invalid").await;
        assert!(answer.text().contains(words), "{certificate}: {}", answer.text());
    }
    let long = subs[7].issue("provider.example.nhs.uk");
    let _provider = stage.moves_to_issued(&long).await;
    stage.refuses(Call::slots(), "provider_not_reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_kept_for_a_certificate_that_was_not_verified() {
    let stage = Stage::new().await;
    for (certificate, kind) in [
        ("hub", rustls::HandshakeKind::Resumed),
        ("foreign", rustls::HandshakeKind::Full),
        ("none", rustls::HandshakeKind::Full),
    ] {
        let tls = TlsConnector::from(stage.consumer_tls(certificate, b"http/1.1"));
        let mut last = None;
        for _ in 0..2 {
            let stream = TcpStream::connect(stage.address()).await.unwrap();
            let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
            let mut kept = Kept(Wire::new(tls.connect(name, stream).await.unwrap()));
            kept.hears(&Call::slots()).await;
            last = kept.0.stream.get_ref().1.handshake_kind();
        }
        assert_eq!(last, Some(kind), "{certificate}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cn_counts_only_alone_and_without_name_constraints() {
    let root = Authority::root("Naming root");
    let narrow = root.below("Narrow sub", Some("narrow.example.nhs.uk"));
    let mut stage = trusting(&root, &[&narrow], "unverified-per-second = 1").await;
    let wish = |common_names: &[&'static str], names: &[&'static str]| Wish {
        common_names: common_names.to_vec(),
        names: names.to_vec(),
        ..Wish::named("hub.example.nhs.uk")
    };
    let hub = "hub.example.nhs.uk";
    stage.issued.insert("alone", root.grant(&wish(&[hub], &[])));
    stage.issued.insert("beside", root.grant(&wish(&[hub], &["own.example.nhs.uk"])));
    stage.issued.insert("second", root.grant(&wish(&["own.example.nhs.uk", hub], &[])));
    stage.issued.insert("narrow", narrow.grant(&wish(&[hub], &[])));
    stage.issued.insert("narrow-san", narrow.grant(&wish(&[hub], &["own.narrow.example.nhs.uk"])));
    assert_eq!(stage.hears(Call::slots().certificate("alone")).await.status, 200);
    for certificate in ["beside", "second", "narrow", "narrow-san"] {
        // A line each: none of them is a stranger's, though two have no name.
        stage.refuses(Call::slots().certificate(certificate), "certificate_unknown").await;
    }
    for (authority, common_names, names, passes) in [
        (&root, &["provider.example.nhs.uk"][..], &[][..], true),
        (&narrow, &["provider.example.nhs.uk"], &[], false),
        (&root, &["own.example.nhs.uk", "provider.example.nhs.uk"], &[], false),
        (&root, &["provider.example.nhs.uk"], &["own.example.nhs.uk"], false),
    ] {
        let text = stage.text("spine-proxy.toml");
        if !text.contains("cn-fallback") {
            let text = text.replace("[provider-tls]\n", "[provider-tls]\ncn-fallback = true\n");
            stage.replace("spine-proxy.toml", &text);
        }
        let issued = authority.grant(&wish(common_names, names));
        let _provider = stage.moves_to_issued(&issued).await;
        let answer = stage.hears(Call::slots()).await;
        assert_eq!(answer.status == 200, passes, "{common_names:?} {names:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_may_not_sign_is_refused() {
    let root = Authority::root("Usage root");
    let mut stage = trusting(&root, &[], "").await;
    let usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
    let issued = root.grant(&Wish { usages, ..Wish::named("hub.example.nhs.uk") });
    stage.issued.insert("encipher", issued);
    let answer = stage.refuses(Call::slots().certificate("encipher"), "certificate_invalid").await;
    assert!(answer.text().contains("key usage"), "{}", answer.text());
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
        let tls = rustls::ClientConfig::builder_with_provider(testkit::stage::crypto())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(testkit::stage::roots(&stage.pki))
            .with_client_auth_cert(
                testkit::stage::chain(&stage.issued["hub"]),
                testkit::stage::key(&stage.issued["hub"]),
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
    stage.refuses(Call::slots(), "certificate_status_unknown").await;
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

/// Asks until a consumer is known, or is not.
async fn is_noticed(stage: &Stage, is_known: bool) {
    let expected = if is_known { None } else { Some("certificate_unknown") };
    while stage.hears(Call::slots()).await.token() != expected {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_noticed_however_a_file_is_changed() {
    let stage = Stage::new().await;
    let with = stage.text("directory.toml");
    let without = with.replace("hub.example.nhs.uk", "moved.example.nhs.uk");
    let file = stage.path("directory.toml");
    is_noticed(&stage, true).await;
    std::fs::write(&file, &without).unwrap();
    is_noticed(&stage, false).await;
    std::fs::write(stage.path("aside"), &with).unwrap();
    std::fs::rename(stage.path("aside"), &file).unwrap();
    is_noticed(&stage, true).await;
    // As Kubernetes mounts it: a link to a file behind a link to a folder, which is replaced.
    for (version, text) in [("..one", &without), ("..two", &with)] {
        std::fs::create_dir(stage.path(version)).unwrap();
        std::fs::write(stage.path(version).join("directory.toml"), text).unwrap();
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, stage.path("aside")).unwrap();
        std::fs::rename(stage.path("aside"), stage.path(name)).unwrap();
    };
    link("..one", "..data");
    link("..data/directory.toml", "directory.toml");
    is_noticed(&stage, false).await;
    link("..two", "..data");
    is_noticed(&stage, true).await;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &without).unwrap();
    is_noticed(&stage, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_last_good_one_in_force() {
    let stage = Stage::new().await;
    for (name, text, key) in [
        ("spine-proxy.toml", "nonsense", "line 1"),
        ("directory.toml", "[[consumer]]\nname = 1", ": directory.file: "),
        ("server.pem", "-----BEGIN CERTIFICATE-----\n", ": tls.certificates.chain: "),
        ("crl.pem", "half a li", ": provider-tls.crl: "),
    ] {
        let good = stage.text(name);
        stage.replace(name, text);
        let failure = stage.server.reload().await.unwrap_err().to_string();
        assert!(failure.contains(name) && failure.contains(key), "{failure}");
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
        testkit::stage::chain(&issued)[0].to_vec()
    };
    let rsa = Leaf { key: KeyKind::Rsa, ..Leaf::named("ssp.example.nhs.uk") };
    let rsa = put("rsa", rsa);
    let second = put("second", Leaf::named("second.example.nhs.uk"));
    stage.server.reload().await.unwrap();
    let first = testkit::stage::chain(&stage.issued["server"])[0].to_vec();
    let shown = |name: &'static str, schemes: Option<&'static [rustls::CipherSuite]>| {
        let stage = &stage;
        async move {
            let mut crypto = (*testkit::stage::crypto()).clone();
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
        testkit::stage::crypto().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aes_128_with_sha_256_is_chosen_whatever_order_a_consumer_offers() {
    let stage = Stage::new().await;
    let stream = Call::slots().connect(&stage).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
}
