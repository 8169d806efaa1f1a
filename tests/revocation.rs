//! Revocation lists: which one applies, which are ignored, and what is reported.

use std::process::Command;

use serde_json::Value;

use gpconnect_simulator::pki::Leaf;

use testkit::authority::{CertificateSpec, CrlSpec, TestAuthority};
use testkit::files::Files;
use testkit::raw_connection::RawConnection;
use testkit::{Answer, TestBed, TestRequest};

/// A test bed whose consumers come from authorities of the test's own, beside the test bed's.
async fn bed(authorities: &[&TestAuthority], lists: &[(&str, String)], more: &str) -> TestBed {
    let names = lists.iter().map(|(name, _)| *name).chain(["crl.pem"]);
    let names: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
    let roots: String = authorities.iter().map(|authority| authority.pem()).collect();
    TestBed::with(|files: &mut Files| {
        files.edit("ca.pem", |own| own + &roots);
        for (name, text) in lists {
            files.put(name, text);
        }
        files.edit("spine-proxy.toml", |text| {
            let crl = format!("crl = [{}]", names.join(", "));
            text.replace("crl = [\"crl.pem\"]", &crl)
        });
        if !more.is_empty() {
            files.set("tls", more);
            files.set("provider-tls", more);
        }
    })
    .await
}

async fn asks(bed: &TestBed, certificate: &'static str) -> Answer {
    bed.send(TestRequest::slots().certificate(certificate)).await
}

fn diagnostics(answer: &Answer) -> String {
    answer.json()["issue"][0]["diagnostics"].as_str().unwrap().to_owned()
}

