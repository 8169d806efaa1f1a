//! `certs`: a throwaway PKI, more certificates from it, and revocation, judged by OpenSSL.

use std::path::Path;
use std::process::{Command, Output};

use testkit::{program, report_missing};

fn certs(arguments: &[&str]) -> Output {
    Command::new(program()).arg("certs").args(arguments).output().unwrap()
}

/// Returns what OpenSSL says of a certificate, with revocation; `None` if it is not installed.
fn judged(folder: &Path, name: &str) -> Option<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let ran = Command::new("openssl")
        .args(["verify", "-crl_check", "-CAfile", &file("ca.pem")])
        .args(["-untrusted", &file("authority/sub-ca.pem"), "-CRLfile", &file("sub-crl.pem")])
        .arg(file(&format!("{name}.pem")))
        .output();
    let Ok(ran) = ran else {
        report_missing("openssl");
        return None;
    };
    Some(String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
}

/// Puts the list of the sub authority, the second of the file, in one of its own.
fn split_list(folder: &Path) {
    let lists = std::fs::read_to_string(folder.join("crl.pem")).unwrap();
    let second = lists.rfind("-----BEGIN X509 CRL-----").unwrap();
    std::fs::write(folder.join("sub-crl.pem"), &lists[second..]).unwrap();
}

#[test]
fn certificates_are_issued_from_a_kept_authority_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pki");
    let shown = path.display().to_string();
    assert_eq!(certs(&[&shown]).status.code(), Some(0));
    for more in [
        &["night", "--for", "night.example.nhs.uk"][..],
        &["other", "--for", "other.example.nhs.uk", "--for", "127.0.0.1"],
        &["expired", "--for", "hub.example.nhs.uk", "--expired"],
        &["early", "--for", "hub.example.nhs.uk", "--not-yet"],
        &["bare", "--for", "hub.example.nhs.uk", "--without-sub-authority"],
        &["common", "--for", "hub.example.nhs.uk", "--common-name-only"],
    ] {
        let issued = certs(&[&["issue", &shown], more].concat());
        assert_eq!(issued.status.code(), Some(0), "{more:?}");
    }
    let text = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    assert_eq!(text("bare.pem").matches("BEGIN CERTIFICATE").count(), 1);
    assert_eq!(text("night.pem").matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(certs(&["revoke", &shown, "night"]).status.code(), Some(0));
    for (task, said) in [
        (&["revoke", &shown, "night"][..], "revoked already"),
        (&["revoke", &shown, "nobody"], "nobody.serial"),
        (&["issue", &shown, "night", "--for", "x.example"], "cannot create"),
        (&["issue", &shown, "../x", "--for", "x.example"], "not a plain name"),
        (&[&shown], "cannot create"),
    ] {
        let refused = certs(task);
        assert_eq!(refused.status.code(), Some(1), "{task:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{task:?}: {refused:?}");
    }
    split_list(&path);
    for (name, said) in [
        ("consumer", ": OK"),
        ("other", ": OK"),
        ("common", ": OK"),
        ("night", "certificate revoked"),
        ("expired", "certificate has expired"),
        ("early", "certificate is not yet valid"),
    ] {
        let Some(judged) = judged(&path, name) else { return };
        assert!(judged.contains(said), "{name}: {judged}");
    }
    assert_eq!(certs(&["revoke", &shown, "other"]).status.code(), Some(0));
    split_list(&path);
    for name in ["night", "other"] {
        let Some(judged) = judged(&path, name) else { return };
        assert!(judged.contains("certificate revoked"), "{name}: {judged}");
    }
}
