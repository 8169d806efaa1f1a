//! Certificates: which are accepted, and since when.

use gpconnect_simulator::pki::{KeyKind, Leaf};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use testkit::authority::{CertificateSpec, CrlSpec, TestAuthority};
use testkit::raw_connection::RawConnection;
use testkit::{Answer, TestBed, TestRequest, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_is_answered_with_its_reason_and_the_connection_closes() {
    let bed = TestBed::new().await;
    for (certificate, token) in [
        ("none", "certificate_missing"),
        ("expired", "certificate_expired"),
        ("revoked", "certificate_revoked"),
        ("foreign", "certificate_invalid"),
        ("stranger", "certificate_unknown"),
    ] {
        let answer = bed.expect_refusal(TestRequest::slots().certificate(certificate), token).await;
        assert_eq!(answer.header("connection"), Some("close"), "{token}");
        bed.expect_refusal(TestRequest::slots().certificate(certificate).http2(), token).await;
    }
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_a_name_in_its_cn_alone_is_known_by_it() {
    let bed = TestBed::new().await;
    assert_eq!(bed.send(TestRequest::slots().certificate("hub-cn")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_fails_the_handshake_where_configured() {
    let bed = TestBed::with(|files| files.set("tls", "reject = \"handshake\"")).await;
    for certificate in ["none", "expired", "revoked", "foreign"] {
        let stream = TestRequest::slots().certificate(certificate).connect(&bed).await;
        // TLS 1.3 tells the consumer only once it reads.
        if let Ok(stream) = stream {
            assert!(RawConnection::new(stream).head().await.is_none(), "{certificate}");
        }
    }
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

/// A test bed that trusts this authority too, with revocation lists of it and of its intermediates.
async fn trusting(root: &TestAuthority, others: &[&TestAuthority], audit: &str) -> TestBed {
    TestBed::with(|files| {
        files.edit("ca.pem", |own| own + &root.pem());
        for authority in std::iter::once(&root).chain(others) {
            files.edit("crl.pem", |own| own + &authority.revocation_list(CrlSpec::number(1)));
        }
        files.set("audit", audit);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_long_or_out_of_order_is_refused_before_a_path_is_built() {
    let root = TestAuthority::root("Deep root");
    let mut subs = vec![root.intermediate("Sub 0", None)];
    for number in 1..8 {
        subs.push(subs[number - 1].intermediate(&format!("Sub {number}"), None));
    }
    let below: Vec<_> = subs.iter().collect();
    let mut bed = trusting(&root, &below, "").await;
    // With the leaf, seven authorities make eight certificates; webpki takes six below an anchor.
    bed.issued.insert("deep", subs[4].issue("hub.example.nhs.uk"));
    bed.issued.insert("long", subs[7].issue("hub.example.nhs.uk"));
    let mut large = bed.pki.issue(&Leaf::named("hub.example.nhs.uk")).unwrap();
    let names = (0..1000).map(|n| format!("n{n}.example.nhs.uk")).collect();
    large.chain.push_str(&bed.pki.issue(&Leaf { names, ..Leaf::named("x") }).unwrap().chain);
    bed.issued.insert("large", large);
    let mut strewn = bed.pki.issue(&Leaf::named("hub.example.nhs.uk")).unwrap();
    strewn.chain.push_str(&bed.issued["clinic"].chain);
    bed.issued.insert("strewn", strewn);
    // Made-up authorities of one name, each issued by the next: a search could take any order.
    let forger = TestAuthority::root("Same");
    let made_up: String = (0..6).map(|_| forger.intermediate("Same", None).pem()).collect();
    let mut same = forger.issue("hub.example.nhs.uk");
    same.chain.push_str(&made_up);
    bed.issued.insert("same", same);
    assert_eq!(bed.send(TestRequest::slots().certificate("deep")).await.status, 200);
    for (certificate, words) in [
        ("long", "more than 8 certificates"),
        ("large", "more than 8 certificates or 16 KiB"),
        ("strewn", "must be issued by the one sent after it"),
        ("same", "under a name of its own"),
    ] {
        let call = TestRequest::slots().certificate(certificate);
        let answer = bed.expect_refusal(call, "certificate_invalid").await;
        assert!(answer.text().contains(words), "{certificate}: {}", answer.text());
    }
    let long = subs[7].issue("provider.example.nhs.uk");
    let _provider = bed.replace_provider_issued(&long).await;
    bed.expect_refusal(TestRequest::slots(), "provider_not_reached").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_kept_for_a_certificate_that_was_not_verified() {
    let bed = TestBed::new().await;
    for (certificate, kind) in [
        ("hub", rustls::HandshakeKind::Resumed),
        ("foreign", rustls::HandshakeKind::Full),
        ("none", rustls::HandshakeKind::Full),
    ] {
        let tls = TlsConnector::from(bed.consumer_tls(certificate, b"http/1.1"));
        let mut last = None;
        for _ in 0..2 {
            let stream = TcpStream::connect(bed.address()).await.unwrap();
            let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
            let mut kept = Kept(RawConnection::new(tls.connect(name, stream).await.unwrap()));
            kept.hears(&TestRequest::slots()).await;
            last = kept.0.stream.get_ref().1.handshake_kind();
        }
        assert_eq!(last, Some(kind), "{certificate}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cn_counts_only_alone_and_without_name_constraints() {
    let root = TestAuthority::root("Naming root");
    let narrow = root.intermediate("Narrow sub", Some("narrow.example.nhs.uk"));
    let mut bed = trusting(&root, &[&narrow], "unverified-per-second = 1").await;
    let wish = |common_names: &[&'static str], names: &[&'static str]| CertificateSpec {
        common_names: common_names.to_vec(),
        names: names.to_vec(),
        ..CertificateSpec::named("hub.example.nhs.uk")
    };
    let hub = "hub.example.nhs.uk";
    bed.issued.insert("alone", root.issue_as(&wish(&[hub], &[])));
    bed.issued.insert("beside", root.issue_as(&wish(&[hub], &["own.example.nhs.uk"])));
    bed.issued.insert("second", root.issue_as(&wish(&["own.example.nhs.uk", hub], &[])));
    bed.issued.insert("narrow", narrow.issue_as(&wish(&[hub], &[])));
    bed.issued.insert("narrow-san", narrow.issue_as(&wish(&[hub], &["own.narrow.example.nhs.uk"])));
    assert_eq!(bed.send(TestRequest::slots().certificate("alone")).await.status, 200);
    for certificate in ["beside", "second", "narrow", "narrow-san"] {
        // A line each: none of them is a stranger's, though two have no name.
        bed.expect_refusal(TestRequest::slots().certificate(certificate), "certificate_unknown")
            .await;
    }
    for (authority, common_names, names, passes) in [
        (&root, &["provider.example.nhs.uk"][..], &[][..], true),
        (&narrow, &["provider.example.nhs.uk"], &[], false),
        (&root, &["own.example.nhs.uk", "provider.example.nhs.uk"], &[], false),
        (&root, &["provider.example.nhs.uk"], &["own.example.nhs.uk"], false),
    ] {
        let text = bed.text("spine-proxy.toml");
        if !text.contains("cn-fallback") {
            let text = text.replace("[provider-tls]\n", "[provider-tls]\ncn-fallback = true\n");
            bed.replace("spine-proxy.toml", &text);
        }
        let issued = authority.issue_as(&wish(common_names, names));
        let _provider = bed.replace_provider_issued(&issued).await;
        let answer = bed.send(TestRequest::slots()).await;
        assert_eq!(answer.status == 200, passes, "{common_names:?} {names:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_may_not_sign_is_refused() {
    let root = TestAuthority::root("Usage root");
    let mut bed = trusting(&root, &[], "").await;
    let usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
    let issued =
        root.issue_as(&CertificateSpec { usages, ..CertificateSpec::named("hub.example.nhs.uk") });
    bed.issued.insert("encipher", issued);
    let answer = bed
        .expect_refusal(TestRequest::slots().certificate("encipher"), "certificate_invalid")
        .await;
    assert!(answer.text().contains("key usage"), "{}", answer.text());
}

/// One keep-alive connection of the hub.
struct Kept(RawConnection<tokio_rustls::client::TlsStream<TcpStream>>);

impl Kept {
    async fn open(bed: &TestBed) -> Self {
        Self(RawConnection::new(TestRequest::slots().connect(bed).await.unwrap()))
    }

    async fn hears(&mut self, call: &TestRequest) -> Answer {
        use tokio::io::AsyncWriteExt as _;
        self.0.stream.write_all(&call.bytes()).await.unwrap();
        request::read_answer(&mut self.0).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_felt_by_the_next_request_of_a_live_connection() {
    let bed = TestBed::new().await;
    let mut kept = Kept::open(&bed).await;
    assert_eq!(kept.hears(&TestRequest::slots()).await.status, 200);
    let revoked = [bed.issued["hub"].serial];
    bed.replace("crl.pem", &bed.pki.revocation_lists(&revoked, 30).unwrap());
    bed.server.reload().await.unwrap();
    assert_eq!(kept.hears(&TestRequest::slots()).await.token(), Some("certificate_revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_does_not_outlive_a_revocation() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let bed = TestBed::new().await;
        let tls = rustls::ClientConfig::builder_with_provider(testkit::test_bed::crypto())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(testkit::test_bed::roots(&bed.pki))
            .with_client_auth_cert(
                testkit::test_bed::chain(&bed.issued["hub"]),
                testkit::test_bed::key(&bed.issued["hub"]),
            )
            .unwrap();
        let connector = TlsConnector::from(std::sync::Arc::new(tls));
        let revoke = || async {
            let revoked = [bed.issued["hub"].serial];
            bed.replace("crl.pem", &bed.pki.revocation_lists(&revoked, 30).unwrap());
            bed.server.reload().await.unwrap();
        };
        for (round, token) in [(0, None), (1, None), (2, Some("certificate_revoked"))] {
            if round == 2 {
                revoke().await;
            }
            let stream = TcpStream::connect(bed.address()).await.unwrap();
            let name = ServerName::try_from("ssp.example.nhs.uk").unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            let mut kept = Kept(RawConnection::new(stream));
            let answer = kept.hears(&TestRequest::slots()).await;
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
    let expired = |bed: &TestBed| bed.pki.revocation_lists(&[], -1).unwrap();
    let bed = TestBed::new().await;
    bed.replace("crl.pem", &expired(&bed));
    bed.server.reload().await.unwrap();
    bed.expect_refusal(TestRequest::slots(), "certificate_status_unknown").await;
    let bed = TestBed::with(|files| {
        files.set("tls", "crl-expired = \"accept\"");
        files.set("provider-tls", "crl-expired = \"accept\"");
    })
    .await;
    bed.replace("crl.pem", &expired(&bed));
    bed.server.reload().await.unwrap();
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_any_file_is_seen_without_a_signal() {
    let bed = TestBed::new().await;
    assert_eq!(bed.send(TestRequest::slots()).await.status, 200);
    let text = bed.text("directory.toml").replace("hub.example.nhs.uk", "moved.example.nhs.uk");
    bed.replace("directory.toml", &text);
    loop {
        let answer = bed.send(TestRequest::slots()).await;
        if answer.token() == Some("certificate_unknown") {
            break;
        }
        assert_eq!(answer.status, 200);
    }
}

/// Asks until a consumer is known, or is not.
async fn is_noticed(bed: &TestBed, is_known: bool) {
    let expected = if is_known { None } else { Some("certificate_unknown") };
    while bed.send(TestRequest::slots()).await.token() != expected {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_noticed_however_a_file_is_changed() {
    let bed = TestBed::new().await;
    let with = bed.text("directory.toml");
    let without = with.replace("hub.example.nhs.uk", "moved.example.nhs.uk");
    let file = bed.path("directory.toml");
    is_noticed(&bed, true).await;
    std::fs::write(&file, &without).unwrap();
    is_noticed(&bed, false).await;
    std::fs::write(bed.path("aside"), &with).unwrap();
    std::fs::rename(bed.path("aside"), &file).unwrap();
    is_noticed(&bed, true).await;
    // As Kubernetes mounts it: a link to a file behind a link to a folder, which is replaced.
    for (version, text) in [("..one", &without), ("..two", &with)] {
        std::fs::create_dir(bed.path(version)).unwrap();
        std::fs::write(bed.path(version).join("directory.toml"), text).unwrap();
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, bed.path("aside")).unwrap();
        std::fs::rename(bed.path("aside"), bed.path(name)).unwrap();
    };
    link("..one", "..data");
    link("..data/directory.toml", "directory.toml");
    is_noticed(&bed, false).await;
    link("..two", "..data");
    is_noticed(&bed, true).await;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &without).unwrap();
    is_noticed(&bed, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_last_good_one_in_force() {
    let bed = TestBed::new().await;
    for (name, text, key) in [
        ("spine-proxy.toml", "nonsense", "line 1"),
        ("directory.toml", "[[consumer]]\nname = 1", ": directory.file: "),
        ("server.pem", "-----BEGIN CERTIFICATE-----\n", ": tls.certificates.chain: "),
        ("crl.pem", "half a li", ": provider-tls.crl: "),
    ] {
        let good = bed.text(name);
        bed.replace(name, text);
        let failure = bed.server.reload().await.unwrap_err().to_string();
        assert!(failure.contains(name) && failure.contains(key), "{failure}");
        assert_eq!(bed.send(TestRequest::slots()).await.status, 200, "{name}");
        bed.replace(name, &good);
    }
    bed.server.reload().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_certificate_answers_new_connections() {
    let bed = TestBed::new().await;
    let names = vec!["ssp.example.nhs.uk".to_owned()];
    let renewed = bed.pki.issue(&Leaf { names, ..Leaf::named("ssp.example.nhs.uk") }).unwrap();
    bed.replace("server.pem", &renewed.chain);
    bed.replace("server.key", &renewed.key);
    let before = TestRequest::slots().connect(&bed).await.unwrap();
    bed.server.reload().await.unwrap();
    let after = TestRequest::slots().connect(&bed).await.unwrap();
    let leaf = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    assert_ne!(leaf(&before), leaf(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_chosen_by_name_and_key_type_and_the_first_is_the_default() {
    let bed = TestBed::with(|files| {
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
        // Stand-ins until the test bed's own authority can issue the real ones.
        for name in ["rsa", "second"] {
            files.copy("server.pem", &format!("{name}.pem"));
            files.copy("server.key", &format!("{name}.key"));
        }
    })
    .await;
    let put = |name: &str, leaf: Leaf| {
        let issued = bed.pki.issue(&leaf).unwrap();
        bed.replace(&format!("{name}.pem"), &issued.chain);
        bed.replace(&format!("{name}.key"), &issued.key);
        testkit::test_bed::chain(&issued)[0].to_vec()
    };
    let rsa = Leaf { key: KeyKind::Rsa, ..Leaf::named("ssp.example.nhs.uk") };
    let rsa = put("rsa", rsa);
    let second = put("second", Leaf::named("second.example.nhs.uk"));
    bed.server.reload().await.unwrap();
    let first = testkit::test_bed::chain(&bed.issued["server"])[0].to_vec();
    let shown = |name: &'static str, schemes: Option<&'static [rustls::CipherSuite]>| {
        let bed = &bed;
        async move {
            let mut crypto = (*testkit::test_bed::crypto()).clone();
            if let Some(suites) = schemes {
                crypto.cipher_suites.retain(|suite| suites.contains(&suite.suite()));
            }
            let config = rustls::ClientConfig::builder_with_provider(crypto.into())
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(std::sync::Arc::new(Anything))
                .with_no_client_auth();
            let stream = TcpStream::connect(bed.address()).await.unwrap();
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
        testkit::test_bed::crypto().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aes_128_with_sha_256_is_chosen_in_any_order_of_offers() {
    let bed = TestBed::new().await;
    let stream = TestRequest::slots().connect(&bed).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
}