fn check(bed: &TestBed, arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_spine-proxy"))
        .args(["check", "--config", bed.path("spine-proxy.toml").to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// The first answer other than 200, to requests on one connection, however long a reload takes.
async fn refused_once_noticed(bed: &TestBed, certificate: &'static str) -> Answer {
    loop {
        let answer = asks(bed, certificate).await;
        if answer.status != 200 {
            return answer;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_with_the_highest_number_applies_in_any_order() {
    let root = TestAuthority::root("Numbered root");
    let (good, bad) = (root.issue("hub.example.nhs.uk"), root.issue("hub.example.nhs.uk"));
    let revoked = [bad.serial];
    let (old, new) = (
        root.revocation_list(CrlSpec::number(9)),
        root.revocation_list(CrlSpec::number(10).revoking(&revoked)),
    );
    for lists in [
        vec![("one.pem", old.clone()), ("two.pem", new.clone())],
        vec![("one.pem", new.clone()), ("two.pem", old.clone())],
        vec![("both.pem", format!("{old}{new}"))],
        vec![("both.pem", format!("{new}{old}"))],
    ] {
        let mut bed = bed(&[&root], &lists, "").await;
        bed.issued.insert("good", good.clone());
        bed.issued.insert("bad", bad.clone());
        assert_eq!(asks(&bed, "good").await.status, 200);
        bed.expect_refusal(TestRequest::slots().certificate("bad"), "certificate_revoked").await;
        assert!(check(&bed, &[]).0.contains("number 9, does not count"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overdue_list_is_ignored_while_another_is_current() {
    let root = TestAuthority::root("Dated root");
    let (good, bad) = (root.issue("hub.example.nhs.uk"), root.issue("hub.example.nhs.uk"));
    let revoked = [bad.serial];
    let old = root.revocation_list(CrlSpec::number(9).days(-1));
    let new = root.revocation_list(CrlSpec::number(10).revoking(&revoked));
    for expired in ["crl-expired = \"deny\"", "crl-expired = \"accept\""] {
        let lists = [("one.pem", old.clone()), ("two.pem", new.clone())];
        let mut bed = bed(&[&root], &lists, expired).await;
        bed.issued.insert("good", good.clone());
        bed.issued.insert("bad", bad.clone());
        assert_eq!(asks(&bed, "good").await.status, 200, "{expired}");
        bed.expect_refusal(TestRequest::slots().certificate("bad"), "certificate_revoked").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_of_an_authority_has_its_own_list_on_both_legs() {
    let (first, second) = (TestAuthority::root("One name"), TestAuthority::root("One name"));
    let (of_first, of_second) =
        (first.issue("hub.example.nhs.uk"), second.issue("hub.example.nhs.uk"));
    let (gone_first, gone_second) =
        (first.issue("hub.example.nhs.uk"), second.issue("hub.example.nhs.uk"));
    let (gone_one, gone_two) = ([gone_first.serial], [gone_second.serial]);
    let lists = [
        ("one.pem", first.revocation_list(CrlSpec::number(100).revoking(&gone_one))),
        ("two.pem", second.revocation_list(CrlSpec::number(5).revoking(&gone_two))),
    ];
    let mut bed = bed(&[&first, &second], &lists, "").await;
    for (name, issued) in [
        ("first", of_first),
        ("second", of_second),
        ("gone-first", gone_first),
        ("gone-second", gone_second),
    ] {
        bed.issued.insert(name, issued);
    }
    for certificate in ["first", "second"] {
        assert_eq!(asks(&bed, certificate).await.status, 200, "{certificate}");
    }
    for certificate in ["gone-first", "gone-second"] {
        bed.expect_refusal(TestRequest::slots().certificate(certificate), "certificate_revoked")
            .await;
    }
    for authority in [&first, &second] {
        let issued = authority.issue("provider.example.nhs.uk");
        let _provider = bed.replace_provider_issued(&issued).await;
        assert_eq!(asks(&bed, "hub").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_list_covers_only_certificates_that_name_its_distribution_point() {
    let root = TestAuthority::root("Parted root");
    let wish = |point| CertificateSpec { point, ..CertificateSpec::named("hub.example.nhs.uk") };
    let (here, elsewhere) = ("http://crl.example.nhs.uk/1.crl", "http://crl.example.nhs.uk/2.crl");
    let bad = root.issue_as(&wish(Some(here)));
    let revoked = [bad.serial];
    let lists =
        [("part.pem", root.revocation_list(CrlSpec::number(1).point(here).revoking(&revoked)))];
    let mut bed = bed(&[&root], &lists, "").await;
    for (name, point) in [("here", Some(here)), ("elsewhere", Some(elsewhere)), ("nowhere", None)] {
        bed.issued.insert(name, root.issue_as(&wish(point)));
    }
    bed.issued.insert("bad", bad);
    assert_eq!(asks(&bed, "here").await.status, 200);
    bed.expect_refusal(TestRequest::slots().certificate("bad"), "certificate_revoked").await;
    for certificate in ["elsewhere", "nowhere"] {
        let call = TestRequest::slots().certificate(certificate);
        let answer = bed.expect_refusal(call, "certificate_status_unknown").await;
        assert!(diagnostics(&answer).contains("CN=Parted root"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_list_with_a_high_number_replaces_no_list() {
    let (root, forger) = (TestAuthority::root("True root"), TestAuthority::root("True root"));
    let (good, bad) = (root.issue("hub.example.nhs.uk"), root.issue("hub.example.nhs.uk"));
    let revoked = [bad.serial];
    let lists = [
        ("forged.pem", forger.revocation_list(CrlSpec::number(1000))),
        ("true.pem", root.revocation_list(CrlSpec::number(2).revoking(&revoked))),
    ];
    let mut bed = bed(&[&root], &lists, "").await;
    bed.issued.insert("good", good);
    bed.issued.insert("bad", bad);
    assert_eq!(asks(&bed, "good").await.status, 200);
    bed.expect_refusal(TestRequest::slots().certificate("bad"), "certificate_revoked").await;
    assert!(
        check(&bed, &[])
            .0
            .contains("forged.pem: the revocation list of CN=True root is not signed")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_readyz_name_lists_that_do_not_fit() {
    let (root, other) =
        (TestAuthority::root("Root without list"), TestAuthority::root("No authority here"));
    let overdue = TestAuthority::root("Overdue root");
    let lists = [
        ("other.pem", other.revocation_list(CrlSpec::number(1))),
        ("overdue.pem", overdue.revocation_list(CrlSpec::number(1).days(-1))),
    ];
    let bed = bed(&[&root, &overdue], &lists, "").await;
    let (text, code) = check(&bed, &[]);
    assert_eq!(code, Some(0), "{text}");
    for words in [
        "other.pem: the revocation list of CN=No authority here fits no configured authority",
        "ca.pem: no revocation list of CN=Root without list; every certificate it issued is refused",
        "overdue.pem: revocation list overdue",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with("warning: ") && line.contains(words)),
            "{words}: {text}"
        );
    }
    assert_eq!(check(&bed, &["--strict"]).1, Some(78));
    let ready = testkit::process::get(bed.server.admin, "/readyz").await;
    assert!(ready.contains("overdue.pem: revocation list overdue"), "{ready}");
    // One for each leg that names the list.
    let metrics = testkit::process::get(bed.server.admin, "/metrics").await;
    assert!(metrics.contains("\nspine_proxy_alarms 2\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_files_raise_no_warning() {
    // Small limits, which fit any machine's memory.
    let limits = "[listener.limits]\nconnections-max = 100\nin-hand-max = 20";
    let bed = TestBed::with(|files| files.add(limits)).await;
    let (text, code) = check(&bed, &["--strict"]);
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_and_files_that_an_operator_should_look_at_are_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let bed = TestBed::new().await;
    let chain = bed.text("server.pem");
    let leaf = chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    bed.replace("server.pem", leaf);
    let text = bed.text("spine-proxy.toml");
    let text =
        text.replace("networks = [\"127.0.0.0/8\"]", "networks = [\"10.1.2.3/8\", \"::/0\"]");
    let text = text.replace("\"127.0.0.1:0\"", "\"0.0.0.0:8443\"");
    // Terabytes, which no machine's memory holds.
    let limits = "connections-max = 1000000\nin-hand-max = 1000000\nstreams-max = 1000\n";
    let section = "[listener.limits]\n";
    assert!(text.contains(section));
    bed.replace("spine-proxy.toml", &text.replace(section, &format!("{section}{limits}")));
    let soon = Leaf { days: (-1, 10), ..Leaf::named("gateway.ssp.example.nhs.uk") };
    let soon = bed.pki.issue(&soon).unwrap();
    bed.replace("gateway.pem", &soon.chain);
    bed.replace("gateway.key", &soon.key);
    for (name, mode) in [("gateway.key", 0o644), ("server.key", 0o660)] {
        std::fs::set_permissions(bed.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let (text, code) = check(&bed, &[]);
    assert_eq!(code, Some(0), "{text}");
    for words in [
        "server.pem: holds the certificate alone, without that of its issuer",
        "10.1.2.3/8 has host bits set and means 10.0.0.0/8",
        "::/0 allows every address",
        "provider.example.nhs.uk is in none of provider.networks",
        "of A20047 is in none of provider.networks",
        "admin.address 0.0.0.0:8443 has the port of listener.addresses",
        "admin.address 0.0.0.0:8443 is not a loopback address",
        "gateway.pem: the certificate expires within 10 days",
        "gateway.key: others may read it (mode 0644); chmod g-w,o-rwx",
        "server.key: others may write it (mode 0660); chmod g-w,o-rwx",
        "TiB of memory, and the process may use",
    ] {
        let named = |line: &str| line.starts_with("warning: ") && line.contains(words);
        assert!(text.lines().any(named), "{words}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_is_in_the_answer_and_the_record() {
    let mut bed = TestBed::new().await;
    let unknown = TestAuthority::root("Nobody's root").issue("hub.example.nhs.uk");
    bed.issued.insert("unknown", unknown);
    for (certificate, words) in [
        ("foreign", "a signature in its chain is not its issuer's"),
        ("unknown", "its issuer is CN=Nobody's root"),
        ("expired", "has expired"),
        ("revoked", "revocation list of CN=Throwaway sub authority"),
    ] {
        let answer = asks(&bed, certificate).await;
        assert!(diagnostics(&answer).contains(words), "{answer:?}");
        let closed = bed.exchange_lines().await.pop().unwrap();
        assert!(closed["certificate_fault"].as_str().unwrap().contains(words), "{closed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_refused_leaves_a_record_with_the_reason() {
    let bed = TestBed::with(|files| files.set("tls", "reject = \"handshake\"")).await;
    for (certificate, token, words) in [
        ("revoked", "certificate_revoked", "revocation list of CN=Throwaway sub authority"),
        ("foreign", "certificate_invalid", "a signature in its chain is not its issuer's"),
    ] {
        let before = bed.exchange_lines().await.len();
        // In TLS 1.3 the consumer learns of it when it reads.
        if let Ok(stream) = TestRequest::slots().certificate(certificate).connect(&bed).await {
            assert!(RawConnection::new(stream).head().await.is_none(), "{certificate}");
        }
        let closed: Value = bed.wait_for_closed_line(before + 1).await;
        assert_eq!(closed["refusal"], token);
        assert_eq!(closed["method"], "_HANDSHAKE");
        assert_eq!(closed["status"], Value::Null);
        assert!(closed["certificate_fault"].as_str().unwrap().contains(words), "{closed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_lists_is_read_and_a_new_part_in_it_is_noticed() {
    let root = TestAuthority::root("Root with parts");
    let point = "http://crl.example.nhs.uk/crlc4519.crl";
    let issued = root.issue_as(&CertificateSpec {
        point: Some(point),
        ..CertificateSpec::named("hub.example.nhs.uk")
    });
    let mut bed = bed(&[&root], &[], "").await;
    bed.issued.insert("late", issued);
    let folder = bed.path("lists");
    std::fs::create_dir(&folder).unwrap();
    std::fs::rename(bed.path("crl.pem"), folder.join("crl.pem")).unwrap();
    std::fs::write(
        folder.join("root.pem"),
        root.revocation_list(CrlSpec::number(1).point("http://x/1")),
    )
    .unwrap();
    std::fs::write(folder.join(".hidden"), "no list").unwrap();
    let text = bed.text("spine-proxy.toml").replace("[\"crl.pem\"]", "[\"lists\"]");
    bed.replace("spine-proxy.toml", &text);
    bed.server.reload().await.unwrap();
    bed.expect_refusal(TestRequest::slots().certificate("late"), "certificate_status_unknown")
        .await;
    assert_eq!(asks(&bed, "hub").await.status, 200);
    std::fs::write(bed.path("aside"), root.revocation_list(CrlSpec::number(1).point(point)))
        .unwrap();
    std::fs::rename(bed.path("aside"), folder.join("crlc4519.pem")).unwrap();
    while asks(&bed, "late").await.status != 200 {
        tokio::task::yield_now().await;
    }
    // A file that is no list is left out, and holds up no other.
    std::fs::write(folder.join("notes.pem"), "no list").unwrap();
    bed.server.reload().await.unwrap();
    assert_eq!(asks(&bed, "late").await.status, 200);
    let alarms = testkit::process::get(bed.server.admin, "/readyz").await;
    assert!(alarms.contains("notes.pem"), "{alarms}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_for_no_other_file() {
    type Change = fn(&TestBed);
    let changes: [(&str, Change); 6] = [
        ("a typo in the directory file", |bed| {
            bed.replace("directory.toml", "[[consumer]]\nname = 1");
        }),
        ("a typo in the configuration", |bed| bed.replace("spine-proxy.toml", "nonsense")),
        ("half of a renewed key pair", |bed| bed.replace("server.key", &bed.text("hub.key"))),
        ("half of a renewed key pair towards providers", |bed| {
            bed.replace("gateway.pem", &bed.text("hub.pem"));
        }),
        ("our own expired certificate", |bed| {
            bed.replace("server.pem", &bed.text("expired.pem"));
            bed.replace("server.key", &bed.text("expired.key"));
        }),
        ("authorities that cannot be read", |bed| bed.replace("ca.pem", "none")),
    ];
    for (what, change) in changes {
        let bed = TestBed::new().await;
        assert_eq!(asks(&bed, "hub").await.status, 200);
        change(&bed);
        let revoked = [bed.issued["hub"].serial];
        bed.replace("crl.pem", &bed.pki.revocation_lists(&revoked, 30).unwrap());
        let failure = bed.server.reload().await.unwrap_err().to_string();
        let answer = asks(&bed, "hub").await;
        assert_eq!(answer.token(), Some("certificate_revoked"), "{what}: {answer:?}");
        let ready = testkit::process::get(bed.server.admin, "/readyz").await;
        let named = failure.split(':').next().unwrap().rsplit('/').next().unwrap();
        assert!(ready.contains(named), "{what}: {named} is not in {ready}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_lasts_as_long_as_its_fault_across_reloads() {
    let bed = TestBed::new().await;
    let good = bed.text("directory.toml");
    bed.replace("directory.toml", "[[consumer]]\nname = 1");
    bed.server.reload().await.unwrap_err();
    let revoked = [bed.issued["hub"].serial];
    bed.replace("crl.pem", &bed.pki.revocation_lists(&revoked, 30).unwrap());
    let answer = refused_once_noticed(&bed, "hub").await;
    assert_eq!(answer.token(), Some("certificate_revoked"), "{answer:?}");
    let ready = async || testkit::process::get(bed.server.admin, "/readyz").await;
    assert!(ready().await.contains("directory.toml"));
    bed.replace("directory.toml", &good);
    bed.server.reload().await.unwrap();
    assert!(!ready().await.contains("directory.toml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_noticed_while_another_file_never_stands_still() {
    let bed = TestBed::new().await;
    let (folder, text) = (bed.folder.path().to_owned(), bed.text("directory.toml"));
    let stop = tokio_util::sync::CancellationToken::new();
    let (stopped, touched) = (stop.clone(), folder.join("directory.toml"));
    let touching = tokio::spawn(async move {
        let mut number = 0;
        while !stopped.is_cancelled() {
            number += 1;
            let aside = folder.join("touched");
            std::fs::write(&aside, format!("{text}\n# {number}\n")).unwrap();
            std::fs::rename(&aside, &touched).unwrap();
            tokio::task::yield_now().await;
        }
    });
    let revoked = [bed.issued["hub"].serial];
    bed.replace("crl.pem", &bed.pki.revocation_lists(&revoked, 30).unwrap());
    let answer = refused_once_noticed(&bed, "hub").await;
    assert_eq!(answer.token(), Some("certificate_revoked"), "{answer:?}");
    stop.cancel();
    touching.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_written_in_place_under_its_old_size_and_time_is_noticed() {
    let bed = TestBed::new().await;
    let path = bed.path("crl.pem");
    let (good, revoked) = (bed.issued["hub"].serial, bed.issued["revoked"].serial);
    // Serial numbers have the same number of bytes more often than not.
    let same_size = || {
        let text = bed.pki.revocation_lists(&[good], 30).unwrap();
        (text.len() == bed.text("crl.pem").len()).then_some(text)
    };
    assert_ne!(good, revoked);
    let text = std::iter::repeat_with(same_size).take(200).flatten().next().expect("one that fits");
    let before = std::fs::metadata(&path).unwrap();
    std::fs::write(&path, text).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (before.len(), before.modified().unwrap()),
        (after.len(), after.modified().unwrap())
    );
    let answer = refused_once_noticed(&bed, "hub").await;
    assert_eq!(answer.token(), Some("certificate_revoked"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_gap_nor_a_forged_list_lets_an_older_list_in() {
    let (root, forger) = (TestAuthority::root("Kept root"), TestAuthority::root("Kept root"));
    let sub = root.intermediate("Kept sub", None);
    let (of_root, of_sub) = (root.issue("hub.example.nhs.uk"), sub.issue("hub.example.nhs.uk"));
    let revoked = [of_root.serial, of_sub.serial];
    let lists = [
        ("root.pem", root.revocation_list(CrlSpec::number(10).revoking(&revoked))),
        ("sub.pem", sub.revocation_list(CrlSpec::number(10).revoking(&revoked))),
    ];
    let mut bed = bed(&[&root], &lists, "").await;
    bed.issued.insert("root", of_root);
    bed.issued.insert("sub", of_sub);
    for certificate in ["root", "sub"] {
        bed.expect_refusal(TestRequest::slots().certificate(certificate), "certificate_revoked")
            .await;
    }
    let forged = forger.revocation_list(CrlSpec::number(1000));
    let nothing =
        forger.revocation_list(CrlSpec::number(1).point("http://crl.example.nhs.uk/other.crl"));
    for between in [forged, nothing] {
        for name in ["root.pem", "sub.pem"] {
            bed.replace(name, &between);
        }
        bed.server.reload().await.unwrap();
        for certificate in ["root", "sub"] {
            assert_eq!(asks(&bed, certificate).await.status, 495);
        }
        bed.replace("root.pem", &root.revocation_list(CrlSpec::number(9)));
        bed.replace("sub.pem", &sub.revocation_list(CrlSpec::number(9)));
        bed.server.reload().await.unwrap();
        for certificate in ["root", "sub"] {
            bed.expect_refusal(
                TestRequest::slots().certificate(certificate),
                "certificate_revoked",
            )
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_folder_of_lists_does_not_block_other_lists() {
    let bed = TestBed::new().await;
    let folder = bed.path("lists");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(bed.path("crl.pem"), folder.join("crl.pem")).unwrap();
    let text = bed.text("spine-proxy.toml");
    let (first, last) = text.rsplit_once("crl = [\"crl.pem\"]").unwrap();
    bed.replace("spine-proxy.toml", &format!("{first}crl = [\"lists\"]{last}"));
    bed.server.reload().await.unwrap();
    assert_eq!(asks(&bed, "hub").await.status, 200);
    std::fs::rename(&folder, bed.path("elsewhere")).unwrap();
    let revoked = [bed.issued["hub"].serial];
    bed.replace("crl.pem", &bed.pki.revocation_lists(&revoked, 30).unwrap());
    bed.server.reload().await.unwrap_err();
    bed.expect_refusal(TestRequest::slots(), "certificate_revoked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_list_does_not_replace_a_newer_one_unless_that_is_configured() {
    let root = TestAuthority::root("Numbered root");
    let issued = root.issue("hub.example.nhs.uk");
    let revoked = [issued.serial];
    for (rollback, token) in [("refuse", Some("certificate_revoked")), ("accept", None)] {
        let lists = [("own.pem", root.revocation_list(CrlSpec::number(7).revoking(&revoked)))];
        let setting = format!("crl-rollback = \"{rollback}\"");
        let mut bed = bed(&[&root], &lists, &setting).await;
        bed.issued.insert("back", issued.clone());
        bed.expect_refusal(TestRequest::slots().certificate("back"), "certificate_revoked").await;
        bed.replace("own.pem", &root.revocation_list(CrlSpec::number(6)));
        bed.server.reload().await.unwrap();
        assert_eq!(asks(&bed, "back").await.token(), token, "{rollback}");
        let ready = testkit::process::get(bed.server.admin, "/readyz").await;
        assert_eq!(
            ready.contains("own.pem: the revocation list of CN=Numbered root is older"),
            token.is_some(),
            "{ready}"
        );
        bed.replace("own.pem", &root.revocation_list(CrlSpec::number(8)));
        bed.server.reload().await.unwrap();
        assert_eq!(asks(&bed, "back").await.status, 200, "a newer list may take it back");
    }
}
